"""The decoder of Binance's frames: typed values for what is right, typed reasons for what is wrong, never an exception."""

import gzip
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.core.bars import BarBuilder
from daemon.core.continuity import Continuity
from daemon.domain.market import LOTS_PER_UNIT, Bar, BarFlag, Book, Ignored, Instrument, Malformed, RejectReason, Tick
from daemon.wire.binance import BinanceWire, Held
from daemon.wire.binance_streams import IdSpace, Kind, answer_of, stream_name, streams_of, subscribe, unsubscribe

NOW = 1_720_000_000_500_000_000
AGG = (
    b'{"stream":"btcusdt@aggTrade","data":{"e":"aggTrade","E":1720000000002,"s":"BTCUSDT","a":30,"p":"67234.12000000",'
    b'"q":"0.12345678","f":40,"l":42,"T":1720000000000,"m":true,"M":true}}'
)
TRADE = (
    b'{"stream":"btcusdt@trade","data":{"e":"trade","E":1720000000002,"s":"BTCUSDT","t":31,"p":"67234.13000000",'
    b'"q":"2.00000000","T":1720000000001,"m":false,"M":true}}'
)
BOOK = (
    b'{"stream":"btcusdt@bookTicker","data":{"u":5,"s":"BTCUSDT","b":"99.10000000","B":"3.00000000","a":"99.20000000",'
    b'"A":"1.50000000"}}'
)


def pair(base: str) -> Instrument:
    """Return an instrument quoted in USDT."""
    small = Decimal("0.00001")
    return Instrument(
        f"{base}/USDT", f"{base}USDT", base, "USDT", Decimal("0.01"), small, small, Decimal(9000), Decimal(5)
    )


WIRE = BinanceWire([pair("BTC"), pair("ETH")])


def raw(frame: bytes) -> bytes:
    """Return the uncombined form of a combined frame."""
    return frame[frame.index(b'"data":') + 7 : -1]


def refused(frame: bytes, wire: BinanceWire = WIRE) -> RejectReason:
    """Return the reason a frame is refused for."""
    answer = wire.decode(frame, NOW)
    assert isinstance(answer, Malformed), answer
    return answer.reason


@pytest.mark.parametrize("shape", [lambda frame: frame, raw], ids=["combined", "raw"])
def test_trades_and_books_are_decoded(shape: object) -> None:
    """Combined and raw frames of the three channels give the same exact values."""
    assert callable(shape)
    agg = Tick("BTC/USDT", 30, 67234.12, 12_345_678, 1_720_000_000_000_000_000, NOW, sell=True, trades=3)
    trade = Tick("BTC/USDT", 31, 67234.13, 200_000_000, 1_720_000_000_001_000_000, NOW, sell=False, trades=1)

    assert WIRE.decode(shape(AGG), NOW) == agg
    assert WIRE.decode(shape(TRADE), NOW) == trade
    assert WIRE.decode(shape(BOOK), NOW) == Book("BTC/USDT", 99.1, 3.0, 99.2, 1.5, NOW)


def test_key_order_and_blanks_do_not_matter() -> None:
    """The slow path reads what the fast path does not recognise."""
    parsed = msgspec.json.decode(AGG)
    turned = msgspec.json.format(msgspec.json.encode({"data": parsed["data"], "stream": parsed["stream"]}))

    assert WIRE.decode(turned, NOW) == WIRE.decode(AGG, NOW)


