"""The watchdog process: cancels what is open when the kill latch exists and the daemon does not.

Run as ``python -m daemon.edge.watchdog_child``; the daemon starts it (``daemon/edge/watchdog.py``) and tells it through
a socket, its standard input: first one JSON line with address and keys, then single bytes, ``0`` (the loop runs and
sees no latch), ``1`` (it runs and has seen the latch), ``q`` (it stops). The end of that stream means that the daemon is
dead. The other way goes a sign of life every second.
Nothing is ever cancelled without a latch; it is asked for again before each cancel.

No part of the daemon is needed: not its loop, not its ledger, not its connections.
"""

import contextlib
import os
import select
import signal
import sys
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from daemon.edge.clock import Clock
from daemon.edge.latch import KillLatch
from daemon.edge.watchdog_venue import Door, Listing, Round, Setup

NS_PER_MS: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000
POLL_S: Final = 0.01
"""How often the latch is looked at."""
GRACE_NS: Final = 100 * NS_PER_MS
"""So long the daemon's loop has to say that it has seen the latch."""
STALE_NS: Final = 500 * NS_PER_MS
"""A loop that was heard of no later than this is running; its timer beats every 50 ms."""
HANDOVER_NS: Final = 2 * NS_PER_S
"""So long a running loop has to cancel by itself before the venue is asked whether it did."""
RETRY_NS: Final = 200 * NS_PER_MS
AGAIN_NS: Final = (2 * NS_PER_S, 10 * NS_PER_S, 60 * NS_PER_S)
"""After nothing was left the venue is asked again: an order may have been on its way (F7). The last repeats."""
WARM_NS: Final = 25 * NS_PER_S
"""How often the venue's clock is measured, which keeps a connection open."""
ALIVE_NS: Final = NS_PER_S
ORPHAN_NS: Final = 600 * NS_PER_S
"""Without a daemon it gives up after so long: nothing it could do has helped."""
SETUP_BYTES_MAX: Final = 65_536
LINE_BYTES_MAX: Final = 4_096
"""What a pipe that can be written to takes without blocking."""

LEVELS: Final = ("debug", "info", "warning", "error")

Say = Callable[..., None]


class Vigil:
    """What the watchdog knows and does next; ``step`` never blocks, requests run in threads.

    Parameters
    ----------
    door
        The way to the venue.
    latch
        The kill latch.
    say
        Takes a level, an event's name and fields.
    """

    def __init__(self, door: Door, latch: KillLatch, say: Say) -> None:
        self._door, self._latch, self._say = door, latch, say
        self.dead = False
        self.told_to_end = False
        self.acknowledged = False
        self.beat_ns = 0
        self.since_ns = 0
        self.rounds = 0
        self.cancelled = 0
        self.left = -1
        self.clean = 0
        self._next_ns = 0
        self._listing: Future[Listing] | None = None
        self._round: Future[Round] | None = None

    def heard(self, data: bytes, now_ns: int) -> None:
        """Take what came from the daemon; nothing is its end."""
        if not data:
            self.dead = True
            self._say("warning" if self.since_ns else "info", "watchdog.daemon_gone")
            return
        self.told_to_end |= b"q" in data
        beats = data.replace(b"q", b"")
        if beats:
            self.beat_ns = now_ns
            self.acknowledged = beats.endswith(b"1")

    def step(self, now_ns: int) -> None:
        """Look at the latch and do what is due."""
        if not self._latch.is_set():
            if self.since_ns:
                self._say("info", "watchdog.latch_lifted", cancelled=self.cancelled)
                self._forget()
            return
        if not self.since_ns:
            self.since_ns = now_ns
            self._listing = self._door.pool.submit(self._door.list_open)
            self._say("warning", "watchdog.latch_set", acknowledged=self.acknowledged)
        if self._round is not None:
            if self._round.done():
                self._take(self._round.result(), now_ns)
        elif now_ns >= self._due_ns(now_ns):
            self._act()

    def finished(self, now_ns: int) -> bool:
        """Say whether there is nothing left to watch: the daemon is gone, and with a latch, so are the orders."""
        if not (self.dead or self.told_to_end):
            return False
        if not self.since_ns or self.clean:
            return True
        if now_ns - max(self.beat_ns, self.since_ns) > ORPHAN_NS:
            self._say("error", "watchdog.given_up", left=self.left)
            return True
        return False

    def _due_ns(self, now_ns: int) -> int:
        """Return when to act next: at once, unless the daemon's loop runs and has seen the latch."""
        if self.rounds:
            return self._next_ns
        running = not self.dead and now_ns - self.beat_ns <= STALE_NS
        return self.since_ns + (HANDOVER_NS if running and self.acknowledged else GRACE_NS)

    def _act(self) -> None:
        listing, self._listing = self._listing, None
        fresh = not self.rounds and not self.acknowledged
        if not self.rounds:
            self._say("warning", "watchdog.acts", acknowledged=self.acknowledged, daemon_gone=self.dead)
        self.rounds += 1
        if fresh and listing is not None:
            self._round = self._door.pool.submit(lambda: self._door.cancel_round(listing.result()))
        else:
            self._round = self._door.pool.submit(self._door.cancel_round)

    def _take(self, done: Round, now_ns: int) -> None:
        self._round = None
        self.left = done.left
        self.cancelled += done.cancelled
        if done.left == 0:
            self.clean += 1
            self._next_ns = now_ns + AGAIN_NS[min(self.clean, len(AGAIN_NS)) - 1]
            if self.clean <= len(AGAIN_NS):
                self._say("info", "watchdog.none_open", cancelled=self.cancelled, round=self.rounds)
            return
        self.clean = 0
        self._next_ns = now_ns + max(RETRY_NS, int(done.wait_s * NS_PER_S))
        level = "error" if done.problem else "warning"
        fields = {"listed": done.left, "cancelled": done.cancelled, "problem": done.problem, "wait_s": done.wait_s}
        self._say(level, "watchdog.round", round=self.rounds, **fields)

    def _forget(self) -> None:
        """Begin anew: the latch has been lifted."""
        self.since_ns = self.rounds = self.cancelled = self.clean = 0
        self.left = -1
        self._listing = None


