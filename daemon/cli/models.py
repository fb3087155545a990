"""Commands about models: ``train``, ``models list``, ``models show``."""

import typer

from daemon.cli.common import Config, settings_from, start_logs

GROUP = "Models"


def train(config: Config = None) -> None:
    """Fetch history, fit a model and register it."""
    settings = settings_from(config)
    from daemon.settings import verify_start

    start_logs(settings)
    verify_start(settings)
    from daemon.app import train as train_model

    raise typer.Exit(train_model(settings, lambda line: typer.echo(line, err=True)))


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command(rich_help_panel=GROUP)(train)
