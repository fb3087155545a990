"""The chores beside the line, and the stages of a stop."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from daemon.domain.errors import ConfigError, Transient
from daemon.domain.events import Candles, Event, Link, Listed, Recorded
from daemon.domain.orders import OrderState, OrderUpdate
from daemon.edge.clock import Clock
from daemon.service import upkeep
from daemon.service.stages import Stage, stop_in
from daemon.service.steady import SteadyClock
from daemon.service.upkeep import DAY_NS, FAILURES_MAX, HOUR_NS, Upkeep, until
from tests.sim.loop import SimLoop

PAIRS = ("BTC/USDT", "ETH/USDT")


class World:
    """Venue and market data that fail as often as told."""

    def __init__(self) -> None:
        """Answer well."""
        self.failures: list[Exception] = []
        self.asked: list[str] = []
        self.events: list[Event] = []
        self.offsets: list[int] = []
        self.offset_ns = 7
        self.quiet_s = 0.0
        self.called = asyncio.Event()

    def upkeep(self, *, hourly: bool = False, clock: Clock | None = None) -> Upkeep:
        """Return the chores around this world."""
        here: Any = self
        return Upkeep(
            universe=PAIRS,
            hourly=hourly,
            market=here,
            venue=here,
            emit=self.events.append,
            clock=clock or Clock(),
            on_offset=self.offsets.append,
        )

    def _note(self, what: str) -> None:
        self.asked.append(what)
        self.called.set()
        if self.failures:
            raise self.failures.pop(0)

    async def reconcile(self) -> None:
        """Compare."""
        self._note("reconcile")

    async def clock_offset(self) -> int:
        """Measure the clock."""
        self._note("clock")
        return self.offset_ns

    async def instruments(self, universe: tuple[str, ...]) -> Listed:
        """Return the rules."""
        self._note("rules")
        return Listed((), 1)

    async def candles(self, symbol: str, interval_ns: int, count: int) -> Candles:
        """Return candles."""
        self._note(f"candles {symbol} {interval_ns // HOUR_NS}")
        return Candles(symbol, interval_ns, (), 1)

    async def saw(self, count: int) -> None:
        """Wait until so many requests were made."""
        async with asyncio.timeout(5.0):
            while len(self.asked) < count:
                self.called.clear()
                await self.called.wait()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pauses be short, except the one between comparisons."""
    for name in ("RETRY_S", "CLOCK_S", "CLOCK_WRONG_S", "CLOCK_AGAIN_S", "RULES_S"):
        monkeypatch.setattr(upkeep, name, 0.001)


async def run_until(world: World, task: Any, count: int) -> None:
    """Run an eternal task until so many requests were made."""
    running = asyncio.create_task(task)
    await world.saw(count)
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_venue_that_does_not_answer_is_rest_down_until_it_does() -> None:
    """F16: told once when it goes, once when it comes back."""
    world = World()
    world.failures = [Transient("a"), Transient("b")]
    await run_until(world, world.upkeep().reconcile(), 3)

    links = [event for event in world.events if isinstance(event, Link)]
    assert [(link.feed, link.up) for link in links] == [("rest", False), ("rest", True)]


async def test_several_failed_requests_or_a_long_absence_compare_at_once() -> None:
    """The next comparison does not wait for its half minute."""
    world = World()
    chores = world.upkeep()
    running = asyncio.create_task(chores.reconcile())
    await world.saw(1)
    for _ in range(FAILURES_MAX):
        chores.asked("error")
    await world.saw(2)
    chores.asked("ok")
    chores.hurry()
    await world.saw(3)
    running.cancel()

    assert world.asked == ["reconcile"] * 3


async def test_the_interval_passes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparing goes on for ever."""
    monkeypatch.setattr(upkeep, "RECONCILE_S", 0.001)
    world = World()
    await run_until(world, world.upkeep().reconcile(), 3)


async def test_the_clock_is_measured_again_and_again() -> None:
    """F47: the offset follows the venue's clock."""
    world = World()
    await run_until(world, world.upkeep().follow_clock(), 2)

    assert world.offsets[0] == 7


async def test_a_clock_that_is_wrong_or_unknown_is_measured_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """I16: found by the simulation (seed 7): a minute more without trading for one measurement that failed or was late."""
    monkeypatch.setattr(upkeep, "CLOCK_S", 3_600.0)
    world = World()
    world.offset_ns, world.failures = 10**9, [Transient("no answer")]
    chores = world.upkeep()
    chores._clock_now.set()
    await run_until(world, chores.follow_clock(), 4)

    assert world.offsets[:3] == [10**9] * 3


@pytest.mark.parametrize(
    ("state", "asking", "seconds"),
    [
        ("right", False, [60, 120, 180]),
        ("right", True, [1, 21, 41, 61]),
        ("wrong", False, [60, 65, 70, 75]),
        ("wrong", True, [1, 6, 11, 16]),
        ("unknown", True, [1, 6, 11, 16]),
    ],
)
def test_f47_the_clock_is_measured_as_often_as_the_limits_say(
    monkeypatch: pytest.MonkeyPatch, state: str, asking: bool, seconds: list[int]
) -> None:
    """On virtual time: every 5 s while it is wrong or unknown and never more often, whatever asks for it each second."""
    monkeypatch.undo()
    world = World()
    world.offset_ns = 10**9 if state == "wrong" else 7
    world.failures = [Transient("no answer")] * 99 if state == "unknown" else []
    measured: list[float] = []

    async def live() -> None:
        loop = asyncio.get_running_loop()
        chores = world.upkeep()
        running = asyncio.create_task(chores.follow_clock())
        while len(measured) < len(seconds):
            await asyncio.sleep(1.0)
            if asking:
                chores._clock_now.set()
            for _ in range(5):
                await asyncio.sleep(0)
            measured.extend([loop.time()] * (len(world.asked) - len(measured)))
        running.cancel()

    loop = SimLoop()
    try:
        loop.run_until_complete(live())
    finally:
        loop.close()

    assert [round(at) for at in measured] == seconds


