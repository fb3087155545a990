"""The venue of a backtest on bars: the one matching model, with balances of its own.

An order sent at a bar's close reaches the market with the first open after the latency; one sent inside a bar (an exit that a
stop asked for) trades at the price the stop was hit at. Nothing here knows the engine: it takes approved orders and answers
with the same events as every other venue.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import msgspec

from daemon.core.books import exactly
from daemon.domain.events import Event
from daemon.domain.market import Bar, Instrument
from daemon.domain.orders import Approved, Fill, Intent, OrderState, OrderUpdate, Side, Tif
from daemon.matching.bars import Costs, Depth, rest_on_bar, take_from_bar
from daemon.matching.model import Match, fee

ZERO: Final = Decimal(0)
DAY_NS: Final = 86_400_000_000_000
TIER_DAYS: Final = 30
"""Fee tiers go by the volume of so many days, as venues do it."""
SOURCE: Final = "paper"
NO_MARKET: Final = "no_market"


class Rates(msgspec.Struct, frozen=True):
    """Fees as fractions from a volume (quote currency, 30 days) on."""

    volume: Decimal
    maker: Decimal
    taker: Decimal


class VenueConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the venue is told: fee tiers ascending by volume (the first begins at 0), costs, latency and the bar's length."""

    quote: str
    rates: tuple[Rates, ...]
    costs: Costs
    latency_ns: int
    bar_ns: int


@dataclass(slots=True)
class _Working:
    """An order on its way or in the book; ``left`` is what has not traded, ``due_ns`` when it reaches the market."""

    intent: Intent
    venue_id: str
    left: Decimal
    due_ns: int


