"""Rolling buffers of closed bars for all symbols, aligned by close time; windows are views, never copies."""

from collections.abc import Sequence
from struct import Struct

import numpy as np
from numpy.typing import NDArray

from daemon.domain.market import Bar

FIELDS = 5
"""open, high, low, close, volume (base units)."""
ROW_FIELDS = 6
"""close_ns and the five fields: one row as it travels to a worker."""

ROW = Struct(f"={FIELDS}d")
"""One bar of one symbol as it lies in memory: written at once, it costs a fifth of five numbers written one by one."""

Floats = NDArray[np.float64]


class Buffers:
    """The last ``capacity`` bars of ``n_assets`` symbols, one column per bar close.

    Each column is written twice, ``capacity`` apart (a mirror), so that any window of up to ``capacity`` bars is one
    contiguous stretch of memory per asset. Where a symbol has no bar (listed later) the cells are NaN.

    Parameters
    ----------
    n_assets
        Number of symbols; their order is the caller's.
    capacity
        Bars kept.
    bar_ns
        Length of a bar, ns; columns follow each other at exactly this distance.
    """

    __slots__ = ("_closes", "_data", "_head", "bar_ns", "capacity", "close_ns", "count", "n_assets")

    def __init__(self, n_assets: int, capacity: int, bar_ns: int) -> None:
        if n_assets < 1 or capacity < 1 or bar_ns < 1:
            raise ValueError(f"buffers of {n_assets} assets, {capacity} bars of {bar_ns} ns: all must be positive")
        self.n_assets = n_assets
        self.capacity = capacity
        self.bar_ns = bar_ns
        self.count = 0
        self.close_ns = 0
        self._head = 0
        self._data: Floats = np.full((n_assets, 2 * capacity, FIELDS), np.nan)
        self._closes: NDArray[np.int64] = np.zeros(2 * capacity, dtype=np.int64)

    # ------------------------------------------------------------------ writing

    def append_column(self, close_ns: int, values: Floats) -> None:
        """Append the bars of all symbols that closed at ``close_ns``.

        ``values`` has shape (n_assets, 5). Raises ValueError when the close does not follow the newest one.
        """
        self._open_column(close_ns)
        at = self._head - 1
        self._data[:, at] = values
        self._data[:, at + self.capacity] = values

    def append_bars(self, close_ns: int, bars: Sequence[Bar]) -> None:
        """Append the bars of all symbols, in their order, that closed at ``close_ns``.

        Raises ValueError when the close does not follow the newest one or a symbol has no bar.
        """
        if len(bars) != self.n_assets:
            raise ValueError(f"{len(bars)} bars for {self.n_assets} assets")
        self._open_column(close_ns)
        at, memory, write = self._head - 1, self._data.data, ROW.pack_into
        place, mirror = at * ROW.size, self.capacity * ROW.size
        for bar in bars:
            write(memory, place, bar.open, bar.high, bar.low, bar.close, bar.volume)
            place += mirror
            write(memory, place, bar.open, bar.high, bar.low, bar.close, bar.volume)
            place += mirror

    def append(self, index: int, bar: Bar) -> None:
        """Write one symbol's bar: into its column when it has one, else into a new one (others NaN until theirs come).

        Raises ValueError when the bar lies outside the buffer or leaves a hole before it.
        """
        if self.count and bar.close_ns <= self.close_ns:
            at = self._column_of(bar.close_ns)
        else:
            self._open_column(bar.close_ns)
            at = self._head - 1
            self._data[:, at] = np.nan
            self._data[:, at + self.capacity] = np.nan
        for column in (at, at + self.capacity):
            place = (2 * self.capacity * index + column) * ROW.size
            ROW.pack_into(self._data.data, place, bar.open, bar.high, bar.low, bar.close, bar.volume)

    def _open_column(self, close_ns: int) -> None:
        """Advance to the column of ``close_ns``."""
        if self.count and close_ns != self.close_ns + self.bar_ns:
            raise ValueError(f"bar closing at {close_ns} does not follow {self.close_ns} by {self.bar_ns} ns")
        at = self._head % self.capacity
        self._closes[at] = self._closes[at + self.capacity] = close_ns
        self._head = at + 1
        self.count = min(self.count + 1, self.capacity)
        self.close_ns = close_ns

    def _column_of(self, close_ns: int) -> int:
        """Return the place (< capacity) of a kept column."""
        back, off = divmod(self.close_ns - close_ns, self.bar_ns)
        if off or back >= self.count:
            raise ValueError(f"bar closing at {close_ns} is not in the buffer that ends at {self.close_ns}")
        return (self._head - 1 - back) % self.capacity

    # ------------------------------------------------------------------ reading

    def window(self, n: int) -> Floats:
        """Return the last ``n`` bars of every symbol as a view of shape (n_assets, n, 5), oldest first.

        ``n`` is cut to what is there. Read-only; valid until the next append.
        """
        n = min(n, self.count)
        end = self._head + self.capacity
        view = self._data[:, end - n : end]
        view.flags.writeable = False
        return view

    def closes(self, n: int) -> NDArray[np.int64]:
        """Return the close times (ns) of the last ``n`` columns as a view, oldest first."""
        n = min(n, self.count)
        end = self._head + self.capacity
        view = self._closes[end - n : end]
        view.flags.writeable = False
        return view

    def rows(self, index: int) -> bytes:
        """Return one symbol's bars as the bytes of a float64 array (n, 6): close_ns, o, h, l, c, v; NaN bars left out."""
        window = self.window(self.count)[index]
        out = np.empty((self.count, ROW_FIELDS))
        out[:, 0] = self.closes(self.count)
        out[:, 1:] = window
        kept: Floats = out[~np.isnan(window[:, 3])]
        return kept.tobytes()

    @classmethod
    def from_rows(cls, rows: Sequence[bytes], *, capacity: int, bar_ns: int) -> "Buffers":
        """Return buffers filled from ``rows`` (as ``rows`` gives them, one per symbol), aligned by close time.

        Bars older than the newest ``capacity`` closes are left out; holes are NaN.
        """
        tables = [np.frombuffer(one, dtype=np.float64).reshape(-1, ROW_FIELDS) for one in rows]
        out = cls(len(tables), capacity, bar_ns)
        filled = [table for table in tables if len(table)]
        if not filled:
            return out
        last = int(max(table[-1, 0] for table in filled))
        first = int(min(table[0, 0] for table in filled))
        count = min(capacity, (last - first) // bar_ns + 1)
        start = last - (count - 1) * bar_ns
        for index, table in enumerate(tables):
            kept = table[table[:, 0] >= start]
            places = ((kept[:, 0].astype(np.int64) - start) // bar_ns).astype(np.int64)
            out._data[index, places] = kept[:, 1:]
            out._data[index, places + capacity] = kept[:, 1:]
        closes = start + bar_ns * np.arange(count, dtype=np.int64)
        out._closes[:count] = closes
        out._closes[capacity : capacity + count] = closes
        out._head = count
        out.count = count
        out.close_ns = last
        return out
