"""What flows and fills add up to, per asset, to the last digit: the one arithmetic of engine and ledger."""

from contextlib import AbstractContextManager
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow, localcontext
from typing import Final

from daemon.domain.events import Flow
from daemon.domain.orders import Fill, Side

ZERO: Final = Decimal(0)

EXACT: Final = Context(prec=400, Emin=-999_999, Emax=999_999, traps=[Inexact, InvalidOperation, Overflow])
"""Sums and products of amounts are exact here or raise; nothing is ever rounded silently."""


def exactly() -> AbstractContextManager[Context]:
    """Compute with ``EXACT`` inside the block."""
    return localcontext(EXACT)


class Holdings:
    """What Ballast owns: quote cash, base amounts and average entry prices by symbol.

    ``positions`` hold no zeros and are never negative on spot; ``entries`` are in quote, without fees. A fee in a third asset
    changes neither.
    """

    def __init__(self, quote: str) -> None:
        """Start empty, counting in ``quote``."""
        self.quote = quote
        self.cash = ZERO
        self.positions: dict[str, Decimal] = {}
        self.entries: dict[str, float] = {}

    def position(self, symbol: str) -> Decimal:
        """Return the base amount owned, zero when none."""
        return self.positions.get(symbol, ZERO)

    def flow(self, asset: str, amount: Decimal) -> None:
        """Add what came (positive) or went without a fill and is ours."""
        with exactly():
            if asset == self.quote:
                self.cash += amount
            else:
                symbol = f"{asset}/{self.quote}"
                self._set(symbol, self.position(symbol) + amount)

    def fill(self, fill: Fill) -> None:
        """Add one execution; the caller sees to it that none comes twice."""
        base, _, quote = fill.symbol.partition("/")
        with exactly():
            sign = 1 if fill.side is Side.BUY else -1
            before = self.position(fill.symbol)
            after = before + sign * fill.qty
            if quote == self.quote:
                self.cash -= sign * (fill.qty * fill.price)
            if fill.side is Side.BUY:
                self._enter(fill, before=before, after=after)
            if fill.fee_asset == base:
                after -= fill.fee
            elif fill.fee_asset == self.quote == quote:
                self.cash -= fill.fee
            self._set(fill.symbol, after)

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
        share = float(before) / float(after)
        self.entries[fill.symbol] = old * share + price * (1.0 - share)


class Books:
    """Balances that follow from the ledger's rows: everything on the account, and the part of it that is ours.

    ``total`` holds every asset (opening balances, flows and fills), ``own`` what Ballast owns; ``flows`` counts the flows.
    """

    def __init__(self, quote: str) -> None:
        """Start empty, counting in ``quote``."""
        self.own = Holdings(quote)
        self.total: dict[str, Decimal] = {}
        self.flows = 0

    @property
    def quote(self) -> str:
        """Return what is counted in."""
        return self.own.quote

    @property
    def cash(self) -> Decimal:
        """Return the quote currency that is ours."""
        return self.own.cash

    @property
    def positions(self) -> dict[str, Decimal]:
        """Return our base amounts by symbol."""
        return self.own.positions

    @property
    def entries(self) -> dict[str, float]:
        """Return our average entry prices by symbol."""
        return self.own.entries

    def copy(self) -> "Books":
        """Return an independent copy."""
        other = Books(self.quote)
        other.total, other.flows = dict(self.total), self.flows
        other.own.cash = self.cash
        other.own.positions, other.own.entries = dict(self.positions), dict(self.entries)
        return other

    def book_flow(self, flow: Flow) -> None:
        """Add what came or went without a fill."""
        self.flows += 1
        with exactly():
            self._add(flow.asset, flow.amount)
        if flow.ours:
            self.own.flow(flow.asset, flow.amount)

    def book_fill(self, fill: Fill) -> None:
        """Add one execution; the caller sees to it that none comes twice."""
        base, _, quote = fill.symbol.partition("/")
        sign = 1 if fill.side is Side.BUY else -1
        with exactly():
            self._add(base, sign * fill.qty)
            self._add(quote, -sign * (fill.qty * fill.price))
            self._add(fill.fee_asset, -fill.fee)
        self.own.fill(fill)

    def _add(self, asset: str, amount: Decimal) -> None:
        total = self.total.get(asset, ZERO) + amount
        if total:
            self.total[asset] = total
        else:
            self.total.pop(asset, None)
