from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.domain.events import Booked, Denied, Event, Flow, Reconciled, Recorded, Submit
from daemon.domain.market import LOTS_PER_UNIT, Book, Instrument, Tick
from daemon.domain.orders import Approved, Cause, Fill, Intent, OrderUpdate, Side, Tif
from daemon.edge.clock import Clock
from daemon.edge.latch import KillLatch
from daemon.edge.ledger import LedgerConfig, SqlLedger
from daemon.edge.paper import PaperConfig, PaperVenue
from tests.core.driver import make_intent

D = Decimal
MS = 1_000_000
T0 = 4_000_000_000_000_000_000
"""Far in the future, so that no intent is too old for the real clock."""

BTC = Instrument(
    symbol="BTC/USDT",
    venue_id="BTCUSDT",
    base="BTC",
    quote="USDT",
    tick=D("0.01"),
    step=D("0.001"),
    min_qty=D("0.001"),
    max_qty=D(1000),
    min_notional=D(5),
)
CONFIG = PaperConfig(quote="USDT", cash=D(10_000), fee_bps=D(10), latency_ms=100)


class Desk:
    """A paper venue, its ledger, and notes of every event."""

    def __init__(self, folder: Path) -> None:
        self.events: list[Event] = []
        self.latch = KillLatch(folder)
        self.ledger = SqlLedger(
            LedgerConfig(folder=folder / "paper", instance="main", mode="paper", venue="binance", quote="USDT"),
            clock=Clock(),
        )
        self.venue = PaperVenue(
            emit=self.take,
            clock=Clock(),
            latch=self.latch,
            ledger=self.ledger,
            instruments={"BTC/USDT": BTC},
            config=CONFIG,
        )
        self.number = 0

    def take(self, event: Event) -> None:
        """Note an event and record it as the engine would."""
        self.events.append(event)
        if isinstance(event, Fill):
            self.ledger.record(Booked(fill=event, flow=None))
        elif isinstance(event, Flow):
            self.ledger.record(Booked(fill=None, flow=event))
        elif isinstance(event, OrderUpdate):
            self.ledger.record(Recorded(update=event))

    async def open(self) -> None:
        """Start as the application does."""
        self.venue.restore(await self.ledger.open())
        await self.venue.reconcile()

    def intent(self, **changes: object) -> Intent:
        """Return a buy of 0.5 at up to 101."""
        self.number += 1
        usual = {
            "client_id": f"b{self.number}",
            "decision": f"d{self.number}",
            "qty": D("0.5"),
            "limit": D(101),
            "ts_ns": T0,
            "expires_ns": T0 + 2_000 * MS,
        }
        return make_intent(**{**usual, **changes})

    async def send(self, intent: Intent, ts_ns: int = T0) -> None:
        """Commit and send."""
        approved = Approved(intent=intent, ts_ns=ts_ns)
        submit = Submit(decision=intent.decision, approved=(approved,), refused=(), record_json="{}")
        await self.ledger.commit(submit)
        await self.venue.send(approved)

    def states(self, client_id: str) -> list[str]:
        """Return the states an order went through."""
        return [e.state.value for e in self.events if isinstance(e, OrderUpdate) and e.client_id == client_id]

    def fills(self) -> list[Fill]:
        """Return the executions."""
        return [event for event in self.events if isinstance(event, Fill)]

    def held(self) -> dict[str, tuple[Decimal, Decimal]]:
        """Return free and locked amounts."""
        return {one.asset: (one.free, one.locked) for one in self.venue.balances()}


def book(ms: int, *, bid: float = 99.99, ask: float = 100.01, qty: float = 1.0) -> Book:
    """Return a book as of T0 + ms."""
    return Book(symbol="BTC/USDT", bid=bid, bid_qty=qty, ask=ask, ask_qty=qty, ts_recv_ns=T0 + ms * MS)


