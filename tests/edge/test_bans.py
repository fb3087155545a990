"""F9, I11, A5: what the venue asked for outlives the process that was told."""

import asyncio
import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.domain.errors import VenueBusy
from daemon.edge import bans as module
from daemon.edge.bans import PAUSE_S_MAX, Bans, Pause, ban_files
from daemon.edge.clock import Clock
from daemon.edge.lane import Lane, Quota
from daemon.edge.latch import KillLatch
from daemon.edge.outcomes import Reply
from daemon.edge.rest import Rest, make_exchange
from daemon.edge.watchdog_venue import Door, Setup
from daemon.exchange.config import SimConfig
from daemon.exchange.faults import FaultRule
from daemon.exchange.server import SimulatedExchange
from daemon.wire.binance_rest import server_time_ns
from tests.edge.venue_kit import KEY, SECRET, rig, until

NS = 1_000_000_000
DAY_S = 86_400.0
MOMENT_NS = 20_000_000


class Hands(Clock):
    """A clock whose hands a test moves."""

    __slots__ = ("looks", "mono", "wall")

    def __init__(self, wall_s: float = 1_800_000_000, mono_s: float = 500.0) -> None:
        self.wall, self.mono = int(wall_s * NS), int(mono_s * NS)
        self.looks = 0

    def now_ns(self) -> int:
        """Return the wall clock."""
        return self.wall

    def mono_ns(self) -> int:
        """Return the clock of this boot, and count who looks."""
        self.looks += 1
        return self.mono

    def pass_s(self, seconds: float) -> None:
        """Let time pass."""
        self.wall += int(seconds * NS)
        self.mono += int(seconds * NS)


@pytest.fixture
def clock() -> Hands:
    """Return hands at rest."""
    return Hands()


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, ...]:
    """Return where two daemons of one machine keep the pauses of one venue: first a folder of its own, then the shared."""
    return ban_files(tmp_path / "one", "binance", shared=tmp_path / "machine")


def rebooted(monkeypatch: pytest.MonkeyPatch, clock: Hands, wall_s: float = 60.0) -> None:
    """Boot the machine again."""
    monkeypatch.setattr(module, "_boot_id", lambda: "another boot")
    clock.wall += int(wall_s * NS)
    clock.mono = 7 * NS


def test_i11_a_pause_outlives_the_process(files: tuple[Path, ...], clock: Hands) -> None:
    """Whoever reads the file next waits for the rest of the pause, exactly, and then no longer."""
    Bans(files, clock).note(30.0)
    clock.pass_s(12.0)
    again = Bans(files, clock)

    assert again.left_s() == 18.0
    clock.pass_s(17.999)
    assert 0 < again.left_s() < 0.0011
    clock.pass_s(0.001)
    assert again.left_s() == 0.0
    assert Bans(files, clock).left_s() == 0.0


