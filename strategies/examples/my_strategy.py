"""My strategy: hold what trades above its own average price, an equal share of each.

The configuration names it: strategy = "my_strategy:MyStrategy". Ballast asks it at every bar close, in a process of
its own: `decide` gets what is known at that moment and returns the weights it wants. Orders, limits, stops and the
ledger are not its business. Keep it a pure function of its arguments; then the backtest repeats the live decisions.
"""

import numpy as np

from daemon.domain.signal import NoDecision, NoReason, Targets, View

CLOSE = 3  # the columns of view.bars: open, high, low, close, volume
INVEST = 0.95  # largest sum of weights; the rest stays in cash (risk.min_cash is the least)


class MyStrategy:
    """One share of the portfolio for each asset above its average, nothing for the others."""

    def decide(self, view: View, params: dict[str, object]) -> Targets | NoDecision:
        """Return the weights wanted, as fractions of equity in the order of view.symbols, or why there are none."""
        # params is the table [strategy_params] of the configuration. Whatever is raised here is one line in the log,
        # and the portfolio is held as it is.
        unknown = sorted(set(params) - {"lookback"})
        lookback = params.get("lookback", 48)
        if unknown:
            raise ValueError(f"strategy_params.{unknown[0]}: unknown; known is lookback")
        if type(lookback) is not int or lookback < 2:
            raise ValueError(f"strategy_params.lookback = {lookback!r}: must be a whole number of bars, at least 2")

        # view.bars has the shape (assets, bars, 5), oldest first; the last bar is the one that has just closed.
        # An asset that was not listed yet has NaN there. Saying that it is too early is a normal answer: hold.
        if view.bars.shape[1] < lookback:
            return NoDecision(NoReason.WARMING_UP, f"{view.bars.shape[1]} of {lookback} bars")
        closes = view.bars[:, -lookback:, CLOSE]
        above = closes[:, -1] > closes.mean(axis=1)  # False where anything is NaN

        # view.caps is the largest weight of each asset (0 after a stop), view.weights what is held now, view.frozen
        # whose weight must not grow. What exceeds a limit is clipped, and the log says so. `status` is a word for the
        # metrics: keep to a few.
        wanted = np.where(above, np.minimum(INVEST / len(view.symbols), view.caps), 0.0)
        wanted = np.where(view.frozen, np.minimum(wanted, view.weights), wanted)
        return Targets(symbols=view.symbols, weights=tuple(wanted.tolist()), status="my_strategy")
