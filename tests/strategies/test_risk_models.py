"""Risk models: equal to their references, exact in factor form; the repair says how much it changed (F63)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf as reference_ledoit_wolf
from sklearn.decomposition import FactorAnalysis

from strategies.covariance import EIGEN_FLOOR, NoCovariance, sample
from strategies.risk_models import (
    METHODS,
    RETURN_MIN,
    SCENARIOS_MAX,
    Repaired,
    factors_that_count,
    horizon_scenarios,
    k_factor,
    one_factor,
    repair_bounded,
    risk_model,
)

Floats = NDArray[np.float64]


def returns(bars: int, assets: int, seed: int = 0, factors: int = 2) -> Floats:
    """Returns of a factor model with known loadings."""
    rng = np.random.default_rng(seed)
    B = rng.normal(0, 1, (assets, factors)) + np.array([2.0] + [0.0] * (factors - 1))
    noise = rng.normal(0, 0.01, (bars, assets)) * np.linspace(0.5, 1.5, assets)
    return np.asarray(rng.normal(0, 0.01, (bars, factors)) @ B.T + noise, dtype=np.float64)


@pytest.mark.parametrize("method", METHODS)
def test_every_model_is_a_covariance_over_the_horizon(method: str) -> None:
    """F F' + diag(D) is positive semidefinite, D is not negative, and the horizon multiplies it."""
    X = returns(400, 12)
    found, one_bar = (risk_model(X, method=method, horizon_bars=h) for h in (24, 1))
    assert not isinstance(found, NoCovariance)
    assert not isinstance(one_bar, NoCovariance)
    S, S1 = (F @ F.T + np.diag(D) for F, D in (found, one_bar))

    assert (found[1] >= 0.0).all()
    assert np.linalg.eigvalsh(S).min() >= -1e-12 * np.trace(S)
    np.testing.assert_allclose(S, 24 * S1, rtol=1e-9, atol=1e-15)
    assert np.abs(np.diag(S1) / X.var(axis=0) - 1).max() < 0.5


def test_ledoit_wolf_is_that_of_scikit_learn() -> None:
    """The method of that name is the known estimator."""
    X = returns(120, 9)
    found = risk_model(X, method="ledoit_wolf", horizon_bars=1)
    assert not isinstance(found, NoCovariance)
    np.testing.assert_allclose(
        found[0] @ found[0].T + np.diag(found[1]), reference_ledoit_wolf(X)[0], rtol=1e-8, atol=1e-15
    )


def test_one_factor_is_a_regression_on_the_market() -> None:
    """Loadings are regression slopes times the market's deviation; variances are kept exactly; a given index is used."""
    X = returns(500, 6)
    market = X.mean(axis=1)
    F, D = one_factor(X)
    slopes = np.array([np.polyfit(market, X[:, i], 1)[0] for i in range(6)])

    np.testing.assert_allclose(F[:, 0], slopes * market.std(), rtol=1e-9)
    np.testing.assert_allclose(F[:, 0] ** 2 + D, X.var(axis=0), rtol=1e-9)
    np.testing.assert_allclose(one_factor(X, X[:, 0])[1][0], 0.0, atol=1e-18)
    still, left = one_factor(X, np.ones(500))
    assert not still.any()
    np.testing.assert_allclose(left, X.var(axis=0), rtol=1e-12)


@pytest.mark.parametrize("k", [1, 2])
def test_k_factors_agree_with_maximum_likelihood(k: int) -> None:
    """Principal-axis factoring finds the covariance that scikit-learn's factor analysis finds, and keeps variances exactly."""
    X = returns(4_000, 8, factors=k)
    F, D = k_factor(X, k)
    S = F @ F.T + np.diag(D)
    reference = FactorAnalysis(n_components=k, tol=1e-5, max_iter=2_000).fit(X).get_covariance()

    assert F.shape == (8, k)
    np.testing.assert_allclose(np.diag(S), X.var(axis=0), rtol=1e-12)
    assert np.abs(S - reference).max() < 0.02 * np.abs(reference).max()


def test_factor_models_are_nearer_to_the_truth_than_the_sample_where_data_are_short() -> None:
    """With 40 bars of 30 assets, the known structure beats the sample covariance off the diagonal, on average over seeds."""
    wins = 0
    for seed in range(10):
        long, short = returns(3_000, 30, seed), returns(3_000, 30, seed)[:40]
        truth, S = sample(long), sample(short)
        F, D = k_factor(short, 2)
        wins += np.linalg.norm(F @ F.T + np.diag(D) - truth) < np.linalg.norm(S - truth)
    assert wins >= 7


def test_assets_that_never_moved_have_no_risk() -> None:
    """A constant price has neither loading nor specific variance in any factor model."""
    X = returns(200, 5)
    X[:, 2] = 0.0
    for F, D in (one_factor(X), k_factor(X, 2)):
        assert not F[2].any()
        assert D[2] == 0.0
    nothing = k_factor(np.zeros((50, 3)), 2)
    assert not nothing[0].any()
    assert not nothing[1].any()


