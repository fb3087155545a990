"""Many seeds on all cores, with a table of which fault met an order in which state; the sums go into a file as JSON."""

import argparse
import json
import multiprocessing
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.sim.run import Outcome, simulate

OUT = Path(__file__).parents[2] / ".bench" / "sim.json"
PROGRESS = 20
"""Seeds between two lines of progress."""


def tell(outcome: Outcome) -> None:
    """Print one seed."""
    rate = outcome.cpu_s / (outcome.virtual_s / 60)
    print(
        f"seed {outcome.seed}: {outcome.orders} orders, {outcome.fills} fills, {outcome.lives} lives, "
        f"{sum(outcome.fired.values())} faults, {outcome.cpu_s:.1f} s of CPU ({rate:.2f} s per virtual minute), "
        f"log {outcome.digest[:16]}"
    )
    for line in outcome.found:
        print(f"  {line}")
    if outcome.found:
        print(f"  again: {outcome.again}", flush=True)


def _one(task: tuple[int, float, bool, tuple[str, ...]]) -> Outcome:
    seed, minutes, faults, only = task
    return simulate(seed, minutes, faults=faults, only=only)


class Sums:
    """What many seeds came to."""

    def __init__(self) -> None:
        self.fired: Counter[str] = Counter()
        self.hit: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self.failed: list[Outcome] = []
        self.done = 0
        self.orders = 0
        self.fills = 0
        self.lives = 0
        self.virtual_s = 0.0
        self.cpu_s = 0.0

    def add(self, outcome: Outcome) -> None:
        """Take one seed's result."""
        self.done += 1
        self.fired.update(outcome.fired)
        self.hit.update(outcome.hit)
        self.notes.update(outcome.notes)
        self.virtual_s += outcome.virtual_s
        self.cpu_s += outcome.cpu_s
        self.orders += outcome.orders
        self.fills += outcome.fills
        self.lives += outcome.lives
        if outcome.found:
            self.failed.append(outcome)

    def table(self) -> None:
        """Print the faults: how often each fired, and the states of the orders it met."""
        states = sorted({pair.partition(" × ")[2] for pair in self.hit})
        print(f"{'fault':22}{'fired':>8}" + "".join(f"{state:>13}" for state in states))
        for name, count in sorted(self.fired.items()):
            print(f"{name:22}{count:8}" + "".join(f"{self.hit[f'{name} × {state}']:13}" for state in states))
        for name, count in sorted(self.notes.items()):
            print(f"  {name}: {count}")

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "seeds": self.done,
            "failed": [{"seed": one.seed, "found": one.found, "again": one.again} for one in self.failed],
            "virtual_hours": round(self.virtual_s / 3600, 2),
            "cpu_seconds_per_seed": round(self.cpu_s / max(1, self.done), 2),
            "orders": self.orders,
            "fills": self.fills,
            "lives": self.lives,
            "faults": dict(sorted(self.fired.items())),
            "fault_states": dict(sorted(self.hit.items())),
        }


def soak(options: argparse.Namespace) -> int:
    """Run many seeds on all cores; return how many failed."""
    only = tuple(filter(None, options.only.split(",")))
    tasks = [
        (seed, options.minutes, not options.no_faults, only)
        for seed in range(options.first, options.first + options.seeds)
    ]
    began = time.perf_counter()
    sums = Sums()
    with multiprocessing.get_context("spawn").Pool(options.jobs or None, maxtasksperchild=50) as pool:
        for outcome in pool.imap_unordered(_one, tasks):
            sums.add(outcome)
            if outcome.found:
                tell(outcome)
            if sums.done % PROGRESS == 0 or sums.done == len(tasks):
                spent = time.perf_counter() - began
                print(
                    f"{sums.done} of {len(tasks)} seeds, {len(sums.failed)} failed, {spent:.0f} s "
                    f"({sums.cpu_s / sums.done:.2f} s of CPU per seed; "
                    f"about {(len(tasks) - sums.done) * spent / sums.done / 60:.0f} min left)",
                    flush=True,
                )
                _write(sums, options.minutes, spent)
    print(f"{sums.virtual_s / 3600:.1f} virtual hours, {sums.orders} orders, {sum(sums.fired.values())} faults")
    sums.table()
    for outcome in sums.failed:
        print(f"FAILED seed {outcome.seed}: {outcome.found[0]}\n  again: {outcome.again}")
    print(
        f"{len(tasks) - len(sums.failed)} of {len(tasks)} seeds kept every invariant; {OUT.relative_to(OUT.parents[1])}"
    )
    return len(sums.failed)


def _write(sums: Sums, minutes: float, spent_s: float) -> None:
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"minutes": minutes, "wall_s": round(spent_s), **sums.as_json()}, indent=1))
