"""Snapshots: an engine restored goes on as the one it was taken of, to the bit; what cannot be kept is refused by name."""

import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.core.blotter import Working
from daemon.core.buffers import Buffers
from daemon.core.decisions import Decisions
from daemon.core.engine import Engine
from daemon.core.market import Market
from daemon.core.run import Runner
from daemon.core.snapshot import PIECE_ITEMS, attributes, freeze, pieces
from daemon.core.snapshot_restore import difference, restore
from daemon.core.snapshot_values import SnapshotError, Writer
from daemon.domain.events import (
    Action,
    Candles,
    Command,
    Confirmed,
    Decide,
    Decided,
    Denied,
    Effect,
    Fault,
    Flow,
    Killed,
    Link,
    Listed,
    Reconciled,
    Repair,
    Submit,
    TradingState,
    WorkerDown,
    WorkerUp,
)
from daemon.domain.market import NS_PER_S, Bar, BarFlag, Ignored, Tick
from daemon.domain.orders import Cause, Intent, OrderState, Side, Tif
from daemon.domain.signal import Forecast, NoDecision, NoReason, Targets
from risk.limits import Limits
from tests.core.driver import SYMBOLS, Driver, all_of, instrument, make_config

BTC, ETH = SYMBOLS
ENCODE = msgspec.msgpack.Encoder(decimal_format="string").encode
HOLDING = make_config(
    limits=Limits(stop_cooldown_ns=60 * NS_PER_S, volatility_stop=3.0, order=Tif.GTC),
    tif=Tif.GTC,
    leaving=("OLD/USDT",),
)


def written(engine: Engine) -> bytes:
    """The whole snapshot."""
    return b"".join(pieces(freeze(engine)))


def copied(engine: Engine) -> Engine:
    """Another engine with the same state."""
    other = Engine(engine.config)
    restore(other, pieces(freeze(engine)))
    return other


# ---------------------------------------------------------------------------------------------- stories


def decide(driver: Driver, share: str) -> None:
    """Let a bar pass, answer when asked, fill a share of what was sent."""
    for ask in all_of(driver.bar(), Decide):
        forecast = Forecast(SYMBOLS, 24, (0.01, 0.02), (0.01, 0.02), (0.1, 0.1), (0.5, 0.5), (0.2, 0.2), "m")
        answer = Decided(ask.seq, Targets(SYMBOLS, (0.2, 0.1), forecast), 1, 1, 1, driver.now_ns)
        for submit in all_of(driver.send(answer), Submit):
            for approved in submit.approved:
                if share == "0":
                    driver.send(driver.news(approved, OrderState.UNKNOWN))
                elif share == "denied":
                    driver.send(Denied((approved.intent.client_id,), "too old", driver.now_ns))
                elif share == "resting":
                    driver.send(driver.news(approved, OrderState.ACKED))
                else:
                    driver.fill(approved, share)


def candles(symbol: str, now_ns: int, hours: int) -> Candles:
    """Closed candles of so many hours that move up and down."""
    length = hours * 3_600 * NS_PER_S
    bars = tuple(
        Bar(symbol, at, at + length, 100.0, 101.5 + at % 7, 98.25, 99.75, 3.5, 9, -1, -1, BarFlag.BACKFILLED)
        for at in range(now_ns - 20 * length, now_ns, length)
    )
    return Candles(symbol, length, bars, now_ns)


def spike(driver: Driver) -> None:
    """A price that nobody believes at first."""
    driver.tick(BTC, driver.prices[BTC] * 50)
    driver.prices[BTC] /= 50


def asks(driver: Driver) -> None:
    """A question that stays open."""
    driver.bar()


