"""The command that begins everything: ``init``."""

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from daemon.cli.common import Json, print_json
from daemon.cli.configure import GROUP
from daemon.domain.errors import UsageError

CONFIG, STRATEGY = "ballast.toml", "my_strategy.py"


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write into; made if it is not there.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
    json: Json = False,
) -> None:
    """Write a commented configuration and a sample strategy."""
    from daemon.cli.config_text import config_text

    home = folder.absolute()
    try:
        changes = {"strategy": "my_strategy:MyStrategy", "state_dir": str(home / "var")}
        texts = {STRATEGY: sample().encode(), CONFIG: config_text(changes).encode()}
    except UnicodeEncodeError:
        raise UsageError(f"{str(folder)!a}: not a name in UTF-8; choose another folder") from None
    write_files(home, texts, force=force)
    config = folder / CONFIG
    if json:
        print_json({"ok": True, "config": str(home / CONFIG), "strategy": str(home / STRATEGY)})
        return
    typer.echo(f"wrote {config} and {folder / STRATEGY}")
    typer.echo(f"  ballast check -c {config}    would it start? the strategy is tried once, on made-up bars")
    typer.echo(f"  ballast run -c {config}      trade on paper")


def sample() -> str:
    """Return the text of the sample strategy: a module of ours, so it is checked like all the others."""
    from importlib.resources import files

    return (files("strategies.examples") / STRATEGY).read_text(encoding="utf-8")


def write_files(folder: Path, texts: dict[str, bytes], *, force: bool) -> None:
    """Write the files into the folder, all or none; each appears whole.

    Raises
    ------
    UsageError
        If one is there already and not to be overwritten, or the folder cannot be written.
    """
    there = [name for name in texts if (folder / name).exists() or (folder / name).is_symlink()]
    if there and not force:
        raise UsageError(f"{folder / there[0]}: is there already; choose another folder, or overwrite it with --force")
    parts = {name: folder / f".{name}.part" for name in texts}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            parts[name].write_bytes(text)
        for name, part in parts.items():
            part.replace(folder / name)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written ({error.strerror or error}); choose another folder") from None
    finally:
        with contextlib.suppress(OSError):
            for part in parts.values():
                part.unlink(missing_ok=True)


def register(app: typer.Typer) -> None:
    """Add this group's command."""
    app.command(rich_help_panel=GROUP)(init)
