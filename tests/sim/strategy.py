"""A strategy that always wants something else: much more trading than any forecast would justify."""

import hashlib

from daemon.domain.signal import NoDecision, Targets, View


class Restless:
    """Wants weights drawn from the view's time: the same view, the same wish."""

    def decide(self, view: View, params: dict[str, object]) -> Targets | NoDecision:
        """Return random weights within the caps; now and then nothing of an asset at all."""
        draws = hashlib.sha256(f"{view.ts_ns}".encode()).digest()
        weights = []
        for place, (cap, frozen, held) in enumerate(zip(view.caps, view.frozen, view.weights, strict=True)):
            wish = 0.0 if draws[place] < 40 else cap * 0.9 * draws[place] / 255
            weights.append(min(wish, held) if frozen else wish)
        return Targets(view.symbols, tuple(weights), status="restless", rung="warm")
