"""Several runs side by side: figures with the best marked, what was set differently, and how much choosing among them proves."""

import json
from collections.abc import Mapping, Sequence
from functools import reduce
from math import sqrt
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from daemon.backtest.metrics import DAYS_PER_YEAR, drawdowns
from daemon.backtest.report.folder import Run, load_run, number
from daemon.backtest.report.grids import NONE, Grid, plain, written
from daemon.backtest.report.html import document, section, write_page
from daemon.backtest.report.plots import COLOURS, TALL, Plot, axis, dates, line
from daemon.backtest.report.series import daily, units
from daemon.backtest.report.summary import ACTIVITY, FORECAST, PERFORMANCE, PORTFOLIO
from daemon.backtest.stats.overfitting import BLOCKS, Overfitting, overfitting
from daemon.backtest.stats.sharpe import Evidence, evidence
from daemon.domain.errors import UsageError

RUNS_MAX: Final = 50
"""Runs compared at once; a table with more columns is read by nobody."""
BLOCK_DAYS_MIN: Final = 4
"""Days per block of the overfitting test, at least."""
BLOCKS_MIN: Final = 4
VALUE_CHARS_MAX: Final = 60
"""Of one differing parameter."""
SAME_MARGIN: Final = 1e-12


class Choice(NamedTuple):
    """What the days that all runs share say about choosing the best of them; without them ``note`` says why not."""

    days: int
    evidence: tuple[Evidence | None, ...]
    overfitting: Overfitting | None
    note: str


def load_runs(folders: Sequence[Path]) -> list[Run]:
    """Return the runs under names that differ. Raises UsageError and ConfigError as `load_run`."""
    if len(folders) > RUNS_MAX:
        raise UsageError(f"{len(folders)} runs: at most {RUNS_MAX} are compared at once")
    whole = [folder.resolve() for folder in folders]
    twice = next((folder for at, folder in enumerate(whole) if folder in whole[:at]), None)
    if twice is not None:
        raise UsageError(f"{twice}: named twice; a run compared with itself tells nothing")
    runs = [load_run(folder) for folder in folders]
    names = [run.name for run in runs]
    return [
        run._replace(name=run.name if names.count(run.name) == 1 else f"{run.folder.resolve().parent.name}/{run.name}")
        for run in runs
    ]


