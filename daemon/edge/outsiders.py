"""What others do on the account: their orders are shown, their trades and transfers booked as flows, none is touched.

A person may trade, deposit and withdraw beside us. Whatever that changes comes first out of what is external, and only
what is left of it touches our own books (DESIGN, "Whose money it is"). An execution that the venue names as a
stranger's is booked at once; a difference that nothing explains only after two comparisons that agree, with nothing of
ours moving between them (F34, F38): one incomplete reply changes nothing.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from decimal import Decimal
from typing import Final

import msgspec
import structlog

from daemon.core.books import Books, exactly
from daemon.core.breaks import DEPOSIT, EXTERNAL_TRADE, TAKEN_BACK, UNEXPLAINED, WITHDRAWAL
from daemon.domain.errors import Transient
from daemon.domain.events import Flow
from daemon.domain.orders import OrderState, Side
from daemon.domain.ports import Emit
from daemon.edge.binance_account import VenueOrder, VenueTrade
from daemon.edge.clock import Clock
from daemon.edge.ledger import SqlLedger
from daemon.edge.ownership import Break, shares
from daemon.edge.tracker import Tracker
from daemon.edge.transfers import Transfer, matching

ZERO: Final = Decimal(0)
NS_PER_MS: Final = 1_000_000
SHIELD_NS: Final = 4_000_000_000
"""A difference is corrected only after nothing of ours moved for so long, between two comparisons that agree."""
ORDERS_MAX: Final = 1_000
"""Open orders of others that are remembered and shown."""
ABSENT_MAX: Final = 2
"""A stranger's order is forgotten after it was missing from so many lists in a row (F34)."""
ARRIVALS_MAX: Final = 1_000
"""Deposits told by the stream that wait to be booked."""
FLUSH_S: Final = 5.0
RETRY_S: Final = 1.0

HISTORY_NS: Final = 20_000_000_000
"""The history of transfers is asked for at most this often: it is dear (a weight of 18,000 of 180,000 a minute)."""
SKEW_NS: Final = 5_000_000_000
"""How far the venue's clock and ours may be apart."""

Change = tuple[str, Decimal, str]
"""Asset, signed amount, and why."""


class External(msgspec.Struct, frozen=True, kw_only=True):
    """An open order on the account that is not ours."""

    client_id: str
    venue_id: str
    symbol: str
    side: str
    qty: Decimal
    filled: Decimal
    state: OrderState
    ts_ns: int
    external: bool = True


class _Shown(msgspec.Struct):
    order: External
    absent: int = 0


class _Seen(msgspec.Struct):
    """A difference: theirs - ours, since when (monotonic ns) it is the same and nothing of ours has moved."""

    amount: Decimal
    since_ns: int
    moves: int


def legs(symbol: str, trade: VenueTrade) -> tuple[Change, ...]:
    """Return what a stranger's execution does to the account: (asset, signed amount, detail), base first."""
    base, _, quote = symbol.partition("/")
    name = f"{EXTERNAL_TRADE} {symbol} {trade.id}"
    side, sign = (Side.BUY, 1) if trade.is_buyer else (Side.SELL, -1)
    with exactly():
        value = trade.qty * trade.price
    found = (
        (base, sign * trade.qty, f"{name}: {side} {trade.qty:f} at {trade.price:f}"),
        (quote, -sign * value, f"{name}, quote"),
        (trade.commission_asset, -trade.commission, f"{name}, fee"),
    )
    return tuple(leg for leg in found if leg[1])


