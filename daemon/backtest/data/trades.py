"""Recorded trades: a folder ``<BASE>_<QUOTE>-trades/`` with one parquet file a UTC day, columns ``id ts_ns price amount sell``.

A day is replaced whole, so a reader, or a process killed while writing, finds the old day or the new one. Each file says in
its metadata which stretches of time are covered: a stretch without a trade is then known, and not asked for again. freqtrade's
single files (``<BASE>_<QUOTE>-trades.feather`` or ``.parquet``, columns ``timestamp id type side price amount cost``) are read as
they are.
"""

import hashlib
import re
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import ArrowException, parquet

from daemon.backtest.data.files import SUFFIXES, entries, replacing
from daemon.domain.errors import ConfigError

TRADE: Final = np.dtype([("id", "i8"), ("ts_ns", "i8"), ("price", "f8"), ("amount", "f8"), ("sell", "?")])
"""One public trade: the venue's id, time of execution (ns UTC), price (quote per base), size (base), whether the taker sold."""
COLUMNS: Final = ("id", "ts_ns", "price", "amount", "sell")
THEIRS: Final = ("timestamp", "id", "side", "price", "amount")
"""What is needed of freqtrade's columns."""

CHUNK_ROWS: Final = 262_144
"""Rows of one chunk that a reader gets at most, and of one row group: 9 MB."""
DAY_NS: Final = 86_400_000_000_000
FOLDER: Final = re.compile(r"^([A-Z0-9]+)_([A-Z0-9]+)-trades$")
DAY: Final = re.compile(r"^([0-9]{4}-[0-9]{2}-[0-9]{2})\.parquet$")
META: Final = b"ballast"
DAY_ROWS_MAX: Final = 50_000_000
"""More is no day of trades of one pair."""

Trades = NDArray[np.void]
"""(n,) of dtype ``TRADE``."""
Span = tuple[int, int]
"""A stretch of time [begin, end), ns UTC."""

NO_TRADES: Final[Trades] = np.empty(0, dtype=TRADE)


class Facts(msgspec.Struct, frozen=True):
    """What a file says about itself.

    Attributes
    ----------
    covered
        Stretches of time of which every trade is here, ns UTC, ascending, apart.
    ids
        ``contiguous``: a missing id is a missing trade. ``ascending``: ids only rise. ``unordered``: the venue's ids are no
        numbers (hashes stand for them) or do not rise with time; rows are in order of time.
    """

    covered: tuple[Span, ...] = ()
    ids: str = "contiguous"


class TradeSet(msgspec.Struct, frozen=True):
    """The trades of one pair: a folder of days (ours), or a single file (freqtrade's)."""

    path: Path
    pair: str

    @property
    def ours(self) -> bool:
        """Say whether it is a folder of days."""
        return self.path.is_dir()


def folder_of(folder: Path, pair: str) -> Path:
    """Return where the days of a pair lie. Raises ConfigError for what is no pair."""
    base, _, quote = pair.partition("/")
    name = f"{base}_{quote}-trades"
    if FOLDER.fullmatch(name) is None:
        raise ConfigError(f"{pair!r} makes no folder name: a pair looks like BTC/USDT")
    return folder / name


def sets_in(folder: Path) -> list[TradeSet]:
    """Return the trades that a data folder holds, by pair; a folder of days comes before a single file of the same pair.

    Raises
    ------
    ConfigError
        There is no such folder.
    """
    found: dict[str, TradeSet] = {}
    for path in sorted(entries(folder), key=lambda path: (not path.is_dir(), path.name)):
        is_set = path.is_dir() or path.suffix in SUFFIXES
        match = FOLDER.fullmatch(path.name if path.is_dir() else path.stem) if is_set else None
        if match is not None:
            found.setdefault(pair := f"{match[1]}/{match[2]}", TradeSet(path, pair))
    return [found[pair] for pair in sorted(found)]


def set_of(folder: Path, pair: str) -> TradeSet:
    """Return the trades of one pair. Raises ConfigError when the folder holds none."""
    known = {one.pair: one for one in sets_in(folder)}
    if pair not in known:
        raise ConfigError(f"{pair}: no trades in {folder}; it holds {', '.join(known) or 'none'}")
    return known[pair]


# ---------------------------------------------------------------------- days


def days_in(path: Path) -> list[tuple[int, Path]]:
    """Return the days of a folder: (midnight, ns UTC; file), ascending."""
    if not path.is_dir():
        return []
    names = [(match[1], one) for one in path.iterdir() if (match := DAY.fullmatch(one.name)) is not None]
    return sorted((_midnight(name, one), one) for name, one in names)


def _midnight(name: str, path: Path) -> int:
    try:
        return int(np.datetime64(name, "ns").astype(np.int64))
    except ValueError:
        raise ConfigError(f"{path}: {name} is no day") from None


def day_path(path: Path, day_ns: int) -> Path:
    """Return the file of the UTC day that begins at ``day_ns``."""
    return path / f"{np.datetime64(day_ns, 'ns').astype('datetime64[D]')}.parquet"


def read_day(path: Path) -> tuple[Trades, Facts]:
    """Return a day's rows in file order, and what it says about itself.

    Raises
    ------
    ConfigError
        It cannot be read, lacks a column, or holds something else than trades.
    """
    with opened(path) as file:
        _bounded(path, file.metadata.num_rows)
        return table_rows(file.read(columns=list(COLUMNS)), path), _facts(file, path)


