"""How likely it is that choosing the best of many trials chose noise: combinatorially symmetric cross-validation.

Bailey, Borwein, López de Prado & Zhu, The Probability of Backtest Overfitting, Journal of Computational Finance 20 (2017;
circulated since 2013), the "paper" below.
"""

from itertools import combinations
from math import comb
from typing import Final

import msgspec
import numpy as np
from numpy import float64
from numpy.typing import NDArray

from daemon.backtest.metrics import ZERO

BLOCKS: Final = 16
"""Blocks that the paper uses: 12,870 ways to choose half of them."""
BLOCKS_MAX: Final = 20
"""184,756 ways; 22 would be 705,432 and tell nothing more."""
PERIODS_MIN: Final = 2
"""Periods per block, at least."""
CHUNK: Final = 1_000_000
"""Elements of a table of ways × trials at a time: bounds the memory (a few tables of 8 MB)."""
EDGES: Final = tuple(float(edge) for edge in range(-8, 9))
"""Bounds of the histogram of logits; what lies outside is counted in the first and last bin."""

Floats = NDArray[float64]


class Overfitting(msgspec.Struct, frozen=True, kw_only=True):
    """Verdict over all ways of cutting the time in two halves, of which one chooses the trial and the other judges it.

    Attributes
    ----------
    probability
        PBO: share of the ways in which the trial chosen was no better than the median of all in the other half.
    loss
        Share in which its Sharpe ratio was negative there.
    slope, intercept
        Least squares of its Sharpe ratio there (y) on that where it was chosen (x), per period: a slope below 0 means
        that the better it looked, the worse it did. None when the x do not vary.
    chosen, judged
        Mean Sharpe ratio, per period, of the trial chosen: where it was chosen, and in the other half.
    ways, blocks, periods, trials
        Counts; ``periods`` are those used: the oldest that do not fill the blocks evenly are left out.
    counts
        Histogram of the logits between `EDGES` (one bin fewer than edges).
    """

    probability: float
    loss: float
    slope: float | None
    intercept: float | None
    chosen: float
    judged: float
    ways: int
    blocks: int
    periods: int
    trials: int
    counts: tuple[int, ...]


def overfitting(returns: Floats, *, blocks: int = BLOCKS) -> Overfitting:
    """Return the probability of backtest overfitting of (n_periods, n_trials) returns.

    The periods are cut into ``blocks`` equal blocks. For each way to choose half of them the trial with the highest
    Sharpe ratio there is looked up in the other half: with rank r of N trials, ω = r/(N + 1), logit = ln(ω/(1 - ω)).
    PBO is the share of logits <= 0. Trials that are equal share the mean of their ranks, so N copies of one trial give
    PBO 1: choosing among them told nothing. A trial whose return does not vary has a Sharpe ratio of 0.

    Raises
    ------
    ValueError
        For fewer than two trials, an odd or impossible number of blocks, too few periods, or values not finite.
    """
    if returns.ndim != 2 or returns.shape[1] < 2 or not np.isfinite(returns).all():
        raise ValueError(f"returns {returns.shape} must be finite, periods × trials, with at least two trials")
    if blocks % 2 or not 2 <= blocks <= BLOCKS_MAX:
        raise ValueError(f"blocks {blocks} must be even and within 2..{BLOCKS_MAX}")
    length = len(returns) // blocks
    if length < PERIODS_MIN:
        raise ValueError(f"{len(returns)} periods are too few for {blocks} blocks of at least {PERIODS_MIN}")
    used = returns[len(returns) - length * blocks :]
    ways = np.array(list(combinations(range(blocks), blocks // 2)), dtype=np.intp)
    chosen, judged, ranks = _judged(used.reshape(blocks, length, -1), ways)
    share = ranks / (returns.shape[1] + 1.0)
    logits = np.log(share / (1.0 - share))
    slope, intercept = _line(chosen, judged)
    counts, _ = np.histogram(np.clip(logits, EDGES[0], EDGES[-1]), bins=np.array(EDGES))
    return Overfitting(
        probability=float(np.mean(logits <= 0.0)),
        loss=float(np.mean(judged < 0.0)),
        slope=slope,
        intercept=intercept,
        chosen=float(chosen.mean()),
        judged=float(judged.mean()),
        ways=comb(blocks, blocks // 2),
        blocks=blocks,
        periods=len(used),
        trials=returns.shape[1],
        counts=tuple(int(count) for count in counts),
    )


def _judged(used: Floats, ways: NDArray[np.intp]) -> tuple[Floats, Floats, Floats]:
    """Return, per way (C,), the chosen trial's Sharpe ratio where chosen and where judged, and its rank there (1..N).

    ``used`` is (blocks, length, n_trials), ``ways`` (C, blocks / 2). A half's ratio follows from the sums of its blocks,
    so no half is ever put together.
    """
    blocks, length, n_trials = used.shape
    centred = used - used.mean(axis=(0, 1))  # squares of small numbers: no digits are lost in the difference below
    sums, squares = used.sum(axis=1), np.square(centred).sum(axis=1)
    shifted = centred.sum(axis=1)
    n = length * blocks // 2
    results = [np.empty(len(ways)) for _ in range(3)]
    step = max(CHUNK // max(n_trials, 1), 1)
    for start in range(0, len(ways), step):
        part = ways[start : start + step]
        inside = np.zeros((len(part), blocks))
        np.put_along_axis(inside, part, 1.0, axis=1)
        halves = [_ratios(half @ sums, half @ shifted, half @ squares, n) for half in (inside, 1.0 - inside)]
        rows = np.arange(len(part))
        best = halves[0].argmax(axis=1)
        outside = halves[1][rows, best]
        behind = outside[:, None] - halves[1]
        lower, equal = (behind > ZERO).sum(axis=1), (np.abs(behind) <= ZERO).sum(axis=1)
        at = slice(start, start + len(part))
        results[0][at], results[1][at], results[2][at] = halves[0][rows, best], outside, lower + (equal + 1.0) / 2.0
    return results[0], results[1], results[2]


def _ratios(total: Floats, shifted: Floats, squares: Floats, n: int) -> Floats:
    """Return Sharpe ratios from sums over n periods: of returns, of centred returns, and of their squares."""
    deviation = np.sqrt(np.maximum(squares - np.square(shifted) / n, 0.0) / (n - 1))
    found = np.zeros(total.shape)
    np.divide(total / n, deviation, out=found, where=deviation > ZERO)
    return found


def _line(x: Floats, y: Floats) -> tuple[float | None, float | None]:
    centred = x - x.mean()
    power = float(centred @ centred)
    if power <= ZERO:
        return None, None
    slope = float(centred @ y) / power
    return slope, float(y.mean()) - slope * float(x.mean())
