"""What the optimisers check of a decision's numbers before they use them."""

from math import isnan
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

COEFFICIENT_MAX = 1e100
"""Inputs larger than this are refused: their squares leave float64."""


def fault_of(  # noqa: PLR0913 - one instance
    n: int,
    mean: "NDArray[np.float64]",
    F: "NDArray[np.float64]",
    D: "NDArray[np.float64]",
    *,
    w0: "NDArray[np.float64]",
    caps: "NDArray[np.float64]",
    frozen: "NDArray[np.bool_]",
    turnover_left: float,
    k: int | None = None,
) -> str:
    """Return what is wrong with the inputs of a decision about ``n`` assets in one line, or ""; ``k`` factors at most."""
    for name, array in (("mean", mean), ("D", D), ("w0", w0), ("caps", caps), ("frozen", frozen)):
        if array.shape != (n,):
            return f"{name} has shape {array.shape}, expected ({n},)"
    if F.ndim != 2 or F.shape[0] != n or (k is not None and F.shape[1] > k):
        return f"F has shape {F.shape}, expected ({n}, {'factors' if k is None else f'at most {k}'})"
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.vdot(F, F) + mean @ mean + D @ D + w0 @ w0
    if not squares <= COEFFICIENT_MAX**2:  # NaN, infinite or absurd: only then it is worth finding out which
        for name, array in (("mean", mean), ("F", F), ("D", D), ("w0", w0)):
            if not bool(np.all(np.abs(array) <= COEFFICIENT_MAX)):
                return f"{name} is not finite"
    if isnan(float(caps.min(initial=0.0))) or isnan(turnover_left):  # the smallest carries NaN on
        return "caps or turnover_left is not a number"
    return "D has negative entries" if bool(D.min(initial=0.0) < 0.0) else ""
