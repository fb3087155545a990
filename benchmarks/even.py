"""A strategy that wants the same share of every asset, for ever."""

from daemon.domain.signal import NoDecision, Targets, View

SHARE = 0.9


class Even:
    """Equal weights that sum to 0.9, whatever the market does."""

    def decide(self, view: View, params: dict[str, object]) -> Targets | NoDecision:
        n = len(view.symbols)
        return Targets(view.symbols, (SHARE / n,) * n, status="even", rung="warm")
