"""Stage 4: closed bars to the model's input, the same function online and in training.

Per asset and window: the log returns of open, high, low and close against the previous close, divided by the window's
own volatility, and the log volume, standardised over the window. Nothing outside the window is read, so a value can
depend on the past only; returns are not centred, since a mean over the window would tell early bars about later ones.
"""

from typing import Final

import numpy as np
from numpy import float32, float64, int64
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

__all__ = ["FEATURES", "SCALER", "SIGMA_MIN", "make_features", "rolling_features"]

FEATURES: Final[tuple[str, ...]] = ("open_return", "high_return", "low_return", "close_return", "log_volume")
"""Names and order of the last axis of the model's input; an artifact that says otherwise is refused."""
SCALER: Final = "window: returns / rms of close returns, log1p(volume / mean) standardised, clipped at 10"
"""How they are scaled; whoever changes what `make_features` computes changes this line, and old models are refused."""

SIGMA_MIN: Final = 1e-7
"""Floor of the volatility estimate per bar, a fraction: a window without any move still has a scale."""
CLIP: Final = 10.0
"""Largest size of a feature, in units of its own standard deviation: one absurd wick must not own the window."""
_FLAT: Final = 1e-6
_COLUMNS: Final = 5
_CHUNK: Final = 4096


def make_features(bars: NDArray[float64], lookback: int) -> tuple[NDArray[float32], NDArray[float64]]:
    """Make the model's input from the newest ``lookback`` bars of every asset.

    Parameters
    ----------
    bars
        Shape (n_assets, n_bars, 5), n_bars > lookback: open, high, low, close, volume, oldest first. Empty bars
        (all prices the previous close, no volume) are fine.
    lookback
        Bars per window, at least 2; one bar more is read for the first return.

    Returns
    -------
    X
        Shape (n_assets, lookback, n_features), in the order of `FEATURES`, each within ±`CLIP`.
    sigma
        Shape (n_assets,): root mean square of the window's log close returns, a fraction per bar, > 0.

    Raises
    ------
    ValueError
        On a wrong shape, too few bars, or a price or volume that is not finite, not positive (price) or negative
        (volume); names the index of the asset.
    """
    if bars.ndim != 3 or bars.shape[2] != _COLUMNS:
        raise ValueError(f"bars have shape {bars.shape}, must be (n_assets, n_bars, {_COLUMNS})")
    if lookback < 2 or bars.shape[1] <= lookback:
        raise ValueError(f"{bars.shape[1]} bars given, a lookback of {max(lookback, 2)} needs {max(lookback, 2) + 1}")
    # A contiguous copy, one row per column and asset: reductions and logarithms then run over the same memory layout
    # whatever the caller's array looks like, which is what makes online and offline equal to the last bit.
    window = np.ascontiguousarray(bars[:, -(lookback + 1) :, :].transpose(2, 0, 1), dtype=float64)
    _require_sound(window)
    logs = np.log(window[:4])
    returns = logs[:, :, 1:] - logs[3, :, :-1]
    sigma = np.maximum(np.sqrt(np.mean(np.square(returns[3]), axis=1)), SIGMA_MIN)
    returns /= sigma[:, np.newaxis]

    volume = np.ascontiguousarray(window[4, :, 1:])
    largest = volume.max(axis=1, keepdims=True)
    volume /= np.where(largest > 0, largest, 1.0)  # scale-free, and its mean cannot overflow
    mean = volume.mean(axis=1, keepdims=True)
    level = np.log1p(volume / np.where(mean > 0, mean, 1.0))
    level -= level.mean(axis=1, keepdims=True)
    spread = np.sqrt(np.mean(np.square(level), axis=1, keepdims=True))
    level /= np.where(spread > _FLAT, spread, 1.0)

    X = np.empty((bars.shape[0], lookback, len(FEATURES)), dtype=float32)
    X[:, :, :4] = np.clip(returns, -CLIP, CLIP).transpose(1, 2, 0)
    X[:, :, 4] = np.clip(level, -CLIP, CLIP)
    return X, sigma


def rolling_features(
    bars: NDArray[float64], lookback: int, ends: NDArray[int64]
) -> tuple[NDArray[float32], NDArray[float64]]:
    """Make the inputs of many windows of whole series with `make_features` itself (training, evaluation).

    Parameters
    ----------
    bars
        Shape (n_assets, n_bars, 5).
    lookback
        Bars per window.
    ends
        Shape (n_ends,): index of the newest bar of each window, lookback <= end < n_bars.

    Returns
    -------
    X
        Shape (n_assets, n_ends, lookback, n_features).
    sigma
        Shape (n_assets, n_ends).

    Raises
    ------
    ValueError
        As `make_features`, and when an end has no full window before it.
    """
    n_assets, n_bars = bars.shape[:2]
    if ends.size and (ends.min() < lookback or ends.max() >= n_bars):
        raise ValueError(f"window ends {ends.min()}..{ends.max()} must lie in {lookback}..{n_bars - 1}")
    _require_sound(bars.transpose(2, 0, 1))  # here, where the index of the asset is known
    X = np.empty((n_assets, ends.size, lookback, len(FEATURES)), dtype=float32)
    sigma = np.empty((n_assets, ends.size), dtype=float64)
    for asset in range(n_assets):
        windows = sliding_window_view(bars[asset], lookback + 1, axis=0)  # (n_windows, 5, lookback + 1), no copy
        for start in range(0, ends.size, _CHUNK):
            part = slice(start, start + _CHUNK)
            chosen = windows[ends[part] - lookback].transpose(0, 2, 1)
            X[asset, part], sigma[asset, part] = make_features(chosen, lookback)
    return X, sigma


def _require_sound(window: NDArray[float64]) -> None:
    """Raise unless every price is finite and > 0 and every volume finite and >= 0; window (5, n_assets, n_bars)."""
    prices, volumes = window[:4], window[4]
    # min and max propagate NaN, so four reductions judge everything.
    if prices.min(initial=1.0) > 0 and volumes.min(initial=0.0) >= 0 and np.isfinite(window.max(initial=1.0)):
        return
    sound = (np.isfinite(window).all(axis=0)) & (prices > 0).all(axis=0) & (volumes >= 0)
    asset, bar = (int(i) for i in np.argwhere(~sound)[0])
    values = ", ".join(f"{v:g}" for v in window[:, asset, bar])
    raise ValueError(
        f"asset {asset}: bar {bar} of the window is not usable (open, high, low, close, volume = {values}); "
        "prices must be finite and positive, volume finite and not negative"
    )
