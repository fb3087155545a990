"""A portfolio backtest with the LSTM forecasting every period, against the same LSTM alone: 30 assets, 500 periods.

Alone means: the same windows in the same batches, features included, and nothing else. The model is of full size and untrained;
its opinions are as good as any to trade on. In turns on one thread; a third run asks for each close by itself, which must decide
the same to the last bit.
"""

import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.alone import alone
from benchmarks.peers import kit
from benchmarks.peers.drive_ballast import settings_text
from benchmarks.peers.race import DATA, judge
from benchmarks.untrained import LOOKBACK, publish_untrained

ROUNDS = 5
ASSETS, PERIODS = 30, 500
RATIO_MIN = 0.7
OPINION = 0.3
"""Deviation of the network's weights: enough for expectations of both signs, and trades worth their cost."""
RESULTS = Path(".bench") / "portfolio_lstm.json"


def prepared(case: kit.Case, folder: Path) -> dict[str, Callable[[], tuple[kit.Repeat, Any]]]:
    """Return the three contestants by name; each call is one repeat, with the steps that were decided."""
    from daemon.backtest import run as backtests
    from daemon.backtest.ahead import AHEAD_CLOSES, Coming, ahead
    from daemon.backtest.history import make_panel
    from daemon.settings import load_settings
    from strategies.artifact import load_forecaster
    from strategies.forecaster import Batched

    bars = np.load(kit.data_file(case, DATA))
    file = folder / "bench.toml"
    file.write_text(settings_text(case, folder, model="lstm", lookback=LOOKBACK))
    settings = load_settings([file], {})
    models = folder / "models"
    publish_untrained(models, settings.bar_ns, 1, settings.universe, opinion=OPINION)
    open_ns = kit.START_MS * 1_000_000 + settings.bar_ns * np.arange(len(bars), dtype=np.int64)
    panel = make_panel(settings.universe, settings.bar_ns, open_ns, bars)
    backtests.inline_worker(settings, models)  # bounds the threads, of what runs alone too
    model = load_forecaster("lstm", models, 1, lookback=LOOKBACK)
    if not isinstance(model, Batched):
        raise TypeError("the LSTM answers one close at a time only")

    def lstm() -> tuple[kit.Repeat, Any]:
        coming = Coming(panel, every=1)
        with kit.Stopwatch() as watch:
            for first in range(kit.HISTORY, len(bars), AHEAD_CLOSES):
                places = range(first, min(first + AHEAD_CLOSES, len(bars)))
                model.predict_many([coming.window(place, LOOKBACK + 1) for place in places])
        return kit.Repeat(watch.seconds, watch.cpu_s, 0, 0.0), None

    def whole(*, batched: bool) -> tuple[kit.Repeat, Any]:
        worker = backtests.inline_worker(settings, models)
        asked = ahead(worker, lambda: Coming(panel, every=1)) if batched else worker
        session = backtests.prepare(settings, panel, first=kit.HISTORY, worker=asked)
        with kit.Stopwatch() as watch:
            record = session.run()
        return kit.Repeat(watch.seconds, watch.cpu_s, record.orders, float(record.equity[-1])), record.steps

    return {"LSTM alone": lstm, "backtest": lambda: whole(batched=True), "by itself": lambda: whole(batched=False)}


def run(rounds: int = ROUNDS, *, assets: int = ASSETS, periods: int = PERIODS) -> dict[str, Any]:
    case = kit.Case("portfolio", assets, periods)
    with tempfile.TemporaryDirectory(prefix="ballast-bench-") as name:
        contestants = prepared(case, Path(name))
        steps = {who: once()[1] for who, once in contestants.items()}  # not counted: it warms up
        seen: dict[str, list[kit.Repeat]] = {who: [] for who in contestants}
        for _ in range(rounds):
            for who, once in contestants.items():
                seen[who].append(once()[0])
    if steps["backtest"] != steps["by itself"]:
        raise RuntimeError("asked ahead and by itself the backtest decided differently")

    def rates(who: str, of: Callable[[kit.Repeat], float]) -> list[float]:
        return [case.work / of(one) for one in seen[who]]

    def ratios(of: Callable[[kit.Repeat], float]) -> list[float]:
        pairs = zip(rates("backtest", of), rates("LSTM alone", of), strict=True)
        return [ours / model for ours, model in pairs]

    ratio, verdict = judge(ratios(lambda one: one.seconds), RATIO_MIN)
    found = {
        "name": "portfolio_lstm",
        "case": case.name,
        "bar": RATIO_MIN,
        "ratio": ratio,
        "ratios": ratios(lambda one: one.seconds),
        "cpu_ratio": statistics.median(ratios(lambda one: one.cpu_s)),
        "verdict": verdict,
        "rate": {who: statistics.median(rates(who, lambda one: one.seconds)) for who in seen},
        "cpu_rate": {who: statistics.median(rates(who, lambda one: one.cpu_s)) for who in seen},
        "orders": seen["backtest"][-1].orders,
        "final_equity": seen["backtest"][-1].final_equity,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    return found


def report(result: dict[str, Any]) -> None:
    print(f"\n{result['case']} with the LSTM every period, periods/s, medians (by CPU time in brackets)")
    for who, rate in result["rate"].items():
        print(f"  {who:12s} {rate:>8,.0f} ({result['cpu_rate'][who]:>7,.0f})")
    low, high = min(result["ratios"]), max(result["ratios"])
    print(
        f"  backtest / LSTM alone {result['ratio']:.2f} [{low:.2f}..{high:.2f}] ({result['cpu_ratio']:.2f}), "
        f"bar {result['bar']:g}: {result['verdict']}; {result['orders']:,} orders, equity {result['final_equity']:,.2f}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    return alone(run, report, argv, about=__doc__, rounds=ROUNDS, assets=ASSETS, periods=PERIODS)


if __name__ == "__main__":
    raise SystemExit(main())
