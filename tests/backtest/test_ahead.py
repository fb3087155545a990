"""Forecasts ahead of time: a run is the same to the last bit, the future has no part in it, a new model starts afresh."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from daemon.backtest.ahead import AHEAD_CLOSES, USELESS_MAX, Ahead, AheadWorker, Coming, ahead
from daemon.backtest.history import Panel
from daemon.backtest.record import Record, Served
from daemon.backtest.run import backtest, inline_worker, prepare
from daemon.settings import Settings, load_settings
from strategies.forecaster import RawForecast
from strategies.training.registry import publish
from tests.backtest.market import BEGIN_NS, HOUR_NS
from tests.backtest.test_walk import panel, walk
from tests.strategies.forecast_kit import untrained

Floats = NDArray[np.float64]
FIRST = 120
CONFIG = """
universe = ["BTC/USDT", "ETH/USDT"]
state_dir = "{var}"
[feed]
backfill_bars = 100
[forecast]
model = "{model}"
retrain_every = ""
lookback = 8
horizon_bars = 2
shrink = "none"
[optimizer]
rebalance_every = {every}
"""


class Plain:
    """Trend of the window it reads; counts how it was asked."""

    name, lookback, horizon_bars = "plain", 8, 2
    earned = trained_until_ns = None
    single = 0
    batches: tuple[int, ...] = ()

    @classmethod
    def load(cls, model_dir: Path | None, *, horizon_bars: int, lookback: int) -> Self:
        """Make it and forget what was counted."""
        Plain.single, Plain.batches = 0, ()
        return cls()

    def predict(self, bars: Floats) -> RawForecast:
        """Forecast and count."""
        Plain.single += 1
        return self._of(bars)

    def _of(self, bars: Floats) -> RawForecast:
        closes = bars[:, -9:, 3]
        return RawForecast(mean=np.log(closes[:, -1] / closes[:, 0]) / 4.0, scale=np.full(len(bars), 0.02))


class Pure(Plain):
    """The same, declared pure."""

    name = "pure"

    def predict_many(self, windows: Sequence[Floats]) -> list[RawForecast]:
        """Forecast all; they are exactly what it reads."""
        assert {one.shape[1:] for one in windows} == {(9, 5)}
        Plain.batches += (len(windows),)
        return [self._of(one) for one in windows]


class Picky(Pure):
    """Refuses to answer many at once."""

    def predict_many(self, windows: Sequence[Floats]) -> list[RawForecast]:
        """Refuse."""
        Plain.batches += (len(windows),)
        raise ValueError("asset 0: bar 0 of the window is not usable")


def configured(folder: Path, *, model: str = "Pure", every: int = 1) -> Settings:
    """Return settings with a forecaster of this module."""
    file = folder / "ballast.toml"
    named = model if model == "lstm" else f"tests.backtest.test_ahead:{model}"
    file.write_text(CONFIG.format(var=folder / "var", model=named, every=every))
    return load_settings([file], {})


def spoilt(count: int, *, seed: int = 3) -> NDArray[np.float64]:
    """Return bars with a hole of one pair, an outage, and a pair that comes late and goes early."""
    values: NDArray[np.float64] = walk(count, seed=seed)
    values[FIRST + 20 : FIRST + 23, 0] = np.nan
    values[FIRST + 60 : FIRST + 62] = np.nan
    values[: FIRST + 10, 1] = np.nan
    values[count - 30 :, 1] = np.nan
    return values


def same(one: Record, other: Record) -> bool:
    """Say whether two runs left the same behind, to the last bit."""
    return (one.steps, one.weights, one.equity, one.orders) == (other.steps, other.weights, other.equity, other.orders)


def published(models: Path, seed: int) -> None:
    """Make a small LSTM the current model."""
    net, manifest = untrained(seed, lookback=8, horizon=2)
    publish(models, net, msgspec.structs.replace(manifest, bar_ns=HOUR_NS))


def test_an_lstm_decides_the_same_asked_ahead_or_not_and_a_new_one_starts_afresh(tmp_path: Path) -> None:
    """With holes, an outage and another model on the way, of which nobody told: forecasts, targets and equity are equal."""
    settings, values, swap_ns = configured(tmp_path, model="lstm"), panel(spoilt(300)), BEGIN_NS + 200 * HOUR_NS

    def run(models: Path, *, batched: bool) -> Record:
        published(models, 1)
        worker = inline_worker(settings, models)

        def retrain(close_ns: int) -> Served | None:
            if close_ns != swap_ns:
                return None
            published(models, 2)
            return worker.reload()

        asked = ahead(worker, lambda: Coming(values, every=1)) if batched else worker
        return prepare(settings, values, first=FIRST, worker=asked, retrain=retrain).run()

    one, two = run(tmp_path / "one", batched=True), run(tmp_path / "two", batched=False)
    forecasts = [step.forecast for step in one.steps if step.forecast is not None]

    assert same(one, two)
    assert len(forecasts) > 100
    assert len({each.model for each in forecasts}) == 2
    assert all(any(each.mean) for each in forecasts)


@pytest.mark.parametrize("every", [1, 5])
def test_every_answer_of_a_whole_history_is_served(tmp_path: Path, every: int) -> None:
    """Only closes that are decided on are asked for, many at once, and none again when its time comes."""
    done = backtest(configured(tmp_path, every=every), panel(walk(500)), first=FIRST)
    forecasts = sum(step.forecast is not None for step in done.record.steps)

    assert forecasts > 300 / every
    assert Plain.single == 0
    assert sum(Plain.batches) == forecasts
    assert Plain.batches[0] == min(AHEAD_CLOSES, forecasts)


@pytest.mark.parametrize("model", ["Pure", "Picky"])
def test_holes_listings_and_refusals_change_nothing(tmp_path: Path, model: str) -> None:
    """Most closes are served in spite of them; what was not foreseen is asked for then."""
    values = spoilt(500)
    one = backtest(configured(tmp_path, model=model), panel(values), first=FIRST)
    single, batches = Plain.single, Plain.batches
    two = backtest(configured(tmp_path, model=model), panel(values), first=FIRST, batched=False)
    forecasts = sum(step.forecast is not None for step in one.record.steps)

    assert same(one.record, two.record)
    assert Plain.batches == ()
    assert Plain.single == forecasts > 250
    if model == "Pure":
        assert 0 <= single < forecasts / 4
    else:
        assert (single, len(batches)) == (forecasts, USELESS_MAX)


def test_the_future_has_no_part_in_a_decision(tmp_path: Path) -> None:
    """Another market from some close on, inside what is asked ahead: all decisions before it are the same."""
    values, other = walk(400), walk(400)
    change = FIRST + 57
    other[change:] = walk(400, seed=9)[change:] * 3.0
    one, two = (backtest(configured(tmp_path), panel(each), first=FIRST).record for each in (values, other))
    until = BEGIN_NS + change * HOUR_NS
    before, changed = ([step for step in run.steps if step.close_ns <= until] for run in (one, two))

    assert len(before) > 50
    assert before == changed
    assert one.steps != two.steps


def test_what_was_said_of_other_bars_is_not_served(tmp_path: Path) -> None:
    """Bars ahead that are not those of the run: nothing is served, nothing changes, and after a while nobody is asked."""
    settings, here, elsewhere = configured(tmp_path), panel(walk(400)), panel(walk(400, seed=9))

    def run(of: Panel | None) -> Record:
        worker = inline_worker(settings)
        asked = ahead(worker, lambda: Coming(of, every=1)) if of is not None else worker
        return prepare(settings, here, first=FIRST, worker=asked).run()

    wrong, counted = run(elsewhere), (Plain.single, Plain.batches)
    right = run(None)

    assert same(wrong, right)
    assert counted[0] == Plain.single
    assert 1 <= len(counted[1]) <= USELESS_MAX


def test_who_declares_nothing_is_asked_as_ever(tmp_path: Path) -> None:
    """A forecaster without `predict_many` keeps serving by itself; a strategy that asks none keeps its worker."""
    values = panel(walk(300))
    backtest(configured(tmp_path, model="Plain"), values, first=FIRST)
    assert Plain.single > 100

    plain = inline_worker(configured(tmp_path, model="Plain"))
    asked = ahead(plain, lambda: Coming(values, every=1))
    assert isinstance(asked, AheadWorker)
    assert asked.ready is plain.ready

    file = tmp_path / "ballast.toml"
    text = 'strategy = "strategies.examples.equal_weight:EqualWeight"\n' + CONFIG.format(
        var=tmp_path / "var", model="zero", every=1
    )
    file.write_text(text)
    other = inline_worker(load_settings([file], {}))
    assert ahead(other, lambda: Coming(values, every=1)) is other


def test_it_speaks_for_the_forecaster_inside() -> None:
    """What a strategy reads of its forecaster is the inner one's; it is not made by itself."""
    inner = Pure()
    outer = Ahead(inner, inner, Coming(panel(walk(40)), every=1))

    assert (outer.name, outer.lookback, outer.horizon_bars) == ("pure", 8, 2)
    assert (outer.earned, outer.trained_until_ns) == (None, None)
    with pytest.raises(ValueError, match="made in a backtest"):
        Ahead.load(None, horizon_bars=1, lookback=2)


def test_nothing_is_asked_beyond_the_next_model() -> None:
    """The close at which another model comes is left to it; the close that is due is always asked for."""
    bars = panel(walk(100))
    coming = Coming(bars, every=1, until_ns=lambda: BEGIN_NS + 60 * HOUR_NS)
    coming.come_to(BEGIN_NS + 50 * HOUR_NS)
    assert coming.closes() == list(range(49, 59))

    coming.come_to(BEGIN_NS + 70 * HOUR_NS)
    assert coming.closes() == [69]
