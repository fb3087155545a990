"""The command ``leak``: whether a strategy knows the future."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.common import (
    CHECK_FAILED,
    RESEARCH,
    Config,
    Jobs,
    Json,
    data_folder,
    print_json,
    processes,
    progress_bars,
    settings_from,
)
from daemon.cli.research import Data, End, Start, load
from daemon.domain.errors import ConfigError

if TYPE_CHECKING:
    from daemon.backtest.history import Panel
    from daemon.backtest.leak_find import Report
    from daemon.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(rich_help_panel=RESEARCH)(leak)


def leak(  # noqa: PLR0913, PLR0917 - one option each
    start: Start,
    end: End,
    data: Data = None,
    also: Annotated[
        list[Path] | None,
        typer.Option("--also", metavar="DIR", help="Another folder of candles the strategy reads; repeatable."),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, max=1_000_000, help="Decisions that are looked at.")] = 50,
    every: Annotated[bool, typer.Option("--every", help="Look at all decisions; takes long.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw of these decisions.")] = 0,
    train: Annotated[bool, typer.Option("--train", help="Train a model at --start and look at that one.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="A warning counts as a leak.")] = False,
    jobs: Jobs = 0,
    config: Config = None,
    json: Json = False,
) -> None:
    """Look for look-ahead: change the future, leave out the past, and compare decisions; exit 3 when a leak is found.

    Example: ballast leak --data data/binance --start 2023-01-01 --end 2024-01-01
    """
    settings = settings_from(config)
    from daemon.backtest.leak import Plan, find_leaks

    panel, first = load(settings, data, start, end)
    plan = Plan(
        folders=_folders(settings, data, also or []),
        samples=0 if every else samples,
        seed=seed,
        jobs=processes(jobs),
    )
    with tempfile.TemporaryDirectory(prefix="ballast-model-") as models, progress_bars(quiet=json) as tell:
        if train:
            from msgspec.structs import replace

            _train(settings, panel, first, Path(models))
            plan = replace(plan, models=Path(models))
        report = find_leaks(settings, panel, first=first, plan=plan, progress=tell)
    failed = report.leaks > 0 or (strict and report.warnings > 0)
    if json:
        print_json(document(report, ok=not failed))
    else:
        _show(report)
    raise typer.Exit(CHECK_FAILED if failed else 0)


def document(report: "Report", *, ok: bool) -> dict[str, Any]:
    """Return a report as one JSON document; times as ns with an ISO twin."""
    from msgspec import to_builtins

    from daemon.backtest.leak_search import moment

    built: dict[str, Any] = to_builtins(report)
    for finding in built["findings"]:
        finding["close"] = moment(finding["close_ns"]) if finding["close_ns"] else None
        if finding["trace"] is not None:
            for name in ("first", "last"):
                finding["trace"][name] = moment(finding["trace"][f"{name}_ns"])
    return {"ok": ok, "leaks": report.leaks, "warnings": report.warnings, **built}


def _folders(settings: "Settings", data: Path | None, also: list[Path]) -> tuple[Path, ...]:
    """Return every folder of candles that the strategy could know of."""
    usual = data_folder(settings, None)
    given = [*([data] if data is not None else []), *also]
    for folder in also:
        if not folder.is_dir():
            raise ConfigError(f"--also {folder}: no such folder")
    folders = [*given, *([usual] if usual.is_dir() else [])]
    return tuple(dict.fromkeys(folder.resolve() for folder in folders))


def _train(settings: "Settings", panel: "Panel", first: int, models: Path) -> None:
    """Train a model on what was known at the start, into a registry of its own."""
    from daemon.backtest.walk import WalkForward
    from daemon.service.training import TRAINABLE

    if settings.forecast.model not in TRAINABLE:
        raise ConfigError(f"--train: forecast.model = {settings.forecast.model!r} is not trained; leave it out")

    class Nobody:
        """Serves no model: the processes that are asked load it."""

        def reload(self) -> Any:
            """Return nothing of interest."""
            from daemon.edge.worker_wire import Ready

            return Ready("", 0, "")

    walk = WalkForward(
        settings, panel, models=models, worker=Nobody(), every_ns=0, say=lambda line: typer.echo(line, err=True)
    )
    walk(int(panel.open_ns[first]))
    if walk.failed:
        raise ConfigError(f"--train: {walk.failed[0]}; take a later --start, or fetch more history")


def _show(report: "Report") -> None:
    """Print what was found, and what was not looked at."""
    for one in report.findings:
        often = f" [{one.count} of {one.of} decisions]" if one.close_ns else ""
        typer.echo(f"{'LEAK' if one.leak else 'warning'} ({one.experiment}): {one.message}{often}")
    for note in report.notes:
        typer.echo(f"note: {note}")
    if report.needed is not None:
        typer.echo(f"decisions need {report.needed.bars} bars of history, {report.needed.configured} are kept")
    looked = f"{report.samples} of {report.decisions} decisions looked at"
    if report.findings:
        typer.echo(f"{looked}: {report.leaks} leaks, {report.warnings} warnings")
    else:
        typer.echo(f"{looked}: none depends on its future, on chance, on the clock or on those before it")
