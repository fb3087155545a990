"""Binance Spot's stream frames → ``Tick``, ``Book``, ``Malformed`` or ``Ignored``. Pure; never raises.

The fast path routes by the bytes of the stream name, without parsing, and decodes straight into a small struct. All
else (raw frames, other key orders, answers, garbage) takes the slow path, which may be slow but answers everything.
"""

from collections.abc import Callable, Iterable

import msgspec

from daemon.domain.market import Book, Ignored, Instrument, Malformed, RejectReason, Tick
from daemon.wire.binance_streams import BROKEN, Kind, stream_name
from daemon.wire.lots import lots_of

FRAME_BYTES_MAX = 1 << 20
"""Largest frame that is parsed, bytes."""
PRICE_MAX = 1e12
"""No price reaches this; quote units."""
ID_MAX = 1 << 62
SKEW_NS_MAX = 60 * 1_000_000_000
"""A trade older than this by our (offset-corrected) clock is refused, ns."""
AHEAD_NS_MAX = 10 * 1_000_000_000
"""The same for a trade from the future: it would close bars that are still open."""
FOREVER_NS = 10**18  # 31 years: no limit, yet a time of 0 still takes the long way and is refused
MS_RANGE = (1_000_000_000_000, 10_000_000_000_000)
US_RANGE = (1_000_000_000_000_000, 10_000_000_000_000_000)
DETAIL_CHARS_MAX = 120
SHUTDOWN = "serverShutdown"

Decoded = Tick | Book | Malformed | Ignored
Held = dict[str, tuple[bytes, int]]
"""Newest undecoded book frame and its receive time (ns), per symbol."""


class _Agg(msgspec.Struct, gc=False, tag_field="e", tag="aggTrade"):
    s: str
    a: int
    p: float
    q: str
    T: int
    m: bool
    f: int = 0
    l: int = 0  # noqa: E741 (the venue's own name)


class _AggEnvelope(msgspec.Struct, gc=False):
    data: _Agg


class _Trade(msgspec.Struct, gc=False, tag_field="e", tag="trade"):
    s: str
    t: int
    p: float
    q: str
    T: int
    m: bool


class _TradeEnvelope(msgspec.Struct, gc=False):
    data: _Trade


class _Book(msgspec.Struct, gc=False):
    s: str
    b: float
    B: float
    a: float
    A: float


class _BookEnvelope(msgspec.Struct, gc=False):
    data: _Book


class _Probe(msgspec.Struct):
    """Just enough of any frame to tell what it is."""

    stream: str | None = None
    data: msgspec.Raw = msgspec.Raw()
    e: str | None = None
    s: str | None = None
    b: msgspec.Raw = msgspec.Raw()
    a: msgspec.Raw = msgspec.Raw()
    u: msgspec.Raw = msgspec.Raw()
    result: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()
    code: msgspec.Raw = msgspec.Raw()
    last_update: msgspec.Raw = msgspec.field(name="lastUpdateId", default=msgspec.Raw())


KNOWN_UNUSED = frozenset(
    {"kline", "depthUpdate", "24hrMiniTicker", "24hrTicker", "1hTicker", "4hTicker", "1dTicker", "avgPrice"}
    | {SHUTDOWN}
)
_HELD = Ignored("held")
_ANSWER = Ignored("answer")
_DEPTH = Ignored("depth")
_decode_agg_env = msgspec.json.Decoder(_AggEnvelope, strict=False).decode
_decode_trade_env = msgspec.json.Decoder(_TradeEnvelope, strict=False).decode
_decode_book_env = msgspec.json.Decoder(_BookEnvelope, strict=False).decode
_decode_agg = msgspec.json.Decoder(_Agg, strict=False).decode
_decode_trade = msgspec.json.Decoder(_Trade, strict=False).decode
_decode_book = msgspec.json.Decoder(_Book, strict=False).decode
_decode_probe = msgspec.json.Decoder(_Probe).decode

Route = Callable[[bytes, int], Decoded]


def reason_of(error: Exception) -> RejectReason:
    """Return the typed reason for what msgspec said, by the field it names."""
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return RejectReason.BROKEN_JSON
    for field, reason in _FIELD_REASONS:
        if text.endswith((f".{field}`", f"[...].{field}`")) or f"required field `{field}`" in text:
            return reason
    return RejectReason.BROKEN_JSON


