"""A recorded run without sockets: the real engine, runner, recorder, decoder and worker, a market of our own making."""

import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from daemon.backtest.data.files import Candles as CandleRows
from daemon.backtest.data.files import write
from daemon.backtest.replay import WireDecoder
from daemon.backtest.session import DAY_NS
from daemon.core.engine import Engine
from daemon.core.run import Runner
from daemon.domain.events import (
    Candles,
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
    Seed,
    Submit,
    Timer,
    WorkerUp,
)
from daemon.domain.market import NS_PER_MS, NS_PER_S, Bar, BarFlag, Book
from daemon.domain.orders import Approved, Fill, OrderState, OrderUpdate, Side
from daemon.edge.worker_child import InlineWorker
from daemon.outlets.journal import Journal
from daemon.service import wiring
from daemon.service.recording import journal_of
from daemon.settings import Settings, load_settings
from tests.core.driver import PRICES, instrument
from tests.e2e.kit import merged, toml

SYMBOLS: tuple[str, ...] = ("BTC/USDT", "ETH/USDT")
BAR_NS = 60 * NS_PER_S
START_NS = 1_700_000_040 * NS_PER_S
WARM = 30
ANSWER_NS = 4 * NS_PER_S
"""How long the worker takes."""
STRATEGY = '''
"""Goes half the way to more of what has just risen, and says what it expects; fewer days known, less of all."""
from daemon.domain.signal import Forecast, Targets

class Swing:
    def decide(self, view, params):
        closes = view.bars[:, :, 3]
        moved = (closes[:, -1] / closes[:, -4] - 1.0).tolist()
        days = 0 if view.daily is None else len(view.daily)
        speed = params.get("speed", 8.0) * (1.0 + 0.05 * days)
        aims = [min(max(0.10 + speed * one, 0.0), 0.29) for one in moved]
        weights = tuple((0.5 * aim + 0.5 * held) for aim, held in zip(aims, view.weights))
        n = len(moved)
        fill = lambda value: (value,) * n
        forecast = Forecast(view.symbols, 3, tuple(moved), tuple(moved), fill(0.01), fill(0.1), fill(0.02), "swing")
        return Targets(view.symbols, weights, forecast)
'''
CONFIG: dict[str, Any] = {
    "universe": list(SYMBOLS),
    "bar": "1m",
    "strategy": "parity_swing:Swing",
    "feed": {"backfill_bars": 62, "grace_ms": 500},
    "optimizer": {"turnover_max": 2.0, "turnover_max_day": 1000.0},
    "forecast": {"lookback": 10},
    "risk": {"max_order_notional": 0.30, "max_repeats": 0, "stop_loss": 0.5, "trailing_stop": 0.5},
    "paper": {"fee_bps": 10.0},
}


