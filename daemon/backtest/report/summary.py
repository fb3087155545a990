"""The tables of one run: what the portfolio was first, then the figures people compare, beside the benchmarks."""

from typing import Final

import numpy as np

from daemon.backtest.metrics import ZERO, daily_values, returns_of
from daemon.backtest.report.columns import Array, Words
from daemon.backtest.report.folder import Run, Tree, number
from daemon.backtest.report.grids import Grid, Line, Style, plain, written
from daemon.backtest.report.series import benchmark_units, deepest, fee_in_quote, minute, units

RUN: Final = "Run"
"""The run's column: the same for the same inputs, so not its folder's name."""
PAIRS_SHOWN_MAX: Final = 50
"""Rows of the table of pairs; the rest is summed in one."""

PORTFOLIO: Final = (
    Line("avg_gross_exposure", "Average gross exposure", "percent"),
    Line("turnover", "Turnover a day", "percent", -1),
    Line("fees", "Fees", "money", -1),
    Line("slippage_cost", "Slippage cost", "money", -1),
    Line("halts", "Halts", "count", -1),
    Line("outages", "Outages in the data", "count"),
)
ACTIVITY: Final = (
    Line("bars", "Bars", "count"),
    Line("decisions", "Decisions", "count"),
    Line("orders", "Orders", "count"),
    Line("orders_refused", "Orders refused by the gate", "count", -1),
    Line("fills", "Fills", "count"),
)
PERFORMANCE: Final = (
    Line("initial_equity", "Starting balance", "money"),
    Line("final_equity", "Final balance", "money", 1),
    Line("total_return", "Total profit", "percent", 1),
    Line("cagr", "CAGR", "percent", 1),
    Line("volatility", "Volatility a year", "percent", -1),
    Line("sharpe", "Sharpe", "ratio", 1),
    Line("sortino", "Sortino", "ratio", 1),
    Line("calmar", "Calmar", "ratio", 1),
    Line("max_drawdown", "Max drawdown", "percent", 1),
    Line("win_rate", "Win days", "percent", 1),
)
FORECAST: Final = (
    Line("skill", "Skill against the naive forecast", "percent", 1),
    Line("rmse", "RMSE", "number", -1),
    Line("mae", "MAE", "number", -1),
    Line("mape", "MAPE", "number", -1),
    Line("directional_accuracy", "Right direction", "percent", 1),
    Line("coverage_90", "Coverage of the 90 % interval", "percent"),
)
REQUIRED: Final = frozenset({"avg_gross_exposure", "turnover", "fees", "slippage_cost", "orders", "fills"})
"""Figures that every result has (DESIGN A8): shown as unknown where they are missing."""
BENCHMARKS: Final = {
    "equal_weight": "Equal weight",
    "buy_and_hold": "Buy and hold",
    "cash": "Cash",
    "market_cap": "Market cap",
}
"""Benchmarks in the order they are shown, under the names people read."""


def grids(run: Run) -> tuple[Grid, ...]:
    """Return the tables of a run, the most telling first."""
    forecast = forecast_grid(run)
    return (portfolio_grid(run), pairs_grid(run), performance_grid(run), *((forecast,) if forecast else ()))


def span(run: Run) -> str:
    """Return from when to when the run went, and on what bars, for a heading."""
    first, last = (str(run.result[key]).replace("T00:00:00Z", "") for key in ("start", "end"))
    return f"{first} to {last}, bars of {run.result.get('bar', 'unknown length')}"


def portfolio_grid(run: Run) -> Grid:
    """Return exposure, turnover and cost of the whole."""
    result, equity = run.result, run.equity
    start = number(result["initial_equity"])
    paid = number(result.get("fees")) + number(result.get("slippage_cost"))
    cash = np.divide(equity.cash, equity.equity, out=np.ones(len(equity.cash)), where=equity.equity > 0.0)
    after = {
        "avg_gross_exposure": ("Average cash", float(cash.mean())),
        "slippage_cost": ("Cost of trading, share of starting balance", paid / start),
    }
    rows: list[tuple[str, str]] = []
    for one in (*PORTFOLIO, *ACTIVITY):
        if one.key in result or one.key in REQUIRED:
            rows.append((one.label, written(number(result.get(one.key)), one.style)))
        if one.key in after:
            name, value = after[one.key]
            rows.append((name, written(value, "percent")))
    rows += [(f"Decisions: {plain(name)}", written(n, "count")) for name, n in _counts(run.decisions.outcome)]
    alerts = result.get("alerts")
    told: Tree = alerts if isinstance(alerts, dict) else {}
    rows += [(f"Alerts: {plain(name)}", written(number(told[name]), "count")) for name in sorted(told)]
    return Grid("portfolio", "Portfolio", ("", RUN), tuple(rows), note=f"Money in {plain(run.quote)}.")


