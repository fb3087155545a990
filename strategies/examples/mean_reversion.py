"""Mean reversion: buy what has fallen far below its own average, more the further it has fallen, up to a bound.

The score is that of M. Avellaneda and J.-H. Lee, "Statistical arbitrage in the US equities market", Quantitative
Finance 10 (2010) 761-782, section 4, with the mean and deviation of the log price over a window instead of a fitted
process: z = (log p - mean) / deviation. Spot cannot be short, so only a price below its average makes a position.
"""

from typing import Annotated

import msgspec
import numpy as np

from daemon.domain.signal import NoDecision, Targets, View
from strategies.examples.sizing import Bars, Sizing, closes_of, read_params, targets_of

DEVIATION_MIN = 1e-9
"""A price whose logarithm deviates less than this over the window does not move: its score is 0."""
Score = Annotated[float, msgspec.Meta(ge=0.0, le=100.0)]


class MeanReversionParams(Sizing, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``lookback`` in bars; a position begins at z = -``entry`` and has its whole share of ``invest`` from -``full`` on."""

    lookback: Bars = 72
    entry: Score = 1.0
    full: Score = 2.5


class MeanReversion:
    """Weights that grow with the distance below the mean; implements ``Strategy``, keeps nothing between decisions."""

    def decide(self, view: View, params: dict[str, object]) -> Targets | NoDecision:
        """Return the weights; NoDecision until an asset has ``lookback`` bars. Raises ValueError on wrong parameters."""
        chosen = read_params(params, MeanReversionParams)
        if chosen.full <= chosen.entry:
            raise ValueError(f"strategy_params.full = {chosen.full:g}: must be more than entry = {chosen.entry:g}")
        closes = closes_of(view, chosen.lookback)
        if isinstance(closes, NoDecision):
            return closes
        logs = np.log(closes.values / closes.values[:, -1:])  # against the last price, whose own logarithm is then 0
        deviation = logs.std(axis=1)
        z = np.where(deviation > DEVIATION_MIN, -logs.mean(axis=1) / np.maximum(deviation, DEVIATION_MIN), 0.0)
        depth = np.clip((-z - chosen.entry) / (chosen.full - chosen.entry), 0.0, 1.0)
        wanted = depth * (chosen.invest / int(closes.usable.sum()))
        return targets_of(view, wanted, closes.usable, sizing=chosen, status="mean_reversion")
