"""Candles of recorded trades, made by the daemon's own `BarBuilder`: the same arithmetic, volumes exact."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from daemon.backtest.data.files import EMPTY, Candles, iso, path_of, read, timeframe_ms, write
from daemon.backtest.data.folder import merge
from daemon.backtest.data.trade_reader import facts_of_set, read_trades
from daemon.backtest.data.trade_store import CONTIGUOUS
from daemon.backtest.data.trades import Span, TradeSet
from daemon.core.bars import EMPTY_RUN_MAX, BarBuilder
from daemon.domain.errors import ConfigError
from daemon.domain.market import LOTS_PER_UNIT, Bar, BarFlag, Tick
from daemon.settings_values import BAR_NS

NS_PER_MS: Final = 1_000_000
EXACT_LOTS_MAX: Final = float(2**51)
"""Below it a size times ``LOTS_PER_UNIT`` lies within half a lot of the whole number meant."""
PRICE_REL: Final = 1e-12
VOLUME_REL: Final = 1e-9
SHOWN_MAX: Final = 50
HELD_MAX: Final = 50_000
"""Bars held as objects; years of seconds would not fit."""
NAMES: Final = ("open", "high", "low", "close", "volume")


class Built(msgspec.Struct, frozen=True):
    """Candles of one pair.

    Attributes
    ----------
    made
        Candles of stretches that are whole.
    new
        Those that the file did not have.
    same, differing
        Of those it had: with the same numbers, and with others (they stay as they are).
    places
        The first that differ: (opening time, ms UTC; what).
    late
        Trades that came, by id, after their candle had closed; the daemon drops them too.
    """

    file: str
    made: int
    new: int
    same: int
    differing: int
    places: tuple[tuple[int, str], ...]
    late: int


def build(folder: Path, one: TradeSet, timeframe: str, *, dry: bool = False) -> Built:
    """Make candles of a pair's trades and add those to its file that are not there; what is there is compared.

    Raises
    ------
    ConfigError
        The timeframe is none of `BAR_NS`, the trades are broken (`read_trades`), or the file cannot be written.
    """
    if timeframe not in BAR_NS:
        raise ConfigError(f"timeframe {timeframe!r}: candles are made of {' '.join(BAR_NS)}")
    path = path_of(folder, one.pair, timeframe)
    made, late = candles_of(folder, one, timeframe_ms(timeframe) * NS_PER_MS)
    ours = read(path) if path.is_file() else EMPTY
    same, differences = compare(ours, made)
    whole, new, _ = merge(ours, made)
    if new and not dry:
        write(path, whole)
    return Built(path.name, len(made), new, same, len(differences), tuple(differences[:SHOWN_MAX]), late)


def candles_of(folder: Path, one: TradeSet, bar_ns: int) -> tuple[Candles, int]:
    """Return the candles of a pair's trades, ascending, and how many trades were late.

    Only what is proven whole counts: a candle that reaches beyond a covered stretch, or lacks an id, is left out.
    """
    facts = facts_of_set(one)
    spans: tuple[Span, ...] = facts.covered
    if not spans and not one.ours:
        spans = ((0, 2**63 - 1),)
    bars: list[Bar] = []
    parts: list[Candles] = []
    late = 0
    for begin, end in spans:
        builder = BarBuilder(one.pair, bar_ns)
        if begin:
            builder.start(begin, last_price=0.0, partial=begin % bar_ns != 0)
        last_id = -1
        for tick in _ticks(folder, one.pair, begin, end):
            if facts.ids == CONTIGUOUS and last_id >= 0 and tick.id != last_id + 1:
                builder.mark_gapped()
            last_id = tick.id
            bars += _pass(builder, tick.ts_event_ns)
            bars += builder.on_tick(tick)
            if len(bars) >= HELD_MAX:
                parts.append(_candles(bars))
                bars.clear()
        if end < 2**63 - 1:
            bars += _pass(builder, end)
        late += builder.late
    parts.append(_candles(bars))
    return Candles(np.concatenate([one.times for one in parts]), np.concatenate([one.values for one in parts])), late


def _candles(bars: Sequence[Bar]) -> Candles:
    """Return those bars that lack nothing."""
    kept = [bar for bar in bars if bar.flag is not BarFlag.GAPPED]
    if not kept:
        return EMPTY
    times = np.array([bar.open_ns // NS_PER_MS for bar in kept], dtype=np.int64)
    return Candles(times, np.array([[bar.open, bar.high, bar.low, bar.close, bar.volume] for bar in kept]))


def _pass(builder: BarBuilder, until_ns: int) -> list[Bar]:
    """Let time pass: close what ended up to ``until_ns``, in runs that the builder allows."""
    bars: list[Bar] = []
    while 0 < builder.close_ns <= until_ns:
        bars += builder.on_time(min(until_ns, builder.close_ns + (EMPTY_RUN_MAX - 1) * builder.bar_ns), 0)
    return bars


def _ticks(folder: Path, pair: str, begin_ns: int, end_ns: int) -> Iterator[Tick]:
    for part in read_trades(folder, pair, begin_ns, end_ns):
        columns = (part[name].tolist() for name in ("id", "price", "ts_ns", "sell"))
        for number, price, ts_ns, sell, size in zip(*columns, lots(part["amount"]), strict=True):
            yield Tick(pair, number, price, size, ts_ns, ts_ns, sell)


def lots(amounts: NDArray[np.float64]) -> list[int]:
    """Return sizes in lots of 1e-8, as the venue wrote them: float64 holds what it wrote to 15 digits."""
    scaled = amounts * LOTS_PER_UNIT
    if len(scaled) and float(scaled.max()) < EXACT_LOTS_MAX:
        return [int(one) for one in np.rint(scaled).tolist()]
    return [round(Decimal(repr(one)) * LOTS_PER_UNIT) for one in amounts.tolist()]


def compare(ours: Candles, made: Candles) -> tuple[int, list[tuple[int, str]]]:
    """Return how many candles of the same time have the same numbers, and (time ms, what differs) of the others."""
    _, here, there = np.intersect1d(ours.times, made.times, return_indices=True)
    known, found = ours.values[here], made.values[there]
    bound = np.abs(known) * np.array([PRICE_REL] * 4 + [VOLUME_REL])
    wrong = ~(np.abs(found - known) <= bound)
    rows = np.flatnonzero(wrong.any(axis=1))
    differences = [
        (
            int(made.times[there[at]]),
            ", ".join(
                f"{name} {known[at, cell]:.10g} is {found[at, cell]:.10g} by trades"
                for cell, name in enumerate(NAMES)
                if wrong[at, cell]
            ),
        )
        for at in rows
    ]
    return len(here) - len(rows), differences


def text(built: Built) -> Iterator[str]:
    """Yield lines for a person."""
    told = f"{built.made} candles of trades, {built.new} new, {built.same} as on file, {built.differing} differ"
    yield f"{built.file}: {told}" + (f"; {built.late} trades came too late for theirs" if built.late else "")
    for at, what in built.places[:3]:
        yield f"  {iso(at)} {what}"
