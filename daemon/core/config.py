"""What the engine is told once, at its birth."""

from decimal import Decimal

import msgspec

from daemon.domain.market import NS_PER_MS, NS_PER_S
from daemon.domain.orders import Tif
from risk.limits import Limits


class EngineConfig(msgspec.Struct, frozen=True, tag=True):
    """Everything that shapes decisions, by value: two engines with equal configurations behave alike.

    Durations are nanoseconds, ratios fractions, ``cost_bps`` one way. ``account`` and ``mode`` enter only the hash of
    client order ids, so that two accounts never share one.
    """

    instance: str
    account: str
    mode: str
    universe: tuple[str, ...]
    quote: str
    bar_ns: int
    grace_ns: int
    max_age_ns: int
    backfill_bars: int
    lookback: int
    rebalance_every: int
    turnover_max: float
    turnover_max_day: float
    cost_bps: float
    tif: Tif
    limits: Limits
    fee_rate: Decimal
    min_weight_step: float = 0.0
    max_model_age_ns: int = 0
    decision_deadline_ns: int = 10 * NS_PER_S
    repair_timeout_ns: int = 10 * NS_PER_S
    repair_trades_max: int = 20_000
    sync_delay_ns: int = 250 * NS_PER_MS
    retry_ns: int = 500 * NS_PER_MS
    held_ticks_max: int = 100_000
    leaving: tuple[str, ...] = ()
    """Symbols that are held and have left the universe: watched and guarded, never bought, sold at the next decision."""
    lag_max_ns: int = 2 * NS_PER_S
    """A longer pause between two timers means that the loop, or the machine, was away; 0: timers are not regular."""

    @property
    def watched(self) -> tuple[str, ...]:
        """Return the universe, then what has left it."""
        return (*self.universe, *self.leaving)
