"""The smallest conditional value at risk over scenarios, by the linear program of Rockafellar and Uryasev (2000, eq. 17).

    min  v + sum(z) / ((1 - a) T) + kappa |w - w0|_1     z_t >= -r_t'w - v,  z >= 0,  w in the region, invested

CVaR_a(L + constant) = CVaR_a(L) + constant, so the costs of trading, which are certain, are in the objective in the very units of
the loss. Scenarios are returns over the horizon, centred on the forecast: the mean is part of the loss.
"""

from typing import TYPE_CHECKING

import numpy as np

from strategies.ladder import Answer
from strategies.objectives.case import Case, Groups, given_scenarios
from strategies.objectives.program import Program
from strategies.shadow import Duals

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVEL = 0.95
"""Confidence: the mean loss of the worst 5 % of scenarios."""


class MinimumCVaR:
    """The program is compiled once for a number of scenarios, and again only when that number changes."""

    def __init__(self, n: int, groups: Groups, *, level: float = LEVEL) -> None:
        self._n, self._groups, self._level = n, groups, level
        self._count = 0
        self._program: Program | None = None
        self._slots = slice(0, 0)

    def _compiled(self, count: int) -> Program:
        """Return the program for ``count`` scenarios."""
        if self._program is not None and self._count == count:
            return self._program
        n, row = self._n, np.arange(count)
        program = Program(n, self._groups, invest=True, columns=1 + count, rows=count)
        first, v = program.extra_row, program.extra
        self._slots = program.G.block((first + row)[:, None], np.arange(n)[None, :])
        program.G.block(first + row, v)
        program.G.block(first + row, v + 1 + row)
        program.compile()
        program.h_l[first:] = 0.0
        program.x_l[v] = -np.inf
        program.c[v] = 1.0
        program.c[v + 1 :] = 1.0 / ((1.0 - self._level) * count)
        self._program, self._count = program, count
        return program

    def solve(self, case: Case) -> Answer:
        """Return the solver's answer."""
        R, n = given_scenarios(case), self._n
        program = self._compiled(R.shape[0])
        largest = max(float(np.abs(R).max(initial=0.0)), case.kappa)
        scale = 1.0 / largest if largest > 0.0 else 1.0
        program.G.values[self._slots] = (R * scale).ravel()
        program.write_region(case.region, kappa=case.kappa * scale, aim=case.region.limits.budget)
        outcome = program.run()
        budget, turnover, groups = program.prices(outcome)
        tail = outcome.z_l[program.extra_row :]  # multipliers of the scenarios: weights of the tail, they sum to 1
        duals = Duals(
            gradient=-(R.T @ tail),
            budget=budget / scale,
            turnover=turnover / scale,
            groups=tuple(one / scale for one in groups),
        )
        return Answer(w=outcome.x[:n], status=outcome.status, optimal=outcome.optimal, duals=duals)


def cvar_of(w: "NDArray[np.float64]", scenarios: "NDArray[np.float64]", level: float = LEVEL) -> float:
    """Return CVaR of -R w as a loss (negative where even the tail gains): the mean of the worst (1 - a) T losses.

    Parameters
    ----------
    w : array (n_assets,)
    scenarios : array (T, n_assets), simple returns
    level : confidence a in (0, 1); the last loss of the tail counts in part
    """
    losses = np.sort(-(scenarios @ w))[::-1]
    tail = (1.0 - level) * losses.size
    whole = min(int(tail + 1e-9), losses.size)
    total = float(losses[:whole].sum())
    if whole < losses.size:
        total += max(tail - whole, 0.0) * float(losses[whole])
    return total / tail
