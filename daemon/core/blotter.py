"""Our orders and their lifecycle: states only move forward, exposure stays reserved until there is evidence."""

from dataclasses import dataclass
from decimal import Decimal

from daemon.domain.orders import TERMINAL, Approved, Fill, Intent, OrderRecord, OrderState, OrderUpdate, Side

ZERO = Decimal(0)

RANK = {
    OrderState.PLANNED: 0,
    OrderState.SENDING: 1,
    OrderState.UNKNOWN: 2,
    OrderState.RESOLVING: 3,
    OrderState.DENIED: 4,
    OrderState.NEVER_PLACED: 4,
    OrderState.REJECTED: 4,
    OrderState.ACKED: 5,
    OrderState.EXPIRED: 6,
    OrderState.CANCELED: 6,
    OrderState.FILLED: 7,
}
"""Later evidence outranks earlier; an update of lower rank is news of the past (F30).

An order that the venue shows alive outranks every verdict that it never existed (F7, F33): exposure is reserved again.
"""

UNCERTAIN = frozenset({OrderState.UNKNOWN, OrderState.RESOLVING})
UNRESOLVED = UNCERTAIN | {OrderState.SENDING}
LATE_EVIDENCE = UNRESOLVED | {OrderState.NEVER_PLACED, OrderState.DENIED, OrderState.REJECTED}
"""States that an execution disproves: the venue has the order after all (F7)."""

NOBODY: frozenset[str] = frozenset()
KEPT_DONE_MAX = 5_000


@dataclass(slots=True)
class Working:
    """One order of ours: its intent, where it stands, how much of it has been booked."""

    intent: Intent
    state: OrderState
    venue_id: str
    stated: Decimal
    booked: Decimal
    since_ns: int

    @property
    def live(self) -> bool:
        """Return whether the order can still change cash or positions."""
        return self.state not in TERMINAL or self.booked < self.stated

    @property
    def open_qty(self) -> Decimal:
        """Return the quantity that may still fill."""
        if self.state in TERMINAL:
            return max(self.stated - self.booked, ZERO)
        return max(self.intent.qty - self.booked, ZERO)


class Blotter:
    """All live orders by client id, and the recent ones that are done (late fills still find them)."""

    def __init__(self) -> None:
        """Start empty."""
        self.live: dict[str, Working] = {}
        self.done: dict[str, Working] = {}

    def restore(self, records: tuple[OrderRecord, ...]) -> None:
        """Take over orders whose fate was open when the last session ended: SENDING means UNKNOWN now."""
        for record in records:
            state = OrderState.UNKNOWN if record.state in UNRESOLVED else record.state
            self.live[record.intent.client_id] = Working(
                intent=record.intent,
                state=state,
                venue_id=record.venue_id,
                stated=record.filled,
                booked=record.filled,
                since_ns=record.updated_ns,
            )

    def sent(self, approved: Approved) -> None:
        """Reserve for an order that is about to become durable and leave."""
        intent = approved.intent
        self.live[intent.client_id] = Working(
            intent=intent, state=OrderState.SENDING, venue_id="", stated=ZERO, booked=ZERO, since_ns=approved.ts_ns
        )

    def withdraw(self, client_id: str) -> None:
        """Forget an order that was reserved for and will not even become durable."""
        self.live.pop(client_id, None)

    def find(self, client_id: str) -> Working | None:
        """Return the order, live or done, or None when it is not ours."""
        return self.live.get(client_id) or self.done.get(client_id)

    def update(self, news: OrderUpdate) -> Working | None:
        """Apply news; None when it says nothing new or the order is not ours."""
        order = self.find(news.client_id)
        if order is None:
            return None
        was, was_stated = order.state, order.stated
        order.stated = max(order.stated, news.filled)
        if RANK[news.state] > RANK[order.state] or (news.state is OrderState.UNKNOWN and was is OrderState.SENDING):
            order.state = news.state
            order.since_ns = news.ts_ns
        if news.venue_id:
            order.venue_id = news.venue_id
        self._settle(order)
        return order if (order.state, order.stated) != (was, was_stated) else None

    def fill(self, fill: Fill) -> Working | None:
        """Count an execution towards its order; None when the order is not ours (an external trade)."""
        order = self.find(fill.client_id)
        if order is None:
            return None
        order.booked += fill.qty
        order.stated = max(order.stated, order.booked)
        if order.booked >= order.intent.qty:
            order.state = OrderState.FILLED
        elif order.state in LATE_EVIDENCE:
            order.state = OrderState.ACKED
        if order.state not in TERMINAL:
            order.since_ns = max(order.since_ns, fill.ts_event_ns)
        self._settle(order)
        return order

    def _settle(self, order: Working) -> None:
        client_id = order.intent.client_id
        if order.live:
            self.done.pop(client_id, None)
            self.live[client_id] = order
            return
        self.live.pop(client_id, None)
        self.done[client_id] = order
        while len(self.done) > KEPT_DONE_MAX:
            del self.done[next(iter(self.done))]

    def working(self, symbol: str) -> list[Working]:
        """Return the live orders of one symbol, oldest first."""
        return [order for order in self.live.values() if order.intent.symbol == symbol]

    @property
    def uncertain(self) -> frozenset[str]:
        """Return the symbols of which an order's fate is unknown."""
        if not self.live:
            return NOBODY
        return frozenset([order.intent.symbol for order in self.live.values() if order.state in UNCERTAIN])

    def reserved(self, side: Side) -> dict[str, Decimal]:
        """Return what live orders may still take, by symbol: quote notional of buys, base quantity of sells."""
        totals: dict[str, Decimal] = {}
        for order in self.live.values():
            intent = order.intent
            if intent.side is not side:
                continue
            amount = order.open_qty * intent.limit if side is Side.BUY else order.open_qty
            totals[intent.symbol] = totals.get(intent.symbol, ZERO) + amount
        return totals

    @property
    def unresolved(self) -> int:
        """Return how many orders' fate is unknown."""
        return sum(order.state in UNCERTAIN for order in self.live.values())
