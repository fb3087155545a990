"""The kill latch as the running daemon sees it: looked at every 50 ms, told to the engine when it changes."""

import structlog

from daemon.domain.events import Killed
from daemon.domain.ports import Emit
from daemon.edge.clock import Clock
from daemon.edge.latch import KillLatch

log = structlog.get_logger("ballast")


class KillWatch:
    """Tells the engine about the latch; where the disk refuses to hold it, remembers that it must be made."""

    def __init__(self, latch: KillLatch, emit: Emit, clock: Clock) -> None:
        """Start without knowing: the first look is told whatever it finds, so that a memory of an old kill gives way."""
        self._latch = latch
        self._emit = emit
        self._clock = clock
        self._told: bool | None = None
        self._owed = ""

    def set(self, detail: str) -> None:
        """Make the latch durable before the engine hears of the kill; a disk that refuses must not keep it from the engine."""
        self._write(detail)
        self._told = True  # the command that follows tells the engine

    def check(self) -> None:
        """Look at the latch and tell the engine what changed."""
        if self._owed:
            self._write(self._owed)
        on = bool(self._owed) or self._latch.is_set()
        if on != self._told:
            self._told = on
            self._emit(Killed(on, self._latch.detail() or "kill latch", self._clock.now_ns()))

    def _write(self, detail: str) -> None:
        try:
            self._latch.set(detail)
        except OSError as error:
            if not self._owed:
                log.critical("kill latch cannot be written", path=str(self._latch.path), error=str(error))
            self._owed = detail
        else:
            self._owed = ""
