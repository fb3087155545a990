"""A quadratic program of fixed pattern for PIQP, with the rows of the region already in it.

Every matrix gets its pattern at construction; a solve only writes numbers into place and re-factorises. Variables

    x = (w, b, s, [q], extra...)    w = w0 + b - s;  b, s >= 0 buys and sells;  q >= A - sum(w) shortfall against the aim A

Rows of G: budget, turnover, one a group, [shortfall], extra. An objective adds its own blocks, then calls ``compile``.
"""

from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

import msgspec
import numpy as np
import piqp
from scipy import sparse

from strategies.objectives.case import Groups, Region
from strategies.qp import new_solver

if TYPE_CHECKING:
    from numpy.typing import NDArray

Slots: TypeAlias = "slice[int, int, None]"
"""Where the numbers of a block lie."""
ITERATIONS_MAX = 250
"""Never seconds: a limit in time would make the answer depend on the machine."""
SHORTFALL_PENALTY = 10.0
"""Price of one unit of weight not invested, in scaled units, where no marginal cost or risk exceeds about 3: exact."""

SHORTFALL_MIN = 1e-7
"""A smaller shortfall is the solver's tolerance."""


class Pattern:
    """A sparse matrix whose non-zero places are fixed and whose numbers are written block by block."""

    def __init__(self, rows: int, columns: int) -> None:
        self._shape = (rows, columns)
        self._rows: list[NDArray[np.intp]] = []
        self._columns: list[NDArray[np.intp]] = []
        self._values: list[NDArray[np.float64]] = []
        self._size = 0
        self._order: NDArray[np.intp] | None = None
        self.values: NDArray[np.float64] = np.zeros(0)
        self.matrix: sparse.csc_matrix | None = None

    def block(self, rows: "NDArray[np.intp] | int", columns: "NDArray[np.intp] | int", values: float = 1.0) -> Slots:
        """Add places (broadcast against each other) with a first value; return where their numbers lie in ``values``."""
        at_rows, at_columns = np.broadcast_arrays(rows, columns)
        self._rows.append(at_rows.ravel().astype(np.intp))
        self._columns.append(at_columns.ravel().astype(np.intp))
        self._values.append(np.full(at_rows.size, values))
        where = slice(self._size, self._size + at_rows.size)
        self._size = where.stop
        return where

    def freeze(self) -> None:
        """Build the matrix; the slots are numbered from 1 so that none is dropped as a zero."""
        none = [np.zeros(0, dtype=np.intp)]
        places = (np.concatenate(self._rows or none), np.concatenate(self._columns or none))
        numbered = sparse.csc_matrix((np.arange(1.0, self._size + 1.0), places), shape=self._shape)
        numbered.sort_indices()
        self._order = numbered.data.astype(np.intp) - 1
        self.values = np.concatenate(self._values) if self._values else np.zeros(0)
        self.matrix = numbered

    def current(self) -> sparse.csc_matrix:
        """Return the matrix with the numbers of ``values``."""
        if self.matrix is None or self._order is None:
            raise RuntimeError("the pattern is not frozen: call compile() first")
        self.matrix.data[:] = self.values[self._order]
        return self.matrix


class _Result(Protocol):
    x: "NDArray[np.float64]"
    z_l: "NDArray[np.float64]"
    z_u: "NDArray[np.float64]"


class Outcome(msgspec.Struct, frozen=True):
    """What the solver said: its word, whether it means optimal, x, and the multipliers of G's rows (upper, lower)."""

    status: str
    optimal: bool
    x: "NDArray[np.float64]"
    z_u: "NDArray[np.float64]"
    z_l: "NDArray[np.float64]"


