"""The two strategies that the backtest benchmark gives every engine, written for ours."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.kit import FAST, SHARE, SLOW
from daemon.domain.signal import NoDecision, NoReason, Targets, View

WINDOW = 240
"""Bars that an average is computed from: after these an EMA of 20 has forgotten where it began, to 1e-10."""
CLOSE = 3
NOTHING = NoDecision(NoReason.PAUSED, "does nothing")
WARMING = NoDecision(NoReason.WARMING_UP, "too few bars for the slow average")


class Nothing:
    """Never wants anything."""

    def decide(self, view: View, params: dict[str, object]) -> Targets | NoDecision:
        return NOTHING


class LongFlat:
    """Each asset has an equal share while its fast average is above its slow one, nothing otherwise; no rebalancing."""

    def decide(self, view: View, params: dict[str, object]) -> Targets | NoDecision:
        bars = min(view.bars.shape[1], WINDOW)
        if bars < SLOW:
            return WARMING
        leads = (view.bars[:, -bars:, CLOSE] @ lead(bars)).tolist()
        share = SHARE / len(view.symbols)
        weights = tuple(
            [
                (held if held > share / 10 else share) if up > 0.0 else 0.0
                for up, held in zip(leads, view.weights, strict=True)
            ]
        )
        return Targets(view.symbols, weights)


@lru_cache(maxsize=WINDOW + 1)
def lead(bars: int) -> NDArray[np.float64]:
    """Return the weights (bars,) of fast less slow average, oldest bar first: both recursions begun at the oldest close."""
    fast, slow = (average(2.0 / (length + 1.0), bars) for length in (FAST, SLOW))
    return fast - slow


def average(alpha: float, bars: int) -> NDArray[np.float64]:
    """Return the weights (bars,) of an exponential average begun at the oldest close."""
    weights = alpha * (1.0 - alpha) ** np.arange(bars - 1.0, -1.0, -1.0)
    weights[0] = (1.0 - alpha) ** (bars - 1)
    return weights
