"""What Ballast owns by its own books: quote cash and positions, in Decimal, to the last digit."""

from decimal import Decimal

from daemon.domain.orders import Fill, Side
from risk.money import exact

ZERO = Decimal(0)
KEYS_MAX = 200_000
"""Trade ids remembered so that no execution is booked twice; the ledger hands over the newest at start."""


class Account:
    """Cash, positions and average entries, changed only by fills and flows.

    ``positions`` are base amounts by symbol (never negative on spot), ``entries`` average entry prices in quote
    without fees, ``fees_quote`` the fees paid in this session, valued in quote at the fill's price.
    ``booked`` are the (symbol, trade id) of what was booked, oldest first.
    ``other`` holds amounts of third assets (fees paid in them make it negative).
    """

    def __init__(self, quote: str) -> None:
        """Start empty, counting in ``quote``."""
        self.quote = quote
        self.cash = ZERO
        self.positions: dict[str, Decimal] = {}
        self.entries: dict[str, float] = {}
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

    def position(self, symbol: str) -> Decimal:
        """Return the base amount owned, zero when none."""
        return self.positions.get(symbol, ZERO)

    def book(self, fill: Fill) -> bool:
        """Book one execution; false when it was booked before (I1: never twice)."""
        key = (fill.symbol, fill.trade_id)
        if key in self.booked:
            return False
        self.booked[key] = None
        if len(self.booked) > KEYS_MAX:
            del self.booked[next(iter(self.booked))]
        base, _, quote = fill.symbol.partition("/")
        value = fill.qty * fill.price
        before = self.position(fill.symbol)
        if fill.side is Side.BUY:
            after = before + fill.qty
            self.cash -= value
            self._enter(fill, before=before, after=after)
        else:
            after = before - fill.qty
            self.cash += value
            entry = self.entries.get(fill.symbol)
            if entry is not None:
                self.realized += value - fill.qty * exact(entry)
        if fill.fee_asset == base:
            after -= fill.fee
            self.fees_quote += fill.fee * fill.price
        elif fill.fee_asset == quote:
            self.cash -= fill.fee
            self.fees_quote += fill.fee
        else:
            self.other[fill.fee_asset] = self.other.get(fill.fee_asset, ZERO) - fill.fee
        self._set(fill.symbol, after)
        return True

    def flow(self, asset: str, amount: Decimal) -> None:
        """Book a deposit, withdrawal or opening amount that is ours; signed."""
        if asset == self.quote:
            self.cash += amount
        else:
            symbol = f"{asset}/{self.quote}"
            self._set(symbol, self.position(symbol) + amount)

    def _enter(self, fill: Fill, *, before: Decimal, after: Decimal) -> None:
        old = self.entries.get(fill.symbol, 0.0)
        price = float(fill.price)
        if before <= ZERO or old <= 0.0:
            self.entries[fill.symbol] = price
            return
        share = float(before / after)
        self.entries[fill.symbol] = old * share + price * (1.0 - share)

    def _set(self, symbol: str, qty: Decimal) -> None:
        if qty == ZERO:
            self.positions.pop(symbol, None)
            self.entries.pop(symbol, None)
        else:
            self.positions[symbol] = qty
