"""A hand-driven engine: a market of our own making, a worker that answers what the test says."""

from collections.abc import Sequence
from decimal import Decimal
from typing import TypeVar

from daemon.core.config import EngineConfig
from daemon.core.engine import Engine
from daemon.domain.events import (
    Continue,
    Decide,
    Decided,
    Effect,
    Event,
    Flow,
    History,
    Link,
    Listed,
    Proceed,
    Reconciled,
    Restored,
    Submit,
    Timer,
    WorkerUp,
)
from daemon.domain.market import NS_PER_MS, NS_PER_S, Bar, BarFlag, Book, Instrument, Tick
from daemon.domain.orders import Approved, Cause, Fill, Intent, OrderState, OrderUpdate, Side, Tif
from daemon.domain.signal import Targets
from risk.limits import Limits

T = TypeVar("T")
START_NS = 1_700_000_000 * NS_PER_S
SYMBOLS = ("BTC/USDT", "ETH/USDT")
PRICES = {"BTC/USDT": 40_000.0, "ETH/USDT": 2_000.0}


def instrument(symbol: str) -> Instrument:
    """Return plain trading rules for a symbol."""
    base, _, quote = symbol.partition("/")
    return Instrument(
        symbol=symbol,
        venue_id=base + quote,
        base=base,
        quote=quote,
        tick=Decimal("0.01"),
        step=Decimal("0.00001"),
        min_qty=Decimal("0.00001"),
        max_qty=Decimal(9000),
        min_notional=Decimal(5),
    )


def make_config(**changes: object) -> EngineConfig:
    """Return a configuration with one-second bars; ``limits`` may be given too."""
    values: dict[str, object] = {
        "instance": "test",
        "account": "",
        "mode": "paper",
        "universe": SYMBOLS,
        "quote": "USDT",
        "bar_ns": NS_PER_S,
        "grace_ns": 200 * NS_PER_MS,
        "max_age_ns": 3 * NS_PER_S,
        "backfill_bars": 100,
        "lookback": 5,
        "rebalance_every": 1,
        "turnover_max": 0.5,
        "turnover_max_day": 2.0,
        "cost_bps": 10.0,
        "tif": Tif.IOC,
        "limits": Limits(stop_cooldown_ns=60 * NS_PER_S),
        "fee_rate": Decimal("0.001"),
        "decision_deadline_ns": NS_PER_S // 2,
    }
    return EngineConfig(**{**values, **changes})  # type: ignore[arg-type]


def make_intent(**changes: object) -> Intent:
    """Return a wish to buy 1 BTC at up to 100; any field may be another."""
    values: dict[str, object] = {
        "client_id": "b1",
        "decision": "d1",
        "leg": 0,
        "symbol": "BTC/USDT",
        "side": Side.BUY,
        "qty": Decimal(1),
        "limit": Decimal(100),
        "tif": Tif.IOC,
        "cause": Cause.REBALANCE,
        "exit": False,
        "reference": Decimal(100),
        "ts_ns": 1,
        "expires_ns": 2,
    }
    return Intent(**{**values, **changes})  # type: ignore[arg-type]


