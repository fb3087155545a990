"""Limits on weights, kept outside the solver: bounds, verification and projection.

Everything that proposes weights passes here, the optimiser's own solution and a user strategy's alike, so a limit
holds whatever a solver claims.
"""

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from strategies.params import OptimizerParams

if TYPE_CHECKING:
    from numpy.typing import NDArray

VERIFY_TOLERANCE = 1e-6
"""Largest violation, in weight, that a solver's answer may show before it is thrown away."""
SNAP_TOLERANCE = 1e-7
"""A weight closer than this to zero is zero, and to the current one the current one: no dust is held or traded."""


class Limits(msgspec.Struct, frozen=True):
    """Hard limits of one decision, derived from the portfolio as it stands.

    ``w0`` (n_assets,) are current weights >= 0, ``ub`` (n_assets,) the largest weight allowed, ``budget`` the largest
    sum of weights, ``turnover_left`` the largest sum of increases. ``w = min(w0, ub)`` scaled to the budget is always
    feasible.
    """

    w0: "NDArray[np.float64]"
    ub: "NDArray[np.float64]"
    budget: float
    turnover_left: float


def limits_of(
    params: OptimizerParams,
    *,
    w0: "NDArray[np.float64]",
    caps: "NDArray[np.float64]",
    frozen: "NDArray[np.bool_]",
    turnover_left: float,
) -> Limits:
    """Derive bounds: a frozen asset or one above its cap may stay or fall, never grow; a cap of 0 means a target of 0.

    Parameters
    ----------
    params : the configured limits: largest weight, budget, turnover per decision
    w0, caps : arrays (n_assets,), fractions of equity
    frozen : array (n_assets,) of bool
    turnover_left : largest sum of increases today, fraction of equity
    """
    w0 = np.maximum(w0, 0.0)
    ub = np.where(frozen, w0, np.maximum(w0, np.minimum(caps, params.max_weight)))
    ub = np.where(caps <= 0.0, 0.0, ub)
    tau = min(max(turnover_left, 0.0), params.turnover_max)
    return Limits(w0=w0, ub=ub, budget=params.budget, turnover_left=tau)


def violation(w: "NDArray[np.float64]", limits: Limits) -> float:
    """Return the largest violation of a hard limit in weight; infinite when ``w`` is not finite or misshapen."""
    if w.shape != limits.ub.shape or not bool(np.isfinite(w).all()):
        return float("inf")
    if w.size == 0:
        return 0.0
    return max(0.0, -float(w.min()), float((w - limits.ub).max()), float(w.sum()) - limits.budget)


def project(w: "NDArray[np.float64]", limits: Limits) -> "NDArray[np.float64]":
    """Return the weights brought inside every limit: clipped, snapped, scaled to budget and turnover.

    Each step keeps what the one before it established, since all of them only lower weights or move them back to a
    current weight that the bounds allow. Violations of the result are at most rounding (1e-15 each).
    """
    w = np.clip(w, 0.0, limits.ub)
    w = np.where(w <= SNAP_TOLERANCE, 0.0, w)
    w = np.where((np.abs(w - limits.w0) <= SNAP_TOLERANCE) & (limits.w0 <= limits.ub), limits.w0, w)
    total = float(w.sum())
    if total > limits.budget:
        w = w * (limits.budget / total)
    buys = np.maximum(w - limits.w0, 0.0)
    bought = float(buys.sum())
    if bought > limits.turnover_left:
        w = np.where(buys > 0.0, limits.w0 + buys * (limits.turnover_left / bought), w)
    return w


def hold(limits: Limits) -> "NDArray[np.float64]":
    """Return the current weights brought inside the limits: the last rung of every ladder."""
    return project(limits.w0, limits)


def binding_names(w: "NDArray[np.float64]", limits: Limits, symbols: tuple[str, ...]) -> tuple[str, ...]:
    """Name the limits that bind: ``budget``, ``turnover``, ``cap:<symbol>``, ``held:<symbol>``.

    ``held`` is said of an asset at its current weight that the limits forbid to grow; ``cap`` of one at its cap.
    """
    names: list[str] = []
    if float(w.sum()) >= limits.budget - VERIFY_TOLERANCE:
        names.append("budget")
    bought = float(np.maximum(w - limits.w0, 0.0).sum())
    if bought > 0.0 and bought >= limits.turnover_left - VERIFY_TOLERANCE:
        names.append("turnover")
    for i in np.flatnonzero(w >= limits.ub - VERIFY_TOLERANCE):
        at = int(i)
        if limits.ub[at] <= 0.0 < limits.w0[at] or limits.ub[at] > limits.w0[at]:
            names.append(f"cap:{symbols[at]}")
        elif limits.w0[at] > 0.0:
            names.append(f"held:{symbols[at]}")
    return tuple(names)
