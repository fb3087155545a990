"""Our engine, as `ballast backtest` runs it, limits and stops lifted; what the engine does from the first bar to the last is timed.

Reading the history, setting up and writing the results are not, as they are not for the peers. Orders decided at a close trade
at the next open.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.peers import kit

STRATEGIES = {
    "noop": "benchmarks.strategies_ema:Nothing",
    "ema": "benchmarks.strategies_ema:LongFlat",
    "portfolio": "strategies.forecast_optimise:ForecastOptimise",
}


def settings_text(case: kit.Case, scratch: Path, *, bar: str = "", model: str = "", lookback: int = 0) -> str:
    """Return a configuration whose limits do not bind and whose venue costs nothing but the fee.

    ``bar``, ``model`` and ``lookback`` take the place of the case's own.
    """
    pairs = [f"{base}/USDT" for base in case.symbols]
    portfolio = case.kind == "portfolio"
    return f"""
instance = "bench"
universe = {json.dumps(pairs)}
bar = "{bar or ("1d" if portfolio else "1m")}"
strategy = "{STRATEGIES[case.kind]}"
state_dir = "{scratch}"
[feed]
backfill_bars = {kit.HISTORY + 1 if portfolio else 300}
[forecast]
model = "{model or ("benchmarks.given:Momentum" if portfolio else "zero")}"
lookback = {lookback or (kit.MOMENTUM if portfolio else 2)}
horizon_bars = 1
shrink = "none"
retrain_every = ""
[optimizer]
risk_tolerance = {0.5 / kit.RISK_AVERSION}
cost_bps = {1e4 * kit.FEE}
turnover_max = 2.0
turnover_max_day = 1000.0
[risk]
max_weight = {kit.WEIGHT_MAX if portfolio else 1.0}
max_order_notional = 1.0
max_orders_per_minute = 6000
min_cash = {kit.MIN_CASH if portfolio else 0.0}
stop_loss = 0.0
trailing_stop = 0.0
max_drawdown = 1.0
max_daily_loss = 1.0
cvar_limit = 1.0
[paper]
cash = {kit.CAPITAL}
fee_bps = {1e4 * kit.FEE}
[backtest]
spread_bps = 0.0
impact_bps = 0.0
participation = 1.0
"""


def prepare(case: kit.Case, bars: np.ndarray, scratch: Path) -> Callable[[], kit.Repeat]:
    from daemon.backtest import run
    from daemon.backtest.history import make_panel
    from daemon.settings import load_settings

    file = scratch / "bench.toml"
    file.write_text(settings_text(case, scratch))
    settings = load_settings([file], {})
    first = kit.HISTORY if case.kind == "portfolio" else 0
    open_ns = kit.START_MS * 1_000_000 + settings.bar_ns * np.arange(len(bars), dtype=np.int64)
    panel = make_panel(settings.universe, settings.bar_ns, open_ns, bars)

    def once() -> kit.Repeat:
        session = run.prepare(settings, panel, first=first)
        with kit.Stopwatch() as watch:
            record = session.run()
        fills = len(session.venue.fills)
        note = f"{fills} fills, {record.refused} refused, {record.halts} halts"
        return kit.Repeat(watch.seconds, watch.cpu_s, record.orders, float(record.equity[-1]), note)

    return once


if __name__ == "__main__":
    sys.exit(kit.serve("ballast", prepare))
