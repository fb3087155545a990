"""The tables on a terminal: what matters first, numbers as in the files, wide tables in parts."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from daemon.backtest.report.folder import load_run
from daemon.backtest.report.grids import Grid
from daemon.backtest.report.summary import PAIRS_SHOWN_MAX, grids, pairs_grid, performance_grid
from daemon.backtest.report.tables import print_grids, print_tables
from tests.backtest.report.kit import Plan, change_result, write_run


def printed(width: int, *tables: Grid) -> str:
    """Print tables to a console of a width."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_grids(tables, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_weights_and_costs_come_first(tmp_path: Path) -> None:
    """In the order of DESIGN A8: exposure, turnover, cost, then the rows that freqtrade users know."""
    write_run(tmp_path)
    run = load_run(tmp_path)
    console = Console(file=io.StringIO(), width=160, color_system=None)
    print_tables(run, console)
    assert isinstance(console.file, io.StringIO)
    out = console.file.getvalue()
    order = [
        "Average gross exposure",
        "Turnover a day",
        "Fees",
        "BTC/USDT",
        "Total profit",
        "CAGR",
        "Sharpe",
        "Sortino",
    ]
    order += ["Calmar", "Max drawdown", "Best day", "Worst day", "Win days", "Skill against"]
    places = [out.index(one) for one in order]

    assert places == sorted(places)
    assert out.startswith("2024-01-01 to 2024-03-31, bars of 1h")


def test_pairs_sum_up(tmp_path: Path) -> None:
    """Fills, fees and profit per pair are the files' sums; the rest beyond the bound is one row, nothing is lost."""
    pairs = tuple(f"C{at}/USDT" for at in range(PAIRS_SHOWN_MAX + 5))
    books = write_run(tmp_path, Plan(pairs=pairs, bars=24 * 5))
    table = pairs_grid(load_run(tmp_path))

    def column(at: int) -> float:
        return sum(float(row[at].replace(",", "")) for row in table.rows)

    assert len(table.rows) == PAIRS_SHOWN_MAX
    assert table.rows[-1][0] == "6 more"
    assert column(5) == books.fills
    assert column(7) == pytest.approx(books.fees, abs=0.01 * PAIRS_SHOWN_MAX)
    assert column(8) == pytest.approx(books.equity[-1] - books.equity[0], abs=0.01 * PAIRS_SHOWN_MAX)


def test_missing_figures_are_dashes(tmp_path: Path) -> None:
    """Undefined ratios and figures of an older version are no zeros; unknown benchmarks get a column."""
    write_run(tmp_path, Plan(bars=24 * 3))
    change_result(tmp_path, benchmarks={"hodl": {"total_return": 0.5, "sharpe": None}})
    table = performance_grid(load_run(tmp_path))
    rows = {row[0]: row[1:] for row in table.rows}

    assert table.columns == ("", "Run", "hodl")
    assert rows["Total profit"][1] == "50.00 %"
    assert rows["Sharpe"][1] == rows["Fees"][1] == rows["Best day"][1] == "–"


def test_wide_tables_are_printed_in_parts() -> None:
    """Every column is there, whole, beside the first one; a marked cell keeps its mark without colours."""
    columns = ("Name", *(f"column number {at}" for at in range(12)))
    row = ("row", *(f"{at + 10},234,567,890.25" for at in range(12)))
    out = printed(60, Grid("key", "Title", columns, (row,), marks=((0, 3),)))

    assert all(name in out for name in columns)
    assert all(cell in out for cell in row)
    assert f"* {row[3]}" in out
    assert out.count("*") == 1
    assert out.count("continued") > 1
    assert max(len(line) for line in out.splitlines()) <= 60


def test_text_of_a_file_is_no_markup() -> None:
    """Square brackets are shown, not obeyed."""
    assert "[red]x[/red]" in printed(80, Grid("key", "Title", ("Name", "Value"), (("[red]x[/red]", "1"),)))


def test_every_run_has_its_tables(tmp_path: Path) -> None:
    """A run without forecasts has one table less."""
    write_run(tmp_path, Plan(bars=48))
    whole = [grid.key for grid in grids(load_run(tmp_path))]
    change_result(tmp_path, forecast={"skill": None, "calibration": []})

    assert whole == ["portfolio", "pairs", "performance", "forecast"]
    assert [grid.key for grid in grids(load_run(tmp_path))] == whole[:3]
