"""Comparing ledger and venue: orders, executions, balances. What was missing is passed on first, then the verdict.

Every execution of ours belongs to an order whose intent is in the ledger, so orders are settled first: those the
ledger holds open are looked up one by one (absence from a list proves nothing), and an order with fewer executions
than the venue states is completed by its id. Then the account's trades since the newest booked one are searched for
late executions and strangers, and balances are compared, exactly, on a snapshot that nothing disturbed.
"""

import asyncio
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Final, Protocol

import msgspec
import structlog

from daemon.domain.errors import ConfigError, Transient
from daemon.domain.events import Flow, Reconciled
from daemon.domain.orders import TERMINAL, Balance, OrderRecord, OrderState
from daemon.domain.ports import Emit
from daemon.edge.binance_account import VenueOrder, VenueTrade, totals
from daemon.edge.clock import Clock
from daemon.edge.ledger import SqlLedger
from daemon.edge.tracker import UNRESOLVED, Tracked, Tracker
from daemon.edge.venue_calls import VenueCalls

ZERO: Final = Decimal(0)
SNAPSHOTS_MAX: Final = 5
"""Attempts to find a moment in which nothing moved between the balances and the ledger."""
AGREEING: Final = 2
"""Snapshots in a row that must show the same difference before it is called a break."""
BETWEEN_S: Final = 0.4
FLUSH_S: Final = 5.0
EARLIER_NS: Final = 5_000_000_000
STRANGERS_MAX: Final = 1_000
"""Orders of others that are remembered by id."""

Break = tuple[str, Decimal, Decimal]


class Ownership(msgspec.Struct, frozen=True, kw_only=True):
    """Whose money it is: ``[portfolio]`` of the configuration, the quote and the universe's base assets."""

    quote: str
    bases: tuple[str, ...]
    capital: str = "all"
    adopt: str = "none"

    @property
    def watched(self) -> frozenset[str]:
        """Return the assets whose balances must agree to the last digit."""
        return frozenset({self.quote, *self.bases})


class Completing(Protocol):
    """What reconciliation needs of ``Evidence``."""

    async def look_up(self, order: Tracked, *, urgent: bool = False) -> bool:
        """Ask for one order and pass on what the venue shows; false when it shows none."""
        ...

    async def accept(self, order: Tracked, shown: VenueOrder) -> None:
        """Pass on what the venue shows of an order."""
        ...


def own_share(capital: str, cash: Decimal) -> Decimal:
    """Return how much of the quote cash on the account is ours at the first start.

    Parameters
    ----------
    capital
        "all", an amount, or a share such as "50%".
    cash
        What is there, in quote.

    Raises
    ------
    ConfigError
        ``capital`` is none of these.
    """
    if capital == "all":
        return cash
    text, share = (capital[:-1], True) if capital.endswith("%") else (capital, False)
    try:
        amount = Decimal(text.strip())
    except ArithmeticError:
        amount = Decimal(-1)
    if not amount.is_finite() or amount < 0 or (share and amount > 100):
        raise ConfigError(
            f'portfolio.capital: {capital!r} must be "all", an amount such as "25000" or a share such as "50%"'
        )
    return cash * amount / 100 if share else min(amount, cash)


def opening_flows(there: Mapping[str, Decimal], ownership: Ownership, *, ts_ns: int) -> tuple[Flow, ...]:
    """Return the opening balances of a first start: what is ours and what is external, asset by asset.

    ``there`` is what the account holds of each asset beyond what executions in the ledger account for.
    """
    flows: list[Flow] = []
    for asset, amount in sorted(there.items()):
        ours = ZERO
        if asset == ownership.quote:
            ours = own_share(ownership.capital, amount)
        elif ownership.adopt == "universe" and asset in ownership.bases:
            ours = amount
        for part, mine in ((ours, True), (amount - ours, False)):
            if part:
                flows.append(Flow(asset=asset, amount=part, ours=mine, detail="opening balance", ts_ns=ts_ns))
    return tuple(flows)


