"""Bars: exact, aligned, closed once; the same trades give the same bars however they arrive."""

import random
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.core.bars import EMPTY_RUN_MAX, BarBuilder
from daemon.core.continuity import Continuity, Irregular
from daemon.domain.market import LOTS_PER_UNIT, Bar, BarFlag, Tick

S = 1_000_000_000
T0 = 1_720_000_000 * S


def trade(number: int, price: float, at_ns: int, lots: int = 100) -> Tick:
    """Return a trade."""
    return Tick("BTC/USDT", number, price, lots, at_ns, at_ns, sell=False)


def started(bar_ns: int = S, *, partial: bool = False, last_price: float = 100.0) -> BarBuilder:
    """Return a builder whose history ended at T0."""
    builder = BarBuilder("BTC/USDT", bar_ns)
    builder.start(T0, last_price=last_price, partial=partial)
    return builder


def test_a_trade_at_the_close_closes_the_bar() -> None:
    """A bar covers [open, close): the trade at the close belongs to the next and proves this one complete."""
    builder = started()
    assert builder.on_tick(trade(1, 100.0, T0)) == ()
    assert builder.on_tick(trade(2, 103.0, T0 + 10)) == ()
    assert builder.on_tick(trade(3, 99.0, T0 + S - 1)) == ()
    bars = builder.on_tick(trade(4, 101.0, T0 + S))

    assert bars == (Bar("BTC/USDT", T0, T0 + S, 100.0, 103.0, 99.0, 99.0, 300e-8, 3, 1, 3, BarFlag.LIVE),)


def test_quiet_bars_are_empty_at_the_last_price() -> None:
    """Bars without trades are flat at the previous close, with no volume, one for each interval."""
    builder = started()
    builder.on_tick(trade(1, 100.0, T0 + 5))
    bars = builder.on_tick(trade(2, 120.0, T0 + 3 * S + 5))

    assert [bar.flag for bar in bars] == [BarFlag.LIVE, BarFlag.EMPTY, BarFlag.EMPTY]
    assert bars[2] == Bar("BTC/USDT", T0 + 2 * S, T0 + 3 * S, 100.0, 100.0, 100.0, 100.0, 0, 0, -1, -1, BarFlag.EMPTY)


def test_time_closes_after_the_grace_only() -> None:
    """Without a proving trade a bar closes by exchange time, grace_ns after its end."""
    builder = started()
    builder.on_tick(trade(1, 100.0, T0 + 5))
    grace = S // 2

    assert not builder.due(T0 + S + grace - 1, grace)
    assert builder.on_time(T0 + S + grace - 1, grace) == ()
    assert builder.due(T0 + S + grace, grace)
    assert [bar.close_ns for bar in builder.on_time(T0 + S + grace, grace)] == [T0 + S]
    assert [bar.close_ns for bar in builder.on_time(T0 + 3 * S + grace, grace)] == [T0 + 2 * S, T0 + 3 * S]


def test_late_trades_are_counted_and_never_applied() -> None:
    """F21: a closed bar does not change; the trade that came too late is counted."""
    builder = started()
    builder.on_tick(trade(1, 100.0, T0 + 5))
    closed = builder.on_time(T0 + 2 * S, S)
    assert builder.on_tick(trade(2, 500.0, T0 + 6)) == ()
    after = builder.on_time(T0 + 3 * S, S)

    assert builder.late == 1
    assert closed[0].high == 100.0
    assert after[0].flag is BarFlag.EMPTY


def test_days_align_to_the_epoch() -> None:
    """A daily bar runs from midnight to midnight UTC, whenever the history ended."""
    day = 86_400 * S
    builder = BarBuilder("BTC/USDT", day)
    builder.start(T0, last_price=1.0, partial=False)

    assert builder.open_ns % day == 0
    assert builder.open_ns <= T0 < builder.close_ns


def test_partial_first_bar_is_gapped_once() -> None:
    """A first bar that could not be completed is marked; the next is whole."""
    builder = started(partial=True)
    builder.on_tick(trade(5, 100.0, T0 + 5))
    first = builder.on_tick(trade(6, 100.0, T0 + S))
    second = builder.on_tick(trade(7, 100.0, T0 + 2 * S))

    assert (first[0].flag, second[0].flag) == (BarFlag.GAPPED, BarFlag.LIVE)


def test_never_started_means_partial() -> None:
    """Without history the bar of the very first trade is not trusted, and nothing is said about the time before."""
    builder = BarBuilder("BTC/USDT", S)
    assert builder.on_time(T0, 0) == ()
    builder.on_tick(trade(5, 100.0, T0 + 5))

    assert builder.on_tick(trade(6, 100.0, T0 + S))[0].flag is BarFlag.GAPPED


def test_no_price_no_bar() -> None:
    """Time alone makes no bars of a symbol that never had a price."""
    builder = started(last_price=0.0)
    assert builder.on_time(T0 + 5 * S, 0) == ()
    builder.on_tick(trade(1, 7.0, T0 + 5 * S))
    assert builder.on_time(T0 + 6 * S, 0)[0].open == 7.0


