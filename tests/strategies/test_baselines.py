"""The naive forecasters."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from strategies.artifact import NoModel, load_forecaster
from strategies.baselines import Ewma, Zero
from strategies.forecaster import Forecaster
from tests.strategies.forecast_kit import random_bars


@pytest.mark.parametrize("spec", ["zero", "ewma"])
def test_what_they_have_in_common(spec: str) -> None:
    """No file, no measured skill, no age; finite answers of the right shape."""
    forecaster = load_forecaster(spec, None, 8)
    raw = forecaster.predict(random_bars(1, 5, 80))

    assert (forecaster.name, forecaster.horizon_bars, forecaster.lookback) == (spec, 8, 60)
    assert forecaster.earned is None
    assert forecaster.trained_until_ns is None
    assert raw.mean.shape == raw.scale.shape == (5,)
    assert (raw.scale > 0).all()


def test_zero_scales_with_the_square_root_of_time() -> None:
    """Mean 0; scale of a walk with 0.1 % per bar over 25 bars is about 0.5 %."""
    raw = Zero(horizon_bars=25, lookback=500).predict(random_bars(2, 3, 501))

    assert not raw.mean.any()
    assert raw.scale == pytest.approx([0.005] * 3, rel=0.15)


def test_ewma_follows_a_trend() -> None:
    """A steady 0.1 % per bar goes on for the horizon, as a simple return."""
    bars = np.repeat((100.0 * 1.001 ** np.arange(61))[np.newaxis, :, np.newaxis], 5, axis=2)
    raw = Ewma(horizon_bars=10).predict(bars)

    assert raw.mean[0] == pytest.approx(1.001**10 - 1, rel=1e-9)
    assert raw.scale[0] == pytest.approx(np.log(1.001) * np.sqrt(10), rel=1e-9)


def test_ewma_stays_sane() -> None:
    """A hundredfold jump is not extrapolated without bound."""
    bars = random_bars(3, 1, 61)
    bars[0, -1, :4] *= 1e6
    raw = Ewma(horizon_bars=500).predict(bars)

    assert 0 < raw.mean[0] <= 1.02
    assert np.isfinite(raw.scale).all()


def test_unusable_input_is_refused() -> None:
    """NaN in a window names its asset; impossible parameters are refused."""
    bars = random_bars(4, 3, 61)
    bars[1, 5, 3] = np.nan

    for forecaster in (Zero(horizon_bars=2), Ewma(horizon_bars=2)):
        with pytest.raises(ValueError, match="asset 1"):
            forecaster.predict(bars)
    with pytest.raises(ValueError, match="horizon_bars=0"):
        Zero(horizon_bars=0)


def test_specs() -> None:
    """A class of the user's own is imported; what is unknown is named."""
    own = load_forecaster("strategies.baselines:Ewma", None, 3, lookback=20)

    assert isinstance(own, Ewma)
    assert own.lookback == 20
    for spec, reason in [
        ("gpt", "is unknown; use lstm, ewma, zero or package.module:Class"),
        ("nowhere.at_all:Model", "cannot be imported"),
        ("strategies.baselines:Nothing", "cannot be imported"),
        ("strategies.features:make_features", "has no classmethod load"),
    ]:
        with pytest.raises(ValueError, match=reason):
            load_forecaster(spec, None, 3)
    with pytest.raises(NoModel, match="ballast train"):
        load_forecaster("lstm", None, 3)


def test_baselines_need_no_torch() -> None:
    """The artifact reader and the baselines work where torch is not wanted."""
    code = (
        "import sys; from pathlib import Path; from strategies.artifact import load_forecaster, list_models, current\n"
        "load_forecaster('ewma', None, 3); load_forecaster('zero', None, 3); list_models(Path('x')); current(Path('x'))\n"
        "assert not {'torch', 'pandas', 'cvxpy', 'scipy'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


def _is_forecaster(forecaster: Forecaster) -> Forecaster:
    """Checked by mypy: both satisfy the seam."""
    return forecaster


def test_the_seam() -> None:
    """Both satisfy `Forecaster`."""
    assert _is_forecaster(Zero(horizon_bars=1)).name == "zero"
    assert _is_forecaster(Ewma(horizon_bars=1)).name == "ewma"
