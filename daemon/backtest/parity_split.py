"""Split a difference in profit into its causes, exactly: implementation shortfall with two sides.

Perold (1988, "The implementation shortfall: paper versus reality") compares a portfolio with one that trades for nothing at
the price of the decision. Here both the recorded run and the backtest are measured against that paper portfolio, over one
interval at a time that both begin with the same holdings; what the two differ in is the gap. Signed quantities (buys > 0),
quote currency, Decimal: nothing is rounded, so the parts add up to the gap to the last digit.

For an order of quantity Q decided at price D, with executions of quantity q at price p, on arrival at market price A and
touch T, and M the price at the interval's end:

====== ======================= ==========================================================
part   formula                 meaning
====== ======================= ==========================================================
paper  Q (M - D)               what the decision is worth if it costs nothing
missed -(Q - sum q) (M - D)    what was ordered and did not trade
delay  -sum q (A - D)          how the market moved before the order met it
spread -sum q (T - A)          from the middle of the market to the touch
impact -sum q (p - T)          from the touch to what was paid: depth, a moving book, rounding
fees   -sum fee                in quote; what is taken in base counts at M
====== ======================= ==========================================================

Each part of the gap is the recorded side's less the backtest's; the difference in *paper* is ``signal``.
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Final

import msgspec

from daemon.core.books import exactly

ZERO: Final = Decimal(0)
PARTS: Final = ("signal", "delay", "spread", "impact", "fees", "missed")


class Trade(msgspec.Struct, frozen=True, kw_only=True):
    """One execution: signed ``qty`` in base, prices in quote; ``fee_quote`` and ``fee_base`` (>= 0) as they were taken."""

    qty: Decimal
    price: Decimal
    arrival: Decimal
    touch: Decimal
    fee_quote: Decimal = ZERO
    fee_base: Decimal = ZERO


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One order: signed ``qty`` as sent, the price ``decided`` at, and what traded within the interval."""

    symbol: str
    qty: Decimal
    decided: Decimal
    trades: tuple[Trade, ...] = ()


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """A gap's parts in quote currency; positive means that the recorded run did better."""

    signal: Decimal = ZERO
    delay: Decimal = ZERO
    spread: Decimal = ZERO
    impact: Decimal = ZERO
    fees: Decimal = ZERO
    missed: Decimal = ZERO

    @property
    def total(self) -> Decimal:
        """Return the sum of the parts."""
        with exactly():
            return sum((getattr(self, name) for name in PARTS), ZERO)

    def plus(self, other: "Parts", sign: int = 1) -> "Parts":
        """Return the sum with another split, or the difference (``sign`` -1)."""
        with exactly():
            return Parts(**{name: getattr(self, name) + sign * getattr(other, name) for name in PARTS})


def shortfall(orders: Iterable[Order], end: Mapping[str, Decimal]) -> dict[str, Parts]:
    """Return one side's parts per symbol, *paper* in the place of ``signal``.

    Parameters
    ----------
    orders
        What was sent in the interval, with what traded in it.
    end
        Price of every symbol at the interval's end.

    Raises
    ------
    KeyError
        A symbol has no price at the end.
    """
    found: dict[str, Parts] = {}
    for order in orders:
        price = end[order.symbol]
        with exactly():
            filled = sum((trade.qty for trade in order.trades), ZERO)
            move = price - order.decided
            one = Parts(
                signal=order.qty * move,
                missed=-(order.qty - filled) * move,
                delay=-sum((t.qty * (t.arrival - order.decided) for t in order.trades), ZERO),
                spread=-sum((t.qty * (t.touch - t.arrival) for t in order.trades), ZERO),
                impact=-sum((t.qty * (t.price - t.touch) for t in order.trades), ZERO),
                fees=-sum((t.fee_quote + t.fee_base * price for t in order.trades), ZERO),
            )
        found[order.symbol] = found.get(order.symbol, Parts()).plus(one)
    return found


def split(recorded: Iterable[Order], backtest: Iterable[Order], end: Mapping[str, Decimal]) -> dict[str, Parts]:
    """Return the parts of the gap (recorded less backtest) per symbol, over one interval; see ``shortfall``."""
    ours, theirs = shortfall(recorded, end), shortfall(backtest, end)
    return {
        symbol: ours.get(symbol, Parts()).plus(theirs.get(symbol, Parts()), -1) for symbol in sorted({*ours, *theirs})
    }


def worth(cash: Decimal, positions: Mapping[str, Decimal], prices: Mapping[str, Decimal]) -> Decimal:
    """Return what holdings are worth in quote currency. Raises KeyError when a held symbol has no price."""
    with exactly():
        return cash + sum((qty * prices[symbol] for symbol, qty in positions.items()), ZERO)
