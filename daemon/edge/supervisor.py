"""Two supervised groups of tasks: trading restarts a few times and then halts, outlets retry for ever (DESIGN Part B)."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine

import structlog

from daemon.domain.market import NS_PER_S
from daemon.edge.clock import Clock

RESTARTS_MAX = 3
RESTART_WINDOW_S = 600.0
OUTLET_DELAY_S = 2.0
STOP_TIMEOUT_S = 3.0
JOBS_MAX = 5_000

log = structlog.get_logger("ballast")

Eternal = Callable[[], Awaitable[None]]


class Supervisor:
    """Holds every task of the daemon by name; nothing else starts one.

    ``halt`` is called with a task's name and one line when a trading task failed more often than allowed. An outlet
    that fails is restarted after a pause and can never reach the trading group.
    """

    def __init__(self, clock: Clock, halt: Callable[[str, str], None]) -> None:
        """Keep the clock and whom to tell when trading has to stop."""
        self._clock = clock
        self._halt = halt
        self._eternal: dict[str, asyncio.Task[None]] = {}
        self._jobs: set[asyncio.Task[None]] = set()
        self.restarts: dict[str, int] = {}

    def trading(self, name: str, run: Eternal) -> None:
        """Start an eternal task of the trading group."""
        self._eternal[name] = asyncio.get_running_loop().create_task(self._trade(name, run), name=name)

    def outlet(self, name: str, run: Eternal) -> None:
        """Start an eternal task of the outlets group."""
        self._eternal[name] = asyncio.get_running_loop().create_task(self._watch(name, run), name=name)

    def job(self, name: str, work: Coroutine[None, None, None]) -> None:
        """Start a short task (a request, a send); its failure is logged and halts nothing, but is never silent."""
        if len(self._jobs) >= JOBS_MAX:
            work.close()
            self._halt(name, f"{JOBS_MAX} requests are under way at once; no more are started")
            return
        task = asyncio.get_running_loop().create_task(self._job(name, work), name=name)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

    @property
    def jobs(self) -> int:
        """Return how many short tasks are under way."""
        return len(self._jobs)

    def failed(self) -> list[str]:
        """Return the names of eternal tasks that are no longer running."""
        return [name for name, task in self._eternal.items() if task.done()]

    async def _trade(self, name: str, run: Eternal) -> None:
        starts: deque[int] = deque(maxlen=RESTARTS_MAX + 1)
        while True:
            starts.append(self._clock.mono_ns())
            try:
                await run()
                detail = "ended although it should run for ever"
            except asyncio.CancelledError:
                raise
            except Exception as error:
                detail = f"{type(error).__name__}: {error}"
                log.exception("task failed", task=name, group="trading")
            self.restarts[name] = self.restarts.get(name, 0) + 1
            window_ns = self._clock.mono_ns() - starts[0]
            if len(starts) > RESTARTS_MAX and window_ns < RESTART_WINDOW_S * NS_PER_S:
                self._halt(name, f"task {name} failed {len(starts)} times: {detail}")
                return
            await asyncio.sleep(0.1 * 2 ** len(starts))

    async def _watch(self, name: str, run: Eternal) -> None:
        while True:
            try:
                await run()
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever an outlet does, it is restarted and never reaches trading
                self.restarts[name] = self.restarts.get(name, 0) + 1
                log.warning("outlet failed", task=name, error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(OUTLET_DELAY_S)

    async def _job(self, name: str, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except Exception:
            log.exception("job failed", job=name)

    async def settle(self, timeout_s: float) -> int:
        """Wait until no short task is under way; return how many still are after the timeout."""
        if self._jobs:
            await asyncio.wait(set(self._jobs), timeout=timeout_s)
        return len(self._jobs)

    async def stop(self, *names: str) -> None:
        """Cancel the named eternal tasks (all when none is named) and wait for them, naming those that are late."""
        tasks = [self._eternal.pop(name) for name in (names or tuple(self._eternal)) if name in self._eternal]
        for task in tasks:
            task.cancel()
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=STOP_TIMEOUT_S)
        if late:
            log.error("tasks are late to stop", tasks=sorted(task.get_name() for task in late))
