"""jesse through ``jesse.research.backtest``, spot, one route a pair; the whole call is timed, as there is no inner one.

``fast_mode`` is its faster simulation; it is what we are compared with. The averages come from jesse's own indicators over
the last candles, its own idiom. A market order fills at the close of the candle it is made on.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import kit
import numpy as np

EXCHANGE = "Bybit Spot"
WINDOW = 240
"""Candles that an average is computed from: after these an EMA of 20 has forgotten where it began, to 1e-10."""


def candles(bars: np.ndarray, i: int) -> np.ndarray:
    """Return jesse's columns: timestamp open close high low volume."""
    times = kit.START_MS + kit.BAR_MS * np.arange(len(bars), dtype=np.float64)
    return np.column_stack([times, bars[:, i, 0], bars[:, i, 3], bars[:, i, 1], bars[:, i, 2], bars[:, i, 4]])


def prepare(case: kit.Case, bars: np.ndarray, scratch: Path) -> Callable[[], kit.Repeat]:
    import jesse.helpers as jh
    import jesse.indicators as ta
    from jesse.research import backtest
    from jesse.strategies import Strategy

    share = kit.SHARE / case.assets

    class Nothing(Strategy):
        def should_long(self) -> bool:
            return False

        def go_long(self) -> None: ...

        def should_cancel_entry(self) -> bool:
            return False

    class LongFlat(Strategy):
        def rising(self) -> bool:
            recent = self.candles[-WINDOW:]
            return len(recent) >= kit.SLOW and ta.ema(recent, kit.FAST) > ta.ema(recent, kit.SLOW)

        def should_long(self) -> bool:
            return bool(self.rising())

        def go_long(self) -> None:
            self.buy = share * self.portfolio_value / self.price, self.price

        def update_position(self) -> None:
            if not self.rising():
                self.liquidate()

        def should_cancel_entry(self) -> bool:
            return True

    strategy = LongFlat if case.kind == "ema" else Nothing
    config = {
        "starting_balance": kit.CAPITAL, "fee": kit.FEE, "type": "spot", "exchange": EXCHANGE, "warm_up_candles": 0,
    }  # fmt: skip
    pairs = [f"{base}-USDT" for base in case.symbols]
    routes = [{"exchange": EXCHANGE, "strategy": strategy, "symbol": pair, "timeframe": "1m"} for pair in pairs]
    data = [candles(bars, i) for i in range(case.assets)]

    def once() -> kit.Repeat:
        given = {
            jh.key(EXCHANGE, pair): {"exchange": EXCHANGE, "symbol": pair, "candles": data[i].copy()}
            for i, pair in enumerate(pairs)
        }
        with kit.Stopwatch() as watch:
            result = backtest(config, routes, [], given, fast_mode=True)
        metrics = result["metrics"]
        trades = int(metrics.get("total", 0))
        equity = float(metrics.get("finishing_balance", kit.CAPITAL))
        return kit.Repeat(watch.seconds, watch.cpu_s, 2 * trades, equity, f"{trades} round trips")

    return once


if __name__ == "__main__":
    sys.exit(kit.serve("jesse", prepare))
