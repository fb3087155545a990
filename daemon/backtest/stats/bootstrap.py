"""How else it could have gone: intervals and paths from the same days in another order.

Days are drawn in blocks of random length, so that calm and wild weeks stay together: the stationary bootstrap of
[R94] Politis & Romano, The Stationary Bootstrap, Journal of the American Statistical Association 89 (1994).
The mean length of a block follows from the correlation in the data:
[W04] Politis & White, Automatic Block-Length Selection for the Dependent Bootstrap, Econometric Reviews 23 (2004), with
[P09] Patton, Politis & White, Correction to [W04], Econometric Reviews 28 (2009).

Chance comes from the generator that the caller passes: the same seed and inputs give the same numbers.
"""

from collections.abc import Iterator
from math import ceil, log10, sqrt
from typing import Final

import msgspec
import numpy as np
from numpy import float64, int64
from numpy.typing import NDArray

from daemon.backtest.metrics import DAYS_PER_YEAR, ZERO

RESAMPLES: Final = 2_000
"""Enough for the second digit of a 95 % bound."""
ELEMENTS_MAX: Final = 100_000_000
"""Days drawn in one call, at most: minutes of work."""
CHUNK: Final = 2_000_000
"""Days drawn at a time: bounds the memory. Changing it changes the numbers that a seed gives."""
FAN_MAX: Final = 25_000_000
"""Values of all paths of a fan together, 200 MB."""
QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)
SIGNIFICANT: Final = 2.0
"""A correlation within this many standard errors of 0 is taken for none: c = 2 in [W04], footnote c."""
QUIET_LAGS: Final = 5
"""So many lags in a row without correlation end the memory: K in [W04], footnote c, for any n below 10^25."""

