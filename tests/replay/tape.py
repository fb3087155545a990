"""Six recorded minutes of Binance through runner, decoder, engine and strategy, with a venue that fills at the limit.

No process, no socket, no clock: time is that of the recording. Run as a program it prints the digest of all effects.
"""

import gzip
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from daemon.backtest.tape import seed_of
from daemon.core.engine import Engine
from daemon.core.run import Runner
from daemon.core.snapshot import freeze, pieces
from daemon.core.snapshot_restore import restore
from daemon.domain.events import (
    BarClosed,
    Decide,
    Decided,
    Effect,
    Event,
    Flow,
    History,
    Link,
    Listed,
    Reconciled,
    Restored,
    Seed,
    Submit,
    Timer,
    WorkerUp,
)
from daemon.domain.market import NS_PER_MS, NS_PER_S, Bar, BarFlag, Instrument
from daemon.domain.orders import Approved, Fill, Intent, OrderState, OrderUpdate, Side
from daemon.edge.feed import Conflator
from daemon.edge.worker_child import InlineWorker
from daemon.edge.worker_wire import WorkerConfig
from daemon.wire.binance import BinanceWire
from risk.limits import Limits
from strategies.params import ForecastParams, OptimizerParams, StrategySetup
from tests.core.driver import make_config

SYMBOLS = ("BTC/USDT", "ETH/USDT")
FILES = ("binance_spot_btcusdt_20240808.gz", "binance_spot_ethusdt_20240808.gz")
RECORDER_BEHIND_NS = 1_270 * NS_PER_MS
"""The recorder's clock ran this much behind the exchange's: added to every time of arrival."""
HISTORY_S = 70
TIMER_NS = 50 * NS_PER_MS
FEE = Decimal("0.001")
STEP = Decimal("0.00001")

CONFIG = make_config(
    instance="tape",
    universe=SYMBOLS,
    grace_ns=300 * NS_PER_MS,
    backfill_bars=300,
    lookback=60,
    turnover_max_day=1_000.0,
    cost_bps=0.0,
    limits=Limits(max_weight=0.5, max_order_notional=0.02, max_repeats=0),
    fee_rate=FEE,
)
WORKER = WorkerConfig(
    setup=StrategySetup(
        forecast=ForecastParams(model="ewma", lookback=60, horizon_bars=5, shrink="none"),
        optimizer=OptimizerParams(
            risk_tolerance=1.0, fully_invested=True, cost_bps=0.0, max_weight=0.5, cvar_limit=1.0
        ),
        symbols=SYMBOLS,
        bar_ns=NS_PER_S,
    ),
    buffer_bars=300,
)

Frame = tuple[int, bytes]


def load(folder: Path) -> list[Frame]:
    """Return both recordings merged by time of arrival, corrected to the exchange's clock: (ns, frame)."""
    frames: list[Frame] = []
    for name in FILES:
        with gzip.open(folder / name, "rb") as lines:
            for line in lines:
                stamp, _, frame = line.rstrip(b"\n").partition(b" ")
                frames.append((int(stamp) + RECORDER_BEHIND_NS, frame))
    return sorted(frames, key=lambda one: one[0])


def trades(frames: Iterable[Frame]) -> dict[str, list[dict[str, Any]]]:
    """Return the trades of each symbol in id order, read with the standard library alone."""
    found: dict[str, list[dict[str, Any]]] = {symbol: [] for symbol in SYMBOLS}
    names = {symbol.replace("/", ""): symbol for symbol in SYMBOLS}
    for _, frame in frames:
        if b"@trade" in frame[:40]:
            data = json.loads(frame)["data"]
            found[names[data["s"]]].append(data)
    return {symbol: sorted(rows, key=lambda row: int(row["t"])) for symbol, rows in found.items()}


