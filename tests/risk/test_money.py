"""Doors between float and Decimal, and the reference price."""

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from risk.money import (
    AMOUNT_MAX,
    PRICE_MAX,
    ceil_to,
    exact,
    floor_to,
    is_amount,
    is_crossed,
    is_price,
    ratio,
    reference_price,
    steps_of,
)

POSITIVE = st.decimals(min_value=Decimal("1e-8"), max_value=Decimal("1e9"), places=8)


def test_a_float_becomes_what_it_prints_as() -> None:
    """0.1 is 0.1, not its binary noise; NumPy scalars are numbers too."""
    assert exact(0.1) == Decimal("0.1")
    assert exact(np.float64(100.25)) == Decimal("100.25")
    assert ratio(Decimal("0.25")) == 0.25


@given(st.floats(min_value=1e-12, max_value=1e12))
def test_the_door_loses_nothing(value: float) -> None:
    """A float that goes through the door and back is the same float."""
    assert ratio(exact(value)) == value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, -1.0, PRICE_MAX * 2])
def test_what_is_no_price(value: float) -> None:
    """NaN, infinite, zero, negative and absurd prices are unknown."""
    assert not is_price(value)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1", "1e16"])
def test_what_is_no_amount(value: str) -> None:
    """NaN, infinite, negative and absurd amounts are unknown."""
    assert not is_amount(Decimal(value))
    assert is_amount(AMOUNT_MAX)


@given(POSITIVE, POSITIVE)
def test_rounding_hits_the_grid(value: Decimal, step: Decimal) -> None:
    """Down and up are multiples of the step and enclose the value by less than one step."""
    down, up = floor_to(value, step), ceil_to(value, step)

    assert down % step == 0
    assert up % step == 0
    assert down <= value <= up
    assert up - down in {0, step}
    assert steps_of(value, step) * step == down


def test_no_steps_without_a_step() -> None:
    """A step of zero or a negative value has no whole steps."""
    assert steps_of(Decimal(1), Decimal(0)) == 0
    assert steps_of(Decimal(-1), Decimal(1)) == 0


def test_reference_is_mid_then_last_then_unknown() -> None:
    """The mid of a sound book; the last trade when the book is absent, one-sided or crossed; else nothing."""
    assert reference_price(99.0, 101.0, 50.0) == 100.0
    assert reference_price(0.0, 101.0, 50.0) == 50.0
    assert reference_price(101.0, 99.0, 50.0) == 50.0
    assert reference_price(100.0, 100.0, math.nan) == 0.0
    assert is_crossed(100.0, 100.0)
    assert not is_crossed(0.0, 100.0)


ANY = st.one_of(st.floats(), st.sampled_from([0.0, -0.0, 1.0, 1e12, 1e13, math.nan, math.inf, -1.0]))


@given(st.lists(st.one_of(ANY, ANY.map(np.float64)), max_size=30))
def test_what_is_kept_of_the_door_is_what_it_gives(values: list[float]) -> None:
    """A number asked for before has the same decimal form as one never seen, to the digit and the sign of zero."""
    for value in values + values:
        assert str(exact(value)) == str(Decimal(repr(float(value))))


@given(ANY, ANY, ANY)
def test_references_and_crossings_go_by_what_a_price_is(bid: float, ask: float, last: float) -> None:
    """The short forms say what the long ones do."""
    quoted = is_price(bid) and is_price(ask)
    unquoted = last if is_price(last) else 0.0
    assert reference_price(bid, ask, last) == ((bid + ask) / 2.0 if quoted and bid < ask else unquoted)
    assert is_crossed(bid, ask) == (quoted and bid >= ask)
    assert is_price(bid) == (math.isfinite(bid) and 0.0 < bid <= PRICE_MAX)
