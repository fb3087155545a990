"""Tables of an evaluation, for the terminal and the page alike, and the page itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from daemon.backtest.evaluate import Decided, Field, Judged, decided
from daemon.backtest.evaluate_result import Figures, flat
from daemon.backtest.report.evaluation_plots import plots
from daemon.backtest.report.grids import NONE, Grid, Line, plain, written
from daemon.backtest.report.html import Section, document, section, write_page
from daemon.backtest.report.series import day, minute
from daemon.backtest.tune_trial import FoldRun
from strategies.skill import LEVELS
from strategies.training.evaluate_scores import Scores
from strategies.training.evaluate_stats import MeanTest

PAGE_FILE: Final = "evaluation.html"
PAIRS_SHOWN_MAX: Final = 100

ERRORS: Final = (
    Line("n", "Forecasts with a truth", "count"),
    Line("skill", "Skill = R² against zero", "percent", 1),
    Line("r2_oos_mean", "R² against the mean return", "percent", 1),
    Line("rmse", "RMSE", "number", -1),
    Line("mae", "MAE", "number", -1),
    Line("mse", "MSE", "number", -1),
    Line("mape", "MAPE", "number", -1),
    Line("directional_accuracy", "Right direction", "percent", 1),
    Line("ic", "IC across pairs", "number", 1),
    Line("ic_test", "its mean, t (p)", "text"),
    Line("ic_time", "IC over time", "number", 1),
    Line("dm", "Diebold–Mariano against zero, t (p)", "text"),
    Line("qlike", "QLIKE", "number", -1),
    Line("qlike_ewma", "QLIKE of EWMA", "number"),
    Line("qlike_gain", "QLIKE gained on EWMA", "percent", 1),
    Line("qlike_test", "Diebold–Mariano against EWMA, t (p)", "text"),
)
MONEY: Final = (
    Line("total_return", "Return", "percent", 1),
    Line("sharpe", "Sharpe", "ratio", 1),
    Line("sharpe_low", "Sharpe, 95 % from", "ratio"),
    Line("sharpe_high", "Sharpe, 95 % to", "ratio"),
    Line("volatility", "Volatility a year", "percent", -1),
    Line("max_drawdown", "Max drawdown", "percent", 1),
    Line("turnover", "Turnover a day", "percent", -1),
    Line("fees", "Fees", "money", -1),
    Line("decisions", "Decisions", "count"),
    Line("orders", "Orders", "count"),
    Line("days", "Days", "count"),
)
PAIR: Final = (
    Line("n", "Forecasts", "count"),
    Line("skill", "Skill", "percent"),
    Line("r2_oos_mean", "R² mean", "percent"),
    Line("rmse", "RMSE", "number"),
    Line("mae", "MAE", "number"),
    Line("directional_accuracy", "Direction", "percent"),
    Line("ic", "IC", "number"),
    Line("dm", "DM t (p)", "text"),
    Line("raw_coverage_90", "90 % raw", "percent"),
    Line("coverage_90", "90 % split", "percent"),
    Line("adaptive_coverage_90", "90 % adaptive", "percent"),
    Line("qlike_gain", "QLIKE gain", "percent"),
)
COVERAGE: Final = (
    ("raw_coverage", "as the model gives it"),
    ("coverage", "split conformal"),
    ("adaptive_coverage", "adaptive"),
)
DIGITS: Final = 4


def grids(
    field: Field, judged: Sequence[Judged], figures: Sequence[Figures], held: Sequence[FoldRun]
) -> tuple[Grid, ...]:
    """Return the tables: models side by side, then each model's pairs and windows."""
    names = [plain(one.asked.name) for one in judged]
    rows = [flat(one.overall) for one in figures]
    each = [
        grid
        for one, found in zip(judged, figures, strict=True)
        for grid in (_pairs(field, one, found), _windows(field, one, found))
    ]
    return (_errors(field, names, rows), _coverage(names, rows), _money(field, judged, held), *each)


def heading(field: Field) -> str:
    """Return what was judged on what, for a title."""
    close_ns = field.ground.history.close_ns
    return (
        f"Evaluation, {day(int(close_ns[0]))} to {day(int(close_ns[-1]))}, {len(field.panel.symbols)} pairs, bars of "
        f"{field.settings.bar}, {field.ground.horizon_bars} ahead, {len(field.ground.folds)} folds"
    )


def write_evaluation(
    folder: Path, field: Field, judged: Sequence[Judged], figures: Sequence[Figures], held: Sequence[FoldRun]
) -> Path:
    """Write the page into a folder and return where it is. Raises ConfigError when it cannot be written."""
    tables = [section(one) for one in grids(field, judged, figures, held)]
    drawn = plots(field, judged, figures, held)
    parts: list[Section] = [*tables[:3], *(section(one) for one in drawn), *tables[3:]]
    return write_page(document(heading(field), parts, drawn), folder / PAGE_FILE)


