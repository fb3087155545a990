"""The objectives as cvxpy states them: the definitions that tests compare with, and the second solver of the ladder.

They are stated anew for each instance: this rung is climbed when the fixed program has failed, and a parametrised form of the
scenario problems would hold T x n parameters and take longer to compile than to solve.
"""

from typing import TYPE_CHECKING, Protocol

import cvxpy as cp
import msgspec
import numpy as np

from strategies.ladder import Answer
from strategies.objectives.case import Case, given_scenarios
from strategies.objectives.program import SHORTFALL_PENALTY
from strategies.objectives.quadratic import equal_target

if TYPE_CHECKING:
    from numpy.typing import NDArray

ACCURACY = 1e-11
LOG_ACCURACY = 1e-9
"""The exponential cone does not reach the last digits."""


class Terms(msgspec.Struct, frozen=True):
    """An objective without costs, the constraints it needs, and whether costs and the aim of investing belong to it."""

    objective: cp.Expression
    constraints: tuple[cp.Constraint, ...]
    scale: float
    costs: bool
    invest: bool
    accuracy: float = ACCURACY


class State(Protocol):
    """States an objective for one case in terms of the weights."""

    def __call__(self, case: Case, w: cp.Variable, /) -> Terms:
        """Return the terms."""
        ...


class Definition:
    """One objective over the region, solved with Clarabel; without ``soft`` the turnover is left out."""

    def __init__(self, state: "State", *, soft: bool = True) -> None:
        self._state, self._soft = state, soft

    def solve(self, case: Case) -> Answer:
        """State and solve; raises whatever cvxpy raises."""
        limits, groups = case.region.limits, case.region.groups
        w, u = cp.Variable(case.n), cp.Variable(case.n)
        terms = self._state(case, w)
        constraints: list[cp.Constraint] = [
            *terms.constraints,
            u == w - limits.w0,
            w >= 0,
            w <= limits.ub,
            *_below(cp.sum(w), limits.budget),
        ]
        if self._soft:
            constraints += _below(cp.sum(cp.pos(u)), limits.turnover_left)
        for group, cap in enumerate(case.region.group_caps):
            constraints += _below(cp.sum(w[groups.members(group)]), float(cap))
        objective = terms.scale * terms.objective
        if terms.costs:
            objective = objective + (terms.scale * case.kappa) * cp.norm1(u)
        if terms.invest:
            objective = objective + SHORTFALL_PENALTY * cp.pos(limits.budget - cp.sum(w))
        problem = cp.Problem(cp.Minimize(objective), constraints)
        problem.solve(solver=cp.CLARABEL, **_settings(terms.accuracy))
        return _answer(problem, w.value, case.n)


def _settings(accuracy: float) -> dict[str, float | int]:
    """Return fixed tolerances and iteration limits, never seconds: equal inputs give equal weights on any day."""
    return {"tol_gap_abs": accuracy, "tol_gap_rel": accuracy, "tol_feas": accuracy, "max_iter": 300, "max_threads": 1}


def _answer(problem: cp.Problem, w: "NDArray[np.float64] | None", n: int) -> Answer:
    """Return cvxpy's answer; NaN where it has none."""
    status = str(problem.status)
    found = np.full(n, np.nan) if w is None else np.array(w, dtype=np.float64)
    return Answer(w=found, status=status, optimal=status == cp.OPTIMAL)


def _below(expression: cp.Expression | int, bound: float) -> list[cp.Constraint]:
    """Return the constraint that the expression is at most ``bound``; cvxpy's own comparisons may be a bool to a type checker."""
    return [cp.NonNeg(bound - expression)]


def _risk(case: Case, w: cp.Expression, scale: float) -> cp.Expression:
    """Return scale * w'Sw in factor form: always convex, however degenerate S is."""
    rooted = np.sqrt(scale)
    return cp.sum_squares((rooted * case.F.T) @ w) + cp.sum_squares(cp.multiply(rooted * np.sqrt(case.D), w))


