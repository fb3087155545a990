"""The whole daemon on a bench: real worker, ledger on disk, live venue through ccxt, a simulated exchange of its own.

Journal, metrics, API and stops are on as in any run. Only limits are lifted (ccxt's limiter, the gate's order rates, the
exchange's), and every bar trades every asset. Watches are laid on from outside: nothing in the daemon knows of them.
"""

import asyncio
import contextlib
import functools
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.venue import Venue, pin
from daemon.core.engine import Engine
from daemon.domain.events import Decide, Decided, Effect, Event, Step, Submit
from daemon.edge.rest import make_exchange
from daemon.exchange.config import SimConfig
from daemon.exchange.universe import symbol_specs
from daemon.outlets import logs
from daemon.service import venues
from daemon.service.lifecycle import Service
from daemon.settings import Settings, load_settings

HORIZON = 10
BAR_NS = 1_000_000_000
READY_S_MAX = 90.0
BACKFILL = 600
KEY = f"bench-{os.getpid()}"
"""Of this process alone: the lock on the account goes by the key, and a demo may be running beside us."""
SECRET = "sim-secret"
KEYS = {"BALLAST_EXCHANGE__API_KEY": KEY, "BALLAST_EXCHANGE__API_SECRET": SECRET}


def universe(n: int) -> tuple[str, ...]:
    """Return the pairs that an exchange with ``n`` live markets has."""
    return tuple(f"{spec.base}/{spec.quote}" for spec in symbol_specs(SimConfig(symbols=n)))


def venue_options(n: int, *, trades_per_s: float) -> dict[str, Any]:
    """Return the options of an exchange that never says "too many" and always fills."""
    return {
        "key": KEY,
        "secret": SECRET,
        "symbols": n,
        "history_bars": 2 * BACKFILL,
        "trades_per_s": trades_per_s,
        "touch_notional": 50_000,
        "volatility_bar": 0.0002,
        "cash": 1_000_000,
        "weight_per_minute": 100_000_000,
        "orders_per_10s": 1_000_000,
    }


def settings_text(base: str, symbols: tuple[str, ...], folder: Path, *, every: int) -> str:
    """Return a configuration whose limits do not bind, deciding every ``every`` seconds on one-second bars."""
    return f"""
mode = "live"
live_confirm = "bench"
instance = "bench"
universe = {msgspec.json.encode(symbols).decode()}
bar = "1s"
strategy = "benchmarks.flip:Flip"
state_dir = "{folder}"
[exchange]
rest_url = "http://{base}"
ws_url = "ws://{base}"
[feed]
backfill_bars = {BACKFILL}
grace_ms = 200
[forecast]
horizon_bars = {HORIZON}
retrain_every = ""
[optimizer]
rebalance_every = {every}
turnover_max = 1.0
turnover_max_day = 1000.0
[risk]
max_orders_per_minute = 6000
max_repeats = 0
max_drawdown = 0.9
max_daily_loss = 0.9
cvar_limit = 1.0
[api]
listen = "127.0.0.1:0"
[metrics]
listen = "127.0.0.1:0"
[ui]
listen = ""
"""


def settings_for(base: str, symbols: tuple[str, ...], folder: Path, *, every: int) -> Settings:
    """Return that configuration, read."""
    file = folder / "bench.toml"
    file.write_text(settings_text(base, symbols, folder, every=every))
    return load_settings([file], KEYS)


async def publish_model(folder: Path, symbols: tuple[str, ...]) -> None:
    """Put a model of full size into the registry, in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.untrained", str(folder / "models"), str(BAR_NS), str(HORIZON), *symbols,
        stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    if await process.wait():
        raise RuntimeError("no model for the benchmark: see the error above")


class Passage:
    """One decision's way down the line, ns UTC; durations in ns where the name says so."""

    def __init__(self, asked: Decide) -> None:
        self.close_ns = asked.close_ns
        self.barrier_ns = asked.ts_ns
        self.asked_ns = time.time_ns()
        self.decided: Decided | None = None
        self.planned_ns = 0
        self.durable_ns = 0
        self.sent_all_ns = 0
        self.sign_ns = 0
        self.ids: tuple[str, ...] = ()
        self.outcome = ""


