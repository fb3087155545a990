"""Bar close → last order byte at the server's socket, every asset traded, against the naive stack in the same run.

The clock starts with the frame or timer that completes the barrier (A6) and stops when the kernel of the server's side
received the last byte of the last order. The naive stack runs before and after ours against the same exchange.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.alone import alone
from benchmarks.line import KEY, SECRET, Passage, publish_model, trading, universe, venue_options
from benchmarks.venue import Venue, pin, running

SIZES = (10, 100)
ROUNDS = {10: 12, 100: 12}
EVERY = {10: 1, 100: 3}
"""Seconds between decisions: the answers to 100 orders take the exchange a while."""
GOAL = 4.0
MS = 1e-6
PARTS = ("ask", "hop", "features", "forecast", "solve", "gate+plan", "ledger", "sign", "request")


def split(passage: Passage, arrivals: dict[str, int]) -> dict[str, float] | None:
    """Return where one decision's time went, ms; None when it did not send every order."""
    decided = passage.decided
    times = [arrivals[one] for one in passage.ids if one in arrivals]
    if decided is None or not passage.durable_ns or not times or len(times) < len(passage.ids):
        return None
    worked = decided.features_ns + decided.forecast_ns + decided.solve_ns
    last = max(times)
    return {
        "barrier": (passage.barrier_ns - passage.close_ns) * MS,
        "ask": (passage.asked_ns - passage.barrier_ns) * MS,
        "hop": (decided.ts_ns - passage.asked_ns - worked) * MS,
        "features": decided.features_ns * MS,
        "forecast": decided.forecast_ns * MS,
        "solve": decided.solve_ns * MS,
        "gate+plan": (passage.planned_ns - decided.ts_ns) * MS,
        "ledger": (passage.durable_ns - passage.planned_ns) * MS,
        "sign": passage.sign_ns * MS,
        "request": (last - passage.durable_ns - passage.sign_ns) * MS,
        "first": (min(times) - passage.barrier_ns) * MS,
        "total": (last - passage.barrier_ns) * MS,
        "answered": (passage.sent_all_ns - passage.barrier_ns) * MS,
        "orders": len(times),
    }


async def naive(venue: Venue, symbols: tuple[str, ...], count: int, tag: str) -> list[dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.naive", venue.base, KEY, SECRET, str(count), tag, *symbols,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    pin(process.pid, 0)
    out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError("the naive stack failed: see the error above")
    found: list[dict[str, Any]] = json.loads(out)
    return found


async def measure(n: int, rounds: int) -> dict[str, Any]:
    """Measure one size; medians in ms."""
    symbols = universe(n)
    with tempfile.TemporaryDirectory(prefix="ballast-bench-") as name:
        folder = Path(name)
        await publish_model(folder, symbols)
        theirs: list[dict[str, Any]] = []
        async with running(folder, **venue_options(n, trades_per_s=2)) as venue:
            theirs += await naive(venue, symbols, (rounds + 1) // 2, "na")
            async with trading(venue, symbols, folder, every=EVERY.get(n, 3)) as (_, watch):
                loop = asyncio.get_running_loop()
                deadline = loop.time() + 12 + 2 * rounds * EVERY.get(n, 3)
                while loop.time() < deadline and sum(len(one.ids) == n for one in watch.passages) < rounds + 2:
                    await asyncio.sleep(0.2)
                await asyncio.sleep(0.5)
            theirs += await naive(venue, symbols, (rounds + 1) // 2, "nb")
    full = [one for one in watch.passages if len(one.ids) == n][2:]
    ours = [parts for one in full if (parts := split(one, venue.orders)) is not None]
    if not ours:
        raise RuntimeError(f"no decision traded all {n} assets: {[one.outcome for one in watch.passages][-5:]}")
    for one in theirs:
        one["total"] = max(venue.orders[name] for name in one["ids"]) * MS - one["began_ns"] * MS
    mine = {part: median(one[part] for one in ours) for part in ours[0]}
    other = {part: median(one[part] for one in theirs) for part in ("features", "forecast", "solve", "total")}
    return {
        "decisions": len(ours),
        "ours_ms": mine,
        "ours_worst_ms": max(one["total"] for one in ours),
        "naive_ms": other,
        "ratio": other["total"] / mine["total"],
    }


def run(assets: Sequence[int] = SIZES, rounds: int = 0) -> dict[str, Any]:
    """Measure every size, each in its usual number of rounds when none is given; return medians, ms, and ratios."""
    found = {str(n): asyncio.run(measure(n, rounds or ROUNDS.get(n, 10))) for n in assets}
    return {"name": "close_to_order", "goal": GOAL, "assets": found}


def report(result: dict[str, Any]) -> None:
    """Print what `run` returned."""
    print("bar close (barrier complete) → last order byte at the server's socket, ms, medians")
    print(f"{'assets':>6} {'ours':>8} {'first':>8} {'worst':>8} {'naive':>8} {'ratio':>7}  goal")
    for n, one in result["assets"].items():
        mine = one["ours_ms"]
        verdict = "ok" if one["ratio"] >= result["goal"] else "MISSED"
        print(
            f"{n:>6} {mine['total']:8.1f} {mine['first']:8.1f} {one['ours_worst_ms']:8.1f} {one['naive_ms']['total']:8.1f} "
            f"{one['ratio']:6.1f}x  >= {result['goal']:g}x {verdict}"
        )
    print("split, ms: " + " ".join(f"{part:>9}" for part in PARTS))
    for n, one in result["assets"].items():
        print(f"{n:>10} " + " ".join(f"{one['ours_ms'][part]:9.2f}" for part in PARTS))
        print(
            f"{'':>10} barrier wait before it {one['ours_ms']['barrier']:.0f} ms, answered {one['ours_ms']['answered']:.0f} ms"
        )
    for n, one in result["assets"].items():
        parts = one["naive_ms"]
        print(
            f"naive {n:>4}: features {parts['features']:.1f}  forecast {parts['forecast']:.1f}  solve {parts['solve']:.1f}"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    return alone(run, report, argv, about=__doc__, assets=SIZES, rounds=0)


if __name__ == "__main__":
    raise SystemExit(main())
