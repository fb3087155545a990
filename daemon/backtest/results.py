"""The files of one run (DESIGN A8): same inputs, same bytes; `timing.json` alone may differ.

All dates are closes of bars, UTC. ``equity.parquet`` opens with the run's start; a fill is dated by the moment it reached the
market, so what lies at or before a row's date is in that row.
"""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from daemon.backtest.data.files import replacing
from daemon.backtest.indices import Index, buy_and_hold, cash, equal_weight, last_prices, market_cap
from daemon.backtest.metrics import Metrics, accumulated, attribution, metrics, turned_over
from daemon.backtest.run import Finished
from daemon.backtest.stats.forecast import forecast_metrics
from daemon.domain.events import Step
from daemon.domain.orders import Fill, Side
from daemon.settings import Settings, config_hash, redacted

MADE: Final = frozenset({"submitted", "refused", "no_change"})
"""Outcomes of a step in which the strategy's answer was taken."""
FORECAST: Final = ("mean", "raw_mean", "scale", "interval_90")
Tree = dict[str, Any]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class _Tables(msgspec.Struct, frozen=True):
    """What all files are cut from: rows of the curve, decisions, weights before and after, closes per row."""

    date_ns: Ints
    equity: Floats
    cash: Floats
    steps: list[Step]
    step_ns: Ints
    before: Floats
    after: Floats
    closes: Floats
    horizon_bars: int
    """Of the configuration: what a strategy without forecasts is told about too."""


def write_results(
    folder: Path,
    done: Finished,
    settings: Settings,
    *,
    seconds: float,
    supply: Floats | None = None,
) -> Tree:
    """Write every file of a run into a folder and return what ``result.json`` holds.

    Parameters
    ----------
    folder
        Made when it is not there; files of an earlier run are replaced.
    done, settings
        The run and its configuration.
    seconds
        What the run took, for ``timing.json``.
    supply
        (n_assets,) coins in circulation, NaN where unknown: adds the market-cap benchmark.

    Raises
    ------
    ConfigError
        The folder cannot be written.
    """
    tables = _tables(done, settings.forecast.horizon_bars)
    fills = done.session.venue.fills
    curves = _benchmarks(done, settings, tables, supply)
    profit = _attribution(done, tables, fills)
    result = _result(done, settings, tables, curves)
    bars = result["bars"]
    dated = {"date": _dates(tables.date_ns)}
    _write(
        folder / "equity.parquet",
        {**dated, "equity": tables.equity, "cash": tables.cash, "flow": np.zeros(len(tables.equity))},
    )
    _write(folder / "fills.parquet", _fills(fills))
    _write(folder / "weights.parquet", _weights(done, tables))
    _write(folder / "decisions.parquet", _decisions(done, tables))
    _write(folder / "benchmarks.parquet", {**dated, **{name: curve.value for name, (curve, _) in curves.items()}})
    symbols = done.panel.symbols
    _write(folder / "attribution.parquet", {**dated, **{one: profit[:, at] for at, one in enumerate(symbols)}})
    _json(folder / "result.json", result)
    _json(folder / "timing.json", {"seconds": seconds, "bars_per_second": bars / seconds if seconds > 0 else 0.0})
    return result


# ---------------------------------------------------------------------- from the record to arrays


