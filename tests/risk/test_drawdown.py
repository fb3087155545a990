"""Losses on the flow-adjusted unit value."""

from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from risk.drawdown import DAY_NS, Drawdown, DrawdownState
from risk.limits import Limits

RETURNS = st.lists(st.decimals(min_value=Decimal("-0.2"), max_value=Decimal("0.2"), places=4), min_size=1, max_size=30)
FLOWS = st.lists(st.decimals(min_value=-90, max_value=1000, places=2), min_size=30, max_size=30)


def test_p5_drawdown_latches_until_rearmed() -> None:
    """20 % below the peak is a hit; recovery does not lift it, an operator does."""
    loss = Drawdown(Limits(max_daily_loss=1.0))
    assert not loss.update(Decimal(100), 1).drawdown_hit
    assert loss.update(Decimal(120), 2).drawdown == 0.0
    assert not loss.update(Decimal("96.01"), 3).drawdown_hit
    verdict = loss.update(Decimal(96), 4)
    assert verdict.drawdown_hit
    assert verdict.drawdown == pytest.approx(0.2)
    assert loss.update(Decimal(200), 5).drawdown_hit
    loss.update(Decimal(100), 6)
    loss.rearm()
    again = loss.update(Decimal(99), 7)

    assert not again.drawdown_hit
    assert again.drawdown == pytest.approx(0.01)


def test_p5_daily_loss_holds_until_the_next_utc_day() -> None:
    """5 % below the value at midnight; the day's verdict stays though the price comes back, midnight lifts it."""
    loss = Drawdown(Limits())
    loss.update(Decimal(100), DAY_NS + 1)
    loss.update(Decimal(110), 2 * DAY_NS - 1)
    verdict = loss.update(Decimal(106), 2 * DAY_NS)
    assert not verdict.daily_loss_hit
    assert verdict.daily_loss == pytest.approx(4 / 110)  # from 110, the last value before midnight
    assert loss.update(Decimal("104.5"), 2 * DAY_NS + 1).daily_loss_hit
    assert loss.update(Decimal(110), 2 * DAY_NS + 2).daily_loss_hit
    assert loss.update(Decimal(100), DAY_NS).daily_loss_hit  # time running back opens no new day
    assert not loss.update(Decimal(100), 3 * DAY_NS).daily_loss_hit


@given(RETURNS, FLOWS)
def test_p5_flows_change_nothing(returns: list[Decimal], flows: list[Decimal]) -> None:
    """Deposits and withdrawals between moves leave drawdown and daily loss as they were without them."""
    plain, flowing = Drawdown(Limits()), Drawdown(Limits())
    a = b = Decimal(100)
    plain.update(a, 0)
    flowing.update(b, 0)
    for index, (move, flow) in enumerate(zip(returns, flows, strict=False)):
        amount = max(flow, -b * Decimal("0.9"))
        flowing.flow(amount, b)
        b = (b + amount) * (1 + move)
        a *= 1 + move
        one = plain.update(a, index * DAY_NS // 3)
        two = flowing.update(b, index * DAY_NS // 3)

        assert two.drawdown == pytest.approx(one.drawdown, abs=1e-12)
        assert two.daily_loss == pytest.approx(one.daily_loss, abs=1e-12)
        if abs(one.drawdown - 0.2) < 1e-12 or abs(one.daily_loss - 0.05) < 1e-12:
            return  # exactly on a limit: the 28th digit decides, and the latch keeps its verdict
        assert two.drawdown_hit == one.drawdown_hit
        assert two.daily_loss_hit == one.daily_loss_hit


def test_everything_may_leave_and_come_back() -> None:
    """A full withdrawal is no loss; the next deposit continues at the last unit value."""
    loss = Drawdown(Limits())
    loss.update(Decimal(100), 1)
    loss.update(Decimal(90), 2)
    loss.flow(Decimal(-90), Decimal(90))
    assert not loss.update(Decimal(0), 3).known
    loss.flow(Decimal(500), Decimal(0))
    verdict = loss.update(Decimal(500), 4)

    assert verdict.known
    assert verdict.drawdown == pytest.approx(0.1)


def test_a_deposit_may_come_first() -> None:
    """Money that arrives before the first valuation starts the account; an unknown one starts nothing."""
    loss = Drawdown(Limits())
    loss.flow(Decimal("NaN"), Decimal(0))
    loss.flow(Decimal(100), Decimal("NaN"))
    assert loss.snapshot() == DrawdownState()
    loss.flow(Decimal(100), Decimal(0))
    assert loss.update(Decimal(100), 1).drawdown == 0.0

    other = Drawdown(Limits())
    other.flow(Decimal(100), Decimal(300))
    assert other.update(Decimal(400), 1).drawdown == 0.0


def test_flow_at_unknown_equity_uses_the_last_value() -> None:
    """The deposit buys units at the last known value."""
    loss = Drawdown(Limits())
    loss.update(Decimal(100), 1)
    loss.flow(Decimal(100), Decimal("NaN"))

    assert loss.update(Decimal(180), 2).drawdown == pytest.approx(0.1)


@pytest.mark.parametrize("equity", ["NaN", "Infinity", "-1", "0"])
def test_unknown_equity_judges_nothing(equity: str) -> None:
    """The last good verdict stands and says that it is not fresh."""
    loss = Drawdown(Limits())
    loss.update(Decimal(100), 1)
    before = loss.snapshot()
    verdict = loss.update(Decimal(equity), 2)

    assert not verdict.known
    assert not verdict.drawdown_hit
    assert loss.snapshot() == before


def test_i10_memory_survives_a_restart() -> None:
    """Through JSON and back, exact."""
    loss, other = Drawdown(Limits()), Drawdown(Limits())
    for ts, equity in enumerate(("100", "133.7", "77.1")):
        loss.update(Decimal(equity), ts)
    other.restore(msgspec.json.decode(msgspec.json.encode(loss.snapshot()), type=DrawdownState))

    assert other.snapshot() == loss.snapshot()
    assert other.update(Decimal(78), 9) == loss.update(Decimal(78), 9)
