"""Solve time of the optimiser against cvxpy rebuilt for every decision, and the gap between the two answers."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence

import cvxpy as cp
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from strategies.covariance import FACTORS
from strategies.limits import limits_of
from strategies.optimise import Optimiser, Solution
from strategies.params import OptimizerParams

CASES = ((10, 10), (100, 100), (100, FACTORS), (500, FACTORS))
"""Assets and factors: full-rank covariances as Ledoit-Wolf gives them, and the factor model for large universes."""
REPEATS = 15
GOALS = {10: 20.0, 100: 10.0, 500: 30.0}
PARAMS = OptimizerParams()
Floats = NDArray[np.float64]


def rebuilt(mean: Floats, S: Floats, w0: Floats, ub: Floats) -> Floats:
    """Solve the problem as it is usually written: dense, built anew, default settings."""
    w = cp.Variable(w0.size)
    trades = w - w0
    objective = 0.5 * cp.quad_form(w, cp.psd_wrap(S)) - PARAMS.risk_tolerance * mean @ w
    objective = objective + PARAMS.cost_bps * 1e-4 * cp.norm1(trades)
    limits = [w >= 0, w <= ub, cp.sum(w) <= PARAMS.budget, cp.sum(cp.pos(trades)) <= PARAMS.turnover_max]
    cp.Problem(cp.Minimize(objective), limits).solve(solver=cp.CLARABEL)
    return np.asarray(w.value, dtype=np.float64)


def objective(w: Floats, mean: Floats, S: Floats, w0: Floats) -> float:
    return float(0.5 * w @ S @ w - PARAMS.risk_tolerance * mean @ w + PARAMS.cost_bps * 1e-4 * np.abs(w - w0).sum())


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def measure(n: int, k: int) -> dict[str, float | int]:
    """Time both on the same random instances: mean, covariance and weights all change from one to the next."""
    rng = np.random.default_rng(n + k)
    optimiser = Optimiser(n, PARAMS, k)
    caps, free = np.full(n, PARAMS.max_weight), np.zeros(n, dtype=np.bool_)
    ours: list[float] = []
    theirs: list[float] = []
    gap = 0.0
    for _ in range(REPEATS):
        F = rng.normal(0.0, 0.03 / np.sqrt(k), (n, k))
        D = rng.uniform(1e-4, 6e-4, n)
        S, mean, w0 = F @ F.T + np.diag(D), rng.normal(0.002, 0.02, n), rng.dirichlet(np.ones(n)) * 0.7
        limits = limits_of(PARAMS, w0=w0, caps=caps, frozen=free, turnover_left=10.0)
        answers: list[Floats] = []

        def direct(
            mean: Floats = mean, F: Floats = F, D: Floats = D, w0: Floats = w0, answers: list[Floats] = answers
        ) -> None:
            solution = optimiser.solve(mean, F, D, w0=w0, caps=caps, frozen=free, turnover_left=10.0)
            assert isinstance(solution, Solution)
            assert solution.rung == "warm"
            answers.append(solution.weights)

        def naive(
            mean: Floats = mean, S: Floats = S, w0: Floats = w0, ub: Floats = limits.ub, answers: list[Floats] = answers
        ) -> None:
            answers.append(rebuilt(mean, S, w0, ub))

        ours.append(timed(direct))
        theirs.append(timed(naive))
        gap = max(gap, objective(answers[0], mean, S, w0) - objective(answers[1], mean, S, w0))
    mine, rebuilt_ms = statistics.median(ours), statistics.median(theirs)
    return {
        "assets": n, "factors": k, "ours_ms": round(mine, 4), "rebuilt_ms": round(rebuilt_ms, 3),
        "ratio": round(rebuilt_ms / mine, 1), "goal": GOALS[n], "gap": max(gap, 0.0),
    }  # fmt: skip


def run() -> dict[str, object]:
    """Return one row per case; ``gap`` is how much worse our objective is at most, 0 when it is never worse."""
    with threadpool_limits(limits=1):  # as in the worker
        return {"name": "optimise", "cases": [measure(n, k) for n, k in CASES]}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    chosen = parser.parse_args(argv)
    result = run()
    if chosen.json:
        print(json.dumps(result))
        return 0
    print(f"{'assets':>6} {'factors':>7} {'ours ms':>9} {'rebuilt ms':>10} {'ratio':>7} {'goal':>6} {'gap':>9}")
    cases = result["cases"]
    assert isinstance(cases, list)
    for row in cases:
        print(
            f"{row['assets']:>6} {row['factors']:>7} {row['ours_ms']:>9.3f} {row['rebuilt_ms']:>10.2f} "
            f"{row['ratio']:>6.1f}x {row['goal']:>5.0f}x {row['gap']:>9.1e}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
