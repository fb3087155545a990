"""What a portfolio could lose, how concentrated it is and how fast it could be sold: figures of weights and returns.

Pure functions of numpy arrays. Weights are fractions of equity, returns simple ones per period (0.01 is 1 %), losses
positive fractions of equity: a value at risk of 0.05 is a loss of 5 %. Nothing annualises: a figure is per period of the
returns that it was made of.

Sources:
[MFE] McNeil, Frey & Embrechts, Quantitative Risk Management, Princeton (2005).
[RU]  Rockafellar & Uryasev, Conditional value-at-risk for general loss distributions, J. Banking & Finance 26 (2002).
[KLPR] Kritzman, Li, Page & Rigobon, Principal Components as a Measure of Systemic Risk, J. Portfolio Management 37 (2011).
[T11] Tóth et al., Anomalous price impact and the critical nature of liquidity in financial markets, Phys. Rev. X 1 (2011).
"""

from math import ceil, exp, inf, isnan, nan, pi, sqrt
from statistics import NormalDist
from typing import Final

import msgspec
import numpy as np
from numpy import float64
from numpy.typing import NDArray

LEVEL: Final = 0.95
"""Confidence of VaR and CVaR: the worst 5 % of periods."""
PERIODS_MIN: Final = 20
"""Fewer periods than one expected in the tail (at 95 %) say nothing about it."""
RETURNS_MIN: Final = 30
"""Fewer common returns tell no beta."""
TINY: Final = 1e-24
"""Variances up to this are rounding of returns that never moved."""
ABSORBING: Final = 0.2
"""Share of the eigenvectors that the absorption ratio counts: a fifth ([KLPR])."""

Floats = NDArray[float64]


class Tail(msgspec.Struct, frozen=True):
    """Value at risk and conditional value at risk (expected shortfall): losses >= 0, fractions of equity, cvar >= var."""

    var: float
    cvar: float


class Concentration(msgspec.Struct, frozen=True):
    """How much of what is invested lies in few assets.

    ``hhi`` is the Herfindahl–Hirschman index, sum of squared shares, 1/n..1; ``effective`` its inverse, the number of equal
    positions that would be as concentrated; ``largest`` the largest share. All 0 when nothing is held.
    """

    hhi: float
    effective: float
    largest: float


class Standing(msgspec.Struct, frozen=True):
    """A figure beside its own history: ``rank`` is the share of the history below it (ties half), 0..1; ``shift`` is
    (mean of the newest values - mean of all) / standard deviation of all, 0 when the history does not vary.
    """  # noqa: D205 - one sentence

    rank: float
    shift: float


def portfolio_returns(w: Floats, returns: Floats) -> Floats:
    """Return (m,) returns of weights ``w`` (n_assets,) over the rows of ``returns`` (n, n_assets) that know every held asset.

    The weights are those of now, held in each period anew: what this portfolio would have done, not what it did.
    """
    held = w != 0.0
    some = returns[:, held]
    whole: Floats = some[np.isfinite(some).all(axis=1)] @ w[held]
    return whole


def historical_tail(returns: Floats, level: float = LEVEL) -> Tail | None:
    """Return VaR and CVaR of a sample of portfolio returns (n,); None for fewer than `PERIODS_MIN`.

    VaR is the smallest loss l with P(L <= l) >= level, a loss that occurred, nothing interpolated ([MFE] definition 2.10).
    CVaR is the mean of the worst (1 - level)·n losses, the last of them counted in part ([RU] proposition 8). A sample that
    gains even in its tail has 0. NaN is not allowed.
    """
    n = len(returns)
    if n < PERIODS_MIN:
        return None
    tail = (1.0 - level) * n
    whole = min(int(tail + 1e-9), n - 1)
    worst = np.partition(returns, whole)[: whole + 1]
    edge = -float(worst[whole])
    total = (tail - whole) * edge - float(worst[:whole].sum())
    return Tail(max(edge, 0.0), max(total / tail, 0.0))


