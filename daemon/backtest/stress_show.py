"""What `ballast stress` found, as tables, and as one JSON document."""

import math
from typing import Any, Final

import msgspec
import numpy as np
from numpy import float64
from numpy.typing import NDArray

from daemon.backtest.report.grids import NONE, Grid, plain, written
from daemon.backtest.report.series import minute
from daemon.backtest.stress import Exit, Scenario, Stressed
from daemon.backtest.stress_history import Replay
from daemon.backtest.stress_market import DAY_NS, VOLUME_DAYS
from daemon.outlets.times import jsonable
from risk.portfolio import LEVEL, exit_cost

SCHEMA: Final = 1
PAIRS_SHOWN: Final = 40
"""Rows of the table of positions; the document has all."""

Floats = NDArray[float64]
Tree = dict[str, Any]


def grids(found: Stressed) -> tuple[Grid, ...]:
    """Return the tables, in the order of the terminal and of the page."""
    return (_held(found), _now(found), _replays(found), _scenarios(found), _wild(found), _exits(found), _paths(found))


def assumptions(found: Stressed) -> list[str]:
    """Return what the figures rest on, one sentence each."""
    known, leader = found.known, found.pairs[found.leader]
    span = f"{_day(known.first_day)} to {_day(known.last_day)}"
    said = [
        "Shocks strike the portfolio as it is: no stop, no cut, no order on the way, and cash keeps its value unless it is said.",
        f"Estimates: {len(known.rows)} days that all pairs share, {span}; betas to {leader}.",
        *_valuation(found),
    ]
    missing = [f"{pair}: {why}" for pair, why in known.stand_ins.items() if _weight(found, pair)]
    if missing:
        said.append("Stand-ins, whose own risk is not in these figures: " + "; ".join(missing) + ".")
    return [plain_long(one) for one in said]


def _valuation(found: Stressed) -> list[str]:
    """Return when the prices are of that were taken from candles; those older than the newest one pair by pair."""
    priced = {found.pairs.index(pair): pair for pair in found.portfolio.by_candles}
    if not priced:
        return []
    times = {pair: int(found.market.priced_ns[at]) for at, pair in priced.items()}
    newest = max(times.values())
    old = [f"{pair} {minute(one)}" for pair, one in times.items() if newest - one > DAY_NS]
    return [f"Valued at the newest candles, {minute(newest)}" + (f", older: {', '.join(old)}." if old else ".")]


def document(found: Stressed) -> Tree:
    """Return everything as one document: money as strings, ratios as numbers, times with an ISO twin."""
    portfolio, now, known = found.portfolio, found.now, found.known
    deviation = np.sqrt(np.maximum(np.diag(known.covariance), 0.0))
    tree: Tree = {
        "schema": SCHEMA,
        "portfolio": {
            "origin": portfolio.origin,
            "quote": portfolio.quote,
            "equity": _money(portfolio.equity),
            "cash": _money(portfolio.cash),
            "positions": {
                pair: {
                    "value": _money(float(portfolio.values[at])),
                    "weight": float(found.weights[at]),
                    "beta": float(known.beta[at]),
                    "deviation": float(deviation[at]),
                    "risk_share": float(now.shares[at]),
                    "exit_days": float(found.exits[0].days[at]),
                }
                for at, pair in enumerate(portfolio.pairs)
            },
        },
        "risk": {
            "level": LEVEL,
            "historical": now.historical,
            "normal": now.normal,
            "volatility": now.deviation,
            "beta": now.beta,
            "hhi": now.concentration.hhi,
            "effective": now.concentration.effective,
            "largest": now.concentration.largest,
            "correlation": now.correlation,
            "correlation_shift": now.correlation_shift,
            "absorption": now.absorption,
            "absorption_shift": now.absorption_shift,
        },
        "estimates": {
            "leader": found.pairs[found.leader],
            "days": len(known.rows),
            "first": _day(known.first_day),
            "last": _day(known.last_day),
            "stand_ins": known.stand_ins,
        },
        "historical": [_replay(found, one) for one in found.replays],
        "scenarios": [_scenario(found, one) for one in found.scenarios],
        "tails": [one._asdict() for one in found.wild],
        "liquidity": {
            "participation": found.asked.participation,
            "cases": [{"name": one.name, "share": one.share, **_sale(found, one)} for one in found.exits],
        },
        "bootstrap": {"seed": found.asked.seed, **_without_fan(found)},
        "assumptions": assumptions(found),
    }
    out: Tree = jsonable(tree)
    return out


