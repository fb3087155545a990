"""Settings of the simulated exchange: one frozen value, no files and no environment."""

from decimal import Decimal
from typing import Final

import msgspec

__all__ = ["ApiKey", "Limits", "SimConfig", "interval_ms"]

SECOND_MS: Final = 1_000
_RATE_MAX: Final = 200.0  # aggregate trades per second and symbol

_UNITS_MS: Final = {"s": SECOND_MS, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}

INTERVALS: Final = (
    "1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M",
)  # fmt: skip
"""Every candle interval that Binance has."""


def interval_ms(interval: str) -> int:
    """Return the length of a candle interval in ms; a month ("1M") counts 31 days here.

    Raises
    ------
    ValueError
        When Binance has no such interval.
    """
    if interval not in INTERVALS:
        msg = f"interval {interval!r} is unknown, must be one of {', '.join(INTERVALS)}"
        raise ValueError(msg)
    if interval == "1M":
        return 31 * _UNITS_MS["d"]
    return int(interval[:-1]) * _UNITS_MS[interval[-1]]


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key pair of the simulated account and what it may do."""

    key: str = "sim-key"
    secret: str = "sim-secret"  # noqa: S105 (the documented key of a simulation)
    trade: bool = True
    withdraw: bool = False
    ip_restrict: bool = False


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Rate limits, as Binance publishes them."""

    weight_per_minute: int = 6_000
    orders_per_10s: int = 100
    orders_per_day: int = 200_000
    raw_per_5m: int = 300_000
    bans_after: int = 20  # requests refused with 429 in a minute before 418
    ban_seconds: int = 120
    ws_messages_per_s: int = 5
    streams_per_connection: int = 1_024
    connections_per_5m: int = 300
    frames_queued_max: int = 20_000  # per websocket client; beyond it the client is cut


class SimConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that defines a simulated exchange. Same config and same start, same market.

    Attributes
    ----------
    seed
        Seed of every random number.
    symbols, pad_symbols_to
        Number of live markets, and the number of entries exchangeInfo is padded to (status BREAK) for memory tests.
    bar_s
        Length in seconds of the bar whose returns carry the planted component.
    planted_r2, planted_horizon_bars, planted_persistence
        Share of the variance of the next ``planted_horizon_bars`` bars' log return that the best linear forecast from
        past returns explains, and the decay per bar of that forecast; see `daemon.exchange.planted`.
    volatility_bar
        Standard deviation of the unpredictable part of the log return of one bar; 0 picks the larger of 10 basis
        points and the share of ``volatility_year`` in a bar. Multiplied by each symbol's own factor.
    volatility_year
        Annual volatility of the older, coarser history.
    correlation
        Correlation of the symbols' shocks through one common factor, 0..1.
    history_bars, fine_seconds_max
        Bars of history with single trades before the start, and the bound on their seconds.
    trades_per_s
        Mean rate of aggregate trades of each symbol.
    touch_notional
        Mean quote amount shown at the best price.
    spread_bps
        Full spread in basis points of the price; at least one tick.
    book_levels
        Levels per side that exist at all; a few make large orders fill in part.
    start_ns
        Time at which the market goes live; 0 = the clock at start.
    manual
        True: time stands still until `SimulatedExchange.advance_to` is called.
    data_dir, data_timeframe, data_bar_s
        Folder of candles to replay instead of a random market, their timeframe and the seconds one candle lasts.
    """

    seed: int = 1
    symbols: int = 8
    pad_symbols_to: int = 0
    bar_s: int = 1
    planted_r2: float = 0.10
    planted_horizon_bars: int = 24
    planted_persistence: float = 0.95
    volatility_bar: float = 0.0
    volatility_year: float = 0.7
    correlation: float = 0.5
    history_bars: int = 25_000
    fine_seconds_max: int = 30_000
    trades_per_s: float = 5.0
    touch_notional: float = 8_000.0
    spread_bps: float = 0.6
    book_levels: int = 100
    start_ns: int = 0
    manual: bool = False
    data_dir: str = ""
    data_timeframe: str = "1h"
    data_bar_s: int = 1

    host: str = "127.0.0.1"
    keys: tuple[ApiKey, ...] = (ApiKey(),)
    balances: tuple[tuple[str, Decimal], ...] = (("USDT", Decimal(100_000)),)
    fee_rate: Decimal = Decimal("0.001")
    limits: Limits = Limits()
    check_time: bool = True
    ping_seconds: float = 20.0
    pong_seconds: float = 60.0
    session_seconds: float = 86_400.0
    requests_kept: int = 100_000

    def __post_init__(self) -> None:
        """Refuse what no market can be built from.

        Raises
        ------
        ValueError
            Naming the setting, its value and its range.
        """
        least = {
            "symbols": 1, "bar_s": 1, "data_bar_s": 1, "history_bars": 1, "fine_seconds_max": 1, "book_levels": 1,
        }  # fmt: skip
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least {low}")
        for name in ("trades_per_s", "touch_notional"):
            if not 0 < getattr(self, name) < _RATE_MAX * 1e6:
                raise ValueError(f"{name} is {getattr(self, name)}, must be positive and finite")
        if not 0 <= self.correlation <= 1:
            raise ValueError(f"correlation is {self.correlation}, must lie in 0..1")
        if self.trades_per_s > _RATE_MAX:
            raise ValueError(f"trades_per_s is {self.trades_per_s}, must be at most {_RATE_MAX:g}")
