"""What Ballast owns by its own books, and what this session made of it."""

from decimal import Decimal

from daemon.core.books import ZERO, Holdings, exactly
from daemon.domain.orders import Fill, Side
from risk.money import exact

__all__ = ["KEYS_MAX", "ZERO", "Account"]

KEYS_MAX = 200_000
"""Trade ids remembered so that no execution is booked twice; the ledger hands over the newest at start."""


class Account(Holdings):
    """Holdings changed only by fills, each once, and flows.

    ``fees_quote`` are the fees paid in this session, valued in quote at the fill's price; ``realized`` is its profit before
    fees; ``booked`` are the (symbol, trade id) of what was booked, oldest first; ``other`` holds amounts of third assets
    (fees paid in them make it negative).
    """

    def __init__(self, quote: str) -> None:
        """Start empty, counting in ``quote``."""
        super().__init__(quote)
        self.other: dict[str, Decimal] = {}
        self.fees_quote = ZERO
        self.realized = ZERO
        self.booked: dict[tuple[str, str], None] = {}

    def restore(
        self,
        cash: Decimal,
        positions: tuple[tuple[str, Decimal], ...],
        entries: tuple[tuple[str, float], ...],
        fill_keys: tuple[tuple[str, str], ...],
    ) -> None:
        """Take over what the ledger remembers."""
        self.cash = cash
        self.positions = {symbol: qty for symbol, qty in positions if qty}
        self.entries = dict(entries)
        self.booked = dict.fromkeys(fill_keys[-KEYS_MAX:])

    def book(self, fill: Fill) -> bool:
        """Book one execution; false when it was booked before (I1: never twice)."""
        key = (fill.symbol, fill.trade_id)
        if key in self.booked:
            return False
        self.booked[key] = None
        if len(self.booked) > KEYS_MAX:
            del self.booked[next(iter(self.booked))]
        base, _, quote = fill.symbol.partition("/")
        with exactly():
            entry = self.entries.get(fill.symbol)
            if fill.side is Side.SELL and entry is not None:
                self.realized += fill.qty * (fill.price - exact(entry))
            if fill.fee_asset == base:
                self.fees_quote += fill.fee * fill.price
            elif fill.fee_asset == quote:
                self.fees_quote += fill.fee
            else:
                self.other[fill.fee_asset] = self.other.get(fill.fee_asset, ZERO) - fill.fee
        self.fill(fill)
        return True
