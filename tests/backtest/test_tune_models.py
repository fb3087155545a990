"""Models of a study: trained on the past alone, once for all trials, and the same with or without the shelf."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import strategies.training.train as training
from daemon.backtest.history import Panel
from daemon.backtest.tune_models import RUN_PREFIX, sweep
from daemon.backtest.tune_trial import FoldRun, Ground, Piece, Refused, run_piece
from daemon.settings import Settings
from strategies.training.purged import walk_forward
from tests.backtest.tune_kit import candles, settings_of

BARS = 420


@pytest.fixture(scope="module")
def panel() -> Panel:
    """History enough to train on before the second window."""
    return candles(BARS)


@pytest.fixture(scope="module")
def settings() -> Settings:
    """A small network, retrained once within a window."""
    made = settings_of(strategy="strategies.forecast_optimise:ForecastOptimise", strategy_params={})
    forecast = made.forecast.model_copy(update={"lookback": 4, "horizon_bars": 2, "train_bars": 400, "shrink": "none"})
    optimizer = made.optimizer.model_copy(update={"risk_tolerance": 10.0, "cost_bps": 0.0})
    return made.model_copy(
        update={
            "optimizer": optimizer,
            "forecast": forecast,
            "backtest": made.backtest.model_copy(update={"retrain_every": "2d"}),
        }
    )


def _ground(panel: Panel, shelf: Path | None) -> Ground:
    folds = walk_forward(BARS, folds=2, purge=2, train_min=300)
    return Ground(panel, folds, "" if shelf is None else str(shelf))


@pytest.fixture(scope="module")
def plain(panel: Panel, settings: Settings) -> FoldRun:
    """The second window without any shelf."""
    found = run_piece(_ground(panel, None), Piece(settings, 1))
    assert isinstance(found, FoldRun), found
    assert found.orders
    return found


def _never(*_arguments: Any, **_options: Any) -> None:
    pytest.fail("trained again")


def test_trained_once_for_all_trials(
    panel: Panel, settings: Settings, plain: FoldRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first trial fills the shelf; another with other risk trains nothing; nothing else is left behind."""
    ground = _ground(panel, tmp_path / "shelf")
    assert run_piece(ground, Piece(settings, 1)) == plain
    models = sorted(path.name for path in (tmp_path / "shelf").glob("*/*"))
    assert len(models) > 1  # at the opening, and once more
    monkeypatch.setattr(training, "train", _never)

    assert run_piece(ground, Piece(settings, 1)) == plain
    other = settings.model_copy(update={"risk": settings.risk.model_copy(update={"max_weight": 0.05})})
    heavier = run_piece(ground, Piece(other, 1))
    assert isinstance(heavier, FoldRun)
    assert heavier != plain
    assert sorted(path.name for path in (tmp_path / "shelf").glob("*/*")) == models
    assert list((tmp_path / "shelf").glob(".*")) == []


def test_other_candles_are_other_models(settings: Settings, plain: FoldRun, panel: Panel, tmp_path: Path) -> None:
    """A shelf that holds models of one history has none for another that ends at the same time."""
    other = candles(BARS, seed=6)
    expected = run_piece(_ground(other, None), Piece(settings, 1))
    run_piece(_ground(panel, tmp_path), Piece(settings, 1))

    assert run_piece(_ground(other, tmp_path), Piece(settings, 1)) == expected
    assert expected != plain
    assert len(list(tmp_path.iterdir())) == 2


def test_a_pair_alone_has_models_of_its_own(settings: Settings, panel: Panel, tmp_path: Path) -> None:
    """Models of one pair are not taken for those of another."""
    for pair in (0, 1):
        expected = run_piece(_ground(panel, None), Piece(settings, 1, pair))
        assert run_piece(_ground(panel, tmp_path), Piece(settings, 1, pair)) == expected

    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "empty", "file"])
def test_a_damaged_shelf_costs_time_alone(
    panel: Panel, settings: Settings, plain: FoldRun, tmp_path: Path, damage: str
) -> None:
    """What cannot be read is trained again."""
    ground = _ground(panel, tmp_path / "shelf")
    assert run_piece(ground, Piece(settings, 1)) == plain
    for place in (tmp_path / "shelf").glob("*/*"):
        (model,) = place.iterdir()
        if damage == "cut":
            weights = model / "model.safetensors"
            weights.write_bytes(weights.read_bytes()[:-40])
        else:
            shutil.rmtree(model)
            if damage == "file":
                place.rmdir()
                place.write_text("no folder")

    assert run_piece(ground, Piece(settings, 1)) == plain


def test_a_shelf_that_cannot_be_made(panel: Panel, settings: Settings, plain: FoldRun) -> None:
    """Another machine's path: each piece trains for itself."""
    assert run_piece(_ground(panel, Path("/proc/nowhere")), Piece(settings, 1)) == plain


def test_too_little_history_to_train_on(panel: Panel, settings: Settings, tmp_path: Path) -> None:
    """Is the trial's reason."""
    forecast = settings.forecast.model_copy(update={"lookback": 60, "horizon_bars": 60})
    found = run_piece(_ground(panel, tmp_path), Piece(settings.model_copy(update={"forecast": forecast}), 0))

    assert isinstance(found, Refused)
    assert "no_model" in found.reason
    assert "too few" in found.reason


KNOWING = """
from daemon.domain.signal import NoDecision, NoReason
from strategies.params import ModelInfo, Timings


class Knowing:
    timings = Timings()

    def setup(self, setup, monotonic_ns):
        return ModelInfo("oracle", 1_700_000_000 * 10**9)

    def decide(self, view, params):
        return NoDecision(NoReason.NOT_READY, "")
"""


def test_a_model_that_has_seen_the_window_is_refused(panel: Panel, tmp_path: Path) -> None:
    """A strategy that brings a model trained on later bars would be judged by hindsight."""
    (tmp_path / "knowing_strategy.py").write_text(KNOWING)
    settings = settings_of(strategy="knowing_strategy:Knowing", strategy_params={}).found_in((str(tmp_path),))
    forecast = settings.forecast.model_copy(update={"model": "ewma"})
    found = run_piece(_ground(panel, None), Piece(settings.model_copy(update={"forecast": forecast}), 0))

    assert isinstance(found, Refused)
    assert "model oracle has seen bars after the fold begins" in found.reason


def test_what_killed_runs_left_is_swept(tmp_path: Path) -> None:
    """Drafts and registries go, models stay."""
    for name in (f"{RUN_PREFIX}abc", "key/.draft-abc", "key/123/model"):
        (tmp_path / name).mkdir(parents=True)
    sweep(str(tmp_path))

    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "key",
        "key/123",
        "key/123/model",
    ]
    sweep(str(tmp_path / "missing"))
