"""Decide what an order gets from a bar: half the spread, square-root impact, and no more than a part of its volume.

Pure. The law of impact is that of ``daemon.matching.model``: taking a share x of a bar's volume moves the marginal price by
``impact * sqrt(x)`` (e.g. Toth et al. 2011, "Anomalous price impact", eq. 1); what is paid on average for the stretch from
``a`` to ``b`` shares is the integral, ``impact * 2/3 * (b**1.5 - a**1.5) / (b - a)``.
"""

import math
from decimal import Decimal
from typing import NamedTuple

from daemon.matching.model import Match

__all__ = ["Costs", "Depth", "rest_on_bar", "take_from_bar"]

CRUMB = 1e-9
"""Ticks by which a computed price may miss the grid and still lie on it."""


class Costs(NamedTuple):
    """What trading costs beside fees: fractions of the price, and the share of a bar's volume that one may take."""

    half_spread: float
    impact: float
    participation: float


class Depth(NamedTuple):
    """What a bar has to give: its volume and what of it has been taken already, base units; costs; the venue's grids.

    ``tick`` is the grid of prices, ``step`` that of quantities.
    """

    volume: float
    taken: float
    costs: Costs
    tick: Decimal
    step: Decimal


def take_from_bar(side: str, qty: Decimal, limit: Decimal, *, price: float, depth: Depth) -> Match | None:
    """Match an aggressive order against one moment of a bar.

    Parameters
    ----------
    side, qty, limit
        ``"buy"`` or ``"sell"``, base units wanted (> 0), worst acceptable price.
    price
        The market's price at that moment (the open, or the level of a stop), quote per base.
    depth
        What the bar has to give.

    Returns
    -------
    Match or None
        Average price on the tick grid, rounded against the taker but never beyond ``limit``, and a quantity on the lot
        grid; None when nothing trades: no volume, or the price lies beyond the limit.
    """
    volume, taken, costs, tick, step = depth
    buy = side == "buy"
    sign = 1.0 if buy else -1.0
    touch = price * (1.0 + sign * costs.half_spread)
    worst = float(limit)
    slack = sign * (worst / touch - 1.0) if touch > 0.0 else -1.0
    if volume <= 0.0 or slack < -1e-12:
        return None
    room = costs.participation * volume - taken
    if costs.impact > 0.0:
        share = max(slack, 0.0) / costs.impact
        room = min(room, volume * share * share - taken)
    got = _within(qty, room, step)
    if got <= 0:
        return None
    average = touch
    if costs.impact > 0.0:
        first, last = taken / volume, (taken + float(got)) / volume
        marginal = 2.0 / 3.0 * (last * math.sqrt(last) - first * math.sqrt(first)) / (last - first)
        average = touch * (1.0 + sign * costs.impact * marginal)
    ticks = average / float(tick)
    on_grid = tick * (math.ceil(ticks - CRUMB) if buy else math.floor(ticks + CRUMB))
    paid = min(on_grid, limit) if buy else max(on_grid, limit)
    return Match(paid, got) if paid > 0 else None


def rest_on_bar(side: str, qty: Decimal, limit: Decimal, *, low: float, high: float, depth: Depth) -> Match | None:
    """Fill a resting order at its limit if the bar traded through it by a tick, within the part of the volume it may take."""
    through = low <= float(limit - depth.tick) if side == "buy" else high >= float(limit + depth.tick)
    if not through or depth.volume <= 0.0:
        return None
    got = _within(qty, depth.costs.participation * depth.volume - depth.taken, depth.step)
    return Match(limit, got) if got > 0 else None


def _within(qty: Decimal, room: float, step: Decimal) -> Decimal:
    """Return all of a quantity, or what of it there is room for, on the lot grid."""
    if room >= float(qty):
        return qty
    if room <= 0.0:
        return Decimal(0)
    if step == 0:
        return Decimal(repr(room))
    return int(room / float(step)) * step
