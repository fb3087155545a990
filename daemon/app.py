"""The composition root: every command that runs something begins here."""

import asyncio
import contextlib
import sys
from collections.abc import Callable
from typing import Any

import structlog

from daemon.domain.errors import Transient, Unreachable
from daemon.edge import crash
from daemon.edge.clock import Clock
from daemon.edge.market import MarketData
from daemon.edge.rest import Rest, make_exchange
from daemon.service.lifecycle import Service
from daemon.service.place import ledger_problems
from daemon.service.training import TrainingFailed
from daemon.service.training import train as train_model
from daemon.service.trial import try_strategy
from daemon.service.venues import check_key, hasty
from daemon.service.wiring import limits
from daemon.settings import Settings, crash_at, read_keys

log = structlog.get_logger("ballast")


def run(settings: Settings) -> int:
    """Run the daemon until SIGTERM, SIGINT or a fatal fault; return the exit code."""
    crash.arm(crash_at(settings))
    return asyncio.run(_run(settings))


async def _run(settings: Settings) -> int:
    service = Service(settings)
    service.trap_signals()
    started = asyncio.get_running_loop().create_task(service.start(), name="start")
    waiting = asyncio.get_running_loop().create_task(service.wait(), name="wait")
    try:
        await asyncio.wait({started, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if started.done():
            started.result()
            await waiting
    finally:
        for task in (started, waiting):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
        await service.stop()
    if service.fatal is not None:
        raise service.fatal
    return 0


def train(settings: Settings, progress: Callable[[str], None]) -> int:
    """Fetch history, train a model and publish it; return the exit code."""

    async def work() -> str:
        async with contextlib.AsyncExitStack() as stack:
            market = await _market(settings, stack)
            await market.instruments(settings.universe)
            return await train_model(settings, market, say=progress)

    try:
        name = asyncio.run(work())
    except Transient as error:
        raise Unreachable(f"the exchange did not answer: {error}") from None
    except TrainingFailed as error:
        sys.stderr.write(f"{error}\n")
        return 1
    progress(f"published {name}")
    return 0


async def _market(settings: Settings, stack: contextlib.AsyncExitStack) -> MarketData:
    exchange = make_exchange(
        settings.exchange.id,
        rest_url=settings.exchange.rest_url,
        ws_url=settings.exchange.ws_url,
        ws_api_url=settings.exchange.ws_api_url,
        sandbox=settings.exchange.sandbox,
    )
    stack.push_async_callback(exchange.close)
    clock = Clock()
    return MarketData(Rest(exchange, clock, quota=hasty(settings, clock)), clock, bar_ns=settings.bar_ns)


def check(settings: Settings, online: bool) -> list[str]:
    """Return what would stop a start, one line each; with ``online`` the ledger's server and the exchange are asked too."""
    problems = [f"risk.{line}" for line in limits(settings).validate()]
    problems += [] if problems else try_strategy(settings)
    problems += ledger_problems(settings) if online else []
    if not online or problems:
        return problems

    async def ask() -> None:
        async with contextlib.AsyncExitStack() as stack:
            market = await _market(settings, stack)
            await market.instruments(settings.universe)
            if settings.mode == "live":
                await check_key(settings, read_keys(settings), Clock())
            offset_ms = await market.clock_offset() / 1e6
            if abs(offset_ms) > 500:
                problems.append(
                    f"clock: {offset_ms:+.0f} ms off the exchange's; synchronise it (chrony, systemd-timesyncd)"
                )

    try:
        asyncio.run(ask())
    except Transient as error:
        raise Unreachable(f"the exchange did not answer: {error}") from None
    return problems


def demo(seconds: float, seed: int, as_json: bool) -> int:
    """Run the simulated exchange and the daemon in one go; see ``daemon.service.demo``."""
    from daemon.service.demo import run_demo

    return run_demo(seconds=seconds, seed=seed, as_json=as_json)


def reconcile(settings: Settings) -> dict[str, Any]:
    """Compare ledger and exchange once, without trading; return ``{ok, orders, fills, unresolved, breaks}``."""
    from daemon.service.comparing import compare

    return asyncio.run(compare(settings))