def test_microseconds_are_recognised() -> None:
    """F27: time stamps in µs mean the same instant."""
    assert WIRE.decode(AGG.replace(b'"T":1720000000000', b'"T":1720000000000000'), NOW) == WIRE.decode(AGG, NOW)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"67234.12000000", b"0.00000000", RejectReason.BAD_PRICE),
        (b"67234.12000000", b"-1.00000000", RejectReason.BAD_PRICE),
        (b"67234.12000000", b"NaN", RejectReason.BAD_PRICE),
        (b"67234.12000000", b"Infinity", RejectReason.BAD_PRICE),
        (b"67234.12000000", b"1e300", RejectReason.BAD_PRICE),
        (b"67234.12000000", b"1e500", RejectReason.BAD_PRICE),
        (b"67234.12000000", b"", RejectReason.BAD_PRICE),
        (b"67234.12000000", b"abc", RejectReason.BAD_PRICE),
        (b'"p":"67234.12000000",', b"", RejectReason.BAD_PRICE),
        (b'"67234.12000000"', b"null", RejectReason.BAD_PRICE),
        (b"0.12345678", b"0.00000000", RejectReason.BAD_SIZE),
        (b"0.12345678", b"-1.00000000", RejectReason.BAD_SIZE),
        (b"0.12345678", b"0.123456789", RejectReason.BAD_SIZE),
        (b"0.12345678", b"1e3", RejectReason.BAD_SIZE),
        (b"0.12345678", b"1_0.00000000", RejectReason.BAD_SIZE),
        (b"0.12345678", b"0..2345678", RejectReason.BAD_SIZE),
        (b"0.12345678", "\u0661.00000000".encode(), RejectReason.BAD_SIZE),
        (b"0.12345678", b"9" * 60 + b".00000000", RejectReason.BAD_SIZE),
        (b'"0.12345678"', b"0.12345678", RejectReason.BAD_SIZE),
        (b'"T":1720000000000', b'"T":0', RejectReason.BAD_TIME),
        (b'"T":1720000000000', b'"T":-5', RejectReason.BAD_TIME),
        (b'"T":1720000000000', b'"T":1720003600000', RejectReason.BAD_TIME),
        (b'"T":1720000000000', b'"T":1719996400000', RejectReason.BAD_TIME),
        (b'"T":1720000000000', b'"T":1720000020000', RejectReason.BAD_TIME),
        (b'"T":1720000000000', b'"T":99999999999999999999999', RejectReason.BAD_TIME),
        (b'"a":30', b'"a":-30', RejectReason.OUT_OF_ORDER),
        (b'"a":30', b'"a":99999999999999999999999', RejectReason.OUT_OF_ORDER),
        (b'"BTCUSDT"', b'"ETHUSDT"', RejectReason.UNKNOWN_SYMBOL),
        (b'"e":"aggTrade"', b'"e":"trade"', RejectReason.UNKNOWN_EVENT),
        (b"btcusdt@aggTrade", b"dogeusdt@aggTrade", None),
        (b'"M":true}}', b'"M":true', RejectReason.BROKEN_JSON),
        (b"BTCUSDT", b"\xff\xfe", RejectReason.BROKEN_JSON),
        (b'"M":true', b'"M":' + b"[" * 100_000, RejectReason.BROKEN_JSON),
    ],
)
def test_broken_trades_say_why(old: bytes, new: bytes, reason: RejectReason | None) -> None:
    """F24, F27, F28: each defect of a trade has its reason; nothing is raised."""
    frame = AGG.replace(old, new)
    assert frame != AGG
    if reason is None:
        assert isinstance(WIRE.decode(frame, NOW), Tick)  # the symbol inside is ours, whatever the stream is called
    else:
        assert refused(frame) is reason


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"99.10000000", b"99.20000000", RejectReason.CROSSED_BOOK),
        (b"99.10000000", b"100.00000000", RejectReason.CROSSED_BOOK),
        (b"99.10000000", b"0.00000000", RejectReason.BAD_PRICE),
        (b"99.20000000", b"nan", RejectReason.BAD_PRICE),
        (b"3.00000000", b"-3.00000000", RejectReason.BAD_SIZE),
        (b"1.50000000", b"inf", RejectReason.BAD_SIZE),
    ],
)
def test_broken_books_say_why(old: bytes, new: bytes, reason: RejectReason) -> None:
    """F25: crossed, locked and absurd books are refused on both paths."""
    assert refused(BOOK.replace(old, new)) is reason
    assert refused(raw(BOOK.replace(old, new))) is reason


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        (b'{"result":null,"id":1}', "answer"),
        (b'{"error":{"code":2,"msg":"x"},"id":1}', "answer"),
        (b'{"code":0,"msg":"Unknown property"}', "answer"),
        (b'{"stream":"btcusdt@kline_1m","data":{"e":"kline","E":1,"s":"BTCUSDT","k":{}}}', "kline"),
        (b'{"e":"depthUpdate","E":1,"s":"BTCUSDT","U":1,"u":2,"b":[],"a":[]}', "depthUpdate"),
        (b'{"e":"serverShutdown","E":1}', "serverShutdown"),
        (b'{"lastUpdateId":1,"bids":[],"asks":[]}', "depth"),
    ],
)
def test_other_frames_are_ignored_on_purpose(frame: bytes, kind: str) -> None:
    """Answers and other channels are known and not used."""
    assert WIRE.decode(frame, NOW) == Ignored(kind)


@pytest.mark.parametrize(
    "frame",
    [b"", b"{", b"null", b"[]", b"[1,2]", b"NaN", b"<html>502</html>", b"[" * 100_000, b"{" * 10_000_000, b"\xff" * 50],
)
def test_garbage_is_malformed(frame: bytes) -> None:
    """F28: frames that are no messages are counted, bounded in what they cost and say."""
    answer = WIRE.decode(frame, NOW)

    assert isinstance(answer, Malformed)
    assert len(answer.detail) <= 120


