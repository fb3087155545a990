"""Bars once more, from other sources: the recorded trades, and candle files."""

from collections.abc import Iterable
from typing import Final

import msgspec
import numpy as np

from daemon.backtest.history import Panel
from daemon.domain.market import LOTS_PER_UNIT, Bar, BarFlag, Tick

OPEN_BARS: Final = 64
"""Newest bars of a symbol of which trade ids are remembered, so that a trade read twice counts once."""
EXAMPLES: Final = 1_000
"""Bars that differ of which every field is kept; all are counted."""
FIELDS: Final = ("open", "high", "low", "close", "volume")


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One bar that is not what the other source says; ``source`` is trades or candles."""

    symbol: str
    close_ns: int
    source: str
    field: str
    recorded: float
    other: float


class BarCounts(msgspec.Struct, kw_only=True):
    """How many bars were compared with one source, and the first that differ; ``missing``: the source has none."""

    source: str
    equal: int = 0
    different: int = 0
    missing: int = 0
    unchecked: int = 0
    """Bars that the source says nothing about: backfilled ones from trades, those outside the time of a file."""
    examples: list[Difference] = []

    def take(self, bar: Bar, other: tuple[float, ...] | None) -> None:
        """Compare one bar with (open, high, low, close, volume) of the other source."""
        if other is None:
            self.missing += 1
            return
        mine = (bar.open, bar.high, bar.low, bar.close, bar.volume)
        wrong = next((at for at in range(len(FIELDS)) if mine[at] != other[at]), -1)
        if wrong < 0:
            self.equal += 1
            return
        self.different += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(
                Difference(
                    symbol=bar.symbol,
                    close_ns=bar.close_ns,
                    source=self.source,
                    field=FIELDS[wrong],
                    recorded=mine[wrong],
                    other=other[wrong],
                )
            )


class _Open:
    """What the trades of one bar add up to, in the order of their ids."""

    __slots__ = ("first", "first_price", "high", "last", "last_price", "lots", "low")

    def __init__(self, tick: Tick) -> None:
        self.first = self.last = tick.id
        self.first_price = self.last_price = self.high = self.low = tick.price
        self.lots = tick.lots

    def add(self, tick: Tick) -> None:
        """Take another trade, in whatever order they come."""
        price = tick.price
        if tick.id < self.first:
            self.first, self.first_price = tick.id, price
        if tick.id > self.last:
            self.last, self.last_price = tick.id, price
        self.high, self.low = max(self.high, price), min(self.low, price)
        self.lots += tick.lots

    @property
    def values(self) -> tuple[float, ...]:
        """Return open, high, low, close, volume."""
        return self.first_price, self.high, self.low, self.last_price, self.lots / LOTS_PER_UNIT


class TradeBars:
    """Bars from trades alone: no clock, no grace, each trade once, wherever and whenever it was read.

    It shares nothing with ``daemon.core.bars``: what that one dropped because it came late is counted here.
    ``since_ns`` (exchange time) is where the trades begin; a bar that opened before it lacks some.
    """

    def __init__(self, bar_ns: int) -> None:
        self.since_ns = 0
        self._bar_ns = bar_ns
        self._bars: dict[tuple[str, int], _Open] = {}
        self._seen: dict[str, dict[int, set[int]]] = {}

    def add(self, tick: Tick) -> None:
        """Take a trade."""
        open_ns = tick.ts_event_ns - tick.ts_event_ns % self._bar_ns
        recent = self._seen.setdefault(tick.symbol, {})
        ids = recent.get(open_ns)
        if ids is None:
            ids = recent[open_ns] = set()
            if len(recent) > OPEN_BARS:
                del recent[min(recent)]
        if tick.id in ids:
            return
        ids.add(tick.id)
        one = self._bars.get((tick.symbol, open_ns))
        if one is None:
            self._bars[tick.symbol, open_ns] = _Open(tick)
        else:
            one.add(tick)

    def check(self, bars: Iterable[Bar]) -> BarCounts:
        """Compare recorded bars with what the trades say; a bar without trades repeats the close before it."""
        counts = BarCounts(source="trades")
        for bar in bars:
            known = self._bars.get((bar.symbol, bar.open_ns))
            whole = bar.open_ns >= self.since_ns and bar.flag in {BarFlag.LIVE, BarFlag.REPAIRED, BarFlag.EMPTY}
            if not whole or (bar.flag is BarFlag.REPAIRED and bar.first_id < 0):
                counts.unchecked += 1
            elif known is not None:
                counts.take(bar, known.values)
            else:
                counts.take(bar, (bar.close,) * 4 + (0.0,) if bar.flag is BarFlag.EMPTY else None)
        return counts


def check_candles(bars: Iterable[Bar], panel: Panel) -> BarCounts:
    """Compare recorded bars with candle files, within the time that a pair's file covers; one without trades may lack there."""
    counts = BarCounts(source="candles")
    spans: dict[str, tuple[int, int, int]] = {}
    for column, symbol in enumerate(panel.symbols):
        there = np.flatnonzero(~np.isnan(panel.values[:, column, 3]))
        if len(there):
            spans[symbol] = (column, int(panel.open_ns[there[0]]), int(panel.open_ns[there[-1]]))
    for bar in bars:
        column, first_ns, last_ns = spans.get(bar.symbol, (0, 1, 0))
        if not first_ns <= bar.open_ns <= last_ns:
            counts.unchecked += 1
            continue
        row = panel.values[panel.place(bar.open_ns), column]
        if not np.isnan(row[3]):
            counts.take(bar, tuple(row.tolist()))
        elif bar.flag is BarFlag.EMPTY:
            counts.equal += 1
        else:
            counts.take(bar, None)
    return counts
