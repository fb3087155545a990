"""`ballast evaluate` as a user types it: tables, one document, a page that needs nothing, and errors in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from daemon.backtest.data.files import Candles, path_of, write
from daemon.domain.market import NS_PER_MS
from tests.backtest.tune_kit import HOUR_NS, PAIRS, T0_NS

Run = Callable[..., tuple[int, str, str]]
BARS = 420
CONFIG = """
universe = ["AAA/USDT", "BBB/USDT"]
[forecast]
lookback = 10
horizon_bars = 2
"""
MODEL = '''"""A model beside its configuration."""

import numpy as np

from strategies.baselines import Zero
from strategies.forecaster import RawForecast


class Mine(Zero):
    def predict(self, bars):
        return RawForecast(mean=bars[:, -1, 3] / bars[:, -2, 3] - 1.0, scale=np.full(len(bars), 0.015))
'''
FIGURES = {
    "skill", "rmse", "mae", "mse", "mape", "directional_accuracy", "ic", "r2_oos",
    "coverage_50", "coverage_80", "coverage_90", "coverage_95",
}  # fmt: skip
"""What DESIGN A8 promises of `overall` and of each pair."""


@pytest.fixture
def place(tmp_path: Path) -> list[str]:
    """Candles, a configuration and a model; the arguments that every command takes."""
    rng = np.random.default_rng(5)
    times = (T0_NS + HOUR_NS * np.arange(BARS, dtype=np.int64)) // NS_PER_MS
    for pair in PAIRS:
        close = np.round(100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.01, BARS))), 2)
        opened = np.concatenate(([100.0], close[:-1]))
        high, low = np.maximum(opened, close) * 1.001, np.minimum(opened, close) * 0.999
        rows = np.stack([opened, high, low, close, np.full(BARS, 1e6)], axis=-1)
        write(path_of(tmp_path / "data", pair, "1h"), Candles(times, rows))
    (tmp_path / "ballast.toml").write_text(CONFIG)
    (tmp_path / "my_model_beside.py").write_text(MODEL)
    return ["-c", str(tmp_path / "ballast.toml"), "--data", str(tmp_path / "data"), "--folds", "2", "--embargo", "3"]


def test_models_side_by_side(ballast: Run, place: list[str], tmp_path: Path) -> None:
    """The document holds what DESIGN promises, the tables say the same, the page is whole; a second run gives the same bytes."""
    asked = ["evaluate", "zero", "my_model_beside:Mine", "zero", *place]
    code, out, err = ballast(*asked, "--out", str(tmp_path / "a"), "--json", "--no-report")
    document = json.loads(out)

    assert (code, err) == (0, "")
    assert set(document["overall"]) >= FIGURES
    assert set(document["assets"]) == set(PAIRS)
    assert all(set(one) >= FIGURES for one in document["assets"].values())
    assert [one["fold"] for one in document["folds"]] == [0, 1]
    assert list(document["models"]) == ["zero", "my_model_beside:Mine"]  # asked for twice, judged once
    assert document["overall"] == document["models"]["zero"]["overall"]
    assert document["overall"]["skill"] == 0.0
    mine = document["models"]["my_model_beside:Mine"]
    assert mine["overall"]["skill"] < 0.0
    assert mine["overall"]["dm"]["statistic"] < 0.0
    assert mine["decisions"]["orders"] == 0  # it has earned nothing
    assert not (tmp_path / "a" / "evaluation.html").exists()

    code, out, _ = ballast(*asked, "--out", str(tmp_path / "b"))
    page = (tmp_path / "b" / "evaluation.html").read_text()
    assert code == 0
    assert out.startswith("Evaluation, 2023-01-01 to 2023-01-18, 2 pairs, bars of 1h, 2 ahead, 2 folds\nForecasts")
    assert f"{100 * mine['overall']['skill']:.2f} %" in out
    assert out.index("Forecasts") < out.index("Coverage of intervals") < out.index("Decisions after costs")
    for name in ("plot-gain", "plot-ic", "plot-intervals", "plot-tenths", "plot-skill", "plot-money"):
        assert f'id="{name}"' in page
    assert "default-src 'none'" in page  # a browser loads nothing for it
    assert "<script src" not in page
    files = [(tmp_path / name / "evaluation.json").read_bytes() for name in "ab"]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (["gone"], 2, "model 'gone' is unknown: use lstm, ewma, zero, package.module:Class"),
        (["no_such_module:Class"], 78, "no_such_module:Class"),
        (["zero", "--start", "2023-01-05", "--end", "2023-01-05"], 2, "is not after --start"),
        (["zero", "--start", "soon"], 2, "is no date"),
        (["zero", "--start", "2023-02-01"], 78, "the data end before --start"),
        (["zero", "--folds", "30"], 78, "420 bars are too few for 30 folds"),
        (["zero", "--data", "nowhere"], 78, "no 1h candles in nowhere"),
        (["zero", "--out", "ballast.toml"], 2, "is a file; name a folder"),
    ],
)
def test_errors(ballast: Run, place: list[str], arguments: list[str], code: int, what: str) -> None:
    """One line that says what is wrong, where, and what to do, with the exit code of DESIGN A3."""
    got, out, err = ballast("evaluate", *place, *arguments)

    assert (got, out) == (code, "")
    assert what in err
    assert len(err.splitlines()) == 1


def test_a_small_network_beside_the_naive_forecast(ballast: Run, place: list[str]) -> None:
    """`--hidden` and `--epochs` make a training short; its models lie in no registry afterwards."""
    asked = [
        "evaluate",
        "lstm",
        *place,
        "--hidden",
        "4",
        "--epochs",
        "1",
        "--folds",
        "1",
        "--no-decisions",
        "--no-report",
    ]
    code, out, err = ballast(*asked, "--json")
    document = json.loads(out)

    assert (code, err) == (0, "")
    assert document["hyper"]["hidden"] == document["hyper"]["hidden_top"] == 4
    assert document["folds"][0]["model"].startswith("lstm:")
    assert document["models"]["lstm"]["why_no_decisions"] == "not asked for (--no-decisions)"
    assert not Path("var/models").exists()
    assert sorted(path.name for path in Path("var/evaluate").iterdir()) == ["evaluation.json"]
