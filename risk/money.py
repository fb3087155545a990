"""Doors between float64 prices and Decimal money, exact rounding to a grid, and the independent reference price.

Planner and gate share these few functions, so that what one plans the other can judge to the last unit.
"""

from decimal import Decimal
from functools import lru_cache

ZERO = Decimal(0)
ONE = Decimal(1)
EXACT_KEPT = 4096
"""Numbers whose decimal form is kept: a price is asked for by valuation, planner, gate and stops alike."""
PRICE_MAX = 1e12
"""Largest believable price in quote currency; above it a price counts as unknown."""
AMOUNT_MAX = Decimal("1e15")
"""Largest believable quantity or amount of money; above it decimal arithmetic of 28 digits would stop being exact."""


def exact(value: float) -> Decimal:
    """Return the decimal number a float prints as: 0.1 becomes 0.1, not its binary noise.

    Parameters
    ----------
    value : float
        Price or ratio; NumPy scalars are accepted. NaN and infinity pass and are refused by ``is_amount``.
    """
    return _exact(value) if value else Decimal(repr(float(value)))  # zero has two signs, and they compare equal


@lru_cache(maxsize=EXACT_KEPT)
def _exact(value: float) -> Decimal:
    return Decimal(repr(float(value)))


def ratio(value: Decimal) -> float:
    """Return a Decimal ratio as float64: the way out, for metrics and weights, never for money."""
    return float(value)


def is_price(value: float) -> bool:
    """Tell whether a float is a usable price: finite, above zero, believable."""
    return 0.0 < value <= PRICE_MAX  # neither NaN nor infinity lies between them


def is_amount(value: Decimal) -> bool:
    """Tell whether a Decimal is a usable amount: finite, not negative, believable."""
    return value.is_finite() and ZERO <= value <= AMOUNT_MAX


def steps_of(value: Decimal, step: Decimal) -> int:
    """Return how many whole steps fit into ``value``, exact, rounded towards zero; 0 when either is not above zero."""
    if value <= ZERO or step <= ZERO:
        return 0
    return int(value // step)


def floor_to(value: Decimal, step: Decimal) -> Decimal:
    """Return the largest multiple of ``step`` not above ``value`` (>= 0)."""
    return steps_of(value, step) * step


def ceil_to(value: Decimal, step: Decimal) -> Decimal:
    """Return the smallest multiple of ``step`` not below ``value`` (>= 0)."""
    down = floor_to(value, step)
    return down if down == value else down + step


def reference_price(bid: float, ask: float, last: float) -> float:
    """Return the independent reference that collars and valuations refer to: the mid of a sound book, else the last trade.

    Parameters
    ----------
    bid, ask, last : float
        Quote currency per unit; anything that is not a price counts as unknown. A locked or crossed book is not sound.

    Returns
    -------
    float
        The price, 0.0 when there is none.
    """
    if 0.0 < bid < ask <= PRICE_MAX:
        return (bid + ask) / 2.0
    return last if 0.0 < last <= PRICE_MAX else 0.0


def is_crossed(bid: float, ask: float) -> bool:
    """Tell whether both sides are quoted and the book is locked or crossed."""
    return 0.0 < ask <= bid <= PRICE_MAX
