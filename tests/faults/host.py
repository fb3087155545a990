"""F43–F58: the process and the machine under it: kills, pauses, clocks, disks, memory, loops, leaks, configuration."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from decimal import Decimal
from functools import partial
from typing import Any, Final

from tests.e2e.kit import (
    NS,
    REPO,
    STOP_S,
    SYMBOLS,
    Daemon,
    Tree,
    assert_same,
    http,
    merged,
    meta,
    only_line,
    rows,
    suffering,
    toml,
    until,
)
from tests.edge.postgres import ROLE, Server
from tests.faults.harness import UNCERTAIN, Trial, row
from tests.faults.host_kit import (
    INSIDE,
    RESTING,
    Switches,
    fill,
    latch,
    no_longer_files,
    resting,
    sinking_disk,
    small_disk,
    sound,
    unfill,
    use_of,
    wait_resting,
    worker_of,
)
from tests.faults.market import PATIENT, exact, ours_since

TTL_NS: Final = 2 * NS
"""Longest life of an intent before it is sent (P16)."""
CRASH_POINTS: Final = (9, 24, 41, 58)
"""A sample over start, first commits, sends and answers; every point is `make crash`."""
PAUSE_S: Final = 30.0
OPEN: Final = 50
ENDED_S: Final = 5.0
BURST: Final = 5
"""Starts that a service manager allows before it gives up: StartLimitBurst."""


def pid_of(daemon: Daemon) -> int:
    """Return the daemon's process."""
    assert daemon.process is not None
    return daemon.process.pid


def gone(daemon: Daemon, timeout_s: float = 30.0) -> int:
    """Wait until the process has ended by itself; return its code."""
    process, daemon.process = daemon.process, None
    assert process is not None
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        daemon.process = process
        raise AssertionError(f"it still runs: {daemon.tail()}") from None


# ------------------------------------------------------------------------------------------ F43–F46: the process


@row(
    "F43", "SIGKILL at points of writing and sending", expect="restart: no duplicate, no orphan, ledger equals exchange"
)
def f43(trial: Trial) -> None:
    trial.open()
    daemon = trial.make(**RESTING)
    for number in CRASH_POINTS:
        daemon.env["BALLAST_TEST_CRASH_AT"] = str(number)
        daemon.start()
        trial.fire()
        assert gone(daemon, 60) == -signal.SIGKILL, daemon.tail()
        assert f"crash point {number}: " in daemon.log_file.read_text()
    del daemon.env["BALLAST_TEST_CRASH_AT"]
    trial.heal()
    daemon.start().wait_ready()
    # Orders that never left are proven absent within 75 s; that is `make crash`'s to wait for.
    trial.unproven = sum(state in UNCERTAIN for state in trial.states().values())
    trial.recovered()
    trial.orders(1, since_ns=trial.exchange.now_ns())
    trial.unproven = sum(state in UNCERTAIN for state in trial.states().values())


@row(
    "F44",
    "SIGTERM while orders are in flight",
    expect="nothing new, answers awaited or UNKNOWN kept, exit 0 within 10 s",
)
def f44(trial: Trial) -> None:
    daemon = trial.trading()
    slow = trial.arm("POST /api/v3/order", "delay_after", seconds=1.5, times=2)
    lost = trial.arm("POST /api/v3/order", "hang_after", times=1, after=1)
    slow.wait()
    lost.wait()
    code, seconds = daemon.stop()
    stopped_ns = trial.exchange.now_ns()
    assert code == 0, daemon.tail()
    assert seconds < STOP_S
    assert trial.exchange.orders_sent(stopped_ns) == []
    states = trial.states()
    assert {states[name] for name in trial.caught()} <= UNCERTAIN | {"filled", "expired", "acked"}
    trial.heal()
    daemon.start().wait_ready()
    trial.recovered()


