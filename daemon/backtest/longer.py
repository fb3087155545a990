"""Bars cut from a panel: those before a run begins, and candles of a longer interval, daily for CVaR, hourly for ATR."""

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from daemon.backtest.history import Panel
from daemon.domain.market import Bar, BarFlag


class Longer:
    """Closed candles of a longer interval, built once; ``until`` returns the newest ``most`` before a time.

    ``news`` returns them for an event; when ``piecemeal``, without those that it returned before.
    """

    def __init__(self, panel: Panel, interval_ns: int, most: int, *, piecemeal: bool = False) -> None:
        self.interval_ns = interval_ns
        self._most = most
        self._piecemeal = piecemeal
        self._bars: list[tuple[Bar, ...]] = []
        self._closes: list[list[int]] = []
        groups = panel.open_ns // interval_ns
        for number, symbol in enumerate(panel.symbols):
            values = panel.values[:, number]
            there = np.flatnonzero(~np.isnan(values[:, 3]))
            bars: list[Bar] = []
            if len(there):
                cuts = np.flatnonzero(np.diff(groups[there])) + 1
                starts = np.concatenate(([0], cuts))
                ends = np.concatenate((cuts, [len(there)]))
                for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
                    rows = values[there[start:end]]
                    open_ns = int(groups[there[start]]) * interval_ns
                    bars.append(_merge(symbol, open_ns, open_ns + interval_ns, rows))
            self._bars.append(tuple(bars))
            self._closes.append([bar.close_ns for bar in bars])
        self._told = [0] * len(self._bars)

    def until(self, number: int, time_ns: int) -> tuple[Bar, ...]:
        """Return a symbol's newest candles that had closed at a time, oldest first."""
        end = bisect_right(self._closes[number], time_ns)
        return self._bars[number][max(0, end - self._most) : end]

    def news(self, number: int, time_ns: int) -> tuple[tuple[Bar, ...], int]:
        """Return what is to be told of the newest candles, and how many of those told before still count."""
        if not self._piecemeal:
            return self.until(number, time_ns), 0
        end = bisect_right(self._closes[number], time_ns)
        start = max(0, end - self._most)
        told, self._told[number] = self._told[number], end
        return self._bars[number][max(start, told) : end], max(0, told - start)


def _merge(symbol: str, open_ns: int, close_ns: int, rows: NDArray[np.float64]) -> Bar:
    return Bar(
        symbol,
        open_ns,
        close_ns,
        float(rows[0, 0]),
        float(rows[:, 1].max()),
        float(rows[:, 2].min()),
        float(rows[-1, 3]),
        float(rows[:, 4].sum()),
        len(rows),
        -1,
        -1,
        BarFlag.BACKFILLED,
    )


def past_bars(panel: Panel, number: int, begin: int, end: int) -> tuple[Bar, ...]:
    """Return a symbol's bars from place ``begin`` up to ``end``, holes filled as the daemon fills them."""
    symbol = panel.symbols[number]
    bars: list[Bar] = []
    for place, row in enumerate(panel.values[begin : max(begin, end), number].tolist(), start=begin):
        at = int(panel.open_ns[place])
        o, h, low, c, v = row
        if c == c:  # noqa: PLR0124 - NaN is the only number that differs from itself
            bars.append(Bar(symbol, at, at + panel.bar_ns, o, h, low, c, v, 1, -1, -1, BarFlag.BACKFILLED))
        elif bars:
            c = bars[-1].close
            bars.append(Bar(symbol, at, at + panel.bar_ns, c, c, c, c, 0.0, 0, -1, -1, BarFlag.EMPTY))
    return tuple(bars)
