"""Worlds with another future: copies of candle files in which rows after a moment are changed or left out.

A row belongs to the future of a moment when its bar closes after it. Of a bar that is open at that moment the opening
price is known and stays. What a file holds besides the candles' columns is put into another order in these rows. The
same world of the same file is always the same.
"""

import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import feather, parquet

from daemon.backtest.data.files import CandleFile, files_in, timeframe_ms
from daemon.domain.market import NS_PER_MS

Values = NDArray[np.float64]
Flags = NDArray[np.bool_]

SHUFFLED: Final = "shuffled"
MIRRORED: Final = "mirrored"
SCALED: Final = "scaled"
GARBAGE: Final = "garbage"
ENDED: Final = "ended"
BEGUN: Final = "begun"
KINDS: Final = (MIRRORED, SCALED, SHUFFLED, GARBAGE)
"""Ways to change the future; ``ENDED`` leaves it out, ``BEGUN`` leaves out what closed before a moment."""
WORDS: Final = {
    SHUFFLED: "the later bars in another order",
    MIRRORED: "the later returns of opposite sign",
    SCALED: "the later prices three times as high",
    GARBAGE: "a random walk from there on",
    ENDED: "no rows after it",
    BEGUN: "no rows older than what is kept",
}
SCALE: Final = 3.0
ROUGHNESS: Final = 5.0
"""How many times more than the real prices the random walk moves."""
LOG_MAX: Final = 20.0
"""Bound of a changed price's logarithm against the last known one: e^20 either way."""
FOREVER_NS: Final = 2**63 - 1
FIELDS: Final = ("open", "high", "low", "close", "volume")


class World(msgspec.Struct, frozen=True):
    """What is different: ``kind`` "" is the world as it is.

    The future begins after ``cut_ns`` (bars that close later). Of what changes there only cells of bars that close after
    ``from_ns`` up to ``until_ns``, of these ``pairs`` and ``fields`` (empty: all), are really changed.
    """

    kind: str = ""
    cut_ns: int = 0
    from_ns: int = 0
    until_ns: int = FOREVER_NS
    pairs: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    seed: int = 0


def build(folder: Path, scratch: Path, world: World, names: Sequence[str]) -> list[tuple[Path, Path]]:
    """Write the candle files of these names as they are in a world; return each with its changed copy.

    Raises OSError, or what pyarrow raises for a file it cannot read.
    """
    scratch.mkdir(parents=True)
    copies: list[tuple[Path, Path]] = []
    for file in files_in(folder):
        if file.path.name in names and (not world.pairs or file.pair in world.pairs):
            _write(scratch / file.path.name, change(_read(file.path), world, file))
            copies.append((file.path, scratch / file.path.name))
    return copies


def change(table: Any, world: World, file: CandleFile) -> Any:
    """Return an arrow table of candles as it is in a world: same columns, types and metadata."""
    opens = _opens_ns(table["date"])
    closes = opens + timeframe_ms(file.timeframe) * NS_PER_MS
    if world.kind == ENDED:
        return table.filter(pa.array(closes <= world.cut_ns))
    if world.kind == BEGUN:
        return table.filter(pa.array(closes > world.cut_ns))
    future = closes > world.cut_ns
    if not world.kind or not bool(future.any()):
        return table
    random = np.random.default_rng((world.seed, zlib.crc32(file.path.name.encode())))
    values = np.stack([table[name].cast(pa.float64()).to_numpy(zero_copy_only=False) for name in FIELDS], axis=1)
    other = perturbed(values, future, world.kind, random)
    straddling = future & (opens < world.cut_ns)
    other[straddling, 0] = values[straddling, 0]
    other[:, 1] = np.maximum(other[:, 1], other[:, 0])
    other[:, 2] = np.minimum(other[:, 2], other[:, 0])
    chosen = future & (closes > world.from_ns) & (closes <= world.until_ns)
    for at, name in enumerate(FIELDS):
        if world.fields and name not in world.fields:
            continue
        changed = np.where(chosen, other[:, at], values[:, at])
        place, kind = table.column_names.index(name), table.schema.field(name)
        array = pa.array(changed, from_pandas=True).cast(kind.type, safe=False)
        table = table.set_column(place, kind, array)
    return table if world.fields else _others(table, np.flatnonzero(chosen), random)


