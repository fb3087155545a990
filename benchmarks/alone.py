"""One benchmark from the command line: its parameters as options, a table or JSON."""

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any


def alone(
    run: Callable[..., dict[str, Any]],
    report: Callable[[dict[str, Any]], None],
    argv: Sequence[str] | None,
    *,
    about: str | None,
    **options: float | Sequence[int],
) -> int:
    """Run a benchmark with what the command line says and print what it found.

    Parameters
    ----------
    run
        Measures; takes the options by name.
    report
        Prints the table.
    argv
        The command line, None for the process's own.
    about
        The module's docstring, shown by ``--help``.
    **options
        Default of each option; a sequence is an option that takes one value or more.

    Returns
    -------
    int
        The exit code, 0.
    """
    parser = argparse.ArgumentParser(description=about)
    for name, default in options.items():
        if isinstance(default, Sequence):
            parser.add_argument(f"--{name}", type=type(default[0]), nargs="+", default=list(default))
        else:
            parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--json", action="store_true", help="print the result instead of the table")
    chosen = vars(parser.parse_args(argv))
    as_json = chosen.pop("json")
    result = run(**chosen)
    if as_json:
        print(json.dumps(result, indent=1))
    else:
        report(result)
    return 0
