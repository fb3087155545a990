"""The venue's grid: limit prices, lots, legs and the room that limits leave; the planner's exact arithmetic."""

from decimal import Decimal

from daemon.domain.market import Instrument
from daemon.domain.orders import Tif
from risk.limits import BPS, Limits
from risk.money import ONE, ZERO, ceil_to, exact, floor_to, is_amount, is_price, ratio, steps_of


def weight_of(value: Decimal, equity: Decimal) -> float:
    """Return ``value`` as a fraction of equity, 0.0 when equity is not a usable number."""
    return ratio(value / equity) if is_amount(equity) and equity > ZERO else 0.0


def capped(qty: Decimal, rules: Instrument) -> Decimal:
    """Return ``qty``, at most the venue's largest quantity, on the lot grid."""
    return floor_to(min(qty, rules.max_qty) if rules.max_qty > ZERO else qty, rules.step)


def takes(qty: Decimal, limit: Decimal, rules: Instrument) -> bool:
    """Tell whether the venue would take an order of this size at this limit."""
    return qty > ZERO and qty >= rules.min_qty and qty * limit >= rules.min_notional


def buy_limit(bid: float, ask: float, *, rules: Instrument, reference: Decimal, limits: Limits) -> Decimal | None:
    """Return the limit of a buy, None when none lies inside the collar.

    IOC: the ask plus slippage, down to the tick but never below the ask's own; GTC: the bid, down to the tick. Without
    that side of the book the reference stands in. ``bid`` and ``ask`` are float64, 0 when unknown.
    """
    side = bid if limits.order is Tif.GTC else ask
    touch = exact(side) if is_price(side) else reference
    reach = floor_to(touch, rules.tick)
    limit = reach
    if limits.order is Tif.IOC:
        reach = ceil_to(touch, rules.tick)
        limit = max(reach, floor_to(touch * (ONE + exact(limits.max_slippage_bps * BPS)), rules.tick))
    collar = exact(limits.price_collar)
    top, bottom = reference * (ONE + collar), reference * max(ONE - collar, rules.bid_down)
    if rules.bid_up > ZERO:
        top = min(top, reference * rules.bid_up)
    limit = min(limit, floor_to(top, rules.tick))
    return limit if limit >= reach and limit >= bottom else None


def sell_limit(
    near: Decimal, *, touch: Decimal, reference: Decimal, collar: Decimal, rules: Instrument
) -> Decimal | None:
    """Return the limit of a sale: ``near`` up to the tick, not above the touch, inside collar and price band.

    Where the collar's end lies above the touch the collar wins: the order then waits or expires rather than sell below it.
    None when no tick lies inside the collar.
    """
    limit = min(ceil_to(near, rules.tick), floor_to(touch, rules.tick))
    top = reference * (ONE + collar)
    if rules.ask_up > ZERO:
        top = min(top, reference * rules.ask_up)
    bottom = reference * max(ONE - collar, rules.ask_down)
    limit = max(min(limit, floor_to(top, rules.tick)), ceil_to(bottom, rules.tick))
    return limit if limit <= top else None


def cut_legs(
    qty: Decimal, limit: Decimal, *, reference: Decimal, equity: Decimal, limits: Limits, rules: Instrument
) -> list[Decimal]:
    """Cut a sale into nearly equal legs, each within ``max_order_notional`` and the venue's filters.

    The size limit counts the dearer of limit and reference. It gives way where it would make legs too small for the
    venue: a small account must be able to get out too. Unknown equity leaves the sale in as few legs as the venue allows.
    Returns no legs when the venue would not take the whole.
    """
    total = steps_of(qty, rules.step)
    if not total or limit <= ZERO:
        return []
    least = max(rules.min_qty, rules.min_notional / limit)
    most = total
    if is_amount(equity) and equity > ZERO:
        size = equity * exact(limits.max_order_notional)
        most = max(
            steps_of(size, max(limit, reference) * rules.step), 2 * steps_of(ceil_to(least, rules.step), rules.step)
        )
    if rules.max_qty > ZERO:
        most = min(most, steps_of(rules.max_qty, rules.step))
    legs = -(-total // max(1, most))
    base, extra = divmod(total, legs)
    if not takes(base * rules.step, limit, rules):
        return []
    return [(base + 1) * rules.step] * extra + [base * rules.step] * (legs - extra)


class Room:
    """What buys may still take: cash (less ``min_cash``), gross exposure and weight, all in quote currency."""

    def __init__(
        self,
        *,
        equity: Decimal,
        cash_free: Decimal,
        values: dict[str, Decimal | None],
        reserved: dict[str, Decimal],
        limits: Limits,
    ) -> None:
        """Start from position ``values`` and live buys ``reserved``; one that is unknown (None, NaN) leaves no room at all."""
        self._held = {symbol: value for symbol, value in values.items() if value is not None}
        self._reserved = {symbol: amount for symbol, amount in reserved.items() if is_amount(amount)}
        self._cap = equity * exact(limits.max_weight)
        self.cash = cash_free - equity * exact(limits.min_cash)
        self.gross = ZERO
        if len(self._held) == len(values) and len(self._reserved) == len(reserved):
            used = sum(self._held.values(), ZERO) + sum(self._reserved.values(), ZERO)
            self.gross = equity * exact(limits.max_gross) - used

    def weight(self, symbol: str) -> Decimal:
        """Return how much more of one symbol may be bought before it could reach ``max_weight``."""
        return self._cap - self._held.get(symbol, ZERO) - self._reserved.get(symbol, ZERO)
