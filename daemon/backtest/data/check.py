"""What is wrong with a file of candles: everything that a backtest on it would silently believe.

An *error* is a row that cannot be true or a time that is missing, doubled or shifted; a *note* is what markets do (no volume) and
a person may want to know.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from daemon.backtest.data.files import Candles, iso

SPIKE: Final = 10.0
"""A close this many times away from both neighbours, which agree with each other within ``CALM``, is none; nor is such a wick."""
CALM: Final = 2.0
SHOWN_MAX: Final = 50
"""Places listed per kind; the count is always whole."""

WITNESSES_MIN: Final = 3
"""So many other pairs must lack the same candle before it counts as the venue's own outage."""

GAP, OUTAGE, DUPLICATE, CONFLICT, UNSORTED, OFF_GRID, ABSURD, SPIKED, ZERO_VOLUME, OPEN = (
    "gap", "outage", "duplicate", "conflict", "unsorted", "off_grid", "absurd", "spike", "zero_volume", "unclosed",
)  # fmt: skip
BACKWARDS, JITTER, HUGE, SHIFTED, DIFFERS, UNKNOWN, FOREIGN = (
    "backwards", "jitter", "huge", "shifted", "differs", "unfetched", "wrong_day",
)  # fmt: skip
"""What there is of trades besides."""
NOTES: Final = frozenset({OUTAGE, ZERO_VOLUME, JITTER, DIFFERS})

Mask = NDArray[np.bool_]


class Finding(msgspec.Struct, frozen=True):
    """One kind of trouble: how many rows, and where the first are (opening times, ms UTC, with what is seen there)."""

    kind: str
    rows: int
    places: tuple[tuple[int, str], ...]

    @property
    def is_error(self) -> bool:
        """Say whether a backtest must not believe the file as it is."""
        return self.kind not in NOTES

    def text(self) -> str:
        """Return one line for a person."""
        shown = "; ".join(f"{iso(at)} {what}".strip() for at, what in self.places[:3])
        more = f"; … {len(self.places) - 3} more" if len(self.places) > 3 else ""
        return f"{self.kind}: {self.rows} {'row' if self.rows == 1 else 'rows'}: {shown}{more}"


def inspect(
    candles: Candles, step_ms: int, *, now_ms: int, others: Sequence[NDArray[np.int64]] = ()
) -> tuple[Finding, ...]:
    """Return everything that is wrong, errors first.

    Parameters
    ----------
    candles
        Rows as they lie in the file.
    step_ms
        Length of a candle, ms.
    now_ms
        The present: a candle that has not closed by then is no history.
    others
        Sorted opening times of other pairs of the same venue and timeframe: what all of them lack was an outage.
    """
    times, values = candles
    if not len(times):
        return ()
    found = [
        _rows(UNSORTED, times, np.concatenate(([False], np.diff(times) < 0))),
        *_doubled(candles),
        _off_grid(times, step_ms),
        _rows(ABSURD, times, absurd(values), [why(row) for row in values[absurd(values)][:SHOWN_MAX]]),
        _spikes(candles),
        *_gaps(times, step_ms, others),
        _rows(OPEN, times, times + step_ms > now_ms),
        _rows(ZERO_VOLUME, times, values[:, 4] == 0.0),
    ]
    kept = [one for one in found if one is not None]
    return tuple(sorted(kept, key=lambda one: not one.is_error))


def absurd(values: NDArray[np.float64]) -> Mask:
    """Return (n,) which rows cannot be true: not finite, a price of 0 or less, a range that leaves out its own ends."""
    opened, high, low, closed, volume = values.T
    with np.errstate(invalid="ignore"):
        sound = (
            np.isfinite(values).all(axis=1)
            & (low > 0.0)
            & (low <= np.minimum(opened, closed))
            & (high >= np.maximum(opened, closed))
            & (volume >= 0.0)
        )
    unsound: Mask = np.logical_not(sound)
    return unsound


def why(row: NDArray[np.float64]) -> str:
    """Return what is wrong with a row that cannot be true."""
    opened, high, low, closed, volume = (float(one) for one in row)
    if not np.isfinite(row).all():
        return "not a number"
    if min(opened, high, low, closed) <= 0.0:
        return f"price {min(opened, high, low, closed):g}"
    if volume < 0.0:
        return f"volume {volume:g}"
    return f"high {high:g} below open or close" if high < max(opened, closed) else f"low {low:g} above open or close"


def _rows(kind: str, times: NDArray[np.int64], mask: Mask, words: list[str] | None = None) -> Finding | None:
    places = np.flatnonzero(mask)
    if not len(places):
        return None
    texts = words or [""] * SHOWN_MAX
    shown = tuple((int(times[at]), text) for at, text in zip(places[:SHOWN_MAX], texts, strict=False))
    return Finding(kind, len(places), shown)


