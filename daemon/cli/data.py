"""Commands about history: ``data list``, ``check``, ``repair``, ``import``, ``fetch``."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.common import Config, Json, print_json, print_table, settings_from
from daemon.domain.errors import UsageError

if TYPE_CHECKING:
    from daemon.backtest.data.fetch import Progress
    from daemon.settings import Settings

GROUP = "Research"
CHECK_FAILED = 3

folder = typer.Typer(help="History in the data folder: fetch, list, check, repair, import.", no_args_is_help=True)

Data = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="The folder; <state_dir>/data/<exchange> when left out.")
]
Pairs = Annotated[
    list[str] | None, typer.Argument(metavar="[PAIR]...", help="For example BTC/USDT; all when left out.")
]
Timeframe = Annotated[str, typer.Option("--timeframe", "-t", help="For example 1h; all when left out.")]


@folder.command("list")
def list_(data: Data = None, config: Config = None, json: Json = False) -> None:
    """List the files with what they hold."""
    where = _where(settings_from(config), data)
    import msgspec

    from daemon.backtest.data.files import iso
    from daemon.backtest.data.folder import list_files

    rows = list_files(where)
    if json:
        print_json({"folder": str(where), "files": msgspec.to_builtins(rows)})
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
    print_table(table, empty=f"no candles in {where}")


@folder.command()
def check(
    pairs: Pairs = None, timeframe: Timeframe = "", data: Data = None, config: Config = None, json: Json = False
) -> None:
    """Look for gaps, repetitions, impossible rows, misprints and shifted clocks; exit 3 when there are any."""
    where = _where(settings_from(config), data)
    import msgspec

    from daemon.backtest.data.folder import check as look
    from daemon.backtest.data.folder import chosen

    found = list(look(chosen(where, pairs or [], timeframe), now_ms=_now_ms()))
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
    where = _where(settings, data)
    import msgspec

    from daemon.backtest.data.folder import chosen, mend, online_source, shown, summary
    from daemon.service.venues import exchange_of

    source = online_source(lambda: exchange_of(settings)) if online else None
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
    where = _where(settings_from(config), data)
    import msgspec

    from daemon.backtest.data.folder import import_folder

    rows = list(import_folder(source, where))
    if json:
        print_json({"folder": str(where), "files": msgspec.to_builtins(rows)})
    else:
        print_table([{"file": one.file, "new rows": one.rows, "differing": one.differing} for one in rows])


@folder.command()
def fetch(
    pairs: Annotated[list[str] | None, typer.Argument(metavar="[PAIR]...", help="The universe when left out.")] = None,
    timeframe: Annotated[str, typer.Option("--timeframe", "-t", help="`bar` of the configuration when left out.")] = "",
    since: Annotated[str, typer.Option(help="From this day (UTC), for example 2020-05-11.")] = "",
    until: Annotated[str, typer.Option(help="To this day, exclusive; now when left out.")] = "",
    data: Data = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Fetch candles through ccxt; a second run goes on where the first one ended, Ctrl-C keeps what came."""
    settings = settings_from(config)
    where = _where(settings, data)
    wanted = timeframe or settings.bar
    if not since:
        raise UsageError("--since is missing: from which day, for example --since 2020-05-11?")
    since_ms, until_ms = _day_ms("--since", since), min(_day_ms("--until", until), _now_ms()) if until else _now_ms()
    if since_ms >= until_ms:
        raise UsageError(f"--since {since} does not lie before {until or 'now'}")
    import asyncio

    import msgspec

    from daemon.backtest.data.folder import fetch as fetch_pair
    from daemon.service.venues import exchange_of

    async def work() -> list[Any]:
        exchange = exchange_of(settings)
        done: list[Any] = []
        try:
            for pair in pairs or settings.universe:
                with _bar(pair) as progress:
                    done.append(
                        await fetch_pair(
                            exchange,
                            where,
                            pair=pair,
                            timeframe=wanted,
                            since_ms=since_ms,
                            until_ms=until_ms,
                            progress=progress,
                        )
                    )
        finally:
            await exchange.close()
        return done

    rows = asyncio.run(work())
    if json:
        print_json({"folder": str(where), "files": msgspec.to_builtins(rows)})
    else:
        print_table([{"file": one.file, "new rows": one.rows, "rows": one.total} for one in rows])


@contextmanager
def _bar(pair: str) -> "Generator[Progress]":
    """Show a progress bar on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(pair, total=None)
        yield lambda done, whole: bar.update(task, completed=done, total=max(whole, 1))


def _where(settings: "Settings", data: Path | None) -> Path:
    return data if data is not None else settings.state_path / "data" / settings.exchange.id


def _now_ms() -> int:
    from daemon.edge.clock import Clock

    return Clock().now_ns() // 1_000_000


def _day_ms(option: str, text: str) -> int:
    """Return a day or time (UTC) as ms."""
    from datetime import UTC, datetime

    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{option} {text!r} is no day: write 2020-05-11, or 2020-05-11T06:00") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(folder, name="data", rich_help_panel=GROUP)
