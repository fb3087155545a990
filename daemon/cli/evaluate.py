"""``evaluate``: what forecasting models are worth on bars they could not know."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.common import Config, Json, print_json, progress_bars, settings_from
from daemon.cli.research import Data, load
from daemon.domain.errors import UsageError

if TYPE_CHECKING:
    from daemon.backtest.evaluate import Field, Judged
    from daemon.settings import Settings
    from strategies.artifact import Hyper
    from strategies.training.evaluate import Asked

GROUP = "Models"

Models = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[MODEL]...",
        help="zero, ewma, lstm, package.module:Class, or the id of a registered model; forecast.model when left out.",
    ),
]
Decisions = Annotated[
    bool, typer.Option("--decisions/--no-decisions", help="Also run the engine: Sharpe and drawdown after costs.")
]


def evaluate(  # noqa: PLR0913, PLR0917 - one option each
    models: Models = None,
    data: Data = None,
    start: Annotated[str, typer.Option(metavar="DATE", help="First bar to learn from (UTC).")] = "",
    end: Annotated[str, typer.Option(metavar="DATE", help="Day after the last bar; what there is when left out.")] = "",
    folds: Annotated[int, typer.Option(min=1, max=100, help="Test windows, one training each.")] = 4,
    embargo: Annotated[
        int, typer.Option(min=-1, help="Bars kept free before a window, besides the horizon; -1: 1 % of all.")
    ] = -1,
    decisions: Decisions = True,
    hidden: Annotated[int, typer.Option(min=0, max=1024, help="Units of both layers of an lstm; 0: 128 and 64.")] = 0,
    epochs: Annotated[int, typer.Option(min=0, max=1000, help="Of a training, at most; 0: as the daemon.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of trainings and of the bootstrap.")] = 1,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where files go; <state_dir>/evaluate when left out.")
    ] = None,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Make evaluation.html.")] = True,
    config: Config = None,
    json: Json = False,
) -> None:
    """Judge models out of sample: purged walk-forward with embargo, errors, tests, intervals, and the money they make.

    Example: ballast evaluate zero ewma lstm --data data/binance --start 2024-01-01 --end 2024-04-01
    """
    settings = settings_from(config)
    folder = out if out is not None else settings.state_path / "evaluate"
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder}: is a file; name a folder")
    from daemon.backtest.evaluate import hold, make_field
    from daemon.backtest.evaluate_result import figures_of, result_of, write_result

    asked = _asked(settings, models)
    panel, begin = load(settings, data, start or None, end or None)
    field = make_field(
        settings, panel, begin, folds=folds, embargo=embargo, seed=seed, hyper=_hyper(hidden=hidden, epochs=epochs)
    )
    judged = _judge(field, asked, decide=decisions, quiet=json)
    figures = [figures_of(field, one) for one in judged]
    held = hold(field)
    result = result_of(field, judged, figures, held)
    written = [write_result(folder, result)]
    if report:
        from daemon.backtest.report.evaluation import write_evaluation

        written.append(write_evaluation(folder, field, judged, figures, held))
    if json:
        print_json(result)
        return
    from rich.text import Text

    from daemon.backtest.report.evaluation import grids, heading
    from daemon.backtest.report.tables import console, print_grids

    shown = console()
    shown.print(Text(heading(field), style="bold"))
    print_grids(grids(field, judged, figures, held), shown)
    typer.echo("\n".join(f"written: {path}" for path in written))


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=GROUP)(evaluate)


def _asked(settings: "Settings", names: list[str] | None) -> "list[Asked]":
    """Return the models that are meant, each once. Raises UsageError for one that is unknown."""
    import sys

    from strategies.training.evaluate import BadModel, find_model

    # As the worker does it: a class may lie beside the configuration, behind everything installed.
    sys.path.extend(folder for folder in settings.folders if folder not in sys.path)
    registry = settings.state_path / "models"
    try:
        return [find_model(name, registry) for name in dict.fromkeys(names or [settings.forecast.model])]
    except BadModel as error:
        raise UsageError(str(error)) from None


def _hyper(*, hidden: int, epochs: int) -> "Hyper":
    import msgspec

    from strategies.artifact import Hyper

    changes = {"hidden": hidden, "hidden_top": hidden, "epochs_max": epochs}
    return msgspec.structs.replace(Hyper(), **{key: value for key, value in changes.items() if value})


def _judge(field: "Field", asked: "list[Asked]", *, decide: bool, quiet: bool) -> "list[Judged]":
    """Evaluate the models one after the other, in one thread: the same figures on any number of cores."""
    import tempfile

    from daemon.backtest.evaluate import judge

    if any(one.spec == "lstm" for one in asked):
        from daemon.backtest.tune_models import one_thread

        one_thread()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ballast-evaluate-")))
        tell = stack.enter_context(progress_bars(quiet=quiet))
        return [judge(field, one, models=folder, decide=decide, tell=partial(tell, one.name)) for one in asked]
