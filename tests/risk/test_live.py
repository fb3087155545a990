"""Live risk, bar by bar: what it says is what the whole history says, and it survives a restart."""

from math import isnan, nan, sqrt

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from risk.live import DAYS_MAX, LiveLimits, LiveRiskTracker, LiveState
from risk.portfolio import (
    Floats,
    absorption_ratio,
    average_correlation,
    correlation_of,
    historical_tail,
    portfolio_returns,
)

HOUR_NS = 3_600_000_000_000
PAIRS = ("BTC/USDT", "ETH/USDT", "SOL/USDT")
BTC = PAIRS[0]


def walk(seed: int, steps: int, assets: int = 3) -> Floats:
    """Return (steps, assets) returns that move together."""
    rng = np.random.default_rng(seed)
    returns: Floats = 0.01 * (rng.normal(size=(steps, 1)) + rng.normal(size=(steps, assets)))
    return returns


def fed(
    days: Floats, bars: Floats, pairs: tuple[str, ...] = PAIRS, limits: LiveLimits | None = None
) -> LiveRiskTracker:
    """Return a tracker that saw these daily returns and bars' returns."""
    tracker = LiveRiskTracker(pairs, BTC, HOUR_NS, limits)
    for row in days:
        tracker.on_day(row)
    close = np.full(len(pairs), 100.0)
    tracker.on_bar(close)
    for row in bars:
        close *= 1.0 + row
        tracker.on_bar(close)
    return tracker


W = np.array([0.5, 0.3, 0.0])
VALUE = 1e5 * W
VOLUME = np.array([1e6, 1e5, 0.0])


def test_the_days_are_the_sample() -> None:
    """VaR and CVaR are those of the newest year, days on which a held pair is unknown left out."""
    days = walk(1, DAYS_MAX + 40)
    days[100, 1] = nan
    days[101, 2] = nan  # not held
    found = fed(days, walk(2, 5)).figures(W, VALUE, VOLUME)
    tail = historical_tail(portfolio_returns(W, days[-DAYS_MAX:]))

    assert tail is not None
    assert (found.var, found.cvar) == (pytest.approx(tail.var), pytest.approx(tail.cvar))
    assert found.largest == pytest.approx(0.625)
    assert found.exit_days == pytest.approx(3.0)
    assert found.exit_in_day == pytest.approx((0.5 + 0.3 / 3.0) / 0.8)


def test_the_bars_are_an_exponential_mean() -> None:
    """Volatility, beta and the normal tail against weighted sums written out."""
    bars = walk(3, 400)
    limits = LiveLimits(bars=24.0)
    found = fed(np.zeros((0, 3)), bars, limits=limits).figures(W, VALUE, VOLUME)
    decay = 2.0 ** (-1.0 / 24.0)
    weights = decay ** np.arange(399, -1, -1)
    weights /= weights.sum()
    covariance = (weights[:, None] * bars).T @ bars
    deviation = sqrt(24.0 * W @ covariance @ W)

    # The start is a plain mean for 35 bars: what is left of it after 400 is below a thousandth.
    assert found.volatility == pytest.approx(deviation, rel=1e-3)
    assert found.var_normal == pytest.approx(1.6448536 * deviation, rel=1e-3)
    assert found.beta == pytest.approx(W @ covariance[:, 0] / covariance[0, 0], rel=1e-3)
    assert found.var is None


def test_before_anything_is_known() -> None:
    """No figure is made up; a portfolio of cash risks nothing."""
    tracker = LiveRiskTracker(PAIRS, BTC, HOUR_NS)
    found = tracker.figures(W, VALUE, np.full(3, nan))
    nothing = tracker.figures(np.zeros(3), np.zeros(3), VOLUME)

    assert (found.var, found.var_normal, found.volatility, found.beta, found.correlation) == (None,) * 5
    assert (found.exit_days, found.exit_in_day) == (None, None)
    assert (nothing.var, nothing.cvar, nothing.volatility, nothing.exit_days) == (0.0, 0.0, 0.0, 0.0)


