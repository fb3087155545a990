"""The backtest's engine beside a recorded run: observed, and put on the recorded ground where they are to be compared.

The ground is what the recorded engine stood on when it asked its worker, and when it took the answer: holdings, orders under
way and memory, brought as a restart brings them, and the books. Bars, time and executions are the backtest's own.
"""

from array import array
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

import msgspec
import numpy as np

from daemon.backtest.history import Panel
from daemon.backtest.parity_read import Execution, Moment, Sent, Stretch
from daemon.backtest.session import DAY_NS, Session
from daemon.core.books import exactly
from daemon.core.config import EngineConfig
from daemon.core.engine import Engine
from daemon.core.memory import Memory
from daemon.domain.events import Booked, Candles, Decide, Decided, Effect, Event, Flow, Proceed, Restored, Submit, Timer
from daemon.domain.market import Bar, BarFlag, Book, Closed, Ranged
from daemon.domain.orders import Fill, OrderState, OrderUpdate, Side
from daemon.domain.signal import NoReason
from risk.money import exact

ZERO: Final = Decimal(0)
MODE: Final = "backtest"
"""Enters the hash of client order ids: the twin's orders never carry the name of a recorded one."""


class Holdings(msgspec.Struct, frozen=True):
    """Cash and base amounts by symbol."""

    cash: Decimal
    positions: dict[str, Decimal]


class Told(msgspec.Struct):
    """What a twin decided, sent and got; numbers of decisions are those of the recorded run."""

    questions: dict[int, Decide] = {}
    answers: dict[int, Decided] = {}
    sent: list[Sent] = []
    executions: list[Execution] = []
    held: dict[int, Holdings] = {}
    """Holdings at the end of each interval, before the next ground; what the ground itself moved is taken out."""


