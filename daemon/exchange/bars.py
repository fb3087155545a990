"""Candles as integer rows, aggregated exactly from trades or from finer candles.

A row is an int64 vector of `COLUMNS`; prices are ticks, volumes lots, quote volumes ticks x lots, times ms. Sums of
integers are exact, so any candle equals the aggregation of its trades to the last unit.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from daemon.exchange.config import interval_ms
from daemon.exchange.tape import Ints, TradeBlock

__all__ = [
    "CLOSE",
    "COUNT",
    "HIGH",
    "LOW",
    "OPEN",
    "QUOTE",
    "TAKER",
    "TAKER_QUOTE",
    "TIME",
    "VOLUME",
    "aggregate",
    "fill",
    "next_open",
    "period_open",
    "period_opens",
    "second_rows",
]

TIME, OPEN, HIGH, LOW, CLOSE, VOLUME, QUOTE, COUNT, TAKER, TAKER_QUOTE = range(10)
COLUMNS: Final = 10
_SATURATED: Final = 2**63 - 2**20
_MONDAY_MS: Final = 4 * 86_400_000  # 1970-01-05, the first Monday of the epoch


def period_opens(times_ms: Ints, interval: str) -> Ints:
    """Return the opening times of the periods that hold the given times, ms UTC, same shape."""
    if interval == "1M":
        return times_ms.astype("datetime64[ms]").astype("datetime64[M]").astype("datetime64[ms]").astype(np.int64)
    step = interval_ms(interval)
    shift = _MONDAY_MS if interval == "1w" else 0
    return (times_ms - shift) // step * step + shift


def period_open(time_ms: int, interval: str) -> int:
    """Return the opening time of the period that holds time_ms."""
    if interval not in {"1M", "1w"}:
        step = interval_ms(interval)
        return time_ms // step * step
    return int(period_opens(np.array([time_ms], dtype=np.int64), interval)[0])


def next_open(open_ms: int, interval: str) -> int:
    """Return the opening time of the period after the one that opens at open_ms."""
    if interval == "1M":
        return period_open(open_ms + interval_ms("1M"), "1M")
    return open_ms + interval_ms(interval)


def _reduce(rows: Ints, starts: NDArray[np.intp]) -> Ints:
    out = np.empty((len(starts), COLUMNS), dtype=np.int64)
    ends = np.concatenate((starts[1:], [len(rows)])) - 1
    out[:, TIME] = rows[starts, TIME]
    out[:, OPEN] = rows[starts, OPEN]
    out[:, HIGH] = np.maximum.reduceat(rows[:, HIGH], starts)
    out[:, LOW] = np.minimum.reduceat(rows[:, LOW], starts)
    out[:, CLOSE] = rows[ends, CLOSE]
    out[:, VOLUME:] = np.add.reduceat(rows[:, VOLUME:], starts, axis=0)
    for column in (QUOTE, TAKER_QUOTE):  # months of a replay may exceed 64 bits of ticks x lots: saturate there
        estimate = np.add.reduceat(rows[:, column].astype(np.float64), starts)
        out[estimate > _SATURATED, column] = _SATURATED
    return out


def second_rows(block: TradeBlock, origin_ms: int, published: int | None = None) -> Ints:
    """Aggregate the first ``published`` trades of a block (all by default) into rows of one second.

    Returns
    -------
    (R, 10)
        One row per second that has trades.
    """
    count = len(block.price) if published is None else published
    if count == 0:
        return np.empty((0, COLUMNS), dtype=np.int64)
    price, qty = block.price[:count], block.qty[:count]
    bought = np.where(block.sold[:count], 0, qty)
    seconds = block.time_ms[:count] // 1000 * 1000 + origin_ms
    ones = np.ones(count, dtype=np.int64)
    rows = np.stack((seconds, price, price, price, price, qty, price * qty, ones, bought, bought * price), axis=1)
    starts = np.flatnonzero(np.concatenate(([True], np.diff(seconds) > 0)))
    return _reduce(rows, starts)


def aggregate(rows: Ints, interval: str) -> Ints:
    """Aggregate rows with trades, in time order, into the periods of an interval; periods without rows are absent."""
    if len(rows) == 0:
        return rows
    opens = period_opens(rows[:, TIME], interval)
    starts = np.flatnonzero(np.concatenate(([True], np.diff(opens) > 0)))
    out = _reduce(rows, starts)
    out[:, TIME] = opens[starts]
    return out


def fill(rows: Ints, interval: str, until_ms: int) -> Ints:
    """Insert flat rows without volume for the periods between the first row and until_ms that have no trades.

    Parameters
    ----------
    rows
        (R, 10) rows of the interval, R >= 1, in time order.
    until_ms
        The last period is the one that holds this time.
    """
    if len(rows) == 0:
        return rows
    first = int(rows[0, TIME])
    last = max(period_open(until_ms, interval), int(rows[-1, TIME]))
    if interval == "1M":
        days = np.arange(first, last + 1, 86_400_000, dtype=np.int64)
        opens = np.unique(period_opens(days, interval))
    else:
        opens = np.arange(first, last + 1, interval_ms(interval), dtype=np.int64)
    if len(opens) == len(rows):
        return rows
    source = np.searchsorted(rows[:, TIME], opens, side="right") - 1
    out = rows[source].copy()
    empty = rows[source, TIME] != opens
    close = out[empty, CLOSE][:, None]
    out[empty, OPEN : CLOSE + 1] = close
    out[empty, VOLUME:] = 0
    out[:, TIME] = opens
    return out
