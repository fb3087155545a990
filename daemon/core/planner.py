"""Stage 7: target weights and exits become intents, in Decimal, on the venue's grid, under fixed client ids.

What is planned here fits the limits the gate will judge by, computed by the same arithmetic; the gate's refusal is a
second opinion, not the way sizes are found. Rules, in the order they are applied to each symbol:

1. *Hold* when it is blocked (a working or unresolved order), has no usable price, target or filters.
2. *No-trade band*: a difference up to max(minimum notional, ``BAND_COSTS`` x one-way cost x equity) is left alone; a
   target of zero has no band. One-way cost is the fee plus half the spread: a difference that costs as much to turn
   round as it is large buys nothing.
3. *Slices*: one order of at most ``max_order_notional`` of equity per symbol and decision, the rest waits; a symbol that
   must go to zero (close-only, cooling down) is sold in several legs at once.
4. *Grid*: quantity down to the lot, buy limit down to the tick but not below the ask's, sell limit up but not above the
   bid's, inside collar and PERCENT_PRICE_BY_SIDE.
5. *Room*: buys take what weight cap, gross limit and free cash less ``min_cash`` allow, fees included, largest benefit
   first; cash that sells will bring is not there yet. Sells take at most the free balance, rounded down.
6. *Rate*: at most ``max_intents``; forced exits first and whatever the rate, sells before buys when cash is short,
   else by benefit.
"""

import math
import sys
from collections.abc import Generator
from decimal import Decimal

import msgspec

from daemon.core.pieces import finish
from daemon.core.plans import (
    LEGS_MAX,
    Deferred,
    ExitRequest,
    Plan,
    PlanRequest,
    Quote,
    client_id,
    client_prefix,
    decision_id,
)
from daemon.core.projection import Room, buy_limit, capped, cut_legs, sell_limit, takes, weight_of
from daemon.domain.market import Instrument
from daemon.domain.orders import Cause, Intent, Side, Tif
from risk.limits import BPS
from risk.money import (
    ONE,
    ZERO,
    ceil_to,
    exact,
    floor_to,
    is_amount,
    is_crossed,
    is_price,
    ratio,
    reference_price,
    steps_of,
)
from risk.stops import exit_limit

__all__ = [
    "Deferred",
    "ExitRequest",
    "Plan",
    "PlanRequest",
    "Quote",
    "client_id",
    "client_prefix",
    "decision_id",
    "exit_plan",
    "pieces",
    "plan",
]

BAND_COSTS = 2.0
"""Width of the no-trade band in one-way costs (a round trip)."""
NO_LIMIT = "no limit inside the collar"
WEIGHT_ZERO = 1e-6
"""A target below this is zero: solvers leave such crumbs."""


class _Wish(msgspec.Struct):
    """One symbol's difference on the grid: ``qty`` base units wanted (> 0) at ``limit``."""

    symbol: str
    side: Side
    qty: Decimal
    limit: Decimal
    reference: Decimal
    benefit: float
    cause: Cause
    tif: Tif

    @property
    def forced(self) -> bool:
        """Tell whether the symbol must go to zero whatever the strategy thinks."""
        return self.cause is not Cause.REBALANCE


def plan(request: PlanRequest) -> Plan:
    """Turn targets into intents; pure, the same request gives the same plan."""
    return finish(pieces(request, sys.maxsize))


def pieces(request: PlanRequest, most: int) -> Generator[None, None, Plan]:
    """Do what ``plan`` does, at most so many symbols or orders (>= 1) at a time; the pieces change nothing in the plan."""
    return _Planner(request).run(most)