@row(
    "F45",
    "stopped for 30 s, then continued",
    expect="the pause is noticed, ledger and venue compared before any order, no old intent leaves",
)
def f45(trial: Trial) -> None:
    daemon = trial.trading()
    trial.orders(1, since_ns=trial.exchange.now_ns())  # a decision has just been made: the next is on its way
    os.kill(pid_of(daemon), signal.SIGSTOP)
    trial.fire()
    end = time.monotonic() + PAUSE_S
    until(lambda: time.monotonic() >= end, timeout_s=PAUSE_S + 10, what="the pause")
    woke_ns = trial.exchange.now_ns()
    os.kill(pid_of(daemon), signal.SIGCONT)
    trial.heal()
    trial.wait_state("reducing", "loop_lag")
    trial.recovered()
    first = trial.orders(1, since_ns=woke_ns)[0]
    compared = [one for one in trial.exchange.requests("/api/v3/account", woke_ns) if one["status"] == 200]
    assert compared, "ledger and venue were not compared"
    buys = {one["client_id"]: one for one in ours_since(trial, woke_ns) if one["side"] == "BUY"}
    assert all(int(one["time_ms"]) * 10**6 > compared[0]["ns"] for one in buys.values()), first
    approved = dict(rows(daemon.ledger, "select client_id, approved_ns from intents"))
    for one in trial.exchange.orders_sent(woke_ns):
        age_ns = int(one["ns"]) - int(approved[one["client_id"]])
        assert age_ns <= TTL_NS + NS, f"{one['client_id']} left {age_ns / NS:.1f} s after it was approved"


@row("F46", "two daemons on one account", expect="the second refuses (75) as long as the first lives, stopped or not")
def f46(trial: Trial) -> None:
    first = trial.trading()
    second = trial.make("two")
    twin, stranger = first.cli("run"), second.cli("run")
    os.kill(pid_of(first), signal.SIGSTOP)
    paused = second.cli("run")
    os.kill(pid_of(first), signal.SIGCONT)
    trial.fire(3)
    for done in (twin, stranger, paused):
        assert done.returncode == 75, done.stderr
        assert "another instance" in only_line(done.stderr)
    trial.heal()
    trial.recovered()
    assert not second.ledger.exists() or rows(second.ledger, "select count(*) from intents") == [(0,)]


@contextlib.contextmanager
def database() -> Generator[tuple[Server, str]]:
    """Start a private PostgreSQL; yield it and the name of an empty database."""
    server = Server()
    try:
        server.start()
        server.do(f"CREATE ROLE {ROLE} LOGIN")
        server.do(f"CREATE DATABASE faults OWNER {ROLE}")
        yield server, "faults"
    finally:
        server.close()


def compared(trial: Trial, daemon: Daemon) -> None:
    """Settle a daemon whose ledger lies on a server, compare it with the exchange to the last digit, and stop it."""
    until(lambda: daemon.api("status")["unresolved"] == 0, timeout_s=60, what="every fate", why=daemon.tail)
    daemon.settle()
    assert_same(daemon.books, trial.exchange.truth())
    sends = Counter(one["client_id"] for one in trial.exchange.orders_sent())
    assert max(sends.values()) == 1, "an order was sent twice"
    assert daemon.stop()[0] == 0
    trial.finished = True


@row(
    "F46",
    "a frozen daemon wakes up after another machine's took over (PostgreSQL)",
    part="b",
    expect="its INSERT fails on the fence: it sends nothing and ends with 75",
)  # fmt: skip
def f46b(trial: Trial) -> None:
    with database() as (server, name):
        trial.open()
        url = {"url": server.url(name)}
        first = trial.make(ledger=url).start().wait_ready()
        trial.orders(2)
        trial.patch(f"{INSIDE}:other_machine")
        second = trial.make("two", ledger=url)
        elsewhere = trial.folder / "elsewhere"
        elsewhere.mkdir()
        second.env["FAULTS_FOLDER"] = str(elsewhere)
        os.kill(pid_of(first), signal.SIGSTOP)
        trial.fire()
        frozen_ns = trial.exchange.now_ns()
        server.end_sessions(name)  # what the lease does after 15 s of silence
        second.start().wait_ready()
        trial.orders(2, since_ns=frozen_ns + NS)
        epoch = int(meta(second.books, "epoch"))
        os.kill(pid_of(first), signal.SIGCONT)
        woke_ns = trial.exchange.now_ns()
        assert gone(first) == 75, first.tail()
        trial.orders(4, since_ns=woke_ns)
        writers = dict(rows(second.books, "select client_id, epoch from intents"))
        late = {one["client_id"] for one in trial.exchange.orders_sent(woke_ns)}
        assert {int(writers[one]) for one in late} == {epoch}, "the old daemon sent an order"
        assert int(meta(second.books, "epoch")) == epoch
        compared(trial, second)


