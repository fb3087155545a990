"""Stops: levels, latch, cool-down, memory, and the ladder out."""

import math
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.domain.orders import Cause
from risk.limits import Limits
from risk.stops import Stops, StopsState, exit_limit

BTC = "BTC/USDT"
ONE = Decimal(1)
PRICES = st.lists(st.floats(min_value=1.0, max_value=200.0), min_size=1, max_size=60)


def _held(limits: Limits, entry: float = 100.0) -> Stops:
    stops = Stops(limits)
    stops.set_position(BTC, ONE, entry)
    return stops


def test_fixed_stop_counts_from_average_entry() -> None:
    """8 % below entry is a hit, a tick above is not; averaging moves the level."""
    stops = _held(Limits())

    assert stops.on_price(BTC, 92.01, 1) is None
    stops.set_position(BTC, Decimal(2), 90.0)
    assert stops.on_price(BTC, 92.0, 2) is None  # trailing level is 88, fixed level 82.8
    hit = stops.on_price(BTC, 88.0, 3)
    assert hit is not None
    assert (hit.cause, hit.price, hit.level, hit.ts_ns) == (Cause.TRAILING_STOP, 88.0, 88.0, 3)


def test_trailing_stop_follows_the_high() -> None:
    """12 % below the high since entry, above the fixed level once the price has risen."""
    stops = _held(Limits())
    assert stops.on_price(BTC, 150.0, 1) is None
    assert stops.level(BTC) == pytest.approx(132.0)
    assert stops.on_price(BTC, 132.1, 2) is None
    hit = stops.on_price(BTC, 131.9, 3)

    assert hit is not None
    assert hit.cause is Cause.TRAILING_STOP


def test_volatility_stop_only_rises() -> None:
    """High less multiples of ATR; a growing ATR does not lower the level."""
    stops = Stops(Limits(volatility_stop=2.0))
    stops.set_atr(BTC, 1.0)
    stops.set_position(BTC, ONE, 100.0)
    assert stops.level(BTC) == pytest.approx(98.0)
    stops.set_atr(BTC, 3.0)
    stops.set_atr(BTC, math.nan)
    stops.set_atr(BTC, 0.0)
    assert stops.level(BTC) == pytest.approx(98.0)
    hit = stops.on_price(BTC, 97.9, 1)

    assert hit is not None
    assert hit.cause is Cause.VOLATILITY_STOP


def test_a_stop_of_zero_is_off() -> None:
    """All three off: nothing is hit; one on: only that one."""
    stops = _held(Limits(stop_loss=0.0, trailing_stop=0.0))

    assert stops.on_price(BTC, 0.01, 1) is None
    assert stops.level(BTC) == 0.0


def test_a_hit_latches_until_the_position_is_gone() -> None:
    """It is reported once, survives recoveries and partial sales, and the cool-down starts at the hit."""
    limits = Limits(stop_cooldown_ns=1000)
    stops = _held(limits)
    hit = stops.on_price(BTC, 80.0, 500)

    assert stops.on_price(BTC, 500.0, 501) is None
    stops.set_position(BTC, Decimal("0.4"), 100.0)
    assert stops.on_price(BTC, 1.0, 502) is None
    assert stops.hit(BTC) == hit
    assert stops.hits() == (hit,)
    assert stops.cooling(BTC, 10_000)  # still held: never over
    stops.set_position(BTC, Decimal(0), 0.0)
    assert stops.hit(BTC) is None
    assert stops.cooling(BTC, 1499)
    assert not stops.cooling(BTC, 1500)
    assert not stops.cooling("ETH/USDT", 0)
    stops.set_position(BTC, ONE, 50.0)
    assert stops.on_price(BTC, 49.0, 2000) is None  # a new position, a new high