def exit_plan(request: ExitRequest) -> Plan:
    """Sell a symbol in legs, each within the order size limit, at the rung of the exit ladder.

    The limit is never below the exit collar around the reference nor outside the venue's price band; without any price
    nothing can be planned and the caller must fetch one.
    """
    quote, rules = request.quote, request.instrument
    price = reference_price(quote.bid, quote.ask, quote.last)
    if not price or not is_amount(request.qty):
        return Plan(deferred=(Deferred(request.symbol, "no price" if not price else "no quantity", 0.0),))
    reference = exact(price)
    touch = quote.bid if is_price(quote.bid) and not is_crossed(quote.bid, quote.ask) else price
    limit = sell_limit(
        exact(exit_limit(request.attempt, touch, request.limits)),
        touch=exact(touch),
        reference=reference,
        collar=exact(request.limits.exit_collar),
        rules=rules,
    )
    if limit is None:
        return Plan(deferred=(Deferred(request.symbol, NO_LIMIT, 0.0),))
    legs = cut_legs(request.qty, limit, reference=reference, equity=request.equity, limits=request.limits, rules=rules)
    if not legs:
        return Plan(dust=(request.symbol,))
    sold = legs[: max(0, request.legs_max)]
    order = _Wish(request.symbol, Side.SELL, request.qty, limit, reference, 0.0, request.cause, Tif.IOC)
    intents = tuple(_intent(request, order, qty, request.first_leg + number) for number, qty in enumerate(sold))
    left = sum(legs[len(sold) :], ZERO)
    deferred = (Deferred(request.symbol, "legs", -weight_of(left * reference, request.equity)),) if left else ()
    return Plan(intents=intents, deferred=deferred)


