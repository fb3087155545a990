"""The risk of the portfolio as it is now, bar by bar: what `risk.portfolio` computes, fed incrementally.

Two memories. The days: returns of up to a year, from the daily candles that are fetched at start and then one row a day; they
give VaR and CVaR as they happened, and the correlation regime. The bars: an exponentially weighted covariance, which gives
volatility, beta and the normal VaR, and notices within hours what the days will know tomorrow. Nothing trades on these figures.
"""

from math import isnan, nan, sqrt
from typing import Final

import msgspec
import numpy as np
from numpy import float64
from numpy.typing import NDArray

from risk.portfolio import (
    LEVEL,
    PERIODS_MIN,
    RETURNS_MIN,
    TINY,
    Tail,
    absorption_ratio,
    average_correlation,
    concentration,
    correlation_of,
    deviation_of,
    exit_days,
    exit_within,
    historical_tail,
    normal_tail,
    standing,
)

DAY_NS: Final = 86_400_000_000_000
DAYS_MAX: Final = 365
"""Days remembered."""

Floats = NDArray[float64]


class LiveLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How the figures are made: half-lives of the bars' covariance (``bars``) and of the days' correlations (``days``),
    ``participation`` the share of the volume that a sale takes, ``level`` the confidence of VaR and CVaR.
    """  # noqa: D205 - one sentence

    bars: float = 72.0
    days: float = 30.0
    participation: float = 0.1
    level: float = LEVEL


class LiveRisk(msgspec.Struct, frozen=True, kw_only=True):
    """Risk at one moment; None where too little is known.

    Attributes
    ----------
    var, cvar
        One day, from the days remembered, weights as now; losses >= 0, fractions of equity. ``cvar`` is `ballast_cvar_ratio`.
    var_normal, cvar_normal
        One day, of a normal distribution with the bars' covariance, days taken as independent bars.
    volatility
        Standard deviation of one day's return, from the bars.
    beta
        Of the portfolio to the market, from the bars; an asset without a known beta counts as 1.
    hhi, effective, largest
        As `risk.portfolio.Concentration`.
    exit_days, exit_in_day
        Days until the slowest position is sold (infinite without volume), and the share that is sold after one day.
    correlation, correlation_shift, absorption, absorption_shift
        Average correlation and absorption ratio of the days' correlations, and how far each has moved against its own history
        in standard deviations (`risk.portfolio.standing`); above 1: everything moves as one, more than usual.
    """

    var: float | None
    cvar: float | None
    var_normal: float | None
    cvar_normal: float | None
    volatility: float | None
    beta: float | None
    hhi: float
    effective: float
    largest: float
    exit_days: float | None
    exit_in_day: float | None
    correlation: float | None
    correlation_shift: float | None
    absorption: float | None
    absorption_shift: float | None


class LiveState(msgspec.Struct, frozen=True):
    """Everything remembered, as plain values: NaN is possible, so keep it as msgpack, not JSON.

    Rows of ``days`` (d, n) are daily returns, of ``regime`` (d, 2) average correlation and absorption ratio; ``bar`` and ``day``
    are the covariances (n, n), ``bars`` how many bars each pair was seen in, ``close`` (n,) the newest closes.
    """

    symbols: tuple[str, ...]
    days: tuple[tuple[float, ...], ...]
    regime: tuple[tuple[float, ...], ...]
    bar: tuple[tuple[float, ...], ...]
    bars: tuple[tuple[float, ...], ...]
    day: tuple[tuple[float, ...], ...]
    day_seen: tuple[tuple[float, ...], ...]
    close: tuple[float, ...]


class _Covariance:
    """An exponentially weighted covariance about zero (RiskMetrics Technical Document, 1996, section 5.2), pair by pair.

    Until a pair has been seen as often as the weight supposes it is a plain mean, so nothing starts biased.
    """

    def __init__(self, n: int, half_life: float) -> None:
        self.weight = 1.0 - 2.0 ** (-1.0 / half_life)
        self.values = np.zeros((n, n))
        self.seen = np.zeros((n, n))

    def step(self, returns: Floats) -> None:
        """Take (n,) returns; a NaN leaves every pair of its asset as it was."""
        known = np.isfinite(returns)
        whole = bool(known.all())
        row = returns if whole else np.where(known, returns, 0.0)
        both: Floats | float = 1.0 if whole else known[:, None] * known.astype(float64)
        self.seen += both
        weight = np.maximum(self.weight, 1.0 / np.maximum(self.seen, 1.0)) * both
        self.values += weight * (row[:, None] * row - self.values)

    def known(self) -> Floats:
        """Return (n, n) the covariance, NaN where too few returns were seen."""
        return np.where(self.seen >= RETURNS_MIN, self.values, nan)


class LiveRiskTracker:
    """Follow the returns of a universe and judge portfolios of it.

    Parameters
    ----------
    symbols
        Pairs; the order is that of every array.
    market
        The pair that betas refer to; without it in the universe beta is None.
    bar_ns
        Length of a bar, ns.
    limits
        How the figures are made.
    """

    def __init__(self, symbols: tuple[str, ...], market: str, bar_ns: int, limits: LiveLimits | None = None) -> None:
        self.symbols = symbols
        self._limits = LiveLimits() if limits is None else limits
        self._market = symbols.index(market) if market in symbols else -1
        self._bars_a_day = DAY_NS / bar_ns
        n = len(symbols)
        self._bar = _Covariance(n, self._limits.bars)
        self._day = _Covariance(n, self._limits.days)
        self._close = np.full(n, nan)
        self._returns = np.zeros((0, n))
        self._missing = np.zeros((0, n))
        self._regime = np.zeros((0, 2))
        self._stand: tuple[float | None, ...] = (None,) * 4

    def on_day(self, returns: Floats) -> None:
        """Take (n_assets,) simple returns of a day that has ended, NaN where one is unknown; a year is kept."""
        self._day.step(returns)
        finite = np.isfinite(returns)
        self._returns = np.vstack((self._returns, np.where(finite, returns, 0.0)))[-DAYS_MAX:]
        self._missing = np.vstack((self._missing, np.where(finite, 0.0, 1.0)))[-DAYS_MAX:]
        matrix = correlation_of(np.where(self._day.seen >= PERIODS_MIN, self._day.values, 0.0))
        row = (average_correlation(matrix), absorption_ratio(matrix))
        if not any(isnan(one) for one in row):
            self._regime = np.vstack((self._regime, row))[-DAYS_MAX:]
            self._set_standing()

    def on_bar(self, close: Floats) -> None:
        """Take (n_assets,) closing prices of a bar; one that is no price leaves what is known of its asset, until the next."""
        usable = (close > 0.0) & np.isfinite(close)
        returns = np.full(len(close), nan)
        np.divide(close, self._close, out=returns, where=usable & np.isfinite(self._close))
        self._bar.step(returns - 1.0)
        np.copyto(self._close, close, where=usable)

    def figures(self, w: Floats, value: Floats, volume: Floats) -> LiveRisk:
        """Return the risk of weights ``w``, ``value`` held and ``volume`` traded in a day (quote currency), each (n_assets,)."""
        tail = self._tail(w)
        covariance = self._bar.known()
        deviation = deviation_of(w, covariance) * sqrt(self._bars_a_day) if w.any() else 0.0
        normal = None if isnan(deviation) else normal_tail(deviation, self._limits.level)
        held = concentration(w)
        days = exit_days(value, volume, self._limits.participation)
        slowest = float(days.max()) if len(days) else 0.0
        correlation, correlation_shift, absorption, absorption_shift = self._stand
        return LiveRisk(
            var=tail.var if tail else None,
            cvar=tail.cvar if tail else None,
            var_normal=normal.var if normal else None,
            cvar_normal=normal.cvar if normal else None,
            volatility=None if isnan(deviation) else deviation,
            beta=self._beta(w, covariance),
            hhi=held.hhi,
            effective=held.effective,
            largest=held.largest,
            exit_days=None if isnan(slowest) else slowest,
            exit_in_day=None if isnan(slowest) else exit_within(value, days),
            correlation=correlation,
            correlation_shift=correlation_shift,
            absorption=absorption,
            absorption_shift=absorption_shift,
        )

    def snapshot(self) -> LiveState:
        """Return everything remembered, as plain values."""
        days = np.where(self._missing > 0.0, nan, self._returns)
        return LiveState(
            symbols=self.symbols,
            days=_rows(days),
            regime=_rows(self._regime),
            bar=_rows(self._bar.values),
            bars=_rows(self._bar.seen),
            day=_rows(self._day.values),
            day_seen=_rows(self._day.seen),
            close=tuple(self._close.tolist()),
        )

    def restore(self, state: LiveState) -> None:
        """Take over what ``snapshot`` returned; a symbol that it does not hold starts anew, one that is gone is forgotten.

        The regime's history is that of the universe it was measured in and is kept only when that is the same.
        """
        ours = [at for at, symbol in enumerate(self.symbols) if symbol in state.symbols]
        theirs = [state.symbols.index(self.symbols[at]) for at in ours]
        days = np.full((len(state.days), len(self.symbols)), nan)
        if ours:
            days[:, ours] = np.array(state.days).reshape(len(state.days), len(state.symbols))[:, theirs]
            pairs, their_pairs = np.ix_(ours, ours), np.ix_(theirs, theirs)
            for mine, kept in (
                (self._bar.values, state.bar),
                (self._bar.seen, state.bars),
                (self._day.values, state.day),
                (self._day.seen, state.day_seen),
            ):
                mine[pairs] = np.array(kept)[their_pairs]
            self._close[ours] = np.array(state.close)[theirs]
        self._missing = np.isnan(days).astype(float64)
        self._returns = np.nan_to_num(days)
        same = state.symbols == self.symbols
        self._regime = np.array(state.regime if same else ()).reshape(-1, 2)
        self._set_standing()

    def _tail(self, w: Floats) -> Tail | None:
        """Return the tail of the days on which every held asset has a return."""
        if not w.any():
            return Tail(0.0, 0.0)
        whole = (self._missing @ (w != 0.0)) == 0.0
        returns = self._returns @ w
        return historical_tail(returns if whole.all() else returns[whole], self._limits.level)

    def _beta(self, w: Floats, covariance: Floats) -> float | None:
        if self._market < 0 or not covariance[self._market, self._market] > TINY:
            return None
        beta = covariance[:, self._market] / covariance[self._market, self._market]
        return float(w @ np.where(np.isnan(beta), 1.0, beta))

    def _set_standing(self) -> None:
        found: list[float | None] = []
        for at in range(2):
            history = self._regime[:, at]
            stand = standing(history)
            found += [float(history[-1]) if len(history) else None, stand.shift if stand else None]
        self._stand = tuple(found)


def _rows(matrix: Floats) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in matrix.tolist())
