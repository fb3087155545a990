"""Read a recorded run: what it knew, decided, sent and got, by replaying its journal.

Everything comes from the engine itself, at the very events at which it acted: what the worker was asked and what it
answered, holdings, books and limits at both moments, the orders that left and the executions that were booked.
"""

from collections import deque
from collections.abc import Iterator
from decimal import Decimal
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from daemon.backtest.parity_bars import TradeBars
from daemon.core.engine import Engine
from daemon.core.memory import remember
from daemon.domain.events import (
    Action,
    BarClosed,
    Booked,
    Candle,
    Command,
    Decide,
    Decided,
    Effect,
    Event,
    Flow,
    History,
    Recorded,
    Repair,
    Step,
    Submit,
    WorkerUp,
)
from daemon.domain.market import Bar, Book, Instrument, Tick
from daemon.domain.orders import Fill, Intent, OrderRecord, OrderState, OrderUpdate
from risk.money import exact

BOOKS_KEPT: Final = 2_000
"""Newest books of each symbol in which the market at an execution is looked for."""
AMENDED: Final = 64
"""Newest columns that are read again at each decision: a bar may have been amended by the venue's own candle."""
PEOPLE: Final = frozenset({Action.FLATTEN, Action.REDUCE_ONLY, Action.RESUME, Action.KILL})
"""Commands that change what is held or may be held; a pause shows in what was not decided."""
ZERO: Final = Decimal(0)


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine stood on at one instant: enough to put another engine on the same ground."""

    ts_ns: int
    cash: Decimal
    positions: dict[str, Decimal]
    entries: dict[str, float]
    orders: tuple[OrderRecord, ...]
    books: dict[str, Book]
    prices: dict[str, float]
    memory: str
    sent_ns: tuple[int, ...]
    daily: dict[str, bytes]
    equity: Decimal
    epoch: int


class Sent(msgspec.Struct, kw_only=True):
    """One order that was approved and left, and how it ended."""

    intent: Intent
    at: int
    """Number of the decision in whose interval it was sent."""
    state: OrderState = OrderState.SENDING
    code: str = ""


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """One execution with the market that it met: the middle, and the touch on the side that was taken."""

    fill: Fill
    at: int
    arrival: Decimal
    touch: Decimal


class Asked(msgspec.Struct, kw_only=True):
    """One question to the worker, with what followed; ``plan`` is the moment its answer was taken."""

    decide: Decide
    moment: Moment
    plan: Moment | None = None
    answer: Decided | None = None
    step: Step | None = None


class End(msgspec.Struct, frozen=True):
    """Where the comparison ends: the close of the bar after the last decision."""

    close_ns: int
    moment: Moment
    sent: int
    executions: int
    flows: int


class Stretch:
    """A contiguous part of a recorded run, filled by ``Watcher``; numbers of decisions count from 0, -1 is before them."""

    def __init__(self, engine: Engine) -> None:
        self.config = engine.config
        self.instruments: dict[str, Instrument] = {}
        self.asked: list[Asked] = []
        self.sent: list[Sent] = []
        self.executions: list[Execution] = []
        self.flows: list[tuple[int, Flow]] = []
        self.models: list[tuple[int, WorkerUp]] = []
        """(close of the newest column at that time, what came up)."""
        self.commands: list[tuple[int, Command]] = []
        """The same, for what people asked for."""
        self.undecided: dict[int, str] = {}
        """Outcome of the closes at which the worker was not asked."""
        self.columns: dict[int, NDArray[np.float64]] = {}
        self.bars: dict[tuple[str, int], Bar] = {}
        self.trades = TradeBars(engine.config.bar_ns)
        self.end: End | None = None

    def cut(self) -> None:
        """Forget what came after the end."""
        if self.end is None:
            return
        del self.sent[self.end.sent :], self.executions[self.end.executions :], self.flows[self.end.flows :]


class Watcher:
    """Told of every event of a replay and its effects; ``stretches`` is what it made of them."""

    def __init__(self) -> None:
        self.stretches: list[Stretch] = []
        self._engine: Engine | None = None
        self._books: dict[str, deque[Book]] = {}
        self._column = 0
        self._orders: dict[str, Sent] = {}

    @property
    def best(self) -> Stretch | None:
        """Return the contiguous part with the most decisions, the newest of several, None without any decision."""
        made = [one for one in self.stretches if one.asked]
        return max(reversed(made), key=lambda one: len(one.asked)) if made else None

    def __call__(self, engine: Engine, event: Event, effects: tuple[Effect, ...]) -> None:
        """Take one event, what the engine has become and what it asked for."""
        if engine is not self._engine:
            self._begin(engine, event)
        stretch = self.stretches[-1]
        kind = type(event)
        if kind is Tick:
            stretch.trades.add(event)  # type: ignore[arg-type]
        elif kind is Book:
            self._books.setdefault(event.symbol, deque(maxlen=BOOKS_KEPT)).append(event)  # type: ignore[union-attr,arg-type]
        elif isinstance(event, (History, Repair, Candle)):
            _fetched(stretch, event)
        elif isinstance(event, WorkerUp):
            stretch.models.append((self._column, event))
        elif isinstance(event, Command):
            if event.action in PEOPLE:
                stretch.commands.append((self._column, event))
        elif isinstance(event, Decided):
            self._answered(engine, event, effects)
        for effect in effects:
            self._effect(engine, effect)
        self._look(engine)

    def _begin(self, engine: Engine, event: Event) -> None:
        self._engine = engine
        stretch = Stretch(engine)
        self.stretches.append(stretch)
        self._books.clear()
        self._orders.clear()
        self._column = 0
        state = engine.state
        if engine.decisions.up and not isinstance(event, WorkerUp):  # it opened with a state
            stretch.models.append((0, WorkerUp(state.model, state.model_trained_ns, state.now_ns)))
        if any(market.builder.open_ns for market in state.markets.values()):
            stretch.trades.since_ns = state.now_ns - state.offset_ns

    def _look(self, engine: Engine) -> None:
        """Notice a new column: the first one after the last decision is where the comparison ends."""
        close_ns = engine.markets.columns.buffers.close_ns
        if close_ns == self._column:
            return
        self._column = close_ns
        stretch = self.stretches[-1]
        if not stretch.asked or stretch.end is not None or close_ns <= stretch.asked[-1].decide.close_ns:
            return
        moment = moment_of(engine, ())
        if moment is not None:
            self._columns(engine)
            stretch.end = End(close_ns, moment, len(stretch.sent), len(stretch.executions), len(stretch.flows))

    def _effect(self, engine: Engine, effect: Effect) -> None:
        stretch = self.stretches[-1]
        if isinstance(effect, BarClosed):
            stretch.bars[effect.bar.symbol, effect.bar.close_ns] = effect.bar
        elif isinstance(effect, Decide):
            moment = moment_of(engine, ())
            if moment is not None:
                stretch.end = None
                stretch.asked.append(Asked(decide=effect, moment=moment))
                self._columns(engine)
                stretch.instruments.update(instruments_of(engine))
        elif isinstance(effect, Submit):
            for approved in effect.approved:
                one = Sent(intent=approved.intent, at=len(stretch.asked) - 1)
                self._orders[approved.intent.client_id] = one
                stretch.sent.append(one)
        elif isinstance(effect, Recorded):
            self._news(effect.update)
        elif isinstance(effect, Booked):
            if effect.fill is not None:
                stretch.executions.append(self._execution(engine, effect.fill, len(stretch.asked) - 1))
            elif effect.flow is not None and effect.flow.ours:
                stretch.flows.append((len(stretch.asked) - 1, effect.flow))
        elif isinstance(effect, Step):
            asked = stretch.asked[-1] if stretch.asked else None
            if asked is not None and asked.decide.close_ns == effect.close_ns:
                asked.step = effect
            else:
                stretch.undecided[effect.close_ns] = effect.outcome

    def _news(self, update: OrderUpdate) -> None:
        known = self._orders.get(update.client_id)
        if known is not None:
            known.state, known.code = update.state, update.code or known.code

    def _answered(self, engine: Engine, event: Decided, effects: tuple[Effect, ...]) -> None:
        asked = self.stretches[-1].asked
        if not asked or asked[-1].decide.seq != event.seq or asked[-1].answer is not None:
            return
        sent = {one.intent.client_id for effect in effects if isinstance(effect, Submit) for one in effect.approved}
        asked[-1].answer = event
        plan = moment_of(engine, sent)
        if plan is not None:  # as it was before these orders
            asked[-1].plan = msgspec.structs.replace(plan, sent_ns=plan.sent_ns[: len(plan.sent_ns) - len(sent)])

    def _execution(self, engine: Engine, fill: Fill, at: int) -> Execution:
        """Return an execution with the newest sound book from before it; a maker's own price is the touch it stood at."""
        live = engine.config.mode == "live"
        fill_ns = fill.ts_event_ns + (engine.state.offset_ns if live else 0)
        buy = fill.side == "buy"
        for book in reversed(self._books.get(fill.symbol, ())):
            if book.ts_recv_ns <= fill_ns and book.bid < book.ask:
                arrival = (exact(book.bid) + exact(book.ask)) / 2
                touch = fill.price if fill.maker else exact(book.ask if buy else book.bid)
                return Execution(fill=fill, at=at, arrival=arrival, touch=touch)
        price = engine.state.price(fill.symbol)
        market = exact(price) if price else fill.price
        return Execution(fill=fill, at=at, arrival=market, touch=fill.price if fill.maker else market)

    def _columns(self, engine: Engine) -> None:
        """Read the columns that are new, and the newest of the old ones again."""
        buffers, columns = engine.markets.columns.buffers, self.stretches[-1].columns
        newest = max(columns, default=0)
        fresh = buffers.count if not newest else (buffers.close_ns - newest) // buffers.bar_ns
        count = min(buffers.count, max(fresh, 0) + AMENDED)
        window, closes = buffers.window(count), buffers.closes(count)
        for place in range(count):
            columns[int(closes[place])] = window[:, place].copy()


