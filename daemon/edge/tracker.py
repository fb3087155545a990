"""What this session knows about our orders at the venue: each piece of news is passed on once and never backwards."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import msgspec

from daemon.domain.orders import TERMINAL, Fill, Intent, OrderRecord, OrderState, OrderUpdate, Side, Tif
from daemon.domain.ports import Emit

ZERO: Final = Decimal(0)
DONE_MAX: Final = 10_000
"""Finished orders remembered for late news."""
TRADES_MAX: Final = 100_000
"""Executions remembered so that none is passed on twice."""

UNRESOLVED: Final = frozenset({OrderState.SENDING, OrderState.UNKNOWN, OrderState.RESOLVING})
DISPROVABLE: Final = frozenset({OrderState.NEVER_PLACED, OrderState.DENIED, OrderState.REJECTED})
"""Ends that better evidence may still overturn: the venue shows the order after all."""


ABSENT: Final = frozenset({OrderState.NEVER_PLACED, OrderState.DENIED})
"""Ends that say the venue never had the order: no search, however long, says so of one that it has shown (I8)."""


@dataclass(slots=True)
class Tracked:
    """One order: what the venue stated (``stated``) and what was passed on as executions (``booked``).

    ``rests`` is false for an immediate order, which ends by itself; ``checked_ns`` is when it was last asked for;
    ``told`` is the state that was passed on last.
    """

    client_id: str
    symbol: str
    side: Side
    qty: Decimal
    state: OrderState
    sent_ns: int
    rests: bool
    told: OrderState = OrderState.SENDING
    checked_ns: int = 0
    venue_id: str = ""
    stated: Decimal = ZERO
    booked: Decimal = ZERO

    @property
    def short(self) -> bool:
        """Say whether executions are missing."""
        return self.booked < self.stated

    @property
    def placed(self) -> bool:
        """Say whether the venue has shown that it had the order: by its id, an acknowledgement, an end, an execution."""
        shown = bool(self.venue_id) or self.stated > 0 or self.booked > 0
        return shown or self.state not in UNRESOLVED | DISPROVABLE

    @property
    def settled(self) -> bool:
        """Say whether nothing more can come of it."""
        return self.state in TERMINAL and not self.short


class Tracker:
    """Our orders by client id, and the one door through which their news goes to the engine."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._live: dict[str, Tracked] = {}
        self._done: OrderedDict[str, Tracked] = OrderedDict()
        self._by_venue_id: dict[tuple[str, str], str] = {}
        self._trades: OrderedDict[tuple[str, str], None] = OrderedDict()
        self.changes = 0
        """Counts executions passed on, so that a comparison knows when it was disturbed."""
        self.moves = 0
        """Counts whatever happened to any order of ours: while it stands still, nothing of ours moved."""
        self.touched: set[str] = set()
        """Symbols with orders or executions since somebody last cleared this."""

    def add(self, intent: Intent) -> Tracked:
        """Follow an order that is about to be sent."""
        order = Tracked(
            client_id=intent.client_id,
            symbol=intent.symbol,
            side=intent.side,
            qty=intent.qty,
            state=OrderState.SENDING,
            sent_ns=intent.ts_ns,
            rests=intent.tif is Tif.GTC,
        )
        self._live[intent.client_id] = order
        self.moves += 1
        self.touched.add(intent.symbol)
        return order

    def restore(self, records: Iterable[OrderRecord]) -> None:
        """Follow orders of an earlier session; their ``filled`` is what was booked then."""
        for record in records:
            order = self.add(record.intent)
            order.state = order.told = record.state
            order.venue_id = record.venue_id
            order.stated = order.booked = record.filled
            self._index(order)

    def find(self, client_id: str) -> Tracked | None:
        """Return an order by its client id."""
        return self._live.get(client_id) or self._done.get(client_id)

    def find_venue_id(self, symbol: str, venue_id: str) -> Tracked | None:
        """Return an order by the venue's id, which is unique per symbol only."""
        client_id = self._by_venue_id.get((symbol, venue_id))
        return self.find(client_id) if client_id is not None else None

    @property
    def live(self) -> list[Tracked]:
        """Return the orders of which something may still come, oldest first."""
        return list(self._live.values())

    def report(self, news: OrderUpdate) -> bool:
        """Pass news on unless it is old or repeats what is known; false then."""
        order = self.find(news.client_id)
        if order is None or (news.state in ABSENT and order.placed):
            return False
        if news.state is OrderState.REJECTED and (order.state is OrderState.ACKED or order.stated > 0):
            if news.source == "send":
                return False  # of an order that the venue has shown: an answer that contradicts it ends nothing
            news = msgspec.structs.replace(news, state=OrderState.EXPIRED, code=news.code or "REJECTED")
        stated = max(order.stated, news.filled)
        state = later(order.state, news.state)
        fresh = stated > order.stated or (news.state is state and news.state is not order.told)
        order.state, order.stated = state, stated
        if news.state is state:
            order.told = state
        if news.venue_id and news.venue_id != order.venue_id:
            order.venue_id = news.venue_id
            self._index(order)
            fresh = True
        self._settle(order)
        if fresh:
            self.moves += 1
            self._emit(news)
        return fresh

    def execution(self, fill: Fill) -> bool:
        """Pass an execution on unless it went through before; false then."""
        key = (fill.symbol, fill.trade_id)
        if key in self._trades:
            return False
        self._trades[key] = None
        if len(self._trades) > TRADES_MAX:
            self._trades.popitem(last=False)
        order = self.find(fill.client_id)
        if order is not None:
            order.booked += fill.qty
            order.stated = max(order.stated, order.booked)
            if order.booked >= order.qty:
                order.state = OrderState.FILLED  # whatever its news says: the engine concludes the same
            if order.venue_id != fill.venue_id:
                order.venue_id = fill.venue_id
                self._index(order)
            self._settle(order)
        self.changes += 1
        self.moves += 1
        self.touched.add(fill.symbol)
        self._emit(fill)
        return True

    def forget(self, order: Tracked) -> None:
        """Stop following an order that never left."""
        self._settle(order)

    def passed_on(self, symbol: str, trade_id: str) -> bool:
        """Say whether an execution went through in this session."""
        return (symbol, trade_id) in self._trades

    def _index(self, order: Tracked) -> None:
        if order.venue_id:
            self._by_venue_id[order.symbol, order.venue_id] = order.client_id

    def _settle(self, order: Tracked) -> None:
        if not order.settled:
            self._done.pop(order.client_id, None)
            self._live[order.client_id] = order
            return
        self._live.pop(order.client_id, None)
        self._done[order.client_id] = order
        while len(self._done) > DONE_MAX:
            _, old = self._done.popitem(last=False)
            self._by_venue_id.pop((old.symbol, old.venue_id), None)


def later(known: OrderState, news: OrderState) -> OrderState:
    """Return the state after news: ends are final, except those that better evidence disproves (F30)."""
    if known in DISPROVABLE:
        return news if news in {OrderState.ACKED, OrderState.FILLED, OrderState.CANCELED, OrderState.EXPIRED} else known
    if known in TERMINAL:
        return known
    if news in TERMINAL or known in UNRESOLVED:
        return news if news is not OrderState.SENDING else known
    return known  # acknowledged before: only an end is news