def facts_of(path: Path) -> tuple[int, Facts]:
    """Return a day's number of rows and what it says about itself; reads its footer only. Raises ConfigError."""
    with opened(path) as file:
        return int(file.metadata.num_rows), _facts(file, path)


def last_row(path: Path) -> Trades:
    """Return the last row of a day's file, (1,) or (0,). Raises ConfigError."""
    with opened(path) as file:
        if not file.metadata.num_rows:
            return NO_TRADES
        return table_rows(file.read_row_group(file.metadata.num_row_groups - 1, columns=list(COLUMNS)), path)[-1:]


def write_day(path: Path, rows: Trades, facts: Facts) -> None:
    """Replace a day durably with these rows; the same rows give the same bytes. Raises ConfigError."""
    columns = {name: pa.array(np.ascontiguousarray(rows[name])) for name in COLUMNS}
    table = pa.table(columns).replace_schema_metadata({META: msgspec.json.encode(facts)})
    with replacing(path) as temporary:
        parquet.write_table(table, temporary, compression="zstd", row_group_size=CHUNK_ROWS)


@contextmanager
def opened(path: Path) -> Generator[Any]:
    """Give a parquet file, open; whatever cannot be read of it inside is a ConfigError that names it."""
    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (ArrowException, OSError, ValueError) as error:
        raise ConfigError(f"{path}: no trades with columns {' '.join(COLUMNS)}: {line(error)}") from error


def _facts(file: Any, path: Path) -> Facts:
    found = (file.schema_arrow.metadata or {}).get(META)
    if found is None:
        return Facts()
    try:
        return msgspec.json.decode(found, type=Facts)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{path}: its own description is broken: {line(error)}; fetch or import it again") from error


def _bounded(path: Path, rows: int) -> None:
    if rows > DAY_ROWS_MAX:
        raise ConfigError(f"{path}: {rows} rows; a day of trades has at most {DAY_ROWS_MAX}")


# ---------------------------------------------------------------------- columns


def rows_of(
    ids: NDArray[np.int64],
    ts_ns: NDArray[np.int64],
    price: NDArray[np.float64],
    amount: NDArray[np.float64],
    sell: NDArray[np.bool_],
) -> Trades:
    """Return columns, each (n,), as rows."""
    out = np.empty(len(ids), dtype=TRADE)
    for name, column in zip(COLUMNS, (ids, ts_ns, price, amount, sell), strict=True):
        out[name] = column
    return out


def table_rows(table: Any, path: Path) -> Trades:
    """Return rows of a table in our columns or in freqtrade's; a price or size that is absent is NaN."""
    try:
        names = set(table.column_names)
        if names >= set(COLUMNS):
            return rows_of(
                _whole(table, "id"), _whole(table, "ts_ns"), _real(table, "price"), _real(table, "amount"), _flag(table)
            )
        if names >= set(THEIRS):
            ids, _ = numbered(table["id"].cast(pa.string()).to_pylist())
            sides = np.asarray(table["side"].cast(pa.string()).to_pylist(), dtype=object)
            ts_ns = _whole(table, "timestamp") * 1_000_000
            return rows_of(ids, ts_ns, _real(table, "price"), _real(table, "amount"), sides == "sell")
    except (ArrowException, ValueError, TypeError, OverflowError) as error:
        raise ConfigError(f"{path}: no trades: {line(error)}") from error
    raise ConfigError(
        f"{path}: no trades: it has the columns {shown(' '.join(sorted(names)))}, not {' '.join(COLUMNS)}"
    )


def _whole(table: Any, name: str) -> NDArray[np.int64]:
    column = table[name]
    if column.null_count:
        raise ValueError(f"{column.null_count} rows have no {name}")
    return np.asarray(column.cast(pa.int64()).to_numpy(), dtype=np.int64)


def _real(table: Any, name: str) -> NDArray[np.float64]:
    return np.asarray(table[name].cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def _flag(table: Any) -> NDArray[np.bool_]:
    return np.asarray(table["sell"].cast(pa.bool_()).to_numpy(zero_copy_only=False), dtype=np.bool_)


def numbered(texts: Sequence[object]) -> tuple[NDArray[np.int64], bool]:
    """Return a venue's trade ids as numbers, and whether they are the venue's own: what is no number gives a hash of 63 bits."""
    try:
        return np.array([int(str(one)) for one in texts], dtype=np.int64), True
    except (ValueError, OverflowError):
        hashed = [hashlib.blake2b(str(one).encode(), digest_size=8).digest() for one in texts]
        return np.array([int.from_bytes(one, "big") >> 1 for one in hashed], dtype=np.int64), False


def line(error: BaseException) -> str:
    """Return the beginning of what an error says."""
    return shown(str(error).partition("\n")[0])


def shown(text: str) -> str:
    """Return the beginning of a text of unknown origin, on one line."""
    return "".join(one if one.isprintable() else "?" for one in text[:200])


# ---------------------------------------------------------------------- stretches of time


def merged(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Return the same time as ascending stretches that do not touch."""
    out: list[Span] = []
    for begin, end in sorted(span for span in spans if span[0] < span[1]):
        if out and begin <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], end))
        else:
            out.append((begin, end))
    return tuple(out)


def uncovered(spans: Iterable[Span], begin: int, end: int) -> list[Span]:
    """Return what of [begin, end) none of the stretches covers."""
    out: list[Span] = []
    for known_begin, known_end in merged(spans):
        if known_begin >= end:
            break
        if known_begin > begin:
            out.append((begin, known_begin))
        begin = max(begin, known_end)
    if begin < end:
        out.append((begin, end))
    return out
