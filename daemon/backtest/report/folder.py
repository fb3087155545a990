"""The folder of one finished run, read and checked (DESIGN A8).

Every number of a report comes from here. A file that is not what the contract says is refused with one line that names the
file and the column; a report of something else would be believed.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from daemon.backtest.metrics import DAY_NS, unit_values
from daemon.backtest.report.columns import Array, Columns, Times, Words, first_line
from daemon.domain.errors import ConfigError, UsageError

Tree = Mapping[str, Any]

SCHEMA: Final = 1
"""The version of the result files this module reads; a file without a version is of this one."""
PAIRS_MAX: Final = 2_000
DAYS_MAX: Final = 10_000
"""Days from the first row to the last, 27 years: what resampling keeps in memory."""
RESULT_BYTES_MAX: Final = 64 * 1024 * 1024
MARGIN: Final = 1e-6
"""Relative difference allowed between ``result.json`` and the last row of ``equity.parquet``: the same sum in other words."""

TEXTS: Final = ("start", "end", "config_hash", "data_hash", "code_version")
NUMBERS: Final = ("initial_equity", "final_equity")
FORECASTS: Final = ("target", "mean", "raw_mean", "scale", "interval_90", "realised")


class Equity(NamedTuple):
    """One row per bar close after an opening row: ``times`` ns UTC; value, cash and flows in quote currency, each (n,)."""

    times: Times
    equity: Array
    cash: Array
    flow: Array


class Fills(NamedTuple):
    """One row per fill; quantities in base, prices in quote currency, fees >= 0 in ``fee_asset``."""

    times: Times
    pair: Words
    side: Words
    qty: Array
    price: Array
    fee: Array
    fee_asset: Words
    order_id: Words

    def __len__(self) -> int:
        """Return the number of fills."""
        return len(self.times)


class Decisions(NamedTuple):
    """One row per decision; the matrices are (n, n_pairs) in the order of ``Run.pairs``, NaN where there was none."""

    times: Times
    outcome: Words
    approved: Array
    refused: Array
    turnover: Array
    target: Array
    mean: Array
    raw_mean: Array
    scale: Array
    interval_90: Array
    realised: Array


class Curves(NamedTuple):
    """Named columns over time: ``values`` (n, n_names)."""

    times: Times
    names: tuple[str, ...]
    values: Array

    def column(self, name: str) -> Array:
        """Return one column by its name."""
        return self.values[:, self.names.index(name)]


class Run(NamedTuple):
    """One finished run. ``weights`` holds fractions of equity after trading, the pairs first and ``cash`` last."""

    name: str
    folder: Path
    result: Tree
    equity: Equity
    weights: Curves
    decisions: Decisions
    fills: Fills
    benchmarks: Curves | None
    attribution: Curves | None

    @property
    def pairs(self) -> tuple[str, ...]:
        """Return the pairs in the order of the files' columns."""
        return self.weights.names[:-1]

    @property
    def quote(self) -> str:
        """Return the currency that money is counted in."""
        return str(self.result.get("quote", "") or "quote")

    @property
    def held(self) -> Array:
        """Return the weights of the pairs without cash, (n_decisions, n_pairs)."""
        return self.weights.values[:, :-1]


def load_run(folder: Path) -> Run:
    """Return the run whose files lie in ``folder``.

    Raises
    ------
    UsageError
        There is no such folder.
    ConfigError
        A file is missing, cannot be read, or is not what the contract says.
    """
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "no such folder"
        raise UsageError(f"{folder}: {what}; name the folder that `ballast backtest --out` wrote")
    result = _result(folder / "result.json")
    weights = _curves(folder / "weights.parquet", last="cash")
    pairs = weights.names[:-1]
    equity = _equity(folder / "equity.parquet")
    run = Run(
        name=folder.resolve().name,
        folder=folder,
        result=result,
        equity=equity,
        weights=weights,
        decisions=_decisions(folder / "decisions.parquet", pairs),
        fills=_fills(folder / "fills.parquet"),
        benchmarks=_optional(folder / "benchmarks.parquet"),
        attribution=_optional(folder / "attribution.parquet"),
    )
    _check_together(run)
    return run


def number(value: object) -> float:
    """Return a number of ``result.json`` (money is text there, a figure that does not exist is null) as float, else NaN."""
    if isinstance(value, bool) or value is None:
        return math.nan
    if isinstance(value, int | float | str):
        try:
            return float(value)
        except ValueError:
            return math.nan
    return math.nan


def _result(path: Path) -> Tree:
    try:
        if path.stat().st_size > RESULT_BYTES_MAX:
            raise ConfigError(f"{path}: larger than {RESULT_BYTES_MAX} bytes: this is no result of a run")
        document = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"{path.parent}: no result.json: this is not the folder of a finished run") from None
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read: {first_line(error)}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: holds no object: this is not the result of a run")
    schema = document.get("schema", SCHEMA)
    if schema != SCHEMA:
        raise ConfigError(f"{path}: schema {schema!r} is unknown, this version reads {SCHEMA}; make the report with it")
    for key in TEXTS:
        if not isinstance(document.get(key), str):
            raise ConfigError(f"{path}: {key} is missing or no text; run the backtest again")
    for key in NUMBERS:
        if not math.isfinite(number(document.get(key))):
            raise ConfigError(f"{path}: {key} is missing or no number; run the backtest again")
    for key in ("benchmarks", "forecast", "params"):
        if not isinstance(document.get(key) or {}, dict):
            raise ConfigError(f"{path}: {key} is no object; run the backtest again")
    return document


