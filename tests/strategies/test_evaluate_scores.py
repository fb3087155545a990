"""The figures of a sample: by hand, against the backtest's own, and on a planted forecast of known strength."""

from typing import Any

import msgspec
import numpy as np
import pytest
from numpy import float64
from numpy.typing import NDArray

from daemon.backtest.stats.forecast import forecast_metrics
from strategies.skill import LEVELS
from strategies.training.evaluate_scores import KINDS, Sample, of_asset, score


def sample_of(mean: NDArray[float64], realised: NDArray[float64], *, horizon: int = 1, **changes: Any) -> Sample:
    """A sample with scale 1, widths that are the levels themselves, and volatility seen rightly."""
    ones = np.ones_like(mean)
    levels = np.array(LEVELS)[np.newaxis, :, np.newaxis, np.newaxis]
    made = Sample(
        horizon_bars=horizon,
        place=np.arange(mean.shape[1]),
        mean=mean,
        scale=ones,
        realised=realised,
        variance=ones,
        ewma=ones,
        drift=np.zeros_like(mean),
        half_widths=np.broadcast_to(levels, (len(KINDS), len(LEVELS), *mean.shape)).copy(),
    )
    return msgspec.structs.replace(made, **changes)


def test_figures_by_hand() -> None:
    """Two pairs, three closes, one truth unknown."""
    mean = np.array([[0.1, -0.2, 0.0], [0.3, 0.1, 0.2]])
    realised = np.array([[0.2, 0.1, 0.4], [0.1, 0.0, np.nan]])
    found = score(sample_of(mean, realised, drift=np.full((2, 3), 0.1)))

    assert (found.n, found.times) == (5, 3)
    assert found.mse == pytest.approx((0.01 + 0.09 + 0.16 + 0.04 + 0.01) / 5)
    assert found.skill == found.r2_oos == pytest.approx(1.0 - 0.31 / 0.22)
    assert found.r2_oos_mean == pytest.approx(1.0 - 0.31 / (0.01 + 0.0 + 0.09 + 0.0 + 0.01))
    assert found.rmse == pytest.approx(0.062**0.5)
    assert found.mae == pytest.approx((0.1 + 0.3 + 0.4 + 0.2 + 0.1) / 5)
    assert found.mape == pytest.approx((0.5 + 3.0 + 1.0 + 2.0) / 4)
    assert found.directional_accuracy == pytest.approx(2 / 3)  # of three pairs in which neither is 0
    assert found.ic == pytest.approx(-1.0)  # -1 at both closes at which two are known
    assert found.ic_time == pytest.approx((0.5 + 1.0) / 2)
    assert found.coverage == (1.0, 1.0, 1.0, 1.0)
    assert found.qlike == found.qlike_ewma == 0.0
    assert found.qlike_gain is None
    assert found.dm is found.ic_test is None  # three times test nothing


def test_errors_are_those_of_a_backtest() -> None:
    """Skill, RMSE, MAE, MAPE, direction and calibration agree with `daemon.backtest.stats.forecast`."""
    rng = np.random.default_rng(8)
    mean, realised = rng.normal(0.0, [[[0.01]], [[0.03]]], (2, 3, 200))
    realised[rng.random(realised.shape) < 0.1] = np.nan
    realised[0, :5] = 0.0
    width = np.abs(rng.normal(0.0, 0.04, mean.shape))
    found = score(sample_of(mean, realised, half_widths=np.broadcast_to(width, (3, 4, *mean.shape)).copy()))
    other = forecast_metrics(mean, realised, width)

    for name in ("skill", "rmse", "mae", "mape", "directional_accuracy", "n"):
        assert getattr(found, name) == pytest.approx(getattr(other, name), rel=1e-12), name
    assert found.coverage[2] == found.raw_coverage[2] == found.adaptive_coverage[2] == pytest.approx(other.coverage_90)


def test_a_planted_forecast_is_found() -> None:
    """A forecast that knows a tenth of the variance: skill 0.1, a positive IC, and tests that say so; its mirror the reverse."""
    rng = np.random.default_rng(2)
    mean = rng.normal(0.0, 0.1**0.5, (6, 1_500))
    realised = mean + rng.normal(0.0, 0.9**0.5, mean.shape)
    found, mirrored = score(sample_of(mean, realised, horizon=4)), score(sample_of(-mean, realised, horizon=4))

    assert found.skill == pytest.approx(0.1, abs=0.02)
    assert found.ic == pytest.approx(0.25, abs=0.05)  # ranks of six lose some of 0.3
    assert found.ic_time == pytest.approx(0.3, abs=0.05)
    assert found.dm is not None
    assert found.dm.statistic > 4.0
    assert found.dm.lags == 3
    assert found.ic_test is not None
    assert found.ic_test.p_value < 1e-6
    assert mirrored.dm is not None
    assert mirrored.dm.statistic < -4.0
    assert found.ic is not None
    assert mirrored.ic == pytest.approx(-found.ic)


def test_assets_that_move_together_count_once() -> None:
    """Ten copies of one asset are no more evidence than one."""
    rng = np.random.default_rng(4)
    mean = rng.normal(0.0, 0.3, (1, 300))
    realised = mean + rng.normal(0.0, 1.0, mean.shape)
    one, ten = (score(sample_of(np.repeat(mean, n, axis=0), np.repeat(realised, n, axis=0))) for n in (1, 10))

    assert one.dm is not None
    assert ten.dm is not None
    assert ten.dm.statistic == pytest.approx(one.dm.statistic)


def test_volatility_is_scored_against_ewma() -> None:
    """Who knows the variance beats who takes twice of it, and is beaten by nobody; the test says so."""
    rng = np.random.default_rng(6)
    true = np.exp(rng.normal(0.0, 0.5, (2, 400)))
    variance = true * rng.chisquare(24, true.shape) / 24
    variance[0, 0] = 0.0
    zeros = np.zeros_like(true)
    found = score(sample_of(zeros, zeros, variance=variance, scale=true**0.5, ewma=(2.0 * true) ** 0.5))

    assert found.qlike is not None
    assert found.qlike_ewma is not None
    assert found.qlike < found.qlike_ewma
    assert found.qlike_gain == pytest.approx(1.0 - found.qlike / found.qlike_ewma)
    assert found.qlike_test is not None
    assert found.qlike_test.statistic > 4.0


def test_nothing_known_says_nothing() -> None:
    """Without a truth every figure is None, and nothing warns."""
    unknown = np.full((2, 30), np.nan)
    found = score(sample_of(np.zeros((2, 30)), unknown, variance=unknown))

    figures = msgspec.structs.asdict(found)
    assert (figures.pop("n"), figures.pop("times")) == (0, 0)
    assert {one for value in figures.values() for one in (value if isinstance(value, tuple) else (value,))} == {None}


def test_one_asset_of_a_sample() -> None:
    """The figures of a pair are those of a sample that holds it alone; its IC is over time."""
    rng = np.random.default_rng(9)
    mean, realised = rng.normal(size=(2, 3, 60))
    whole = sample_of(mean, realised)
    alone = score(of_asset(whole, 1))

    assert alone == score(sample_of(mean[1:2], realised[1:2]))
    assert alone.ic == alone.ic_time
    assert alone.ic_test is None
