"""cvxportfolio's MarketSimulator with single-period optimisation: long only, caps, linear costs; forecasts are given.

``backtest`` is timed. Forecasts are the shared momentum numbers, handed over as a table; the covariance is its own rolling
estimate, as ours is ours.
"""

import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import cvxportfolio as cvx
import kit
import numpy as np
import pandas as pd


def prepare(case: kit.Case, bars: np.ndarray, scratch: Path) -> Callable[[], kit.Repeat]:
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    close = bars[:, :, 3]
    # A row of cvxportfolio's returns is what the period that begins at its date will bring, its forecast what was
    # known then.
    dates = pd.date_range("2022-01-01", periods=len(close) - 1, freq="1D", tz="UTC")
    names = list(case.symbols)
    returns = pd.DataFrame(close[1:] / close[:-1] - 1.0, index=dates, columns=names)
    forecasts = pd.DataFrame(kit.momentum(close)[:-1], index=dates, columns=names)
    returns["cash"] = 0.0
    first, last = dates[-case.bars - 1], dates[-1]

    def once() -> kit.Repeat:
        market = cvx.UserProvidedMarketData(
            returns=returns.copy(), cash_key="cash", min_history=pd.Timedelta(days=kit.MOMENTUM), online_usage=False
        )
        cost = cvx.TransactionCost(a=kit.FEE, b=None)
        simulator = cvx.MarketSimulator(market_data=market, costs=[cost])
        objective = cvx.ReturnsForecast(r_hat=forecasts) - kit.RISK_AVERSION * cvx.FullCovariance()
        limits = [cvx.LongOnly(), cvx.LeverageLimit(1.0 - kit.MIN_CASH), cvx.MaxWeights(kit.WEIGHT_MAX)]
        policy = cvx.SinglePeriodOptimization(objective - cvx.TransactionCost(a=kit.FEE, b=None), limits)
        with kit.Stopwatch() as watch:
            result = simulator.backtest(policy, start_time=first, end_time=last, initial_value=kit.CAPITAL)
        sizes = result.u.iloc[:, :-1].abs().div(result.v.iloc[:-1], axis=0)
        orders = int((sizes > 2.0 * kit.FEE).to_numpy().sum())  # smaller ones our planner leaves alone
        return kit.Repeat(watch.seconds, watch.cpu_s, orders, float(result.v.iloc[-1]), f"{len(result.u)} periods")

    return once


if __name__ == "__main__":
    sys.exit(kit.serve("cvxportfolio", prepare))
