"""Commands about the configuration: ``check`` and ``config``."""

from typing import Annotated

import typer

from daemon.cli.common import Config, Json, print_json, settings_from, settings_to_start

GROUP = "Configure"


def check(
    config: Config = None,
    online: Annotated[
        bool,
        typer.Option(
            help="Also ask the exchange (keys, clock, filters, balances) and the ledger's server; and the model."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Say what would stop a start; exit 0 when nothing would."""
    settings = settings_to_start(config)
    from daemon.app import check as check_start

    problems = check_start(settings, online)
    if json:
        print_json({"ok": not problems, "problems": problems})
    elif problems:
        for problem in problems:
            typer.echo(problem)
    else:
        typer.echo(f"ready to start: mode {settings.mode}, {len(settings.universe)} pairs, bar {settings.bar}")
    raise typer.Exit(78 if problems else 0)


def config_(
    config: Config = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema instead.")] = False,
) -> None:
    """Print the resolved configuration as JSON, secrets redacted."""
    from daemon.settings import json_schema, redacted

    print_json(json_schema() if schema else redacted(settings_from(config)))


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command(rich_help_panel=GROUP)(check)
    app.command("config", rich_help_panel=GROUP)(config_)