_FIELD_REASONS = (
    ("p", RejectReason.BAD_PRICE),
    ("b", RejectReason.BAD_PRICE),
    ("a", RejectReason.BAD_PRICE),
    ("q", RejectReason.BAD_SIZE),
    ("B", RejectReason.BAD_SIZE),
    ("A", RejectReason.BAD_SIZE),
    ("T", RejectReason.BAD_TIME),
    ("s", RejectReason.UNKNOWN_SYMBOL),
    ("e", RejectReason.UNKNOWN_EVENT),
)


def malformed(reason: RejectReason, detail: str, symbol: str, recv_ns: int) -> Malformed:
    """Return a quarantine record with a bounded, printable detail."""
    return Malformed(reason, detail[:DETAIL_CHARS_MAX], symbol, recv_ns)


def venue_time_ns(stamp: int) -> int:
    """Return a venue time stamp (ms or µs since the epoch) in ns; -1 when it is neither."""
    if MS_RANGE[0] <= stamp < MS_RANGE[1]:
        return stamp * 1_000_000
    if US_RANGE[0] <= stamp < US_RANGE[1]:
        return stamp * 1_000
    return -1


class BinanceWire:
    """Decoder for the streams of one universe.

    Parameters
    ----------
    instruments
        The universe; a frame of any other symbol is ``UNKNOWN_SYMBOL``.
    held
        When given, frames of ``bookTicker`` streams are put there undecoded (newest per symbol) and ``decode`` answers
        ``Ignored("held")``: conflation before decoding. Decode them later with ``decode_book``.
    skew_ns_max
        Oldest a trade may be by our clock, ns (the future is bounded closer); 0 switches both off, for recorded time.

    Attributes
    ----------
    leaving
        True once the venue has announced the end of the connection (``serverShutdown``).
    offset_ns
        Venue clock minus our clock as measured, ns; set by the caller whenever it measures.
    """

    __slots__ = ("_ahead_ns_max", "_behind_ns_max", "_by_venue", "_kinds", "_routes", "held", "leaving", "offset_ns")

    def __init__(
        self, instruments: Iterable[Instrument], *, held: Held | None = None, skew_ns_max: int = SKEW_NS_MAX
    ) -> None:
        self.held = held
        self.leaving = False
        self.offset_ns = 0
        self._behind_ns_max = skew_ns_max or FOREVER_NS
        self._ahead_ns_max = min(self._behind_ns_max, AHEAD_NS_MAX) if skew_ns_max else FOREVER_NS
        self._by_venue: dict[str, str] = {}
        self._routes: dict[bytes, Route] = {}
        self._kinds: dict[bytes, tuple[Kind, str]] = {}
        for one in instruments:
            self._add(one)

    def _add(self, one: Instrument) -> None:
        """Add the routes of one instrument."""
        self._by_venue[one.venue_id] = one.symbol
        for kind, route in (
            (Kind.AGG_TRADE, self._agg_route(one.symbol, one.venue_id)),
            (Kind.TRADE, self._trade_route(one.symbol, one.venue_id)),
            (Kind.BOOK, self._book_route(one.symbol, one.venue_id)),
        ):
            name = stream_name(one.venue_id, kind).encode()
            self._routes[name] = route
            self._kinds[name] = (kind, one.symbol)

    def decode(self, frame: bytes, recv_ns: int) -> Decoded:
        """Return what a frame says; broken ones as ``Malformed``, unused ones as ``Ignored``. Never raises."""
        route = self._routes.get(frame[11 : frame.find(b'"', 11, 80)])
        if route is None:
            return self._slow(frame, recv_ns)
        return route(frame, recv_ns)

    def announced(self) -> bool:
        """Say, once, that the venue has announced the end of the connection."""
        announced, self.leaving = self.leaving, False
        return announced

    def kind_of(self, frame: bytes) -> tuple[Kind, str]:
        """Return kind and symbol by the stream name alone; (OTHER, "") for everything not in the universe."""
        return self._kinds.get(frame[11 : frame.find(b'"', 11, 80)], (Kind.OTHER, ""))

    def decode_book(self, frame: bytes, recv_ns: int) -> Book | Malformed:
        """Decode a held combined ``bookTicker`` frame."""
        try:
            data = _decode_book_env(frame).data
        except BROKEN as error:
            return malformed(reason_of(error), str(error), "", recv_ns)
        symbol = self._by_venue.get(data.s)
        if symbol is None:
            return malformed(RejectReason.UNKNOWN_SYMBOL, f"book of {data.s}", "", recv_ns)
        return _book(symbol, data, recv_ns)

    # ------------------------------------------------------------------ routes

    def _agg_route(self, symbol: str, venue_id: str) -> Route:
        """Return the decoder of one symbol's aggTrade stream."""
        oldest, newest = -self._behind_ns_max, self._ahead_ns_max

        def route(frame: bytes, recv_ns: int) -> Decoded:
            try:
                data = _decode_agg_env(frame).data
            except BROKEN as error:
                return malformed(reason_of(error), str(error), symbol, recv_ns)
            # The hot path: everything as it nearly always is. What is not goes the long way, which says why.
            price, event_ns, lots = data.p, data.T * 1_000_000, lots_of(data.q)
            if (
                data.s == venue_id
                and 0.0 < price < PRICE_MAX
                and lots > 0
                and oldest < event_ns - recv_ns - self.offset_ns < newest
                and 0 <= data.a < ID_MAX
                and 0 <= data.l - data.f < ID_MAX
            ):
                return Tick(symbol, data.a, price, lots, event_ns, recv_ns, data.m, data.l - data.f + 1)
            if data.s != venue_id:
                return _stranger(data.s, venue_id, symbol, recv_ns)
            return self._agg_tick(symbol, data, recv_ns)

        return route

    def _trade_route(self, symbol: str, venue_id: str) -> Route:
        """Return the decoder of one symbol's trade stream."""
        oldest, newest = -self._behind_ns_max, self._ahead_ns_max

        def route(frame: bytes, recv_ns: int) -> Decoded:
            try:
                data = _decode_trade_env(frame).data
            except BROKEN as error:
                return malformed(reason_of(error), str(error), symbol, recv_ns)
            price, event_ns, lots = data.p, data.T * 1_000_000, lots_of(data.q)
            if (
                data.s == venue_id
                and 0.0 < price < PRICE_MAX
                and lots > 0
                and oldest < event_ns - recv_ns - self.offset_ns < newest
                and 0 <= data.t < ID_MAX
            ):
                return Tick(symbol, data.t, price, lots, event_ns, recv_ns, data.m)
            if data.s != venue_id:
                return _stranger(data.s, venue_id, symbol, recv_ns)
            return self._trade_tick(symbol, data, recv_ns)

        return route

    def _book_route(self, symbol: str, venue_id: str) -> Route:
        """Return the decoder of one symbol's bookTicker stream, or the stash that conflates it."""
        held = self.held
        if held is not None:

            def stash(frame: bytes, recv_ns: int) -> Decoded:
                held[symbol] = (frame, recv_ns)
                return _HELD

            return stash

        def route(frame: bytes, recv_ns: int) -> Decoded:
            try:
                data = _decode_book_env(frame).data
            except BROKEN as error:
                return malformed(reason_of(error), str(error), symbol, recv_ns)
            if data.s != venue_id:
                return _stranger(data.s, venue_id, symbol, recv_ns)
            return _book(symbol, data, recv_ns)

        return route

    # ------------------------------------------------------------------ values

    def _agg_tick(self, symbol: str, data: _Agg, recv_ns: int) -> Tick | Malformed:
        """Return the tick of an aggregate; it stands for l - f + 1 trades."""
        trades = data.l - data.f + 1
        return self._tick(symbol, data.a, data, recv_ns, trades if 0 < trades < ID_MAX else 1)

    def _trade_tick(self, symbol: str, data: _Trade, recv_ns: int) -> Tick | Malformed:
        """Return the tick of a single trade."""
        return self._tick(symbol, data.t, data, recv_ns, 1)

    def _tick(self, symbol: str, trade_id: int, data: _Agg | _Trade, recv_ns: int, trades: int) -> Tick | Malformed:
        """Return the checked tick; the range checks refuse NaN and infinity too."""
        price = data.p
        if not 0.0 < price < PRICE_MAX:
            return malformed(RejectReason.BAD_PRICE, f"price {price!r}", symbol, recv_ns)
        lots = lots_of(data.q)
        if lots <= 0:
            return malformed(RejectReason.BAD_SIZE, f"size {data.q!r}", symbol, recv_ns)
        event_ns = data.T * 1_000_000 if MS_RANGE[0] <= data.T < MS_RANGE[1] else venue_time_ns(data.T)
        skew = event_ns - recv_ns - self.offset_ns
        if event_ns < 0 or not -self._behind_ns_max < skew < self._ahead_ns_max:
            return malformed(RejectReason.BAD_TIME, f"trade time {data.T}, received {recv_ns}", symbol, recv_ns)
        if not 0 <= trade_id < ID_MAX:
            return malformed(RejectReason.OUT_OF_ORDER, f"trade id {trade_id}", symbol, recv_ns)
        return Tick(symbol, trade_id, price, lots, event_ns, recv_ns, data.m, trades)

    # ------------------------------------------------------------------ everything else

    def _slow(self, frame: bytes, recv_ns: int) -> Decoded:
        """Answer any frame that the stream name did not route."""
        if len(frame) > FRAME_BYTES_MAX:
            return malformed(RejectReason.OVERSIZED, f"frame of {len(frame)} bytes", "", recv_ns)
        try:
            probe = _decode_probe(frame)
            body: bytes | msgspec.Raw = frame
            if bytes(probe.data):
                body = probe.data
                probe = _decode_probe(body)
        except BROKEN as error:
            return malformed(reason_of(error), str(error), "", recv_ns)
        return self._by_probe(probe, body, recv_ns)

    def _by_probe(self, probe: _Probe, body: bytes | msgspec.Raw, recv_ns: int) -> Decoded:
        """Decode a body whose kind its own fields tell."""
        event = probe.e
        is_book = event is None and bool(bytes(probe.b) and bytes(probe.a) and bytes(probe.u)) and probe.s is not None
        if event not in (Kind.AGG_TRADE, Kind.TRADE) and not is_book:
            self.leaving = self.leaving or event == SHUTDOWN
            return _unused(probe, recv_ns)
        symbol = self._by_venue.get(probe.s or "")
        if symbol is None:
            return malformed(RejectReason.UNKNOWN_SYMBOL, f"{event or 'book'} of {probe.s}", "", recv_ns)
        try:
            if is_book:
                return _book(symbol, _decode_book(body), recv_ns)
            if event == Kind.AGG_TRADE:
                return self._agg_tick(symbol, _decode_agg(body), recv_ns)
            return self._trade_tick(symbol, _decode_trade(body), recv_ns)
        except BROKEN as error:
            return malformed(reason_of(error), str(error), symbol, recv_ns)


