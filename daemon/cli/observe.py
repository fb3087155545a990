"""Commands that read the running daemon: ``status``, ``positions``, ``orders``, ``pnl``; and the ledger: ``explain``."""

from typing import Annotated, Any

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


def explain(
    what: Annotated[
        str, typer.Argument(metavar="[DECISION or ORDER]", help="A decision's id, an order's client id or venue id.")
    ] = "",
    config: Config = None,
    json: Json = False,
) -> None:
    """Tell why an order exists, from the ledger: forecast, targets, limits, verdicts, evidence, fills; else the newest."""
    settings = settings_from(config)
    from daemon.cli.explaining import explanation, show
    from daemon.outlets.times import jsonable

    found = explanation(settings, what)
    print_json(jsonable(found)) if json else show(found)


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    for command in (status, positions, orders, pnl, explain):
        app.command(rich_help_panel=GROUP)(command)
