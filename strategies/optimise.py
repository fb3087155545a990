"""Turn forecasts into target weights: one convex problem, compiled once, verified outside the solver.

Symbols (Boyd, Johansson, Kahn, Schiele, Schmelzer 2024, "Markowitz Portfolio Construction at Seventy", sections 2-4)

    n        number of assets                     k      number of factors
    w  (n,)  weights after trading                w0 (n,) weights before; both fractions of equity, cash is 1 - sum
    u  (n,)  trades, u = w - w0                   mu (n,) expected simple returns over the horizon
    S  (n,n) covariance over the horizon, S = F F' + diag(D), F (n,k), D (n,) >= 0
    g        risk tolerance (1 = full Kelly)      kappa  cost of trading one way, fraction of the amount traded
    ub (n,)  upper bounds from caps, frozen assets and drift (``strategies/limits.py``)
    B        budget, min(1 - min_cash, max_gross) tau    what is left of the turnover limit

    minimise    1/2 w'Sw - g mu'w + kappa |u|_1   [ + rho (B - sum(w))+  when fully invested ]
    subject to  0 <= w <= ub,  sum(w) <= B                            hard
                sum((u)+) <= tau                                      soft: only buys count, no reduction is limited

w = 0 satisfies every hard constraint, and min(w0, ub) the soft ones with them unless the budget shrank: the problem
is always feasible. The objective is divided by its largest coefficient, so one tolerance suits bars of a second and
of a day.
"""

from typing import TYPE_CHECKING, Protocol

import cvxpy as cp
import msgspec
import numpy as np

from strategies.inputs import fault_of
from strategies.limits import VERIFY_TOLERANCE as VERIFY
from strategies.limits import Limits, binding_names, hold, limits_of, project, violation
from strategies.params import OptimizerParams
from strategies.qp import SHORTFALL_PENALTY, FixedQP, Problem, Raw

if TYPE_CHECKING:
    from numpy.typing import NDArray

BPS = 1e-4
CLARABEL_SETTINGS = {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10, "max_iter": 200, "max_threads": 1}
"""Fixed tolerances and iteration limits, never seconds: equal inputs give equal weights on any day."""
DETAIL_CHARS_MAX = 200


class Solution(msgspec.Struct, frozen=True):
    """Verified target weights.

    ``weights`` (n,) satisfy every hard limit to 1e-9; ``status`` is the solver's word, ``rung`` the step of the ladder (warm,
    second, relaxed, hold); ``binding`` are names of limits that bind, ``shadow`` the prices of budget and turnover in
    objective per unit of weight; ``turnover`` is sum |w - w0|; ``objective`` the value reached; ``tried`` says why
    earlier rungs failed.
    """

    weights: "NDArray[np.float64]"
    status: str
    rung: str
    binding: tuple[str, ...]
    shadow: tuple[tuple[str, float], ...]
    turnover: float
    objective: float
    tried: tuple[str, ...]


class NoSolution(msgspec.Struct, frozen=True):
    """The inputs admit no problem: wrong shapes or numbers that are not finite."""

    reason: str


class _Rung(Protocol):
    def solve(self, problem: Problem) -> Raw: ...


