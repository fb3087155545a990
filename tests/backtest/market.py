"""Small histories of our own making, and a strategy that does what the test says."""

import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal

import msgspec
import numpy as np
from numpy.typing import NDArray

from daemon.backtest.history import Panel, make_panel
from daemon.backtest.session import Session
from daemon.backtest.venue import Rates, VenueConfig
from daemon.core.config import EngineConfig
from daemon.domain.events import Decide, Decided, Seed
from daemon.domain.market import NS_PER_S, Instrument
from daemon.domain.orders import Side
from daemon.domain.signal import NoDecision, NoReason, Targets
from daemon.matching.bars import Costs
from risk.limits import Limits
from tests.core.driver import make_config

HOUR_NS = 3_600 * NS_PER_S
BEGIN_NS = 1_704_067_200 * NS_PER_S  # 2024-01-01
WARM = 10
"""Bars before the first one traded."""
BTC, ETH = "BTC/USDT", "ETH/USDT"
NO_COSTS = Costs(0.0, 0.0, 1.0)
Wish = Callable[[Decide], Sequence[float] | None]


class Ready(msgspec.Struct, frozen=True):
    """A worker that serves no model."""

    model: str = ""
    trained_ns: int = 0


class Scripted:
    """Answers each question with the weights that ``wish`` returns; None is no decision."""

    def __init__(self, wish: Wish) -> None:
        """Remember every question."""
        self.ready = Ready()
        self.asked: list[Decide] = []
        self.seeds = 0
        self._wish = wish

    def seed(self, seed: Seed) -> None:
        """Count."""
        self.seeds += 1

    def decide(self, decide: Decide) -> Decided:
        """Answer."""
        self.asked.append(decide)
        weights = self._wish(decide)
        result: Targets | NoDecision = NoDecision(NoReason.NOT_READY, "as the test says")
        if weights is not None:
            result = Targets(decide.symbols, tuple(weights))
        return Decided(decide.seq, result, 0, 0, 0, decide.ts_ns)


def panel(bars: Mapping[str, Sequence[Sequence[float] | None]], *, bar_ns: int = HOUR_NS) -> Panel:
    """Return bars (open, high, low, close, volume; None: no row) behind ``WARM`` flat ones at the first open."""
    count = max(len(rows) for rows in bars.values())
    values = np.full((WARM + count, len(bars), 5), np.nan)
    for at, rows in enumerate(bars.values()):
        known = next((row for row in rows if row is not None), None)
        if known is not None and rows[0] is not None:
            price = known[0]
            values[:WARM, at] = (price, price, price, price, 1_000.0)
        for place, row in enumerate(rows, start=WARM):
            if row is not None:
                values[place, at] = row
    opens = BEGIN_NS + bar_ns * np.arange(WARM + count, dtype=np.int64)
    return make_panel(tuple(bars), bar_ns, opens, values)


def flat(price: float, count: int, *, volume: float = 1_000.0) -> list[list[float]]:
    """Return bars in which nothing happens."""
    return [[price, price, price, price, volume] for _ in range(count)]


def rules(symbol: str, *, tick: str = "0.01", step: str = "0.00001") -> Instrument:
    """Return trading rules."""
    base, _, quote = symbol.partition("/")
    return Instrument(
        symbol, base + quote, base, quote, Decimal(tick), Decimal(step), Decimal(step), Decimal(9_000_000), Decimal(5)
    )


def engine(symbols: tuple[str, ...], **changes: object) -> EngineConfig:
    """Return a configuration with hourly bars, wide limits and no stops."""
    limits = changes.pop("limits", None) or Limits(
        max_weight=1.0, max_order_notional=1.0, stop_loss=0.0, trailing_stop=0.0, max_drawdown=0.99, max_daily_loss=0.99
    )
    values: dict[str, object] = {
        "universe": symbols,
        "bar_ns": HOUR_NS,
        "lookback": 3,
        "turnover_max": 10.0,
        "turnover_max_day": 100.0,
        "lag_max_ns": 0,
        "grace_ns": 500_000_000,
        "limits": limits,
    }
    return make_config(**{**values, **changes})


def limits_with(**changes: object) -> Limits:
    """Return the wide limits of `engine` with some of them changed."""
    return msgspec.structs.replace(engine((BTC,)).limits, **changes)


def session(
    history: Panel,
    wish: Wish,
    *,
    config: EngineConfig | None = None,
    costs: Costs = NO_COSTS,
    rates: tuple[Rates, ...] = (Rates(Decimal(0), Decimal("0.001"), Decimal("0.001")),),
    latency_ns: int = 100_000_000,
    rearm_ns: int = 24 * HOUR_NS,
    delisted: Mapping[str, int] | None = None,
) -> tuple[Session, Scripted]:
    """Return a session over a history, not run yet, and the strategy it asks."""
    worker = Scripted(wish)
    made = Session(
        config or engine(history.symbols),
        worker,
        history,
        first=WARM,
        instruments={symbol: rules(symbol) for symbol in history.symbols},
        venue=VenueConfig(quote="USDT", rates=rates, costs=costs, latency_ns=latency_ns, bar_ns=history.bar_ns),
        cash=Decimal(100_000),
        rearm_ns=rearm_ns,
        delisted=delisted,
    )
    return made, worker


def closes(history: Panel) -> NDArray[np.float64]:
    """Return (n_bars, n_assets) closes."""
    column: NDArray[np.float64] = history.values[:, :, 3]
    return column


def replayed(made: Session, history: Panel) -> list[float]:
    """Return equity row by row, computed from the fills and the closes alone."""
    cash, held = Decimal(100_000), dict.fromkeys(history.symbols, Decimal(0))
    fills = list(made.venue.fills)
    rows: list[float] = []
    last = [math.nan] * len(history.symbols)
    table = closes(history)
    for row, time_ns in enumerate(made.record.times_ns):
        while fills and fills[0].ts_event_ns <= time_ns:
            one = fills.pop(0)
            sign = 1 if one.side is Side.BUY else -1
            base = one.symbol.partition("/")[0]
            cash -= sign * one.qty * one.price + (one.fee if one.fee_asset != base else 0)
            held[one.symbol] += sign * one.qty - (one.fee if one.fee_asset == base else 0)
        place = WARM - 1 + row
        last = [value if not math.isnan(value) else before for value, before in zip(table[place], last, strict=True)]
        rows.append(
            float(cash) + sum(float(held[s]) * p for s, p in zip(history.symbols, last, strict=True) if held[s])
        )
    assert not fills
    return rows
