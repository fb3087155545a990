"""A1: the watchdog process cancels when the latch exists and the daemon does not, and never otherwise."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from daemon.domain.events import Killed, Timer
from daemon.edge.clock import Clock
from daemon.edge.latch import KillLatch
from daemon.edge.watchdog import Watchdog
from daemon.edge.watchdog_child import GRACE_NS, HANDOVER_NS, ORPHAN_NS, STALE_NS, Vigil
from daemon.edge.watchdog_venue import Door, Setup, code_of
from daemon.exchange.config import SimConfig
from daemon.exchange.faults import FaultRule
from daemon.exchange.rest_account import ticket_of
from daemon.exchange.server import SimulatedExchange
from tests.edge.handles_kit import few_handles, handles
from tests.edge.venue_kit import KEY, SECRET, price_of, until

PREFIX = "bmine"
OURS, THEIRS = 12, 3


@pytest.fixture
async def sim() -> AsyncIterator[SimulatedExchange]:
    """An exchange with orders of ours and of somebody else."""
    made = SimulatedExchange(SimConfig(history_bars=120, symbols=3))
    await made.start()
    for number in range(OURS):
        place(made, f"{PREFIX}{number}", ("BTC/USDT", "ETH/USDT")[number % 2])
    for number in range(THEIRS):
        place(made, f"hand{number}", "BTC/USDT")
    yield made
    await made.stop()


def place(sim: SimulatedExchange, client_id: str, symbol: str) -> None:
    """Let an order rest far below the market."""
    price = Decimal(repr(price_of(sim, symbol))) * Decimal("0.8")
    params = {
        "symbol": symbol.replace("/", ""),
        "side": "BUY",
        "type": "LIMIT",
        "timeInForce": "GTC",
        "quantity": f"{Decimal(20) / price:.4f}" if symbol == "BTC/USDT" else f"{Decimal(20) / price:.3f}",
        "price": f"{price:.2f}",
        "newClientOrderId": client_id,
    }
    sim.venue.desk.place(ticket_of(sim.venue, params), external=True)


def open_ids(sim: SimulatedExchange, prefix: str = PREFIX) -> list[str]:
    """Return the open orders whose id begins so."""
    return [one.client_id for one in sim.venue.desk.open_orders(None) if one.client_id.startswith(prefix)]


def cancels(sim: SimulatedExchange) -> int:
    """Count cancel requests that arrived."""
    return sum(seen.method == "DELETE" for seen in sim.requests)


def setup_of(sim: SimulatedExchange, folder: Path) -> Setup:
    """Return what the watchdog of a daemon on this exchange is told."""
    return Setup(f"http://127.0.0.1:{sim.port}/api/v3", KEY, SECRET, PREFIX, str(folder))


@contextlib.asynccontextmanager
async def beside(sim: SimulatedExchange, folder: Path) -> AsyncIterator[Watchdog]:
    """Run a watchdog as the daemon does, until its child is up."""
    dog = Watchdog(setup_of(sim, folder))
    task = asyncio.ensure_future(dog.run())
    try:
        await until(lambda: any(seen.path.endswith("/time") for seen in sim.requests))
        yield dog
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def beat(dog: Watchdog, while_true: Callable[[], bool], *, killed: bool = False, timeout_s: float = 10.0) -> None:
    """Let the daemon's timer tick every 20 ms while a condition holds."""
    if killed:
        dog.observe(Killed(on=True, detail="", ts_ns=0))
    async with asyncio.timeout(timeout_s):
        while while_true():
            dog.observe(Timer(0, 0))
            await asyncio.sleep(0.02)


def for_seconds(seconds: float) -> Callable[[], bool]:
    """Return a condition that holds so long."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    return lambda: loop.time() < end


def gone(pid: int) -> bool:
    """Say whether a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def lonely(folder: Path) -> tuple[Vigil, list[str]]:
    """Return what decides in the watchdog, with a venue that nobody listens at, and the names of what it says."""
    said: list[str] = []
    latch = KillLatch(folder)
    door = Door(Setup("http://127.0.0.1:1/api/v3", KEY, SECRET, PREFIX, str(folder)), latch, Clock())
    return Vigil(door, latch, lambda _level, event, **_: said.append(event)), said


async def test_a1_without_a_latch_nothing_is_ever_cancelled(sim: SimulatedExchange, tmp_path: Path) -> None:
    """Neither a healthy loop, nor a silent one, nor a dead daemon is a reason to cancel."""
    async with beside(sim, tmp_path) as dog:
        await beat(dog, for_seconds(0.4))
        quiet = for_seconds(0.8)
        await until(lambda: not quiet())
        pid = dog.pid
    await until(lambda: gone(pid))

    assert cancels(sim) == 0
    assert len(open_ids(sim)) == OURS


