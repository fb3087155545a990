"""Two groups of tasks: trading restarts a few times and then halts, outlets for ever; jobs are never silent."""

import asyncio

import pytest

from daemon.edge import supervisor as module
from daemon.edge.clock import Clock
from daemon.edge.supervisor import JOBS_MAX, RESTARTS_MAX, Supervisor


class Mono(Clock):
    """A monotonic clock that the test moves."""

    __slots__ = ("at",)

    def __init__(self) -> None:
        """Start at one."""
        self.at = 1

    def mono_ns(self) -> int:
        """Return where the test put it."""
        return self.at


@pytest.fixture
def halts() -> list[tuple[str, str]]:
    """Who halted trading, and why."""
    return []


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no pause take real time."""
    real = asyncio.sleep

    async def sleep(_seconds: float) -> None:
        await real(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)


async def settle(supervisor: Supervisor, name: str) -> None:
    """Wait until a task is no longer running."""
    async with asyncio.timeout(5.0):
        while name not in supervisor.failed():
            await asyncio.sleep(0)


@pytest.mark.usefixtures("quick")
async def test_a_trading_task_that_keeps_failing_halts(halts: list[tuple[str, str]]) -> None:
    """F53: three restarts, then HALTED; the task is named by readiness."""
    supervisor = Supervisor(Clock(), lambda *why: halts.append(why))
    runs = 0

    async def fail() -> None:
        nonlocal runs
        runs += 1
        raise KeyError("x")

    supervisor.trading("feed", fail)
    await settle(supervisor, "feed")

    assert runs == RESTARTS_MAX + 1
    assert [name for name, _ in halts] == ["feed"]
    assert "KeyError" in halts[0][1]
    assert supervisor.restarts["feed"] == RESTARTS_MAX + 1

    supervisor.trading("feed", fail)
    assert supervisor.failed() == []
    await supervisor.stop()


@pytest.mark.usefixtures("quick")
async def test_failures_far_apart_never_halt(halts: list[tuple[str, str]]) -> None:
    """One fault a day is restarted for ever."""
    clock = Mono()
    supervisor = Supervisor(clock, lambda *why: halts.append(why))
    runs = 0
    enough = asyncio.Event()

    async def fail() -> None:
        nonlocal runs
        runs += 1
        clock.at += 400 * 10**9
        if runs == 20:
            enough.set()
            await asyncio.Event().wait()

    supervisor.trading("timer", fail)
    await asyncio.wait_for(enough.wait(), 5.0)

    assert halts == []
    await supervisor.stop("timer", "unknown")


@pytest.mark.usefixtures("quick")
async def test_an_outlet_is_restarted_for_ever_and_never_halts(halts: list[tuple[str, str]]) -> None:
    """F65: whatever an outlet does."""
    supervisor = Supervisor(Clock(), lambda *why: halts.append(why))
    runs = 0
    enough = asyncio.Event()

    async def flaky() -> None:
        nonlocal runs
        runs += 1
        if runs == 50:
            enough.set()
        if runs % 2:
            raise ValueError("x")

    supervisor.outlet("mqtt", flaky)
    await asyncio.wait_for(enough.wait(), 5.0)

    assert halts == []
    assert supervisor.failed() == []
    await supervisor.stop()


async def test_jobs_are_counted_bounded_and_their_failure_halts_nothing(halts: list[tuple[str, str]]) -> None:
    """A request that fails is logged; too many at once halt."""
    supervisor = Supervisor(Clock(), lambda *why: halts.append(why))
    release = asyncio.Event()

    async def wait() -> None:
        await release.wait()

    async def fail() -> None:
        raise KeyError("x")

    supervisor.job("fail", fail())
    assert await supervisor.settle(1.0) == 0
    for _ in range(JOBS_MAX):
        supervisor.job("wait", wait())
    assert supervisor.jobs == JOBS_MAX
    supervisor.job("one more", wait())
    assert [name for name, _ in halts] == ["one more"]
    assert await supervisor.settle(0.01) == JOBS_MAX

    release.set()
    assert await supervisor.settle(5.0) == 0
    assert await supervisor.settle(5.0) == 0


async def test_a_task_that_does_not_end_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopping is bounded."""
    monkeypatch.setattr(module, "STOP_TIMEOUT_S", 0.05)
    supervisor = Supervisor(Clock(), lambda *_: None)
    release = asyncio.Event()
    started = asyncio.Event()

    async def stubborn() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await release.wait()

    supervisor.trading("stubborn", stubborn)
    await started.wait()
    await supervisor.stop()
    release.set()
    await supervisor.stop()
