"""What a comparison looks like: tables for a terminal, one JSON document, and files for further study."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import pyarrow as pa
from pyarrow import parquet

from daemon.backtest.data.files import replacing
from daemon.backtest.parity import ParityResult
from daemon.backtest.parity_compare import OrderRow
from daemon.backtest.parity_gap import Interval, bps
from daemon.backtest.parity_split import PARTS, Parts
from daemon.backtest.report.grids import NONE, Grid, written
from daemon.outlets.times import iso, jsonable

EXAMPLES: Final = 20
"""Bars that differ in the JSON document; `bars.parquet` has more."""
ROWS: Final = 40
"""Newest rows of a table on a terminal; the files have all."""
T = TypeVar("T")
DATES: Final = frozenset({"close_ns", "begin_ns", "end_ns"})


# ---------------------------------------------------------------------------------------------- one document


def document(result: ParityResult) -> dict[str, Any]:
    """Return the comparison as JSON values: money as text, ratios as numbers, every instant with an ISO twin."""
    tree: dict[str, Any] = msgspec.to_builtins(result, str_keys=True, builtin_types=(Decimal,))
    for one in tree["bars"]:
        one["examples"] = one["examples"][:EXAMPLES]
    tree["intervals"] = [_interval(one) for one in result.intervals]
    gap, equity = tree["gap"], result.gap.equity
    gap["parts_bps"] = {name: bps(getattr(result.gap.parts, name), equity) for name in PARTS}
    gap["total_bps"] = bps(result.gap.total, equity)
    return {**jsonable(tree), "summary": result.summary}


def _interval(one: Interval) -> dict[str, Any]:
    return {
        "number": one.number,
        "begin_ns": one.begin_ns,
        "end_ns": one.end_ns,
        "recorded": one.recorded,
        "backtest": one.backtest,
        "gap": one.gap,
        "residual": one.residual,
        "parts": _parts(one.total),
        "assets": {symbol: _parts(parts) for symbol, parts in one.parts.items()},
    }


def _parts(parts: Parts) -> dict[str, Decimal]:
    return {name: getattr(parts, name) for name in PARTS}


# ---------------------------------------------------------------------------------------------- tables


def tables(result: ParityResult) -> list[Grid]:
    """Return the tables for a terminal: checks first, then what they rest on."""
    return [_checks(result), _bars(result), _decisions(result), _orders(result), _gap(result), _assets(result)]


def _checks(result: ParityResult) -> Grid:
    names = {
        "journal": "the journal replays equal",
        "bars": "bars",
        "decisions": "forecasts and targets",
        "orders": "orders",
        "gap": "the gap is explained",
    }
    rows = [(label, "yes" if getattr(result.checks, name) else "NO") for name, label in names.items()]
    span = f"{iso(result.start_ns)} to {iso(result.end_ns)}, {result.mode}, configuration {result.config}"
    return Grid("checks", "Parity", ("check", "agrees"), tuple(rows), left=2, note=span)


def _bars(result: ParityResult) -> Grid:
    rows = [
        (one.source, *(written(count, "count") for count in (one.equal, one.different, one.missing, one.unchecked)))
        for one in result.bars
    ]
    return Grid("bars", "Bars", ("against", "equal", "different", "missing there", "not checkable"), tuple(rows))


def _decisions(result: ParityResult) -> Grid:
    rows = [
        (
            iso(one.close_ns),
            one.outcome,
            _error(one.forecast_error),
            _error(one.target_error),
            str(one.orders),
            str(one.backtest_orders),
            one.difference or ("same" if one.made else "not made"),
        )
        for one in _shown(result.decisions, lambda one: bool(one.difference))
    ]
    columns = ("close", "outcome", "forecast off by", "targets off by", "orders", "in backtest", "difference")
    return Grid("decisions", "Decisions", columns, tuple(rows), left=2, note=_more(len(rows), len(result.decisions)))


def _orders(result: ParityResult) -> Grid:
    rows = [
        (
            iso(one.close_ns),
            f"{one.side} {one.symbol}",
            "same" if one.equal else one.cause,
            one.qty or NONE,
            one.backtest_qty or NONE,
            one.filled or NONE,
            one.backtest_filled or NONE,
            one.price or NONE,
            one.backtest_price or NONE,
            one.arrival or NONE,
            one.backtest_arrival or NONE,
        )
        for one in _shown(result.orders, lambda one: not one.equal)
    ]
    pairs = ("ordered", "filled", "price", "market")
    columns = ("close", "order", "is", *(name for one in pairs for name in (one, f"{one} (backtest)")))
    return Grid("orders", "Orders and fills", columns, tuple(rows), left=3, note=_more(len(rows), len(result.orders)))


def _gap(result: ParityResult) -> Grid:
    gap = result.gap
    lines: list[tuple[str, Decimal]] = [
        ("recorded, by the daemon's own equity", gap.reported),
        ("books that moved on from the closes", -gap.valuation),
        ("recorded", gap.recorded),
        ("backtest from the same holdings", gap.backtest),
        ("gap", gap.total),
        *((f"  {name}", getattr(gap.parts, name)) for name in PARTS),
        ("  unexplained", gap.residual),
        ("backtest left to itself", gap.free),
        ("  further from it", gap.carried),
    ]
    rows = tuple((name, written(float(value), "money"), f"{bps(value, gap.equity):+.4f}") for name, value in lines)
    note = "positive parts: the recorded run did better; docs/parity.md defines each"
    if gap.free_target_error is not None:
        note += f"; left to itself, its targets were at most {gap.free_target_error:.4f} away"
    return Grid("gap", "Profit and gap", ("", "quote", "bp of equity"), rows, note=note)


def _assets(result: ParityResult) -> Grid:
    rows = [
        (symbol, *(f"{float(getattr(parts, name)):+,.4f}" for name in PARTS), f"{float(parts.total):+,.4f}")
        for symbol, parts in result.gap.assets.items()
    ]
    return Grid("assets", "Gap by asset", ("pair", *PARTS, "gap"), tuple(rows))


def _error(value: float | None) -> str:
    return NONE if value is None else f"{value:.1e}" if value else "0"


def _shown(rows: Sequence[T], matters: Callable[[T], bool]) -> list[T]:
    """Return the rows that fit: those that differ before the others, newest first among each, in order of time."""
    ranked = sorted(range(len(rows)), key=lambda at: (not matters(rows[at]), -at))
    return [rows[at] for at in sorted(ranked[:ROWS])]


def _more(shown: int, there: int) -> str:
    return f"{shown} of {there}; --out writes all" if shown < there else ""


# ---------------------------------------------------------------------------------------------- files


def write(folder: Path, result: ParityResult) -> None:
    """Write ``parity.json``, ``bars``, ``decisions``, ``orders`` and ``intervals.parquet``; same comparison, same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    examples = [one for counts in result.bars for one in counts.examples]
    _table(folder / "bars.parquet", [msgspec.structs.asdict(one) for one in examples])
    _table(folder / "decisions.parquet", [msgspec.structs.asdict(one) for one in result.decisions])
    _table(folder / "orders.parquet", [_numbers(one) for one in result.orders])
    _table(folder / "intervals.parquet", [row for one in result.intervals for row in _interval_rows(one)])
    text = msgspec.json.format(msgspec.json.encode(document(result)), indent=2)
    with replacing(folder / "parity.json") as temporary:
        temporary.write_bytes(text + b"\n")


