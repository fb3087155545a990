"""Fractional Kelly: the largest expected growth of the part of equity that is put at risk, over scenarios.

    maximise  f mean_t log(1 + r_t'w / f) - kappa |w - w0|_1      over the region

Kelly (1956); f = 1 maximises the expected logarithm of wealth. Where no limit binds and trading is free the answer is f
times the Kelly portfolio, the rest stays in cash (MacLean, Ziemba and Blazenko 1992); under limits it is the best that they
allow, which f times a limited portfolio is not. To second order it is mu'w - w'(S + mu mu')w / (2 f): mean-variance with risk
tolerance f.
How much is invested is the result, not an aim, so full investment is not asked for.

Solved by Newton's method: each step is the region's quadratic program with the Hessian at the current weights, followed by a
backtracking line search that keeps every scenario's wealth positive.
"""

from typing import TYPE_CHECKING

import numpy as np

from strategies.ladder import Answer
from strategies.objectives.case import Case, Groups, given_scenarios
from strategies.objectives.quadratic import RegionQP

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEPS_MAX = 60
HALVINGS_MAX = 40
DECREASE_MIN = 1e-8
"""A step that promises less than this share of the objective ends the search; Newton's error after it is far smaller."""
DECREASE_FLOOR = 1e-12
"""The same as a share of the largest return, where the objective is near zero: what the quadratic program resolves."""
WEALTH_START_MIN = 0.2
"""Smallest wealth in any scenario at the first weights, as a share of what is put at risk."""
ARMIJO = 1e-4


class FractionalKelly:
    """Newton's method on one compiled program.

    Parameters
    ----------
    n : number of assets
    groups : the split into groups
    fraction : f > 0, the share of the Kelly portfolio that is wanted; 1 = full Kelly
    """

    def __init__(self, n: int, groups: Groups, *, fraction: float) -> None:
        if not fraction > 0.0:
            raise ValueError(f"the Kelly fraction is {fraction!r}; it must be positive")
        self._fraction = fraction
        self._qp = RegionQP(n, groups, invest=False)

    def solve(self, case: Case) -> Answer:
        """Return the answer of the search."""
        f, R, w0 = self._fraction, given_scenarios(case), case.region.limits.w0
        T = R.shape[0]

        def objective(w: "NDArray[np.float64]") -> float:
            return kelly_objective(w, R, f) + case.kappa * float(np.abs(w - w0).sum())

        floor = DECREASE_FLOOR * float(np.abs(R).max(initial=0.0))
        w = _start(case.region.hold(), R, f)
        value = objective(w)
        for _ in range(STEPS_MAX):
            share = 1.0 / (1.0 + R @ w / f)
            weighted = R * share[:, None]
            g = -weighted.sum(axis=0) / T
            H = weighted.T @ weighted / (f * T)
            outcome, duals = self._qp.minimise(H, g - H @ w, kappa=case.kappa, region=case.region)
            if not outcome.optimal:
                return Answer(w=w, status=outcome.status, optimal=False)
            step = outcome.x[: case.n] - w
            promised = float(g @ step) + case.kappa * float((np.abs(w + step - w0) - np.abs(w - w0)).sum())
            if -promised <= DECREASE_MIN * abs(value) + floor:
                better = objective(w + step) <= value
                return Answer(w=w + step if better else w, status="solved", optimal=True, duals=duals)
            length = 1.0
            for _ in range(HALVINGS_MAX):
                new = objective(w + length * step)
                if new <= value + ARMIJO * length * promised:
                    break
                length *= 0.5
            else:
                break
            w, value = w + length * step, new
        return Answer(w=w, status="max_iter_reached", optimal=False)


def kelly_objective(w: "NDArray[np.float64]", scenarios: "NDArray[np.float64]", fraction: float) -> float:
    """Return -f mean(log(1 + R w / f)), infinite where a scenario ruins."""
    growth = scenarios @ w / fraction
    if not bool(np.all(growth > -1.0)):
        return float("inf")
    return -fraction * float(np.log1p(growth).mean())


def _start(w: "NDArray[np.float64]", R: "NDArray[np.float64]", fraction: float) -> "NDArray[np.float64]":
    """Return the current weights, scaled down as far as every scenario's wealth needs; scaling down stays in the region."""
    worst = float((R @ w / fraction).min(initial=0.0))
    floor = WEALTH_START_MIN - 1.0
    return w if worst >= floor else w * (floor / worst)
