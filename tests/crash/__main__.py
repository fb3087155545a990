"""Every crash point, two at a time: `make crash`. Prints a table, writes it as JSON; exit 1 when anything was wrong."""

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.crash.kit import BAR_S, STRONG, Trial, furnish, trial
from tests.e2e.kit import REPO, Exchange

AT_ONCE = 2
TRIALS_MAX = 10
"""Trials on one exchange: each leaves positions behind, and at some point there is no cash left."""
OUT = REPO / ".bench" / "crash.json"


class Campaign:
    """Hands out numbers up to the first run that completes its work without reaching its point."""

    def __init__(self, folder: Path, first: int, last: int, stride: int) -> None:
        """Begin with the first number; 0 as the last one means: until a run completes.

        With a stride every n-th number comes first, then those between: a run that is cut short has seen them all
        over. No number is left out.
        """
        self.trials: list[Trial] = []
        self.failures: list[dict[str, object]] = []
        self.complete = False
        self._folder = folder
        self._end = last + 1 if last else sys.maxsize
        self._numbers = self._count(first, stride)
        self._to_prove = {"ledger.commit.after", "order.place.before"}
        self._lock = threading.Lock()

    def work(self) -> None:
        """Take numbers until there are none; an exchange serves some trials of one thread, unless one fails."""
        number = self._next()
        while number:
            with Exchange(*STRONG) as exchange:
                furnish(exchange)
                for _ in range(TRIALS_MAX):
                    whole = self._one(exchange, number)
                    number = self._next()
                    if not number or not whole:
                        break

    def _count(self, first: int, stride: int) -> Iterator[int]:
        for start in range(first, first + stride):
            number = start
            while number < self._end:
                yield number
                number += stride

    def _next(self) -> int:
        with self._lock:
            return next(self._numbers, 0)

    def _prove(self, point: str) -> bool:
        """Say whether this trial waits for proof: the first one of a kind that leaves orders without a trace does."""
        with self._lock:
            wanted = point in self._to_prove
            self._to_prove.discard(point)
        return wanted

    def _one(self, exchange: Exchange, number: int) -> bool:
        """Try one number; false when it failed: what it left on the exchange is not the next one's."""
        began = time.monotonic()
        try:
            done = trial(exchange, self._folder / str(number), number, prove=self._prove)
        except Exception as error:  # noqa: BLE001 (whatever it is: the point failed, the others follow)
            words = "".join(traceback.format_exception_only(error)).strip()
            with self._lock:
                self.failures.append({"number": number, "error": words[:4000], "trace": traceback.format_exc()[-3000:]})
            print(f"{number:4}  FAILED {words[:600]}", flush=True)
            return False
        with self._lock:
            if done.point:
                self.trials.append(done)
            else:
                self.complete = True
                self._end = min(self._end, number)
        print(
            f"{number:4}  {done.point or 'completed':22} orders {done.orders:3}  twice {done.duplicates}  lost {done.orphans}"
            f"  uncertain {done.uncertain}  booked after {done.recover_s:5.2f} s  ({time.monotonic() - began:.0f} s)",
            flush=True,
        )
        return True


def table(trials: Iterable[Trial]) -> list[dict[str, object]]:
    """Return one row per kind of point."""
    kinds: dict[str, list[Trial]] = defaultdict(list)
    for one in trials:
        kinds[one.point].append(one)
    return [summary(name, kinds[name]) for name in sorted(kinds)]


def summary(name: str, some: list[Trial]) -> dict[str, object]:
    """Return the numbers of one row."""
    seconds = [one.recover_s for one in some]
    return {
        "point": name,
        "times": len(some),
        "duplicates": sum(one.duplicates for one in some),
        "orphans": sum(one.orphans for one in some),
        "recover_s_p50": round(statistics.median(seconds), 2),
        "recover_s_max": max(seconds),
    }


def main() -> int:
    """Run the campaign; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--last", type=int, default=0, help="0: until a run completes")
    parser.add_argument("--stride", type=int, default=1, help="take every n-th point first")
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ballast-crash-") as folder:
        campaign = Campaign(Path(folder), options.first, options.last, options.stride)
        threads = [threading.Thread(target=campaign.work) for _ in range(options.at_once)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    rows = table(campaign.trials)
    if not rows:
        print("no point was reached")
        return 1
    total = summary("all", campaign.trials)
    print(f"\n{'point':24}{'times':>6}{'duplicates':>12}{'orphans':>9}{'recover p50':>13}{'max s':>8}")
    for row in [*rows, total]:
        print(
            f"{row['point']:24}{row['times']:>6}{row['duplicates']:>12}{row['orphans']:>9}"
            f"{row['recover_s_p50']:>13}{row['recover_s_max']:>8}"
        )
    slow = [one for one in campaign.trials if one.recover_s > BAR_S]
    load = os.getloadavg()[2]
    busy = load > options.at_once + (os.cpu_count() or 1)
    print(
        f"{len(campaign.failures)} failed; {len(slow)} took longer than {BAR_S:.0f} s; load average {load:.1f}"
        f"{': the machine is busy, times are not judged' if busy else ''}"
    )
    options.out.parent.mkdir(exist_ok=True)
    document = {
        "rows": rows,
        "total": total,
        "failures": campaign.failures,
        "complete": campaign.complete,
        "load": load,
    }
    document["trials"] = [one._asdict() for one in sorted(campaign.trials)]
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    wrong = campaign.failures or (slow and not busy) or total["duplicates"] or total["orphans"]
    return 1 if wrong or not (campaign.complete or options.last) else 0


if __name__ == "__main__":
    sys.exit(main())