class _Planner:
    """One run of ``plan``: wishes on the grid, then room, then rate."""

    def __init__(self, request: PlanRequest) -> None:
        self._r = request
        self._deferred: list[Deferred] = []
        self._errors: dict[str, float] = {}
        self._dust: list[str] = []
        self._slice = request.equity * exact(request.limits.max_order_notional) if is_amount(request.equity) else ZERO
        self._bands: dict[float, Decimal] = {}

    def run(self, most: int) -> Generator[None, None, Plan]:
        request = self._r
        symbols = sorted(set(request.targets) | set(request.closing))
        if not is_amount(request.equity) or request.equity == ZERO or not request.cash_free.is_finite():
            return Plan(deferred=tuple(Deferred(symbol, "equity unknown", 0.0) for symbol in symbols))
        wishes: list[_Wish] = []
        for number, symbol in enumerate(symbols, start=1):
            wish = self._wish(symbol)
            if wish is not None:
                wishes.append(wish)
            if number % most == 0:
                yield
        kept = self._ration(wishes)
        if len(kept) > most:
            yield
        intents: list[Intent] = []
        for number, (wish, qty) in enumerate(self._legs(kept)):
            intents.append(_intent(request, wish, qty, request.first_leg + number))
            if number % most == most - 1:
                yield
        return Plan(intents=tuple(intents), deferred=tuple(self._deferred), errors=self._errors, dust=tuple(self._dust))

    def _wish(self, symbol: str) -> _Wish | None:
        """Return the difference of one symbol as an order on the grid, or None with the reason noted."""
        request = self._r
        forced = symbol in request.closing
        target = 0.0 if forced else request.targets[symbol]
        held = request.positions.get(symbol, ZERO)
        quote = request.quotes.get(symbol)
        rules = request.instruments.get(symbol)
        price = reference_price(quote.bid, quote.ask, quote.last) if quote else 0.0
        reason = self._obstacle(symbol, rules, target=target, held=held, priced=bool(price))
        if quote is None or rules is None or reason:
            self._defer(symbol, reason or "no market", 0.0)
            return None
        reference = exact(price)
        weight = ZERO if target < WEIGHT_ZERO else exact(target)
        gap = weight * request.equity - held * reference
        if gap > ZERO:
            return self._buy(symbol, gap, quote=quote, rules=rules, reference=reference)
        if gap < ZERO:
            return self._sell(symbol, weight, -gap, quote=quote, rules=rules, reference=reference)
        self._errors[symbol] = 0.0
        return None

    def _obstacle(self, symbol: str, rules: Instrument | None, *, target: float, held: Decimal, priced: bool) -> str:
        """Return why the symbol cannot be planned at all, "" when it can."""
        request = self._r
        if symbol in request.blocked:
            return request.blocked[symbol]
        if not (math.isfinite(target) and target >= 0.0):
            return f"target {target} is not a weight"
        if not is_amount(held):
            return "position unknown"
        if rules is not None and not rules.trading:
            return "not trading"
        return "" if priced else "no price"

    def _buy(self, symbol: str, gap: Decimal, *, quote: Quote, rules: Instrument, reference: Decimal) -> _Wish | None:
        """Plan a buy worth ``gap`` (> 0, quote currency at the reference price)."""
        request, limits = self._r, self._r.limits
        self._errors[symbol] = error = ratio(gap / request.equity)
        if symbol in request.frozen:
            self._defer(symbol, "frozen", error)
            return None
        if is_crossed(quote.bid, quote.ask):
            self._defer(symbol, "crossed book", error)
            return None
        if gap <= self._band(quote, rules):
            return None
        limit = buy_limit(quote.bid, quote.ask, rules=rules, reference=reference, limits=limits)
        if limit is None:
            self._defer(symbol, NO_LIMIT, error)
            return None
        # Sized at the reference: the weight aimed at is a value, what is paid above it is cost.
        whole = floor_to(gap / reference, rules.step)
        self._errors[symbol] = weight_of(abs(gap - whole * reference), request.equity)
        steps = min(steps_of(whole, rules.step), steps_of(self._slice, limit * rules.step))
        qty = capped(steps * rules.step, rules)
        if qty < whole:
            self._defer(symbol, "slice", weight_of((whole - qty) * reference, request.equity))
        if not takes(qty, limit, rules):
            self._errors[symbol] = error
            return None
        return _Wish(
            symbol, Side.BUY, qty, limit, reference, self._benefit(symbol, error), Cause.REBALANCE, limits.order
        )

    def _sell(
        self, symbol: str, weight: Decimal, gap: Decimal, *, quote: Quote, rules: Instrument, reference: Decimal
    ) -> _Wish | None:
        """Plan a sale worth ``gap`` (> 0) down to ``weight``; to zero it takes all that is free, without a band."""
        request, limits = self._r, self._r.limits
        held = request.positions.get(symbol, ZERO)
        free = request.sellable.get(symbol, ZERO)
        self._errors[symbol] = error = ratio(gap / request.equity)
        if not is_amount(free):
            self._defer(symbol, "free balance unknown", -error)
            return None
        if weight > ZERO and gap <= self._band(quote, rules):
            return None
        closing = symbol in request.closing
        tif = Tif.IOC if closing else limits.order
        side = quote.ask if tif is Tif.GTC else quote.bid
        touch = exact(side) if is_price(side) and not is_crossed(quote.bid, quote.ask) else reference
        near = touch if tif is Tif.GTC else touch * (ONE - exact(limits.max_slippage_bps * BPS))
        collar = exact(limits.exit_collar if closing else limits.price_collar)
        limit = sell_limit(near, touch=touch, reference=reference, collar=collar, rules=rules)
        if limit is None:
            self._defer(symbol, NO_LIMIT, -error)
            return None
        aim = weight * request.equity
        keep = ceil_to(aim / reference, rules.step) if weight > ZERO else ZERO
        if keep * limit < rules.min_notional or keep < rules.min_qty:
            keep = ZERO  # what would stay could never be sold again: all or nothing
        whole = floor_to(min(held - keep, free) if keep < held else ZERO, rules.step)
        if not takes(capped(whole, rules), limit, rules):
            if held > ZERO and weight == ZERO:
                self._dust.append(symbol)
            return None
        self._errors[symbol] = weight_of(abs((held - whole) * reference - aim), request.equity)
        cause = Cause.CLOSE_ONLY if closing else Cause.REBALANCE
        return _Wish(symbol, Side.SELL, whole, limit, reference, self._benefit(symbol, error), cause, tif)

    def _band(self, quote: Quote, rules: Instrument) -> Decimal:
        """Return the smallest difference worth an order, quote currency."""
        request = self._r
        sound = is_price(quote.bid) and is_price(quote.ask) and quote.bid < quote.ask
        half_spread = (quote.ask - quote.bid) / (quote.ask + quote.bid) if sound else 0.0
        band = self._bands.get(half_spread)
        if band is None:
            weight = max(BAND_COSTS * (request.limits.fee_rate + half_spread), request.band_weight)
            band = self._bands[half_spread] = exact(weight) * request.equity
        return max(rules.min_notional, band)

    def _value(self, symbol: str, qty: Decimal) -> Decimal | None:
        """Return what a position is worth at its reference price, None when that is unknown."""
        if qty == ZERO:
            return ZERO
        quote = self._r.quotes.get(symbol)
        price = reference_price(quote.bid, quote.ask, quote.last) if quote else 0.0
        return qty * exact(price) if price and is_amount(qty) else None

    def _benefit(self, symbol: str, size: float) -> float:
        benefit = self._r.benefits.get(symbol, size)
        return benefit if math.isfinite(benefit) else 0.0

    def _defer(self, symbol: str, reason: str, weight: float) -> None:
        self._deferred.append(Deferred(symbol, reason, weight))

    def _ration(self, wishes: list[_Wish]) -> list[_Wish]:
        """Fit the buys into cash, gross and weight room and everything into the rate; best first."""
        request, limits = self._r, self._r.limits
        if not any(wish.side is Side.BUY for wish in wishes):  # then there is no room to share out
            return sorted(wishes, key=lambda wish: (not wish.forced, -wish.benefit, wish.symbol))
        with_fee = ONE + exact(limits.fee_rate)
        values = {symbol: self._value(symbol, qty) for symbol, qty in request.positions.items()}
        room = Room(
            equity=request.equity,
            cash_free=request.cash_free,
            values=values,
            reserved=request.reserved_buys,
            limits=limits,
        )
        cost = sum((wish.qty * wish.limit * with_fee for wish in wishes if wish.side is Side.BUY), ZERO)
        short = cost > room.cash

        def order(wish: _Wish) -> tuple[int, float, str]:
            first = 0 if wish.forced else 1 if wish.side is Side.SELL and short else 2
            return first, -wish.benefit, wish.symbol

        kept: list[_Wish] = []
        for wish in sorted(wishes, key=order):
            if wish.side is Side.BUY and not self._fit(wish, room, with_fee):
                continue
            kept.append(wish)
        return kept

    def _fit(self, wish: _Wish, room: Room, with_fee: Decimal) -> bool:
        """Cut a buy down to the room there is and take that room; False when nothing sensible is left."""
        rules = self._r.instruments[wish.symbol]
        unit = wish.limit * rules.step
        wanted = wish.qty
        steps = min(
            steps_of(wanted, rules.step),
            steps_of(room.weight(wish.symbol), unit),
            steps_of(room.gross, unit),
            steps_of(room.cash, unit * with_fee),
        )
        wish.qty = steps * rules.step
        fits = takes(wish.qty, wish.limit, rules)
        left = wanted - wish.qty if fits else wanted
        if left:
            reason = "cash" if steps_of(room.cash, unit * with_fee) <= steps else "limit"
            self._defer(wish.symbol, reason, weight_of(left * wish.reference, self._r.equity))
        if fits:
            room.gross -= wish.qty * wish.limit
            room.cash -= wish.qty * wish.limit * with_fee
        return fits

    def _legs(self, wishes: list[_Wish]) -> list[tuple[_Wish, Decimal]]:
        """Cut the best wishes into legs, as many as the rate allows; sells leave first."""
        request, limits = self._r, self._r.limits
        cut: list[tuple[_Wish, Decimal]] = []
        for wish in wishes:
            legs = [wish.qty]
            rules = request.instruments[wish.symbol]
            if wish.side is Side.SELL:
                legs = cut_legs(
                    wish.qty, wish.limit, reference=wish.reference, equity=request.equity, limits=limits, rules=rules
                )
            room = max(0, request.max_intents - len(cut))
            now = legs[: LEGS_MAX if wish.forced else min(room, 1)]
            cut.extend((wish, qty) for qty in now)
            left = sum(legs[len(now) :], ZERO)
            if left:
                signed = left if wish.side is Side.BUY else -left
                reason = "slice" if now else "rate"
                self._defer(wish.symbol, reason, weight_of(signed * wish.reference, request.equity))
        cut.sort(key=lambda item: item[0].side is Side.BUY)  # stable: keeps the order within each side
        return cut


def _intent(request: PlanRequest | ExitRequest, wish: _Wish, qty: Decimal, leg: int) -> Intent:
    """Return one leg of a wish as an intent; every sale passes the gate under the exit profile."""
    return Intent(
        client_id=client_id(request.instance, request.account, request.mode, decision=request.decision, leg=leg),
        decision=request.decision,
        leg=leg,
        symbol=wish.symbol,
        side=wish.side,
        qty=qty,
        limit=wish.limit,
        tif=wish.tif,
        cause=wish.cause,
        exit=wish.side is Side.SELL,
        reference=wish.reference,
        ts_ns=request.now_ns,
        expires_ns=request.now_ns + request.limits.order_ttl_ns,
    )