class Definition:
    """The problem as cvxpy states it: the definition, the reference of the tests, and the second solver of the ladder.

    Compiled once (DPP): later instances only change parameters. With ``soft`` false, full investment and turnover are
    left out.
    """

    def __init__(self, n: int, k: int, *, fully_invested: bool, soft: bool = True) -> None:
        self.w = cp.Variable(n, name="w")
        u = cp.Variable(n, name="u")
        self.Ft = cp.Parameter((k, n), name="F'")
        self.root_D = cp.Parameter(n, nonneg=True, name="sqrt(D)")
        self.gmu = cp.Parameter(n, name="g mu")
        self.kappa = cp.Parameter(nonneg=True, name="kappa")
        self.w0 = cp.Parameter(n, nonneg=True, name="w0")
        self.ub = cp.Parameter(n, nonneg=True, name="ub")
        self.budget = cp.Parameter(nonneg=True, name="B")
        self.tau = cp.Parameter(nonneg=True, name="tau")
        risk = cp.sum_squares(self.Ft @ self.w) + cp.sum_squares(cp.multiply(self.root_D, self.w))
        objective = 0.5 * risk - self.gmu @ self.w + self.kappa * cp.norm1(u)
        self.budget_row = cp.sum(self.w) <= self.budget
        self.turnover_row = cp.sum(cp.pos(u)) <= self.tau
        constraints: list[cp.Constraint] = [u == self.w - self.w0, self.w >= 0, self.w <= self.ub, self.budget_row]
        if soft:
            constraints.append(self.turnover_row)
        self.shortfall_row: cp.Constraint | None = None
        if soft and fully_invested:
            shortfall = cp.Variable(nonneg=True, name="q")
            self.shortfall_row = shortfall >= self.budget - cp.sum(self.w)
            constraints.append(self.shortfall_row)
            objective = objective + SHORTFALL_PENALTY * shortfall
        self._soft = soft
        self.problem = cp.Problem(cp.Minimize(objective), constraints)

    def solve(self, problem: Problem) -> Raw:
        """Set the parameters and solve with Clarabel; raises whatever cvxpy raises."""
        self.Ft.value = problem.F.T
        self.root_D.value = np.sqrt(problem.D)
        self.gmu.value = problem.gmu
        self.kappa.value = problem.kappa
        self.w0.value = problem.w0
        self.ub.value = problem.ub
        self.budget.value = problem.budget
        self.tau.value = problem.tau
        self.problem.solve(solver=cp.CLARABEL, enforce_dpp=True, **CLARABEL_SETTINGS)
        status = str(self.problem.status)
        w = self.w.value
        if w is None:
            return Raw(w=np.full(problem.w0.size, np.nan), status=status, optimal=False, duals=(0.0, 0.0))
        budget_dual = _dual(self.budget_row) - (_dual(self.shortfall_row) if self.shortfall_row is not None else 0.0)
        turnover_dual = _dual(self.turnover_row) if self._soft else 0.0
        return Raw(
            w=np.array(w, dtype=np.float64),
            status=status,
            optimal=status == cp.OPTIMAL,
            duals=(budget_dual, turnover_dual),
        )


def _dual(constraint: cp.Constraint) -> float:
    """Return the multiplier of a scalar constraint, 0 where the solver gave none."""
    value = constraint.dual_value
    return 0.0 if value is None else float(np.asarray(value, dtype=np.float64).reshape(-1)[0])