@pytest.mark.parametrize("frame", [AGG, TRADE, BOOK])
def test_a_stranger_inside_a_stream(frame: bytes) -> None:
    """A frame whose inside names another symbol than its stream belongs to neither."""
    assert refused(frame.replace(b'"BTCUSDT"', b'"ETHUSDT"')) is RejectReason.UNKNOWN_SYMBOL


def test_single_trades_are_checked_too() -> None:
    """The trade channel refuses what the aggregate channel refuses."""
    assert refused(TRADE.replace(b"67234.13000000", b"0.00000000")) is RejectReason.BAD_PRICE
    assert refused(TRADE.replace(b"2.00000000", b"2.")) is RejectReason.BAD_SIZE
    assert refused(TRADE.replace(b'"t":31', b'"t":-1')) is RejectReason.OUT_OF_ORDER


def test_unknown_events_and_symbols() -> None:
    """An event or symbol we never asked for is refused by name."""
    assert refused(b'{"e":"liquidation","s":"BTCUSDT"}') is RejectReason.UNKNOWN_EVENT
    assert refused(b'{"hello":1}') is RejectReason.UNKNOWN_EVENT
    assert refused(AGG.replace(b"BTCUSDT", b"DOGEUSDT").replace(b"btc", b"doge")) is RejectReason.UNKNOWN_SYMBOL
    assert refused(b"x" * 2_000_000) is RejectReason.OVERSIZED


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes(frame: bytes) -> None:
    """Whatever the bytes, the answer is a value."""
    assert isinstance(WIRE.decode(frame, NOW), Malformed | Ignored | Tick | Book)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([AGG, TRADE, BOOK, raw(AGG), raw(BOOK)]), st.integers(0, 400), st.binary(max_size=4))
def test_damaged_frames(frame: bytes, at: int, junk: bytes) -> None:
    """Whatever replaces a part of a good frame, the answer is a value, and a tick is always sane."""
    answer = WIRE.decode(frame[:at] + junk + frame[at + len(junk) :], NOW)

    assert isinstance(answer, Malformed | Ignored | Tick | Book)
    if isinstance(answer, Tick):
        assert 0.0 < answer.price < 1e12
        assert answer.lots > 0


@given(st.decimals(min_value=Decimal("0.00000001"), max_value=Decimal(10**12), places=8))
def test_sizes_are_exact(size: Decimal) -> None:
    """Every size on the grid comes out as the same number of lots."""
    tick = WIRE.decode(AGG.replace(b"0.12345678", f"{size:.8f}".encode()), NOW)

    assert isinstance(tick, Tick)
    assert Decimal(tick.lots) / LOTS_PER_UNIT == size


@pytest.mark.parametrize(
    ("text", "lots"), [("1", 10**8), ("0.5", 5 * 10**7), ("1.1234567800", 112345678), (".5", 5 * 10**7)]
)
def test_sizes_of_other_lengths(text: str, lots: int) -> None:
    """Fewer or more decimals are read as exactly."""
    tick = WIRE.decode(AGG.replace(b"0.12345678", text.encode()), NOW)

    assert isinstance(tick, Tick)
    assert tick.lots == lots


def test_time_check_follows_the_measured_offset() -> None:
    """A clock of ours that is an hour wrong, but measured, refuses nothing; without limit nothing is checked."""
    wire = BinanceWire([pair("BTC")])
    hour = 3600 * 10**9
    assert isinstance(wire.decode(AGG, NOW + hour), Malformed)
    wire.offset_ns = -hour
    assert isinstance(wire.decode(AGG, NOW + hour), Tick)
    assert isinstance(BinanceWire([pair("BTC")], skew_ns_max=0).decode(AGG, NOW + hour), Tick)


def test_books_are_conflated_undecoded() -> None:
    """With a place to hold them, only the newest book frame per symbol is kept, and decoded when asked."""
    held: Held = {}
    wire = BinanceWire([pair("BTC"), pair("ETH")], held=held)
    newer = BOOK.replace(b"99.10000000", b"99.15000000")
    assert wire.decode(BOOK, NOW) == wire.decode(newer, NOW + 1) == Ignored("held")
    assert held == {"BTC/USDT": (newer, NOW + 1)}
    assert wire.decode_book(*held["BTC/USDT"]) == Book("BTC/USDT", 99.15, 3.0, 99.2, 1.5, NOW + 1)
    assert isinstance(wire.decode_book(b"{", NOW), Malformed)
    assert isinstance(wire.decode_book(BOOK.replace(b"BTCUSDT", b"XUSDT"), NOW), Malformed)


def test_kind_is_told_by_the_stream_name() -> None:
    """Frames are classified without being parsed."""
    assert WIRE.kind_of(AGG) == (Kind.AGG_TRADE, "BTC/USDT")
    assert WIRE.kind_of(TRADE) == (Kind.TRADE, "BTC/USDT")
    assert WIRE.kind_of(BOOK) == (Kind.BOOK, "BTC/USDT")
    assert WIRE.kind_of(raw(AGG)) == (Kind.OTHER, "")


