"""The command line's frame: groups, exit codes, one plain line per error (DESIGN A3)."""

import contextlib
import os
import sys
import threading
from functools import partial
from types import TracebackType
from typing import Annotated, Final

import typer

from daemon.cli import (
    configure,
    control,
    data,
    evaluate,
    leaking,
    models,
    observe,
    parity,
    reporting,
    research,
    service,
    starting,
    stress,
    tuning,
)
from daemon.domain.errors import Fatal

INTERRUPTED = 130
"""Exit code after Ctrl-C in a one-shot command; ``run`` and ``demo`` handle it themselves and end in order."""

_BadUsage: Final = typer.BadParameter.__bases__[0]
"""click's UsageError: typer bundles click since 0.20, so it is reached through typer."""

app = typer.Typer(
    name="ballast",
    help="Ballast: an event-driven portfolio trading daemon for crypto markets.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"ballast {version('ballast')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Ballast: an event-driven portfolio trading daemon for crypto markets."""


service.register(app)
starting.register(app)
configure.register(app)
models.register(app)
evaluate.register(app)
data.register(app)
research.register(app)
leaking.register(app)
parity.register(app)
reporting.register(app)
stress.register(app)
tuning.register(app)
observe.register(app)
control.register(app)


def run(argv: list[str]) -> int:
    """Run one command and return the exit code; every error becomes one plain line on stderr."""
    try:
        result = app(args=argv, prog_name="ballast", standalone_mode=False)
        sys.stdout.flush()
    except Fatal as error:
        return _fail(str(error), error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        return _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        with contextlib.suppress(OSError):  # the reader went away: nothing more can be said to it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 (the last line of defence: one line, the traceback to the log)
        if isinstance(error, _BadUsage):
            return _usage(error)
        from daemon.outlets import logs

        logs.setup_if_needed()
        logs.get("ballast").error("unexpected", exc_info=True)
        return _fail(f"unexpected {type(error).__name__}: {error}; the log has the traceback", 1)
    if result == INTERRUPTED:  # newer typers turn Ctrl-C into an exit code themselves
        return _fail("interrupted", INTERRUPTED)
    return result if isinstance(result, int) else 0


def guard_crashes() -> None:
    """Send what nobody caught to the log: Python would print it to stderr as it is, keys and signatures included."""

    def crashed(
        what: str,
        kind: type[BaseException],
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        from daemon.outlets import logs

        logs.setup_if_needed()
        logs.get("ballast").critical(what, exc_info=(kind, error or kind(), trace))

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit:
            crashed("unexpected in a thread", args.exc_type, args.exc_value, args.exc_traceback)

    def in_finaliser(args: "sys.UnraisableHookArgs") -> None:
        crashed("unexpected in a finaliser", args.exc_type, args.exc_value, args.exc_traceback)

    sys.excepthook = partial(crashed, "unexpected")
    sys.unraisablehook = in_finaliser
    threading.excepthook = in_thread


def _usage(error: Exception) -> int:
    """Show the help when nothing was asked for, else one line, and return 2."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()  # type: ignore[attr-defined]
        return 2
    context = getattr(error, "ctx", None)
    message = error.format_message().rstrip(".")  # type: ignore[attr-defined]
    stop = "" if message.endswith("?") else ";"
    return _fail(f"{message}{stop} see `{context.command_path if context else 'ballast'} --help`", 2)


def _fail(message: str, code: int) -> int:
    from daemon.outlets.logs import clean

    message = clean(message)  # what the exchange said may repeat what was sent
    for line in message.splitlines() or [message]:
        print(f"ballast: {line}", file=sys.stderr)
    return code
