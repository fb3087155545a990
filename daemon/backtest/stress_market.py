"""What the data folder knows about a portfolio's pairs: prices, daily returns, volumes, and what can be estimated from them.

A pair without candles of its own is not silently left out: its returns are taken for those of the leader times its beta, with a
beta of 1 where none can be measured, and every table that rests on it says so.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy import float64, int64
from numpy.typing import NDArray

from daemon.backtest.data.files import path_of
from daemon.backtest.history import Panel, load_panel
from daemon.domain.errors import ConfigError, UsageError
from daemon.settings_values import bar_ns as length_of
from risk.portfolio import betas

DAY_NS: Final = 86_400_000_000_000
DAYS_MIN: Final = 60
"""Days that all pairs share, at least; a pair that would leave fewer stands in by its beta."""
VOLUME_DAYS: Final = 30
"""A pair's volume is the mean of its newest days."""
COVERED: Final = 0.5
"""A day counts with at least this share of its bars."""

Floats = NDArray[float64]
Times = NDArray[int64]


class Market(NamedTuple):
    """History of the portfolio's pairs and of the leader (``pairs[leader]``), NaN where there is none."""

    pairs: tuple[str, ...]
    leader: int
    panel: Panel
    """Of the pairs that have a file, in their order."""
    columns: tuple[int, ...]
    """Place of each panel column in ``pairs``."""
    days: Times
    """(d,) UTC days since 1970."""
    returns: Floats
    """(d, n) simple returns of those days."""
    volume: Floats
    """(n,) quote currency a day, mean of the newest `VOLUME_DAYS` days of each pair."""
    price: Floats
    """(n,) newest close."""
    priced_ns: Times
    """(n,) when that bar closed, ns UTC; 0 without one."""


class Estimates(NamedTuple):
    """What joint daily returns say; shapes (n,) and (n, n) for n pairs, the leader included."""

    rows: Floats
    """(d, n) joint daily returns, oldest first; columns of stand-ins are the leader's times their beta."""
    first_day: int
    last_day: int
    beta: Floats
    covariance: Floats
    stand_ins: dict[str, str]
    """Pair → what is used in its place."""


def load_market(folder: Path, pairs: Sequence[str], *, leader: str, timeframe: str) -> Market:
    """Read the candles of these pairs and of the leader.

    Raises
    ------
    ConfigError
        There is no folder, no file of the leader, or a file that no engine should be fed.
    UsageError
        There is no such timeframe.
    """
    if not folder.is_dir():
        raise ConfigError(f"no data folder at {folder}: `ballast data fetch` makes one, --data names another")
    try:
        bar = length_of(timeframe)
    except ValueError as error:
        raise UsageError(f"-t {timeframe}: {error}") from None
    named = tuple(dict.fromkeys((*pairs, leader)))
    there = [pair for pair in named if path_of(folder, pair, timeframe).is_file()]
    if leader not in there:
        raise ConfigError(
            f"{leader}: no {timeframe} candles in {folder}: all betas refer to it; `ballast data fetch {leader} -t {timeframe}` "
            "gets them, --leader names another pair"
        )
    panel = load_panel(folder, there, bar=timeframe, bar_ns=bar, start_ns=None, end_ns=None)
    columns = tuple(named.index(pair) for pair in there)
    days, closes, volumes = _by_day(panel)
    with np.errstate(invalid="ignore", divide="ignore"):
        moved = closes[1:] / closes[:-1] - 1.0
    returns = np.full((max(len(days) - 1, 0), len(named)), np.nan)
    returns[:, columns] = moved
    volume, price, priced = (np.full(len(named), np.nan) for _ in range(3))
    for at, column in enumerate(columns):
        known = volumes[np.isfinite(volumes[:, at]), at][-VOLUME_DAYS:]
        volume[column] = known.mean() if len(known) else math.nan
        bars = np.flatnonzero(np.isfinite(panel.values[:, at, 3]))
        if len(bars):
            price[column] = panel.values[bars[-1], at, 3]
            priced[column] = float(panel.open_ns[bars[-1]] + bar)
    return Market(
        named,
        named.index(leader),
        panel,
        columns,
        days[1:],
        returns,
        volume,
        price,
        np.nan_to_num(priced).astype(int64),
    )


def estimate(market: Market, days: int) -> Estimates:
    """Return what the newest ``days`` days that all pairs share say.

    While they share fewer than `DAYS_MIN`, the pair with the fewest returns leaves and stands in by its beta.

    Raises
    ------
    ConfigError
        The leader itself has too few days.
    """
    n, leader = len(market.pairs), market.leader
    lead = market.returns[:, leader]
    counts = np.isfinite(market.returns).sum(axis=0)
    inside = [at for at in np.argsort(-counts, kind="stable").tolist() if at != leader]
    rows = np.flatnonzero(np.isfinite(lead))
    if len(rows) < DAYS_MIN:
        raise ConfigError(
            f"{market.pairs[leader]}: {len(rows)} whole days of candles; {DAYS_MIN} are needed: `ballast data fetch` gets them"
        )
    while True:
        shared = rows[np.isfinite(market.returns[np.ix_(rows, inside)]).all(axis=1)] if inside else rows
        if len(shared) >= DAYS_MIN:
            break
        inside.pop()
    rows = shared[-days:]
    every = betas(market.returns, lead)
    found: Floats = market.returns[rows].copy()
    stand_ins: dict[str, str] = {}
    for at in range(n):
        if at == leader or at in inside:
            continue
        beta = float(every[at])
        if counts[at] == 0:
            beta, why = 1.0, "no candles: as the leader (beta 1)"
        elif math.isnan(beta):
            beta, why = 1.0, f"{counts[at]} days of candles: as the leader (beta 1)"
        else:
            why = f"{counts[at]} days, too few in common: the leader's returns times beta {beta:.2f}"
        stand_ins[market.pairs[at]] = why
        found[:, at] = beta * lead[rows]
    return Estimates(
        rows=found,
        first_day=int(market.days[rows[0]]),
        last_day=int(market.days[rows[-1]]),
        beta=betas(found, found[:, leader]),
        covariance=np.atleast_2d(np.cov(found, rowvar=False)),
        stand_ins=stand_ins,
    )


def _by_day(panel: Panel) -> tuple[Times, Floats, Floats]:
    """Return the UTC days of a panel, and of each (d, n) the last close and the volume traded in quote currency.

    NaN for days with too few bars: the first and last of a file are mostly not whole.
    """
    a_day = DAY_NS // panel.bar_ns
    first = int(panel.open_ns[0] // DAY_NS)
    lead = int(panel.open_ns[0] % DAY_NS // panel.bar_ns)
    n_days = -(-(lead + len(panel.open_ns)) // a_day)
    whole = np.full((n_days * a_day, len(panel.symbols), 2), np.nan)
    closes = panel.values[:, :, 3]
    whole[lead : lead + len(closes), :, 0] = closes
    whole[lead : lead + len(closes), :, 1] = closes * panel.values[:, :, 4]
    table = whole.reshape(n_days, a_day, len(panel.symbols), 2)
    known = np.isfinite(table[..., 0])
    last = a_day - 1 - known[:, ::-1].argmax(axis=1)
    close = np.take_along_axis(table[..., 0], last[:, None, :], axis=1)[:, 0]
    enough = known.sum(axis=1) >= COVERED * a_day
    volume = np.where(enough, np.nansum(table[..., 1], axis=1), np.nan)
    return np.arange(first, first + n_days, dtype=int64), np.where(enough, close, np.nan), volume
