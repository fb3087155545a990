"""Features: stationary, scaled, without look-ahead, and the same function online and in training."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy import float64, int64
from numpy.typing import NDArray

from strategies.features import CLIP, FEATURES, SIGMA_MIN, make_features, rolling_features
from tests.strategies.forecast_kit import random_bars

L = 60


def test_shapes_types_and_order() -> None:
    """Shape (n_assets, lookback, 5) float32, sigma (n_assets,) float64; the names are the contract of artifacts."""
    X, sigma = make_features(random_bars(1, 3, 100), L)

    assert X.shape == (3, L, 5)
    assert X.dtype == np.float32
    assert sigma.shape == (3,)
    assert sigma.dtype == np.float64
    assert FEATURES == ("open_return", "high_return", "low_return", "close_return", "log_volume")


def test_values_against_the_definition() -> None:
    """A plain loop over one asset gives the same numbers."""
    bars = random_bars(2, 1, L + 5)
    X, sigma = make_features(bars, L)
    window = bars[0, -(L + 1) :]
    returns = [np.log(window[t + 1, 3] / window[t, 3]) for t in range(L)]
    rms = float(np.sqrt(np.mean(np.square(returns))))
    level = np.log1p(window[1:, 4] / window[1:, 4].mean())

    assert sigma[0] == pytest.approx(rms, rel=1e-12)
    for column in range(4):
        expected = [np.log(window[t + 1, column] / window[t, 3]) / rms for t in range(L)]
        assert X[0, :, column] == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert X[0, :, 4] == pytest.approx((level - level.mean()) / level.std(), rel=1e-5, abs=1e-6)


def test_online_equals_offline_to_the_last_bit() -> None:
    """Training's windows, the live buffer's view and any memory layout give the same bytes."""
    bars = random_bars(3, 4, 400)
    ends = np.arange(L, 400, dtype=int64)
    X, sigma = rolling_features(bars, L, ends)
    buffer: NDArray[float64] = np.empty((4, 5, 400)).transpose(0, 2, 1)  # another layout of the same numbers
    buffer[:] = bars

    for i, end in enumerate(ends):
        for view in (bars[:, : end + 1], buffer[:, end - L : end + 1], np.asfortranarray(bars[:, : end + 1])):
            live_X, live_sigma = make_features(view, L)
            assert np.array_equal(live_X, X[:, i])
            assert np.array_equal(live_sigma, sigma[:, i])
    alone_X, alone_sigma = make_features(bars[2:3], L)
    assert np.array_equal(alone_X[0], X[2, -1])
    assert alone_sigma[0] == sigma[2, -1]


def test_the_future_changes_nothing() -> None:
    """Shuffling everything after t leaves the features at t untouched, bit for bit."""
    bars = random_bars(4, 3, 300)
    at = np.array([150, 180], dtype=int64)
    before = rolling_features(bars, L, at)
    future = bars[:, 181:]
    bars[:, 181:] = np.random.default_rng(5).permutation(future, axis=1)[:, :, [3, 1, 2, 0, 4]] * 3.0
    after = rolling_features(bars, L, at)

    assert np.array_equal(before[0], after[0])
    assert np.array_equal(before[1], after[1])


def test_only_the_window_counts() -> None:
    """Bars older than lookback + 1 change nothing."""
    bars = random_bars(6, 2, 200)
    X, _ = make_features(bars, L)
    bars[:, : 200 - L - 1] *= 7.0

    assert np.array_equal(make_features(bars, L)[0], X)


def test_empty_bars_and_constant_windows() -> None:
    """A symbol without trades has features 0 and the smallest volatility; nothing is divided by zero."""
    flat = np.full((1, L + 1, 5), 50.0)
    flat[:, :, 4] = 0.0
    X, sigma = make_features(flat, L)

    assert not X.any()
    assert sigma[0] == SIGMA_MIN
    flat[0, 30, 4] = 2.0
    flat[0, 30, 1] = 51.0
    X, sigma = make_features(flat, L)
    assert np.isfinite(X).all()
    assert np.abs(X).max() <= CLIP


@given(
    price=st.floats(1e-8, 1e8),
    volume=st.floats(1e-9, 1e12),
    seed=st.integers(0, 1000),
)
def test_units_do_not_matter(price: float, volume: float, seed: int) -> None:
    """Another currency or lot size gives the same features up to rounding: one model serves all assets."""
    bars = random_bars(seed, 1, L + 1)
    X, sigma = make_features(bars, L)
    scaled_X, scaled_sigma = make_features(bars * np.array([price, price, price, price, volume]), L)

    assert np.allclose(X, scaled_X, atol=1e-5)
    assert np.allclose(sigma, scaled_sigma, rtol=1e-9)


@given(st.data())
def test_any_sound_bar_gives_finite_features(data: st.DataObject) -> None:
    """Whatever positive prices and volumes come, even absurd ones, the result is finite and bounded."""
    seed = data.draw(st.integers(0, 1000))
    exponents = np.random.default_rng(seed).uniform(-300, 300, (2, 11, 5))
    X, sigma = make_features(10.0**exponents, 10)

    assert np.isfinite(X).all()
    assert np.abs(X).max() <= CLIP
    assert np.isfinite(sigma).all()
    assert (sigma > 0).all()


@pytest.mark.parametrize(
    ("column", "value"),
    [(3, np.nan), (0, np.inf), (2, 0.0), (3, -1.0), (1, -np.inf), (4, np.nan), (4, -1.0), (4, np.inf)],
)
def test_unusable_bars_name_the_asset(column: int, value: float) -> None:
    """NaN, infinity, a price of zero or less and a negative volume are refused, with the asset's index."""
    bars = random_bars(7, 4, L + 3)
    bars[2, -5, column] = value

    with pytest.raises(ValueError, match=r"^asset 2: bar .* is not usable"):
        make_features(bars, L)
    with pytest.raises(ValueError, match=r"^asset 2: bar"):
        rolling_features(bars, L, np.array([L + 1], dtype=int64))


def test_too_few_bars_and_wrong_shapes() -> None:
    """lookback + 1 bars are needed; the message says so."""
    with pytest.raises(ValueError, match="60 bars given, a lookback of 60 needs 61"):
        make_features(random_bars(8, 1, L), L)
    with pytest.raises(ValueError, match="must be"):
        make_features(np.ones((3, 100)), L)
    with pytest.raises(ValueError, match="window ends"):
        rolling_features(random_bars(8, 1, 100), L, np.array([L - 1], dtype=int64))


def test_an_empty_universe_is_fine() -> None:
    """No assets, no features."""
    X, sigma = make_features(np.empty((0, L + 1, 5)), L)

    assert X.shape == (0, L, 5)
    assert sigma.shape == (0,)
