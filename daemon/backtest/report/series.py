"""What the plots and tables are drawn from: a run's curves by row and by day, and fewer points of them."""

import math
from typing import Final, NamedTuple

import numpy as np

from daemon.backtest.metrics import (
    DAY_NS,
    daily_returns,
    daily_turnover,
    drawdowns,
    unit_values,
)
from daemon.backtest.report.columns import Array, Times
from daemon.backtest.report.folder import Run

POINTS_MAX: Final = 2_000
"""Points kept of one line; a screen is narrower."""
ROWS_MAX: Final = 500
"""Rows kept of the stacked weights, in which every row repeats for each pair."""


class Daily(NamedTuple):
    """A run by UTC day: ``times`` (d,) ns UTC at which the day ended; returns are simple and free of flows."""

    times: Times
    returns: Array
    turnover: Array


class Drawdown(NamedTuple):
    """The deepest fall of a curve: its share (<= 0), and when the top and the bottom were (ns UTC)."""

    depth: float
    top_ns: int
    bottom_ns: int


def daily(run: Run) -> Daily:
    """Return the run by day."""
    equity, decisions = run.equity, run.decisions
    days, returns = daily_returns(equity.times, equity.equity, equity.flow)
    turnover = np.nan_to_num(decisions.turnover)
    turned = daily_turnover(equity.times, decisions.times, turnover) if len(turnover) else np.zeros(len(returns))
    return Daily((days + 1) * DAY_NS, returns, turned)


def units(run: Run) -> Array:
    """Return (n,) the run's unit value, 1 in the first row, flows taken out."""
    return unit_values(run.equity.times, run.equity.equity, run.equity.flow)


def benchmark_units(run: Run) -> dict[str, Array]:
    """Return (n,) unit values of every benchmark whose curve the folder holds."""
    if run.benchmarks is None:
        return {}
    curves = run.benchmarks
    return {name: curves.values[:, at] / curves.values[0, at] for at, name in enumerate(curves.names)}


def deepest(times: Times, unit: Array) -> Drawdown:
    """Return the deepest drawdown with its dates."""
    fall = drawdowns(unit)
    bottom = int(np.argmin(fall))
    top = int(np.argmax(unit[: bottom + 1]))
    return Drawdown(float(fall[bottom]), int(times[top]), int(times[bottom]))


def thin(values: Array, points_max: int = POINTS_MAX) -> Times:
    """Return the rows of a line worth drawing: the lowest and highest of each bucket, the first and the last, in order.

    No extreme is lost, so a drawn drawdown is as deep as the real one; rows without a number are left out unless there
    is no other. The same values give the same rows.
    """
    n = len(values)
    if n <= points_max:
        return np.arange(n, dtype=np.int64)
    edges = np.linspace(0, n, max(points_max // 2 - 1, 1) + 1).astype(np.int64)
    starts = edges[:-1]
    low, high = np.where(np.isnan(values), np.inf, values), np.where(np.isnan(values), -np.inf, values)
    picked = [0, n - 1]
    for first, last in zip(starts, edges[1:], strict=True):
        picked.append(int(first) + int(np.argmin(low[first:last])))
        picked.append(int(first) + int(np.argmax(high[first:last])))
    return np.unique(np.asarray(picked, dtype=np.int64))


def every(n: int, rows_max: int = ROWS_MAX) -> Times:
    """Return at most ``rows_max`` row numbers out of n at even steps, first and last included."""
    if n <= rows_max:
        return np.arange(n, dtype=np.int64)
    return np.unique(np.linspace(0, n - 1, rows_max).round().astype(np.int64))


def fee_in_quote(run: Run) -> tuple[Array, int]:
    """Return (n_fills,) fees in quote currency, and how many were paid in an asset whose price the fill does not tell.

    Those count as 0. A fee in the pair's own base asset is worth what the fill paid for it.
    """
    fills = run.fills
    pairs, pair = fills.pair.coded()
    assets, asset = fills.fee_asset.coded()
    bases = np.array([name.partition("/")[0] for name in pairs], dtype=object)
    in_quote = np.array([name == run.quote for name in assets], dtype=bool)[asset]
    in_base = np.asarray(np.array(assets, dtype=object)[asset] == bases[pair], dtype=bool)
    out: Array = np.where(in_quote, fills.fee, np.where(in_base, fills.fee * fills.price, 0.0))
    return out, int((~in_quote & ~in_base & (fills.fee != 0.0)).sum())


def significant(values: Array, digits: int) -> list[float | None]:
    """Return numbers rounded to so many significant digits; None for what is not finite."""
    return [float(f"{one:.{digits}g}") if math.isfinite(one) else None for one in values.tolist()]


def milliseconds(times: Times) -> list[int]:
    """Return times as ms UTC, which the plots take as dates."""
    out: list[int] = (times // 1_000_000).tolist()
    return out


def day(time_ns: int) -> str:
    """Return a time as a day, ``2024-05-11``."""
    return str(np.datetime64(time_ns, "ns").astype("datetime64[D]"))


def minute(time_ns: int) -> str:
    """Return a time to the minute, ``2024-05-11 06:00``."""
    return str(np.datetime64(time_ns, "ns").astype("datetime64[m]")).replace("T", " ")
