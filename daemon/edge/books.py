"""Exact arithmetic of the ledger: what flows and fills add up to, per asset, to the last digit."""

from collections.abc import Generator
from contextlib import contextmanager
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow, localcontext
from typing import Final

from daemon.domain.events import Flow
from daemon.domain.orders import Fill, Side

ZERO: Final = Decimal(0)

EXACT: Final = Context(prec=400, Emin=-999_999, Emax=999_999, traps=[Inexact, InvalidOperation, Overflow])
"""Sums and products of amounts are exact here or raise; nothing is ever rounded silently."""


@contextmanager
def exactly() -> Generator[None, None, None]:
    """Compute with ``EXACT`` inside the block."""
    with localcontext(EXACT):
        yield


class Books:
    """Balances that follow from the rows: everything on the account, and the part of it that is ours.

    ``total`` holds every asset (opening balances, flows and fills). ``cash``, ``positions`` (base amounts by symbol)
    and ``entries`` (average entry prices in quote) hold what Ballast owns. A fee in a third asset changes ``total`` alone.
    ``flows`` counts the flows.
    """

    def __init__(self, quote: str) -> None:
        """Start empty, counting in ``quote``."""
        self.quote = quote
        self.total: dict[str, Decimal] = {}
        self.cash = ZERO
        self.positions: dict[str, Decimal] = {}
        self.entries: dict[str, float] = {}
        self.flows = 0

    def copy(self) -> "Books":
        """Return an independent copy."""
        other = Books(self.quote)
        other.total, other.positions, other.entries = dict(self.total), dict(self.positions), dict(self.entries)
        other.cash, other.flows = self.cash, self.flows
        return other

    def book_flow(self, flow: Flow) -> None:
        """Add what came or went without a fill."""
        self.flows += 1
        with exactly():
            self._add(flow.asset, flow.amount)
            if not flow.ours:
                return
            if flow.asset == self.quote:
                self.cash += flow.amount
            else:
                symbol = f"{flow.asset}/{self.quote}"
                self._set(symbol, self.positions.get(symbol, ZERO) + flow.amount)

    def book_fill(self, fill: Fill) -> None:
        """Add one execution; the caller sees to it that none comes twice."""
        base, _, quote = fill.symbol.partition("/")
        with exactly():
            value = fill.qty * fill.price
            sign = 1 if fill.side is Side.BUY else -1
            self._add(base, sign * fill.qty)
            self._add(quote, -sign * value)
            self._add(fill.fee_asset, -fill.fee)
            before = self.positions.get(fill.symbol, ZERO)
            after = before + sign * fill.qty
            if quote == self.quote:
                self.cash -= sign * value
            if fill.side is Side.BUY:
                self._enter(fill, before=before, after=after)
            if fill.fee_asset == base:
                after -= fill.fee
            elif fill.fee_asset == self.quote == quote:
                self.cash -= fill.fee
            self._set(fill.symbol, after)

    def _add(self, asset: str, amount: Decimal) -> None:
        total = self.total.get(asset, ZERO) + amount
        if total:
            self.total[asset] = total
        else:
            self.total.pop(asset, None)

    def _set(self, symbol: str, qty: Decimal) -> None:
        if qty:
            self.positions[symbol] = qty
        else:
            self.positions.pop(symbol, None)
            self.entries.pop(symbol, None)

    def _enter(self, fill: Fill, *, before: Decimal, after: Decimal) -> None:
        old = self.entries.get(fill.symbol, 0.0)
        price = float(fill.price)
        if before <= ZERO or old <= 0.0:
            self.entries[fill.symbol] = price
            return
        # The same weighting as the engine's account, so that a restart changes no stop.
        share = float(before) / float(after)
        self.entries[fill.symbol] = old * share + price * (1.0 - share)
