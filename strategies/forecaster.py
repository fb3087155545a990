"""The seam between forecasting and optimising: what every forecaster is and what it answers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

import msgspec
from numpy import float64
from numpy.typing import NDArray

from strategies.skill import Earned

__all__ = ["AsksForecaster", "Batched", "Forecaster", "RawForecast"]


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


@runtime_checkable
class Batched(Protocol):
    """What a forecaster may offer besides: many closes in one call. Whoever offers it declares itself pure.

    A backtest then asks it ahead: for closes that the run has not come to yet, each from its own bars, and serves the
    answers when the run comes there with exactly these bars. So an answer may depend on the newest ``lookback + 1`` bars
    that are handed over and on nothing else: no clock, no memory of earlier calls, no draw of lots, no other window.
    """

    def predict_many(self, windows: Sequence[NDArray[float64]]) -> list[RawForecast]:
        """Return ``[predict(one) for one in windows]``, equal to the last bit, in whatever way is fastest.

        Each window has shape (n_assets, lookback + 1, 5); the number of assets may change between them.

        Raises
        ------
        ValueError
            As `Forecaster.predict`; then they are asked one by one, when their time comes.
        """
        ...


@runtime_checkable
class AsksForecaster(Protocol):
    """A strategy that asks a forecaster with the bars of the sound assets of its view, once a decision."""

    def forecast_through(self, wrap: Callable[[Forecaster], Forecaster]) -> None:
        """Ask what ``wrap`` makes of the forecaster that serves now, and of each that is loaded later."""
        ...
