"""What stands in for the machine around the daemon: time, chance, sockets, logs, and the worker in this process."""

import asyncio
import contextlib
import functools
import logging
import math
import random
import ssl
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import aiohappyeyeballs
import aiohttp
import aiohttp.connector
import msgspec
import structlog

from daemon.domain.events import Decide, Decided, Seed, WorkerDown, WorkerUp
from daemon.domain.ports import Emit
from daemon.domain.signal import NoDecision, NoReason
from daemon.edge import clock as machine_clock
from daemon.edge import lock
from daemon.edge.clock import Clock
from daemon.edge.worker_child import InlineWorker
from daemon.edge.worker_wire import WorkerConfig
from daemon.exchange import server
from daemon.service import lifecycle, venues
from tests.sim.loop import NS, SimClock, SimLoop, Ticket

LINES_MAX = 5_000
EXCHANGE_IDLE_S = 0.25
"""How long the exchange waits when nothing is due: trades come when they are due anyway."""

# By name: ccxt's packages shadow their own modules.
throttling: Any = import_module("ccxt.async_support.base.throttler")
ccxt_base: Any = import_module("ccxt.base.exchange")
ccxt_async: Any = import_module("ccxt.async_support.base.exchange")


class Chance:
    """All randomness of one simulation, named, so that one use never shifts another's numbers."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._made = 0
        self._real = random.Random

    def of(self, name: str) -> random.Random:
        """Return a generator of its own."""
        return self._real(f"{self._seed} {name}")

    def unseeded(self) -> random.Random:
        """Return what the daemon gets when it asks for a generator without a seed."""
        self._made += 1
        return self.of(f"unseeded {self._made}")


class SimWorker:
    """The worker's port with the strategy in this process; thinking takes simulated time."""

    def __init__(self, emit: Emit, clock: Clock, config: WorkerConfig) -> None:
        self._emit, self._clock, self._config = emit, clock, config
        self._inline: InlineWorker | None = None
        self._rng = random.Random()
        self._fail = asyncio.Event()
        self.think_s = 0.02

    def seed(self, seed: Seed) -> None:
        """Fill the buffers."""
        if self._inline is not None:
            self._inline.seed(seed)

    def decide(self, decide: Decide) -> None:
        """Answer after a while, or say that it took too long."""
        inline = self._inline
        loop = asyncio.get_running_loop()
        if inline is None:
            loop.call_soon(self._answer, self._refusal(decide, NoReason.WORKER_DOWN))
            return
        decided = inline.decide(decide)
        took_s = self.think_s * (0.2 + self._rng.random())
        left_s = (decide.deadline_ns - self._clock.now_ns()) / NS
        if took_s > left_s:
            decided, took_s = self._refusal(decide, NoReason.DEADLINE), max(0.0, left_s)
        loop.call_later(took_s, self._answer, decided)

    def reload_model(self) -> None:
        """Serve what is served already."""

    def fail(self) -> None:
        """Die; another takes over in a second."""
        self._fail.set()

    async def run(self) -> None:
        """Be born and die, for ever."""
        while True:
            self._inline = InlineWorker(self._config)
            ready = self._inline.ready
            self._emit(WorkerUp(model=ready.model, model_trained_ns=ready.trained_ns, ts_ns=self._clock.now_ns()))
            self._fail.clear()
            await self._fail.wait()
            self._inline = None
            self._emit(WorkerDown(detail="killed by the simulation", ts_ns=self._clock.now_ns()))
            await asyncio.sleep(1.0)

    def _answer(self, decided: Decided) -> None:
        if self._inline is not None or isinstance(decided.result, NoDecision):
            self._emit(msgspec.structs.replace(decided, ts_ns=self._clock.now_ns()))

    def _refusal(self, decide: Decide, reason: NoReason) -> Decided:
        answer = NoDecision(reason, "simulated")
        return Decided(seq=decide.seq, result=answer, features_ns=0, forecast_ns=0, solve_ns=0, ts_ns=decide.ts_ns)


class NoListener:
    """In place of API and scrape: no socket is opened."""

    address = "nowhere"

    def __init__(self, *_arguments: Any, **_options: Any) -> None:
        """Take what the real one takes."""

    def bind(self) -> None:
        """Bind nothing."""

    def close(self) -> None:
        """Close nothing."""

    async def serve(self) -> None:
        """Serve nobody, for ever."""
        await asyncio.Event().wait()


class NoWatchdog:
    """In place of the watchdog: no process is started."""

    def __init__(self, _setup: object) -> None:
        """Take what the real one takes."""

    def observe(self, event: object) -> None:
        """Look away."""

    async def run(self) -> None:
        """Watch nothing, for ever."""
        await asyncio.Event().wait()


