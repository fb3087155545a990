"""One symbol's market: trades in id order, bars, the book, and how far it can be trusted."""

from enum import StrEnum

from daemon.core.bars import BarBuilder
from daemon.core.continuity import Continuity
from daemon.domain.market import Bar, Book, Instrument, Tick


class Phase(StrEnum):
    """How a symbol's data stands."""

    DOWN = "down"  # no history yet, nothing asked for
    SYNCING = "syncing"  # history asked for; live ticks are held back
    LIVE = "live"  # stitched: every trade id is accounted for


class Market:
    """State of one symbol between socket and decision; owned and driven by ``Markets``."""

    __slots__ = (
        "asked_ns",
        "bar",
        "book",
        "builder",
        "confirm_ns",
        "confirmed_ns",
        "continuity",
        "frame_ns",
        "frozen",
        "gap_ns",
        "held",
        "instrument",
        "last",
        "last_ns",
        "phase",
        "price_ns",
        "resync",
        "symbol",
        "ticks",
    )

    def __init__(self, symbol: str, bar_ns: int) -> None:
        """Start without data."""
        self.symbol = symbol
        self.phase = Phase.DOWN
        self.builder = BarBuilder(symbol, bar_ns)
        self.continuity = Continuity(symbol)
        self.instrument: Instrument | None = None
        self.book: Book | None = None
        self.bar: Bar | None = None
        self.last = 0.0
        self.last_ns = 0
        self.price_ns = 0
        self.frame_ns = 0
        self.confirmed_ns = 0
        self.confirm_ns = 0
        self.asked_ns = 0
        self.gap_ns = 0
        self.frozen = True
        self.resync = False
        self.held: list[Tick] = []
        self.ticks = 0

    @property
    def newest_ns(self) -> int:
        """Return when we last knew this symbol's data to be current: a frame of any kind, or REST's word."""
        return max(self.frame_ns, self.confirmed_ns)

    @property
    def priced_ns(self) -> int:
        """Return when the newest of our prices was learnt: a trade, a book, or REST's word."""
        book_ns = self.book.ts_recv_ns if self.book is not None else 0
        return max(self.last_ns, self.price_ns, book_ns, self.confirmed_ns)
