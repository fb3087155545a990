"""One page that holds everything: tables, plots and plotly itself, readable offline and the same bytes for the same run."""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, NamedTuple

from daemon.backtest.data.files import replacing
from daemon.backtest.metrics import Monthly, monthly
from daemon.backtest.report import stress, summary, trust
from daemon.backtest.report.folder import Run, load_run, number
from daemon.backtest.report.grids import Grid, Line, plain, written
from daemon.backtest.report.plots import Plot, plots
from daemon.backtest.report.series import minute

FILLS_MAX: Final = 500
"""Fills listed; the first ones are left out."""
HEAT_FULL: Final = 0.20
"""A month of this return has the strongest colour."""
PARAMS_CHARS_MAX: Final = 200_000
"""Of the parameters as text."""
HALF_COLUMNS_MAX: Final = 4
"""Tables of at most so many columns stand beside another one."""
SHORT_CHARS_MAX: Final = 24
"""Words up to this length stay in one line."""
TALL_ROWS_MIN: Final = 60
"""Longer tables scroll in a window of their own."""
MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

FACTS: Final = (
    Line("avg_gross_exposure", "Average gross exposure", "percent"),
    Line("turnover", "Turnover a day", "percent"),
    Line("fees", "Fees", "money"),
    Line("total_return", "Total profit", "percent"),
    Line("sharpe", "Sharpe", "ratio"),
    Line("max_drawdown", "Max drawdown", "percent"),
)


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the page of the run in ``folder`` to ``out`` (``report.html`` in the folder) and return where it is.

    Raises
    ------
    UsageError, ConfigError
        As `load_run`; or the page cannot be written.
    """
    return write_page(page(load_run(folder)), out or folder / "report.html")


def write_page(text: str, out: Path) -> Path:
    """Put the page in place whole: who opens it finds the old one or the new one."""
    with replacing(out) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return out


def page(run: Run) -> str:
    """Return the page of one run."""
    result = run.result
    known = trust.trust(run)
    drawn = {plot.key: plot for plot in (*plots(run), *trust.plots(run, known))}
    tables = {grid.key: grid for grid in (*summary.grids(run), *stress.grids(run), *trust.grids(known))}
    parts = [
        _facts(run),
        section(tables["portfolio"]),
        *((section(tables["forecast"]),) if "forecast" in tables else ()),
        *(section(tables[key]) for key in ("pairs", "performance")),
        *(section(drawn[key]) for key in ("equity", "rolling")),
        _months(monthly(run.equity.times, run.equity.equity, run.equity.flow)),
        *(section(drawn[key]) for key in ("weights", "exposure", "costs", "attribution", "coverage", "tenths")),
        *(section(tables[key]) for key in ("shocks", "worst-days", "worst-weeks", "evidence", "intervals")),
        section(drawn["fan"]),
        section(_fills(run)),
        _parameters(result),
    ]
    return document(f"Backtest, {summary.span(run)}", parts, tuple(drawn.values()))


class Section(NamedTuple):
    """A part of the page: its id, heading and body; a ``half`` one stands beside another where there is room."""

    key: str
    title: str
    body: str
    half: bool = False

    def text(self) -> str:
        """Return the element."""
        kind = ' class="half"' if self.half else ""
        heading = f"<h2>{escape(self.title)}</h2>" if self.title else ""
        return f'<section id="{self.key}"{kind}>{heading}\n{self.body}</section>'


def document(title: str, parts: Sequence[Section], drawn: Iterable[Plot]) -> str:
    """Return a whole page of sections (id, heading, body) and the plots in them.

    The policy in its head lets nothing be loaded from anywhere and no script run but the two that are in it: text of a
    file that should get past the escaping stays text.
    """
    library = _plotly()
    script = _asset("page.js")
    policy = (
        f"default-src 'none'; script-src {_digest(library)} {_digest(script)}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    figures = {f"plot-{plot.key}": {"data": plot.data, "layout": plot.layout} for plot in drawn if plot.data}
    heading = escape(plain_line(title))
    links = " ".join(f'<a href="#{key}">{escape(name)}</a>' for key, name, *_ in parts if name)
    bodies = "\n".join(one.text() for one in parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{heading}</title>\n<style>\n{_asset('page.css')}</style>\n</head>\n<body>\n"
        f"<h1>{heading}</h1>\n<nav>{links}</nav>\n<noscript><p>The plots need JavaScript; the tables do not.</p></noscript>\n"
        f"<main>\n{bodies}\n</main>\n"
        f'<script type="application/json" id="plots">{embedded(figures)}</script>\n'
        f"<script>{library}</script>\n<script>{script}</script>\n</body>\n</html>\n"
    )


def embedded(value: object) -> str:
    """Return JSON that can stand inside a script element: no tag can end it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def plain_line(text: str) -> str:
    """Return text as `plain`, without its bound."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def section(what: Grid | Plot) -> Section:
    """Return a table or a plot as a section."""
    note = f'<p class="note">{escape(what.note)}</p>\n' if what.note else ""
    if isinstance(what, Grid):
        half = len(what.columns) <= HALF_COLUMNS_MAX
        return Section(what.key, what.title, (_table(what) if what.rows else "") + note, half)
    style = (
        f'class="plot" id="plot-{what.key}" role="img" aria-label="{escape(what.title)}" style="height:{what.height}px"'
    )
    body = f"<div {style}></div>\n" if what.data else ""
    return Section(what.key, what.title, body + note, what.half)


def _table(grid: Grid) -> str:
    marks = set(grid.marks)

    def cell(tag: str, text: str, row: int, at: int) -> str:
        word = at < grid.left
        names = [
            *(["word"] if word else []),
            *(["short"] if word and len(text) <= SHORT_CHARS_MAX else []),
            *(["best"] if (row, at) in marks else []),
        ]
        kind = f' class="{" ".join(names)}"' if names else ""
        return f"<{tag}{kind}>{escape(text)}</{tag}>"

    head = "".join(cell("th", name, -1, at) for at, name in enumerate(grid.columns))
    rows = "\n".join(
        "<tr>" + "".join(cell("td", text, row_at, at) for at, text in enumerate(row)) + "</tr>"
        for row_at, row in enumerate(grid.rows)
    )
    kind = "wide tall" if len(grid.rows) > TALL_ROWS_MIN else "wide"
    return f'<div class="{kind}"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>\n'


def _facts(run: Run) -> Section:
    cards = "\n".join(
        f'<div class="fact"><b>{escape(written(number(run.result.get(one.key)), one.style))}</b>'
        f"<span>{escape(one.label)}</span></div>"
        for one in FACTS
    )
    return Section("facts", "", f'<div class="facts">\n{cards}\n</div>\n')


def _months(table: Monthly) -> Section:
    rows = []
    for year, months, total in zip(table.years, table.months, table.totals, strict=True):
        cells = "".join(_heat(value) for value in (*months, total))
        rows.append(f'<tr><td class="word">{year}</td>{cells}</tr>')
    head = "".join(f"<th>{name}</th>" for name in ("", *MONTHS, "Year"))
    body = "\n".join(rows)
    heat = f'<div class="wide"><table class="heat"><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n'
    note = '<p class="note">Percent, flows taken out; months of UTC, the first and last perhaps in part.</p>\n'
    return Section("months", "Monthly returns", heat + note)


def _heat(value: float | None) -> str:
    if value is None:
        return "<td></td>"
    strength = min(abs(value) / HEAT_FULL, 1.0) * 0.7
    colour = "44,166,120" if value >= 0.0 else "224,82,96"
    return f'<td style="background:rgba({colour},{strength:.2f})">{100.0 * value:.1f}</td>'


def _fills(run: Run) -> Grid:
    fills = run.fills
    first = max(len(fills) - FILLS_MAX, 0)
    rows = [
        (
            minute(int(fills.times[at])),
            plain(fills.pair[at]),
            fills.side[at],
            *(f"{value:.8g}" for value in (fills.qty[at], fills.price[at])),
            f"{fills.qty[at] * fills.price[at]:,.2f}",
            f"{fills.fee[at]:.6g} {plain(fills.fee_asset[at])}",
            plain(fills.order_id[at]),
        )
        for at in range(first, len(fills))
    ]
    columns = ("UTC", "Pair", "Side", "Quantity", "Price", f"Value, {plain(run.quote)}", "Fee", "Order")
    note = f"{len(fills):,} fills."
    if first:
        note = f"The last {FILLS_MAX} of {len(fills):,} fills; {first:,} earlier ones are left out, fills.parquet has them all."
    return Grid("fills", "Trades", columns, tuple(rows), left=3, note=note)


def _parameters(result: Mapping[str, Any]) -> Section:
    hashes = [
        (name, plain_line(str(result[key])))
        for name, key in (("Configuration", "config_hash"), ("Data", "data_hash"), ("Code", "code_version"))
    ]
    grid = Grid("hashes", "", ("What", "Hash or version"), tuple(hashes), left=2)
    params = json.dumps(result.get("params") or {}, indent=1, sort_keys=True, ensure_ascii=False)
    cut = f"\n… {len(params) - PARAMS_CHARS_MAX} characters cut" if len(params) > PARAMS_CHARS_MAX else ""
    shown = escape("\n".join(plain_line(one) for one in (params[:PARAMS_CHARS_MAX] + cut).splitlines()))
    body = f"{_table(grid)}<details><summary>Parameters</summary><pre>{shown}</pre></details>\n"
    return Section("parameters", "Parameters and hashes", body)


def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _plotly() -> str:
    """Return plotly's own script, which the Python package carries."""
    return (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8").strip()


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
