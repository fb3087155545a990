"""Models judged on a data folder: out-of-sample forecasts, and what the daemon's own engine makes of them after costs.

The forecasting side, which knows no engine, is `strategies.training.evaluate`; here the same models then decide in the
same test windows, run by the engine, so that a forecast's figures and its money stand side by side.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from daemon.backtest.history import Panel
from daemon.backtest.indices import buy_and_hold, last_prices
from daemon.backtest.metrics import daily_returns, drawdowns, sharpe, unit_values, volatility
from daemon.backtest.run import inline_worker, prepare
from daemon.backtest.stats.bootstrap import RESAMPLES, intervals
from daemon.backtest.tune_trial import NO_REASONS, FoldRun, figures_of, one_line
from daemon.backtest.walk import known_bars
from daemon.domain.errors import ConfigError, Fatal
from daemon.domain.signal import NoReason
from daemon.settings import Settings
from strategies.artifact import Hyper
from strategies.training.evaluate import Asked, BadModel, FoldForecast, Ground, forecast_fold
from strategies.training.history import BadHistory, History, bars_needed
from strategies.training.purged import Fold, walk_forward

EMBARGO_SHARE: Final = 0.01
"""Of all bars: López de Prado 2018, section 7.4.2."""
LEVEL: Final = 0.95
"""Of the confidence interval of a Sharpe ratio."""

Tell = Callable[[int, int, str], None]


class Field(msgspec.Struct, frozen=True):
    """History cut into folds: ``panel`` holds the kept pairs with their warm-up, ``begin`` is its first bar of ``ground``."""

    settings: Settings
    panel: Panel
    begin: int
    ground: Ground
    embargo: int
    left_out: tuple[str, ...]

    def fold_in_panel(self, fold: Fold) -> Fold:
        """Return a fold with its bars counted from the panel's first."""
        return Fold(fold.number, *(at + self.begin for at in fold[1:]))


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """What decisions came to over all windows, after costs: windows follow each other, each begins with the same money.

    ``sharpe_low`` and ``sharpe_high`` bound the Sharpe ratio with 95 % confidence (stationary bootstrap of the days);
    ``max_drawdown`` (<= 0) is the deepest of the windows, bar by bar, and of their days one after the other;
    ``turnover`` is per day.
    """

    total_return: float
    sharpe: float | None
    sharpe_low: float | None
    sharpe_high: float | None
    volatility: float | None
    max_drawdown: float
    turnover: float
    fees: float
    orders: int
    decisions: int
    raised: int
    days: int


class Judged(msgspec.Struct, frozen=True):
    """A model with its forecasts in every window and what it decided there; ``why_not`` says why nothing was decided."""

    asked: Asked
    forecasts: tuple[FoldForecast, ...]
    runs: tuple[FoldRun, ...]
    why_not: str = ""


def make_field(
    settings: Settings, panel: Panel, begin: int, *, folds: int, embargo: int, seed: int, hyper: Hyper
) -> Field:
    """Cut the bars from ``begin`` on into purged folds.

    Parameters
    ----------
    settings
        ``[forecast]``: lookback, horizon, ``train_bars`` (training parts are not longer).
    panel, begin
        History, and the index of the first bar that may be learned from; bars before only warm the engine up.
    folds
        Test windows.
    embargo
        Bars kept free before a window besides the horizon; -1: 1 % of all.
    seed, hyper
        Of the trainings.

    Raises
    ------
    ConfigError
        When the history does not suffice; says how many bars would.
    """
    forecast = settings.forecast
    horizon = forecast.horizon_bars
    if begin >= len(panel.open_ns):
        raise ConfigError("no bar to learn from: the data end before --start; `ballast data list` says what there is")
    try:
        symbols, bars = known_bars(panel, begin, len(panel.open_ns))
    except BadHistory as error:
        raise ConfigError(f"{error}: `ballast data list` says what there is") from None
    n_bars = bars.shape[1]
    start = len(panel.open_ns) - n_bars
    gap = embargo if embargo >= 0 else int(n_bars * EMBARGO_SHARE)
    least = bars_needed(forecast.lookback, horizon)
    equal_parts = (n_bars - folds * (horizon + gap)) // (folds + 1)
    try:
        made = walk_forward(
            n_bars,
            folds=folds,
            purge=horizon,
            embargo=gap,
            train_min=max(equal_parts, least - horizon),
            train_max=max(forecast.train_bars, least),
        )
    except ValueError as error:
        raise ConfigError(
            f"--folds {folds}: {error} (a model learns from {least} at least: lookback {forecast.lookback}, horizon "
            f"{horizon}); take fewer folds, a smaller --embargo or more data"
        ) from None
    columns = [panel.symbols.index(one) for one in symbols]
    kept = panel._replace(symbols=symbols, values=panel.values[:, columns])
    ground = Ground(
        history=History(symbols=symbols, close_ns=panel.open_ns[start:] + panel.bar_ns, bars=bars),
        known=~np.isnan(kept.values[start:, :, 3]).T,
        folds=made,
        lookback=forecast.lookback,
        horizon_bars=horizon,
        seed=seed,
        hyper=hyper,
    )
    left_out = tuple(one for one in panel.symbols if one not in symbols)
    return Field(settings.model_copy(update={"universe": symbols}), kept, start, ground, gap, left_out)


