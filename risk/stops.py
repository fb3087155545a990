"""Stops on every trade, and the ladder by which an exit gets out.

Three levels guard a held symbol, the highest one counts: a fixed distance below the average entry, a fixed distance
below the high since entry, and a multiple of the average true range below that high (Le Beau's chandelier exit; this
level only rises). A price at or below the level is a hit. A hit latches: whatever the price does next, the symbol is to
be sold until the position is gone, and its target stays 0 until the cool-down ends, counted from the hit.
"""

from decimal import Decimal

import msgspec

from daemon.domain.orders import Cause
from risk.limits import BPS, Limits
from risk.money import is_price

NEVER = float("inf")
"""A level above every price: the next trade goes through the slow path."""
EXIT_WIDER = 4.0
"""The second rung of the exit ladder lies this many times ``max_slippage_bps`` from the touch."""


class StopHit(msgspec.Struct, frozen=True):
    """A stop was hit: ``price`` <= ``level`` (quote currency) at ``ts_ns``; ``cause`` names the kind."""

    symbol: str
    cause: Cause
    price: float
    level: float
    ts_ns: int


class Guarded(msgspec.Struct, frozen=True):
    """What must be remembered of one guarded position; 0 = unknown."""

    symbol: str
    entry: float
    high: float
    atr: float
    volatility_level: float


class StopsState(msgspec.Struct, frozen=True):
    """Everything ``Stops`` remembers, as plain values; ``cooling`` holds (symbol, until ns UTC)."""

    guarded: tuple[Guarded, ...] = ()
    hits: tuple[StopHit, ...] = ()
    cooling: tuple[tuple[str, int], ...] = ()


class _Guard:
    """Levels of one held symbol; ``floor`` < price <= ``high`` means nothing to do."""

    __slots__ = ("atr", "cause", "entry", "floor", "high", "volatility_level")

    def __init__(self, entry: float) -> None:
        self.entry = entry
        self.high = entry
        self.atr = 0.0
        self.volatility_level = 0.0
        self.floor = NEVER
        self.cause = Cause.STOP_LOSS


