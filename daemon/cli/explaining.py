"""``ballast explain``: a decision as tables for people."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from daemon.domain.errors import UsageError
from daemon.edge.explain import Explanation, explain
from daemon.edge.ledger_read import LedgerReader
from daemon.outlets.times import iso
from daemon.service.place import ledger_place

if TYPE_CHECKING:
    from daemon.settings import Settings

WIDTH_MIN: Final = 120
"""Columns of the tables where there is no terminal to ask."""


def explanation(settings: "Settings", name: str) -> Explanation:
    """Return the ledger's explanation of a decision or order; "" is the newest decision.

    Raises
    ------
    ConfigError
        There is no ledger yet.
    UsageError
        Nothing in the ledger has that name.
    """
    with LedgerReader(ledger_place(settings)) as reader:
        found = explain(reader, name)
    if found is None:
        what = f"{name[:100]!a}: no decision or order of that name" if name else "no decision with orders yet"
        raise UsageError(
            f"{what} in {reader.place}; `ballast orders` lists the newest. A decision that ordered nothing is "
            "kept in the running daemon's memory only"
        )
    return found


def show(found: Explanation) -> None:
    """Print the explanation as tables."""
    console = Console(soft_wrap=False, highlight=False)
    if not console.is_terminal:
        console = Console(soft_wrap=False, highlight=False, width=max(WIDTH_MIN, console.width))
    for name, value in _facts(found):
        console.print(f"[dim]{name:<9}[/] {escape(value)}")
    if found.symbols:
        console.print(_symbols(found))
    if found.orders or found.refused:
        console.print(_verdicts(found))
    if found.orders:
        console.print(_evidence(found))
    if any(order.fills for order in found.orders):
        console.print(_fills(found))


def _facts(found: Explanation) -> Iterable[tuple[str, str]]:
    yield "decision", found.decision
    if found.order:
        yield "order", found.order
    yield "taken", iso(found.ts_ns) + (f", on the bar that closed {iso(found.close_ns)}" if found.close_ns else "")
    attempt = "" if found.rung is None else f", attempt {found.rung + 1} (rung {found.rung})"
    yield "cause", found.cause + attempt
    yield "outcome", found.outcome + (f": {found.detail}" if found.detail else "")
    if found.model:
        yield "model", f"{found.model}, horizon {found.horizon_bars} bars"
    if found.status:
        rung = f", step {found.solver_rung}" if found.solver_rung else ""
        yield "solver", f"{found.status}{rung}; binding: {', '.join(found.binding) or 'nothing'}"


def _table(title: str, *columns: str, words: Iterable[str] = ()) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    left = set(words)
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right", overflow="fold")
    return table


def _symbols(found: Explanation) -> Table:
    table = _table(
        "\nWhat was seen and wanted",
        "symbol", "mean", "raw mean", "scale", "skill", "weight", "target", "off grid", "deferred",
        words=("symbol", "deferred"),
    )  # fmt: skip
    for one in found.symbols:
        waits = [f"{reason} {left:+.2%}" if left else reason for reason, left in one.deferred]
        table.add_row(
            escape(one.symbol),
            *(_percent(value, 4) for value in (one.mean, one.raw_mean, one.scale)),
            "-" if one.skill is None else f"{one.skill:.4f}",
            *(_percent(value, 2) for value in (one.weight, one.target, one.projection_error)),
            escape(", ".join(waits + ["dust"] * one.dust)),
        )
    return table


def _verdicts(found: Explanation) -> Table:
    table = _table(
        "\nWhat the gate said",
        "order", "symbol", "side", "qty", "limit", "reference", "verdict", "why",
        words=("order", "symbol", "side", "verdict", "why"),
    )  # fmt: skip
    for one in found.orders:
        numbers = (f"{one.qty:f}", f"{one.limit:f}", f"{one.reference:f}")
        why = f"{one.cause}, {one.tif}" + (", exit profile" if one.exit else "")
        table.add_row(one.client_id, escape(one.symbol), one.side, *numbers, "approved", escape(why))
    for no in found.refused:
        verdict, why = f"refused by {no.check}", escape(no.detail)
        table.add_row(
            no.client_id, escape(no.symbol), no.side, f"{no.qty:f}", f"{no.limit:f}", "", escape(verdict), why
        )
    return table


def _evidence(found: Explanation) -> Table:
    table = _table(
        "\nWhat became of the orders",
        "order", "time", "state", "source", "filled", "code",
        words=("order", "time", "state", "source", "code"),
    )  # fmt: skip
    for one in found.orders:
        table.add_row(one.client_id, iso(one.approved_ns), "sending", "ledger", "0", "")
        for news in one.evidence:
            table.add_row("", iso(news.ts_ns), news.state, news.source, f"{news.filled:f}", escape(news.code))
        table.add_row("", "now", one.state, f"venue id {one.venue_id or '-'}", f"{one.filled:f}", escape(one.code))
    return table


def _fills(found: Explanation) -> Table:
    table = _table(
        "\nWhat was paid",
        "order", "time", "trade", "qty", "price", "fee", "slippage bps",
        words=("order", "time", "trade"),
    )  # fmt: skip
    for one in found.orders:
        for fill in one.fills:
            table.add_row(
                one.client_id,
                iso(fill.ts_event_ns),
                escape(fill.trade_id),
                f"{fill.qty:f}",
                f"{fill.price:f}",
                escape(f"{fill.fee:f} {fill.fee_asset}"),
                "-" if fill.slippage_bps is None else f"{fill.slippage_bps:+.2f}",
            )
    return table


def _percent(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}%}"