class Driver:
    """Feeds an engine and keeps every event and effect."""

    def __init__(self, config: EngineConfig | None = None) -> None:
        """Build an engine; nothing has happened yet."""
        self.config = config or make_config()
        self.engine = Engine(self.config)
        self.now_ns = START_NS
        self.ids = dict.fromkeys(self.config.universe, 1000)
        self.prices = dict(PRICES)
        self.events: list[Event] = []
        self.effects: list[Effect] = []
        self.trades = 0

    def send(self, *events: Event) -> tuple[Effect, ...]:
        """Process events; return what they asked for."""
        out: tuple[Effect, ...] = ()
        for event in events:
            self.events.append(event)
            asked = self.engine.process(event)
            while any(isinstance(one, Continue) for one in asked):
                out += tuple(one for one in asked if not isinstance(one, Continue))
                self.events.append(Proceed(self.now_ns))
                asked = self.engine.process(self.events[-1])
            out += asked
        self.effects.extend(out)
        return out

    # ------------------------------------------------------------------ starting

    def start(self, *, cash: str = "100000", bars: int = 20) -> "Driver":
        """Recover from an empty ledger, reconcile, stitch history; ends ACTIVE with a worker."""
        now = self.now_ns
        self.send(Restored(1, Decimal(0), (), (), (), "", now))
        self.send(Listed(tuple(instrument(symbol) for symbol in self.config.universe), now))
        self.send(Flow("USDT", Decimal(cash), ours=True, detail="opening", ts_ns=now))
        self.send(Link("user", up=True, detail="", ts_ns=now), Link("market", up=True, detail="", ts_ns=now))
        for symbol in self.config.universe:
            self.send(self.history(symbol, bars))
        self.books()
        self.send(Reconciled(ok=True, balances=(), breaks=(), external_orders=0, ts_ns=now))
        self.send(WorkerUp("model", 0, now))
        self.timer(50)
        return self

    def history(self, symbol: str, count: int) -> History:
        """Return ``count`` flat closed bars up to now, stitched to the next id."""
        price, end = self.prices[symbol], self.now_ns // self.config.bar_ns * self.config.bar_ns
        bars = tuple(
            Bar(symbol, at, at + self.config.bar_ns, price, price, price, price, 1.0, 1, -1, -1, BarFlag.BACKFILLED)
            for at in range(end - count * self.config.bar_ns, end, self.config.bar_ns)
        )
        return History(symbol, bars, (), self.ids[symbol], partial=False, ts_ns=self.now_ns)

    # ------------------------------------------------------------------ the market

    def tick(self, symbol: str, price: float | None = None, *, skip: int = 0) -> tuple[Effect, ...]:
        """Let one trade happen now; ``skip`` ids are lost before it."""
        if price is not None:
            self.prices[symbol] = price
        self.ids[symbol] += skip
        one = Tick(symbol, self.ids[symbol], self.prices[symbol], 10**6, self.now_ns, self.now_ns, sell=False)
        self.ids[symbol] += 1
        return self.send(one)

    def books(self) -> tuple[Effect, ...]:
        """Quote every symbol around its price."""
        return self.send(
            *(
                Book(symbol, price * 0.9999, 5.0, price * 1.0001, 5.0, self.now_ns)
                for symbol, price in self.prices.items()
                if symbol in self.config.universe
            )
        )

    def timer(self, ms: int = 50) -> tuple[Effect, ...]:
        """Let time pass in steps of 50 ms, without trades."""
        out: tuple[Effect, ...] = ()
        for _ in range(max(1, ms // 50)):
            self.now_ns += 50 * NS_PER_MS
            out += self.send(Timer(self.now_ns, self.now_ns))
        return out

    def bar(self) -> tuple[Effect, ...]:
        """Let one whole bar pass with a trade and a book of every symbol, and close it by the next bar's first trades."""
        self.now_ns = (self.now_ns // self.config.bar_ns + 1) * self.config.bar_ns + NS_PER_MS
        out = self.books()
        for symbol in self.config.universe:
            out += self.tick(symbol)
        return out + self.send(Timer(self.now_ns, self.now_ns))

    # ------------------------------------------------------------------ worker and venue

    def decide(self, **weights: float) -> tuple[Effect, ...]:
        """Let a bar pass and answer its question with target weights by base asset."""
        ask = only(self.bar(), Decide)
        targets = tuple(weights.get(symbol.partition("/")[0], 0.0) for symbol in self.config.universe)
        self.now_ns += 2 * NS_PER_MS
        return self.send(Decided(ask.seq, Targets(self.config.universe, targets), 1, 1, 1, self.now_ns))

    def fill(self, approved: Approved, share: str = "1", *, price: str = "") -> tuple[Effect, ...]:
        """Acknowledge an order and fill a share of it, fee in base on buys and in quote on sells."""
        intent = approved.intent
        base, _, quote = intent.symbol.partition("/")
        qty = (intent.qty * Decimal(share)).quantize(Decimal("0.00001"))
        paid = Decimal(price) if price else intent.limit
        self.trades += 1
        buy = intent.side is Side.BUY
        fee = (qty if buy else qty * paid) * Decimal("0.001")
        fill = Fill(
            symbol=intent.symbol,
            trade_id=str(self.trades),
            client_id=intent.client_id,
            venue_id="1",
            side=intent.side,
            qty=qty,
            price=paid,
            fee=fee,
            fee_asset=base if buy else quote,
            maker=False,
            ts_event_ns=self.now_ns,
            source="send",
        )
        end = OrderState.FILLED if qty == intent.qty else OrderState.EXPIRED
        return self.send(self.news(approved, OrderState.ACKED), fill, self.news(approved, end, filled=qty))

    def news(self, approved: Approved, state: OrderState, *, filled: Decimal = Decimal(0)) -> OrderUpdate:
        """Return the venue's word on an order."""
        return OrderUpdate(
            client_id=approved.intent.client_id,
            symbol=approved.intent.symbol,
            state=state,
            venue_id="1",
            filled=filled,
            code="",
            source="send",
            ts_ns=self.now_ns,
        )

    def buy(self, **weights: float) -> "Driver":
        """Decide once and fill everything that was approved."""
        for approved in only(self.decide(**weights), Submit).approved:
            self.fill(approved)
        return self


def all_of(effects: Sequence[object], kind: type[T]) -> list[T]:
    """Return the effects of one kind."""
    return [effect for effect in effects if isinstance(effect, kind)]


def only(effects: Sequence[object], kind: type[T]) -> T:
    """Return the one effect of a kind."""
    found = all_of(effects, kind)
    assert len(found) == 1, f"expected one {kind.__name__}, got {len(found)} in {effects}"
    return found[0]