def settings_of(folder: Path, **changes: Any) -> Settings:
    """Return a configuration whose file, and strategy, lie in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "parity_swing.py").write_text(STRATEGY)
    file = folder / "ballast.toml"
    file.write_text(toml(merged({**CONFIG, "state_dir": str(folder / "var")}, changes)))
    return load_settings([file])


class Recorded:
    """One run. ``chance`` draws prices and what orders get; ``fills`` says how much of an order trades: 0, part or 1.

    ``slow``: an order's executions come after the next question, before its answer. The worker takes its time to answer.
    """

    def __init__(
        self, folder: Path, *, chance: int = 1, settings: Settings | None = None, slow: bool = False, **changes: Any
    ) -> None:
        self.settings = settings or settings_of(folder, **changes)
        self.random = random.Random(chance)
        self.slow = slow
        engine = Engine(wiring.engine_config(self.settings, ""))
        self.journal: Journal = journal_of(self.settings, engine, start_ns=START_NS, version="test")
        self.folder = self.settings.mode_path
        self.worker = InlineWorker(wiring.worker_config(self.settings))
        self.decoder = WireDecoder()
        self.runner = Runner(
            engine,
            decode=self.decoder.decode,
            recorder=self.journal,
            dispatch=self._dispatch,
            observe=self.decoder.observe,
        )
        self.now_ns = START_NS
        self.ids = dict.fromkeys(SYMBOLS, 1000)
        self.prices = dict(PRICES)
        self.books: dict[str, Book] = {}
        self.answers: list[tuple[int, Decided]] = []
        self.waiting: list[tuple[int, Approved]] = []
        self.trades: dict[str, list[tuple[int, float, float]]] = {symbol: [] for symbol in SYMBOLS}
        self.fills = 0
        self.fee_asset = ""
        self.maker = False
        self.share: tuple[float, ...] = (0.0, 0.5, 1.0, 1.0)

    # ------------------------------------------------------------------ the run

    def start(self) -> "Recorded":
        """Recover, stitch history, reconcile."""
        now = self.now_ns
        opening: list[Event] = [
            Restored(1, Decimal(0), (), (), (), "", now),
            Listed(tuple(map(instrument, SYMBOLS)), now),
            Timer(now, now),
            Flow("USDT", Decimal(100_000), ours=True, detail="opening", ts_ns=now),
            Link("user", up=True, detail="", ts_ns=now),
            Link("market", up=True, detail="", ts_ns=now),
            *(self._history(symbol) for symbol in SYMBOLS),
            Reconciled(ok=True, balances=(), breaks=(), external_orders=0, ts_ns=now),
            WorkerUp(self.worker.ready.model, self.worker.ready.trained_ns, now),
        ]
        for event in opening:
            self.runner.emit(event)
        for symbol in SYMBOLS:
            self.quote(symbol)
        return self

    def bars(self, count: int) -> "Recorded":
        """Let so many bars pass, a few trades and books in each."""
        for _ in range(count):
            close_ns = self.now_ns + BAR_NS
            moments = sorted(self.random.randrange(5_000, 58_000) for _ in range(4))
            for ms in (300, 2_500, *moments):
                self.until(close_ns - BAR_NS + ms * NS_PER_MS)
                for symbol in SYMBOLS:
                    self.prices[symbol] *= 1.0 + self.random.gauss(0.0, 0.0015)
                    self.quote(symbol)
                    self.trade(symbol)
            self.until(close_ns)
        return self

    def until(self, time_ns: int) -> None:
        """Let time pass: timers twice a second, executions when they are due."""
        while self.now_ns < time_ns:
            self.now_ns = min(self.now_ns + NS_PER_S // 2, time_ns)
            for symbol in SYMBOLS:
                self.runner.emit(msgspec.structs.replace(self.books[symbol], ts_recv_ns=self.now_ns))
            self.runner.emit(Timer(self.now_ns, self.now_ns))
            for answer in [one for at, one in self.answers if at <= self.now_ns]:
                self.runner.emit(msgspec.structs.replace(answer, ts_ns=self.now_ns))
            self.answers = [one for one in self.answers if one[0] > self.now_ns]
            due = [one for at, one in self.waiting if at <= self.now_ns]
            self.waiting = [one for one in self.waiting if one[0] > self.now_ns]
            for approved in due:
                self._execute(approved)
        self.journal.add_effects_hash(self.runner.effects, self.runner.digest)

    def days(self, count: int) -> None:
        """Tell so many daily closes of every symbol."""
        for symbol in SYMBOLS:
            closes = [PRICES[symbol] * (1.0 + 0.01 * (at % 3)) for at in range(count)]
            bars = tuple(Bar(symbol, 0, 0, c, c, c, c, 1.0, 1, -1, -1, BarFlag.BACKFILLED) for c in closes)
            self.runner.emit(Candles(symbol, DAY_NS, bars, self.now_ns))

    def emit(self, event: Event) -> None:
        """Let the engine hear something."""
        self.runner.emit(event)

    def close(self) -> Path:
        """End the recording; return where it lies."""
        self.journal.add_effects_hash(self.runner.effects, self.runner.digest)
        self.journal.close()
        return self.folder

    # ------------------------------------------------------------------ the market

    def quote(self, symbol: str) -> None:
        """Show a book around the price."""
        price = round(self.prices[symbol], 2)
        self.books[symbol] = Book(symbol, round(price * 0.9999, 2), 5.0, round(price * 1.0001, 2), 5.0, self.now_ns)
        self.runner.emit(self.books[symbol])

    def trade(self, symbol: str, *, event_ns: int = 0) -> None:
        """Let a trade happen, or come late (``event_ns``)."""
        event_ns = event_ns or self.now_ns
        number, self.ids[symbol] = self.ids[symbol], self.ids[symbol] + 1
        price, qty = round(self.prices[symbol], 2), round(self.random.uniform(20, 400), 8)
        name, ms = symbol.replace("/", ""), event_ns // NS_PER_MS
        self.trades[symbol].append((event_ns, price, qty))
        frame = (
            f'{{"stream":"{name.lower()}@aggTrade","data":{{"e":"aggTrade","E":{ms},"s":"{name}","a":{number},'
            f'"p":"{price:.2f}","q":"{qty:.8f}","f":{number},"l":{number},"T":{ms},"m":false,"M":true}}}}'
        )
        self.runner.on_frame(frame.encode(), self.now_ns)

    def _history(self, symbol: str) -> History:
        price = self.prices[symbol]
        bars: list[Bar] = []
        for at in range(START_NS - WARM * BAR_NS, START_NS, BAR_NS):
            close = round(price * (1.0 + self.random.gauss(0.0, 0.002)), 2)
            high, low = max(price, close), min(price, close)
            bars.append(Bar(symbol, at, at + BAR_NS, price, high, low, close, 900.0, 1, -1, -1, BarFlag.BACKFILLED))
            price = close
        self.prices[symbol] = price
        return History(symbol, tuple(bars), (), self.ids[symbol], partial=False, ts_ns=self.now_ns)

    # ------------------------------------------------------------------ worker and venue

    def _dispatch(self, effect: Effect) -> None:
        if isinstance(effect, Seed):
            self.worker.seed(effect)
        elif isinstance(effect, Decide):
            self.answers.append((self.now_ns + ANSWER_NS, self.worker.decide(effect)))
        elif isinstance(effect, Continue):
            self.runner.emit(Proceed(self.now_ns))
        elif isinstance(effect, Submit):
            wait_ns = BAR_NS - 2 * NS_PER_S if self.slow else 700 * NS_PER_MS
            self.waiting.extend((self.now_ns + wait_ns, one) for one in effect.approved)

    def _execute(self, approved: Approved) -> None:
        """Trade a share of an order at the touch or a tick worse, fee as venues take it; the rest expires."""
        intent = approved.intent
        book, rules = self.books[intent.symbol], instrument(intent.symbol)
        buy = intent.side is Side.BUY
        share = Decimal(str(self.random.choice(self.share)))
        qty = (intent.qty * share / rules.step).to_integral_value(rounding="ROUND_FLOOR") * rules.step
        base, _, quote = intent.symbol.partition("/")
        if qty:
            price = Decimal(repr(book.ask if buy else book.bid)) + (rules.tick if buy else -rules.tick)
            price = intent.limit if self.maker else price
            fee = (qty if buy else qty * price) * Decimal("0.00075")
            self.fills += 1
            self.runner.emit(
                Fill(
                    symbol=intent.symbol,
                    trade_id=str(self.fills),
                    client_id=intent.client_id,
                    venue_id="1",
                    side=intent.side,
                    qty=qty,
                    price=price,
                    fee=fee.quantize(Decimal("1e-8")),
                    fee_asset=self.fee_asset or (base if buy else quote),
                    maker=self.maker,
                    ts_event_ns=self.now_ns,
                    source="paper",
                )
            )
        state = OrderState.FILLED if qty == intent.qty else OrderState.EXPIRED
        self.runner.emit(OrderUpdate(intent.client_id, intent.symbol, state, "1", qty, "", "paper", self.now_ns))

    # ------------------------------------------------------------------ candle files

    def candles(self, folder: Path, *, spoil: float = 0.0) -> Path:
        """Write what the venue would have as candles; ``spoil`` moves the close of each pair's last whole bar."""
        for symbol, trades in self.trades.items():
            table: dict[int, list[float]] = {}
            for at_ns, price, qty in trades:
                row = table.setdefault(at_ns - at_ns % BAR_NS, [price, price, price, price, 0.0])
                row[1], row[2], row[3] = max(row[1], price), min(row[2], price), price
                row[4] = round(row[4] + qty, 8)
            opens = sorted(table)
            table[opens[-2]][3] += spoil
            table[opens[-2]][1] = max(table[opens[-2]][1], table[opens[-2]][3])
            folder.mkdir(parents=True, exist_ok=True)
            rows = CandleRows(
                np.array([at // NS_PER_MS for at in opens], dtype=np.int64), np.array([table[at] for at in opens])
            )
            write(folder / f"{symbol.replace('/', '_')}-1m.parquet", rows)
        return folder
