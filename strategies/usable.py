"""Which assets can be decided on: the same judgement where a decision is made and where forecasts are made ahead of it."""

from typing import TYPE_CHECKING

import numpy as np

from strategies.covariance import RETURNS_MIN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from strategies.forecaster import Forecaster

PRICES = 4
"""open, high, low and close, the first columns of a bar; volume follows."""


def bars_needed(forecaster: "Forecaster") -> int:
    """Return how many bars of an asset must be usable before it is decided on."""
    return max(forecaster.lookback, RETURNS_MIN) + 1


def sound_assets(bars: "NDArray[np.float64]") -> "NDArray[np.bool_]":
    """Return which assets (n_assets,) have only finite numbers and positive prices in bars (n_assets, n_bars, 5)."""
    # The smallest price carries NaN on: two looks judge nearly every window whole, at half the cost of asset by asset.
    if bool(bars[:, :, :PRICES].min(initial=np.inf) > 0.0) and bool(np.isfinite(bars).all()):
        return np.ones(bars.shape[0], dtype=np.bool_)
    finite = np.isfinite(bars).all(axis=(1, 2))
    return np.logical_and(finite, (bars[:, :, :PRICES] > 0.0).all(axis=(1, 2)))
