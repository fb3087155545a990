"""What forecasts were worth: by hand, by their properties, and calibrated on normal errors."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy import float64
from numpy.typing import NDArray

from daemon.backtest.stats.forecast import NOMINAL, Coverage, forecast_metrics

Floats = NDArray[float64]
NAN = float("nan")


def test_figures_by_hand() -> None:
    """Truths 2, -2, 4 (%), forecasts 1, 1, 4: errors 1, -3, 0."""
    found = forecast_metrics(np.array([0.01, 0.01, 0.04]), np.array([0.02, -0.02, 0.04]), np.array([0.02, 0.02, 0.0]))

    assert found.n == 3
    assert found.skill == pytest.approx(1 - 10 / 24)
    assert found.rmse == pytest.approx(np.sqrt(10e-4 / 3))
    assert found.mae == pytest.approx(0.04 / 3)
    assert found.mape == pytest.approx((0.5 + 1.5 + 0.0) / 3)
    assert found.directional_accuracy == pytest.approx(2 / 3)
    assert found.coverage_90 == pytest.approx(2 / 3)  # the bound itself is inside: 0 <= 0


def test_the_naive_forecast_has_no_skill_and_no_direction() -> None:
    """Forecasting zero: skill 0, no sign to be right about."""
    found = forecast_metrics(np.zeros(4), np.array([0.01, -0.02, 0.0, 0.03]), np.full(4, NAN))

    assert found.skill == 0.0
    assert found.directional_accuracy is None
    assert (found.coverage_90, found.calibration) == (None, ())
    assert found.mape == 1.0


def test_perfect_and_worse_than_nothing() -> None:
    """The truth itself has skill 1; its opposite has skill -3."""
    truth = np.array([0.01, -0.02, 0.03])

    assert forecast_metrics(truth, truth, np.zeros(3)).skill == 1.0
    assert forecast_metrics(-truth, truth, np.zeros(3)).skill == pytest.approx(-3.0)
    assert forecast_metrics(-truth, truth, np.zeros(3)).directional_accuracy == 0.0


def test_nothing_known_is_none_throughout() -> None:
    """No pairs, or a market that did not move: None, never NaN."""
    for mean, truth in ((np.zeros(0), np.zeros(0)), (np.full(3, NAN), np.zeros(3)), (np.zeros(3), np.full(3, NAN))):
        found = forecast_metrics(mean, truth, mean)
        assert (found.n, found.skill, found.rmse, found.mae, found.mape) == (0, None, None, None, None)
        assert (found.directional_accuracy, found.coverage_90, found.calibration) == (None, None, ())
    still = forecast_metrics(np.array([0.01]), np.array([0.0]), np.array([0.02]))
    assert (still.skill, still.mape, still.directional_accuracy, still.coverage_90) == (None, None, None, 1.0)


def test_a_truth_next_to_zero_gives_no_infinite_figure() -> None:
    """A relative error that no float can hold is None."""
    found = forecast_metrics(np.array([1.0]), np.array([5e-324]), np.array([0.1]))

    assert found.mape is None
    assert b"NaN" not in msgspec.json.encode(found)


def test_calibration_of_normal_errors() -> None:
    """Errors that are as wide as was said fall into every level as often as promised."""
    rng = np.random.default_rng(1)
    scale = rng.uniform(0.01, 0.05, (2000, 20))
    found = forecast_metrics(np.zeros((2000, 20)), rng.normal(0.0, scale), 1.6448536269514722 * scale)

    assert tuple(one.nominal for one in found.calibration) == NOMINAL == (0.5, 0.8, 0.9, 0.95)
    for one in found.calibration:
        assert one.empirical == pytest.approx(one.nominal, abs=0.006)
        assert one.n == 40_000
    assert found.coverage_90 == found.calibration[2].empirical


def test_intervals_too_narrow_are_seen() -> None:
    """Half of the width that is needed: 90 % become 59 %."""
    errors = np.random.default_rng(2).normal(0.0, 1.0, 50_000)
    found = forecast_metrics(np.zeros(50_000), errors, np.full(50_000, 1.6448536 / 2))

    assert found.coverage_90 == pytest.approx(0.589, abs=0.01)


def test_intervals_may_be_missing_in_part() -> None:
    """Pairs without an interval count for the errors, not for the coverage."""
    found = forecast_metrics(np.zeros(3), np.array([0.01, 0.02, 0.03]), np.array([0.05, NAN, 0.01]))

    assert found.n == 3
    assert found.calibration[2] == Coverage(0.9, 0.5, 2)


pairs = st.lists(
    st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5), st.floats(0.0, 0.5), st.booleans()), min_size=1, max_size=60
)


@given(pairs, st.integers(0, 1000))
def test_order_and_holes_change_nothing(rows: list[tuple[float, float, float, bool]], seed: int) -> None:
    """Permuted pairs give the same figures; an unknown pair is as if it were not there."""
    mean, truth, width = (np.array([row[k] for row in rows]) for k in range(3))
    known = np.array([row[3] for row in rows])
    order = np.random.default_rng(seed).permutation(len(rows))
    whole = forecast_metrics(np.where(known, mean, NAN), truth, width)
    part = forecast_metrics(mean[known], truth[known], width[known])
    mixed = forecast_metrics(np.where(known, mean, NAN)[order], truth[order], width[order])

    assert whole == part
    for name in ("skill", "rmse", "mae", "mape", "directional_accuracy", "coverage_90"):
        expected = getattr(whole, name)
        assert getattr(mixed, name) == (None if expected is None else pytest.approx(expected, rel=1e-9, abs=1e-12))
    levels = [one.empirical for one in whole.calibration]
    assert levels == sorted(levels)


@pytest.mark.parametrize(
    ("mean", "truth", "width", "words"),
    [
        (np.zeros(2), np.zeros(3), np.zeros(2), "must agree"),
        (np.array([np.inf]), np.zeros(1), np.zeros(1), "finite"),
        (np.zeros(1), np.zeros(1), np.array([-0.1]), "not negative"),
    ],
)
def test_bad_input_is_refused(mean: Floats, truth: Floats, width: Floats, words: str) -> None:
    """Shapes that differ, infinite numbers, negative widths."""
    with pytest.raises(ValueError, match=words):
        forecast_metrics(mean, truth, width)
