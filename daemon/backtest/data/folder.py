"""What the ``data`` commands do with a whole folder: list, check, repair, import, fetch."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from daemon.backtest.data import clock
from daemon.backtest.data import fetch as venue
from daemon.backtest.data.asking import Asker
from daemon.backtest.data.check import Finding, holes, inspect
from daemon.backtest.data.files import (
    EMPTY,
    ROWS_MAX,
    CandleFile,
    Candles,
    files_in,
    iso,
    path_of,
    read,
    timeframe_ms,
    write,
)
from daemon.backtest.data.repair import Change, Source, from_finer, repair
from daemon.domain.errors import ConfigError

SAVE_PAGES: Final = 50
"""Pages fetched between two writes of the file: what an interrupted fetch loses at most."""


class Listed(msgspec.Struct, frozen=True):
    """One file: its rows, their first and last opening time (ms UTC), how many are missing between them."""

    file: str
    pair: str
    timeframe: str
    rows: int
    first_ms: int
    last_ms: int
    missing: int
    bytes: int


class Checked(msgspec.Struct, frozen=True):
    """What is wrong with one file."""

    file: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Say whether a backtest may believe the file."""
        return not any(one.is_error for one in self.findings)


class Repaired(msgspec.Struct, frozen=True):
    """What was done to one file, and the times (ms UTC) that are still wrong or missing."""

    file: str
    changes: tuple[Change, ...]
    left: tuple[int, ...]


class Imported(msgspec.Struct, frozen=True):
    """What was taken over of one file: new rows, and how many differed from what was here and stayed out."""

    file: str
    rows: int
    differing: int


class Fetched(msgspec.Struct, frozen=True):
    """How many rows came of one pair, and what the file holds now."""

    file: str
    rows: int
    total: int


def chosen(folder: Path, pairs: Sequence[str], timeframe: str) -> list[CandleFile]:
    """Return the files meant; a pair that has none is an error."""
    files = [one for one in files_in(folder) if not timeframe or one.timeframe == timeframe]
    if not pairs:
        return files
    known = {one.pair for one in files}
    for pair in pairs:
        if pair not in known:
            raise ConfigError(f"{pair}: no candles in {folder}; it holds {', '.join(sorted(known)) or 'none'}")
    return [one for one in files if one.pair in pairs]


def list_files(folder: Path) -> list[Listed]:
    """Return every file of candles with what it holds."""
    found: list[Listed] = []
    for one in files_in(folder):
        times = read(one.path).times
        lost = sum(count for _, count in holes(times, one.step_ms) if count > 0) if len(times) else 0
        first, last = (int(times.min()), int(times.max())) if len(times) else (0, 0)
        size = one.path.stat().st_size
        found.append(Listed(one.path.name, one.pair, one.timeframe, len(times), first, last, lost, size))
    return found


def check(files: Sequence[CandleFile], *, now_ms: int) -> Iterator[Checked]:
    """Look through the files; the others of the same folder bear witness to the venue's outages and to its clock."""
    if not files:
        return
    everything = files_in(files[0].path.parent)
    for timeframe in sorted({one.timeframe for one in files}, key=timeframe_ms):
        times = {one.path: np.unique(read(one.path).times) for one in everything if one.timeframe == timeframe}
        market = _market(times, timeframe_ms(timeframe))
        for one in (one for one in files if one.timeframe == timeframe):
            others = [known for path, known in times.items() if path != one.path]
            candles = read(one.path)
            findings = inspect(candles, one.step_ms, now_ms=now_ms, others=others)
            witnessed = _clocks(one, candles, market, everything)
            yield Checked(one.path.name, tuple(sorted((*findings, *witnessed), key=lambda each: not each.is_error)))