# ------------------------------------------------------------------------------------------ F47: clocks


@row(
    "F47",
    "the machine's clock set by +2 s, −2 s, +1 day, −1 day",
    expect="timers and bars go on; what is refused for its time (-1021) is not sent again",
)
def f47(trial: Trial) -> None:
    switches = Switches(trial, "wall_clock")
    daemon = switches.trading(**PATIENT)
    for seconds in (2, -2, 86_400, -86_400):
        switches.throw("wall_clock", seconds)
        daemon.wait_bars(2)
        until(partial(taken, trial, trial.exchange.now_ns()), what=f"orders after {seconds} s", why=daemon.tail)
        assert daemon.readiness() == (200, []), (seconds, daemon.readiness())
    switches.throw("wall_clock", 0)
    trial.heal()
    daemon.wait_bars(3)
    trial.recovered()
    refused = [one["client_id"] for one in trial.exchange.orders_sent() if one["status"] >= 400]
    assert len(refused) <= 5 * len(SYMBOLS), "more than one decision's orders were refused for their time"
    assert {trial.states()[name] for name in refused} <= {"denied"}
    closes = sorted(int(one["close_ns"]) for one in daemon.api("bars/BTC/USDT?limit=20")["bars"])
    assert closes == list(range(closes[0], closes[-1] + 1, NS)), "a bar is missing or twice"
    exact(daemon, "BTC/USDT")


def taken(trial: Trial, since_ns: int) -> bool:
    """Say whether an order that arrived since then was taken."""
    return any(one["status"] == 200 for one in trial.exchange.orders_sent(since_ns))


@row(
    "F47",
    "the venue's clock 2 s behind ours",
    part="b",
    expect="-1021: not placed, clock measured anew, no order while it is wrong by more than 500 ms",
)
def f47b(trial: Trial) -> None:
    daemon = trial.trading()
    trial.exchange.steer("clock", offset_ms=-2_000)
    trial.fire()
    trial.wait_state("reducing", "clock_offset")
    wrong_ns = trial.exchange.now_ns()
    daemon.wait_bars(3)
    buys = [one for one in ours_since(trial, wrong_ns + NS) if one["side"] == "BUY"]
    assert buys == [], "an order left although the clocks differ by 2 s"
    trial.exchange.steer("clock", offset_ms=0)
    trial.heal()
    trial.recovered()
    refused = [one for one in trial.exchange.orders_sent() if one["status"] == 400]
    sends = Counter(one["client_id"] for one in trial.exchange.orders_sent())
    assert all(sends[one["client_id"]] == 1 for one in refused), "a refused order was sent again"
    assert len(refused) <= len(SYMBOLS), f"{len(refused)} orders were refused before the clock was measured"


# ------------------------------------------------------------------------------------------ F48–F50: disks


def cannot_write(trial: Trial, began_ns: int) -> None:
    """Assert what a ledger that cannot be written means: HALTED, no new order; a kill cancels what is open."""
    trial.wait_state("halted", "ledger_unwritable")
    halted_ns = trial.exchange.now_ns()
    rest_many(trial, 5, "disk")
    known = set(trial.states())
    sent = {one["client_id"] for one in trial.exchange.orders_sent(began_ns)}
    assert sent <= known, f"sent without a durable intent: {sent - known}"
    trial.daemon.wait_bars(3)
    assert trial.exchange.orders_sent(halted_ns) == [], "an order left although no intent can be written"
    trial.command("kill")
    until(lambda: not resting(trial), timeout_s=ENDED_S, what="every cancel", why=trial.tail)