def normal_tail(deviation: float, level: float = LEVEL, *, mean: float = 0.0) -> Tail:
    """Return VaR and CVaR of a normal distribution: z·σ - μ and σ·φ(z)/(1 - level) - μ, at least 0.

    [MFE] examples 2.14 and 2.18. Crypto returns have fatter tails: beyond 95 % these figures are too small.

    Parameters
    ----------
    deviation, mean
        Of the portfolio's return over the period, fractions of equity; deviation >= 0.
    """
    z = NormalDist().inv_cdf(level)
    density = exp(-0.5 * z * z) / sqrt(2.0 * pi)
    return Tail(max(z * deviation - mean, 0.0), max(deviation * density / (1.0 - level) - mean, 0.0))


def deviation_of(w: Floats, covariance: Floats) -> float:
    """Return the portfolio's standard deviation sqrt(w'Σw), >= 0; only what is held needs a known covariance (else NaN)."""
    variance = float(w @ covariance @ w)
    if isnan(variance):
        held = w != 0.0
        variance = float(w[held] @ covariance[np.ix_(held, held)] @ w[held])
    return sqrt(max(variance, 0.0)) if not isnan(variance) else nan


def risk_shares(w: Floats, covariance: Floats) -> Floats:
    """Return (n_assets,) each asset's part of the portfolio's deviation: w·(Σw) / w'Σw, which sums to 1.

    Euler's allocation ([MFE] section 6.3). A part below 0 hedges the rest. All 0 for a portfolio that does not move.
    """
    part: Floats = w * (covariance @ w)
    total = float(part.sum())
    return part / total if total > TINY else np.zeros(len(w))


def betas(returns: Floats, market: Floats) -> Floats:
    """Return (n_assets,) slopes of each column of ``returns`` (n, n_assets) on ``market`` (n,): cov(r, m) / var(m).

    Ordinary least squares (Sharpe 1963) over the rows in which both have a number; NaN where those are fewer than
    `RETURNS_MIN` or the market did not move in them. The portfolio's own beta is ``w @ betas``.
    """
    both = np.isfinite(returns) & np.isfinite(market)[:, None]
    n = both.sum(axis=0)
    x = np.where(both, market[:, None], 0.0)
    y = np.where(both, returns, 0.0)
    enough = np.maximum(n, 1)
    x = np.where(both, x - x.sum(axis=0) / enough, 0.0)
    variance = np.square(x).sum(axis=0)
    slopes = np.full(returns.shape[1], nan)
    known = (n >= RETURNS_MIN) & (variance > TINY * enough)
    np.divide((x * y).sum(axis=0), variance, out=slopes, where=known)
    return slopes


def concentration(w: Floats) -> Concentration:
    """Return how concentrated weights (n_assets,) are, as shares of what is invested: cash does not dilute.

    Herfindahl–Hirschman index; its inverse as a number of positions: Woerheide & Persson, An index of portfolio
    diversification, Financial Services Review 2 (1993).
    """
    size = np.abs(w)
    total = float(size.sum())
    if not total > 0.0:
        return Concentration(0.0, 0.0, 0.0)
    shares = size / total
    hhi = float(shares @ shares)
    return Concentration(hhi, 1.0 / hhi, float(shares.max()))


def exit_days(value: Floats, volume: Floats, participation: float) -> Floats:
    """Return (n_assets,) days until each position is sold at a share of the volume: value / (participation · volume).

    Parameters
    ----------
    value
        (n_assets,) what is held, quote currency, >= 0.
    volume
        (n_assets,) traded in a day, quote currency; 0 gives infinity, NaN (unknown) NaN. What is not held takes 0 days.
    participation
        Share of the volume that one seller takes, 0 < x <= 1.
    """
    days = np.full(len(value), inf)
    np.divide(value, participation * volume, out=days, where=volume != 0.0)
    days[value == 0.0] = 0.0
    return days


