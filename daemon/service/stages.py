"""Stopping in numbered stages: each has its own time, and none that fails or hangs keeps the others from their turn."""

import asyncio
import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import structlog

log = structlog.get_logger("ballast")


class Stage(NamedTuple):
    """One step of the stop: what to call (plain or async) and how long it may take, seconds."""

    name: str
    run: Callable[[], Any]
    timeout_s: float


async def stop_in(stages: Iterable[Stage]) -> None:
    """Run the stages in order; what one raises is logged, one that is late is left behind."""
    loop = asyncio.get_running_loop()
    for name, run, timeout_s in stages:
        started = loop.time()
        try:
            async with asyncio.timeout(timeout_s):
                result = run()
                if inspect.isawaitable(result):
                    await result
        except TimeoutError:
            log.error("stop stage is late", stage=name, timeout_s=timeout_s)
        except Exception:  # the ledger must be closed and the journal written whatever failed before
            log.exception("stop stage failed", stage=name)
        log.debug("stopped", stage=name, seconds=round(loop.time() - started, 3))