def tick(ms: int, price: float, qty: float = 1.0) -> Tick:
    """Return a trade as of T0 + ms."""
    at = T0 + ms * MS
    lots = round(qty * LOTS_PER_UNIT)
    return Tick(symbol="BTC/USDT", id=ms, price=price, lots=lots, ts_event_ns=at, ts_recv_ns=at, sell=False)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """An open paper desk."""
    one = Desk(tmp_path)
    await one.open()
    yield one
    await one.ledger.close()


async def test_first_start_opens_the_books(desk: Desk) -> None:
    """The configured cash arrives as a flow of ours, and the ledger agrees."""
    flow, verdict = desk.events

    assert isinstance(flow, Flow)
    assert (flow.asset, flow.amount, flow.ours) == ("USDT", D(10_000), True)
    assert isinstance(verdict, Reconciled)
    assert (verdict.ok, verdict.breaks) == (True, ())


async def test_order_arrives_after_the_latency(desk: Desk) -> None:
    """Nothing happens before 100 ms of market time; then the newest book counts, not the one at sending."""
    intent = desk.intent()
    desk.venue.on_book(book(0))
    await desk.send(intent)
    desk.venue.on_timer(T0 + 99 * MS)
    assert desk.fills() == []
    desk.venue.on_book(book(99, ask=100.50))
    desk.venue.on_timer(T0 + 100 * MS)

    assert [(fill.price, fill.qty) for fill in desk.fills()] == [(D("100.5"), D("0.5"))]
    assert desk.states(intent.client_id) == ["filled"]


async def test_fees_and_balances_to_the_last_digit(desk: Desk) -> None:
    """A buy pays in base, a sale in quote; paper balances equal the ledger's."""
    desk.venue.on_book(book(0))
    await desk.send(desk.intent())
    desk.venue.on_timer(T0 + 100 * MS)
    await desk.send(desk.intent(side=Side.SELL, qty=D("0.499"), limit=D(99)), T0 + 100 * MS)
    desk.venue.on_timer(T0 + 200 * MS)
    await desk.venue.reconcile()
    verdict = desk.events[-1]

    bought, sold = desk.fills()
    assert (bought.fee, bought.fee_asset) == (D("0.0005"), "BTC")
    assert (sold.fee, sold.fee_asset) == (D("0.04989501"), "USDT")
    assert isinstance(verdict, Reconciled)
    assert verdict.ok
    assert desk.held()["BTC"] == (D("0.0005"), D(0))
    assert desk.held()["USDT"][0] == D(10_000) - D("50.005") + D("49.89501") - D("0.04989501")


async def test_thin_touch_fills_in_part(desk: Desk) -> None:
    """An immediate order takes what is there up to its limit; the rest expires."""
    desk.venue.on_book(book(0, qty=0.2))
    intent = desk.intent(limit=D("100.01"))
    await desk.send(intent)
    desk.venue.on_timer(T0 + 100 * MS)

    assert sum(fill.qty for fill in desk.fills()) == D("0.2")
    assert desk.states(intent.client_id) == ["expired"]
    update = desk.events[-1]
    assert isinstance(update, OrderUpdate)
    assert update.filled == D("0.2")


async def test_liquidity_is_not_taken_twice(desk: Desk) -> None:
    """Two orders meet the same book: the second finds what the first left; a new book is whole again."""
    desk.venue.on_book(book(0, qty=0.6))
    for _ in range(2):
        await desk.send(desk.intent(limit=D("100.01")))
    desk.venue.on_timer(T0 + 100 * MS)
    assert [fill.qty for fill in desk.fills()] == [D("0.5"), D("0.1")]
    await desk.send(desk.intent(limit=D("100.01")), T0 + 100 * MS)
    desk.venue.on_book(book(150, qty=0.6))
    desk.venue.on_timer(T0 + 200 * MS)

    assert [fill.qty for fill in desk.fills()][2:] == [D("0.5")]


