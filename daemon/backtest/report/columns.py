"""Columns of a parquet file that somebody else may have written: each checked, each refusal one line."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import ArrowException, parquet

from daemon.domain.errors import ConfigError

Array = NDArray[np.float64]
Times = NDArray[np.int64]

ROWS_MAX: Final = 20_000_000
"""Rows believed per file: four years of ten-second bars have 13 million."""


class Words:
    """A column of text that stays packed: four years of fills are a million and more order ids. Empty for a missing value."""

    def __init__(self, column: Any) -> None:
        """Keep an arrow column of text."""
        self._column = column

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._column)

    def __getitem__(self, row: int) -> str:
        """Return one row's text."""
        return self._column[row].as_py() or ""

    def __iter__(self) -> Iterator[str]:
        """Return all rows one by one."""
        return (one.as_py() or "" for one in self._column)

    def coded(self) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """Return the different words in the order they appear, and (n,) the place of each row's word among them."""
        encoded = self._column.fill_null("").combine_chunks().dictionary_encode()
        codes = np.asarray(encoded.indices.to_numpy(zero_copy_only=False), dtype=np.int64)
        return tuple(encoded.dictionary.to_pylist()), codes


class Columns:
    """One file of a result folder."""

    def __init__(self, path: Path, table: Any) -> None:
        """Keep what was read; `open` reads it."""
        self.path = path
        self._table = table

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read a file of bounded size in which no column appears twice.

        Raises
        ------
        ConfigError
            It is missing, no parquet, too large, or has two columns of one name.
        """
        try:
            rows = parquet.read_metadata(path).num_rows
            if rows > ROWS_MAX:
                raise ConfigError(f"{path}: {rows} rows; a report takes at most {ROWS_MAX}")
            table = parquet.read_table(path)
        except FileNotFoundError:
            raise ConfigError(f"{path.parent}: no {path.name}: the run is incomplete; run the backtest again") from None
        except (ArrowException, OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be read as parquet: {first_line(error)}") from None
        if len(set(table.column_names)) != len(table.column_names):
            raise ConfigError(f"{path}: a column appears twice; run the backtest again")
        return cls(path, table)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the columns in the file's order."""
        return tuple(self._table.column_names)

    def sorted(self) -> Self:
        """Return the rows by time; those of one moment stay in the file's order."""
        times = self.times()
        if bool((np.diff(times) >= 0).all()):
            return self
        return type(self)(self.path, self._table.take(np.argsort(times, kind="stable")))

    def times(self) -> Times:
        """Return the column ``date``, ns UTC."""
        column = self._column("date")
        if not pa.types.is_timestamp(column.type) or column.null_count:
            empty = column.null_count
            raise ConfigError(f"{self.path}: date is {column.type} with {empty} empty rows, not a UTC time in each")
        try:
            times = column.cast(pa.timestamp("ns", column.type.tz)).cast(pa.int64()).to_numpy()
        except ArrowException as error:
            raise ConfigError(f"{self.path}: date is out of range: {first_line(error)}") from None
        out: Times = np.asarray(times, dtype=np.int64)
        return out

    def rising_times(self) -> Times:
        """Return the column ``date``, ns UTC, which must not go back."""
        times = self.times()
        back = np.diff(times) < 0
        if bool(back.any()):
            raise ConfigError(f"{self.path}: date goes back at row {int(np.argmax(back)) + 1}; rows must be in order")
        return times

    def numbers(self, name: str, *, finite: bool = True) -> Array:
        """Return a column as float64; without ``finite`` a row may lack its number, then it is NaN."""
        column = self._column(name)
        if not _is_number(column.type):
            raise ConfigError(f"{self.path}: column {name!r} is {column.type}, not numbers; run the backtest again")
        out: Array = np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
        wrong = ~np.isfinite(out) if finite else np.isinf(out)
        if bool(wrong.any()):
            row = int(np.argmax(wrong))
            raise ConfigError(f"{self.path}: column {name!r} has no number in row {row}; run the backtest again")
        return out

    def words(self, name: str) -> Words:
        """Return a column of text."""
        column = self._column(name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        kind = column.type
        if pa.types.is_null(kind):
            column = column.cast(pa.string())
        elif not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise ConfigError(f"{self.path}: column {name!r} is {kind}, not text; run the backtest again")
        return Words(column)

    def _column(self, name: str) -> Any:
        if name not in self._table.column_names:
            has = _some(self._table.column_names)
            raise ConfigError(f"{self.path}: no column {name!r}, it has {has}; run the backtest again")
        return self._table[name]


def first_line(error: BaseException) -> str:
    """Return what an error says, in one bounded line."""
    return str(error).partition("\n")[0][:200]


def _is_number(kind: Any) -> bool:
    types = pa.types
    # A column without a single value has the type null.
    return bool(types.is_floating(kind) or types.is_integer(kind) or types.is_decimal(kind) or types.is_null(kind))


def _some(names: Sequence[str]) -> str:
    return " ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
