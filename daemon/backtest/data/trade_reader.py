"""Trades from the data folder, in chunks of bounded size: what a backtest on trades, the checks and the bars read."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import ArrowException

from daemon.backtest.data.trades import (
    CHUNK_ROWS,
    COLUMNS,
    DAY_NS,
    THEIRS,
    Facts,
    Trades,
    TradeSet,
    days_in,
    facts_of,
    line,
    merged,
    numbered,
    opened,
    set_of,
    table_rows,
)
from daemon.domain.errors import ConfigError


def chunks(one: TradeSet, start_ns: int = 0, end_ns: int = 2**63 - 1) -> Iterator[Trades]:
    """Yield a pair's trades of [start, end), ns UTC, as on file, at most ``CHUNK_ROWS`` at a time. Raises ConfigError."""
    if one.ours:
        for day_ns, path in days_in(one.path):
            if day_ns + DAY_NS > start_ns and day_ns < end_ns:
                yield from _within(_parquet_chunks(path), start_ns, end_ns)
    elif one.path.suffix == ".parquet":
        yield from _within(_parquet_chunks(one.path), start_ns, end_ns)
    else:
        yield from _within(_feather_chunks(one.path), start_ns, end_ns)


def _within(parts: Iterable[Trades], start_ns: int, end_ns: int) -> Iterator[Trades]:
    for part in parts:
        kept = part[(part["ts_ns"] >= start_ns) & (part["ts_ns"] < end_ns)]
        if len(kept):
            yield kept


def _parquet_chunks(path: Path) -> Iterator[Trades]:
    with opened(path) as file:
        present = set(file.schema_arrow.names)
        names = [name for name in dict.fromkeys((*COLUMNS, *THEIRS)) if name in present]
        for batch in file.iter_batches(batch_size=CHUNK_ROWS, columns=names):
            yield table_rows(pa.Table.from_batches([batch]), path)


def _feather_chunks(path: Path) -> Iterator[Trades]:
    """Yield a feather file's batches; only one is in memory at a time."""
    try:
        with pa.OSFile(str(path)) as source:
            file = pa.ipc.open_file(source)
            for number in range(file.num_record_batches):
                whole = table_rows(pa.Table.from_batches([_batch(file, number)]), path)
                for at in range(0, len(whole), CHUNK_ROWS):
                    yield whole[at : at + CHUNK_ROWS]
    except (ArrowException, OSError, ValueError) as error:
        raise ConfigError(f"{path}: no trades: {line(error)}") from error


def _batch(file: Any, number: int) -> Any:
    """Return one batch of a feather file; a damaged one is an ArrowException, not a crash of the process."""
    batch = file.get_batch(number)
    batch.validate(full=True)
    return batch


def read_trades(folder: Path, symbol: str, start_ns: int, end_ns: int) -> Iterator[Trades]:
    """Yield the trades of a pair in [start, end), ns UTC, in id order, in chunks of at most ``CHUNK_ROWS`` (dtype ``TRADE``).

    Where the venue's ids are no numbers, the order is that of time.

    Raises
    ------
    ConfigError
        There are no trades of the pair, a file cannot be read, a price or size cannot be true, or the order is broken.
    """
    one = set_of(folder, symbol)
    unordered = facts_of_set(one).ids == "unordered"
    last = -1
    for part in chunks(one, start_ns, end_ns):
        order = part["ts_ns"] if unordered else part["id"]
        step = np.diff(order, prepend=last)
        wrong = np.flatnonzero(step < 0 if unordered else step <= 0)
        unsound = np.flatnonzero(~sound(part))
        if len(wrong) or len(unsound):
            what, at = ("order is broken", wrong[0]) if len(wrong) else ("price or size cannot be true", unsound[0])
            row = part[int(at)]
            raise ConfigError(f"{one.path}: at trade {row['id']} the {what}; `ballast data check --trades` says more")
        last = int(order[-1])
        yield part


def facts_of_set(one: TradeSet) -> Facts:
    """Return what a whole set says about itself: all covered stretches, and the weakest kind of ids."""
    if not one.ours:
        return Facts(ids="ascending" if _has_numbers(one.path) else "unordered")
    every = [facts_of(path)[1] for _, path in days_in(one.path)]
    kinds = {facts.ids for facts in every}
    weakest = next((kind for kind in ("unordered", "ascending") if kind in kinds), "contiguous")
    return Facts(merged([span for facts in every for span in facts.covered]), weakest)


def _has_numbers(path: Path) -> bool:
    """Say of a single file whether its first ids are numbers."""
    try:
        if path.suffix == ".parquet":
            with opened(path) as file:
                first = next(iter(file.iter_batches(batch_size=1, columns=["id"])), None)
        else:
            with pa.OSFile(str(path)) as source:
                file = pa.ipc.open_file(source)
                first = _batch(file, 0).slice(0, 1) if file.num_record_batches else None
        texts = first.column(first.schema.get_field_index("id")).to_pylist() if first is not None else []
        return numbered(texts)[1]
    except (ArrowException, OSError, ValueError, KeyError, IndexError) as error:
        raise ConfigError(f"{path}: no trades: {line(error)}") from error


def sound(rows: Trades) -> NDArray[np.bool_]:
    """Return (n,) which rows can be true: finite, positive price and size."""
    price, amount = rows["price"], rows["amount"]
    good: NDArray[np.bool_] = np.isfinite(price) & np.isfinite(amount) & (price > 0.0) & (amount > 0.0)
    return good
