"""The command ``backtest``: the daemon's engine on history."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.common import (
    RESEARCH,
    Config,
    Json,
    data_folder,
    print_json,
    print_table,
    progress_bars,
    settings_from,
    time_of,
)
from daemon.domain.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

    from daemon.backtest.history import Panel
    from daemon.backtest.run import Finished
    from daemon.settings import Settings

DAY_NS = 86_400_000_000_000
COMPARED = ("total_return", "sharpe", "max_drawdown", "turnover", "fees", "slippage_cost", "fills")

Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Folder of candles; <state_dir>/data/<exchange> when left out."),
]
Start = Annotated[str, typer.Option("--start", metavar="DATE", help="First bar that is traded (UTC), inclusive.")]
End = Annotated[str, typer.Option("--end", metavar="DATE", help="Where trading ends (UTC), exclusive.")]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the result files go.")]
Supply = Annotated[
    Path | None, typer.Option("--supply", metavar="FILE", help="Coins in circulation: adds the market-cap benchmark.")
]
Walk = Annotated[
    bool,
    typer.Option(
        "--retrain/--no-retrain", help="Train walk-forward, or serve the registry's current model throughout."
    ),
]
Trades = Annotated[
    bool, typer.Option("--trades", help="Fill from recorded trades (`data fetch --trades`), not from bars.")
]
Sweep = Annotated[
    bool, typer.Option("--sweep", help="Also run with a decision per bar, day and week: what trading more often costs.")
]
Page = Annotated[bool, typer.Option("--report/--no-report", help="Make report.html.")]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(rich_help_panel=RESEARCH)(backtest)


def backtest(  # noqa: PLR0913, PLR0917 - one per option
    start: Start,
    end: End,
    out: Out,
    data: Data = None,
    supply: Supply = None,
    report: Page = True,
    retrain: Walk = True,
    sweep: Sweep = False,
    trades: Trades = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Run the daemon's own engine on history and write result files, tables and a report.

    Example: ballast backtest --data data/binance --start 2023-01-01 --end 2024-01-01 --out runs/first
    """
    settings = settings_from(config)
    from daemon.backtest.results import write_results

    panel, first = load(settings, data, start, end)
    models = out / "models" if retrain else None
    recorded = data_folder(settings, data) if trades else None
    done, seconds = run(settings, panel, first, models=models, trades=recorded, quiet=json)
    coins = _supply(supply, done) if supply is not None else None
    result = write_results(out, done, settings, seconds=seconds, supply=coins)
    if report:
        from daemon.backtest.report.html import write_report

        write_report(out)
    compared = _sweep(settings, (done, seconds), out, retrain=retrain, trades=recorded, quiet=json) if sweep else []
    if json:
        print_json({**result, "sweep": compared} if sweep else result)
        return
    from daemon.backtest.report.folder import load_run
    from daemon.backtest.report.tables import console, print_tables

    print_tables(load_run(out), console())
    if compared:
        typer.echo("What deciding more often costs:")
        print_table(compared)
    typer.echo(f"{result['bars']} bars in {seconds:.1f} s; files in {out}")


def _sweep(
    settings: "Settings", ran: "tuple[Finished, float]", out: Path, *, retrain: bool, trades: Path | None, quiet: bool
) -> list[dict[str, Any]]:
    """Run the same with a decision per bar, day and week, each into a folder of its own, and return a row for each.

    ``ran`` is what the settings as they are came to: no pause between decisions is run, or trained for, twice.
    """
    from daemon.backtest.results import write_results

    rows: list[dict[str, Any]] = []
    known = {settings.optimizer.rebalance_every: ran}
    for name, length_ns in (("bar", settings.bar_ns), ("day", DAY_NS), ("week", 7 * DAY_NS)):
        every = max(1, length_ns // settings.bar_ns)
        optimizer = settings.optimizer.model_copy(update={"rebalance_every": every})
        variant = settings.model_copy(update={"optimizer": optimizer})
        folder = out / "sweep" / name
        if every not in known:
            models = folder / "models" if retrain else None
            known[every] = run(variant, ran[0].panel, ran[0].first, models=models, trades=trades, quiet=quiet)
        done, seconds = known[every]
        result = write_results(folder, done, variant, seconds=seconds)
        rows.append({"decides each": name, "bars": every, **{key: result[key] for key in COMPARED}})
    return rows


def load(settings: "Settings", data: Path | None, start: str | None, end: str | None) -> "tuple[Panel, int]":
    """Return history with what warms up before it, and the index of the first bar that counts; None leaves an end open."""
    from daemon.backtest.history import load_panel
    from daemon.backtest.run import warm_up_ns

    start_ns = None if start is None else time_of("--start", start)
    end_ns = None if end is None else time_of("--end", end)
    if start_ns is not None and end_ns is not None and end_ns <= start_ns:
        raise UsageError(f"--end {end} is not after --start {start}")
    panel = load_panel(
        data_folder(settings, data),
        settings.universe,
        bar=settings.bar,
        bar_ns=settings.bar_ns,
        start_ns=None if start_ns is None else start_ns - warm_up_ns(settings),
        end_ns=end_ns,
    )
    return panel, 0 if start_ns is None else panel.place(start_ns)


def run(
    settings: "Settings",
    panel: "Panel",
    first: int,
    *,
    models: Path | None = None,
    trades: Path | None = None,
    quiet: bool,
) -> "tuple[Finished, float]":
    """Run a backtest and say how long it took, seconds."""
    from daemon.backtest.run import backtest as run_backtest
    from daemon.edge.clock import Clock

    clock = Clock()
    began = clock.mono_ns()
    say = (lambda _line: None) if quiet else partial(typer.echo, err=True)
    with progress_bars(quiet=quiet) as tell:
        bars = partial(tell, "bars")
        bars(0, None)
        done = run_backtest(settings, panel, first=first, models=models, trades=trades, progress=bars, say=say)
    return done, (clock.mono_ns() - began) / 1e9


def _supply(path: Path, done: "Finished") -> "NDArray[float64]":
    """Return (n_rows, n_assets) coins in circulation as known in each row of the curve, NaN where unknown.

    Before an asset's first line its first line holds: files fetched today start today.
    """
    import numpy as np

    from daemon.backtest.data.supply import read_supply

    known = read_supply(path)
    rows = np.array(done.record.times_ns, dtype=np.int64)
    table = np.full((len(rows), len(done.panel.symbols)), np.nan)
    for at, symbol in enumerate(done.panel.symbols):
        lines = known.get(symbol.partition("/")[0], [])
        if lines:
            times, coins = np.array([line[0] for line in lines]), np.array([line[1] for line in lines])
            table[:, at] = coins[np.maximum(np.searchsorted(times, rows, side="right") - 1, 0)]
    if np.isnan(table).all():
        raise ConfigError(f"{path}: no supply of any of {', '.join(done.panel.symbols)}")
    return table