def third_asset(driver: Driver) -> None:
    """A fill whose fee is paid in another asset."""
    for ask in all_of(driver.bar(), Decide):
        answer = Decided(ask.seq, Targets(SYMBOLS, (0.25, 0.15)), 1, 1, 1, driver.now_ns)
        for submit in all_of(driver.send(answer), Submit):
            for approved in submit.approved:
                driver.fill(approved)
                fill = next(one for one in reversed(driver.events) if type(one).__name__ == "Fill")
                driver.send(msgspec.structs.replace(fill, trade_id=f"x{driver.trades}", fee_asset="BNB"))


STEPS: dict[str, Callable[[Driver], object]] = {
    "bar": Driver.bar,
    "tick": lambda d: d.tick(BTC),
    "gap": lambda d: d.tick(BTC, skip=2),
    "repair": lambda d: d.send(Repair(BTC, 1, 2, (), ok=False, detail="busy", ts_ns=d.now_ns)),
    "spike": spike,
    "fill all": lambda d: decide(d, "1"),
    "fill half": lambda d: decide(d, "0.5"),
    "unknown": lambda d: decide(d, "0"),
    "denied": lambda d: decide(d, "denied"),
    "resting": lambda d: decide(d, "resting"),
    "open question": asks,
    "no decision": lambda d: [
        d.send(Decided(one.seq, NoDecision(NoReason.INFEASIBLE, "x"), 1, 1, 1, d.now_ns))
        for one in all_of(d.bar(), Decide)
    ],
    "third asset": third_asset,
    "fall": lambda d: d.tick(BTC, d.prices[BTC] * 0.9),
    "rise": lambda d: d.tick(ETH, d.prices[ETH] * 1.05),
    "timer": lambda d: d.timer(1_100),
    "long": lambda d: d.timer(6_000),
    "cut": lambda d: d.send(
        Link("market", up=False, detail="cut", ts_ns=d.now_ns), Link("market", up=True, detail="", ts_ns=d.now_ns)
    ),
    "history": lambda d: d.send(d.history(BTC, 20)),
    "confirmed": lambda d: d.send(Confirmed(BTC, d.ids[BTC] + 1, d.prices[BTC], ok=True, ts_ns=d.now_ns)),
    "daily": lambda d: d.send(candles(BTC, d.now_ns, 24)),
    "hourly": lambda d: d.send(candles(BTC, d.now_ns, 1)),
    "break": lambda d: d.send(
        Reconciled(
            ok=False, balances=(), breaks=(("BTC", Decimal("1.5"), Decimal(1)),), external_orders=1, ts_ns=d.now_ns
        )
    ),
    "agrees": lambda d: d.send(Reconciled(ok=True, balances=(), breaks=(), external_orders=0, ts_ns=d.now_ns)),
    "deposit": lambda d: d.send(Flow("USDT", Decimal("12.340"), ours=True, detail="deposit", ts_ns=d.now_ns)),
    "worker down": lambda d: d.send(WorkerDown("gone", d.now_ns)),
    "worker up": lambda d: d.send(WorkerUp("other", 5, d.now_ns)),
    "fault": lambda d: d.send(Fault("feed", "died", d.now_ns)),
    "kill": lambda d: d.send(Killed(True, "file", d.now_ns)),
    "lifted": lambda d: d.send(Killed(False, "", d.now_ns)),
    "rules": lambda d: d.send(Listed(tuple(map(instrument, SYMBOLS)), d.now_ns, orders_per_10s=40)),
    **{
        action.value: lambda d, action=action: d.send(Command("1", action, "test", d.now_ns))  # type: ignore[misc]
        for action in (Action.PAUSE, Action.RESUME, Action.FLATTEN, Action.REDUCE_ONLY)
    },
}
STORIES = st.lists(st.sampled_from(sorted(STEPS)), max_size=14)


def begun() -> Driver:
    """An engine that trades."""
    return Driver().start()


def follow(driver: Driver, steps: list[str]) -> None:
    """Let things happen."""
    for step in steps:
        STEPS[step](driver)


