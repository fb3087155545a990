"""What is wrong with recorded trades: missing or doubled ids, time that goes backwards, misprints, a shifted clock.

The trades are looked at a day (or a chunk) at a time, so years of them need no more memory than one day.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from daemon.backtest.data.check import (
    ABSURD,
    BACKWARDS,
    CALM,
    CONFLICT,
    DIFFERS,
    DUPLICATE,
    FOREIGN,
    GAP,
    HUGE,
    JITTER,
    OPEN,
    SHIFTED,
    SHOWN_MAX,
    SPIKE,
    SPIKED,
    UNKNOWN,
    UNSORTED,
    Finding,
)
from daemon.backtest.data.clock import by_volume
from daemon.backtest.data.files import Candles, files_in, iso, read
from daemon.backtest.data.trade_reader import chunks, facts_of_set, sound
from daemon.backtest.data.trade_store import CONTIGUOUS, UNORDERED, holes_in
from daemon.backtest.data.trades import DAY_NS, NO_TRADES, Facts, Span, Trades, TradeSet, days_in, read_day

NS_PER_MS: Final = 1_000_000
JITTER_NS: Final = 1_000_000_000
"""Time that goes back less than this from one id to the next is the venue's own clock, more is not."""
HUGE_TIMES: Final = 10_000.0
"""A size so many times the 99.9th percentile of its day is no trade."""
SAMPLE_MIN: Final = 1_000
"""Trades that such a percentile needs at least."""


