"""Trades → bars of one symbol, closed by exchange time.

Bars are aligned to the UTC epoch. A trade at or after the close proves the bar complete (its ids are contiguous) and closes
it at once; without one, time closes it after the grace. A bar that has closed never changes: later trades for it are
counted and dropped.
"""

from daemon.domain.market import LOTS_PER_UNIT, Bar, BarFlag, Tick

NO_BARS: tuple[Bar, ...] = ()
EMPTY_RUN_MAX = 10_000
"""Most bars that one passing of time closes; the rest follows with the next. Bounds what a clock jump can do."""


class BarBuilder:
    """Builds the bars of one symbol.

    Parameters
    ----------
    symbol
        In ccxt form.
    bar_ns
        Length of a bar, ns.

    Attributes
    ----------
    open_ns, close_ns
        Limits of the bar being built, ns; both 0 before ``start`` and the first tick.
    late
        Trades that came for a bar already closed.
    last_price
        Price of the last trade applied, or the close the history ended with; 0 while unknown.
    """

    __slots__ = (
        "_first_id",
        "_gap_ticks",
        "_gapped",
        "_high",
        "_last_id",
        "_lots",
        "_low",
        "_open",
        "_repaired",
        "_ticks",
        "_trades",
        "bar_ns",
        "close_ns",
        "last_price",
        "late",
        "open_ns",
        "symbol",
    )

    def __init__(self, symbol: str, bar_ns: int) -> None:
        self.symbol = symbol
        self.bar_ns = bar_ns
        self.open_ns = 0
        self.close_ns = 0
        self.last_price = 0.0
        self.late = 0
        self._gapped = False
        self._gap_ticks = 0
        self._open = self._high = self._low = 0.0
        self._ticks = self._lots = self._trades = 0
        self._first_id = self._last_id = -1
        self._repaired = False

    def start(self, history_end_ns: int, *, last_price: float, partial: bool) -> None:
        """Continue after bars that ended at ``history_end_ns`` with close ``last_price`` (0: unknown).

        With ``partial`` the bar being built lacks its first trades: it will close as ``GAPPED``.
        """
        self.last_price = last_price
        self._begin(history_end_ns - history_end_ns % self.bar_ns)
        if partial:
            self.mark_gapped()

    @property
    def gapped(self) -> bool:
        """Return whether the bar being built lacks trades."""
        return self._gapped

    # ------------------------------------------------------------------ trades

    def on_tick(self, tick: Tick) -> tuple[Bar, ...]:
        """Apply a trade; return the bars that it closed, oldest first (nearly always none)."""
        event_ns = tick.ts_event_ns
        if event_ns >= self.close_ns:
            closed = self._roll(event_ns)
        elif event_ns < self.open_ns:
            self.late += 1
            return NO_BARS
        else:
            closed = NO_BARS
        price = tick.price
        if self._ticks:
            if price > self._high:
                self._high = price
            elif price < self._low:
                self._low = price
        else:
            self._open = self._high = self._low = price
            self._first_id = tick.id
        self._ticks += 1
        self._lots += tick.lots
        self._trades += tick.trades
        self._last_id = tick.id
        self.last_price = price
        return closed

    def on_repaired(self, tick: Tick) -> tuple[Bar, ...]:
        """Apply a trade that REST brought: the bar it falls into closes as ``REPAIRED``."""
        late = self.late
        closed = self.on_tick(tick)
        if self.late == late:
            self._repaired = True
        return closed

    def mark_gapped(self) -> None:
        """Note that trades are lost before the next one: every bar up to and including that one's is ``GAPPED``."""
        self._gapped = True
        self._gap_ticks = self._ticks

    # ------------------------------------------------------------------ time

    def due(self, exchange_ns: int, grace_ns: int) -> bool:
        """Return whether time alone would close a bar now."""
        return 0 < self.close_ns <= exchange_ns - grace_ns

    def on_time(self, exchange_ns: int, grace_ns: int) -> tuple[Bar, ...]:
        """Close what ended more than ``grace_ns`` before the exchange's time ``exchange_ns``; oldest first."""
        if not 0 < self.close_ns <= exchange_ns - grace_ns:
            return NO_BARS
        closed: list[Bar] = []
        while self.close_ns <= exchange_ns - grace_ns and len(closed) < EMPTY_RUN_MAX:
            self._close_into(closed)
        return tuple(closed)

    def _roll(self, event_ns: int) -> tuple[Bar, ...]:
        """Close every bar that ends at or before ``event_ns``."""
        if not self.close_ns:  # never started: what came before this trade is unknown
            self._begin(event_ns - event_ns % self.bar_ns)
            self.mark_gapped()
            return NO_BARS
        closed: list[Bar] = []
        while self.close_ns <= event_ns:
            if len(closed) >= EMPTY_RUN_MAX:
                self._begin(event_ns - event_ns % self.bar_ns)
                self.mark_gapped()
                break
            self._close_into(closed)
        return tuple(closed)

    def _close_into(self, closed: list[Bar]) -> None:
        """Close the current bar and open the next; nothing is said about time before the first known price."""
        if self._ticks or self.last_price > 0.0:
            closed.append(self._bar())
        if self._gapped and self._ticks > self._gap_ticks:
            self._gapped = False  # a trade was seen after the loss: the next bar is whole
        self._gap_ticks = 0
        self._begin(self.close_ns)

    def _bar(self) -> Bar:
        """Return the current bar as it stands."""
        traded = self._ticks > 0
        price = self.last_price
        return Bar(
            self.symbol,
            self.open_ns,
            self.close_ns,
            self._open if traded else price,
            self._high if traded else price,
            self._low if traded else price,
            price,
            self._lots / LOTS_PER_UNIT,
            self._trades,
            self._first_id,
            self._last_id,
            self._flag(),
        )

    def _flag(self) -> BarFlag:
        """Return how the current bar came to be."""
        if self._gapped:
            return BarFlag.GAPPED
        if self._repaired:
            return BarFlag.REPAIRED
        return BarFlag.LIVE if self._ticks else BarFlag.EMPTY

    def _begin(self, open_ns: int) -> None:
        """Open the bar that starts at ``open_ns``."""
        self.open_ns = open_ns
        self.close_ns = open_ns + self.bar_ns if open_ns else 0
        self._open = self._high = self._low = 0.0
        self._ticks = self._lots = self._trades = 0
        self._first_id = self._last_id = -1
        self._repaired = False