def _doubled(candles: Candles) -> list[Finding | None]:
    """Return rows whose time has been there before: with the same numbers, or with others."""
    times, values = candles
    order = np.argsort(times, kind="stable")
    again = np.concatenate(([False], np.diff(times[order]) == 0))
    same = np.zeros(len(times), dtype=bool)
    same[1:] = (values[order][1:] == values[order][:-1]).all(axis=1)
    ordered = times[order]
    return [_rows(DUPLICATE, ordered, again & same), _rows(CONFLICT, ordered, again & ~same)]


def _off_grid(times: NDArray[np.int64], step_ms: int) -> Finding | None:
    """Return rows that do not open on the timeframe's grid from the epoch; a constant distance is a shifted clock.

    Weeks begin on Monday, as at every exchange; the epoch was a Thursday.
    """
    origin = 4 * 86_400_000 if step_ms % 604_800_000 == 0 else 0
    past = (times - origin) % step_ms
    words = [f"{int(one) / 1_000:g} s after its grid" for one in past[past != 0][:SHOWN_MAX]]
    return _rows(OFF_GRID, times, past != 0, words)


def _spikes(candles: Candles) -> Finding | None:
    """Return rows with a close far from both neighbours while those agree, or a high or low far from all closes around."""
    closes, high, low = candles.values[:, 3], candles.values[:, 1], candles.values[:, 2]
    mask = np.zeros(len(closes), dtype=bool)
    words: dict[int, str] = {}
    if len(closes) > 2:
        with np.errstate(invalid="ignore", divide="ignore"):
            left, mid, right = np.log(closes[:-2]), np.log(closes[1:-1]), np.log(closes[2:])
            far = np.minimum(np.abs(mid - left), np.abs(mid - right)) > np.log(SPIKE)
            mask[1:-1] = far & (np.abs(left - right) < np.log(CALM))
            top, bottom = np.maximum(np.maximum(left, mid), right), np.minimum(np.minimum(left, mid), right)
            wick_up, wick_down = np.log(high[1:-1]) - top > np.log(SPIKE), bottom - np.log(low[1:-1]) > np.log(SPIKE)
        words |= {int(at) + 1: f"low {low[at + 1]:g}" for at in np.flatnonzero(wick_down)}
        words |= {int(at) + 1: f"high {high[at + 1]:g}" for at in np.flatnonzero(wick_up)}
        words |= {int(at): f"close {closes[at]:g}" for at in np.flatnonzero(mask)}
        mask[1:-1] |= wick_up | wick_down
    shown = [words[int(at)] for at in np.flatnonzero(mask)[:SHOWN_MAX]]
    return _rows(SPIKED, candles.times, mask, shown)


def holes(times: NDArray[np.int64], step_ms: int) -> list[tuple[int, int]]:
    """Return what is missing between the first and the last row: (opening time of the first missing, how many)."""
    known = np.unique(times)
    jumps = np.diff(known)
    return [(int(known[at]) + step_ms, int(jumps[at] // step_ms) - 1) for at in np.flatnonzero(jumps > step_ms)]


def _gaps(times: NDArray[np.int64], step_ms: int, others: Sequence[NDArray[np.int64]]) -> list[Finding | None]:
    """Return what only this file lacks, and what the venue itself did not have."""
    found: dict[str, list[tuple[int, int]]] = {GAP: [], OUTAGE: []}
    for begin, count in holes(times, step_ms):
        if count > 0:
            found[OUTAGE if was_outage(begin, count, step_ms, others) else GAP].append((begin, count))
    return [_hole(kind, missing) for kind, missing in found.items()]


def _hole(kind: str, missing: list[tuple[int, int]]) -> Finding | None:
    if not missing:
        return None
    places = tuple((at, f"{count} missing") for at, count in missing[:SHOWN_MAX])
    return Finding(kind, sum(count for _, count in missing), places)


def was_outage(begin_ms: int, count: int, step_ms: int, others: Sequence[NDArray[np.int64]]) -> bool:
    """Say whether nobody has a candle of a hole: every pair that has rows before and after it lacks all of it."""
    end_ms = begin_ms + count * step_ms
    witnesses = 0
    for times in others:
        if not len(times) or times[0] >= begin_ms or times[-1] < end_ms:
            continue  # listed later, or ended before: it knows nothing about it
        if np.searchsorted(times, begin_ms) != np.searchsorted(times, end_ms):
            return False
        witnesses += 1
    return witnesses >= WITNESSES_MIN