class Watch:
    """Stamps laid on a service from outside."""

    def __init__(self, service: Service) -> None:
        self.passages: list[Passage] = []
        self._service = service
        service.watch_also(self._effect)
        self._wrap_commit()
        emit = service.worker._emit

        def heard(event: Event) -> None:
            if isinstance(event, Decided) and self.passages:
                self.passages[-1].decided = event
            emit(event)

        service.worker._emit = heard

    def _wrap_commit(self) -> None:
        commit = self._service.ledger.commit

        async def timed(submit: Submit) -> bool:
            ok = await commit(submit)
            self.passages[-1].durable_ns = time.time_ns()
            return ok

        setattr(self._service.ledger, "commit", timed)  # noqa: B010 - laid over the method of this one instance

    def venue_ready(self) -> None:
        """Lift ccxt's limiter and lay a stopwatch on its signing, once the venue exists."""
        venue: Any = self._service.venue
        exchange = venue.calls.send_lane.exchange
        sign = exchange.sign
        place = venue.send

        def timed(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter_ns()
            try:
                return sign(*arguments, **named)
            finally:
                if self.passages:
                    self.passages[-1].sign_ns += time.perf_counter_ns() - start

        async def sent(approved: Any) -> None:
            passage = self.passages[-1]
            await place(approved)
            passage.sent_all_ns = max(passage.sent_all_ns, time.time_ns())

        exchange.sign = timed
        venue.send = sent

    def _effect(self, effect: Effect) -> None:
        match effect:
            case Decide():
                self.passages.append(Passage(effect))
            case Submit() if self.passages:
                self.passages[-1].planned_ns = time.time_ns()
                self.passages[-1].ids = tuple(one.intent.client_id for one in effect.approved)
            case Step() if self.passages:
                self.passages[-1].outcome = f"{effect.outcome} {effect.detail}".strip()
            case _:
                pass


@contextlib.contextmanager
def unlimited() -> Iterator[None]:
    """Make every ccxt exchange of the daemon without its rate limiter."""
    setattr(venues, "make_exchange", functools.partial(make_exchange, limited=False))  # noqa: B010 - its own import of it
    try:
        yield
    finally:
        setattr(venues, "make_exchange", make_exchange)  # noqa: B010


@contextlib.asynccontextmanager
async def trading(
    venue: Venue,
    symbols: tuple[str, ...],
    folder: Path,
    *,
    every: int,
    prepare: Callable[[Service], None] | None = None,
) -> AsyncIterator[tuple[Service, Watch]]:
    """Run the daemon until it is trading-ready; stop it in order at the end."""
    settings = settings_for(venue.base, symbols, folder, every=every)
    with (folder / "bench.log").open("w") as log, unlimited():
        logs.setup(style="json", level="info", stream=log)
        service = Service(settings)
        limits = msgspec.structs.replace(service.engine.config.limits, venue_orders_per_10s=1000)
        service.engine = Engine(msgspec.structs.replace(service.engine.config, limits=limits))
        watch = Watch(service)
        pin(0, 0)
        try:
            await service.start()
            watch.venue_ready()
            if prepare is not None:
                prepare(service)
            await _ready(service)
            pin(service.worker.pid, 1)
            yield service, watch
        finally:
            await service.stop()
            pin(0, 0, 1)
            _quiet()


def _quiet() -> None:
    """Take logging off the file that is about to close."""
    if logs._handler is not None:
        logging.getLogger().removeHandler(logs._handler)
        logs._handler = None
    logging.captureWarnings(False)


async def _ready(service: Service) -> None:
    deadline = time.monotonic() + READY_S_MAX
    while not (service.ready_ns and service.engine.state.model):
        if time.monotonic() > deadline:
            raise RuntimeError(f"not trading-ready after {READY_S_MAX:.0f} s: {service.desk.not_ready()}")
        await asyncio.sleep(0.1)
