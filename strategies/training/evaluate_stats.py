"""Tests and measures of forecasts that one number per time enters: Diebold–Mariano, rank correlation, QLIKE.

- [D95] Diebold & Mariano, Comparing Predictive Accuracy, JBES 13 (1995), section 1.1.
- [H97] Harvey, Leybourne & Newbold, Testing the Equality of Prediction Mean Squared Errors, IJF 13 (1997), eq. 9.
- [P11] Patton, Volatility Forecast Comparison Using Imperfect Volatility Proxies, JoE 160 (2011), table 1: QLIKE.
- [G00] Grinold & Kahn, Active Portfolio Management, 2nd ed. (2000), chapter 6: the information coefficient.
"""

from math import sqrt
from typing import Final

import msgspec
import numpy as np
from numpy import float64, int64
from numpy.typing import NDArray

__all__ = ["MeanTest", "mean_test", "qlike", "rank_correlation"]

TIMES_MIN: Final = 20
"""Fewer times than these, or than two horizons, test nothing."""

Floats = NDArray[float64]


class MeanTest(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the mean of a series differs from 0.

    ``statistic`` is to be compared with Student's t of n - 1 degrees, ``p_value`` is two-sided, ``n`` counts the times and
    ``lags`` the autocovariances in the variance; ``kernel`` is "uniform", or "bartlett" where that gave no variance > 0.
    """

    statistic: float
    p_value: float
    n: int
    lags: int
    kernel: str


def mean_test(series: Floats, place: NDArray[int64], *, horizon: int) -> MeanTest | None:
    """Test the mean of a series that overlapping horizons correlate; of a loss difference this is [D95] with [H97].

    V = R(0) + 2 · sum R(k), k = 1 … horizon - 1, R(k) = 1/n · sum (d_t - mean)(d_{t+k} - mean) over times k bars apart;
    statistic = mean / sqrt(V/n) · sqrt((n + 1 - 2h + h(h - 1)/n) / n) ~ t(n - 1). With equal weights V may come out
    negative; then Bartlett's, 1 - k/h, take over (Newey & West, Econometrica 55, 1987), which never give that.

    Parameters
    ----------
    series
        (n,) one number per time, NaN where there is none.
    place
        (n,) strictly rising number of each time's bar: across a gap nothing is multiplied.
    horizon
        Bars that one forecast runs over, h.

    Returns
    -------
    MeanTest | None
        None for fewer than `TIMES_MIN` times or two horizons, and when the series does not vary.
    """
    known = np.isfinite(series)
    values, bars = series[known], place[known]
    n = values.size
    if n < max(TIMES_MIN, 2 * horizon):
        return None
    mean = float(values.mean())
    grid = np.zeros(int(bars[-1] - bars[0]) + 1)
    grid[bars - bars[0]] = values - mean
    lags = horizon - 1
    covariance = np.array([float(grid[k:] @ grid[: grid.size - k]) / n for k in range(min(lags, grid.size - 1) + 1)])
    if not covariance[0] > np.finfo(float64).eps * mean * mean:
        return None
    kernel, variance = "uniform", float(covariance[0] + 2.0 * covariance[1:].sum())
    if not variance > 0.0:
        weights = 1.0 - np.arange(1, covariance.size) / horizon
        kernel, variance = "bartlett", float(covariance[0] + 2.0 * (weights * covariance[1:]).sum())
    if not variance > 0.0:
        return None
    small = sqrt(max(n + 1 - 2 * horizon + horizon * (horizon - 1) / n, 0.0) / n)
    statistic = mean / sqrt(variance / n) * small
    return MeanTest(statistic=statistic, p_value=_two_sided(statistic, n - 1), n=n, lags=lags, kernel=kernel)


def rank_correlation(first: Floats, second: Floats) -> Floats:
    """Return Spearman's correlation of each row of two (n_rows, n) arrays, ties at their average rank: the IC of [G00].

    A pair with a NaN is left out; NaN for a row with fewer than two pairs, or whose numbers are all the same.
    """
    out = np.full(first.shape[0], np.nan)
    known = np.isfinite(first) & np.isfinite(second)
    whole = known.all(axis=1)
    if first.shape[1] < 2:
        return out
    if whole.any():
        out[whole] = _correlation(first[whole], second[whole])
    for row in np.flatnonzero(~whole & (known.sum(axis=1) >= 2)):
        kept = known[row]
        out[row] = _correlation(first[row : row + 1, kept], second[row : row + 1, kept])[0]
    return out


def qlike(realised_variance: Floats, variance: Floats) -> Floats:
    """Return σ²/h - ln(σ²/h) - 1 >= 0 of realised variance σ² and forecast h: [P11]; NaN where σ² is 0 or not known.

    It ranks volatility forecasts rightly also when σ² is only a noisy proxy, and hurts more when risk was underrated.
    """
    ratio = np.divide(
        realised_variance, variance, out=np.full(realised_variance.shape, np.nan), where=realised_variance > 0.0
    )
    loss: Floats = ratio - np.log(ratio) - 1.0
    return loss


def _correlation(first: Floats, second: Floats) -> Floats:
    from scipy.stats import rankdata  # noqa: PLC0415 - a second of imports

    a, b = (rankdata(one, axis=1) for one in (first, second))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    below = np.sqrt(np.square(a).sum(axis=1) * np.square(b).sum(axis=1))
    out = np.full(len(a), np.nan)
    np.divide((a * b).sum(axis=1), below, out=out, where=below > 0.0)
    return out


def _two_sided(statistic: float, degrees: int) -> float:
    from scipy.special import stdtr  # noqa: PLC0415 - loaded by evaluations only

    return 2.0 * float(stdtr(degrees, -abs(statistic)))
