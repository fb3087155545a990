"""The barrier: bars of all symbols with one close time become one column, in time order, then a decision may run."""

from daemon.core.buffers import Buffers
from daemon.domain.market import Bar

NAN = float("nan")


class Columns:
    """Collects closed bars until every symbol has its own, then appends the column to the buffers.

    A column may be forced when a symbol is stuck: its cells stay NaN until its bar comes after all.
    """

    def __init__(self, symbols: tuple[str, ...], capacity: int, bar_ns: int) -> None:
        """Start empty."""
        self.symbols = symbols
        self.index = {symbol: place for place, symbol in enumerate(symbols)}
        self.buffers = Buffers(len(symbols), capacity, bar_ns)
        self.amended = False
        self.open: dict[int, dict[str, Bar]] = {}
        """Columns to come by their close (ns): the bars they have so far."""

    def put(self, bar: Bar) -> None:
        """Add one closed bar; a bar of a column already appended amends it in place."""
        if self.buffers.count and bar.close_ns <= self.buffers.close_ns:
            self.amend(bar)
            return
        column = self.open.get(bar.close_ns)
        if column is None:
            column = self.open[bar.close_ns] = {}
        column[bar.symbol] = bar

    def amend(self, bar: Bar) -> None:
        """Write a bar into a column that has been appended already, if the buffer still holds it."""
        age = (self.buffers.close_ns - bar.close_ns) // self.buffers.bar_ns
        if 0 <= age < self.buffers.count:
            self.buffers.append(self.index[bar.symbol], bar)
            self.amended = True

    @property
    def oldest_ns(self) -> int:
        """Return the close time of the oldest open column, 0 when there is none."""
        return min(self.open, default=0)

    def missing(self, close_ns: int) -> tuple[str, ...]:
        """Return the symbols whose bar an open column still lacks."""
        column = self.open.get(close_ns, {})
        return tuple(symbol for symbol in self.symbols if symbol not in column)

    def due(self, passed_ns: int) -> bool:
        """Say whether ``drain`` would append a column."""
        if not self.open:
            return False
        oldest = min(self.open)
        return oldest <= passed_ns or len(self.open[oldest]) >= len(self.symbols)

    def drain(self, passed_ns: int) -> list[tuple[int, tuple[Bar, ...]]]:
        """Append every column that is complete, or that lies at or before ``passed_ns`` (nothing more will come for it).

        Returns
        -------
        list of (close_ns, bars)
            The appended columns, oldest first, each with the bars it has in the order of the universe.
        """
        done: list[tuple[int, tuple[Bar, ...]]] = []
        symbols = self.symbols
        for close_ns in sorted(self.open):
            column = self.open[close_ns]
            whole = len(column) >= len(symbols)
            if not whole and close_ns > passed_ns:
                break
            del self.open[close_ns]
            bars = tuple([column[symbol] for symbol in symbols if whole or symbol in column])
            self._append(close_ns, bars, whole=whole)
            done.append((close_ns, bars))
        return done

    def _append(self, close_ns: int, bars: tuple[Bar, ...], *, whole: bool) -> None:
        buffers = self.buffers
        if buffers.count and close_ns != buffers.close_ns + buffers.bar_ns:
            self.buffers = buffers = Buffers(len(self.symbols), buffers.capacity, buffers.bar_ns)
            self.amended = True
        if whole:
            buffers.append_bars(close_ns, bars)
            return
        for bar in bars:
            buffers.append(self.index[bar.symbol], bar)

    def seed_rows(self) -> tuple[bytes, ...]:
        """Return the bytes that fill a new worker's buffers, one per symbol."""
        return tuple(self.buffers.rows(place) for place in range(len(self.symbols)))
