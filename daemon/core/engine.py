"""The deterministic heart: one event in, a tuple of effects out; nothing else changes state.

ticks, books, timers ─▶ Markets ─▶ columns ─▶ Decisions ─▶ plan ─▶ gate ─▶ Submit
└──────────▶ stops ──▶ ExitDesk ───────────────▶ plan ─▶ gate ─▶ Submit
acks, fills, answers ─▶ blotter, account
"""

from collections.abc import Callable
from typing import ClassVar, Never

from daemon.core import causes as cause
from daemon.core.barrier import Barrier
from daemon.core.breaks import told
from daemon.core.config import EngineConfig
from daemon.core.decisions import Decisions
from daemon.core.exitdesk import ExitDesk
from daemon.core.markets import Markets
from daemon.core.memory import recall, remember
from daemon.core.orderdesk import OrderDesk
from daemon.core.pack import closes_after
from daemon.core.ranges import judge_range
from daemon.core.silence import silence
from daemon.core.state import State
from daemon.core.submit import known_or_nan
from daemon.domain.events import (
    Action,
    Alert,
    Booked,
    Candle,
    Candles,
    Command,
    Confirmed,
    Decided,
    Denied,
    Effect,
    Event,
    Fault,
    Flow,
    History,
    Killed,
    Link,
    Listed,
    Persist,
    Proceed,
    Reconciled,
    Repair,
    Restored,
    StateChanged,
    Timer,
    TradingState,
    WorkerDown,
    WorkerUp,
)
from daemon.domain.events import CancelAll as CancelAllOrders
from daemon.domain.market import NS_PER_S, Book, Closed, Malformed, Ranged, Tick
from daemon.domain.orders import Cause, Fill, OrderUpdate
from risk.money import ZERO, exact

NONE: tuple[Effect, ...] = ()
LOSS_EVERY_NS = NS_PER_S
DAY_NS = 86_400 * NS_PER_S
LAG_CLEAR_NS = 5 * NS_PER_S
"""How long time must pass evenly again before a lagging loop is forgiven."""
PAUSE_NS = 10 * NS_PER_S
"""Away for longer than this (a suspended machine), ledger and venue are compared before exposure may grow (F45)."""
WOUND_UP = frozenset({Cause.FLATTEN, Cause.DRAWDOWN})
DEAD_MAN = "deadman"
FIREWALL = "firewall"
"""The link to the venue's own dead-man switch: its loss is told, and nothing else (A3)."""


