"""Socket → engine for single trades, in the whole daemon at 100 assets: idle, while deciding, while sending 100 orders.

A trade's clock starts when the exchange's ``send`` hands it to the kernel (on loopback: when it arrives at our socket) and
stops when the engine has processed it: decoder, bars, stops and journal included. A trade counts for the busiest phase that
its time touches.
"""

import asyncio
import tempfile
import time
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.alone import alone
from benchmarks.line import Passage, publish_model, trading, universe, venue_options
from benchmarks.venue import running
from daemon.domain.market import Tick
from daemon.service.lifecycle import Service

ASSETS = 100
SECONDS = 60.0
EVERY_S = 2
TRADES_PER_S = 8.0
"""Per asset."""
GOALS = {"deciding": 2.0, "sending": 5.0}
PHASES = ("idle", "deciding", "sending", "answers")
MS_NS = 1_000_000


class Stopwatch:
    """Notes when the engine has processed each trade."""

    def __init__(self) -> None:
        self.done: list[tuple[str, int, int]] = []

    def lay_on(self, service: Service) -> None:
        """Listen where the paper venue would: after engine, journal and effects (live mode has nobody there)."""
        note = self.done.append

        def timed(tick: Tick) -> None:
            note((tick.symbol, tick.id, time.time_ns()))

        runner = service.runner
        runner.plug(dispatch=runner._dispatch, on_tick=timed)


def phases_of(passages: Sequence[Passage], orders: dict[str, int]) -> list[tuple[int, int, int]]:
    """Return (start, end, phase) of everything that was not idle, ns, by start."""
    spans: list[tuple[int, int, int]] = []
    for one in passages:
        decided = one.decided.ts_ns if one.decided is not None else one.asked_ns
        spans.append((one.barrier_ns, decided, 1))
        last = max((orders.get(name, 0) for name in one.ids), default=0)
        if last:
            spans.append((decided, last, 2))
            spans.append((last, max(last, one.sent_all_ns), 3))
    return sorted(spans)


def classify(spans: Sequence[tuple[int, int, int]], begun: int, ended: int) -> int:
    """Return the busiest phase that the time from ``begun`` to ``ended`` touches: sending, deciding, answers, idle."""
    at = bisect_right(spans, (ended, 1 << 62, 0))
    touched = {phase for start, end, phase in spans[max(0, at - 6) : at] if start <= ended and begun <= end}
    return next((phase for phase in (2, 1, 3) if phase in touched), 0)


async def measure(n: int, seconds: float) -> dict[str, Any]:
    """Run the line for so long and return latencies by phase, µs."""
    symbols = universe(n)
    watch_ticks = Stopwatch()
    with tempfile.TemporaryDirectory(prefix="ballast-bench-") as name:
        folder = Path(name)
        await publish_model(folder, symbols)
        options = venue_options(n, trades_per_s=TRADES_PER_S)
        async with (
            running(folder, frames=True, **options) as venue,
            trading(venue, symbols, folder, every=EVERY_S, prepare=watch_ticks.lay_on) as (_, watch),
        ):
            await asyncio.sleep(EVERY_S * 1.5)
            begun = time.time_ns()
            await asyncio.sleep(seconds)
            over = time.time_ns()
    spans = phases_of([one for one in watch.passages if one.barrier_ns < over], venue.orders)
    found: list[list[float]] = [[] for _ in PHASES]
    for symbol, trade_id, done_ns in watch_ticks.done:
        sent_ns = venue.frames.get(f"{symbol.replace('/', '')}:{trade_id}")
        if sent_ns is not None and begun <= sent_ns <= over:
            found[classify(spans, sent_ns, done_ns)].append((done_ns - sent_ns) / 1e3)
    if not all(found[:3]):
        raise RuntimeError(f"no trades in some phase: {[len(one) for one in found]}")
    return summary(found, len([one for one in watch.passages if len(one.ids) == n]))


def summary(found: Sequence[Sequence[float]], decisions: int) -> dict[str, Any]:
    phases = {
        phase: {
            "trades": len(times),
            "p50_us": float(np.percentile(times, 50)) if times else 0.0,
            "p99_us": float(np.percentile(times, 99)) if times else 0.0,
            "max_us": max(times, default=0.0),
        }
        for phase, times in zip(PHASES, found, strict=True)
    }
    idle = phases["idle"]["p99_us"]
    ratios = {phase: phases[phase]["p99_us"] / idle for phase in GOALS}
    return {"phases": phases, "p99_ratios": ratios, "full_decisions": decisions}


def run(assets: int = ASSETS, seconds: float = SECONDS) -> dict[str, Any]:
    """Measure and return latencies, µs, and ratios of p99 to idle."""
    return {"name": "ticks", "goals": GOALS, "assets": assets, **asyncio.run(measure(assets, seconds))}


def report(result: dict[str, Any]) -> None:
    """Print what `run` returned."""
    print(f"trade: exchange's send → engine has processed it, {result['assets']} assets, µs")
    print(f"{'phase':>10} {'trades':>8} {'p50':>9} {'p99':>9} {'max':>10} {'p99/idle':>9}  goal")
    for phase, one in result["phases"].items():
        ratio, goal = result["p99_ratios"].get(phase), result["goals"].get(phase)
        verdict = "" if goal is None else f"<= {goal:g}x " + ("ok" if ratio <= goal else "MISSED")
        shown = f"{ratio:8.1f}x" if ratio is not None else " " * 9
        print(
            f"{phase:>10} {one['trades']:>8} {one['p50_us']:9.0f} {one['p99_us']:9.0f} {one['max_us']:10.0f} {shown}  {verdict}"
        )
    print(f"{result['full_decisions']} decisions traded every asset")


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    return alone(run, report, argv, about=__doc__, assets=ASSETS, seconds=SECONDS)


if __name__ == "__main__":
    raise SystemExit(main())
