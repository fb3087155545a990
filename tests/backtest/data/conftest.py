"""The simulated exchange with history to fetch, and the real ccxt pointed at it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from daemon.edge.rest import make_exchange
from daemon.exchange.config import SimConfig
from daemon.exchange.server import SimulatedExchange


@pytest.fixture
async def sim() -> AsyncIterator[SimulatedExchange]:
    """A simulated exchange with an hour and a half of seconds, and of single trades."""
    exchange = SimulatedExchange(SimConfig(symbols=2, history_bars=6_000))
    await exchange.start(0)
    yield exchange
    await exchange.stop()


@pytest.fixture
async def ccxt(sim: SimulatedExchange) -> AsyncIterator[Any]:
    """The real ccxt pointed at it."""
    exchange = make_exchange("binance", rest_url=f"http://127.0.0.1:{sim.port}", limited=False)
    yield exchange
    await exchange.close()
