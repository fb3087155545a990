"""Momentum: hold what has risen, each asset at the same risk.

T. Moskowitz, Y. H. Ooi, L. H. Pedersen, "Time series momentum", Journal of Financial Economics 104 (2012) 228-250,
equation 5: each of n assets gets sign(r)·target_volatility / sigma / n, where r is its return over the lookback and
sigma its annual volatility. Spot cannot be short, so a negative sign is no position. ``top`` adds the cross-section
(N. Jegadeesh, S. Titman, Journal of Finance 48 (1993) 65-91): only the strongest are held.
"""

from typing import Annotated, Final

import msgspec
import numpy as np

from daemon.domain.signal import NoDecision, Targets, View
from strategies.examples.sizing import Bars, Sizing, closes_of, read_params, targets_of

NS_PER_YEAR: Final = 365 * 86_400 * 1_000_000_000
SIGMA_MIN: Final = 1e-9
"""An asset that moves less than this per bar (fraction) does not move: it is not held."""


class MomentumParams(Sizing, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``lookback`` in bars; ``target_volatility`` of each position, per year; ``top`` assets at most, 0 = all."""

    lookback: Bars = 168
    target_volatility: Annotated[float, msgspec.Meta(gt=0.0, le=10.0)] = 0.40
    top: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0


class Momentum:
    """Time-series momentum, scaled by volatility; implements ``Strategy``, keeps nothing between decisions."""

    def decide(self, view: View, params: dict[str, object]) -> Targets | NoDecision:
        """Return the weights; NoDecision until an asset has ``lookback`` + 1 bars. Raises ValueError on wrong parameters."""
        chosen = read_params(params, MomentumParams)
        closes = closes_of(view, chosen.lookback + 1)
        if isinstance(closes, NoDecision):
            return closes
        steps = np.log(closes.values[:, 1:] / closes.values[:, :-1])
        sigma = np.sqrt(np.mean(np.square(steps), axis=1))
        risen = closes.values[:, -1] / closes.values[:, 0] - 1.0
        held = (risen > 0.0) & (sigma > SIGMA_MIN)
        count = int(closes.usable.sum())
        if 0 < chosen.top < count:
            strength = np.where(held, risen / np.maximum(sigma, SIGMA_MIN), -np.inf)
            held &= np.argsort(np.argsort(-strength, kind="stable"), kind="stable") < chosen.top
            count = chosen.top
        yearly = np.maximum(sigma, SIGMA_MIN) * np.sqrt(NS_PER_YEAR / view.bar_ns)
        wanted = np.where(held, chosen.target_volatility / yearly / count, 0.0)
        return targets_of(view, wanted, closes.usable, sizing=chosen, status="momentum")
