"""Commands that read the running daemon: ``status``, ``positions``, ``orders``, ``pnl``."""

from typing import Any

import typer

from daemon.cli.common import Config, Json, print_fields, print_json, print_table, settings_from

GROUP = "Observe"


def _read(config: Config, path: str) -> Any:
    from daemon.cli.client import call

    return call(settings_from(config), path)


def status(config: Config = None, json: Json = False) -> None:
    """Show mode, trading state, readiness, equity and feeds of the running daemon."""
    document = _read(config, "status")
    (print_json if json else print_fields)(document)


def positions(config: Config = None, json: Json = False) -> None:
    """Show what is held: quantity, entry, price, weight and target of every pair."""
    document = _read(config, "positions")
    print_json(document) if json else print_table(document["positions"], empty="no positions")


def orders(config: Config = None, json: Json = False) -> None:
    """Show open and recent orders."""
    document = _read(config, "orders")
    print_json(document) if json else print_table(document["orders"], empty="no orders")


def pnl(config: Config = None, json: Json = False) -> None:
    """Show equity, realised and unrealised profit, fees and drawdown."""
    document = _read(config, "equity")
    if json:
        print_json(document)
    else:
        print_fields({key: value for key, value in document.items() if not isinstance(value, list)})


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    for command in (status, positions, orders, pnl):
        app.command(rich_help_panel=GROUP)(command)