async def test_a1_a_latch_that_the_loop_does_not_see_cancels_ours_alone(sim: SimulatedExchange, tmp_path: Path) -> None:
    """The loop beats but says nothing of the latch: all orders of ours are cancelled, nobody else's."""
    async with beside(sim, tmp_path) as dog:
        await beat(dog, for_seconds(0.1))
        KillLatch(tmp_path).set("test")
        await beat(dog, lambda: bool(open_ids(sim)))

    assert len(open_ids(sim, "hand")) == THEIRS
    assert cancels(sim) == OURS


async def test_a1_a_silent_loop_is_no_excuse(sim: SimulatedExchange, tmp_path: Path) -> None:
    """F57: a loop that hangs altogether cannot acknowledge; the orders go all the same."""
    async with beside(sim, tmp_path):
        KillLatch(tmp_path).set("test")
        await until(lambda: not open_ids(sim))

    assert cancels(sim) == OURS


async def test_a1_what_an_acknowledging_loop_leaves_open_is_cancelled(sim: SimulatedExchange, tmp_path: Path) -> None:
    """After its two seconds the venue is asked, and what the daemon left open is cancelled."""
    async with beside(sim, tmp_path) as dog:
        await beat(dog, for_seconds(0.1), killed=True)
        KillLatch(tmp_path).set("test")
        await beat(dog, lambda: bool(open_ids(sim)))

    assert cancels(sim) == OURS


def test_a1_a_loop_that_stops_after_acknowledging_is_not_waited_for(tmp_path: Path) -> None:
    """A running loop that has seen the latch has two seconds; they are over when it falls silent."""
    vigil, _ = lonely(tmp_path)
    vigil.heard(b"0001", 0)
    KillLatch(tmp_path).set("test")
    vigil.step(1)
    vigil.step(STALE_NS)

    assert vigil.rounds == 0

    vigil.step(STALE_NS + 1)

    assert vigil.rounds == 1


def test_a1_a_running_loop_has_two_seconds_and_an_unseeing_one_a_tenth(tmp_path: Path) -> None:
    """The watchdog acts when either time is over, and not before."""
    KillLatch(tmp_path).set("test")
    for word, patience_ns in ((b"1", HANDOVER_NS), (b"0", GRACE_NS)):
        vigil, _ = lonely(tmp_path)
        vigil.step(0)
        vigil.step(1)
        vigil.heard(word, patience_ns)
        vigil.step(patience_ns)

        assert vigil.rounds == 0

        vigil.step(1 + patience_ns)

        assert vigil.rounds == 1


async def test_a1_what_the_dead_daemon_left_is_cancelled_before_it_ends(sim: SimulatedExchange, tmp_path: Path) -> None:
    """The daemon dies in the moment of the kill, and its parts beside it; the watchdog finishes and goes."""
    async with beside(sim, tmp_path) as dog:
        pid = dog.pid
        os.kill(pid, signal.SIGTERM)
        KillLatch(tmp_path).set("test")
    await until(lambda: not open_ids(sim) and gone(pid))

    assert cancels(sim) == OURS


async def test_a1_refusals_and_lost_answers_are_tried_again(sim: SimulatedExchange, tmp_path: Path) -> None:
    """A venue that answers nonsense, loses answers and wants quiet is asked until it shows none of ours."""
    rules = [
        {"match": "GET /api/v3/openOrders", "action": "error", "status": 503, "times": 2},
        {"match": "DELETE /api/v3/order", "action": "cut_after", "times": 3},
        {"match": "DELETE /api/v3/order", "action": "error", "status": 500, "times": 2},
    ]
    numbers = [sim.faults.add(msgspec.convert(rule, FaultRule)) for rule in rules]
    async with beside(sim, tmp_path):
        KillLatch(tmp_path).set("test")
        await until(lambda: not open_ids(sim), timeout_s=20.0)

    assert all(sim.faults.counts()[number] for number in numbers)
    assert len(open_ids(sim, "hand")) == THEIRS


async def test_a1_a_lifted_latch_begins_anew(sim: SimulatedExchange, tmp_path: Path) -> None:
    """After `resume --clear-kill` new orders live, until the next kill."""
    latch = KillLatch(tmp_path)
    async with beside(sim, tmp_path) as dog:
        latch.set("first")
        await until(lambda: not open_ids(sim))
        latch.lift()
        await beat(dog, for_seconds(0.3))
        place(sim, f"{PREFIX}again", "BTC/USDT")
        before = cancels(sim)
        await beat(dog, for_seconds(0.5))

        assert cancels(sim) == before

        latch.set("second")
        await until(lambda: not open_ids(sim))


