"""From intents to one durable write: gate, reservation, record. Decisions and exits leave through the same door."""

from decimal import Decimal

import msgspec

from daemon.core.planner import Plan, Quote
from daemon.core.state import State
from daemon.domain.events import Submit
from daemon.domain.orders import Approved, Intent, Refused

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


def judge(state: State, intents: tuple[Intent, ...]) -> Verdicts:
    """Pass intents through the gate and reserve for what it approves; unknown equity denies all but exits."""
    verdicts = state.gate.judge(intents, state.gate_view(known_or_nan(state.equity())))
    approved = tuple(one for one in verdicts if isinstance(one, Approved))
    for one in approved:
        state.blotter.sent(one)
    return Verdicts(approved=approved, refused=tuple(one for one in verdicts if isinstance(one, Refused)))


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
