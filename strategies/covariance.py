"""Covariance of returns over the forecast horizon: estimated, repaired, and put in factor form.

All estimators take simple returns *per bar* and multiply the covariance by ``horizon_bars``. Overlapping horizon
returns would use the same bars many times: T bars then hold only T / horizon independent observations, the estimate
is noisier and the shrinkage of Ledoit and Wolf, which assumes independent rows, far too small. The price is that
autocorrelation within the horizon is ignored.
"""

from typing import TYPE_CHECKING

import msgspec
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

RETURNS_MIN = 30
"""Fewer returns than this give no estimate."""
RETURNS_MAX = 1_000
"""Newest returns used: older ones say little about today's volatility and cost time."""
EWMA_HALFLIFE_BARS = 100
"""Bars after which an observation counts half, for ``ewma``."""
FACTORS = 5
"""Factors kept by ``factor``: the first principal components; the rest is asset noise."""
EIGEN_FLOOR = 1e-10
"""Smallest eigenvalue after repair, relative to the mean variance."""
SHRINKAGE_SOUND = 1e-6
"""A shrinkage above this lifts every eigenvalue far above the floor: nothing is left to repair."""


class NoCovariance(msgspec.Struct, frozen=True):
    """There is no usable estimate; ``detail`` is one line."""

    detail: str


