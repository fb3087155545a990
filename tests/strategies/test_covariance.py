"""Covariance: equal to its references, scaled to the horizon, repaired or refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf as reference_ledoit_wolf

from strategies.covariance import (
    EIGEN_FLOOR,
    FACTORS,
    RETURNS_MAX,
    RETURNS_MIN,
    SHRINKAGE_SOUND,
    NoCovariance,
    estimate,
    estimate_factors,
    ewma,
    factor_count,
    factor_form,
    ledoit_wolf,
    repair,
    returns_of,
    sample,
)

Floats = NDArray[np.float64]


def returns(bars: int, assets: int, seed: int = 0) -> Floats:
    """Correlated returns with unequal volatility."""
    rng = np.random.default_rng(seed)
    common = rng.normal(0, 0.01, (bars, 1))
    out: Floats = common + rng.normal(0, 0.01, (bars, assets)) * np.linspace(0.5, 2.0, assets)
    return out


@pytest.mark.parametrize("bars", [40, 300])
@pytest.mark.parametrize("assets", [1, 2, 10, 60])
def test_ledoit_wolf_equals_scikit_learn(bars: int, assets: int) -> None:
    """Our one-product formula is theirs to rounding, shrinkage included."""
    X = returns(bars, assets, seed=assets)
    S, shrinkage = ledoit_wolf(X)
    expected, expected_shrinkage = reference_ledoit_wolf(X)

    np.testing.assert_allclose(S, expected, rtol=1e-9, atol=1e-18)
    assert shrinkage == pytest.approx(expected_shrinkage, abs=1e-9)


def test_sample_equals_numpy() -> None:
    """The sample covariance is numpy's with divisor T."""
    X = returns(200, 5)
    np.testing.assert_allclose(sample(X), np.cov(X, rowvar=False, bias=True), rtol=1e-12)


def test_ewma_equals_the_recursion() -> None:
    """S_t = a S_(t-1) + (1 - a) x x' gives the same matrix once the start is forgotten."""
    X, halflife = returns(2_000, 3), 20.0
    decay = 0.5 ** (1 / halflife)
    S = np.outer(X[0], X[0])
    for x in X[1:]:
        S = decay * S + (1 - decay) * np.outer(x, x)
    np.testing.assert_allclose(ewma(X, halflife), S, rtol=1e-9)


