"""Our backtest engine against nautilus_trader, jesse and freqtrade: same bars, same rule, same fee, in turns.

Each engine runs in a process and an environment of its own (``benchmarks/peers``) on one thread. Reading data and setting up
are not timed anywhere. How many orders were made and what is left of the money shows that the same work was done. Then our
engine alone: its cost against the number of bars and of assets, its memory, and how long the command takes to help.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.alone import alone as from_command_line
from benchmarks.peers import kit
from benchmarks.peers.drive_ballast import settings_text
from benchmarks.peers.install import REPOSITORY
from benchmarks.peers.kit import Case
from benchmarks.peers.race import alone, print_table, race

ROUNDS = 5
CASES: dict[str, dict[str, float]] = {
    "noop-1x50000": {"nautilus_trader": 1.5, "jesse": 1.0},
    "noop-10x5000": {"nautilus_trader": 1.5, "jesse": 1.0},
    "ema-1x50000": {"jesse": 3.0, "freqtrade": 8.0, "nautilus_trader": 10.0, "nautilus_trader/EMACross": 10.0},
    "ema-10x5000": {"jesse": 3.0, "freqtrade": 8.0, "nautilus_trader": 10.0, "nautilus_trader/EMACross": 10.0},
}
"""What is run, and how many times faster than each peer we mean to be."""
MORE_BARS = ("ema-10x2500", "ema-10x5000", "ema-10x10000")
MORE_ASSETS = ("ema-10x1000", "ema-30x1000", "ema-100x1000", "ema-300x1000")
GROWTH_MAX = 1.15
"""Cost per bar may grow by this factor and still count as the same."""
MEMORY = Case("ema", 42, 4 * 8766)
"""42 assets, four years of hours."""
BALLAST = Path(sys.executable).with_name("ballast")
RSS_MB_MAX = 1_500.0
HELP_S_MAX = 0.4
HELP_REPEATS = 7
RESULTS = Path(".bench") / "backtest.json"


def scaling(names: Sequence[str], *, repeats: int, folder: Path) -> list[dict[str, Any]]:
    """Return rows with the cost of one bar of one asset, µs, and how it grew from the first row on."""
    rows = [alone(Case.of(name), repeats=repeats, folder=folder) for name in names]
    costs = [1e6 / row["cpu_rate"] for row in rows]
    return [{**row, "cpu_us_per_bar": cost, "growth": cost / costs[0]} for row, cost in zip(rows, costs, strict=True)]


def whole_command(case: Case, folder: Path) -> dict[str, Any]:
    """Run the command on hourly bars in parquet files; return how much it had resident at most and how long it took."""
    from daemon.backtest.data.files import Candles, path_of, write

    data = folder / "candles"
    data.mkdir()
    bars = kit.walk(case)
    times_ms = kit.START_MS + 3_600_000 * np.arange(case.bars, dtype=np.int64)
    for place, base in enumerate(case.symbols):
        write(path_of(data, f"{base}/USDT", "1h"), Candles(times_ms, bars[:, place]))
    config = folder / "memory.toml"
    config.write_text(settings_text(case, folder, bar="1h"))
    end = np.datetime64(int(times_ms[-1]) + 3_600_000, "ms")
    span = ["--start", "2024-01-01", "--end", str(end), "--data", str(data), "--out", str(folder / "out")]
    log = folder / "memory.log"
    begun = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(
            [BALLAST, "backtest", *span, "--config", str(config)], stdout=file, stderr=file, cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # Popen must not wait for it again
    if process.returncode:
        raise RuntimeError(f"ballast backtest ended with {process.returncode}: {log.read_text()[-500:]}")
    return {"case": case.name, "rss_mb": usage.ru_maxrss / 1024, "seconds": time.perf_counter() - begun}


def help_s() -> float:
    """Return how long ``ballast backtest --help`` takes, median, s."""
    times: list[float] = []
    for _ in range(HELP_REPEATS):
        begun = time.perf_counter()
        subprocess.run([BALLAST, "backtest", "--help"], check=True, capture_output=True)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def run(rounds: int = ROUNDS, *, peers: int = 1, curve: int = 1, command: int = 1) -> dict[str, Any]:
    """Measure; each part can be left out with 0."""
    found: dict[str, Any] = {"name": "backtest"}
    with tempfile.TemporaryDirectory(prefix="ballast-bench-") as name:
        folder = Path(name)
        if peers:
            found["cases"] = [race(Case.of(one), bars, rounds=rounds, folder=folder) for one, bars in CASES.items()]
        if curve:
            found["bars"] = scaling(MORE_BARS, repeats=rounds, folder=folder)
            found["assets"] = scaling(MORE_ASSETS, repeats=max(1, rounds // 2), folder=folder)
        if command:
            found["help_s"] = help_s()
            found["memory"] = whole_command(MEMORY, folder)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    return found


def report(result: dict[str, Any]) -> None:
    for case in result.get("cases", ()):
        print_table(case)
    for what, limit in (("bars", GROWTH_MAX), ("assets", GROWTH_MAX)):
        if what in result:
            print(
                f"\ncost against {what}, CPU µs for a bar of an asset; growth is against the first row, at most {limit:g}x"
            )
            for row in result[what]:
                verdict = "ok" if row["growth"] <= limit else "MISSED"
                print(
                    f"  {row['case']:14s} {row['cpu_us_per_bar']:8.2f}  {row['growth']:5.2f}x {verdict}  {row['rss_mb']:6.0f} MB"
                )
    if "memory" in result:
        one, took = result["memory"], result["help_s"]
        verdict = "ok" if one["rss_mb"] <= RSS_MB_MAX else "MISSED"
        print(
            f"\nthe whole command on {one['case']} bars of an hour: {one['rss_mb']:.0f} MB at most (bar {RSS_MB_MAX:.0f}): {verdict}; {one['seconds']:.0f} s"
        )
        print(f"ballast backtest --help: {took:.2f} s (bar {HELP_S_MAX}): {'ok' if took <= HELP_S_MAX else 'MISSED'}")


def main(argv: Sequence[str] | None = None) -> int:
    return from_command_line(run, report, argv, about=__doc__, rounds=ROUNDS, peers=1, curve=1, command=1)


if __name__ == "__main__":
    raise SystemExit(main())
