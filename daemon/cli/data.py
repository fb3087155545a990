"""Commands about history: ``data list``, ``check``, ``repair``, ``import``, ``bars``, ``fetch``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.common import CHECK_FAILED, RESEARCH, Config, Json, data_folder, print_json, print_table, settings_from
from daemon.cli.data_common import BarTimeframe, Data, Pairs, Timeframe, asker_of, now_ms
from daemon.cli.data_fetch import fetch
from daemon.domain.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.backtest.data.check import Finding
    from daemon.backtest.data.files import CandleFile
    from daemon.backtest.data.folder import Checked, Imported
    from daemon.backtest.data.trade_dumps import ImportedTrades
    from daemon.backtest.data.trade_folder import ListedTrades
    from daemon.backtest.data.trades import TradeSet

CHANGES_SHOWN = 20
"""Changes of one file that `repair` names."""
REMEDIES = (
    ("fetch", {"unfetched"}),
    ("repair", {"gap", "duplicate", "conflict", "unsorted", "absurd", "wrong_day"}),
)
"""Which command cures which findings; the others need a person."""

Trades = Annotated[bool, typer.Option("--trades", help="Trades only.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done and write nothing.")]

folder = typer.Typer(help="History in the data folder: fetch, list, check, repair, import, bars.", no_args_is_help=True)


@folder.command("list")
def list_(data: Data = None, config: Config = None, json: Json = False) -> None:
    """List the files with what they hold."""
    where = data_folder(settings_from(config), data)
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


def _meant(
    where: Path, pairs: list[str] | None, timeframe: str, *, trades: bool
) -> "tuple[list[CandleFile], list[TradeSet]]":
    """Return the candles and the trades meant: with a timeframe only candles, with ``trades`` only trades."""
    from daemon.backtest.data.files import files_in
    from daemon.backtest.data.folder import chosen
    from daemon.backtest.data.trade_folder import chosen_trades

    if trades and timeframe:
        raise UsageError("--trades have no timeframe")
    wanted = pairs or []
    sets = [] if timeframe else chosen_trades(where, wanted)
    rest = [pair for pair in wanted if pair not in {one.pair for one in sets}]
    if trades:
        if rest:
            raise ConfigError(f"{', '.join(rest)}: no trades in {where}")
        return [], sets
    known = {one.pair for one in files_in(where)} if sets and wanted else set(wanted)
    asked = [pair for pair in wanted if pair in rest or pair in known]
    return (chosen(where, asked, timeframe) if asked or not wanted else []), sets


@folder.command()
def check(
    pairs: Pairs = None,
    timeframe: Timeframe = "",
    trades: Trades = False,
    data: Data = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Look for gaps, repetitions, impossible rows, misprints and shifted clocks; exit 3 when there are any."""
    where = data_folder(settings_from(config), data)
    import msgspec

    from daemon.backtest.data.folder import Checked
    from daemon.backtest.data.folder import check as look
    from daemon.backtest.data.trade_check import inspect_trades

    files, sets = _meant(where, pairs, timeframe, trades=trades)
    present = now_ms()
    found = list(look(files, now_ms=present))
    found += [Checked(one.path.name, inspect_trades(one, now_ns=present * 1_000_000)) for one in sets]
    bad = [one for one in found if not one.ok]
    if json:
        print_json({"ok": not bad, "folder": str(where), "files": msgspec.to_builtins(found)})
    else:
        for line in _told(found):
            typer.echo(line)
        kinds = {finding.kind for one in bad for finding in one.findings}
        remedies = [f"`ballast data {verb}`" for verb, some in REMEDIES if kinds & some]
        remedy = f"; try {' and '.join(remedies)}" if remedies else ""
        typer.echo(f"{len(found)} files, {len(bad)} with errors{remedy}" if found else f"nothing to check in {where}")
    raise typer.Exit(CHECK_FAILED if bad else 0)


def _told(found: "list[Checked]") -> "Iterator[str]":
    """Yield errors file by file, then notes: what many files show alike, as an outage of the venue, is one line."""
    for one in found:
        for finding in one.findings:
            if finding.is_error:
                yield f"{one.file}: {finding.text()}"
    notes: dict[Finding, list[str]] = {}
    for one in found:
        for finding in one.findings:
            if not finding.is_error:
                notes.setdefault(finding, []).append(one.file)
    for finding, names in notes.items():
        more = f" and {len(names) - 2} more files" if len(names) > 2 else ""
        yield f"note: {', '.join(names[:2])}{more}: {finding.text()}"