@pytest.mark.parametrize("method", ["sample", "ewma", "ledoit_wolf", "factor"])
def test_factors_are_exactly_the_estimate(method: str) -> None:
    """F F' + diag(D) is the matrix, for every method; the horizon multiplies it."""
    X = returns(300, 12)
    S = estimate(X, method=method, horizon_bars=24)
    factors = estimate_factors(X, method=method, horizon_bars=24)
    one_bar = estimate(X, method=method, horizon_bars=1)
    assert not isinstance(S, NoCovariance)
    assert not isinstance(factors, NoCovariance)
    assert not isinstance(one_bar, NoCovariance)
    F, D = factors

    assert F.shape == (12, factor_count(12, method))
    assert (F.shape[1] == FACTORS) == (method == "factor")
    np.testing.assert_allclose(F @ F.T + np.diag(D), S, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(S, 24 * one_bar, rtol=1e-9, atol=1e-15)


def test_returns_are_simple_recent_and_per_asset() -> None:
    """Closes (n, bars) become simple returns (T, n), at most the newest thousand."""
    closes = np.array([[1.0, 1.1, 1.21], [10.0, 5.0, 10.0]])
    np.testing.assert_allclose(returns_of(closes), [[0.1, -0.5], [0.1, 1.0]])
    assert returns_of(np.ones((2, 5_000))).shape == (RETURNS_MAX, 2)


@pytest.mark.parametrize(
    "X",
    [
        np.full((100, 3), np.nan),
        np.vstack([returns(99, 3), [[0.0, np.inf, 0.0]]]),
        returns(RETURNS_MIN - 1, 3),
        returns(100, 3) * 1e200,
    ],
)
def test_unusable_returns_are_refused(X: Floats) -> None:
    """NaN, infinity, too few rows and overflow are a typed refusal, not an exception."""
    assert isinstance(estimate(X, method="sample", horizon_bars=24), NoCovariance)
    assert isinstance(estimate_factors(X, method="ledoit_wolf", horizon_bars=24), NoCovariance)


def test_unknown_method_is_refused() -> None:
    """A method that does not exist is named."""
    answer = estimate(returns(100, 3), method="magic", horizon_bars=1)
    assert isinstance(answer, NoCovariance)
    assert "magic" in answer.detail


@pytest.mark.parametrize("scale", [1e-24, 1.0, 1e24])
@pytest.mark.parametrize("kind", ["rank_one", "indefinite", "asymmetric", "equal_assets"])
def test_degenerate_matrices_are_repaired(kind: str, scale: float) -> None:
    """Rank one, indefinite and asymmetric matrices get eigenvalues of at least the floor, at any scale."""
    x = np.array([1.0, 2.0, 3.0])
    S = {
        "rank_one": np.outer(x, x),
        "indefinite": np.diag([1.0, 1.0, -1e-3]),
        "asymmetric": np.eye(3) + np.triu(np.full((3, 3), 1e-3)),
        "equal_assets": np.ones((3, 3)),
    }[kind] * scale
    fixed = repair(S)
    assert not isinstance(fixed, NoCovariance)
    F, D = factor_form(fixed, 3)

    np.testing.assert_array_equal(fixed, fixed.T)
    assert np.linalg.eigvalsh(fixed).min() >= 0.5 * EIGEN_FLOOR * np.trace(fixed) / 3
    np.testing.assert_allclose(F @ F.T + np.diag(D), fixed, rtol=1e-6, atol=1e-12 * scale)


def test_zero_matrix_is_kept_and_nonsense_refused() -> None:
    """No movement is no risk; a negative trace, a rectangle or NaN is no covariance."""
    zero = repair(np.zeros((3, 3)))
    assert not isinstance(zero, NoCovariance)
    assert not zero.any()
    assert not factor_form(zero, 3)[0].any()
    for nonsense in (-np.eye(3), np.ones((2, 3)), np.full((2, 2), np.nan), np.array([[0.0, 1.0], [1.0, 0.0]])):
        assert isinstance(repair(nonsense), NoCovariance)


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 8))
def test_truncated_factors_keep_the_diagonal(seed: int, n: int, k: int) -> None:
    """However few factors, every variance is kept and D is not negative."""
    A = np.random.default_rng(seed).normal(size=(n, n))
    S = A @ A.T
    F, D = factor_form(S, k)

    assert F.shape == (n, min(n, k))
    assert (D >= 0.0).all()
    np.testing.assert_allclose(np.diag(F @ F.T) + D, np.diag(S), rtol=1e-8, atol=1e-10)


@given(st.integers(0, 2**32 - 1), st.integers(RETURNS_MIN, 60), st.integers(2, 80))
def test_what_shrinking_lifted_needs_no_repair(seed: int, bars: int, assets: int) -> None:
    """Rank-deficient or not: a shrunk estimate is what repair makes of it, looked at or not."""
    S, shrinkage = ledoit_wolf(returns(bars, assets, seed))

    assert shrinkage > SHRINKAGE_SOUND
    assert np.array_equal(np.asarray(repair(S)), np.asarray(repair(S, lifted=True)))


def test_what_is_not_finite_is_refused_lifted_or_not() -> None:
    """A maker's word is about eigenvalues alone."""
    for bad in (np.full((2, 2), np.nan), np.array([[1.0, np.inf], [np.inf, 1.0]]), -np.eye(2)):
        assert isinstance(repair(bad, lifted=True), NoCovariance)
