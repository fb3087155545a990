"""The simulated disk under ledger and journal: slow, full, read-only, or dead in the middle of a write."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from daemon.edge.ledger import SqlLedger
from tests.sim.loop import NS, SIDE, SimLoop

Done = Callable[[Any], None]


class SimDisk:
    """Does what executors are given, in order per executor as their one thread would.

    Attributes
    ----------
    slow_s
        Time that a piece of the ledger's work takes at most, besides a millisecond or so.
    late
        Whether the work happens at the end of that time (else at its beginning, and only the answer is late).
    crash
        Called once in the middle of the next piece of work, before or after it happened; the answer never comes.
    """

    def __init__(self, loop: SimLoop, rng: random.Random) -> None:
        self._loop = loop
        self._rng = rng
        self._free_ns: dict[int, int] = {}
        self.slow_s = 0.0
        self.late = False
        self.crash: Callable[[], None] | None = None
        self.writes = 0

    def __call__(self, executor: object, work: Callable[[], Any], done: Done) -> None:
        """Do the work and answer, when the disk is that far."""
        if not isinstance(executor, ThreadPoolExecutor) or not str(executor._thread_name_prefix).startswith("ledger"):
            self._do(work, done)
            return
        self.writes += 1
        side = SIDE.get()
        now = self._loop.now_ns
        took_s = 0.0002 + 0.002 * self._rng.random() + self.slow_s * self._rng.random()
        start = max(now, self._free_ns.get(id(executor), 0))
        end = self._free_ns[id(executor)] = start + round(took_s * NS)
        if self.crash is not None:
            crash, self.crash = self.crash, None
            if self._rng.random() < 0.5:
                self._do(work, lambda _result: None)
            crash()
            return
        if self.late or start > now:
            self._loop.call_later((end - now) / NS, self._land, side, work, done)
        else:
            self._do(work, lambda result: self._later((end - now) / NS, done, result))

    def _land(self, side: str, work: Callable[[], Any], done: Done) -> None:
        if side not in self._loop.dead:
            self._do(work, done)

    def _later(self, seconds: float, done: Done, result: Any) -> None:
        self._loop.call_later(seconds, done, result)

    @staticmethod
    def _do(work: Callable[[], Any], done: Done) -> None:
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - whoever waits for the work gets it
            done(error)
            return
        done(result)


def spoil(ledger: SqlLedger, how: str) -> bool:
    """Make a ledger's database full or read-only, or well again (""); false when it is not open."""
    connection = ledger._store._connection
    if connection is None:
        return False
    raw: Any = connection.connection.dbapi_connection
    match how:
        case "full":
            raw.execute(f"PRAGMA max_page_count={raw.execute('PRAGMA page_count').fetchone()[0]}")
        case "readonly":
            raw.execute("PRAGMA query_only=ON")
        case _:
            raw.execute("PRAGMA query_only=OFF")
            raw.execute("PRAGMA max_page_count=1073741823")
    return True
