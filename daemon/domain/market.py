"""Market data: ticks, books, bars and the venue's trading rules.

Prices and ratios are float64, sizes of trades are counted in integer lots so that the volume of a bar
is exact, and what belongs to orders (filters) is Decimal. Times are integer nanoseconds UTC.
"""

from decimal import Decimal
from enum import StrEnum

import msgspec

LOTS_PER_UNIT = 100_000_000
"""Lots in one unit of base currency: trade sizes are integers in units of 1e-8."""

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000


class Tick(msgspec.Struct, frozen=True, gc=False, tag=True):
    """One public trade (or one aggregate of trades at one price), as the venue numbered it.

    ``id`` is contiguous per symbol within the one id space the feed subscribed to; ``trades`` says how many
    single trades it stands for; ``sell`` is true when the taker sold.
    """

    symbol: str
    id: int
    price: float
    lots: int
    ts_event_ns: int
    ts_recv_ns: int
    sell: bool
    trades: int = 1


class Book(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Best bid and ask with their sizes in base units; conflated, only the newest per symbol matters."""

    symbol: str
    bid: float
    bid_qty: float
    ask: float
    ask_qty: float
    ts_recv_ns: int


class RejectReason(StrEnum):
    """Why a frame or tick was quarantined instead of reaching a bar."""

    BROKEN_JSON = "broken_json"
    UNKNOWN_EVENT = "unknown_event"
    UNKNOWN_SYMBOL = "unknown_symbol"
    BAD_PRICE = "bad_price"
    BAD_SIZE = "bad_size"
    BAD_TIME = "bad_time"
    PRICE_SPIKE = "price_spike"
    DUPLICATE_ID = "duplicate_id"
    OUT_OF_ORDER = "out_of_order"
    LATE = "late"
    CROSSED_BOOK = "crossed_book"
    OVERSIZED = "oversized"


class Malformed(msgspec.Struct, frozen=True, tag=True):
    """A frame or tick that was refused: counted, quarantined, never traded on."""

    reason: RejectReason
    detail: str
    symbol: str
    ts_recv_ns: int


class Ignored(msgspec.Struct, frozen=True, tag=True):
    """A frame that is valid and deliberately not used (subscription answers, other channels)."""

    kind: str


class BarFlag(StrEnum):
    """How a bar came to be."""

    LIVE = "live"  # every trade id seen
    EMPTY = "empty"  # no trade in it: open = high = low = close = previous close, volume 0
    REPAIRED = "repaired"  # a gap was filled by REST in the same id space, or the venue's own candle was taken
    BACKFILLED = "backfilled"  # from the venue's candles before the live stream began
    GAPPED = "gapped"  # trades are missing: the symbol is frozen until a clean bar


class Bar(msgspec.Struct, frozen=True, gc=False, tag=True):
    """One closed bar over ``[open_ns, close_ns)``; immutable.

    ``volume`` is in base units: the sum of integer lots, rounded once to the nearest float64. ``first_id``/``last_id``
    are -1 where unknown (backfilled, empty).
    """

    symbol: str
    open_ns: int
    close_ns: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    trades: int
    first_id: int
    last_id: int
    flag: BarFlag


class Instrument(msgspec.Struct, frozen=True, tag=True):
    """A spot pair and the venue's rules for orders in it.

    ``symbol`` is in ccxt form (``BTC/USDT``), ``venue_id`` the venue's own (``BTCUSDT``). A zero maximum or
    multiplier means the venue states none. ``bid_up``… are PERCENT_PRICE_BY_SIDE multipliers of the average price.
    """

    symbol: str
    venue_id: str
    base: str
    quote: str
    tick: Decimal
    step: Decimal
    min_qty: Decimal
    max_qty: Decimal
    min_notional: Decimal
    bid_up: Decimal = Decimal(0)
    bid_down: Decimal = Decimal(0)
    ask_up: Decimal = Decimal(0)
    ask_down: Decimal = Decimal(0)
    max_orders: int = 0
    trading: bool = True


class Ranged(msgspec.Struct, frozen=True, tag=True):
    """How far prices went within bars that end at ``ts_ns``, told by a source that has no trades (history).

    Comes before ``Closed``: held symbols' stops are judged on it, the adverse extreme first.
    """

    bars: tuple[Bar, ...]
    ts_ns: int


class Closed(msgspec.Struct, frozen=True, tag=True):
    """Closed bars, at most one a symbol, from a source that has no trades; it vouches that the others had none."""

    bars: tuple[Bar, ...]
    ts_ns: int


Prices = Tick | Book | Malformed | Ranged | Closed
"""What says something about prices, or that it could not be read."""
