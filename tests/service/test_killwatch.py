"""The kill latch and the clock as the running daemon sees them."""

from pathlib import Path

import pytest

from daemon.domain.events import Event, Killed
from daemon.domain.market import NS_PER_S
from daemon.edge.clock import Clock
from daemon.edge.latch import KillLatch
from daemon.service.killwatch import KillWatch
from daemon.service.steady import SteadyClock

DAY_NS = 86_400 * NS_PER_S


@pytest.fixture
def events() -> list[Event]:
    """What the engine heard."""
    return []


def told(events: list[Event]) -> list[bool]:
    """Return what was told, and forget it."""
    out = [event.on for event in events if isinstance(event, Killed)]
    events.clear()
    return out


def test_the_first_look_is_told_whatever_it_finds(tmp_path: Path, events: list[Event]) -> None:
    """A kill remembered from the last session gives way when its latch was lifted while the daemon was away."""
    watch = KillWatch(KillLatch(tmp_path), events.append, Clock())
    watch.check()
    watch.check()

    assert told(events) == [False]


def test_changes_are_told_once(tmp_path: Path, events: list[Event]) -> None:
    """By whoever made the latch, and by whoever lifted it."""
    latch = KillLatch(tmp_path)
    watch = KillWatch(latch, events.append, Clock())
    latch.set("by hand")
    watch.check()
    watch.check()
    assert [event.detail for event in events if isinstance(event, Killed)] == ["by hand"]
    assert told(events) == [True]

    latch.lift()
    watch.check()
    assert told(events) == [False]


def test_a_command_is_not_told_twice(tmp_path: Path, events: list[Event]) -> None:
    """The command itself reaches the engine; its latch is no second kill."""
    watch = KillWatch(KillLatch(tmp_path), events.append, Clock())
    watch.set("signal")
    watch.check()

    assert told(events) == []
    assert KillLatch(tmp_path).detail() == "signal"


def test_a_latch_the_disk_refuses_is_owed_until_it_is_written(tmp_path: Path, events: list[Event]) -> None:
    """F57: a full or broken disk does not lift a kill; the latch is made as soon as it can be."""
    state = tmp_path / "state"
    state.write_text("a file where the folder should be")
    watch = KillWatch(KillLatch(state), events.append, Clock())
    watch.set("signal")
    watch.check()
    watch.check()
    assert told(events) == []

    state.unlink()
    watch.check()
    assert KillLatch(state).detail() == "signal"
    assert told(events) == []


class Machine(SteadyClock):
    """A steady clock on a machine whose clocks the test sets."""

    wall_ns = 1_700_000_000 * NS_PER_S
    monotonic_ns = 5 * NS_PER_S

    __slots__ = ()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SteadyClock:
    """Let wall and monotonic clock stand where ``Machine`` says."""
    monkeypatch.setattr(Machine, "wall_ns", Machine.wall_ns)
    monkeypatch.setattr(Machine, "monotonic_ns", Machine.monotonic_ns)
    monkeypatch.setattr(Clock, "now_ns", lambda _self: Machine.wall_ns)
    monkeypatch.setattr(Clock, "mono_ns", lambda _self: Machine.monotonic_ns)
    return Machine()


def pass_time(*, wall_ns: int, monotonic_ns: int) -> None:
    """Let the machine's clocks go on, each in its own way."""
    Machine.wall_ns += wall_ns
    Machine.monotonic_ns += monotonic_ns


@pytest.mark.parametrize("step_ns", [-DAY_NS, -2 * NS_PER_S, 2 * NS_PER_S, DAY_NS])
def test_a_step_of_the_machine_s_clock_moves_nothing(machine: SteadyClock, step_ns: int) -> None:
    """F47: timers and ages go on; the step is noticed, and the venue, which disagrees, does not let it in."""
    before = machine.now_ns()
    pass_time(wall_ns=NS_PER_S + step_ns, monotonic_ns=NS_PER_S)

    assert machine.now_ns() == before + NS_PER_S
    assert machine.stepped()
    assert machine.follow(3_000_000) == 3_000_000
    assert machine.now_ns() == before + NS_PER_S


def test_after_a_suspension_time_is_caught_up_once_the_venue_agrees(machine: SteadyClock) -> None:
    """F45: the monotonic clock stood still; the wall clock and the venue say how late it is."""
    before = machine.now_ns()
    pass_time(wall_ns=3600 * NS_PER_S, monotonic_ns=0)
    assert machine.now_ns() == before

    assert machine.follow(3600 * NS_PER_S + 3_000_000) == 3_000_000
    assert machine.now_ns() == before + 3600 * NS_PER_S
    assert not machine.stepped()


def test_f47_a_measurement_over_a_slow_line_agrees_with_nothing(machine: SteadyClock) -> None:
    """The machine's clock is 0.7 s ahead for a while, the venue's answer took 2 s: we stay (simulation, seed 971)."""
    before = machine.now_ns()
    pass_time(wall_ns=700_000_000, monotonic_ns=0)

    assert machine.follow(1_076_000_000, 1_000_000_000) == 1_076_000_000
    assert machine.follow(200_000_000, 200_000_000) == 200_000_000
    assert machine.now_ns() == before
    assert machine.follow(650_000_000, 190_000_000) == -50_000_000
    assert machine.now_ns() == before + 700_000_000


def test_time_never_goes_back(machine: SteadyClock) -> None:
    """Even when the venue and the machine agree that we are ahead: then nothing is sent, and a person restarts."""
    before = machine.now_ns()
    pass_time(wall_ns=-DAY_NS, monotonic_ns=0)

    assert machine.follow(-DAY_NS) == -DAY_NS
    assert machine.now_ns() == before


def test_a_clock_that_is_ahead_at_the_start_begins_at_the_venue_s(machine: SteadyClock) -> None:
    """F47: set right later, the machine's clock would else leave this one ahead for ever (simulation, seed 1047)."""
    before = machine.now_ns()

    assert machine.begin(-30 * NS_PER_S) == 0
    assert machine.now_ns() == before - 30 * NS_PER_S
    pass_time(wall_ns=-29 * NS_PER_S, monotonic_ns=NS_PER_S)
    assert not machine.stepped()
    assert machine.follow(0) == 0


def test_a_clock_that_is_behind_at_the_start_waits_for_the_machine(machine: SteadyClock) -> None:
    """F47: the venue alone never sets it forward; when the machine is set right, both do."""
    before = machine.now_ns()

    assert machine.begin(30 * NS_PER_S) == 30 * NS_PER_S
    assert machine.now_ns() == before
    pass_time(wall_ns=30 * NS_PER_S, monotonic_ns=0)
    assert machine.follow(30 * NS_PER_S) == 0
    assert machine.now_ns() == before + 30 * NS_PER_S
