"""What an answer to an order proves, on every venue that has a table: pure, chosen by ccxt's exchange id.

Like `daemon.edge.outcomes` for Binance: the reply itself is judged, never ccxt's exception class, which is the same for a
refused connection and for a reset after the order was accepted. A venue without a table proves nothing: whatever it
answers, the order is looked for.
"""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from daemon.domain.orders import OrderState
from daemon.edge.outcomes import (
    BACK_OFF_S,
    BROKEN,
    DEFINITE,
    Act,
    Outcome,
    Reply,
    error_code,
    first_line,
    judge_order,
    retry_after_s,
    unknown,
)
from daemon.edge.reject_tables import BYBIT, COINBASE, KRAKEN, OKX, Table

ID_LENGTH_MAX: Final = 64
"""Longest order id of a venue that is believed."""
TELLING: Final = frozenset({200, 201, 400, 401, 403, 404, 422, 429})
"""HTTP statuses whose body may be believed; of all others the venue itself says that the fate is open."""
EARLIER_COPY: Final = ("duplicat", "repeated")
"""Words of any error that hint at an order which exists already under our client id."""
URGENCY: Final = (Act.NONE, Act.QUERY, Act.RELOAD, Act.RESYNC, Act.BACK_OFF, Act.STOP)


class Said(msgspec.Struct, frozen=True):
    """An answer in one form for all venues: error codes (none: accepted), their text, and the order it is about."""

    codes: tuple[str, ...] = ()
    text: str = ""
    venue_id: str = ""
    client_id: str = ""


# ---------------------------------------------------------------- how each venue says it


class _KrakenResult(msgspec.Struct):
    txid: list[str] = []


class _Kraken(msgspec.Struct):
    error: list[str]
    result: _KrakenResult | None = None


def _kraken(body: str) -> Said:
    answer = _KRAKEN.decode(body)
    codes = tuple(code for code in answer.error if not code.startswith("W"))
    ids = answer.result.txid if answer.result is not None else []
    return Said(codes, "; ".join(answer.error), ids[0] if len(ids) == 1 else "")


class _CoinbaseOrder(msgspec.Struct):
    order_id: str = ""
    client_order_id: str = ""


class _CoinbaseError(msgspec.Struct):
    error: str = ""
    message: str = ""
    error_details: str = ""
    preview_failure_reason: str = ""
    new_order_failure_reason: str = ""


class _CoinbaseOld(msgspec.Struct):
    id: str = ""
    message: str = ""


class _Coinbase(msgspec.Struct):
    success: bool = False
    success_response: _CoinbaseOrder | None = None
    failure_reason: str = ""
    error_response: _CoinbaseError | None = None
    error: str = ""
    message: str = ""
    errors: list[_CoinbaseOld] = []


SILENT: Final = frozenset({"", "UNKNOWN_FAILURE_REASON", "UNKNOWN_PREVIEW_FAILURE_REASON"})
"""Coinbase's words for "no reason given": beside a reason they add nothing, alone they prove nothing."""


def _coinbase(body: str) -> Said:
    answer = _COINBASE.decode(body)
    order, error = answer.success_response or _CoinbaseOrder(), answer.error_response or _CoinbaseError()
    reasons = (
        error.new_order_failure_reason,
        error.preview_failure_reason,
        error.error,
        answer.failure_reason,
        answer.error,
        *(one.id for one in answer.errors),
    )
    text = "; ".join(
        filter(None, (error.message, error.error_details, answer.message, *(one.message for one in answer.errors)))
    )
    codes = tuple(dict.fromkeys(one for one in reasons if one not in SILENT))
    if not codes and not answer.success:
        codes = ("UNKNOWN_FAILURE_REASON",)
    return Said(codes, text, order.order_id, order.client_order_id)


class _BybitResult(msgspec.Struct, rename="camel"):
    order_id: str = ""
    order_link_id: str = ""


class _Bybit(msgspec.Struct, rename="camel"):
    ret_code: int
    ret_msg: str = ""
    result: _BybitResult | None = None


def _bybit(body: str) -> Said:
    answer = _BYBIT.decode(body)
    order = answer.result or _BybitResult()
    codes = (str(answer.ret_code),) if answer.ret_code else ()
    return Said(codes, answer.ret_msg, order.order_id, order.order_link_id)


class _OkxRow(msgspec.Struct, rename="camel"):
    cl_ord_id: str = ""
    ord_id: str = ""
    s_code: str = ""
    s_msg: str = ""


class _Okx(msgspec.Struct):
    code: str
    data: list[_OkxRow] = []
    msg: str = ""


OKX_GOOD: Final = frozenset({"", "0"})
OKX_BATCH: Final = frozenset({"1", "2"})
"""Of a batch some or all failed: the rows say which."""


def _okx(body: str) -> Said:
    answer = _OKX.decode(body)
    row = answer.data[0] if len(answer.data) == 1 else _OkxRow()
    codes = tuple(one.s_code for one in answer.data if one.s_code not in OKX_GOOD)
    if answer.code not in OKX_GOOD | OKX_BATCH or (answer.code in OKX_BATCH and not answer.data):
        codes = (answer.code, *codes)
    return Said(codes, row.s_msg or answer.msg, row.ord_id, row.cl_ord_id)


