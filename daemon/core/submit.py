"""From intents to one durable write: gate, reservation, record. Decisions and exits leave through the same door."""

from collections.abc import Generator
from decimal import Decimal

import msgspec

from daemon.core.planner import Plan, Quote
from daemon.core.state import State
from daemon.domain.events import Submit, TradingState
from daemon.domain.orders import Approved, Check, Intent, Refused, Side
from risk.views import GateView

NAN = Decimal("NaN")


def known_or_nan(equity: Decimal | None) -> Decimal:
    """Return equity, NaN when it is unknown: what grows exposure is then denied, exits go on."""
    return equity if equity is not None else NAN


class Verdicts(msgspec.Struct, frozen=True):
    """What the gate made of a batch."""

    approved: tuple[Approved, ...]
    refused: tuple[Refused, ...]


def quote(state: State, symbol: str) -> Quote:
    """Return the newest prices of a symbol as the planner wants them."""
    market = state.markets.get(symbol)
    if market is None:
        return Quote(bid=0.0, ask=0.0, last=0.0)
    book = market.book
    return Quote(bid=book.bid if book is not None else 0.0, ask=book.ask if book is not None else 0.0, last=market.last)


def judge(state: State, intents: tuple[Intent, ...], view: GateView | None = None) -> Verdicts:
    """Pass intents through the gate and reserve for what it approves; unknown equity denies all but exits.

    ``view`` is what the gate judges by, when the caller has it and nothing has happened since.
    """
    if view is None:
        view = state.gate_view(known_or_nan(state.equity()))
    verdicts = state.gate.judge(intents, view)
    approved = tuple([one for one in verdicts if isinstance(one, Approved)])
    for one in approved:
        state.blotter.sent(one)
    return Verdicts(approved, tuple([one for one in verdicts if isinstance(one, Refused)]))


def judge_pieces(
    state: State, intents: tuple[Intent, ...], most: int, view: GateView | None = None
) -> Generator[None, None, Verdicts]:
    """Do what ``judge`` does, at most so many intents (>= 1) at a time, but never the legs of one symbol apart.

    What happened between two pieces counts: reservations, prices and the trading state are those of the moment, and a
    symbol that is being sold since then is left alone. ``view`` is that of ``judge``, good for the first piece alone.
    """
    approved: list[Approved] = []
    refused: list[Refused] = []
    at_once = len(intents) <= most
    begin = 0
    while begin < len(intents):
        end = min(begin + most, len(intents))
        while end < len(intents) and intents[end].symbol == intents[end - 1].symbol:
            end += 1
        fit: list[Intent] = []
        for intent in intents[begin:end]:
            reason = _overtaken(state, intent)
            if reason:
                refused.append(Refused(intent, Check.STATE, reason, state.now_ns))
            else:
                fit.append(intent)
        verdicts = judge(state, tuple(fit), view)
        view = None
        approved.extend(verdicts.approved)
        refused.extend(verdicts.refused)
        begin = end
        if begin < len(intents):
            yield
    if not at_once:
        for one in tuple(approved):
            reason = _overtaken(state, one.intent)
            if reason:
                approved.remove(one)
                state.blotter.withdraw(one.intent.client_id)
                refused.append(Refused(one.intent, Check.STATE, reason, state.now_ns))
    return Verdicts(approved=tuple(approved), refused=tuple(refused))


def _overtaken(state: State, intent: Intent) -> str:
    """Return what happened since an intent was planned that forbids it, "" when nothing did."""
    if state.trading is TradingState.HALTED or (state.trading is TradingState.REDUCING and intent.side is Side.BUY):
        return f"trading state is {state.trading}"
    if intent.symbol in state.exits.active:
        return f"an exit of {intent.symbol} began meanwhile"
    if intent.side is Side.BUY and state.stops.cooling(intent.symbol, state.now_ns):
        return f"{intent.symbol} was stopped out meanwhile"
    return ""


def submit(decision: str, plan: Plan, verdicts: Verdicts, record: dict[str, object]) -> Submit:
    """Return the one durable write of a decision: intents, refusals and why."""
    record["deferred"] = [[one.symbol, one.reason, one.weight] for one in plan.deferred]
    record["projection_errors"] = plan.errors
    record["dust"] = plan.dust
    return Submit(
        decision=decision,
        approved=verdicts.approved,
        refused=verdicts.refused,
        record_json=msgspec.json.encode(record, order="sorted").decode(),
    )
