"""The other side of the engine: a venue, a ledger and their books, in Decimal, sharing no code with what they judge.

The venue knows what really happened, the ledger what was recorded, and the mail what the engine has not heard yet. All
three change only through the methods here.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal

from daemon.domain.events import Booked, Effect, Persist, Recorded, Submit
from daemon.domain.orders import Approved, Fill, Intent, OrderRecord, OrderState, OrderUpdate, Side, Tif

ZERO = Decimal(0)
LOT = Decimal("0.00001")
FEE = Decimal("0.001")
ENDED = frozenset({"filled", "canceled", "expired", "rejected", "denied", "never_placed"})
CHANGEABLE = frozenset({"rejected", "denied", "never_placed"})
"""Ends that better evidence may disprove."""


@dataclass(eq=False)
class Placed:
    """One order as the venue knows it, or would know it if it arrived.

    ``status``: flying (on its way), lost (on its way for ever, or late), open, filled, canceled, expired, refused, never
    (proven absent, which a late arrival may still disprove), dropped (it never left).
    """

    intent: Intent
    status: str = "flying"
    filled: Decimal = ZERO
    disproved: bool = False

    @property
    def left(self) -> Decimal:
        """Return what may still execute."""
        return self.intent.qty - self.filled

    @property
    def may_fill(self) -> bool:
        """Say whether the engine has to reckon with its execution."""
        return self.status in {"flying", "lost", "open"} and not self.disproved


class Books:
    """What was opened with, flowed and was executed, per asset; signed."""

    def __init__(self) -> None:
        self.held: defaultdict[str, Decimal] = defaultdict(lambda: ZERO)

    def flow(self, asset: str, amount: Decimal) -> None:
        """Add or take an amount."""
        self.held[asset] += amount

    def execute(self, fill: Fill) -> None:
        """Exchange base for quote and pay the fee."""
        base, quote = fill.symbol.split("/")
        sign = 1 if fill.side is Side.BUY else -1
        self.held[base] += sign * fill.qty
        self.held[quote] -= sign * fill.qty * fill.price
        self.held[fill.fee_asset] -= fill.fee

    def without(self, fills: Iterable[Fill]) -> "Books":
        """Return what would be held had these executions not happened."""
        other = Books()
        other.held.update(self.held)
        for fill in fills:
            base, quote = fill.symbol.split("/")
            sign = 1 if fill.side is Side.BUY else -1
            other.held[base] -= sign * fill.qty
            other.held[quote] += sign * fill.qty * fill.price
            other.held[fill.fee_asset] += fill.fee
        return other

    def amounts(self) -> dict[str, Decimal]:
        """Return every amount that is not zero."""
        return {asset: amount for asset, amount in self.held.items() if amount}


class Venue:
    """Orders and executions as they really happened, and the news of them that is still on its way."""

    def __init__(self) -> None:
        self.orders: dict[str, Placed] = {}
        self.truth = Books()
        self.mail: list[OrderUpdate | Fill] = []
        self.read: list[OrderUpdate | Fill] = []
        self._trades = 0

    def send(self, approved: Approved) -> None:
        """Take an order that is about to leave. Raises AssertionError when it was sent before (I1)."""
        client_id = approved.intent.client_id
        assert client_id not in self.orders, f"I1: {client_id} is sent twice"
        self.orders[client_id] = Placed(approved.intent)

    def having(self, *statuses: str) -> list[Placed]:
        """Return the orders in one of these states, oldest first."""
        return [order for order in self.orders.values() if order.status in statuses]

    def say(
        self, order: Placed, state: OrderState, now_ns: int, *, code: str = "", source: str = "stream"
    ) -> OrderUpdate:
        """Return what the venue says about an order now."""
        return OrderUpdate(
            client_id=order.intent.client_id,
            symbol=order.intent.symbol,
            state=state,
            venue_id=f"v-{order.intent.client_id}"
            if order.status not in {"flying", "lost", "never", "dropped"}
            else "",
            filled=order.filled,
            code=code,
            source=source,
            ts_ns=now_ns,
        )

    def open(self, order: Placed, now_ns: int, *, share: Decimal, quiet: bool) -> None:
        """Let an order arrive: an IOC executes a share at once and the rest expires; a GTC rests."""
        order.status = "open"
        if not quiet:
            self.mail.append(self.say(order, OrderState.ACKED, now_ns))
        if order.intent.tif is Tif.IOC:
            self.execute(order, share, now_ns)
            self.end(order, OrderState.EXPIRED, now_ns)

    def execute(self, order: Placed, share: Decimal, now_ns: int, *, fee_asset: str = "") -> None:
        """Execute a share of what is left, whole lots, at the limit; the news goes into the mail."""
        intent = order.intent
        qty = (order.left * share).quantize(LOT, rounding=ROUND_DOWN)
        if qty <= ZERO or order.status != "open":
            return
        base, quote = intent.symbol.split("/")
        paid_in = fee_asset or (base if intent.side is Side.BUY else quote)
        self._trades += 1
        fill = Fill(
            symbol=intent.symbol,
            trade_id=str(self._trades),
            client_id=intent.client_id,
            venue_id=f"v-{intent.client_id}",
            side=intent.side,
            qty=qty,
            price=intent.limit,
            fee=(qty if paid_in == base else qty * intent.limit if paid_in == quote else Decimal("0.0001")) * FEE,
            fee_asset=paid_in,
            maker=False,
            ts_event_ns=now_ns,
            source="stream",
        )
        self.truth.execute(fill)
        order.filled += qty
        self.mail.append(fill)
        if order.left == ZERO:
            self.end(order, OrderState.FILLED, now_ns)
        else:
            self.mail.append(self.say(order, OrderState.ACKED, now_ns))

    def end(self, order: Placed, state: OrderState, now_ns: int) -> None:
        """End an open order; the news goes into the mail."""
        if order.status == "open":
            order.status = state.value
            self.mail.append(self.say(order, state, now_ns))

    def hang_up(self) -> None:
        """Forget the news that a stream would have brought: no stream repeats what it said to another process."""
        self.mail = [one for one in self.mail if isinstance(one, Fill)]
        self.read = [one for one in self.read if isinstance(one, Fill)]

    @property
    def foreseeable(self) -> Books:
        """What is held, less unheard executions of orders that had been proven absent: nobody could reckon with those."""
        return self.truth.without(fill for fill in self.missing() if self.orders[fill.client_id].disproved)

    def missing(self, client_id: str = "") -> list[Fill]:
        """Return the executions that are still in the mail, of one order or of all."""
        return [one for one in self.mail if isinstance(one, Fill) and client_id in {"", one.client_id}]


class Ledger:
    """What is durable: it learns from effects alone, and is all that a new life is told."""

    def __init__(self) -> None:
        self.intents: dict[str, Intent] = {}
        self.legs: set[tuple[str, int]] = set()
        self.states: dict[str, OrderState] = {}
        self.filled: defaultdict[str, Decimal] = defaultdict(lambda: ZERO)
        self.stated: defaultdict[str, Decimal] = defaultdict(lambda: ZERO)
        self.books = Books()
        self.keys: dict[tuple[str, str], None] = {}
        self.memory = ""
        self.epoch = 1

    def record(self, effect: Effect) -> None:
        """Write what an effect wants written. Raises AssertionError where a unique key forbids it (I1, I3)."""
        match effect:
            case Submit():
                for one in effect.approved:
                    leg = (one.intent.decision, one.intent.leg)
                    assert leg not in self.legs, f"I1: leg {leg} exists already"
                    self.legs.add(leg)
                    self.intents[one.intent.client_id] = one.intent
                    self.states[one.intent.client_id] = OrderState.SENDING
            case Recorded(update=update):
                self.states[update.client_id] = update.state
                self.stated[update.client_id] = max(self.stated[update.client_id], update.filled)
            case Booked(fill=fill, flow=flow):
                if fill is not None:
                    key = (fill.symbol, fill.trade_id)
                    assert key not in self.keys, f"I3: execution {key} is booked twice"
                    self.keys[key] = None
                    self.filled[fill.client_id] += fill.qty
                    self.books.execute(fill)
                elif flow is not None:
                    self.books.flow(flow.asset, flow.amount)
            case Persist():
                self.memory = effect.state_json
            case _:
                pass

    def unsettled(self) -> tuple[OrderRecord, ...]:
        """Return the orders whose end is not durable, and those that ended with executions missing."""
        rows: list[OrderRecord] = []
        for client_id, intent in self.intents.items():
            state, filled = self.states[client_id], self.filled[client_id]
            if state in ENDED and filled >= self.stated[client_id]:
                continue
            known = OrderState.ACKED if state is OrderState.ACKED else OrderState.UNKNOWN
            venue_id = f"v-{client_id}" if state is OrderState.ACKED else ""
            rows.append(OrderRecord(intent, known, venue_id, filled, intent.ts_ns))
        return tuple(rows)
