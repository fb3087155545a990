"""Comparing ledger and venue: orders, executions, balances. What was missing is passed on first, then the verdict.

Every execution of ours belongs to an order whose intent is in the ledger, so orders are settled first: those the
ledger holds open are looked up one by one (absence from a list proves nothing), and an order with fewer executions
than the venue states is completed by its id. Then the account's trades since the newest booked one are searched for
late executions and strangers, and balances are compared, exactly, on a snapshot that nothing disturbed. What others
did is explained by `daemon.edge.outsiders`; while anything is left unexplained the comparison is soon repeated.
"""

import asyncio
import enum
from collections.abc import Awaitable, Callable, Iterable
from decimal import Decimal
from typing import Final, Protocol

import structlog

from daemon.domain.errors import ConfigError, Transient
from daemon.domain.events import Fault, Reconciled
from daemon.domain.orders import TERMINAL, Balance, OrderRecord, OrderState
from daemon.domain.ports import Emit
from daemon.edge.binance_account import VenueOrder, VenueTrade, totals
from daemon.edge.clock import Clock
from daemon.edge.ledger import SqlLedger
from daemon.edge.outsiders import Outsiders
from daemon.edge.ownership import Break, Ownership, differences, guesses, opening_flows
from daemon.edge.tracker import UNRESOLVED, Tracked, Tracker
from daemon.edge.transfers import transfers
from daemon.edge.venue_calls import PAGE, NoMarketError, VenueCalls

ZERO: Final = Decimal(0)
SNAPSHOTS_MAX: Final = 5
"""Attempts to find a moment in which nothing moved between the balances and the ledger."""
AGREEING: Final = 2
"""Snapshots in a row that must show the same difference before it is called a break."""
BETWEEN_S: Final = 0.4
FLUSH_S: Final = 5.0
NS_PER_MS: Final = 1_000_000
EARLIER_NS: Final = 5_000_000_000
STRANGERS_MAX: Final = 1_000
"""Orders of others that are remembered by id."""
FOLLOW_S: Final = 5.0
"""Pause before a comparison that left something unexplained is repeated; it grows to ``FOLLOW_S_MAX``."""
FOLLOW_S_MAX: Final = 30.0


class Whose(enum.Enum):
    """Whose an order that no client id has led to turns out to be."""

    OURS = "ours"
    STRANGER = "stranger"
    SECOND_WRITER = "second_writer"
    OPEN = "open"  # the venue does not name it (yet): no evidence


class Completing(Protocol):
    """What reconciliation needs of ``Evidence``."""

    async def look_up(self, order: Tracked, *, urgent: bool = False) -> bool:
        """Ask for one order and pass on what the venue shows; false when it shows none."""
        ...

    async def accept(self, order: Tracked, shown: VenueOrder) -> None:
        """Pass on what the venue shows of an order."""
        ...