def differences(ledger: Mapping[str, Decimal], venue: Mapping[str, Decimal]) -> tuple[Break, ...]:
    """Return (asset, ledger, exchange) for every asset whose amounts differ, in the order of names."""
    return tuple(
        (asset, ledger.get(asset, ZERO), venue.get(asset, ZERO))
        for asset in sorted({*ledger, *venue})
        if ledger.get(asset, ZERO) != venue.get(asset, ZERO)
    )


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
        self._strangers: dict[tuple[str, str], None] = {}
        self._evidence: Completing | None = None
        self._chore: Callable[[Tracked], None] = lambda _order: None
        self._intruders: set[str] = set()
        self._opened = False
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
            balances, breaks = await self._compare()
            for asset, ours, theirs in breaks:
                self._log.error("reconcile.break", asset=asset, ledger=str(ours), exchange=str(theirs))
            for client_id in sorted(self._intruders):
                self._log.critical("reconcile.second_writer", client_id=client_id, prefix=self._prefix)
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

    def deposit(self, asset: str, amount: Decimal) -> None:
        """Book a deposit or withdrawal that the venue has told us of; quote is ours when all of it is.

        Before the books are opened it is part of what is there then.
        """
        if self._ledger.first_start and not self._opened:
            return
        self._emit(
            Flow(
                asset=asset,
                amount=amount,
                ours=asset == self._ownership.quote and self._ownership.capital == "all",
                detail="deposit" if amount > 0 else "withdrawal",
                ts_ns=self._clock.now_ns(),
            )
        )
        self._tracker.changes += 1

    # ------------------------------------------------------------------ orders

    async def _orders(self) -> int:
        """Settle our orders against the venue's; return how many open orders are not ours."""
        evidence = self._need_evidence()
        shown = await self._calls.open_orders()
        known = await self._ledger.find_orders(tuple(one.client_id for one in shown))
        external = 0
        listed: set[str] = set()
        for one in shown:
            order = self._tracker.find(one.client_id) or self._recall(known.get(one.client_id))
            if order is not None:
                listed.add(order.client_id)
                await evidence.accept(order, one)
            elif one.client_id.startswith(self._prefix):
                self._intruders.add(one.client_id)
            else:
                external += 1
        for order in self._tracker.live:
            # What is being sent right now answers for itself.
            if order.client_id in listed or order.state is OrderState.SENDING:
                continue
            found = await evidence.look_up(order)
            if (not found and order.state in UNRESOLVED) or (order.short and order.state in TERMINAL):
                self._chore(order)
        return external

    def _recall(self, record: OrderRecord | None) -> Tracked | None:
        if record is None:
            return None
        self._tracker.restore((record,))
        return self._tracker.find(record.intent.client_id)

    # ------------------------------------------------------------------ executions

    async def _trades(self, *, every: bool = False) -> None:
        """Pass on executions of ours that no order has led to, and notice those of others.

        Only symbols with anything of ours since the last look are searched (each costs a weight of 20), or ``every`` one.
        """
        if not self._searched:
            self._last = await self._ledger.last_trades()
        traded = await self._ledger.traded_symbols()
        wanted = {symbol for symbol in traded if every or symbol not in self._searched} | self._tracker.touched
        for symbol in sorted(wanted & set(traded)):
            self._tracker.touched.discard(symbol)
            try:
                await self._search(symbol, traded[symbol])
            except Transient:
                self._tracker.touched.add(symbol)
                raise
            self._searched.add(symbol)

    async def _search(self, symbol: str, first_ns: int) -> None:
        newest = self._last.get(symbol)
        if newest is None:
            trades = await self._calls.trades_since(symbol, first_ns - EARLIER_NS)
        else:
            trades = await self._calls.trades_from(symbol, newest + 1)
        fresh = [trade for trade in trades if not self._tracker.passed_on(symbol, str(trade.id))]
        if fresh:
            await self._sort(symbol, fresh)
        if trades:
            self._last[symbol] = trades[-1].id

    async def _sort(self, symbol: str, trades: list[VenueTrade]) -> None:
        await self._ledger.flush(FLUSH_S)
        booked = await self._ledger.known_trades(symbol, tuple(str(trade.id) for trade in trades))
        ids = tuple({str(trade.order_id) for trade in trades})
        known = await self._ledger.find_venue_ids(symbol, ids)
        for trade in trades:
            if str(trade.id) in booked:
                continue
            venue_id = str(trade.order_id)
            order = self._tracker.find_venue_id(symbol, venue_id) or self._recall(known.get(venue_id))
            if order is None:
                order = await self._name(symbol, venue_id)
            if order is not None:
                self._tracker.execution(trade.fill(symbol, order.client_id))

    async def _name(self, symbol: str, venue_id: str) -> Tracked | None:
        """Find out whose order an unknown id is: ours after all, a second writer's, or a stranger's."""
        evidence = self._need_evidence()
        if (symbol, venue_id) in self._strangers:
            return None
        shown = await self._calls.query_venue_id(venue_id, symbol)
        if shown is not None and shown.client_id.startswith(self._prefix):
            record = (await self._ledger.find_orders((shown.client_id,))).get(shown.client_id)
            order = self._tracker.find(shown.client_id) or self._recall(record)
            if order is not None:
                await evidence.accept(order, shown)
                return order
            self._intruders.add(shown.client_id)
        self._log.warning("reconcile.external_trade", symbol=symbol, venue_id=venue_id)
        self._strangers[symbol, venue_id] = None
        while len(self._strangers) > STRANGERS_MAX:
            del self._strangers[next(iter(self._strangers))]
        return None

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
        for flow in opening_flows(there, self._ownership, ts_ns=self._clock.now_ns()):
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
                await self._trades(every=bool(breaks))
            found = await self._snapshot()
            if found is None:
                continue
            balances, every = found
            breaks = self._watch(every)
            if not breaks:
                return balances, ()
            seen = max(seen, 0) + 1 if breaks == last else 1
            last = breaks
            if seen >= AGREEING:
                break
        if seen < 0:
            raise Transient("reconciliation: account and ledger did not hold still, or the ledger cannot be written")
        return balances, breaks

    def _watch(self, breaks: tuple[Break, ...]) -> tuple[Break, ...]:
        """Return the breaks that matter; what changed elsewhere on the account is booked as external."""
        for asset, ours, theirs in breaks:
            if asset not in self._ownership.watched:
                self._emit(
                    Flow(
                        asset=asset,
                        amount=theirs - ours,
                        ours=False,
                        detail="external change",
                        ts_ns=self._clock.now_ns(),
                    )
                )
        return tuple(one for one in breaks if one[0] in self._ownership.watched)

    def _need_evidence(self) -> Completing:
        if self._evidence is None:
            raise ConfigError("reconciliation was started before `use`")
        return self._evidence