def exit_within(value: Floats, days: Floats, horizon: float = 1.0) -> float:
    """Return the share of what is held that is sold after ``horizon`` days when all positions are sold side by side.

    ``days`` (n_assets,) are those of `exit_days`; a position whose days are unknown (NaN) counts as not sold. 1 when nothing
    is held.
    """
    total = float(value.sum())
    if not total > 0.0:
        return 1.0
    sold = np.zeros(len(value))
    np.divide(horizon, np.maximum(days, horizon), out=sold, where=days == days)  # noqa: PLR0124 - NaN is not itself
    return float(value @ sold) / total


def exit_cost(value: Floats, volume: Floats, deviation: Floats) -> Floats:
    """Return (n_assets,) what selling within one day is expected to cost by impact, as a fraction of each position.

    The square root law: the price moves by about one day's deviation times sqrt(share of the day's volume) ([T11] equation 1
    with a prefactor of 1), and the average over the way there is two thirds of it. Without volume the position is lost to the
    one who needs the money now: 1. Never above 1; NaN where volume or deviation is unknown.
    """
    share = np.full(len(value), inf)
    np.divide(value, volume, out=share, where=volume != 0.0)
    cost: Floats = np.minimum(2.0 / 3.0 * deviation * np.sqrt(share), 1.0)
    cost[value == 0.0] = 0.0
    return cost


def correlation_of(covariance: Floats) -> Floats:
    """Return the correlation matrix of a covariance (n, n), within -1..1; NaN in the rows of assets that never moved."""
    variance = np.diag(covariance)
    scale = np.full(len(variance), nan)
    np.divide(1.0, np.sqrt(np.maximum(variance, 0.0)), out=scale, where=variance > TINY)
    matrix: Floats = np.clip(covariance * scale[:, None] * scale, -1.0, 1.0)
    return matrix


def average_correlation(correlation: Floats) -> float:
    """Return the mean of the correlations between different assets, -1..1; NaN for fewer than two that moved."""
    known = np.isfinite(np.diag(correlation))
    n = int(known.sum())
    if n < 2:
        return nan
    total = float(correlation.sum()) if n == len(known) else float(correlation[np.ix_(known, known)].sum())
    return (total - n) / (n * (n - 1))


def absorption_ratio(matrix: Floats, share: float = ABSORBING) -> float:
    """Return the part of the total variance in the largest eigenvalues of a covariance or correlation matrix, 0..1.

    [KLPR] equation 1: sum of the variances along the first ``share``·n eigenvectors over the sum of the assets' variances;
    their numerator takes a fifth of the eigenvectors. They use the covariance; of a correlation matrix the ratio does not depend
    on which asset is the wildest. High means that everything moves as one. NaN for fewer than two assets that moved.
    """
    known = np.isfinite(np.diag(matrix))
    some = matrix if known.all() else matrix[np.ix_(known, known)]
    n = len(some)
    if n < 2:
        return nan
    values = np.maximum(np.linalg.eigvalsh(some), 0.0)  # a matrix put together pairwise may dip below 0
    total = float(values.sum())
    return float(values[n - max(1, ceil(share * n - 1e-9)) :].sum()) / total if total > 0.0 else nan


def standing(history: Floats, *, newest: int = 15) -> Standing | None:
    """Return where the last value of ``history`` (n,) stands in it; None for fewer than twice ``newest`` values.

    ``shift`` is the standardised shift of [KLPR] equation 2: the mean over 15 days against a year's mean, in that year's standard
    deviations; above 1 they found most of the worst days and months to follow.
    """
    if newest < 1 or len(history) < 2 * newest:
        return None
    last, before = float(history[-1]), history[:-1]
    rank = float(np.mean(before < last) + 0.5 * np.mean(before == last))
    spread = float(history.std(ddof=1))
    moved = float(history[-newest:].mean() - history.mean())
    return Standing(rank, moved / spread if spread > 1e-12 else 0.0)
