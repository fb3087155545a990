"""The plots of one run as plain plotly figures: data and layout, no colour scheme, the same inputs giving the same figures."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from daemon.backtest.metrics import drawdowns, rolling_sharpe
from daemon.backtest.report.columns import Array, Times
from daemon.backtest.report.folder import Curves, Run
from daemon.backtest.report.grids import plain
from daemon.backtest.report.series import (
    Daily,
    daily,
    every,
    fee_in_quote,
    milliseconds,
    significant,
    thin,
    units,
)
from daemon.backtest.report.summary import BENCHMARKS, profits

COLOURS: Final = (
    "#3b82f6", "#e8833a", "#2ca678", "#9a6dd7", "#e05260", "#17a2b8",
    "#c9a227", "#d6609a", "#7a9e3b", "#5b6ee1", "#b5714a", "#4aa3a2",
)  # fmt: skip
"""Of middle lightness: readable on white and on black."""
GREY: Final = "#8a8f98"
UP, DOWN = "#2ca678", "#e05260"
STACKED_MAX: Final = len(COLOURS)
"""Pairs with an area of their own; the others share one."""
BARS_MAX: Final = 60
"""Pairs with a bar of their own in the attribution."""
WINDOWS_DAYS: Final = (30, 90)
"""Windows of the rolling Sharpe ratio."""
MONEY_DIGITS: Final = 9
SHARE_DIGITS: Final = 5
HEIGHT: Final = 320
TALL: Final = 460

Tree = dict[str, Any]


class Plot(NamedTuple):
    """One plot: ``data`` and ``layout`` as plotly takes them, ``height`` in pixels. Without data, ``note`` says why."""

    key: str
    title: str
    data: Sequence[Tree]
    layout: Tree
    height: int = HEIGHT
    note: str = ""
    half: bool = False
    """Whether it may stand beside another one."""


def plots(run: Run) -> tuple[Plot, ...]:
    """Return the plots of the run itself, in the order of the page."""
    by_day = daily(run)
    return (
        equity_plot(run),
        rolling_plot(by_day),
        weights_plot(run),
        exposure_plot(run),
        costs_plot(run, by_day),
        attribution_plot(run),
    )


def line(
    times: Times, values: Array, name: str, *, colour: str = COLOURS[0], digits: int = SHARE_DIGITS, **more: Any
) -> Tree:
    """Return a line of at most ``POINTS_MAX`` points; ``name`` is shown as it is."""
    rows = thin(values)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": label(name),
        "x": milliseconds(times[rows]),
        "y": significant(values[rows], digits),
        "line": {"color": colour, "width": 1.5},
        **more,
    }


def label(text: str) -> str:
    """Return text for plotly, which reads tags and entities: none is left in it."""
    return plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def axis(title: str, **more: Any) -> Tree:
    """Return a value axis."""
    return {"title": {"text": label(title)}, "automargin": True, **more}


def dates(**more: Any) -> Tree:
    """Return a time axis; numbers are ms UTC."""
    return {"type": "date", "automargin": True, **more}


def equity_plot(run: Run) -> Plot:
    """Return equity against benchmarks, and the drawdowns below on the same time axis."""
    times = run.equity.times
    data = [line(times, run.equity.equity, "Run", digits=MONEY_DIGITS)]
    falls = [line(times, drawdowns(units(run)), "Run", showlegend=False, yaxis="y2", fill="tozeroy")]
    curves = run.benchmarks or Curves(times, (), np.empty((len(times), 0)))
    for at, name in enumerate(_ordered(curves.names)):
        shown, colour = BENCHMARKS.get(name, name), GREY if name == "cash" else COLOURS[1 + at % (len(COLOURS) - 1)]
        group: Tree = {"legendgroup": label(name)}
        value = curves.column(name)
        data.append(line(times, value, shown, colour=colour, digits=MONEY_DIGITS, **group))
        if name != "cash":
            falls.append(line(times, drawdowns(value), shown, colour=colour, showlegend=False, yaxis="y2", **group))
    layout = {
        "xaxis": dates(anchor="y2"),
        "yaxis": axis(f"Equity, {run.quote}", domain=[0.36, 1.0]),
        "yaxis2": axis("Drawdown", domain=[0.0, 0.30], tickformat=".0%"),
    }
    note = "" if run.benchmarks else "The folder holds no benchmarks.parquet: no lines to compare with."
    if bool(np.any(run.equity.flow[1:] != 0.0)):
        note += " Money was paid in or out: it is in the equity line, and taken out of drawdown and returns."
    return Plot("equity", "Equity and drawdown", data + falls, layout, TALL, note.strip())


def rolling_plot(by_day: Daily) -> Plot:
    """Return the Sharpe ratio of the last days."""
    windows = [window for window in WINDOWS_DAYS if len(by_day.returns) > window]
    data = [
        line(by_day.times, rolling_sharpe(by_day.returns, window), f"{window} days", colour=COLOURS[at])
        for at, window in enumerate(windows)
    ]
    note = (
        ""
        if data
        else f"The run has {len(by_day.returns)} days, no more than the shortest window of {WINDOWS_DAYS[0]}."
    )
    layout = {"xaxis": dates(), "yaxis": axis("Sharpe, a year", zeroline=True)}
    return Plot("rolling", "Rolling Sharpe ratio", data, layout, note=note)


def weights_plot(run: Run) -> Plot:
    """Return held weights as stacked areas, and below them what was aimed at."""
    if not len(run.held):
        return Plot("weights", "Weights over time", (), {}, note="No decision was made.")
    rows = every(len(run.held))
    mean = np.abs(run.held).mean(axis=0)
    order = np.lexsort((np.arange(len(mean)), -mean))
    alone, rest = order[:STACKED_MAX], order[STACKED_MAX:]
    times = run.weights.times[rows]
    at = np.searchsorted(run.decisions.times, times, side="right") - 1
    target = _filled(run.decisions.target)
    aims = target[np.maximum(at, 0)] if len(target) else np.zeros((len(rows), len(mean)))
    aims = np.where((at >= 0)[:, None], aims, 0.0)
    data: list[Tree] = []
    for group, values, place in (("held", run.held[rows], "y"), ("target", aims, "y2")):
        parts = [(run.pairs[i], values[:, i], COLOURS[n]) for n, i in enumerate(alone)]
        if len(rest):
            parts.append((f"{len(rest)} others", values[:, rest].sum(axis=1), GREY))
        for name, part, colour in parts:
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": label(name),
                    "legendgroup": label(name),
                    "showlegend": group == "held",
                    "stackgroup": group,
                    "x": milliseconds(times),
                    "y": significant(part, SHARE_DIGITS),
                    "yaxis": place,
                    "line": {"color": colour, "width": 0.5, "shape": "hv"},
                }
            )
    top = max(1.0, float(np.abs(run.held).sum(axis=1).max()))
    layout = {
        "xaxis": dates(anchor="y2"),
        "yaxis": axis("Held", domain=[0.54, 1.0], range=[0.0, top], tickformat=".0%"),
        "yaxis2": axis("Target", domain=[0.0, 0.46], range=[0.0, top], tickformat=".0%"),
    }
    note = "What is missing to 100 % is cash."
    if len(rows) < len(run.held):
        note += f" {len(rows):,} of {len(run.held):,} decisions are drawn."
    return Plot("weights", "Weights over time", data, layout, TALL, note)


def exposure_plot(run: Run) -> Plot:
    """Return gross exposure after each decision, and cash."""
    if not len(run.held):
        return Plot("exposure", "Gross exposure", (), {}, note="No decision was made.")
    gross = np.abs(run.held).sum(axis=1)
    times = run.weights.times
    steps: Tree = {"color": COLOURS[0], "width": 1.5, "shape": "hv"}
    data = [
        {**line(times, gross, "Gross exposure", fill="tozeroy"), "line": steps},
        {**line(times, run.weights.values[:, -1], "Cash"), "line": {**steps, "color": GREY}},
    ]
    return Plot(
        "exposure", "Gross exposure", data, {"xaxis": dates(), "yaxis": axis("Share of equity", tickformat=".0%")}
    )


def costs_plot(run: Run, by_day: Daily) -> Plot:
    """Return turnover by day (by week, month in long runs) as bars, and the fees paid so far as a line."""
    group = 1 if len(by_day.turnover) <= 400 else 7 if len(by_day.turnover) <= 2_800 else 30
    starts = np.arange(0, len(by_day.turnover), group)
    turnover = np.add.reduceat(by_day.turnover, starts) if len(starts) else np.zeros(0)
    fees, unknown = fee_in_quote(run)
    span = "day" if group == 1 else f"{group} days"
    data: list[Tree] = [
        {
            "type": "bar",
            "name": f"Turnover, {span}",
            "x": milliseconds(by_day.times[starts] - 86_400_000_000_000),
            "y": significant(turnover, SHARE_DIGITS),
            "marker": {"color": COLOURS[0]},
        }
    ]
    if len(fees):
        paid = line(run.fills.times, np.cumsum(fees), "Fees so far", colour=COLOURS[1], digits=MONEY_DIGITS, yaxis="y2")
        data.append({**paid, "line": {"color": COLOURS[1], "width": 1.5, "shape": "hv"}})
    layout = {
        "xaxis": dates(),
        "yaxis": axis("Turnover, share of equity", tickformat=".0%", rangemode="tozero"),
        "yaxis2": axis(f"Fees, {run.quote}", overlaying="y", side="right", rangemode="tozero", showgrid=False),
    }
    note = f"{unknown} fees in an asset without a price here are not in the line." if unknown else ""
    return Plot("costs", "Turnover and costs", data, layout, note=note)


def attribution_plot(run: Run) -> Plot:
    """Return profit and loss per pair, largest first."""
    title = "Return attribution per asset"
    profit = profits(run)
    known = np.flatnonzero(np.isfinite(profit))
    if not len(known):
        return Plot("attribution", title, (), {}, note="The folder holds no attribution.parquet.")
    order = known[np.lexsort((known, -profit[known]))]
    note = f"The pairs' sum is {float(profit[known].sum()):,.2f} {plain(run.quote)}, fees included."
    if len(order) > BARS_MAX:
        large = set(known[np.argsort(-np.abs(profit[known]), kind="stable")[:BARS_MAX]].tolist())
        note += f" The {BARS_MAX} largest of {len(order)} are drawn."
        order = np.asarray([i for i in order if int(i) in large])
    upward = order[::-1]  # plotly draws horizontal bars from below
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": "Profit and loss",
            "showlegend": False,
            "x": significant(profit[upward], MONEY_DIGITS),
            "y": [label(run.pairs[i]) for i in upward],
            "marker": {"color": [UP if profit[i] >= 0.0 else DOWN for i in upward]},
        }
    ]
    layout = {
        "xaxis": axis(f"Profit and loss, {run.quote}"),
        "yaxis": {"type": "category", "automargin": True, "dtick": 1},
    }
    return Plot("attribution", title, data, layout, 140 + 18 * len(order), note)


def _ordered(names: Sequence[str]) -> list[str]:
    return [*(key for key in BENCHMARKS if key in names), *sorted(key for key in names if key not in BENCHMARKS)]


def _filled(matrix: Array) -> Array:
    """Return the rows with what is missing taken from the row before; 0 before the first."""
    out = matrix.copy()
    for at in range(len(out)):
        before = out[at - 1] if at else np.zeros(out.shape[1])
        out[at] = np.where(np.isfinite(out[at]), out[at], before)
    return out
