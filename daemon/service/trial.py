"""A strategy tried before it is needed: a worker process as the daemon's own, made-up bars, one decision."""

import asyncio
import contextlib
from typing import Final

import numpy as np

from daemon.domain.events import Decide, Decided, Event, Seed, WorkerDown, WorkerUp
from daemon.domain.signal import NoDecision, NoReason
from daemon.edge.clock import Clock
from daemon.edge.worker import Worker
from daemon.service.wiring import engine_config, worker_config
from daemon.settings import Settings

FIRST_CLOSE_NS: Final = 1_700_006_400 * 10**9
"""The made-up bars begin here: midnight UTC, so every bar's length is aligned."""
BARS_MAX: Final = 5_000
DAYS: Final = 365
DAILY_VOLATILITY: Final = 0.03
NS_PER_DAY: Final = 86_400 * 10**9
FAULTS: Final = frozenset(
    {NoReason.STRATEGY_RAISED, NoReason.NOT_FINITE, NoReason.DEADLINE, NoReason.WORKER_DOWN, NoReason.NOT_READY}
)
"""Answers that say something is wrong. Others are normal: a strategy may want to hold, or wait for a model."""


def try_strategy(settings: Settings) -> list[str]:
    """Start the configured strategy in a process of its own and ask it once; return what is wrong, one line at most."""
    line = asyncio.run(_try(settings))
    return [line] if line else []


async def _try(settings: Settings) -> str:
    config = worker_config(settings)
    news: asyncio.Queue[Event] = asyncio.Queue(maxsize=16)  # a child's start, one answer, its end twice
    clock = Clock()
    worker = Worker(news.put_nowait, clock, config)
    life = asyncio.get_running_loop().create_task(worker.session())
    life.add_done_callback(lambda _: news.put_nowait(WorkerDown(detail="no worker process", ts_ns=clock.now_ns())))
    try:
        started = await news.get()
        if not isinstance(started, WorkerUp):
            return started.detail if isinstance(started, WorkerDown) else ""
        bars = min(config.buffer_bars, BARS_MAX)
        worker.seed(made_up_market(settings, bars))
        deadline_ns = engine_config(settings, "").decision_deadline_ns
        worker.decide(_question(settings, bars, now_ns=clock.now_ns(), deadline_ns=deadline_ns))
        answer = await news.get()
        if isinstance(answer, Decided):
            return _verdict(settings, answer, bars)
        return answer.detail if isinstance(answer, WorkerDown) else ""
    finally:
        life.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await life


def _verdict(settings: Settings, answer: Decided, bars: int) -> str:
    if not isinstance(answer.result, NoDecision):
        return ""
    reason, detail = answer.result.reason, answer.result.detail
    if reason in FAULTS:
        return f'strategy = "{settings.strategy}": tried on made-up bars, {reason}: {detail}'
    if reason is NoReason.WARMING_UP and bars == max(settings.feed.backfill_bars, settings.forecast.lookback + 1):
        return (
            f'feed.backfill_bars = {settings.feed.backfill_bars}: strategy = "{settings.strategy}" would warm up for '
            f"ever ({detail}); raise it, or have the strategy look back less"
        )
    return ""


def made_up_market(settings: Settings, bars: int) -> Seed:
    """Return random walks for the universe, the same every time: ``bars`` bars from `FIRST_CLOSE_NS` and a year of days."""
    rng = np.random.default_rng(0)
    count, bar_ns = len(settings.universe), settings.bar_ns
    steps = rng.normal(0.0, DAILY_VOLATILITY * np.sqrt(bar_ns / NS_PER_DAY), (count, bars))
    closes = 100.0 * np.exp(np.cumsum(steps, axis=1))
    opens = np.concatenate([np.full((count, 1), 100.0), closes[:, :-1]], axis=1)
    volumes = rng.uniform(1.0, 100.0, closes.shape)
    close_ns = np.broadcast_to(FIRST_CLOSE_NS + bar_ns * np.arange(bars, dtype=np.float64), closes.shape)
    rows = np.stack([close_ns, opens, np.maximum(opens, closes), np.minimum(opens, closes), closes, volumes], axis=2)
    daily = 100.0 * np.exp(np.cumsum(rng.normal(0.0, DAILY_VOLATILITY, (count, DAYS)), axis=1))
    return Seed(
        symbols=settings.universe,
        rows=tuple(row.tobytes() for row in rows),
        daily=tuple(row.tobytes() for row in daily),
        bar_ns=bar_ns,
    )


def _question(settings: Settings, bars: int, *, now_ns: int, deadline_ns: int) -> Decide:
    """Return what the engine would ask at the last made-up close, with everything in cash."""
    count = len(settings.universe)
    return Decide(
        seq=1,
        ts_ns=now_ns,
        bar_ns=settings.bar_ns,
        close_ns=FIRST_CLOSE_NS + settings.bar_ns * (bars - 1),
        symbols=settings.universe,
        bars=(),
        weights=(0.0,) * count,
        frozen=(False,) * count,
        caps=(settings.risk.max_weight,) * count,
        equity=settings.paper.cash,
        cash_weight=1.0,
        turnover_left=settings.optimizer.turnover_max,
        deadline_ns=now_ns + deadline_ns,
    )
