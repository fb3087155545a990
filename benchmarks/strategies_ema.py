"""The two strategies that the backtest benchmark gives every engine, written for ours."""

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.kit import FAST, SHARE, SLOW
from daemon.domain.signal import NoDecision, NoReason, Targets, View

WINDOW = 240
"""Bars that an average is computed from: after these an EMA of 20 has forgotten where it began, to 1e-10."""
CLOSE = 3
NOTHING = NoDecision(NoReason.PAUSED, "does nothing")
WARMING = NoDecision(NoReason.WARMING_UP, "too few bars for the slow average")
HOLD = NoDecision(NoReason.PAUSED, "what is held is what is wanted")
ALPHAS = (2.0 / (FAST + 1.0), 2.0 / (SLOW + 1.0))


class Nothing:
    """Never wants anything."""

    def decide(self, view: View, params: dict[str, object]) -> Targets | NoDecision:
        return NOTHING


class LongFlat:
    """Each asset has an equal share while its fast average is above its slow one, nothing otherwise; no rebalancing.

    The averages of the bar before are kept and moved by one close; after any other step they are computed anew from the
    window, so a restart changes nothing but the last digits.
    """

    def __init__(self) -> None:
        self._ts_ns = 0
        self._fast: list[float] = []
        self._slow: list[float] = []

    def decide(self, view: View, params: dict[str, object]) -> Targets | NoDecision:
        bars = view.bars
        if bars.shape[1] < SLOW:
            return WARMING
        rising = self._rising(view)
        share = SHARE / len(rising)
        least = share / 10
        held = [weight > least for weight in view.weights]
        if held == rising:
            return HOLD
        weights = [
            (weight if has else share) if up else 0.0
            for up, has, weight in zip(rising, held, view.weights, strict=True)
        ]
        return Targets(view.symbols, tuple(weights))

    def _rising(self, view: View) -> list[bool]:
        if view.ts_ns != self._ts_ns + view.bar_ns or len(self._fast) != len(view.symbols):
            closes = view.bars[:, -WINDOW:, CLOSE]
            self._fast, self._slow = ((closes @ average(alpha, closes.shape[1])).tolist() for alpha in ALPHAS)
        else:
            closes, (a, b) = view.bars[:, -1, CLOSE].tolist(), ALPHAS
            self._fast = [old + a * (close - old) for old, close in zip(self._fast, closes, strict=True)]
            self._slow = [old + b * (close - old) for old, close in zip(self._slow, closes, strict=True)]
        self._ts_ns = view.ts_ns
        return [fast > slow for fast, slow in zip(self._fast, self._slow, strict=True)]


def average(alpha: float, bars: int) -> NDArray[np.float64]:
    """Return the weights (bars,) of an exponential average begun at the oldest close, oldest bar first."""
    weights = alpha * (1.0 - alpha) ** np.arange(bars - 1.0, -1.0, -1.0)
    weights[0] = (1.0 - alpha) ** (bars - 1)
    return weights
