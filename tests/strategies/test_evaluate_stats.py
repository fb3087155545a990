"""Diebold–Mariano, rank correlation and QLIKE against published numbers, other implementations and their definitions."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import float64
from numpy.typing import NDArray
from scipy import stats

from strategies.training.evaluate_stats import mean_test, qlike, rank_correlation


def sampled(n: int) -> list[int]:
    """`random.sample(range(n), n)` as Python 2 drew it: the published example was made with that."""
    pool, drawn = list(range(n)), []
    for left in range(n, 0, -1):
        at = int(random.random() * left)
        drawn.append(pool[at])
        pool[at] = pool[left - 1]
    return drawn


def by_the_book(loss: NDArray[float64], horizon: int) -> tuple[float, float]:
    """Diebold & Mariano (1995) with Harvey, Leybourne & Newbold (1997) eq. 9, as one sum over all pairs of times."""
    n = len(loss)
    centred = loss - loss.mean()
    near = np.abs(np.subtract.outer(np.arange(n), np.arange(n))) < horizon
    variance_of_mean = float((np.outer(centred, centred) * near).sum()) / n**2
    statistic = float(loss.mean()) / variance_of_mean**0.5
    statistic *= ((n + 1 - 2 * horizon + horizon * (horizon - 1) / n) / n) ** 0.5
    return statistic, 2.0 * float(stats.t.sf(abs(statistic), df=n - 1))


def test_the_published_example() -> None:
    """The readme of the dm_test of J. Tsang: DM = 1.2112523589452902, p = 0.22868210381769466 for squared errors, h = 1."""
    random.seed(123)
    actual, first, second = (np.array(sampled(100), dtype=float64) for _ in range(3))
    found = mean_test(np.square(actual - first) - np.square(actual - second), np.arange(100), horizon=1)

    assert found is not None
    assert found.statistic == pytest.approx(1.2112523589452902, rel=1e-12)
    assert found.p_value == pytest.approx(0.22868210381769466, rel=1e-9)


@pytest.mark.parametrize("horizon", [1, 2, 5, 12])
def test_longer_horizons_by_the_book(horizon: int) -> None:
    """The same as the definition written as one sum over all pairs of times, on series that the horizon correlates."""
    shocks = np.random.default_rng(horizon).standard_normal(160 + horizon)
    loss = np.convolve(shocks, np.ones(horizon), mode="valid")[:150] + 0.3
    found = mean_test(loss, np.arange(1_000, 1_150), horizon=horizon)

    assert found is not None
    assert (found.statistic, found.p_value) == pytest.approx(by_the_book(loss, horizon), rel=1e-10)
    assert (found.n, found.lags, found.kernel) == (150, horizon - 1, "uniform")


def test_no_false_alarms_in_overlapping_forecasts() -> None:
    """Sums over 8 bars without a mean are found significant at 5 % about as often as that; without lags in most samples."""
    rng = np.random.default_rng(5)
    tests = [
        (mean_test(loss, np.arange(400), horizon=8), mean_test(loss, np.arange(400), horizon=1))
        for loss in (np.convolve(rng.standard_normal(407), np.ones(8), mode="valid") for _ in range(400))
    ]
    right, wrong = (
        float(np.mean([one is not None and one.p_value < 0.05 for one in each])) for each in zip(*tests, strict=True)
    )

    assert 0.02 < right < 0.10
    assert wrong > 0.3


def test_nothing_is_multiplied_across_a_gap() -> None:
    """Two stretches: autocovariances are those of the stretches; a NaN is a gap too."""
    rng = np.random.default_rng(1)
    first, second = np.repeat(rng.standard_normal(30), 2), np.repeat(rng.standard_normal(25), 2)
    both = np.concatenate([first, second])
    centred = both - both.mean()
    parts = centred[:60], centred[60:]
    covariance = [sum(float(one[k:] @ one[: len(one) - k]) for one in parts) / 110 for k in range(2)]
    apart = mean_test(both, np.concatenate([np.arange(60), np.arange(500, 550)]), horizon=2)
    with_nan = np.concatenate([first, [np.nan], second])
    small = ((110 + 1 - 4 + 2 / 110) / 110) ** 0.5

    assert apart is not None
    assert apart.statistic == pytest.approx(both.mean() / ((covariance[0] + 2 * covariance[1]) / 110) ** 0.5 * small)
    across = mean_test(with_nan, np.arange(111), horizon=2)
    assert across is not None
    assert across.statistic == pytest.approx(apart.statistic, rel=1e-12)


def test_a_variance_that_comes_out_negative() -> None:
    """Equal weights fail on a series that swings: Bartlett's take over, and the statistic exists."""
    loss = np.tile([1.0, -0.9], 40) + np.linspace(0.0, 0.1, 80)
    found = mean_test(loss, np.arange(80), horizon=2)

    assert found is not None
    assert found.kernel == "bartlett"
    assert found.statistic > 0.0


@pytest.mark.parametrize(
    ("series", "horizon"),
    [(np.zeros(100), 1), (np.full(100, 0.3), 4), (np.arange(19.0), 1), (np.arange(30.0), 16), (np.full(50, np.nan), 1)],
)
def test_what_tests_nothing(series: NDArray[float64], horizon: int) -> None:
    """No variation, too few times, none at all: no test rather than a wrong one."""
    assert mean_test(series, np.arange(len(series)), horizon=horizon) is None


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.integers(2, 6))
def test_rank_correlation_is_spearmans(seed: int, n: int, distinct: int) -> None:
    """With ties and gaps, the same as scipy's, row by row."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, distinct, (2, 3, n)).astype(float64)
    first[0, rng.integers(0, n)] = np.nan
    found = rank_correlation(first, second)
    for row in range(3):
        known = np.isfinite(first[row])
        a, b = first[row, known], second[row, known]
        if len(a) < 2 or np.ptp(a) == 0.0 or np.ptp(b) == 0.0:
            assert np.isnan(found[row])
        else:
            assert found[row] == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-8, 1e2), st.floats(1e-8, 1e2))
def test_qlike_is_smallest_at_the_truth(realised: float, forecast: float) -> None:
    """It is 0 for the realised variance itself and above 0 for any other forecast; more so below than above the truth."""
    loss = qlike(np.array([realised, realised, 0.0, np.nan]), np.array([forecast, realised, forecast, forecast]))

    assert loss[1] == 0.0
    assert loss[0] >= 0.0
    assert np.isnan(loss[2:]).all()
    assert qlike(np.array([1.0]), np.array([0.5]))[0] == pytest.approx(2.0 - np.log(2.0) - 1.0)
    assert qlike(np.array([1.0]), np.array([0.5]))[0] > qlike(np.array([1.0]), np.array([1.5]))[0]
