"""Many seeds on all cores, with a table of which fault met an order in which state."""

import argparse
import multiprocessing
import time
from collections import Counter

from tests.sim.run import Outcome, simulate


def tell(outcome: Outcome) -> None:
    """Print one seed."""
    rate = outcome.wall_s / (outcome.virtual_s / 60)
    print(
        f"seed {outcome.seed}: {outcome.orders} orders, {outcome.fills} fills, {outcome.lives} lives, "
        f"{sum(outcome.fired.values())} faults, {outcome.wall_s:.1f} s ({rate:.2f} s per virtual minute), "
        f"log {outcome.digest[:16]}"
    )
    for line in outcome.found:
        print(f"  {line}")
    if outcome.found:
        print(f"  again: {outcome.again}", flush=True)


def _one(task: tuple[int, float, bool, tuple[str, ...]]) -> Outcome:
    seed, minutes, faults, only = task
    return simulate(seed, minutes, faults=faults, only=only)


def soak(options: argparse.Namespace) -> int:
    """Run many seeds on all cores; return how many failed."""
    only = tuple(filter(None, options.only.split(",")))
    tasks = [
        (seed, options.minutes, not options.no_faults, only)
        for seed in range(options.first, options.first + options.seeds)
    ]
    began = time.perf_counter()
    fired: Counter[str] = Counter()
    hit: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    failed: list[Outcome] = []
    virtual_s = 0.0
    orders = 0
    with multiprocessing.get_context("spawn").Pool(options.jobs or None, maxtasksperchild=20) as pool:
        for done, outcome in enumerate(pool.imap_unordered(_one, tasks), start=1):
            fired.update(outcome.fired)
            hit.update(outcome.hit)
            notes.update(outcome.notes)
            virtual_s += outcome.virtual_s
            orders += outcome.orders
            if outcome.found:
                failed.append(outcome)
                tell(outcome)
            if done % 20 == 0 or done == len(tasks):
                spent = time.perf_counter() - began
                print(
                    f"{done} of {len(tasks)} seeds, {len(failed)} failed, {spent:.0f} s "
                    f"({spent / done:.2f} s per seed: 2,000 seeds take {2000 * spent / done / 60:.0f} min)",
                    flush=True,
                )
    print(f"{virtual_s / 3600:.1f} virtual hours, {orders} orders, {sum(fired.values())} faults")
    states = sorted({pair.partition(" × ")[2] for pair in hit})
    print(f"{'fault':22}{'fired':>8}" + "".join(f"{state:>13}" for state in states))
    for name, count in sorted(fired.items()):
        print(f"{name:22}{count:8}" + "".join(f"{hit[f'{name} × {state}']:13}" for state in states))
    for name, count in sorted(notes.items()):
        print(f"  {name}: {count}")
    for outcome in failed:
        print(f"FAILED seed {outcome.seed}: {outcome.found[0]}\n  again: {outcome.again}")
    return len(failed)
