"""An event loop whose time is virtual: it never waits, it jumps to the next timer; and the clocks that follow from it.

Everything runs in one thread. What the daemon hands to an executor (ledger, journal) runs inline, in order, as its own
thread would, and takes as long as the simulated disk says. A connection is a pair of memory pipes (`tests.sim.net`).
"""

import asyncio
import selectors
import socket
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import Context, ContextVar, copy_context
from heapq import heappop, heappush
from typing import Any, Protocol, cast

from daemon.edge.clock import Clock

START_NS = 1_760_000_000_000_000_000
"""Wall time at which every simulation starts, ns UTC."""
NS = 1_000_000_000
ROUND_NS = 1_000
"""What one round of the loop costs: work takes time, and who polls for a moment that rounding puts off gets past it."""
SPINS_MAX = 200_000
"""Rounds of the loop in a row with something to do at once: then something spins."""

SIDE: ContextVar[str] = ContextVar("sim_side", default="world")
"""Whose code is running: "world" (exchange, faults, checks) or one life of the daemon, as "daemon 3"."""


class StuckError(RuntimeError):
    """Nothing can happen any more, or time does not pass although something always happens."""


class _Clockwork(selectors.SelectSelector):
    """Virtual time, and a selector that knows no file: nothing comes from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = 0

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Keep the loop's own wake-up pipe out of sight."""
        return selectors.SelectorKey(fileobj, -1, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """Forget nothing."""
        return selectors.SelectorKey(fileobj, -1, 0, None)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """Know no file."""
        return {}

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        """Know no file."""
        raise KeyError(fileobj)


def _nothing() -> None:
    """Stand where a callback was."""


class _Handle(asyncio.TimerHandle):
    """Something to do, without what asyncio's own keeps for debugging."""

    __slots__ = ()

    def __init__(self, when: float, callback: Callable[..., Any], args: Any, context: Context | None) -> None:
        self._when = when
        self._callback = callback
        self._args = args
        self._context = copy_context() if context is None else context
        self._cancelled = False

    def cancel(self) -> None:
        """Do nothing when the time comes."""
        self._cancelled = True
        self._callback, self._args = _nothing, ()

    def __repr__(self) -> str:
        """Name what is to be done."""
        return f"<{self._callback!r} at {self._when}>"


class Disk(Protocol):
    """How the simulated disk behaves."""

    def __call__(self, executor: object, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Do the work now or later, and say so."""
        ...


class Wires(Protocol):
    """The network: see ``tests.sim.net.Network``."""

    async def dial(self, factory: Callable[[], asyncio.BaseProtocol], port: int) -> tuple[Any, Any]:
        """Connect to a port of this machine."""
        ...

    def listen(self, factory: Callable[[], asyncio.BaseProtocol], port: int) -> Any:
        """Take connections."""
        ...


class Ticket:
    """What stands for a connected socket between aiohttp's dialling and its connection."""

    family = socket.AF_INET
    type = socket.SOCK_STREAM

    def __init__(self, port: int) -> None:
        self.port = port

    def close(self) -> None:
        """Hold nothing."""


class SimLoop(asyncio.SelectorEventLoop):
    """Virtual time, memory connections, inline executors."""

    def __init__(self) -> None:
        self.clockwork = _Clockwork()
        super().__init__(self.clockwork)
        self._now: deque[_Handle] = deque()
        self._later: list[tuple[int, int, _Handle]] = []
        self._number = 0
        self._spins = 0
        self.network: Wires | None = None
        self.disk: Disk | None = None
        self.owned: dict[str, dict[asyncio.Task[Any], None]] = {}
        """Tasks by side, in the order of their making."""
        self.dead: set[str] = set()
        self.set_task_factory(cast("Any", self._make_task))

    def time(self) -> float:
        """Return virtual seconds since the start."""
        return self.clockwork.now_ns / NS

    @property
    def now_ns(self) -> int:
        """Return virtual ns since the start."""
        return self.clockwork.now_ns

    # ------------------------------------------------------------------ what is done when

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> _Handle:  # type: ignore[override]
        """Do it in the next round."""
        handle = _Handle(0.0, callback, args, context)
        self._now.append(handle)
        return handle

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Context | None = None) -> _Handle:  # type: ignore[override]
        """Do it in the next round; there is one thread only."""
        return self.call_soon(callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> _Handle:  # type: ignore[override]
        """Do it when it is time; of two at the same time the older goes first."""
        handle = _Handle(when, callback, args, context)
        self._number += 1
        heappush(self._later, (round(when * NS), self._number, handle))
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> _Handle:  # type: ignore[override]
        """Do it after a while."""
        return self.call_at(self.clockwork.now_ns / NS + delay, callback, *args, context=context)

    def _run_once(self) -> None:
        """Do what is to be done now; when there is nothing, let time pass as far as the next timer."""
        now, later, clockwork = self._now, self._later, self.clockwork
        while later and later[0][2]._cancelled:
            heappop(later)
        clockwork.now_ns += ROUND_NS
        if now or getattr(self, "_stopping", False):
            self._spins += 1
            if self._spins > SPINS_MAX:
                raise StuckError(
                    f"{SPINS_MAX} rounds of the loop in a row had something to do at once, at {self.now_ns} ns"
                )
        elif later:
            self._spins = 0
            clockwork.now_ns = max(clockwork.now_ns, later[0][0])
        else:
            raise StuckError("nothing is scheduled: every task waits for something that cannot come")
        while later and later[0][0] <= clockwork.now_ns:
            handle = heappop(later)[2]
            if not handle._cancelled and (not self.dead or handle._context.get(SIDE, "world") not in self.dead):
                now.append(handle)  # a dead process has no timers
        for _ in range(len(now)):
            handle = now.popleft()
            if handle._cancelled:
                continue
            try:
                handle._context.run(handle._callback, *handle._args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 - as asyncio does: whoever watches the loop hears of it
                self.call_exception_handler(
                    {"message": f"exception in {handle!r}", "exception": error, "handle": handle}
                )

    def _make_task(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        """Make a task and note whose it is, so that a life of the daemon can end at once."""
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **options)
        context = options.get("context")
        side = context.get(SIDE, "world") if context is not None else SIDE.get()
        tasks = self.owned.setdefault(side, {})
        tasks[task] = None
        task.add_done_callback(lambda done: tasks.pop(done, None))
        if side in self.dead:
            task.cancel()
        return task

    def bury(self, side: str) -> list[asyncio.Task[Any]]:
        """End a life: its tasks are cancelled, what it still does reaches nothing. Returns its tasks."""
        self.dead.add(side)
        tasks = list(self.owned.get(side, ()))
        for task in tasks:
            task.cancel()
        return tasks

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":  # type: ignore[override]
        """Do the work in this thread, as the disk pleases."""
        future: asyncio.Future[Any] = self.create_future()
        side = SIDE.get()
        if side in self.dead:
            return future  # a dead process writes nothing and hears nothing

        def work() -> Any:
            return func(*args)

        def done(result: Any) -> None:
            if future.done() or side in self.dead:
                return
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)

        if self.disk is not None:
            self.disk(executor, work, done)
            return future
        try:
            done(work())
        except Exception as error:  # noqa: BLE001 - whoever awaits the future gets it
            done(error)
        return future

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        """Connect through memory."""
        assert self.network is not None
        ticket = options.get("sock")
        return await self.network.dial(protocol_factory, ticket.port if isinstance(ticket, Ticket) else int(port))

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        """Listen in memory."""
        assert self.network is not None
        return self.network.listen(protocol_factory, int(port))


class SimClock(Clock):
    """The daemon's clocks: monotonic time is the loop's, wall time may be wrong and may jump."""

    __slots__ = ("_loop", "offset_ns")

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self.offset_ns = 0

    def now_ns(self) -> int:
        """Return the machine's wall clock."""
        return START_NS + self._loop.now_ns + self.offset_ns

    def mono_ns(self) -> int:
        """Return the monotonic clock."""
        return 1_000 * NS + self._loop.now_ns

    def true_ns(self) -> int:
        """Return the right wall time, by which the exchange goes."""
        return START_NS + self._loop.now_ns
