"""``tune``: a study over the configuration."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.common import (
    CHECK_FAILED,
    RESEARCH,
    Config,
    Jobs,
    Json,
    print_json,
    print_table,
    processes,
    progress_bars,
    settings_from,
)
from daemon.cli.research import Data, load
from daemon.domain.errors import ConfigError

if TYPE_CHECKING:
    from daemon.backtest.history import Panel
    from strategies.training.purged import Fold

EMBARGO_SHARE = 0.01
"""Of all bars: López de Prado 2018, section 7.4.2."""
PARAMETERS_SHOWN = 6


def tune(  # noqa: PLR0913, PLR0917 - one option each
    data: Data = None,
    start: Annotated[str, typer.Option(help="First day (UTC), for example 2023-01-01.")] = "",
    end: Annotated[str, typer.Option(help="Day after the last; the end of the data when left out.")] = "",
    trials: Annotated[int, typer.Option(min=1, max=100_000, help="Trials the study is to have in the end.")] = 64,
    space: Annotated[Path | None, typer.Option(metavar="FILE", help="What may be chosen (TOML).")] = None,
    folds: Annotated[int, typer.Option(min=1, max=100, help="Walk-forward test windows.")] = 4,
    embargo: Annotated[int, typer.Option(min=-1, help="Bars kept free before a window; -1: 1 % of all.")] = -1,
    study: Annotated[str, typer.Option(metavar="URL", help="sqlite:///FILE or postgresql://USER@HOST/DB.")] = "",
    name: Annotated[str, typer.Option(help="Of the study.")] = "tune",
    seed: Annotated[int, typer.Option(min=0, help="Of the search.")] = 0,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Trials asked for at once.")] = 8,
    ray: Annotated[str, typer.Option(metavar="auto|ADDRESS|off", help="Where the work is done.")] = "off",
    jobs: Jobs = 0,
    alone: Annotated[bool, typer.Option("--alone", help="Run the front on each pair alone, too.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="<state_dir>/tune/<name> when left out.")] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Search the configuration: return, drawdown and turnover on purged walk-forward folds; goes on where it ended."""
    settings = settings_from(config)
    folder = out if out is not None else settings.state_path / "tune" / name
    from daemon.backtest.scale import Spread, crew_of
    from daemon.backtest.tune import Plan, identity_of, pareto, run_study
    from daemon.backtest.tune_assets import each_alone
    from daemon.backtest.tune_models import sweep
    from daemon.backtest.tune_result import result_of, write_result
    from daemon.backtest.tune_space import default_space, highest, read_space
    from daemon.backtest.tune_store import open_store
    from daemon.backtest.tune_trial import Ground, run_piece

    chosen = read_space(space, settings) if space is not None else default_space(settings)
    panel, begin = load(settings, data, start or None, end or None)
    purge = max(settings.forecast.horizon_bars, highest(chosen, "forecast.horizon_bars"))
    ground = Ground(
        panel, _folds(panel, begin, folds=folds, purge=purge, embargo=embargo), str(folder.absolute() / "models")
    )
    plan = Plan(settings, chosen, ground, seed, batch)
    spread = Spread(ray=ray, jobs=processes(jobs))
    url = study or f"sqlite:///{(folder / 'study.db').absolute()}"
    with (
        open_store(url, name=name, identity=identity_of(plan)) as store,
        crew_of(spread, run_piece, plan.ground) as crew,
        progress_bars(keep=True) as tell,
    ):
        tell("trials", 0, trials)
        sweep(ground.shelf)
        if store.restarted:
            typer.echo(f"{store.restarted} trials were cut short by the end of an earlier run: tried again", err=True)
        typer.echo(f"{trials} trials on {len(plan.ground.folds)} folds, {crew.where}; study {store.url}", err=True)
        attempts = run_study(
            plan,
            store,
            crew,
            trials=trials,
            progress=lambda at: tell("trials", at.over, trials, f"{at.pieces} folds of this batch"),
        )
        pairs = each_alone(plan, crew, pareto(attempts)) if alone else None
    result = result_of(plan, attempts, name=name, alone=pairs)
    path = write_result(folder, result)
    if json:
        print_json(result)
    else:
        _show(result)
        typer.echo(f"all of it: {path}")
    raise typer.Exit(0 if result["complete"] else CHECK_FAILED)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=RESEARCH)(tune)


def _folds(panel: "Panel", begin: int, *, folds: int, purge: int, embargo: int) -> "tuple[Fold, ...]":
    """Return the folds of the bars from ``begin`` on."""
    from strategies.training.purged import Fold, walk_forward

    bars = len(panel.open_ns) - begin
    try:
        made = walk_forward(
            bars,
            folds=folds,
            purge=purge,
            embargo=embargo if embargo >= 0 else int(bars * EMBARGO_SHARE),
        )
    except ValueError as error:
        raise ConfigError(f"--folds {folds}: {error}; take fewer folds, a smaller --embargo or more data") from None
    return tuple(Fold(one.number, *(at + begin for at in one[1:])) for one in made)


def _show(result: dict[str, Any]) -> None:
    """Print the front, and what to think of it."""

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.2f} %"

    front = result["front"]
    names = list(front[0]["params"])[:PARAMETERS_SHOWN] if front else []
    print_table(
        [
            {
                "trial": str(one["trial"]),
                "return": percent(one["return"]),
                "drawdown": percent(one["drawdown"]),
                "turnover/day": percent(one["turnover"]),
                "sharpe": "-" if one["sharpe"] is None else f"{one['sharpe']:.2f}",
                "deflated": percent(one["deflated_sharpe"]),
                **({"pairs up": _pairs_up(one["alone"])} if "alone" in one else {}),
                **{key: one["params"][key] for key in names},
            }
            for one in front
        ],
        empty="no trial could be completed",
    )
    typer.echo(f"{result['complete']} trials complete, {result['pruned']} stopped early, {result['failed']} failed")
    reasons = [one for one in result["all"] if one["state"] == "failed"]
    for one in reasons[:3]:
        typer.echo(f"trial {one['trial']} failed: {one['reason']}")
    if result["overfitting"] is not None:
        typer.echo(
            f"probability of overfitting {percent(result['overfitting']['probability'])}: how often the best by Sharpe "
            "ratio was below the median out of sample (near 50 % choosing told nothing)"
        )
    for one in result["walk_forward"]:
        typer.echo(
            f"fold {one['fold']}: chosen by the folds before, trial {one['trial']} returned {percent(one['return'])}, "
            f"the median trial {percent(one['median_return'])}"
        )


def _pairs_up(alone: dict[str, Any]) -> str:
    """Return on how many pairs alone a trial earned something."""
    return f"{sum(one.get('return', 0.0) > 0.0 for one in alone.values())} of {len(alone)}"