class Stops:
    """Watch held symbols; pure, driven by prices.

    Parameters
    ----------
    limits : Limits
        ``stop_loss``, ``trailing_stop`` (fractions), ``volatility_stop`` (multiples of ATR), ``stop_cooldown_ns``; 0 is off.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._guards: dict[str, _Guard] = {}
        self._hits: dict[str, StopHit] = {}
        self._cooling: dict[str, int] = {}
        self._atr: dict[str, float] = {}

    def on_price(self, symbol: str, price: float, ts_ns: int) -> StopHit | None:
        """Judge one trade; return the hit once, None otherwise.

        The hot path: one dictionary lookup for a symbol that is not held (or already hit), and two comparisons for one
        that is. A price that is not one (NaN, infinite, not above zero) is ignored here: it never reached a bar either.
        """
        guard = self._guards.get(symbol)
        if guard is None or guard.floor < price <= guard.high:
            return None
        return self._look(guard, symbol, price, ts_ns)

    def set_position(self, symbol: str, qty: Decimal, entry: float) -> None:
        """Tell how much is held and at which average price; to be called after every fill and at start.

        ``qty`` not above zero ends the guard and lifts the latch (the cool-down goes on). An unknown ``entry`` (not a
        price) is replaced by the next trade's price, so that no position is ever without a stop.
        """
        if not qty > 0:
            self._guards.pop(symbol, None)
            self._hits.pop(symbol, None)
            return
        if symbol in self._hits:
            return
        entry = entry if is_price(entry) else 0.0
        guard = self._guards.get(symbol)
        if guard is None:
            guard = self._guards[symbol] = _Guard(entry)
            guard.atr = self._atr.get(symbol, 0.0)
        elif entry:
            guard.entry = entry
            guard.high = max(guard.high, entry)
        self._set_floor(guard)

    def set_atr(self, symbol: str, atr: float) -> None:
        """Tell the average true range (quote currency, 14 one-hour bars); what is not above zero is ignored."""
        if not is_price(atr):
            return
        self._atr[symbol] = atr
        guard = self._guards.get(symbol)
        if guard is not None:
            guard.atr = atr
            self._set_floor(guard)

    def hit(self, symbol: str) -> StopHit | None:
        """Return the latched hit of a symbol that is still held."""
        return self._hits.get(symbol)

    def hits(self) -> tuple[StopHit, ...]:
        """Return all latched hits, oldest first: what is still to be sold."""
        return tuple(self._hits.values())

    def level(self, symbol: str) -> float:
        """Return the price at or below which the symbol would be sold; 0.0 when nothing guards it (yet)."""
        guard = self._guards.get(symbol)
        return guard.floor if guard is not None and guard.entry else 0.0

    @property
    def resting(self) -> bool:
        """Return whether any symbol may be cooling: none is while nothing was hit."""
        return bool(self._hits or self._cooling)

    def unmoved(self, symbol: str, low: float, high: float) -> bool:
        """Tell whether prices from ``low`` to ``high`` leave everything as it is: none is a hit, none a new high."""
        guard = self._guards.get(symbol)
        return guard is None or guard.floor < low <= high <= guard.high

    def cooling(self, symbol: str, now_ns: int) -> bool:
        """Tell whether the symbol's target must be 0: hit and not yet sold, or sold and not yet cooled down."""
        return symbol in self._hits or now_ns < self._cooling.get(symbol, 0)

    def snapshot(self) -> StopsState:
        """Return everything remembered, as plain values."""
        guarded = tuple([Guarded(s, g.entry, g.high, g.atr, g.volatility_level) for s, g in self._guards.items()])
        return StopsState(guarded=guarded, hits=tuple(self._hits.values()), cooling=tuple(self._cooling.items()))

    def restore(self, state: StopsState) -> None:
        """Take over what ``snapshot`` returned; positions are confirmed afterwards by ``set_position``."""
        self._guards.clear()
        for kept in state.guarded:
            guard = self._guards[kept.symbol] = _Guard(kept.entry)
            guard.high, guard.atr, guard.volatility_level = kept.high, kept.atr, kept.volatility_level
            self._atr[kept.symbol] = kept.atr
            self._set_floor(guard)
        self._hits = {hit.symbol: hit for hit in state.hits}
        self._cooling = dict(state.cooling)

    def _look(self, guard: _Guard, symbol: str, price: float, ts_ns: int) -> StopHit | None:
        if not is_price(price):
            return None
        if not guard.entry:
            guard.entry = guard.high = price
        elif price > guard.high:
            guard.high = price
        self._set_floor(guard)
        if price > guard.floor:
            return None
        hit = StopHit(symbol=symbol, cause=guard.cause, price=price, level=guard.floor, ts_ns=ts_ns)
        del self._guards[symbol]
        self._hits[symbol] = hit
        self._cooling[symbol] = ts_ns + self._limits.stop_cooldown_ns
        return hit

    def _set_floor(self, guard: _Guard) -> None:
        """Set the highest level and its cause; a guard without an entry keeps the slow path."""
        if not guard.entry:
            return
        limits = self._limits
        guard.floor, guard.cause = 0.0, Cause.STOP_LOSS
        if limits.stop_loss:
            guard.floor = guard.entry * (1.0 - limits.stop_loss)
        trailing = guard.high * (1.0 - limits.trailing_stop) if limits.trailing_stop else 0.0
        if trailing > guard.floor:
            guard.floor, guard.cause = trailing, Cause.TRAILING_STOP
        if limits.volatility_stop:
            if guard.atr:
                level = guard.high - limits.volatility_stop * guard.atr
                guard.volatility_level = max(guard.volatility_level, level)
            if guard.volatility_level > guard.floor:
                guard.floor, guard.cause = guard.volatility_level, Cause.VOLATILITY_STOP


def exit_limit(attempt: int, price: float, limits: Limits) -> float:
    """Return the limit price of the given rung of the exit ladder, quote currency, not yet rounded to a tick.

    Rung 0 is the touch less ``max_slippage_bps``, rung 1 four times as far, every later one the exit collar; none
    reaches below the collar.

    Parameters
    ----------
    attempt : int
        How many attempts to get out came before, >= 0.
    price : float
        The touch a sell would meet: best bid, or the last trade without a book.
    """
    near = limits.max_slippage_bps * BPS
    below = near if attempt <= 0 else EXIT_WIDER * near if attempt == 1 else limits.exit_collar
    return price * (1.0 - min(below, limits.exit_collar))
