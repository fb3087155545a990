"""Result folders for the report's tests, in the format that DESIGN A8 and docs/reports.md agree on.

The books are kept honestly: prices walk, weights are traded to at each decision with a fee, and equity, attribution, fills and
benchmarks follow from the same trades, so sums can be asserted.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

Array = NDArray[np.float64]
Tree = dict[str, Any]

START_NS = 1_704_067_200_000_000_000  # 2024-01-01T00:00Z
HOUR_NS = 3_600_000_000_000
PAIRS = ("BTC/USDT", "ETH/USDT", "SOL/USDT")
FEE = 0.001
INITIAL = 100_000.0
COVERAGE = [
    {"nominal": 0.5, "empirical": 0.52, "n": 260},
    {"nominal": 0.8, "empirical": 0.79, "n": 260},
    {"nominal": 0.9, "empirical": 0.893, "n": 260},
    {"nominal": 0.95, "empirical": 0.935, "n": 260},
]


class Plan(NamedTuple):
    """What a synthetic run looks like."""

    pairs: tuple[str, ...] = PAIRS
    bars: int = 24 * 90
    bar_ns: int = HOUR_NS
    every: int = 24
    """Bars between decisions."""
    seed: int = 1
    drift: float = 0.00002
    """Mean return a bar."""
    optional: bool = True
    """Whether ``benchmarks.parquet`` and ``attribution.parquet`` are written."""
    params: Tree | None = None
    forecasts: bool = True
    start_ns: int = START_NS


class Books(NamedTuple):
    """What was written: equity (n_bars + 1,), weights (n_decisions, n_pairs), fees and the number of fills."""

    equity: Array
    weights: Array
    fees: float
    fills: int


def write_run(folder: Path, plan: Plan | None = None) -> Books:
    """Write a whole result folder and return what is in it."""
    plan = plan or Plan()
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(plan.seed)
    n = len(plan.pairs)
    market = rng.normal(plan.drift, 0.006, (plan.bars, 1))
    returns = np.exp(market * rng.uniform(0.6, 1.4, n) + rng.normal(0.0, 0.003, (plan.bars, n))) - 1.0
    prices = 100.0 * np.cumprod(1.0 + returns, axis=0)
    times = plan.start_ns + plan.bar_ns * np.arange(plan.bars + 1, dtype=np.int64)

    units, cash = np.zeros(n), INITIAL
    equity, cashes = [INITIAL], [INITIAL]
    pnl, profits = np.zeros(n), [np.zeros(n)]
    fills: list[tuple[int, str, str, float, float, float]] = []
    decided: list[tuple[int, Array, Array, float]] = []
    before = np.full(n, 100.0)
    for at in range(plan.bars):
        price = prices[at]
        pnl = pnl + units * (price - before)
        before = price
        value = cash + float(units @ price)
        if at % plan.every == 0 and at:
            target = rng.dirichlet(np.ones(n + 1))[:n] * 0.9
            old = units * price / value
            for one in range(n):
                change = float(target[one] * value / price[one] - units[one])
                fee = abs(change) * price[one] * FEE
                units[one] += change
                cash -= change * price[one] + fee
                pnl[one] -= fee
                side = "buy" if change > 0 else "sell"
                fills.append((int(times[at + 1]), plan.pairs[one], side, abs(change), float(price[one]), fee))
            value = cash + float(units @ price)
            decided.append((at, target, units * price / value, float(np.abs(target - old).sum())))
        equity.append(value)
        cashes.append(cash)
        profits.append(pnl.copy())

    curve = np.asarray(equity)
    weights = np.asarray([one[2] for one in decided]).reshape(-1, n)
    _write(
        folder / "equity.parquet", times, {"equity": curve, "cash": np.asarray(cashes), "flow": np.zeros(len(curve))}
    )
    _fills(folder / "fills.parquet", fills)
    moments = np.asarray([times[one[0] + 1] for one in decided], dtype=np.int64)
    held = {pair: weights[:, i] for i, pair in enumerate(plan.pairs)}
    _write(folder / "weights.parquet", moments, {**held, "cash": 1.0 - weights.sum(axis=1)})
    _decisions(folder / "decisions.parquet", plan, decided, (moments, prices, curve, rng))
    curves = _benchmarks(prices, plan)
    if plan.optional:
        _write(folder / "benchmarks.parquet", times, curves)
        _write(
            folder / "attribution.parquet",
            times,
            {pair: np.asarray(profits)[:, i] for i, pair in enumerate(plan.pairs)},
        )
    fees = math.fsum(one[5] for one in fills)
    books = Books(curve, weights, fees, len(fills))
    _result(folder / "result.json", plan, books, curves, turnover=math.fsum(one[3] for one in decided))
    (folder / "timing.json").write_text('{"seconds": 1.5, "bars_per_second": 1440.0}', encoding="utf-8")
    return books


def change_result(folder: Path, **changes: object) -> None:
    """Write other values into ``result.json``; ``None`` removes a key."""
    path = folder / "result.json"
    document = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps({k: v for k, v in document.items() if v is not None}), encoding="utf-8")


def change_column(path: Path, name: str, column: object) -> None:
    """Replace a column of a parquet file, or drop it with ``None``."""
    table: Any = parquet.read_table(path)
    at = table.column_names.index(name)
    table = (
        table.remove_column(at)
        if column is None
        else table.set_column(at, name, column if isinstance(column, pa.Array | pa.ChunkedArray) else pa.array(column))
    )
    parquet.write_table(table, path)


def figures(curve: Array, plan: Plan) -> Tree:
    """Return the metrics of one curve, written out by hand (DESIGN A8): daily returns, 365 days, zero rate."""
    per_day = max(1, 24 * HOUR_NS // plan.bar_ns)
    daily = curve[[*range(0, len(curve) - 1, per_day), len(curve) - 1]]
    returns = daily[1:] / daily[:-1] - 1.0
    years = plan.bars * plan.bar_ns / (365 * 24 * HOUR_NS)
    total = float(curve[-1] / curve[0] - 1.0)
    deviation = float(np.std(returns, ddof=1)) if len(returns) > 1 else math.nan
    down = float(np.sqrt(np.mean(np.minimum(returns, 0.0) ** 2)))
    cagr = (1.0 + total) ** (1.0 / years) - 1.0
    drawdown = float(np.min(curve / np.maximum.accumulate(curve) - 1.0))
    named = {
        "total_return": total,
        "cagr": cagr,
        "volatility": deviation * math.sqrt(365),
        "sharpe": float(np.mean(returns)) / deviation * math.sqrt(365) if deviation else None,
        "sortino": float(np.mean(returns)) / down * math.sqrt(365) if down else None,
        "calmar": cagr / abs(drawdown) if drawdown else None,
        "max_drawdown": drawdown,
        "win_rate": float(np.mean(returns > 0)),
    }
    return {key: value if value is not None and math.isfinite(value) else None for key, value in named.items()}


def _result(path: Path, plan: Plan, books: Books, curves: dict[str, Array], *, turnover: float) -> None:
    gross = books.weights.sum(axis=1)
    document = {
        "start": _iso(plan.start_ns),
        "end": _iso(plan.start_ns + plan.bars * plan.bar_ns),
        "symbols": list(plan.pairs),
        "quote": "USDT",
        "bar": f"{plan.bar_ns // HOUR_NS}h",
        "bars": plan.bars,
        "decisions": len(books.weights),
        "orders": books.fills,
        "fills": books.fills,
        "halts": 0,
        "initial_equity": f"{INITIAL:.2f}",
        "final_equity": repr(float(books.equity[-1])),
        **figures(books.equity, plan),
        "schema": 1,
        "turnover": turnover / max(1, -(-plan.bars * plan.bar_ns // (24 * HOUR_NS))),
        "fees": f"{books.fees:.8f}",
        "slippage_cost": "12.50",
        "avg_gross_exposure": float(gross.mean()) if len(gross) else 0.0,
        "benchmarks": {name: figures(curve, plan) for name, curve in curves.items()},
        "forecast": {
            "skill": 0.012,
            "rmse": 0.031,
            "mae": 0.022,
            "mape": 1.7,
            "directional_accuracy": 0.52,
            "coverage_90": 0.893,
            "calibration": COVERAGE if plan.forecasts else [],
            "n": 260,
        },
        "params": plan.params
        if plan.params is not None
        else {"bar": "1h", "forecast": {"model": "ewma", "horizon_bars": 24}, "risk": {"max_weight": 0.3}},
        "config_hash": "c0ffee" * 8,
        "data_hash": "da7a" * 12,
        "code_version": "0.1.0+abc",
    }
    path.write_text(json.dumps(document, allow_nan=False), encoding="utf-8")


def _decisions(path: Path, plan: Plan, decided: list[tuple[int, Array, Array, float]], rest: tuple[Any, ...]) -> None:
    moments, prices, curve, rng = rest
    n, rows = len(plan.pairs), len(decided)
    realised = np.full((rows, n), np.nan)
    for row, (at, *_) in enumerate(decided):
        if at + plan.every < plan.bars:
            realised[row] = prices[at + plan.every] / prices[at] - 1.0
    scale = np.full((rows, n), 0.033)
    mean = np.nan_to_num(realised) * 0.1 + rng.normal(0.0, 0.01, (rows, n))
    if not plan.forecasts:
        mean, scale = np.full((rows, n), np.nan), np.full((rows, n), np.nan)
    columns: dict[str, Any] = {
        "seq": np.arange(rows, dtype=np.int64),
        "outcome": ["submitted"] * rows,
        "status": ["optimal"] * rows,
        "detail": [""] * rows,
        "approved": np.full(rows, n, dtype=np.int64),
        "refused": np.zeros(rows, dtype=np.int64),
        "equity": np.asarray([curve[one[0] + 1] for one in decided]),
        "turnover": np.asarray([one[3] for one in decided]),
    }
    for i, pair in enumerate(plan.pairs):
        columns[f"target:{pair}"] = np.asarray([one[1][i] for one in decided])
        columns[f"mean:{pair}"] = mean[:, i] * 0.5
        columns[f"raw_mean:{pair}"] = mean[:, i]
        columns[f"scale:{pair}"] = scale[:, i]
        columns[f"interval_90:{pair}"] = scale[:, i] * 1.7
        columns[f"realised:{pair}"] = realised[:, i]
    _write(path, moments, columns)


def _fills(path: Path, fills: list[tuple[int, str, str, float, float, float]]) -> None:
    _write(
        path,
        np.asarray([one[0] for one in fills], dtype=np.int64),
        {
            "pair": pa.array([one[1] for one in fills], pa.string()),
            "side": pa.array([one[2] for one in fills], pa.string()),
            "qty": pa.array([one[3] for one in fills], pa.float64()),
            "price": pa.array([one[4] for one in fills], pa.float64()),
            "fee": pa.array([one[5] for one in fills], pa.float64()),
            "fee_asset": pa.array(["USDT"] * len(fills), pa.string()),
            "order_id": pa.array([f"b{at:025d}" for at in range(len(fills))], pa.string()),
        },
    )


def _benchmarks(prices: NDArray[Any], plan: Plan) -> dict[str, Array]:
    relative = np.concatenate([np.ones((1, len(plan.pairs))), prices / 100.0])
    steps = (relative[1:] / relative[:-1]).mean(axis=1)
    return {
        "equal_weight": INITIAL * np.concatenate([[1.0], np.cumprod(steps)]),
        "buy_and_hold": INITIAL * relative.mean(axis=1),
        "cash": np.full(plan.bars + 1, INITIAL),
    }


def _write(path: Path, times: NDArray[np.int64], columns: dict[str, Any]) -> None:
    dates = pa.array(times, pa.int64()).cast(pa.timestamp("ns", "UTC"))
    parquet.write_table(pa.table({"date": dates, **columns}), path)


def _iso(ns: int) -> str:
    return str(np.datetime64(ns, "ns").astype("datetime64[s]")) + "Z"
