"""What every command shares: options, settings, printing."""

import contextlib
import json
import os
import sys
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from daemon.domain.errors import UsageError

if TYPE_CHECKING:
    from daemon.settings import Settings

PAPER_FILE = Path("config/paper.toml")
RESEARCH = "Research"
"""Where the help lists the commands about history."""
CHECK_FAILED = 3
"""Exit code of a command that did its work and found something wrong (DESIGN A3)."""

Config = Annotated[
    list[Path] | None,
    typer.Option("--config", "-c", metavar="FILE", help="Configuration; repeatable, later files win."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Jobs = Annotated[int, typer.Option("--jobs", min=0, max=1024, help="Processes at once; 0: one per core.")]


def settings_from(files: list[Path] | None) -> "Settings":
    """Return the settings of these files; without any, of ./config/paper.toml if it is there, else the defaults."""
    from daemon.settings import load_settings

    return load_settings(files or ([PAPER_FILE] if PAPER_FILE.is_file() else []))


def start_logs(settings: "Settings") -> None:
    """Set logging up as configured, with the keys registered for redaction wherever they come from."""
    from daemon.domain.errors import Fatal
    from daemon.outlets import logs
    from daemon.settings import ledger_secrets, read_keys

    secrets = (settings.exchange.api_key, settings.exchange.api_secret)
    passwords: list[str] = []
    with contextlib.suppress(Fatal):
        passwords = ledger_secrets(settings)
    with contextlib.suppress(Fatal):  # paper reads none; what is missing or unreadable the command itself will say
        secrets = read_keys(settings)
    logs.setup(
        style=settings.log.format,
        level=settings.log.level,
        secrets=[*(secret.get_secret_value() for secret in secrets), *passwords],
    )


def settings_to_start(files: list[Path] | None) -> "Settings":
    """Return settings with which this machine may start, logs set up. Raises Fatal, which says what is in the way."""
    from daemon.settings import verify_start

    settings = settings_from(files)
    start_logs(settings)
    verify_start(settings)
    return settings


def data_folder(settings: "Settings", data: Path | None) -> Path:
    """Return the folder of history meant: the one named, else that of the exchange."""
    return data if data is not None else settings.state_path / "data" / settings.exchange.id


def processes(jobs: int) -> int:
    """Return how many processes ``--jobs`` means."""
    return jobs or len(os.sched_getaffinity(0))


def time_of(option: str, text: str) -> int:
    """Return a date or time (UTC when it names no zone) as ns UTC. Raises UsageError."""
    from datetime import UTC, datetime, timedelta

    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{option} {text!r} is no date: write 2024-01-31 or 2024-01-31T12:00") from None
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when
    return (when - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1_000


class Tell(Protocol):
    """Hears how far something is."""

    def __call__(self, what: str, done: int, whole: int | None, note: str = "") -> None:
        """Take how much of ``whole`` is done, None while nobody knows; ``note`` stands behind the bar."""
        ...


@contextlib.contextmanager
def progress_bars(*, quiet: bool = False, keep: bool = False, percent: bool = False) -> Generator[Tell]:
    """Show a bar on stderr for each thing that is told of, on a terminal only.

    Parameters
    ----------
    quiet
        Show nothing there either.
    keep
        Leave the bars standing in the end.
    percent
        Show the share that is done, not the numbers.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield _unheard
        return
    share = TextColumn("{task.percentage:>3.0f} %") if percent else MofNCompleteColumn()
    note_column = TextColumn("{task.fields[note]}", markup=False)
    columns = (TextColumn("{task.description}"), BarColumn(), share, TimeRemainingColumn(), note_column)
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console, transient=not keep) as shown:

        def tell(what: str, done: int, whole: int | None, note: str = "") -> None:
            if what not in tasks:
                tasks[what] = shown.add_task(what, total=None, note="")
            total = None if whole is None else max(whole, 1)  # of nothing, nothing is done
            shown.update(tasks[what], completed=done, total=total, note=note)

        yield tell


def _unheard(what: str, done: int, whole: int | None, note: str = "") -> None:
    """Show nothing."""


def print_json(document: object) -> None:
    """Write one JSON document to stdout."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n")


def print_fields(document: Mapping[str, Any]) -> None:
    """Write a mapping as aligned ``key  value`` lines; nested values as compact JSON."""
    width = max((len(key) for key in document), default=0)
    for key, value in document.items():
        sys.stdout.write(f"{key.ljust(width)}  {_cell(value)}\n")


def print_table(rows: Sequence[Mapping[str, Any]], columns: Iterable[str] = (), *, empty: str = "none") -> None:
    """Write rows as an aligned plain table; columns are those of the first row unless given."""
    if not rows:
        sys.stdout.write(f"{empty}\n")
        return
    names = list(columns) or list(rows[0])
    cells = [names, *([_cell(row.get(name, "")) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    for line in cells:
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write(text.rstrip() + "\n")


def _cell(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.6g}"
    if value is None:
        return "-"
    return json.dumps(value, default=str, ensure_ascii=False)
