"""Commands about models: ``train``, ``models list``, ``models show``."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.common import Config, Json, print_fields, print_json, print_table, settings_from, settings_to_start
from daemon.domain.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

GROUP = "Models"

registry = typer.Typer(help="The model registry.", no_args_is_help=True)


def train(config: Config = None) -> None:
    """Fetch history, fit a model and register it."""
    settings = settings_to_start(config)
    from daemon.app import train as train_model

    raise typer.Exit(train_model(settings, lambda line: typer.echo(line, err=True)))


@registry.command("list")
def list_(config: Config = None, json: Json = False) -> None:
    """List the registered models, the one in use marked."""
    folder = settings_from(config).state_path / "models"
    from strategies.artifact import BadArtifact, current, list_models

    try:
        champion = current(folder)
    except BadArtifact as error:
        raise ConfigError(str(error)) from None
    rows = [_row(folder, name, in_use=champion is not None and champion.name == name) for name in list_models(folder)]
    if json:
        print_json({"models": rows})
    else:
        print_table(rows, empty=f"no models in {folder}; train one with `ballast train`")


@registry.command()
def show(
    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="Its id; the one in use when left out.")] = "",
    config: Config = None,
    json: Json = False,
) -> None:
    """Show a model's manifest after checking its files."""
    folder = settings_from(config).state_path / "models"
    import msgspec

    from daemon.outlets.times import jsonable
    from strategies.artifact import BadArtifact, list_models, load_artifact, resolve

    if model and model not in list_models(folder):
        raise UsageError(f"{model}: no such model in {folder}; see `ballast models list`")
    try:
        artifact = load_artifact(folder / model if model else resolve(folder))
    except BadArtifact as error:
        raise ConfigError(str(error)) from None
    document = {"id": artifact.id, **jsonable(msgspec.to_builtins(artifact.manifest))}
    (print_json if json else print_fields)(document)


def _row(folder: "Path", name: str, *, in_use: bool) -> dict[str, Any]:
    """Return one line of the list; a model that cannot be used says why."""
    from daemon.outlets.times import iso
    from strategies.artifact import BadArtifact, load_artifact

    row: dict[str, Any] = {"id": name, "in_use": in_use, "kind": "-", "trained_to": "-", "skill": "-", "problem": ""}
    try:
        manifest = load_artifact(folder / name).manifest
    except BadArtifact as error:
        return {**row, "problem": str(error)}
    return {
        **row,
        "kind": manifest.kind,
        "trained_to": iso(manifest.data_end_ns),
        "skill": manifest.skill.pooled,
        "shrink": manifest.skill.shrink,
        "lookback": manifest.lookback,
        "horizon_bars": manifest.horizon_bars,
        "bar_s": manifest.bar_ns / 1e9,
        "symbols": len(manifest.symbols),
    }


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command(rich_help_panel=GROUP)(train)
    app.add_typer(registry, name="models", rich_help_panel=GROUP)
