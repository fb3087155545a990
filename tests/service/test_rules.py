"""P12, F26: an order that broke a trading rule has the rules read again, once for many, and soon."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from daemon.domain.errors import ConfigError, Transient
from daemon.domain.events import Event, Listed
from daemon.service.rules import Rules
from tests.edge.venue_kit import rig, until

PAIRS = ("BTC/USDT", "ETH/USDT")


class Market:
    """Trading rules that can fail to come."""

    def __init__(self) -> None:
        self.failures: list[Exception] = []
        self.asked = 0

    async def instruments(self, universe: tuple[str, ...]) -> Listed:
        """Answer, or fail as told."""
        assert universe == PAIRS
        self.asked += 1
        await asyncio.sleep(0)
        if self.failures:
            raise self.failures.pop(0)
        return Listed((), self.asked)


@asynccontextmanager
async def watching(market: Market, *, pause_s: float) -> AsyncGenerator[tuple[Rules, list[Event]]]:
    """Run the chore."""
    here: Any = market
    events: list[Event] = []
    rules = Rules(here, events.append, PAIRS, pause_s=pause_s)
    task = asyncio.get_running_loop().create_task(rules.run())
    try:
        yield rules, events
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_doubt_has_the_rules_read_and_many_doubts_once() -> None:
    """Five refusals of one batch are one question, and those during the pause are one more after it."""
    market = Market()
    async with watching(market, pause_s=0.05) as (rules, events):
        for _ in range(5):
            rules.doubt()
        await until(lambda: len(events) == 1)
        for _ in range(5):
            rules.doubt()
        await until(lambda: len(events) == 2)

    assert market.asked == 2


async def test_without_doubt_nothing_is_asked_and_a_pause_holds() -> None:
    """No polling; and refusals in a row do not become a storm of questions."""
    market = Market()
    async with watching(market, pause_s=3600.0) as (rules, events):
        for _ in range(20):
            await asyncio.sleep(0)
        assert market.asked == 0
        rules.doubt()
        await until(lambda: len(events) == 1)
        rules.doubt()
        for _ in range(20):
            await asyncio.sleep(0)

    assert market.asked == 1


async def test_a_symbol_that_is_gone_ends_nothing() -> None:
    """A delisted symbol is an error in the log, and the next doubt is heard."""
    market = Market()
    market.failures = [ConfigError("universe: ETH/USDT is not traded here")]
    async with watching(market, pause_s=0.01) as (rules, events):
        rules.doubt()
        await until(lambda: market.asked == 1)
        rules.doubt()
        await until(lambda: len(events) == 1)

    assert market.asked == 2


async def test_a_venue_that_does_not_answer_is_asked_again(monkeypatch: Any) -> None:
    """F16: rules that do not come are waited for."""
    monkeypatch.setattr("daemon.service.upkeep.RETRY_S", 0.01)
    market = Market()
    market.failures = [Transient("no answer")] * 3
    async with watching(market, pause_s=0.01) as (rules, events):
        rules.doubt()
        await until(lambda: len(events) == 1)

    assert market.asked == 4


async def test_f26_a_filter_failure_of_the_venue_raises_the_doubt(tmp_path: Path) -> None:
    """F26: -1013 from the exchange is REJECTED, and tells whoever keeps the rules; a lack of funds does not."""
    doubts: list[int] = []
    async with rig(tmp_path) as live:
        live.venue.on_rules = lambda: doubts.append(1)
        live.fault("POST /api/v3/order", "error", code=-1013, msg="Filter failure: LOT_SIZE", times=1)
        broken = live.resting()
        await live.submit(broken)
        told = len(doubts)
        live.fault("POST /api/v3/order", "error", code=-2010, msg="Account has insufficient balance", times=1)
        poor = live.resting()
        await live.submit(poor)

    assert live.states(broken.client_id)[-1] == live.states(poor.client_id)[-1] == "rejected"
    assert (told, len(doubts)) == (1, 1)