def _tables(done: Finished, horizon_bars: int) -> _Tables:
    record, panel = done.record, done.panel
    symbols = panel.symbols
    date_ns = np.array(record.times_ns, dtype=np.int64)
    made = [at for at, step in enumerate(record.steps) if step.outcome in MADE]
    after = dict(record.weights)
    steps = [record.steps[at] for at in made]
    shape = (len(steps), len(symbols))
    rows = last_prices(panel.values[:, :, 3])
    places = np.clip((date_ns - int(panel.open_ns[0])) // panel.bar_ns - 1, 0, len(rows) - 1)
    return _Tables(
        date_ns=date_ns,
        equity=np.array([float(one) for one in record.equity]),
        cash=np.array([float(one) for one in record.cash]),
        steps=steps,
        step_ns=np.array([step.close_ns for step in steps], dtype=np.int64),
        before=np.array([step.weights for step in steps], dtype=np.float64).reshape(shape),
        after=np.array([after.get(at, record.steps[at].weights) for at in made], dtype=np.float64).reshape(shape),
        closes=rows[places],
        horizon_bars=horizon_bars,
    )


def _attribution(done: Finished, tables: _Tables, fills: list[Fill]) -> Floats:
    """Return (n_rows, n_assets) cumulative profit per asset, fees included."""
    n = len(done.panel.symbols)
    place = {symbol: at for at, symbol in enumerate(done.panel.symbols)}
    at_ns = np.array([fill.ts_event_ns for fill in fills], dtype=np.int64)
    asset = np.array([place[fill.symbol] for fill in fills], dtype=np.int64)
    qty, moved = np.zeros(len(fills)), np.zeros(len(fills))
    for number, fill in enumerate(fills):
        sign = 1 if fill.side is Side.BUY else -1
        base = fill.symbol.partition("/")[0]
        in_base = fill.fee_asset == base
        qty[number] = float(sign * fill.qty - (fill.fee if in_base else 0))
        moved[number] = float(-sign * fill.qty * fill.price - (0 if in_base else fill.fee))
    held = accumulated(tables.date_ns, at_ns, asset, qty, n)
    return attribution(held, accumulated(tables.date_ns, at_ns, asset, moved, n), tables.closes)


def _benchmarks(
    done: Finished, settings: Settings, tables: _Tables, supply: Floats | None
) -> dict[str, tuple[Index, Metrics]]:
    """Return the benchmarks on the same rows, rebalanced where the run decided, with the same fee."""
    fee = float(settings.paper.fee_bps) / 1e4
    initial = float(tables.equity[0])
    rows = np.unique(np.searchsorted(tables.date_ns, tables.step_ns))
    if not len(rows):
        rows = np.zeros(1, dtype=np.int64)
    closes = np.where(_there(done, tables), tables.closes, np.nan)
    made = {
        "equal_weight": equal_weight(closes, rows, fee_rate=fee, initial=initial),
        "buy_and_hold": buy_and_hold(closes, rows, fee_rate=fee, initial=initial),
        "cash": cash(len(tables.date_ns), initial, closes.shape[1]),
    }
    if supply is not None:
        made["market_cap"] = market_cap(closes, rows, supply, fee_rate=fee, initial=initial)
    return {name: (curve, _index_metrics(curve, tables.date_ns)) for name, curve in made.items()}


def _there(done: Finished, tables: _Tables) -> NDArray[np.bool_]:
    """Return (n_rows, n_assets) whether an asset has begun and not ended in a row."""
    present = ~np.isnan(done.panel.values[:, :, 3])
    begun = np.logical_or.accumulate(present, axis=0)
    going = np.logical_or.accumulate(present[::-1], axis=0)[::-1]
    places = (tables.date_ns - int(done.panel.open_ns[0])) // done.panel.bar_ns - 1
    return (begun & going)[np.clip(places, 0, len(present) - 1)]


def _index_metrics(curve: Index, date_ns: Ints) -> Metrics:
    return metrics(
        date_ns,
        curve.value,
        np.zeros(len(date_ns)),
        exposure=curve.exposure,
        turnover_ns=date_ns[curve.traded_rows],
        turnover=curve.turnover,
        fees=curve.fees,
        slippage_cost=0.0,
    )


# ---------------------------------------------------------------------- result.json


def _result(done: Finished, settings: Settings, tables: _Tables, curves: Mapping[str, tuple[Index, Metrics]]) -> Tree:
    record, panel, session = done.record, done.panel, done.session
    exposure = 1.0 - tables.cash / tables.equity
    own = metrics(
        tables.date_ns,
        tables.equity,
        np.zeros(len(tables.equity)),
        exposure=exposure,
        turnover_ns=tables.step_ns,
        turnover=turned_over(tables.before, tables.after),
        fees=float(session.engine.state.account.fees_quote),
        slippage_cost=float(session.venue.slippage),
    )
    return {
        "schema": 1,
        "start": _iso(int(tables.date_ns[0])),
        "end": _iso(int(tables.date_ns[-1])),
        "start_ns": int(tables.date_ns[0]),
        "end_ns": int(tables.date_ns[-1]),
        "symbols": list(panel.symbols),
        "quote": settings.quote,
        "bar": settings.bar,
        "bars": len(panel.open_ns) - done.first,
        "decisions": len(tables.steps),
        "orders": record.orders,
        "orders_refused": record.refused,
        "fills": len(session.venue.fills),
        "halts": record.halts,
        "outages": record.outages,
        "trainings": [_iso(one) for one in done.trained_ns],
        "failed_trainings": list(done.failures),
        "alerts": dict(sorted(record.alert_counts.items())),
        "initial_equity": float(tables.equity[0]),
        "final_equity": float(tables.equity[-1]),
        **msgspec.to_builtins(own),
        "benchmarks": {
            name: {"final_equity": float(curve.value[-1]), **msgspec.to_builtins(figures)}
            for name, (curve, figures) in curves.items()
        },
        "forecast": _forecast(done, tables),
        "config_hash": config_hash(settings),
        "data_hash": panel.digest,
        "code_version": version("ballast"),
        "params": redacted(settings),
    }


def _forecast(done: Finished, tables: _Tables) -> Tree:
    """Return how good the forecasts were on what came after; None where nothing was forecast.

    Errors are those of the model's own mean; intervals lie around the mean that was believed, the shrunk one.
    """
    raw, mean, width, realised = (
        _per_pair(done, tables, name) for name in ("raw_mean", "mean", "interval_90", "realised")
    )
    known = np.isfinite(raw) & np.isfinite(realised)
    given = np.where(width > 0.0, width, np.nan)[known]  # 0: the model gives no interval
    believed = forecast_metrics(mean[known], realised[known], given)
    figures = forecast_metrics(raw[known], realised[known], given)
    tree: Tree = msgspec.to_builtins(
        msgspec.structs.replace(figures, coverage_90=believed.coverage_90, calibration=believed.calibration)
    )
    return tree


def _per_pair(done: Finished, tables: _Tables, name: str) -> Floats:
    """Return (n_decisions, n_assets) of one column family of ``decisions.parquet``."""
    symbols, steps = done.panel.symbols, tables.steps
    table = np.full((len(steps), len(symbols)), np.nan)
    if name == "target":
        for row, step in enumerate(steps):
            table[row] = step.targets
        return table
    if name == "realised":
        closes = last_prices(done.panel.values[:, :, 3])
        horizon = next((one.forecast.horizon_bars for one in steps if one.forecast is not None), tables.horizon_bars)
        places = (tables.step_ns - int(done.panel.open_ns[0])) // done.panel.bar_ns - 1
        ahead = places + horizon
        inside = (ahead < len(closes)) & (horizon > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            change = closes[ahead[inside]] / closes[places[inside]] - 1.0
        table[inside] = np.where(np.isfinite(change), change, np.nan)
        return table
    for row, step in enumerate(steps):
        if step.forecast is not None:
            table[row] = getattr(step.forecast, name)
    return table


# ---------------------------------------------------------------------- files


def _fills(fills: list[Fill]) -> Tree:
    return {
        "date": _dates(np.array([fill.ts_event_ns for fill in fills], dtype=np.int64)),
        "pair": pa.array([fill.symbol for fill in fills], type=pa.string()),
        "side": pa.array([str(fill.side) for fill in fills], type=pa.string()),
        "qty": np.array([float(fill.qty) for fill in fills], dtype=np.float64),
        "price": np.array([float(fill.price) for fill in fills], dtype=np.float64),
        "fee": np.array([float(fill.fee) for fill in fills], dtype=np.float64),
        "fee_asset": pa.array([fill.fee_asset for fill in fills], type=pa.string()),
        "order_id": pa.array([fill.client_id for fill in fills], type=pa.string()),
    }


def _weights(done: Finished, tables: _Tables) -> Tree:
    columns = {symbol: tables.after[:, at] for at, symbol in enumerate(done.panel.symbols)}
    return {"date": _dates(tables.step_ns), **columns, "cash": 1.0 - tables.after.sum(axis=1)}


def _decisions(done: Finished, tables: _Tables) -> Tree:
    steps = tables.steps
    columns: Tree = {
        "date": _dates(tables.step_ns),
        "seq": np.array([step.seq for step in steps], dtype=np.int64),
        "outcome": pa.array([step.outcome for step in steps], type=pa.string()),
        "status": pa.array([step.status for step in steps], type=pa.string()),
        "detail": pa.array([step.detail for step in steps], type=pa.string()),
        "approved": np.array([step.approved for step in steps], dtype=np.int64),
        "refused": np.array([step.refused for step in steps], dtype=np.int64),
        "equity": np.array([step.equity for step in steps], dtype=np.float64),
        "turnover": turned_over(tables.before, tables.after),
    }
    for name in ("target", *FORECAST, "realised"):
        table = _per_pair(done, tables, name)
        columns |= {f"{name}:{symbol}": table[:, at] for at, symbol in enumerate(done.panel.symbols)}
    return columns


def _dates(times_ns: Ints) -> Any:
    return pa.array(times_ns, type=pa.int64()).cast(pa.timestamp("ns", "UTC"))


def _write(path: Path, columns: Tree) -> None:
    arrays = {
        name: pa.array(np.ascontiguousarray(one)) if isinstance(one, np.ndarray) else one
        for name, one in columns.items()
    }
    with replacing(path) as temporary:
        parquet.write_table(pa.table(arrays), temporary, compression="zstd")


def _json(path: Path, tree: Tree) -> None:
    text = msgspec.json.format(msgspec.json.encode(tree, order="sorted"), indent=2)
    with replacing(path) as temporary:
        temporary.write_bytes(text + b"\n")


def _iso(time_ns: int) -> str:
    return str(np.datetime64(time_ns, "ns").astype("datetime64[s]")) + "Z"