def speaker(least: str) -> Say:
    """Return what writes one line of JSON to standard error from this level on."""
    fd = sys.stderr.fileno()

    def say(level: str, event: str, **fields: object) -> None:
        """Write one line, or nothing when that would block: a full pipe must not stop a cancel."""
        if LEVELS.index(level) < LEVELS.index(least):
            return
        stamp = datetime.fromtimestamp(Clock().now_ns() / NS_PER_S, UTC).isoformat()
        line = msgspec.json.encode({"timestamp": stamp, "level": level, "logger": "watchdog", "event": event, **fields})
        with contextlib.suppress(OSError, ValueError):
            if select.select([], [fd], [], 0)[1]:
                os.write(fd, line[: LINE_BYTES_MAX - 1] + b"\n")

    return say


def read_setup(fd: int) -> Setup | None:
    """Read the first line; None when the daemon died before it was complete. It is read byte-wise: beats follow it."""
    line = bytearray()
    while not line.endswith(b"\n") and len(line) < SETUP_BYTES_MAX:
        piece = os.read(fd, 1)
        if not piece:
            return None
        line += piece
    return msgspec.json.decode(bytes(line), type=Setup)


def read(fd: int) -> bytes:
    """Read what is there, nothing when the other side is gone."""
    try:
        return os.read(fd, SETUP_BYTES_MAX)
    except ConnectionError:
        return b""


def watch(setup: Setup, fd: int) -> None:
    """Watch until the daemon stops or dies and nothing is left to do."""
    clock, latch = Clock(), KillLatch(Path(setup.state_dir))
    say = speaker(setup.log_level)
    door = Door(setup, latch, clock)
    vigil = Vigil(door, latch, say)
    warm: Future[str] | None = None
    warm_ns = alive_ns = 0
    trouble = ""
    os.set_blocking(fd, False)
    vigil.beat_ns = clock.mono_ns()
    say("info", "watchdog.up", pid=os.getpid())
    while True:
        ready = select.select([] if vigil.dead else [fd], [], [], POLL_S)[0]
        now_ns = clock.mono_ns()
        if ready:
            vigil.heard(read(fd), now_ns)
        vigil.step(now_ns)
        if vigil.finished(now_ns):
            break
        if now_ns - warm_ns >= WARM_NS and (warm is None or warm.done()):
            warm_ns, warm = now_ns, door.pool.submit(door.sync_clock)
        if warm is not None and warm.done() and warm.result() != trouble:
            trouble = warm.result()
            say("warning" if trouble else "info", "watchdog.venue", problem=trouble)
        if now_ns - alive_ns >= ALIVE_NS:
            alive_ns = now_ns
            with contextlib.suppress(OSError):  # a daemon that does not read is no reason to stop
                os.write(fd, f"{vigil.left}\n".encode())
    say("info", "watchdog.ends", latched=bool(vigil.since_ns), cancelled=vigil.cancelled)
    door.close()


def main() -> int:
    """Serve on standard input; what ends the daemon does not end this."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    setup = read_setup(0)
    if setup is not None:
        watch(setup, 0)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