class Machine:
    """The machine's clocks, in place of the module that the daemon's one clock reads."""

    def __init__(self, clock: SimClock) -> None:
        self.time_ns = clock.now_ns
        self.monotonic_ns = clock.mono_ns


async def _leaky_bucket_loop(throttler: Any) -> None:
    """Do what ccxt's throttler does, but wait in one step as long as it would have polled every millisecond."""
    config, queue = throttler.config, throttler.queue
    last_ms = throttling.time() * 1000
    while throttler.running:
        future, cost = queue[0]
        if config["tokens"] >= 0:
            config["tokens"] -= config["cost"] if cost is None else cost
            if not future.done():
                future.set_result(None)
            queue.popleft()
            await asyncio.sleep(0)
            throttler.running = bool(queue)
            continue
        polls = math.ceil(-config["tokens"] / config["refillRate"] / 1000 / config["delay"])
        await asyncio.sleep(max(1, polls) * config["delay"])
        now_ms = throttling.time() * 1000
        refill = (now_ms - last_ms) * config["refillRate"]
        last_ms = now_ms
        config["tokens"] = min(config["tokens"] + refill, config["capacity"])


async def _start_connection(addr_infos: Any, **_options: Any) -> Ticket:
    return Ticket(int(addr_infos[0][4][1]))


def _nothing(_self: object, **_options: Any) -> None:
    """Replace finalisers: what a killed process left open is nobody's to close."""


class Scribe:
    """Takes the daemon's log: lines from warning on are kept, with the virtual time."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self.lines: list[tuple[int, str, dict[str, Any]]] = []

    def __call__(self, _logger: Any, level: str, event: Any) -> Any:
        """Keep one line."""
        if len(self.lines) < LINES_MAX:
            self.lines.append((self._loop.now_ns, level, dict(event)))
        raise structlog.DropEvent


@contextlib.contextmanager
def staged(loop: SimLoop, clock: SimClock, chance: Chance, folder: Path) -> Iterator[Scribe]:
    """Put the stand-ins in place, for as long as the simulation runs."""
    scribe = Scribe(loop)
    logger = logging.getLogger("aiohttp")
    level = logger.level
    real_random = random.Random

    def generator(x: Any = None) -> random.Random:
        return chance.unseeded() if x is None else real_random(x)

    random_state = random.getstate()
    old = structlog.get_config()
    with contextlib.ExitStack() as stack:
        for target, name, new in (
            (lifecycle, "Worker", SimWorker),
            (lifecycle, "Api", NoListener),
            (lifecycle, "MetricsListener", NoListener),
            (venues, "Watchdog", NoWatchdog),
            (machine_clock, "time", Machine(clock)),
            (ccxt_base.BaseExchange, "milliseconds", staticmethod(lambda: clock.now_ns() // 1_000_000)),
            (ccxt_base.BaseExchange, "microseconds", staticmethod(lambda: clock.now_ns() // 1_000)),
            (ccxt_base.BaseExchange, "seconds", staticmethod(lambda: clock.now_ns() // NS)),
            (throttling, "time", lambda: clock.mono_ns() / NS),
            (throttling.Throttler, "leaky_bucket_loop", _leaky_bucket_loop),
            (server, "_PUMP_SECONDS", EXCHANGE_IDLE_S),
            (server, "_HANG_POLL_SECONDS", EXCHANGE_IDLE_S),
            (aiohappyeyeballs, "start_connection", _start_connection),
            (aiohttp.connector, "monotonic", loop.time),
            (aiohttp.ClientSession, "__del__", _nothing),
            (aiohttp.BaseConnector, "__del__", _nothing),
            (ccxt_async.Exchange, "__del__", _nothing),
            (random, "Random", generator),
            (ssl, "create_default_context", functools.cache(ssl.create_default_context)),
            (lock, "MACHINE_FOLDERS", (str(folder),)),
        ):
            stack.enter_context(patch.object(target, name, new))
        structlog.configure(
            processors=[scribe],
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
            cache_logger_on_first_use=False,
        )
        stack.enter_context(warnings.catch_warnings())
        # A task that dies before its first step never awaited the work it was given: so it is with a killed process.
        warnings.filterwarnings("ignore", message="coroutine .* was never awaited", category=RuntimeWarning)
        random.seed(chance.of("global").random())
        logger.setLevel(logging.CRITICAL)
        try:
            yield scribe
        finally:
            logger.setLevel(level)
            structlog.configure(**old)
            random.setstate(random_state)
