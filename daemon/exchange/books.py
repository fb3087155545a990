"""The exchange's own double-entry books: the oracle that every test of conservation asks.

Each movement is posted to two accounts of one asset, so the journal sums to zero per asset by construction; `audit`
adds up flows, fills and fees independently from the orders' records and compares them with the balances. Nothing here
is shared with the daemon's ledger.
"""

from collections import defaultdict
from decimal import Decimal
from typing import Final, NamedTuple

import msgspec

__all__ = ["AuditRow", "Balance", "Books", "Entry", "Fill", "Order"]

ZERO: Final = Decimal(0)
OPEN_STATES: Final = frozenset({"NEW", "PARTIALLY_FILLED"})


class Balance(msgspec.Struct):
    """Free and locked amount of an asset, both >= 0."""

    free: Decimal = ZERO
    locked: Decimal = ZERO


class Fill(msgspec.Struct, frozen=True, kw_only=True):
    """One execution of a client's order; price in quote per base, qty in base, commission in its asset."""

    symbol: str
    trade_id: int
    order_id: int
    client_id: str
    side: str
    price: Decimal
    qty: Decimal
    commission: Decimal
    commission_asset: str
    base: str
    quote: str
    time_ms: int
    maker: bool
    execution_id: int


class Order(msgspec.Struct, kw_only=True):
    """A client's order as the exchange knows it. Side "BUY"/"SELL", states and types as Binance names them."""

    symbol: str
    index: int
    order_id: int
    client_id: str
    side: str
    type: str
    tif: str
    price: Decimal
    qty: Decimal
    quote_qty: Decimal = ZERO
    filled: Decimal = ZERO
    quote_filled: Decimal = ZERO
    status: str = "NEW"
    time_ms: int = 0
    update_ms: int = 0
    locked: Decimal = ZERO
    locked_asset: str = ""
    working: bool = False
    external: bool = False
    fills: list[Fill] = []

    @property
    def is_open(self) -> bool:
        """Whether the order can still trade."""
        return self.status in OPEN_STATES

    @property
    def left(self) -> Decimal:
        """Quantity not yet filled, in base."""
        return self.qty - self.filled


class Entry(NamedTuple):
    """A posting: the amount (signed) that an account of an asset received."""

    time_ms: int
    kind: str
    asset: str
    account: str
    amount: Decimal


class AuditRow(NamedTuple):
    """Conservation of one asset: opening + flows + fills - fees must equal free + locked, to the last unit."""

    opening: Decimal
    flows: Decimal
    fills: Decimal
    fees: Decimal
    free: Decimal
    locked: Decimal

    @property
    def difference(self) -> Decimal:
        """Free + locked minus what they should be; zero unless the exchange is wrong."""
        return self.free + self.locked - (self.opening + self.flows + self.fills - self.fees)


class Books:
    """Balances, orders, fills and the journal of one simulated account."""

    def __init__(self, opening: tuple[tuple[str, Decimal], ...]) -> None:
        """Open the account with the given amounts."""
        self.balances: dict[str, Balance] = {}
        self.orders: list[Order] = []
        self.fills: list[Fill] = []
        self.journal: list[Entry] = []
        self.update_ms = 0
        self._opening = dict(opening)
        self._flows: dict[str, Decimal] = defaultdict(lambda: ZERO)
        for asset, amount in opening:
            self._post(0, "opening", asset, ("world", "free"), amount)

    def balance(self, asset: str) -> Balance:
        """Return the balance of an asset; zero when it was never held."""
        return self.balances.setdefault(asset, Balance())

    def _post(self, time_ms: int, kind: str, asset: str, route: tuple[str, str], amount: Decimal) -> None:
        """Move an amount from one account to another."""
        if amount == 0:
            return
        source, target = route
        self.journal.append(Entry(time_ms, kind, asset, source, -amount))
        self.journal.append(Entry(time_ms, kind, asset, target, amount))
        held = self.balance(asset)
        for account, change in ((source, -amount), (target, amount)):
            if account == "free":
                held.free += change
            elif account == "locked":
                held.locked += change
        if held.free < 0 or held.locked < 0:
            raise AssertionError(f"the simulated books would be overdrawn: {asset} {held} after {kind} {amount}")
        self.update_ms = max(self.update_ms, time_ms)

    def deposit(self, asset: str, amount: Decimal, time_ms: int) -> None:
        """Add an amount from outside; a negative amount is a withdrawal.

        Raises
        ------
        ValueError
            When a withdrawal exceeds the free amount.
        """
        if amount < 0 and self.balance(asset).free + amount < 0:
            msg = f"cannot withdraw {-amount} {asset}: free is {self.balance(asset).free}"
            raise ValueError(msg)
        self._flows[asset] += amount
        self._post(time_ms, "flow", asset, ("world", "free"), amount)

    def lock(self, order: Order, asset: str, amount: Decimal, time_ms: int) -> None:
        """Reserve free funds for an order."""
        self._post(time_ms, "lock", asset, ("free", "locked"), amount)
        order.locked, order.locked_asset = order.locked + amount, asset

    def release(self, order: Order, amount: Decimal, time_ms: int) -> None:
        """Return reserved funds."""
        self._post(time_ms, "release", order.locked_asset, ("locked", "free"), amount)
        order.locked -= amount

    def execute(self, order: Order, fill: Fill) -> None:
        """Book an execution: pay from the reserve, receive, pay the commission."""
        quote = fill.price * fill.qty
        if fill.side == "BUY":
            paid, received = (fill.quote, quote), (fill.base, fill.qty)
        else:
            paid, received = (fill.base, fill.qty), (fill.quote, quote)
        self._post(fill.time_ms, "fill", paid[0], ("locked", "market"), paid[1])
        order.locked -= paid[1]
        self._post(fill.time_ms, "fill", received[0], ("market", "free"), received[1])
        self._post(fill.time_ms, "fee", fill.commission_asset, ("free", "fees"), fill.commission)
        order.filled += fill.qty
        order.quote_filled += quote
        order.fills.append(fill)
        self.fills.append(fill)

    def audit(self) -> dict[str, AuditRow]:
        """Add up each asset from opening, flows and fills, beside its balance; see `AuditRow.difference`."""
        traded: dict[str, Decimal] = defaultdict(lambda: ZERO)
        fees: dict[str, Decimal] = defaultdict(lambda: ZERO)
        for fill in self.fills:
            sign = 1 if fill.side == "BUY" else -1
            traded[fill.base] += sign * fill.qty
            traded[fill.quote] -= sign * fill.price * fill.qty
            fees[fill.commission_asset] += fill.commission
        return {
            asset: AuditRow(
                self._opening.get(asset, ZERO), self._flows[asset], traded[asset], fees[asset], held.free, held.locked
            )
            for asset, held in sorted(self.balances.items())
        }

    def conserved(self) -> bool:
        """Say whether every asset adds up, the journal balances and locked funds equal the open orders' reserves."""
        sums: dict[str, Decimal] = defaultdict(lambda: ZERO)
        for entry in self.journal:
            sums[entry.asset] += entry.amount
        reserves: dict[str, Decimal] = defaultdict(lambda: ZERO)
        for order in self.orders:
            if order.is_open:
                reserves[order.locked_asset] += order.locked
        return (
            all(row.difference == 0 for row in self.audit().values())
            and all(total == 0 for total in sums.values())
            and all(held.locked == reserves[asset] for asset, held in self.balances.items())
        )
