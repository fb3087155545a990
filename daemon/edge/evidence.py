"""Finding out what became of an order: never by sending it again (FAULTS 1.3)."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Final

import msgspec
import structlog

from daemon.domain.errors import Transient
from daemon.domain.orders import OrderState, OrderUpdate
from daemon.edge.binance_account import VenueOrder, update_of
from daemon.edge.clock import Clock
from daemon.edge.ledger import SqlLedger
from daemon.edge.tracker import UNRESOLVED, Tracked, Tracker
from daemon.edge.venue_calls import VenueCalls

NS_PER_S: Final = 1_000_000_000
EARLIER_NS: Final = 5 * NS_PER_S
"""Executions and orders are searched from this long before the intent's time on: clocks differ."""
PAGE_AFTER_S: Final = 600.0
"""An order unresolved this long is reported as an error again and again."""
FLUSH_S: Final = 5.0


class EvidenceRules(msgspec.Struct, frozen=True, kw_only=True):
    """What it takes to call an order never placed: so many "no such order" answers over so long, and nothing elsewhere.

    Queries are repeated after pauses that grow from ``first_wait_s`` to ``last_wait_s``.
    """

    misses: int = 3
    over_s: float = 60.0
    first_wait_s: float = 0.25
    last_wait_s: float = 8.0


class Evidence:
    """Queries about orders of ours; all news goes through the tracker.

    Parameters
    ----------
    explained
        Says whether every balance change of a symbol's assets is explained by booked fills and flows.
    stream_whole
        Says whether the user stream has been up since a time (ns UTC), or was closed by REST after it came back.
    """

    def __init__(
        self,
        calls: VenueCalls,
        *,
        tracker: Tracker,
        ledger: SqlLedger,
        clock: Clock,
        rules: EvidenceRules,
        explained: Callable[[str], Awaitable[bool]],
        stream_whole: Callable[[int], bool],
    ) -> None:
        self._calls = calls
        self._tracker = tracker
        self._ledger = ledger
        self._clock = clock
        self._rules = rules
        self._explained = explained
        self._stream_whole = stream_whole
        self._resolving: set[str] = set()
        self._log = structlog.get_logger("ballast")

    @property
    def resolving(self) -> int:
        """Return how many orders are being looked for."""
        return len(self._resolving)

    async def look_up(self, order: Tracked, *, urgent: bool = False) -> bool:
        """Ask for one order and pass on what the venue shows; false when it shows none. Raises Transient."""
        shown = await self._calls.query(order.client_id, order.symbol, urgent=urgent)
        if shown is None and order.venue_id:
            shown = await self._calls.query_venue_id(order.venue_id, order.symbol)
        if shown is None:
            return False
        await self.accept(order, shown)
        return True

    async def accept(self, order: Tracked, shown: VenueOrder) -> None:
        """Pass on what the venue shows of an order: its executions first, then its state. Raises Transient."""
        news = update_of(shown, symbol=order.symbol, client_id=order.client_id, ts_ns=self._clock.now_ns())
        order.venue_id = order.venue_id or news.venue_id
        if order.booked < shown.executed_qty:
            await self.fetch_executions(order, news.venue_id)
        self._tracker.report(news)

    async def fetch_executions(self, order: Tracked, venue_id: str) -> None:
        """Pass on the executions of an order that did not come by themselves. Raises Transient."""
        trades = await self._calls.trades_of(venue_id, order.symbol)
        fresh = [trade for trade in trades if not self._tracker.passed_on(order.symbol, str(trade.id))]
        if not fresh:
            return
        await self._ledger.flush(FLUSH_S)
        booked = await self._ledger.known_trades(order.symbol, tuple(str(trade.id) for trade in fresh))
        for trade in fresh:
            if str(trade.id) not in booked and str(trade.order_id) == venue_id:
                self._tracker.execution(trade.fill(order.symbol, order.client_id))

    async def complete(self, order: Tracked) -> None:
        """Fetch the missing executions of an order, with retries."""
        wait_s = self._rules.first_wait_s
        while order.short and order.venue_id:
            try:
                await self.fetch_executions(order, order.venue_id)
            except Transient as error:
                self._log.warning("orders.executions_missing", client_id=order.client_id, error=str(error))
            if not order.short:
                return
            await asyncio.sleep(random.uniform(wait_s / 2, wait_s))
            wait_s = min(wait_s * 2, self._rules.last_wait_s)

    async def resolve(self, client_id: str, symbol: str, sent_ns: int) -> None:
        """Query until the order is found or proven absent; the symbol stays blocked and the money reserved meanwhile."""
        order = self._tracker.find(client_id)
        if order is None or client_id in self._resolving:
            return
        self._resolving.add(client_id)
        try:
            self._report(order, OrderState.RESOLVING, "")
            await self._search(order, sent_ns or order.sent_ns)
        finally:
            self._resolving.discard(client_id)

    async def _search(self, order: Tracked, sent_ns: int) -> None:
        started = self._clock.mono_ns()
        misses, first_miss, paged = 0, 0, 0
        wait_s = self._rules.first_wait_s
        while order.state in UNRESOLVED or order.short:
            try:
                if await self.look_up(order):
                    misses = 0
                elif order.state in UNRESOLVED:
                    now = self._clock.mono_ns()
                    first_miss = first_miss if misses else now
                    misses += 1
                    long_enough = now - first_miss >= self._rules.over_s * NS_PER_S
                    enough = misses >= self._rules.misses and long_enough
                    # While the last look lasted the order may have made itself heard after all.
                    if enough and await self._absent(order, sent_ns) and not order.placed:
                        self._report(order, OrderState.NEVER_PLACED, "not_found")
                        return
            except Transient as error:
                self._log.warning("orders.query_failed", client_id=order.client_id, error=str(error))
            elapsed_s = (self._clock.mono_ns() - started) / NS_PER_S
            if elapsed_s > PAGE_AFTER_S * (paged + 1):
                paged += 1
                self._log.error(
                    "orders.unresolved", client_id=order.client_id, symbol=order.symbol, for_s=round(elapsed_s)
                )
            await asyncio.sleep(random.uniform(wait_s / 2, wait_s))
            wait_s = min(wait_s * 2, self._rules.last_wait_s)

    async def _absent(self, order: Tracked, sent_ns: int) -> bool:
        """Say whether the order is nowhere else either: open orders, all orders, executions, balances. Raises Transient."""
        since = max(min(sent_ns, order.sent_ns) - EARLIER_NS, 0)
        shown = [*await self._calls.open_orders(order.symbol), *await self._calls.orders_since(order.symbol, since)]
        for one in shown:
            if one.client_id == order.client_id:
                await self.accept(order, one)
                return False
        named = {str(one.order_id) for one in shown}
        for trade in await self._calls.trades_since(order.symbol, since):
            venue_id = str(trade.order_id)
            if venue_id in named or self._tracker.find_venue_id(order.symbol, venue_id) is not None:
                continue
            stranger = await self._calls.query_venue_id(venue_id, order.symbol)
            if stranger is None:
                return False  # an execution nobody can name: no proof
            if stranger.client_id == order.client_id:
                await self.accept(order, stranger)
                return False
        return self._stream_whole(since) and await self._explained(order.symbol)

    def _report(self, order: Tracked, state: OrderState, code: str) -> None:
        self._tracker.report(
            OrderUpdate(
                client_id=order.client_id,
                symbol=order.symbol,
                state=state,
                venue_id=order.venue_id,
                filled=Decimal(0),
                code=code,
                source="query",
                ts_ns=self._clock.now_ns(),
            )
        )
