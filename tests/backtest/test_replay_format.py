"""A recorded session replays equal from its journal alone, and every kind of difference is told in one line."""

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon.backtest.replay import ReplayResult, WireDecoder, replay
from daemon.core.decisions import Decisions
from daemon.core.engine import Engine
from daemon.core.run import Runner
from daemon.domain.events import (
    Continue,
    Decide,
    Decided,
    Effect,
    Event,
    Flow,
    History,
    Link,
    Listed,
    Proceed,
    Reconciled,
    Restored,
    Seed,
    Submit,
    Timer,
    WorkerUp,
)
from daemon.domain.market import NS_PER_MS, NS_PER_S, Bar, BarFlag, Book
from daemon.domain.orders import Fill, Intent, OrderState, OrderUpdate, Side
from daemon.domain.signal import Forecast, Targets
from daemon.outlets.journal import Frame, Header, Journal, Record, read_journal
from daemon.service.recording import Recording
from tests.core.driver import PRICES, START_NS, SYMBOLS, instrument, make_config

BARS = 20

CONFIG = make_config()


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
        more = len(decide.symbols) - 2
        weights = (0.1 + 0.05 * odd, 0.2 - 0.05 * odd, *(0.01 + 0.01 * ((n + odd) % 2) for n in range(more)))
        mean = (0.01 * odd + 0.002 + self.bias, 0.0015, *[0.001] * more)
        wide, skill, width = ((one,) * len(mean) for one in (0.1, 0.5, 0.2))
        forecast = Forecast(decide.symbols, 24, mean, mean, wide, skill, width, "test")
        return Decided(decide.seq, Targets(decide.symbols, weights, forecast), 1, 2, 3, decide.ts_ns)


class Session:
    """A daemon without sockets: the real runner, recorder and decoder, a market of our own making."""

    def __init__(
        self, folder: Path, segment_bytes: int = 1 << 20, *, snapshots: bool = True, symbols: tuple[str, ...] = SYMBOLS
    ) -> None:
        config = make_config(universe=symbols)
        self.symbols = symbols
        self.owed = 0
        self.journal = Journal(
            folder,
            10**9,
            start_ns=START_NS,
            code_version="test",
            engine_json=msgspec.json.encode(config).decode(),
            segment_bytes=segment_bytes,
        )
        self.snapshots = snapshots
        self.decoder = WireDecoder()
        self.worker = Alternating()
        self.effects: list[Effect] = []
        self.now_ns = START_NS
        self.ids = dict.fromkeys(symbols, 1000)
        self.runner = Runner(
            Engine(config),
            decode=self.decoder.decode,
            recorder=self.journal,
            dispatch=self._dispatch,
            observe=self.decoder.observe,
        )
        self.recording = Recording(self.journal, self.runner)

    def _dispatch(self, effect: Effect) -> None:
        self.effects.append(effect)
        if isinstance(effect, Seed):
            self.worker.seed(effect)
        elif isinstance(effect, Decide):
            self.runner.emit(msgspec.structs.replace(self.worker.decide(effect), ts_ns=self.now_ns))
        elif isinstance(effect, Continue):
            self.owed += 1
        elif isinstance(effect, Submit) and len(self.symbols) > len(SYMBOLS):
            for approved in effect.approved:  # few symbols: the orders' fate stays open, many: they are filled
                self._fill(approved.intent)

    def _fill(self, intent: Intent) -> None:
        name, now = intent.client_id, self.now_ns
        base, _, quote = intent.symbol.partition("/")
        paid = base if intent.side is Side.BUY else quote
        fee = Decimal(0)
        self.runner.emit(
            Fill(intent.symbol, name, name, "1", intent.side, intent.qty, intent.limit, fee, paid, False, now, "t")
        )
        self.runner.emit(OrderUpdate(name, intent.symbol, OrderState.FILLED, "1", intent.qty, "", "t", now))

    def start(self) -> None:
        """Recover, stitch history, reconcile."""
        now = self.now_ns
        opening: list[Event] = [
            Restored(1, Decimal(0), (), (), (), "", now),
            Listed(tuple(map(instrument, self.symbols)), now),
            Timer(now, now),
            Flow("USDT", Decimal(100_000), ours=True, detail="opening", ts_ns=now),
            Link("user", up=True, detail="", ts_ns=now),
            Link("market", up=True, detail="", ts_ns=now),
            *(history(symbol, now, self.ids[symbol]) for symbol in self.symbols),
            *(book(symbol, now) for symbol in self.symbols),
            Reconciled(ok=True, balances=(), breaks=(), external_orders=0, ts_ns=now),
            WorkerUp("test", 0, now),
        ]
        for event in opening:
            self.runner.emit(event)

    def bar(self) -> None:
        """Let one bar pass: a trade and a book per symbol, then the timer that closes it."""
        self.now_ns += NS_PER_S
        for symbol in self.symbols:
            self.runner.emit(book(symbol, self.now_ns))
            self.runner.on_frame(trade(symbol, self.ids[symbol], self.now_ns), self.now_ns + NS_PER_MS)
            self.ids[symbol] += 1
            if self.owed:  # one piece of a decision between any two trades
                self.owed -= 1
                self.runner.emit(Proceed(self.now_ns))
            if self.snapshots:
                self.recording.look()
        self.runner.emit(Timer(self.now_ns + 2 * NS_PER_MS, self.now_ns + 2 * NS_PER_MS))
        self.recording.beat()