def perturbed(values: Values, future: Flags, kind: str, random: np.random.Generator) -> Values:
    """Return (n, 5) candles whose future rows are changed: positive, finite, low ≤ open, close ≤ high; others as given.

    Parameters
    ----------
    values
        open, high, low, close, volume; NaN rows stay as they are.
    future
        (n,) which rows; they are the last ones.
    kind
        One of ``KINDS``.
    random
        Drawn from in the same order whatever the rows are.
    """
    out = values.copy()
    rows = np.flatnonzero(future & np.isfinite(values).all(axis=1) & (values[:, :4] > 0.0).all(axis=1))
    if not len(rows):
        return out
    known = values[~future]
    known = known[np.isfinite(known[:, 3]) & (known[:, 3] > 0.0)]
    last = float(known[-1, 3]) if len(known) else float(values[rows[0], 0])
    bars = values[rows]
    before = np.concatenate(([last], bars[:-1, 3]))
    shape = np.log(bars[:, :4] / before[:, None])  # of each bar against the close before it
    volume = bars[:, 4] * random.lognormal(0.7, 0.5, len(rows))
    scale = 1.0
    if kind == SHUFFLED:
        order = random.permutation(len(rows))
        shape, volume = shape[order], volume[order]
    elif kind == MIRRORED:
        shape = -shape[:, (0, 2, 1, 3)]
    elif kind == SCALED:
        scale, volume = SCALE, volume * SCALE
    elif kind == GARBAGE:
        shape = _walk(shape, random)
    else:
        raise ValueError(f"{kind!r} is no way to change the future")
    ends = np.cumsum(shape[:, 3])
    path = np.clip(np.concatenate(([0.0], ends[:-1]))[:, None] + shape, -LOG_MAX, LOG_MAX)
    prices = last * scale * np.exp(path)
    out[rows, 0], out[rows, 3] = prices[:, 0], prices[:, 3]
    out[rows, 1], out[rows, 2] = prices.max(axis=1), prices.min(axis=1)
    out[rows, 4] = volume
    return out


def _walk(shape: Values, random: np.random.Generator) -> Values:
    """Return log shapes of bars of a random walk that moves ``ROUGHNESS`` times as much, with no drift."""
    spread = max(float(np.std(shape[:, 3])), 1e-4) * ROUGHNESS
    moves = random.normal(0.0, spread, len(shape))
    reach = np.abs(random.normal(0.0, spread / 2.0, (len(shape), 2)))
    opened = np.zeros(len(shape))
    return np.stack(
        [opened, np.maximum(opened, moves) + reach[:, 0], np.minimum(opened, moves) - reach[:, 1], moves], 1
    )


def _others(table: Any, rows: NDArray[np.int64], random: np.random.Generator) -> Any:
    """Put the chosen rows of every further column into another order: it may hold what prices told it."""
    order = np.arange(table.num_rows)
    order[rows] = random.permutation(rows)
    for place, name in enumerate(table.column_names):
        if name != "date" and name not in FIELDS:
            table = table.set_column(place, table.schema.field(name), table[name].take(pa.array(order)))
    return table


def last_close_ns(folder: Path, names: Sequence[str]) -> int:
    """Return when the newest bar of these candle files closed, ns; 0 where they hold none."""
    newest = 0
    for one in files_in(folder):
        if one.path.name in names:
            opens = _opens_ns(_read(one.path)["date"])
            if len(opens):
                newest = max(newest, int(opens[-1]) + timeframe_ms(one.timeframe) * NS_PER_MS)
    return newest


def _read(path: Path) -> Any:
    reads: Callable[..., Any] = parquet.read_table if path.suffix == ".parquet" else feather.read_table
    return reads(os.fspath(path))


def _write(path: Path, table: Any) -> None:
    """Write fast: these files live for seconds."""
    if path.suffix == ".parquet":
        parquet.write_table(table, os.fspath(path), compression="none", use_dictionary=False, write_statistics=False)
    else:
        feather.write_feather(table, os.fspath(path), compression="uncompressed")


def _opens_ns(column: Any) -> NDArray[np.int64]:
    """Return opening times, ns UTC; numbers are ms, as ``data.files`` reads them."""
    if pa.types.is_integer(column.type):
        return np.asarray(column.to_numpy(), dtype=np.int64) * NS_PER_MS
    whole = column.cast(pa.timestamp("ns", column.type.tz), safe=False).cast(pa.int64())
    return np.asarray(whole.to_numpy(), dtype=np.int64)
