"""Parts of the daemon that can be made to fail while it runs: patches for `Trial.patch`, each thrown by a switch.

A switch is a file in the folder that ``FAULTS_FOLDER`` names (`tests.faults.host_kit.Switches`); its text is the fault's size.
Whoever waits for one looks 20 times a second, in the daemon's own loop, unless said otherwise. Each fault says
that it happened (`tests.faults.launch.fired`).
"""

import asyncio
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.launch import fired

if TYPE_CHECKING:
    from daemon.service.lifecycle import Service

_TASKS: set[asyncio.Task[Any]] = set()
_HELD: list[bytearray] = []


def _switch(name: str) -> str | None:
    """Return the text of a switch that was thrown, once."""
    path = Path(os.environ["FAULTS_FOLDER"]) / name
    try:
        text = path.read_text()
        path.unlink()
    except FileNotFoundError:
        return None
    return text


def _on_timer(act: Callable[[], None]) -> None:
    """Have something done at every look at the kill latch, in the loop."""
    from daemon.service.killwatch import KillWatch

    check = KillWatch.check

    def checked(self: KillWatch) -> None:
        act()
        check(self)

    KillWatch.check = checked  # type: ignore[method-assign]


def _services() -> "list[Service]":
    """Return where the daemon's service will be found once it runs."""
    from daemon.service.lifecycle import Service

    found: list[Service] = []
    trap_signals = Service.trap_signals

    def trapped(self: Service) -> None:
        found.append(self)
        trap_signals(self)

    Service.trap_signals = trapped  # type: ignore[method-assign]
    return found


def blocked() -> None:
    """F52: keep the event loop, and the interpreter, busy for so many seconds."""

    def act() -> None:
        text = _switch("blocked")
        if text is not None:
            fired("blocked")
            end = time.monotonic() + float(text)
            while time.monotonic() < end:
                pass

    _on_timer(act)


def wall_clock() -> None:
    """F47: set the machine's clock, as this process sees it, off by so many seconds."""
    real, off = time.time_ns, [0]

    def act() -> None:
        text = _switch("wall_clock")
        if text is not None:
            fired("wall_clock")
            off[0] = round(float(text) * 1e9)

    _on_timer(act)
    time.time_ns = lambda: real() + off[0]
    time.time = lambda: (real() + off[0]) / 1e9


def task_dies() -> None:
    """F53: comparing with the venue raises what nobody foresaw, so often in a row."""
    from daemon.edge.orders import LiveVenue

    reconcile, left = LiveVenue.reconcile, [0]

    async def failing(self: LiveVenue) -> None:
        text = _switch("task_dies")
        if text is not None:
            left[0] = int(text)
        if left[0]:
            left[0] -= 1
            fired("task_dies")
            raise ValueError("planted: nobody foresaw this")
        await reconcile(self)

    LiveVenue.reconcile = failing  # type: ignore[method-assign]


def slow_commit() -> None:
    """F49: a commit takes so many seconds until the ledger's thread knows that it is durable, until the switch says 0."""
    from daemon.edge import crash

    point, pause = crash.point, [0.0]

    def slow(name: str) -> None:
        if name == "ledger.commit.before":
            text = _switch("slow_commit")
            if text is not None:
                pause[0] = float(text)
        if name == "ledger.commit.after" and pause[0]:
            fired("slow_commit")
            time.sleep(pause[0])
        point(name)

    crash.point = slow


def memory_full() -> None:
    """F51: take memory up to a limit of so many MiB above what is in use, and keep it."""

    def act() -> None:
        text = _switch("memory_full")
        if text is None:
            return
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + int(text) * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        fired("memory_full")
        piece = 2**20
        while piece >= 2**12:
            try:
                _HELD.append(bytearray(piece))
            except MemoryError:
                piece //= 2

    _on_timer(act)


def impatient() -> None:
    """F55: dial again at once, however often: what politeness would stretch over days."""
    from daemon.edge.feed import Backoff

    def now(self: Backoff, now_s: float) -> float:
        fired("impatient")
        return 0.0

    Backoff.delay_s = now  # type: ignore[method-assign]


def flood() -> None:
    """F57: put so many requests into the limiter of the market data's lane."""
    known = _services()

    def act() -> None:
        text = _switch("flood")
        if text is None:
            return
        fired("flood")
        for _ in range(int(text)):
            task = asyncio.get_running_loop().create_task(known[0].market.confirm("BTC/USDT"))
            _TASKS.add(task)
            task.add_done_callback(_forget)

    _on_timer(act)


def _forget(task: asyncio.Task[Any]) -> None:
    _TASKS.discard(task)
    if not task.cancelled():
        task.exception()


def reload_model() -> None:
    """F60: have the worker load the model that is current now, as after a training."""
    known = _services()

    def act() -> None:
        if _switch("reload_model") is not None:
            fired("reload_model")
            known[0].worker.reload_model()

    _on_timer(act)


def other_machine() -> None:
    """F46: look for the machine's locks elsewhere, as a daemon on another machine does."""
    from daemon.edge import lock

    setattr(lock, "MACHINE_FOLDERS", (os.environ["FAULTS_FOLDER"],))  # noqa: B010 - a constant, to all but a patch
    fired("other_machine")
