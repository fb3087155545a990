"""Commands about history: ``data list``, ``check``, ``repair``, ``import``, ``fetch``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.common import Config, Json, print_json, print_table, settings_from
from daemon.cli.data_common import CHECK_FAILED, Data, Pairs, Timeframe, asker_of, now_ms, where_of
from daemon.cli.data_fetch import fetch

if TYPE_CHECKING:
    from daemon.backtest.data.trade_folder import ListedTrades

GROUP = "Research"

folder = typer.Typer(help="History in the data folder: fetch, list, check, repair, import.", no_args_is_help=True)


@folder.command("list")
def list_(data: Data = None, config: Config = None, json: Json = False) -> None:
    """List the files with what they hold."""
    where = where_of(settings_from(config), data)
    import msgspec

    from daemon.backtest.data.files import iso
    from daemon.backtest.data.folder import list_files
    from daemon.backtest.data.trade_folder import list_trades

    rows, trades = list_files(where), list(list_trades(where))
    if json:
        documents = {"files": msgspec.to_builtins(rows), "trades": msgspec.to_builtins(trades)}
        print_json({"folder": str(where), **documents})
        return
    table = [
        {
            "pair": one.pair,
            "timeframe": one.timeframe,
            "rows": one.rows,
            "from": iso(one.first_ms) if one.rows else "-",
            "to": iso(one.last_ms) if one.rows else "-",
            "missing": one.missing,
            "file": one.file,
        }
        for one in rows
    ]
    if table or not trades:
        print_table(table, empty=f"nothing in {where}")
    if trades:
        typer.echo("" if not table else "\n", nl=False)
        print_table([_trades_row(one) for one in trades])


def _trades_row(one: "ListedTrades") -> dict[str, object]:
    from daemon.backtest.data.files import iso

    return {
        "pair": one.pair,
        "trades": one.rows,
        "from": iso(one.first_ns // 1_000_000) if one.rows else "-",
        "to": iso(one.last_ns // 1_000_000) if one.rows else "-",
        "stretches": len(one.covered_ns) or "-",
        "MB": f"{one.bytes / 1e6:.1f}",
        "file": one.file,
    }


@folder.command()
def check(
    pairs: Pairs = None, timeframe: Timeframe = "", data: Data = None, config: Config = None, json: Json = False
) -> None:
    """Look for gaps, repetitions, impossible rows, misprints and shifted clocks; exit 3 when there are any."""
    where = where_of(settings_from(config), data)
    import msgspec

    from daemon.backtest.data.folder import check as look
    from daemon.backtest.data.folder import chosen

    found = list(look(chosen(where, pairs or [], timeframe), now_ms=now_ms()))
    bad = [one for one in found if not one.ok]
    if json:
        print_json({"ok": not bad, "folder": str(where), "files": msgspec.to_builtins(found)})
    else:
        for one in found:
            for finding in one.findings:
                typer.echo(f"{one.file}: {'' if finding.is_error else 'note: '}{finding.text()}")
        typer.echo(f"{len(found)} files, {len(bad)} with errors" + ("; try `ballast data repair`" if bad else ""))
    raise typer.Exit(CHECK_FAILED if bad else 0)


@folder.command()
def repair(
    pairs: Pairs = None,
    timeframe: Timeframe = "",
    online: Annotated[bool, typer.Option("--online", help="Ask the exchange too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and write nothing.")] = False,
    data: Data = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Mend what can be proven, keep the file as it was beside it, say what was done; exit 3 when something is left."""
    settings = settings_from(config)
    where = where_of(settings, data)
    import msgspec

    from daemon.backtest.data.folder import chosen, mend, online_source, shown, summary

    source = online_source(lambda: asker_of(settings)) if online else None
    done = list(mend(chosen(where, pairs or [], timeframe), online=source, dry=dry_run))
    left = [one for one in done if one.left]
    if json:
        print_json({"ok": not left, "folder": str(where), "dry_run": dry_run, "files": msgspec.to_builtins(done)})
    else:
        for one in done:
            typer.echo(f"{one.file}: {summary(one.changes)}" + (f"; left: {shown(one.left)}" if one.left else ""))
    raise typer.Exit(CHECK_FAILED if left else 0)


@folder.command("import")
def import_(
    source: Annotated[Path, typer.Argument(metavar="FROM", help="A folder in freqtrade's layout.")],
    data: Data = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Take over the candles of another folder; rows that are here already stay as they are."""
    where = where_of(settings_from(config), data)
    import msgspec

    from daemon.backtest.data.folder import import_folder

    rows = list(import_folder(source, where))
    if json:
        print_json({"folder": str(where), "files": msgspec.to_builtins(rows)})
    else:
        print_table([{"file": one.file, "new rows": one.rows, "differing": one.differing} for one in rows])


folder.command()(fetch)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(folder, name="data", rich_help_panel=GROUP)