class Outsiders:
    """Notices what is not ours and books what it changes.

    Parameters
    ----------
    quote, all_ours
        The quote currency, and whether all of it on the account is ours (``capital = "all"``).
    transfers
        Returns the venue's history of deposits and withdrawals, or raises Transient where it has none.
    """

    def __init__(
        self,
        *,
        tracker: Tracker,
        ledger: SqlLedger,
        emit: Emit,
        clock: Clock,
        quote: str,
        all_ours: bool,
        transfers: Callable[[], Awaitable[list[Transfer]]],
    ) -> None:
        self._tracker = tracker
        self._ledger = ledger
        self._emit = emit
        self._clock = clock
        self._quote = quote
        self._all_ours = all_ours
        self._transfers = transfers
        self._asked_ns = 0
        self._orders: dict[tuple[str, str], _Shown] = {}
        self._seen: dict[str, _Seen] = {}
        self._perhaps: dict[str, dict[int, VenueTrade]] = {}
        self._opened_ns = 0
        self._arrivals: asyncio.Queue[tuple[str, Decimal]] = asyncio.Queue(ARRIVALS_MAX)
        self._log = structlog.get_logger("ballast")

    # ------------------------------------------------------------------ orders

    def show(self, orders: Iterable[VenueOrder], symbol_of: Callable[[str], str]) -> int:
        """Take the account's open orders that are not ours, as one list showed them; return how many are known."""
        listed: set[tuple[str, str]] = set()
        for one in orders:
            key = (one.symbol, str(one.order_id))
            listed.add(key)
            if key not in self._orders:
                self._log.warning("reconcile.external_order", symbol=one.symbol, client_id=one.client_id)
            self._orders[key] = _Shown(
                External(
                    client_id=one.client_id,
                    venue_id=str(one.order_id),
                    symbol=symbol_of(one.symbol) or one.symbol,
                    side=one.side.lower(),
                    qty=one.orig_qty,
                    filled=one.executed_qty,
                    state=one.state,
                    ts_ns=max(one.time, 0) * NS_PER_MS,
                )
            )
        for key in [key for key in self._orders if key not in listed]:
            self._orders[key].absent += 1
            if self._orders[key].absent >= ABSENT_MAX:
                del self._orders[key]
        while len(self._orders) > ORDERS_MAX:
            del self._orders[next(iter(self._orders))]
        return len(self._orders)

    @property
    def orders(self) -> list[External]:
        """Return the open orders that are not ours, in the order in which they were noticed."""
        return [shown.order for shown in self._orders.values()]

    # ------------------------------------------------------------------ trades

    async def traded(self, symbol: str, trades: list[VenueTrade]) -> None:
        """Book executions that the venue names as a stranger's, each once. Raises Transient.

        Clocks differ: of one that happened about when the books were opened, only a difference can tell whether it is part
        of the opening balances.
        """
        opened_ns = await self.opened()
        later: list[VenueTrade] = []
        for trade in trades:
            age_ns = trade.time * NS_PER_MS - opened_ns
            if opened_ns and age_ns > SKEW_NS:
                later.append(trade)
            elif opened_ns and age_ns > -SKEW_NS:
                self._perhaps.setdefault(symbol, {})[trade.id] = trade
        await self._book_new(symbol, later)

    async def _book_new(self, symbol: str, trades: Iterable[VenueTrade]) -> bool:
        """Book the legs that are not booked yet; true when there was one."""
        found = {leg[2]: (leg, trade.time * NS_PER_MS) for trade in trades for leg in legs(symbol, trade)}
        if not found:
            return False
        booked = await self._ledger.known_flows(tuple(found))
        new = [one for detail, one in found.items() if detail not in booked]
        if new:
            oldest_ns = min(time_ns for _, time_ns in new)
            changes = [leg for leg, _ in new]
            await self._book([*await self._explained_now({asset for asset, _, _ in changes}, oldest_ns), *changes])
        return bool(new)

    async def _explained_now(self, assets: set[str], since_ns: int) -> list[Change]:
        """Return what takes back the changes booked as unexplained since a trade of which REST tells only now.

        Without it the trade would be booked twice. What it does not account for differs again, and is looked at anew.
        """
        if not await self._ledger.flush(FLUSH_S):
            raise Transient("flows: the ledger cannot be written")
        booked = await self._ledger.unexplained(since_ns - SKEW_NS)
        return [(asset, -amount, TAKEN_BACK) for asset, amount in sorted(booked.items()) if asset in assets]

    async def _settle_perhaps(self, amounts: dict[str, Decimal]) -> bool:
        """Book the trades of about the opening that make up a difference; true when there were any."""
        for symbol, trades in list(self._perhaps.items()):
            base = symbol.partition("/")[0]
            found = [leg for trade in trades.values() for leg in legs(symbol, trade)]
            if amounts.get(base) == sum((amount for asset, amount, _ in found if asset == base), ZERO):
                del self._perhaps[symbol]
                if await self._book_new(symbol, trades.values()):
                    return True
        return False

    async def _settle_transfers(self, amounts: dict[str, Decimal]) -> bool:
        """Book the deposits and withdrawals that the venue's history names and that make up a difference exactly."""
        now = self._clock.mono_ns()
        if not amounts or (self._asked_ns and now - self._asked_ns < HISTORY_NS):
            return False
        self._asked_ns = now
        try:
            known = await self._transfers()
        except Transient as error:
            self._log.info("reconcile.no_history", error=str(error))
            return False
        booked = await self._ledger.known_flows(tuple(one.detail for one in known))
        fresh = [one for one in known if one.detail not in booked]
        found: list[Change] = []
        for asset, amount in amounts.items():
            parts = matching((one for one in fresh if one.asset == asset), amount)
            found.extend((asset, part, detail) for part, detail in parts)
        await self._book(found)
        return bool(found)

    async def opened(self) -> int:
        """Return when the books were opened: what happened before is part of the opening balances. 0: not yet."""
        if not self._opened_ns:
            self._opened_ns = await self._ledger.first_flow()
        return self._opened_ns

    # ------------------------------------------------------------------ differences

    async def explain(self, differences: tuple[Break, ...]) -> bool:
        """Take the differences of one comparison; book those that have stood long enough, true when there was one.

        What an order of ours may still account for is never corrected: an order whose fate is open, or whose executions
        are missing, holds back its base asset, and the quote as long as its base differs too.
        """
        amounts = {asset: theirs - ours for asset, ours, theirs in differences}
        if self._perhaps and amounts and await self._settle_perhaps(amounts):
            return True
        again = {asset: seen.amount for asset, seen in self._seen.items() if amounts.get(asset) == seen.amount}
        if await self._settle_transfers(again):
            return True
        now = self._clock.mono_ns()
        moves = self._tracker.moves
        before, self._seen = self._seen, {}
        ready: list[Change] = []
        for asset, amount in amounts.items():
            seen = before.get(asset)
            if seen is None or (seen.amount, seen.moves) != (amount, moves):
                self._seen[asset] = _Seen(amount, now, moves)
                continue
            self._seen[asset] = seen
            if now - seen.since_ns >= SHIELD_NS and not self._doubtful(asset, amounts):
                ready.append((asset, amount, UNEXPLAINED))
        await self._book(ready)
        return bool(ready)

    def _doubtful(self, asset: str, amounts: dict[str, Decimal]) -> bool:
        """Say whether an order of ours may account for a difference."""
        for order in self._tracker.live:
            if order.state is OrderState.ACKED and not order.short:
                continue
            base, _, quote = order.symbol.partition("/")
            if asset == base or (asset == quote and base in amounts) or asset not in {base, quote}:
                return True
        return False

    # ------------------------------------------------------------------ booking

    def arrived(self, asset: str, amount: Decimal) -> None:
        """Take a deposit or withdrawal (signed) from the user stream; one too many is left to the comparison."""
        self._tracker.changes += 1  # a comparison under way no longer describes one moment
        with contextlib.suppress(asyncio.QueueFull):
            self._arrivals.put_nowait((asset, amount))

    async def run(self) -> None:
        """Book what arrives, for ever."""
        while True:
            asset, amount = await self._arrivals.get()
            change = (asset, amount, DEPOSIT if amount > 0 else WITHDRAWAL)
            while True:
                try:
                    await self._book([change])
                    break
                except Transient as error:
                    self._log.warning("reconcile.flow_waits", asset=asset, amount=str(amount), error=str(error))
                    await asyncio.sleep(RETRY_S)

    async def _book(self, changes: list[Change]) -> None:
        """Emit flows for changes (asset, signed amount, detail), each divided into what is external and what is ours."""
        if not changes:
            return
        if not await self._ledger.flush(FLUSH_S):
            raise Transient("flows: the ledger cannot be written")
        books = await self._ledger.books()
        for asset, amount, detail in changes:
            all_ours = self._all_ours and asset == self._quote
            parts = shares(amount, total=books.total.get(asset, ZERO), own=self._own(books, asset), all_ours=all_ours)
            for part, ours in parts:
                flow = Flow(asset=asset, amount=part, ours=ours, detail=detail, ts_ns=self._clock.now_ns())
                self._log.warning("reconcile.flow", asset=asset, amount=str(part), ours=ours, detail=detail)
                books.book_flow(flow)
                self._emit(flow)
        self._tracker.changes += 1

    def _own(self, books: Books, asset: str) -> Decimal:
        return books.cash if asset == self._quote else books.positions.get(f"{asset}/{self._quote}", ZERO)