def _stranger(found: str, venue_id: str, symbol: str, recv_ns: int) -> Malformed:
    """Return the refusal of a frame whose inside names another symbol than its stream."""
    return malformed(RejectReason.UNKNOWN_SYMBOL, f"{found} in the stream of {venue_id}", symbol, recv_ns)


def _unused(probe: _Probe, recv_ns: int) -> Ignored | Malformed:
    """Return why a well-formed frame is not used."""
    if probe.e is not None:
        if probe.e in KNOWN_UNUSED:
            return Ignored(probe.e)
        return malformed(RejectReason.UNKNOWN_EVENT, f"event {probe.e!r}", "", recv_ns)
    if bytes(probe.result) or bytes(probe.error) or bytes(probe.code):
        return _ANSWER
    if bytes(probe.last_update):
        return _DEPTH
    return malformed(RejectReason.UNKNOWN_EVENT, "neither an event nor an answer", "", recv_ns)


def _book(symbol: str, data: _Book, recv_ns: int) -> Book | Malformed:
    """Return the checked best bid and ask."""
    if not (0.0 < data.b < PRICE_MAX and 0.0 < data.a < PRICE_MAX):
        return malformed(RejectReason.BAD_PRICE, f"bid {data.b!r} ask {data.a!r}", symbol, recv_ns)
    if not (0.0 <= data.B < float("inf") and 0.0 <= data.A < float("inf")):
        return malformed(RejectReason.BAD_SIZE, f"sizes {data.B!r} {data.A!r}", symbol, recv_ns)
    if data.b >= data.a:
        return malformed(RejectReason.CROSSED_BOOK, f"bid {data.b!r} >= ask {data.a!r}", symbol, recv_ns)
    return Book(symbol, data.b, data.B, data.a, data.A, recv_ns)
