"""Evidence behind a Sharpe ratio: published examples, hand figures, properties, and what luck looks like."""

from math import e, isclose, sqrt
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy import float64
from numpy.typing import NDArray
from scipy import stats

from daemon.backtest.stats.sharpe import (
    Moments,
    cumulative,
    deflated_sharpe,
    effective_trials,
    evidence,
    expected_maximum,
    minimum_track_record,
    moments,
    probabilistic_sharpe,
)

Floats = NDArray[float64]

returns_lists = st.lists(st.floats(-0.9, 5.0), min_size=2, max_size=200)


def noise(seed: int, *shape: int) -> Floats:
    """Return daily returns without any skill, 2 % a day."""
    return np.random.default_rng(seed).normal(0.0, 0.02, shape)


def test_moments_by_hand() -> None:
    """Returns 3, 1, 1, 1, -1 (%): mean 1, sums of squares, cubes and fourth powers 8, 0 and 32."""
    found = moments(np.array([0.03, 0.01, 0.01, 0.01, -0.01]))

    assert found is not None
    assert isclose(found.sharpe, 1.0 / sqrt(8.0 / 4.0))
    assert found.skew == pytest.approx(0.0, abs=1e-12)
    assert isclose(found.kurtosis, (32.0 / 5.0) / (8.0 / 5.0) ** 2)
    assert found.n == 5


@given(st.integers(0, 10_000), st.integers(3, 500))
def test_moments_are_those_of_scipy(seed: int, n: int) -> None:
    """Skew and kurtosis agree with another library."""
    sample = np.random.default_rng(seed).standard_t(4, n) * 0.02
    found = moments(sample)

    assert found is not None
    assert found.skew == pytest.approx(float(stats.skew(sample)), rel=1e-9, abs=1e-9)
    assert found.kurtosis == pytest.approx(float(stats.kurtosis(sample, fisher=False)), rel=1e-9)


def test_the_published_example() -> None:
    """Deflated Sharpe paper, numerical example: 100 trials of variance 1/2, Sharpe 2.5 a year, 1250 days: 0.9004.

    Skew -3, kurtosis 10; 250 days a year. The paper finds SR0 = 0.1132 a day; with 46 independent trials 0.9505.
    """
    sample = Moments(n=1250, sharpe=2.5 / sqrt(250), skew=-3.0, kurtosis=10.0)
    deviation = sqrt(0.5 / 250)

    assert round(expected_maximum(deviation, 100), 4) == 0.1132
    assert round(deflated_sharpe(sample, deviation=deviation, trials=100), 4) == 0.9004
    assert round(deflated_sharpe(sample, deviation=deviation, trials=46), 4) == 0.9505


def test_probabilistic_sharpe_of_normal_returns_by_hand() -> None:
    """Normal moments, Sharpe 0.1 over 401 periods: Φ(0.1 · 20 / sqrt(1 + 0.005))."""
    sample = Moments(n=401, sharpe=0.1, skew=0.0, kurtosis=3.0)

    assert isclose(probabilistic_sharpe(sample), NormalDist().cdf(2.0 / sqrt(1.005)), rel_tol=1e-12)
    assert probabilistic_sharpe(sample, 0.1) == 0.5


def test_the_track_record_needed_is_where_the_probability_is_reached() -> None:
    """At the periods that are asked for, the probabilistic Sharpe ratio is the confidence, for fat tails as well."""
    sample = Moments(n=100, sharpe=0.08, skew=-1.5, kurtosis=9.0)
    needed = minimum_track_record(sample, threshold=0.02, confidence=0.99)

    assert needed is not None
    # n enters the formula as a plain number, so it need not be whole here.
    at_that_point = Moments(n=needed, sharpe=0.08, skew=-1.5, kurtosis=9.0)  # type: ignore[arg-type]
    assert isclose(probabilistic_sharpe(at_that_point, 0.02), 0.99, rel_tol=1e-12)
    assert minimum_track_record(sample, threshold=0.08) is None
    with pytest.raises(ValueError, match="confidence"):
        minimum_track_record(sample, confidence=1.0)


@given(returns_lists, st.floats(-1.0, 1.0))
def test_probabilities_stay_within_0_and_1(values: list[float], threshold: float) -> None:
    """For any returns at all, PSR is a probability and falls when more is asked for."""
    sample = moments(np.array(values))
    if sample is None:
        assert np.std(values) < 1e-11
        return
    found = probabilistic_sharpe(sample, threshold)

    assert 0.0 <= found <= 1.0
    assert probabilistic_sharpe(sample, threshold + 0.5) <= found
    assert 0.0 <= deflated_sharpe(sample, deviation=0.1, trials=10) <= 1.0


@given(returns_lists, st.floats(0.001, 1000.0))
def test_leverage_changes_nothing(values: list[float], factor: float) -> None:
    """Returns times a constant have the same evidence (the rate is zero)."""
    one, other = moments(np.array(values)), moments(np.array(values) * factor)
    if one is None or other is None or np.std(values) < 1e-6:
        return

    assert probabilistic_sharpe(other) == pytest.approx(probabilistic_sharpe(one), rel=1e-6, abs=1e-9)


def test_tails_of_the_normal_distribution_keep_their_digits() -> None:
    """Φ(-20) is 2.75e-89, not 0."""
    assert cumulative(-20.0) == pytest.approx(float(stats.norm.cdf(-20.0)), rel=1e-10)
    assert cumulative(1.2) == pytest.approx(NormalDist().cdf(1.2), rel=1e-14)