def history(symbol: str, now_ns: int, next_id: int) -> History:
    """Flat closed bars up to now."""
    price = PRICES.get(symbol, 10.0)
    bars = tuple(
        Bar(symbol, at, at + NS_PER_S, price, price, price, price, 10**8, 1, -1, -1, BarFlag.BACKFILLED)
        for at in range(now_ns - BARS * NS_PER_S, now_ns, NS_PER_S)
    )
    return History(symbol, bars, (), next_id, partial=False, ts_ns=now_ns)


def book(symbol: str, now_ns: int) -> Book:
    """A quote around the price."""
    price = PRICES.get(symbol, 10.0)
    return Book(symbol, price * 0.9999, 5.0, price * 1.0001, 5.0, now_ns)


def trade(symbol: str, trade_id: int, now_ns: int) -> bytes:
    """A frame as Binance sends it."""
    name, ms = symbol.replace("/", ""), now_ns // NS_PER_MS
    return (
        f'{{"stream":"{name.lower()}@aggTrade","data":{{"e":"aggTrade","E":{ms},"s":"{name}","a":{trade_id},'
        f'"p":"{PRICES.get(symbol, 10.0):.2f}","q":"0.01000000","f":{trade_id},"l":{trade_id},"T":{ms},"m":false,"M":true}}}}'
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
    name, _, line = result.difference.partition(": ")
    assert name.endswith(".journal")
    return line


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
    session.journal._lost += session.journal._drop([Timer(1, 1)] * 3)
    session.bar()
    session.journal.close()
    (path,) = tmp_path.glob("*.journal")

    assert "3 records were lost" in different(replay(tmp_path))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    torn = replay(path)
    assert torn.ok
    assert 0 < torn.checked < 6


def test_segments_without_snapshots_need_their_predecessors(tmp_path: Path) -> None:
    """A journal of a recorder that never got a state: whole it replays, with a hole or without its start it does not."""
    session = Session(tmp_path, segment_bytes=4096, snapshots=False)
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
    with pytest.raises(ValueError, match=r"000002.journal: nothing here can be replayed: it opens without a snapshot"):
        replay(tmp_path)
    with pytest.raises(ValueError, match="needs a worker"):
        replay(tmp_path, decisions="recomputed")


# ---------------------------------------------------------------------------------------------- segments


@pytest.fixture
def long(tmp_path: Path) -> tuple[Path, Session, list[Path]]:
    """A session of several segments, each of which opens with the engine's state."""
    session = Session(tmp_path, segment_bytes=4096)
    session.start()
    for _ in range(160):
        session.bar()
        session.journal.flush_now()
    session.journal.close()
    parts = sorted(tmp_path.glob("*.journal"))
    assert len(parts) >= 5
    return tmp_path, session, parts


def verdicts(result: ReplayResult) -> list[str]:
    """What became of each segment."""
    return [one.verdict for one in result.segments]


def recomputed(folder: Path, from_segment: str = "") -> ReplayResult:
    """Replay with a worker that has seen nothing before."""
    return replay(folder, decisions="recomputed", worker_factory=lambda *_: Alternating(), from_segment=from_segment)


def test_every_kept_segment_can_be_replayed(long: tuple[Path, Session, list[Path]]) -> None:
    """I10: whole, from each segment on, and each alone: the same effects, whatever came before is gone."""
    folder, session, parts = long
    whole = replay(folder)

    assert whole.ok
    assert verdicts(whole) == ["equal"] * len(parts)
    assert (whole.effects, whole.digest) == (session.runner.effects, session.runner.digest)
    for number, part in enumerate(parts):
        rest = replay(folder, from_segment=str(number))
        assert rest.ok
        assert [one.name for one in rest.segments] == [one.name for one in parts[number:]]
        assert (rest.effects, rest.digest) == (whole.effects, whole.digest)
        alone = replay(part)
        assert alone.ok
        seen, again = alone.segments[0], whole.segments[number]
        assert (seen.frames, seen.events, seen.effects, seen.decided) == (
            again.frames, again.events, again.effects, again.decided,
        )  # fmt: skip
        assert seen.decided > 0
        assert recomputed(part).ok
    assert replay(folder, from_segment=parts[2].name).segments == replay(folder, from_segment="2").segments
    for part in parts[:-1]:
        part.unlink()
        assert replay(folder).ok
    assert recomputed(folder).ok


def test_decisions_in_pieces_replay_from_any_segment(tmp_path: Path) -> None:
    """Forty symbols: a decision takes several events, trades between them; no segment begins in the middle of one."""
    symbols = (*SYMBOLS, *(f"C{number}/USDT" for number in range(38)))
    session = Session(tmp_path, segment_bytes=40_000, symbols=symbols)
    session.start()
    busy = 0
    for _ in range(140):
        session.bar()
        busy += session.runner.engine.decisions.working
        session.journal.flush_now()
    session.journal.close()
    parts = sorted(tmp_path.glob("*.journal"))
    orders = [one for effect in session.effects if isinstance(effect, Submit) for one in effect.approved]

    assert len(parts) >= 3
    assert busy >= 3
    assert len(orders) > 40
    assert any(isinstance(one, Continue) for one in session.effects)
    assert replay(tmp_path).digest == session.runner.digest
    for part in parts:
        assert replay(part).ok
        result = recomputed(part)
        assert result.ok, result.difference
        assert result.decided >= 5


def test_a_hole_is_told_and_what_follows_is_replayed(long: tuple[Path, Session, list[Path]]) -> None:
    """A lost segment in the middle is a difference; the ones after it are replayed from their own states."""
    folder, _, parts = long
    parts[2].unlink()
    result = replay(folder)

    assert different(result) == "segment 2 of the run is missing"
    assert verdicts(result) == ["equal", "equal", "differs", *["equal"] * (len(parts) - 4)]
    assert all(one.checked for one in result.segments)


def test_damage_is_told_with_segment_and_offset(long: tuple[Path, Session, list[Path]]) -> None:
    """One changed byte in the middle: one line, and the later segments are replayed from their states."""
    folder, _, parts = long
    data = bytearray(parts[1].read_bytes())
    data[len(data) * 3 // 4] ^= 0x10
    parts[1].write_bytes(bytes(data))
    result = replay(folder)

    assert re.fullmatch(
        rf"{parts[1].name}: damaged at byte \d+: (checksum differs|no block begins there)", result.difference
    )
    assert not result.ok
    assert verdicts(result) == ["equal", "damaged", *["equal"] * (len(parts) - 2)]


def test_a_snapshot_that_is_torn_is_skipped(long: tuple[Path, Session, list[Path]]) -> None:
    """Killed while a segment was opened: what came before counts, and the message says why the last does not."""
    folder, _, parts = long
    for part in parts[4:]:
        part.unlink()
    data = parts[3].read_bytes()
    at = data.index(b"BLK1", data.index(b"BLK1", 8) + 4)  # the snapshot's first block, behind the header's
    parts[3].write_bytes(data[: data.index(b"BLK1", at + 4) + 10])
    result = replay(folder)

    assert result.ok
    assert verdicts(result) == ["equal", "equal", "equal", "skipped"]
    assert "the daemon ended while it wrote the snapshot" in result.segments[-1].summary


def test_killed_at_any_byte_the_rest_replays(long: tuple[Path, Session, list[Path]]) -> None:
    """Whatever was on the disk when the process died, what is there is equal: header, state or records cut anywhere."""
    folder, _, parts = long
    for part in parts[3:]:
        part.unlink()
    whole = parts[2].read_bytes()
    seen: set[tuple[str, ...]] = set()
    for size in [*range(0, len(whole), 97), len(whole) - 1, len(whole)]:
        parts[2].write_bytes(whole[:size])
        result = replay(folder)
        assert result.ok, (size, result.difference)
        assert verdicts(result)[:2] == ["equal", "equal"]
        seen.add(tuple(verdicts(result)[2:]))
    assert seen == {("equal",), ("skipped",)}


def test_any_changed_byte_is_found(long: tuple[Path, Session, list[Path]]) -> None:
    """A byte changed anywhere but in the very last block is never "equal": told with its segment, the next one is judged anew."""
    folder, _, parts = long
    for part in parts[4:]:
        part.unlink()
    for number in (0, 1, 2):
        whole = parts[number].read_bytes()
        for at in range(0, len(whole), 211):
            data = bytearray(whole)
            data[at] ^= 1 << (at % 8)
            parts[number].write_bytes(bytes(data))
            result = replay(folder)
            assert not result.ok, (number, at)
            assert result.segments[number].verdict == "damaged" or result.segments[number + 1].verdict == "differs"
            assert verdicts(result)[-1] == "equal" or number == 2
        parts[number].write_bytes(whole)
    assert replay(folder).ok


def test_a_missing_end_is_found_by_the_next_state(long: tuple[Path, Session, list[Path]]) -> None:
    """A segment that lacks its last block, not at the end of the run, is a difference: its successor remembers more."""
    folder, _, parts = long
    data = parts[1].read_bytes()
    cut = data.rindex(b"BLK1")
    parts[1].write_bytes(data[: data.rindex(b"BLK1", 0, cut)])
    result = replay(folder)

    assert "records before it are missing" in different(result)
    assert verdicts(result) == ["equal", "equal", "differs", *["equal"] * (len(parts) - 3)]


def test_state_that_differs_without_an_effect_is_found(long: tuple[Path, Session, list[Path]]) -> None:
    """A tape that leaves the engine in another state is found at the next segment, before any effect shows it."""
    folder, session, parts = long
    target = folder / "again"
    target.mkdir()
    for part in parts:
        target.joinpath(part.name).write_bytes(part.read_bytes())
    records = [one for one in read_journal(parts[0]) if not isinstance(one, Header)]
    book = next(at for at in range(len(records) - 1, 0, -1) if isinstance(records[at], Book))
    old = records[book]
    assert isinstance(old, Book)
    records[book] = msgspec.structs.replace(old, bid_qty=old.bid_qty + 1)
    journal = Journal(folder / "third", 10**9, start_ns=START_NS, engine_json=msgspec.json.encode(CONFIG).decode())
    for record in records:
        if isinstance(record, Frame):
            journal.add_frame(record.recv_ns, record.channel, record.data)
        else:
            journal._append(record)
    journal.close()
    next((folder / "third").iterdir()).replace(target / parts[0].name)
    result = replay(target)

    line = different(result)
    assert line.startswith("the engine's state is another than was recorded")
    assert line.endswith(": Market.book")
    assert verdicts(result)[:3] == ["equal", "differs", "equal"]
    assert session.runner.effects == result.effects


def test_snapshots_of_other_code_are_refused(
    long: tuple[Path, Session, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine whose classes hold something else cannot be restored: one line; from the start of the run it can be tried."""
    folder, _, parts = long
    plain = Decisions.__init__

    def grown(self: Decisions, *given: Any) -> None:
        plain(self, *given)
        self.added = 1  # type: ignore[attr-defined]

    monkeypatch.setattr(Decisions, "__init__", grown)
    assert replay(folder).ok
    with pytest.raises(ValueError, match="another version of the code: in Decisions added is new"):
        replay(parts[2])


def test_where_to_begin_is_checked(long: tuple[Path, Session, list[Path]]) -> None:
    """A segment that is not there is named, with those that are."""
    folder, _, parts = long

    with pytest.raises(ValueError, match=f"no such segment .*{parts[0].name} to {parts[-1].name} are kept"):
        replay(folder, from_segment="99")
    with pytest.raises(ValueError, match="only with a folder"):
        replay(parts[0], from_segment="1")
    (folder / "nothing").mkdir()
    with pytest.raises(ValueError, match="no journal segments"):
        replay(folder / "nothing")
