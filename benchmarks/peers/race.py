"""Engines taking turns: each is a process that has imported, loaded and waits; one line to it is one repeat.

Ours, each peer, ours again: a peer is compared with the repeat of ours in the same round, so that what else the machine does
meets both.
"""

import json
import os
import select
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from benchmarks.peers.install import REPOSITORY, Absent, environment
from benchmarks.peers.kit import Case, Repeat, data_file

DATA: Final = REPOSITORY / ".bench" / "data"
DRIVERS: Final = Path(__file__).resolve().parent
OURS: Final = "ballast"
NAMES: Final = {
    OURS: "ballast",
    "nautilus_trader": "nautilus",
    "freqtrade": "freqtrade",
    "jesse": "jesse",
    "cvxportfolio": "cvxportfolio",
}
"""Every engine, and the short name by which its driver goes."""
START_S_MAX: Final = 240.0
REPEAT_S_MAX: Final = 600.0
"""Longest wait for a driver to have imported and loaded, and for one repeat, s."""
ONE_THREAD: Final = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS", "POLARS_MAX_THREADS"), "1"
)  # fmt: skip
MEANINGFUL: Final = 1.15
"""A difference smaller than this factor means nothing on a shared machine."""


class Stopped(Exception):
    """A driver ended or went silent; the message is one line."""


