"""Models asked out of sample: nothing after a forecast moves it, nothing near a window is learned, and errors are one line."""

from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
import pytest
import torch
from numpy import float64
from numpy.typing import NDArray

from strategies.artifact import Hyper
from strategies.baselines import Ewma, Zero
from strategies.forecaster import RawForecast
from strategies.training.evaluate import Asked, BadModel, FoldForecast, Ground, find_model, forecast_fold
from strategies.training.purged import walk_forward
from tests.strategies.forecast_kit import earned, history_of, saved

LOOKBACK, HORIZON, EMBARGO = 10, 3, 4
BARS = 760
TINY = Hyper(hidden=4, hidden_top=4, epochs_max=1, batch=64)
ME = "tests.strategies.test_evaluate"


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    """As in the training process."""
    torch.set_num_threads(1)


def ground(seed: int = 1, **changes: Any) -> Ground:
    """Two folds of a random walk of three pairs."""
    returns = np.random.default_rng(seed).normal(0.0, 0.01, (3, BARS))
    made = Ground(
        history=history_of(returns, seed),
        known=np.ones((3, BARS), dtype=np.bool_),
        folds=walk_forward(BARS, folds=2, purge=HORIZON, embargo=EMBARGO, train_min=340),
        lookback=LOOKBACK,
        horizon_bars=HORIZON,
        seed=1,
        hyper=TINY,
    )
    return msgspec.structs.replace(made, **changes)


def other_from(whole: Ground, first: int) -> Ground:
    """The same bars up to ``first``, others from there on."""
    bars = whole.history.bars.copy()
    bars[:, first:, :4] *= np.random.default_rng(9).uniform(0.5, 2.0, (3, BARS - first, 1))
    bars[:, first:, 4] *= 3.0
    return msgspec.structs.replace(whole, history=msgspec.structs.replace(whole.history, bars=bars))


def of(name: str, where: Ground, folder: Path, fold: int = 1) -> FoldForecast:
    """Evaluate a model on one fold."""
    return forecast_fold(where, find_model(name, folder / "none"), where.folds[fold], models_dir=folder / "models")


class Mine(Zero):
    """Somebody's model: forecasts the last close return of every asset, reads the neighbour's too."""

    def predict(self, bars: NDArray[float64]) -> RawForecast:
        """Forecast."""
        last = bars[:, -1, 3] / bars[:, -2, 3] - 1.0
        return RawForecast(mean=last + 0.1 * last.mean(), scale=0.02 + np.abs(last))


class NotANumber(Mine):
    """A model that breaks on one asset."""

    def predict(self, bars: NDArray[float64]) -> RawForecast:
        """Forecast NaN for the second."""
        raw = super().predict(bars)
        return RawForecast(mean=np.where(np.arange(len(raw.mean)) == 1, np.nan, raw.mean), scale=raw.scale)


class Raises(Mine):
    """A model that raises."""

    def predict(self, bars: NDArray[float64]) -> RawForecast:
        """Raise."""
        raise KeyError("gone")


class Short(Mine):
    """A model that forgets an asset."""

    def predict(self, bars: NDArray[float64]) -> RawForecast:
        """Forecast too few."""
        return RawForecast(mean=np.zeros(1), scale=np.ones(1))


class CannotLoad(Mine):
    """A model without its file."""

    @classmethod
    def load(cls, model_dir: Path | None, *, horizon_bars: int, lookback: int = 60) -> Self:
        """Raise."""
        raise RuntimeError("no weights")


class OtherHorizon(Mine):
    """A model that answers another question."""

    @classmethod
    def load(cls, model_dir: Path | None, *, horizon_bars: int, lookback: int = 60) -> Self:
        """Make it for one bar more."""
        return cls(horizon_bars=horizon_bars + 1, lookback=lookback)


class Long(Mine):
    """A model that reads more bars than there are."""

    @property
    def lookback(self) -> int:
        """Return a year."""
        return 8_760


@pytest.mark.parametrize("name", ["ewma", f"{ME}:Mine"])
def test_the_future_moves_nothing(name: str, tmp_path: Path) -> None:
    """Bars changed from the middle of a window on: forecasts and issued widths before are the same bits."""
    whole = ground()
    fold = whole.folds[1]
    middle = (fold.first + fold.last) // 2
    before, after = of(name, whole, tmp_path), of(name, other_from(whole, middle), tmp_path)
    n = middle - fold.first

    for field in ("mean", "scale", "ewma"):
        assert (getattr(before, field)[:, :n] == getattr(after, field)[:, :n]).all(), field
        assert not (getattr(before, field)[:, n:] == getattr(after, field)[:, n:]).all(), field
    assert (before.split == after.split).all()
    assert (before.drift == after.drift).all()
    assert (before.adaptive[:, :n] == after.adaptive[:, :n]).all()
    assert (before.realised[:, : n - HORIZON] == after.realised[:, : n - HORIZON]).all()


def test_nothing_within_horizon_and_embargo_is_learned(tmp_path: Path) -> None:
    """The trained weights (their hash is in the name) and widths hang on bars up to the embargo, on none after it."""
    whole = ground()
    fold = whole.folds[1]
    edge = fold.first - EMBARGO
    at_edge, before_it = (other_from(whole, first) for first in (edge, edge - 1))
    names, widths = zip(
        *(
            (made.model, made.split.tolist())
            for at, one in enumerate((whole, at_edge, before_it))
            for made in (of("lstm", one, tmp_path / str(at)),)
        ),
        strict=True,
    )

    assert names[0] == names[1]
    assert widths[0] == widths[1]
    assert widths[0] != widths[2]  # the last label that calibrates ends with the bar before the embargo