def plain_long(text: str) -> str:
    """Return a sentence without control characters; names in it may come from a file."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def _held(found: Stressed) -> Grid:
    portfolio, known = found.portfolio, found.known
    days = found.exits[0].days
    cost = exit_cost(_values(found), found.market.volume, np.sqrt(np.maximum(np.diag(known.covariance), 0.0)))
    order = [at for at in np.argsort(-found.weights, kind="stable").tolist() if found.weights[at] > 0.0]
    rows: list[tuple[str, ...]] = [
        (
            plain(found.pairs[at]) + (" *" if found.pairs[at] in known.stand_ins else ""),
            written(float(portfolio.values[at]), "money"),
            written(float(found.weights[at]), "percent"),
            written(float(known.beta[at]), "ratio"),
            written(float(found.now.shares[at]), "percent"),
            _days(float(days[at])),
            written(float(cost[at]), "percent"),
        )
        for at in order[:PAIRS_SHOWN]
    ]
    rest = f" The {PAIRS_SHOWN} largest of {len(order)}." if len(order) > PAIRS_SHOWN else ""
    rows.append(
        ("cash", written(portfolio.cash, "money"), written(portfolio.cash / portfolio.equity, "percent"), *([""] * 4))
    )
    said = " ".join(assumptions(found)) + rest
    columns = (
        "Held",
        f"Value, {portfolio.quote or 'quote'}",
        "Weight",
        "Beta",
        "Share of risk",
        "To sell",
        "Cost in a day",
    )
    return Grid("held", f"Portfolio: {plain(portfolio.origin)}", columns, tuple(rows), note=said)


def _now(found: Stressed) -> Grid:
    now = found.now
    tail = now.historical
    rows = [
        (f"VaR, one day, {LEVEL:.0%}, as it happened", written(tail.var if tail else None, "percent")),
        (f"CVaR, one day, {LEVEL:.0%}, as it happened", written(tail.cvar if tail else None, "percent")),
        ("VaR, normal distribution", written(now.normal.var, "percent")),
        ("CVaR, normal distribution", written(now.normal.cvar, "percent")),
        ("Standard deviation of a day", written(now.deviation, "percent")),
        (f"Beta to {found.pairs[found.leader]}", written(now.beta, "ratio")),
        ("Concentration (HHI) of what is invested", written(now.concentration.hhi, "ratio")),
        ("Effective number of positions", written(now.concentration.effective, "ratio")),
        ("Average correlation", written(now.correlation, "ratio")),
        ("  against its year, in deviations", _plus(now.correlation_shift)),
        ("Absorption ratio", written(now.absorption, "ratio")),
        ("  against its year, in deviations", _plus(now.absorption_shift)),
    ]
    note = "Losses are positive here. Above +1 deviation everything moves as one more than usual."
    return Grid("risk", "Risk now", ("Measure", "Value"), tuple(rows), note=note)


def _replays(found: Stressed) -> Grid:
    rows: list[tuple[str, ...]] = []
    notes: list[str] = []
    absent = [one.episode.key for one in found.replays if one.why]
    if absent:
        panel = found.market.panel
        span = f"{minute(int(panel.open_ns[0]))[:10]} to {minute(int(panel.open_ns[-1]))[:10]}"
        leader = found.pairs[found.leader]
        notes.append(
            f"Left out, for nothing held nor {leader} has candles of it (the files: {span}): {', '.join(absent)}."
        )
    for one in found.replays:
        name = f"{one.episode.key} {one.episode.name}"
        if one.why:
            rows.append((name, *([NONE] * 6)))
            continue
        figures = (written(one.worst, "percent"), minute(one.worst_ns), written(one.final, "percent"))
        more = (written(one.market, "percent"), written(one.own, "percent"), _from(found, one.contributions))
        rows.append((name, *figures, *more))
        if one.by_beta:
            notes.append(f"{one.episode.key}: by beta, without candles of its time: {', '.join(one.by_beta)}.")
        if one.left_out:
            notes.append(f"{one.episode.key}: left out, counted as unmoved: {', '.join(one.left_out)}.")
    leader = found.pairs[found.leader].partition("/")[0]
    columns = ("Shock", "Worst", "Then, UTC", "At its end", f"{leader}'s worst", "Own candles", "Most from")
    note = "Today's weights bought before the shock and held through it. " + " ".join(notes)
    return Grid("historical", "Historical shocks", columns, tuple(rows), note=plain_long(note.strip()))


def _scenarios(found: Stressed) -> Grid:
    rows = [
        (
            one.name,
            written(one.change, "percent"),
            written(one.change * found.portfolio.equity, "money"),
            "cash" if one.cash else _from(found, one.contributions),
        )
        for one in found.scenarios
    ]
    columns = ("Shock", "Change", found.portfolio.quote or "Money", "Most from")
    return Grid("hypothetical", "Hypothetical shocks", columns, tuple(rows))


def _wild(found: Stressed) -> Grid:
    rows = [
        (
            one.name,
            written(one.deviation, "percent"),
            written(one.normal.var, "percent"),
            written(one.normal.cvar, "percent"),
            written(one.historical.var if one.historical else None, "percent"),
            written(one.historical.cvar if one.historical else None, "percent"),
        )
        for one in found.wild
    ]
    columns = ("One day", "Deviation", "VaR normal", "CVaR normal", "VaR as it happened", "CVaR as it happened")
    return Grid("tails", "Wilder days", columns, tuple(rows), note=f"{LEVEL:.0%}; losses are positive here.")


def _exits(found: Stressed) -> Grid:
    rows: list[tuple[str, ...]] = []
    for one in found.exits:
        sale = _sale(found, one)
        slowest = f"{sale['slowest']}, {_days(sale['days'])}" if sale["slowest"] else NONE
        rows.append((one.name, slowest, written(one.in_day, "percent"), written(one.cost, "percent")))
    note = (
        f"At {found.asked.participation:.0%} of the volume, mean of each pair's newest {VOLUME_DAYS} days. The cost is "
        "the impact of selling all within one day (square root law), a share of equity, fees and spread aside."
    )
    unknown = [found.pairs[at] for at in np.flatnonzero(np.isnan(found.exits[0].days)).tolist()]
    if unknown:
        note += f" Volume unknown: {', '.join(unknown)}."
    return Grid(
        "liquidity",
        "Selling everything",
        ("Volume", "Slowest", "Sold in a day", "Cost in a day"),
        tuple(rows),
        note=note,
    )


def _paths(found: Stressed) -> Grid:
    paths = found.paths
    rows = [
        (f"{quantile:.0%} of paths are below", written(final - 1.0, "percent"), written(fall, "percent"))
        for quantile, final, fall in zip(paths.quantiles, paths.final, paths.drawdown, strict=True)
    ]
    note = (
        f"{paths.paths:,} paths, days drawn in blocks of {paths.block_days:.1f} on average (stationary bootstrap), weights "
        f"restored daily, seed {found.asked.seed}; {paths.loss:.0%} of them lose."
    )
    title = f"The next {paths.days} days, if they are made of the last {len(found.known.rows)}"
    return Grid("bootstrap", title, ("Share", "Change", "Deepest fall"), tuple(rows), note=note)


def _replay(found: Stressed, one: Replay) -> Tree:
    if one.why:
        return {"key": one.episode.key, "name": one.episode.name, "change": None, "why": one.why}
    return {
        "key": one.episode.key,
        "name": one.episode.name,
        "first": one.episode.first,
        "last": one.episode.last,
        "change": one.worst,
        "worst_ns": one.worst_ns,
        "final": one.final,
        "leader": one.market,
        "own_candles": one.own,
        "by_beta": list(one.by_beta),
        "left_out": list(one.left_out),
        "contributions": _parts(found, one.contributions),
    }


def _scenario(found: Stressed, one: Scenario) -> Tree:
    return {
        "kind": one.kind,
        "name": one.name,
        "change": one.change,
        "money": _money(one.change * found.portfolio.equity),
        "contributions": _parts(found, one.contributions),
        "cash": one.cash,
    }


def _sale(found: Stressed, one: Exit) -> Tree:
    held = np.where(found.weights > 0.0, one.days, -1.0)
    known = np.where(np.isnan(held), -1.0, held)
    at = int(np.argmax(known)) if len(known) else -1
    slow = known[at] > 0.0 if at >= 0 else False
    days = float(known[at]) if slow else math.nan
    return {"slowest": found.pairs[at] if slow else "", "days": days, "sold_in_day": one.in_day, "cost": one.cost}


def _without_fan(found: Stressed) -> Tree:
    tree = msgspec.structs.asdict(found.paths)
    del tree["fan"]  # drawn, not read: a row per day
    return tree


def _parts(found: Stressed, parts: Floats) -> dict[str, float]:
    return {found.pairs[at]: float(parts[at]) for at in np.flatnonzero(found.weights > 0.0).tolist()}


def _from(found: Stressed, parts: Floats) -> str:
    at = int(np.argmin(parts)) if len(parts) else 0
    return f"{found.pairs[at]} {written(float(parts[at]), 'percent')}" if len(parts) and parts[at] < 0.0 else NONE


def _values(found: Stressed) -> Floats:
    return found.weights * found.portfolio.equity


def _weight(found: Stressed, pair: str) -> bool:
    return bool(found.weights[found.pairs.index(pair)] > 0.0)


def _money(value: float) -> str:
    return f"{value:.2f}"


def _plus(value: float | None) -> str:
    return NONE if value is None else f"{value:+.2f}"


def _days(value: float) -> str:
    """Return a number of days in the unit that a person would use."""
    if not math.isfinite(value):
        return "unknown" if math.isnan(value) else "never"
    for unit, length in (("s", 86_400.0), ("min", 1_440.0), ("h", 24.0)):
        if value * length < 100.0:
            return f"{math.ceil(value * length)} {unit}"
    return f"{value:,.1f} days"


def _day(day: int) -> str:
    return str(np.datetime64(day, "D"))
