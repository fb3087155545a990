"""Risk parity: every asset contributes the same share of the portfolio's variance, upper bounds aside.

    min  1/2 w'Sw - lambda sum_i b_i log w_i     subject to  w <= ub,   lambda such that sum(w) = reach

Spinu (2013) for the convex form: without bounds its stationarity condition w_i (Sw)_i = lambda b_i is that of equal (b_i = 1)
contributions. Richard and Roncalli (2019) for bounds: an asset at its bound contributes less, all others still the same. lambda
is the root of a continuous function, sum(w(lambda)) - reach, which is 0 - reach at 0 and sum(ub) - reach at infinity.

Each minimisation is Newton's method projected on the bounds (Bertsekas 1982): assets at their bound that want to grow are fixed,
the others take a Newton step, shortened until the function falls. Costs are not in the objective: contributions are no
money. Turnover and groups are enforced by the projection of the ladder.
"""

from typing import TYPE_CHECKING, Protocol

import numpy as np

from strategies.ladder import Answer
from strategies.objectives.case import Case, under_groups

if TYPE_CHECKING:
    from numpy.typing import NDArray

VARIANCE_FLOOR = 1e-10
"""Smallest variance relative to the mean one: an asset that never moved would otherwise take any weight for nothing."""
DEGENERATE = 1e-7
"""An eigenvalue below this share of the mean variance calls for the ridge."""
RIDGE = 1e-4
"""What is added to each variance then, as a share of the mean one."""
STEP_MAX = float(np.log(100.0))
"""Largest step of log lambda: a secant may overshoot far where bounds bind."""
START_MIN = 1e-12
"""Smallest first weight as a share of its bound: the logarithm needs a positive one."""
NEWTON_MAX = 200
HALVINGS_MAX = 60
ROUNDING = 1e-12
"""Rise of the function, relative, that is rounding and no reason to shorten a step: near the minimum Newton knows better."""
CONTRIBUTION_TOLERANCE = 1e-13
"""Largest error of a risk contribution, relative to lambda, at which the search ends."""
CONTRIBUTION_VERIFY = 1e-7
"""The same, still accepted where rounding allows no better."""
SWEEPS_MAX = 20_000
SWEEP_TOLERANCE = 1e-13
ROOT_STEPS_MAX = 100
ROOT_TOLERANCE = 1e-12
VERIFY_ROOT = 1e-9
"""Largest error of the sum of weights, relative, where lambda cannot be resolved any finer."""


class Minimum(Protocol):
    """Anything that finds the minimum for one lambda."""

    def __call__(
        self,
        S: "NDArray[np.float64]",
        power: float,
        ub: "NDArray[np.float64]",
        start: "NDArray[np.float64]",
        /,
    ) -> "NDArray[np.float64] | None":
        """Return the minimum (n,), or None without convergence."""
        ...


class RiskParity:
    """Equal risk contributions under upper bounds.

    Parameters
    ----------
    minimum : finds the minimum for one lambda: ``newton_minimum``, or the slower ``ccd_minimum`` that shares nothing with it
    """

    def __init__(self, minimum: "Minimum") -> None:
        self._minimum = minimum

    def solve(self, case: Case) -> Answer:
        """Return the weights; not optimal when a search did not converge."""
        held, budget = np.flatnonzero(case.region.limits.ub > 0.0), case.region.limits.budget
        S = conditioned(case.S[np.ix_(held, held)])

        def allocate(ub: "NDArray[np.float64]") -> "NDArray[np.float64] | None":
            bounded = np.flatnonzero(ub[held] > 0.0)  # a group limit of zero leaves fewer
            inner = S[np.ix_(bounded, bounded)]
            found = _within(inner, ub[held][bounded], budget, minimum=self._minimum)
            if found is None:
                return None
            w = np.zeros(case.n)
            w[held[bounded]] = found
            return w

        w = under_groups(case, allocate)
        if w is None:
            return Answer(w=np.zeros(case.n), status="no_convergence", optimal=False)
        return Answer(w=w, status="solved", optimal=True)


def _within(
    S: "NDArray[np.float64]", bound: "NDArray[np.float64]", budget: float, *, minimum: "Minimum"
) -> "NDArray[np.float64] | None":
    """Return risk parity (n,) of assets that may all be held, with sum min(budget, sum(bound)); None without convergence."""
    reach = min(budget, float(bound.sum()))
    if reach <= 0.0 or reach >= float(bound.sum()) * (1.0 - ROOT_TOLERANCE):
        return bound if reach > 0.0 else np.zeros(bound.size)
    start = 1.0 / np.sqrt(np.diag(S))
    start = np.minimum(start * (reach / float(start.sum())), bound)
    power = float(start @ S @ start) / bound.size  # lambda of a portfolio whose contributions are equal
    low, high = 0.0, np.inf
    before: tuple[float, float] | None = None
    for _ in range(ROOT_STEPS_MAX):
        found = minimum(S, power, bound, start)
        if found is None:
            return None
        total = float(found.sum())
        if abs(total - reach) <= ROOT_TOLERANCE * reach:
            return found
        low, high = (power, high) if total < reach else (low, power)
        if np.isfinite(high) and high - low <= 4e-16 * high:  # the root lies between neighbouring numbers
            return found if abs(total - reach) <= VERIFY_ROOT * reach else None
        here = (float(np.log(power)), float(np.log(total / reach)))
        power, before, start = _next(here, before, low, high), here, found
    return None


