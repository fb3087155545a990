"""Everything the engine knows, and the frozen views it hands out: one of the two doors between float64 and Decimal."""

from decimal import Decimal

from daemon.core.account import ZERO, Account
from daemon.core.blotter import Blotter
from daemon.core.breaks import Breaks
from daemon.core.causes import DAILY_LOSS, DRAWDOWN, Causes
from daemon.core.config import EngineConfig
from daemon.core.exits import Exits
from daemon.core.market import Market, Phase
from daemon.domain.events import TradingState
from daemon.domain.market import NS_PER_MS, Book, Instrument
from daemon.domain.orders import Side
from risk.drawdown import Drawdown, LossVerdict
from risk.gate import Gate
from risk.money import exact, reference_price
from risk.repeats import Repeats
from risk.stops import Stops
from risk.views import GateView, MarketView

LIVE = Phase.LIVE  # looked up in its class, a member of an enumeration costs as much as a small object


class State:
    """The engine's memory, changed by the engine alone. ``symbols`` are in the order of the universe."""

    def __init__(self, config: EngineConfig) -> None:
        """Start empty and HALTED."""
        self.config = config
        self.symbols = config.universe
        self.markets = {symbol: Market(symbol, config.bar_ns) for symbol in config.watched}
        self.account = Account(config.quote)
        self.blotter = Blotter()
        self.causes = Causes()
        self.exits = Exits()
        self.stops = Stops(config.limits)
        self.drawdown = Drawdown(config.limits)
        self.gate = Gate(config.limits, config.universe)
        self.repeats = Repeats(config.limits.max_repeats)
        self._values: dict[str, tuple[Decimal, Book | None, float, Decimal | None]] = {}
        self._weighed: tuple[Decimal, list[Decimal | None], list[str], tuple[float, ...]] | None = None
        self.now_ns = 0
        self.offset_ns = 0
        self.epoch = 0
        self.paused = False
        self.links: dict[str, bool] = {"market": False, "user": False, "rest": True, "ledger": True}
        self.day = 0
        self.turnover_day = 0.0
        self.turnover_total = 0.0
        self.reconciled_ns = 0
        self.breaks = 0
        self.break_clocks = Breaks()
        self.external_orders = 0
        self.daily: dict[str, bytes] = {}
        """Daily closes by symbol, oldest first, as the bytes of float64: that is how they travel to the worker."""
        self.model = ""
        self.model_trained_ns = 0
        self.losses = LossVerdict(drawdown=0.0, daily_loss=0.0, drawdown_hit=False, daily_loss_hit=False, known=False)

    # ------------------------------------------------------------- valuation

    def price(self, symbol: str) -> float:
        """Return the newest reference price in quote currency, 0.0 when unknown."""
        market = self.markets.get(symbol)
        if market is None:
            return 0.0
        book = market.book
        return reference_price(book.bid, book.ask, market.last) if book is not None else market.last

    def equity(self) -> Decimal | None:
        """Return cash plus positions at reference prices, None while a held symbol has no price."""
        total = self.account.cash
        markets, values = self.markets, self._values
        for symbol, qty in self.account.positions.items():
            kept, market = values.get(symbol), markets.get(symbol)
            if (
                kept is None
                or market is None
                or kept[0] is not qty
                or kept[1] is not market.book
                or kept[2] != market.last
            ):
                value = self._value(symbol, qty)
            else:
                value = kept[3]
            if value is None:
                return None
            total += value
        return total

    def _value(self, symbol: str, qty: Decimal) -> Decimal | None:
        """Return what a position is worth in quote currency, None without a price; kept while nothing moved.

        Every fill asks for equity: with 100 positions, valuing all of them anew would cost more than booking it.
        """
        market = self.markets.get(symbol)
        if market is None:
            return None
        kept = self._values.get(symbol)
        if kept is not None and kept[0] is qty and kept[1] is market.book and kept[2] == market.last:
            return kept[3]
        price = self.price(symbol)
        value = qty * exact(price) if price > 0.0 else None
        self._values[symbol] = (qty, market.book, market.last, value)
        return value

    def weights(self, equity: Decimal) -> tuple[float, ...]:
        """Return current weights (n_assets,), fractions of equity, at reference prices."""
        positions = self.account.positions
        if not positions or equity <= ZERO:
            return (0.0,) * len(self.symbols)
        values = [self._value(symbol, qty) for symbol, qty in positions.items()]
        kept = self._weighed
        if kept is not None and kept[0] == equity and kept[1] == values and kept[2] == list(positions):
            return kept[3]
        weights = dict.fromkeys(self.symbols, 0.0)
        for symbol, value in zip(positions, values, strict=True):
            if value is not None and symbol in weights:
                weights[symbol] = float(value / equity)
        weighed = tuple(weights.values())
        self._weighed = (equity, values, list(positions), weighed)
        return weighed

    def forget_values(self) -> None:
        """Value every position anew next time: what is kept only to be quick, and by whoever asks, is no state."""
        self._values.clear()
        self._weighed = None

    # ------------------------------------------------------------- trust

    def fresh(self, market: Market) -> bool:
        """Return whether a symbol's data is current enough to trade on (P10)."""
        if market.phase is not LIVE or market.gap_ns:
            return False
        oldest_ns = self.now_ns - self.config.limits.max_age_ms * NS_PER_MS
        return market.frame_ns >= oldest_ns or market.confirmed_ns >= oldest_ns

    def is_frozen(self, market: Market, uncertain: frozenset[str]) -> bool:
        """Return whether a symbol's weight may not grow (DESIGN, "Decision rules"); ``uncertain`` is the blotter's."""
        instrument = market.instrument
        return (
            market.frozen
            or instrument is None
            or not instrument.trading
            or not self.fresh(market)
            or market.symbol in uncertain
        )

    def is_unlisted(self, market: Market) -> bool:
        """Return whether a symbol is held, or has an open order, that the exchange has no more: nothing is asked about it."""
        return market.instrument is None and market.symbol in self.config.leaving

    @property
    def stale(self) -> tuple[str, ...]:
        """Return the symbols whose data is not current."""
        return tuple(market.symbol for market in self.markets.values() if not self.fresh(market))

    # ------------------------------------------------------------- the gate's view

    def gate_view(self, equity: Decimal) -> GateView:
        """Return what the gate judges by: everything by value, reservations already taken off."""
        buys = self.blotter.reserved(Side.BUY)
        sells = self.blotter.reserved(Side.SELL)
        fee = 1 + self.config.fee_rate
        live = self.blotter.live.values()
        uncertain = self.blotter.uncertain
        counts: dict[str, int] = {}
        for order in live:
            counts[order.intent.symbol] = counts.get(order.intent.symbol, 0) + 1
        return GateView(
            now_ns=self.now_ns,
            state=self.causes.state,
            equity=equity,
            cash_free=self.account.cash - sum(buys.values(), ZERO) * fee,
            positions=dict(self.account.positions),
            sellable={
                symbol: max(qty - sells.get(symbol, ZERO), ZERO) for symbol, qty in self.account.positions.items()
            },
            reserved_buys=buys,
            reserved_sells=sells,
            markets={
                symbol: self._market_view(market, market.instrument, uncertain)
                for symbol, market in self.markets.items()
                if market.instrument is not None
            },
            live_intents=frozenset((o.intent.symbol, o.intent.side, o.intent.decision) for o in live),
            open_orders=counts,
            clock_offset_ns=self.offset_ns,
            user_link_up=self.links["user"],
            losing=DAILY_LOSS in self.causes or DRAWDOWN in self.causes,
        )

    def _market_view(self, market: Market, instrument: Instrument, uncertain: frozenset[str]) -> MarketView:
        book = market.book
        sound = market.phase is LIVE and market.gap_ns == 0
        bid, ask = (book.bid, book.ask) if book is not None else (0.0, 0.0)
        return MarketView(
            market.symbol,
            instrument,
            bid,
            ask,
            market.last,
            market.frame_ns if sound else 0,
            market.confirmed_ns if sound else 0,
            self.is_frozen(market, uncertain),
            market.priced_ns,
        )

    # ------------------------------------------------------------- what a person sees

    @property
    def trading(self) -> TradingState:
        """Return the trading state."""
        return self.causes.state
