"""A result folder is read whole or refused in one line that names the file."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from daemon.backtest.report.folder import load_run, number
from daemon.domain.errors import ConfigError, UsageError
from tests.backtest.report.kit import PAIRS, Plan, change_column, change_result, write_run

SMALL = Plan(bars=24 * 40)
Break = Callable[[Path], None]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """Every file's columns arrive, in the order of the pairs."""
    books = write_run(tmp_path, SMALL)
    run = load_run(tmp_path)

    assert run.pairs == PAIRS
    assert np.array_equal(run.equity.equity, books.equity)
    assert np.array_equal(run.held, books.weights)
    assert len(run.fills) == books.fills
    assert math.isclose(run.fills.fee.sum(), books.fees)
    assert run.decisions.target.shape == books.weights.shape
    assert run.benchmarks is not None
    assert set(run.benchmarks.names) == {"equal_weight", "buy_and_hold", "cash"}
    assert run.attribution is not None
    assert math.isclose(run.attribution.values[-1].sum(), books.equity[-1] - books.equity[0])


def test_optional_files_may_be_missing(tmp_path: Path) -> None:
    """A run without benchmarks and attribution is a run."""
    write_run(tmp_path, SMALL._replace(optional=False))
    run = load_run(tmp_path)

    assert run.benchmarks is None
    assert run.attribution is None


def test_times_in_any_unit_are_utc_nanoseconds(tmp_path: Path) -> None:
    """Milliseconds are the same moments."""
    write_run(tmp_path, SMALL)
    before = load_run(tmp_path).fills.times
    table = parquet.read_table(tmp_path / "fills.parquet")
    change_column(tmp_path / "fills.parquet", "date", table["date"].cast(pa.timestamp("ms", "UTC")))

    assert np.array_equal(load_run(tmp_path).fills.times, before)


def column(name: str, key: str, value: object) -> Break:
    """Break one column of one file."""
    return lambda folder: change_column(folder / name, key, value)


def result(**changes: object) -> Break:
    """Break ``result.json``."""
    return lambda folder: change_result(folder, **changes)


def remove(name: str) -> Break:
    """Take a file away."""
    return lambda folder: (folder / name).unlink()


def text(name: str, content: str) -> Break:
    """Write something else into a file."""

    def spoil(folder: Path) -> None:
        (folder / name).write_text(content, encoding="utf-8")

    return spoil


def first(name: str, key: str, value: object, *, at: int = 0) -> Break:
    """Change one value of a column."""

    def spoil(folder: Path) -> None:
        values = parquet.read_table(folder / name)[key].to_pylist()
        change_column(folder / name, key, [*values[:at], value, *values[at + 1 :]])

    return spoil


def backwards(folder: Path) -> None:
    """Turn the rows of the equity file around."""
    table = parquet.read_table(folder / "equity.parquet")
    parquet.write_table(table.take(list(range(table.num_rows))[::-1]), folder / "equity.parquet")


def ages_later(folder: Path) -> None:
    """Put the last bar into another century."""
    times = parquet.read_table(folder / "equity.parquet")["date"].cast(pa.int64()).to_pylist()
    times[-1] += 100 * 365 * 24 * SMALL.bar_ns
    change_column(folder / "equity.parquet", "date", pa.array(times).cast(pa.timestamp("ns", "UTC")))


def other_run(name: str) -> Break:
    """Put the file of a run at another time into the folder."""

    def spoil(folder: Path) -> None:
        write_run(folder / "other", SMALL._replace(start_ns=SMALL.start_ns + 24 * 90 * SMALL.bar_ns))
        (folder / "other" / name).replace(folder / name)

    return spoil


BAD: tuple[tuple[Break, str], ...] = (
    (remove("result.json"), "no result.json: this is not the folder of a finished run"),
    (remove("equity.parquet"), "no equity.parquet: the run is incomplete"),
    (remove("fills.parquet"), "no fills.parquet"),
    (remove("weights.parquet"), "no weights.parquet"),
    (remove("decisions.parquet"), "no decisions.parquet"),
    (text("result.json", "{"), "result.json: cannot be read"),
    (text("result.json", "[" * 100_000), "result.json: cannot be read"),
    (text("result.json", "[1]"), "result.json: holds no object"),
    (text("equity.parquet", "PAR1 no"), "equity.parquet: cannot be read as parquet"),
    (result(schema=99), "schema 99 is unknown, this version reads 1"),
    (result(config_hash=None), "config_hash is missing"),
    (result(start=5), "start is missing or no text"),
    (result(final_equity="much"), "final_equity is missing or no number"),
    (result(benchmarks=[1]), "benchmarks is no object"),
    (result(final_equity="1.00"), "result.json ends with equity 1, "),
    (result(initial_equity="0"), "result.json begins with equity 0, "),
    (column("equity.parquet", "cash", None), "no column 'cash', it has date equity flow"),
    (column("weights.parquet", "cash", None), "no column 'cash'"),
    (column("decisions.parquet", f"target:{PAIRS[0]}", None), f"no column 'target:{PAIRS[0]}'"),
    (first("equity.parquet", "equity", math.nan), "column 'equity' has no number in row 0"),
    (first("equity.parquet", "equity", 1.0), "result.json begins with equity 100000, equity.parquet with 1:"),
    (first("equity.parquet", "equity", -1.0, at=5), "equity must be positive"),
    (first("decisions.parquet", "turnover", -0.5), "turnover is negative"),
    (first("decisions.parquet", f"mean:{PAIRS[0]}", math.inf), f"column 'mean:{PAIRS[0]}' has no number in row 0"),
    (first("fills.parquet", "side", "hold"), "side 'hold' is neither buy nor sell"),
    (first("fills.parquet", "date", None), "not a UTC time in each"),
    (ages_later, "days from first to last row; a report takes at most 10000"),
    (backwards, "date goes back at row 1"),
    (other_run("benchmarks.parquet"), "the dates of benchmarks.parquet are not those of equity.parquet"),
    (other_run("fills.parquet"), "fills.parquet has a row outside of the time"),
)


@pytest.mark.parametrize(("spoil", "line"), BAD, ids=[line for _, line in BAD])
def test_a_bad_folder_is_one_line(tmp_path: Path, spoil: Break, line: str) -> None:
    """What is wrong and where; nothing else is raised."""
    write_run(tmp_path, SMALL)
    spoil(tmp_path)

    with pytest.raises(ConfigError) as caught:
        load_run(tmp_path)
    assert line in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("what", ["date", "qty", "pair"])
def test_a_column_of_another_kind_is_one_line(tmp_path: Path, what: str) -> None:
    """Numbers where times are, text where numbers are, numbers where text is."""
    books = write_run(tmp_path, SMALL)
    other: list[object] = [1.5] * books.fills if what != "qty" else ["x"] * books.fills
    change_column(tmp_path / "fills.parquet", what, other)

    with pytest.raises(ConfigError, match=f"fills.parquet: .*{what}"):
        load_run(tmp_path)


def test_no_folder_is_wrong_usage(tmp_path: Path) -> None:
    """The argument is wrong, not a file: exit code 2."""
    with pytest.raises(UsageError, match="no such folder"):
        load_run(tmp_path / "none")
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match="is a file, not a folder"):
        load_run(tmp_path / "file")


def test_numbers_of_a_result() -> None:
    """Money is text, ratios are numbers, what does not exist is null; everything else is no number."""
    assert [number(one) for one in (1, 1.5, "2.50")] == [1.0, 1.5, 2.5]
    nothing: tuple[object, ...] = (None, True, "x", [1], {})
    assert all(math.isnan(number(one)) for one in nothing)