@settings(max_examples=60, deadline=None)
@given(STORIES, STORIES)
def test_a_restored_engine_goes_on_byte_for_byte(before: list[str], after: list[str]) -> None:
    """I10: interrupted anywhere, the effects that follow are those of the engine that was never interrupted."""
    whole, split = begun(), begun()
    follow(whole, before)
    follow(split, before)
    split.engine = copied(split.engine)
    assert written(split.engine) == written(whole.engine)

    follow(whole, after)
    follow(split, after)

    assert list(map(ENCODE, split.effects)) == list(map(ENCODE, whole.effects))
    assert written(split.engine) == written(whole.engine)


def test_restored_after_every_step() -> None:
    """A long session of every kind of event, restored between any two of them, ends as the uninterrupted one."""
    chance = random.Random(7)
    steps = [*sorted(STEPS), *chance.choices(sorted(STEPS), k=40)]
    chance.shuffle(steps)
    whole, split = begun(), begun()
    for step in steps:
        STEPS[step](whole)
        STEPS[step](split)
        split.engine = copied(split.engine)

    assert list(map(ENCODE, split.effects)) == list(map(ENCODE, whole.effects))
    assert len(whole.effects) > 100
    assert {type(one).__name__ for one in whole.effects} >= {
        "Submit",
        "Decide",
        "Booked",
        "Persist",
        "StateChanged",
        "Seed",
    }


def test_a_picture_stays_as_it_was() -> None:
    """What happens after it was taken does not change it: it may be written later, in a thread."""
    driver = begun().buy(BTC=0.2)
    driver.tick(BTC, skip=3)
    was = written(driver.engine)
    picture = freeze(driver.engine)
    chance = random.Random(3)
    follow(driver, chance.choices(sorted(STEPS), k=60))

    assert b"".join(pieces(picture)) == was
    assert written(driver.engine) != was


def test_an_engine_that_knows_nothing() -> None:
    """The state before the first event, and one with a held symbol that has left the universe."""
    for config in (make_config(), HOLDING):
        engine = Engine(config)
        assert written(copied(engine)) == written(engine)


def test_shared_objects_stay_shared_and_callables_are_the_new_engines() -> None:
    """Two ways to one object stay so; a gate's checks are methods of the restored gate; configuration is not copied."""
    driver = begun().buy(BTC=0.2)
    other = copied(driver.engine)

    assert other.markets._markets is other.state.markets
    assert other.exits._state is other.state
    assert other.decisions._columns is other.markets.columns
    assert other.state.config is other.config
    assert all(check.__self__ is other.state.gate for check in other.state.gate._buy_checks)  # type: ignore[attr-defined]
    assert type(other.state.causes.state) is TradingState


def everything(engine: Engine) -> Iterator[object]:
    """Every object that can be reached from an engine."""
    seen: set[int] = set()
    todo: list[object] = [engine]
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, dict):
            todo += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set | frozenset | deque):
            todo += one
        elif type(one).__module__.startswith(("daemon.", "risk.")):
            todo += attributes(one)[1]


