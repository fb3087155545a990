"""Put what the recorded run and its twin decided, sent and got side by side, one by one."""

import math
from collections.abc import Iterable
from decimal import Decimal
from typing import Final

import msgspec

from daemon.backtest.parity_read import Asked, Execution, Sent
from daemon.backtest.parity_twin import Told
from daemon.core.books import exactly
from daemon.domain.events import Decide, Decided
from daemon.domain.orders import Cause, Intent
from daemon.domain.signal import Forecast, NoDecision, Targets

TOLERANCE: Final = 1e-6
"""Largest difference of a forecast or a target weight that counts as equal: linear algebra differs between machines."""
DECIDED: Final = frozenset({Cause.REBALANCE, Cause.CLOSE_ONLY})
"""Why an order of a decision exists; all others are exits, which prices between two decisions bring about."""
ASKED: Final = ("symbols", "weights", "frozen", "caps", "equity", "cash_weight", "turnover_left")
ZERO: Final = Decimal(0)


class DecisionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One decision of both sides; ``difference`` is "" when they agree, errors are None where there is nothing to compare.

    ``made`` is false when the recorded run got no answer it could use: nothing to compare, though the backtest decides.
    """

    number: int
    close_ns: int
    outcome: str
    made: bool
    forecast_error: float | None
    target_error: float | None
    orders: int
    backtest_orders: int
    difference: str


class OrderRow(msgspec.Struct, frozen=True, kw_only=True):
    """One order of both sides with what it got; quantities and prices as text, "" where a side has none."""

    number: int
    close_ns: int
    decision: str
    leg: int
    symbol: str
    side: str
    cause: str
    equal: bool
    qty: str
    backtest_qty: str
    limit: str
    backtest_limit: str
    state: str
    filled: str
    backtest_filled: str
    price: str
    backtest_price: str
    arrival: str
    backtest_arrival: str
    fee: str
    backtest_fee: str


def compare_decision(number: int, asked: Asked, told: Told, orders: Iterable[OrderRow]) -> DecisionRow:
    """Compare question, forecast, targets and ``orders`` of one decision; what differs first is the difference."""
    close_ns = asked.decide.close_ns
    rows = [one for one in orders if one.cause in DECIDED]
    outcome = asked.step.outcome if asked.step is not None else ""
    made = asked.answer is not None and outcome != "deadline"
    question, answer = told.questions.get(close_ns), told.answers.get(close_ns)
    forecast_error = target_error = None
    if not made or asked.answer is None:
        difference = ""
    elif question is None or answer is None:
        difference = "the backtest decided nothing here"
    else:
        forecast_error, target_error, difference = _answers(asked.answer, answer)
        difference = difference or _orders(rows)
        why = _questions(asked.decide, question) if difference else ""
        difference = f"{difference}; asked differently: {why}" if why else difference
    return DecisionRow(
        number=number,
        close_ns=close_ns,
        outcome=outcome,
        made=made,
        forecast_error=forecast_error,
        target_error=target_error,
        orders=sum(bool(one.qty) for one in rows),
        backtest_orders=sum(bool(one.backtest_qty) for one in rows),
        difference=difference,
    )


def _questions(recorded: Decide, backtest: Decide) -> str:
    """Return what the two were asked differently, "" when nothing."""
    return ", ".join(name for name in ASKED if getattr(recorded, name) != getattr(backtest, name))


def _answers(recorded: Decided, backtest: Decided) -> tuple[float | None, float | None, str]:
    """Return the largest differences of forecasts and of targets, and the first that matters."""
    was, now = recorded.result, backtest.result
    if isinstance(was, NoDecision) or isinstance(now, NoDecision):
        if type(was) is type(now) and was.reason == now.reason:  # type: ignore[union-attr]
            return None, None, ""
        return None, None, f"recorded {_kind(was)}, backtest {_kind(now)}"
    if was.symbols != now.symbols:
        return None, None, "targets of other symbols"
    forecast_error, difference = _forecasts(was.forecast, now.forecast)
    errors = [abs(a - b) for a, b in zip(was.weights, now.weights, strict=True)]
    target_error = max(errors, default=0.0)
    if not difference and not target_error <= TOLERANCE:
        at = errors.index(target_error)
        difference = f"target of {was.symbols[at]} is {now.weights[at]:.9g}, recorded {was.weights[at]:.9g}"
    return forecast_error, target_error, difference


def target_error(asked: list[Asked], told: Told) -> float | None:
    """Return the largest distance of any target weight between two runs, None when nothing can be compared."""
    worst: float | None = None
    for one in asked:
        answer = told.answers.get(one.decide.close_ns)
        if one.answer is not None and answer is not None:
            error = _answers(one.answer, answer)[1]
            worst = error if worst is None or (error is not None and error > worst) else worst
    return worst


def _forecasts(was: Forecast | None, now: Forecast | None) -> tuple[float | None, str]:
    if was is None or now is None:
        return None, "" if was is now else "only one side has a forecast"
    worst, difference = 0.0, ""
    for field in ("mean", "raw_mean", "scale", "skill", "interval_90"):
        for symbol, old, new in zip(was.symbols, getattr(was, field), getattr(now, field), strict=True):
            worst = max(worst, abs(old - new))
            if not difference and not math.isclose(old, new, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
                difference = f"forecast {field} of {symbol} is {new:.9g}, recorded {old:.9g}"
    return worst, difference


def _kind(result: Targets | NoDecision) -> str:
    return "targets" if isinstance(result, Targets) else f"no decision ({result.reason}: {result.detail})"


def _orders(rows: list[OrderRow]) -> str:
    """Return the first order that is not the same on both sides, "" when all are."""
    for row in rows:
        if not row.equal:
            ours = f"{row.qty} at {row.limit}" if row.qty else "none"
            theirs = f"{row.backtest_qty} at {row.backtest_limit}" if row.backtest_qty else "none"
            return f"order to {row.side} {row.symbol}: recorded {ours}, backtest {theirs}"
    return ""


# ---------------------------------------------------------------------------------------------- orders and fills


def same_order(recorded: Intent, backtest: Intent) -> bool:
    """Say whether two intents are the same order: everything but its name and the clock."""
    return all(
        getattr(recorded, name) == getattr(backtest, name)
        for name in ("symbol", "side", "qty", "limit", "tif", "cause", "exit", "reference")
    )


def compare_orders(asked: list[Asked], sent: list[Sent], executions: list[Execution], told: Told) -> list[OrderRow]:
    """Pair the orders of both sides, those of decisions by decision and leg, exits by symbol and turn, in order of time."""
    ours, theirs = _keyed(sent), _keyed(told.sent)
    met, their_met = _by_order(executions), _by_order(told.executions)
    closes = [one.decide.close_ns for one in asked]
    rows: list[OrderRow] = []
    for key in sorted({*ours, *theirs}, key=str):
        mine, other = ours.get(key), theirs.get(key)
        one = mine or other
        if one is None or one.at < 0:
            continue
        got = _got(met.get(mine.intent.client_id, []) if mine else [])
        their = _got(their_met.get(other.intent.client_id, []) if other else [])
        rows.append(
            OrderRow(
                number=one.at,
                close_ns=closes[one.at],
                decision=one.intent.decision,
                leg=one.intent.leg,
                symbol=one.intent.symbol,
                side=str(one.intent.side),
                cause=str(one.intent.cause),
                equal=mine is not None and other is not None and same_order(mine.intent, other.intent),
                qty=str(mine.intent.qty) if mine else "",
                backtest_qty=str(other.intent.qty) if other else "",
                limit=str(mine.intent.limit) if mine else "",
                backtest_limit=str(other.intent.limit) if other else "",
                state=str(mine.state) if mine else "",
                filled=got[0],
                backtest_filled=their[0],
                price=got[1],
                backtest_price=their[1],
                arrival=got[2],
                backtest_arrival=their[2],
                fee=got[3],
                backtest_fee=their[3],
            )
        )
    return sorted(rows, key=lambda row: (row.number, row.cause not in DECIDED, row.leg, row.symbol))


def _keyed(sent: list[Sent]) -> dict[tuple[object, ...], Sent]:
    """Return orders by what pairs them."""
    turns: dict[tuple[object, ...], int] = {}
    keyed: dict[tuple[object, ...], Sent] = {}
    for one in sent:
        intent = one.intent
        if intent.cause in DECIDED:
            keyed[one.at, "decision", intent.symbol, intent.side, intent.leg] = one
            continue
        exit_of = (one.at, "exit", intent.symbol, intent.cause)
        turns[exit_of] = turns.get(exit_of, 0) + 1
        keyed[*exit_of, turns[exit_of]] = one
    return keyed


def _by_order(executions: list[Execution]) -> dict[str, list[Execution]]:
    found: dict[str, list[Execution]] = {}
    for one in executions:
        found.setdefault(one.fill.client_id, []).append(one)
    return found


def _got(executions: list[Execution]) -> tuple[str, str, str, str]:
    """Return filled quantity, average price, average market price at arrival and fees, as text."""
    if not executions:
        return "", "", "", ""
    with exactly():
        qty = sum((one.fill.qty for one in executions), ZERO)
        paid = sum((one.fill.qty * one.fill.price for one in executions), ZERO)
        met = sum((one.fill.qty * one.arrival for one in executions), ZERO)
        fees: dict[str, Decimal] = {}
        for one in executions:
            fees[one.fill.fee_asset] = fees.get(one.fill.fee_asset, ZERO) + one.fill.fee
    text = " ".join(f"{amount} {asset}" for asset, amount in sorted(fees.items()))
    return str(qty), f"{float(paid / qty):.10g}", f"{float(met / qty):.10g}", text
