"""What an order gets from a bar: never beyond its limit, never more than there is, dearer the more it takes."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from daemon.matching.bars import Costs, Depth, rest_on_bar, take_from_bar

TICK, STEP = Decimal("0.01"), Decimal("0.001")
sides = st.sampled_from(["buy", "sell"])
quantities = st.integers(1, 1_000_000).map(lambda lots: lots * STEP)
limits = st.integers(5_000, 20_000).map(lambda ticks: ticks * TICK)
volumes = st.floats(0.0, 1e6)
depths = st.builds(
    Depth,
    volume=volumes,
    taken=volumes,
    costs=st.builds(Costs, st.floats(0.0, 0.01), st.floats(0.0, 0.1), st.floats(0.0, 1.0)),
    tick=st.just(TICK),
    step=st.just(STEP),
)


def _room(depth: Depth) -> float:
    return depth.costs.participation * depth.volume - depth.taken


@given(side=sides, qty=quantities, limit=limits, price=st.floats(50.0, 200.0), depth=depths)
def test_what_is_taken_stays_in_bounds(side: str, qty: Decimal, limit: Decimal, price: float, depth: Depth) -> None:
    """On both grids, no more than wanted and allowed, never beyond the limit and never better than the market's price."""
    match = take_from_bar(side, qty, limit, price=price, depth=depth)
    if match is None:
        return

    assert 0 < match.qty <= qty
    assert float(match.qty) <= _room(depth) * (1.0 + 1e-12)
    assert match.price % TICK == 0
    assert match.qty % STEP == 0
    assert match.price <= limit if side == "buy" else match.price >= limit
    if side == "buy":
        assert float(match.price) >= min(price, float(limit)) - 1e-9
    else:
        assert float(match.price) <= max(price, float(limit)) + 1e-9


@given(
    side=sides,
    qty=quantities,
    limit=limits,
    ends=st.tuples(st.floats(50.0, 200.0), st.floats(50.0, 200.0)).map(sorted),
    depth=depths,
)
def test_what_rests_trades_at_its_limit_when_traded_through(
    side: str, qty: Decimal, limit: Decimal, ends: list[float], depth: Depth
) -> None:
    """A tick beyond the limit is needed; at the limit, on the lot grid, no more than wanted and allowed."""
    low, high = ends
    match = rest_on_bar(side, qty, limit, low=low, high=high, depth=depth)
    through = low <= float(limit - TICK) if side == "buy" else high >= float(limit + TICK)
    if match is None:
        assert not through or _room(depth) < float(min(qty, STEP)) * (1.0 + 1e-9)
        return

    assert through
    assert match.price == limit
    assert 0 < match.qty <= qty
    assert match.qty % STEP == 0
    assert float(match.qty) <= _room(depth) * (1.0 + 1e-12)


@given(side=sides, first=quantities, more=quantities, taken=st.floats(0.0, 1_000.0))
def test_taking_more_or_later_is_never_cheaper(side: str, first: Decimal, more: Decimal, taken: float) -> None:
    """The price moves against the taker with the share of the bar that is gone, his own or others'."""
    limit = Decimal(1_000) if side == "buy" else TICK
    depth = Depth(1e5, 0.0, Costs(0.0, 0.05, 1.0), TICK, STEP)
    small = take_from_bar(side, first, limit, price=100.0, depth=depth)
    large = take_from_bar(side, first + more, limit, price=100.0, depth=depth)
    later = take_from_bar(side, first, limit, price=100.0, depth=depth._replace(taken=taken))

    assert small is not None
    assert large is not None
    assert later is not None
    sign = 1 if side == "buy" else -1
    assert sign * large.price >= sign * small.price
    assert sign * later.price >= sign * small.price


def test_a_bar_without_volume_gives_nothing() -> None:
    """Neither to what takes nor to what rests, however good the price."""
    depth = Depth(0.0, 0.0, Costs(0.0, 0.0, 1.0), TICK, STEP)

    assert take_from_bar("buy", Decimal(1), Decimal(100), price=50.0, depth=depth) is None
    assert rest_on_bar("buy", Decimal(1), Decimal(100), low=50.0, high=60.0, depth=depth) is None
