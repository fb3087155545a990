"""Files of candles: ``<BASE>_<QUOTE>-<timeframe>.parquet`` or ``.feather``, columns ``date open high low close volume``.

freqtrade writes the same, so its folders are read as they are. A file is replaced whole: whoever reads it, or is killed
while writing it, finds the old rows or the new ones.
"""

import contextlib
import os
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import ArrowException, feather, parquet

from daemon.domain.errors import ConfigError
from daemon.settings_values import BAR_NS

COLUMNS: Final = ("open", "high", "low", "close", "volume")
SUFFIXES: Final = (".parquet", ".feather")
NAME: Final = re.compile(r"^([A-Z0-9]+)_([A-Z0-9]+)-([0-9]+[smhdw])$")
UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
ROWS_MAX: Final = 50_000_000
"""More is no file of candles: a year of one-second bars has 31 million."""

Times = NDArray[np.int64]
Values = NDArray[np.float64]


class Candles(NamedTuple):
    """Rows as they lie in the file: ``times`` (n,) opening times, ms UTC; ``values`` (n, 5) open, high, low, close, volume."""

    times: Times
    values: Values

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.times)


class CandleFile(NamedTuple):
    """One file of the folder: what its name says."""

    path: Path
    pair: str
    timeframe: str

    @property
    def step_ms(self) -> int:
        """Return the length of a candle, ms."""
        return timeframe_ms(self.timeframe)


EMPTY: Final = Candles(np.empty(0, dtype=np.int64), np.empty((0, 5)))


def timeframe_ms(timeframe: str) -> int:
    """Return the length of a timeframe such as ``1h``, ms. Raises ConfigError."""
    match = re.fullmatch(r"([0-9]+)([smhdw])", timeframe)
    if match is None or int(match[1]) == 0:
        known = " ".join(BAR_NS)
        raise ConfigError(f"timeframe {timeframe!r} is none: a number and s, m, h, d or w, for example {known}")
    return int(match[1]) * UNITS_S[match[2]] * 1_000


def path_of(folder: Path, pair: str, timeframe: str) -> Path:
    """Return where the candles of a pair lie: the file that exists, else the parquet file to be made."""
    base, _, quote = pair.partition("/")
    name = f"{base}_{quote}-{timeframe}"
    if NAME.fullmatch(name) is None:
        raise ConfigError(
            f"{pair!r} and {timeframe!r} make no file name: a pair looks like BTC/USDT, a timeframe like 1h"
        )
    for suffix in SUFFIXES:
        if (path := folder / f"{name}{suffix}").is_file():
            return path
    return folder / f"{name}.parquet"


def entries(folder: Path) -> list[Path]:
    """Return what lies in a data folder, by name. Raises ConfigError when there is no such folder."""
    if not folder.is_dir():
        raise ConfigError(f"no data folder at {folder}: `ballast data fetch` makes one, --data names another")
    return sorted(folder.iterdir())


def files_in(folder: Path) -> list[CandleFile]:
    """Return the folder's files of candles by name; other files are left out. Raises ConfigError as ``entries`` does."""
    found: list[CandleFile] = []
    for path in entries(folder):
        match = NAME.fullmatch(path.stem)
        if match is not None and path.suffix in SUFFIXES and path.is_file():
            found.append(CandleFile(path, f"{match[1]}/{match[2]}", match[3]))
    return found


def read(path: Path) -> Candles:
    """Return a file's rows as they are, in its order.

    Raises
    ------
    ConfigError
        It cannot be read, lacks a column, or holds something else than times and numbers.
    """
    names = ["date", *COLUMNS]
    try:
        table: Any = (parquet.read_table if path.suffix == ".parquet" else feather.read_table)(path, columns=names)
        table.validate(full=True)
        if table.num_rows > ROWS_MAX:
            raise ConfigError(f"{path}: {table.num_rows} rows; a file of candles has at most {ROWS_MAX}")
        return Candles(_times(table["date"]), _values(table))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        why = str(error).partition("\n")[0][:200]
        raise ConfigError(f"{path}: no candles with columns {' '.join(names)}: {why}") from error


def _times(column: Any) -> Times:
    """Return opening times, ms UTC; times without a zone are UTC, numbers are ms."""
    if column.null_count:
        raise ValueError(f"{column.null_count} rows have no date")
    kind = column.type
    if pa.types.is_integer(kind):
        return np.asarray(column.to_numpy(), dtype=np.int64)
    if not pa.types.is_timestamp(kind):
        raise ValueError(f"date is {kind}, not a time")
    return np.asarray(column.cast(pa.timestamp("ms", kind.tz), safe=False).cast(pa.int64()).to_numpy(), dtype=np.int64)


def _values(table: Any) -> Values:
    """Return (n, 5) float64; what is absent in the file is NaN."""
    columns = [table[name].cast(pa.float64()).to_numpy(zero_copy_only=False) for name in COLUMNS]
    return np.ascontiguousarray(np.stack(columns, axis=1), dtype=np.float64)


def write(path: Path, candles: Candles) -> None:
    """Replace a file durably with these rows; the same rows give the same bytes.

    Raises
    ------
    ConfigError
        The folder cannot be written.
    """
    dates = pa.array(candles.times, type=pa.int64()).cast(pa.timestamp("ms", "UTC"))
    columns = {name: pa.array(np.ascontiguousarray(candles.values[:, at])) for at, name in enumerate(COLUMNS)}
    table = pa.table({"date": dates, **columns})
    with replacing(path) as temporary:
        if path.suffix == ".parquet":
            parquet.write_table(table, temporary, compression="zstd")
        else:
            feather.write_feather(table, os.fspath(temporary), compression="lz4")


@contextlib.contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Give a file to write beside ``path``; what was written takes its place at the end, durably, or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as done:
            os.fsync(done.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def iso(time_ms: int) -> str:
    """Return a time (ms UTC) as a person reads it."""
    return str(np.datetime64(time_ms, "ms").astype("datetime64[s]")).replace("T", " ") + "Z"
