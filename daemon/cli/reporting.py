"""The command ``report``: what finished runs say, one alone or several side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.common import RESEARCH, Json, print_json
from daemon.domain.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daemon.backtest.report.folder import Run

COMPARISON = Path("comparison.html")


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders that `ballast backtest --out` wrote.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="The page; when left out report.html in the run's folder, or ./comparison.html for several runs.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Print the tables of a run and write its page; compare several runs side by side."""
    if out is not None and out.is_dir():
        raise UsageError(f"--out {out}: is a folder; name the file to write")
    from daemon.backtest.report.compare import load_runs

    found = load_runs(runs)
    _one(found[0], out, json=json) if len(found) == 1 else _several(found, out or COMPARISON, json=json)


def _one(run: "Run", out: Path | None, *, json: bool) -> None:
    from daemon.backtest.report.html import page, write_page

    written = write_page(page(run), out or run.folder / "report.html")
    if json:
        from daemon.backtest.report.document import of_run

        print_json({**of_run(run), "html": str(written)})
        return
    from daemon.backtest.report.tables import console, print_tables

    print_tables(run, console())
    typer.echo(f"page: {written}")


def _several(runs: "Sequence[Run]", out: Path, *, json: bool) -> None:
    from daemon.backtest.report.compare import choice, grids, write_comparison

    chosen = choice(runs)
    written = write_comparison(runs, chosen, out)
    if json:
        from daemon.backtest.report.document import of_runs

        print_json({**of_runs(runs, chosen), "html": str(written)})
        return
    from daemon.backtest.report.tables import console, print_grids

    print_grids(grids(runs, chosen), console())
    typer.echo(f"page: {written}")


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel=RESEARCH)(report)