def minimum_variance(case: Case, w: cp.Variable) -> Terms:
    """State 1/2 w'Sw, invested."""
    scale = 1.0 / (max(float(np.diag(case.S).max(initial=0.0)), case.kappa) or 1.0)
    return Terms(0.5 / scale * _risk(case, w, scale), (), scale, costs=True, invest=True)


def equal_weight(case: Case, w: cp.Variable) -> Terms:
    """State 1/2 |w - e|^2, invested."""
    return Terms(0.5 * cp.sum_squares(w - equal_target(case.region)), (), 1.0, costs=False, invest=True)


def cvar(level: float) -> State:
    """Return the statement of CVaR at ``level`` over the scenarios (Rockafellar and Uryasev 2000)."""

    def state(case: Case, w: cp.Variable) -> Terms:
        R = given_scenarios(case)
        scale = 1.0 / (max(float(np.abs(R).max(initial=0.0)), case.kappa) or 1.0)
        v = cp.Variable()
        tail = cp.sum(cp.pos(-R @ w - v)) / ((1.0 - level) * R.shape[0])
        return Terms(v + tail, (), scale, costs=True, invest=True)

    return state


def kelly(fraction: float) -> State:
    """Return the statement of -f mean(log(1 + R w / f)) over the scenarios."""

    def state(case: Case, w: cp.Variable) -> Terms:
        R = given_scenarios(case)
        scale = 1.0 / (max(float(np.abs(R).max(initial=0.0)), case.kappa) or 1.0)
        growth = cp.sum(cp.log(1.0 + (R / fraction) @ w)) * (fraction / R.shape[0])
        return Terms(-growth, (), scale, costs=True, invest=False, accuracy=LOG_ACCURACY)

    return state


class SharpeDefinition:
    """Charnes and Cooper's form of the largest Sharpe ratio; without ``soft`` the turnover is left out."""

    def __init__(self, *, soft: bool = True) -> None:
        self._soft = soft

    def solve(self, case: Case) -> Answer:
        """State and solve; infeasible means that nothing is expected to earn its costs, and is answered by holding."""
        limits, groups = case.region.limits, case.region.groups
        size = max(float(np.abs(case.mean).max(initial=0.0)), case.kappa) or 1.0
        y, t = cp.Variable(case.n), cp.Variable(nonneg=True)
        u = y - limits.w0 * t
        net = (case.mean / size) @ y - case.kappa / size * cp.norm1(u)
        aim = case.region.reachable() if self._soft else reach_without_turnover(case)
        constraints: list[cp.Constraint] = [
            y >= 0,
            y <= limits.ub * t,
            cp.sum(y) <= limits.budget * t,
            cp.sum(y) >= aim * t,
            net >= 1.0,
        ]
        if self._soft:
            constraints.append(cp.sum(cp.pos(u)) <= limits.turnover_left * t)
        for group, cap in enumerate(case.region.group_caps):
            constraints.append(cp.sum(y[groups.members(group)]) <= cap * t)
        scale = 1.0 / (float(np.diag(case.S).max(initial=0.0)) or 1.0)
        problem = cp.Problem(cp.Minimize(_risk(case, y, scale)), constraints)
        problem.solve(solver=cp.CLARABEL, **_settings(ACCURACY))
        if str(problem.status) == cp.INFEASIBLE:
            return Answer(w=case.region.hold(), status="no_return", optimal=True, holds=True)
        if y.value is None or t.value is None or not float(t.value) > 0.0:
            return Answer(w=np.full(case.n, np.nan), status=str(problem.status), optimal=False)
        return _answer(problem, np.asarray(y.value) / float(t.value), case.n)


def reach_without_turnover(case: Case) -> float:
    """Return the largest sum of weights in the region when turnover is no limit."""
    region = case.region
    free = msgspec.structs.replace(region.limits, turnover_left=float(case.n))
    return msgspec.structs.replace(region, limits=free).reachable()