_KRAKEN: Final = msgspec.json.Decoder(_Kraken)
_COINBASE: Final = msgspec.json.Decoder(_Coinbase)
_BYBIT: Final = msgspec.json.Decoder(_Bybit)
_OKX: Final = msgspec.json.Decoder(_Okx)

VENUES: Final[Mapping[str, tuple[Table, Callable[[str], Said]]]] = {
    "kraken": (KRAKEN, _kraken),
    "coinbase": (COINBASE, _coinbase),
    "bybit": (BYBIT, _bybit),
    "okx": (OKX, _okx),
}
"""Tables and readers by ccxt's exchange id; Binance's own are in `daemon.edge.outcomes`."""

BINANCE: Final = "binance"


# ---------------------------------------------------------------- the verdict


def judge(exchange_id: str, reply: Reply, *, client_id: str, error: BaseException | None = None) -> Outcome:
    """Judge the answer of any venue to an order request.

    Parameters
    ----------
    exchange_id
        ccxt's id of the venue; one without a table makes every answer UNKNOWN.
    reply
        What arrived.
    client_id
        The id the order was sent under; an answer about another order proves nothing.
    error
        What ccxt raised, for the detail only.
    """
    if exchange_id == BINANCE:
        return judge_order(reply, client_id=client_id, error=error)
    if reply.status == 0:
        return unknown("no_reply", type(error).__name__ if error else "no answer")
    if exchange_id not in VENUES:
        return unknown("no_table", f"no table of definite answers for {exchange_id[:20]}")
    if reply.status not in TELLING:
        return unknown(f"http_{reply.status}", first_line(reply.body))
    table, read = VENUES[exchange_id]
    try:
        said = read(reply.body)
    except BROKEN as broken:
        return _wordless(table, reply, first_line(str(broken)))
    if not said.codes:
        return _placed(reply, said, client_id)
    return _refused(table, reply, said)


def refuses_key(exchange_id: str, reply: Reply) -> str:
    """Return the code of an answer that says that nobody but a person can help: key, permission or account; else "".

    Understands answers to any request, not to orders alone.
    """
    if exchange_id == BINANCE:
        code = error_code(reply)
        return str(code) if DEFINITE.get(code) is Act.STOP else ""
    if exchange_id not in VENUES or reply.status not in TELLING:
        return ""
    table, read = VENUES[exchange_id]
    try:
        said = read(reply.body)
    except BROKEN:
        return f"http_{reply.status}" if table.statuses.get(reply.status) is Act.STOP else ""
    listed = (_listed(table, code) for code in said.codes)
    return next((first_line(code) for code in listed if table.definite.get(code) is Act.STOP), "")


def _wordless(table: Table, reply: Reply, detail: str) -> Outcome:
    """Judge an answer whose body is not the venue's: only a status that means one thing proves something."""
    code = f"http_{reply.status}"
    act = table.statuses.get(reply.status)
    if act is None:
        return unknown("broken_reply" if reply.status == 200 else code, detail)
    if act is Act.BACK_OFF:
        return Outcome(
            OrderState.DENIED, code, first_line(reply.body), act, retry_after_s(reply.headers, default=BACK_OFF_S)
        )
    return Outcome(OrderState.REJECTED, code, first_line(reply.body), act)


def _placed(reply: Reply, said: Said, client_id: str) -> Outcome:
    if reply.status not in {200, 201} or not 0 < len(said.venue_id) <= ID_LENGTH_MAX:
        return unknown("broken_reply", "neither an error nor an order id")
    if said.client_id not in {"", client_id}:
        return unknown("other_order", f"the answer is about {first_line(said.client_id)[:40]}")
    return Outcome(OrderState.ACKED, "", "accepted", venue_id=said.venue_id)


def _refused(table: Table, reply: Reply, said: Said) -> Outcome:
    """Judge an answer that names errors: each of them must be known to prove that there is no order."""
    code, detail = first_line(said.codes[0]), first_line(said.text)
    hinted = any(word in said.text.lower() for word in EARLIER_COPY) or table.duplicates.intersection(said.codes)
    known = tuple(_listed(table, one) for one in said.codes)
    if said.venue_id or hinted or not all(known):
        return unknown(code, detail)
    acts = [table.definite[one] if one in table.definite else table.not_placed[one] for one in known]
    act = max(acts, key=URGENCY.index)
    state = OrderState.REJECTED if any(one in table.definite for one in known) else OrderState.DENIED
    pause_s = 0.0
    if act is Act.BACK_OFF:
        default = max(table.pause_s.get(one, BACK_OFF_S) for one in known)
        pause_s = retry_after_s(reply.headers, default=default)
    return Outcome(state, code, detail, act, pause_s)


def _listed(table: Table, code: str) -> str:
    """Return the code as the table has it, its detail cut off where it may carry one; "" when it is not listed."""
    whole, family = code.strip(), code.strip().rpartition(":")[0]
    if whole in table.definite or whole in table.not_placed:
        return whole
    return family if family in table.families else ""
