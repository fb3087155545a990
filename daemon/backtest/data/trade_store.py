"""Add trades to the folder of a pair: merged into their days, each with the stretch of time that is now known whole."""

import fcntl
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from daemon.backtest.data.trades import (
    DAY_NS,
    NO_TRADES,
    TRADE,
    Facts,
    Span,
    Trades,
    day_path,
    days_in,
    facts_of,
    last_row,
    merged,
    read_day,
    uncovered,
    write_day,
)
from daemon.domain.errors import AlreadyRunning, ConfigError

CONTIGUOUS, ASCENDING, UNORDERED = "contiguous", "ascending", "unordered"
DAYS_MAX: Final = 40_000
"""More days than this in one stretch (a century) are a broken time, not a history."""


class Stored(NamedTuple):
    """What became of rows: how many were new, and how many had an id that was here with other contents and stayed out."""

    new: int
    differing: int


def store(path: Path, rows: Trades, spans: Sequence[Span], ids: str) -> Stored:
    """Add rows to a folder of days, and the stretches [begin, end), ns UTC, of which they are all.

    Rows that are here already stay as they are. Each day is replaced whole; a process killed between two days leaves the
    later one to be fetched again.

    Raises
    ------
    ConfigError
        The folder cannot be read or written.
    """
    new = differing = 0
    days = rows["ts_ns"] // DAY_NS
    wanted = {int(day) for day in np.unique(days)}
    if sum(max(end - begin, 0) for begin, end in spans) > DAYS_MAX * DAY_NS or len(wanted) > DAYS_MAX:
        raise ConfigError(f"{path}: more than {DAYS_MAX} days at once; is a time wrong?")
    for first, last in spans:
        wanted |= set(range(first // DAY_NS, (last - 1) // DAY_NS + 1)) if first < last else set()
    for day in sorted(wanted):
        begin = day * DAY_NS
        file = day_path(path, begin)
        old, facts = read_day(file) if file.is_file() else (NO_TRADES, Facts(ids=ids))
        kind = _kind(facts.ids, ids)
        whole, added, other = merge(old, rows[days == day], kind)
        told = [(max(first, begin), min(last, begin + DAY_NS)) for first, last in spans]
        covered = merged([*facts.covered, *told])
        if added or covered != facts.covered or kind != facts.ids or not file.is_file():
            write_day(file, whole, Facts(covered, kind))
        new += added
        differing += other
    return Stored(new, differing)


def _kind(known: str, told: str) -> str:
    """Return what is known of a day's ids: disorder stays; who fetched by id knows more than who imported."""
    if UNORDERED in (known, told):
        return UNORDERED
    return CONTIGUOUS if CONTIGUOUS in (known, told) else ASCENDING


def merge(ours: Trades, theirs: Trades, kind: str) -> tuple[Trades, int, int]:
    """Return both in order, ours where both have an id; how many of theirs were new, and how many differed from ours."""
    both = np.concatenate([ours, theirs])
    by_id = np.argsort(both["id"], kind="stable")
    ids = both["id"][by_id]
    again = np.concatenate(([False], ids[1:] == ids[:-1])) if len(ids) else np.empty(0, dtype=np.bool_)
    first = by_id[~again]
    owner = np.repeat(first, np.diff(np.append(np.flatnonzero(~again), len(ids)))) if len(ids) else by_id
    late = by_id[again]
    from_theirs = late >= len(ours)
    differing = int((both[late] != both[owner[again]])[from_theirs].sum())
    kept = np.sort(first) if kind == UNORDERED else first
    whole = both[kept]
    if kind == UNORDERED:
        whole = whole[np.argsort(whole["ts_ns"], kind="stable")]
    return whole, int((first >= len(ours)).sum()), differing


def covered_in(path: Path) -> tuple[Span, ...]:
    """Return the stretches of time of which the folder has every trade. Raises ConfigError."""
    return merged([span for _, file in days_in(path) for span in facts_of(file)[1].covered])


def holes_in(ordered: Trades, covered: Sequence[Span]) -> list[int]:
    """Return after which rows (in the order of contiguous ids) ids are missing that should be here: their time is covered.

    Without covered stretches (a folder of somebody else's making) every missing id counts.
    """
    holes = np.flatnonzero(np.diff(ordered["id"]) > 1)
    if not covered:
        return [int(at) for at in holes]
    times = ordered["ts_ns"]
    return [int(at) for at in holes if not uncovered(covered, int(times[at]), int(times[at + 1]))]


def id_before(path: Path, at_ns: int, covered: tuple[Span, ...]) -> int | None:
    """Return the id of the newest trade up to ``at_ns`` when nothing can lie between it and that time; None otherwise."""
    begin = next((start for start, end in covered if end == at_ns), None)
    if begin is None:
        return None
    for day_ns, file in reversed(days_in(path)):
        if day_ns > at_ns:
            continue
        if day_ns + DAY_NS <= begin:
            return None
        newest = last_row(file)
        if len(newest) and int(newest["ts_ns"][0]) > at_ns:
            newest = read_day(file)[0]
            newest = newest[newest["ts_ns"] <= at_ns][-1:]
        if len(newest):
            return int(newest["id"][0]) if int(newest["ts_ns"][0]) >= begin else None
    return None


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Keep others from adding to the same pair meanwhile: two of them would undo each other's days.

    Raises
    ------
    AlreadyRunning
        Another process adds to it.
    ConfigError
        The folder cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        handle = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AlreadyRunning(f"{path}: another `ballast data` is writing here; wait for it to end") from None
        yield
    finally:
        os.close(handle)


def by_day(rows: Trades) -> Iterator[tuple[int, Trades]]:
    """Yield rows by UTC day: (midnight, ns; rows), in the order in which the days come."""
    days = rows["ts_ns"] // DAY_NS
    cuts = (np.flatnonzero(np.diff(days)) + 1).tolist()
    for part in np.split(rows, cuts):
        if len(part):
            yield int(part["ts_ns"][0]) // DAY_NS * DAY_NS, part


def empty() -> Trades:
    """Return no trades."""
    return np.empty(0, dtype=TRADE)
