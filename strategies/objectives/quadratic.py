"""Quadratic objectives over the region: minimum variance, and the weights nearest to a target (equal weight).

    minimum variance   min  1/2 w'Sw + kappa |w - w0|_1        with sum(w) as near to B as the limits let it
    equal weight       min  1/2 |w - e|^2                      e_i = B / (number of assets that may be held); the same aim

Markowitz (1952); DeMiguel, Garlappi and Uppal (2009) for equal weight. Under caps the nearest point on
sum(w) = B is water-filling: what a capped asset cannot take is spread evenly over the others.
"""

from typing import TYPE_CHECKING

import numpy as np

from strategies.ladder import Answer
from strategies.objectives.case import Case, Groups, Region
from strategies.objectives.program import Outcome, Program
from strategies.shadow import Duals

if TYPE_CHECKING:
    from numpy.typing import NDArray


class RegionQP:
    """``min 1/2 w'Hw + c'w + kappa |w - w0|_1 (+ shortfall)`` over the region; the pattern is compiled once."""

    def __init__(self, n: int, groups: Groups, *, invest: bool) -> None:
        self._program = Program(n, groups, invest=invest)
        self._slots, self._places = self._program.quadratic()
        self._program.compile()

    def minimise(
        self, H: "NDArray[np.float64]", c: "NDArray[np.float64]", *, kappa: float, region: Region
    ) -> tuple[Outcome, Duals]:
        """Return the solver's outcome and its multipliers, in the units of H and c.

        Parameters
        ----------
        H : array (n, n), symmetric and positive semidefinite
        c : array (n,)
        kappa : cost of trading one way, in the units of c
        """
        program, n = self._program, self._program.n
        largest = max(float(np.abs(np.diag(H)).max(initial=0.0)), float(np.abs(c).max(initial=0.0)), kappa)
        scale = 1.0 / largest if largest > 0.0 else 1.0
        program.P.values[self._slots] = H[self._places] * scale
        program.c[:n] = c * scale
        program.write_region(region, kappa=kappa * scale, aim=region.limits.budget)
        outcome = program.run()
        budget, turnover, groups = program.prices(outcome)
        return outcome, Duals(
            gradient=H @ outcome.x[:n] + c,
            budget=budget / scale,
            turnover=turnover / scale,
            groups=tuple(one / scale for one in groups),
        )


class MinimumVariance:
    """The least risky portfolio that is invested as far as the limits allow; costs are in the objective."""

    def __init__(self, n: int, groups: Groups) -> None:
        self._qp = RegionQP(n, groups, invest=True)

    def solve(self, case: Case) -> Answer:
        """Return the solver's answer."""
        outcome, duals = self._qp.minimise(case.S, np.zeros(case.n), kappa=case.kappa, region=case.region)
        return Answer(w=outcome.x[: case.n], status=outcome.status, optimal=outcome.optimal, duals=duals)


class EqualWeight:
    """Equal weights, or the nearest that the limits allow. Costs are left out: a distance is not money."""

    def __init__(self, n: int, groups: Groups) -> None:
        self._qp = RegionQP(n, groups, invest=True)

    def solve(self, case: Case) -> Answer:
        """Return the solver's answer."""
        outcome, _ = self._qp.minimise(np.eye(case.n), -equal_target(case.region), kappa=0.0, region=case.region)
        return Answer(w=outcome.x[: case.n], status=outcome.status, optimal=outcome.optimal)


def equal_target(region: Region) -> "NDArray[np.float64]":
    """Return B / (assets that may be held) for those, 0 for the others (n_assets,)."""
    may = region.limits.ub > 0.0
    return np.where(may, region.limits.budget / max(int(may.sum()), 1), 0.0)