def test_a_trained_model_is_the_same_for_a_seed_and_serves_from_its_folder(tmp_path: Path) -> None:
    """Twice the same bits, another seed another model; what is left in the folder is the model that was asked."""
    whole = ground()
    first, again = (of("lstm", whole, tmp_path / name) for name in ("a", "b"))
    other = of("lstm", msgspec.structs.replace(whole, seed=2), tmp_path / "c")

    assert first.model == again.model != other.model
    assert (first.mean == again.mean).all()
    assert (first.scale == again.scale).all()
    assert first.models_dir == tmp_path / "a" / "models"
    assert (first.models_dir / "current").read_text() in first.model


def test_what_came_is_what_came(tmp_path: Path) -> None:
    """Truths, variances, the drift of the training part and the window by their definitions; the data end in the last fold."""
    whole = ground()
    made, fold = of("zero", whole, tmp_path), whole.folds[1]
    closes = whole.history.bars[:, :, 3]

    assert made.place.tolist() == list(range(fold.first, fold.last))
    assert np.isnan(made.realised[:, -HORIZON:]).all()
    assert made.realised[1, 5] == pytest.approx(closes[1, fold.first + 5 + HORIZON] / closes[1, fold.first + 5] - 1.0)
    steps = np.diff(np.log(closes[1, fold.first + 5 : fold.first + 6 + HORIZON]))
    assert made.variance[1, 5] == pytest.approx(float(steps @ steps))
    learned = closes[:, HORIZON : fold.train_last + HORIZON] / closes[:, : fold.train_last] - 1.0
    assert made.drift == pytest.approx(learned.mean(axis=1))
    assert (made.mean == 0.0).all()
    assert made.ewma[2, 7] == pytest.approx(
        Ewma(horizon_bars=HORIZON, lookback=LOOKBACK).predict(whole.history.bars[:, : fold.first + 8]).scale[2]
    )
    assert made.calibrated_on > 70


def test_a_missing_candle_is_no_truth(tmp_path: Path) -> None:
    """Forecasts made at a hole, or whose horizon ends in one, have no truth; the others keep theirs."""
    whole = ground()
    at = whole.folds[1].first + 20
    known = whole.known.copy()
    known[1, at] = False
    made = of("zero", msgspec.structs.replace(whole, known=known), tmp_path)

    assert np.flatnonzero(np.isnan(made.realised[1, :-HORIZON])).tolist() == [20 - HORIZON, 20]
    assert np.isfinite(made.realised[[0, 2], :-HORIZON]).all()
    assert np.isnan(made.variance[1, 20])


def test_names_of_models(tmp_path: Path) -> None:
    """Built-in, a class, an artifact's id; anything else is refused with what there is."""
    folder = saved(tmp_path / "models" / "20260101T000000-00000001")

    assert find_model("ewma", tmp_path) == Asked("ewma", "ewma", None)
    assert find_model("lstm", tmp_path).fitted
    assert find_model("a.b:C", tmp_path) == Asked("a.b:C", "a.b:C", tmp_path)
    assert find_model(folder.name, folder.parent) == Asked(folder.name, "lstm", folder)
    assert not find_model(folder.name, folder.parent).fitted
    for name in ("", "gone", "../models", "a:b:c", "20270101T000000-00000001"):
        with pytest.raises(BadModel, match=r"is unknown: use .*ewma.*package.module:Class.*models list"):
            find_model(name, folder.parent)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        (f"{ME}:NotANumber", r"NotANumber forecast mean nan, scale 0.0\d+ for C1/USDT at \d{4}-"),
        (f"{ME}:Raises", "Raises raised KeyError: 'gone'"),
        (f"{ME}:Short", r"Short forecast \(1,\) means for 3 assets"),
        (f"{ME}:CannotLoad", "CannotLoad cannot be loaded: RuntimeError: no weights"),
        (f"{ME}:OtherHorizon", "OtherHorizon forecasts 4 bars ahead, forecast.horizon_bars is 3"),
        (f"{ME}:Long", r"Long reads 8760 bars, \d+ lie before its first forecast"),
        (f"{ME}:Gone", "cannot be imported"),
        ("no.such.module:Class", "cannot be imported"),
    ],
)
def test_models_that_cannot_be_used(name: str, what: str, tmp_path: Path) -> None:
    """One line that names the model and what it did."""
    with pytest.raises(BadModel, match=what) as told:
        of(name, ground(), tmp_path)
    assert "\n" not in str(told.value)


class Artifact(Mine):
    """A model that was fitted somewhere, until a bar that a test says."""

    until_ns = 0

    @property
    def trained_until_ns(self) -> int:  # type: ignore[override]
        """Return what it has seen."""
        return type(self).until_ns

    @property
    def earned(self) -> Any:
        """Return what it measured there."""
        return earned()


def test_what_has_seen_the_window_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hindsight: a model fitted up to the window's opening may serve, one bar later not."""
    whole = ground()
    fold = whole.folds[1]
    monkeypatch.setattr(Artifact, "until_ns", int(whole.history.close_ns[fold.first - 1]))
    made = of(f"{ME}:Artifact", whole, tmp_path)

    assert made.calibrated_on == 0  # nothing came after its fit: it brings its own widths
    assert made.split == pytest.approx([1.2, 2.4, 3.0, 4.0], rel=0.04)
    monkeypatch.setattr(Artifact, "until_ns", int(whole.history.close_ns[fold.first]))
    with pytest.raises(BadModel, match="would be hindsight; take a later --start"):
        of(f"{ME}:Artifact", whole, tmp_path)
    monkeypatch.setattr(Artifact, "until_ns", int(whole.history.close_ns[fold.first - 60]))
    assert of(f"{ME}:Artifact", whole, tmp_path).calibrated_on > 30
