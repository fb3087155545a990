"""The watchdog seen from the daemon: start it, keep it alive, tell it that the loop runs and what it has seen.

The process itself is ``daemon/edge/watchdog_child.py``. It is not ended with the daemon: what it began it finishes.
"""

import asyncio
import contextlib
import socket
import subprocess
import sys
from typing import Final

import msgspec
import structlog

from daemon.domain.events import Event, Killed, Timer
from daemon.edge import child
from daemon.edge.watchdog_venue import Setup

SILENCE_S: Final = 3.0
"""A child says every second that it lives; it is replaced when it has been silent twice as long as this."""
BACKOFF_S_MIN: Final = 0.2
BACKOFF_S_MAX: Final = 10.0
SERVED_S: Final = 10.0
"""A child that lived so long was no failed start."""
END_S_MAX: Final = 0.5
STATUS_BYTES: Final = 4_096

log = structlog.get_logger("ballast")


class Watchdog:
    """Keeps one watchdog process beside the daemon.

    Parameters
    ----------
    setup
        What the process is told; it goes through a socket pair, never through arguments or environment.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._link: socket.socket | None = None
        self._killed = False
        self.pid = 0
        self.starts = 0
        self.missed = 0
        """Beats that did not fit: the child has not read for minutes."""

    def observe(self, event: Event) -> None:
        """Tell the child what the loop has just taken from its inbox: time passes, or the latch was seen."""
        if isinstance(event, Killed):
            self._killed = event.on
        elif not isinstance(event, Timer):
            return
        self._beat(b"1" if self._killed else b"0")

    def _beat(self, word: bytes) -> None:
        if self._link is None:
            return
        try:
            self._link.send(word)
        except OSError:  # full, or nobody is there any more: the reader of the other direction finds out which
            self.missed += 1

    async def run(self) -> None:
        """Keep one child alive for ever; when cancelled, tell it that the daemon stops and let it finish."""
        backoff_s = BACKOFF_S_MIN
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            detail = await self._session()
            backoff_s = BACKOFF_S_MIN if loop.time() - began > SERVED_S else min(2 * backoff_s, BACKOFF_S_MAX)
            log.error("watchdog_down", detail=detail, again_in_s=backoff_s)
            await asyncio.sleep(backoff_s)

    async def _session(self) -> str:
        """Run one child to its end; return why it ended."""
        try:
            ours, process = child.start(_spawn)
        except OSError as error:
            return f"it could not be started: {error.strerror}"
        with ours:
            self.starts += 1
            self.pid = process.pid
            ours.setblocking(False)
            try:
                ours.send(msgspec.json.encode(self._setup) + b"\n")
                self._link = ours
                detail = await self._listen(ours)
            except asyncio.CancelledError:
                with contextlib.suppress(OSError):
                    ours.send(b"q")
                ours.close()
                await child.reap(process, END_S_MAX)  # with the latch set it first makes sure that nothing is open
                raise
            except OSError as error:
                detail = f"it cannot be talked to: {error.strerror}"
            finally:
                self._link = None
                self.pid = 0
        process.kill()
        await child.reap(process, END_S_MAX)
        return f"{detail} (exit code {process.returncode})"

    async def _listen(self, link: socket.socket) -> str:
        """Read the signs of life until there are none; two silences in a row, since this process may have been stopped."""
        loop = asyncio.get_running_loop()
        silent = 0
        while silent < 2:
            try:
                async with asyncio.timeout(SILENCE_S):
                    said = await loop.sock_recv(link, STATUS_BYTES)
            except TimeoutError:
                silent += 1
                continue
            if not said:
                return "it ended by itself"
            silent = 0
        return f"no sign of life for {2 * SILENCE_S:g} s"


def _spawn(link: socket.socket) -> child.Process:
    """Start the child in a session of its own, its standard input the socket, without our environment with its keys."""
    return subprocess.Popen(
        [sys.executable, "-m", "daemon.edge.watchdog_child"],
        stdin=link.fileno(),
        stdout=subprocess.DEVNULL,
        env=child.environment(),
        start_new_session=True,
    )
