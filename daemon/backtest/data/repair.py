"""Mend a file of candles: only what can be proven, and every change is told.

What proves something: two rows that are the same; the order of time; the candles of a finer timeframe in the same folder,
complete and sound, which add up to the coarser one; the exchange's own answer. A hole that nothing fills stays a hole: no
row is ever invented.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from daemon.backtest.data.check import absurd, holes
from daemon.backtest.data.files import EMPTY, Candles

SORTED, DROPPED, FILLED, REPLACED, REMOVED = "sorted", "dropped", "filled", "replaced", "removed"
ASKED_ROWS: Final = 1_000
"""Rows of a hole asked for at once."""

Source = Callable[[int, int], Candles]
"""Returns the candles that open in [begin, end), ms UTC; fewer, or none, where it has none."""


class Change(msgspec.Struct, frozen=True):
    """One thing that was done to the row that opens at a time (ms UTC), and what proves it."""

    time_ms: int
    what: str
    proof: str


class Mended(NamedTuple):
    """The rows after it, what was done, and what is still wrong and cannot be proven."""

    candles: Candles
    changes: tuple[Change, ...]
    left: tuple[int, ...]


def repair(candles: Candles, step_ms: int, sources: Sequence[tuple[str, Source]]) -> Mended:
    """Return the rows in order, without repetitions, with holes and impossible rows filled from the first source that knows.

    Parameters
    ----------
    candles
        Rows as they lie in the file.
    step_ms
        Length of a candle, ms.
    sources
        Name and source, the most trustworthy first.
    """
    changes: list[Change] = []
    times, values = candles
    if not len(times):
        return Mended(candles, (), ())
    if (np.diff(times) < 0).any():
        changes.append(Change(int(times.min()), SORTED, "time goes forward"))
    order = np.argsort(times, kind="stable")
    times, values = times[order], values[order]
    times, values, doubtful = _single(times, values, changes)
    wrong = set(doubtful) | {int(at) for at in times[absurd(values)]}
    asked = [(at, at + step_ms) for at in sorted(wrong)]
    asked += [(begin, begin + count * step_ms) for begin, count in holes(times, step_ms) if count > 0]
    if not asked:
        return Mended(Candles(times, values), tuple(changes), ())
    rows = {int(at): row for at, row in zip(times, values, strict=True)}
    for begin, end in asked:
        for name, source in sources:
            for at, row in _ask(source, begin, end, step_ms):
                if at in rows and at not in wrong:
                    continue
                if at in rows and np.array_equal(rows[at], row):
                    wrong.discard(at)  # doubtful, and right
                    continue
                changes.append(Change(at, REPLACED if at in rows else FILLED, name))
                rows[at] = row
                wrong.discard(at)
    for at in sorted(wrong):
        if bool(absurd(rows[at][None, :])[0]):
            del rows[at]
            changes.append(Change(at, REMOVED, "it cannot be true, and nobody knows better"))
    kept = np.array(sorted(rows), dtype=np.int64)
    mended = Candles(kept, np.stack([rows[int(at)] for at in kept]) if len(kept) else EMPTY.values)
    left = sorted({*(wrong & rows.keys()), *(begin for begin, count in holes(kept, step_ms) if count > 0)})
    return Mended(mended, tuple(sorted(changes, key=lambda one: (one.time_ms, one.what))), tuple(left))


def _single(
    times: NDArray[np.int64], values: NDArray[np.float64], changes: list[Change]
) -> tuple[NDArray[np.int64], NDArray[np.float64], list[int]]:
    """Keep one row of each time; return the times whose rows contradict each other too (the first is kept for now)."""
    again = np.concatenate(([False], np.diff(times) == 0))
    doubtful: list[int] = []
    for at in np.flatnonzero(again):
        if np.array_equal(values[at], values[at - 1]):
            changes.append(Change(int(times[at]), DROPPED, "the same row twice"))
        else:
            doubtful.append(int(times[at]))
    return times[~again], values[~again], doubtful


def _ask(source: Source, begin: int, end: int, step_ms: int) -> list[tuple[int, NDArray[np.float64]]]:
    """Return the sound rows a source has of a range, on the grid, a thousand at a time."""
    found: list[tuple[int, NDArray[np.float64]]] = []
    for start in range(begin, end, ASKED_ROWS * step_ms):
        stop = min(end, start + ASKED_ROWS * step_ms)
        given = source(start, stop)
        sound = ~absurd(given.values)
        for at, row, good in zip(given.times, given.values, sound, strict=True):
            if good and start <= at < stop and (int(at) - begin) % step_ms == 0:
                found.append((int(at), row))
    return found


def from_finer(finer: Candles, finer_ms: int, step_ms: int) -> Source:
    """Return a source that adds up finer candles: only from complete, sound, unambiguous ones.

    Open of the first, highest high, lowest low, close of the last, sum of the volumes.
    """
    per_row = step_ms // finer_ms
    order = np.argsort(finer.times, kind="stable")
    times, values = finer.times[order], finer.values[order]
    clean = ~absurd(values)

    def source(begin: int, end: int) -> Candles:
        made: list[tuple[int, list[float]]] = []
        for at in range(begin, end, step_ms):
            first, last = (int(one) for one in np.searchsorted(times, [at, at + step_ms]))
            part = values[first:last]
            grid = np.arange(at, at + step_ms, finer_ms)
            if last - first != per_row or not clean[first:last].all() or not np.array_equal(times[first:last], grid):
                continue
            row = [part[0, 0], part[:, 1].max(), part[:, 2].min(), part[-1, 3], part[:, 4].sum()]
            made.append((at, [float(one) for one in row]))
        if not made:
            return EMPTY
        return Candles(np.array([at for at, _ in made], dtype=np.int64), np.array([row for _, row in made]))

    return source