class Reconciler:
    """Compares, and passes on what was missing.

    Parameters
    ----------
    prefix
        Begins every client id of this instance: an unknown order that carries it means a second writer.
    """

    def __init__(
        self,
        calls: VenueCalls,
        *,
        tracker: Tracker,
        ledger: SqlLedger,
        emit: Emit,
        clock: Clock,
        ownership: Ownership,
        prefix: str,
    ) -> None:
        self._calls = calls
        self._tracker = tracker
        self._ledger = ledger
        self._emit = emit
        self._clock = clock
        self._ownership = ownership
        self._prefix = prefix
        self._busy = asyncio.Lock()
        self._last: dict[str, int] = {}
        self._searched: set[str] = set()
        self._no_market: set[str] = set()
        self._strangers: dict[tuple[str, str], Whose] = {}
        self._evidence: Completing | None = None
        self._chore: Callable[[Tracked], None] = lambda _order: None
        self._intruders: set[str] = set()
        self._ours = {f"{base}/{ownership.quote}" for base in ownership.bases}
        self._opened = False
        self._doubt = asyncio.Event()
        self.outsiders = Outsiders(
            tracker=tracker,
            ledger=ledger,
            emit=emit,
            clock=clock,
            quote=ownership.quote,
            all_ours=ownership.capital == "all",
            transfers=lambda: transfers(calls.read_lane, clock.now_ns() // NS_PER_MS),
        )
        self._log = structlog.get_logger("ballast")

    def use(self, evidence: Completing, chore: Callable[[Tracked], None]) -> None:
        """Name who looks orders up, and who goes on looking for those that were not found."""
        self._evidence = evidence
        self._chore = chore

    # ------------------------------------------------------------------ the two jobs

    async def catch_up(self) -> None:
        """Pass on the orders' states and executions that were missed. Raises Transient."""
        async with self._busy:
            await self._orders()
            await self._trades(every=True)

    async def run(self) -> None:
        """Pass on what was missing, then emit one ``Reconciled``. Raises Transient when the venue does not answer."""
        async with self._busy:
            external = await self._orders()
            await self._trades()
            await self._open_books()
            balances, found = await self._compare()
            if await self.outsiders.explain(found):
                balances, found = await self._compare()
            if found:
                self._doubt.set()
            breaks = tuple(one for one in found if one[0] in self._ownership.watched)
            for asset, ours, theirs in breaks:
                self._log.error("reconcile.break", asset=asset, ledger=str(ours), exchange=str(theirs))
            for client_id in sorted(self._intruders):
                self._log.critical("reconcile.second_writer", client_id=client_id, prefix=self._prefix)
            if breaks and self._intruders:  # without breaks the verdict below says it by itself
                detail = f"{len(self._intruders)} orders carry our prefix and are not in the ledger"
                self._emit(Fault("second writer", detail, self._clock.now_ns()))
            self._emit(
                Reconciled(
                    ok=not breaks and not self._intruders,
                    balances=balances,
                    breaks=breaks,
                    external_orders=external,
                    ts_ns=self._clock.now_ns(),
                )
            )

    async def explained(self, symbol: str) -> bool:
        """Say whether the balances of a symbol's assets equal the ledger's. Raises Transient."""
        assets = set(symbol.split("/"))
        found = await self._snapshot()
        return found is not None and not any(asset in assets for asset, _, _ in found[1])

    async def follow(self, run: Callable[[], Awaitable[None]]) -> None:
        """Compare again soon, for ever, whenever something is in doubt; ``run`` is the whole comparison."""
        pause_s = FOLLOW_S
        while True:
            await self._doubt.wait()
            await asyncio.sleep(pause_s)
            self._doubt.clear()
            try:
                await run()
            except Transient as error:
                self._log.warning("reconcile.follow_failed", error=str(error))
                self._doubt.set()
            pause_s = min(pause_s * 1.5, FOLLOW_S_MAX) if self._doubt.is_set() else FOLLOW_S

    def noticed(self, symbol: str) -> None:
        """Look soon: the user stream tells of an order that this session does not know, ours of long ago or a stranger's."""
        self._tracker.touched.add(symbol)
        self._doubt.set()

    def deposit(self, asset: str, amount: Decimal) -> None:
        """Take a deposit or withdrawal (signed) that the venue has told us of.

        Before the books are opened it is part of what is there then.
        """
        if not self._ledger.first_start or self._opened:
            self.outsiders.arrived(asset, amount)

    # ------------------------------------------------------------------ orders

    async def _orders(self) -> int:
        """Settle our orders against the venue's; return how many open orders are not ours."""
        evidence = self._need_evidence()
        shown = await self._calls.open_orders()
        known = await self._ledger.find_orders(tuple(one.client_id for one in shown))
        strangers: list[VenueOrder] = []
        listed: set[str] = set()
        for one in shown:
            order = self._tracker.find(one.client_id) or self._recall(known.get(one.client_id))
            if order is not None:
                listed.add(order.client_id)
                await evidence.accept(order, one)
            elif one.client_id.startswith(self._prefix):
                self._intruders.add(one.client_id)
            else:
                strangers.append(one)
        for order in self._tracker.live:
            # What is being sent right now answers for itself.
            if order.client_id in listed or order.state is OrderState.SENDING:
                continue
            try:
                found = await evidence.look_up(order)
            except NoMarketError:
                found = False  # nothing can be learnt here; the others must be compared all the same
            if (not found and order.state in UNRESOLVED) or (order.short and order.state in TERMINAL):
                self._chore(order)
        return self.outsiders.show(strangers, self._calls.symbol_of)

    def _recall(self, record: OrderRecord | None) -> Tracked | None:
        if record is None:
            return None
        self._tracker.restore((record,))
        return self._tracker.find(record.intent.client_id)

    # ------------------------------------------------------------------ executions

    async def _trades(self, *, every: bool = False, also: Iterable[str] = ()) -> None:
        """Pass on executions of ours that no order has led to, and book those of others.

        Only symbols with anything new since the last look are searched (each costs a weight of 20), or ``every`` one of
        ours, and those in ``also``.
        """
        if not self._searched:
            self._last = await self._ledger.last_trades()
            self._look_back()
        traded = await self._ledger.traded_symbols()
        opened_ns = await self.outsiders.opened()
        wanted = {symbol for symbol in traded if every or symbol not in self._searched} | self._tracker.touched
        for symbol in sorted({*wanted, *also}):
            # From the opening on, not from our first order: a stranger may have traded the symbol before we did.
            first_ns = min(filter(None, (traded.get(symbol, 0), opened_ns)), default=0)
            if not first_ns:
                continue  # nothing of ours, and no books yet that a stranger could change
            self._tracker.touched.discard(symbol)
            try:
                await self._search(symbol, first_ns, opened_ns)
            except NoMarketError:
                self._no_market.add(symbol)  # a guess, or gone since we traded it: balances say whether all is well
            except Transient:
                if symbol not in self._ours and symbol not in traded:
                    continue  # a guess
                self._tracker.touched.add(symbol)
                raise
            self._searched.add(symbol)

    def _look_back(self) -> None:
        """Search the newest page again: a stranger's trade may lie before the last one of ours that was booked."""
        self._last = {symbol: max(newest - PAGE, -1) for symbol, newest in self._last.items()}

    async def _search(self, symbol: str, first_ns: int, opened_ns: int) -> None:
        newest = self._last.get(symbol)
        if newest is None:
            trades = await self._calls.trades_since(symbol, first_ns - EARLIER_NS)
        else:
            trades = await self._calls.trades_from(symbol, newest + 1)
        fresh = [trade for trade in trades if not self._tracker.passed_on(symbol, str(trade.id))]
        open_ids = await self._sort(symbol, fresh, opened_ns // NS_PER_MS) if fresh else []
        if open_ids:
            self._tracker.touched.add(symbol)
            self._last[symbol] = open_ids[0] - 1
            self._doubt.set()
        elif trades:
            self._last[symbol] = trades[-1].id

    async def _sort(self, symbol: str, trades: list[VenueTrade], opened_ms: int) -> list[int]:
        """Pass on what is ours, book what is a stranger's, and return the ids of what the venue does not name yet.

        What no order of these books explains and happened before they were opened is part of the opening balances.
        """
        await self._ledger.flush(FLUSH_S)
        booked = await self._ledger.known_trades(symbol, tuple(str(trade.id) for trade in trades))
        ids = tuple({str(trade.order_id) for trade in trades})
        known = await self._ledger.find_venue_ids(symbol, ids)
        others: list[VenueTrade] = []
        unnamed: list[int] = []
        for trade in trades:
            if str(trade.id) in booked:
                continue
            venue_id = str(trade.order_id)
            order = self._tracker.find_venue_id(symbol, venue_id) or self._recall(known.get(venue_id))
            whose = Whose.OURS
            if order is None and trade.time < opened_ms:
                continue
            if order is None:
                order, whose = await self._name(symbol, venue_id)
            if order is not None:
                self._tracker.execution(trade.fill(symbol, order.client_id))
            elif whose is Whose.STRANGER:
                others.append(trade)
            elif whose is Whose.OPEN:
                unnamed.append(trade.id)
        await self.outsiders.traded(symbol, others)
        return unnamed

    async def _name(self, symbol: str, venue_id: str) -> tuple[Tracked | None, Whose]:
        """Find out whose order an unknown id is: ours after all, a second writer's, or a stranger's."""
        evidence = self._need_evidence()
        known = self._strangers.get((symbol, venue_id))
        if known is not None:
            return None, known
        shown = await self._calls.query_venue_id(venue_id, symbol)
        if shown is None:
            return None, Whose.OPEN
        whose = Whose.STRANGER
        if shown.client_id.startswith(self._prefix):
            record = (await self._ledger.find_orders((shown.client_id,))).get(shown.client_id)
            order = self._tracker.find(shown.client_id) or self._recall(record)
            if order is not None:
                await evidence.accept(order, shown)
                return order, Whose.OURS
            self._intruders.add(shown.client_id)
            whose = Whose.SECOND_WRITER
        self._strangers[symbol, venue_id] = whose
        while len(self._strangers) > STRANGERS_MAX:
            del self._strangers[next(iter(self._strangers))]
        return None, whose

    # ------------------------------------------------------------------ balances

    async def _open_books(self) -> None:
        """At a first start, book what is there as opening balances."""
        if not self._ledger.first_start or self._opened:
            return
        for _ in range(SNAPSHOTS_MAX):
            found = await self._snapshot()
            if found is not None:
                break
        else:
            raise Transient("opening balances: the account did not hold still")
        there = {asset: theirs - booked for asset, booked, theirs in found[1]}
        books = await self._ledger.books()
        external = books.total.get(books.quote, ZERO) - books.cash
        for flow in opening_flows(there, self._ownership, ts_ns=self._clock.now_ns(), external=external):
            self._emit(flow)
        self._opened = True

    async def _snapshot(self) -> tuple[tuple[Balance, ...], tuple[Break, ...]] | None:
        """Return balances and differences of one undisturbed moment, None when something moved meanwhile."""
        before = self._tracker.changes
        balances = await self._calls.balances()
        if not await self._ledger.flush(FLUSH_S):
            return None
        books = await self._ledger.books()
        if self._tracker.changes != before:
            return None
        return balances, differences(books.total, totals(balances))

    async def _compare(self) -> tuple[tuple[Balance, ...], tuple[Break, ...]]:
        """Compare until nothing moved; a difference must show twice in a row."""
        last: tuple[Break, ...] | None = None
        seen = -1
        balances: tuple[Balance, ...] = ()
        breaks: tuple[Break, ...] = ()
        for attempt in range(SNAPSHOTS_MAX):
            if attempt:
                await asyncio.sleep(BETWEEN_S)
                await self._orders()
                if breaks:
                    self._look_back()
                await self._trades(every=bool(breaks), also=self._markets(breaks))
            found = await self._snapshot()
            if found is None:
                continue
            balances, breaks = found
            if not breaks:
                return balances, ()
            seen = max(seen, 0) + 1 if breaks == last else 1
            last = breaks
            if seen >= AGREEING:
                break
        if seen < 0:
            raise Transient("reconciliation: account and ledger did not hold still, or the ledger cannot be written")
        return balances, breaks

    def _markets(self, breaks: tuple[Break, ...]) -> list[str]:
        """Return the markets in which trading could have changed these assets, but for those that do not exist."""
        possible = guesses((asset for asset, _, _ in breaks), self._ownership.quote)
        return [symbol for symbol in possible if symbol not in self._no_market]

    def _need_evidence(self) -> Completing:
        if self._evidence is None:
            raise ConfigError("reconciliation was started before `use`")
        return self._evidence
