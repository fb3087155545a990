"""`ballast stress`: what today's portfolio risks and what shocks would do to it, as values.

Everything is about the portfolio as it is: no shock supposes an order, a stop or a cut on the way, so the figures say how exposed
it is, not what the daemon would lose. Deterministic: the same portfolio, candles and seed give the same figures.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from daemon.backtest.stats.bootstrap import Paths
from daemon.backtest.stress_history import Replay, replays
from daemon.backtest.stress_market import Estimates, Market, estimate
from daemon.backtest.stress_paths import Wild, drawn_paths, factors, wild
from daemon.backtest.stress_portfolio import Portfolio
from daemon.backtest.stress_shocks import DROPS, LEADER_DROP, SIGMAS, change, signed, wild_day
from risk.live import LiveRiskTracker
from risk.portfolio import (
    Concentration,
    Tail,
    concentration,
    deviation_of,
    exit_cost,
    exit_days,
    exit_within,
    historical_tail,
    normal_tail,
    risk_shares,
)

CRASH: Final = -0.90
"""One asset alone: what FTT did within three days, and LUNA in the first of its last."""
CRASHES_MAX: Final = 5
"""Largest positions that crash alone."""
DEPEG: Final = -0.10
"""Of a stablecoin against the dollar: USDC was at 0.88 on 2023-03-11."""
STABLES: Final = frozenset(
    {"USDT", "USDC", "FDUSD", "TUSD", "BUSD", "DAI", "USDP", "USDE", "USDS", "PYUSD", "RLUSD", "USD1"}
)
LIQUIDITIES: Final = ((1.0, "As traded"), (0.5, "Liquidity halved"), (0.1, "A tenth of it"))
REGIME_DAYS: Final = 365
"""Days of history that the correlation regime is compared with."""

Floats = NDArray[float64]


class Asked(NamedTuple):
    """How the figures are made."""

    days: int = 365
    """Newest days that all pairs share, for estimates."""
    horizon: int = 30
    """Days of a drawn path."""
    paths: int = 2000
    participation: float = 0.1
    """Share of the volume that a sale takes."""
    seed: int = 0


class Scenario(NamedTuple):
    """One shock: ``change`` of equity (a fraction, negative for a loss) and its parts (n,), pair by pair."""

    kind: str
    """``hypothetical`` or ``factor``."""
    name: str
    change: float
    contributions: Floats
    cash: float = 0.0
    """The part of cash: not 0 only where money itself loses its value."""


class Exit(NamedTuple):
    """Selling everything when volumes are ``share`` of what they were."""

    name: str
    share: float
    days: Floats
    """(n,) by pair; NaN unknown, infinite without volume."""
    in_day: float
    """Share of what is held that is sold after a day."""
    cost: float
    """Impact of selling all within a day, fraction of equity; NaN when a held pair's volume is unknown."""


class Now(NamedTuple):
    """Risk of the portfolio before any shock; see `risk.portfolio` for units and signs."""

    historical: Tail | None
    normal: Tail
    deviation: float
    beta: float
    concentration: Concentration
    shares: Floats
    """(n,) parts of the deviation."""
    correlation: float | None
    correlation_shift: float | None
    absorption: float | None
    absorption_shift: float | None


class Stressed(NamedTuple):
    """Everything that `ballast stress` says. Arrays are by the market's pairs: the portfolio's, then the leader if not held."""

    portfolio: Portfolio
    asked: Asked
    pairs: tuple[str, ...]
    leader: int
    weights: Floats
    market: Market
    known: Estimates
    now: Now
    replays: tuple[Replay, ...]
    scenarios: tuple[Scenario, ...]
    wild: tuple[Wild, ...]
    exits: tuple[Exit, ...]
    paths: Paths


def stress(portfolio: Portfolio, market: Market, asked: Asked) -> Stressed:
    """Return the risk of a portfolio and what every shock does to it.

    ``market`` holds the portfolio's pairs in its order (`load_market`). Raises ConfigError as `estimate`.
    """
    n = len(market.pairs)
    known = estimate(market, asked.days)
    weights, values = np.zeros(n), np.zeros(n)
    weights[: len(portfolio.pairs)], values[: len(portfolio.pairs)] = portfolio.weights, portfolio.values
    return Stressed(
        portfolio=portfolio,
        asked=asked,
        pairs=market.pairs,
        leader=market.leader,
        weights=weights,
        market=market,
        known=known,
        now=_now(market, known, weights),
        replays=replays(market, known, weights),
        scenarios=(*_hypothetical(portfolio, market, known, weights), *_factors(market, known, weights)),
        wild=wild(known, weights),
        exits=_exits(portfolio, market, known, values, asked),
        paths=drawn_paths(known, weights, days=asked.horizon, count=asked.paths, seed=asked.seed),
    )


