"""A forecaster whose numbers are given: the mean return of the last periods, the same that the peers are handed."""

from pathlib import Path
from typing import Self

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from benchmarks.peers.kit import MOMENTUM
from strategies.forecaster import RawForecast

CLOSE = 3
SCALE = 0.01
"""A day's standard deviation, for show: neither optimiser reads it from the forecast."""


class Momentum:
    """Mean simple return of the last ``MOMENTUM`` bars, believed as it is."""

    name = "given"
    lookback = MOMENTUM
    earned = None
    trained_until_ns = None

    def __init__(self, horizon_bars: int) -> None:
        self.horizon_bars = horizon_bars

    def predict(self, bars: NDArray[float64]) -> RawForecast:
        closes = bars[:, -(MOMENTUM + 1) :, CLOSE]
        returns = closes[:, 1:] / closes[:, :-1] - 1.0
        return RawForecast(mean=returns.mean(axis=1), scale=np.full(len(returns), SCALE))

    @classmethod
    def load(cls, model_dir: Path | None, *, horizon_bars: int, lookback: int) -> Self:
        return cls(horizon_bars)
