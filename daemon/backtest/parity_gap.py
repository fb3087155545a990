"""The gap in profit between a recorded run and its twin, interval by interval, from their accounts and split by their orders.

The gap comes from what both sides hold at an interval's ends, its parts from orders and executions: two ways to the same
number. What they differ in is the residual, which is what nobody explains.
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Final

import msgspec
import numpy as np

from daemon.backtest.history import Panel
from daemon.backtest.parity_compare import DECIDED
from daemon.backtest.parity_read import Execution, Moment, Sent, Stretch
from daemon.backtest.parity_split import Order, Parts, Trade, split, worth
from daemon.backtest.parity_twin import Holdings, Told
from daemon.core.books import exactly
from daemon.domain.orders import Side
from risk.money import exact

ZERO: Final = Decimal(0)
CLOSE: Final = 3
BPS: Final = 10_000


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """From one decision's close to the next: both sides' profit, the gap, its parts per symbol; quote currency."""

    number: int
    begin_ns: int
    end_ns: int
    recorded: Decimal
    backtest: Decimal
    parts: dict[str, Parts]

    @property
    def gap(self) -> Decimal:
        """Return the recorded side's profit less the backtest's."""
        with exactly():
            return self.recorded - self.backtest

    @property
    def total(self) -> Parts:
        """Return the parts over all symbols."""
        return total_of(self.parts.values())

    @property
    def residual(self) -> Decimal:
        """Return what the parts do not explain."""
        with exactly():
            return self.gap - self.total.total


class Marks:
    """Prices of every symbol at closes: those of the recorded bars, the newest known where a bar lacks."""

    def __init__(self, panel: Panel) -> None:
        self._panel = panel
        closes = panel.values[:, :, CLOSE]
        rows = np.arange(len(closes))[:, None]
        newest = np.maximum.accumulate(np.where(np.isnan(closes), -1, rows), axis=0)
        known = np.take_along_axis(closes, np.maximum(newest, 0), axis=0)
        self._closes = np.where(newest < 0, np.nan, known)

    def at(self, close_ns: int) -> Mapping[str, Decimal]:
        """Return the price of every symbol that had one by this close."""
        row = self._closes[self._panel.place(close_ns - self._panel.bar_ns)].tolist()
        return {symbol: exact(price) for symbol, price in zip(self._panel.symbols, row, strict=True) if price == price}  # noqa: PLR0124 - NaN


def total_of(parts: Iterable[Parts]) -> Parts:
    """Return the sum of splits."""
    total = Parts()
    for one in parts:
        total = total.plus(one)
    return total


class _Side:
    """One side's orders and executions by interval."""

    def __init__(self, sent: list[Sent], executions: list[Execution]) -> None:
        self.sent: dict[int, list[Sent]] = {}
        self.executions: dict[int, list[Execution]] = {}
        for order in sent:
            self.sent.setdefault(order.at, []).append(order)
        for one in executions:
            self.executions.setdefault(one.at, []).append(one)


def intervals_of(stretch: Stretch, told: Told, marks: Marks) -> list[Interval]:
    """Return every interval that ends within the recording."""
    ends = [*stretch.asked[1:], None]
    ours, theirs = _Side(stretch.sent, stretch.executions), _Side(told.sent, told.executions)
    quote = stretch.config.quote
    found: list[Interval] = []
    for number, (asked, following) in enumerate(zip(stretch.asked, ends, strict=True)):
        if following is not None:
            end_ns, held = following.decide.close_ns, following.moment
        elif stretch.end is not None:
            end_ns, held = stretch.end.close_ns, stretch.end.moment
        else:
            break
        begin_ns = asked.decide.close_ns
        begin, end = marks.at(begin_ns), marks.at(end_ns)
        start = worth(asked.moment.cash, asked.moment.positions, begin)
        holds = told.held.get(number, Holdings(asked.moment.cash, asked.moment.positions))
        with exactly():
            recorded = worth(held.cash, held.positions, end) - start - _flows(stretch, number, end)
            backtest = worth(holds.cash, holds.positions, end) - start
        parts = split(
            orders_of(ours.sent.get(number, []), ours.executions.get(number, []), decided=begin, quote=quote),
            orders_of(theirs.sent.get(number, []), theirs.executions.get(number, []), decided=begin, quote=quote),
            end,
        )
        found.append(
            Interval(number=number, begin_ns=begin_ns, end_ns=end_ns, recorded=recorded, backtest=backtest, parts=parts)
        )
    return found


def _flows(stretch: Stretch, number: int, end: Mapping[str, Decimal]) -> Decimal:
    """Return what came or went in an interval without a trade, at the prices of its end."""
    quote = stretch.config.quote
    with exactly():
        return sum(
            (
                flow.amount * (1 if flow.asset == quote else end.get(f"{flow.asset}/{quote}", ZERO))
                for at, flow in stretch.flows
                if at == number
            ),
            ZERO,
        )


def orders_of(
    sent: list[Sent], executions: list[Execution], *, decided: Mapping[str, Decimal], quote: str
) -> list[Order]:
    """Return what was sent and executed in one interval as the split wants it.

    What an order trades in a later interval than its own was missed there, and makes up for it here: an order of nothing that
    traded. An exit was decided at the price that asked for it.
    """
    trades: dict[str, list[Trade]] = {}
    symbols: dict[str, str] = {}
    for one in executions:
        trades.setdefault(one.fill.client_id, []).append(_trade(one, quote))
        symbols[one.fill.client_id] = one.fill.symbol
    orders: list[Order] = []
    for order in sent:
        intent = order.intent
        price = decided[intent.symbol] if intent.cause in DECIDED else intent.reference
        qty = intent.qty if intent.side is Side.BUY else -intent.qty
        mine = tuple(trades.pop(intent.client_id, ()))
        orders.append(Order(symbol=intent.symbol, qty=qty, decided=price, trades=mine))
    for client_id, late in trades.items():
        symbol = symbols[client_id]
        orders.append(Order(symbol=symbol, qty=ZERO, decided=decided[symbol], trades=tuple(late)))
    return orders


def _trade(one: Execution, quote: str) -> Trade:
    fill = one.fill
    return Trade(
        qty=fill.qty if fill.side is Side.BUY else -fill.qty,
        price=fill.price,
        arrival=one.arrival,
        touch=one.touch,
        fee_quote=fill.fee if fill.fee_asset == quote else ZERO,
        fee_base=fill.fee if fill.fee_asset == fill.symbol.partition("/")[0] else ZERO,
    )


def bps(amount: Decimal, equity: Decimal) -> float:
    """Return an amount in basis points of equity, NaN without any."""
    return float(amount / equity) * BPS if equity > ZERO else float("nan")


def valuation(moment: Moment, prices: Mapping[str, Decimal]) -> Decimal:
    """Return how much more the engine's own equity is than its holdings at the bars' closes: books move on meanwhile."""
    with exactly():
        return moment.equity - worth(moment.cash, moment.positions, prices)