class Racer:
    """One engine on one case, in a process of its own; ``name`` is its distribution, or ``distribution/variant``."""

    def __init__(self, name: str, python: Path, case: Case, folder: Path, *, driver: Path | None = None) -> None:
        self.name = name
        self.seen: list[Repeat] = []
        engine, _, variant = name.partition("/")
        scratch = folder / f"{engine}-{variant}-{case.name}"
        scratch.mkdir(parents=True, exist_ok=True)
        self._log = scratch / "driver.log"
        driver = driver or DRIVERS / f"drive_{NAMES[engine]}.py"
        # Only our own driver finds our packages: a peer must not take our `strategies` for its own.
        path = {"PYTHONPATH": str(REPOSITORY)} if name == OURS else {}
        known = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [str(python), str(driver), "--case", case.name, "--data", str(data_file(case, DATA)), "--variant", variant, "--scratch", str(scratch)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1, cwd=scratch,
                env={**known, **ONE_THREAD, **path},
            )  # fmt: skip

    def ready(self) -> None:
        """Wait until it has imported and loaded."""
        self._read(START_S_MAX)

    def warm(self) -> None:
        """Wait until it is ready and make one repeat that does not count."""
        self.ready()
        self.once(keep=False)

    def once(self, *, keep: bool = True) -> Repeat:
        """Make one repeat; ``keep`` false is the warm-up."""
        self._stdin.write("go\n")
        self._stdin.flush()
        found = Repeat(**self._read(REPEAT_S_MAX))
        if keep:
            self.seen.append(found)
        return found

    def finish(self) -> dict[str, Any]:
        """Let it end; return its summary."""
        self._stdin.close()
        found = self._read(START_S_MAX)
        self._process.wait(timeout=30)
        return found

    def kill(self) -> None:
        """End it whatever it does; harmless when it has ended."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()

    @property
    def _stdin(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _read(self, seconds_max: float) -> dict[str, Any]:
        stdout = self._process.stdout
        assert stdout is not None
        if not select.select([stdout], [], [], seconds_max)[0]:
            raise Stopped(f"said nothing for {seconds_max:.0f} s")
        line = stdout.readline()
        if not line:
            said = [one.strip() for one in self._log.read_text(errors="replace").splitlines() if one.strip()]
            raise Stopped(f"{said[-1][:200] if said else 'ended without a word'} (see {self._log})")
        found: dict[str, Any] = json.loads(line)
        return found


@dataclass
class Comparison:
    """Ours and one peer on one case. ``ratios`` are how many times faster ours was, pair by pair, by wall time."""

    peer: str
    bar: float
    why: str = ""
    ours: list[Repeat] = field(default_factory=list)
    theirs: list[Repeat] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def ratios(self) -> list[float]:
        return [theirs.seconds / ours.seconds for ours, theirs in zip(self.ours, self.theirs, strict=True)]

    @property
    def cpu_ratio(self) -> float:
        """Return how many times less CPU time ours took: the steadier figure on a busy machine."""
        return statistics.median(one.cpu_s for one in self.theirs) / statistics.median(one.cpu_s for one in self.ours)

    def row(self, case: Case) -> dict[str, Any]:
        """Return what is kept and printed."""
        if self.why:
            return {"peer": self.peer, "bar": self.bar, "why": self.why, "verdict": "not measured"}
        ratio, verdict = judge(self.ratios, self.bar)
        return {
            "peer": self.peer,
            "version": self.summary["version"],
            "bar": self.bar,
            "ratio": ratio,
            "ratios": self.ratios,
            "cpu_ratio": self.cpu_ratio,
            "rate": statistics.median(case.work / one.seconds for one in self.theirs),
            "cpu_rate": statistics.median(case.work / one.cpu_s for one in self.theirs),
            "orders": self.theirs[-1].orders,
            "final_equity": self.theirs[-1].final_equity,
            "note": self.theirs[-1].note,
            "rss_mb": self.summary["rss_mb"],
            "verdict": verdict,
        }


def judge(ratios: Sequence[float], bar: float) -> tuple[float, str]:
    """Return the median ratio and "met", "missed" or "too noisy".

    Too noisy when the middle half of the pairs lies on both sides of the bar: then their spread is larger than the
    difference that is asked about.
    """
    middle = statistics.median(ratios)
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else (middle,) * 3
    if low >= bar:
        return middle, "met"
    return middle, "missed" if high < bar else "too noisy"


def race(case: Case, bars: dict[str, float], *, rounds: int, folder: Path) -> dict[str, Any]:
    """Run ours and each peer of ``bars`` (name to the ratio asked for) in turns; return the rows.

    Raises Stopped when our own engine fails; a peer's failure is its row.
    """
    comparisons = [Comparison(name, bar) for name, bar in bars.items()]
    racers: dict[str, Racer] = {}
    ours = Racer(OURS, Path(sys.executable), case, folder)
    try:
        ours.warm()
        for one in comparisons:
            peer = environment(one.peer.partition("/")[0])
            if isinstance(peer, Absent):
                one.why = f"not installed: {peer.why}"
                continue
            racers[one.peer] = Racer(one.peer, peer.python, case, folder)
            _guarded(one, racers[one.peer].warm)
        for _ in range(rounds):
            mine = ours.once()
            for one in comparisons:
                if not one.why and _guarded(one, racers[one.peer].once):
                    one.ours.append(mine)
                    one.theirs.append(racers[one.peer].seen[-1])
        for one in comparisons:
            if not one.why:
                one.summary = racers[one.peer].finish()
        summary = ours.finish()
    finally:
        for racer in (ours, *racers.values()):
            racer.kill()
    return {
        "case": case.name,
        "unit": case.unit,
        "ours": row_of(case, ours.seen, summary),
        "peers": [one.row(case) for one in comparisons],
    }


def _guarded(one: Comparison, call: Callable[[], object]) -> bool:
    """Say whether a peer did what it was asked; its failure is noted."""
    try:
        call()
    except (Stopped, BrokenPipeError) as error:
        one.why = f"failed: {error}"
    return not one.why


def row_of(case: Case, seen: Sequence[Repeat], summary: dict[str, Any]) -> dict[str, Any]:
    """Return what is kept of our own engine on one case."""
    return {
        "rate": statistics.median(case.work / one.seconds for one in seen),
        "rates": [case.work / one.seconds for one in seen],
        "cpu_rate": statistics.median(case.work / one.cpu_s for one in seen),
        "orders": summary["orders"],
        "final_equity": summary["final_equity"],
        "note": summary["note"],
        "rss_mb": summary["rss_mb"],
    }


def alone(case: Case, *, repeats: int, folder: Path) -> dict[str, Any]:
    """Run ours by itself, as often as asked after a warm-up; return its row."""
    ours = Racer(OURS, Path(sys.executable), case, folder)
    try:
        ours.warm()
        for _ in range(repeats):
            ours.once()
        return {"case": case.name, **row_of(case, ours.seen, ours.finish())}
    finally:
        ours.kill()


def print_table(result: dict[str, Any]) -> None:
    """Print one case: ours first, then a row a peer."""
    ours = result["ours"]
    spread = f"{min(ours['rates']):,.0f}..{max(ours['rates']):,.0f}"
    print(f"\n{result['case']}, {result['unit']}, medians (by CPU time in brackets); ours took {spread}")
    print(f"  {'ballast':24s} {ours['rate']:>10,.0f} ({ours['cpu_rate']:>9,.0f})  {_work(ours)}")
    for row in result["peers"]:
        name = f"{row['peer']} {row.get('version', '')}"
        if row["verdict"] == "not measured":
            print(f"  {name:24s} {row['why']}")
            continue
        low, high = min(row["ratios"]), max(row["ratios"])
        ratio = f"{row['ratio']:6.2f}x [{low:.2f}..{high:.2f}] ({row['cpu_ratio']:6.2f}x)"
        print(
            f"  {name:24s} {row['rate']:>10,.0f} ({row['cpu_rate']:>9,.0f})  {_work(row)}  ours is {ratio}, bar {row['bar']:g}x: {row['verdict']}"
        )


def _work(row: dict[str, Any]) -> str:
    note = f" ({row['note']})" if row["note"] else ""
    return f"{row['orders']:>6,} orders{note}, equity {row['final_equity']:>12,.2f}"
