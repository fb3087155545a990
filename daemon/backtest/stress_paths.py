"""Shocks that follow from the returns themselves: factors, wilder tails, and paths drawn in blocks."""

from typing import Final, NamedTuple

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from daemon.backtest.stats.bootstrap import Paths, paths
from daemon.backtest.stress_market import Estimates
from daemon.backtest.stress_shocks import SIGMAS
from risk.portfolio import TINY, Tail, deviation_of, historical_tail, normal_tail

COMPONENTS: Final = 3
"""Principal components that are shocked."""
VOLATILITIES: Final = (2.0, 3.0)
"""Multiples of the volatility."""

Floats = NDArray[float64]


class Factor(NamedTuple):
    """A shock along a factor: its name, and the moves (n,) of all pairs, simple returns."""

    name: str
    moves: Floats


class Wild(NamedTuple):
    """One day's tail under a supposition: deviation, VaR and CVaR of a normal distribution, and of the days as they were."""

    name: str
    deviation: float
    normal: Tail
    historical: Tail | None


def factors(known: Estimates, held: NDArray[np.bool_], *, leader: int, name: str) -> tuple[Factor, ...]:
    """Return shocks of `SIGMAS` deviations of a day along what moves the held pairs, in the direction that falls.

    - The first principal components of their daily covariance (Jolliffe, Principal Component Analysis, 2002, section 1.1); of
      the two directions that in which the loadings add up to a fall.
    - The other coins against the leader (``name``): the mean of them less their beta times the leader, each moving by its slope
      on that residual, the leader still.
    """
    n = len(held)
    found: list[Factor] = []
    places = np.flatnonzero(held)
    if len(places) > 1:
        values, vectors = np.linalg.eigh(known.covariance[np.ix_(places, places)])
        total = float(np.maximum(values, 0.0).sum())
        for at in range(1, min(COMPONENTS, len(places)) + 1):
            value, vector = float(values[-at]), vectors[:, -at]
            if not (total > TINY and value > TINY):
                break
            lead = vector[np.argmax(np.abs(vector))] if abs(float(vector.sum())) < 1e-9 else vector.sum()
            moves = np.zeros(n)
            moves[places] = -SIGMAS * np.sqrt(value) * vector * np.sign(lead)
            found.append(Factor(f"Principal component {at}, {value / total:.0%} of the variance", moves))
    others = held.copy()
    others[leader] = False
    if others.any():
        rest = known.rows[:, others] - known.rows[:, [leader]] * known.beta[others]
        common = rest.mean(axis=1)
        variance = float(np.var(common, ddof=1))
        if variance > TINY:
            slopes = ((rest - rest.mean(axis=0)) * (common - common.mean())[:, None]).sum(axis=0) / (
                variance * (len(common) - 1)
            )
            moves = np.zeros(n)
            moves[others] = -SIGMAS * np.sqrt(variance) * slopes
            found.append(Factor(f"The others against {name}, which stands still", moves))
    return tuple(found)


def wild(known: Estimates, weights: Floats) -> tuple[Wild, ...]:
    """Return one day's tails as measured, with more volatility, with every correlation at one, and with both.

    With correlations at one the days are comonotonic: each pair's k-th worst return falls on one day, so losses at the tail add
    up (Dhaene et al., The concept of comonotonicity in actuarial science and finance, Insurance: Math. & Economics 31, 2002).
    """
    measured = known.rows @ weights
    together = np.sort(known.rows, axis=0) @ weights
    spread = float(np.sqrt(np.maximum(np.diag(known.covariance), 0.0)) @ weights)
    deviation = deviation_of(weights, known.covariance)
    cases = [("As measured", measured, deviation, 1.0)]
    cases += [(f"Volatility ×{times:g}", measured, deviation, times) for times in VOLATILITIES]
    cases += [("Every correlation at one", together, spread, 1.0)]
    cases += [(f"Correlation at one, volatility ×{VOLATILITIES[0]:g}", together, spread, VOLATILITIES[0])]
    return tuple(
        Wild(
            name,
            times * size,
            normal_tail(times * size),
            historical_tail(returns.mean() + times * (returns - returns.mean())),
        )
        for name, returns, size, times in cases
    )


def drawn_paths(known: Estimates, weights: Floats, *, days: int, count: int, seed: int) -> Paths:
    """Return ``count`` paths of ``days`` days of the portfolio, its weights restored daily, days drawn in blocks."""
    returns = np.maximum(known.rows @ weights, -1.0)
    return paths(returns, np.random.default_rng(seed), count=count, days=days)
