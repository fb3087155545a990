"""The largest Sharpe ratio after costs, by the transformation of Charnes and Cooper (1962) and Schaible (1974).

    maximise  (mu'w - kappa |w - w0|_1) / sqrt(w'Sw)    over the region with sum(w) = reach

A ratio of a concave and a convex function, both homogeneous of degree 1 in (w, 1): with y = t w, t > 0 and the numerator fixed,

    minimise  1/2 y'Sy    subject to  mu'y - kappa |y - t w0|_1 >= r,  y in t x region,  sum(y) >= t reach

is convex and w = y / t. r is the largest net return in the region, found first: then t >= 1, and r <= 0 proves that
nothing is expected to earn its costs. The ratio is then no objective, and the answer is to hold. ``reach`` is the largest
sum of weights the limits allow: without it any fraction of a portfolio has the same ratio.
"""

from typing import TYPE_CHECKING

import numpy as np

from strategies.ladder import Answer
from strategies.objectives.case import Case, Groups
from strategies.objectives.program import Outcome, Program
from strategies.objectives.quadratic import RegionQP
from strategies.shadow import Duals

if TYPE_CHECKING:
    from numpy.typing import NDArray

RETURN_MIN = 1e-9
"""Net returns below this share of the largest mean or cost are the solver's tolerance: there is nothing to gain."""


class MaximumSharpe:
    """Two compiled programs: the largest net return, and Charnes and Cooper's quadratic program."""

    def __init__(self, n: int, groups: Groups) -> None:
        self._n, m = n, len(groups.names)
        self._richest = RegionQP(n, groups, invest=True)
        program = Program(n, groups, invest=False, columns=1, rows=n + 2, condensed=False, fresh=True)
        self._program, self._t = program, program.extra
        self._slots, self._places = program.quadratic()
        self._net, self._aim = program.extra_row, program.extra_row + 1
        at, t, bounds = np.arange(n), self._t, program.extra_row + 2
        self._current = program.A.block(at, t)  # - t w0
        self._limits = program.G.block(np.arange(2 + m), t)  # - t (B, tau, c)
        self._returns = program.G.block(self._net, at)
        self._costs = program.G.block(self._net, np.arange(n, 3 * n))
        program.G.block(self._aim, at)
        self._reach = program.G.block(self._aim, t)
        program.G.block(bounds + at, at)
        self._upper = program.G.block(bounds + at, t)
        program.compile()
        program.h_u[: 2 + m] = 0.0
        program.h_u[bounds:] = 0.0
        program.h_l[self._net] = 1.0
        program.h_l[self._aim] = 0.0

    def solve(self, case: Case) -> Answer:
        """Return the solver's answer."""
        limits, n = case.region.limits, self._n
        richest, _ = self._richest.minimise(np.zeros((n, n)), -case.mean, kappa=case.kappa, region=case.region)
        if not richest.optimal:
            return Answer(w=richest.x[:n], status=richest.status, optimal=False)
        most = net_return(richest.x[:n], case)
        if most <= RETURN_MIN * max(float(np.abs(case.mean).max(initial=0.0)), case.kappa):
            return Answer(w=limits.w0, status="no_return", optimal=True, holds=True)
        program, G = self._program, self._program.G.values
        largest = float(np.diag(case.S).max(initial=0.0))
        scale = 1.0 / largest if largest > 0.0 else 1.0
        program.P.values[self._slots] = case.S[self._places] * scale
        program.A.values[self._current] = -limits.w0
        G[self._limits] = -np.concatenate([[limits.budget, min(limits.turnover_left, n)], case.region.group_caps])
        G[self._returns], G[self._costs] = case.mean / most, -case.kappa / most
        G[self._reach] = -case.region.reachable()
        G[self._upper] = -limits.ub
        outcome = program.run()
        t = float(outcome.x[self._t])
        if not outcome.optimal or not t > 0.0:
            return Answer(w=outcome.x[:n], status=outcome.status, optimal=False)
        w = outcome.x[:n] / t
        return Answer(
            w=w, status=outcome.status, optimal=True, duals=self._duals(outcome, case, most=most, scale=scale)
        )

    def _duals(self, outcome: Outcome, case: Case, *, most: float, scale: float) -> Duals | None:
        """Return multipliers in units of return: at the optimum w also maximises return less (return / variance) x variance / 2.

        Dividing the stationarity condition in y by the multiplier of the return's row turns every price into return.
        """
        price = float(outcome.z_l[self._net])
        if not price > 0.0:
            return None
        budget, turnover, groups = self._program.prices(outcome)
        unit = most / price
        return Duals(
            gradient=unit * scale * (case.S @ outcome.x[: self._n]) - case.mean,
            budget=(budget - float(outcome.z_l[self._aim])) * unit,
            turnover=turnover * unit,
            groups=tuple(one * unit for one in groups),
        )


def net_return(w: "NDArray[np.float64]", case: Case) -> float:
    """Return mu'w - kappa |w - w0|_1."""
    return float(case.mean @ w) - case.kappa * float(np.abs(w - case.region.limits.w0).sum())
