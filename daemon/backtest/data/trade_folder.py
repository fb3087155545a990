"""What the ``data`` commands do with trades: list, fetch."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from daemon.backtest.data import trade_fetch as venue
from daemon.backtest.data.asking import Asker
from daemon.backtest.data.fetch import Progress
from daemon.backtest.data.trade_reader import chunks, facts_of_set
from daemon.backtest.data.trade_store import covered_in, id_before, store, writing
from daemon.backtest.data.trades import (
    DAY_NS,
    Trades,
    TradeSet,
    days_in,
    facts_of,
    folder_of,
    sets_in,
    uncovered,
)
from daemon.domain.errors import ConfigError

SAVE_PAGES: Final = 50
"""Pages fetched between two writes: what a fetch that is killed loses at most."""


class ListedTrades(msgspec.Struct, frozen=True):
    """Trades of one pair: how many, the first and the last (ns UTC), whole stretches of time, bytes."""

    file: str
    pair: str
    rows: int
    first_ns: int
    last_ns: int
    covered_ns: tuple[tuple[int, int], ...]
    bytes: int


class FetchedTrades(msgspec.Struct, frozen=True):
    """How many trades came of one pair, and what its folder holds now."""

    file: str
    rows: int
    total: int


def list_trades(folder: Path) -> Iterator[ListedTrades]:
    """Yield what the folder holds of each pair's trades; whole days are not read, only their descriptions."""
    for one in sets_in(folder):
        yield _listed(one)


def _listed(one: TradeSet) -> ListedTrades:
    rows, first, last = 0, 2**63 - 1, -1
    if not one.ours:
        for part in chunks(one):
            rows += len(part)
            first, last = min(first, int(part["ts_ns"].min())), max(last, int(part["ts_ns"].max()))
        size = one.path.stat().st_size
        return ListedTrades(one.path.name, one.pair, rows, first if rows else 0, max(last, 0), (), size)
    files = [path for _, path in days_in(one.path)]
    counts = [facts_of(path)[0] for path in files]
    filled = [path for path, count in zip(files, counts, strict=True) if count]
    if filled:
        first = int(next(iter(chunks(TradeSet(filled[0], one.pair))))["ts_ns"].min())
        last = max(int(part["ts_ns"].max()) for part in chunks(TradeSet(filled[-1], one.pair)))
    size = sum(path.stat().st_size for path in files)
    covered = facts_of_set(one).covered
    return ListedTrades(one.path.name, one.pair, sum(counts), first if filled else 0, max(last, 0), covered, size)


def chosen_trades(folder: Path, pairs: Sequence[str]) -> list[TradeSet]:
    """Return the trades meant: all, or those of the pairs that have some."""
    return [one for one in sets_in(folder) if not pairs or one.pair in pairs]


async def fetch_trades(
    asker: Asker, folder: Path, *, pair: str, since_ns: int, until_ns: int, progress: Progress
) -> FetchedTrades:
    """Fetch what of [since, until), ns UTC, the folder does not have yet; whatever stops it, what came is kept.

    Raises
    ------
    ConfigError, Unreachable
        As `trade_fetch.pages`; a single file of the pair is somebody else's and is not added to.
    AlreadyRunning
        Another process fetches the same pair.
    """
    path = _own_folder(folder, pair)
    with writing(path):
        got = await _fetch(asker, path, pair, since_ns=since_ns, until_ns=until_ns, progress=progress)
    total = sum(facts_of(file)[0] for _, file in days_in(path))
    return FetchedTrades(path.name, got, total)


def _own_folder(folder: Path, pair: str) -> Path:
    """Return where the pair's days go; refuse where somebody else's file stands for them."""
    path = folder_of(folder, pair)
    if folder.is_dir() and not path.is_dir():
        for one in sets_in(folder):
            if one.pair == pair:
                remedy = f"`ballast data import {folder}` takes it over first"
                raise ConfigError(f"{one.path}: a single file is not added to; {remedy}")
    return path


async def _fetch(asker: Asker, path: Path, pair: str, *, since_ns: int, until_ns: int, progress: Progress) -> int:
    until_ns = min(until_ns, await venue.present_ns(asker, pair, until_ns))
    begins_ns = await venue.first_ns(asker, pair)
    if begins_ns is not None:
        since_ns = max(since_ns, begins_ns // DAY_NS * DAY_NS)
    covered = covered_in(path)
    todo = uncovered(covered, since_ns, until_ns)
    whole, done, got = sum(end - begin for begin, end in todo), 0, 0
    for begin, end in todo:
        shelf = _Shelf(path, begin)
        known = id_before(path, begin, covered) if venue.by_id(asker.exchange) else None
        source = venue.pages(asker, pair, begin_ns=begin, end_ns=end, after_id=known)
        try:
            async for page in source:
                shelf.put(page)
                progress((done + page.reached_ns - begin) // venue.NS_PER_MS, whole // venue.NS_PER_MS)
        finally:
            await source.aclose()
            shelf.save()
            got += shelf.new
        done += end - begin
    progress(whole // venue.NS_PER_MS, whole // venue.NS_PER_MS)
    return got


class _Shelf:
    """Keeps pages until they are worth a write."""

    def __init__(self, path: Path, begin_ns: int) -> None:
        self.new = 0
        self._path = path
        self._from_ns = self._reached_ns = begin_ns
        self._pages: list[Trades] = []
        self._kinds: set[str] = set()

    def put(self, page: venue.Page) -> None:
        self._pages.append(page.rows)
        self._kinds.add(page.ids)
        self._reached_ns = page.reached_ns
        if len(self._pages) >= SAVE_PAGES:
            self.save()

    def save(self) -> None:
        if not self._pages:
            return
        kind = next(one for one in ("unordered", "ascending", "contiguous") if one in self._kinds)
        span = (self._from_ns, self._reached_ns)
        self.new += store(self._path, np.concatenate(self._pages), [span], kind).new
        self._from_ns = self._reached_ns
        self._pages.clear()
