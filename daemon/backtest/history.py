"""Candles of a data folder on one time grid: what a backtest runs on."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daemon.backtest.data.files import path_of, read
from daemon.domain.errors import ConfigError
from daemon.domain.market import NS_PER_MS

FIELDS = 5
"""open, high, low, close, volume (base units)."""


class Panel(NamedTuple):
    """Bars of all symbols on one time grid, whole and contiguous.

    ``open_ns`` (n_bars,) are the bars' opening times, ns UTC, ``values`` (n_bars, n_assets, 5) open, high, low, close
    and volume, NaN where the file has no row; ``digest`` is the sha256 of symbols, times and values.
    """

    symbols: tuple[str, ...]
    bar_ns: int
    open_ns: NDArray[np.int64]
    values: NDArray[np.float64]
    digest: str

    def part(self, first: int, last: int) -> "Panel":
        """Return the bars from ``first`` up to, not including, ``last``; a view, with the digest of the whole."""
        return self._replace(open_ns=self.open_ns[first:last], values=self.values[first:last])

    def place(self, time_ns: int) -> int:
        """Return the index of the first bar that opens at or after a time."""
        return int(np.searchsorted(self.open_ns, time_ns))


def make_panel(symbols: Sequence[str], bar_ns: int, open_ns: NDArray[np.int64], values: NDArray[np.float64]) -> Panel:
    """Return a panel of arrays that are on the grid already; checks shapes and times.

    Raises
    ------
    ValueError
        Shapes do not fit together, or the times are not contiguous.
    """
    if values.shape != (len(open_ns), len(symbols), FIELDS):
        raise ValueError(f"values {values.shape} are not ({len(open_ns)}, {len(symbols)}, {FIELDS})")
    if len(open_ns) > 1 and bool((np.diff(open_ns) != bar_ns).any()):
        raise ValueError("opening times are not contiguous")
    hasher = hashlib.sha256("\n".join((*symbols, str(bar_ns))).encode())
    hasher.update(np.ascontiguousarray(open_ns, dtype="<i8").tobytes())
    hasher.update(np.ascontiguousarray(values, dtype="<f8").tobytes())
    return Panel(tuple(symbols), bar_ns, open_ns, values, hasher.hexdigest())


def load_panel(
    folder: Path, symbols: Sequence[str], *, bar: str, bar_ns: int, start_ns: int | None, end_ns: int | None
) -> Panel:
    """Read the candles of these pairs from a folder (DESIGN A8) and align them.

    Parameters
    ----------
    folder
        Holds ``BTC_USDT-1h.parquet`` or ``.feather`` and so on.
    symbols
        Pairs in ccxt form; their order is kept.
    bar, bar_ns
        Name and length of the bar.
    start_ns, end_ns
        Opening times from ``start_ns`` up to, not including, ``end_ns``; None: what there is.

    Raises
    ------
    ConfigError
        A file is missing, unreadable, unsorted or absurd, or holds nothing in that time; one line that names it.
    """
    tables: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
    for symbol in symbols:
        path = path_of(folder, symbol, bar)
        if not path.is_file():
            raise ConfigError(
                f"{symbol}: no {bar} candles in {folder} (wanted {path.name}): `ballast data fetch` gets them"
            )
        times_ms, values = read(path)
        times = times_ms * NS_PER_MS
        kept = np.ones(len(times), dtype=np.bool_)
        if start_ns is not None:
            kept &= times >= start_ns
        if end_ns is not None:
            kept &= times < end_ns
        times, values = times[kept], values[kept]
        _check(path, times, values, bar_ns)
        tables.append((times, values))
    filled = [times for times, _ in tables if len(times)]
    if not filled:
        names = ", ".join(symbols)
        raise ConfigError(f"{folder}: no {bar} candles of {names} in that time; `ballast data list` says what there is")
    first, last = min(int(times[0]) for times in filled), max(int(times[-1]) for times in filled)
    open_ns = first + bar_ns * np.arange((last - first) // bar_ns + 1, dtype=np.int64)
    grid = np.full((len(open_ns), len(tables), FIELDS), np.nan)
    for at, (times, values) in enumerate(tables):
        grid[(times - first) // bar_ns, at] = values
    return make_panel(symbols, bar_ns, open_ns, grid)


def _check(path: Path, times: NDArray[np.int64], values: NDArray[np.float64], bar_ns: int) -> None:
    """Refuse what no engine should be fed; `ballast data check` tells more."""

    def refuse(at: Any, what: str) -> None:
        where = np.datetime64(int(times[int(at)]), "ns").astype("datetime64[s]")
        remedy = "`ballast data check` shows all, `ballast data repair` mends what can be proven"
        raise ConfigError(f"{path}: {what} at {where}Z: {remedy}")

    if not len(times):
        return
    off = np.flatnonzero(times % bar_ns)
    if len(off):
        refuse(off[0], "a candle that does not open on the grid")
    back = np.flatnonzero(np.diff(times) <= 0)
    if len(back):
        refuse(back[0] + 1, "a candle twice or out of order")
    o, h, low, c, v = values.T
    with np.errstate(invalid="ignore"):
        sound = (
            (low > 0.0)
            & (low <= np.minimum(o, c))
            & (np.maximum(o, c) <= h)
            & (v >= 0.0)
            & np.isfinite(values).all(axis=1)
        )
    if not bool(sound.all()):
        refuse(np.flatnonzero(~sound)[0], "an absurd candle")