def can_write(trial: Trial) -> None:
    """Lift the kill and wait until trading goes on; nothing in the ledger is damaged."""
    trial.heal()
    until(lambda: latch(trial).exists(), what="the latch, durable at last", why=trial.tail)
    assert trial.daemon.cli("resume", "--clear-kill").returncode == 0
    trial.recovered()
    trial.orders(1, since_ns=trial.exchange.now_ns())
    trial.finish()
    assert sound(trial.daemon.ledger)


@row("F48", "disk full", expect="order not sent, HALTED, cancels still work, goes on when there is room")
def f48(trial: Trial) -> None:
    disk = trial.folder / "one" / "var"
    with small_disk(trial, disk):
        trial.trading()
        began_ns = trial.exchange.now_ns()
        fill(disk)
        trial.fire()
        cannot_write(trial, began_ns)
        unfill(disk)
        can_write(trial)


@row(
    "F48",
    "sync fails (no room behind the disk)",
    part="b",
    expect="order not sent, HALTED, cancels still work, ledger sound afterwards",
)
def f48b(trial: Trial) -> None:
    disk = trial.folder / "one" / "var"
    with sinking_disk(trial, disk) as under:
        trial.trading()
        began_ns = trial.exchange.now_ns()
        fill(under)
        trial.fire()
        cannot_write(trial, began_ns)
        unfill(under)
        can_write(trial)


@row("F48", "every write that lengthens a file fails", part="c", expect="order not sent, HALTED, cancels still work")
def f48c(trial: Trial) -> None:
    daemon = trial.trading()
    began_ns = trial.exchange.now_ns()
    with no_longer_files(pid_of(daemon)):
        trial.fire()
        cannot_write(trial, began_ns)
    can_write(trial)


@row("F49", "ledger locked by another process", expect="bounded wait, orders denied, none without a durable intent")
def f49(trial: Trial) -> None:
    daemon = trial.trading()
    before = rows(daemon.ledger, "select count(*) from intents")
    with suffering("ledger locked", daemon):
        locked_ns = trial.exchange.now_ns()
        trial.fire()
        trial.wait_state("halted", "ledger_unwritable")
        daemon.wait_bars(3)
        known = set(trial.states())
        assert {one["client_id"] for one in trial.exchange.orders_sent(locked_ns + NS)} <= known
        late = trial.exchange.orders_sent(locked_ns + 2 * NS)
        assert late == [], "an order left although its intent cannot be written"
    trial.heal()
    trial.recovered()
    until(lambda: rows(daemon.ledger, "select count(*) from intents") > before, what="intents again", why=daemon.tail)


@row(
    "F49",
    "commits take 5 s",
    part="b",
    expect="given up after 250 ms, the order denied; a commit that lands late is DENIED, never sent",
)
def f49b(trial: Trial) -> None:
    switches = Switches(trial, "slow_commit")
    daemon = switches.trading()
    switches.throw("slow_commit", 5)
    slow_ns = trial.exchange.now_ns()
    switches.planted["slow_commit"].wait(2)
    assert trial.exchange.orders_sent(slow_ns + NS) == [], "an order left although its commit was late"
    switches.throw("slow_commit", 0, wait=False)
    trial.heal()
    trial.recovered()
    trial.orders(1, since_ns=trial.exchange.now_ns())
    denied = rows(daemon.ledger, "select client_id from intents where state = 'denied'")
    sent = {one["client_id"] for one in trial.exchange.orders_sent()}
    assert denied, "no commit was late"
    assert not sent & {name for (name,) in denied}


@row(
    "F49",
    "a reader that never lets go while the write-ahead log grows",
    part="c",
    expect="trading goes on; the log shrinks back afterwards",
)
def f49c(trial: Trial) -> None:
    daemon = trial.trading()
    wal = daemon.ledger.with_name(daemon.ledger.name + "-wal")
    with contextlib.closing(sqlite3.connect(f"file:{daemon.ledger}?mode=ro", uri=True, isolation_level=None)) as reader:
        reader.execute("begin")
        reader.execute("select count(*) from fills").fetchone()
        trial.fire()
        begun = wal.stat().st_size
        until(lambda: wal.stat().st_size > begun, what="a longer log", why=daemon.tail)
        trial.orders(4, since_ns=trial.exchange.now_ns())
        assert daemon.readiness() == (200, [])
    trial.heal()
    trial.recovered()
    trial.finish()
    assert not wal.exists() or wal.stat().st_size == 0
    assert sound(daemon.ledger)


