"""The figures of a portfolio's risk against independent calculations."""

from fractions import Fraction
from math import inf, isnan, nan, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from risk.portfolio import (
    PERIODS_MIN,
    Floats,
    absorption_ratio,
    average_correlation,
    betas,
    concentration,
    correlation_of,
    deviation_of,
    exit_cost,
    exit_days,
    exit_within,
    historical_tail,
    normal_tail,
    portfolio_returns,
    risk_shares,
    standing,
)
from strategies.cvar import historical_cvar

SEEDS = st.integers(0, 2**32 - 1)


def world(seed: int, days: int = 250, assets: int = 6) -> Floats:
    """Return (days, assets) fat-tailed returns that move together."""
    rng = np.random.default_rng(seed)
    common = rng.standard_t(4, size=(days, 1))
    own = rng.standard_t(4, size=(days, assets))
    returns: Floats = 0.02 * (common + own)
    return returns


@settings(max_examples=40)
@given(seed=SEEDS, n=st.integers(PERIODS_MIN, 400), level=st.sampled_from([0.9, 0.95, 0.975, 0.99]))
def test_the_tail_of_a_sample(seed: int, n: int, level: float) -> None:
    """VaR is the inverted distribution function; CVaR the least of Rockafellar and Uryasev's function, exactly."""
    returns = np.random.default_rng(seed).normal(-0.01, 0.03, n)
    found = historical_tail(returns, level)
    losses = np.sort(-returns)
    assert found is not None

    needed = Fraction(str(level))
    smallest = next(loss for k, loss in enumerate(losses, start=1) if Fraction(k, n) >= needed)
    assert found.var == pytest.approx(max(smallest, 0.0), abs=1e-15)
    lowest = min(v + float(np.maximum(losses - v, 0.0).mean()) / (1.0 - level) for v in losses)
    assert found.cvar == pytest.approx(max(lowest, 0.0), rel=1e-9)
    assert found.cvar >= found.var - 1e-15


@settings(max_examples=20)
@given(seed=SEEDS)
def test_the_tail_is_that_of_the_limit(seed: int) -> None:
    """What is shown and what `cvar_limit` scales by are one number."""
    returns = world(seed)
    w = np.random.default_rng(seed).dirichlet(np.ones(6)) * np.array([1, 1, 0, 1, 1, 0])
    returns[5, 0] = returns[9, 2] = nan
    found = historical_tail(portfolio_returns(w, returns))

    assert found is not None
    assert len(portfolio_returns(w, returns)) == 249
    assert found.cvar == pytest.approx(historical_cvar(w, returns))


def test_too_few_periods_and_gains_only() -> None:
    """A short sample has no tail; one that only gains loses nothing."""
    assert historical_tail(np.full(PERIODS_MIN - 1, -0.1)) is None
    found = historical_tail(np.full(50, 0.01))
    assert found is not None
    assert (found.var, found.cvar) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("deviation", "mean", "level"),
    [(0.02, 0.0, 0.95), (0.3, 0.05, 0.99), (0.05, -0.02, 0.8), (0.01, 0.1, 0.95), (0.0, 0.0, 0.9)],
)
def test_the_normal_tail(deviation: float, mean: float, level: float) -> None:
    """Quantile and tail mean of scipy's normal distribution."""
    found = normal_tail(deviation, level, mean=mean)
    z = stats.norm.ppf(level)

    assert found.var == pytest.approx(max(deviation * z - mean, 0.0), abs=1e-12)
    assert found.cvar == pytest.approx(max(deviation * stats.norm.expect(lb=z) / (1.0 - level) - mean, 0.0), abs=1e-9)


@settings(max_examples=20)
@given(seed=SEEDS)
def test_deviation_and_its_parts(seed: int) -> None:
    """The deviation is that of the portfolio's own returns; its parts are covariances with them and add up."""
    returns = world(seed)
    w = np.random.default_rng(seed).normal(size=6)
    covariance = np.cov(returns, rowvar=False)
    mine = returns @ w

    assert deviation_of(w, covariance) == pytest.approx(mine.std(ddof=1))
    parts = risk_shares(w, covariance)
    assert parts.sum() == pytest.approx(1.0)
    expected = [w[i] * np.cov(returns[:, i], mine)[0, 1] / mine.var(ddof=1) for i in range(6)]
    assert parts == pytest.approx(np.array(expected), abs=1e-9)


def test_what_is_not_held_need_not_be_known() -> None:
    """A covariance that is unknown matters only when its asset is held."""
    covariance = np.array([[0.04, nan], [nan, nan]])

    assert deviation_of(np.array([0.5, 0.0]), covariance) == pytest.approx(0.1)
    assert isnan(deviation_of(np.array([0.5, 0.1]), covariance))
    assert risk_shares(np.zeros(2), np.eye(2)).tolist() == [0.0, 0.0]