async def test_rules_are_refreshed_and_a_refusal_is_no_end() -> None:
    """F26: a symbol that is gone is logged; the rest is asked for again."""
    world = World()
    world.failures = [ConfigError("universe: X not listed")]
    await run_until(world, world.upkeep().follow_rules(), 3)

    assert {type(event) for event in world.events} == {Listed}


async def test_a_refused_order_has_the_rules_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """F26, P12: a halt or a new step is told by a refusal first; another end of an order is no reason."""
    monkeypatch.setattr(upkeep, "RULES_S", 3_600.0)
    world = World()
    chores = world.upkeep()
    running = asyncio.create_task(chores.follow_rules())
    for state in (OrderState.FILLED, OrderState.REJECTED):
        await asyncio.sleep(0)
        assert world.asked == []
        update = OrderUpdate("b1", PAIRS[0], state, "", Decimal(0), "-1013", "send", 1)
        chores.watch(Recorded(update))
    await world.saw(1)
    running.cancel()

    assert world.asked == ["rules"]


@pytest.mark.parametrize(("hourly", "count"), [(False, 2), (True, 4)])
async def test_candles_of_other_lengths_are_fetched_and_then_their_close_is_awaited(hourly: bool, count: int) -> None:
    """Daily ones always, hourly ones while the volatility stop is on."""
    world = World()
    await run_until(world, world.upkeep(hourly=hourly).candles(), count)

    lengths = {event.interval_ns for event in world.events if isinstance(event, Candles)}
    assert lengths == ({DAY_NS, HOUR_NS} if hourly else {DAY_NS})
    assert len(world.asked) == count


async def test_f26_candles_of_a_delisted_symbol_hold_up_nobody() -> None:
    """The venue does not know the first one any more; the second one's come."""
    world = World()
    world.failures = [ConfigError("universe: the exchange does not know a symbol")]
    await run_until(world, world.upkeep().candles(), 2)

    assert [one.symbol for one in world.events if isinstance(one, Candles)] == [PAIRS[1]]


async def test_a_ledger_that_cannot_be_written_is_told_when_that_changes() -> None:
    """F48: HALTED while nothing can be made durable."""
    world = World()
    chores = world.upkeep()
    for writable in (True, False, False, True):
        chores.look(writable=writable)

    assert [(one.feed, one.up) for one in world.events if isinstance(one, Link)] == [
        ("ledger", False),
        ("ledger", True),
    ]


async def test_f9_a_long_pause_is_rest_down_until_a_comparison_after_it() -> None:
    """What waits for the end of a ban fails nowhere: REDUCING all the same, told once; a short pause is no news."""
    world = World()
    chores = world.upkeep()
    running = asyncio.create_task(chores.reconcile())
    await world.saw(1)
    for quiet_s in (4.0, 900.0, 899.0):
        world.quiet_s = quiet_s
        chores.look(writable=True)
    links = [event for event in world.events if isinstance(event, Link)]
    assert [(link.feed, link.up) for link in links] == [("rest", False)]
    assert links[0].detail == "the exchange has told us to send nothing for another 900 s"

    chores.hurry()
    await world.saw(2)  # in paper a comparison asks nothing and succeeds: no reason to believe in the venue
    await asyncio.sleep(0)
    assert len([event for event in world.events if isinstance(event, Link)]) == 1
    world.quiet_s = 0.0
    chores.look(writable=True)
    await world.saw(3)
    await asyncio.sleep(0)
    running.cancel()

    assert [event.up for event in world.events if isinstance(event, Link)] == [False, True]


async def test_a_clock_that_was_set_is_measured_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """F47: not a minute later."""
    monkeypatch.setattr(upkeep, "CLOCK_S", 60.0)
    clock = SteadyClock()
    world = World()
    chores = world.upkeep(clock=clock)
    chores.look(writable=True)
    running = asyncio.create_task(chores.follow_clock())
    await asyncio.sleep(0.01)
    assert world.asked == []

    monkeypatch.setattr(Clock, "now_ns", lambda _self: clock.mono_ns())
    chores.look(writable=True)
    await world.saw(1)
    running.cancel()

    assert world.asked == ["clock"]


async def test_until_passes_on_what_no_retry_can_cure() -> None:
    """Only what passes by itself is waited for."""
    answers: list[Exception] = [Transient("x"), ConfigError("no")]

    async def ask() -> int:
        raise answers.pop(0)

    with pytest.raises(ConfigError):
        await until(ask, "it")


async def test_every_stage_of_a_stop_has_its_turn() -> None:
    """One that raises, one that hangs, plain and async ones: the ledger at the end is closed all the same."""
    done: list[str] = []

    async def hang() -> None:
        await asyncio.Event().wait()

    async def boom() -> None:
        raise ExceptionGroup("several", [RuntimeError("x")])

    async def fine() -> None:
        done.append("async")

    await stop_in(
        (
            Stage("hang", hang, 0.01),
            Stage("boom", boom, 1.0),
            Stage("sync boom", lambda: int("x"), 1.0),
            Stage("async", fine, 1.0),
            Stage("plain", lambda: done.append("plain"), 1.0),
        )
    )

    assert done == ["async", "plain"]
