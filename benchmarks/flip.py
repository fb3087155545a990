"""A strategy that does all the work of the reference strategy, then trades every asset whatever came out."""

from collections.abc import Callable

import msgspec
import numpy as np

from daemon.domain.signal import NoDecision, Targets, View
from strategies.forecast_optimise import ForecastOptimise
from strategies.params import ModelInfo, StrategySetup, Timings

HIGH, LOW = 0.75, 0.3
"""Sum of all weights if every asset were high, or low."""


class Flip:
    """Forecast, covariance and solve as `ForecastOptimise`; then each asset goes from its low weight to its high or back."""

    def __init__(self) -> None:
        self._inner = ForecastOptimise()

    @property
    def timings(self) -> Timings:
        return self._inner.timings

    def setup(self, setup: StrategySetup, monotonic_ns: Callable[[], int]) -> ModelInfo:
        return self._inner.setup(setup, monotonic_ns)

    def decide(self, view: View, params: dict[str, object]) -> Targets | NoDecision:
        answer = self._inner.decide(view, params)
        if isinstance(answer, NoDecision):
            return answer
        n = len(view.symbols)
        low, high = LOW / n, HIGH / n
        weights = np.array(view.weights)
        fresh = weights < low / 2
        up = np.where(fresh, np.arange(n) % 2 == 0, weights < (low + high) / 2)
        return msgspec.structs.replace(answer, weights=tuple(np.where(up, high, low).tolist()))
