"""Decoders of every outside input: any bytes give a typed value or a typed error, bounded, never anything else."""

import struct
import tempfile
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.domain.errors import ConfigError, Transient
from daemon.domain.events import Timer
from daemon.domain.market import Bar, Book, Ignored, Instrument, Malformed, Tick
from daemon.domain.orders import OrderState, OrderUpdate, Side
from daemon.edge import binance_account as account
from daemon.edge import userstream
from daemon.edge.clock import Clock
from daemon.edge.lane import Quota
from daemon.edge.outcomes import Outcome, Reply, error_code, judge_order
from daemon.edge.tables import Exact
from daemon.outlets import journal
from daemon.settings import Settings, load_settings
from daemon.wire import binance_rest as rest
from daemon.wire.binance import BinanceWire
from daemon.wire.binance_streams import answer_of
from risk.money import is_amount
from strategies.artifact import MANIFEST, WEIGHTS, Artifact, BadArtifact, load_artifact
from tests.security.fuzz_kit import DEEP, altered, broken_bytes
from tests.strategies.forecast_kit import saved

NOW = 1_720_000_000_500_000_000
MS = 1_720_000_000_000
BTC = "BTC/USDT"
T = TypeVar("T")
SMALL = Decimal("0.00001")
WIRE = BinanceWire(
    [Instrument(BTC, "BTCUSDT", "BTC", "USDT", Decimal("0.01"), SMALL, SMALL, Decimal(9000), Decimal(5))]
)
AGG = {"a": 30, "p": "67234.12", "q": "0.12345678", "f": 40, "l": 42, "T": MS, "m": True, "M": True}
BOOK = {"u": 5, "s": "BTCUSDT", "b": "99.10000000", "B": "3.0", "a": "99.20000000", "A": "1.5"}
FRAMES = (
    {"stream": "btcusdt@aggTrade", "data": {"e": "aggTrade", "E": MS, "s": "BTCUSDT", **AGG}},
    {"stream": "btcusdt@trade", "data": {"e": "trade", "s": "BTCUSDT", "t": 3, "p": "6.1", "q": "2.0", "T": MS, "m": False}},
    {"stream": "btcusdt@bookTicker", "data": BOOK},
    {"e": "aggTrade", "s": "BTCUSDT", **AGG},
    {"id": 1, "result": None},
    {"id": 1, "error": {"code": -1, "msg": "no"}, "code": 0},
)  # fmt: skip
PACKED = tuple(msgspec.json.encode(one) for one in FRAMES)  # the venue's own form: no blanks, the fast path


class ErrorText(str):
    """What a typed error said."""

    __slots__ = ()


def outcome(work: Callable[[], T], expected: type[Exception]) -> T | ErrorText:
    """Return what came out, or the text of the one kind of error that may come."""
    try:
        return work()
    except expected as error:
        return ErrorText(error)


@given(broken_bytes(*FRAMES, raw=PACKED))
@settings(max_examples=1_500)
def test_market_frames(frame: bytes) -> None:
    """A tick, a book, or a reason."""
    answer = WIRE.decode(frame, NOW)
    assert isinstance(answer, Tick | Book | Malformed | Ignored)
    if isinstance(answer, Malformed):
        assert len(answer.detail) <= 120
    assert isinstance(WIRE.decode_book(frame, NOW), Book | Malformed)
    WIRE.kind_of(frame)
    answer_of(frame)


# ---------------------------------------------------------------------------------------------- the account


def amounts(value: Any) -> Iterator[Decimal]:
    """Return every amount inside typed values."""
    if isinstance(value, Decimal):
        yield value
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from amounts(getattr(value, name))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from amounts(one)


def assert_sound(value: Any, *, signed: bool = False) -> None:
    """Whatever was believed can be reckoned with and written down: finite, of human size, at most 64 characters."""
    for amount in amounts(value):
        assert is_amount(amount.copy_abs() if signed else amount), amount
        text = Exact().process_bind_param(amount, None)  # type: ignore[arg-type]
        assert text is not None
        assert len(text) <= 64
    msgspec.json.encode(value)


REPORT = {
    "e": "executionReport", "s": "BTCUSDT", "c": "babc", "C": "", "S": "BUY", "x": "TRADE", "X": "FILLED", "r": "NONE",
    "i": 7, "l": "0.5", "z": "0.5", "L": "100.1", "n": "0.0005", "N": "BTC", "T": MS, "t": 9, "m": False,
}  # fmt: skip
PUSHED = tuple(
    {"event": event}
    for event in (
        REPORT,
        {"e": "outboundAccountPosition", "B": [{"a": "BTC", "f": "1.5", "l": "0.0"}]},
        {"e": "balanceUpdate", "a": "USDT", "d": "-12.5"},
        {"e": "eventStreamTerminated"},
    )
)