def _numbers(row: OrderRow) -> dict[str, Any]:
    """Return an order with its quantities and prices as float64, fees as the text they are."""
    numeric = {"qty", "limit", "filled", "price", "arrival"}
    numeric |= {f"backtest_{name}" for name in numeric}
    return {
        name: (float(value) if value else float("nan")) if name in numeric else value
        for name, value in msgspec.structs.asdict(row).items()
    }


def _interval_rows(one: Interval) -> Iterable[dict[str, Any]]:
    """Return a row per pair, and one for all of them (pair "")."""
    dates = {"number": one.number, "begin_ns": one.begin_ns, "end_ns": one.end_ns}
    whole = {"recorded": one.recorded, "backtest": one.backtest, "gap": one.gap, "residual": one.residual}
    yield {**dates, "pair": "", **_floats(whole), **_floats(_parts(one.total))}
    for symbol, parts in one.parts.items():
        none = dict.fromkeys(whole, float("nan")) | {"gap": float(parts.total)}
        yield {**dates, "pair": symbol, **none, **_floats(_parts(parts))}


def _floats(values: Mapping[str, Decimal]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def _table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as parquet, instants as dates; no rows is a file without columns."""
    columns: dict[str, Any] = {}
    for name in rows[0] if rows else ():
        values = [row[name] for row in rows]
        if name in DATES:
            columns[name.removesuffix("_ns")] = pa.array(values, type=pa.int64()).cast(pa.timestamp("ns", "UTC"))
        else:
            columns[name] = pa.array(values)
    with replacing(path) as temporary:
        parquet.write_table(pa.table(columns), temporary, compression="zstd")
