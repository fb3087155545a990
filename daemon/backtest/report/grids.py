"""Tables as values: the terminal and the page print the same ones, so they cannot disagree."""

import math
from typing import Final, Literal, NamedTuple

NONE: Final = "–"
"""Printed for a figure that does not exist."""
NAME_CHARS_MAX: Final = 80
"""A name from a file is cut after so many characters."""

Style = Literal["percent", "ratio", "money", "count", "number", "text"]


class Grid(NamedTuple):
    """A table: ``rows`` hold one text per column; the first ``left`` columns are words, the rest figures."""

    key: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1
    note: str = ""
    marks: tuple[tuple[int, int], ...] = ()
    """Cells (row, column) that stand out."""


class Line(NamedTuple):
    """One figure of a result: its key in ``result.json``, its name, how it is written and which way is better (+1, -1, 0)."""

    key: str
    label: str
    style: Style
    better: int = 0


def written(value: float | str | None, style: Style) -> str:
    """Return a figure as a person reads it; shares as percent, money with two decimals and groups of three."""
    if isinstance(value, str):
        return plain(value)
    if value is None or not math.isfinite(value):
        return NONE
    if style == "percent":
        text = f"{100.0 * value:,.2f} %"
    elif style == "count":
        text = f"{value:,.0f}"
    elif style == "number":
        text = f"{value:,.6g}"
    else:
        text = f"{value:,.2f}"
    return text.lstrip("-") if text.strip("-0., %") == "" else text  # no minus in front of nothing


def plain(text: str) -> str:
    """Return text of a file in one line without control, direction and other invisible characters, cut to a bound."""
    shown = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
    return shown if len(shown) <= NAME_CHARS_MAX else shown[: NAME_CHARS_MAX - 1] + "…"
