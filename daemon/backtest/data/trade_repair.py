"""Mend recorded trades: only what can be proven, and every change is told.

What proves something: two rows that are the same; the order of ids; the exchange's own answer about an id. A missing trade that
nobody sends stays missing; the time of a row that was taken out no longer counts as fetched. Time that was never fetched is no
hole: `fetch` looks after it.
"""

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

from daemon.backtest.data import trade_fetch as venue
from daemon.backtest.data.asking import Asker
from daemon.backtest.data.folder import Repaired, keep_original
from daemon.backtest.data.repair import DROPPED, FILLED, REMOVED, SORTED, Change
from daemon.backtest.data.trade_reader import sound
from daemon.backtest.data.trade_store import CONTIGUOUS, UNORDERED, covered_in, holes_in, store, writing
from daemon.backtest.data.trades import (
    DAY_NS,
    NO_TRADES,
    Facts,
    Span,
    Trades,
    TradeSet,
    days_in,
    read_day,
    uncovered,
    write_day,
)

NS_PER_MS: Final = 1_000_000
MOVED: Final = "moved"
CHANGES_MAX: Final = 10_000
"""Changes of one day that are told one by one; what lies beyond is done all the same."""

Ids = Callable[[str, list[tuple[int, int]]], Trades]
"""Returns the trades of a pair with ids in ranges [first, last], as far as the exchange has them."""


class _Cleaned(NamedTuple):
    rows: Trades
    strays: Trades
    changes: list[Change]
    doubtful: list[int]
    """Times, ns, of rows that were taken out without a substitute."""


def mend_trades(one: TradeSet, *, online: Ids | None = None, dry: bool = False) -> Repaired:
    """Repair a pair's days; with ``online`` missing and impossible trades are asked for again; ``dry`` writes nothing.

    A day as it was is kept beside it, once, as ``….orig``. Single files are read as they are: nothing is done to them.
    """
    if not one.ours:
        return Repaired(one.path.name, (), ())
    if dry:
        return _mend(one, online=online, dry=True)
    with writing(one.path):
        return _mend(one, online=online, dry=False)


def _mend(one: TradeSet, *, online: Ids | None, dry: bool) -> Repaired:
    changes: list[Change] = []
    missing: list[tuple[int, int, int]] = []
    strays: list[Trades] = []
    last = NO_TRADES
    contiguous = True
    covered = covered_in(one.path)
    for day_ns, path in days_in(one.path):
        rows, facts = read_day(path)
        done = _clean(rows, day_ns, facts)
        contiguous &= facts.ids == CONTIGUOUS
        if facts.ids == CONTIGUOUS:
            missing += _missing(np.concatenate([last, done.rows]), covered)
        if done.changes:
            changes += done.changes
            strays.append(done.strays)
            if not dry:
                keep_original(path)
                write_day(path, done.rows, Facts(_without(facts.covered, done.doubtful), facts.ids))
        last = done.rows[-1:] if len(done.rows) else last
    if strays and not dry:
        store(one.path, np.concatenate(strays), [], CONTIGUOUS if contiguous else UNORDERED)
    left = missing
    if missing and online is not None:
        found = online(one.pair, [(first, end) for first, end, _ in missing])
        if not dry:
            store(one.path, found, [_around(row) for row in found], CONTIGUOUS)
        changes += [Change(int(row["ts_ns"]) // NS_PER_MS, FILLED, "the exchange") for row in found[:CHANGES_MAX]]
        known = set(found["id"].tolist())
        left = [hole for hole in missing if not known.issuperset(range(hole[0], hole[1] + 1))]
    times = tuple(sorted({at // NS_PER_MS for _, _, at in left}))
    return Repaired(one.path.name, tuple(sorted(changes, key=lambda each: (each.time_ms, each.what))), times)


def _clean(rows: Trades, day_ns: int, facts: Facts) -> _Cleaned:
    """Return a day in order, without repetitions, impossible rows and rows of other days."""
    changes: list[Change] = []

    def told(what: str, some: Trades, proof: str) -> None:
        changes.extend(Change(int(at) // NS_PER_MS, what, proof) for at in some["ts_ns"][:CHANGES_MAX])

    key = "ts_ns" if facts.ids == UNORDERED else "id"
    if (np.diff(rows[key]) < 0).any():
        changes.append(Change(day_ns // NS_PER_MS, SORTED, "ids rise" if key == "id" else "time goes forward"))
    rows = rows[np.argsort(rows[key], kind="stable")]
    by_id = rows[np.argsort(rows["id"], kind="stable")]
    again = np.flatnonzero(np.diff(by_id["id"]) == 0)
    same = by_id[again] == by_id[again + 1]
    told(DROPPED, by_id[again[same]], "the same trade twice")
    disputed = np.unique(by_id["id"][again[~same]])
    _, first = np.unique(rows["id"], return_index=True)
    rows = rows[np.sort(first)]
    wrong = ~sound(rows) | np.isin(rows["id"], disputed)
    told(REMOVED, rows[wrong], "it cannot be true, or two rows contradict each other")
    doubtful = [int(at) for at in rows["ts_ns"][wrong]]
    rows = rows[~wrong]
    outside = (rows["ts_ns"] < day_ns) | (rows["ts_ns"] >= day_ns + DAY_NS)
    told(MOVED, rows[outside], "its time is of another day")
    return _Cleaned(rows[~outside], rows[outside], changes, doubtful)


def _missing(ordered: Trades, covered: tuple[Span, ...]) -> list[tuple[int, int, int]]:
    """Return the ranges of ids that are missing: (first, last, time of the trade before, ns)."""
    return [
        (int(ordered["id"][at]) + 1, int(ordered["id"][at + 1]) - 1, int(ordered["ts_ns"][at]))
        for at in holes_in(ordered, covered)
    ]


def _without(covered: tuple[Span, ...], times: list[int]) -> tuple[Span, ...]:
    """Return stretches without these times, ns."""
    taken = [(at, at + 1) for at in times]
    return tuple(part for first, end in covered for part in uncovered(taken, first, end))


def _around(row: np.void) -> Span:
    return int(row["ts_ns"]), int(row["ts_ns"]) + 1


def online_ids(asker_factory: Callable[[], Asker]) -> Ids:
    """Return a source that asks the exchange by id, for `mend_trades`; venues that are not asked by id have nothing to say."""

    async def ask(pair: str, ranges: list[tuple[int, int]]) -> Trades:
        asker = asker_factory()
        parts = [NO_TRADES]
        try:
            if venue.by_id(asker.exchange):
                for first, last in ranges:
                    parts += [rows async for rows in venue.by_ids(asker, pair, first, last)]
        finally:
            await asker.exchange.close()
        return np.concatenate(parts)

    return lambda pair, ranges: asyncio.run(ask(pair, ranges))
