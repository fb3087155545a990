"""History for training: reading it, splitting it in time order, cutting it into windows with labels."""

from hashlib import sha256
from math import sqrt
from pathlib import Path
from typing import Final
from zipfile import BadZipFile

import msgspec
import numpy as np
from numpy import float32, float64, int64
from numpy.typing import NDArray

from strategies.features import rolling_features

__all__ = ["BadHistory", "History", "Split", "Windows"]
__all__ += ["bars_needed", "cut_windows", "read_history", "split", "write_history"]

TRAIN_SHARE: Final = 0.64
VALID_SHARE: Final = 0.12
"""The rest, 24 %, is held out: it alone decides how much the mean counts."""
WINDOWS_MIN: Final = 30
"""Fewest window ends in any of the three parts."""


class BadHistory(ValueError):
    """No history, too little of it, or not in the agreed layout; one line."""


class History(msgspec.Struct, frozen=True):
    """Closed bars of all symbols on one time grid.

    ``bars`` has shape (n_assets, n_bars, 5): open, high, low, close, volume; ``close_ns`` (n_bars,) are the bars' close
    times, ns UTC, evenly spaced.
    """

    symbols: tuple[str, ...]
    close_ns: NDArray[int64]
    bars: NDArray[float64]

    @property
    def bar_ns(self) -> int:
        """Return the length of a bar in ns."""
        return int(self.close_ns[1] - self.close_ns[0])

    def digest(self) -> str:
        """Return the sha256 of symbols, times and bars."""
        hasher = sha256("\n".join(self.symbols).encode())
        hasher.update(np.ascontiguousarray(self.close_ns, dtype="<i8").tobytes())
        hasher.update(np.ascontiguousarray(self.bars, dtype="<f8").tobytes())
        return hasher.hexdigest()


class Split(msgspec.Struct, frozen=True):
    """Ranges of window ends, half open, in time order; labels of one part end before the next part's first window."""

    train: tuple[int, int]
    valid: tuple[int, int]
    held: tuple[int, int]


class Windows(msgspec.Struct, frozen=True):
    """Model inputs with labels.

    ``X`` (n_assets, n_ends, lookback, n_features); ``y`` (n_assets, n_ends, last) the simple returns over the horizon
    after each of the window's ``last`` bars, and ``unit`` (n_assets, n_ends) = sigma·sqrt(horizon), by which ``y`` is
    divided already; ``ends`` (n_ends,) the index of each window's newest bar.
    """

    X: NDArray[float32]
    y: NDArray[float64]
    unit: NDArray[float64]
    ends: NDArray[int64]


def read_history(path: Path) -> History:
    """Read ``symbols`` (n_assets,), ``close_ns`` (n_bars,) and ``bars`` (n_assets, n_bars, 5) from an npz file.

    Raises
    ------
    BadHistory
        When the file is missing, damaged or laid out otherwise; pickled arrays are refused.
    """
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:  # numpy leaks a file it cannot read
            symbols = tuple(str(s) for s in file["symbols"])
            close_ns = np.asarray(file["close_ns"], dtype=int64)
            bars = np.asarray(file["bars"], dtype=float64)
    except FileNotFoundError:
        raise BadHistory(f"{path}: no such file; fetch history first") from None
    except (OSError, BadZipFile, KeyError, ValueError, EOFError) as error:
        raise BadHistory(f"{path}: not a history file ({error}); fetch it again") from None
    return _checked(History(symbols=symbols, close_ns=close_ns, bars=bars))


def write_history(path: Path, history: History) -> None:
    """Write the layout that `read_history` reads."""
    _checked(history)
    with path.open("wb") as file:  # a file object: numpy appends no suffix to the name
        np.savez(file, symbols=np.array(history.symbols), close_ns=history.close_ns, bars=history.bars)


def split(n_bars: int, *, lookback: int, horizon_bars: int) -> Split:
    """Split window ends 64/12/24 in time order with an embargo of ``horizon_bars`` between the parts.

    A window that ends at bar t has its label at t + horizon_bars, so labels of one part are known before the first
    window of the next one closes. Purging and embargo: López de Prado, Advances in Financial Machine Learning, 7.4.

    Raises
    ------
    BadHistory
        When a part would have fewer than 30 window ends; says how many bars are needed.
    """
    first, last = lookback, n_bars - horizon_bars  # ends first..last-1 have a full window and a label
    usable = last - first
    train_end = first + int(usable * TRAIN_SHARE)
    valid_end = train_end + int(usable * VALID_SHARE)
    parts = Split(
        train=(first, train_end - horizon_bars),
        valid=(train_end, valid_end - horizon_bars),
        held=(valid_end, last),
    )
    if min(b - a for a, b in (parts.train, parts.valid, parts.held)) < WINDOWS_MIN:
        raise BadHistory(
            f"{max(n_bars, 0)} bars of history are too few for lookback {lookback} and horizon_bars {horizon_bars}; "
            f"at least {bars_needed(lookback, horizon_bars)} are needed"
        )
    return parts


def bars_needed(lookback: int, horizon_bars: int) -> int:
    """Return how many bars `split` takes at least."""
    return lookback + horizon_bars + int((WINDOWS_MIN + horizon_bars + 1) / VALID_SHARE) + 1


def cut_windows(history: History, ends: NDArray[int64], *, lookback: int, horizon_bars: int, last: int) -> Windows:
    """Cut windows at ``ends`` and label their ``last`` newest bars with the return of the next ``horizon_bars``."""
    X, sigma = rolling_features(history.bars, lookback, ends)
    unit = sigma * sqrt(horizon_bars)
    at = ends[:, np.newaxis] + np.arange(1 - last, 1)
    closes = history.bars[:, :, 3]
    returns = closes[:, at + horizon_bars] / closes[:, at] - 1.0
    return Windows(X=X, y=returns / unit[:, :, np.newaxis], unit=unit, ends=ends)


def _checked(history: History) -> History:
    """Return the history when its shapes agree and its time grid is even."""
    n_assets, n_bars = len(history.symbols), history.close_ns.size
    if n_assets == 0 or n_bars < 2:
        raise BadHistory(f"no history: {n_assets} symbols, {n_bars} bars; fetch some first")
    if history.bars.shape != (n_assets, n_bars, 5):
        raise BadHistory(f"bars have shape {history.bars.shape}, symbols and close_ns say {(n_assets, n_bars, 5)}")
    steps = np.diff(history.close_ns)
    if steps[0] <= 0 or (steps != steps[0]).any():
        bar = int(np.argmax((steps != steps[0]) | (steps <= 0))) + 1
        raise BadHistory(f"close times are not evenly spaced at bar {bar}; fill or cut the history there")
    return history
