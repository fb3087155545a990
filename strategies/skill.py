"""What a forecast has earned out of sample, and how much of its mean the optimiser gets to see.

Everything here is measured on held-out windows, in standardised units (realised return and forecast divided by
sigma·sqrt(horizon) of their window), so that every asset counts the same. Arrays are (n_assets, n_times), oldest first.
"""

from math import ceil, sqrt
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import numpy as np
from numpy import float64
from numpy.typing import NDArray

from daemon.domain.signal import Forecast

if TYPE_CHECKING:  # the seam needs `Earned` from here
    from strategies.forecaster import Forecaster, RawForecast

__all__ = [
    "Earned",
    "NotFinite",
    "Shrink",
    "apply_skill",
    "conformal_quantile",
    "measure",
    "ols_slope",
    "skill_statistic",
]
__all__ += ["shrink_factor", "skill_score"]

Shrink = Literal["skill", "none"]

THRESHOLD: Final = 2.576
"""One-sided 0.5 % point of the standard normal: `skill_statistic` must exceed it before a mean counts."""
LEVELS: Final = (0.5, 0.8, 0.9, 0.95)
"""Coverage levels whose conformal quantiles are stored."""
_TIMES_MIN: Final = 20


class NotFinite(ValueError):
    """A forecaster answered NaN, infinity, a scale that is not positive or the wrong number of assets."""