@folder.command()
def repair(
    pairs: Pairs = None,
    timeframe: Timeframe = "",
    trades: Trades = False,
    online: Annotated[bool, typer.Option("--online", help="Ask the exchange too.")] = False,
    dry_run: DryRun = False,
    data: Data = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Mend what can be proven, keep the file as it was beside it, say what was done; exit 3 when something is left."""
    settings = settings_from(config)
    where = data_folder(settings, data)
    import msgspec

    from daemon.backtest.data.files import iso
    from daemon.backtest.data.folder import mend, online_source, shown, summary
    from daemon.backtest.data.trade_repair import mend_trades, online_ids

    files, sets = _meant(where, pairs, timeframe, trades=trades)
    source = online_source(lambda: asker_of(settings)) if online else None
    ids = online_ids(lambda: asker_of(settings)) if online else None
    done = list(mend(files, online=source, dry=dry_run))
    done += [mend_trades(one, online=ids, dry=dry_run) for one in sets]
    left = [one for one in done if one.left]
    if json:
        print_json({"ok": not left, "folder": str(where), "dry_run": dry_run, "files": msgspec.to_builtins(done)})
    else:
        for one in done:
            typer.echo(f"{one.file}: {summary(one.changes)}" + (f"; left: {shown(one.left)}" if one.left else ""))
            for change in one.changes[:CHANGES_SHOWN]:
                typer.echo(f"  {iso(change.time_ms)} {change.what}: {change.proof}")
            if len(one.changes) > CHANGES_SHOWN:
                typer.echo(f"  … {len(one.changes) - CHANGES_SHOWN} more; --json tells all")
    raise typer.Exit(CHECK_FAILED if left else 0)


@folder.command("import")
def import_(
    source: Annotated[
        Path, typer.Argument(metavar="FROM", help="A folder in freqtrade's layout, Binance's dumps, or a supply file.")
    ],
    data: Data = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Take over candles, trades and supplies from elsewhere; rows that are here already stay as they are."""
    where = data_folder(settings_from(config), data)
    import msgspec

    from daemon.backtest.data.folder import import_folder
    from daemon.backtest.data.supply import FILE, import_supply, is_supply
    from daemon.backtest.data.trade_dumps import dumps_in, import_dump, import_sets, nothing_in

    if not source.exists():
        raise ConfigError(f"no data folder at {source}, and no file")
    rows: list[Imported | ImportedTrades] = []
    if source.is_dir():
        rows += [*import_folder(source, where), *import_sets(source, where)]
    rows += [import_dump(one, where) for one in dumps_in(source)]
    given = source / FILE if source.is_dir() else source
    supplies = import_supply(given, where / FILE) if is_supply(given) else None
    nothing_in(source, [*rows, *([supplies] if supplies is not None else [])])
    if json:
        print_json({"folder": str(where), "files": msgspec.to_builtins(rows), "supplies": supplies})
        return
    print_table([{"file": one.file, "new rows": one.rows, "differing": one.differing} for one in rows], empty="")
    if supplies is not None:
        typer.echo(f"{FILE}: {supplies} new rows")


@folder.command()
def bars(
    pairs: Pairs = None,
    timeframe: BarTimeframe = "",
    dry_run: DryRun = False,
    data: Data = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Make candles of trades as the daemon does, and compare them with those on file; exit 3 when they differ."""
    settings = settings_from(config)
    where = data_folder(settings, data)
    import msgspec

    from daemon.backtest.data.trade_bars import build, text
    from daemon.backtest.data.trade_folder import chosen_trades
    from daemon.backtest.data.trades import set_of

    sets = [set_of(where, pair) for pair in pairs] if pairs else chosen_trades(where, [])
    if not sets:
        raise ConfigError(f"no trades in {where}: `ballast data fetch --trades` fetches some")
    built = [build(where, one, timeframe or settings.bar, dry=dry_run) for one in sets]
    differ = any(one.differing for one in built)
    if json:
        print_json({"ok": not differ, "folder": str(where), "dry_run": dry_run, "files": msgspec.to_builtins(built)})
    else:
        for one in built:
            for line in text(one):
                typer.echo(line)
    raise typer.Exit(CHECK_FAILED if differ else 0)


folder.command()(fetch)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(folder, name="data", rich_help_panel=RESEARCH)
