"""`ballast stress` as one page: the tables of the terminal, and plots, in a file that needs no network."""

from pathlib import Path
from typing import Any, Final

import numpy as np

from daemon.backtest.report.grids import plain
from daemon.backtest.report.html import Section, document, section, write_page
from daemon.backtest.report.plots import COLOURS, DOWN, GREY, HEIGHT, SHARE_DIGITS, UP, Plot, axis, label
from daemon.backtest.report.series import significant, thin
from daemon.backtest.stress import Stressed
from daemon.backtest.stress_show import grids

HOUR_NS: Final = 3_600_000_000_000
DAY_HOURS: Final = 24.0

Tree = dict[str, Any]


def write_stress(found: Stressed, out: Path) -> Path:
    """Write the page to ``out`` and return where it is. Raises ConfigError when it cannot be written."""
    return write_page(page(found), out)


def page(found: Stressed) -> str:
    """Return the page; the same figures give the same bytes."""
    tables = {grid.key: grid for grid in grids(found)}
    drawn = (shocks_plot(found), replays_plot(found), shares_plot(found), fan_plot(found))
    plots = {plot.key: section(plot) for plot in drawn}
    parts: list[Section] = [
        section(tables["held"]),
        plots["shares"],
        section(tables["risk"]),
        plots["shocks"],
        section(tables["historical"]),
        plots["replays"],
        *(section(tables[key]) for key in ("hypothetical", "tails", "liquidity", "bootstrap")),
        plots["fan"],
    ]
    return document(f"Stress of {plain(found.portfolio.origin)}", parts, drawn)


def shocks_plot(found: Stressed) -> Plot:
    """Return every shock as a bar, in the order of the tables, the first on top."""
    bars = [(f"{one.episode.key} {one.episode.name}", one.worst) for one in found.replays if not one.why]
    bars += [(one.name, one.change) for one in found.scenarios]
    upward = bars[::-1]  # plotly draws horizontal bars from below
    data: Tree = {
        "type": "bar",
        "orientation": "h",
        "name": "Change",
        "showlegend": False,
        "x": significant(np.array([value for _, value in upward]), SHARE_DIGITS),
        "y": [label(name) for name, _ in upward],
        "marker": {"color": [UP if value >= 0.0 else DOWN for _, value in upward]},
    }
    layout = {
        "xaxis": axis("Change of equity", tickformat=".0%"),
        "yaxis": {"type": "category", "automargin": True, "dtick": 1},
        "hovermode": "closest",
    }
    return Plot("shocks", "All shocks", [data], layout, 140 + 20 * len(bars), "Historical shocks at their worst point.")


def replays_plot(found: Stressed) -> Plot:
    """Return the portfolio's way through every episode, by days since its beginning."""
    data: list[Tree] = []
    for at, one in enumerate(found.replays):
        if one.why:
            continue
        rows = thin(one.path)
        hours = (one.times[rows] - one.times[0]) / HOUR_NS
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": label(one.episode.key),
                "x": significant(hours / DAY_HOURS, SHARE_DIGITS),
                "y": significant(one.path[rows] - 1.0, SHARE_DIGITS),
                "line": {"color": COLOURS[at % len(COLOURS)], "width": 1.5},
            }
        )
    layout = {"xaxis": axis("Days since it began"), "yaxis": axis("Change of equity", tickformat=".0%")}
    note = "" if data else "The data folder holds none of the episodes."
    return Plot("replays", "Through the historical shocks", data, layout, HEIGHT, note)


def shares_plot(found: Stressed) -> Plot:
    """Return each position's share of equity beside its share of the risk, largest first."""
    order = [at for at in np.argsort(-found.weights, kind="stable").tolist() if found.weights[at] > 0.0][:40]
    names = [label(found.pairs[at]) for at in order]
    data: list[Tree] = [
        {
            "type": "bar",
            "name": name,
            "x": names,
            "y": significant(values[order], SHARE_DIGITS),
            "marker": {"color": colour},
        }
        for name, values, colour in (
            ("Weight", found.weights, GREY),
            ("Share of risk", found.now.shares, COLOURS[1]),
        )
    ]
    layout = {
        "barmode": "group",
        "xaxis": {"type": "category", "automargin": True},
        "yaxis": axis("Share", tickformat=".0%"),
    }
    note = "" if order else "Nothing is held."
    return Plot("shares", "Weight and risk", data if order else (), layout, HEIGHT, note)


def fan_plot(found: Stressed) -> Plot:
    """Return the quantiles of the drawn paths."""
    paths = found.paths
    days = list(range(paths.days + 1))
    data: list[Tree] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"{quantile:.0%}",
            "x": days,
            "y": significant(np.array(row) - 1.0, SHARE_DIGITS),
            "line": {"color": COLOURS[0] if quantile == 0.5 else GREY, "width": 2.0 if quantile == 0.5 else 1.0},
        }
        for quantile, row in zip(paths.quantiles, paths.fan, strict=True)
    ]
    layout = {"xaxis": axis("Days"), "yaxis": axis("Change of equity", tickformat=".0%")}
    return Plot(
        "fan", "Paths drawn in blocks", data, layout, HEIGHT, "Lines below which the given share of the paths lies."
    )