def choice(runs: Sequence[Run]) -> Choice:
    """Return the evidence over the days that all runs share."""
    nothing = tuple(None for _ in runs)
    every = [daily(run) for run in runs]
    shared = reduce(np.intersect1d, [one.times for one in every])
    table = np.stack([one.returns[np.isin(one.times, shared)] for one in every], axis=1)
    blocks = min(BLOCKS, len(shared) // BLOCK_DAYS_MIN // 2 * 2)
    if blocks < BLOCKS_MIN:
        need = BLOCKS_MIN * BLOCK_DAYS_MIN
        note = f"The runs share {len(shared)} days, fewer than {need}: nothing is said about choosing among them."
        return Choice(len(shared), nothing, None, note)
    found = tuple(evidence(table[:, at], trials=table) for at in range(len(runs)))
    return Choice(len(shared), found, overfitting(table, blocks=blocks), "")


def grids(runs: Sequence[Run], chosen: Choice) -> tuple[Grid, ...]:
    """Return the tables of the comparison."""
    return (_figures(runs, chosen), _choice_grid(chosen), _differences_grid(runs))


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Return every parameter in which the runs differ, by its dotted name, with each run's value; None where it has none."""
    flat = [_flat(_told(run)) for run in runs]
    names = sorted({name for one in flat for name in one})
    values = {name: [one.get(name) for one in flat] for name in names}
    return {name: each for name, each in values.items() if any(_text(one) != _text(each[0]) for one in each)}


def page(runs: Sequence[Run], chosen: Choice) -> str:
    """Return the page of several runs."""
    drawn = (_curves_plot(runs),)
    parts = [*(section(grid) for grid in grids(runs, chosen)), *(section(plot) for plot in drawn)]
    parts.insert(1, parts.pop())
    return document(f"Comparison of {len(runs)} runs", parts, drawn)


def write_comparison(runs: Sequence[Run], chosen: Choice, out: Path) -> Path:
    """Write the page of several runs and return where it is."""
    return write_page(page(runs, chosen), out)


def _figures(runs: Sequence[Run], chosen: Choice) -> Grid:
    """Return figures in rows and runs in columns; the best of each row is marked where one is better."""
    rows: list[tuple[str, ...]] = []
    marks: list[tuple[int, int]] = []

    def add(label: str, values: list[float], style: Any, better: int) -> None:
        marks.extend((len(rows), at + 1) for at in _best(values, better))
        rows.append((label, *(written(value, style) for value in values)))

    for one in (*PORTFOLIO, *ACTIVITY, *PERFORMANCE):
        add(one.label, [number(run.result.get(one.key)) for run in runs], one.style, one.better)
    for one in FORECAST:
        values = [number((run.result.get("forecast") or {}).get(one.key)) for run in runs]
        if np.isfinite(values).any():
            add(f"Forecast: {one.label}", values, one.style, one.better)
    if any(chosen.evidence):
        none = float("nan")
        add("Probabilistic Sharpe", [one.probabilistic if one else none for one in chosen.evidence], "percent", 1)
        add("Deflated Sharpe", [one.deflated if one else none for one in chosen.evidence], "percent", 1)
    spans = {(run.result["start"], run.result["end"], run.result.get("bar")) for run in runs}
    note = "The best of each row stands out." + (
        " The runs do not cover the same time with the same bars: their figures are of different markets."
        if len(spans) > 1
        else ""
    )
    columns = ("", *(plain(run.name) for run in runs))
    return Grid("figures", "Side by side", columns, tuple(rows), note=note, marks=tuple(marks))


def _choice_grid(chosen: Choice) -> Grid:
    title, columns = "Choosing the best of them", ("", "Value")
    found = chosen.overfitting
    if found is None:
        return Grid("choice", title, columns, (), note=chosen.note)
    known = next((one for one in chosen.evidence if one), None)
    year = sqrt(DAYS_PER_YEAR)
    rows = [
        ("Days that all runs share", written(chosen.days, "count")),
        ("Probability of backtest overfitting", written(found.probability, "percent")),
        ("The chosen run lost money where it was not chosen", written(found.loss, "percent")),
        ("Sharpe of the chosen run where it was chosen", written(found.chosen * year, "ratio")),
        ("Sharpe of the chosen run in the other half", written(found.judged * year, "ratio")),
        ("Runs, counted as independent", written(known.trials if known else None, "ratio")),
        (
            "Sharpe that the best of them shows by luck",
            written(known.sharpe_by_luck * year if known else None, "ratio"),
        ),
    ]
    note = (
        f"{found.ways:,} ways to choose half of {found.blocks} blocks of days: the best run of one half is judged in the other "
        "(Bailey, Borwein, López de Prado and Zhu 2017). Only the runs given here are counted: leaving out those that did badly "
        "makes every figure here look better than it is."
    )
    return Grid("choice", title, columns, tuple(rows), note=note)


def _differences_grid(runs: Sequence[Run]) -> Grid:
    found = differences(runs)
    rows = [(plain(name), *(_cut(_text(value)) for value in values)) for name, values in found.items()]
    note = "" if rows else "The runs have the same parameters, data and code."
    columns = ("Parameter", *(plain(run.name) for run in runs))
    return Grid("differences", "What differs", columns, tuple(rows), left=len(columns), note=note)


def _curves_plot(runs: Sequence[Run]) -> Plot:
    data = []
    for at, run in enumerate(runs):
        unit, colour = units(run), COLOURS[at % len(COLOURS)]
        more: dict[str, Any] = {"colour": colour, "legendgroup": str(at)}
        if at >= len(COLOURS):
            more["opacity"] = 0.5
        data.append(line(run.equity.times, unit, run.name, digits=7, **more))
        data.append(line(run.equity.times, drawdowns(unit), run.name, showlegend=False, yaxis="y2", **more))
    layout = {
        "xaxis": dates(anchor="y2"),
        "yaxis": axis("Value of 1 at the start", domain=[0.36, 1.0]),
        "yaxis2": axis("Drawdown", domain=[0.0, 0.30], tickformat=".0%"),
    }
    note = "Unit values: money paid in or out is taken out, and every run starts at 1."
    return Plot("curves", "Equity and drawdown", data, layout, TALL, note)


def _best(values: list[float], better: int) -> list[int]:
    """Return the places of the best values; none when nothing is better or all are the same."""
    known = np.asarray(values, dtype=np.float64) * better
    finite = np.isfinite(known)
    if not better or finite.sum() < 2 or float(np.ptp(known[finite])) <= SAME_MARGIN:
        return []
    return [int(at) for at in np.flatnonzero(finite & (known == known[finite].max()))]


def _told(run: Run) -> dict[str, Any]:
    result = run.result
    keys = ("start", "end", "bar", "symbols", "quote", "initial_equity", "data_hash", "code_version")
    return {**{key: result.get(key) for key in keys}, "params": result.get("params") or {}}


def _flat(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return nested objects as dotted names; parameters lose their own prefix and read as in the configuration."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        name = key if not before else f"{before}.{key}"
        if isinstance(value, dict):
            out |= _flat(value, "" if name == "params" else name)
        else:
            out[name] = value
    return out


def _text(value: object) -> str:
    return (
        NONE
        if value is None
        else value
        if isinstance(value, str)
        else json.dumps(value, ensure_ascii=False, sort_keys=True)
    )


def _cut(text: str) -> str:
    shown = plain(text)
    return shown if len(shown) <= VALUE_CHARS_MAX else shown[: VALUE_CHARS_MAX - 1] + "…"
