"""A recorded session replays equal from its journal alone, and every kind of difference is told in one line."""

from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from daemon.backtest.replay import ReplayResult, WireDecoder, replay
from daemon.core.config import EngineConfig
from daemon.core.engine import Engine
from daemon.core.run import Runner
from daemon.domain.events import (
    Decide,
    Decided,
    Effect,
    Event,
    Flow,
    History,
    Link,
    Listed,
    Reconciled,
    Restored,
    Seed,
    Submit,
    Timer,
    WorkerUp,
)
from daemon.domain.market import NS_PER_MS, NS_PER_S, Bar, BarFlag, Book, Instrument
from daemon.domain.orders import Tif
from daemon.domain.signal import Forecast, Targets
from daemon.outlets.journal import Frame, Header, Journal, Record, read_journal
from risk.limits import Limits

START_NS = 1_700_000_000 * NS_PER_S
PRICES = {"BTC/USDT": 40_000.0, "ETH/USDT": 2_000.0}
SYMBOLS = tuple(PRICES)
BARS = 20

CONFIG = EngineConfig(
    instance="test",
    account="",
    mode="paper",
    universe=SYMBOLS,
    quote="USDT",
    bar_ns=NS_PER_S,
    grace_ns=200 * NS_PER_MS,
    max_age_ns=3 * NS_PER_S,
    backfill_bars=100,
    lookback=5,
    rebalance_every=1,
    turnover_max=0.5,
    turnover_max_day=2.0,
    cost_bps=10.0,
    tif=Tif.IOC,
    limits=Limits(stop_cooldown_ns=60 * NS_PER_S),
    fee_rate=Decimal("0.001"),
    decision_deadline_ns=NS_PER_S // 2,
)


class Alternating:
    """A worker whose targets follow from what it was asked, and from ``bias``."""

    def __init__(self, bias: float = 0.0) -> None:
        self.bias = bias
        self.seeded = False

    def seed(self, seed: Seed) -> None:
        """Note that there is history."""
        self.seeded = True

    def decide(self, decide: Decide) -> Decided:
        """Want more of the first symbol at every other bar."""
        assert self.seeded
        odd = decide.close_ns // NS_PER_S % 2
        weights = (0.1 + 0.05 * odd, 0.2 - 0.05 * odd)
        mean = (0.01 * odd + 0.002 + self.bias, 0.0015)
        forecast = Forecast(decide.symbols, 24, mean, mean, (0.1, 0.1), (0.5, 0.5), (0.2, 0.2), "test")
        return Decided(decide.seq, Targets(decide.symbols, weights, forecast), 1, 2, 3, decide.ts_ns)


class Session:
    """A daemon without sockets: the real runner, recorder and decoder, a market of our own making."""

    def __init__(self, folder: Path, segment_bytes: int = 1 << 20) -> None:
        self.journal = Journal(
            folder,
            10**9,
            start_ns=START_NS,
            code_version="test",
            engine_json=msgspec.json.encode(CONFIG).decode(),
            segment_bytes=segment_bytes,
        )
        self.decoder = WireDecoder()
        self.worker = Alternating()
        self.effects: list[Effect] = []
        self.now_ns = START_NS
        self.ids = dict.fromkeys(SYMBOLS, 1000)
        self.runner = Runner(
            Engine(CONFIG),
            decode=self.decoder.decode,
            recorder=self.journal,
            dispatch=self._dispatch,
            observe=self.decoder.observe,
        )

    def _dispatch(self, effect: Effect) -> None:
        self.effects.append(effect)
        if isinstance(effect, Seed):
            self.worker.seed(effect)
        elif isinstance(effect, Decide):
            self.runner.emit(msgspec.structs.replace(self.worker.decide(effect), ts_ns=self.now_ns))

    def start(self) -> None:
        """Recover, stitch history, reconcile."""
        now = self.now_ns
        opening: list[Event] = [
            Restored(1, Decimal(0), (), (), (), "", now),
            Listed(tuple(map(instrument, SYMBOLS)), now),
            Timer(now, now),
            Flow("USDT", Decimal(100_000), ours=True, detail="opening", ts_ns=now),
            Link("user", up=True, detail="", ts_ns=now),
            Link("market", up=True, detail="", ts_ns=now),
            *(history(symbol, now, self.ids[symbol]) for symbol in SYMBOLS),
            *(book(symbol, now) for symbol in SYMBOLS),
            Reconciled(ok=True, balances=(), breaks=(), external_orders=0, ts_ns=now),
            WorkerUp("test", 0, now),
        ]
        for event in opening:
            self.runner.emit(event)

    def bar(self) -> None:
        """Let one bar pass: a trade and a book per symbol, then the timer that closes it."""
        self.now_ns += NS_PER_S
        for symbol in SYMBOLS:
            self.runner.emit(book(symbol, self.now_ns))
            self.runner.on_frame(trade(symbol, self.ids[symbol], self.now_ns), self.now_ns + NS_PER_MS)
            self.ids[symbol] += 1
        self.runner.emit(Timer(self.now_ns + 2 * NS_PER_MS, self.now_ns + 2 * NS_PER_MS))
        self.journal.add_effects_hash(self.runner.effects, self.runner.digest)


