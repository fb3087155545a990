"""The naive forecasters that a model has to beat; numpy only, nothing to train."""

from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from strategies.features import SIGMA_MIN, make_features
from strategies.forecaster import RawForecast

__all__ = ["Ewma", "Zero"]

_DECAY: Final = 0.94
"""RiskMetrics' decay per period (J.P. Morgan/Reuters, RiskMetrics Technical Document, 4th ed. 1996, section 5.3)."""
_LOG_RETURN_MAX: Final = 0.7
"""Bound of a trend forecast over the horizon: no baseline expects more than a doubling or a halving."""


class _Baseline:
    """What both have in common: no weights, no measured skill, no age."""

    kind = "baseline"

    def __init__(self, *, horizon_bars: int, lookback: int = 60) -> None:
        if horizon_bars < 1 or lookback < 2:
            raise ValueError(f"horizon_bars={horizon_bars} must be >= 1 and lookback={lookback} >= 2")
        self._horizon_bars = horizon_bars
        self._lookback = lookback

    @property
    def name(self) -> str:
        """Return the name used in the configuration."""
        return self.kind

    @property
    def lookback(self) -> int:
        """Return the number of bars read."""
        return self._lookback

    @property
    def horizon_bars(self) -> int:
        """Return the bars that the forecast return runs over."""
        return self._horizon_bars

    @property
    def earned(self) -> None:
        """Return None: a baseline has not earned any trust in its mean."""
        return

    @property
    def trained_until_ns(self) -> None:
        """Return None: a baseline does not age."""
        return

    @classmethod
    def load(cls, model_dir: Path | None, *, horizon_bars: int, lookback: int = 60) -> Self:
        """Make it; there is no file to read."""
        return cls(horizon_bars=horizon_bars, lookback=lookback)


class Zero(_Baseline):
    """The naive forecast: no return, and the window's volatility scaled by the square root of time."""

    kind = "zero"

    def predict(self, bars: NDArray[float64]) -> RawForecast:
        """Return mean 0 and scale = sigma·sqrt(horizon) for every asset; bars (n_assets, n_bars > lookback, 5)."""
        _, sigma = make_features(bars, self._lookback)
        return RawForecast(mean=np.zeros(sigma.size), scale=sigma * np.sqrt(self._horizon_bars))


class Ewma(_Baseline):
    """Trend goes on: exponentially weighted mean and volatility of the log close returns, decay 0.94 per bar."""

    kind = "ewma"

    def predict(self, bars: NDArray[float64]) -> RawForecast:
        """Return h·mean and sqrt(h)·volatility of the returns as simple returns; bars (n_assets, n_bars > lookback, 5)."""
        make_features(bars, self._lookback)  # refuses what is not finite or positive, with the asset's index
        closes = bars[:, -(self._lookback + 1) :, 3]
        returns = np.diff(np.log(closes), axis=1)
        weights = _DECAY ** np.arange(self._lookback - 1, -1, -1, dtype=float64)
        weights /= weights.sum()
        mean = returns @ weights
        variance = np.square(returns) @ weights
        scale = np.maximum(np.sqrt(variance), SIGMA_MIN) * np.sqrt(self._horizon_bars)
        trend = np.clip(mean * self._horizon_bars, -_LOG_RETURN_MAX, _LOG_RETURN_MAX)
        return RawForecast(mean=np.expm1(trend), scale=scale)