def _now(market: Market, known: Estimates, weights: Floats) -> Now:
    deviation = deviation_of(weights, known.covariance)
    regime = _regime(market, weights)
    return Now(
        historical=historical_tail(known.rows @ weights),
        normal=normal_tail(deviation),
        deviation=deviation,
        beta=float(weights @ known.beta),
        concentration=concentration(weights),
        shares=risk_shares(weights, known.covariance),
        correlation=regime[0],
        correlation_shift=regime[1],
        absorption=regime[2],
        absorption_shift=regime[3],
    )


def _regime(market: Market, weights: Floats) -> tuple[float | None, ...]:
    """Return average correlation and absorption ratio of the held pairs with candles, as the daemon's own follower has them."""
    inside = [at for at in market.columns if weights[at] != 0.0]
    pairs = tuple(market.pairs[at] for at in inside)
    follower = LiveRiskTracker(pairs, market.pairs[market.leader], market.panel.bar_ns)
    rows = market.returns[:, inside]
    whole = rows[np.isfinite(rows).all(axis=1)]
    for row in whole[-2 * REGIME_DAYS :]:  # twice: what the first year remembers of nothing is forgotten by the second
        follower.on_day(row)
    nothing = np.zeros(len(pairs))
    found = follower.figures(nothing, nothing, nothing)
    return found.correlation, found.correlation_shift, found.absorption, found.absorption_shift


def _hypothetical(portfolio: Portfolio, market: Market, known: Estimates, weights: Floats) -> list[Scenario]:
    leader = market.pairs[market.leader].partition("/")[0]
    deviation = np.sqrt(np.maximum(np.diag(known.covariance), 0.0))
    found = [_scenario(f"Every asset {signed(drop)}", weights, np.full(len(weights), drop)) for drop in DROPS]
    for drop in sorted((*DROPS, LEADER_DROP), reverse=True):
        moves = np.maximum(known.beta * drop, -1.0)
        found.append(_scenario(f"{leader} {signed(drop)}, others by their beta", weights, moves))
    for at in np.argsort(-weights, kind="stable")[:CRASHES_MAX].tolist():
        if weights[at] > 0.0:
            moves = np.where(np.arange(len(weights)) == at, CRASH, 0.0)
            found.append(_scenario(f"{market.pairs[at]} alone {signed(CRASH)}", weights, moves))
    measured = wild_day(weights, known.covariance)
    parts = risk_shares(weights, known.covariance) * measured
    found += [
        Scenario("hypothetical", f"A day of {SIGMAS:g} deviations, correlations as measured", measured, parts),
        _scenario(f"All fall by {SIGMAS:g} of their own deviations: correlation one", weights, -SIGMAS * deviation),
    ]
    return [*found, *_depegs(portfolio, market, weights)]


def _depegs(portfolio: Portfolio, market: Market, weights: Floats) -> list[Scenario]:
    """Return what stablecoins that lose their peg would cost: held ones in quote currency, the quote itself in dollars."""
    found: list[Scenario] = []
    for at, pair in enumerate(market.pairs):
        base = pair.partition("/")[0]
        if base in STABLES and weights[at] > 0.0:
            moves = np.where(np.arange(len(weights)) == at, DEPEG, 0.0)
            found.append(_scenario(f"{base} loses its peg, {signed(DEPEG)}", weights, moves))
    if portfolio.quote in STABLES:
        # Coins keep their value in dollars: their prices in the quote rise as it falls. What is lost is the cash.
        cash = portfolio.cash / portfolio.equity * DEPEG
        name = f"{portfolio.quote} loses its peg, {signed(DEPEG)}, counted in dollars"
        found.append(Scenario("hypothetical", name, cash, np.zeros(len(weights)), cash))
    return found


def _factors(market: Market, known: Estimates, weights: Floats) -> list[Scenario]:
    name = market.pairs[market.leader].partition("/")[0]
    found: list[Scenario] = []
    for factor in factors(known, weights != 0.0, leader=market.leader, name=name):
        sign = 1.0 if change(weights, factor.moves) <= 0.0 else -1.0
        shock = f"{factor.name}, {SIGMAS:g} deviations of a day"
        found.append(_scenario(shock, weights, np.maximum(sign * factor.moves, -1.0), kind="factor"))
    return found


def _scenario(name: str, weights: Floats, moves: Floats, *, kind: str = "hypothetical") -> Scenario:
    parts = np.where(weights == 0.0, 0.0, weights * moves)
    return Scenario(kind, name, change(weights, moves), parts)


def _exits(portfolio: Portfolio, market: Market, known: Estimates, values: Floats, asked: Asked) -> tuple[Exit, ...]:
    found: list[Exit] = []
    deviation = np.sqrt(np.maximum(np.diag(known.covariance), 0.0))
    for share, name in LIQUIDITIES:
        volume = share * market.volume
        days = exit_days(values, volume, asked.participation)
        cost = float(values @ exit_cost(values, volume, deviation)) / portfolio.equity
        found.append(Exit(name, share, days, exit_within(values, days), cost))
    return tuple(found)
