"""Risk models beside ``strategies/covariance.py``: factor models, a repair that says how much it changed, scenarios.

All take simple returns *per bar*, oldest first, and give the covariance in factor form S = F F' + diag(D), which the
optimisers take as it is. Sample, EWMA and Ledoit-Wolf estimates come from ``strategies/covariance.py``.
"""

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from strategies.covariance import EIGEN_FLOOR, RETURNS_MIN, NoCovariance, estimate_factors, repair, sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

METHODS = ("sample", "ewma", "ledoit_wolf", "factor", "one_factor", "k_factor")
CHANGE_MAX = 0.05
"""Largest change by a repair, in spectral norm relative to the mean variance. Rounding and too few returns move a matrix by far
less; one that needs more is not an estimate but wrong data."""
ROUNDING = 1e-14
"""Rounding of an eigenvalue relative to the mean variance, per asset."""
FACTOR_STEPS_MAX = 200
FACTOR_TOLERANCE = 1e-10
"""Largest change of a specific variance between two steps, relative to the mean variance, that ends the iteration."""
SPECIFIC_MIN = 0.005
"""Smallest specific variance as a share of the variance: a Heywood case would say that an asset has no noise of its own."""
SCENARIOS_MAX = 500
"""Scenarios kept: windows of the horizon spread evenly over the history."""
RETURN_MIN = -0.99
"""No scenario loses more: shifting the mean must not make a loss larger than everything."""


class Repaired(msgspec.Struct, frozen=True):
    """A positive definite matrix and what it took.

    ``change`` is |matrix - symmetric part|_2 / mean variance, at most ``bound``, what the lowest eigenvalue lacks to the floor
    (and rounding); ``asymmetry`` is |S - S'|_2 / 2 relative to the same.
    """

    matrix: "NDArray[np.float64]"
    change: float
    bound: float
    asymmetry: float


def repair_bounded(covariance: "NDArray[np.float64]", *, change_max: float = CHANGE_MAX) -> "Repaired | NoCovariance":
    """Return the repaired matrix with the size of the change, or refuse one that would change too much (F63).

    Clipping eigenvalues gives the nearest matrix whose eigenvalues are at least the floor, in the Frobenius and in the spectral
    norm (Higham 1988, "Computing a nearest symmetric positive semidefinite matrix"); the spectral distance is exactly what
    the lowest eigenvalue lacks.

    Parameters
    ----------
    covariance : array (n, n)
    change_max : largest change, spectral norm over mean variance
    """
    fixed = repair(covariance)
    if isinstance(fixed, NoCovariance):
        return fixed
    half = 0.5 * (covariance + covariance.T)
    n = half.shape[0]
    mean_variance = float(np.trace(half)) / n if n else 0.0
    if mean_variance <= 0.0:
        return Repaired(matrix=fixed, change=0.0, bound=0.0, asymmetry=0.0)
    change = _spectral((fixed - half) / mean_variance)
    asymmetry = float(np.linalg.norm((covariance - covariance.T) / (2.0 * mean_variance), 2))
    lowest = float(np.linalg.eigvalsh(half / mean_variance)[0])
    bound = max(0.0, EIGEN_FLOOR - lowest) + ROUNDING * n
    if max(change, asymmetry) > change_max:
        return NoCovariance(
            f"covariance needs a change of {max(change, asymmetry):.2g} of the mean variance to be one, "
            f"at most {change_max:g} is repaired"
        )
    return Repaired(matrix=fixed, change=change, bound=bound, asymmetry=asymmetry)


def _spectral(symmetric: "NDArray[np.float64]") -> float:
    """Return the spectral norm of a symmetric matrix."""
    return float(np.abs(np.linalg.eigvalsh(symmetric)).max(initial=0.0))


def one_factor(
    returns: "NDArray[np.float64]", market: "NDArray[np.float64] | None" = None
) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """Return F (n, 1) and D (n,) of the single-index model r_i = a_i + b_i m + e_i (Sharpe 1963).

    F = b sd(m) with b by least squares, D the variance of what is left; all with divisor T. A market that does not move
    explains nothing.

    Parameters
    ----------
    returns : array (T, n_assets)
    market : array (T,), the index; the mean of all assets when left out
    """
    index = returns.mean(axis=1) if market is None else market
    centred, m = returns - returns.mean(axis=0), index - index.mean()
    variance = float(m @ m) / m.size
    if not variance > 0.0:
        return np.zeros((returns.shape[1], 1)), np.asarray((centred**2).mean(axis=0), dtype=np.float64)
    beta = centred.T @ m / (m.size * variance)
    left = centred - np.outer(m, beta)
    F = np.asarray((beta * np.sqrt(variance))[:, None], dtype=np.float64)
    return F, np.asarray((left**2).mean(axis=0), dtype=np.float64)