async def test_resting_order_fills_only_when_traded_through(desk: Desk) -> None:
    """A print at the limit proves nothing; one tick beyond it fills at the limit, at most the print's size."""
    desk.venue.on_book(book(0))
    intent = desk.intent(limit=D("99.50"), tif=Tif.GTC)
    await desk.send(intent)
    desk.venue.on_timer(T0 + 100 * MS)
    assert desk.held()["USDT"] == (D("9950.250"), D("49.750"))
    desk.venue.on_tick(tick(150, 99.50))
    assert desk.fills() == []
    desk.venue.on_tick(tick(160, 99.49, qty=0.2))
    desk.venue.on_tick(tick(170, 99.40, qty=5.0))

    assert [(fill.price, fill.qty, fill.maker) for fill in desk.fills()] == [
        (D("99.50"), D("0.2"), True),
        (D("99.50"), D("0.3"), True),
    ]
    assert desk.states(intent.client_id) == ["acked", "acked", "filled"]
    assert desk.held()["USDT"] == (D("9950.250"), D(0))


async def test_book_that_comes_to_a_resting_order_fills_it(desk: Desk) -> None:
    """The ask falls to the limit of a resting buy."""
    desk.venue.on_book(book(0))
    intent = desk.intent(limit=D("99.50"), tif=Tif.GTC)
    await desk.send(intent)
    desk.venue.on_timer(T0 + 100 * MS)
    desk.venue.on_book(book(200, bid=99.40, ask=99.45))

    assert desk.states(intent.client_id) == ["acked", "filled"]


async def test_cancel_and_its_money(desk: Desk) -> None:
    """Cancelling unlocks; cancelling again does nothing; an order on its way can be cancelled too."""
    desk.venue.on_book(book(0))
    resting, travelling = desk.intent(limit=D("99.50"), tif=Tif.GTC), desk.intent()
    await desk.send(resting)
    desk.venue.on_timer(T0 + 100 * MS)
    await desk.send(travelling, T0 + 100 * MS)
    assert await desk.venue.cancel_all() == 0
    await desk.venue.cancel(resting.client_id, "BTC/USDT")
    desk.venue.on_timer(T0 + 300 * MS)

    assert desk.states(resting.client_id) == ["acked", "canceled"]
    assert desk.states(travelling.client_id) == ["canceled"]
    assert desk.held() == {"USDT": (D(10_000), D(0))}


async def test_what_cannot_be_paid_is_rejected(desk: Desk) -> None:
    """No balance, no order; the money of a resting order is not free."""
    desk.venue.on_book(book(0, qty=1000))
    await desk.send(desk.intent(qty=D(90), limit=D(99), tif=Tif.GTC))
    broke, seller = desk.intent(qty=D(20)), desk.intent(side=Side.SELL, limit=D(99))
    await desk.send(broke)
    await desk.send(seller)
    desk.venue.on_timer(T0 + 100 * MS)

    assert desk.states(broke.client_id) == ["rejected"]
    assert desk.states(seller.client_id) == ["rejected"]


async def test_killed_and_too_old(desk: Desk) -> None:
    """The latch and the age are checked as the live venue does."""
    desk.latch.set("test")
    await desk.send(desk.intent())
    desk.latch.lift()
    await desk.send(desk.intent(expires_ns=1))

    assert [event.detail for event in desk.events if isinstance(event, Denied)] == ["killed", "too_old"]


async def test_no_book_no_execution(desk: Desk) -> None:
    """Without any book an immediate order waits a little and expires."""
    intent = desk.intent()
    await desk.send(intent)
    desk.venue.on_timer(T0 + 1_000 * MS)
    assert desk.states(intent.client_id) == []
    desk.venue.on_timer(T0 + 2_100 * MS)

    assert desk.states(intent.client_id) == ["expired"]


