"""The matching model: quantities are conserved, prices stay in bounds, more costs more."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.matching.model import (
    Level,
    average_price,
    fee,
    is_multiple,
    round_down,
    round_up,
    sweep,
    touch_levels,
    traded_through,
)

TICK = Decimal("0.01")
quantities = st.integers(0, 10_000).map(lambda lots: Decimal(lots) / 1000)
prices = st.integers(1, 100_000).map(lambda ticks: ticks * TICK)
sides = st.sampled_from(["buy", "sell"])


@st.composite
def books(draw: st.DrawFn, side: str = "buy") -> list[Level]:
    """Levels of the opposite side, best first."""
    ticks = sorted(draw(st.sets(st.integers(1, 5_000), max_size=12)), reverse=side == "sell")
    return [(tick * TICK, draw(quantities)) for tick in ticks]


@given(data=st.data(), side=sides, qty=quantities, limit=st.none() | prices)
def test_sweep_conserves_quantity(data: st.DataObject, side: str, qty: Decimal, limit: Decimal | None) -> None:
    """What is matched is min(wanted, shown within the limit), and no level gives more than it shows."""
    levels = data.draw(books(side))
    matches = sweep(side, qty, limit, levels)
    shown = {
        price: size for price, size in levels if limit is None or (price <= limit if side == "buy" else price >= limit)
    }

    assert sum((m.qty for m in matches), Decimal(0)) == min(qty, sum(shown.values(), Decimal(0)))
    assert all(0 < m.qty <= shown[m.price] for m in matches)


@given(data=st.data(), side=sides, qty=quantities, limit=prices)
def test_sweep_never_crosses_the_limit(data: st.DataObject, side: str, qty: Decimal, limit: Decimal) -> None:
    """Every price is at least as good as the limit, and prices get worse in order."""
    found = [m.price for m in sweep(side, qty, limit, data.draw(books(side)))]

    assert found == sorted(found, reverse=side == "sell")
    assert all(price <= limit if side == "buy" else price >= limit for price in found)


@given(data=st.data(), side=sides, small=quantities, more=quantities)
def test_sweep_is_monotonic(data: st.DataObject, side: str, small: Decimal, more: Decimal) -> None:
    """A larger order matches at least as much, at an average that is not better."""
    levels = data.draw(books(side))
    first, second = sweep(side, small, None, levels), sweep(side, small + more, None, levels)
    low, high = average_price(first), average_price(second)

    assert sum((m.qty for m in first), Decimal(0)) <= sum((m.qty for m in second), Decimal(0))
    if low is not None and high is not None:
        assert (high - low) * (1 if side == "buy" else -1) >= Decimal("-1e-20")


def test_sweep_refuses_nonsense() -> None:
    """A wrong side, a negative quantity and an unordered book are errors."""
    with pytest.raises(ValueError, match="side"):
        sweep("BUY", Decimal(1), None, [])
    with pytest.raises(ValueError, match="qty"):
        sweep("buy", Decimal(-1), None, [])
    with pytest.raises(ValueError, match="ordered"):
        sweep("buy", Decimal(9), None, [(Decimal(2), Decimal(1)), (Decimal(1), Decimal(1))])


def test_average_of_nothing_is_none() -> None:
    """No execution has no price."""
    assert average_price([]) is None


@given(side=sides, bid=st.integers(100, 10**7), spread=st.integers(1, 50), shown=quantities, impact=st.integers(1, 100))
def test_touch_levels_form_a_book(side: str, bid: int, spread: int, shown: Decimal, impact: int) -> None:
    """The ladder starts at the touch, is strictly ordered and stays near the impact distance."""
    low, high = bid * TICK, (bid + spread) * TICK
    ladder = touch_levels(low, shown, high, shown, side=side, tick=TICK, impact_bps=Decimal(impact))
    sign = 1 if side == "buy" else -1
    found = [price for price, _ in ladder]
    touch = high if side == "buy" else low

    assert found == sorted(set(found), reverse=side == "sell")
    assert all(qty > 0 and is_multiple(price, TICK) for price, qty in ladder)
    if shown > 0:
        assert ladder[0][0] == touch
        assert sign * (found[-1] - touch) <= touch * impact / 10_000 + TICK


def test_touch_levels_hold_the_square_root_law() -> None:
    """A quarter of the depth lies within half of the distance."""
    ladder = touch_levels(
        Decimal(9_999), Decimal(1), Decimal(10_000), Decimal(1), side="buy", tick=TICK, depth_qty=Decimal(100)
    )
    near = sum((qty for price, qty in ladder if Decimal(10_000) < price <= Decimal(10_005)), Decimal(0))

    assert near == 25


def test_touch_levels_of_a_broken_touch_are_empty() -> None:
    """A crossed, locked or missing touch gives no book."""
    one = Decimal(1)

    assert touch_levels(Decimal(2), one, Decimal(2), one, side="buy", tick=TICK) == []
    assert touch_levels(Decimal(0), one, Decimal(2), one, side="sell", tick=TICK) == []


def test_touch_levels_stop_at_zero() -> None:
    """Bids never reach a price of zero."""
    ladder = touch_levels(TICK, Decimal(1), 2 * TICK, Decimal(1), side="sell", tick=TICK, levels=3)

    assert [price for price, _ in ladder] == [TICK]


@pytest.mark.parametrize(
    ("side", "trade", "expected"),
    [("buy", "9.99", True), ("buy", "10.00", False), ("sell", "10.01", True), ("sell", "10.00", False)],
)
def test_a_limit_fills_only_when_traded_through(side: str, trade: str, expected: bool) -> None:
    """A print at the limit is not enough; one tick beyond is."""
    assert traded_through(side, Decimal(10), Decimal(trade), TICK) is expected


@given(price=prices, qty=quantities, bps=st.integers(0, 100))
def test_fee_is_taken_from_what_is_received(price: Decimal, qty: Decimal, bps: int) -> None:
    """Buys pay in base, sells in quote, never more than the rate and at most 1e-8 less."""
    rate = Decimal(bps) / 10_000
    base, kind = fee("buy", price, qty, rate)
    quote, other = fee("sell", price, qty, rate)

    assert (kind, other) == ("base", "quote")
    assert 0 <= qty * rate - base < Decimal("1e-8")
    assert 0 <= price * qty * rate - quote < Decimal("1e-8")


@given(value=quantities, step=st.sampled_from([Decimal("0.01"), Decimal("0.5"), Decimal(3), Decimal(0)]))
def test_rounding_brackets_the_value(value: Decimal, step: Decimal) -> None:
    """Down and up are multiples of the step around the value."""
    low, high = round_down(value, step), round_up(value, step)

    assert low <= value <= high
    assert high - low <= step
    assert is_multiple(low, step)
    assert is_multiple(high, step)
