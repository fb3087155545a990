"""The live venue: approved orders leave through ccxt once, and everything that happens to them comes back as events.

News reaches the engine from three sides (the answer to the send, the user stream, queries by REST) and through one
door, the `Tracker`, which passes each execution and each state on once. What an answer proves is decided in
`daemon.edge.outcomes`; an order whose fate is unknown is looked for by `daemon.edge.evidence`, never sent again.
"""

import asyncio
import random
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, Final

import msgspec
import structlog

from daemon.domain.errors import Transient
from daemon.domain.events import Denied, Restored
from daemon.domain.market import Instrument
from daemon.domain.orders import TERMINAL, Approved, Fill, Intent, OrderState, OrderUpdate
from daemon.domain.ports import Emit
from daemon.edge import binance_account as account
from daemon.edge.bans import Bans
from daemon.edge.budget import ORDER_SHARE
from daemon.edge.clock import Clock
from daemon.edge.evidence import Evidence, EvidenceRules
from daemon.edge.inflight import InFlight
from daemon.edge.keywatch import KeyWatch
from daemon.edge.lane import Answer, Lane, OnRequest
from daemon.edge.latch import KillLatch
from daemon.edge.ledger import SqlLedger
from daemon.edge.outcomes import Act, Outcome, error_code
from daemon.edge.ownership import Ownership
from daemon.edge.reconcile import Reconciler
from daemon.edge.rejects import judge
from daemon.edge.tracker import UNRESOLVED, Tracked, Tracker
from daemon.edge.turns import Turns
from daemon.edge.venue_calls import VenueCalls

CANCEL_ATTEMPTS: Final = 4
CANCEL_TIMEOUT_MS: Final = 2_000
"""A cancel without answer is repeated soon; that is harmless."""
CANCEL_ROUNDS: Final = 6
"""How often `cancel_all` lists what is left and cancels it again."""
CANCELS_AT_ONCE: Final = 10
RETRY_S: Final = 0.3
CHORES_MAX: Final = 10_000
"""Orders waiting to be completed; far above any number of live orders."""
CATCH_UP_S_MAX: Final = 8.0


class LiveConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the live venue needs to know besides its parts.

    ``prefix`` begins every client id of this instance; ``secrets`` never appear in a log; ``on_request`` is told
    (endpoint, outcome, weight used in this minute) after every request; ``bans`` are the pauses that outlive the process.
    """

    prefix: str
    ownership: Ownership
    evidence: EvidenceRules = EvidenceRules()
    secrets: tuple[str, ...] = ()
    on_request: OnRequest | None = None
    bans: Bans | None = None


class LiveVenue:
    """Orders on a real exchange; implements ``daemon.domain.ports.Venue``.

    Parameters
    ----------
    exchange_factory
        Makes a ccxt exchange; called three times, for orders, cancels and reads.
    emit
        Hands events to the engine.
    clock, latch, ledger
        Time, the kill latch and the ledger.
    instruments
        The universe by symbol.
    config
        The rest.
    """

    def __init__(
        self,
        exchange_factory: Callable[[], Any],
        *,
        emit: Emit,
        clock: Clock,
        latch: KillLatch,
        ledger: SqlLedger,
        instruments: dict[str, Instrument],
        config: LiveConfig,
    ) -> None:
        self._emit = emit
        self._clock = clock
        self._latch = latch
        self._log = structlog.get_logger("ballast")
        self._config = config
        self.quota = KeyWatch(clock, emit, config.bans)
        lanes = [
            Lane(exchange_factory(), quota=self.quota, secrets=config.secrets, on_request=config.on_request)
            for _ in range(3)
        ]
        self.quota.venue = lanes[0].exchange.id
        self.calls = VenueCalls(send=lanes[0], cancel=lanes[1], read=lanes[2], instruments=instruments)
        # Cancels are few and must not queue; the venue's own answers still hold them back.
        cancels = self.calls.cancel_lane.exchange
        cancels.enableRateLimit = False
        cancels.timeout = min(cancels.timeout, CANCEL_TIMEOUT_MS)
        self.turns = self.calls.send_lane.turns = Turns()
        self.tracker = Tracker(emit)
        self.on_sent: Callable[[str, int], None] = _nobody
        """Told client id and time (ns UTC) immediately before an order's first byte is written."""
        self._stream_since_ns = 0
        self._closed = False
        self._waiting: dict[str, Tracked] = {}
        """Orders that are being sent and whose first byte has not left yet."""
        self._chores: asyncio.Queue[Tracked] = asyncio.Queue(CHORES_MAX)
        self._pending: set[str] = set()
        self.reconciler = Reconciler(
            self.calls,
            tracker=self.tracker,
            ledger=ledger,
            emit=emit,
            clock=clock,
            ownership=config.ownership,
            prefix=config.prefix,
        )
        self.evidence = Evidence(
            self.calls,
            tracker=self.tracker,
            ledger=ledger,
            clock=clock,
            rules=config.evidence,
            explained=self.reconciler.explained,
            stream_whole=self._stream_whole,
        )
        self.reconciler.use(self.evidence, self._chore)
        self.in_flight = InFlight(
            self.calls, tracker=self.tracker, evidence=self.evidence, clock=clock, sync_clock=self._sync_clock
        )

    # ------------------------------------------------------------------ life

    async def start(self, restored: Restored, markets_of: Any) -> None:
        """Open the lanes, take over the universe's markets from another ccxt exchange and the ledger's open orders.

        Raises
        ------
        Transient
            The venue's clock could not be measured.
        """
        for lane in self.calls.lanes:
            lane.open()
        self.set_markets(markets_of)
        self.tracker.restore(restored.orders)
        await self.calls.sync_clock()

    def set_markets(self, markets_of: Any) -> None:
        """Take over refreshed markets: ccxt writes amounts and prices in the steps of the markets it knows."""
        for lane in self.calls.lanes:
            lane.exchange.set_markets_from_exchange(markets_of)

    async def run(self) -> None:
        """Do for ever what news has left to do: missing executions, lost reports, orders of an earlier session."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.in_flight.run(), name="orders without news")
            group.create_task(self.reconciler.follow(self.reconcile), name="differences in doubt")
            group.create_task(self.reconciler.outsiders.run(), name="deposits and withdrawals")
            while True:
                order = await self._chores.get()
                group.create_task(self._finish(order), name=f"finish {order.client_id}")

    async def close(self) -> None:
        """Let nothing more leave, say of every order that has not that it never will (F44), and release sockets."""
        self._closed = True
        for order in tuple(self._waiting.values()):
            self._denied(order, "not_sent: the daemon stops")
        await self.calls.close()

    # ------------------------------------------------------------------ sending

    async def send(self, approved: Approved) -> None:
        """Send one approved order once; news comes back as events, never as an exception."""
        intent = approved.intent
        order = self._waiting[intent.client_id] = self.tracker.add(intent)
        answer = await self.calls.place(intent, lambda: self._forbids(intent))
        if answer.refused or not answer.left:
            self._denied(order, answer.refused or f"not_sent: {answer.error}")
            return
        outcome = judge(self.calls.send_lane.exchange.id, answer.reply, client_id=intent.client_id)
        if outcome.state is OrderState.UNKNOWN:
            self._log.warning("orders.unknown", client_id=intent.client_id, code=outcome.code, error=answer.error)
        self._book_answer(intent, answer, outcome)
        if order.short and order.state in TERMINAL:
            self._chore(order)
        await self._follow(outcome)

    def _forbids(self, intent: Intent) -> str:
        """Return why an order must not leave in this instant, "" when it may: then it does."""
        if self._latch.is_set():
            return "killed"
        if self._closed:
            return "stopping"
        now_ns = self._clock.now_ns()
        if now_ns > intent.expires_ns:
            return "too_old"
        if self.quota.wait_s > 0 or (not intent.exit and self.quota.budget.wait_s(ORDER_SHARE) > 0):
            return "backing_off"
        self._waiting.pop(intent.client_id, None)
        self.on_sent(intent.client_id, now_ns)
        return ""

    def _book_answer(self, intent: Intent, answer: Answer, outcome: Outcome) -> None:
        if outcome.state not in UNRESOLVED | {OrderState.REJECTED, OrderState.DENIED}:
            fills = account.read_pieces(
                answer.reply, symbol=intent.symbol, client_id=intent.client_id, side=intent.side
            )
            for fill in fills:
                self.tracker.execution(fill)
        self.tracker.report(
            OrderUpdate(
                client_id=intent.client_id,
                symbol=intent.symbol,
                state=outcome.state,
                venue_id=outcome.venue_id,
                filled=outcome.filled,
                code=outcome.code,
                source="send",
                ts_ns=self._clock.now_ns(),
            )
        )

    async def _follow(self, outcome: Outcome) -> None:
        if outcome.act is Act.RESYNC:
            await self._sync_clock()
        elif outcome.act is Act.STOP:
            self._log.critical("orders.key_refused", code=outcome.code, detail=outcome.detail)
        elif outcome.act is Act.BACK_OFF:
            self.quota.pause(outcome.retry_after_s)

    async def _sync_clock(self) -> None:
        try:
            await self.calls.sync_clock()
        except Transient as error:
            self._log.warning("orders.clock_not_measured", error=str(error))

    def _denied(self, order: Tracked, detail: str) -> None:
        if self._waiting.pop(order.client_id, None) is None:
            return  # said already
        order.state = OrderState.DENIED
        self.tracker.forget(order)
        self._log.warning("orders.denied", client_id=order.client_id, detail=detail)
        self._emit(Denied(client_ids=(order.client_id,), detail=detail, ts_ns=self._clock.now_ns()))

    # ------------------------------------------------------------------ cancelling

    async def cancel(self, client_id: str, symbol: str) -> None:
        """Cancel one order; "unknown order" means query, not gone."""
        for attempt in range(CANCEL_ATTEMPTS):
            if attempt:
                await asyncio.sleep(random.uniform(RETRY_S / 2, RETRY_S * 2**attempt))
            answer = await self.calls.cancel(client_id, symbol)
            order = self.tracker.find(client_id)
            try:
                if answer.reply.status == 200:
                    shown = account.read_order(answer.reply)
                elif error_code(answer.reply) == account.CANCEL_REJECTED:
                    shown = await self.calls.query(client_id, symbol, urgent=True)
                else:
                    self._log.warning("orders.cancel_failed", client_id=client_id, error=answer.error)
                    continue
                if order is not None and shown is not None:
                    await self.evidence.accept(order, shown)
                return
            except Transient as error:
                self._log.warning("orders.cancel_unclear", client_id=client_id, error=str(error))
        self._log.error("orders.cancel_given_up", client_id=client_id, symbol=symbol, attempts=CANCEL_ATTEMPTS)

    async def cancel_all(self) -> int:
        """Cancel every open order of ours and return how many the venue still shows (-1: it does not say)."""
        known = [(order.client_id, order.symbol) for order in self.tracker.live if order.state not in TERMINAL]
        await self._cancel_these(known)
        left = -1
        for attempt in range(CANCEL_ROUNDS):
            if attempt:
                await asyncio.sleep(random.uniform(RETRY_S / 2, RETRY_S * 2))
            try:
                shown = await self.calls.open_orders(urgent=True)
            except Transient as error:
                self._log.warning("orders.cancel_all_blind", error=str(error))
                continue
            ours = [
                (one.client_id, self.calls.symbol_of(one.symbol) or one.symbol)
                for one in shown
                if one.client_id.startswith(self._config.prefix)
            ]
            left = len(ours)
            if not ours:
                return 0
            await self._cancel_these(ours)
        return left

    async def _cancel_these(self, orders: Iterable[tuple[str, str]]) -> None:
        gate = asyncio.Semaphore(CANCELS_AT_ONCE)

        async def one(client_id: str, symbol: str) -> None:
            async with gate:
                await self.cancel(client_id, symbol)

        async with asyncio.TaskGroup() as group:
            for client_id, symbol in orders:
                group.create_task(one(client_id, symbol))

    # ------------------------------------------------------------------ finding out

    async def resolve(self, client_id: str, symbol: str, sent_ns: int) -> None:
        """Query until the order is found or proven absent; report as events."""
        await self.evidence.resolve(client_id, symbol, sent_ns)

    async def reconcile(self) -> None:
        """Compare orders, fills and balances with the ledger; emit what was missing, then one ``Reconciled``.

        Raises Transient when the venue gives no usable answer.
        """
        try:
            await self.reconciler.run()
        except Transient:
            # A clock that has drifted refuses every signed request: measure it before the next attempt.
            await self._sync_clock()
            raise

    def on_update(self, news: OrderUpdate) -> None:
        """Take news from the user stream."""
        self.tracker.report(news)
        order = self.tracker.find(news.client_id)
        if order is None:
            self.reconciler.noticed(news.symbol)
        elif order.short and order.state in TERMINAL:
            self._chore(order)

    def on_fill(self, fill: Fill) -> None:
        """Take an execution from the user stream."""
        if self.tracker.find(fill.client_id) is not None:
            self.tracker.execution(fill)
        else:
            self.reconciler.noticed(fill.symbol)

    def on_deposit(self, asset: str, amount: Decimal) -> None:
        """Take from the user stream what came or went without a trade (signed): a flow, not a break."""
        self.reconciler.deposit(asset, amount)

    def on_gap(self) -> None:
        """Note that the user stream is down: what happens now must be fetched."""
        self._stream_since_ns = 0

    async def catch_up(self) -> None:
        """Close by REST what the user stream missed; repeats until it succeeds. Called after every (re)subscription."""
        wait_s = RETRY_S
        since = self._clock.now_ns()
        while not self._closed:
            try:
                await self.reconciler.catch_up()
            except Transient as error:
                self._log.warning("orders.catch_up_failed", error=str(error), retry_s=wait_s)
                await asyncio.sleep(random.uniform(wait_s / 2, wait_s))
                wait_s = min(wait_s * 2, CATCH_UP_S_MAX)
                continue
            self._stream_since_ns = since
            return

    def _stream_whole(self, _since_ns: int) -> bool:
        return self._stream_since_ns > 0

    # ------------------------------------------------------------------ chores

    def _chore(self, order: Tracked) -> None:
        if order.client_id not in self._pending:
            self._pending.add(order.client_id)
            self._chores.put_nowait(order)

    async def _finish(self, order: Tracked) -> None:
        try:
            if order.state in UNRESOLVED:
                await self.evidence.resolve(order.client_id, order.symbol, order.sent_ns)
            await self.evidence.complete(order)
        finally:
            self._pending.discard(order.client_id)


def _nobody(client_id: str, ts_ns: int) -> None:
    """Tell nobody."""
