"""A running exchange, and real clients that talk to it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import ccxt.async_support as ccxt
import msgspec
import pytest

from daemon.exchange.config import SimConfig
from daemon.exchange.server import SimulatedExchange

SMALL = {"history_bars": 1_000, "symbols": 3}
"""A short history keeps a test's start near 30 ms."""


class Starter(Protocol):
    """Starts an exchange with the given settings."""

    def __call__(self, **settings: Any) -> Awaitable[SimulatedExchange]: ...


class Poll(Protocol):
    """Waits until a condition holds."""

    def __call__(self, condition: Callable[[], bool], seconds: float = 5.0) -> Awaitable[None]: ...


@pytest.fixture
async def start() -> AsyncIterator[Starter]:
    """Start exchanges that the test's end stops."""
    running: list[SimulatedExchange] = []

    async def begin(**settings: Any) -> SimulatedExchange:
        # A clock that stands still or is stepped ahead cannot agree with the client's.
        exchange = SimulatedExchange(SimConfig(**{**SMALL, "check_time": not settings.get("manual"), **settings}))
        await exchange.start()
        running.append(exchange)
        return exchange

    yield begin
    for exchange in running:
        await exchange.stop()


@pytest.fixture
async def client() -> AsyncIterator[Callable[..., Any]]:
    """Make unmodified ccxt clients pointed at an exchange."""
    made: list[Any] = []

    def make(exchange: SimulatedExchange, **settings: Any) -> Any:
        base = f"http://127.0.0.1:{exchange.port}"
        made.append(
            ccxt.binance(
                {
                    "apiKey": "sim-key",
                    "secret": "sim-secret",
                    "enableRateLimit": False,
                    "timeout": 2_000,
                    "options": {
                        "defaultType": "spot",
                        "fetchMarkets": {"types": ["spot"]},
                        "fetchMargins": False,
                        "fetchOpenOrders": {"warnWithoutSymbol": False},
                    },
                    "urls": {
                        "api": {
                            "public": base + "/api/v3",
                            "private": base + "/api/v3",
                            "v1": base + "/api/v1",
                            "sapi": base + "/sapi/v1",
                        }
                    },
                    **settings,
                }
            )
        )
        return made[-1]

    yield make
    for each in made:
        await each.close()


@pytest.fixture
def poll() -> Poll:
    """Poll a condition with a deadline."""

    async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true in time"
            await asyncio.sleep(0.01)

    return until


@pytest.fixture
def decode() -> Callable[[str | bytes], Any]:
    """Decode a frame."""
    return msgspec.json.decode
