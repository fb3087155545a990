"""The venue's own history of deposits and withdrawals: it explains a change of balances that no stream told us of.

A venue or test network without this history leaves the change to two agreeing comparisons.
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, Final

import msgspec

from daemon.core.breaks import DEPOSIT, WITHDRAWAL
from daemon.domain.errors import Transient
from daemon.edge.lane import Lane
from daemon.edge.outcomes import BROKEN, Reply, is_sound

WITHIN_DAYS: Final = 7
"""How far back transfers are searched: some take days to be credited."""
MS_PER_DAY: Final = 86_400_000
DEPOSITED: Final = frozenset({1, 6})
"""Statuses of a deposit that is on the account: success, and credited but not to be withdrawn yet."""
NOT_WITHDRAWN: Final = frozenset({1, 3, 5})
"""Statuses of a withdrawal that did not happen: cancelled, rejected, failed."""


class Transfer(msgspec.Struct, frozen=True):
    """A transfer: its asset, the signed amounts it may have changed the balance by (with or without its fee), its id."""

    asset: str
    amounts: tuple[Decimal, ...]
    detail: str


class _Deposit(msgspec.Struct):
    coin: str
    amount: Decimal
    status: int
    id: str = ""


class _Withdrawal(msgspec.Struct, rename="camel"):
    coin: str
    amount: Decimal
    status: int
    id: str
    transaction_fee: Decimal = Decimal(0)


_DEPOSITS: Final = msgspec.json.Decoder(list[_Deposit])
_WITHDRAWALS: Final = msgspec.json.Decoder(list[_Withdrawal])


async def transfers(lane: Lane, now_ms: int) -> list[Transfer]:
    """Return what came and went within the last days, newest first. Raises Transient, also where there is no history."""
    exchange: Any = lane.exchange
    since = {"startTime": now_ms - WITHIN_DAYS * MS_PER_DAY}
    came = await lane.ask("depositHistory", lambda: exchange.sapi_get_capital_deposit_hisrec(since))
    went = await lane.ask("withdrawHistory", lambda: exchange.sapi_get_capital_withdraw_history(since))
    return [*read_deposits(came.reply), *read_withdrawals(went.reply)]


def read_deposits(reply: Reply) -> list[Transfer]:
    """Return the deposits that have arrived. Raises Transient."""
    rows: Sequence[_Deposit] = _rows(reply, _DEPOSITS)
    return [
        Transfer(row.coin, (row.amount,), f"{DEPOSIT} {row.id}")
        for row in rows
        if row.id and row.status in DEPOSITED and is_sound(row.amount)
    ]


def read_withdrawals(reply: Reply) -> list[Transfer]:
    """Return the withdrawals that have left or are about to. Raises Transient."""
    rows: Sequence[_Withdrawal] = _rows(reply, _WITHDRAWALS)
    return [
        Transfer(row.coin, (-row.amount - row.transaction_fee, -row.amount), f"{WITHDRAWAL} {row.id}")
        for row in rows
        if row.id and row.status not in NOT_WITHDRAWN and is_sound(row.amount) and is_sound(row.transaction_fee)
    ]


def matching(found: Iterable[Transfer], amount: Decimal) -> list[tuple[Decimal, str]]:
    """Return the newest transfers that make up an amount exactly, (signed amount, detail) each; [] when none do."""
    parts: list[tuple[Decimal, str]] = []
    for transfer in found:
        for possible in transfer.amounts:
            if possible == amount:
                return [(possible, transfer.detail)]
        parts.append((transfer.amounts[0], transfer.detail))
        if sum((part for part, _ in parts), Decimal(0)) == amount:
            return parts
    return []


def _rows(reply: Reply, decoder: msgspec.json.Decoder[Any]) -> Any:
    if reply.status != 200:
        raise Transient(f"transfers: {f'status {reply.status}' if reply.status else 'no answer'}")
    try:
        return decoder.decode(reply.body)
    except BROKEN as error:
        raise Transient(f"transfers: broken answer: {str(error)[:120]}") from error
