"""The arithmetic of shocks, shared by the report of a backtest and by `ballast stress`.

A shock strikes at once and on the weights as they are: no stop, no cut, no cost. Weights are fractions of equity, moves simple
returns (-0.2 is a fall of a fifth), changes fractions of equity, negative for a loss.
"""

from typing import Final

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from risk.portfolio import deviation_of

DROPS: Final = (-0.10, -0.20, -0.40)
"""Every asset at once, simple returns."""
LEADER: Final = "BTC"
LEADER_DROP: Final = -0.30
SIGMAS: Final = 3.0
"""Size of the shocks that are told in standard deviations of a day."""

Floats = NDArray[float64]


def flat(weights: Floats, drop: float) -> float:
    """Return the change when every asset makes the same move."""
    return float(weights.sum()) * drop


def change(weights: Floats, moves: Floats) -> float:
    """Return the portfolio's change; a pair that is not held needs no known move."""
    return float(np.where(weights == 0.0, 0.0, weights * moves).sum())


def wild_day(weights: Floats, covariance: Floats) -> float:
    """Return the change in a day of `SIGMAS` standard deviations, correlations as measured; NaN where a held one is unknown."""
    return -SIGMAS * deviation_of(weights, covariance)


def signed(move: float) -> str:
    """Return a move as text, ``−20 %``."""
    return f"{'−' if move < 0.0 else '+'}{abs(move):.0%}".replace("%", " %")
