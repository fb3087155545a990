"""Limits: impossible ones and those above the ceilings in code are named."""

import math

import msgspec
import pytest

from risk.limits import CEILINGS, Limits


def test_defaults_are_sound() -> None:
    """What DESIGN A4 states passes."""
    assert Limits().validate() == []


@pytest.mark.parametrize("name", sorted(CEILINGS))
def test_f58_a_slip_of_the_pen_never_becomes_a_limit(name: str) -> None:
    """Above its ceiling, below its floor or NaN: every limit is refused by name."""
    low, high = CEILINGS[name]
    for value in (high * 1000 + 1, low - 1, math.nan, math.inf):
        problems = msgspec.structs.replace(Limits(), **{name: value}).validate()

        assert len(problems) == 1
        assert problems[0].startswith(f"{name} = ")


def test_ceilings_cover_every_number() -> None:
    """A limit added without a ceiling would be a hole."""
    assert set(CEILINGS) == set(Limits.__struct_fields__) - {"order"}


def test_limits_must_fit_each_other() -> None:
    """Exits need at least the collar of entries, and slippage must stay inside the collar."""
    assert "exit_collar" in Limits(price_collar=0.1, exit_collar=0.05).validate()[0]
    assert "max_slippage_bps" in Limits(max_slippage_bps=100.0).validate()[0]


def test_p6_budget_is_four_fifths_of_the_venue() -> None:
    """0 orders per minute means 80 % of what the venue publishes."""
    assert Limits(venue_orders_per_10s=100).orders_per_10s == 80
    assert Limits(venue_orders_per_10s=100).orders_per_minute == 480
    assert Limits(max_orders_per_minute=7).orders_per_minute == 7
    assert Limits(venue_orders_per_10s=1).orders_per_10s == 1
