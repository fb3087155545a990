"""The optimiser's hot path: the problem of ``strategies/optimise.py`` as one sparse quadratic program for PIQP.

The pattern of every matrix is fixed at construction, so a solve only writes numbers into place and re-factorises:
0.05 ms at 10 assets, where cvxpy's own way through the same problem takes 1 ms. The definition stays with cvxpy, and
a test holds the two together.

Variables x = (w, b, s, y, q): weights, buys, sells (w = w0 + b - s; b, s >= 0), factor exposures y = F'w (only when k
< n / 2), and the shortfall q >= B - sum(w) (only when full investment is wanted). |w - w0| = b + s at the optimum,
because a cost is paid on both.
"""

from typing import TYPE_CHECKING, Protocol, cast

import msgspec
import numpy as np
import piqp
from scipy import sparse

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOLERANCE = 1e-10
"""Absolute and relative accuracy asked of the solver, on a problem whose largest coefficient is scaled to 1."""
ITERATIONS_MAX = 200
"""Never seconds: a limit in time would make the answer depend on the machine."""
SHORTFALL_PENALTY = 10.0
"""Price of one unit of weight not invested, in scaled units, where no marginal cost or risk exceeds about 3: an exact
penalty."""


class Problem(msgspec.Struct, frozen=True):
    """One instance in numbers: see the symbols of ``strategies/optimise.py``. Already scaled: largest coefficient 1."""

    F: "NDArray[np.float64]"
    D: "NDArray[np.float64]"
    gmu: "NDArray[np.float64]"
    kappa: float
    w0: "NDArray[np.float64]"
    ub: "NDArray[np.float64]"
    budget: float
    tau: float


class Raw(msgspec.Struct, frozen=True):
    """A solver's own answer, unverified: weights, its word, whether it says optimal, duals of budget and turnover.

    With full investment the budget's dual is net of the shortfall's: negative where being invested costs.
    """

    w: "NDArray[np.float64]"
    status: str
    optimal: bool
    duals: tuple[float, float]


class _Info(Protocol):
    iter: int


class _Result(Protocol):
    x: "NDArray[np.float64]"
    z_l: "NDArray[np.float64]"
    z_u: "NDArray[np.float64]"
    info: _Info


