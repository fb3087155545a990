"""What forecasts were worth, against what then came."""

from statistics import NormalDist
from typing import Final

import msgspec
import numpy as np
from numpy import float64
from numpy.typing import NDArray

NOMINAL: Final = (0.5, 0.8, 0.9, 0.95)
"""Levels of the calibration table. The forecast gives the half width of its 90 % interval; the others are that width
times Φ⁻¹((1 + level)/2) / Φ⁻¹(0.95), as for a normal distribution."""

Floats = NDArray[float64]


class Coverage(msgspec.Struct, frozen=True):
    """How often the truth fell into an interval that promised ``nominal``; ``n`` intervals were looked at."""

    nominal: float
    empirical: float
    n: int


class ForecastMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """Errors of n forecasts of simple returns; None where nothing can be said.

    Attributes
    ----------
    skill
        1 - MSE / MSE of forecasting zero: above 0 is better than knowing nothing.
    rmse, mae
        Root mean squared and mean absolute error, as returns (0.01 is 1 %).
    mape
        Mean of |error| / |truth| over the truths that are not 0; a plain number, not %.
    directional_accuracy
        Share of right signs among the pairs in which neither forecast nor truth is 0.
    coverage_90
        Share of truths within mean ± half width of the 90 % interval.
    calibration
        The same for every level of `NOMINAL`, rising.
    n
        Pairs of forecast and truth that were both known.
    """

    skill: float | None
    rmse: float | None
    mae: float | None
    mape: float | None
    directional_accuracy: float | None
    coverage_90: float | None
    calibration: tuple[Coverage, ...]
    n: int


def forecast_metrics(mean: Floats, realised: Floats, half_width_90: Floats) -> ForecastMetrics:
    """Return what the forecasts were worth; the arrays share any one shape, e.g. decisions × assets.

    Parameters
    ----------
    mean
        Forecast simple return over the horizon; NaN: no forecast.
    realised
        What came, the same unit; NaN: the data end before.
    half_width_90
        Half width of the interval around the mean that promises 90 %, >= 0; NaN: none given, then the pair counts for
        the errors only.

    Raises
    ------
    ValueError
        For shapes that differ, infinite numbers, or a negative width.
    """
    if not mean.shape == realised.shape == half_width_90.shape:
        raise ValueError(
            f"mean {mean.shape}, realised {realised.shape}, half_width_90 {half_width_90.shape} must agree"
        )
    if any(np.isinf(one).any() for one in (mean, realised, half_width_90)) or (half_width_90 < 0.0).any():
        raise ValueError("forecasts, truths and half widths must be finite or NaN, and half widths not negative")
    known = np.isfinite(mean) & np.isfinite(realised)
    forecast, truth, width = mean[known], realised[known], half_width_90[known]
    error = truth - forecast
    moved = truth != 0.0
    directed = moved & (forecast != 0.0)
    naive = _mean(np.square(truth))
    squared = _mean(np.square(error))
    with np.errstate(over="ignore"):
        relative = np.abs(error[moved] / truth[moved])
    calibration = _calibration(np.abs(error), width)
    return ForecastMetrics(
        skill=1.0 - squared / naive if squared is not None and naive else None,
        rmse=None if squared is None else float(np.sqrt(squared)),
        mae=_mean(np.abs(error)),
        mape=_mean(relative),
        directional_accuracy=_mean((np.sign(forecast) == np.sign(truth))[directed].astype(float64)),
        coverage_90=next((one.empirical for one in calibration if one.nominal == 0.9), None),
        calibration=calibration,
        n=int(known.sum()),
    )


def _calibration(distance: Floats, width: Floats) -> tuple[Coverage, ...]:
    """Return the coverage of every nominal level; empty when no interval is known."""
    given = np.isfinite(width)
    if not given.any():
        return ()
    normal = NormalDist()
    scales = {level: normal.inv_cdf((1.0 + level) / 2.0) / normal.inv_cdf(0.95) for level in NOMINAL}
    scales[0.9] = 1.0  # exactly what was promised, whatever the last bit of the quotient says
    return tuple(
        Coverage(level, float(np.mean(distance[given] <= scale * width[given])), int(given.sum()))
        for level, scale in scales.items()
    )


def _mean(values: Floats) -> float | None:
    """Return the mean, None of nothing; one that a float cannot hold (a truth next to 0) is None as well."""
    if not len(values):
        return None
    with np.errstate(over="ignore"):
        mean = float(np.mean(values))
    return mean if np.isfinite(mean) else None
