"""What could happen to the portfolio: the worst that did happen in the run, and shocks that did not.

Shocks are applied at once, to the weights as they are, without a single order: no stop, no cut, no cost. They say how exposed
the portfolio is, not what the daemon would lose.
"""

import math
from typing import Final, NamedTuple

import numpy as np

from daemon.backtest.metrics import DAY_NS
from daemon.backtest.report.columns import Array
from daemon.backtest.report.folder import Run
from daemon.backtest.report.grids import Grid, plain, written
from daemon.backtest.report.series import benchmark_units, daily, day
from daemon.backtest.stress_shocks import DROPS, LEADER, LEADER_DROP, SIGMAS, change, flat, signed, wild_day
from daemon.domain.errors import ConfigError
from daemon.settings_values import bar_ns

WEEK: Final = 7
WORST: Final = 5
"""Worst days and weeks shown."""
RETURNS_MIN: Final = 30
"""Fewer observed returns tell no beta and no deviation."""


class Period(NamedTuple):
    """A stretch of days that went badly: first and last day (ns UTC at its end), and the simple return over it."""

    first_ns: int
    last_ns: int
    change: float
    market: float
    """Of the equal-weight portfolio over the same days; NaN when the folder has none."""
    exposure: float
    """Gross weight in pairs when it began."""


class Estimates(NamedTuple):
    """What the run's own returns say about the pairs, each (n_pairs,), NaN where too little was seen."""

    beta: Array
    """Of each pair to the leader."""
    deviation: Array
    """Standard deviation of a day's return."""
    covariance: Array
    """(n_pairs, n_pairs) of a day's returns."""
    returns: int
    """Observed returns, over the forecast horizon; they overlap when decisions are closer than it."""
    leader: str
    """The leading pair, empty when the run does not hold it."""


class Shock(NamedTuple):
    """One shock: the change of the whole portfolio with each set of weights, shares of equity, NaN where it is unknown."""

    name: str
    last: float
    fullest: float


class Stress(NamedTuple):
    """Everything the stress table says."""

    days: tuple[Period, ...]
    weeks: tuple[Period, ...]
    shocks: tuple[Shock, ...]
    fullest_ns: int
    """When gross exposure was highest, ns UTC; 0 without a decision."""
    assumptions: tuple[str, ...]


def stress(run: Run) -> Stress:
    """Return the worst days and weeks of a run and what hypothetical shocks would do to it."""
    held = run.held
    at = int(np.argmax(np.abs(held).sum(axis=1))) if len(held) else -1
    none = np.zeros(len(run.pairs))
    last, fullest = (held[-1], held[at]) if len(held) else (none, none)
    known = estimates(run)
    shocks = [Shock(f"Every asset {signed(drop)}", flat(last, drop), flat(fullest, drop)) for drop in DROPS]
    if known.leader:
        moves = known.beta * LEADER_DROP
        name = f"{LEADER} {signed(LEADER_DROP)}, others by their beta"
        shocks.append(Shock(name, change(last, moves), change(fullest, moves)))
    shocks += [
        Shock(
            f"A day of {SIGMAS:g} standard deviations, correlations as measured",
            wild_day(last, known.covariance),
            wild_day(fullest, known.covariance),
        ),
        Shock(
            f"The same with every correlation at one: all fall by {SIGMAS:g} of their own",
            change(last, -SIGMAS * known.deviation),
            change(fullest, -SIGMAS * known.deviation),
        ),
    ]
    return Stress(
        days=worst(run, 1),
        weeks=worst(run, WEEK),
        shocks=tuple(shocks),
        fullest_ns=int(run.weights.times[at]) if at >= 0 else 0,
        assumptions=tuple(_assumptions(run, known)),
    )


def worst(run: Run, length: int) -> tuple[Period, ...]:
    """Return the worst stretches of ``length`` days that do not overlap, worst first; losses only.

    A stretch that would overlap a worse one is left out, so one bad day is told once.
    """
    by_day = daily(run)
    n = len(by_day.returns)
    if n < length:
        return ()
    growth = np.concatenate([[1.0], np.cumprod(1.0 + by_day.returns)])
    start, end = growth[:-length], growth[length:]
    changes = np.divide(end, start, out=np.ones(len(start)), where=start > 0.0) - 1.0
    taken = np.zeros(n, dtype=bool)
    found: list[Period] = []
    for at in np.argsort(changes, kind="stable"):
        first, last = int(at), int(at) + length
        if len(found) == WORST or changes[at] >= 0.0:
            break
        if taken[first:last].any():
            continue
        taken[first:last] = True
        begin_ns, end_ns = int(by_day.times[first]) - DAY_NS, int(by_day.times[last - 1])
        found.append(
            Period(
                first_ns=begin_ns,
                last_ns=end_ns,
                change=float(changes[at]),
                market=_market(run, begin_ns, end_ns),
                exposure=_exposure(run, begin_ns),
            )
        )
    return tuple(found)


