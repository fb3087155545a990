"""The flight recorder's snapshot: how long the loop is held while the state is copied and written, how large it is.

A heartbeat of 1 ms runs on the loop while a journal of our own takes a cut: its largest delay is what trading would feel,
copying included. The copy itself is given in time of the processor, which other jobs do not lengthen. The market is a random walk with a tick size; orders and executions are as many as the engine remembers.
"""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np

from benchmarks.alone import alone
from benchmarks.ingest_engine import config_of
from daemon.core.blotter import Working
from daemon.core.engine import Engine
from daemon.core.snapshot import pieces
from daemon.core.snapshot_restore import restore
from daemon.domain.market import Bar, BarFlag
from daemon.domain.orders import Cause, Intent, OrderState, Side, Tif
from daemon.outlets.journal import Journal
from daemon.service.recording import picture_of

S = 1_000_000_000
BARS = 2_000
CASES = ((10, 0, 0), (100, 0, 0), (100, 5_000, 20_000), (100, 5_000, 200_000))
"""Assets, orders remembered, executions remembered (5,000 and 200,000 are the most)."""
TIMES = 9
BEAT_S = 0.001
GOAL_MS = 8.0


def engine_with(assets: int, orders: int, executions: int, bars: int = BARS) -> Engine:
    """Return an engine whose memory is full."""
    symbols = tuple(f"A{number}/USDT" for number in range(assets))
    engine = Engine(msgspec.structs.replace(config_of(symbols), backfill_bars=bars))
    random = np.random.default_rng(1)
    closes = (100.0 * np.exp(np.cumsum(random.normal(0.0, 1e-3, (assets, bars)), axis=1))).round(2)
    volumes = random.exponential(10.0, (assets, bars)).round(5)
    columns = engine.markets.columns
    for at in range(bars):
        for place, symbol in enumerate(symbols):
            close = float(closes[place, at])
            bar = Bar(symbol, at * S, (at + 1) * S, close, close + 0.01, close - 0.01, close, float(volumes[place, at]), 9, -1, -1, BarFlag.LIVE)  # fmt: skip
            columns.put(bar)
        columns.drain(0)
    state = engine.state
    for number in range(orders):
        symbol = symbols[number % assets]
        intent = Intent(
            client_id=f"babcd{number:021d}", decision=f"bar-{number // assets * S}-1", leg=number % assets, symbol=symbol,
            side=Side.BUY, qty=Decimal("1.50000"), limit=Decimal("100.11"), tif=Tif.IOC, cause=Cause.REBALANCE, exit=False,
            reference=Decimal("100.10"), ts_ns=number * S, expires_ns=(number + 1) * S,
        )  # fmt: skip
        qty = intent.qty
        state.blotter.done[intent.client_id] = Working(intent, OrderState.FILLED, str(10**9 + number), qty, qty, number)
    for number in range(executions):
        state.account.booked[symbols[number % assets], str(10**9 + number)] = None
    return engine


async def felt(engine: Engine, folder: Path, *, cut: bool) -> float:
    """Return the largest delay of the heartbeat while a cut is taken and written (or nothing is), ms."""
    journal = Journal(folder, 10**10, start_ns=time.time_ns())
    worst, done = 0.0, False

    async def beat() -> None:
        nonlocal worst
        due = time.perf_counter()
        while not done:
            due = max(due + BEAT_S, time.perf_counter())
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            worst = max(worst, time.perf_counter() - due)

    task = asyncio.create_task(beat())
    await asyncio.sleep(0.02)
    worst = 0.0
    if cut:
        journal.cut(picture_of(engine), 1, "")
    else:
        journal.add_effects_hash(1, "")
    await journal.flush()
    await asyncio.sleep(0.02)
    done = True
    await task
    journal.close()
    return worst * 1e3


def measure(assets: int, orders: int, executions: int, *, bars: int = BARS, times: int = TIMES) -> dict[str, Any]:
    """Measure one size: milliseconds (medians; the copy in time of the processor) and megabytes."""
    engine = engine_with(assets, orders, executions, bars)
    freezes, idle, cutting = [], [], []
    picture = picture_of(engine)
    for _ in range(times):
        begun = time.thread_time()
        picture = picture_of(engine)
        freezes.append((time.thread_time() - begun) * 1e3)
    parts = list(pieces(picture))
    begun = time.perf_counter()
    restore(Engine(engine.config), parts)
    restored = (time.perf_counter() - begun) * 1e3
    with tempfile.TemporaryDirectory(prefix="ballast-bench-") as name:
        for number in range(times):
            idle.append(asyncio.run(felt(engine, Path(name) / f"idle{number}", cut=False)))
            cutting.append(asyncio.run(felt(engine, Path(name) / f"cut{number}", cut=True)))
        written = max(path.stat().st_size for path in (Path(name) / "cut0").iterdir())
    return {
        "assets": assets,
        "orders": orders,
        "executions": executions,
        "copy_ms": median(freezes),
        "idle_ms": median(idle),
        "felt_ms": median(cutting),
        "restore_ms": restored,
        "raw_mb": sum(map(len, parts)) / 1e6,
        "written_mb": written / 1e6,
    }


def run() -> dict[str, Any]:
    """Measure all sizes."""
    return {"name": "snapshot", "bars": BARS, "goal_ms": GOAL_MS, "sizes": [measure(*case) for case in CASES]}


def report(result: dict[str, Any]) -> None:
    """Print what `run` returned."""
    print(
        f"snapshot of the engine, buffers of {result['bars']} bars, medians; goal: copied in <= {result['goal_ms']:g} ms"
    )
    print(
        f"{'assets':>7} {'orders':>7} {'fills':>8} {'copy ms':>8} {'felt ms':>8} {'idle':>6} {'raw MB':>7} {'file MB':>8} {'restore ms':>11}"
    )
    for one in result["sizes"]:
        print(
            f"{one['assets']:>7} {one['orders']:>7} {one['executions']:>8} {one['copy_ms']:8.2f} {one['felt_ms']:8.2f} "
            f"{one['idle_ms']:6.2f} {one['raw_mb']:7.2f} {one['written_mb']:8.2f} {one['restore_ms']:11.0f}"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    return alone(run, report, argv, about=__doc__)


if __name__ == "__main__":
    raise SystemExit(main())