def instrument(symbol: str) -> Instrument:
    """Plain trading rules."""
    base, _, quote = symbol.partition("/")
    step = Decimal("0.00001")
    return Instrument(symbol, base + quote, base, quote, Decimal("0.01"), step, step, Decimal(9000), Decimal(5))


def history(symbol: str, now_ns: int, next_id: int) -> History:
    """Flat closed bars up to now."""
    price = PRICES[symbol]
    bars = tuple(
        Bar(symbol, at, at + NS_PER_S, price, price, price, price, 10**8, 1, -1, -1, BarFlag.BACKFILLED)
        for at in range(now_ns - BARS * NS_PER_S, now_ns, NS_PER_S)
    )
    return History(symbol, bars, (), next_id, partial=False, ts_ns=now_ns)


def book(symbol: str, now_ns: int) -> Book:
    """A quote around the price."""
    return Book(symbol, PRICES[symbol] * 0.9999, 5.0, PRICES[symbol] * 1.0001, 5.0, now_ns)


def trade(symbol: str, trade_id: int, now_ns: int) -> bytes:
    """A frame as Binance sends it."""
    name, ms = symbol.replace("/", ""), now_ns // NS_PER_MS
    return (
        f'{{"stream":"{name.lower()}@aggTrade","data":{{"e":"aggTrade","E":{ms},"s":"{name}","a":{trade_id},'
        f'"p":"{PRICES[symbol]:.2f}","q":"0.01000000","f":{trade_id},"l":{trade_id},"T":{ms},"m":false,"M":true}}}}'
    ).encode()


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[Path, Session]:
    """The journal folder of a session that decided and ordered."""
    session = Session(tmp_path)
    session.start()
    for _ in range(12):
        session.bar()
    session.journal.close()
    return tmp_path, session


def rewritten(folder: Path, records: list[Record]) -> Path:
    """The same journal with other records."""
    target = folder / "again"
    header = next(record for record in records if isinstance(record, Header))
    journal = Journal(target, 10**9, start_ns=header.start_ns, engine_json=header.engine_json)
    for record in records:
        if isinstance(record, Frame):
            journal.add_frame(record.recv_ns, record.channel, record.data)
        elif not isinstance(record, Header):
            journal._append(record)
    journal.close()
    return target


def different(result: ReplayResult) -> str:
    """The one line of a replay that is not equal."""
    assert not result.ok
    assert "\n" not in result.summary
    return result.difference


def test_recorded_decisions_replay_equal(recorded: tuple[Path, Session]) -> None:
    """The same effects to the last bit, with nothing but the journal at hand."""
    folder, session = recorded
    assert any(isinstance(effect, Submit) and effect.approved for effect in session.effects)
    result = replay(folder)

    assert result.difference == ""
    assert result.ok
    assert (result.effects, result.digest) == (session.runner.effects, session.runner.digest)
    assert result.checked == 12
    assert result.frames == 24
    assert result.decided > 5
    assert replay(folder) == result