def test_returns_without_a_ratio_have_no_evidence() -> None:
    """One period, constant returns, cash."""
    assert moments(np.array([0.1])) is None
    assert moments(np.full(10, 0.01)) is None
    assert moments(np.full(10, 0.1) + np.array([0, 1e-17] * 5)) is None
    assert evidence(np.zeros(10)) is None
    with pytest.raises(ValueError, match="finite"):
        moments(np.array([0.1, np.nan]))


def test_two_outcomes_are_no_division_by_zero() -> None:
    """A coin of two values can make the estimated error 0; the answer is then certain, not NaN."""
    sample = Moments(n=10, sharpe=1.0, skew=2.0, kurtosis=5.0)

    assert sample.spread == 0.0
    assert (probabilistic_sharpe(sample), probabilistic_sharpe(sample, 2.0), probabilistic_sharpe(sample, 1.0)) == (
        1.0,
        0.0,
        0.5,
    )


def test_the_expected_maximum_is_that_of_a_simulation() -> None:
    """The best of 50 normal numbers, 20,000 times: the formula's 2.26 is the mean within 2 %."""
    best = np.random.default_rng(1).standard_normal((20_000, 50)).max(axis=1)

    assert expected_maximum(1.0, 50) == pytest.approx(float(best.mean()), rel=0.02)
    assert expected_maximum(1.0, 1) == 0.0
    assert expected_maximum(1.0, 1.1) == 0.0
    assert expected_maximum(0.0, 50) == 0.0
    for deviation, trials in ((1.0, 0.5), (-1.0, 5.0), (float("nan"), 5.0)):
        with pytest.raises(ValueError, match="at least 1"):
            expected_maximum(deviation, trials)


def test_the_best_of_noise_deflates_to_one_half() -> None:
    """The luckiest of 50 strategies without skill looks almost sure, and deflated it is a coin toss."""
    plain, deflated = [], []
    for seed in range(60):
        trials = noise(seed, 750, 50)
        best = trials[:, (trials.mean(axis=0) / trials.std(axis=0)).argmax()]
        found = evidence(best, trials)
        assert found is not None
        plain.append(found.probabilistic)
        deflated.append(found.deflated)

    assert np.mean(plain) > 0.97
    assert 0.4 < np.mean(deflated) < 0.6


def test_skill_survives_deflation() -> None:
    """One strategy with a Sharpe ratio of about 4 a year among 50 of noise stays credible."""
    trials = noise(7, 750, 50)
    trials[:, 3] += 0.004
    found = evidence(trials[:, 3], trials)

    assert found is not None
    assert found.deflated > 0.95
    assert found.trials > 45
    assert found.periods_needed is not None
    assert found.periods_needed < 750


def test_alone_nothing_is_deflated() -> None:
    """Without other trials the deflated ratio is the probabilistic one."""
    own = noise(1, 300) + 0.001
    found, single = evidence(own), evidence(own, own[:, None])

    assert found is not None
    assert (found.trials, found.sharpe_by_luck, found.deflated) == (1.0, 0.0, found.probabilistic)
    assert found == single


def test_copies_count_as_one_trial() -> None:
    """A hundred times the same is one trial; unrelated ones count each; a mean correlation of r is in between."""
    own = noise(2, 500, 1)
    common = noise(3, 100_000, 1)
    related = sqrt(0.3) * common + sqrt(0.7) * noise(4, 100_000, 20)

    assert effective_trials(np.repeat(own, 100, axis=1)) == pytest.approx(1.0)
    assert effective_trials(noise(5, 100_000, 20)) == pytest.approx(20.0, rel=0.01)
    assert effective_trials(related) == pytest.approx(0.3 + 0.7 * 20, rel=0.01)
    assert effective_trials(np.concatenate((own, -own), axis=1)) == 2.0
    assert effective_trials(np.zeros((10, 3))) == 3.0


def test_the_mean_correlation_is_that_of_the_table() -> None:
    """The short way equals numpy's table of correlations, averaged without its diagonal."""
    trials = noise(6, 50, 8) + noise(7, 50, 1)
    table = np.corrcoef(trials.T)
    mean = (table.sum() - 8) / 56

    assert effective_trials(trials) == pytest.approx(mean + (1 - mean) * 8, rel=1e-12)


def test_idle_trials_are_counted_and_do_not_break_it() -> None:
    """A trial that never trades has ratio 0; bad tables are refused."""
    trials = noise(8, 100, 4)
    trials[:, 2] = 0.0
    found = evidence(trials[:, 0], trials)

    assert found is not None
    assert found.trials > 3.0
    assert 0.0 <= found.deflated <= 1.0
    for bad in (trials[:, 0], trials[:1], trials[:, :0], np.full((5, 2), np.nan)):
        with pytest.raises(ValueError, match="periods × trials"):
            evidence(trials[:, 0], bad)


def test_the_formula_is_written_out() -> None:
    """The expected maximum of 10 trials with deviation 0.05, from its terms."""
    gamma, normal = 0.5772156649015329, NormalDist()
    terms = (1 - gamma) * normal.inv_cdf(0.9) + gamma * normal.inv_cdf(1 - 1 / (10 * e))

    assert isclose(expected_maximum(0.05, 10), 0.05 * terms, rel_tol=1e-14)
