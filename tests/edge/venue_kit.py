"""A live venue on a simulated exchange, wired as the application wires it, with an engine that only takes notes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec

from daemon.domain.events import Booked, Denied, Event, Flow, Link, Reconciled, Recorded, Restored, Submit
from daemon.domain.market import Instrument
from daemon.domain.orders import Approved, Cause, Fill, Intent, OrderUpdate, Side, Tif
from daemon.edge.bans import Bans, ban_files
from daemon.edge.clock import Clock
from daemon.edge.evidence import EvidenceRules
from daemon.edge.lane import tls_context
from daemon.edge.latch import KillLatch
from daemon.edge.ledger import LedgerConfig, SqlLedger
from daemon.edge.orders import LiveConfig, LiveVenue
from daemon.edge.ownership import Ownership
from daemon.edge.rest import make_exchange
from daemon.edge.userstream import Sinks, UserStream
from daemon.exchange.config import SimConfig
from daemon.exchange.faults import FaultRule
from daemon.exchange.server import SimulatedExchange
from daemon.wire.binance_rest import instrument

PREFIX = "btest"
S_NS = 1_000_000_000
CLOCK = Clock()
KEY, SECRET = "sim-key", "sim-secret"
PATIENCE_MS = 10_000
"""Commits may take longer than in the daemon: the machine may be crowded, and that is not what is tested."""


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Poll a condition until it holds or the deadline passes."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


@dataclass
class Rig:
    """Everything a test of the order path touches. ``events`` is what the engine would have got."""

    sim: SimulatedExchange
    ledger: SqlLedger
    venue: LiveVenue
    latch: KillLatch
    instruments: dict[str, Instrument]
    restored: Restored
    stream: UserStream | None = None
    events: list[Event] = field(default_factory=list)
    numbers: int = 0

    def take(self, event: Event) -> None:
        """Note an event and record what the engine would have the ledger record."""
        self.events.append(event)
        if isinstance(event, Fill):
            self.ledger.record(Booked(fill=event, flow=None))
        elif isinstance(event, Flow):
            self.ledger.record(Booked(fill=None, flow=event))
        elif isinstance(event, OrderUpdate):
            self.ledger.record(Recorded(update=event))

    def of(self, kind: type[Any]) -> list[Any]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def states(self, client_id: str) -> list[str]:
        """Return the states an order went through."""
        return [news.state.value for news in self.of(OrderUpdate) if news.client_id == client_id]

    def fills(self, client_id: str) -> Decimal:
        """Return the quantity passed on as executions of an order."""
        return sum((fill.qty for fill in self.of(Fill) if fill.client_id == client_id), Decimal(0))

    def intent(self, symbol: str = "BTC/USDT", **changes: Any) -> Intent:
        """Return a small order that crosses the spread far enough to fill."""
        self.numbers += 1
        rules = self.instruments[symbol]
        price = Decimal(repr(price_of(self.sim, symbol)))
        side = changes.get("side", Side.BUY)
        factor = Decimal("1.01") if side is Side.BUY else Decimal("0.99")
        limit = (price * factor // rules.tick) * rules.tick
        qty = (Decimal(changes.pop("notional", 100)) / price // rules.step) * rules.step
        now = CLOCK.now_ns()
        intent = Intent(
            client_id=f"{PREFIX}{now % 10**14:014d}{self.numbers:03d}",
            decision=f"d{now}-{self.numbers}",
            leg=0,
            symbol=symbol,
            side=side,
            qty=qty,
            limit=limit,
            tif=Tif.IOC,
            cause=Cause.REBALANCE,
            exit=False,
            reference=price,
            ts_ns=now,
            expires_ns=now + 2 * S_NS,
        )
        return msgspec.structs.replace(intent, **changes)

    def resting(self, symbol: str = "BTC/USDT", **changes: Any) -> Intent:
        """Return an order that rests 3 % below the market."""
        rules = self.instruments[symbol]
        price = Decimal(repr(price_of(self.sim, symbol)))
        limit = (price * Decimal("0.97") // rules.tick) * rules.tick
        return self.intent(symbol, limit=limit, tif=Tif.GTC, **changes)

    async def submit(self, intent: Intent) -> None:
        """Make an intent durable and send it, as the application does."""
        approved = Approved(intent=intent, ts_ns=intent.ts_ns)
        submit = Submit(decision=intent.decision, approved=(approved,), refused=(), record_json="{}")
        with patch("daemon.edge.ledger.COMMIT_MS_MAX", PATIENCE_MS):
            assert await self.ledger.commit(submit)
        await self.venue.send(approved)

    def fault(self, match: str, action: str, **more: Any) -> int:
        """Script a fault."""
        return self.sim.faults.add(msgspec.convert({"match": match, "action": action, **more}, FaultRule))

    def requests(self, method: str, path: str) -> int:
        """Count requests the exchange has seen."""
        return sum(seen.method == method and seen.path == path for seen in self.sim.requests)

    def orders_of(self, client_id: str) -> list[Any]:
        """Return the exchange's orders under a client id."""
        return [order for order in self.sim.books.orders if order.client_id == client_id]

    def verdict(self) -> Reconciled:
        """Return the last reconciliation."""
        found: Reconciled = self.of(Reconciled)[-1]
        return found

    def denied(self) -> list[str]:
        """Return the reasons of orders that were not sent."""
        return [event.detail for event in self.of(Denied)]

    def links(self) -> list[bool]:
        """Return ups and downs of the user stream."""
        return [event.up for event in self.of(Link)]


