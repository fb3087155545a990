"""The whole tick path as the daemon runs it: feed, decoder, recorder, engine with bars and stops, metrics, timer."""

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path

from daemon.core.config import EngineConfig
from daemon.core.engine import Engine
from daemon.core.run import Runner
from daemon.domain.events import Flow, History, Link, Listed, Reconciled, Restored, Timer, WorkerUp
from daemon.domain.market import Bar, BarFlag, Book, Instrument
from daemon.domain.orders import Tif
from daemon.edge.clock import Clock
from daemon.edge.feed import Feed
from daemon.outlets.journal import Journal
from daemon.outlets.meters import Metrics
from daemon.wire.binance import BinanceWire
from daemon.wire.binance_streams import streams_of
from risk.limits import Limits

S = 1_000_000_000
BARS = 100
TIMER_S = 0.05
JOURNAL_EVERY = 20
"""Timers between two flushes of the recorder: once a second, as in the daemon."""


def config_of(symbols: tuple[str, ...]) -> EngineConfig:
    return EngineConfig(
        instance="bench",
        account="",
        mode="paper",
        universe=symbols,
        quote="USDT",
        bar_ns=S,
        grace_ns=S // 2,
        max_age_ns=3 * S,
        backfill_bars=BARS,
        lookback=60,
        rebalance_every=1,
        turnover_max=0.5,
        turnover_max_day=2.0,
        cost_bps=10.0,
        tif=Tif.IOC,
        limits=Limits(),
        fee_rate=Decimal("0.001"),
    )


def history(symbol: str, first_id: int, now_ns: int) -> History:
    end = (now_ns - 20 * S) // S * S
    bars = tuple(
        Bar(symbol, at, at + S, 100.0, 100.0, 100.0, 100.0, 10**8, 1, -1, -1, BarFlag.BACKFILLED)
        for at in range(end - BARS * S, end, S)
    )
    return History(symbol, bars, (), first_id, partial=False, ts_ns=now_ns)


async def engine(port: int, bases: Sequence[str], first_id: int, meter: Callable[[], None]) -> None:
    """Run until the meter ends the process: half of the assets are held, so that their stops are live."""
    tick, step = Decimal("0.01"), Decimal("0.00001")
    pairs = tuple(
        Instrument(f"{base}/USDT", f"{base}USDT", base, "USDT", tick, step, step, Decimal(9000), Decimal(5))
        for base in bases
    )
    symbols = tuple(one.symbol for one in pairs)
    clock, metrics = Clock(), Metrics(symbols, version="bench", mode="paper")
    core = Engine(config_of(symbols))
    wire = BinanceWire(pairs, skew_ns_max=0)
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder), 10**9, start_ns=clock.now_ns())
        runner = Runner(
            core,
            decode=wire.decode,
            recorder=journal,
            observe=metrics.observe_event,
            dispatch=metrics.observe_effect,
            on_tick=lambda _: meter(),
        )
        now = clock.now_ns()
        held = tuple((symbol, Decimal(10)) for symbol in symbols[::2])
        entries = tuple((symbol, 100.0) for symbol, _ in held)
        runner.emit(Restored(1, Decimal(100_000), held, entries, (), "", now))
        runner.emit(Listed(pairs, now))
        runner.emit(Flow("USDT", Decimal(100_000), ours=True, detail="opening", ts_ns=now))
        for name in ("rest", "user", "market"):
            runner.emit(Link(name, up=True, detail="", ts_ns=now))
        for symbol in symbols:
            runner.emit(history(symbol, first_id, now))
            runner.emit(Book(symbol, 99.99, 5.0, 100.01, 5.0, now))
        runner.emit(Reconciled(ok=True, balances=(), breaks=(), external_orders=0, ts_ns=now))
        runner.emit(WorkerUp("model", now, now))

        async def timers() -> None:
            beat = 0
            while True:
                now_ns = clock.now_ns()
                runner.emit(Timer(now_ns, now_ns))
                beat += 1
                if beat % JOURNAL_EVERY == 0:
                    await journal.flush()
                await asyncio.sleep(TIMER_S)

        url = f"ws://127.0.0.1:{port}/stream"
        feed = Feed(url, streams_of(pairs), runner.on_frame, lambda *_: None, clock=clock)
        async with asyncio.TaskGroup() as group:
            group.create_task(timers())
            group.create_task(feed.run())