@given(broken_bytes(*PUSHED))
@settings(max_examples=800)
def test_user_frames(frame: bytes) -> None:
    """News, or why there is none; as text too."""
    for form in (frame, frame.decode(errors="replace")):
        answer = userstream.decode(form, symbols={"BTCUSDT": BTC}, recv_ns=NOW)
        assert len(answer.broken) <= 200
        assert_sound((answer.update, answer.fill, answer.balances))
        assert_sound(answer.deposit, signed=True)


ORDER = {
    "symbol": "BTCUSDT", "orderId": 7, "clientOrderId": "babc", "status": "FILLED", "side": "BUY", "origQty": "0.5",
    "executedQty": "0.5", "time": MS, "updateTime": MS, "transactTime": MS,
    "fills": [{"price": "1.5", "qty": "0.5", "commission": "0.1", "commissionAsset": "BNB", "tradeId": 3}],
}  # fmt: skip
TRADE = {
    "symbol": "BTCUSDT", "id": 3, "orderId": 7, "price": "1.5", "qty": "0.5", "commission": "0.1",
    "commissionAsset": "BNB", "time": MS, "isBuyer": True, "isMaker": False,
}  # fmt: skip
ANSWERS = (
    ORDER, [ORDER, ORDER], [TRADE, TRADE], {"balances": [{"asset": "BTC", "free": "1", "locked": "0.1"}]},
    {"enableWithdrawals": False, "enableSpotAndMarginTrading": True, "ipRestrict": True}, {"code": -2013, "msg": "no"},
)  # fmt: skip
HEADERS = st.sampled_from(
    ("", "7", "-3", "0.5", "inf", "nan", "1e300", "²", "٣", "9" * 5_000, "Wed, 21 Oct 2015 07:28:00 GMT")
)
STATUS = st.sampled_from((0, 200, 200, 200, 400, 401, 403, 418, 429, 500, 503))


@given(broken_bytes(*ANSWERS), STATUS, HEADERS)
@settings(max_examples=800)
def test_account_answers(body: bytes, status: int, header: str) -> None:
    """Orders, trades, balances, permissions: a value or `Transient`; the verdict on an order never fails."""
    reply = Reply(status, body.decode(errors="replace"), {"Retry-After": header, "X-MBX-USED-WEIGHT-1M": header})
    for read in (
        account.read_order,
        account.read_orders,
        account.read_trades,
        account.read_balances,
        account.read_permissions,
    ):
        found: Any = outcome(partial(read, reply), Transient)
        if isinstance(found, ErrorText):
            assert len(found) <= 400
            continue
        assert_sound(found)
        for one in found if isinstance(found, list) else []:
            if isinstance(one, account.VenueTrade):
                assert_sound(one.fill(BTC, "babc"))
    assert_sound(account.read_pieces(reply, symbol=BTC, client_id="babc", side=Side.BUY))
    verdict = judge_order(reply, client_id="babc")
    assert isinstance(verdict, Outcome)
    assert 0.0 <= verdict.retry_after_s < 1e7
    assert_sound(verdict)
    assert isinstance(error_code(reply), int)
    quota = Quota(Clock())
    quota.see(reply)
    assert 0.0 <= quota.wait_s < 1e7


@pytest.mark.parametrize(
    ("header", "pause_s"), [("7", 7.0), ("inf", 10.0), ("nan", 10.0), ("1e300", 604_800.0), ("-5", 1.0), ("²", 10.0)]
)
def test_a_pause_without_end_is_none(header: str, pause_s: float) -> None:
    """Retry-After of a broken proxy: the lanes pause for a time that a clock can count."""
    reply = Reply(429, "", {"Retry-After": header, "X-MBX-USED-WEIGHT-1M": "²"})
    quota = Quota(Clock())
    quota.see(reply)

    assert judge_order(reply, client_id="babc").retry_after_s == pause_s
    assert pause_s - 1 < quota.wait_s <= pause_s
    assert quota.weight_used == 0


def test_an_abyss_of_brackets_leaves_the_order_unknown() -> None:
    """The answer to an order that no decoder can descend into is no evidence; asking again is."""
    for body in ('{"orderId":' + "[" * DEEP, "[" * DEEP):
        assert judge_order(Reply(200, body), client_id="babc").state is OrderState.UNKNOWN
        assert judge_order(Reply(400, body), client_id="babc").state is OrderState.UNKNOWN


