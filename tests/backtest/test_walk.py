"""Walk-forward training: as the daemon would, on nothing but what had closed, the same model for the same history."""

from pathlib import Path

import numpy as np
import pytest

from daemon.backtest.history import Panel, make_panel
from daemon.backtest.run import backtest
from daemon.backtest.walk import known_bars
from daemon.settings import Settings, load_settings
from strategies.artifact import load_artifact
from strategies.training.history import BadHistory
from tests.backtest.market import BEGIN_NS, HOUR_NS

PAIRS = ("BTC/USDT", "ETH/USDT")
CONFIG = """
universe = ["BTC/USDT", "ETH/USDT"]
state_dir = "{var}"
[feed]
backfill_bars = 100
[forecast]
lookback = 8
horizon_bars = 2
train_bars = 700
[backtest]
retrain_every = "{every}"
"""


def walk(count: int, *, seed: int = 3) -> np.ndarray:
    """Return (n_bars, 2, 5) random bars."""
    rng = np.random.default_rng(seed)
    closes = 100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.01, (count + 1, 2)), axis=0))
    o, c = closes[:-1], closes[1:]
    volume = rng.uniform(1e3, 1e4, (count, 2))
    return np.stack([o, np.maximum(o, c) * 1.002, np.minimum(o, c) * 0.998, c, volume], axis=2)


def panel(values: np.ndarray) -> Panel:
    """Return hourly bars."""
    return make_panel(PAIRS, HOUR_NS, BEGIN_NS + HOUR_NS * np.arange(len(values), dtype=np.int64), values)


def settings(folder: Path, every: str = "3d") -> Settings:
    """Return a configuration with a small LSTM."""
    file = folder / "ballast.toml"
    file.write_text(CONFIG.format(var=folder / "var", every=every))
    return load_settings([file], {})


def test_models_are_trained_at_the_start_and_then_each_interval(tmp_path: Path) -> None:
    """No model has seen a bar that had not closed; each serves until the next, and all of it is repeatable."""
    values = walk(900)
    done = backtest(settings(tmp_path), panel(values), first=750, models=tmp_path / "one")
    start_ns = BEGIN_NS + 750 * HOUR_NS
    manifests = [load_artifact(one).manifest for one in sorted((tmp_path / "one").glob("2*"))]

    assert done.trained_ns == tuple(start_ns + day * 24 * HOUR_NS for day in (0, 3, 6))
    assert tuple(one.data_end_ns for one in manifests) == done.trained_ns
    assert done.failures == ()
    served = {step.forecast.model.partition(":")[2] for step in done.record.steps if step.forecast is not None}
    assert served == {one.name for one in (tmp_path / "one").glob("2*")}

    again = backtest(settings(tmp_path), panel(values), first=750, models=tmp_path / "two")
    assert again.record.steps == done.record.steps


def test_the_future_has_no_part_in_a_model(tmp_path: Path) -> None:
    """What comes after the first training is another market: the model is the same to the last bit."""
    values = walk(800)
    other = values.copy()
    other[760:] = walk(800, seed=9)[760:]
    backtest(settings(tmp_path, ""), panel(values), first=760, models=tmp_path / "one")
    backtest(settings(tmp_path, ""), panel(other), first=760, models=tmp_path / "two")
    first, second = (min((tmp_path / name).glob("2*")).name for name in ("one", "two"))

    assert first == second  # the name holds the hash of the weights


def test_too_little_history_is_told_and_tried_again(tmp_path: Path) -> None:
    """The run goes on without a model, as the daemon does."""
    done = backtest(settings(tmp_path), panel(walk(120)), first=60, models=tmp_path / "models")

    assert done.trained_ns == ()
    assert "bars of history are too few" in done.failures[0]
    assert {step.outcome for step in done.record.steps} <= {"not_ready", "no_model"}


def test_history_with_holes_and_late_listings_is_filled_as_the_daemon_fills_it() -> None:
    """A hole carries the close before it without volume; a pair listed too late is left out."""
    values = walk(100)
    values[50, 0] = np.nan
    symbols, bars = known_bars(panel(values), 0, 100)

    assert symbols == PAIRS
    assert bars[0, 50].tolist() == [values[49, 0, 3]] * 4 + [0.0]

    values[:80, 1] = np.nan
    symbols, bars = known_bars(panel(values), 0, 100)
    assert symbols == ("BTC/USDT",)
    assert bars.shape == (1, 100, 5)

    values[:] = np.nan
    with pytest.raises(BadHistory, match="enough history"):
        known_bars(panel(values), 0, 100)