def _errors(field: Field, names: Sequence[str], rows: Sequence[dict[str, Any]]) -> Grid:
    note = (
        "Out of sample, all pairs and windows together. Positive t: better than zero (than EWMA). "
        "p: two-sided, of no difference; overlapping horizons are allowed for."
    )
    if field.left_out:
        note += f" Left out for want of history: {', '.join(map(plain, field.left_out))}."
    table = tuple((one.label, *(_text(row[one.key], one) for row in rows)) for one in ERRORS)
    return Grid("forecasts", "Forecasts", ("", *names), table, note=note)


def _coverage(names: Sequence[str], rows: Sequence[dict[str, Any]]) -> Grid:
    table = tuple(
        (f"{100 * level:g} %, {label}", *(written(row[f"{key}_{100 * level:g}"], "percent") for row in rows))
        for level in LEVELS
        for key, label in COVERAGE
    )
    note = "Share of returns that came within the interval that promised so much."
    return Grid("coverage", "Coverage of intervals", ("", *names), table, note=note)


def _money(field: Field, judged: Sequence[Judged], held: Sequence[FoldRun]) -> Grid:
    seed = field.ground.seed
    columns = [*(decided(one.runs, seed) for one in judged), decided(held, seed)]
    table = tuple((one.label, *(written(_figure(column, one.key), one.style) for column in columns)) for one in MONEY)
    reasons = dict.fromkeys(f"{plain(one.asked.name)}: {plain(one.why_not)}." for one in judged if one.why_not)
    shrink = field.settings.forecast.shrink
    note = " ".join(
        (
            "The daemon's engine on the same windows with the same models, after fees, spread and impact;",
            f'means count as far as they have earned (forecast.shrink = "{shrink}").' if shrink == "skill" else
            'means count as they are (forecast.shrink = "none").',
            *reasons,
        )
    )  # fmt: skip
    names = [plain(one.asked.name) for one in judged]
    return Grid("decisions", "Decisions after costs", ("", *names, "Buy and hold"), table, note=note)


def _pairs(field: Field, judged: Judged, figures: Figures) -> Grid:
    name = plain(judged.asked.name)
    found = [(plain(symbol), flat(one)) for symbol, one in zip(field.panel.symbols, figures.assets, strict=True)]
    rows = tuple((symbol, *(_text(row[one.key], one) for one in PAIR)) for symbol, row in found[:PAIRS_SHOWN_MAX])
    note = f"{len(found) - PAIRS_SHOWN_MAX} more are in the JSON." if len(found) > PAIRS_SHOWN_MAX else ""
    columns = ("Pair", *(one.label for one in PAIR))
    return Grid(f"pairs-{_key(name)}", f"{name}: pairs", columns, rows, note=note)


def _windows(field: Field, judged: Judged, figures: Figures) -> Grid:
    close_ns, bar_ns = field.ground.history.close_ns, field.ground.history.bar_ns
    rows: list[tuple[str, ...]] = []
    for at, (forecast, one) in enumerate(zip(judged.forecasts, figures.folds, strict=True)):
        fold = forecast.fold
        run = judged.runs[at] if judged.runs else None
        rows.append(
            (
                str(fold.number + 1),
                minute(int(close_ns[fold.first]) - bar_ns),
                minute(int(close_ns[fold.last - 1])),
                f"{fold.train_last + field.ground.horizon_bars - fold.train_first:,}",
                *(written(value, "percent") for value in (one.skill, one.directional_accuracy)),
                _number(one.ic),
                *(written(kind[LEVELS.index(0.9)], "percent") for kind in _kinds(one)),
                written(one.qlike_gain, "percent"),
                written(None if run is None else run.total_return, "percent"),
                written(None if run is None else run.sharpe, "ratio"),
                written(None if run is None else run.max_drawdown, "percent"),
            )
        )
    columns = (
        "Fold", "From", "To", "Learned from", "Skill", "Direction", "IC", "90 % raw", "90 % split", "90 % adaptive",
        "QLIKE gain", "Return", "Sharpe", "Drawdown",
    )  # fmt: skip
    name = plain(judged.asked.name)
    note = "Bars learned from end so many bars before the window as the horizon and the embargo ask for."
    return Grid(f"folds-{_key(name)}", f"{name}: windows", columns, tuple(rows), left=3, note=note)


def _kinds(one: Scores) -> tuple[tuple[float | None, ...], ...]:
    return one.raw_coverage, one.coverage, one.adaptive_coverage


def _figure(column: Decided | None, key: str) -> float | None:
    return None if column is None else getattr(column, key)


def _text(value: float | MeanTest | None, one: Line) -> str:
    if isinstance(value, MeanTest):
        return f"{value.statistic:.2f} ({value.p_value:.3f})"
    if value is None:
        return NONE
    return _number(value) if one.style == "number" else written(value, one.style)


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.{DIGITS}g}"


def _key(name: str) -> str:
    return "".join(one if one.isalnum() else "-" for one in name)