@row(
    "F49",
    "PostgreSQL loses its sessions, is frozen, is cut off and restarted",
    part="d",
    expect="orders denied while it is away, none without a durable intent; goes on by itself",
)  # fmt: skip
def f49d(trial: Trial) -> None:
    with database() as (server, name):
        trial.open()
        daemon = trial.make(ledger={"url": server.url(name)}).start().wait_ready()
        trial.orders(2)
        assert server.end_sessions(name) >= 1
        trial.fire()
        daemon.wait_ready()
        trial.orders(2, since_ns=trial.exchange.now_ns())
        with server.frozen():
            trial.fire()
            until(lambda: "ledger" in daemon.readiness()[1], what="a ledger that does not answer", why=daemon.tail)
            silent_ns = trial.exchange.now_ns()
            daemon.wait_bars(2)
            assert trial.exchange.orders_sent(silent_ns) == [], "an order left without a durable intent"
        daemon.wait_ready()
        trial.orders(2, since_ns=trial.exchange.now_ns())
        server.stop(signal.SIGKILL)
        trial.fire()
        until(lambda: "ledger" in daemon.readiness()[1], what="a ledger that is gone", why=daemon.tail)
        cut_ns = trial.exchange.now_ns()
        daemon.wait_bars(2)
        assert trial.exchange.orders_sent(cut_ns) == [], "an order left without a durable intent"
        server.start()
        began = time.monotonic()
        daemon.wait_ready()
        trial.recover_s = time.monotonic() - began
        trial.orders(2, since_ns=trial.exchange.now_ns())
        compared(trial, daemon)


