"""Historical conditional value at risk of a portfolio, and the scaling that keeps it within its limit."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVEL = 0.95
"""Confidence: the mean loss of the worst 5 % of days."""
DAYS_MIN = 20
"""Fewer usable days than one expected tail day say nothing about a tail."""


def historical_cvar(w: "NDArray[np.float64]", daily: "NDArray[np.float64]", level: float = LEVEL) -> float | None:
    """Return the one-day CVaR of weights ``w`` as a positive loss, fraction of equity; None with too few days.

    CVaR_a = min_v v + E[(L - v)+] / (1 - a) with L = -r'w (Rockafellar and Uryasev 2000, eq. 5). On a sample the
    minimum is the mean of the worst (1 - a) T losses, the last of them counted in part. Days on which a held asset
    has no return (NaN) are left out. A portfolio that gains even on its worst days has CVaR 0.

    Parameters
    ----------
    w : array (n_assets,), fractions of equity, >= 0
    daily : array (n_days, n_assets), simple daily returns
    level : confidence a in (0, 1)
    """
    held = w > 0.0
    if not bool(held.any()):
        return 0.0
    returns = np.ascontiguousarray(daily[:, held])
    finite = np.isfinite(returns)
    if not bool(finite.all()):
        returns = returns[finite.all(axis=1)]
    days = returns.shape[0]
    if days < DAYS_MIN:
        return None
    worst = np.sort(-(returns @ w[held]))[::-1]
    tail = (1.0 - level) * days
    whole = int(tail + 1e-9)
    total = float(worst[:whole].sum())
    if whole < days:
        total += (tail - whole) * float(worst[whole])
    return float(max(0.0, total / tail))


def scale_down(
    w: "NDArray[np.float64]", daily: "NDArray[np.float64]", limit: float
) -> tuple["NDArray[np.float64]", float | None]:
    """Scale all weights by one factor <= 1 until CVaR is within ``limit``; return them and the CVaR before scaling.

    CVaR is positively homogeneous, so the factor is limit / CVaR exactly. Only scaling down: the mix of the optimiser
    is kept and no weight grows, so every upper limit still holds. With too few days, or a limit of everything, the
    weights are unchanged and the CVaR is not told (None).
    """
    if limit >= 1.0 and float(w.sum()) <= 1.0:  # nobody loses more than everything: no need to know how much
        return w, None
    cvar = historical_cvar(w, daily)
    if cvar is None or cvar <= limit:
        return w, cvar
    return w * (limit / cvar), cvar
