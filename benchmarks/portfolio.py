"""A portfolio backtest against cvxportfolio's single-period optimisation: 30 assets, 500 periods, costs and caps.

Forecasts are given and the same for both, each side estimates its covariance. Periods per second, in turns, on one thread.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.alone import alone
from benchmarks.peers.kit import Case
from benchmarks.peers.race import print_table, race

ROUNDS = 5
CASES: dict[str, dict[str, float]] = {"portfolio-30x500": {"cvxportfolio": 5.0}}
RESULTS = Path(".bench") / "portfolio.json"


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="ballast-bench-") as name:
        cases = [race(Case.of(one), bars, rounds=rounds, folder=Path(name)) for one, bars in CASES.items()]
    found = {"name": "portfolio", "cases": cases}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    return found


def report(result: dict[str, Any]) -> None:
    for case in result["cases"]:
        print_table(case)


def main(argv: Sequence[str] | None = None) -> int:
    return alone(run, report, argv, about=__doc__, rounds=ROUNDS)


if __name__ == "__main__":
    raise SystemExit(main())
