"""A strategy that always wants an order in every asset: buy what is not held, sell what is."""

from daemon.domain.signal import NoDecision, Targets, View

SHARE = 0.9


class Swing:
    """Each asset goes to its equal share of 0.9, or to nothing once half of that is held."""

    def decide(self, view: View, params: dict[str, object]) -> Targets | NoDecision:
        share = SHARE / len(view.symbols)
        weights = tuple(0.0 if held >= share / 2 else share for held in view.weights)
        return Targets(view.symbols, weights, status="swing", rung="warm")
