"""How far a run can be believed: evidence behind its Sharpe ratio, how else it could have gone, forecasts and what came."""

from math import sqrt
from typing import Final, NamedTuple

import msgspec
import numpy as np

from daemon.backtest.metrics import DAY_NS, DAYS_PER_YEAR
from daemon.backtest.report.columns import Array
from daemon.backtest.report.folder import Run
from daemon.backtest.report.grids import Grid, Style, written
from daemon.backtest.report.plots import COLOURS, GREY, Plot, axis, dates, line
from daemon.backtest.report.series import Daily, daily, every, milliseconds, significant
from daemon.backtest.stats.bootstrap import Interval, Intervals, Paths, intervals, paths
from daemon.backtest.stats.forecast import Coverage
from daemon.backtest.stats.sharpe import Evidence, deflated_sharpe, evidence, moments
from daemon.domain.errors import ConfigError

SEED: Final = 20_240_511
"""Of the resampling: fixed, so the same run gives the same page."""
DAYS_MIN: Final = 20
"""Fewer daily returns are not resampled: an interval from them would be a pretence."""
TRIES: Final = (1, 10, 100, 1_000)
"""Numbers of tries for which a single run's Sharpe ratio is deflated."""
GROUPS: Final = 10
PER_GROUP_MIN: Final = 10
"""Forecasts per group, at least."""
FAN_ROWS_MAX: Final = 400


class Trust(NamedTuple):
    """What the statistics say about one run; None where the run is too short or does not vary."""

    evidence: Evidence | None
    deflated: tuple[tuple[int, float], ...]
    """(tries, probability) for `TRIES`."""
    intervals: Intervals | None
    paths: Paths | None


class Groups(NamedTuple):
    """Forecasts sorted and cut into equal groups, lowest first; each (n_groups,), returns over the horizon."""

    forecast: Array
    realised: Array
    error: Array
    """Standard error of ``realised``, as if forecasts were independent."""
    n: int


def trust(run: Run) -> Trust:
    """Return the statistics of a run."""
    returns = daily(run).returns
    sample = moments(returns) if len(returns) >= 2 else None
    deflated: tuple[tuple[int, float], ...] = ()
    if sample is not None:
        error = sample.spread / sqrt(sample.n - 1)
        deflated = tuple((tries, deflated_sharpe(sample, deviation=error, trials=tries)) for tries in TRIES)
    enough = len(returns) >= DAYS_MIN
    return Trust(
        evidence=evidence(returns) if sample is not None else None,
        deflated=deflated,
        intervals=intervals(returns, np.random.default_rng(SEED)) if enough else None,
        paths=paths(returns, np.random.default_rng(SEED)) if enough else None,
    )


def grids(known: Trust) -> tuple[Grid, ...]:
    """Return the tables of the statistics."""
    return (_evidence_grid(known), _intervals_grid(known))


def plots(run: Run, known: Trust) -> tuple[Plot, ...]:
    """Return the Monte-Carlo fan, the coverage of the intervals and the forecasts by group."""
    return (fan_plot(daily(run), known.paths), coverage_plot(run), groups_plot(groups(run)))


def groups(run: Run) -> Groups | None:
    """Return the raw forecasts (before shrinkage, which may make them all zero) in ten groups with what followed."""
    asked, came = run.decisions.raw_mean, run.decisions.realised
    known = np.isfinite(asked) & np.isfinite(came)
    forecast, truth = asked[known], came[known]
    if len(forecast) < GROUPS * PER_GROUP_MIN or float(np.ptp(forecast)) == 0.0:
        return None
    order = np.argsort(forecast, kind="stable")
    parts = np.array_split(order, GROUPS)
    return Groups(
        forecast=np.array([forecast[part].mean() for part in parts]),
        realised=np.array([truth[part].mean() for part in parts]),
        error=np.array([truth[part].std(ddof=1) / sqrt(len(part)) for part in parts]),
        n=len(forecast),
    )


def calibration(run: Run) -> tuple[Coverage, ...]:
    """Return the coverage of each nominal level from ``result.json``, empty without one.

    Raises
    ------
    ConfigError
        It is there in another form.
    """
    told = (run.result.get("forecast") or {}).get("calibration") or ()
    try:
        return msgspec.convert(told, tuple[Coverage, ...])
    except msgspec.ValidationError as error:
        where = run.folder / "result.json"
        raise ConfigError(f"{where}: forecast.calibration is not what this version reads: {error}") from None


def fan_plot(by_day: Daily, known: Paths | None) -> Plot:
    """Return quantiles of resampled paths with the run's own path through them."""
    title = "Monte-Carlo of paths"
    if known is None:
        return Plot("fan", title, (), {}, note=f"Fewer than {DAYS_MIN} daily returns: nothing is resampled.")
    rows = every(known.days + 1, FAN_ROWS_MAX)
    times = np.concatenate([by_day.times[:1] - DAY_NS, by_day.times])[rows]
    data = []
    pairs = ((0, 4, "rgba(59,130,246,0.15)"), (1, 3, "rgba(59,130,246,0.25)"))
    for low, high, colour in pairs:
        for at, fill in ((low, None), (high, "tonexty")):
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": f"{known.quantiles[at]:.0%} of the paths end below",
                    "showlegend": False,
                    "x": milliseconds(times),
                    "y": significant(np.asarray(known.fan[at])[rows], 6),
                    "line": {"width": 0.5, "color": colour},
                    **({"fill": fill, "fillcolor": colour} if fill else {}),
                }
            )
    data.append(line(times, np.asarray(known.fan[2])[rows], "Median", colour=GREY))
    own = np.concatenate([[1.0], np.cumprod(1.0 + by_day.returns)])
    data.append(line(times, own[rows], "Run"))
    note = (
        f"{known.paths:,} paths of the run's own days, drawn in blocks of {known.block_days:.1f} days on average "
        f"(stationary bootstrap, seed {SEED}). The bands hold half and nine tenths of them. "
        f"{100 * known.loss:.0f} % end with a loss, "
        f"{100 * known.worse_drawdown:.0f} % fall deeper than the run did."
    )
    layout = {"xaxis": dates(), "yaxis": axis("Value of 1 at the start")}
    return Plot("fan", title, data, layout, note=note)