def test_no_market_no_beta() -> None:
    """Beta needs the market in the universe; a pair whose own is unknown counts as 1."""
    apart = LiveRiskTracker(PAIRS[1:], BTC, HOUR_NS)
    assert apart.figures(np.array([1.0, 0.0]), np.zeros(2), np.ones(2)).beta is None

    late = walk(4, 60)
    tracker = fed(np.zeros((0, 3)), late)
    tracker._bar.seen[2] = tracker._bar.seen[:, 2] = 3.0
    known = tracker.figures(np.array([1.0, 0.0, 0.0]), VALUE, VOLUME).beta
    assert known == pytest.approx(1.0)
    assert tracker.figures(np.array([0.0, 0.0, 0.5]), VALUE, VOLUME).beta == pytest.approx(0.5)
    assert tracker.figures(np.array([0.0, 0.0, 0.5]), VALUE, VOLUME).volatility is None


def test_the_regime_is_that_of_the_days() -> None:
    """Correlation and absorption follow the days; when all begin to move as one the shift rises above 1."""
    days = walk(5, 300, 5)
    days[-20:] = days[-20:, :1] + 0.0005 * walk(6, 20, 5)
    pairs = tuple(f"A{at}/USDT" for at in range(5))
    tracker = LiveRiskTracker(pairs, pairs[0], HOUR_NS)
    for row in days:
        tracker.on_day(row)
    found = tracker.figures(np.zeros(5), np.zeros(5), np.ones(5))
    decay = 2.0 ** (-1.0 / 30.0)
    weights = decay ** np.arange(299, -1, -1)
    matrix = correlation_of((weights[:, None] * days).T @ days / weights.sum())

    assert found.correlation == pytest.approx(average_correlation(matrix), abs=1e-3)
    assert found.absorption == pytest.approx(absorption_ratio(matrix), abs=1e-3)
    assert found.correlation_shift is not None
    assert found.absorption_shift is not None
    assert min(found.correlation_shift, found.absorption_shift) > 1.0


@settings(max_examples=8)
@given(seed=st.integers(0, 10_000), cut=st.integers(0, 80))
def test_a_restart_changes_nothing(seed: int, cut: int) -> None:
    """Kept, written as msgpack, read and restored at any moment: what follows is the same to the last bit."""
    days, bars = walk(seed, 80), walk(seed + 1, 80)
    days[10:20, 2] = nan
    whole, first = LiveRiskTracker(PAIRS, BTC, HOUR_NS), LiveRiskTracker(PAIRS, BTC, HOUR_NS)
    closes = 100.0 * np.cumprod(1.0 + bars, axis=0)
    closes[5, 1], closes[30, 0] = nan, 0.0
    second = first
    for at in range(80):
        if at == cut:
            second = LiveRiskTracker(PAIRS, BTC, HOUR_NS)
            second.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(first.snapshot()), type=LiveState))
        for one in (whole, second):
            one.on_day(days[at])
            one.on_bar(closes[at])

    assert second.figures(W, VALUE, VOLUME) == whole.figures(W, VALUE, VOLUME)


def test_a_restart_in_another_universe() -> None:
    """A pair that stays keeps what was known, one that is new starts anew, the regime of other pairs is forgotten."""
    tracker = fed(walk(1, 100), walk(2, 100))
    other = LiveRiskTracker(("NEW/USDT", "ETH/USDT", "BTC/USDT"), BTC, HOUR_NS)
    other.restore(tracker.snapshot())
    mine = tracker.figures(W, VALUE, VOLUME)
    theirs = other.figures(W[[2, 1, 0]], VALUE[[2, 1, 0]], VOLUME[[2, 1, 0]])

    assert (theirs.var, theirs.volatility, theirs.beta) == (mine.var, mine.volatility, pytest.approx(mine.beta))
    assert mine.correlation is not None
    assert theirs.correlation is None
    fresh = LiveRiskTracker(("NEW/USDT",), BTC, HOUR_NS)
    fresh.restore(tracker.snapshot())
    assert fresh.figures(np.ones(1), np.ones(1), np.ones(1)).var is None


def test_a_price_that_is_none() -> None:
    """The next return spans the gap; the pairs that had a price went on."""
    tracker = LiveRiskTracker(PAIRS, BTC, HOUR_NS)
    for close in ([100.0, 50.0, 10.0], [101.0, nan, -1.0], [102.0, 55.0, 11.0]):
        tracker.on_bar(np.array(close))

    assert tracker._bar.seen.diagonal().tolist() == [2.0, 1.0, 1.0]
    assert tracker._bar.values[1, 1] == pytest.approx(0.01)
    assert not isnan(tracker._bar.values.sum())