async def test_restart_keeps_balances_and_ends_orders(tmp_path: Path) -> None:
    """Balances come from the ledger, resting orders are cancelled, unknown ones were never placed."""
    one = Desk(tmp_path)
    await one.open()
    one.venue.on_book(book(0))
    await one.send(one.intent())
    resting, travelling = one.intent(limit=D("99.50"), tif=Tif.GTC), one.intent()
    await one.send(resting)
    one.venue.on_timer(T0 + 100 * MS)
    await one.send(travelling, T0 + 100 * MS)
    before = one.held()
    await one.ledger.close()
    two = Desk(tmp_path)
    await two.open()

    assert two.states(resting.client_id) == ["canceled"]
    assert two.states(travelling.client_id) == ["never_placed"]
    assert {asset: free + locked for asset, (free, locked) in before.items()} == {
        asset: free for asset, (free, _) in two.held().items()
    }
    verdict = two.events[-1]
    assert isinstance(verdict, Reconciled)
    assert verdict.ok
    assert await two.ledger.unfinished() == []
    await two.ledger.close()


async def test_resolve_answers_at_once(desk: Desk) -> None:
    """What the paper venue does not hold was never placed; what it holds needs no answer."""
    intent = desk.intent()
    await desk.send(intent)
    await desk.venue.resolve(intent.client_id, "BTC/USDT", T0)
    await desk.venue.resolve("bother", "BTC/USDT", T0)

    assert desk.states(intent.client_id) == []
    assert desk.states("bother") == ["never_placed"]


moves = st.lists(
    st.one_of(
        st.tuples(st.just("book"), st.integers(9_000, 11_000), st.integers(1, 3_000)),
        st.tuples(st.just("tick"), st.integers(9_000, 11_000), st.integers(1, 3_000)),
        st.tuples(st.just("buy"), st.integers(9_000, 11_000), st.integers(1, 3_000)),
        st.tuples(st.just("sell"), st.integers(9_000, 11_000), st.integers(1, 3_000)),
    ),
    max_size=40,
)


class _NoLedger:
    """Stands in where only the matcher is exercised."""

    first_start = True


@settings(max_examples=60)
@given(moves, st.booleans())
async def test_same_events_same_executions_and_money_is_conserved(
    steps: list[tuple[str, int, int]], rest: bool
) -> None:
    """Two runs over the same market agree; no balance is ever negative; money only moves by fills (property)."""
    runs: list[list[Event]] = []
    for _ in range(2):
        events: list[Event] = []
        venue = PaperVenue(
            emit=events.append,
            clock=Clock(),
            latch=KillLatch(Path("/nonexistent")),
            ledger=_NoLedger(),  # type: ignore[arg-type]
            instruments={"BTC/USDT": BTC},
            config=CONFIG,
        )
        venue._purse.add("USDT", D(100_000))
        for n, (kind, price, qty) in enumerate(steps):
            at = n * 60
            if kind == "book":
                venue.on_book(book(at, bid=price / 100, ask=(price + 2) / 100, qty=qty / 1000))
            elif kind == "tick":
                venue.on_tick(tick(at, price / 100, qty=qty / 1000))
            else:
                intent = Intent(
                    client_id=f"b{n}", decision=f"d{n}", leg=0, symbol="BTC/USDT", side=Side(kind),
                    qty=D(qty) / 1000, limit=D(price) / 100, tif=Tif.GTC if rest else Tif.IOC, cause=Cause.REBALANCE,
                    exit=False, reference=D(100), ts_ns=T0, expires_ns=T0 + 10**15,
                )  # fmt: skip
                await venue.send(Approved(intent=intent, ts_ns=T0 + at * MS))
            assert all(one.free >= 0 and one.locked >= 0 for one in venue.balances())
        cash, base = D(100_000), D(0)
        for fill in (event for event in events if isinstance(event, Fill)):
            sign = 1 if fill.side is Side.BUY else -1
            cash -= sign * fill.qty * fill.price + (fill.fee if fill.fee_asset == "USDT" else 0)
            base += sign * fill.qty - (fill.fee if fill.fee_asset == "BTC" else 0)
        totals = {one.asset: one.free + one.locked for one in venue.balances()}
        assert (totals.get("USDT", D(0)), totals.get("BTC", D(0))) == (cash, base)
        runs.append([event for event in events if isinstance(event, Fill | OrderUpdate)])

    assert runs[0] == runs[1]