class Twin(Engine):
    """The backtest's engine under observation; ``anchored``: put on the recorded ground before each recorded decision."""

    def __init__(
        self, config: EngineConfig, stretch: Stretch, panel: Panel, *, half_spread: float, anchored: bool
    ) -> None:
        super().__init__(config)
        self.told = Told()
        self.session: Session | None = None
        self._stretch = stretch
        self._panel = panel
        self._half_spread = exact(half_spread)
        self._anchored = anchored
        self._places = {one.decide.close_ns: at for at, one in enumerate(stretch.asked)}
        self._at = -1
        self._close_ns = 0
        self._inside = False
        self._inside_ids: set[str] = set()
        self._moved = Holdings(ZERO, {})
        self._flows = 0
        self._commands = 0

    def process(self, event: Event) -> tuple[Effect, ...]:
        """Take one event as every engine does; around decisions the ground is laid and noted what comes of it."""
        if isinstance(event, Candles) and event.interval_ns == DAY_NS:
            return ()  # those that the run was told are told instead: recorded bars seldom make up a year
        if isinstance(event, (Ranged, Timer, Closed)):
            self._inside = isinstance(event, Ranged)
        asked: tuple[Effect, ...] = ()
        if isinstance(event, Closed):
            asked = self._people(event)
            self._before(event)
        elif isinstance(event, Decided):
            self.told.answers[self._close_ns] = event
            self._before_plan()
        effects = asked + super().process(event)
        for effect in effects:
            self._hear(effect)
        if self._anchored and isinstance(event, (Decided, Proceed)) and not self.decisions.working:
            self._show_books({})
        return effects

    def _hear(self, effect: Effect) -> None:
        if isinstance(effect, Decide):
            self._close_ns = effect.close_ns
            self.told.questions[effect.close_ns] = effect
        elif isinstance(effect, Submit):
            for approved in effect.approved:
                self.told.sent.append(Sent(intent=approved.intent, at=self._at))
                if self._inside:
                    self._inside_ids.add(approved.intent.client_id)
        elif isinstance(effect, Booked) and effect.fill is not None:
            self.told.executions.append(self._met(effect.fill))

    def _met(self, fill: Fill) -> Execution:
        """Return an execution with the market the venue filled it at: the bar's open, a stop's price, a resting limit."""
        if fill.maker:
            return Execution(fill=fill, at=self._at, arrival=fill.price, touch=fill.price)
        if fill.client_id in self._inside_ids:
            sent = next(one for one in reversed(self.told.sent) if one.intent.client_id == fill.client_id)
            arrival = sent.intent.reference
        else:
            panel = self._panel
            place = int(np.searchsorted(panel.open_ns, fill.ts_event_ns, side="right")) - 1
            arrival = exact(float(panel.values[place, panel.symbols.index(fill.symbol), 0]))
        with exactly():
            touch = arrival * (1 + (self._half_spread if fill.side is Side.BUY else -self._half_spread))
        return Execution(fill=fill, at=self._at, arrival=arrival, touch=touch)

    # ------------------------------------------------------------------ the ground

    def _people(self, event: Closed) -> tuple[Effect, ...]:
        """Tell what people asked for since the last close; put on the recorded ground, the twin has it from there."""
        close_ns = event.bars[0].close_ns
        effects: tuple[Effect, ...] = ()
        while self._commands < len(self._stretch.commands):
            column, command = self._stretch.commands[self._commands]
            if column >= close_ns:
                break
            self._commands += 1
            if self._at >= 0 and not (self._anchored and close_ns in self._places):
                effects += super().process(msgspec.structs.replace(command, ts_ns=self.state.now_ns))
        return effects

    def _before(self, event: Closed) -> None:
        """Before a close: recorded flows and candles; anchored, or at the first decision, the recorded ground."""
        close_ns = event.bars[0].close_ns
        at = self._places.get(close_ns)
        if at is None:
            why = self._stretch.undecided.get(close_ns)
            paused = self._at >= 0 and (self._anchored or why == NoReason.PAUSED)
            self.state.paused = paused
            return
        if self._at >= 0:
            self.told.held[self._at] = self.holdings()
        asked = self._stretch.asked[at]
        first, self._at = self._at < 0, at
        self._tell_daily(asked.moment)
        self._moved = Holdings(ZERO, {})
        if self._anchored or first:
            self._stand(asked.moment)
            self._flows = sum(number < at for number, _ in self._stretch.flows)
        if self._anchored:
            self._show_books(asked.moment.books)
        else:
            self.state.paused = False
            self._bring(at)

    def _before_plan(self) -> None:
        """Before an answer is taken: the ground of that moment, which may have moved meanwhile."""
        at = self._places.get(self._close_ns)
        if not self._anchored or at is None:
            return
        asked = self._stretch.asked[at]
        plan, moment = asked.plan, asked.moment
        if plan is None:
            return
        with exactly():
            symbols = {*plan.positions, *moment.positions}
            moved = {s: plan.positions.get(s, ZERO) - moment.positions.get(s, ZERO) for s in symbols}
            self._moved = Holdings(plan.cash - moment.cash, moved)
        self._stand(plan)
        self._show_books(plan.books)

    def _stand(self, moment: Moment) -> None:
        """Take over holdings, orders and memory as a restart does; what the twin itself had under way ends.

        The twin decides at the close, the recorded engine somewhat later: what waits for a time waits as long as it did there.
        """
        state, now = self.state, self.state.now_ns
        later_ns = moment.ts_ns - now
        for order in list(state.blotter.live.values()):
            ended = OrderUpdate(
                client_id=order.intent.client_id,
                symbol=order.intent.symbol,
                state=OrderState.CANCELED,
                venue_id="",
                filled=order.booked,
                code="",
                source=MODE,
                ts_ns=now,
            )
            super().process(ended)
        memory = _earlier(msgspec.json.decode(moment.memory, type=Memory), later_ns)
        for name in [one for one in state.causes.latched() if one not in memory.causes]:
            state.causes.drop(name)
        for symbol in [one for one in state.exits.active if one not in memory.exits]:
            state.exits.finish(symbol)
        super().process(
            Restored(
                moment.epoch,
                moment.cash,
                tuple(moment.positions.items()),
                tuple(moment.entries.items()),
                moment.orders,
                msgspec.json.encode(memory).decode(),
                now,
                sent_ns=tuple(time_ns - later_ns for time_ns in moment.sent_ns),
            )
        )
        if self.session is not None:
            venue = self.session.venue
            venue.cancel_all(now)
            venue.balances.clear()
            venue.balances[self.config.quote] = moment.cash
            for symbol, qty in moment.positions.items():
                venue.balances[symbol.partition("/")[0]] = qty

    def _show_books(self, books: dict[str, Book]) -> None:
        """Show these books and no others; a bar's source has none, so a crossed one takes away what was shown."""
        now = self.state.now_ns
        for symbol in self.state.markets:
            book = books.get(symbol)
            shown = (
                Book(symbol, 1.0, 0.0, 1.0, 0.0, now)
                if book is None
                else Book(symbol, book.bid, book.bid_qty, book.ask, book.ask_qty, now)
            )
            super().process(shown)

    def _tell_daily(self, moment: Moment) -> None:
        """Tell the daily closes that the recorded run knew, when they are others than were told last."""
        for symbol, closes in moment.daily.items():
            if self.state.daily.get(symbol) != closes:
                values = array("d", closes)
                bars = tuple(Bar(symbol, 0, 0, c, c, c, c, 0.0, 0, -1, -1, BarFlag.BACKFILLED) for c in values)
                super().process(Candles(symbol, DAY_NS, bars, self.state.now_ns))

    def _bring(self, at: int) -> None:
        """Let come and go what came and went on the recorded account since the last decision."""
        while self._flows < len(self._stretch.flows) and self._stretch.flows[self._flows][0] < at:
            flow = self._stretch.flows[self._flows][1]
            self._flows += 1
            super().process(Flow(flow.asset, flow.amount, ours=True, detail=flow.detail, ts_ns=self.state.now_ns))
            if self.session is not None:
                self.session.venue.deposit(flow.asset, flow.amount)

    def brought(self, prices: Mapping[str, Decimal]) -> Decimal:
        """Return what the recorded flows have brought so far, at these prices."""
        quote = self.config.quote
        with exactly():
            return sum(
                (
                    flow.amount * (1 if flow.asset == quote else prices.get(f"{flow.asset}/{quote}", ZERO))
                    for at, flow in self._stretch.flows[: self._flows]
                    if at >= 0
                ),
                ZERO,
            )

    def holdings(self) -> Holdings:
        """Return what the twin holds now, less what a ground laid within the interval brought."""
        account = self.state.account
        with exactly():
            symbols = {*account.positions, *self._moved.positions}
            kept = {s: account.position(s) - self._moved.positions.get(s, ZERO) for s in symbols}
            return Holdings(account.cash - self._moved.cash, {s: qty for s, qty in kept.items() if qty})


def _earlier(memory: Memory, by_ns: int) -> Memory:
    """Return a memory whose cool-downs end, and whose repetitions happened, so much earlier."""
    stops, repeats = memory.stops, memory.repeats
    return msgspec.structs.replace(
        memory,
        stops=msgspec.structs.replace(stops, cooling=tuple((symbol, until - by_ns) for symbol, until in stops.cooling)),
        repeats=msgspec.structs.replace(
            repeats,
            buys={symbol: tuple(one - by_ns for one in times) for symbol, times in repeats.buys.items()},
            sells={symbol: tuple(one - by_ns for one in times) for symbol, times in repeats.sells.items()},
        ),
    )