Floats = NDArray[float64]


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A figure of the sample and the bounds between which ``level`` of the resampled figures lie (percentiles)."""

    point: float
    low: float
    high: float
    level: float


class Intervals(msgspec.Struct, frozen=True, kw_only=True):
    """Confidence intervals of one curve of daily returns.

    Attributes
    ----------
    sharpe, cagr, max_drawdown
        As in `metrics`, but of daily values throughout: the drawdown within a day is not seen, and a year is 365 days.
        ``sharpe`` is None when the returns do not vary.
    block_days
        Mean length of a block that was used.
    resamples, days
        Counts.
    """

    sharpe: Interval | None
    cagr: Interval
    max_drawdown: Interval
    block_days: float
    resamples: int
    days: int


class Paths(msgspec.Struct, frozen=True, kw_only=True):
    """Quantiles of many paths of daily returns drawn in blocks; values start at 1.

    Attributes
    ----------
    quantiles
        The shares q below which the values of the next three lie (`QUANTILES`).
    final, drawdown
        Final value of the paths, and their deepest drawdown (<= 0; low quantiles are the deep ones).
    fan
        Per quantile, the value after 0, 1, … days: (len(quantiles), days + 1).
    loss
        Share of the paths that end below 1.
    worse_drawdown
        Share of the paths whose drawdown is deeper than that of the sample itself.
    block_days, paths, days
        Mean length of a block, and counts.
    """

    quantiles: tuple[float, ...]
    final: tuple[float, ...]
    drawdown: tuple[float, ...]
    fan: tuple[tuple[float, ...], ...]
    loss: float
    worse_drawdown: float
    block_days: float
    paths: int
    days: int


def block_length(returns: Floats) -> float:
    """Return the mean block length, in periods, that suits (n,) returns: [W04] section 3.2 with [P09], stationary bootstrap.

    b = (2 · G² / D)^(1/3) · n^(1/3) with D = 2 · g(0)², g(0) = sum λ(k/M) R(k), G = sum λ(k/M) |k| R(k), R the
    autocovariance, λ the flat-top window, and M twice the first of `QUIET_LAGS` lags without significant correlation (the
    reading of the authors' own program). Within 1..ceil(min(3 · sqrt(n), n/3)); 1 for returns that do not vary or are
    fewer than 8.
    """
    _check(returns)
    n = len(returns)
    if n < 8 or float(returns.std()) <= ZERO:
        return 1.0
    centred = returns - returns.mean()
    lag_max = min(ceil(sqrt(n)) + QUIET_LAGS, n - 1)
    covariance = np.array([float(centred[k:] @ centred[: n - k]) / n for k in range(lag_max + 1)])
    quiet = np.abs(covariance / covariance[0]) < SIGNIFICANT * sqrt(log10(n) / n)
    runs = np.lib.stride_tricks.sliding_window_view(quiet, QUIET_LAGS).all(axis=1)
    width = min(2 * int(runs.argmax()), lag_max) if runs.any() else lag_max
    k = np.arange(1, width + 1)
    window = np.minimum(1.0, 2.0 * (1.0 - k / width))
    density = float(covariance[0] + 2.0 * (window * covariance[1 : width + 1]).sum())
    bend = float(2.0 * (window * k * covariance[1 : width + 1]).sum())
    longest = float(ceil(min(3.0 * sqrt(n), n / 3.0)))
    # g(0) = 0 means that the returns cancel out: then the floor makes the blocks as long as they may be.
    strength = bend / max(abs(density), ZERO * float(covariance[0]))
    return min(max(float(np.cbrt(strength * strength * n)), 1.0), longest)


def drawn(n: int, days: int, count: int, *, block: float, rng: np.random.Generator) -> NDArray[int64]:
    """Return (count, days) indices into n periods: blocks that start anywhere and wrap around at the end ([R94]).

    Each index is the successor of the one before it, or, with probability 1/``block``, a new one.
    """
    fresh = rng.random((count, days)) < 1.0 / block
    starts = rng.integers(0, n, size=(count, days))
    steps = np.arange(days)
    # Where the block of each index began; 0, the first of the row, begins one in any case.
    began = np.maximum.accumulate(np.where(fresh, steps, 0), axis=1)
    found: NDArray[int64] = (np.take_along_axis(starts, began, axis=1) + steps - began) % n
    return found


def intervals(
    returns: Floats,
    rng: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    block: float | None = None,
) -> Intervals:
    """Return percentile confidence intervals of Sharpe ratio, cagr and maximum drawdown.

    Parameters
    ----------
    returns
        (n,) daily returns, each > -1 or exactly -1, at least two.
    rng
        Where chance comes from, e.g. ``np.random.default_rng(1)``.
    resamples
        Samples of n days to draw.
    level
        Share of them between the bounds, 0.95 is 95 %.
    block
        Mean length of a block, days >= 1; None: `block_length`.

    Raises
    ------
    ValueError
        For fewer than two returns, returns below -1 or not finite, or settings out of bounds.
    """
    _check(returns)
    if len(returns) < 2 or not 0.0 < level < 1.0:
        raise ValueError(
            f"{len(returns)} daily returns, level {level}: expected at least 2, and a level between 0 and 1"
        )
    mean_block = _block(returns, block)
    samples = _samples(returns, len(returns), resamples, block=mean_block, rng=rng)
    figures = np.concatenate([_figures(sample) for sample in samples], axis=1)
    points = _figures(returns[None, :])[:, 0]
    tail = (1.0 - level) / 2.0
    bounds = np.quantile(figures, (tail, 1.0 - tail), axis=1)
    of = [
        Interval(point=float(points[i]), low=float(bounds[0, i]), high=float(bounds[1, i]), level=level)
        for i in range(3)
    ]
    return Intervals(
        sharpe=of[0] if float(returns.std()) > ZERO else None,
        cagr=of[1],
        max_drawdown=of[2],
        block_days=mean_block,
        resamples=resamples,
        days=len(returns),
    )


def paths(
    returns: Floats,
    rng: np.random.Generator,
    *,
    count: int = RESAMPLES,
    days: int | None = None,
    block: float | None = None,
) -> Paths:
    """Return quantiles of ``count`` paths of ``days`` days (None: as many as the sample has), drawn from the sample.

    Parameters and errors as in `intervals`. All paths are kept for the fan: count × days is bounded by `FAN_MAX`.
    """
    _check(returns)
    horizon = len(returns) if days is None else days
    if horizon < 1 or count * (horizon + 1) > FAN_MAX:
        raise ValueError(
            f"{count} paths of {horizon} days: expected at least one day and at most {FAN_MAX} values in all"
        )
    mean_block = _block(returns, block)
    values = np.ones((count, horizon + 1))
    at = 0
    for sample in _samples(returns, horizon, count, block=mean_block, rng=rng):
        np.cumprod(1.0 + sample, axis=1, out=values[at : at + len(sample), 1:])
        at += len(sample)
    deepest = _deepest(values)
    own = float(_deepest(np.concatenate(([1.0], np.cumprod(1.0 + returns)))[None, :])[0])
    fan = np.quantile(values, QUANTILES, axis=0)
    return Paths(
        quantiles=QUANTILES,
        final=tuple(float(one) for one in fan[:, -1]),
        drawdown=tuple(float(one) for one in np.quantile(deepest, QUANTILES)),
        fan=tuple(tuple(float(one) for one in row) for row in fan),
        loss=float(np.mean(values[:, -1] < 1.0)),
        worse_drawdown=float(np.mean(deepest < own - ZERO)),
        block_days=mean_block,
        paths=count,
        days=horizon,
    )


def _samples(returns: Floats, days: int, count: int, *, block: float, rng: np.random.Generator) -> Iterator[Floats]:
    """Yield (some, days) samples of returns until there are ``count``."""
    if count < 1 or count * days > ELEMENTS_MAX:
        raise ValueError(f"{count} samples of {days} days: expected at least 1 and {ELEMENTS_MAX} days in all at most")
    step = max(CHUNK // days, 1)
    for start in range(0, count, step):
        yield returns[drawn(len(returns), days, min(step, count - start), block=block, rng=rng)]


def _figures(sample: Floats) -> Floats:
    """Return (3, m) Sharpe ratio, cagr and maximum drawdown of (m, n) daily returns; a ratio over nothing is 0."""
    m, n = sample.shape
    deviation = sample.std(axis=1, ddof=1)
    plain = np.zeros(m)
    np.divide(sample.mean(axis=1), deviation, out=plain, where=deviation > ZERO)
    values = np.ones((m, n + 1))
    np.cumprod(1.0 + sample, axis=1, out=values[:, 1:])
    with np.errstate(over="ignore"):
        yearly = np.power(values[:, -1], DAYS_PER_YEAR / n) - 1.0
    yearly = np.minimum(yearly, np.finfo(float64).max)  # a few lucky days promise more than a float can hold
    return np.stack((plain * sqrt(DAYS_PER_YEAR), yearly, _deepest(values)))


def _deepest(values: Floats) -> Floats:
    """Return (m,) maximum drawdown, <= 0, of (m, n) values that start at 1."""
    deepest: Floats = (values / np.maximum.accumulate(values, axis=1) - 1.0).min(axis=1)
    return deepest


def _block(returns: Floats, block: float | None) -> float:
    mean = block_length(returns) if block is None else float(block)
    if not (np.isfinite(mean) and mean >= 1.0):
        raise ValueError(f"block {mean}: a block has at least one day on average")
    return mean


def _check(returns: Floats) -> None:
    if returns.ndim != 1 or not len(returns) or not (np.isfinite(returns) & (returns >= -1.0)).all():
        raise ValueError(f"returns {returns.shape} must be one finite number >= -1 per day, and at least one")
