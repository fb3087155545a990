"""Start and memory: ``ballast --help``, time to trading-ready with a model present, resident memory of the two processes.

The exchange's exchangeInfo has 3,000 symbols, 8 of them alive and in the universe. The naive stack imports everything into
the one process that trades.
"""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from benchmarks.alone import alone
from benchmarks.line import KEYS, publish_model, settings_text, universe, venue_options
from benchmarks.venue import Venue, running

SYMBOLS_LISTED = 3000
ASSETS = 8
HELP_REPEATS = 7
START_REPEATS = 3
SETTLE_S = 5.0
READY_S_MAX = 60.0
GOALS = {"help_s": 0.4, "ready_s": 8.0, "rss_mb": 200.0, "rss_with_worker_mb": 700.0}
NAIVE = (
    "import ccxt.pro, torch, cvxpy, pandas; import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
)
BALLAST = str(Path(sys.executable).with_name("ballast"))


def seconds_of(command: Sequence[str]) -> tuple[float, str]:
    """Return wall time and output of a command that must succeed."""
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.perf_counter() - start, done.stdout


def rss_mb(pid: int) -> float:
    """Return resident memory, MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def children_of(pid: int) -> list[int]:
    """Return the processes that a process started."""
    lists = [file.read_text().split() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(one) for some in lists for one in some]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def is_ready(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1.0) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def start_once(venue: Venue, folder: Path, symbols: tuple[str, ...]) -> dict[str, float]:
    """Start ``ballast run``, wait until /readyz says yes, look at its memory a little later, stop it."""
    port = free_port()
    file = folder / "start.toml"
    text = settings_text(venue.base, symbols, folder, every=1).replace("benchmarks.flip:Flip", STRATEGY)
    file.write_text(text.replace('[api]\nlisten = "127.0.0.1:0"', f'[api]\nlisten = "127.0.0.1:{port}"'))
    with (folder / "start.log").open("wb") as log:
        start = time.perf_counter()
        process = subprocess.Popen(
            [BALLAST, "run", "--config", str(file)], env={**os.environ, **KEYS}, stdout=log, stderr=log
        )
        try:
            while not is_ready(port):
                if process.poll() is not None or time.perf_counter() - start > READY_S_MAX:
                    raise RuntimeError(f"the daemon did not get ready: {(folder / 'start.log').read_text()[-2000:]}")
                time.sleep(0.02)
            ready = time.perf_counter() - start
            time.sleep(SETTLE_S)
            own = rss_mb(process.pid)
            workers = sum(rss_mb(child) for child in children_of(process.pid))
        finally:
            process.terminate()
            process.wait(timeout=30)
    return {"ready_s": ready, "rss_mb": own, "rss_with_worker_mb": own + workers}


STRATEGY = "strategies.forecast_optimise:ForecastOptimise"


async def starts(repeats: int, listed: int) -> list[dict[str, float]]:
    """Start the daemon several times against one exchange; the same ledger, so the later ones are restarts."""
    symbols = universe(ASSETS)
    with tempfile.TemporaryDirectory(prefix="ballast-bench-") as name:
        folder = Path(name)
        await publish_model(folder, symbols)
        async with running(folder, **venue_options(ASSETS, trades_per_s=5), pad_symbols_to=listed) as venue:
            return [await asyncio.to_thread(start_once, venue, folder, symbols) for _ in range(repeats)]


def run(repeats: int = START_REPEATS, listed: int = SYMBOLS_LISTED) -> dict[str, Any]:
    """Measure and return medians: seconds, MB, and ratios to the naive stack's imports."""
    help_s = median(seconds_of([BALLAST, "--help"])[0] for _ in range(HELP_REPEATS))
    imports = [seconds_of([sys.executable, "-c", NAIVE]) for _ in range(repeats)]
    found = asyncio.run(starts(repeats, listed))
    values = {"help_s": help_s, **{key: median(one[key] for one in found) for key in found[0]}}
    naive = {"imports_s": median(one for one, _ in imports), "rss_mb": median(int(out) for _, out in imports) / 1e3}
    return {
        "name": "start",
        "goals": GOALS,
        "listed": listed,
        "values": values,
        "naive": naive,
        "rss_ratio": naive["rss_mb"] / values["rss_mb"],
    }


def report(result: dict[str, Any]) -> None:
    """Print what `run` returned."""
    print(f"start and memory, {result['listed']} symbols in exchangeInfo, medians")
    names = {
        "help_s": "ballast --help, s",
        "ready_s": "start → trading-ready, model present, s",
        "rss_mb": "socket process, MB",
        "rss_with_worker_mb": "with its worker, MB",
    }
    for key, name in names.items():
        value, goal = result["values"][key], result["goals"][key]
        print(f"{name:>42} {value:8.2f}  <= {goal:g} {'ok' if value <= goal else 'MISSED'}")
    naive = result["naive"]
    print(f"{'naive: imports alone, s':>42} {naive['imports_s']:8.2f}")
    print(f"{'naive: one process, MB':>42} {naive['rss_mb']:8.0f}  {result['rss_ratio']:.1f}x our socket process")


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    return alone(run, report, argv, about=__doc__, repeats=START_REPEATS)


if __name__ == "__main__":
    raise SystemExit(main())