def test_requests_and_answers() -> None:
    """Subscriptions name one id space only; answers are told from data."""
    streams = streams_of([pair("BTC")])
    assert streams == ("btcusdt@aggTrade", "btcusdt@bookTicker")
    assert streams_of([pair("BTC")], IdSpace.TRADE)[0] == stream_name("BTCUSDT", Kind.TRADE) == "btcusdt@trade"
    asked = msgspec.json.decode(subscribe(streams, 7))
    assert asked == {"method": "SUBSCRIBE", "params": list(streams), "id": 7}
    assert msgspec.json.decode(unsubscribe(streams, 8))["method"] == "UNSUBSCRIBE"
    ok, bad = answer_of(b'{"result":null,"id":7}'), answer_of(b'{"error":{"code":2},"id":8}')
    assert ok is not None
    assert (ok.id, ok.error) == (7, "")
    assert bad is not None
    assert "code" in bad.error
    assert answer_of(AGG) is None


# ---------------------------------------------------------------- recorded frames


def recorded(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (receive time, frame) of a recording."""
    with gzip.open(path) as lines:
        for line in lines:
            stamp, _, frame = line.strip().partition(b" ")
            yield int(stamp), frame


class _Print(msgspec.Struct):
    """A trade as an independent reader sees it: sizes as Decimal."""

    s: str
    t: int
    p: Decimal
    q: Decimal
    T: int


class _Envelope(msgspec.Struct):
    data: _Print


@pytest.mark.parametrize("base", ["BTC", "ETH"])
def test_recorded_day_is_exact(shared_data: Path, base: str) -> None:
    """Every recorded frame is decoded or deliberately ignored, ids are unbroken, bar volumes equal a Decimal sum."""
    wire = BinanceWire([pair(base)])
    continuity = Continuity(f"{base}/USDT")
    builder = BarBuilder(f"{base}/USDT", 60 * 10**9)
    independent = msgspec.json.Decoder(_Envelope)
    kinds: Counter[str] = Counter()
    volumes: dict[int, Decimal] = {}
    prints: dict[int, list[Decimal]] = {}
    bars: list[Bar] = []
    frames = last_ns = 0
    continuity.start(-1)
    for recv_ns, frame in recorded(shared_data / "ws" / f"binance_spot_{base.lower()}usdt_20240808.gz"):
        frames += 1
        answer = wire.decode(frame, recv_ns)
        kinds[answer.kind if isinstance(answer, Ignored) else type(answer).__name__] += 1
        if not isinstance(answer, Tick):
            continue
        assert continuity.accept(answer) is None
        bars.extend(builder.on_tick(answer))
        one = independent.decode(frame).data
        minute = one.T // 60_000
        volumes[minute] = volumes.get(minute, Decimal(0)) + one.q
        prints.setdefault(minute, []).append(one.p)
        last_ns = answer.ts_event_ns
    bars.extend(builder.on_time(last_ns + 120 * 10**9, 0)[:1])

    assert set(kinds) == {"Tick", "Book", "depthUpdate", "depth"}
    assert sum(kinds.values()) == frames
    assert continuity.gaps == continuity.duplicates == continuity.spikes == 0
    assert [bar.flag for bar in bars] == [BarFlag.GAPPED, *[BarFlag.LIVE] * (len(bars) - 1)]
    assert {bar.open_ns // (60 * 10**9): Decimal(repr(bar.volume)) for bar in bars} == volumes
    for bar in bars:
        inside = prints[bar.open_ns // (60 * 10**9)]
        expected = tuple(float(price) for price in (inside[0], max(inside), min(inside), inside[-1]))
        assert (bar.open, bar.high, bar.low, bar.close) == expected


def test_older_recording_of_four_pairs(shared_data: Path) -> None:
    """The 2021 capture with aggTrade, kline and depth streams is understood as well."""
    names = ("NKNUSDT", "BLZETH", "LRCBTC", "RUNEEUR")
    pairs = [msgspec.structs.replace(pair("X"), symbol=name, venue_id=name) for name in names]
    wire = BinanceWire(pairs)
    kinds: Counter[str] = Counter()
    with gzip.open(shared_data / "ws" / "BINANCE.ws.1.0.gz") as lines:
        for line in lines:
            stamp, colon, frame = line.strip().partition(b": ")
            if not colon or not frame.startswith(b"{"):
                continue
            answer = wire.decode(frame, int(Decimal(stamp.decode()) * 10**9))
            assert not isinstance(answer, Malformed), answer
            kinds[answer.kind if isinstance(answer, Ignored) else type(answer).__name__] += 1

    assert {"Tick", "Book", "depthUpdate", "kline"} <= set(kinds)