class Engine:
    """The same engine live, in paper, in replay and in the backtest; what differs are the ports around it."""

    def __init__(self, config: EngineConfig) -> None:
        """Start empty and HALTED; the first event must be ``Restored``."""
        self.config = config
        self.state = State(config)
        self.markets = Markets(config, self.state.markets)
        self.exits = ExitDesk(config, self.state)
        self.orders = OrderDesk(config, self.state, self.exits)
        self.decisions = Decisions(config, self.state, self.markets.columns)
        self.barrier = Barrier(self.state, self.markets, self.decisions)
        self._losses_ns = 0
        self._timer_ns = 0
        self._lag_until_ns = 0
        self._woke_ns = 0
        self._shown: tuple[TradingState, tuple[str, ...]] = (self.state.causes.state, self.state.causes.names)
        self._remembered = ""

    def process(self, event: Event) -> tuple[Effect, ...]:
        """Take one event and return what it asks the world to do."""
        if type(event) is Tick:
            return self.on_tick(event)
        state = self.state
        if type(event) is Book:
            if event.ts_recv_ns > state.now_ns:  # noqa: PLR1730 - as for trades
                state.now_ns = event.ts_recv_ns
            self.markets.book(event)
            return NONE
        if type(event) is not Fill:
            ts_ns = event.ts_recv_ns if type(event) is Malformed else event.ts_ns  # type: ignore[union-attr]  # the rest has it
            state.now_ns = max(state.now_ns, ts_ns)
        effects = self.HANDLERS[type(event)](self, event)  # type: ignore[arg-type]  # the table pairs types with what takes them
        effects += self.barrier.look()
        if state.causes.names is not self._shown[1]:  # a new tuple with every change, the empty one apart
            effects += self._show()
        return effects

    # ------------------------------------------------------------------ the hot path

    def on_tick(self, tick: Tick) -> tuple[Effect, ...]:
        """Take one trade: ``process`` without the choice, for the runner's hot path."""
        state = self.state
        if tick.ts_recv_ns > state.now_ns:  # noqa: PLR1730 - max() would be a call for each trade
            state.now_ns = tick.ts_recv_ns
        effects = self.markets.tick(tick)
        hit = state.stops.on_price(tick.symbol, self.markets.believed, tick.ts_recv_ns)
        if hit is not None:
            effects += self.exits.stop(hit) + self._persist()
        if effects:
            effects += self.barrier.look()
        return effects

    # ------------------------------------------------------------------ everything else

    def _closed(self, event: Closed) -> tuple[Effect, ...]:
        self.markets.closed(event)
        return NONE

    def _ranged(self, event: Ranged) -> tuple[Effect, ...]:
        hits = judge_range(event, state=self.state, markets=self.markets, exits=self.exits)
        return hits + self._persist() if hits else NONE

    def _candle(self, event: Candle) -> tuple[Effect, ...]:
        self.markets.candle(event)
        return NONE

    def _candles(self, event: Candles) -> tuple[Effect, ...]:
        if event.interval_ns == DAY_NS:
            daily = self.state.daily
            daily[event.symbol] = closes_after(daily.get(event.symbol, b""), event.follows, event.bars)
            self.decisions.new_days = True
        else:
            self.exits.candles(event)
        return NONE

    def _confirmed(self, event: Confirmed) -> tuple[Effect, ...]:
        effects = self.markets.confirmed(event)
        hit = self.state.stops.on_price(event.symbol, self.markets.believed, event.ts_ns)
        return effects if hit is None else effects + self.exits.stop(hit) + self._persist()

    def _link(self, event: Link) -> tuple[Effect, ...]:
        if event.feed == FIREWALL:  # told, and no state: the next request shows whether it is gone
            return (Alert(FIREWALL, event.detail, "", event.ts_ns),)
        self.state.links[event.feed] = event.up
        if event.feed == DEAD_MAN and not event.up:
            return (Alert("dead_man_down", event.detail, "", event.ts_ns),)
        return self.markets.link(event) if event.feed == "market" else NONE

    def _listed(self, event: Listed) -> tuple[Effect, ...]:
        for instrument in event.instruments:
            if instrument.symbol in self.state.markets:
                self.state.markets[instrument.symbol].instrument = instrument
        if event.orders_per_10s:
            self.state.gate.venue_allows(event.orders_per_10s)
        return NONE

    def _fill(self, event: Fill) -> tuple[Effect, ...]:
        effects = self.orders.fill(event)
        # P7 survives a crash right behind the execution that counted: its row and the count are written together.
        return effects + self._persist() if self.config.limits.max_repeats else effects

    def _malformed(self, event: Malformed) -> tuple[Effect, ...]:
        self.markets.malformed(event)
        return NONE

    def _fault(self, event: Fault) -> tuple[Effect, ...]:
        name = cause.OF_TASK.get(event.task, cause.FAULT)
        self.state.causes.put(name, TradingState.HALTED)
        return (Alert(name, event.detail, "", event.ts_ns),)

    def _worker_up(self, event: WorkerUp) -> tuple[Effect, ...]:
        self.state.model = event.model
        self.state.model_trained_ns = event.model_trained_ns
        return self.decisions.worker_up()

    def _worker_down(self, event: WorkerDown) -> tuple[Effect, ...]:
        self.decisions.worker_down()
        return (Alert("worker_down", event.detail, "", event.ts_ns),)

    # ------------------------------------------------------------------ time

    def _timer(self, event: Timer) -> tuple[Effect, ...]:
        state = self.state
        now_ns = event.ts_ns
        state.offset_ns = now_ns - event.exchange_ns
        effects = self._lag(now_ns) + self.markets.timer(event)
        offset_bad = abs(state.offset_ns) > self.config.limits.max_clock_offset_ns
        silent, links, causes = bool(silence(state)), state.links, state.causes
        down = not (links["rest"] and links["ledger"] and links["user"])
        if offset_bad or silent or down or causes.names:  # else there is none and none to be
            causes.keep(cause.CLOCK, TradingState.REDUCING, active=offset_bad)
            causes.keep(cause.REST_DOWN, TradingState.REDUCING, active=not links["rest"])
            causes.keep(cause.LEDGER, TradingState.HALTED, active=not links["ledger"])
            causes.keep(cause.USER_STREAM, TradingState.REDUCING, active=not links["user"])
            causes.keep(cause.STALE_FEED, TradingState.REDUCING, active=silent)
        if now_ns - self._losses_ns >= LOSS_EVERY_NS:
            self._losses_ns = now_ns
            effects += self._losses(now_ns) + self.orders.withdraw(now_ns) + self._persist()
        effects += self.decisions.timer(now_ns)
        return effects + self.exits.timer(now_ns)

    def _lag(self, now_ns: int) -> tuple[Effect, ...]:
        """Notice that time jumped: what came meanwhile waits unread, so nothing from before is believed (F45, F52)."""
        state, bound_ns = self.state, self.config.lag_max_ns
        gap_ns = now_ns - self._timer_ns if self._timer_ns else 0
        self._timer_ns = now_ns
        effects: tuple[Effect, ...] = NONE
        if bound_ns and gap_ns > bound_ns and cause.STARTING not in state.causes:
            self._lag_until_ns = now_ns + LAG_CLEAR_NS
            self._woke_ns = now_ns if gap_ns > PAUSE_NS else self._woke_ns
            effects = self.markets.doubt(now_ns)
        lagging = now_ns < self._lag_until_ns or state.reconciled_ns < self._woke_ns
        if lagging or state.causes.names:
            state.causes.keep(cause.LOOP_LAG, TradingState.REDUCING, active=lagging)
        return effects

    def silence(self) -> str:
        """Return why the market data as a whole cannot be trusted, "" when it can."""
        return silence(self.state)

    def _losses(self, now_ns: int) -> tuple[Effect, ...]:
        state = self.state
        if now_ns // DAY_NS != state.day:
            state.day = now_ns // DAY_NS
            state.turnover_day = 0.0
        if cause.STARTING in state.causes:
            return NONE
        effects = self._wind_up(now_ns)
        equity = state.equity()
        if equity is None or equity <= 0:
            return effects
        state.losses = state.drawdown.update(equity, now_ns)
        state.causes.keep(cause.DAILY_LOSS, TradingState.REDUCING, active=state.losses.daily_loss_hit)
        if not state.losses.drawdown_hit or cause.DRAWDOWN in state.causes:
            return effects
        state.causes.put(cause.DRAWDOWN, TradingState.REDUCING)
        detail = f"drawdown {state.losses.drawdown:.1%} reached the limit: everything is sold, then trading halts"
        alert = Alert("drawdown", detail, "", now_ns)
        return (*effects, alert, CancelAllOrders("drawdown"), *self.exits.all(Cause.DRAWDOWN, now_ns))

    def _wind_up(self, now_ns: int) -> tuple[Effect, ...]:
        """After a drawdown: REDUCING while anything can still be sold or bought, HALTED when flat (A9)."""
        state = self.state
        if cause.DRAWDOWN not in state.causes:
            return NONE
        begun = self.exits.begin(Cause.DRAWDOWN, now_ns)
        going = bool(state.exits.active or state.blotter.live)
        state.causes.put(cause.DRAWDOWN, TradingState.REDUCING if going else TradingState.HALTED)
        return begun

    # ------------------------------------------------------------------ start, reconciliation, flows

    def _restored(self, event: Restored) -> tuple[Effect, ...]:
        state = self.state
        state.epoch = event.epoch
        state.account.restore(event.cash, event.positions, event.entries, event.fill_keys)
        state.blotter.restore(event.orders)
        state.gate.restore(event.sent_ns)
        effects: tuple[Effect, ...] = NONE
        try:
            recall(state, event.state_json)
        except ValueError as error:
            state.causes.put(cause.FAULT, TradingState.HALTED)
            effects = (Alert("memory_lost", f"peaks, stops and latches cannot be read: {error}", "", event.ts_ns),)
        remembered = {one.symbol for one in state.stops.snapshot().guarded} | {one.symbol for one in state.stops.hits()}
        for symbol in sorted(remembered - state.account.positions.keys()):
            state.stops.set_position(symbol, ZERO, 0.0)
        for symbol, qty in state.account.positions.items():
            state.stops.set_position(symbol, qty, state.account.entries.get(symbol, 0.0))
        return effects

    def _reconciled(self, event: Reconciled) -> tuple[Effect, ...]:
        state = self.state
        state.reconciled_ns = event.ts_ns
        state.breaks = len(event.breaks)
        state.causes.keep(cause.BREAK, TradingState.REDUCING, active=not event.ok)
        lasting = state.break_clocks.see(event)
        effects: tuple[Effect, ...] = NONE
        if event.external_orders > state.external_orders:
            detail = f"{event.external_orders} open orders on the account are not ours; they are left alone"
            effects = (Alert("external_orders", detail, "", event.ts_ns),)
        state.external_orders = event.external_orders
        if event.ok:
            state.causes.drop(cause.STARTING)
            return effects
        if not event.breaks:
            state.causes.put(cause.SECOND_WRITER, TradingState.HALTED)
        if lasting and state.causes.put(cause.PERSISTENT_BREAK, TradingState.HALTED):
            detail = f"nobody explains what ledger and exchange differ in: {', '.join(lasting)}; `resume` lifts it"
            effects += (Alert(cause.PERSISTENT_BREAK, detail, "", event.ts_ns),)
        what = "; ".join(f"{asset}: ledger {ours}, exchange {theirs}" for asset, ours, theirs in event.breaks)
        return (*effects, Alert("reconcile_break", what or "orders with our prefix that are not ours", "", event.ts_ns))

    def _flow(self, event: Flow) -> tuple[Effect, ...]:
        if event.ours:
            value = event.amount
            if event.asset != self.config.quote:
                value *= exact(self.state.price(f"{event.asset}/{self.config.quote}"))
            self.state.drawdown.flow(value, known_or_nan(self.state.equity()))
            self.state.account.flow(event.asset, event.amount)
            if event.asset != self.config.quote:
                self.exits.position_changed(f"{event.asset}/{self.config.quote}")  # no position is ever without a stop
        alert = told(event)
        return (Booked(None, event),) if alert is None else (Booked(None, event), alert)

    # ------------------------------------------------------------------ people

    def _command(self, event: Command) -> tuple[Effect, ...]:
        state = self.state
        match event.action:
            case Action.PAUSE:
                state.paused = True
            case Action.RESUME:
                state.paused = False
                if cause.DRAWDOWN in state.causes:
                    state.drawdown.rearm()
                if cause.REPEATED in state.causes:
                    state.repeats.clear()
                state.causes.resume()
                state.break_clocks.forgive()
                state.exits.abandon(WOUND_UP)
            case Action.REDUCE_ONLY:
                state.causes.put(cause.OPERATOR_REDUCE, TradingState.REDUCING)
            case Action.FLATTEN:
                state.causes.put(cause.OPERATOR_FLATTEN, TradingState.REDUCING)
                return (CancelAllOrders("flatten"), *self.exits.all(Cause.FLATTEN, event.ts_ns))
            case Action.KILL:
                return self._killed(Killed(True, f"command from {event.source}", event.ts_ns))
        return NONE

    def _killed(self, event: Killed) -> tuple[Effect, ...]:
        causes = self.state.causes
        if not event.on:
            causes.drop(cause.KILL)
            return NONE
        news = causes.put(cause.KILL, TradingState.HALTED)
        alert: tuple[Effect, ...] = (Alert("kill", event.detail, "", event.ts_ns),) if news else NONE
        return (CancelAllOrders("kill"), *alert)  # also when remembered: the last session may not have got that far

    def _show(self) -> tuple[Effect, ...]:
        """Report the trading state when it changed, and persist what must survive a restart when that changed."""
        causes = self.state.causes
        shown = (causes.state, causes.names)
        effects: tuple[Effect, ...] = NONE
        if shown != self._shown:
            self._shown = shown
            changed = StateChanged(*shown, self.state.now_ns)
            effects = (changed, *self.orders.withdraw(self.state.now_ns), *self._persist())
        return effects

    def _persist(self) -> tuple[Effect, ...]:
        """Return the effect that makes the engine's memory durable, empty when nothing changed."""
        memory = remember(self.state)
        if memory == self._remembered:
            return NONE
        self._remembered = memory
        return (Persist(memory),)

    HANDLERS: ClassVar[dict[type, Callable[["Engine", Never], tuple[Effect, ...]]]] = {
        Timer: _timer,
        Closed: _closed,
        Ranged: _ranged,
        History: lambda self, event: self.markets.history(event) + self.exits.position_changed(event.symbol),
        Repair: lambda self, event: self.markets.repair(event),
        Candle: _candle,
        Candles: _candles,
        Confirmed: _confirmed,
        Link: _link,
        Listed: _listed,
        Malformed: _malformed,
        OrderUpdate: lambda self, event: self.orders.update(event),
        Fill: _fill,
        Decided: lambda self, event: self.decisions.decided(event),
        Proceed: lambda self, _event: self.decisions.proceed() + self.barrier.proceed(),
        Denied: lambda self, event: self.orders.denied(event),
        Command: lambda self, event: (
            *self._command(event),
            *self._persist(),
        ),  # a word survives a crash right after it
        Killed: _killed,
        Fault: _fault,
        Restored: _restored,
        Reconciled: _reconciled,
        Flow: _flow,
        WorkerUp: _worker_up,
        WorkerDown: _worker_down,
    }
    """What takes each event; ticks and books have their own, shorter way."""