class Optimiser:
    """Solves the problem for ``n`` assets again and again.

    Parameters
    ----------
    n : number of assets
    params : limits, tolerance and costs; fixed for the life of the object
    k : largest number of factors a call may bring; n when the covariance has full rank

    Raises
    ------
    ValueError
        When ``params.objective`` is not ``mean_variance``.
    """

    def __init__(self, n: int, params: OptimizerParams, k: int | None = None) -> None:
        if params.objective != "mean_variance":
            raise ValueError(f"optimizer.objective = {params.objective!r} is not known; mean_variance is")
        self._n, self._k, self._params = n, n if k is None else k, params
        full = params.fully_invested
        self._rungs: tuple[tuple[str, _Rung], ...] = (
            ("warm", FixedQP(n, self._k, fully_invested=full)),
            ("second", Definition(n, self._k, fully_invested=full)),
            ("relaxed", Definition(n, self._k, fully_invested=full, soft=False)),
        )
        nothing = np.zeros(n)
        first = Problem(
            F=np.zeros((n, self._k)), D=np.ones(n), gmu=nothing, kappa=1.0, w0=nothing, ub=nothing, budget=1.0, tau=1.0
        )
        for _, solver in self._rungs:  # compile now, not in the decision that needs the rung
            solver.solve(first)

    def solve(
        self,
        mean: "NDArray[np.float64]",
        F: "NDArray[np.float64]",
        D: "NDArray[np.float64]",
        *,
        w0: "NDArray[np.float64]",
        caps: "NDArray[np.float64]",
        frozen: "NDArray[np.bool_]",
        turnover_left: float,
        symbols: tuple[str, ...] = (),
    ) -> Solution | NoSolution:
        """Return verified weights; a solver that fails, lies or raises costs a rung, never a limit.

        Parameters
        ----------
        mean : array (n,), expected simple returns over the horizon
        F, D : arrays (n, k) and (n,), covariance over the horizon F F' + diag(D)
        w0 : array (n,), current weights, fractions of equity
        caps : array (n,), largest weight allowed for each; 0 means a target of 0
        frozen : array (n,) of bool, assets that must not grow
        turnover_left : largest sum of increases
        symbols : names used in ``binding``; positions when empty
        """
        fault = fault_of(self._n, mean, F, D, w0=w0, caps=caps, frozen=frozen, turnover_left=turnover_left, k=self._k)
        if fault:
            return NoSolution(fault)
        params = self._params
        limits = limits_of(params, w0=w0, caps=caps, frozen=frozen, turnover_left=turnover_left)
        names = symbols or tuple(str(i) for i in range(self._n))
        problem, scale = self._scaled(mean, F, D, limits)
        tried: list[str] = []
        for rung, solver in self._rungs:
            try:
                raw = solver.solve(problem)
            except Exception as error:  # noqa: BLE001 - cvxpy raises DCPError, ValueError, SolverError and more; each is a failed rung
                tried.append(f"{rung}: {type(error).__name__}: {error}"[:DETAIL_CHARS_MAX])
                continue
            excess = violation(raw.w, limits)
            if not raw.optimal or excess > VERIFY:
                tried.append(f"{rung}: {raw.status}, violation {excess:.1e}")
                continue
            duals = (("budget", raw.duals[0] / scale), ("turnover", raw.duals[1] / scale))
            shadow = tuple((name, price) for name, price in duals if abs(price) > VERIFY)
            return self._solution(
                project(raw.w, limits), limits, problem, scale,
                status=raw.status, rung=rung, names=names, shadow=shadow, tried=tuple(tried),
            )  # fmt: skip
        return self._solution(
            hold(limits), limits, problem, scale,
            status="failed", rung="hold", names=names, shadow=(), tried=tuple(tried),
        )  # fmt: skip

    def _scaled(
        self, mean: "NDArray[np.float64]", F: "NDArray[np.float64]", D: "NDArray[np.float64]", limits: Limits
    ) -> tuple[Problem, float]:
        """Return the instance divided by its largest coefficient, F padded to k columns, and the factor applied."""
        params = self._params
        kappa = params.cost_bps * BPS
        gmu = params.risk_tolerance * mean
        variance = np.einsum("ij,ij->i", F, F) + D
        largest = max(float(variance.max(initial=0.0)), float(np.abs(gmu).max(initial=0.0)), kappa)
        scale = 1.0 / largest if largest > 0.0 else 1.0
        padded = np.zeros((self._n, self._k))
        padded[:, : F.shape[1]] = F * np.sqrt(scale)
        return (
            Problem(
                F=padded,
                D=D * scale,
                gmu=gmu * scale,
                kappa=kappa * scale,
                w0=limits.w0,
                ub=limits.ub,
                budget=limits.budget,
                tau=min(limits.turnover_left, float(self._n)),
            ),
            scale,
        )

    def _solution(  # noqa: PLR0913 - assembles one result
        self,
        w: "NDArray[np.float64]",
        limits: Limits,
        problem: Problem,
        scale: float,
        *,
        status: str,
        rung: str,
        names: tuple[str, ...],
        shadow: tuple[tuple[str, float], ...],
        tried: tuple[str, ...],
    ) -> Solution:
        return Solution(
            weights=w,
            status=status,
            rung=rung,
            binding=binding_names(w, limits, names),
            shadow=shadow,
            turnover=float(np.abs(w - limits.w0).sum()),
            objective=objective_of(w, problem) / scale,
            tried=tried,
        )


def objective_of(w: "NDArray[np.float64]", problem: Problem) -> float:
    """Return 1/2 w'Sw - g mu'w + kappa |w - w0|_1 of the (scaled) problem, without the penalty of the soft terms."""
    exposure = problem.F.T @ w
    risk = 0.5 * (float(exposure @ exposure) + float(problem.D @ (w * w)))
    return risk - float(problem.gmu @ w) + problem.kappa * float(np.abs(w - problem.w0).sum())
