"""The figures of a model: errors, direction, rank correlation, tests against the naive forecast, coverage, volatility.

All of them out of sample: they are taken over the test windows of `strategies.training.evaluate`.
"""

from collections.abc import Sequence
from statistics import NormalDist
from typing import Final

import msgspec
import numpy as np
from numpy import float64, int64
from numpy.typing import NDArray

from strategies.skill import LEVELS
from strategies.training.evaluate import FoldForecast
from strategies.training.evaluate_stats import MeanTest, mean_test, qlike, rank_correlation

__all__ = ["KINDS", "Sample", "Scores", "joined", "of_asset", "score"]

KINDS: Final = ("raw_coverage", "coverage", "adaptive_coverage")
"""Intervals as the model gave them, after split conformal, after adaptive conformal inference."""

Floats = NDArray[float64]


class Sample(msgspec.Struct, frozen=True):
    """Forecasts and what came, of one window or of several one after the other; NaN where nothing is known.

    ``place`` (n_times,) numbers the bars; ``mean scale realised variance ewma drift`` are (n_assets, n_times);
    ``half_widths`` (3, n_levels, n_assets, n_times) holds half the width of every interval, in the order of `KINDS`.
    """

    horizon_bars: int
    place: NDArray[int64]
    mean: Floats
    scale: Floats
    realised: Floats
    variance: Floats
    ewma: Floats
    drift: Floats
    half_widths: Floats


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a sample; None where nothing can be said. Returns are fractions (0.01 is 1 %).

    Attributes
    ----------
    n, times
        Pairs of forecast and truth, and bar closes they belong to.
    skill, r2_oos
        1 - MSE / MSE of forecasting zero: the naive forecast of a price is that it stays (two names of one figure).
    r2_oos_mean
        The same against the mean return of each fold's training part (Campbell & Thompson 2008).
    rmse, mae, mse
        Of returns over the horizon.
    mape
        Mean of |error| / |truth| over the truths that are not 0; a plain number.
    directional_accuracy
        Share of right signs among the pairs in which neither forecast nor truth is 0.
    ic
        Spearman's correlation of forecast and truth: for one asset over time; for several the mean over times of that
        across assets.
    ic_time
        Mean over assets of that over time.
    ic_test
        Test of the mean of ``ic`` over times; None for one asset.
    dm
        Diebold–Mariano with the correction of Harvey, Leybourne & Newbold: mean over assets of squared errors, zero's less
        the model's. Positive: better than zero.
    coverage, raw_coverage, adaptive_coverage
        Share of truths within the interval per level of `LEVELS`: split conformal, as the model gave it (a normal
        distribution), adaptive conformal inference.
    qlike, qlike_ewma
        Mean QLIKE of the squared scale against the realised variance, and that of the EWMA baseline; smaller is better.
    qlike_gain
        1 - qlike / qlike_ewma.
    qlike_test
        As ``dm``, of QLIKE: EWMA's less the model's. Positive: better than EWMA.
    """

    n: int
    times: int
    skill: float | None
    r2_oos: float | None
    r2_oos_mean: float | None
    rmse: float | None
    mae: float | None
    mse: float | None
    mape: float | None
    directional_accuracy: float | None
    ic: float | None
    ic_time: float | None
    ic_test: MeanTest | None
    dm: MeanTest | None
    coverage: tuple[float | None, ...]
    raw_coverage: tuple[float | None, ...]
    adaptive_coverage: tuple[float | None, ...]
    qlike: float | None
    qlike_ewma: float | None
    qlike_gain: float | None
    qlike_test: MeanTest | None


def joined(folds: Sequence[FoldForecast], horizon_bars: int) -> Sample:
    """Return the windows of several folds as one sample, in their order."""

    def row(name: str) -> Floats:
        return np.concatenate([getattr(one, name) for one in folds], axis=1)

    return Sample(
        horizon_bars=horizon_bars,
        place=np.concatenate([one.place for one in folds]),
        mean=row("mean"),
        scale=row("scale"),
        realised=row("realised"),
        variance=row("variance"),
        ewma=row("ewma"),
        drift=np.concatenate([np.broadcast_to(one.drift[:, np.newaxis], one.mean.shape) for one in folds], axis=1),
        half_widths=np.concatenate([_half_widths(one) for one in folds], axis=3),
    )


def of_asset(sample: Sample, asset: int) -> Sample:
    """Return the part of a sample that is about one asset."""
    one = slice(asset, asset + 1)
    return Sample(
        horizon_bars=sample.horizon_bars,
        place=sample.place,
        mean=sample.mean[one],
        scale=sample.scale[one],
        realised=sample.realised[one],
        variance=sample.variance[one],
        ewma=sample.ewma[one],
        drift=sample.drift[one],
        half_widths=sample.half_widths[:, :, one],
    )


def score(sample: Sample) -> Scores:
    """Return every figure of a sample."""
    truth, error = sample.realised, sample.realised - sample.mean
    known = np.isfinite(error)
    moved = known & (truth != 0.0)
    directed = moved & (sample.mean != 0.0)
    mse, naive = _mean(np.square(error[known])), _mean(np.square(truth[known]))
    by_drift = _mean(np.square((truth - sample.drift)[known]))
    skill = _gain(mse, naive)
    better = np.where(known, np.square(truth) - np.square(error), np.nan)
    with np.errstate(over="ignore"):
        relative = np.abs(error[moved] / truth[moved])
    ic, ic_time, ic_test = _correlations(sample)
    covered = _coverage(sample, np.abs(error))
    own_qlike, ewma_qlike, qlike_test = _volatility(sample)
    return Scores(
        n=int(known.sum()),
        times=int(known.any(axis=0).sum()),
        skill=skill,
        r2_oos=skill,
        r2_oos_mean=_gain(mse, by_drift),
        rmse=None if mse is None else float(np.sqrt(mse)),
        mae=_mean(np.abs(error[known])),
        mse=mse,
        mape=_mean(relative),
        directional_accuracy=_mean((np.sign(sample.mean) == np.sign(truth))[directed].astype(float64)),
        ic=ic,
        ic_time=ic_time,
        ic_test=ic_test,
        dm=_test(better, sample),
        raw_coverage=covered[0],
        coverage=covered[1],
        adaptive_coverage=covered[2],
        qlike=own_qlike,
        qlike_ewma=ewma_qlike,
        qlike_gain=_gain(own_qlike, ewma_qlike),
        qlike_test=qlike_test,
    )


def _volatility(sample: Sample) -> tuple[float | None, float | None, MeanTest | None]:
    """Return QLIKE of the model and of EWMA over the pairs that both know, and the test of the difference."""
    ours, theirs = (qlike(sample.variance, np.square(one)) for one in (sample.scale, sample.ewma))
    known = np.isfinite(ours) & np.isfinite(theirs)
    test = _test(np.where(known, theirs - ours, np.nan), sample)
    return _mean(ours[known]), _mean(theirs[known]), test


def _correlations(sample: Sample) -> tuple[float | None, float | None, MeanTest | None]:
    """Return the information coefficient, that over time, and the test of the first."""
    mean = np.where(np.isfinite(sample.realised), sample.mean, np.nan)
    by_asset = rank_correlation(mean, sample.realised)
    over_time = _mean(by_asset[np.isfinite(by_asset)])
    if mean.shape[0] == 1:
        return over_time, over_time, None
    by_time = rank_correlation(mean.T, sample.realised.T)
    across = _mean(by_time[np.isfinite(by_time)])
    return across, over_time, mean_test(by_time, sample.place, horizon=sample.horizon_bars)


def _half_widths(one: FoldForecast) -> Floats:
    normal = NormalDist()
    raw = np.array([normal.inv_cdf((1.0 + level) / 2.0) for level in LEVELS])
    times = one.place.size
    fixed = [np.repeat(widths[:, np.newaxis], times, axis=1) for widths in (raw, one.split)]
    units = np.stack([*fixed, one.adaptive])
    half: Floats = units[:, :, np.newaxis, :] * one.scale
    return half


def _coverage(sample: Sample, distance: Floats) -> list[tuple[float | None, ...]]:
    """Return the share of truths within each interval, per kind and level."""
    known = np.isfinite(distance)
    return [
        tuple(
            _mean((distance <= sample.half_widths[kind, level])[known].astype(float64)) for level in range(len(LEVELS))
        )
        for kind in range(len(KINDS))
    ]


def _test(series: Floats, sample: Sample) -> MeanTest | None:
    """Test the mean over assets of a loss difference (n_assets, n_times): assets that move together count once."""
    count = np.isfinite(series).sum(axis=0)
    mean = np.where(count > 0, np.nansum(series, axis=0) / np.maximum(count, 1), np.nan)
    return mean_test(mean, sample.place, horizon=sample.horizon_bars)


def _gain(own: float | None, other: float | None) -> float | None:
    return 1.0 - own / other if own is not None and other else None


def _mean(values: Floats) -> float | None:
    """Return the mean; None of nothing, and of what a float cannot hold (a truth next to 0)."""
    if not values.size:
        return None
    with np.errstate(over="ignore"):
        mean = float(np.mean(values))
    return mean if np.isfinite(mean) else None
