"""Orders in a storm of faults: whatever is lost, late, cut or repeated, no order is doubled and every unit is booked."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from daemon.domain.errors import Transient
from daemon.domain.orders import Intent, OrderState, OrderUpdate
from daemon.exchange.config import Limits, SimConfig
from tests.edge.venue_kit import Rig, rig, until

STORM: tuple[tuple[str, str, float, dict[str, Any]], ...] = (
    ("POST /api/v3/order", "hang_after", 0.06, {}),
    ("POST /api/v3/order", "cut_after", 0.06, {}),
    ("POST /api/v3/order", "cut", 0.05, {}),
    ("POST /api/v3/order", "truncate", 0.05, {}),
    ("POST /api/v3/order", "empty", 0.04, {}),
    ("POST /api/v3/order", "late", 0.04, {"seconds": 0.8}),
    ("POST /api/v3/order", "error", 0.03, {"status": 503, "code": -1008, "handle": True}),
    ("GET /api/v3/*", "error", 0.04, {"status": 500}),
    ("GET /api/v3/*", "html", 0.03, {}),
    ("GET /api/v3/*", "cut", 0.03, {}),
    ("GET /api/v3/*", "broken", 0.03, {}),
    ("GET /api/v3/openOrders", "omit", 0.1, {"share": 0.5}),
    ("GET /api/v3/order", "error", 0.05, {"code": -2013, "msg": "Order does not exist."}),
    ("DELETE /api/v3/order", "cut_after", 0.1, {}),
    ("DELETE /api/v3/order", "error", 0.05, {"status": 503}),
    ("user executionReport", "skip", 0.08, {}),
    ("user executionReport", "duplicate", 0.1, {}),
    ("user executionReport", "reorder", 0.08, {}),
    ("user executionReport", "corrupt", 0.03, {}),
    ("user *", "delay", 0.05, {"seconds": 0.1}),
)
ORDERS = 80


class Jobs:
    """Does what the application does with news: resolves, reconciles, holds its tasks."""

    def __init__(self, live: Rig) -> None:
        self.live = live
        self.tasks: list[asyncio.Future[None]] = []

    def start(self, work: Awaitable[None]) -> None:
        """Run something beside."""
        self.tasks.append(asyncio.ensure_future(work))

    async def resolve(self) -> None:
        """Look for every order whose fate becomes unknown, as the engine asks."""
        done = 0
        while True:
            fresh = self.live.events[done:]
            done += len(fresh)
            for news in fresh:
                if isinstance(news, OrderUpdate) and news.state is OrderState.UNKNOWN:
                    self.start(self.live.venue.resolve(news.client_id, news.symbol, news.ts_ns))
            await asyncio.sleep(0.01)

    async def reconcile(self) -> None:
        """Compare now and then; in the storm it may fail."""
        while True:
            await asyncio.sleep(0.7)
            with suppress(Transient):
                await self.live.venue.reconcile()

    async def stop(self) -> list[BaseException]:
        """Cancel what is left; return what failed."""
        for task in self.tasks:
            task.cancel()
        results = await asyncio.gather(*self.tasks, return_exceptions=True)
        return [one for one in results if isinstance(one, Exception)]


async def blow(live: Rig, jobs: Jobs, rng: random.Random) -> list[Intent]:
    """Send, cancel and cut at random."""
    intents: list[Intent] = []
    symbols = list(live.instruments)[:3]
    for _ in range(ORDERS):
        symbol = rng.choice(symbols)
        rests = rng.random() < 0.3
        intent = live.resting(symbol, notional=30) if rests else live.intent(symbol, notional=30)
        intents.append(intent)
        jobs.start(live.submit(intent))
        if rng.random() < 0.2:
            victim = rng.choice(intents)
            jobs.start(live.venue.cancel(victim.client_id, victim.symbol))
        if rng.random() < 0.02:
            live.sim.disconnect("user", 0)
        await asyncio.sleep(rng.uniform(0, 0.05))
    await asyncio.sleep(1.0)  # the last orders' answers time out
    return intents


def settled(live: Rig) -> bool:
    """Say whether every order rests or has ended with all its executions."""
    return all(order.state is OrderState.ACKED and not order.short for order in live.venue.tracker.live)


@pytest.mark.parametrize("seed", [1])
async def test_storm(tmp_path: Path, seed: int) -> None:
    """After the storm: no duplicate, no orphan, no unknown, ledger equal to the exchange to the last unit (I1, I3, I9)."""
    rng = random.Random(seed)
    generous = Limits(orders_per_10s=100_000, weight_per_minute=1_000_000, connections_per_5m=10_000)
    config = SimConfig(history_bars=120, symbols=3, limits=generous)
    async with rig(tmp_path, config=config, stream=True, timeout_ms=400) as live:
        await live.venue.reconcile()
        await until(lambda: live.links() == [True])
        for number, (match, action, probability, more) in enumerate(STORM):
            live.fault(match, action, times=0, probability=probability, seed=seed * 100 + number, **more)
        jobs = Jobs(live)
        jobs.start(jobs.resolve())
        jobs.start(jobs.reconcile())
        intents = await blow(live, jobs, rng)
        fired = sum(live.sim.faults.counts().values())
        live.sim.faults.clear()
        await until(lambda: settled(live), 30)
        failed = await jobs.stop()
        await live.venue.reconcile()
        books = await live.ledger.books()

        assert failed == []
        assert fired > 20
        assert live.verdict().ok
        assert max(Counter(order.client_id for order in live.sim.books.orders).values()) == 1
        truth = {a: held.free + held.locked for a, held in live.sim.books.balances.items() if held.free + held.locked}
        assert books.total == truth
        for intent in intents:
            order = live.venue.tracker.find(intent.client_id)
            theirs = live.orders_of(intent.client_id)
            assert order is not None
            assert bool(theirs) == (
                order.state not in {OrderState.NEVER_PLACED, OrderState.DENIED, OrderState.REJECTED}
            )
            assert not theirs or theirs[0].filled == live.fills(intent.client_id)