def test_unheld_symbols_and_non_prices_do_nothing() -> None:
    """Unknown symbols cost a lookup; NaN, infinite and impossible prices are no reason to sell."""
    stops = _held(Limits())

    assert stops.on_price("ETH/USDT", 1.0, 1) is None
    for price in (math.nan, math.inf, 0.0, -5.0):
        assert stops.on_price(BTC, price, 1) is None
    assert stops.level("ETH/USDT") == 0.0


@pytest.mark.parametrize("entry", [0.0, math.nan, -1.0])
def test_unknown_entry_is_guarded_from_the_next_trade(entry: float) -> None:
    """No position is ever without a stop: the next price stands in for the entry."""
    stops = _held(Limits(), entry)
    assert stops.level(BTC) == 0.0
    assert stops.on_price(BTC, 200.0, 1) is None
    stops.set_position(BTC, ONE, entry)
    hit = stops.on_price(BTC, 183.0, 2)

    assert hit is not None
    assert hit.level == pytest.approx(184.0)


@given(PRICES)
def test_a_hit_is_the_first_price_at_or_below_the_level(prices: list[float]) -> None:
    """Against the definition, computed the slow way."""
    limits = Limits()
    stops = _held(limits)
    high = 100.0
    for index, price in enumerate(prices):
        high = max(high, price)
        level = max(100.0 * (1 - limits.stop_loss), high * (1 - limits.trailing_stop))
        hit = stops.on_price(BTC, price, index)
        assert (hit is not None) == (price <= level)
        if hit is not None:
            return


@given(PRICES, st.integers(min_value=0, max_value=59))
def test_i10_memory_survives_a_restart(prices: list[float], cut: int) -> None:
    """Snapshot, JSON and restore anywhere: the same hits follow."""
    limits = Limits(volatility_stop=3.0)
    one = _held(limits)
    one.set_atr(BTC, 2.0)
    two = one
    for index, price in enumerate(prices):
        if index == cut:
            two = Stops(limits)
            two.restore(msgspec.json.decode(msgspec.json.encode(one.snapshot()), type=StopsState))
        expected = one.on_price(BTC, price, index)
        if two is not one:
            assert two.on_price(BTC, price, index) == expected

    assert two.snapshot() == one.snapshot()


def test_a8_the_ladder_widens_to_the_collar_and_stays_there() -> None:
    """Touch less slippage, four times as far, then the exit collar for ever; never beyond it."""
    limits = Limits(max_slippage_bps=20.0, exit_collar=0.05)

    prices = [exit_limit(attempt, 100.0, limits) for attempt in range(5)]
    assert prices == pytest.approx([99.8, 99.2, 95.0, 95.0, 95.0])
    assert exit_limit(1, 100.0, Limits(max_slippage_bps=400.0, exit_collar=0.05)) == pytest.approx(95.0)


@given(st.lists(st.lists(st.floats(min_value=60.0, max_value=140.0), min_size=1, max_size=4), max_size=20))
def test_a_range_that_moves_nothing_can_be_passed_over(ranges: list[list[float]]) -> None:
    """Where ``unmoved`` says so, judging every price of the range is no hit and leaves nothing changed."""
    stops = Stops(Limits(stop_loss=0.1, trailing_stop=0.15, volatility_stop=2.0))
    stops.set_atr("X/Y", 4.0)
    stops.set_position("X/Y", Decimal(1), 100.0)
    for number, prices in enumerate(ranges):
        before = stops.snapshot()
        unmoved = stops.unmoved("X/Y", min(prices), max(prices))
        hits = [stops.on_price("X/Y", price, number) for price in prices]
        if unmoved:
            assert hits == [None] * len(prices)
            assert stops.snapshot() == before


def test_a_guard_without_an_entry_is_never_passed_over() -> None:
    """The first price becomes its entry; what nobody guards moves nothing."""
    stops = Stops(Limits())
    assert stops.unmoved("X/Y", 1.0, 2.0)
    stops.set_position("X/Y", Decimal(1), 0.0)
    assert not stops.unmoved("X/Y", 1.0, 2.0)
    assert not stops.resting