async def test_a_watchdog_that_dies_is_replaced(sim: SimulatedExchange, tmp_path: Path) -> None:
    """Nobody is left without one."""
    async with beside(sim, tmp_path) as dog:
        first = dog.pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: dog.starts == 2 and dog.pid not in {0, first})
        KillLatch(tmp_path).set("test")
        await until(lambda: not open_ids(sim))


@pytest.mark.parametrize("spare", [0, 2], ids=["no socket", "no process"])
async def test_f55_a_machine_without_room_for_a_watchdog_is_told_and_tried_again(
    sim: SimulatedExchange, tmp_path: Path, spare: int
) -> None:
    """It is no fault of trading: told each time, and started once there is room."""
    dog = Watchdog(setup_of(sim, tmp_path))
    open_before = handles()
    with capture_logs() as told, few_handles(spare):
        task = asyncio.ensure_future(dog.run())
        await until(lambda: len(told) > 1 or task.done())

    assert not task.done()
    assert {line["detail"] for line in told} == {"it could not be started: Too many open files"}
    assert handles() == open_before
    await until(lambda: any(seen.path.endswith("/time") for seen in sim.requests))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_keys_travel_through_the_socket_alone(
    sim: SimulatedExchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither arguments nor environment nor log hold a key, though our own environment does."""
    monkeypatch.setenv("BALLAST_EXCHANGE__API_SECRET", SECRET)
    async with beside(sim, tmp_path) as dog:
        shown = Path(f"/proc/{dog.pid}/cmdline").read_bytes() + Path(f"/proc/{dog.pid}/environ").read_bytes()
        KillLatch(tmp_path).set("test")
        await until(lambda: not open_ids(sim))
    log = capfd.readouterr().err

    assert KEY.encode() not in shown
    assert SECRET.encode() not in shown
    assert "watchdog.acts" in log
    assert KEY not in log
    assert SECRET not in log


async def test_the_door_measures_the_venue_s_clock(sim: SimulatedExchange, tmp_path: Path) -> None:
    """A refused timestamp is answered by measuring; the next listing is signed with the venue's time."""
    sim.venue.offset_ms = 30_000
    door = Door(setup_of(sim, tmp_path), KillLatch(tmp_path), Clock())
    first = await asyncio.to_thread(door.list_open)
    second = await asyncio.to_thread(door.list_open)
    door.close()

    assert "-1021" in first.problem
    assert len(second.orders) == OURS
    assert abs(door.offset_ms - 30_000) < 5_000


async def test_the_door_cancels_nothing_without_a_latch(sim: SimulatedExchange, tmp_path: Path) -> None:
    """The last look is the door's own."""
    door = Door(setup_of(sim, tmp_path), KillLatch(tmp_path), Clock())
    done = await asyncio.to_thread(door.cancel_round)
    door.close()

    assert (done.cancelled, done.left, done.problem) == (0, OURS, "the latch was lifted")
    assert cancels(sim) == 0


async def test_the_door_obeys_a_venue_that_wants_quiet(sim: SimulatedExchange, tmp_path: Path) -> None:
    """Retry-After is handed on to the second; a ban without one waits all the same."""
    rules = [
        {"match": "GET /api/v3/openOrders", "action": "error", "status": 429, "headers": {"Retry-After": "7"}},
        {"match": "GET /api/v3/openOrders", "action": "error", "status": 418},
    ]
    for rule in rules:
        sim.faults.add(msgspec.convert(rule, FaultRule))
    door = Door(setup_of(sim, tmp_path), KillLatch(tmp_path), Clock())
    waits = {(await asyncio.to_thread(door.cancel_round)).wait_s for _ in rules}
    done = await asyncio.to_thread(door.cancel_round)
    door.close()

    assert waits == {7.0, 5.0}
    assert (done.wait_s, done.left) == (0.0, OURS)


def test_an_orphan_gives_up_after_a_while(tmp_path: Path) -> None:
    """Without a daemon and without a venue it does not stay for ever, and says so."""
    vigil, said = lonely(tmp_path)
    KillLatch(tmp_path).set("test")
    vigil.step(1)
    vigil.heard(b"", 2)
    vigil.step(1 + GRACE_NS)

    assert not vigil.finished(1 + ORPHAN_NS)
    assert vigil.finished(2 + ORPHAN_NS)
    assert said == ["watchdog.latch_set", "watchdog.daemon_gone", "watchdog.acts", "watchdog.given_up"]


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b'{"code": "x"}', b"\xff", b"[" * 100_000])
def test_broken_errors_have_no_code(body: bytes) -> None:
    """Whatever the venue sends, reading its code raises nothing."""
    assert code_of(body) == 0