class FixedQP:
    """The quadratic program with its pattern compiled once for ``n`` assets and ``k`` factors.

    Parameters
    ----------
    n : number of assets
    k : number of factors (columns of F)
    fully_invested : whether a shortfall against the budget is penalised
    """

    def __init__(self, n: int, k: int, *, fully_invested: bool) -> None:
        self._n, self._k, self._full = n, k, fully_invested
        self._factored = 2 * k < n
        ny = k if self._factored else 0
        nq = 1 if fully_invested else 0
        nv = 3 * n + ny + nq
        self._nv, self._y0 = nv, 3 * n
        rows, columns = np.triu_indices(n)
        by_column = np.lexsort((rows, columns))
        self._upper = (rows[by_column], columns[by_column])
        self._flat = self._upper[0] * n + self._upper[1]
        self._P = self._quadratic_pattern(ny)
        self._A = self._equality_pattern(ny)
        self._b = np.zeros(n + ny)
        G = sparse.lil_matrix((2 + nq, nv))
        G[0, :n] = 1.0  # sum(w) <= B
        G[1, n : 2 * n] = 1.0  # sum(b) <= tau
        if fully_invested:
            G[2, :n] = 1.0  # sum(w) + q >= B
            G[2, nv - 1] = 1.0
        self._G = sparse.csc_matrix(G)
        self._h_l = np.full(2 + nq, -np.inf)
        self._h_u = np.full(2 + nq, np.inf)
        self._c = np.zeros(nv)
        if fully_invested:
            self._c[-1] = SHORTFALL_PENALTY
        self._x_l = np.zeros(nv)
        self._x_l[3 * n : 3 * n + ny] = -np.inf
        self._x_u = np.full(nv, np.inf)
        self._solver: piqp.SparseSolver | None = None

    def _quadratic_pattern(self, ny: int) -> sparse.csc_matrix:
        """Return P (upper triangle): the full covariance on w, or its diagonal on w and the identity on y."""
        n, nv = self._n, self._nv
        if self._factored:
            at = np.concatenate([np.arange(n), np.arange(3 * n, 3 * n + ny)])
            return sparse.csc_matrix((np.ones(n + ny), (at, at)), shape=(nv, nv))
        return sparse.csc_matrix((np.ones(self._upper[0].size), self._upper), shape=(nv, nv))

    def _equality_pattern(self, ny: int) -> sparse.csc_matrix:
        """Return A of w - b + s = w0 and, in factor form, F'w - y = 0; F' stands below the identity in each column."""
        n, nv = self._n, self._nv
        eye = sparse.identity(n, format="csc")
        accounts = sparse.hstack([eye, -eye, eye, sparse.csc_matrix((n, nv - 3 * n))], format="csc")
        if not self._factored:
            return sparse.csc_matrix(accounts)
        exposures = sparse.hstack(
            [
                sparse.csc_matrix(np.ones((ny, n))),
                sparse.csc_matrix((ny, 2 * n)),
                -sparse.identity(ny, format="csc"),
                sparse.csc_matrix((ny, nv - 3 * n - ny)),
            ],
            format="csc",
        )
        return sparse.csc_matrix(sparse.vstack([accounts, exposures], format="csc"))

    def _fill(self, problem: Problem) -> None:
        """Write the numbers of ``problem`` into the fixed patterns."""
        n, k = self._n, self._k
        if self._factored:
            self._P.data[:n] = problem.D
            block = self._A.data[: n * (1 + k)].reshape(n, 1 + k)
            block[:, 1:] = problem.F
        else:
            S = problem.F @ problem.F.T
            S.flat[:: n + 1] += problem.D
            S.take(self._flat, out=self._P.data)
        self._b[:n] = problem.w0
        self._c[:n] = -problem.gmu
        self._c[n : 3 * n] = problem.kappa
        self._x_u[:n] = problem.ub
        self._h_u[0] = problem.budget
        self._h_u[1] = problem.tau
        if self._full:
            self._h_l[2] = problem.budget

    def solve(self, problem: Problem) -> Raw:
        """Solve one instance; raises whatever PIQP raises (the ladder of the optimiser catches it)."""
        self._fill(problem)
        data = (
            self._P, self._c, self._A, self._b, self._G, self._h_l, self._h_u, self._x_l, self._x_u,
        )  # fmt: skip
        if self._solver is None:
            self._solver = new_solver(condensed=not self._factored)
            self._solver.setup(*data)
        else:
            self._solver.update(*data)
        status = self._solver.solve()
        result = cast("_Result", self._solver.result)
        word = str(getattr(status, "name", status)).removeprefix("PIQP_").lower()
        return Raw(
            w=np.array(result.x[: self._n], dtype=np.float64),
            status=word,
            optimal=word == "solved",
            duals=(float(result.z_u[0] - (result.z_l[2] if self._full else 0.0)), float(result.z_u[1])),
        )


def new_solver(*, condensed: bool, iterations: int = ITERATIONS_MAX) -> piqp.SparseSolver:
    """Return a PIQP solver with settings that depend on nothing but the pattern.

    ``condensed`` eliminates the equations w - b + s = w0 before factorising: a quarter faster at 100 assets with a dense
    covariance; in factor form that would fill the matrix.
    """
    solver = piqp.SparseSolver()
    settings = solver.settings
    settings.kkt_solver = piqp.sparse_ldlt_eq_cond if condensed else piqp.sparse_ldlt
    settings.eps_abs = TOLERANCE
    settings.eps_rel = TOLERANCE
    settings.check_duality_gap = True
    settings.eps_duality_gap_abs = TOLERANCE
    settings.eps_duality_gap_rel = TOLERANCE
    settings.max_iter = iterations
    settings.compute_timings = False
    settings.verbose = False
    return solver
