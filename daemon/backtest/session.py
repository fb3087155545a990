"""The daemon's engine on recorded bars: the same events, the same effects, with the worker's hop as an inline call.

Bar by bar:

1. *Open*: what was sent at the last close meets the venue; listings, ends and outages are told.
2. *Range*: while something is held, the bar's open, low, high and close are walked for stops; exits trade at once.
3. *Time*: losses and limits are judged at the close.
4. *Close*: the column is complete; the strategy decides; its orders leave, for the next open.

Nothing here trades: what is sent, stopped or refused is the engine's affair alone.
"""

from collections import deque
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Final

import msgspec
import numpy as np

from daemon.backtest.history import Panel
from daemon.backtest.longer import Longer, past_bars
from daemon.backtest.record import Record, Served, Worker
from daemon.backtest.venue import BarVenue, VenueConfig
from daemon.core.config import EngineConfig
from daemon.core.engine import Engine
from daemon.domain.events import (
    Action,
    Alert,
    Cancel,
    CancelAll,
    Candles,
    Command,
    Continue,
    Decide,
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
    Step,
    Submit,
    Timer,
    TradingState,
    WorkerUp,
)
from daemon.domain.market import NS_PER_S, Bar, BarFlag, Closed, Instrument, Ranged

LIVE, EMPTY = BarFlag.LIVE, BarFlag.EMPTY  # looked up in its class, a member costs as much as the bar that carries it
ACTIVE, HALTED = TradingState.ACTIVE, TradingState.HALTED
HOUR_NS: Final = 3_600 * NS_PER_S
DAY_NS: Final = 24 * HOUR_NS
DAILY_BARS: Final = 365
"""Daily candles the daemon asks its venue for."""
HOURLY_BARS: Final = 15
STUCK_WAIT_NS: Final = 2 * NS_PER_S
"""How long the daemon waits beyond the grace for a symbol whose bar does not come."""
CHUNK: Final = 2_048
"""Bars turned from an array into objects at once."""
ALERTS_MAX: Final = 10_000

Retrain = Callable[[int], Served | None]
"""Called at each close (ns): returns the model that is served from now on when it has changed."""