def estimates(run: Run) -> Estimates:
    """Return betas and deviations from the returns that followed the run's decisions (``realised:<PAIR>``)."""
    n = len(run.pairs)
    returns = run.decisions.realised
    whole = returns[np.isfinite(returns).all(axis=1)]
    leader = next((pair for pair in run.pairs if pair.partition("/")[0] == LEADER), "")
    nothing = np.full(n, np.nan)
    if len(whole) < RETURNS_MIN:
        return Estimates(nothing, nothing, np.full((n, n), np.nan), len(whole), leader)
    covariance = np.atleast_2d(np.cov(whole, rowvar=False))
    beta = nothing
    if leader and covariance[(at := run.pairs.index(leader), at)] > 0.0:
        beta = covariance[:, at] / covariance[at, at]
    days = _horizon_days(run)
    daily_covariance = covariance / days if days > 0.0 else np.full((n, n), np.nan)
    return Estimates(beta, np.sqrt(np.diag(daily_covariance)), daily_covariance, len(whole), leader)


def grids(run: Run) -> tuple[Grid, ...]:
    """Return the stress tables."""
    found = stress(run)
    fullest = f"At its fullest, {day(found.fullest_ns)}" if found.fullest_ns else "At its fullest"
    shocks = [(one.name, written(one.last, "percent"), written(one.fullest, "percent")) for one in found.shocks]
    return (
        Grid(
            "shocks",
            "Hypothetical shocks",
            ("Shock", "Weights at the end", fullest),
            tuple(shocks),
            note=" ".join(found.assumptions),
        ),
        _periods("worst-days", "Worst days", found.days),
        _periods("worst-weeks", "Worst weeks", found.weeks),
    )


def _periods(key: str, title: str, periods: tuple[Period, ...]) -> Grid:
    rows = [
        (
            day(one.first_ns)
            if one.last_ns - one.first_ns == DAY_NS
            else f"{day(one.first_ns)} to {day(one.last_ns - 1)}",
            written(one.change, "percent"),
            written(one.market, "percent"),
            written(one.exposure, "percent"),
        )
        for one in periods
    ]
    columns = ("UTC", "Run", "Equal weight", "Gross exposure before")
    note = "" if rows else "None lost anything."
    return Grid(key, title, columns, tuple(rows), note=note)


def _assumptions(run: Run, known: Estimates) -> list[str]:
    said = ["Shocks strike at once, on the weights as they were: no stop, no cut, no cost, and cash keeps its value."]
    if known.returns < RETURNS_MIN:
        said.append(
            f"The run tells {known.returns} returns in which every pair has one, fewer than {RETURNS_MIN}: "
            "betas and deviations are not estimated."
        )
        return said
    span = f"{known.returns:,} returns over the forecast horizon"
    if known.leader:
        said.append(f"Betas to {plain(known.leader)} from {span} that followed the run's decisions; they may overlap.")
    else:
        said.append(f"The run holds no {LEADER}: no shock by beta.")
    if math.isfinite(_horizon_days(run)):
        said.append("A day's deviation is that of the horizon divided by the root of its days.")
    else:
        said.append("The horizon is not in the run's parameters: no shocks in deviations.")
    return said


def _horizon_days(run: Run) -> float:
    """Return the forecast horizon in days from the run's parameters, NaN when they do not hold it."""
    params = run.result.get("params") or {}
    forecast = params.get("forecast")
    bars = forecast.get("horizon_bars") if isinstance(forecast, dict) else None
    name = run.result.get("bar")
    if not isinstance(bars, int) or bars <= 0 or not isinstance(name, str):
        return math.nan
    try:
        return bars * bar_ns(name) / DAY_NS
    except (ConfigError, ValueError, KeyError):
        return math.nan


def _market(run: Run, first_ns: int, last_ns: int) -> float:
    unit = benchmark_units(run).get("equal_weight")
    if unit is None:
        return math.nan
    first, last = np.maximum(np.searchsorted(run.equity.times, [first_ns, last_ns], side="right") - 1, 0)
    return float(unit[last] / unit[first] - 1.0)


def _exposure(run: Run, at_ns: int) -> float:
    row = int(np.searchsorted(run.weights.times, at_ns, side="right")) - 1
    return float(np.abs(run.held[row]).sum()) if row >= 0 else 0.0
