"""The runner: one event at a time, recorded before it is processed, effects in order, the same digest for the same tape."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.core import run as module
from daemon.core.engine import Engine
from daemon.core.run import Runner, ignore
from daemon.domain.events import (
    Action,
    Alert,
    Command,
    Decide,
    Decided,
    Effect,
    Event,
    Fault,
    Link,
    Step,
    Submit,
    Timer,
)
from daemon.domain.market import Book, Ignored, Malformed, RejectReason, Tick
from daemon.domain.signal import Targets
from tests.core.driver import START_NS, SYMBOLS, Driver, all_of, make_config

BTC = SYMBOLS[0]
Decoded = Tick | Book | Malformed | Ignored
UNUSED = Ignored("x")


class Tape:
    """A recorder that keeps what it is given."""

    def __init__(self) -> None:
        """Start empty."""
        self.rows: list[object] = []

    def add_frame(self, recv_ns: int, channel: int, frame: bytes) -> None:
        """Keep a frame."""
        self.rows.append((recv_ns, channel, frame))

    def add_event(self, event: Event) -> None:
        """Keep an event."""
        self.rows.append(event)


def runner(
    decoded: Decoded = UNUSED,
    *,
    dispatch: Callable[[Effect], None] = ignore,
    on_tick: Callable[[Tick], None] | None = None,
) -> tuple[Runner, Tape, list[Event]]:
    """Return a runner whose decoder always says the same, its tape and what was observed."""
    tape, seen = Tape(), list[Event]()
    made = Runner(
        Engine(make_config()),
        decode=lambda _frame, _recv_ns: decoded,
        recorder=tape,
        observe=seen.append,
        dispatch=dispatch,
        on_tick=on_tick,
    )
    return made, tape, seen


def replay(events: list[Event]) -> Runner:
    """Run a tape of events through a new engine."""
    made, _, _ = runner()
    for event in events:
        made.emit(event)
    return made


def test_a_trade_is_recorded_as_its_frame_and_everything_else_as_an_event() -> None:
    """A tape of frames and events is all a replay needs; what means nothing is not on it."""
    tick = Tick(BTC, 1, 40_000.0, 1, START_NS, START_NS, sell=False)
    ticks: list[Tick] = []
    made, tape, seen = runner(tick, on_tick=ticks.append)
    made.on_frame(b"frame", START_NS)
    assert tape.rows == [(START_NS, module.MARKET_CHANNEL, b"frame")]
    assert ticks == [tick]
    assert seen == []

    bad = Malformed(RejectReason.BROKEN_JSON, "x", "", START_NS)
    made, tape, seen = runner(bad)
    made.on_frame(b"frame", START_NS)
    assert tape.rows == seen == [bad]

    made, tape, seen = runner()
    made.on_frame(b"frame", START_NS)
    assert tape.rows == []


def test_events_that_effects_bring_wait_their_turn() -> None:
    """A port that answers at once does not re-enter the engine: events are processed whole, in order."""
    order: list[str] = []

    def dispatch(effect: Effect) -> None:
        order.append(f"effect {type(effect).__name__}")
        if isinstance(effect, Alert) and effect.code == "fault" and len(seen) == 1:
            made.emit(Link("rest", up=False, detail="", ts_ns=START_NS))
            order.append(f"waits {made.depth}")

    made, tape, seen = runner(dispatch=dispatch)
    made.emit(Fault("feed", "died", START_NS))

    assert order[:2] == ["effect Alert", "waits 1"]
    assert [type(event) for event in seen] == [Fault, Link]
    assert tape.rows == seen
    assert made.depth == 0


def test_events_that_a_tick_s_effects_bring_are_processed_after_it() -> None:
    """The hot path hands on in the same order."""
    driver = Driver().start().buy(BTC=0.1)
    driver.now_ns += 10**6
    tick = Tick(BTC, driver.ids[BTC], 36_000.0, 1, driver.now_ns, driver.now_ns, sell=False)
    seen: list[Event] = []

    def dispatch(effect: Effect) -> None:
        if isinstance(effect, Alert) and effect.code == "stop_loss":
            made.emit(Timer(driver.now_ns, driver.now_ns))
            assert seen == []

    made = Runner(driver.engine, decode=lambda _f, _n: tick, recorder=Tape(), observe=seen.append)
    made.plug(dispatch=dispatch, on_tick=None)
    made.on_frame(b"", driver.now_ns)

    assert [type(event) for event in seen] == [Timer]
    assert made.effects > 0


def test_a_dispatcher_that_raises_leaves_the_runner_usable() -> None:
    """The fault is raised to who fed the event; the next event is processed."""

    def dispatch(effect: Effect) -> None:
        raise KeyError("x")

    made, _, seen = runner(dispatch=dispatch)
    with pytest.raises(KeyError):
        made.emit(Fault("feed", "died", START_NS))
    made.plug(dispatch=ignore, on_tick=None)
    made.emit(Fault("feed", "again", START_NS))

    assert len(seen) == 2


def test_an_engine_that_lags_too_far_behind_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is a bound."""
    monkeypatch.setattr(module, "WAITING_MAX", 2)

    def dispatch(effect: Effect) -> None:
        for _ in range(5):
            made.emit(Timer(START_NS, START_NS))

    made, _, _ = runner(dispatch=dispatch)
    with pytest.raises(OverflowError, match="lags"):
        made.emit(Fault("feed", "died", START_NS))


def play(driver: Driver, step: str) -> None:
    """Let one thing happen."""
    match step:
        case "bar":
            driver.bar()
        case "tick":
            driver.tick(BTC)
        case "gap":
            driver.tick(BTC, skip=2)
        case "spike":
            driver.tick(BTC, driver.prices[BTC] * 50)
            driver.prices[BTC] /= 50
        case "decide":
            decide(driver)
        case "fall":
            driver.tick(BTC, driver.prices[BTC] * 0.9)
        case "timer":
            driver.timer(1100)
        case "cut":
            driver.send(Link("market", up=False, detail="cut", ts_ns=driver.now_ns))
            driver.send(Link("market", up=True, detail="", ts_ns=driver.now_ns))
        case _:
            driver.send(Command("1", Action(step), "test", driver.now_ns))


def decide(driver: Driver) -> None:
    """Let a bar pass, answer when asked, and fill half of what was sent."""
    for ask in all_of(driver.bar(), Decide):
        answer = Decided(ask.seq, Targets(SYMBOLS, (0.2, 0.1)), 1, 1, 1, driver.now_ns)
        for submit in all_of(driver.send(answer), Submit):
            for approved in submit.approved:
                driver.fill(approved, "0.5")


@settings(max_examples=25)
@given(
    st.lists(
        st.sampled_from(["bar", "tick", "gap", "spike", "decide", "fall", "timer", "cut", "resume", "flatten"]),
        min_size=1,
        max_size=12,
    )
)
def test_the_same_tape_gives_the_same_effects_byte_for_byte(story: list[str]) -> None:
    """I10: a session of any kind, replayed, ends with the same digest."""
    driver = Driver().start()
    for step in story:
        play(driver, step)

    first, second = replay(driver.events), replay(driver.events)

    assert first.digest == second.digest
    assert first.effects == second.effects == len(driver.effects)
    assert replay(driver.events[:-1]).effects <= first.effects
    assert all(one.equity >= 0 for one in all_of(driver.effects, Step))