class Session:
    """One run over a panel.

    Parameters
    ----------
    config
        The engine's configuration; ``lag_max_ns`` should be 0, since time jumps from bar to bar.
    worker
        Answers ``Decide``.
    panel
        Bars, those that only warm up included.
    first
        Index of the first bar that is traded; decisions begin at its close.
    instruments
        Trading rules of every symbol.
    venue
        How orders are filled.
    cash
        Opening balance, quote currency.
    rearm_ns
        A latched halt lifts after so long.
    retrain
        Called before each decision; None: the model stays.
    delisted
        Time (ns) from which a symbol is no longer traded.
    """

    def __init__(  # noqa: PLR0913 - a run is what these say
        self,
        config: EngineConfig,
        worker: Worker,
        panel: Panel,
        *,
        first: int,
        instruments: Mapping[str, Instrument],
        venue: VenueConfig,
        cash: Decimal,
        rearm_ns: int,
        retrain: Retrain | None = None,
        delisted: Mapping[str, int] | None = None,
    ) -> None:
        self.engine = Engine(config)
        self.config = config
        self.record = Record()
        self._worker = worker
        self._panel = panel
        self._first = first
        self._rules = dict(instruments)
        self._listed: dict[str, Instrument] = {}
        self._cash = cash
        self._rearm_ns = rearm_ns
        self._retrain = retrain
        self._delisted = dict(delisted or {})
        self.venue = self._make_venue(venue)
        self._waiting: deque[Event] = deque()
        self._busy = False
        self._inside = False
        self._now_ns = 0
        self._halted_ns = 0
        self._open_weights: list[int] = []
        present = ~np.isnan(panel.values[:, :, 3])
        self._traded = [bool(row.any()) for row in present]
        self._begin = [int(column.argmax()) if column.any() else len(column) for column in present.T]
        self._end = [len(column) - int(column[::-1].argmax()) if column.any() else 0 for column in present.T]
        ends = [
            (at - int(panel.open_ns[0])) // panel.bar_ns + step for at in self._delisted.values() for step in (0, 1)
        ]
        outages = (place for place, traded in enumerate(self._traded) if not traded)
        self._turns = frozenset((first, *self._begin, *self._end, *ends, *outages))
        """Places at which somebody may begin or cease to be traded, or nobody is."""
        self._open_ns: list[int] = panel.open_ns.tolist()
        self._daily = Longer(panel, DAY_NS, DAILY_BARS, piecemeal=True)
        self._hourly = Longer(panel, HOUR_NS, HOURLY_BARS) if config.limits.volatility_stop else None

    def _make_venue(self, config: VenueConfig) -> BarVenue:
        return BarVenue(emit=self._emit, instruments=self._listed, config=config)

    # ------------------------------------------------------------------ the run

    def run(self, progress: Callable[[int, int], None] = lambda _done, _all: None) -> Record:
        """Run to the end of the panel; ``progress`` hears of bars done and all bars now and then."""
        panel, first = self._panel, self._first
        self._open()
        total = len(panel.open_ns) - first
        for at in range(first, len(panel.open_ns), CHUNK):
            rows = panel.values[at : at + CHUNK].tolist()
            for place, row in enumerate(rows, start=at):
                self._bar(place, row)
            progress(min(at + CHUNK - first, total), total)
        self._settle_weights()
        return self.record

    def _open(self) -> None:
        """Start as the daemon does: memory, rules, money, links, history, comparison, worker."""
        now = self._now_ns = int(self._panel.open_ns[self._first])
        quote = self.config.quote
        self.venue.deposit(quote, self._cash)
        self._emit(Restored(1, Decimal(0), (), (), (), "", now))
        self._list(self._first, now)
        self._emit(Flow(quote, self._cash, ours=True, detail="opening balance", ts_ns=now))
        self._emit(Link("user", up=True, detail="", ts_ns=now))
        self._emit(Link("market", up=True, detail="", ts_ns=now))
        for number, symbol in enumerate(self._panel.symbols):
            begin = max(self._begin[number], self._first - self.config.backfill_bars)
            self._emit(
                History(symbol, past_bars(self._panel, number, begin, self._first), (), -1, partial=False, ts_ns=now)
            )
        self._candles(self._first, now, always=True)
        self._emit(Reconciled(ok=True, balances=(), breaks=(), external_orders=0, ts_ns=now))
        served = (self._retrain(now) if self._retrain is not None else None) or self._worker.ready
        self._emit(WorkerUp(served.model, served.trained_ns, now))
        self._note(now)

    def _bar(self, place: int, row: list[list[float]]) -> None:
        """Live through one bar."""
        panel = self._panel
        open_ns = self._open_ns[place]
        close_ns = open_ns + panel.bar_ns
        if not self._enter(place, open_ns):
            return
        bars = self._bars(place, row, open_ns, close_ns)
        self._now_ns = open_ns
        opened = not self.venue.idle
        if opened:
            self.venue.open({bar.symbol: bar for bar in bars}, open_ns)
        if self._open_weights:
            self._settle_weights()
        now = self._now_ns = close_ns
        if self._eventful(close_ns):
            if not opened:
                self.venue.open({bar.symbol: bar for bar in bars}, open_ns)
            self._through(bars, now)
            self._emit(Timer(now, now))
        self._due(place, close_ns, now)
        if len(bars) < len(panel.symbols):  # only now: the grace passed before would close by time what has trades
            now = self._now_ns = close_ns + self.config.grace_ns + min(panel.bar_ns // 2, STUCK_WAIT_NS)
        self._emit(Closed(bars, now))
        self._note(close_ns)

    def _enter(self, place: int, open_ns: int) -> bool:
        """Tell what a bar begins with: listings, ends, the end of an outage. False where nobody has it: that is an outage."""
        if place not in self._turns and self.engine.state.links["market"]:
            return True
        if not self._traded[place]:
            self._outage(open_ns)
            return False
        self._list(place, open_ns)
        self._back(open_ns)
        return True

    def _due(self, place: int, close_ns: int, now: int) -> None:
        """Do what is due at a close before it is decided on: longer candles, training, the end of a halt."""
        if close_ns % HOUR_NS == 0:  # no longer candle closes within an hour
            self._candles(place + 1, now)
        if self._retrain is not None:
            served = self._retrain(close_ns)
            if served is not None:
                self._emit(WorkerUp(served.model, served.trained_ns, now))
        if self._halted_ns or self.engine.state.causes.state is HALTED:
            self._rearm(now)

    def _eventful(self, close_ns: int) -> bool:
        """Say whether prices within the bar, and time, can change anything before its close is decided on."""
        state = self.engine.state
        return bool(
            state.account.positions
            or state.blotter.live
            or state.exits.active
            or close_ns % DAY_NS == 0
            or state.causes.state is not ACTIVE
        )

    def _through(self, bars: tuple[Bar, ...], now: int) -> None:
        """Walk the bar for stops; exits trade where they were asked for."""
        self._inside = True
        self._emit(Ranged(bars, now))
        self._inside = False

    def _outage(self, open_ns: int) -> None:
        """Live through a bar nobody has: what was sent finds no market, nothing is heard until it is back."""
        if self.engine.state.links["market"]:
            self.record.outages += 1
            self._emit(Link("market", up=False, detail="no data", ts_ns=open_ns))
        self._now_ns = open_ns
        self.venue.open({}, open_ns)
        self._settle_weights()
        self._note(open_ns + self._panel.bar_ns)

    def _bars(self, place: int, row: list[list[float]], open_ns: int, close_ns: int) -> tuple[Bar, ...]:
        """Return the bars of the listed symbols, EMPTY where there was no trade."""
        bars: list[Bar] = []
        for number, symbol in enumerate(self._panel.symbols):
            o, h, low, c, v = row[number]
            if c == c:  # noqa: PLR0124 - NaN is the only number that differs from itself
                bars.append(Bar(symbol, open_ns, close_ns, o, h, low, c, v, 1, -1, -1, LIVE if v else EMPTY))
            elif self._begin[number] < place < self._end[number]:
                last = self.engine.state.markets[symbol].last
                bars.append(Bar(symbol, open_ns, close_ns, last, last, last, last, 0.0, 0, -1, -1, EMPTY))
        return tuple(bars)

    def _back(self, until_ns: int) -> None:
        """Tell the engine the empty bars of an outage that is over: closed long ago, so nothing is decided on them."""
        if self.engine.state.links["market"]:
            return
        self._emit(Link("market", up=True, detail="", ts_ns=until_ns))
        step = self._panel.bar_ns
        markets = self.engine.state.markets
        ends = {symbol: market.bar for symbol, market in markets.items() if market.bar is not None}
        newest = max((bar.close_ns for bar in ends.values()), default=until_ns)
        for close_ns in range(newest + step, until_ns + 1, step):
            bars = tuple(
                Bar(s, close_ns - step, close_ns, b.close, b.close, b.close, b.close, 0.0, 0, -1, -1, EMPTY)
                for s, b in ends.items()
                if b.close_ns == newest
            )
            self._emit(Closed(bars, until_ns + self._panel.bar_ns))

    # ------------------------------------------------------------------ what changes beside prices

    def _list(self, place: int, now: int) -> None:
        """Tell what is traded from this bar on: listings, ends of data, delistings."""
        changed: list[Instrument] = []
        for number, symbol in enumerate(self._panel.symbols):
            gone = self._delisted.get(symbol, now + 1) <= now
            trading = self._begin[number] <= place < self._end[number] and not gone
            known = self._listed.get(symbol)
            if known is None and not trading:
                continue
            if known is None or known.trading != trading:
                rules = msgspec.structs.replace(self._rules[symbol], trading=trading)
                self._listed[symbol] = rules
                changed.append(rules)
        if changed:
            self._emit(Listed(tuple(changed), now))

    def _candles(self, place: int, now: int, *, always: bool = False) -> None:
        """Send daily (and hourly) candles when one has closed, as the daemon fetches them then."""
        boundary = int(self._panel.open_ns[0]) + place * self._panel.bar_ns
        for kept in (self._daily, self._hourly):
            if kept is None or (boundary % kept.interval_ns and not always):
                continue
            for number, symbol in enumerate(self._panel.symbols):
                bars, follows = kept.news(number, boundary)
                if bars:
                    self._emit(Candles(symbol, kept.interval_ns, bars, now, follows))

    def _rearm(self, now: int) -> None:
        """Count latched halts and lift each after its time."""
        causes = self.engine.state.causes
        if causes.state is not HALTED or not causes.latched():
            self._halted_ns = 0
        elif not self._halted_ns:
            self._halted_ns = now
            self.record.halts += 1
        elif now - self._halted_ns >= self._rearm_ns:
            self._halted_ns = 0
            self._emit(Command("rearm", Action.RESUME, "backtest", now))

    # ------------------------------------------------------------------ events and effects

    def _emit(self, event: Event) -> None:
        """Process one event now, or after the one being processed."""
        waiting = self._waiting
        if self._busy:
            waiting.append(event)
            return
        self._busy = True
        process = self.engine.process
        try:
            while True:
                effects = process(event)
                if effects:
                    self._serve(effects)
                if not waiting:
                    return
                event = waiting.popleft()
        finally:
            self._busy = False

    def _serve(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            kind = type(effect)
            if kind is Decide:
                self._emit(self._worker.decide(effect))  # type: ignore[arg-type]
            elif kind is Step:
                if effect.approved:  # type: ignore[union-attr]
                    self._open_weights.append(len(self.record.steps))
                self.record.steps.append(effect)  # type: ignore[arg-type]
            elif kind is Submit:
                self._submit(effect)  # type: ignore[arg-type]
            elif kind is Continue:
                self._emit(Proceed(self._now_ns))
            elif kind is Seed:
                self._worker.seed(effect)  # type: ignore[arg-type]
            elif kind is Cancel:
                self.venue.cancel(effect.client_id, self._now_ns)  # type: ignore[union-attr]
            elif kind is CancelAll:
                self.venue.cancel_all(self._now_ns)
            elif kind is Alert:
                self._hear(effect)  # type: ignore[arg-type]

    def _submit(self, submit: Submit) -> None:
        self.record.orders += len(submit.approved)
        self.record.refused += len(submit.refused)
        place = self.venue.exit_now if self._inside else self.venue.send
        for approved in submit.approved:
            place(approved)

    def _hear(self, alert: Alert) -> None:
        self.record.alert_counts[alert.code] += 1
        if len(self.record.alerts) < ALERTS_MAX:
            self.record.alerts.append(alert)

    def _note(self, time_ns: int) -> None:
        state, record = self.engine.state, self.record
        account = state.account
        equity = state.equity() if account.positions else account.cash
        record.times_ns.append(time_ns)
        record.equity.append(equity if equity is not None else record.equity[-1])
        record.cash.append(account.cash)

    def _settle_weights(self) -> None:
        """Note the weights after the orders of the last decisions have traded."""
        if not self._open_weights:
            return
        state = self.engine.state
        equity = state.equity()
        weights = state.weights(equity) if equity is not None else (0.0,) * len(state.symbols)
        self.record.weights.extend((step, weights) for step in self._open_weights)
        self._open_weights.clear()