def returns_of(closes: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return simple returns (n_bars - 1, n_assets) of closes (n_assets, n_bars), the newest ``RETURNS_MAX`` of them."""
    recent = np.ascontiguousarray(closes[:, -(RETURNS_MAX + 1) :].T)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # judged by ``repair``, not by a warning
        return np.asarray(recent[1:] / recent[:-1] - 1.0, dtype=np.float64)


def sample(returns: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return the maximum-likelihood covariance (n, n) of returns (T, n)."""
    centred = returns - returns.mean(axis=0)
    return np.asarray(centred.T @ centred / returns.shape[0], dtype=np.float64)


def ewma(returns: "NDArray[np.float64]", halflife: float = EWMA_HALFLIFE_BARS) -> "NDArray[np.float64]":
    """Return the exponentially weighted covariance (n, n) of returns (T, n), weights halving every ``halflife`` bars.

    RiskMetrics (1996), section 5.2, with a zero mean: over short horizons the mean is noise.
    """
    weights = 0.5 ** (np.arange(returns.shape[0])[::-1] / halflife)
    weighted = returns * np.sqrt(weights / weights.sum())[:, None]
    return np.asarray(weighted.T @ weighted, dtype=np.float64)


def ledoit_wolf(returns: "NDArray[np.float64]") -> tuple["NDArray[np.float64]", float]:
    """Return the shrunk covariance (1 - d) S + d m I of returns (T, n), and the shrinkage d in [0, 1].

    Ledoit and Wolf (2004), "A well-conditioned estimator for large-dimensional covariance matrices", lemma 3.2 to 3.5:
    m = tr(S) / n, d = b2 / d2 with d2 = |S - m I|^2 and b2 = min(d2, sum_t |x_t x_t' - S|^2 / T^2). The sum is
    sum_t |x_t|^4 - T |S|^2, so one product X'X is all the work: ten times less than scikit-learn's function of the same name,
    against which a test holds it.
    """
    T, n = returns.shape
    centred = returns - np.add.reduce(returns, axis=0) / T
    S = np.asarray(centred.T @ centred / T, dtype=np.float64)
    m = float(np.trace(S)) / n
    squared = float(np.einsum("ij,ij->", S, S))
    d2 = squared - n * m * m
    if d2 <= 0.0:  # one asset, or S already a multiple of the identity: nothing to shrink
        return S, 0.0
    norms = np.einsum("ij,ij->i", centred, centred)
    b2 = max(0.0, float(norms @ norms) / (T * T) - squared / T)
    shrinkage = min(1.0, b2 / d2)
    shrunk = S * (1.0 - shrinkage)
    shrunk[np.diag_indices(n)] += shrinkage * m
    return shrunk, shrinkage


def repair(covariance: "NDArray[np.float64]", *, lifted: bool = False) -> "NDArray[np.float64] | NoCovariance":
    """Return a symmetric matrix whose eigenvalues are at least ``EIGEN_FLOOR`` tr(S) / n; refuse what is not finite.

    ``lifted`` says that its maker has lifted the eigenvalues above that floor already.

    A zero matrix (prices that never move) is returned as it is: there is no risk to measure, and the optimiser can
    solve it. Cholesky decides cheaply that nothing is to be done.
    """
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        return NoCovariance(f"covariance has shape {covariance.shape}, not square")
    if not bool(np.all(np.isfinite(covariance))):
        return NoCovariance("covariance is not finite")
    n = covariance.shape[0]
    S = np.asarray(0.5 * (covariance + covariance.T), dtype=np.float64)
    mean_variance = float(np.trace(S)) / n
    if mean_variance <= 0.0:
        return S if not bool(S.any()) else NoCovariance("covariance has no positive variance")
    if lifted:
        return S
    try:
        np.linalg.cholesky(S - EIGEN_FLOOR * mean_variance * np.eye(n))
    except np.linalg.LinAlgError:
        pass
    else:
        return S
    try:
        values, vectors = np.linalg.eigh(S / mean_variance)
    except np.linalg.LinAlgError as error:
        return NoCovariance(f"covariance has no eigenvalues: {error}")
    fixed = (vectors * np.maximum(values, EIGEN_FLOOR)) @ vectors.T * mean_variance
    return np.asarray(0.5 * (fixed + fixed.T), dtype=np.float64)


def estimate(returns: "NDArray[np.float64]", *, method: str, horizon_bars: int) -> "NDArray[np.float64] | NoCovariance":
    """Return the covariance (n, n) over ``horizon_bars`` of per-bar returns (T, n) by ``method``, repaired.

    Parameters
    ----------
    returns : array (T, n_assets), simple returns per bar, oldest first
    method : ``sample``, ``ewma``, ``ledoit_wolf`` or ``factor``
    horizon_bars : bars the result refers to
    """
    if returns.shape[0] < RETURNS_MIN:
        return NoCovariance(f"{returns.shape[0]} returns, at least {RETURNS_MIN} needed")
    lifted = False
    with np.errstate(over="ignore", invalid="ignore"):  # what leaves float64 is refused by repair
        match method:
            case "sample":
                per_bar = sample(returns)
            case "ewma":
                per_bar = ewma(returns)
            case "ledoit_wolf":
                per_bar, shrinkage = ledoit_wolf(returns)
                lifted = shrinkage > SHRINKAGE_SOUND
            case "factor":
                per_bar = sample(returns)
            case _:
                return NoCovariance(f"unknown covariance method {method!r}: sample, ewma, ledoit_wolf or factor")
        repaired = repair(per_bar * horizon_bars, lifted=lifted)
    if method != "factor" or isinstance(repaired, NoCovariance):
        return repaired
    F, D = factor_form(repaired, FACTORS)
    return np.asarray(F @ F.T + np.diag(D), dtype=np.float64)


def estimate_factors(
    returns: "NDArray[np.float64]", *, method: str, horizon_bars: int
) -> "tuple[NDArray[np.float64], NDArray[np.float64]] | NoCovariance":
    """Return F (n, k) and D (n,) whose F F' + diag(D) is exactly what ``estimate`` returns; k = ``factor_count``."""
    base = "sample" if method == "factor" else method
    S = estimate(returns, method=base, horizon_bars=horizon_bars)
    return S if isinstance(S, NoCovariance) else factor_form(S, factor_count(S.shape[0], method))


def factor_count(n: int, method: str) -> int:
    """Return the columns of F: ``FACTORS`` for the factor model, n for every other estimate, which is then exact."""
    return min(FACTORS, n) if method == "factor" else n


def factor_form(covariance: "NDArray[np.float64]", k: int) -> tuple["NDArray[np.float64]", "NDArray[np.float64]"]:
    """Split S (n, n) into F (n, min(k, n)) and D (n,) >= 0 with S ~ F F' + diag(D).

    Exact for k >= n: F is the Cholesky factor, or comes from the eigenvalues where S is singular, and D = 0. For
    k < n, F holds the first k principal components and D what they leave of the diagonal. S must be symmetric and
    positive semidefinite (see ``repair``).
    """
    n = covariance.shape[0]
    if k >= n:
        try:
            return np.array(np.linalg.cholesky(covariance), dtype=np.float64), np.zeros(n)
        except np.linalg.LinAlgError:  # singular, such as prices that never move
            pass
    values, vectors = np.linalg.eigh(covariance)
    order = np.argsort(values)[::-1][: min(k, n)]
    F = np.array(vectors[:, order] * np.sqrt(np.maximum(values[order], 0.0)), dtype=np.float64)
    if k >= n:
        return F, np.zeros(n)
    left = np.diag(covariance) - np.einsum("ij,ij->i", F, F)
    return F, np.asarray(np.maximum(left, 0.0), dtype=np.float64)