def test_factors_that_count_are_those_above_the_edge_of_noise() -> None:
    """Pure noise has one by definition, three strong factors are three; prices that never move have one."""
    rng = np.random.default_rng(1)
    assert factors_that_count(rng.normal(0, 0.01, (2_000, 20))) <= 2
    assert factors_that_count(returns(2_000, 20, seed=3, factors=3)) == 3
    assert factors_that_count(np.zeros((50, 4))) == 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("X", [np.full((100, 3), np.nan), np.full((100, 3), 1e200), np.zeros((5, 3))])
def test_unusable_returns_are_refused(method: str, X: Floats) -> None:
    """NaN, overflow and too few rows are a typed refusal, whatever the model."""
    assert isinstance(risk_model(X, method=method, horizon_bars=24), NoCovariance)
    unknown = risk_model(X, method="magic", horizon_bars=1)
    assert isinstance(unknown, NoCovariance)
    assert "magic" in unknown.detail


# ------------------------------------------------------------- repair


@settings(max_examples=80)
@given(st.integers(0, 2**16), st.integers(1, 8), st.floats(-0.04, 1.0), st.sampled_from([1e-9, 1.0, 1e9]))
def test_repair_changes_no_more_than_its_bound(seed: int, n: int, lowest: float, size: float) -> None:
    """F63: the spectral change is what the lowest eigenvalue lacks, nothing where it lacks nothing; the result is definite."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.normal(size=(n, n)))[0]
    values = rng.uniform(1.0, 2.0, n)
    values[0] = lowest
    S = (Q * values) @ Q.T * size
    S = 0.5 * (S + S.T)
    fixed = repair_bounded(S)
    if n == 1 and lowest <= 0.0:  # no positive variance at all
        assert isinstance(fixed, NoCovariance) or not S.any()
        return
    assert isinstance(fixed, Repaired), fixed
    mean = np.trace(S) / n

    assert np.linalg.norm(fixed.matrix - S, 2) <= (fixed.bound + 1e-13) * mean
    assert fixed.change <= fixed.bound + 1e-13
    assert np.linalg.eigvalsh(fixed.matrix / mean).min() >= 0.5 * EIGEN_FLOOR - 1e-13
    if lowest > 1e-3:
        np.testing.assert_array_equal(fixed.matrix, S)


@pytest.mark.parametrize(
    "S",
    [
        np.diag([1.0, 1.0, -0.5]),
        np.eye(3) + np.triu(np.full((3, 3), 0.5), 1),
        np.array([[1.0, 2.0], [2.0, 1.0]]),
        np.full((2, 2), np.nan),
        np.ones((2, 3)),
        -np.eye(2),
    ],
)
def test_what_is_far_from_a_covariance_is_refused(S: Floats) -> None:
    """F63: a matrix that needs more than 5 % of the mean variance is wrong data, not an estimate."""
    assert isinstance(repair_bounded(S), NoCovariance)


def test_zero_and_slightly_asymmetric_matrices_are_repaired() -> None:
    """No movement is no risk; a little asymmetry is rounding and is reported."""
    zero = repair_bounded(np.zeros((3, 3)))
    assert isinstance(zero, Repaired)
    assert not zero.matrix.any()
    skew = repair_bounded(np.eye(2) + np.array([[0.0, 1e-6], [0.0, 0.0]]))
    assert isinstance(skew, Repaired)
    assert 0.0 < skew.asymmetry < 1e-5
    np.testing.assert_array_equal(skew.matrix, skew.matrix.T)


# ------------------------------------------------------------- scenarios


def test_scenarios_are_compounded_windows_around_the_forecast() -> None:
    """Each is the compounded return of a window, the newest last, moved so that their mean is the forecast's."""
    X = returns(60, 3) * 0.1
    mean = np.array([0.01, 0.0, -0.02])
    found = horizon_scenarios(X, mean, horizon_bars=5)
    assert not isinstance(found, NoCovariance)
    whole = np.array([np.prod(1 + X[i : i + 5], axis=0) - 1 for i in range(56)])

    np.testing.assert_allclose(found, whole - whole.mean(axis=0) + mean, atol=1e-12)
    np.testing.assert_allclose(found.mean(axis=0), mean, atol=1e-12)


def test_scenarios_are_bounded_in_number_and_in_loss() -> None:
    """More windows than kept are thinned evenly, the newest stays; no loss is above 99 %; short or broken data are refused."""
    X = returns(1_000, 2) * 0.1
    many = horizon_scenarios(X, np.zeros(2), horizon_bars=1)
    assert not isinstance(many, NoCovariance)
    assert many.shape[0] <= SCENARIOS_MAX
    assert many[-1] - many[-2] == pytest.approx(X[-1] - X[-3], abs=1e-12)
    grim = horizon_scenarios(X, np.array([-5.0, 0.0]), horizon_bars=1)
    assert not isinstance(grim, NoCovariance)
    assert grim.min() == RETURN_MIN
    for broken in (X[:20], np.where(np.arange(1_000)[:, None] == 5, np.nan, X), np.where(X[7] == X, -2.0, X)):
        assert isinstance(horizon_scenarios(broken, np.zeros(2), horizon_bars=1), NoCovariance)