def _market(times: dict[Path, Any], step_ms: int) -> clock.Market | None:
    """Return how all pairs of a timeframe move together; None where they are too few."""
    filled = {path: known for path, known in times.items() if len(known)}
    if len(filled) <= clock.OTHERS_MIN:
        return None
    first, last = min(int(one[0]) for one in filled.values()), max(int(one[-1]) for one in filled.values())
    if (last - first) // step_ms >= ROWS_MAX:
        return None  # a time is wrong by ages, which `inspect` tells
    market = clock.Market(first // step_ms * step_ms, last, step_ms)
    for path in filled:
        market.add(read(path))
    return market


def _clocks(
    one: CandleFile, candles: Candles, market: clock.Market | None, everything: Sequence[CandleFile]
) -> list[Finding]:
    """Return what the pair's next finer candles and the other pairs say of a file's clock."""
    finer = [
        each
        for each in everything
        if each.pair == one.pair and each.step_ms < one.step_ms and not one.step_ms % each.step_ms
    ]
    found: list[Finding] = []
    if finer and len(candles):
        nearest = max(finer, key=lambda each: each.step_ms)
        if len(beside := read(nearest.path)):
            found += clock.beside_finer(candles, one.step_ms, beside, nearest.step_ms, nearest.timeframe)
    told = market.shifted(candles) if market is not None and len(candles) else None
    if told is not None and not any(each.kind == told.kind for each in found):
        found.append(told)
    return found


def mend(
    files: Sequence[CandleFile], *, online: Callable[[CandleFile], Source] | None = None, dry: bool = False
) -> Iterator[Repaired]:
    """Repair files from finer ones beside them and, when ``online`` is given, from the exchange; ``dry`` writes nothing.

    Finer files are mended first, so that coarser ones profit. The file as it was is kept beside it, once, as ``….orig``.
    """
    for one in sorted(files, key=lambda one: (one.step_ms, one.path.name)):
        sources: list[tuple[str, Source]] = [
            (f"{finer.timeframe} candles", from_finer(read(finer.path), finer.step_ms, one.step_ms))
            for finer in files_in(one.path.parent)
            if finer.pair == one.pair and finer.step_ms < one.step_ms and one.step_ms % finer.step_ms == 0
        ]
        if online is not None:
            sources.append(("the exchange", online(one)))
        mended = repair(read(one.path), one.step_ms, sources)
        if mended.changes and not dry:
            keep_original(one.path)
            write(one.path, mended.candles)
        yield Repaired(one.path.name, mended.changes, mended.left)


def keep_original(path: Path) -> None:
    """Keep a file as it is beside it, once, as ``….orig``. Raises ConfigError."""
    kept = path.with_name(path.name + ".orig")
    if not kept.exists():
        try:
            kept.hardlink_to(path)  # the file is replaced, never written in place: the link keeps the old rows
        except OSError as error:
            raise ConfigError(f"{kept}: the original cannot be kept: {error.strerror or error}") from error


def import_folder(source: Path, folder: Path) -> Iterator[Imported]:
    """Take over the candles of another folder (freqtrade's layout); rows that are here already stay as they are."""
    for one in files_in(source):
        target = path_of(folder, one.pair, one.timeframe)
        theirs = read(one.path)
        ours = read(target) if target.is_file() else EMPTY
        merged, added, differing = merge(ours, theirs)
        if added:
            write(target, merged)
        yield Imported(target.name, added, differing)


def merge(ours: Candles, theirs: Candles) -> tuple[Candles, int, int]:
    """Return both, in order, ours where both have a row; how many of theirs were new, and how many differed from ours."""
    times = np.concatenate([ours.times[::-1], theirs.times])  # where a time is here twice, its last row counts
    values = np.concatenate([ours.values[::-1], theirs.values])
    kept, first, where = np.unique(times, return_index=True, return_inverse=True)
    owner = first[where][len(ours) :]
    new = owner == np.arange(len(ours), len(times))
    here, there = values[owner], theirs.values
    same = ((here == there) | (np.isnan(here) & np.isnan(there))).all(axis=1)
    return Candles(kept, values[first]), int(new.sum()), int((~new & ~same).sum())


async def fetch(
    asker: Asker, folder: Path, *, pair: str, timeframe: str, since_ms: int, until_ms: int, progress: venue.Progress
) -> Fetched:
    """Fetch what the folder lacks of one pair in [since, until); whatever stops it, what came is kept."""
    step_ms = timeframe_ms(timeframe)
    path = path_of(folder, pair, timeframe)
    have = read(path) if path.is_file() else EMPTY
    until_ms = until_ms // step_ms * step_ms
    if not len(have):
        since_ms = await venue.listed_since(asker, pair, timeframe, since_ms)
    ranges = venue.missing(have.times, step_ms, since_ms, until_ms)
    whole = sum(end - begin for begin, end in ranges)
    pages: list[Candles] = []
    got = done = 0

    def save() -> None:
        nonlocal have
        if pages:
            times = np.concatenate([have.times, *(one.times for one in pages)])
            values = np.concatenate([have.values, *(one.values for one in pages)])
            order = np.argsort(times, kind="stable")
            have = Candles(times[order], values[order])
            write(path, have)
            pages.clear()

    try:
        for begin, end in ranges:
            async with contextlib.aclosing(
                venue.candles(asker, pair, timeframe, begin_ms=begin, end_ms=end, step_ms=step_ms)
            ) as stream:
                async for page, reached in stream:
                    pages.append(page)
                    got += len(page)
                    progress(done + min(reached, end) - begin, whole)
                    if len(pages) >= SAVE_PAGES:
                        save()
            done += end - begin
            progress(done, whole)
    finally:
        save()
    return Fetched(path.name, got, len(have))


def online_source(asker_factory: Callable[[], Asker]) -> Callable[[CandleFile], Source]:
    """Return sources that ask the exchange, for `mend`."""

    def of(file: CandleFile) -> Source:
        async def ask(begin: int, end: int) -> Candles:
            asker = asker_factory()
            try:
                parts: list[Candles] = []
                async for page, _ in venue.candles(
                    asker, file.pair, file.timeframe, begin_ms=begin, end_ms=end, step_ms=file.step_ms
                ):
                    parts.append(page)
            finally:
                await asker.exchange.close()
            if not parts:
                return EMPTY
            return Candles(np.concatenate([one.times for one in parts]), np.concatenate([one.values for one in parts]))

        return lambda begin, end: asyncio.run(ask(begin, end))

    return of


def summary(changes: Iterable[Change]) -> str:
    """Return a line that counts the changes by kind."""
    counts: dict[str, int] = {}
    for one in changes:
        counts[one.what] = counts.get(one.what, 0) + 1
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items())) or "nothing to do"


def shown(times: Sequence[int]) -> str:
    """Return a few times for a person."""
    more = f" and {len(times) - 3} more" if len(times) > 3 else ""
    return ", ".join(iso(one) for one in times[:3]) + more