def judge(field: Field, asked: Asked, *, models: Path, decide: bool, tell: Tell) -> Judged:
    """Evaluate one model: in each window forecasts, then, if asked for, decisions.

    Parameters
    ----------
    field, asked
        The history and the model.
    models
        Folder for what is trained, one registry per fold.
    decide
        Whether the engine is run.
    tell
        Hears of steps done, of all steps, and what is being done.

    Raises
    ------
    ConfigError
        The model cannot be evaluated, or not trained on so little.
    """
    folds = field.ground.folds
    steps = len(folds) * (2 if decide else 1)
    forecasts: list[FoldForecast] = []
    runs: list[FoldRun] = []
    why_not = "" if decide else "not asked for (--no-decisions)"
    for fold in folds:
        done = len(forecasts) + len(runs)

        def say(what: str, *, at: int = done, number: int = fold.number) -> None:
            tell(at, steps, f"fold {number + 1}: {what}")

        say("starts")
        try:
            forecast = forecast_fold(
                field.ground, asked, fold, models_dir=models / f"{_safe(asked.name)}-{fold.number}", say=say
            )
        except (BadModel, BadHistory) as error:
            raise ConfigError(one_line(str(error))) from error
        forecasts.append(forecast)
        if not why_not:
            tell(done + 1, steps, f"fold {fold.number + 1}: decisions")
            answer = _decide(field, asked, fold, models=forecast.models_dir)
            if isinstance(answer, str):
                why_not = answer
                runs.clear()
            else:
                runs.append(answer)
    tell(steps, steps, "")
    return Judged(asked, tuple(forecasts), tuple(runs), why_not)


def _decide(field: Field, asked: Asked, fold: Fold, *, models: Path | None) -> FoldRun | str:
    """Run the engine over a window with the model that forecast it; or say why that is not possible."""
    forecast = field.settings.forecast.model_copy(update={"model": asked.spec, "retrain_every": ""})
    settings = field.settings.model_copy(update={"forecast": forecast})
    here = field.fold_in_panel(fold)
    try:
        worker = inline_worker(settings, models)
        if not worker.ready.learns:
            return f"strategy {settings.strategy} asks no forecaster"
        session = prepare(settings, field.panel.part(0, here.last), first=here.first, worker=worker)
        record = session.run()
    except Fatal as error:
        return one_line(str(error))
    none = [step for step in record.steps if step.outcome in NO_REASONS]
    if len(none) == len(record.steps):
        return one_line(f"not one decision in {len(none)} bars{f': {none[-1].detail}' if none else ''}")
    raised = sum(step.outcome == NoReason.STRATEGY_RAISED for step in none)
    return figures_of(here, record, fees=float(session.engine.state.account.fees_quote), raised=raised)


def hold(field: Field) -> tuple[FoldRun, ...]:
    """Return what equal amounts of all pairs, bought when a window opens and kept, came to: the same windows and fee."""
    fee, cash = field.settings.paper.fee_bps / 1e4, float(field.settings.paper.cash)
    made: list[FoldRun] = []
    for fold in map(field.fold_in_panel, field.ground.folds):
        rows = slice(fold.first - 1, fold.last)  # the close before the window is its opening
        closes = last_prices(field.panel.values[: fold.last, :, 3])[rows]
        dates = field.panel.open_ns[rows] + field.panel.bar_ns
        curve = buy_and_hold(closes, np.zeros(1, dtype=np.int64), fee_rate=fee, initial=cash)
        flow = np.zeros(len(dates))
        daily = daily_returns(dates, curve.value, flow)[1]
        made.append(
            FoldRun(
                fold=fold.number,
                total_return=float(curve.value[-1] / cash - 1.0),
                max_drawdown=float(drawdowns(unit_values(dates, curve.value, flow)).min()),
                turnover=float(curve.turnover.sum()) / max(len(daily), 1),
                sharpe=sharpe(daily),
                fees=curve.fees,
                days=len(daily),
                decisions=1,
                orders=len(field.panel.symbols),
                halts=0,
                raised=0,
                daily=tuple(daily.tolist()),
            )
        )
    return tuple(made)


def decided(runs: Sequence[FoldRun], seed: int) -> Decided | None:
    """Return the figures of the windows together; None without any. ``seed`` is that of the bootstrap."""
    if not runs:
        return None
    daily = daily_of(runs)
    chained = np.concatenate(([1.0], np.cumprod(1.0 + daily)))
    spread = intervals(daily, np.random.default_rng(seed), resamples=RESAMPLES, level=LEVEL) if len(daily) > 1 else None
    bounds = spread.sharpe if spread is not None else None
    return Decided(
        total_return=float(np.prod([1.0 + one.total_return for one in runs])) - 1.0,
        sharpe=sharpe(daily),
        sharpe_low=None if bounds is None else bounds.low,
        sharpe_high=None if bounds is None else bounds.high,
        volatility=volatility(daily),
        max_drawdown=min(float(drawdowns(chained).min()), *(one.max_drawdown for one in runs)),
        turnover=sum(one.turnover * one.days for one in runs) / max(len(daily), 1),
        fees=sum(one.fees for one in runs),
        orders=sum(one.orders for one in runs),
        decisions=sum(one.decisions for one in runs),
        raised=sum(one.raised for one in runs),
        days=len(daily),
    )


def daily_of(runs: Sequence[FoldRun]) -> NDArray[np.float64]:
    """Return (n_days,) daily returns of the windows, one after the other."""
    return np.array([value for one in runs for value in one.daily], dtype=np.float64)


def _safe(name: str) -> str:
    return "".join(one if one.isalnum() else "-" for one in name)
