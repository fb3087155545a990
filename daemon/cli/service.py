"""Commands that run something: ``run``, ``demo``, ``simulate``, ``replay``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from daemon.cli.common import CHECK_FAILED, Config, Json, print_json, settings_to_start
from daemon.domain.errors import UsageError

GROUP = "Run"


class Decisions(StrEnum):
    """Where a replay takes its decisions from."""

    RECORDED = "recorded"
    RECOMPUTED = "recomputed"


def run(config: Config = None) -> None:
    """Run the daemon in the foreground (systemd and Docker call this)."""
    settings = settings_to_start(config)
    from daemon.app import run as run_daemon

    raise typer.Exit(run_daemon(settings))


def demo(
    seconds: Annotated[float, typer.Option(min=1, max=86_400, help="Seconds from trading-ready.")] = 60,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulated market.")] = 1,
    json: Json = False,
) -> None:
    """Run a simulated exchange and the daemon in one go; exit 0 only if everything reconciles."""
    from daemon.app import demo as run_demo
    from daemon.outlets import logs

    logs.setup(style="auto", level="warning")
    raise typer.Exit(run_demo(seconds, seed, json))


def simulate(
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port on 127.0.0.1; 0 = any free one.")] = 18_080,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the market.")] = 1,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Replay the candles in this folder.")] = None,
    symbols: Annotated[int, typer.Option(min=1, max=500, help="How many markets are alive.")] = 8,
    json: Json = False,
) -> None:
    """Run the simulated exchange alone, on loopback, until Ctrl-C."""
    if data is not None and not data.is_dir():
        raise UsageError(f"--data {data}: no such folder; give one with <BASE>_<QUOTE>-<timeframe> files")
    from daemon.cli.simulation import serve
    from daemon.exchange.config import SimConfig
    from daemon.outlets import logs

    logs.setup(style="auto", level="info")
    config = SimConfig(seed=seed, symbols=symbols, data_dir="" if data is None else str(data))
    raise typer.Exit(serve(port=port, config=config, as_json=json))


def replay(
    journal: Annotated[Path, typer.Argument(metavar="JOURNAL", help="A journal folder or one segment.")],
    decisions: Annotated[Decisions, typer.Option(help="Take decisions from the record or compute them again.")] = (
        Decisions.RECORDED
    ),
    from_segment: Annotated[
        str, typer.Option(metavar="SEGMENT", help="Begin there: a number in the newest run, or a segment's file name.")
    ] = "",
    json: Json = False,
) -> None:
    """Re-run recorded events through the same engine and compare every effect; exit 3 on a difference."""
    if not journal.exists():
        raise UsageError(f"{journal}: no such journal; give <state_dir>/<mode>/journal or one of its segments")
    from daemon.cli.replaying import replay_journal

    result = replay_journal(journal, decisions.value, from_segment)
    if json:
        print_json(result)
    else:
        for line in result["lines"]:
            typer.echo(line)
        typer.echo(result["summary"])
    raise typer.Exit(0 if result["ok"] else CHECK_FAILED)


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command(rich_help_panel=GROUP)(run)
    app.command(rich_help_panel=GROUP)(demo)
    app.command(rich_help_panel=GROUP)(simulate)
    app.command(rich_help_panel=GROUP)(replay)