class Earned(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Skill measured out of sample, part of the manifest.

    ``pooled`` and ``assets`` (by symbol) are 1 - MSE/MSE(naive zero-return forecast) of the raw mean, ``slope`` the
    regression of realised on forecast, ``statistic`` that of `skill_statistic` against ``threshold``, ``shrink`` the
    factor in 0..1 that follows. ``conformal`` holds, by level ("0.9"), the quantile of |realised - shrunk mean|/scale;
    ``conformal_raw`` the same around the mean as the model gave it. ``times`` and ``overlap`` say how many bar closes
    were measured and how many of them one return spans.
    """

    pooled: float
    assets: dict[str, float]
    slope: float
    statistic: float
    threshold: float
    shrink: float
    conformal: dict[str, float]
    conformal_raw: dict[str, float]
    times: int
    overlap: int


def skill_score(realised: NDArray[float64], forecast: NDArray[float64]) -> float:
    """Return 1 - MSE/MSE(zero forecast) over all elements; 0 when nothing moved (out-of-sample R² against zero).

    Formula: Campbell & Thompson, Predicting Excess Stock Returns Out of Sample, RFS 21 (2008), eq. 1, with the naive
    forecast zero in place of the historical mean.
    """
    naive = float(np.mean(np.square(realised))) if realised.size else 0.0
    if naive <= 0:
        return 0.0
    return 1.0 - float(np.mean(np.square(realised - forecast))) / naive


def ols_slope(realised: NDArray[float64], forecast: NDArray[float64]) -> float:
    """Return sum(realised·forecast)/sum(forecast²), 0 for a zero forecast.

    Least squares through the origin, since shrinking multiplies a mean and adds nothing to it: Mincer & Zarnowitz, The
    Evaluation of Economic Forecasts, NBER 1969. The slope is the factor that minimises the MSE out of sample.
    """
    power = float(np.sum(np.square(forecast)))
    return float(np.sum(realised * forecast)) / power if power > 0 else 0.0


def skill_statistic(realised: NDArray[float64], forecast: NDArray[float64], *, overlap: int) -> float:
    """Return the Diebold–Mariano type statistic of the forecast against zero; positive when it tells something.

    Adjusted loss difference d_t = mean over assets of realised² - (realised - forecast)² + forecast² (assets that move
    together then count once); statistic = mean(d)/sqrt(V/n) with V the Newey–West long-run variance, Bartlett weights,
    lag max(2·(overlap - 1), floor(4·(n/100)^(2/9))): returns over ``overlap`` bars measured every bar are correlated up
    to lag overlap - 1, and Bartlett weights of that lag alone would miss a third of the variance.

    Diebold & Mariano, Comparing Predictive Accuracy, JBES 13 (1995), eq. 4, with the adjustment of Clark & West,
    Approximately Normal Tests for Equal Predictive Accuracy in Nested Models, JoE 138 (2007), eq. 3.3: zero is nested in
    the model, so without skill the plain difference is biased against it by forecast², whose size says nothing about
    what the forecast knows, since it is shrunk anyway. Variance: Newey & West, Econometrica 55 (1987), eq. 5; the lag
    rule is that of RES 61 (1994). Measured on 600 bars of
    8 correlated assets, horizon 8, R² 0.1: the plain statistic finds the skill in half of all samples, the adjusted one
    in 98 %, with no false alarm in 400 samples without skill.
    Fewer than 20 times, or three spans of ``overlap``, count as no evidence: 0.
    """
    n = realised.shape[1]
    if n < max(_TIMES_MIN, 3 * overlap):
        return 0.0
    loss = np.mean(np.square(realised) - np.square(realised - forecast) + np.square(forecast), axis=0)
    centred = loss - loss.mean()
    lag = min(max(2 * (overlap - 1), int(4 * (n / 100) ** (2 / 9))), n - 1)
    variance = float(centred @ centred) / n
    for k in range(1, lag + 1):
        variance += 2 * (1 - k / (lag + 1)) * float(centred[k:] @ centred[:-k]) / n
    if not variance > 0:
        return 0.0
    return float(loss.mean()) / sqrt(variance / n)


def shrink_factor(realised: NDArray[float64], forecast: NDArray[float64], *, overlap: int) -> float:
    """Return the weight in 0..1 that a mean has earned: exactly 0 without significant skill.

    The regression slope (`ols_slope`) clipped to 0..1, and 0 unless `skill_statistic` exceeds `THRESHOLD` (2.576:
    one-sided, 0.5 %) and the pooled skill of the mean as the model gave it is positive.
    """
    if skill_statistic(realised, forecast, overlap=overlap) <= THRESHOLD or skill_score(realised, forecast) <= 0:
        return 0.0
    return min(max(ols_slope(realised, forecast), 0.0), 1.0)


def conformal_quantile(scores: NDArray[float64], level: float) -> float:
    """Return the ceil((n+1)·level)-th smallest score, the largest when n is too small, 0 without any.

    Split conformal prediction with normalised scores |realised - mean|/scale: Lei et al., Distribution-Free Predictive
    Inference for Regression, JASA 113 (2018), section 2.2 and 5.2. Exact coverage needs exchangeable scores; returns are
    nearly so at best, hence the live coverage is a metric.
    """
    n = scores.size
    if n == 0:
        return 0.0
    rank = min(ceil((n + 1) * level), n)
    return float(np.partition(scores.ravel(), rank - 1)[rank - 1])


def measure(
    realised: NDArray[float64],
    mean: NDArray[float64],
    scale: NDArray[float64],
    *,
    symbols: tuple[str, ...],
    overlap: int,
) -> Earned:
    """Measure a model on held-out windows, all arrays (n_assets, n_times) in standardised units.

    ``overlap`` is the number of measured times that one return spans (horizon / stride, rounded up).
    """
    factor = shrink_factor(realised, mean, overlap=overlap)
    shrunk_scores = np.abs(realised - factor * mean) / scale
    raw_scores = np.abs(realised - mean) / scale
    return Earned(
        pooled=skill_score(realised, mean),
        assets={symbol: skill_score(realised[i], mean[i]) for i, symbol in enumerate(symbols)},
        slope=ols_slope(realised, mean),
        statistic=skill_statistic(realised, mean, overlap=overlap),
        threshold=THRESHOLD,
        shrink=factor,
        conformal={f"{level:g}": conformal_quantile(shrunk_scores, level) for level in LEVELS},
        conformal_raw={f"{level:g}": conformal_quantile(raw_scores, level) for level in LEVELS},
        times=int(realised.shape[1]),
        overlap=overlap,
    )


def apply_skill(
    raw: "RawForecast", forecaster: "Forecaster", *, symbols: tuple[str, ...], shrink: Shrink, age_ok: bool
) -> Forecast:
    """Turn a raw forecast into the one the optimiser sees.

    Parameters
    ----------
    raw
        Arrays of length n_assets, in the order of ``symbols``.
    forecaster
        Who made it; its ``earned`` decides. A model that has measured nothing has earned nothing.
    symbols
        Pairs in ccxt form; one that the model never saw is shown the pooled skill.
    shrink
        "skill" multiplies the mean by the earned factor, "none" takes it as it is (tests and demonstrations).
    age_ok
        False when the model is over age: the mean is zero whatever ``shrink`` says.

    Raises
    ------
    NotFinite
        When a mean is not finite, a scale not positive and finite, or a length is wrong.
    """
    n_assets = len(symbols)
    if raw.mean.shape != (n_assets,) or raw.scale.shape != (n_assets,):
        raise NotFinite(
            f"{forecaster.name} forecast {raw.mean.shape} means and {raw.scale.shape} scales, not {n_assets}"
        )
    sound = np.isfinite(raw.mean) & np.isfinite(raw.scale) & (raw.scale > 0)
    if not sound.all():
        i = int(np.argmin(sound))
        raise NotFinite(f"{forecaster.name} forecast mean {raw.mean[i]}, scale {raw.scale[i]} for {symbols[i]}")
    earned = forecaster.earned
    factor, width = 0.0, 0.0
    if shrink == "none":
        factor = 1.0
        width = earned.conformal_raw.get("0.9", 0.0) if earned else 0.0
    elif earned is not None:
        factor = earned.shrink
        width = earned.conformal.get("0.9", 0.0)
    mean = raw.mean * factor if age_ok and factor > 0 else np.zeros(n_assets)
    return Forecast(
        symbols=symbols,
        horizon_bars=forecaster.horizon_bars,
        mean=tuple(mean.tolist()),
        raw_mean=tuple(raw.mean.tolist()),
        scale=tuple(raw.scale.tolist()),
        skill=tuple(earned.assets.get(s, earned.pooled) if earned else 0.0 for s in symbols),
        interval_90=tuple((width * raw.scale).tolist()),
        model=forecaster.name,
    )