@settings(max_examples=10)
@given(seed=SEEDS)
def test_betas_are_least_squares(seed: int) -> None:
    """Each beta is the slope that scipy fits through the rows both have."""
    returns = world(seed)
    market = returns[:, 0].copy()
    returns[::7, 2] = nan
    market[3] = nan
    returns[30:, 4] = nan
    found = betas(returns, market)

    for at in (0, 1, 2, 3, 5):
        both = np.isfinite(returns[:, at]) & np.isfinite(market)
        assert found[at] == pytest.approx(stats.linregress(market[both], returns[both, at]).slope)
    assert found[0] == pytest.approx(1.0)
    assert isnan(found[4])  # 29 returns in common


def test_a_market_that_stands_still_tells_no_beta() -> None:
    """No variance, no slope."""
    assert np.isnan(betas(world(1), np.full(250, 0.001))).all()


@settings(max_examples=40)
@given(w=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20), cash=st.floats(1.0, 10.0))
def test_concentration(w: list[float], cash: float) -> None:
    """Between 1/n and 1, unmoved by cash; n equal positions count as n."""
    weights = np.array(w)
    found = concentration(weights)
    if weights.sum() <= 0.0:
        assert (found.hhi, found.effective, found.largest) == (0.0, 0.0, 0.0)
        return
    assert 1.0 / len(w) - 1e-9 <= found.hhi <= 1.0 + 1e-9
    assert found.effective * found.hhi == pytest.approx(1.0)
    assert concentration(weights / cash).hhi == pytest.approx(found.hhi)
    assert concentration(np.full(len(w), 0.3)).effective == pytest.approx(len(w))


def test_time_to_sell() -> None:
    """Value over the share of the volume; what is unknown counts as unsold, what has no volume never ends."""
    value = np.array([1e6, 5e5, 0.0, 2e5, 3e5])
    volume = np.array([2e7, 1e6, 0.0, 0.0, nan])
    days = exit_days(value, volume, 0.1)

    assert days[:4].tolist() == [0.5, 5.0, 0.0, inf]
    assert isnan(days[4])
    assert exit_within(value, days) == pytest.approx((1e6 + 5e5 / 5.0) / 2e6)
    assert exit_within(value, days, 5.0) == pytest.approx(1.5e6 / 2e6)
    assert exit_within(np.zeros(2), np.zeros(2)) == 1.0


def test_cost_of_selling() -> None:
    """Two thirds of the deviation for a whole day's volume; four times the position costs twice as much per unit."""
    value, volume = np.array([1e6, 4e6, 1.0, 0.0, 1.0]), np.array([1e6, 1e6, 0.0, 0.0, nan])
    cost = exit_cost(value, volume, np.full(5, 0.03))

    assert cost[:4] == pytest.approx(np.array([0.02, 0.04, 1.0, 0.0]))
    assert isnan(cost[4])


@settings(max_examples=20)
@given(seed=SEEDS, rho=st.floats(-0.2, 0.99))
def test_equal_correlations(seed: int, rho: float) -> None:
    """With one correlation for all the mean is it, and the largest of six eigenvalues is 1 + 5·rho (or 1 - rho)."""
    matrix = np.full((6, 6), rho) + (1.0 - rho) * np.eye(6)
    scale = np.random.default_rng(seed).uniform(0.01, 0.2, 6)
    correlation = correlation_of(matrix * scale[:, None] * scale)

    assert correlation == pytest.approx(matrix)
    assert average_correlation(correlation) == pytest.approx(rho)
    largest = sorted([1.0 + 5.0 * rho, *([1.0 - rho] * 5)])[-2:]  # a fifth of six, rounded up
    assert absorption_ratio(correlation) == pytest.approx(sum(largest) / 6.0)


@settings(max_examples=10)
@given(seed=SEEDS)
def test_the_absorption_ratio_is_explained_variance(seed: int) -> None:
    """The share that the first singular vectors explain of the centred returns."""
    returns = world(seed, assets=10)
    singular = np.linalg.svd(returns - returns.mean(axis=0), compute_uv=False) ** 2

    assert absorption_ratio(np.cov(returns, rowvar=False)) == pytest.approx(singular[:2].sum() / singular.sum())


def test_assets_that_never_moved_are_left_out() -> None:
    """They have no correlation; with fewer than two others there is no mean and no ratio."""
    covariance = np.diag([0.01, 0.0, 0.04])
    covariance[0, 2] = covariance[2, 0] = 0.01
    correlation = correlation_of(covariance)

    assert average_correlation(correlation) == pytest.approx(0.5)
    assert absorption_ratio(correlation) == pytest.approx(0.75)
    assert isnan(average_correlation(correlation[:2, :2]))
    assert isnan(absorption_ratio(correlation[:2, :2]))
    assert isnan(absorption_ratio(np.zeros((2, 2))))


def test_standing_in_its_history() -> None:
    """The rank of the newest value, and the shift of the newest fifteen in deviations of all."""
    history = np.concatenate([np.zeros(45), np.ones(15)])
    found = standing(history)

    assert found is not None
    assert found.rank == pytest.approx(45 / 59 + 0.5 * 14 / 59)
    assert found.shift == pytest.approx(0.75 / sqrt(60 / 59 * 0.25 * 0.75))
    assert standing(history[:29]) is None
    still = standing(np.ones(40))
    assert still is not None
    assert (still.rank, still.shift) == (0.5, 0.0)