def sums(rows: Iterable[dict[str, Any]]) -> dict[int, tuple[float, float, float, float, float, int]]:
    """Return open, high, low, close, volume and count per second (its open, ns): an independent sum in Decimal."""
    by_second: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        by_second.setdefault(int(row["T"]) // 1000 * NS_PER_S, []).append(row)
    out = {}
    for second, inside in by_second.items():
        prices = [Decimal(row["p"]) for row in inside]
        volume = sum((Decimal(row["q"]) for row in inside), Decimal(0))
        out[second] = (
            float(prices[0]), float(max(prices)), float(min(prices)), float(prices[-1]), float(volume), len(inside),
        )  # fmt: skip
    return out


@dataclass
class Played:
    """What came out: the hash of all effects, the closed bars, the orders sent and the effects counted by kind."""

    digest: str
    effects: int
    bars: list[Bar] = field(default_factory=list)
    sent: list[Intent] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    decided: int = 0
    live_ns: int = 0


class _Forget:
    """A recorder that keeps nothing."""

    def add_frame(self, recv_ns: int, channel: int, frame: bytes) -> None:
        """Forget a frame."""

    def add_event(self, event: Event) -> None:
        """Forget an event."""


class Line:
    """The daemon's own parts in one thread, fed by a recording."""

    def __init__(self) -> None:
        """Build runner, engine, decoder and strategy; nothing has happened yet."""
        self.now_ns = 0
        self.played = Played("", 0)
        self.conflator = Conflator()
        self.instruments = tuple(_instrument(symbol) for symbol in SYMBOLS)
        self.wire = BinanceWire(self.instruments, held=self.conflator.held, skew_ns_max=0)
        self.worker = InlineWorker(WORKER)
        self.trades = 0
        self.runner = self._runner(Engine(CONFIG))

    def _runner(self, engine: Engine) -> Runner:
        return Runner(
            engine, decode=self.wire.decode, recorder=_Forget(), observe=lambda _: None, dispatch=self._dispatch
        )

    def begin_again(self) -> None:
        """Go on with a new engine and a new worker that know what the old ones knew, and nothing else."""
        old = self.runner
        engine = Engine(CONFIG)
        restore(engine, pieces(freeze(old.engine)))
        self.runner = self._runner(engine)
        self.runner.resume(old.effects, old.digest)
        self.worker = InlineWorker(WORKER)
        self.worker.seed(seed_of(engine, 0))

    def start(self, now_ns: int, history: dict[str, tuple[tuple[Bar, ...], int]]) -> None:
        """Recover from nothing, take history, reconcile."""
        self.now_ns = self.played.live_ns = now_ns
        opening: list[Event] = [
            Restored(1, Decimal(0), (), (), (), "", now_ns),
            Listed(self.instruments, now_ns),
            Flow("USDT", Decimal(100_000), ours=True, detail="opening balance", ts_ns=now_ns),
            Link("user", up=True, detail="", ts_ns=now_ns),
            Link("market", up=True, detail="", ts_ns=now_ns),
            *(
                History(symbol, bars, (), next_id, partial=False, ts_ns=now_ns)
                for symbol, (bars, next_id) in history.items()
            ),
            Reconciled(ok=True, balances=(), breaks=(), external_orders=0, ts_ns=now_ns),
            WorkerUp(self.worker.ready.model, self.worker.ready.trained_ns, now_ns),
        ]
        for event in opening:
            self.runner.emit(event)

    def feed(self, frames: Iterable[Frame], *, again_ns: int = 0) -> Played:
        """Play frames in order, with a timer every 50 ms; with ``again_ns`` begin again from a snapshot so often."""
        timer_ns = self.now_ns
        due_ns = self.now_ns + again_ns
        for recv_ns, frame in frames:
            while timer_ns + TIMER_NS <= recv_ns:
                timer_ns += TIMER_NS
                self.now_ns = timer_ns
                for book in self.conflator.flush(self.wire):
                    self.runner.emit(book)
                self.runner.emit(Timer(timer_ns, timer_ns))
            if again_ns and recv_ns >= due_ns:
                due_ns = recv_ns + again_ns
                self.begin_again()
            self.now_ns = recv_ns
            self.runner.on_frame(frame, recv_ns)
        self.played.digest, self.played.effects = self.runner.digest, self.runner.effects
        return self.played

    def _dispatch(self, effect: Effect) -> None:
        self.played.kinds[type(effect).__name__] += 1
        if isinstance(effect, BarClosed):
            self.played.bars.append(effect.bar)
        elif isinstance(effect, Seed):
            self.worker.seed(effect)
        elif isinstance(effect, Decide):
            self.played.decided += 1
            answer: Decided = msgspec.structs.replace(self.worker.decide(effect), ts_ns=self.now_ns)
            self.runner.emit(answer)
        elif isinstance(effect, Submit):
            for approved in effect.approved:
                self._fill(approved)

    def _fill(self, approved: Approved) -> None:
        """Acknowledge an order and fill it at its limit at once."""
        intent = approved.intent
        self.played.sent.append(intent)
        self.trades += 1
        base, _, quote = intent.symbol.partition("/")
        buy = intent.side is Side.BUY
        fee = intent.qty * FEE if buy else intent.notional * FEE
        for state, filled in ((OrderState.ACKED, Decimal(0)), (OrderState.FILLED, intent.qty)):
            if state is OrderState.FILLED:
                self.runner.emit(
                    Fill(
                        symbol=intent.symbol, trade_id=str(self.trades), client_id=intent.client_id, venue_id="1",
                        side=intent.side, qty=intent.qty, price=intent.limit, fee=fee, fee_asset=base if buy else quote,
                        maker=False, ts_event_ns=self.now_ns, source="tape",
                    )
                )  # fmt: skip
            self.runner.emit(OrderUpdate(intent.client_id, intent.symbol, state, "1", filled, "", "tape", self.now_ns))


def _instrument(symbol: str) -> Instrument:
    base, _, quote = symbol.partition("/")
    return Instrument(symbol, base + quote, base, quote, Decimal("0.01"), STEP, STEP, Decimal(9000), Decimal(5))


def _history(symbol: str, rows: list[dict[str, Any]], start_ns: int) -> tuple[tuple[Bar, ...], int]:
    """Return the bars of the seconds before ``start_ns``, built from the recording itself, and the id after them."""
    known = sums(row for row in rows if int(row["T"]) * NS_PER_MS < start_ns)
    first = min(known) + NS_PER_S  # the recording begins within its first second
    close = known[min(known)][3]
    bars = []
    for at in range(first, start_ns, NS_PER_S):
        opened, high, low, close, volume, count = known.get(at, (close, close, close, close, 0.0, 0))
        bars.append(Bar(symbol, at, at + NS_PER_S, opened, high, low, close, volume, count, -1, -1, BarFlag.BACKFILLED))
    next_id = min(int(row["t"]) for row in rows if int(row["T"]) * NS_PER_MS >= start_ns)
    return tuple(bars), next_id


def play(frames: list[Frame], *, spoil: Callable[[Frame], Frame | None] = lambda one: one, again_ns: int = 0) -> Played:
    """Play a recording; ``spoil`` may change a live frame, or lose it by returning None; ``again_ns`` as in ``feed``."""
    every = trades(frames)
    start_ns = (min(int(rows[0]["T"]) for rows in every.values()) // 1000 + HISTORY_S) * NS_PER_S
    history = {symbol: _history(symbol, rows, start_ns) for symbol, rows in every.items()}
    line = Line()
    line.start(start_ns, history)
    live = (spoilt for one in _live(frames, start_ns, history) if (spoilt := spoil(one)) is not None)
    return line.feed(live, again_ns=again_ns)


def _live(frames: list[Frame], start_ns: int, history: dict[str, tuple[tuple[Bar, ...], int]]) -> Iterable[Frame]:
    """Yield the frames after the history: those that arrive later, and no trade that the history has."""
    first = {symbol.replace("/", ""): next_id for symbol, (_, next_id) in history.items()}
    for recv_ns, frame in frames:
        if recv_ns < start_ns:
            continue
        if b"@trade" in frame[:40]:
            data = json.loads(frame)["data"]
            if int(data["t"]) < first[data["s"]]:
                continue
        yield recv_ns, frame


if __name__ == "__main__":
    sys.stdout.write(play(load(Path(sys.argv[1]))).digest + "\n")