class _Tally:
    """Counts what is found, and keeps the first places of each kind."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._places: dict[str, list[tuple[int, str]]] = {}

    def add(self, kind: str, ts_ns: NDArray[np.int64], words: Sequence[str] = (), *, rows: int | None = None) -> None:
        """Count places; ``rows`` says how many rows they stand for, when that is another number."""
        if not len(ts_ns):
            return
        self._rows[kind] = self._rows.get(kind, 0) + (len(ts_ns) if rows is None else rows)
        shown = self._places.setdefault(kind, [])
        texts = words or [""] * len(ts_ns)
        shown += [(int(at) // NS_PER_MS, text) for at, text in zip(ts_ns, texts, strict=False)][
            : SHOWN_MAX - len(shown)
        ]

    def findings(self) -> tuple[Finding, ...]:
        """Return everything, errors first."""
        found = [Finding(kind, rows, tuple(self._places[kind])) for kind, rows in self._rows.items()]
        return tuple(sorted(found, key=lambda one: (not one.is_error, one.kind)))


def inspect_trades(one: TradeSet, *, now_ns: int) -> tuple[Finding, ...]:
    """Return everything that is wrong with a pair's trades, errors first.

    Parameters
    ----------
    one
        Whose.
    now_ns
        The present, ns UTC: no trade is younger.
    """
    tally = _Tally()
    facts = facts_of_set(one)
    candles, step_ns = _finest(one)
    before = NO_TRADES
    for rows, day_ns in _units(one):
        if day_ns is not None:
            outside = (rows["ts_ns"] < day_ns) | (rows["ts_ns"] >= day_ns + DAY_NS)
            tally.add(FOREIGN, rows["ts_ns"][outside])
        if len(rows):
            _order(tally, np.concatenate([before, rows]), len(before), facts)
            _values(tally, rows, now_ns)
            if step_ns:
                _clock(tally, rows, facts.covered, candles, step_ns)
            before = rows[-1:]
    for (_, end), (begin, _) in zip(facts.covered, facts.covered[1:], strict=False):
        tally.add(UNKNOWN, np.array([end]), [f"until {iso(begin // NS_PER_MS)}"])
    return tally.findings()


def _units(one: TradeSet) -> Iterator[tuple[Trades, int | None]]:
    """Yield days with their midnights, or the chunks of a single file."""
    if one.ours:
        for day_ns, path in days_in(one.path):
            yield read_day(path)[0], day_ns
    else:
        for part in chunks(one):
            yield part, None


def _order(tally: _Tally, rows: Trades, skip: int, facts: Facts) -> None:
    """Look at ids and time from one row to the next; the first ``skip`` rows have been looked at."""
    in_file = rows["ts_ns" if facts.ids == UNORDERED else "id"]
    back = np.flatnonzero(np.diff(in_file) < 0) + 1
    tally.add(UNSORTED, rows["ts_ns"][back], [f"id {one}" for one in rows["id"][back][:SHOWN_MAX]])
    ordered = rows[np.argsort(rows["id"], kind="stable")]
    jumps = np.diff(ordered["id"])
    again = np.flatnonzero(jumps == 0)
    same = ordered[again] == ordered[again + 1]
    for kind, places in ((DUPLICATE, again[same]), (CONFLICT, again[~same])):
        tally.add(kind, ordered["ts_ns"][places], [f"id {one}" for one in ordered["id"][places][:SHOWN_MAX]])
    if facts.ids == CONTIGUOUS:
        holes = holes_in(ordered, facts.covered)
        words = [f"ids {ordered['id'][at] + 1} to {ordered['id'][at + 1] - 1}" for at in holes[:SHOWN_MAX]]
        tally.add(GAP, ordered["ts_ns"][holes], words, rows=int((jumps[holes] - 1).sum()))
    if facts.ids != UNORDERED:
        times = ordered["ts_ns"]
        lag = np.maximum.accumulate(times) - times
        for kind, mask in ((BACKWARDS, lag > JITTER_NS), (JITTER, (lag > 0) & (lag <= JITTER_NS))):
            at = np.flatnonzero(mask[skip:]) + skip
            words = [f"id {ordered['id'][one]}: {lag[one] / 1e9:g} s back" for one in at[:SHOWN_MAX]]
            tally.add(kind, times[at], words)


def _values(tally: _Tally, rows: Trades, now_ns: int) -> None:
    times, price, amount = rows["ts_ns"], rows["price"], rows["amount"]
    good = sound(rows)
    words = [f"price {one['price']:g}, size {one['amount']:g}" for one in rows[~good][:SHOWN_MAX]]
    tally.add(ABSURD, times[~good], words)
    tally.add(OPEN, times[times > now_ns], ["in the future"] * SHOWN_MAX)
    logs, dated = np.log(price[good]), np.flatnonzero(good)
    left, middle, right = logs[:-2], logs[1:-1], logs[2:]
    far = np.minimum(np.abs(middle - left), np.abs(middle - right)) > np.log(SPIKE)
    at = dated[1:-1][far & (np.abs(left - right) < np.log(CALM))]
    tally.add(SPIKED, times[at], [f"price {one:g}" for one in price[at][:SHOWN_MAX]])
    if int(good.sum()) >= SAMPLE_MIN:
        usual = float(np.quantile(amount[good], 0.999))
        at = np.flatnonzero(good & (amount > HUGE_TIMES * usual))
        tally.add(HUGE, times[at], [f"size {one:g}, usual is {usual:g}" for one in amount[at][:SHOWN_MAX]])


# ---------------------------------------------------------------------- the clock of the candles


def _finest(one: TradeSet) -> tuple[Candles, int]:
    """Return the finest candles of the pair in the same folder, and their length, ns; 0 without."""
    folder: Path = one.path.parent
    files = sorted((file for file in files_in(folder) if file.pair == one.pair), key=lambda file: file.step_ms)
    if not files:
        return Candles(np.empty(0, dtype=np.int64), np.empty((0, 5))), 0
    return read(files[0].path), files[0].step_ms * NS_PER_MS


def _clock(tally: _Tally, rows: Trades, covered: Sequence[Span], candles: Candles, step_ns: int) -> None:
    """Compare the volumes of trades and candles: where a shift makes them equal, one of the clocks is wrong."""
    order = np.argsort(rows["ts_ns"], kind="stable")
    times = rows["ts_ns"][order]
    first, last = int(times[0]) // step_ns * step_ns, int(times[-1]) + 1
    known = [(max(begin, first), min(end, last)) for begin, end in covered or ((first, last),)]
    opens = candles.times * NS_PER_MS
    verdict = by_volume(
        times, rows["amount"][order], spans=known, opens_ns=opens, volumes=candles.values[:, 4], step_ns=step_ns
    )
    if verdict is None:
        return
    if verdict.shift_s:
        word = f"{abs(verdict.shift_s)} s {'behind' if verdict.shift_s > 0 else 'ahead of'} the candles"
        tally.add(SHIFTED, times[:1], [word], rows=len(rows))
        return
    tally.add(DIFFERS, opens[verdict.differing], ["another volume than the candle"] * SHOWN_MAX)