def _equity(path: Path) -> Equity:
    file = Columns.open(path)
    times = file.rising_times()
    if len(times) < 2:
        raise ConfigError(f"{path}: {len(times)} rows; a run has an opening row and a bar at least")
    if (days := (int(times[-1]) - int(times[0])) // DAY_NS) > DAYS_MAX:
        raise ConfigError(f"{path}: {days} days from first to last row; a report takes at most {DAYS_MAX}")
    if bool(np.any(np.diff(times) == 0)):
        raise ConfigError(f"{path}: a date appears twice; run the backtest again")
    return Equity(times, file.numbers("equity"), file.numbers("cash"), file.numbers("flow"))


def _curves(path: Path, *, last: str = "") -> Curves:
    """Return every column but ``date``; ``last`` is required and moves to the end."""
    file = Columns.open(path)
    names = [name for name in file.names if name not in {"date", last}]
    if len(names) > PAIRS_MAX or not names:
        raise ConfigError(f"{path}: {len(names)} columns beside date; between 1 and {PAIRS_MAX} are read")
    names += [last] if last else []
    values = np.stack([file.numbers(name) for name in names], axis=1)
    return Curves(file.rising_times(), tuple(names), values)


def _optional(path: Path) -> Curves | None:
    """Return a file that a run may lack."""
    return _curves(path) if path.is_file() else None


def _decisions(path: Path, pairs: Sequence[str]) -> Decisions:
    file = Columns.open(path)
    times, names = file.rising_times(), set(file.names)

    def matrix(kind: str) -> Array:
        out = np.full((len(times), len(pairs)), np.nan)
        for at, pair in enumerate(pairs):
            if (name := f"{kind}:{pair}") in names:
                out[:, at] = file.numbers(name, finite=False)
        return out

    absent = [pair for pair in pairs if f"target:{pair}" not in names]
    if absent:
        raise ConfigError(
            f"{path}: no column 'target:{absent[0]}', yet weights.parquet holds it; run the backtest again"
        )
    counts = [file.numbers(name, finite=False) for name in ("approved", "refused", "turnover")]
    return Decisions(times, file.words("outcome"), counts[0], counts[1], counts[2], *(matrix(one) for one in FORECASTS))


def _fills(path: Path) -> Fills:
    """Return fills by time; those of one moment stay in the file's order."""
    file = Columns.open(path).sorted()
    side = file.words("side")
    wrong = sorted(set(side.coded()[0]) - {"buy", "sell"})
    if wrong:
        raise ConfigError(f"{path}: side {wrong[0]!r} is neither buy nor sell; run the backtest again")
    return Fills(
        times=file.times(),
        pair=file.words("pair"),
        side=side,
        qty=file.numbers("qty"),
        price=file.numbers("price"),
        fee=file.numbers("fee"),
        fee_asset=file.words("fee_asset"),
        order_id=file.words("order_id"),
    )


def _check_together(run: Run) -> None:
    """Refuse a folder whose files are of different runs: a report must not mix them."""
    for key, at, verb in (("initial_equity", 0, "begins"), ("final_equity", -1, "ends")):
        told, row = number(run.result[key]), float(run.equity.equity[at])
        if not math.isclose(told, row, rel_tol=MARGIN, abs_tol=1e-9):
            raise ConfigError(
                f"{run.folder}: result.json {verb} with equity {told:.8g}, equity.parquet with {row:.8g}: "
                "the files are of different runs; run the backtest again"
            )
    try:
        unit_values(run.equity.times, run.equity.equity, run.equity.flow)
    except ValueError as error:
        raise ConfigError(f"{run.folder / 'equity.parquet'}: {first_line(error)}; run the backtest again") from None
    first, last = int(run.equity.times[0]), int(run.equity.times[-1])
    for name, times in (("weights", run.weights.times), ("decisions", run.decisions.times), ("fills", run.fills.times)):
        if len(times) and not first <= int(times[0]) <= int(times[-1]) <= last:
            raise ConfigError(
                f"{run.folder}: {name}.parquet has a row outside of the time of equity.parquet: "
                "the files are of different runs; run the backtest again"
            )
    for name in ("turnover", "interval_90"):
        if bool((getattr(run.decisions, name) < 0.0).any()):
            raise ConfigError(f"{run.folder / 'decisions.parquet'}: {name} is negative; run the backtest again")
    _check_benchmarks(run)


def _check_benchmarks(run: Run) -> None:
    if run.benchmarks is None:
        return
    if bool((run.benchmarks.values[0] <= 0.0).any()):
        raise ConfigError(f"{run.folder / 'benchmarks.parquet'}: a curve starts at 0 or below; run the backtest again")
    if not np.array_equal(run.benchmarks.times, run.equity.times):
        raise ConfigError(
            f"{run.folder}: the dates of benchmarks.parquet are not those of equity.parquet: "
            "the files are of different runs; run the backtest again"
        )