def _next(here: tuple[float, float], before: tuple[float, float] | None, low: float, high: float) -> float:
    """Return the next lambda, between ``low`` and ``high``: a secant in logarithms, else a bisection.

    Points are (log lambda, log(sum / reach)). Without bounds the sum grows with the root of lambda: the first slope is 1/2.
    """
    slope = 0.5
    if before is not None and here[0] != before[0]:
        slope = (here[1] - before[1]) / (here[0] - before[0])
    step = float(np.clip(-here[1] / slope, -STEP_MAX, STEP_MAX)) if slope > 0.0 else 0.0
    guess = float(np.exp(here[0] + step))
    if low < guess < high:
        return guess
    if not np.isfinite(high):
        return low * 4.0
    return float(np.sqrt(low) * np.sqrt(high)) if low > 0.0 else high * 0.25


def newton_minimum(
    S: "NDArray[np.float64]", power: float, ub: "NDArray[np.float64]", start: "NDArray[np.float64]"
) -> "NDArray[np.float64] | None":
    """Return the minimum of 1/2 w'Sw - lambda sum log w over 0 < w <= ub, or None without convergence.

    Parameters
    ----------
    S : array (n, n), positive semidefinite with a positive diagonal
    power : lambda > 0
    ub : array (n,) > 0
    start : array (n,), first weights > 0
    """
    Q = S / power  # the objective in units of lambda: one tolerance for all
    w = np.clip(start, START_MIN * ub, ub)

    def value(at: "NDArray[np.float64]") -> float:
        return 0.5 * float(at @ Q @ at) - float(np.log(at).sum())

    now, left = value(w), np.inf
    for _ in range(NEWTON_MAX):
        slope = Q @ w - 1.0 / w
        at = np.flatnonzero((w < ub) | (slope > 0.0))
        left = float(np.abs(w[at] * slope[at]).max(initial=0.0))
        if left <= CONTRIBUTION_TOLERANCE:
            return w
        H = Q[np.ix_(at, at)]
        H[np.diag_indices(at.size)] += 1.0 / (w[at] * w[at])
        step = -np.linalg.solve(H, slope[at])
        fall = float(np.max(-step / w[at]))
        length = min(1.0, 0.95 / fall) if fall > 0.0 else 1.0
        new, then = w.copy(), now
        for _ in range(HALVINGS_MAX):
            new[at] = np.minimum(w[at] + length * step, ub[at])
            then = value(new)
            if then <= now + 1e-4 * float(slope @ (new - w)) + ROUNDING * abs(now):
                break
            length *= 0.5
        w, now = new, then
    return w if left <= CONTRIBUTION_VERIFY else None


def ccd_minimum(
    S: "NDArray[np.float64]", power: float, ub: "NDArray[np.float64]", start: "NDArray[np.float64]"
) -> "NDArray[np.float64] | None":
    """Return the same minimum by cyclical coordinate descent (Griveau-Billion, Richard and Roncalli 2013).

    The minimum over one weight is the positive root of S_ii w^2 + c w - lambda = 0 with c what the others contribute to (Sw)_i,
    cut at the bound. See ``newton_minimum`` for the parameters.
    """
    w, variance = np.clip(start, START_MIN * ub, ub), np.diag(S)
    for _ in range(SWEEPS_MAX):
        before = w.copy()
        for i in range(w.size):
            s = float(variance[i])
            c = float(S[i] @ w) - s * float(w[i])
            root = float(np.hypot(c, 2.0 * np.sqrt(s * power)))
            w[i] = min(2.0 * power / (c + root) if c > 0.0 else (root - c) / (2.0 * s), float(ub[i]))
        if float(np.max(np.abs(w - before) / w, initial=0.0)) <= SWEEP_TOLERANCE:
            return w
    return None


def conditioned(S: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return S with no variance below ``VARIANCE_FLOOR`` of the mean, and a ridge where it is degenerate; the identity for zeros.

    A singular S may know portfolios without risk. They have no size: lambda would go to zero before the sum is reached.
    """
    variances = np.diag(S)
    mean = float(variances.mean()) if variances.size else 0.0
    if not mean > 0.0:
        return np.eye(S.shape[0])
    fixed, places = S.copy(), np.diag_indices(S.shape[0])
    fixed[places] = np.maximum(variances, VARIANCE_FLOOR * mean)
    try:
        np.linalg.cholesky(S - DEGENERATE * mean * np.eye(S.shape[0]))
    except np.linalg.LinAlgError:
        fixed[places] += RIDGE * mean
    return fixed


def contributions(w: "NDArray[np.float64]", S: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return each asset's share of the variance w_i (Sw)_i / w'Sw (n_assets,), zeros where there is none."""
    parts = w * (S @ w)
    total = float(parts.sum())
    return parts / total if total > 0.0 else np.zeros(w.size)
