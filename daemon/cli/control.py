"""Commands that control the running daemon (DESIGN A9) and ``reconcile``."""

from typing import Annotated

import typer

from daemon.cli.common import (
    CHECK_FAILED,
    Config,
    Json,
    print_fields,
    print_json,
    print_table,
    settings_from,
    settings_to_start,
)
from daemon.domain.errors import Unreachable, Unsafe

GROUP = "Control"
FLOW = ("asset", "amount", "ours", "detail")
TABLES = {
    "breaks": ("asset", "ledger", "exchange"),
    "external_orders": ("symbol", "side", "qty", "filled", "client_id", "venue_id"),
    "external_changes": FLOW,
    "unexplained_changes": FLOW,
}
"""What ``reconcile`` prints as tables, with the columns."""


def _post(config: Config, path: str, as_json: bool) -> None:
    from daemon.cli.client import call

    answer = call(settings_from(config), path, scope="control", post={})
    (print_json if as_json else print_fields)(answer)


def pause(config: Config = None, json: Json = False) -> None:
    """Make no more decisions; stops stay live."""
    _post(config, "pause", json)


def resume(
    config: Config = None,
    clear_kill: Annotated[
        bool, typer.Option("--clear-kill", help="Also lift the kill latch; on this host only.")
    ] = False,
    json: Json = False,
) -> None:
    """Lift pause and latched halts."""
    settings = settings_from(config)
    from daemon.edge.latch import KillLatch

    latch = KillLatch(settings.state_path)
    if clear_kill:
        latch.lift()
    elif latch.is_set():
        raise Unsafe(f"{latch.path} exists ({latch.detail()}); look why, then `ballast resume --clear-kill`")
    from daemon.cli.client import call

    try:
        answer = call(settings, "resume", scope="control", post={})
    except Unreachable:
        if not clear_kill:
            raise
        answer = {"ok": True, "detail": "kill latch lifted; no daemon is running"}
    (print_json if json else print_fields)(answer)


def reduce_only(config: Config = None, json: Json = False) -> None:
    """Let exposure only fall until `resume`."""
    _post(config, "reduce-only", json)


def flatten(config: Config = None, json: Json = False) -> None:
    """Sell everything, then reduce-only until `resume`."""
    _post(config, "flatten", json)


def kill(config: Config = None, json: Json = False) -> None:
    """Cancel all orders and halt; works without a running daemon. Only `resume --clear-kill` lifts it."""
    settings = settings_from(config)
    from daemon.cli.killing import kill_now

    answer = kill_now(settings)
    (print_json if json else print_fields)(answer)
    raise typer.Exit(0 if answer["ok"] else 69)


def reconcile(config: Config = None, json: Json = False) -> None:
    """Compare ledger and exchange and print the difference; exit 3 when there is one."""
    settings = settings_to_start(config)
    from daemon.app import reconcile as compare
    from daemon.outlets.times import jsonable

    result = compare(settings)
    if json:
        print_json(jsonable(result))
    else:
        print_fields({key: value for key, value in result.items() if key not in TABLES})
        for name, columns in TABLES.items():
            print_table(result[name], columns, empty=f"no {name.replace('_', ' ')}")
    raise typer.Exit(0 if result["ok"] else CHECK_FAILED)


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    for command in (pause, resume, reduce_only, flatten, kill, reconcile):
        app.command(command.__name__.replace("_", "-"), rich_help_panel=GROUP)(command)
