"""Equal weight: the same share of everything, restored when one has drifted too far.

V. DeMiguel, L. Garlappi, R. Uppal, "Optimal versus naive diversification: how inefficient is the 1/N portfolio
strategy?", Review of Financial Studies 22 (2009) 1915-1953: hard to beat out of sample, so a good first benchmark.
"""

from typing import Annotated

import msgspec
import numpy as np

from daemon.domain.signal import NoDecision, Targets, View
from strategies.examples.sizing import Sizing, closes_of, read_params, targets_of


class EqualWeightParams(Sizing, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``drift`` is how far a weight may move from its share, as a part of the share, before all are restored."""

    band: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.0
    drift: Annotated[float, msgspec.Meta(ge=0.0, le=10.0)] = 0.20


class EqualWeight:
    """1/N of ``invest`` in every asset that is listed and not capped at 0; implements ``Strategy``, keeps nothing."""

    def decide(self, view: View, params: dict[str, object]) -> Targets | NoDecision:
        """Return the weights; NoDecision while nothing is listed. Raises ValueError on wrong parameters."""
        chosen = read_params(params, EqualWeightParams)
        closes = closes_of(view, 1)
        if isinstance(closes, NoDecision):
            return closes
        w0, caps = np.array(view.weights, dtype=np.float64), np.array(view.caps, dtype=np.float64)
        shared = closes.usable & (caps > 0.0)
        share = chosen.invest / max(int(shared.sum()), 1)
        wanted = np.where(shared, np.minimum(share, caps), 0.0)
        movable = closes.usable & ~(np.array(view.frozen, dtype=np.bool_) & (wanted > w0))
        farthest = float(np.max(np.abs(wanted - w0), where=movable, initial=0.0))
        if farthest <= chosen.drift * share:
            whole = msgspec.structs.replace(chosen, invest=1.0)  # what rose is kept: it has not drifted too far yet
            return targets_of(view, w0, closes.usable, sizing=whole, status="within_drift")
        return targets_of(view, wanted, closes.usable, sizing=chosen, status="restored")