def price_of(sim: SimulatedExchange, symbol: str) -> float:
    """Return the best ask of a simulated market."""
    index = sim.venue.symbol({"symbol": symbol.replace("/", "")})
    return float(sim.venue.ladder.levels(index, asks=True, depth=1)[0][0])


@asynccontextmanager
async def rig(
    tmp_path: Path,
    *,
    sim: SimulatedExchange | None = None,
    config: SimConfig | None = None,
    rules: EvidenceRules | None = None,
    stream: bool = False,
    ownership: dict[str, Any] | None = None,
    timeout_ms: int = 600,
    limited: bool = False,
    on_request: Callable[[str, str, int], None] | None = None,
) -> AsyncIterator[Rig]:
    """Start a venue (and an exchange unless one is given); stop both at the end.

    ccxt's rate limiter is off unless ``limited``: the simulated exchange is near and has limits of its own.
    """
    own = sim is None
    sim = sim or SimulatedExchange(config or SimConfig(history_bars=120, symbols=3))
    if own:
        await sim.start()
    base = f"http://127.0.0.1:{sim.port}"

    def factory() -> Any:
        exchange = make_exchange("binance", rest_url=base, api_key=KEY, api_secret=SECRET, limited=limited)
        exchange.timeout = timeout_ms
        return exchange

    markets = factory()
    markets.ssl_context = tls_context()
    markets.timeout_on_exit = 0
    entries = (await markets.public_get_exchangeinfo())["symbols"]
    rules_of = [instrument(entry) for entry in entries]
    instruments = {one.symbol: one for one in rules_of if isinstance(one, Instrument)}
    markets.options["crossMarginPairsData"] = markets.options["isolatedMarginPairsData"] = []
    markets.set_markets([markets.parse_market(entry) for entry in entries])
    ledger = SqlLedger(
        LedgerConfig(
            folder=tmp_path / "live",
            instance="test",
            mode="live",
            venue="binance",
            quote="USDT",
            account="k",
            lock_folder=tmp_path,
        ),
        clock=CLOCK,
    )
    restored = await ledger.open()
    latch = KillLatch(tmp_path)
    bases = tuple(symbol.partition("/")[0] for symbol in instruments)
    holder: list[Rig] = []

    def emit(event: Event) -> None:
        holder[0].take(event)

    venue = LiveVenue(
        factory,
        emit=emit,
        clock=CLOCK,
        latch=latch,
        ledger=ledger,
        instruments=instruments,
        config=LiveConfig(
            prefix=PREFIX,
            ownership=Ownership(quote="USDT", bases=bases, **(ownership or {})),
            evidence=rules or EvidenceRules(misses=3, over_s=0.8, first_wait_s=0.1, last_wait_s=0.4),
            secrets=(KEY, SECRET),
            on_request=on_request,
            bans=Bans(ban_files(tmp_path, "binance", base), CLOCK),
        ),
    )
    one = Rig(sim=sim, ledger=ledger, venue=venue, latch=latch, instruments=instruments, restored=restored)
    holder.append(one)
    await venue.start(restored, markets)
    await markets.close()
    jobs: list[Callable[[], Awaitable[None]]] = [venue.run]
    if stream:
        one.stream = UserStream(
            f"ws://127.0.0.1:{sim.port}",
            keys=(KEY, SECRET),
            sinks=Sinks(
                update=venue.on_update,
                fill=venue.on_fill,
                gap=venue.on_gap,
                catch_up=venue.catch_up,
                deposit=venue.on_deposit,
            ),
            emit=one.take,
            clock=CLOCK,
            symbols={rule.venue_id: rule.symbol for rule in instruments.values()},
            quota=venue.quota,
        )
        jobs.append(one.stream.run)
    tasks = [asyncio.ensure_future(job()) for job in jobs]
    try:
        yield one
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        await venue.close()
        await ledger.close()
        if own:
            await sim.stop()