@row(
    "F50",
    "ledger truncated, latch file empty, write-ahead log torn",
    expect="refused and kept as it is; an empty latch is a latch; a torn tail is recovered from",
)
def f50(trial: Trial) -> None:
    daemon = trial.trading()
    assert daemon.stop()[0] == 0
    whole = daemon.ledger.read_bytes()
    for broken in (whole[: len(whole) // 2], whole[:4096] + os.urandom(8192) + whole[12288:]):
        daemon.ledger.write_bytes(broken)
        sent = len(trial.exchange.orders_sent())
        trial.fire()
        done = daemon.cli("run")
        assert done.returncode == 78, done.stderr
        assert str(daemon.ledger) in only_line(done.stderr)
        assert daemon.ledger.read_bytes() == broken, "a damaged ledger was changed"
        assert len(trial.exchange.orders_sent()) == sent
        daemon.ledger.write_bytes(whole)

    latch(trial).touch()
    trial.fire()
    daemon.start()
    trial.wait_state("halted", "kill")
    assert daemon.cli("resume", "--clear-kill").returncode == 0
    daemon.wait_ready()
    trial.orders(1, since_ns=trial.exchange.now_ns())

    daemon.kill9()
    with daemon.ledger.with_name(daemon.ledger.name + "-wal").open("ab") as log:
        log.write(os.urandom(1_500))
    trial.fire()
    trial.heal()
    daemon.start().wait_ready()
    trial.recovered()
    assert sound(daemon.ledger)


# ------------------------------------------------------------------------------------------ F51–F54: memory, loop, tasks, load


@row("F51", "no memory left, then killed", expect="nothing is doubled or lost; recovers as after any kill")
def f51(trial: Trial) -> None:
    trial.traces = True  # MemoryError is a fault like any other: logged, contained
    switches = Switches(trial, "memory_full")
    daemon = switches.trading()
    switches.throw("memory_full", 8)
    starved = time.monotonic()
    process = daemon.process
    assert process is not None
    until(lambda: process.poll() is not None or time.monotonic() - starved > 4.0, what="four seconds without memory")
    if process.poll() is None:
        daemon.kill9()
    else:
        daemon.process = None
    trial.fire()
    trial.heal()
    daemon.start().wait_ready()
    trial.unproven = sum(state in UNCERTAIN for state in trial.states().values())
    trial.recovered()
    trial.orders(1, since_ns=trial.exchange.now_ns())


@row("F52", "event loop blocked for 5 s", expect="noticed; nothing decided before it is sent after it; heals by itself")
def f52(trial: Trial) -> None:
    switches = Switches(trial, "blocked")
    daemon = switches.trading()
    switches.throw("blocked", 5)
    blocked_ns = trial.exchange.now_ns()
    trial.wait_state("reducing", "loop_lag")
    woke_ns = trial.exchange.now_ns()
    trial.heal()
    trial.recovered()
    approved = dict(rows(daemon.ledger, "select client_id, approved_ns from intents"))
    sent = trial.exchange.orders_sent(blocked_ns + NS)
    stale = [one for one in sent if int(one["ns"]) - int(approved[one["client_id"]]) > TTL_NS]
    assert stale == [], "an order older than its time to live left"
    assert woke_ns - blocked_ns > 3 * NS
    assert trial.metric("feed_reconnects_total") == 0
    trial.orders(1, since_ns=woke_ns)


@row(
    "F53",
    "a trading task dies again and again",
    expect="restarted three times, then HALTED and told; `resume` starts it anew",
)
def f53(trial: Trial) -> None:
    trial.traces = True  # it is the planted exception
    switches = Switches(trial, "task_dies")
    daemon = switches.trading()
    switches.throw("task_dies", 4, wait=False)
    hurry(trial)
    switches.planted["task_dies"].wait(4)
    trial.wait_state("halted", "fault")
    halted_ns = trial.exchange.now_ns()
    assert "task_failed" in daemon.readiness()[1]
    assert [one for one in trial.status()["alerts"] if "reconcile" in one["detail"]]
    daemon.wait_bars(2)
    assert trial.exchange.orders_sent(halted_ns + NS // 2) == []
    trial.heal()
    trial.command("resume")
    trial.recovered()


def hurry(trial: Trial) -> None:
    """Have ledger and venue compared soon: cut the account's stream."""
    trial.exchange.steer("disconnect", kind="user")


@row(
    "F54",
    "twice the busiest market, for as long as the row lasts",
    expect="queues bounded, fills never dropped, bars exact, decisions in time",
)
def f54(trial: Trial) -> None:
    daemon = trial.trading("--trades-per-s", 100, **PATIENT)
    ticks, fills = trial.metric("ticks_total"), trial.metric("fills_total")
    deepest: Counter[str] = Counter()
    began = time.monotonic()

    def loaded() -> bool:
        for line in daemon.metrics().splitlines():
            if line.startswith("ballast_queue_depth{"):
                name = line.partition('queue="')[2].partition('"')[0]
                deepest[name] = max(deepest[name], round(float(line.rpartition(" ")[2])))
        return time.monotonic() - began > 15.0

    until(loaded, timeout_s=60, what="the load", why=daemon.tail)
    trial.fire()
    assert trial.metric("ticks_total") - ticks > 5_000
    assert trial.metric("fills_total") > fills
    assert deepest["ledger"] < 2_000, deepest
    assert deepest["events"] < 10_000, deepest
    assert deepest["jobs"] < 500, deepest
    made = [one["outcome"] for one in daemon.decisions()]
    crowd = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))  # the budget is that of a machine of our own
    assert made.count("deadline") <= 0.05 * crowd * len(made), Counter(made)
    assert trial.metric("feed_gaps_total") == 0
    trial.heal()
    trial.recovered()
    exact(daemon)


# ------------------------------------------------------------------------------------------ F55–F57: leaks, restarts, kill


@row("F55", "hundreds of reconnects and API connections", expect="descriptors, threads and memory stay flat")
def f55(trial: Trial) -> None:
    switches = Switches(trial, "impatient")
    daemon = switches.trading()
    pid = pid_of(daemon)

    def connects() -> float:
        return trial.metric("feed_reconnects_total", feed="market")

    def cut(times: int) -> None:
        for _ in range(times):
            wanted = connects() + 1
            trial.exchange.steer("disconnect", kind="market")
            trial.fire()
            until(partial(reached, connects, wanted), what="a reconnect", why=daemon.tail)
            for _ in range(5):
                assert http(f"http://{daemon.address}/readyz")[0] in {200, 429, 503}

    cut(15)  # warm: caches, pools, the allocator
    trial.recovered()
    first = use_of(pid)
    cut(100)
    trial.heal()
    trial.recovered()
    last: dict[str, int] = {}

    def flat() -> bool:
        last.update(use_of(pid))
        return last["fds"] <= first["fds"] + 3 and last["threads"] <= first["threads"] + 2

    until(flat, timeout_s=40, what="flat", why=lambda: f"{first} {last}")
    assert last["rss"] - first["rss"] < 24_000, f"resident KiB grew from {first['rss']} to {last['rss']}"


def reached(value: Callable[[], float], wanted: float) -> bool:
    """Say whether a number has grown so far."""
    return value() >= wanted


@row(
    "F56",
    "crash at every start",
    expect="the service manager gives up after 5; no order left; `ballast kill`, its failure action, cancels what was open",
)
def f56(trial: Trial) -> None:
    daemon = trial.trading(**RESTING)
    wait_resting(trial)
    daemon.kill9()
    left = resting(trial)
    assert left, "an order was to be open"
    since_ns = trial.exchange.now_ns()
    daemon.env["BALLAST_TEST_CRASH_AT"] = "1"
    starts = 0
    while starts < BURST:  # Restart=always, StartLimitBurst=5
        daemon.start()
        starts += 1
        trial.fire()
        assert gone(daemon) == -signal.SIGKILL
    del daemon.env["BALLAST_TEST_CRASH_AT"]
    assert trial.exchange.orders_sent(since_ns) == []
    done = daemon.tell("kill")  # OnFailure=
    assert (done["ok"], done["daemon"], done["left"]) == (True, False, 0)
    assert resting(trial) == []
    trial.heal()
    daemon.start()
    trial.wait_state("halted", "kill")
    assert daemon.cli("resume", "--clear-kill").returncode == 0
    trial.recovered()


def rest_many(trial: Trial, count: int, word: str) -> None:
    """Let orders of ours rest far below the market, as if the daemon had placed them."""
    exchange = trial.exchange
    for number in range(count):
        symbol = ("BTCUSDT", "ETHUSDT")[number % 2]
        price = Decimal(exchange.ask(f"/api/v3/ticker/price?symbol={symbol}")["price"]) * Decimal("0.7")
        name = f"{trial.prefix}{word}{number}"
        trial.strangers.add(name)
        exchange.steer(
            "place",
            symbol=symbol, side="BUY", type="LIMIT", timeInForce="GTC",
            quantity=f"{Decimal(20) / price:.4f}", price=f"{price:.2f}", newClientOrderId=name,
        )  # fmt: skip


@row(
    "F57",
    "kill with loop stopped, ledger locked, worker stopped, 50 orders open",
    expect="all cancelled within 5 s, no order after it",
    quick=True,
)
def f57(trial: Trial) -> None:
    daemon = trial.trading()
    worker = worker_of(daemon)
    os.kill(worker, signal.SIGSTOP)
    try:
        with suffering("ledger locked", daemon), suffering("loop blocked", daemon):
            rest_many(trial, OPEN, "kill")
            began_ns = trial.exchange.now_ns()
            latch(trial).touch()
            trial.fire(4)
            until(lambda: not resting(trial), timeout_s=ENDED_S, what="every order's end", why=daemon.tail)
            assert trial.exchange.orders_sent(began_ns + NS // 4) == []
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGCONT)
    trial.wait_state("halted", "kill")
    killed(trial, began_ns)


def killed(trial: Trial, began_ns: int) -> None:
    """Assert that no order followed the kill, then lift it."""
    assert trial.exchange.orders_sent(began_ns + NS // 4) == [], "an order left after the kill"
    until(lambda: not resting(trial), timeout_s=ENDED_S, what="no open order", why=trial.tail)
    trial.heal()
    assert trial.daemon.cli("resume", "--clear-kill").returncode == 0
    trial.recovered()


@row(
    "F57",
    "kill with 2,500 requests in the limiter's queue, venue slow, 50 orders open",
    part="b",
    expect="cancels do not wait behind them: all cancelled within 5 s",
)
def f57b(trial: Trial) -> None:
    switches = Switches(trial, "flood")
    daemon = switches.trading()
    rest_many(trial, OPEN, "many")
    trial.arm("GET /api/v3/aggTrades", "delay", seconds=0.5, times=0)
    switches.throw("flood", 2_500)
    began_ns = trial.exchange.now_ns()
    trial.command("kill")
    until(lambda: not resting(trial), timeout_s=ENDED_S, what="every order's end", why=daemon.tail)
    trial.wait_state("halted", "kill")
    killed(trial, began_ns)


# ------------------------------------------------------------------------------------------ F58: configuration

WRONG: Final[tuple[tuple[dict[str, Any], str], ...]] = (
    ({"risk": {"max_weight": 300.0}}, "risk.max_weight"),
    ({"risk": {"max_order_notional": 100.0}}, "risk.max_order_notional"),
    ({"risk": {"max_gross": 1000.0}}, "risk.max_gross"),
    ({"risk": {"price_collar": 10.0}}, "risk.price_collar"),
    ({"risk": {"max_daily_loss": 50.0}}, "risk.max_daily_loss"),
    ({"risk": {"min_cash": -0.02}}, "risk.min_cash"),
    ({"risk": {"max_weigth": 0.1}}, "risk.max_weigth"),
    ({"optimizer": {"risk_tolerance": 250.0}}, "optimizer.risk_tolerance"),
    ({"feed": {"max_age_ms": "soon"}}, "feed.max_age_ms"),
    ({"execution": {"max_slippage_bps": 20_000}}, "execution.max_slippage_bps"),
    ({"universe": ["BTC/USDT", "BTC/USDT"]}, "universe"),
    ({"live_confirm": "other"}, "live_confirm"),
)
ENVIRONMENT: Final[tuple[tuple[str, str | None, str], ...]] = (
    ("BALLAST_EXCHANGE__API_KEY", None, "api_key"),
    ("BALLAST_RISK__MAX_WEIGHT", "30", "risk.max_weight"),
    ("BALLAST_RISC__MAX_WEIGHT", "0.3", "BALLAST_RISC__MAX_WEIGHT"),
)


@row(
    "F58",
    "limits × 1,000, misspelt keys, missing secrets, contradictions",
    expect="refuses to start in one line that names the key; no order, no signed request",
)
def f58(trial: Trial) -> None:
    trial.open(symbols=2, history_bars=120)
    refusals: list[tuple[str, int, str]] = []

    def start(name: str, tree: Tree, env: dict[str, str], wanted: str) -> None:
        file = trial.folder / f"{name}.toml"
        file.write_text(toml(tree))
        done = subprocess.run(
            [sys.executable, "-m", "daemon", "run", "-c", str(file)],
            cwd=REPO, env=env, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        line = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
        refusals.append((wanted, done.returncode, line))

    base = trial.make(universe=["BTC/USDT", "ETH/USDT"], optimizer={"fully_invested": False})
    jobs = [(f"wrong{n}", merged(base.tree, changes), base.env, wanted) for n, (changes, wanted) in enumerate(WRONG)]
    for n, (name, value, wanted) in enumerate(ENVIRONMENT):
        env = {key: one for key, one in base.env.items() if key != name} | ({} if value is None else {name: value})
        jobs.append((f"env{n}", base.tree, env, wanted))
    for at in range(0, len(jobs), 3):
        threads = [threading.Thread(target=start, args=job) for job in jobs[at : at + 3]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    trial.fire(len(jobs))
    assert len(refusals) == len(jobs)
    for wanted, code, line in refusals:
        assert code in {77, 78}, f"{wanted}: exit code {code}, {line}"
        assert wanted in line, f"{wanted} is not named: {line}"
    assert trial.exchange.orders_sent() == []
    assert [one for one in trial.exchange.requests() if one["path"].startswith("/sapi")] == []