def pairs_grid(run: Run) -> Grid:
    """Return one row per pair: weights, trading, cost and profit; largest average weight first."""
    columns = ("Pair", "Target", "Held", "Average", "Largest", "Fills", "Traded", "Fees", "Profit and loss")
    fees, unknown = fee_in_quote(run)
    at = {pair: i for i, pair in enumerate(run.pairs)}
    words, codes = run.fills.pair.coded()
    which = np.array([at.get(pair, -1) for pair in words], dtype=np.int64)[codes]
    known, n = which >= 0, len(run.pairs)

    def summed(values: Array) -> Array:
        return np.bincount(which[known], weights=values[known], minlength=n).astype(np.float64)

    held = run.held if len(run.held) else np.zeros((1, n))
    target = run.decisions.target
    table = np.stack(
        [
            _last_finite(target) if len(target) else np.full(n, np.nan),
            held[-1],
            held.mean(axis=0),
            held.max(axis=0),
            summed(np.ones(len(which))),
            summed(run.fills.qty * run.fills.price),
            summed(fees),
            profits(run),
        ],
        axis=1,
    )
    order = np.lexsort((np.arange(n), -table[:, 2]))
    shown = order if n <= PAIRS_SHOWN_MAX else order[: PAIRS_SHOWN_MAX - 1]
    styles: tuple[Style, ...] = ("percent", "percent", "percent", "percent", "count", "money", "money", "money")
    rows = [
        (plain(run.pairs[i]), *(written(float(v), style) for v, style in zip(table[i], styles, strict=True)))
        for i in shown
    ]
    if len(rest := order[len(shown) :]):
        total = table[rest].sum(axis=0)
        total[3] = np.nan  # the largest weights of several pairs were not held together
        rows.append((f"{len(rest)} more", *(written(float(v), s) for v, s in zip(total, styles, strict=True))))
    note = "Weights are shares of equity: target and held at the last decision, average and largest over all decisions."
    if unknown:
        note += f" {unknown} fees were paid in an asset without a price here and are not in these sums."
    return Grid("pairs", "Weights, trading and profit per pair", columns, tuple(rows), note=note)


def performance_grid(run: Run) -> Grid:
    """Return the rows freqtrade users know, the run beside the benchmarks."""
    named = run.result.get("benchmarks") or {}
    curves = benchmark_units(run)
    order = [*(key for key in BENCHMARKS if key in named), *sorted(key for key in named if key not in BENCHMARKS)]
    sources = [run.result, *(_benchmark(run, key) for key in order)]
    rows = [
        (one.label, *(written(number(source.get(one.key)), one.style) for source in sources))
        for one in (*PERFORMANCE, *PORTFOLIO[:4])
    ]
    extras = [_extras(run, units(run)), *(_extras(run, curves[key]) if key in curves else {} for key in order)]
    at = 1 + next(i for i, one in enumerate(PERFORMANCE) if one.key == "max_drawdown")
    labels = ("Drawdown from", "Drawdown to", "Days won, level, lost", "Average day", "Best day", "Worst day")
    rows[at:at] = [(label, *(extra.get(label, written(None, "text")) for extra in extras)) for label in labels]
    rows.insert(2, ("Absolute profit", *(written(_gain(source), "money") for source in sources)))
    rows.insert(0, ("Trades (fills)", *(written(number(source.get("fills")), "count") for source in sources)))
    columns = ("", RUN, *(plain(BENCHMARKS.get(key, key)) for key in order))
    note = "Sharpe and Sortino from daily returns × √365 at a rate of zero; drawdown over every bar."
    return Grid("performance", "Result beside the benchmarks", columns, tuple(rows), note=note)


def _benchmark(run: Run, name: str) -> dict[str, object]:
    """Return a benchmark's figures, its balances from its curve where the result does not hold them."""
    figures = (run.result.get("benchmarks") or {})[name]
    known: dict[str, object] = dict(figures) if isinstance(figures, dict) else {}
    if run.benchmarks is None or name not in run.benchmarks.names:
        return known
    curve = run.benchmarks.column(name)
    return {"initial_equity": float(curve[0]), "final_equity": float(curve[-1]), **known}


def forecast_grid(run: Run) -> Grid | None:
    """Return how good the forecasts were; None for a run without any."""
    forecast = run.result.get("forecast") or {}
    rows = [(one.label, written(number(forecast.get(one.key)), one.style)) for one in FORECAST if one.key in forecast]
    if not any(np.isfinite(number(forecast.get(one.key))) for one in FORECAST):
        return None
    return Grid("forecast", "Forecasts", ("", RUN), tuple(rows), note="Over the forecast's own horizon.")


def profits(run: Run) -> Array:
    """Return (n_pairs,) profit and loss per pair at the end, quote currency, fees included; NaN where it is not known."""
    out = np.full(len(run.pairs), np.nan)
    if run.attribution is not None and len(run.attribution.values):
        last = dict(zip(run.attribution.names, run.attribution.values[-1].tolist(), strict=True))
        for at, pair in enumerate(run.pairs):
            out[at] = last.get(pair, np.nan)
    return out


def _extras(run: Run, unit: Array) -> dict[str, str]:
    """Return what result.json does not hold, from the curve itself."""
    fall = deepest(run.equity.times, unit)
    returns = returns_of(daily_values(run.equity.times, unit)[1])
    won, lost = int((returns > ZERO).sum()), int((returns < -ZERO).sum())
    out = {"Days won, level, lost": f"{won} / {len(returns) - won - lost} / {lost}"}
    if fall.depth < 0.0:
        out |= {"Drawdown from": minute(fall.top_ns), "Drawdown to": minute(fall.bottom_ns)}
    if len(returns):
        out |= {
            "Average day": written(float(returns.mean()), "percent"),
            "Best day": written(float(returns.max()), "percent"),
            "Worst day": written(float(returns.min()), "percent"),
        }
    return out


def _gain(figures: Tree) -> float:
    return number(figures.get("final_equity")) - number(figures.get("initial_equity"))


def _counts(words: Words) -> list[tuple[str, int]]:
    """Return how often each word appears, most often first, then by name."""
    names, codes = words.coded()
    counts = np.bincount(codes, minlength=len(names)).tolist()
    return sorted(zip(names, counts, strict=True), key=lambda one: (-one[1], one[0]))


def _last_finite(matrix: Array) -> Array:
    """Return the last row that holds a number, NaN when there is none."""
    rows = np.flatnonzero(np.isfinite(matrix).any(axis=1))
    return matrix[rows[-1]] if len(rows) else np.full(matrix.shape[1], np.nan)
