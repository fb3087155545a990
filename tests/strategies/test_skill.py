"""Skill: measured out of sample, significant or worth nothing."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy import float64
from numpy.typing import NDArray

from daemon.domain.signal import Forecast
from strategies.baselines import Zero
from strategies.forecaster import RawForecast
from strategies.skill import (
    THRESHOLD,
    Earned,
    NotFinite,
    apply_skill,
    conformal_quantile,
    measure,
    ols_slope,
    shrink_factor,
    skill_score,
    skill_statistic,
)
from tests.strategies.forecast_kit import earned

SYMBOLS = ("C0/USDT", "C1/USDT", "NEW/USDT")


class Stub(Zero):
    """A forecaster with measured skill."""

    def __init__(self, skill: Earned | None) -> None:
        super().__init__(horizon_bars=8)
        self._skill = skill

    @property
    def earned(self) -> Earned | None:  # type: ignore[override]  # a baseline says None; this one has measured
        """Return what the test gave."""
        return self._skill


def overlapping(rng: np.random.Generator, n_assets: int, n: int, h: int) -> NDArray[float64]:
    """Unit-variance sums of h random returns, measured every bar: correlated up to lag h - 1."""
    walk = np.cumsum(rng.standard_normal((n_assets, n + h)), axis=1)
    sums: NDArray[float64] = (walk[:, h:] - walk[:, :-h]) / np.sqrt(h)
    return sums


def test_skill_score() -> None:
    """A perfect forecast has skill 1, zero has 0, the negative of the truth has -3; no movement, no skill."""
    y = np.array([[1.0, -2.0, 3.0]])

    assert skill_score(y, y) == 1
    assert skill_score(y, 0 * y) == 0
    assert skill_score(y, -y) == -3
    assert skill_score(0 * y, y) == 0
    assert skill_score(y[:, :0], y[:, :0]) == 0


@given(st.floats(-3, 3), st.integers(0, 100))
def test_slope_is_the_best_shrinkage(slope: float, seed: int) -> None:
    """The slope finds the planted factor, and no other factor has a smaller error on the sample."""
    rng = np.random.default_rng(seed)
    forecast = rng.standard_normal((2, 500))
    y = slope * forecast + 0.1 * rng.standard_normal((2, 500))
    found = ols_slope(y, forecast)

    assert found == pytest.approx(slope, abs=0.03)
    assert skill_score(y, found * forecast) >= skill_score(y, (found + 0.01) * forecast)
    assert ols_slope(y, 0 * y) == 0


def test_no_skill_is_exactly_zero() -> None:
    """Under no skill the factor is 0 in at least 99 % of samples, overlap and correlated assets notwithstanding."""
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(400):
        y = overlapping(rng, 1, 600, 8) + 0.5 * overlapping(rng, 4, 600, 8)
        forecast = 0.1 * overlapping(rng, 4, 600, 8)  # as smooth as the returns it tries to tell
        wrong += shrink_factor(y, forecast, overlap=8) > 0

    assert wrong <= 4


def test_the_statistic_has_the_right_size() -> None:
    """Without skill about 0.5 % exceed the threshold and half are positive: the variance accounts for the overlap."""
    rng = np.random.default_rng(2)
    found = np.array(
        [
            skill_statistic(overlapping(rng, 2, 800, 8), 3.0 * overlapping(rng, 2, 800, 8), overlap=8)
            for _ in range(1000)
        ]
    )

    assert 1 <= np.sum(found > THRESHOLD) <= 15
    assert 450 <= np.sum(found > 0) <= 550


def test_weak_skill_is_found() -> None:
    """R² 0.1 at horizon 8 over 600 bars of three independent assets is found in at least 9 samples of 10."""
    rng = np.random.default_rng(7)
    found = 0
    for _ in range(60):
        forecast = overlapping(rng, 3, 600, 8) * np.sqrt(0.1)
        found += shrink_factor(forecast + overlapping(rng, 3, 600, 8) * np.sqrt(0.9), forecast, overlap=8) > 0

    assert found >= 54


def test_real_skill_counts() -> None:
    """R² 0.2 over 600 bars with horizon 5 is significant; the factor is the slope, clipped to 1."""
    rng = np.random.default_rng(3)
    forecast = overlapping(rng, 6, 600, 5) * np.sqrt(0.2)
    y = forecast + overlapping(rng, 6, 600, 5) * np.sqrt(0.8)

    assert shrink_factor(y, forecast, overlap=5) == pytest.approx(1.0, abs=0.2)
    assert shrink_factor(y, forecast / 2, overlap=5) == 1.0
    assert shrink_factor(y, forecast * 1.4, overlap=5) == pytest.approx(1 / 1.4, abs=0.15)
    assert shrink_factor(y, -forecast, overlap=5) == 0.0


def test_too_little_evidence_is_none() -> None:
    """A handful of times proves nothing, and neither does a forecast of zero or of constants in a dead market."""
    y = np.random.default_rng(4).standard_normal((2, 19))

    assert skill_statistic(y, y, overlap=1) == 0
    assert skill_statistic(np.tile(y, 2), np.tile(y, 2), overlap=20) == 0
    assert skill_statistic(np.tile(y, 9), np.zeros((2, 171)), overlap=2) == 0
    assert shrink_factor(np.zeros((1, 100)), np.ones((1, 100)), overlap=1) == 0


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
def test_conformal_coverage(level: float) -> None:
    """Split conformal covers at least its level on average, whatever the distribution."""
    rng = np.random.default_rng(5)
    covered = []
    for _ in range(300):
        scores = np.abs(rng.standard_t(3, 200))
        covered.append(np.mean(np.abs(rng.standard_t(3, 500)) <= conformal_quantile(scores[:100], level)))

    assert level - 0.005 <= float(np.mean(covered)) <= level + 0.02


def test_conformal_edges() -> None:
    """The rank is ceil((n + 1)·level); without scores there is no interval."""
    assert conformal_quantile(np.arange(1.0, 10.0), 0.9) == 9
    assert conformal_quantile(np.arange(1.0, 10.0), 0.5) == 5
    assert conformal_quantile(np.array([2.0]), 0.99) == 2
    assert conformal_quantile(np.array([]), 0.9) == 0


def test_measure() -> None:
    """What the manifest stores: by asset and pooled, with quantiles around the shrunk mean; it survives JSON."""
    rng = np.random.default_rng(6)
    mean = rng.standard_normal((2, 800)) * 0.6
    y = mean + rng.standard_normal((2, 800)) * np.array([[0.5], [1.0]])
    found = measure(y, 2 * mean, np.ones_like(y), symbols=("A/USDT", "B/USDT"), overlap=1)

    assert found.slope == pytest.approx(0.5, abs=0.03)
    assert found.shrink == 0.0  # twice too bold: its error is no smaller than that of zero
    assert found.pooled < 0.1
    found = measure(y, mean, np.ones_like(y), symbols=("A/USDT", "B/USDT"), overlap=1)
    assert found.assets["A/USDT"] > found.pooled > found.assets["B/USDT"] > 0.2
    assert found.conformal["0.9"] == pytest.approx(1.3, abs=0.15)
    assert (found.times, found.threshold) == (800, THRESHOLD)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Earned) == found


def test_apply_skill_shrinks() -> None:
    """The optimiser sees factor · mean; the raw mean, the skill (pooled for new symbols) and the interval are shown."""
    raw = RawForecast(mean=np.array([0.02, -0.01, 0.0]), scale=np.array([0.01, 0.02, 0.03]))
    forecast = apply_skill(raw, Stub(earned(shrink=0.5)), symbols=SYMBOLS, shrink="skill", age_ok=True)

    assert forecast == Forecast(
        symbols=SYMBOLS,
        horizon_bars=8,
        mean=(0.01, -0.005, 0.0),
        raw_mean=(0.02, -0.01, 0.0),
        scale=(0.01, 0.02, 0.03),
        skill=(0.3, 0.1, 0.2),
        interval_90=(0.015, 0.03, 0.045),
        model="zero",
    )


@pytest.mark.parametrize("shrink", ["skill", "none"])
def test_over_age_means_zero(shrink: str) -> None:
    """A model over age is not believed, whatever the configuration says; no negative zeros either."""
    raw = RawForecast(mean=np.array([0.02, -0.01, 0.0]), scale=np.ones(3))
    forecast = apply_skill(
        raw, Stub(earned()), symbols=SYMBOLS, shrink="none" if shrink == "none" else "skill", age_ok=False
    )

    assert str(forecast.mean) == "(0.0, 0.0, 0.0)"
    assert forecast.raw_mean == (0.02, -0.01, 0.0)


def test_unmeasured_and_unshrunk() -> None:
    """Without measured skill the mean is zero and there is no interval; `none` takes the mean as it is."""
    raw = RawForecast(mean=np.array([0.02, -0.01, 0.0]), scale=np.ones(3))
    unmeasured = apply_skill(raw, Stub(None), symbols=SYMBOLS, shrink="skill", age_ok=True)
    no_skill = apply_skill(raw, Stub(earned(shrink=0.0)), symbols=SYMBOLS, shrink="skill", age_ok=True)
    taken = apply_skill(raw, Stub(earned()), symbols=SYMBOLS, shrink="none", age_ok=True)

    assert str(unmeasured.mean) == str(no_skill.mean) == "(0.0, 0.0, 0.0)"
    assert unmeasured.interval_90 == unmeasured.skill == (0.0, 0.0, 0.0)
    assert taken.mean == taken.raw_mean == (0.02, -0.01, 0.0)
    assert taken.interval_90 == (3.0, 3.0, 3.0)
    assert apply_skill(raw, Stub(None), symbols=SYMBOLS, shrink="none", age_ok=True).interval_90 == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("mean", "scale"),
    [([0.1, np.nan, 0], [1, 1, 1]), ([0, np.inf, 0], [1, 1, 1]), ([0, 0, 0], [1, 0, 1]), ([0, 0, 0], [1, np.nan, 1])],
)
def test_what_is_not_finite_is_refused(mean: list[float], scale: list[float]) -> None:
    """NaN, infinity and a scale that is not positive name the symbol."""
    raw = RawForecast(mean=np.array(mean), scale=np.array(scale, dtype=float64))

    with pytest.raises(NotFinite, match="for C1/USDT"):
        apply_skill(raw, Stub(None), symbols=SYMBOLS, shrink="skill", age_ok=True)


def test_a_wrong_number_of_assets_is_refused() -> None:
    """Two means for three symbols are no forecast."""
    with pytest.raises(NotFinite, match="not 3"):
        apply_skill(RawForecast(np.zeros(2), np.ones(2)), Stub(None), symbols=SYMBOLS, shrink="skill", age_ok=True)