def _fetched(stretch: Stretch, event: History | Repair | Candle) -> None:
    """Take trades and bars that came by request."""
    if isinstance(event, Candle):
        bars: tuple[Bar, ...] = () if event.bar is None else (event.bar,)
    else:
        bars = event.bars if isinstance(event, History) else ()
        for tick in event.ticks:
            stretch.trades.add(tick)
    stretch.bars.update({(event.symbol, bar.close_ns): bar for bar in bars})


def moment_of(engine: Engine, without: set[str] | tuple[str, ...]) -> Moment | None:
    """Return what the engine stands on, orders ``without`` these client ids; None while equity is unknown."""
    state = engine.state
    equity = state.equity()
    if equity is None:
        return None
    return Moment(
        ts_ns=state.now_ns,
        cash=state.account.cash,
        positions=dict(state.account.positions),
        entries=dict(state.account.entries),
        orders=tuple(_live(engine, without)),
        books={symbol: market.book for symbol, market in state.markets.items() if market.book is not None},
        prices={symbol: state.price(symbol) for symbol in state.markets},
        memory=remember(state),
        sent_ns=state.gate.state(),
        daily=dict(state.daily),
        equity=equity,
        epoch=state.epoch,
    )


def _live(engine: Engine, without: set[str] | tuple[str, ...]) -> Iterator[OrderRecord]:
    for client_id, order in engine.state.blotter.live.items():
        if client_id not in without:
            # Not yet acknowledged counts as acknowledged: a restart would doubt it, and freeze its symbol.
            state = OrderState.ACKED if order.state is OrderState.SENDING else order.state
            yield OrderRecord(order.intent, state, order.venue_id, order.booked, order.since_ns)


def instruments_of(engine: Engine) -> dict[str, Instrument]:
    """Return the trading rules that the engine knows."""
    return {s: market.instrument for s, market in engine.state.markets.items() if market.instrument is not None}
