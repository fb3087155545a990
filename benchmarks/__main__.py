"""Run benchmarks and print a table each: ``python -m benchmarks [name …]``; results also go to .bench/results.json.

Each benchmark runs in a process of its own, so that none measures what another left behind.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NAMES = (
    "ingest", "forecast", "optimise", "close_to_order", "ticks", "intent", "snapshot", "start", "kill", "takeover",
    "backtest", "portfolio", "portfolio_lstm",
)  # fmt: skip
RESULTS = Path(".bench") / "results.json"
SECONDS_MAX = 300.0
LONGER_S_MAX = {"backtest": 3600.0, "portfolio": 1800.0, "portfolio_lstm": 900.0}
"""Those that make environments on first use, and wait for slower engines."""


def child(name: str) -> int:
    """Run one benchmark here: its table goes to stderr, its result as one JSON line to stdout."""
    from contextlib import redirect_stdout
    from importlib import import_module

    module = import_module(f"benchmarks.{name}")
    with redirect_stdout(sys.stderr):
        result: dict[str, Any] = module.run()
        if hasattr(module, "report"):
            module.report(result)
        else:
            print(json.dumps(result, indent=1))
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


def measure(name: str) -> dict[str, Any]:
    """Run one benchmark in a process of its own; what it returned, or ``{"error": …}``."""
    begun, limit_s = time.perf_counter(), LONGER_S_MAX.get(name, SECONDS_MAX)
    print(f"\n== {name}", flush=True)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks", "--child", name],
            stdout=subprocess.PIPE, stderr=sys.stdout, text=True, timeout=limit_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"error": f"took longer than {limit_s:.0f} s"}
    took = time.perf_counter() - begun
    if done.returncode:
        return {"error": f"ended with code {done.returncode}", "seconds": took}
    print(f"({took:.0f} s)")
    return {**json.loads(done.stdout.splitlines()[-1]), "seconds": took}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"any of {', '.join(NAMES)}; all without one")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        return child(args.child)
    unknown = [name for name in args.names if name not in NAMES]
    if unknown:
        parser.error(f"unknown benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    found = {name: measure(name) for name in args.names or NAMES}
    RESULTS.parent.mkdir(exist_ok=True)
    (RESULTS.parent / ".gitignore").write_text("*\n")
    known: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    RESULTS.write_text(json.dumps({**known, **found}, indent=1) + "\n")
    failed = {name: one["error"] for name, one in found.items() if "error" in one}
    for name, error in failed.items():
        print(f"{name}: {error}")
    print(f"\nresults: {RESULTS}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
