"""The seam between forecasting and optimising: what every forecaster is and what it answers."""

from pathlib import Path
from typing import Protocol, Self

import msgspec
from numpy import float64
from numpy.typing import NDArray

from strategies.skill import Earned

__all__ = ["Forecaster", "RawForecast"]


class RawForecast(msgspec.Struct, frozen=True):
    """What a model says before it is judged: arrays of shape (n_assets,).

    ``mean`` is the simple return expected over the next ``horizon_bars`` bars and ``scale`` its standard deviation
    (> 0), both as fractions over the whole horizon. `strategies.skill.apply_skill` makes a `Forecast` of it.
    """

    mean: NDArray[float64]
    scale: NDArray[float64]


class Forecaster(Protocol):
    """A fitted model, pure and deterministic: same bars in, same bytes out."""

    @property
    def name(self) -> str:
        """Return the model's name for people and journals, such as ``lstm:20260101T000000-1a2b3c4d``."""
        ...

    @property
    def lookback(self) -> int:
        """Return how many bars the model reads; `predict` needs one more, for the first return."""
        ...

    @property
    def horizon_bars(self) -> int:
        """Return over how many bars the forecast return runs."""
        ...

    @property
    def earned(self) -> Earned | None:
        """Return the skill measured out of sample; None where nothing was measured, which counts as no skill."""
        ...

    @property
    def trained_until_ns(self) -> int | None:
        """Return the close of the newest bar the model has seen, ns UTC; None for a model that does not age."""
        ...

    def predict(self, bars: NDArray[float64]) -> RawForecast:
        """Forecast every asset in one call; ``bars`` has shape (n_assets, n_bars > lookback, 5), oldest bar first.

        Raises
        ------
        ValueError
            When the bars are too few, not finite or not positive; names the index of the asset.
        """
        ...

    @classmethod
    def load(cls, model_dir: Path | None, *, horizon_bars: int, lookback: int) -> Self:
        """Make the forecaster from its artifact folder; baselines need none."""
        ...