def test_a_pause_outlives_a_reboot(files: tuple[Path, ...], clock: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's lock folder is empty after it and the monotonic clock begins anew: state folder and wall clock remain."""
    Bans(files, clock).note(3_600.0)
    files[1].unlink()
    rebooted(monkeypatch, clock)

    assert Bans(files, clock).left_s() == 3_540.0


@pytest.mark.parametrize("step_s", [DAY_S, -DAY_S, 2.0])
def test_f47_steps_of_the_wall_clock_change_nothing(files: tuple[Path, ...], clock: Hands, step_s: float) -> None:
    """On the same boot the monotonic clock counts: neither early nor late."""
    Bans(files, clock).note(120.0)
    clock.pass_s(20.0)
    clock.wall += int(step_s * NS)

    assert Bans(files, clock).left_s() == 100.0


def test_f47_a_clock_set_back_over_a_reboot_waits_the_whole_pause_once(
    files: tuple[Path, ...], clock: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can know how much is left then; more than all of it never is, and it ends."""
    Bans(files, clock).note(120.0)
    rebooted(monkeypatch, clock, -DAY_S)
    again = Bans(files, clock)

    assert again.left_s() == 120.0
    clock.pass_s(120.0)
    assert again.left_s() == 0.0


def test_daemons_of_one_machine_share_a_pause(files: tuple[Path, ...], tmp_path: Path, clock: Hands) -> None:
    """The venue counts by address: what one daemon is told, another one that runs already obeys."""
    other = Bans(ban_files(tmp_path / "two", "binance", shared=tmp_path / "machine"), clock)
    elsewhere = Bans(ban_files(tmp_path / "two", "kraken", shared=tmp_path / "machine"), clock)
    assert other.left_s() == 0.0
    Bans(files, clock).note(60.0)

    assert other.left_s() == 60.0
    assert Quota(clock, other).wait_s == 60.0
    assert elsewhere.left_s() == 0.0


def test_a_shorter_pause_does_not_end_a_longer_one(files: tuple[Path, ...], clock: Hands) -> None:
    """429 answers that were under way when the ban began ask for less."""
    first, second = Bans(files, clock), Bans(files, clock)
    first.note(600.0)
    second.note(5.0)

    assert Bans(files, clock).left_s() == 600.0


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 4_000,
        b"null",
        b'{"until_ns": "soon", "seconds": 5}',
        msgspec.json.encode(Pause(until_ns=1_800_000_000 * NS - 1, seconds=60.0)),
        msgspec.json.encode(Pause(until_ns=1_800_000_100 * NS, seconds=0.0)),
        msgspec.json.encode(Pause(until_ns=1_800_000_100 * NS, seconds=-5.0)),
        msgspec.json.encode(Pause(until_ns=1_900_000_000 * NS, seconds=PAUSE_S_MAX * 1.001)),
    ],
    ids=["empty", "cut", "binary", "abyss", "null", "typed wrongly", "over", "zero", "negative", "beyond any ban"],
)
def test_f50_what_makes_no_sense_is_no_pause(files: tuple[Path, ...], clock: Hands, text: bytes) -> None:
    """A file that is torn, expired or absurd holds nothing up, and the next pause replaces it."""
    files[0].parent.mkdir(parents=True)
    files[0].write_bytes(text)
    bans = Bans(files, clock)

    assert bans.left_s() == 0.0
    bans.note(9.0)
    assert Bans(files[:1], clock).left_s() == 9.0


@given(cut=st.integers(0, 200))
def test_f50_every_prefix_of_the_file_is_read_safely(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    """A whole file is a pause, a torn one is none."""
    clock = Hands()
    (path,) = ban_files(tmp_path_factory.mktemp("bans"), "binance", "http://127.0.0.1:1")
    Bans((path,), clock).note(40.0)
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    kept = whole[:cut].rstrip().endswith(b"}")

    assert Bans((path,), clock).left_s() == (40.0 if kept else 0.0)


def test_another_users_file_holds_nothing_up(
    files: tuple[Path, ...], clock: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All users may write to the machine's folder; none of them stops our trading, nor does a link lead us astray."""
    Bans(files, clock).note(60.0)
    files[0].unlink()
    assert Bans(files, clock).left_s() == 60.0
    files[1].rename(target := files[1].with_name("elsewhere"))
    files[1].symlink_to(target)
    assert Bans(files, clock).left_s() == 0.0
    files[1].unlink()
    target.rename(files[1])
    real = os.geteuid()
    if real == 0:
        os.chown(files[1], 12_345, 12_345)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: real + 1)

    assert Bans(files, clock).left_s() == 0.0


def test_a_folder_that_cannot_be_written_is_told_once_and_harms_nothing(tmp_path: Path, clock: Hands) -> None:
    """The pause holds for this process all the same."""
    (tmp_path / "file").touch()
    told: list[str] = []
    bans = Bans((tmp_path / "file" / "bans" / "x.json",), clock, tell=lambda event, **_: told.append(event))
    quota = Quota(clock, bans)
    quota.see(Reply(status=429, headers={"Retry-After": "20"}))

    assert quota.wait_s == 20.0
    assert told == ["ban_not_kept"]


def test_no_longer_than_any_venue_bans(files: tuple[Path, ...], clock: Hands) -> None:
    """Three days are kept of whatever is asked for."""
    Bans(files, clock).note(1e9)

    assert Bans(files, clock).left_s() == PAUSE_S_MAX


def test_an_exchange_on_loopback_keeps_to_itself(tmp_path: Path) -> None:
    """Its port soon belongs to another: nothing of it goes to the machine's folder, and each address has its own file."""
    (one,) = ban_files(tmp_path, "binance", "http://127.0.0.1:4711")
    (two,) = ban_files(tmp_path, "binance", "http://127.0.0.1:4712")
    own = ban_files(tmp_path, "binance")
    hostile = ban_files(tmp_path, "binance", "https://user:pass@../../etc/passwd")

    assert one != two
    assert len(own) == 2
    assert all(path.parent == tmp_path / "bans" for path in (one, two, own[0], hostile[0]))
    assert "pass" not in hostile[0].name


async def test_a_command_does_not_wait_for_a_long_ban(files: tuple[Path, ...], clock: Hands) -> None:
    """Somebody sits before it: one clear line instead of hours of silence."""
    Bans(files, clock).note(600.0)

    with pytest.raises(VenueBusy, match="nothing for another 600 s"):
        await Quota(clock, Bans(files, clock), patience_s=60.0).wait()


async def test_the_watchdog_obeys_what_the_daemon_was_told_and_the_other_way_round(tmp_path: Path) -> None:
    """A kill inside a ban sends nothing before its end, and a ban that the watchdog meets is kept for the daemon."""
    sim = SimulatedExchange(SimConfig(history_bars=60, symbols=1))
    await sim.start()
    files = ban_files(tmp_path, "binance", f"http://127.0.0.1:{sim.port}")
    latch, real = KillLatch(tmp_path), Clock()
    clock = Hands(real.now_ns() / NS, real.mono_ns() / NS)  # at rest: how long the test takes does not matter
    latch.set("test")
    names = tuple(map(str, files))
    door = Door(Setup(f"http://127.0.0.1:{sim.port}/api/v3", KEY, SECRET, "b", str(tmp_path), bans=names), latch, clock)
    bans = Bans(files, clock)
    busy = {"match": "GET /api/v3/openOrders", "action": "error", "status": 418, "headers": {"Retry-After": "77"}}
    try:
        bans.note(50.0)
        first = await asyncio.to_thread(door.cancel_round)
        asked = len(sim.requests)
        files[0].unlink()
        sim.faults.add(msgspec.convert(busy, FaultRule))
        second = await asyncio.to_thread(door.cancel_round)
    finally:
        door.close()
        await sim.stop()

    assert (first.left, first.problem, asked) == (-1, "the venue wants quiet", 0)
    assert first.wait_s == 50.0
    assert (second.left, second.wait_s) == (-1, 77.0)
    assert bans.left_s() == 77.0


async def test_f9_i11_a_restart_inside_a_retry_after_sends_nothing_before_it_ends(tmp_path: Path) -> None:
    """Killed right after a 429: the next process waits for the rest, in every lane, then goes on."""
    sim = SimulatedExchange(SimConfig(history_bars=120, symbols=3))
    await sim.start()
    base = f"http://127.0.0.1:{sim.port}"
    files = ban_files(tmp_path, "binance", base)
    async with rig(tmp_path, sim=sim) as live:
        live.fault("POST /api/v3/order", "error", status=429, code=-1003, headers={"Retry-After": "2"}, times=1)
        await live.submit(live.intent())
        markets = live.venue.calls.read_lane.exchange
    asked = len(sim.requests)
    pause = msgspec.json.decode(files[0].read_bytes(), type=Pause)
    clock = Hands()  # of the next process: a moment before the end, and there it stays until we move it
    clock.wall, clock.mono = pause.until_ns - MOMENT_NS, pause.mono_until_ns - MOMENT_NS

    quota = Quota(clock, Bans(files, clock))
    exchange = make_exchange("binance", rest_url=base, api_key=KEY, api_secret=SECRET, limited=False)
    exchange.set_markets_from_exchange(markets)
    lane = Lane(exchange, quota=quota)
    data = make_exchange("binance", rest_url=base, limited=False)
    rest = Rest(data, clock, quota=Quota(clock, Bans(files, clock)))
    lane.open()
    try:
        assert (pause.seconds, quota.wait_s, rest.quiet_s) == (2.0, MOMENT_NS / NS, MOMENT_NS / NS)
        both = asyncio.gather(
            lane.ask("account", lambda: exchange.private_get_account({})),
            rest.ask("publicGetTime", {}, server_time_ns),
        )
        looks = clock.looks
        await until(lambda: clock.looks > looks + 20)
        assert len(sim.requests) == asked
        clock.pass_s(MOMENT_NS / NS)
        await both
        after = await lane.call("order.place", exchange.public_get_time, guard=lambda: "")
    finally:
        await lane.close()
        await data.close()
        await sim.stop()

    assert after.left
    assert len(sim.requests) == asked + 3


@pytest.mark.parametrize(("status", "word"), [(429, "7"), (418, "90")])
async def test_f9_f52_a_venue_that_wants_quiet_is_heard_before_its_answer_is_complete(
    clock: Hands, status: int, word: str
) -> None:
    """The head of an answer whose body never comes, to somebody who gives up: the pause holds all the same."""
    came = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status} No\r\nRetry-After: {word}\r\nContent-Length: 81\r\n\r\n".encode())
        await writer.drain()
        came.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    exchange = make_exchange("binance", rest_url=f"http://127.0.0.1:{port}", limited=False)
    quota = Quota(clock)
    lane = Lane(exchange, quota=quota)
    lane.open()
    asking = asyncio.create_task(lane.call("time", exchange.public_get_time))
    try:
        await came.wait()
        await until(lambda: quota.wait_s > 0)
        assert not asking.done()
        assert quota.wait_s == float(word)
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await lane.close()
        server.close()
        await server.wait_closed()

    assert quota.wait_s == float(word)