def k_factor(returns: "NDArray[np.float64]", k: int) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """Return F (n, k) and D (n,) by principal-axis factoring of the correlations (Harman 1976, chapter 8), iterated.

    F F' is the best rank-k fit to S - diag(D) while D is what F leaves of the diagonal. Principal components fit S itself and so
    put noise into the factors. Variances are kept exactly.

    Parameters
    ----------
    returns : array (T, n_assets)
    k : number of factors, cut to n - 1
    """
    S = sample(returns)
    deviations = np.sqrt(np.diag(S))
    moving = deviations > 0.0
    inverse = np.where(moving, 1.0 / np.where(moving, deviations, 1.0), 0.0)
    C = S * np.outer(inverse, inverse)
    n = S.shape[0]
    k = max(0, min(k, n - 1))
    loadings, specific = np.zeros((n, k)), np.where(moving, 0.5, 0.0)  # first guess: half of each variance is common
    for _ in range(FACTOR_STEPS_MAX if k else 0):
        values, vectors = np.linalg.eigh(C - np.diag(specific))
        loadings = vectors[:, ::-1][:, :k] * np.sqrt(np.maximum(values[::-1][:k], 0.0))
        left = np.clip(1.0 - np.einsum("ij,ij->i", loadings, loadings), SPECIFIC_MIN, 1.0)
        left = np.where(moving, left, 0.0)
        change, specific = float(np.abs(left - specific).max(initial=0.0)), left
        if change <= FACTOR_TOLERANCE:
            break
    common = np.einsum("ij,ij->i", loadings, loadings)
    most = 1.0 - SPECIFIC_MIN
    loadings = loadings * np.sqrt(np.where(common > most, most / np.where(common > 0.0, common, 1.0), 1.0))[:, None]
    specific = np.where(moving, 1.0 - np.einsum("ij,ij->i", loadings, loadings), 0.0)
    F = np.asarray(loadings * deviations[:, None], dtype=np.float64)
    return F, np.asarray(specific * deviations**2, dtype=np.float64)


def factors_that_count(returns: "NDArray[np.float64]") -> int:
    """Return how many eigenvalues of the correlations exceed what noise alone gives, at least 1.

    The edge is (1 + sqrt(n / T))^2 (Marchenko and Pastur 1967; Laloux, Cizeau, Bouchaud and Potters 1999).
    """
    T, n = returns.shape
    S = sample(returns)
    deviations = np.sqrt(np.diag(S))
    moving = deviations > 0.0
    if not bool(moving.any()):
        return 1
    inner = S[np.ix_(moving, moving)] / np.outer(deviations[moving], deviations[moving])
    edge = (1.0 + np.sqrt(n / T)) ** 2
    return max(1, int((np.linalg.eigvalsh(inner) > edge).sum()))


def risk_model(
    returns: "NDArray[np.float64]", *, method: str, horizon_bars: int, k: int | None = None
) -> "tuple[NDArray[np.float64], NDArray[np.float64]] | NoCovariance":
    """Return F (n, factors) and D (n,) over ``horizon_bars`` by any of ``METHODS``.

    Parameters
    ----------
    returns : array (T, n_assets), simple returns per bar
    method : see ``METHODS``
    horizon_bars : bars the result refers to
    k : factors of ``k_factor``; those that count when left out
    """
    if method not in METHODS:
        return NoCovariance(f"unknown covariance method {method!r}: {', '.join(METHODS)}")
    if method not in ("one_factor", "k_factor"):
        return estimate_factors(returns, method=method, horizon_bars=horizon_bars)
    if returns.shape[0] < RETURNS_MIN:
        return NoCovariance(f"{returns.shape[0]} returns, at least {RETURNS_MIN} needed")
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("ij,ij->", returns, returns)
    if not np.isfinite(squares):
        return NoCovariance("returns are not finite")
    count = factors_that_count(returns) if k is None else k
    F, D = one_factor(returns) if method == "one_factor" else k_factor(returns, count)
    return F * np.sqrt(horizon_bars), D * horizon_bars


def horizon_scenarios(
    returns: "NDArray[np.float64]", mean: "NDArray[np.float64]", *, horizon_bars: int, count_max: int = SCENARIOS_MAX
) -> "NDArray[np.float64] | NoCovariance":
    """Return scenarios (T, n) of returns over the horizon, from overlapping windows of history, with the forecast's mean.

    The joint shape, tails and all, is history's; the mean is the forecast's, since a mean of the past is noise. Overlapping
    windows repeat each other: 1,000 bars hold 1,000 / horizon independent ones, and tails beyond those are not known.

    Parameters
    ----------
    returns : array (bars, n_assets), simple returns per bar, oldest first
    mean : array (n_assets,), expected simple returns over the horizon
    horizon_bars : bars of a window
    count_max : most scenarios; more windows are thinned evenly, the newest kept
    """
    windows = returns.shape[0] - horizon_bars + 1
    if windows < RETURNS_MIN:
        return NoCovariance(f"{max(windows, 0)} windows of {horizon_bars} bars, at least {RETURNS_MIN} needed")
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        growth = np.vstack([np.zeros((1, returns.shape[1])), np.cumsum(np.log1p(returns), axis=0)])
        whole = np.expm1(growth[horizon_bars:] - growth[:-horizon_bars])
    if not bool(np.all(np.isfinite(whole))):
        return NoCovariance("returns are not finite")
    stride = -(-windows // count_max)
    kept = whole[::-1][::stride][::-1]
    return np.asarray(np.maximum(kept - kept.mean(axis=0) + mean, RETURN_MIN), dtype=np.float64)
