"""Bars made again from trades and compared with candles: what differs is told, what cannot be known is not guessed."""

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.backtest.history import Panel, make_panel
from daemon.backtest.parity_bars import TradeBars, check_candles
from daemon.core.bars import BarBuilder
from daemon.domain.market import NS_PER_S, Bar, BarFlag, Tick

BAR_NS = 60 * NS_PER_S
START_NS = 1_700_000_040 * NS_PER_S
PAIR = "BTC/USDT"


def tick(number: int, second: float, price: float, lots: int = 100_000_000) -> Tick:
    """A trade so many seconds after the start."""
    at_ns = START_NS + round(second * NS_PER_S)
    return Tick(PAIR, number, price, lots, at_ns, at_ns, sell=False)


def built(ticks: Sequence[Tick]) -> tuple[list[Bar], TradeBars]:
    """The bars that the engine builds of them, and the trades as parity reads them."""
    builder, again = BarBuilder(PAIR, BAR_NS), TradeBars(BAR_NS)
    builder.start(START_NS, last_price=100.0, partial=False)
    bars: list[Bar] = []
    for one in ticks:
        bars.extend(builder.on_tick(one))
        again.add(one)
    bars.extend(builder.on_time(START_NS + 1_000 * BAR_NS, 0)[:1])
    return bars, again


@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(1, 10**6), st.integers(1, 10**12)), min_size=1, max_size=60),
    st.randoms(use_true_random=False),
)
def test_every_order_of_reading_gives_the_engines_bars(rows: list[tuple[int, int, int]], chance: object) -> None:
    """In order the engine's own bars, and the same whatever order they are read in, each trade once however often."""
    ticks = [tick(at, second, price / 100, lots) for at, (second, price, lots) in enumerate(sorted(rows), start=1)]
    bars, again = built(ticks)
    shuffled = [*ticks, *ticks[::2]]
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    other = TradeBars(BAR_NS)
    for one in shuffled:
        other.add(one)

    for made in (again, other):
        counts = made.check(bars)
        assert (counts.equal, counts.different, counts.missing, counts.unchecked) == (len(bars), 0, 0, 0)


def test_a_trade_that_came_too_late_shows() -> None:
    """F22: the engine's bar lacks it, the trades have it."""
    bars, again = built([tick(1, 5, 100.0), tick(2, 65, 101.0), tick(3, 50, 99.0)])
    counts = again.check(bars)

    assert (counts.equal, counts.different) == (1, 1)
    assert [(one.field, one.recorded, one.other) for one in counts.examples] == [("low", 100.0, 99.0)]


def test_what_trades_cannot_know_is_not_checked() -> None:
    """Backfilled bars, the venue's own candle, bars that began before the recording."""
    bars, again = built([tick(1, 5, 100.0), tick(2, 65, 101.0)])
    again.since_ns = START_NS + 1
    backfilled = Bar(PAIR, START_NS, START_NS + BAR_NS, 1, 1, 1, 1, 1.0, 1, -1, -1, BarFlag.BACKFILLED)
    candle = Bar(PAIR, START_NS + BAR_NS, START_NS + 2 * BAR_NS, 1, 1, 1, 1, 1.0, 1, -1, -1, BarFlag.REPAIRED)
    counts = again.check([*bars, backfilled, candle])

    assert (counts.equal, counts.different, counts.unchecked) == (1, 0, 3)


def test_a_bar_of_trades_nobody_recorded_is_missing() -> None:
    """A live bar without a trade in the recording cannot have been built from it."""
    bars, _ = built([tick(1, 5, 100.0)])
    counts = TradeBars(BAR_NS).check(bars)

    assert (counts.equal, counts.missing) == (0, 1)


def panel(values: list[list[float]]) -> Panel:
    """Candles of one pair from the start on."""
    opens = START_NS + BAR_NS * np.arange(len(values), dtype=np.int64)
    return make_panel((PAIR,), BAR_NS, opens, np.array(values)[:, None, :])


@pytest.mark.parametrize(
    ("candle", "counted"),
    [
        ([100.0, 100.0, 100.0, 100.0, 1.0], (1, 0, 0)),
        ([100.0, 100.0, 100.0, 100.0, 1.5], (0, 1, 0)),
    ],
)
def test_candles_are_compared_field_by_field(candle: list[float], counted: tuple[int, int, int]) -> None:
    """Equal, another volume."""
    bars, _ = built([tick(1, 5, 100.0)])
    counts = check_candles(bars, panel([candle]))

    assert (counts.equal, counts.different, counts.missing) == counted


def test_a_hole_in_a_file_is_missing_and_what_it_does_not_cover_is_not_checked() -> None:
    """Between a file's first and last row every bar must be there; before and behind it nothing is known."""
    bars, _ = built([tick(at, 60 * at + 5, 100.0) for at in range(5)])
    hole, row = [float("nan")] * 5, [100.0, 100.0, 100.0, 100.0, 1.0]
    counts = check_candles(bars, panel([hole, row, hole, row, hole]))
    nothing = check_candles(bars, panel([hole, hole]))

    assert len(bars) == 5
    assert (counts.equal, counts.different, counts.missing, counts.unchecked) == (2, 0, 1, 2)
    assert nothing.unchecked == 5


def test_a_bar_without_trades_needs_no_candle() -> None:
    """Venues leave such candles out, or repeat the price."""
    empty = Bar(PAIR, START_NS, START_NS + BAR_NS, 9.0, 9.0, 9.0, 9.0, 0.0, 0, -1, -1, BarFlag.EMPTY)

    around = [9.0, 9.0, 9.0, 9.0, 1.0]
    middle = msgspec.structs.replace(empty, open_ns=START_NS + BAR_NS, close_ns=START_NS + 2 * BAR_NS)

    assert check_candles([middle], panel([around, [float("nan")] * 5, around])).equal == 1
    assert check_candles([empty], panel([[9.0, 9.0, 9.0, 9.0, 0.0]])).equal == 1
    assert check_candles([empty], panel([[9.0, 9.0, 9.0, 9.0, 2.0]])).different == 1
    assert TradeBars(BAR_NS).check([empty]).equal == 1
