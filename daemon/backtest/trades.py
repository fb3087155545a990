"""The backtest on recorded trades: every trade goes through the engine as it did live, bars are built from them.

Candles still give the timeline, the warm-up and the outages. What nobody recorded, the best bid and ask, is put around the last
trade at half of ``backtest.spread_bps`` and told with each second that matters, as a venue's stream would.
"""

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

from daemon.backtest.data.trades import Trades
from daemon.backtest.history import Panel
from daemon.backtest.record import Worker
from daemon.backtest.session import STUCK_WAIT_NS, Session
from daemon.backtest.venue import BarVenue, VenueConfig
from daemon.core.config import EngineConfig
from daemon.domain.events import Confirmed, ConfirmQuiet, Effect, Event, Timer
from daemon.domain.market import LOTS_PER_UNIT, NS_PER_MS, NS_PER_S, Bar, BarFlag, Book, Instrument, Tick
from daemon.domain.orders import Approved
from daemon.matching.bars import Costs
from daemon.matching.model import Match, traded_through

TURN_NS: Final = 50 * NS_PER_MS
"""The daemon's timer."""


class TradeVenue(BarVenue):
    """Fills orders from trades: an order meets the first trade of its symbol after its latency.

    The law of impact and the share that may be taken refer to the volume of the bar before; where that had none, nothing is
    taken. A resting order fills when a trade goes through it by a tick, at its limit and at most by the trade's own size.
    """

    def __init__(
        self, *, emit: Callable[[Event], None], instruments: Mapping[str, Instrument], config: VenueConfig
    ) -> None:
        """Start without money and orders."""
        super().__init__(emit=emit, instruments=instruments, config=config)
        self._volumes: Mapping[str, float] = {}

    def begin(self, volumes: Mapping[str, float]) -> None:
        """Take the volumes (base units, no NaN) that the orders of the bar now beginning are measured by."""
        self._volumes = volumes
        self._taken.clear()

    def send(self, approved: Approved) -> None:
        """Take an order; it meets the market after the latency."""
        order = self._order(approved)
        order.due_ns = approved.ts_ns + self._config.latency_ns
        self._travelling.append(order)

    def on_tick(self, tick: Tick) -> None:
        """Let what is due meet a trade, and what rests be traded through by it."""
        for order in [
            one for one in self._travelling if one.intent.symbol == tick.symbol and one.due_ns <= tick.ts_recv_ns
        ]:
            self._travelling.remove(order)
            volume = self._volumes.get(tick.symbol, 0.0)
            price = tick.price
            bar = Bar(tick.symbol, 0, 0, price, price, price, price, volume, 1, -1, -1, BarFlag.LIVE)
            self._arrive(order, bar, price, tick.ts_recv_ns)
        if not self._resting:
            return
        left = Decimal(tick.lots) / LOTS_PER_UNIT
        at = Decimal(repr(tick.price))
        for order in [one for one in self._resting.values() if one.intent.symbol == tick.symbol]:
            intent, rules = order.intent, self._instruments[tick.symbol]
            qty = min(order.left, left // rules.step * rules.step if rules.step else left)
            if qty <= 0 or not traded_through(intent.side, intent.limit, at, rules.tick):
                continue
            left -= qty
            self._execute(order, Match(intent.limit, qty), float(intent.limit), maker=True, ts_ns=tick.ts_recv_ns)
            if not order.left:
                self._resting.pop(intent.client_id, None)


class TradeSession(Session):
    """A session over trades; ``panel`` holds the candles of the same time.

    Parameters
    ----------
    trades
        Per symbol its trades in id order, in chunks (``daemon.backtest.data.trade_reader.read_trades``), from the first
        traded bar on.

    The other parameters are those of ``Session``.
    """

    venue: TradeVenue

    def __init__(
        self,
        config: EngineConfig,
        worker: Worker,
        panel: Panel,
        *,
        trades: Mapping[str, Iterable[Trades]],
        **rest: Any,
    ) -> None:
        super().__init__(config, worker, panel, **rest)
        self._ticks = heapq.merge(*(ticks(symbol, chunks) for symbol, chunks in trades.items()), key=_time)
        self._next = next(self._ticks, None)
        self._costs: Costs = rest["venue"].costs
        self._timer_ns = 0

    def _make_venue(self, config: VenueConfig) -> TradeVenue:
        return TradeVenue(emit=self._emit, instruments=self._listed, config=config)

    def _open(self) -> None:
        if self._first:
            self._measure(self._panel.values[self._first - 1].tolist())
        super()._open()

    def _bar(self, place: int, row: list[list[float]]) -> None:
        """Live through the trades of one bar, up to the decision on it."""
        panel = self._panel
        open_ns = int(panel.open_ns[place])
        close_ns = open_ns + panel.bar_ns
        if not self._enter(place, open_ns):
            return
        self._until(close_ns)
        self._measure(row)
        self._books(close_ns)
        self._settle_weights()
        self._due(place, close_ns, self._now_ns)
        self._note(close_ns)
        late_ns = close_ns + self.config.grace_ns
        for now in (late_ns, late_ns + TURN_NS, late_ns + min(panel.bar_ns // 2, STUCK_WAIT_NS) + TURN_NS):
            if self.engine.decisions.last_close_ns < close_ns:
                self._until(now)
                self._tick_clock(now)

    def _measure(self, row: list[list[float]]) -> None:
        """Let the volumes of a bar that is over measure the orders of the next one: its own are not known yet."""
        volumes = {symbol: row[at][4] for at, symbol in enumerate(self._panel.symbols)}
        self.venue.begin({symbol: 0.0 if math.isnan(volume) else volume for symbol, volume in volumes.items()})

    def _until(self, time_ns: int) -> None:
        """Process the trades before a time; while something is held or under way, the clock ticks every second."""
        venue = self.venue
        while self._next is not None and self._next.ts_recv_ns < time_ns:
            tick, self._next = self._next, next(self._ticks, None)
            if self._eventful(1):
                if tick.ts_recv_ns - self._timer_ns >= NS_PER_S:
                    self._tick_clock(tick.ts_recv_ns)
                self._book(tick.symbol, tick.price, tick.ts_recv_ns)  # each trade moves the touch
            self._now_ns = tick.ts_recv_ns
            self._emit(tick)
            if not venue.idle:
                venue.on_tick(tick)
        self._now_ns = max(self._now_ns, time_ns)

    def _tick_clock(self, now: int) -> None:
        """Tell the touch of every symbol, then the time."""
        self._timer_ns = self._now_ns = now
        self._books(now)
        self._emit(Timer(now, now))

    def _books(self, now: int) -> None:
        """Tell the touch around every symbol's last trade."""
        for market in self.engine.state.markets.values():
            if market.last > 0.0:
                self._book(market.symbol, market.last, now)

    def _book(self, symbol: str, price: float, now: int) -> None:
        half = self._costs.half_spread or 1e-9
        self._emit(Book(symbol, price * (1.0 - half), 1.0, price * (1.0 + half), 1.0, now))

    def _serve(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            if isinstance(effect, ConfirmQuiet):
                market = self.engine.state.markets[effect.symbol]
                known = market.continuity.next_id - 1
                self._emit(Confirmed(effect.symbol, known, market.last, ok=True, ts_ns=self._now_ns))
        super()._serve(effects)


def ticks(symbol: str, chunks: Iterable[Trades]) -> Iterator[Tick]:
    """Yield trades as the feed brings them, numbered without gaps: what is missing on file, ``data check`` tells."""
    number = 0
    for part in chunks:
        for _, ts_ns, price, amount, sell in part.tolist():
            yield Tick(symbol, number, price, round(amount * LOTS_PER_UNIT), ts_ns, ts_ns, sell)
            number += 1


def _time(tick: Tick) -> int:
    return tick.ts_recv_ns
