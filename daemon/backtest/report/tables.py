"""The tables on a terminal."""

from collections.abc import Iterable, Iterator
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from daemon.backtest.report.folder import Run
from daemon.backtest.report.grids import Grid, plain
from daemon.backtest.report.summary import grids, span

BEST: Final = "* "
"""Put before what stands out: colours do not survive a pipe."""
GAP: Final = 2
"""Cells between columns."""
WORDS_MIN: Final = 24
"""Cells that a column of words keeps when it has to wrap."""
PIPE_WIDTH: Final = 160
"""Cells of a line that goes to a file or another program."""


def console() -> Console:
    """Return the terminal, or lines long enough for a table when stdout is something else."""
    here = Console()
    return here if here.is_terminal else Console(width=PIPE_WIDTH)


def print_tables(run: Run, console: Console) -> None:
    """Print a run: weights, exposure, turnover and cost first, then the figures beside the benchmarks."""
    console.print(Text(plain(span(run)), style="bold"))
    print_grids(grids(run), console)


def print_grids(tables: Iterable[Grid], console: Console) -> None:
    """Print tables one below the other; text of files is shown as it is, never read as markup.

    A table that is too wide for the console is printed in parts, each with the first column.
    """
    for grid in tables:
        parts = list(_parts(grid, console.width))
        for at, columns in enumerate(parts):
            title = grid.title if at == 0 else f"{grid.title}, continued"
            console.print(_table(grid, columns, title))
        if grid.note:
            console.print(Text(grid.note, style="dim"))
        console.print()


def _table(grid: Grid, columns: tuple[int, ...], title: str) -> Table:
    table = Table(title=Text(title, style="bold"), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for at in columns:
        words = at < grid.left
        table.add_column(
            Text(grid.columns[at]), justify="left" if words else "right", no_wrap=not words, overflow="fold"
        )
    marks = set(grid.marks)
    for row_at, row in enumerate(grid.rows):
        cells = [(row[at], (row_at, at) in marks) for at in columns]
        table.add_row(*(Text(f"{BEST if best else ''}{text}", style="bold" if best else "") for text, best in cells))
    return table


def _parts(grid: Grid, width: int) -> Iterator[tuple[int, ...]]:
    """Yield the columns of each part: the first one and as many others as fit."""
    widths = [
        max((cell_len(text) for text in (grid.columns[at], *(row[at] for row in grid.rows))), default=0) + GAP
        for at in range(len(grid.columns))
    ]
    widths = [min(one, WORDS_MIN + GAP) if at < grid.left else one + len(BEST) for at, one in enumerate(widths)]
    part, used = [0], widths[0]
    for at in range(1, len(widths)):
        if len(part) > 1 and used + widths[at] > width:
            yield tuple(part)
            part, used = [0], widths[0]
        part.append(at)
        used += widths[at]
    yield tuple(part)
