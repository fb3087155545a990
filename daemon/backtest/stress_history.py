"""Historical shocks: what today's portfolio would have gone through in the crashes that the data folder holds.

The weights are those of now, bought at the close before the first day and held: nothing is sold on the way. A pair that did not
trade yet takes the leader's moves times its beta of today; where the leader has no candles either, the pair is left out, and
where nothing has any, the whole shock is.
"""

from datetime import UTC, datetime
from typing import Final, NamedTuple

import numpy as np
from numpy import float64, int64
from numpy.typing import NDArray

from daemon.backtest.stress_market import Estimates, Market

MISSING_MAX: Final = 0.5
"""A pair replays an episode by itself when at most this share of the bars is missing."""

Floats = NDArray[float64]
Times = NDArray[int64]


class Episode(NamedTuple):
    """A crash: from the opening of the first day up to, not including, the last (UTC)."""

    key: str
    name: str
    first: str
    last: str


EPISODES: Final = (
    Episode("2020-03", "pandemic: everything is sold", "2020-03-07", "2020-03-17"),
    Episode("2021-05", "China bans mining, leverage unwinds", "2021-05-12", "2021-05-24"),
    Episode("2022-05", "Terra and LUNA fail", "2022-05-05", "2022-05-13"),
    Episode("2022-11", "FTX fails", "2022-11-05", "2022-11-22"),
    Episode("2024-08", "yen carry trades unwind", "2024-07-29", "2024-08-06"),
)
"""From shortly before the fall to shortly after its low; dates by the hourly closes of BTC/USDT."""


class Replay(NamedTuple):
    """What an episode does to a portfolio; changes are fractions of equity, NaN when it is left out (``why`` says so)."""

    episode: Episode
    worst: float
    """Lowest value on the way, against the beginning, <= 0."""
    worst_ns: int
    """Close of that bar, ns UTC."""
    final: float
    market: float
    """The leader's own lowest, NaN without its candles."""
    own: float
    """Share of what is invested that replays its own candles, 0..1."""
    by_beta: tuple[str, ...]
    left_out: tuple[str, ...]
    contributions: Floats
    """(n,) parts of ``worst``, pair by pair."""
    times: Times
    """(b,) closes of the bars, the first at the beginning."""
    path: Floats
    """(b,) portfolio's value, 1 at the beginning."""
    why: str = ""


def replays(market: Market, known: Estimates, weights: Floats) -> tuple[Replay, ...]:
    """Return what every episode does to ``weights`` (n,) of the market's pairs, shares of equity; the rest is cash."""
    return tuple(replay(market, known, weights, episode) for episode in EPISODES)


def replay(market: Market, known: Estimates, weights: Floats, episode: Episode) -> Replay:
    """Return what one episode does; see `replays`."""
    n = len(market.pairs)
    times, ratio, own = _ratios(market, episode)
    leader = market.leader
    if len(times) < 2 or not own.any():
        return _nothing(market, episode)
    lead_known = bool(own[leader])
    held = weights != 0.0
    by_beta = tuple(market.pairs[at] for at in range(n) if held[at] and not own[at] and lead_known)
    left_out = tuple(market.pairs[at] for at in range(n) if held[at] and not own[at] and not lead_known)
    if left_out and not (held & own).any():
        return _nothing(market, episode)
    if lead_known:
        # A long position cannot lose more than itself, whatever its beta.
        proxy = np.maximum(1.0 + known.beta * (ratio[:, leader, None] - 1.0), 0.0)
        ratio = np.where(own, ratio, proxy)
    else:
        ratio = np.where(own, ratio, 1.0)
    parts = weights * (ratio - 1.0)
    path = 1.0 + parts.sum(axis=1)
    at = int(np.argmin(path))
    invested = float(weights.sum())
    return Replay(
        episode=episode,
        worst=float(path[at]) - 1.0,
        worst_ns=int(times[at]),
        final=float(path[-1]) - 1.0,
        market=float(ratio[:, leader].min()) - 1.0 if lead_known else np.nan,
        own=float(weights[own].sum()) / invested if invested > 0.0 else 1.0,
        by_beta=by_beta,
        left_out=left_out,
        contributions=parts[at],
        times=times,
        path=path,
    )


def _ratios(market: Market, episode: Episode) -> tuple[Times, Floats, NDArray[np.bool_]]:
    """Return closing times, (b, n) prices against the beginning, and which pairs (n,) have candles of their own for it.

    The beginning is the last close before the first day; a missing bar keeps the price before it.
    """
    panel = market.panel
    n = len(market.pairs)
    own = np.zeros(n, dtype=np.bool_)
    first, last = (panel.place(_day_ns(day)) for day in (episode.first, episode.last))
    wanted = (_day_ns(episode.last) - _day_ns(episode.first)) // panel.bar_ns
    if first < 1 or last - first < wanted:  # the folder begins or ends within it
        return np.empty(0, dtype=int64), np.empty((0, n)), own
    closes = panel.values[first - 1 : last, :, 3]
    place = np.where(np.isfinite(closes), np.arange(len(closes))[:, None], 0)
    filled = np.take_along_axis(closes, np.maximum.accumulate(place, axis=0), axis=0)
    there = np.isfinite(closes[0]) & (np.isnan(closes).mean(axis=0) <= MISSING_MAX)
    ratio = np.full((len(closes), n), np.nan)
    for at, column in enumerate(market.columns):
        if there[at]:
            ratio[:, column] = filled[:, at] / filled[0, at]
            own[column] = True
    return panel.open_ns[first - 1 : last] + panel.bar_ns, ratio, own


def _nothing(market: Market, episode: Episode) -> Replay:
    """Return an episode that is left out, with the reason."""
    panel = market.panel
    begins, ends = (
        str(np.datetime64(int(one), "ns").astype("datetime64[D]")) for one in (panel.open_ns[0], panel.open_ns[-1])
    )
    nan, none = np.nan, np.empty(0)
    why = (
        f"left out: no candles of {episode.first} to {episode.last} for anything held or for {market.pairs[market.leader]} "
        f"(the files reach from {begins} to {ends})"
    )
    times = np.empty(0, dtype=int64)
    return Replay(episode, nan, 0, nan, nan, 0.0, (), (), np.zeros(len(market.pairs)), times, none, why)


def _day_ns(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) * 1_000_000_000