def test_recomputed_decisions_replay_equal(recorded: tuple[Path, Session]) -> None:
    """A worker asked again gives the same forecasts and intents."""
    result = replay(recorded[0], decisions="recomputed", worker_factory=lambda *_: Alternating())

    assert result.difference == ""
    assert result.decided > 5


def test_forecast_tolerance(recorded: tuple[Path, Session]) -> None:
    """Within 1e-6 is equal; beyond, the first asset and field are named."""
    near = replay(recorded[0], decisions="recomputed", worker_factory=lambda *_: Alternating(5e-7))
    far = replay(recorded[0], decisions="recomputed", worker_factory=lambda *_: Alternating(1e-3))

    assert near.ok
    assert "forecast mean of BTC/USDT" in different(far)


def test_other_intents_are_told(recorded: tuple[Path, Session]) -> None:
    """A worker with other targets and equal forecasts is found by its orders."""

    class Other(Alternating):
        def decide(self, decide: Decide) -> Decided:
            decided = super().decide(decide)
            assert isinstance(decided.result, Targets)
            return msgspec.structs.replace(decided, result=msgspec.structs.replace(decided.result, weights=(0.0, 0.2)))

    line = different(replay(recorded[0], decisions="recomputed", worker_factory=lambda *_: Other()))

    assert line.startswith("intent ")
    assert "recorded buy" in line
    assert "recomputed" in line


def test_a_model_that_is_gone_is_told(recorded: tuple[Path, Session]) -> None:
    """Every worker of the session is asked for by its model; one that cannot be had ends the comparison."""

    def gone(_: Header, model: str) -> Alternating:
        raise ValueError(f"{model} was removed")

    assert different(replay(recorded[0], decisions="recomputed", worker_factory=gone)) == (
        'no worker with model "test": test was removed'
    )


def test_a_changed_event_is_found(recorded: tuple[Path, Session]) -> None:
    """One price changed in one frame: the hash after it differs."""
    records = list(read_journal(recorded[0]))
    at = next(i for i, record in enumerate(records) if isinstance(record, Frame) and b"40000.00" in record.data)
    frame = records[at]
    assert isinstance(frame, Frame)
    records[at] = Frame(frame.recv_ns, frame.channel, frame.data.replace(b"40000.00", b"40001.00"))

    assert "effects" in different(replay(rewritten(recorded[0], records)))


def test_other_code_is_found(recorded: tuple[Path, Session]) -> None:
    """An engine that behaves otherwise ends with other effects."""

    def other(_: Header) -> Engine:
        return Engine(msgspec.structs.replace(CONFIG, rebalance_every=3))

    assert "effects" in different(replay(recorded[0], other))


def test_lost_records_and_torn_tails(tmp_path: Path) -> None:
    """A torn tail is the end of the recording; records lost on the way are a difference."""
    session = Session(tmp_path)
    session.start()
    for _ in range(6):
        session.bar()
        session.journal.flush_now()
    session.journal._drop([Timer(1, 1)] * 3)
    session.bar()
    session.journal.close()
    (path,) = tmp_path.glob("*.journal")

    assert "3 records were lost" in different(replay(tmp_path))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    torn = replay(path)
    assert torn.ok
    assert 0 < torn.checked < 6


def test_missing_parts_are_told(tmp_path: Path) -> None:
    """A journal without its start, or with a hole, cannot be replayed."""
    session = Session(tmp_path, segment_bytes=4096)
    session.start()
    for _ in range(60):
        session.bar()
        session.journal.flush_now()
    session.journal.close()
    parts = sorted(tmp_path.glob("*.journal"))
    assert len(parts) >= 3
    assert replay(tmp_path).ok

    parts[1].rename(tmp_path / "aside")
    assert different(replay(tmp_path)) == "segment 1 of the run is missing"
    parts[0].unlink()
    with pytest.raises(ValueError, match=r"segment 2 of its run .*first are gone"):
        replay(tmp_path)
    with pytest.raises(ValueError, match="needs a worker"):
        replay(tmp_path, decisions="recomputed")
