"""The venue's grid: limits, legs, room."""

from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.projection import Room, buy_limit, capped, cut_legs, sell_limit, takes, weight_of
from daemon.domain.market import Instrument
from daemon.domain.orders import Tif
from risk.limits import Limits

D = Decimal
RULES = Instrument(
    symbol="BTC/USDT",
    venue_id="BTCUSDT",
    base="BTC",
    quote="USDT",
    tick=D("0.05"),
    step=D("0.001"),
    min_qty=D("0.001"),
    max_qty=D(50),
    min_notional=D(5),
)
IOC, GTC = Limits(), Limits(order=Tif.GTC)


def _rules(**changes: object) -> Instrument:
    return msgspec.structs.replace(RULES, **changes)


@pytest.mark.parametrize(
    ("bid", "ask", "limits", "expected"),
    [
        (99.95, 100.05, IOC, "100.25"),  # 100.05 + 20 bp = 100.2501
        (99.95, 100.05, Limits(max_slippage_bps=0.0), "100.05"),
        (99.95, 100.07, Limits(max_slippage_bps=0.0), "100.10"),  # never below the ask's own tick
        (99.95, 100.05, GTC, "99.95"),
        (99.97, 100.05, GTC, "99.95"),
        (0.0, 0.0, IOC, "100.20"),
        (0.0, 0.0, GTC, "100.00"),
    ],
)
def test_buy_limits(bid: float, ask: float, limits: Limits, expected: str) -> None:
    """Ask plus slippage down to the tick; at the bid when resting; the reference without a book."""
    assert buy_limit(bid, ask, rules=RULES, reference=D(100), limits=limits) == D(expected)


def test_buy_limits_stay_in_collar_and_price_band() -> None:
    """What cannot reach the ask inside the collar is not planned; PERCENT_PRICE_BY_SIDE binds from both sides."""
    near = Limits(price_collar=0.003)
    assert buy_limit(99.0, 100.2, rules=RULES, reference=D(100), limits=near) == D("100.30")
    assert buy_limit(99.0, 100.5, rules=RULES, reference=D(100), limits=near) is None
    assert buy_limit(99.0, 100.2, rules=_rules(bid_up=D("1.0021")), reference=D(100), limits=IOC) == D("100.20")
    assert buy_limit(99.0, 100.2, rules=_rules(bid_up=D("1.001")), reference=D(100), limits=IOC) is None
    assert buy_limit(99.0, 101.0, rules=RULES, reference=D(100), limits=GTC) == D("99.00")
    assert buy_limit(98.0, 102.0, rules=RULES, reference=D(100), limits=GTC) is None
    assert buy_limit(99.5, 100.5, rules=_rules(bid_down=D("0.999")), reference=D(100), limits=GTC) is None


def test_sell_limits() -> None:
    """Up to the tick, not above the touch, inside collar and price band; the collar wins over the touch."""

    def limit(near: str, touch: str, collar: str = "0.05", **rules: object) -> Decimal | None:
        return sell_limit(D(near), touch=D(touch), reference=D(100), collar=D(collar), rules=_rules(**rules))

    assert limit("99.751", "99.95") == D("99.80")
    assert limit("99.96", "99.96") == D("99.95")
    assert limit("90", "99.95") == D("95.00")
    assert limit("90", "99.95", ask_down=D("0.9711")) == D("97.15")
    assert limit("108", "108") == D("105.00")
    assert limit("104", "104", ask_up=D("1.021")) == D("102.10")
    assert limit("90", "90", "0.01") == D("99.00")
    assert limit("99", "99", tick=D(70)) is None


@given(
    st.decimals(min_value=0, max_value=100_000, places=4),
    st.decimals(min_value=1, max_value=1000, places=2),
    st.integers(min_value=0, max_value=10_000_000),
    st.sampled_from([D("0.001"), D("0.1"), D(1)]),
    st.sampled_from([D(0), D(50), D(2000)]),
)
def test_i5_legs_make_the_whole(qty: Decimal, limit: Decimal, equity: int, step: Decimal, max_qty: Decimal) -> None:
    """Σ child = parent rounded down to the lot; every leg is acceptable, equal within a lot, and within the size limit."""
    rules = _rules(step=step, min_qty=step, max_qty=max_qty)
    legs = cut_legs(qty, limit, reference=limit, equity=D(equity), limits=IOC, rules=rules)
    if not legs:
        assert qty // step == 0 or not takes(qty // step * step, limit, rules) or max_qty
        return
    assert sum(legs) == qty // step * step
    assert all(takes(leg, limit, rules) and leg % step == 0 for leg in legs)
    assert max(legs) - min(legs) <= step
    if max_qty:
        assert max(legs) <= max_qty
    if equity:
        least = max(step, rules.min_notional / limit)
        assert max(legs) * limit <= max(D(equity) / 10, 2 * (least + step) * limit)


def test_legs_of_nothing() -> None:
    """No quantity, no price, or too small for the venue: no legs."""
    for qty, limit in (("0.0001", "100"), ("1", "0"), ("0.049", "100")):
        assert cut_legs(D(qty), D(limit), reference=D(100), equity=D(1000), limits=IOC, rules=RULES) == []


def test_legs_with_unknown_equity_go_in_one() -> None:
    """Nobody is kept in a position because equity is unknown."""
    assert cut_legs(D(20), D(100), reference=D(100), equity=D("NaN"), limits=IOC, rules=RULES) == [D(20)]
    assert cut_legs(D(20), D(100), reference=D(100), equity=D(10_000), limits=IOC, rules=RULES) == [D(10), D(10)]


def test_small_helpers() -> None:
    """Capping, acceptance and weights."""
    assert capped(D("60.0005"), RULES) == D(50)
    assert capped(D("60.0005"), _rules(max_qty=D(0))) == D("60.000")
    assert not takes(D(0), D(100), RULES)
    assert weight_of(D(1), D(4)) == 0.25
    assert weight_of(D(1), D(0)) == 0.0
    assert weight_of(D(1), D("NaN")) == 0.0


def test_room_counts_positions_and_live_buys() -> None:
    """Weight, gross and cash less what is held, reserved and kept back."""
    room = Room(
        equity=D(1000),
        cash_free=D(500),
        values={"A": D(200), "B": D(100)},
        reserved={"A": D(50), "C": D(10)},
        limits=Limits(),
    )

    assert room.cash == D(480)
    assert room.gross == D(640)
    assert (room.weight("A"), room.weight("C"), room.weight("D")) == (D(50), D(290), D(300))


def test_room_scales_with_max_gross() -> None:
    """Half of equity is half of equity."""
    room = Room(equity=D(1000), cash_free=D(500), values={}, reserved={}, limits=Limits(max_gross=0.5))

    assert room.gross == D(500)


@pytest.mark.parametrize(("value", "reserved"), [(None, D(0)), (D(1), D("NaN"))])
def test_unknown_values_leave_no_room(value: Decimal | None, reserved: Decimal) -> None:
    """What cannot be valued might be anything: no growth."""
    room = Room(equity=D(1000), cash_free=D(500), values={"A": value}, reserved={"B": reserved}, limits=Limits())

    assert room.gross == 0
