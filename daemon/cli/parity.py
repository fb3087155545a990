"""The command ``parity``: a recorded run beside a backtest of the same period."""

from pathlib import Path
from typing import Annotated

import typer

from daemon.cli.common import CHECK_FAILED, RESEARCH, Config, Json, print_json, settings_from
from daemon.domain.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(rich_help_panel=RESEARCH)(parity)


def parity(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="A recorded run: <state_dir>/<mode>, its journal folder, or one segment of it."
        ),
    ],
    config: Config = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Compare the recorded bars with these candles too.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Write tables and JSON there.")] = None,
    json: Json = False,
) -> None:
    """Compare a recorded run with a backtest of the same period; exit 3 when they part, or a gap in profit is not explained.

    The backtest runs with the recorded configuration; with --config it runs with that one.
    """
    if not run.exists():
        raise ConfigError(f"{run}: no such run; give <state_dir>/<mode>, its journal folder or one of its segments")
    if data is not None and not data.is_dir():
        raise ConfigError(f"--data {data}: no such folder; give one with <BASE>_<QUOTE>-<timeframe> files")
    if out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file; name a folder")
    settings = settings_from(config) if config else None
    from daemon.backtest.parity import parity as compare
    from daemon.backtest.parity_show import document, tables, write

    result = compare(run, settings=settings, candles=data)
    if out is not None:
        try:
            write(out, result)
        except OSError as error:
            raise ConfigError(f"--out {out}: cannot be written: {error.strerror or error}") from None
    if json:
        print_json(document(result))
    else:
        from daemon.backtest.report.tables import console, print_grids

        print_grids(tables(result), console())
        for line in (*result.problems, *result.notes):
            typer.echo(line)
        typer.echo(result.summary)
    raise typer.Exit(0 if result.ok else CHECK_FAILED)
