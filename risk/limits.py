"""The limits everything is judged by, and the ceilings no configuration can lift."""

import math

import msgspec

from daemon.domain.market import NS_PER_MS, NS_PER_S
from daemon.domain.orders import Tif
from risk.repeats import REPEATS

NS_PER_HOUR = 3600 * NS_PER_S
BPS = 1e-4
"""One basis point as a fraction."""


class Limits(msgspec.Struct, frozen=True):
    """Limits of gate, planner, stops and loss control: ``[risk]`` and ``[execution]`` of the configuration.

    Ratios are fractions (of equity where not said otherwise), ``…_ns`` nanoseconds, ``…_ms`` milliseconds, ``…_bps`` basis
    points. A stop of 0 is off. ``max_orders_per_minute`` 0 means 80 % of what the venue publishes
    (``venue_orders_per_10s``); ``max_repeats`` 0 is off. ``fee_rate`` is the fraction of notional a taker pays.
    """

    max_weight: float = 0.30
    max_gross: float = 1.0
    min_cash: float = 0.02
    max_order_notional: float = 0.10
    max_orders_per_minute: int = 0
    max_repeats: int = REPEATS
    venue_orders_per_10s: int = 50
    price_collar: float = 0.01
    exit_collar: float = 0.05
    stop_loss: float = 0.08
    trailing_stop: float = 0.12
    volatility_stop: float = 0.0
    stop_cooldown_ns: int = 24 * NS_PER_HOUR
    max_drawdown: float = 0.20
    max_daily_loss: float = 0.05
    cvar_limit: float = 0.10
    max_age_ms: int = 3000
    exit_price_age_ns: int = 10 * NS_PER_S
    order: Tif = Tif.IOC
    max_slippage_bps: float = 20.0
    order_ttl_ns: int = 2 * NS_PER_S
    max_clock_offset_ns: int = 500 * NS_PER_MS
    fee_rate: float = 0.001

    def validate(self) -> list[str]:
        """Return one line per limit that is impossible or above its ceiling in code; empty when all are sound."""
        problems: list[str] = []
        for name, (low, high) in CEILINGS.items():
            value: float = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                problems.append(f"{name} = {value:g}: must lie between {low:g} and {high:g}")
        if problems:
            return problems
        if self.exit_collar < self.price_collar:
            problems.append(
                f"exit_collar = {self.exit_collar:g}: tighter than price_collar = {self.price_collar:g}; "
                "exits need the wider one"
            )
        if self.max_slippage_bps * BPS >= self.price_collar:
            problems.append(
                f"max_slippage_bps = {self.max_slippage_bps:g}: reaches past price_collar = {self.price_collar:g}, "
                "so the gate would refuse every order; lower it or widen the collar"
            )
        return problems

    @property
    def orders_per_minute(self) -> int:
        """Return the most orders in any 60 s: the configured number, else 80 % of the venue's."""
        return self.max_orders_per_minute or 6 * self.orders_per_10s

    @property
    def orders_per_10s(self) -> int:
        """Return the most orders in any 10 s: 80 % of the venue's published limit, at least 1."""
        return max(1, self.venue_orders_per_10s * 4 // 5)


TINY = 1e-9
"""Stands for "above zero" in the table below."""

CEILINGS: dict[str, tuple[float, float]] = {
    "max_weight": (TINY, 1.0),
    "max_gross": (TINY, 1.0),  # spot, long only: no leverage whatever is configured
    "min_cash": (0.0, 0.999),
    "max_order_notional": (TINY, 1.0),
    "max_orders_per_minute": (0, 6000),
    "max_repeats": (0, 1000),
    "venue_orders_per_10s": (1, 1000),
    "price_collar": (TINY, 0.2),
    "exit_collar": (TINY, 0.5),
    "stop_loss": (0.0, 0.999),
    "trailing_stop": (0.0, 0.999),
    "volatility_stop": (0.0, 100.0),
    "stop_cooldown_ns": (0, 366 * 24 * NS_PER_HOUR),
    "max_drawdown": (TINY, 1.0),
    "max_daily_loss": (TINY, 1.0),
    "cvar_limit": (TINY, 1.0),
    "max_age_ms": (1, 600_000),
    "exit_price_age_ns": (1, 60 * NS_PER_S),
    "max_slippage_bps": (0.0, 500.0),
    "order_ttl_ns": (1, 60 * NS_PER_S),
    "max_clock_offset_ns": (1, 5 * NS_PER_S),
    "fee_rate": (0.0, 0.1),
}
"""Smallest and largest value of each limit that this code accepts: a slip of the pen (x 1000) never becomes a limit."""
