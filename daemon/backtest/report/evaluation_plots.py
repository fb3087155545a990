"""The plots of an evaluation as plain plotly figures."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from daemon.backtest.evaluate import Field, Judged, daily_of
from daemon.backtest.evaluate_result import Figures
from daemon.backtest.report.plots import COLOURS, GREY, SHARE_DIGITS, Plot, Tree, axis, dates, label, line
from daemon.backtest.report.series import significant
from daemon.backtest.tune_trial import FoldRun
from strategies.skill import LEVELS
from strategies.training.evaluate_scores import KINDS, Sample
from strategies.training.evaluate_stats import rank_correlation

TENTHS: Final = 10
DASHES: Final = dict(zip(KINDS, ("dot", "solid", "dash"), strict=True))
SAYS: Final = dict(zip(KINDS, ("as given", "split conformal", "adaptive"), strict=True))

Floats = NDArray[np.float64]


def plots(
    field: Field, judged: Sequence[Judged], figures: Sequence[Figures], held: Sequence[FoldRun]
) -> tuple[Plot, ...]:
    """Return the plots in the order of the page."""
    named = [(one.asked.name, found) for one, found in zip(judged, figures, strict=True)]
    return (
        gain_plot(field, named),
        ic_plot(field, named),
        coverage_plot(named),
        tenths_plot(named),
        folds_plot(named),
        money_plot(judged, held),
    )


def gain_plot(field: Field, named: Sequence[tuple[str, Figures]]) -> Plot:
    """Return how skill came about over time: Welch & Goyal, RFS 21 (2008), figure 1."""
    data: list[Tree] = []
    for at, (name, found) in enumerate(named):
        times, gained = _gained(field, found.sample)
        if len(times):
            data.append(line(times, gained, name, colour=_colour(at)))
    note = (
        "Squared errors of zero less the model's, added up, as a share of all squared returns: the last point is the skill. "
        "Rising: the model is better than zero then."
    )
    layout = {"xaxis": dates(), "yaxis": axis("Skill so far", tickformat=".2%")}
    return Plot("gain", "Where the skill came from", data, layout, note=note)


def ic_plot(field: Field, named: Sequence[tuple[str, Figures]]) -> Plot:
    """Return the information coefficients of all times, added up."""
    close_ns = field.ground.history.close_ns
    data: list[Tree] = []
    for at, (name, found) in enumerate(named):
        sample = found.sample
        if sample.mean.shape[0] < 2:
            continue
        by_time = rank_correlation(np.where(np.isfinite(sample.realised), sample.mean, np.nan).T, sample.realised.T)
        known = np.isfinite(by_time)
        if known.any():
            data.append(line(close_ns[sample.place[known]], np.cumsum(by_time[known]), name, colour=_colour(at)))
    note = "Rank correlation across pairs of forecast and return, added up over the bars." if data else (
        "No forecast that differs between pairs."
    )  # fmt: skip
    return Plot("ic", "Information coefficient", data, {"xaxis": dates(), "yaxis": axis("Sum of IC")}, note=note)


def coverage_plot(named: Sequence[tuple[str, Figures]]) -> Plot:
    """Return how much more, or less, intervals held than they promised."""
    promised = np.array(LEVELS)
    data: list[Tree] = []
    for at, (name, found) in enumerate(named):
        for kind in KINDS:
            shares = np.array([np.nan if one is None else one for one in getattr(found.overall, kind)])
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "name": label(f"{name}, {SAYS[kind]}"),
                    "x": promised.tolist(),
                    "y": significant(shares - promised, SHARE_DIGITS),
                    "line": {"color": _colour(at), "dash": DASHES[kind]},
                }
            )
    layout = {"xaxis": axis("Promised", tickformat=".0%"), "yaxis": axis("Held, less promised", tickformat=".0%")}
    return Plot("intervals", "Intervals", data, layout, half=True)


def tenths_plot(named: Sequence[tuple[str, Figures]]) -> Plot:
    """Return the mean return that came after forecasts sorted into tenths."""
    data: list[Tree] = []
    for at, (name, found) in enumerate(named):
        mean, realised = found.sample.mean.ravel(), found.sample.realised.ravel()
        known = np.isfinite(realised)
        mean, realised = mean[known], realised[known]
        if len(mean) < TENTHS or float(np.ptp(mean)) <= 0.0:
            continue
        parts = np.array_split(np.argsort(mean, kind="stable"), TENTHS)
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": label(name),
                "x": significant(np.array([float(mean[one].mean()) for one in parts]), SHARE_DIGITS),
                "y": significant(np.array([float(realised[one].mean()) for one in parts]), SHARE_DIGITS),
                "line": {"color": _colour(at)},
            }
        )
    layout = {"xaxis": axis("Forecast", tickformat=".2%"), "yaxis": axis("Return that came", tickformat=".2%")}
    note = "" if data else "No forecast that ever differs."
    return Plot("tenths", "Forecasts by tenths", data, layout, note=note, half=True)


def folds_plot(named: Sequence[tuple[str, Figures]]) -> Plot:
    """Return skill by window."""
    data: list[Tree] = [
        {
            "type": "bar",
            "name": label(name),
            "x": [f"Fold {number + 1}" for number in range(len(found.folds))],
            "y": significant(
                np.array([np.nan if one.skill is None else one.skill for one in found.folds]), SHARE_DIGITS
            ),
            "marker": {"color": _colour(at)},
        }
        for at, (name, found) in enumerate(named)
    ]
    layout = {"xaxis": {"type": "category"}, "yaxis": axis("Skill", tickformat=".2%"), "barmode": "group"}
    return Plot("skill", "Skill by window", data, layout, half=True)


def money_plot(judged: Sequence[Judged], held: Sequence[FoldRun]) -> Plot:
    """Return what one unit of money became over the test days."""
    curves = [(one.asked.name, daily_of(one.runs), _colour(at)) for at, one in enumerate(judged) if one.runs]
    if held:
        curves.append(("Buy and hold", daily_of(held), GREY))
    data: list[Tree] = []
    for name, daily, colour in curves:
        value = np.concatenate(([1.0], np.cumprod(1.0 + daily)))
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": label(name),
                "x": list(range(len(value))),
                "y": significant(value, SHARE_DIGITS),
                "line": {"color": colour, "width": 1.5},
            }
        )
    layout = {"xaxis": axis("Day of the test windows"), "yaxis": axis("Value of 1")}
    note = "Windows one after the other; each begins in cash." if data else "Nothing was decided."
    return Plot("money", "Decisions after costs", data, layout, note=note, half=True)


def _gained(field: Field, sample: Sample) -> tuple[NDArray[np.int64], Floats]:
    """Return times, and skill as it added up to them."""
    error = sample.realised - sample.mean
    known = np.isfinite(error)
    total = float(np.square(sample.realised[known]).sum())
    times = known.any(axis=0)
    if not total > 0.0:
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    better = np.where(known, np.square(sample.realised) - np.square(error), 0.0).sum(axis=0)
    gained: Floats = np.cumsum(better[times]) / total
    return field.ground.history.close_ns[sample.place[times]], gained


def _colour(at: int) -> str:
    return COLOURS[at % len(COLOURS)]
