"""The paper venue: the matching model on live market data, behind the same port and with the same events as live.

Nothing here reads a clock or a key, and nothing waits: an order reaches the matcher ``latency_ms`` after its approval
in the time of the market events (`on_tick`, `on_book`, `on_timer`), so the same events give the same executions.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import msgspec
import structlog

from daemon.core.books import exactly
from daemon.domain.events import Denied, Flow, Reconciled, Restored
from daemon.domain.market import LOTS_PER_UNIT, Book, Instrument, Tick
from daemon.domain.orders import Approved, Balance, Fill, Intent, OrderRecord, OrderState, OrderUpdate, Side, Tif
from daemon.domain.ports import Emit
from daemon.edge.clock import Clock
from daemon.edge.latch import KillLatch
from daemon.edge.ledger import SqlLedger
from daemon.edge.ownership import differences
from daemon.edge.purse import Purse
from daemon.matching.model import Level, fee, round_down, sweep, touch_levels, traded_through

ZERO: Final = Decimal(0)
NS_PER_MS: Final = 1_000_000
WAIT_NS_MAX: Final = 2_000_000_000
"""How long an order waits for the first book of its symbol before it meets an empty one."""
SNAPSHOTS_MAX: Final = 10
"""Attempts to compare with the ledger in a moment without executions."""
FLUSH_S: Final = 5.0


class PaperConfig(msgspec.Struct, frozen=True, kw_only=True):
    """``[paper]``: opening cash in quote, fee in basis points of the notional, latency in ms; and the quote asset."""

    quote: str
    cash: Decimal
    fee_bps: Decimal
    latency_ms: int


@dataclass(slots=True)
class _Working:
    """An order on its way (``due_ns``) or in the book; ``left`` is what has not traded."""

    intent: Intent
    due_ns: int
    venue_id: str
    left: Decimal
    locked: Decimal = ZERO


class PaperVenue:
    """A venue without an exchange; implements ``daemon.domain.ports.Venue``.

    Parameters
    ----------
    emit
        Hands events to the engine.
    clock, latch
        For the age of an intent and the kill latch, checked as the live venue does.
    ledger
        Compared with at reconciliation; it also keeps the balances.
    instruments
        The universe by symbol.
    config
        The rest.
    """

    def __init__(
        self,
        *,
        emit: Emit,
        clock: Clock,
        latch: KillLatch,
        ledger: SqlLedger,
        instruments: Mapping[str, Instrument],
        config: PaperConfig,
    ) -> None:
        self._emit = emit
        self._clock = clock
        self._latch = latch
        self._ledger = ledger
        self._instruments = dict(instruments)
        self._config = config
        self._rate = config.fee_bps / 10_000
        self._purse = Purse()
        self._books: dict[str, Book] = {}
        self._taken: dict[str, dict[Decimal, Decimal]] = {}
        self._travelling: deque[_Working] = deque()
        self._resting: dict[str, _Working] = {}
        self._recovered: tuple[OrderRecord, ...] = ()
        self._opened = False
        self._epoch = 0
        self._number = 0
        self._log = structlog.get_logger("ballast")

    # ------------------------------------------------------------------ start

    def restore(self, restored: Restored) -> None:
        """Take over balances and orders from the ledger; its orders are gone, since this venue has no memory of its own."""
        self._epoch = restored.epoch
        self._purse = Purse()
        self._purse.add(self._config.quote, restored.cash)
        for symbol, qty in restored.positions:
            self._purse.add(symbol.partition("/")[0], qty)
        self._recovered = restored.orders

    def set_instruments(self, instruments: Iterable[Instrument]) -> None:
        """Take over refreshed trading rules."""
        for one in instruments:
            self._instruments[one.symbol] = one

    # ------------------------------------------------------------------ the port

    async def send(self, approved: Approved) -> None:
        """Put an order on its way; it arrives after the latency."""
        intent = approved.intent
        reason = self._forbids(intent)
        if reason:
            self._emit(Denied(client_ids=(intent.client_id,), detail=reason, ts_ns=self._clock.now_ns()))
            return
        self._number += 1
        due_ns = approved.ts_ns + self._config.latency_ms * NS_PER_MS
        self._travelling.append(
            _Working(intent=intent, due_ns=due_ns, venue_id=f"p{self._epoch}-{self._number}", left=intent.qty)
        )

    async def cancel(self, client_id: str, symbol: str) -> None:
        """Cancel one order, resting or still on its way."""
        order = self._resting.pop(client_id, None)
        if order is None:
            order = next((one for one in self._travelling if one.intent.client_id == client_id), None)
            if order is not None:
                self._travelling.remove(order)
        if order is not None:
            self._end(order, OrderState.CANCELED, "", self._clock.now_ns())

    async def cancel_all(self) -> int:
        """Cancel every order; none is left."""
        for order in [*self._travelling, *self._resting.values()]:
            await self.cancel(order.intent.client_id, order.intent.symbol)
        return 0

    async def resolve(self, client_id: str, symbol: str, sent_ns: int) -> None:
        """Say at once what became of an order: what this venue does not hold was never placed."""
        held = client_id in self._resting or any(one.intent.client_id == client_id for one in self._travelling)
        if not held:
            self._emit(self._news(client_id, symbol, state=OrderState.NEVER_PLACED, ts_ns=self._clock.now_ns()))

    async def reconcile(self) -> None:
        """Open the books at a first start, end the orders of an earlier session, compare with the ledger."""
        now = self._clock.now_ns()
        recovered, self._recovered = self._recovered, ()
        for record in recovered:
            known = record.state is OrderState.ACKED
            state = OrderState.CANCELED if known or record.filled else OrderState.NEVER_PLACED
            intent = record.intent
            news = self._news(intent.client_id, intent.symbol, state=state, ts_ns=now)
            self._emit(msgspec.structs.replace(news, venue_id=record.venue_id, filled=record.filled, code="restart"))
        if self._ledger.first_start and not self._opened:
            self._opened = True
            self._purse.add(self._config.quote, self._config.cash)
            self._emit(
                Flow(
                    asset=self._config.quote,
                    amount=self._config.cash,
                    ours=True,
                    detail="paper opening balance",
                    ts_ns=now,
                )
            )
        breaks = await self._compare()
        self._emit(
            Reconciled(
                ok=not breaks,
                balances=self.balances(),
                breaks=breaks,
                external_orders=0,
                ts_ns=self._clock.now_ns(),
            )
        )

    async def _compare(self) -> tuple[tuple[str, Decimal, Decimal], ...]:
        breaks: tuple[tuple[str, Decimal, Decimal], ...] = ()
        for _ in range(SNAPSHOTS_MAX):
            before = self._number
            await self._ledger.flush(FLUSH_S)
            books = await self._ledger.books()
            breaks = differences(books.total, {one.asset: one.free + one.locked for one in self.balances()})
            if self._number == before:
                break
        return breaks

    async def close(self) -> None:
        """Nothing to release."""

    def balances(self) -> tuple[Balance, ...]:
        """Return what the paper account holds, in the order of names."""
        return self._purse.balances()

    # ------------------------------------------------------------------ market data

    def on_book(self, book: Book) -> None:
        """Take a new best bid and ask; what was taken from the old one is there again."""
        self._books[book.symbol] = book
        self._taken.pop(book.symbol, None)
        self._arrive(book.ts_recv_ns)
        crossing = [order for order in self._resting.values() if order.intent.symbol == book.symbol]
        for order in crossing:
            if crosses(order.intent, book):
                self._match(order, book.ts_recv_ns, maker=True)

    def on_tick(self, tick: Tick) -> None:
        """Take a public trade: it fills resting orders it traded through, at most by its own size."""
        self._arrive(tick.ts_recv_ns)
        if not self._resting:
            return
        instrument = self._instruments.get(tick.symbol)
        left = Decimal(tick.lots) / LOTS_PER_UNIT
        price = Decimal(repr(tick.price))
        for order in [one for one in self._resting.values() if one.intent.symbol == tick.symbol]:
            intent = order.intent
            if instrument is None or left <= 0 or not traded_through(intent.side, intent.limit, price, instrument.tick):
                continue
            qty = round_down(min(order.left, left), instrument.step)
            if qty > 0:
                left -= qty
                self._execute(order, intent.limit, qty, maker=True, ts_ns=tick.ts_recv_ns)
                self._report(order, tick.ts_recv_ns)

    def on_timer(self, ts_ns: int) -> None:
        """Take the passing of time."""
        self._arrive(ts_ns)

    # ------------------------------------------------------------------ matching

    def _arrive(self, now_ns: int) -> None:
        """Let the orders whose latency has passed reach the matcher, in the order they were sent."""
        if not self._travelling:
            return
        waiting = list(self._travelling)
        self._travelling.clear()
        for order in waiting:
            known = order.intent.symbol in self._books
            if order.due_ns > now_ns or (not known and now_ns < order.due_ns + WAIT_NS_MAX):
                self._travelling.append(order)
            else:
                self._place(order, now_ns, usable=known)

    def _place(self, order: _Working, now_ns: int, *, usable: bool) -> None:
        reason = self._refuses(order)
        if reason:
            news = self._news(order.intent.client_id, order.intent.symbol, state=OrderState.REJECTED, ts_ns=now_ns)
            self._emit(msgspec.structs.replace(news, code=reason))
            return
        if usable:
            self._match(order, now_ns, maker=False)
        if order.left <= 0:
            return
        if order.intent.tif is Tif.IOC:
            self._end(order, OrderState.EXPIRED, "" if usable else "no_book", now_ns)
            return
        self._lock(order)
        self._resting[order.intent.client_id] = order
        self._report(order, now_ns)

    def _refuses(self, order: _Working) -> str:
        """Return the venue's reason to reject an order, "" when it takes it."""
        intent = order.intent
        instrument = self._instruments.get(intent.symbol)
        if instrument is None or not instrument.trading:
            return "-1013 closed"
        asset, amount = self._cost(intent, intent.qty)
        return "-2010 balance" if amount > self._purse.free(asset) else ""

    def _match(self, order: _Working, now_ns: int, *, maker: bool) -> None:
        """Trade what the book gives; a resting order that the market came to trades at its own limit."""
        intent = order.intent
        done = False
        with exactly():
            matches = sweep(intent.side, order.left, intent.limit, self._levels(intent))
        step = self._instruments[intent.symbol].step
        for match in matches:
            qty = round_down(match.qty, step)
            if qty <= 0:
                continue
            taken = self._taken.setdefault(intent.symbol, {})
            taken[match.price] = taken.get(match.price, ZERO) + qty
            self._execute(order, intent.limit if maker else match.price, qty, maker=maker, ts_ns=now_ns)
            done = True
        if done and (order.left <= 0 or maker):
            self._report(order, now_ns)

    def _levels(self, intent: Intent) -> list[Level]:
        book = self._books[intent.symbol]
        instrument = self._instruments[intent.symbol]
        levels = touch_levels(
            Decimal(repr(book.bid)),
            Decimal(repr(book.bid_qty)),
            Decimal(repr(book.ask)),
            Decimal(repr(book.ask_qty)),
            side=intent.side,
            tick=instrument.tick,
        )
        taken = self._taken.get(intent.symbol, {})
        return [(price, max(qty - taken.get(price, ZERO), ZERO)) for price, qty in levels]

    def _execute(self, order: _Working, price: Decimal, qty: Decimal, *, maker: bool, ts_ns: int) -> None:
        intent = order.intent
        base, _, quote = intent.symbol.partition("/")
        amount, kind = fee(intent.side, price, qty, self._rate)
        payer = base if kind == "base" else quote
        self._unlock(order)
        order.left -= qty
        with exactly():
            sign = 1 if intent.side is Side.BUY else -1
            self._purse.add(base, sign * qty)
            self._purse.add(quote, -sign * qty * price)
            self._purse.add(payer, -amount)
        if intent.client_id in self._resting:
            if order.left > 0:
                self._lock(order)
            else:
                del self._resting[intent.client_id]
        self._number += 1
        self._emit(
            Fill(
                symbol=intent.symbol,
                trade_id=f"p{self._epoch}-{self._number}",
                client_id=intent.client_id,
                venue_id=order.venue_id,
                side=intent.side,
                qty=qty,
                price=price,
                fee=amount,
                fee_asset=payer,
                maker=maker,
                ts_event_ns=ts_ns,
                source="paper",
            )
        )

    # ------------------------------------------------------------------ small parts

    def _forbids(self, intent: Intent) -> str:
        if self._latch.is_set():
            return "killed"
        return "too_old" if self._clock.now_ns() > intent.expires_ns else ""

    def _cost(self, intent: Intent, qty: Decimal) -> tuple[str, Decimal]:
        base, _, quote = intent.symbol.partition("/")
        with exactly():
            return (quote, qty * intent.limit) if intent.side is Side.BUY else (base, qty)

    def _lock(self, order: _Working) -> None:
        asset, amount = self._cost(order.intent, order.left)
        order.locked = amount
        self._purse.lock(asset, amount)

    def _unlock(self, order: _Working) -> None:
        asset, _ = self._cost(order.intent, ZERO)
        self._purse.lock(asset, -order.locked)
        order.locked = ZERO

    def _report(self, order: _Working, ts_ns: int) -> None:
        state = OrderState.FILLED if order.left <= 0 else OrderState.ACKED
        self._end(order, state, "", ts_ns)

    def _end(self, order: _Working, state: OrderState, code: str, ts_ns: int) -> None:
        intent = order.intent
        if state is not OrderState.ACKED:
            self._unlock(order)
        news = self._news(intent.client_id, intent.symbol, state=state, ts_ns=ts_ns)
        filled = intent.qty - order.left
        self._emit(msgspec.structs.replace(news, venue_id=order.venue_id, filled=filled, code=code))

    def _news(self, client_id: str, symbol: str, *, state: OrderState, ts_ns: int) -> OrderUpdate:
        return OrderUpdate(
            client_id=client_id,
            symbol=symbol,
            state=state,
            venue_id="",
            filled=ZERO,
            code="",
            source="paper",
            ts_ns=ts_ns,
        )


def crosses(intent: Intent, book: Book) -> bool:
    """Say whether the opposite side has come to a resting order's limit."""
    limit = float(intent.limit)
    return book.ask <= limit if intent.side is Side.BUY else book.bid >= limit