class Program:
    """The program of ``n`` assets with room for an objective's own columns and rows.

    Parameters
    ----------
    n : number of assets
    groups : the split into groups; fixed
    invest : whether a shortfall against the aim is penalised
    columns, rows : how many the objective adds to x and to G
    condensed : whether PIQP eliminates the equations first: faster, but less stable where they hold more than w, b, s
    fresh : whether each solve sets the solver up anew. PIQP updates A to rounding only, so where A holds numbers of the case
        the last bits of an answer would depend on what was solved before
    """

    def __init__(
        self,
        n: int,
        groups: Groups,
        *,
        invest: bool,
        columns: int = 0,
        rows: int = 0,
        condensed: bool = True,
        fresh: bool = False,
    ) -> None:
        self._condensed, self._fresh = condensed, fresh
        self.n, self.groups, self.invest = n, groups, invest
        m = len(groups.names)
        self.extra = 3 * n + int(invest)
        self.extra_row = 2 + m + int(invest)
        nv, self._rows = self.extra + columns, self.extra_row + rows
        at = np.arange(n)
        self.P, self.A, self.G = Pattern(nv, nv), Pattern(n, nv), Pattern(self._rows, nv)
        for start, sign in ((0, 1.0), (n, -1.0), (2 * n, 1.0)):
            self.A.block(at, at + start, sign)  # w - b + s = w0
        self.G.block(0, at)
        self.G.block(1, at + n)
        for group in range(m):
            self.G.block(2 + group, groups.members(group))
        if invest:
            self.G.block(2 + m, at)
            self.G.block(2 + m, 3 * n)
        self.c, self.b = np.zeros(nv), np.zeros(n)
        self.h_l, self.h_u = np.full(self._rows, -np.inf), np.full(self._rows, np.inf)
        self.x_l, self.x_u = np.zeros(nv), np.full(nv, np.inf)
        self._solver: piqp.SparseSolver | None = None

    def quadratic(self) -> "tuple[Slots, tuple[NDArray[np.intp], NDArray[np.intp]]]":
        """Add a dense quadratic form on w (upper triangle); return its slots and the places of S to write there."""
        rows, columns = np.triu_indices(self.n)
        return self.P.block(rows, columns), (rows, columns)

    def compile(self) -> None:
        """Freeze the patterns; no block may be added after."""
        for pattern in (self.P, self.A, self.G):
            pattern.freeze()

    def write_region(self, region: Region, *, kappa: float, aim: float) -> None:
        """Write the limits of one decision, and the scaled cost of trading, into place."""
        n, limits = self.n, region.limits
        self.b[:] = limits.w0
        self.c[n : 3 * n] = kappa
        self.x_u[:n] = limits.ub
        self.h_u[0] = limits.budget
        self.h_u[1] = min(limits.turnover_left, float(n))
        self.h_u[2 : 2 + region.group_caps.size] = region.group_caps
        if self.invest:
            self.c[3 * n] = SHORTFALL_PENALTY
            self.h_l[self.extra_row - 1] = aim

    def run(self) -> Outcome:
        """Solve with the numbers as they stand; raises whatever PIQP raises.

        A factorisation that breaks down is followed by one try with the other way of factorising, from a fresh solver: what a
        failed solve leaves behind must not reach the next.
        """
        data = (
            self.P.current(), self.c, self.A.current(), self.b,
            self.G.current(), self.h_l, self.h_u, self.x_l, self.x_u,
        )  # fmt: skip
        if self._solver is None or self._fresh:
            self._solver = new_solver(condensed=self._condensed, iterations=ITERATIONS_MAX)
            self._solver.setup(*data)
        else:
            self._solver.update(*data)
        outcome = _outcome(self._solver)
        if outcome.optimal:
            return outcome
        self._solver = None
        other = new_solver(condensed=not self._condensed, iterations=ITERATIONS_MAX)
        other.setup(*data)
        return _outcome(other)

    def prices(self, outcome: Outcome) -> tuple[float, float, tuple[float, ...]]:
        """Return the multipliers of budget (net of the shortfall's), turnover and groups, in the program's own units.

        Where the aim is out of reach, what keeps from it (turnover, or else the groups) has the penalty in its multiplier. That
        is a wish, not a gain of the objective, and is taken out; the budget then does not bind.
        """
        budget, turnover = float(outcome.z_u[0]), float(outcome.z_u[1])
        groups = [float(one) for one in outcome.z_u[2 : 2 + len(self.groups.names)]]
        if not self.invest:
            return budget, turnover, tuple(groups)
        if float(outcome.x[3 * self.n]) <= SHORTFALL_MIN:
            return budget - float(outcome.z_l[self.extra_row - 1]), turnover, tuple(groups)
        if turnover > 0.5 * SHORTFALL_PENALTY:
            return 0.0, turnover - SHORTFALL_PENALTY, tuple(groups)
        return 0.0, turnover, tuple(one - SHORTFALL_PENALTY * (one > 0.5 * SHORTFALL_PENALTY) for one in groups)


def _outcome(solver: piqp.SparseSolver) -> Outcome:
    """Solve, and copy the result out of the solver."""
    status = solver.solve()
    result = cast("_Result", solver.result)
    word = str(getattr(status, "name", status)).removeprefix("PIQP_").lower()
    return Outcome(
        status=word,
        optimal=word == "solved",
        x=np.array(result.x, dtype=np.float64),
        z_u=np.array(result.z_u, dtype=np.float64),
        z_l=np.array(result.z_l, dtype=np.float64),
    )
