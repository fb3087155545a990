"""Models judged with the engine: the same model, the same windows, costs included."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy import float64
from numpy.typing import NDArray

from daemon.backtest.evaluate import Field, Judged, daily_of, decided, hold, judge, make_field
from daemon.backtest.evaluate_result import figures_of, result_of
from daemon.backtest.history import Panel, make_panel
from daemon.backtest.run import backtest
from daemon.backtest.tune_trial import FoldRun
from daemon.domain.errors import ConfigError
from daemon.settings import Settings, load_settings
from strategies.artifact import Hyper
from strategies.baselines import Zero
from strategies.forecaster import RawForecast
from strategies.skill import LEVELS, Earned
from strategies.training.evaluate import find_model
from tests.backtest.tune_kit import HOUR_NS, T0_NS

ME = "tests.backtest.test_evaluate:Seen"
PAIRS = ("AAA/USDT", "BBB/USDT", "CCC/USDT")
BARS = 430
EARNED = Earned(
    pooled=0.1,
    assets={},
    slope=1.0,
    statistic=9.0,
    threshold=2.576,
    shrink=1.0,
    conformal=dict.fromkeys((f"{level:g}" for level in LEVELS), 1.0),
    conformal_raw=dict.fromkeys((f"{level:g}" for level in LEVELS), 1.0),
    times=100,
    overlap=2,
)


class Seen(Zero):
    """Follows the last six bars, is believed, and remembers what it said at which close."""

    said: dict[bytes, list[bytes]] = {}  # noqa: RUF012 - one memory for the evaluation and the engine
    earned = EARNED  # type: ignore[assignment]

    def predict(self, bars: NDArray[float64]) -> RawForecast:
        """Forecast."""
        mean = 0.5 * (bars[:, -1, 3] / bars[:, -7, 3] - 1.0)
        raw = RawForecast(mean=mean, scale=np.full(len(mean), 0.02))
        self.said.setdefault(bars[:, -1].tobytes(), []).append(raw.mean.tobytes())
        return raw


def walk(late: int = 0) -> Panel:
    """Candles of three pairs; the last one begins ``late`` bars after the others."""
    rng = np.random.default_rng(3)
    close = np.round(100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.01, (BARS, 3)), axis=0)), 2)
    opened = np.vstack([np.full(3, 100.0), close[:-1]])
    high, low = np.maximum(opened, close) * 1.001, np.minimum(opened, close) * 0.999
    values = np.stack([opened, high, low, close, np.full(close.shape, 1e6)], axis=-1)
    values[:late, 2] = np.nan
    return make_panel(PAIRS, HOUR_NS, T0_NS + HOUR_NS * np.arange(BARS, dtype=np.int64), values)


def settings_of(**changes: Any) -> Settings:
    """The reference strategy on three pairs, short horizons."""
    base = load_settings([], {}).model_dump()
    forecast = base["forecast"] | {"lookback": 10, "horizon_bars": 2}
    return Settings.model_validate(base | {"universe": PAIRS, "forecast": forecast} | changes)


def field_of(settings: Settings | None = None, *, late: int = 0, folds: int = 2) -> Field:
    """Two test windows of 67 bars."""
    return make_field(settings or settings_of(), walk(late), 0, folds=folds, embargo=3, seed=1, hyper=Hyper())


def judged(field: Field, folder: Path, name: str = ME, *, decide: bool = True) -> Judged:
    """Evaluate a model."""
    return judge(field, find_model(name, folder), models=folder, decide=decide, tell=lambda *_: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Field, Judged]]:
    """One evaluation with decisions, for the tests that only look at it."""
    Seen.said.clear()
    field = field_of()
    yield field, judged(field, tmp_path_factory.mktemp("models"))
    Seen.said.clear()


def test_the_engine_is_served_the_model_that_was_judged(whole: tuple[Field, Judged]) -> None:
    """At every close of the windows the forecast that was scored and the one that decided are the same bits, and it trades."""
    field, found = whole
    values = field.panel.values
    for fold in field.ground.folds:
        for at in range(fold.first, fold.last):
            answers = Seen.said[np.ascontiguousarray(values[at]).tobytes()]
            assert len(answers) >= 2
            assert len(set(answers)) == 1
    assert len(found.runs) == len(field.ground.folds)
    assert all(run.orders > 0 and run.fees > 0.0 and run.raised == 0 for run in found.runs)
    assert found.why_not == ""


def test_a_window_is_a_backtest_of_its_dates(whole: tuple[Field, Judged]) -> None:
    """What is told of a window is what the engine does from its first bar to its last, as told in the document."""
    field, found = whole
    document = result_of(field, [found], [figures_of(field, found)], hold(field))
    told = document["folds"][1]
    panel = walk()
    first, last = (panel.place(told[f"test_{name}_ns"]) for name in ("start", "end"))
    settings = settings_of(forecast=settings_of().forecast.model_dump() | {"model": ME, "retrain_every": ""})
    done = backtest(settings, panel.part(0, last), first=first)
    equity = [float(value) for value in done.record.equity]

    assert told["test_bars"] == last - first == 67
    assert told["decisions"]["total_return"] == pytest.approx(equity[-1] / equity[0] - 1.0, rel=1e-12)
    assert told["decisions"]["orders"] == done.record.orders
    assert told["train_end_ns"] == told["test_start_ns"] - 3 * HOUR_NS
    assert document["overall"] == document["models"][ME]["overall"]
    assert set(document["assets"]) == set(PAIRS)


def test_windows_together_by_hand(whole: tuple[Field, Judged]) -> None:
    """Returns multiply up, fees and orders add up, the drawdown is the deepest, the interval holds the Sharpe ratio."""
    _, found = whole
    runs = found.runs
    together = decided(runs, seed=1)

    assert together is not None
    assert together.total_return == pytest.approx((1 + runs[0].total_return) * (1 + runs[1].total_return) - 1)
    assert together.total_return == pytest.approx(np.prod(1 + daily_of(runs)) - 1)
    assert together.fees == pytest.approx(runs[0].fees + runs[1].fees)
    assert together.days == runs[0].days + runs[1].days
    assert together.max_drawdown <= min(run.max_drawdown for run in runs) < 0.0
    assert together.sharpe == pytest.approx(daily_of(runs).mean() / daily_of(runs).std(ddof=1) * 365**0.5)
    assert together.sharpe is not None
    assert together.sharpe_low is not None
    assert together.sharpe_high is not None
    assert together.sharpe_low <= together.sharpe <= together.sharpe_high
    assert decided((), seed=1) is None


def test_holding_by_hand(whole: tuple[Field, Judged]) -> None:
    """Equal amounts bought at the close before the window, less the fee: the mean of what the pairs became."""
    field, _ = whole
    closes = field.panel.values[:, :, 3]
    for fold, run in zip(field.ground.folds, hold(field), strict=True):
        became = float((closes[fold.last - 1] / closes[fold.first - 1]).mean())
        assert run.total_return == pytest.approx(became / 1.001 - 1.0, rel=1e-9)
        assert run.fees == pytest.approx(100_000 / 1.001 * 0.001)


def test_a_pair_that_begins_late_is_left_out(tmp_path: Path) -> None:
    """It is named, neither judged nor traded; one that begins a little late shortens the history."""
    late, soon = field_of(late=300), field_of(late=20)
    found = judged(late, tmp_path)

    assert late.left_out == ("CCC/USDT",)
    assert late.panel.symbols == late.settings.universe == PAIRS[:2]
    assert found.forecasts[0].mean.shape[0] == 2
    assert found.runs
    assert (soon.begin, soon.left_out, soon.ground.history.close_ns.size) == (20, (), BARS - 20)
    assert soon.ground.folds[-1].last == BARS - 20
    assert soon.fold_in_panel(soon.ground.folds[-1]).last == BARS


def test_a_strategy_that_asks_no_forecaster(tmp_path: Path) -> None:
    """Its decisions say nothing about a model: none are made, and it is said why; forecasts are judged all the same."""
    field = field_of(settings_of(strategy="strategies.examples.momentum:Momentum"), folds=1)
    found = judged(field, tmp_path)

    assert found.runs == ()
    assert found.why_not == "strategy strategies.examples.momentum:Momentum asks no forecaster"
    assert len(found.forecasts) == 1
    assert judged(field, tmp_path, decide=False).why_not == "not asked for (--no-decisions)"


def test_too_short_says_how_much_it_takes() -> None:
    """One line with the bars that would do."""
    with pytest.raises(ConfigError, match=r"--folds 40: 430 bars are too few .*; take fewer folds"):
        field_of(folds=40)
    with pytest.raises(ConfigError, match="no bar to learn from"):
        make_field(settings_of(), walk(), BARS, folds=2, embargo=0, seed=1, hyper=Hyper())


def test_a_small_model_is_trained_judged_and_serves(tmp_path: Path) -> None:
    """The trained model of each window decides in it; a registered one is taken as it is, and refused where it has seen."""
    torch.set_num_threads(1)
    tiny = Hyper(hidden=4, hidden_top=4, epochs_max=1, batch=64)
    field = make_field(settings_of(), walk(), 60, folds=1, embargo=3, seed=1, hyper=tiny)
    found = judged(field, tmp_path / "models", "lstm")
    name = found.forecasts[0].model.removeprefix("lstm:")
    registered = judge(
        field,
        find_model(name, tmp_path / "models" / "lstm-0"),
        models=tmp_path,
        decide=False,
        tell=lambda *_: None,
    )

    fold = field.ground.folds[0]
    assert found.runs[0].decisions == fold.last - fold.first + 1  # at every close, and at the opening
    assert (registered.forecasts[0].mean == found.forecasts[0].mean).all()
    assert registered.forecasts[0].calibrated_on == 0
    with pytest.raises(ConfigError, match=f"model {name} has seen bars up to .* would be hindsight"):
        judge(
            make_field(settings_of(), walk(), 0, folds=1, embargo=3, seed=1, hyper=tiny),
            find_model(name, tmp_path / "models" / "lstm-0"),
            models=tmp_path,
            decide=False,
            tell=lambda *_: None,
        )


def test_undecided_windows_say_so() -> None:
    """A run of one day has no Sharpe ratio: None, not a number."""
    run = FoldRun(
        fold=0, total_return=0.01, max_drawdown=0.0, turnover=0.0, sharpe=None, fees=0.0, days=1, decisions=1, orders=0,
        halts=0, raised=0, daily=(0.01,),
    )  # fmt: skip
    together = decided((run,), seed=1)

    assert together is not None
    assert together.sharpe is together.sharpe_low is together.volatility is None
    assert together.max_drawdown == 0.0