def test_every_class_of_state_is_met() -> None:
    """The stories above reach every class with state that the engine is made of: a new one must be added to them."""
    met: set[str] = set()
    for seed in range(6):
        driver = begun()
        chance = random.Random(seed)
        for step in chance.choices(sorted(STEPS), k=60):
            STEPS[step](driver)
            met |= {type(one).__name__ for one in everything(driver.engine)}

    assert met >= {
        "Engine", "State", "Account", "Blotter", "Breaks", "Causes", "Columns", "Buffers", "Decisions", "ExitDesk", "Exits",
        "Exit", "Market", "Markets", "BarBuilder", "Continuity", "OrderDesk", "Working", "Gate", "Throttle", "Drawdown",
        "Stops", "_Guard", "StopHit", "Repeats", "LossVerdict", "Step", "Counter", "deque", "ndarray",
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------- what grows


def test_a_new_attribute_is_covered() -> None:
    """A field that a class gets tomorrow is kept without a word here, whatever of the known kinds it holds."""
    driver = begun()
    grown: Any = driver.engine.state
    grown.remarks = {
        "deep": [deque([1, 2], maxlen=3), {3, 1, 2}, Counter("aab"), (Decimal("1.50"), [Side.BUY])],
        "plain": (True, 1, 1.0, "1", b"1", None, 2**80, -(2**70), float("inf"), -0.0, frozenset({Side.SELL})),
        ("BTC", 1): np.arange(6, dtype=np.int64).reshape(2, 3),
        Cause.FLATTEN: Tick(BTC, 1, 1.0, 3 * 10**19, 1, 1, sell=False),
    }
    other: Any = Engine(driver.config)
    other.state.remarks = None  # the class has it too
    restore(other, pieces(freeze(driver.engine)))
    kept = other.state.remarks

    assert repr(kept) == repr(grown.remarks)
    assert kept["deep"][0].maxlen == 3
    assert [type(one) for one in kept["plain"]] == [type(one) for one in grown.remarks["plain"]]
    assert kept["plain"][0] is True
    assert type(next(key for key in kept if key == "flatten")) is Cause
    assert written(other) == written(driver.engine)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ((one for one in "x"), "builtins.generator"),
        (iter([]), "builtins.list_iterator"),
        ([].append, "builtins.builtin_function_or_method"),
        (defaultdict(list), "collections.defaultdict"),
        (np.float64(1.0), "numpy.float64"),
        (object(), "builtins.object"),
        (memoryview(b""), "builtins.memoryview"),
        ([bytearray(b"")], "builtins.bytearray"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_kept_is_named(value: object, what: str) -> None:
    """Class, attribute and kind in one line, at the moment it is taken: nothing is left out silently."""
    engine: Any = Engine(make_config())
    engine.state.odd = value
    name = "" if isinstance(value, list) else r"State\.odd: "

    with pytest.raises(SnapshotError, match=rf"^{name}a {what} cannot be kept in a snapshot$"):
        freeze(engine)


def test_keys_and_tuples_of_changing_things_are_refused_when_they_are_written() -> None:
    """An object as a key, or a frozen set of objects, is found by whoever writes."""
    engine: Any = Engine(make_config())
    engine.state.odd = {Market(BTC, 1): 1}

    with pytest.raises(SnapshotError, match=r"daemon\.core\.market\.Market cannot be kept"):
        list(pieces(freeze(engine)))


def test_work_in_pieces_is_not_kept() -> None:
    """A decision that is half made is a generator: the recorder waits until it is done."""
    engine: Any = Engine(make_config())
    engine.decisions._work = (() for _ in range(2))

    with pytest.raises(SnapshotError, match=r"^Decisions\._work: a builtins\.generator cannot be kept"):
        freeze(engine)


def test_a_method_of_something_else_is_refused() -> None:
    """A callable belongs to an object of the engine, or the restored engine could not have it."""
    engine: Any = Engine(make_config())
    engine.state.odd = Market(BTC, 1).continuity.accept

    with pytest.raises(SnapshotError, match="method of a Continuity outside the engine"):
        freeze(engine)


# ---------------------------------------------------------------------------------------------- what does not fit


def test_other_code_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attributes that came, went or changed their type between recording and restoring: class and attribute are named."""
    driver = begun().buy(BTC=0.2)
    parts = list(pieces(freeze(driver.engine)))
    plain = Decisions.__init__

    def grown(self: Any, *given: Any) -> None:
        plain(self, *given)
        self.patience = 1
        del self.seq

    monkeypatch.setattr(Decisions, "__init__", grown)
    with pytest.raises(SnapshotError, match="another version of the code: in Decisions seq is gone, patience is new"):
        restore(Engine(driver.config), parts)
    monkeypatch.undo()

    slots = tuple(name for name in Market.__slots__ if name != "price_ns")
    text = b"".join(parts).replace(b"\xa8price_ns", b"\xa8pride_ns")
    assert len(slots) == len(Market.__slots__) - 1
    with pytest.raises(SnapshotError, match="in Market pride_ns is gone, price_ns is new"):
        restore(Engine(driver.config), _split(text))
    text = b"".join(parts).replace(b"bid_qty: float", b"bid_qty: fload")
    with pytest.raises(SnapshotError, match="in Book bid_qty: fload is gone, bid_qty: float is new"):
        restore(Engine(driver.config), _split(text))
    text = b"".join(parts).replace(b"daemon.core.exitdesk:", b"daemon.edge.exitdesk:")
    with pytest.raises(SnapshotError, match="daemon.edge.exitdesk:ExitDesk is no class of daemon.core"):
        restore(Engine(driver.config), _split(text))


def _split(text: bytes) -> Iterator[bytes]:
    """Pieces follow each other as msgpack arrays: read them one by one."""
    whole = [one for part in _documents(text) for one in part]
    yield msgspec.msgpack.encode(whole)


def _documents(text: bytes) -> Iterator[list[object]]:
    decoder = msgspec.msgpack.Decoder()
    while text:
        for end in range(len(text), 0, -1):
            try:
                yield decoder.decode(text[:end])
            except msgspec.DecodeError:
                continue
            text = text[end:]
            break


@pytest.mark.parametrize("size", [0, 1])
def test_half_a_snapshot_is_refused(size: int) -> None:
    """A snapshot that was not written to its end is never taken for one."""
    driver = Driver(make_config(backfill_bars=10_000)).start()
    parts = list(pieces(freeze(driver.engine)))
    assert len(parts) > 1

    with pytest.raises(SnapshotError, match="its last part is missing"):
        restore(Engine(driver.config), parts[:size])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_broken_snapshots_are_refused_or_restored(data: st.DataObject) -> None:
    """Any byte changed: a restored engine or one line, never another exception and no code of another package."""
    text = bytearray(SMALL)
    at = data.draw(st.integers(0, len(text) - 1))
    text[at] = data.draw(st.integers(0, 255))
    try:
        restore(Engine(make_config()), [bytes(text)])
        said = ""
    except SnapshotError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < 600


def _small() -> bytes:
    driver = Driver(make_config(backfill_bars=8)).start(bars=8).buy(BTC=0.1)
    return next(_split(written(driver.engine)))


SMALL = _small()


def test_the_first_difference_is_named() -> None:
    """Two states are compared attribute by attribute; a number that was read back as a float is the same number."""
    driver = begun().buy(BTC=0.2)
    driver.tick(BTC, skip=2)
    engine: Any = copied(driver.engine)
    mine = list(pieces(freeze(driver.engine)))

    def against() -> str:
        return difference(mine, list(pieces(freeze(engine))))

    assert against() == ""
    market = engine.state.markets[BTC]
    engine.state.turnover_total, market.last = driver.engine.state.turnover_total, int(market.last)
    market.book = msgspec.structs.replace(market.book, bid_qty=5)
    assert written(engine) != written(driver.engine)
    assert against() == ""
    market.book = msgspec.structs.replace(market.book, bid_qty=5.5)
    assert against() == "Market.book"
    engine = copied(driver.engine)
    engine.markets.columns.buffers._data[0, -1, 3] = 1.0
    assert against() == ""  # beyond the mirror's first half nothing counts
    engine.markets.columns.buffers._data[0, 0, 3] += 1.0
    assert against() == "numbers"
    engine = copied(driver.engine)
    engine.state.account.booked["X", "1"] = None
    assert against() == "contained"
    engine = copied(driver.engine)
    engine.state.account.fees_quote += Decimal("1E-12")
    assert against() == "Account.fees_quote"
    with pytest.raises(SnapshotError, match="last part is missing"):
        difference(mine, [])
    with pytest.raises(SnapshotError, match="does not fit this code: DecodeError"):
        difference(mine, [b"\xc1"])


# ---------------------------------------------------------------------------------------------- sizes


def test_many_orders_and_executions() -> None:
    """Thousands of done orders and booked executions go in rows and pieces; each piece stays small, the order is kept."""
    driver = begun().buy(BTC=0.2)
    state = driver.engine.state
    some = next(iter(state.blotter.done.values()))
    for number in range(3_000):
        intent = msgspec.structs.replace(some.intent, client_id=f"b{number}", leg=number)
        state.blotter.done[intent.client_id] = Working(intent, some.state, "1", some.stated, some.booked, number)
        state.account.booked[BTC, f"n{number}"] = None
    state.blotter.live["b7"] = state.blotter.done["b7"]  # two ways to one order
    parts = list(pieces(freeze(driver.engine)))
    other = Engine(driver.config)
    restore(other, parts)

    assert len(parts) > 3_000 / PIECE_ITEMS
    assert max(map(len, parts)) < 2**19
    assert list(other.state.blotter.done) == list(state.blotter.done)
    assert list(other.state.account.booked) == list(state.account.booked)
    assert other.state.blotter.live["b7"] is other.state.blotter.done["b7"]
    assert written(other) == written(driver.engine)


def test_the_mirror_of_the_buffers_is_made_again() -> None:
    """Only half of the bars is kept; windows over the seam are those of the original, before and after the next bar."""
    driver = Driver(make_config(backfill_bars=12)).start(bars=12)
    for _ in range(5):
        driver.bar()
    mine = driver.engine.markets.columns.buffers
    theirs = copied(driver.engine).markets.columns.buffers
    assert type(theirs) is Buffers

    for buffers in (mine, theirs):
        buffers.append_column(buffers.close_ns + buffers.bar_ns, np.ones((2, 5)))
    assert mine.window(12).tobytes() == theirs.window(12).tobytes()
    assert mine.closes(12).tobytes() == theirs.closes(12).tobytes()
    assert mine.rows(0) == theirs.rows(0)


# ---------------------------------------------------------------------------------------------- the runner


class _Nothing:
    """A recorder that keeps nothing."""

    def add_frame(self, recv_ns: int, channel: int, frame: bytes) -> None:
        """Forget a frame."""

    def add_event(self, event: object) -> None:
        """Forget an event."""


def test_the_hash_of_effects_goes_on() -> None:
    """A runner told count and hash of what came before ends with those of the uninterrupted one."""
    driver = begun()
    follow(driver, ["fill all", "fall", "timer", "fill half", "cut", "timer"])
    events = driver.events

    def runner(engine: Engine) -> Runner:
        return Runner(engine, decode=lambda *_: Ignored("x"), recorder=_Nothing(), observe=lambda _: None)

    whole = runner(Engine(driver.config))
    effects: list[tuple[int, str]] = []
    for event in events:
        whole.emit(event)
        effects.append((whole.effects, whole.digest))
    for at in range(1, len(events), 7):
        first = runner(Engine(driver.config))
        for event in events[:at]:
            first.emit(event)
        second = runner(copied(first.engine))
        second.resume(first.effects, first.digest)
        for event in events[at:]:
            second.emit(event)
        assert (second.effects, second.digest) == effects[-1]
    with pytest.raises(ValueError, match="hex"):
        whole.resume(1, "no digest")


@dataclass(slots=True)
class _Foreign:
    name: str


def test_classes_of_other_packages_are_no_state() -> None:
    """Only what the pure packages define is walked."""
    engine: Any = Engine(make_config())
    engine.state.odd = _Foreign("x")

    with pytest.raises(SnapshotError, match="_Foreign cannot be kept"):
        freeze(engine)
    with pytest.raises(SnapshotError, match="cannot be kept"):
        Writer().put(_Foreign("x"))
    some = next(one for one in _intents(begun()) if one.side is Side.BUY)
    assert Writer().put(some)


def _intents(driver: Driver) -> Iterator[Intent]:
    effects: list[Effect] = [*driver.decide(BTC=0.2)]
    for submit in all_of(effects, Submit):
        yield from (one.intent for one in submit.approved)