class BarVenue:
    """Fills orders from bars; implements what `Session` needs of a venue.

    Parameters
    ----------
    emit
        Takes the venue's answers (``OrderUpdate``, ``Fill``) at once.
    instruments
        Trading rules by symbol; the caller may change it.
    config
        Fees, costs, latency.
    """

    def __init__(
        self, *, emit: Callable[[Event], None], instruments: Mapping[str, Instrument], config: VenueConfig
    ) -> None:
        """Start without money and orders."""
        self._emit = emit
        self._instruments = instruments
        self._config = config
        self._travelling: deque[_Working] = deque()
        self._resting: dict[str, _Working] = {}
        self._taken: dict[str, float] = {}
        self._bars: dict[str, Bar] = {}
        self._daily: deque[tuple[int, Decimal]] = deque()
        self._number = 0
        self.balances: dict[str, Decimal] = {}
        self.fills: list[Fill] = []
        self.slippage = ZERO
        """Quote currency lost against the market's price at the moment of each fill: spread, impact and rounding."""

    @property
    def idle(self) -> bool:
        """Say whether nothing is on its way or in the book."""
        return not self._travelling and not self._resting

    def deposit(self, asset: str, amount: Decimal) -> None:
        """Add a signed amount."""
        with exactly():
            self.balances[asset] = self.balances.get(asset, ZERO) + amount

    # ------------------------------------------------------------------ orders

    def send(self, approved: Approved) -> None:
        """Take an order; it trades with the first open after the latency."""
        order = self._order(approved)
        order.due_ns = approved.ts_ns + self._config.latency_ns - self._config.bar_ns
        self._travelling.append(order)

    def exit_now(self, approved: Approved) -> None:
        """Trade an exit that was asked for inside the present bar, at the price it was asked for."""
        order = self._order(approved)
        self._arrive(order, self._bars.get(approved.intent.symbol), float(approved.intent.reference), approved.ts_ns)

    def _order(self, approved: Approved) -> _Working:
        self._number += 1
        return _Working(approved.intent, f"b{self._number}", approved.intent.qty, 0)

    def cancel(self, client_id: str, ts_ns: int) -> None:
        """Cancel one order, wherever it is."""
        order = self._resting.pop(client_id, None)
        if order is None:
            order = next((one for one in self._travelling if one.intent.client_id == client_id), None)
            if order is None:
                return
            self._travelling.remove(order)
        self._tell(order, OrderState.CANCELED, "", ts_ns)

    def cancel_all(self, ts_ns: int) -> None:
        """Cancel everything."""
        for client_id in [*self._resting, *(one.intent.client_id for one in self._travelling)]:
            self.cancel(client_id, ts_ns)

    # ------------------------------------------------------------------ the market

    def open(self, bars: Mapping[str, Bar], open_ns: int) -> None:
        """Let a bar begin: what is due meets its open, then what rests meets its range."""
        self._bars = dict(bars)
        self._taken.clear()
        if self._travelling:
            waiting, self._travelling = self._travelling, deque()
            for order in waiting:
                if order.due_ns > open_ns:
                    self._travelling.append(order)
                    continue
                bar = bars.get(order.intent.symbol)
                arrived_ns = max(open_ns + 1, order.due_ns + self._config.bar_ns)
                self._arrive(order, bar, bar.open if bar is not None else 0.0, arrived_ns)
        for order in list(self._resting.values()):
            bar = bars.get(order.intent.symbol)
            if bar is not None:
                self._rest(order, bar)

    def _arrive(self, order: _Working, bar: Bar | None, price: float, ts_ns: int) -> None:
        intent = order.intent
        reason = self._refuses(intent)
        if reason:
            self._tell(order, OrderState.REJECTED, reason, ts_ns)
            return
        if bar is not None:
            match = take_from_bar(intent.side, order.left, intent.limit, price=price, depth=self._depth(bar))
            if match is not None:
                self._execute(order, match, price, maker=False, ts_ns=ts_ns)
        if not order.left:
            return
        if intent.tif is Tif.IOC:
            self._tell(order, OrderState.EXPIRED, "" if bar is not None else NO_MARKET, ts_ns)
            return
        self._resting[intent.client_id] = order
        self._tell(order, OrderState.ACKED, "", ts_ns)

    def _rest(self, order: _Working, bar: Bar) -> None:
        intent = order.intent
        depth = self._depth(bar)
        match = rest_on_bar(intent.side, order.left, intent.limit, low=bar.low, high=bar.high, depth=depth)
        if match is not None:
            self._execute(order, match, float(match.price), maker=True, ts_ns=bar.close_ns - 1)
            if not order.left:
                self._resting.pop(intent.client_id, None)

    def _depth(self, bar: Bar) -> Depth:
        """Return what a bar still has to give."""
        rules = self._instruments[bar.symbol]
        return Depth(bar.volume, self._taken.get(bar.symbol, 0.0), self._config.costs, rules.tick, rules.step)

    def _refuses(self, intent: Intent) -> str:
        """Return the venue's reason to reject, "" when it takes the order."""
        rules = self._instruments.get(intent.symbol)
        if rules is None or not rules.trading:
            return "-1013 closed"
        base, _, quote = intent.symbol.partition("/")
        if intent.side is Side.BUY:
            return "-2010 balance" if intent.qty * intent.limit > self.balances.get(quote, ZERO) else ""
        return "-2010 balance" if intent.qty > self.balances.get(base, ZERO) else ""

    # ------------------------------------------------------------------ executions

    def _execute(self, order: _Working, match: Match, market: float, *, maker: bool, ts_ns: int) -> None:
        intent = order.intent
        base, _, quote = intent.symbol.partition("/")
        rates = self._rates(ts_ns)
        amount, kind = fee(intent.side, match.price, match.qty, rates.maker if maker else rates.taker)
        payer = base if kind == "base" else quote
        sign = 1 if intent.side is Side.BUY else -1
        order.left -= match.qty
        self._taken[intent.symbol] = self._taken.get(intent.symbol, 0.0) + float(match.qty)
        with exactly():
            value = match.qty * match.price
            balances = self.balances
            balances[base] = balances.get(base, ZERO) + sign * match.qty
            balances[quote] = balances.get(quote, ZERO) - sign * value
            balances[payer] = balances.get(payer, ZERO) - amount
        self._count(value, ts_ns)
        self.slippage += sign * match.qty * (match.price - Decimal(repr(market)))
        self._number += 1
        fill = Fill(
            symbol=intent.symbol,
            trade_id=f"b{self._number}",
            client_id=intent.client_id,
            venue_id=order.venue_id,
            side=intent.side,
            qty=match.qty,
            price=match.price,
            fee=amount,
            fee_asset=payer,
            maker=maker,
            ts_event_ns=ts_ns,
            source=SOURCE,
        )
        self.fills.append(fill)
        self._emit(fill)

    def _rates(self, ts_ns: int) -> Rates:
        """Return the fees that the volume of the last 30 days has earned."""
        rates = self._config.rates
        if len(rates) == 1:
            return rates[0]
        oldest = ts_ns // DAY_NS - TIER_DAYS
        while self._daily and self._daily[0][0] <= oldest:
            self._daily.popleft()
        volume = sum((value for _, value in self._daily), ZERO)
        return [one for one in rates if one.volume <= volume][-1]

    def _count(self, value: Decimal, ts_ns: int) -> None:
        if len(self._config.rates) == 1:
            return
        day = ts_ns // DAY_NS
        if self._daily and self._daily[-1][0] == day:
            self._daily[-1] = (day, self._daily[-1][1] + value)
        else:
            self._daily.append((day, value))

    def _tell(self, order: _Working, state: OrderState, code: str, ts_ns: int) -> None:
        intent = order.intent
        self._emit(
            OrderUpdate(
                client_id=intent.client_id,
                symbol=intent.symbol,
                state=state,
                venue_id=order.venue_id,
                filled=intent.qty - order.left,
                code=code,
                source=SOURCE,
                ts_ns=ts_ns,
            )
        )