def coverage_plot(run: Run) -> Plot:
    """Return how often the truth fell into intervals that promised a share, as ``result.json`` counted it."""
    title = "Forecast calibration: coverage"
    known = calibration(run)
    if not known:
        return Plot("coverage", title, (), {}, note="No forecast gave an interval.", half=True)
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "As promised",
            "x": [0.4, 1.0],
            "y": [0.4, 1.0],
            "line": {"color": GREY, "dash": "dot", "width": 1},
        },
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": "Measured",
            "x": [one.nominal for one in known],
            "y": significant(np.array([one.empirical for one in known]), 5),
            "line": {"color": COLOURS[0]},
        },
    ]
    layout = {
        "xaxis": axis("Nominal coverage", tickformat=".0%", range=[0.4, 1.0]),
        "yaxis": axis("Empirical coverage", tickformat=".0%"),
    }
    note = (
        f"{known[0].n:,} intervals. The forecast gives the 90 % interval; "
        "the other levels are scaled from it as for a normal distribution."
    )
    return Plot("coverage", title, data, layout, note=note, half=True)


def groups_plot(known: Groups | None) -> Plot:
    """Return the mean forecast of each tenth beside what followed."""
    title = "Forecast calibration: tenths"
    if known is None:
        note = f"Fewer than {GROUPS * PER_GROUP_MIN} forecasts that differ have a known outcome."
        return Plot("tenths", title, (), {}, note=note, half=True)
    names = list(range(1, GROUPS + 1))
    data = [
        {
            "type": "bar",
            "name": "Forecast",
            "x": names,
            "y": significant(known.forecast, 5),
            "marker": {"color": GREY},
        },
        {
            "type": "bar",
            "name": "Realised",
            "x": names,
            "y": significant(known.realised, 5),
            "marker": {"color": COLOURS[0]},
            "error_y": {"type": "data", "array": significant(known.error, 5), "thickness": 1, "color": GREY},
        },
    ]
    layout = {
        "xaxis": axis("Tenth of the forecasts, lowest first", dtick=1),
        "yaxis": axis("Return over the horizon", tickformat=".2%"),
    }
    note = (
        f"{known.n:,} forecasts before shrinkage. The bars with whiskers are means with one standard error, "
        "which is too small where horizons overlap."
    )
    return Plot("tenths", title, data, layout, note=note, half=True)


def _evidence_grid(known: Trust) -> Grid:
    title, columns = "Evidence behind the Sharpe ratio", ("", "Value")
    found = known.evidence
    if found is None:
        return Grid(
            "evidence", title, columns, (), note="The daily returns do not vary or are too few: no Sharpe ratio."
        )
    years = found.periods_needed / DAYS_PER_YEAR if found.periods_needed is not None else None
    rows = [
        ("Daily returns", written(found.n, "count")),
        ("Sharpe, a year", written(found.sharpe * sqrt(DAYS_PER_YEAR), "ratio")),
        ("Skew of daily returns", written(found.skew, "ratio")),
        ("Kurtosis of daily returns (3 is normal)", written(found.kurtosis, "ratio")),
        ("Probabilistic Sharpe: the true one is above 0", written(found.probabilistic, "percent")),
        ("Years needed to be 95 % sure of that", written(years, "ratio")),
    ]
    rows += [
        (f"Deflated Sharpe, were this the best of {tries:,} tries", written(value, "percent"))
        for tries, value in known.deflated[1:]
    ]
    note = (
        "Bailey and López de Prado 2012 and 2014. A single run does not know how many were tried before it, so the "
        "deflated ratios suppose tries without skill whose Sharpe ratios differ by the error of this one; a tuning study "
        "counts its own."
    )
    return Grid("evidence", title, columns, tuple(rows), note=note)


def _intervals_grid(known: Trust) -> Grid:
    title, columns = "Bootstrap intervals", ("", "Run", "Low", "High")
    found = known.intervals
    if found is None:
        return Grid("intervals", title, columns, (), note=f"Fewer than {DAYS_MIN} daily returns: nothing is resampled.")

    def row(name: str, one: Interval | None, *, ratio: bool = False) -> tuple[str, ...]:
        style: Style = "ratio" if ratio else "percent"
        values = (one.point, one.low, one.high) if one else (None, None, None)
        return (name, *(written(value, style) for value in values))

    rows = (
        row("Sharpe", found.sharpe, ratio=True),
        row("CAGR", found.cagr),
        row("Max drawdown of daily values", found.max_drawdown),
    )
    note = (
        f"{100 * found.cagr.level:.0f} % of {found.resamples:,} resamples of {found.days} days lie between low and high; "
        f"blocks of {found.block_days:.1f} days on average."
    )
    return Grid("intervals", title, columns, rows, note=note)