def test_an_amount_of_a_billion_digits_is_none() -> None:
    """``1e999999999`` is a finite Decimal; written out it would fill the memory."""
    reply = Reply(200, '{"balances":[{"asset":"BTC","free":"1e999999999","locked":"0"}]}')
    with pytest.raises(Transient):
        account.read_balances(reply)
    frame = '{"event":{"e":"balanceUpdate","a":"BTC","d":"-1e999999999"}}'
    assert userstream.decode(frame, symbols={}, recv_ns=1).broken


KLINE = [MS - MS % 60_000, "10.0", "12.0", "9.0", "11.0", "1.5", MS, "16.0", 7, "1", "11", "0"]
ENTRY = {
    "symbol": "BTCUSDT", "status": "TRADING", "baseAsset": "BTC", "quoteAsset": "USDT",
    "filters": [
        {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "1000000.0", "tickSize": "0.01"},
        {"filterType": "LOT_SIZE", "minQty": "0.00001", "maxQty": "9000.0", "stepSize": "0.00001"},
        {"filterType": "NOTIONAL", "minNotional": "5.0"},
        {"filterType": "PERCENT_PRICE_BY_SIDE", "bidMultiplierUp": "5", "bidMultiplierDown": "0.2"},
        {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": 200},
    ],
}  # fmt: skip
RATES = {"rateLimits": [{"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": 100}]}
OLD = {"id": 5, "price": "10.5", "qty": "0.3", "time": MS, "isBuyerMaker": False}


@given(altered([KLINE, KLINE], [AGG], [OLD], ENTRY, RATES, {"serverTime": MS}))
@settings(max_examples=800)
def test_market_answers(answer: Any) -> None:
    """Candles, trades, rules and the time: values or a reason."""
    bars = rest.klines(answer, symbol=BTC, interval_ns=60 * 10**9)
    assert isinstance(bars, Malformed) or all(isinstance(one, Bar) for one in bars)
    for read in (rest.agg_trades, rest.trades):
        ticks = read(answer, symbol=BTC, recv_ns=NOW)
        assert isinstance(ticks, Malformed) or all(isinstance(one, Tick) for one in ticks)
    rules = rest.instrument(answer)
    assert isinstance(rules, Instrument | Malformed)
    if isinstance(rules, Instrument):
        msgspec.json.encode(rules)
        assert all(len(format(amount, "f")) <= 64 for amount in amounts(rules))
        assert rules.step > 0
        assert rules.tick > 0
    assert 0 <= rest.orders_per_10s(answer) < 10**9
    assert isinstance(rest.server_time_ns(answer), int | Malformed)


# ---------------------------------------------------------------------------------------------- files


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A right journal segment."""
    folder = tmp_path_factory.mktemp("journal")
    written = journal.Journal(folder, 2**20, start_ns=NOW)
    written.add_frame(NOW, 0, PACKED[0])
    written.add_event(Timer(NOW, NOW))
    written.add_effects_hash(1, "ab")
    written.close()
    return journal.segments(folder)[0].read_bytes()


ENCODER = msgspec.msgpack.Encoder(decimal_format="string")
RECORDS = (
    journal.Header(NOW),
    (NOW, 0, PACKED[0]),
    Timer(NOW, NOW),
    OrderUpdate("b", BTC, OrderState.FILLED, "7", SMALL, "é", "send", NOW),
    journal.EffectsHash(1, "ab"),
    journal.Lost(1, "full"),
    journal.Piece(b"\x90"),
    journal.Opened(1, "ab"),
    journal.Wide(msgspec.json.encode(Timer(NOW, NOW))),
)
wides = broken_bytes({"type": "Timer", "ts_ns": 1, "exchange_ns": 2}).map(journal.Wide)


def block(raw: bytes, *, said: int | None = None) -> bytes:
    """A block with a right checksum around any content; ``said`` is what its header claims the content's size to be."""
    body = zstandard.ZstdCompressor().compress(raw)
    return struct.pack("<4sIII", b"BLK1", len(body), len(raw) if said is None else said, zlib.crc32(body)) + body


def records(data: bytes) -> list[journal.Record]:
    """Read a segment of these bytes."""
    with tempfile.NamedTemporaryFile(suffix=journal.SUFFIX) as file:
        file.write(data)
        file.flush()
        return list(journal.read_journal(Path(file.name)))


@given(st.data())
@settings(max_examples=500)
def test_journal_files(segment: bytes, data: st.DataObject) -> None:
    """Records, or `DamagedJournalError`: noise in place, and right checksums around wrong content."""
    if data.draw(st.booleans()):
        content = data.draw(broken_bytes(raw=(segment,)))
    else:
        right = ENCODER.encode([*RECORDS, *data.draw(st.lists(wides, max_size=1))])
        wrong = data.draw(st.just(b"\x91" * DEEP) | broken_bytes(raw=(right,)))
        said = data.draw(st.none() | st.integers(0, 2**28))
        content = segment + block(wrong, said=said) + segment[len(journal.MAGIC) :]
    found = outcome(lambda: records(content), journal.DamagedJournalError)
    if isinstance(found, ErrorText):
        assert "\n" not in found
        assert len(found) < 600
    else:
        assert all(isinstance(one, journal.Record) for one in found)


def test_a_journal_block_that_swells_is_refused() -> None:
    """A body whose content is larger than its block says is not unpacked: memory stays bounded."""
    bomb = zstandard.ZstdCompressor().compress(bytes(2**27))
    head = struct.pack("<4sIII", b"BLK1", len(bomb), 10, zlib.crc32(bomb))
    tracemalloc.start()
    try:
        with pytest.raises(journal.DamagedJournalError):
            records(journal.MAGIC + head + bomb)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A right artifact."""
    return saved(tmp_path_factory.mktemp("model") / "m")


@given(st.data())
@settings(max_examples=300)
def test_model_files(model: Path, data: st.DataObject) -> None:
    """A model, or `BadArtifact`; a wrong manifest, wrong weights, and weights whose hash was made to fit."""
    manifest, weights = (model / MANIFEST).read_bytes(), (model / WEIGHTS).read_bytes()
    what = data.draw(st.integers(0, 2))
    if what == 0:
        manifest = data.draw(broken_bytes(msgspec.json.decode(manifest)))
    else:
        weights = data.draw(broken_bytes(raw=(weights,)))
    if what == 2:
        fitting = msgspec.json.decode(manifest) | {"weights_sha256": sha256(weights).hexdigest()}
        manifest = msgspec.json.encode(fitting)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MANIFEST).write_bytes(manifest)
        (Path(folder) / WEIGHTS).write_bytes(weights)
        found = outcome(lambda: load_artifact(Path(folder)), BadArtifact)
    assert isinstance(found, Artifact) or len(found) < 2_000


# ---------------------------------------------------------------------------------------------- configuration

TOML = (Path(__file__).resolve().parents[2] / "config/paper.toml").read_bytes()
LINES = tuple(
    f"{section}\n{key} = {value}\n".encode()
    for section in ("", "[risk]", "[exchange]", "[forecast]", "[api]", "[ledger]", "[strategy_params]", "[risk.x]", "[[risk]]")
    for key in ("mode", "universe", "max_weight", "listen", "id", "url", "stop_cooldown", "é", '"a.b"', "train_bars")
    for value in ("nan", "inf", "-1", "1e400", "9" * 400, '"²"', "[]", "{}", "1979-05-27T07:32:00Z", "[" * 3_000, '"\\u0000"')
)  # fmt: skip


@given(st.sampled_from(LINES) | broken_bytes(raw=(TOML, *LINES)))
@settings(max_examples=600)
def test_configuration_files(content: bytes) -> None:
    """Settings, or `ConfigError` with one line per problem."""
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(content)
        file.flush()
        read({}, file.name)


NAMES = st.sampled_from(
    ("MODE", "UNIVERSE", "RISK__MAX_WEIGHT", "RISK", "API__LISTEN", "LEDGER__URL", "STRATEGY_PARAMS", "STRATEGY_PARAMS__X",
     "RISK__STOP_COOLDOWN", "CAPITAL", "BAR", "EXCHANGE__REST_URL", "STRATEGY_PARAMS__A__B", "", "__", "RISK__", "É")
)  # fmt: skip
VALUES = st.text(max_size=40) | st.sampled_from(
    ("nan", "[" * 5_000, "{a=" * 3_000, "\udcff", "9" * 5_000, "1e999", "²s", "0:0", "[::1]:99999", "http://[", "100%%")
)


@given(st.dictionaries(NAMES, VALUES, max_size=3))
@settings(max_examples=600)
def test_environment(variables: dict[str, str]) -> None:
    """The same for variables."""
    read({f"BALLAST_{name}": value for name, value in variables.items()})


def read(env: dict[str, str], *files: str) -> None:
    """Load, or be told why not."""
    found = outcome(lambda: load_settings(files, env), ConfigError)
    if isinstance(found, ErrorText):
        assert found
        assert all(len(line) < 1_200 for line in found.splitlines())
    else:
        assert isinstance(found, Settings)