def test_a_loss_marks_every_bar_until_a_trade_is_seen() -> None:
    """After lost ids every bar up to and including that of the next trade is gapped, the following one is clean."""
    builder = started()
    builder.on_tick(trade(1, 100.0, T0 + 5))
    builder.mark_gapped()
    first = builder.on_time(T0 + 2 * S, 0)
    third = builder.on_tick(trade(9, 100.0, T0 + 2 * S + 5)) + builder.on_tick(trade(10, 100.0, T0 + 3 * S))
    fourth = builder.on_time(T0 + 4 * S, 0)

    assert [bar.flag for bar in first] == [BarFlag.GAPPED, BarFlag.GAPPED]
    assert [bar.flag for bar in third] == [BarFlag.GAPPED]
    assert [bar.flag for bar in fourth] == [BarFlag.LIVE]


def test_repaired_trades_flag_their_own_bar() -> None:
    """A bar that REST completed says so; a repair that came too late changes nothing."""
    builder = started()
    builder.on_repaired(trade(1, 100.0, T0 + 5))
    closed = builder.on_repaired(trade(2, 100.0, T0 + S))
    builder.on_repaired(trade(3, 100.0, T0 + 6))
    last = builder.on_tick(trade(4, 100.0, T0 + 2 * S))

    assert closed[0].flag is last[0].flag is BarFlag.REPAIRED
    assert builder.late == 1


def test_a_clock_that_jumps_costs_a_bounded_run() -> None:
    """A jump of years closes at most a bounded run of bars per call."""
    builder = started()
    builder.on_tick(trade(1, 100.0, T0))
    assert len(builder.on_time(T0 + 10**9 * S, 0)) == EMPTY_RUN_MAX
    assert len(builder.on_tick(trade(2, 100.0, T0 + 10**9 * S))) == EMPTY_RUN_MAX


steps = st.lists(
    st.tuples(
        st.integers(0, 2 * S),
        st.floats(90.0, 110.0, allow_nan=False),
        st.integers(1, 10**13),
    ),
    min_size=1,
    max_size=60,
)


def tape(draws: list[tuple[int, float, int]]) -> list[Tick]:
    """Return trades with rising ids and times."""
    out, at = [], T0
    for number, (wait, price, lots) in enumerate(draws):
        at += wait
        out.append(trade(number, price, at, lots))
    return out


def straight(ticks: list[Tick]) -> list[Bar]:
    """Return the bars of trades that came in order."""
    builder = started()
    bars = [bar for tick in ticks for bar in builder.on_tick(tick)]
    return bars + list(builder.on_time(builder.close_ns, 0))


@given(steps)
def test_volume_equals_the_decimal_sum(draws: list[tuple[int, float, int]]) -> None:
    """No lot is lost or made: the bars' volumes sum to the trades' sizes in Decimal, bar by bar."""
    ticks = tape(draws)
    bars = straight(ticks)
    for bar in bars:
        inside = [tick for tick in ticks if bar.open_ns <= tick.ts_event_ns < bar.close_ns]
        exact = sum((Decimal(tick.lots) / LOTS_PER_UNIT for tick in inside), Decimal(0))
        assert bar.volume == float(exact)
        assert bar.trades == len(inside)
        if inside:
            prices = [tick.price for tick in inside]
            assert (bar.open, bar.high, bar.low, bar.close) == (prices[0], max(prices), min(prices), prices[-1])
    assert [bar.open_ns for bar in bars] == list(range(T0, bars[-1].close_ns, S))


@settings(deadline=None)
@given(steps, st.integers(0, 2**32), st.integers(1, 12))
def test_order_and_chunks_of_arrival_do_not_matter(draws: list[tuple[int, float, int]], seed: int, reach: int) -> None:
    """F20, F21: shuffled within reach, repeated, and with time passing between, the same trades give the same bars."""
    ticks = tape(draws)
    rng = random.Random(seed)
    arrivals = sorted(ticks + rng.sample(ticks, len(ticks) // 3), key=lambda tick: tick.id + rng.uniform(0, reach))
    continuity, builder = Continuity("BTC/USDT"), started()
    continuity.start(0, 100.0)
    bars: list[Bar] = []
    for tick in arrivals:
        outcome = continuity.accept(tick)
        ready = (tick,) if outcome is None else outcome.ready
        for one in ready:
            bars.extend(builder.on_tick(one))
        if not continuity.held and rng.random() < 0.3:
            bars.extend(builder.on_time(ticks[continuity.next_id - 1].ts_event_ns if continuity.next_id else T0, 0))
    bars.extend(builder.on_time(builder.close_ns, 0))

    assert continuity.next_id == len(ticks)
    assert bars == straight(ticks)


def test_nothing_is_repaired_by_default() -> None:
    """An outcome without content asks for nothing."""
    assert Irregular() == Irregular(ready=(), repaired=0, rejected=(), fetch=None, lost=None)
