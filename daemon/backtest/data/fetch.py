"""History from an exchange, through ccxt's unified candles: in pages, in order, kept as they come, so that it can be continued.

Any exchange of ccxt that has candles will do. What is on file already is not asked for again, and a candle that has not
closed yet is not kept.
"""

from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

import numpy as np

from daemon.backtest.data.asking import Asker
from daemon.backtest.data.check import holes
from daemon.backtest.data.files import EMPTY, Candles
from daemon.domain.errors import ConfigError

PAGE: Final = 1_000
HOLES_MAX: Final = 50
"""Holes of a file that are asked for in one fetch."""
CELLS: Final = 6
"""Opening time, four prices, volume."""

Progress = Callable[[int, int], None]
"""Told (ms done, ms in all) of the range that is fetched."""


def missing(times: Any, step_ms: int, since_ms: int, until_ms: int) -> list[tuple[int, int]]:
    """Return the ranges [begin, end), ms, to be fetched: before what is on file, after it, and its holes, ascending.

    A hole may be the venue's own outage, or what a fetch that was killed left: that costs one request to know. Of very many
    only the longest are asked for; `repair` looks after the others.
    """
    since_ms = -(-since_ms // step_ms) * step_ms
    if not len(times):
        return [(since_ms, until_ms)] if since_ms < until_ms else []
    first, last = int(times.min()), int(times.max())
    inner = sorted(holes(times, step_ms), key=lambda hole: -hole[1])[:HOLES_MAX]
    ranges = [(since_ms, first), (last + step_ms, until_ms), *((at, at + count * step_ms) for at, count in inner)]
    cut = [(max(begin, since_ms), min(end, until_ms)) for begin, end in ranges]
    return sorted((begin, end) for begin, end in cut if begin < end)


async def candles(
    asker: Asker, pair: str, timeframe: str, *, begin_ms: int, end_ms: int, step_ms: int
) -> AsyncGenerator[tuple[Candles, int]]:
    """Yield pages of closed candles that open in [begin, end), oldest first, each with the time the next one starts at.

    Raises
    ------
    ConfigError
        The exchange does not know the pair or the timeframe.
    Unreachable
        It does not answer, after bounded retries.
    """
    check_timeframe(asker.exchange, timeframe)
    at = begin_ms
    while at < end_ms:
        limit = min(PAGE, (end_ms - at) // step_ms + 1)
        rows = await _page(asker, pair, timeframe, since_ms=at, limit=int(limit))
        page = _sound_page([row for row in rows if at <= int(row[0]) < end_ms])
        if len(page):
            at = int(page.times[-1]) + step_ms
            yield page, at
            continue
        later = [int(row[0]) for row in rows if int(row[0]) >= end_ms]
        if later or at + PAGE * step_ms >= end_ms:
            return  # nothing more in the range
        # Some venues answer an empty page for a time before the listing, or in a long outage: go on behind it.
        at += PAGE * step_ms


def check_timeframe(exchange: Any, timeframe: str) -> None:
    """Raise ConfigError when the exchange has no candles of a timeframe."""
    known = list(getattr(exchange, "timeframes", None) or {})
    if timeframe not in known:
        raise ConfigError(f"timeframe {timeframe}: {exchange.id} has {' '.join(known) or 'no candles'}")


async def listed_since(asker: Asker, pair: str, timeframe: str, since_ms: int) -> int:
    """Return when the exchange's candles of a pair begin, at or after ``since_ms``; asking for years of nothing takes long."""
    check_timeframe(asker.exchange, timeframe)
    rows = await _page(asker, pair, timeframe, since_ms=since_ms, limit=1)
    return max(since_ms, int(rows[0][0])) if rows else since_ms


def _sound_page(rows: list[Any]) -> Candles:
    """Return rows as an array, in order, each time once: venues repeat the last one of a page."""
    if not rows:
        return EMPTY
    times = np.array([int(row[0]) for row in rows], dtype=np.int64)
    values = np.array([[np.nan if cell is None else float(cell) for cell in row[1:6]] for row in rows])
    kept, first = np.unique(times, return_index=True)
    return Candles(kept, values[first])


async def _page(asker: Asker, pair: str, timeframe: str, *, since_ms: int, limit: int) -> list[Any]:
    async def rows() -> list[Any]:
        found = list(await asker.exchange.fetch_ohlcv(pair, timeframe, since_ms, limit))
        if not all(isinstance(row, list) and len(row) >= CELLS for row in found):
            raise ValueError("rows that are no candles")
        return found

    return await asker.ask("candles", pair, rows)
