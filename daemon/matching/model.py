"""Decide at which prices and quantities an order trades, and what it costs.

Pure functions over Decimals. Sides are the plain strings ``"buy"`` and ``"sell"`` (any ``str`` enum with those values
works), so the module knows nothing of the vocabulary of its users: paper, backtest and simulated exchange.
"""

from collections.abc import Iterable, Sequence
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, Decimal
from typing import Final, Literal, NamedTuple

__all__ = [
    "Level",
    "Match",
    "average_price",
    "fee",
    "is_multiple",
    "round_down",
    "round_up",
    "sweep",
    "touch_levels",
    "traded_through",
]

FEE_PLACES: Final = Decimal("1e-8")
"""Quantum to which venues round a commission, in units of the fee asset."""

Level = tuple[Decimal, Decimal]
"""A book level: (price in quote per base, quantity in base)."""


class Match(NamedTuple):
    """One piece of an execution: price in quote per base, qty in base, both positive."""

    price: Decimal
    qty: Decimal


def _is_buy(side: str) -> bool:
    if side == "buy":
        return True
    if side == "sell":
        return False
    msg = f"side is {side!r}, must be 'buy' or 'sell'"
    raise ValueError(msg)


def sweep(side: str, qty: Decimal, limit: Decimal | None, levels: Iterable[Level]) -> list[Match]:
    """Match an aggressive order against the opposite side of the book.

    Parameters
    ----------
    side
        ``"buy"`` takes asks, ``"sell"`` takes bids.
    qty
        Wanted quantity in base, >= 0.
    limit
        Worst acceptable price, or None for a market order.
    levels
        Levels of the opposite side, best first. Levels without quantity are skipped.

    Returns
    -------
    list of Match
        Best price first; the quantities add up to at most ``qty``, and never take more from a level than it shows.

    Raises
    ------
    ValueError
        When side is unknown, qty is negative or the levels are not ordered best first.
    """
    buy = _is_buy(side)
    if qty < 0:
        msg = f"qty is {qty}, must not be negative"
        raise ValueError(msg)
    left = qty
    matches: list[Match] = []
    last: Decimal | None = None
    for price, shown in levels:
        if last is not None and (price < last if buy else price > last):
            msg = f"levels are not ordered best first: {price} after {last}"
            raise ValueError(msg)
        last = price
        if left <= 0:
            break
        if limit is not None and (price > limit if buy else price < limit):
            break
        if shown <= 0:
            continue
        take = min(left, shown)
        matches.append(Match(price, take))
        left -= take
    return matches


def touch_levels(  # noqa: PLR0913 (a known touch has four numbers; all but the first four are named)
    bid: Decimal,
    bid_qty: Decimal,
    ask: Decimal,
    ask_qty: Decimal,
    *,
    side: str,
    tick: Decimal,
    depth_qty: Decimal | None = None,
    levels: int = 20,
    impact_bps: Decimal = Decimal(10),
) -> list[Level]:
    """Extend a known touch (bookTicker) into a ladder whose depth follows the square-root law of impact.

    The touch is taken as it is. Behind it, taking a cumulative quantity Q costs at the margin
    ``impact_bps * sqrt(Q / depth_qty)`` basis points from the touch (square-root impact, e.g. Toth et al. 2011,
    "Anomalous price impact", eq. 1), so level j (j = 1..levels), at ``impact_bps * j / levels`` basis points, holds
    cumulatively ``depth_qty * (j / levels)**2``, and is rounded away from the touch to the tick.

    Parameters
    ----------
    bid, bid_qty, ask, ask_qty
        Best prices and the quantities shown there.
    side
        Side of the aggressor: ``"buy"`` returns asks upward, ``"sell"`` bids downward.
    tick
        Price step; levels that would fall on the same tick are merged.
    depth_qty
        Quantity in base within ``impact_bps`` behind the touch; default twenty times the quantity of the touch.
    levels
        Number of levels behind the touch.
    impact_bps
        Distance of the last level from the touch in basis points.

    Returns
    -------
    list of Level
        Best first, strictly monotone in price, quantities positive. Empty when the touch is missing or crossed.
    """
    buy = _is_buy(side)
    if bid <= 0 or ask <= 0 or bid >= ask or tick <= 0:
        return []
    touch, shown = (ask, ask_qty) if buy else (bid, bid_qty)
    sign = 1 if buy else -1
    depth = depth_qty if depth_qty is not None else shown * 20
    ladder: dict[Decimal, Decimal] = {touch: shown} if shown > 0 else {}
    for j in range(1, levels + 1):
        distance = touch * impact_bps * j / levels / 10_000
        ticks = (distance / tick).to_integral_value(rounding=ROUND_CEILING)
        price = touch + sign * max(ticks, Decimal(1)) * tick
        if price <= 0:
            break
        qty = depth * (j * j - (j - 1) * (j - 1)) / (levels * levels)
        if qty > 0:
            ladder[price] = ladder.get(price, Decimal(0)) + qty
    return sorted(ladder.items(), key=lambda level: sign * level[0])


def traded_through(side: str, limit: Decimal, trade_price: Decimal, tick: Decimal) -> bool:
    """Say whether a trade proves that a resting limit order was filled.

    A resting order is only sure to have traded when the market printed at least one tick beyond its price; a print
    at the price itself may have gone to those ahead in the queue.

    Parameters
    ----------
    side
        Side of the resting order.
    limit
        Its price.
    trade_price
        Price of the observed trade.
    tick
        Price step of the symbol.
    """
    if _is_buy(side):
        return trade_price <= limit - tick
    return trade_price >= limit + tick


def fee(side: str, price: Decimal, qty: Decimal, rate: Decimal) -> tuple[Decimal, Literal["base", "quote"]]:
    """Compute the commission of one execution: in base on buys, in quote on sells.

    Parameters
    ----------
    side
        Side of the order that pays.
    price, qty
        Price in quote per base and quantity in base of the execution.
    rate
        Fraction of what is received, 0.001 = 10 basis points.

    Returns
    -------
    amount, asset kind
        Amount >= 0 in the asset named, truncated to 1e-8.
    """
    if _is_buy(side):
        return (qty * rate).quantize(FEE_PLACES, rounding=ROUND_DOWN), "base"
    return (price * qty * rate).quantize(FEE_PLACES, rounding=ROUND_DOWN), "quote"


def average_price(matches: Sequence[Match]) -> Decimal | None:
    """Return the quantity-weighted price of an execution, or None when nothing traded."""
    qty = sum((match.qty for match in matches), Decimal(0))
    if qty == 0:
        return None
    return sum((match.price * match.qty for match in matches), Decimal(0)) / qty


def round_down(value: Decimal, step: Decimal) -> Decimal:
    """Round a non-negative value down to a multiple of step; a step of zero leaves it as it is."""
    if step == 0:
        return value
    return (value / step).to_integral_value(rounding=ROUND_FLOOR) * step


def round_up(value: Decimal, step: Decimal) -> Decimal:
    """Round a non-negative value up to a multiple of step; a step of zero leaves it as it is."""
    if step == 0:
        return value
    return (value / step).to_integral_value(rounding=ROUND_CEILING) * step


def is_multiple(value: Decimal, step: Decimal) -> bool:
    """Say whether value is a whole multiple of step; a step of zero allows everything."""
    return step == 0 or value % step == 0
