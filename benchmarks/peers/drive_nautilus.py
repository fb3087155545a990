"""nautilus_trader: its BacktestEngine with one venue and a strategy an instrument; ``run()`` alone is timed.

The bars are in the engine before the watch starts. A market order on a bar fills at that bar's close, less nothing but fees.
The variant ``EMACross`` is the strategy of that name from nautilus' own examples: both sides, a fixed size, a log line a bar
(which the bypassed log drops). It makes twice the orders; the reference figures were taken with it.
"""

import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import kit
import numpy as np
import pandas as pd
from nautilus_trader.backtest.engine import BacktestEngine, BacktestEngineConfig
from nautilus_trader.config import LoggingConfig, StrategyConfig
from nautilus_trader.examples.strategies.ema_cross import EMACross, EMACrossConfig
from nautilus_trader.indicators import ExponentialMovingAverage
from nautilus_trader.model.currencies import USDT
from nautilus_trader.model.data import Bar, BarType
from nautilus_trader.model.enums import AccountType, CurrencyType, OmsType, OrderSide, TimeInForce
from nautilus_trader.model.identifiers import InstrumentId, Symbol, TraderId, Venue
from nautilus_trader.model.instruments import CurrencyPair
from nautilus_trader.model.objects import Currency, Money, Price, Quantity
from nautilus_trader.persistence.wranglers import BarDataWrangler
from nautilus_trader.trading.strategy import Strategy

VENUE = Venue("BINANCE")


def instrument(base: str) -> CurrencyPair:
    return CurrencyPair(
        instrument_id=InstrumentId(Symbol(f"{base}USDT"), VENUE),
        raw_symbol=Symbol(f"{base}USDT"),
        base_currency=Currency(base, precision=8, iso4217=0, name=base, currency_type=CurrencyType.CRYPTO),
        quote_currency=USDT,
        price_precision=2,
        size_precision=6,
        price_increment=Price(1e-02, precision=2),
        size_increment=Quantity(1e-06, precision=6),
        lot_size=None,
        max_quantity=None,
        min_quantity=None,
        max_notional=None,
        min_notional=None,
        max_price=None,
        min_price=None,
        margin_init=Decimal(0),
        margin_maint=Decimal(0),
        maker_fee=Decimal(str(kit.FEE)),
        taker_fee=Decimal(str(kit.FEE)),
        ts_event=0,
        ts_init=0,
    )


class OneMarket(StrategyConfig, frozen=True):
    bar_type: BarType
    share: float


class Nothing(Strategy):
    def on_start(self) -> None:
        self.count = 0
        self.subscribe_bars(self.config.bar_type)

    def on_bar(self, bar: Bar) -> None:
        self.count += 1


class LongFlat(Strategy):
    """Long while the fast average is above the slow one, flat otherwise; an equal share of the equity."""

    def on_start(self) -> None:
        self.pair = self.cache.instrument(self.config.bar_type.instrument_id)
        self.fast, self.slow = ExponentialMovingAverage(kit.FAST), ExponentialMovingAverage(kit.SLOW)
        self.register_indicator_for_bars(self.config.bar_type, self.fast)
        self.register_indicator_for_bars(self.config.bar_type, self.slow)
        self.subscribe_bars(self.config.bar_type)

    def on_bar(self, bar: Bar) -> None:
        if not self.slow.initialized:
            return
        flat = self.portfolio.is_flat(self.pair.id)
        if self.fast.value > self.slow.value:
            if flat:
                self._order(
                    OrderSide.BUY, self.pair.make_qty(self._equity() * self.config.share / bar.close.as_double())
                )
        elif not flat:
            self._order(OrderSide.SELL, self.cache.positions_open(instrument_id=self.pair.id)[0].quantity)

    def _equity(self) -> float:
        return float(self.cache.account_for_venue(VENUE).balance_total(USDT).as_double())

    def _order(self, side: OrderSide, quantity: Quantity) -> None:
        self.submit_order(
            self.order_factory.market(
                instrument_id=self.pair.id, order_side=side, quantity=quantity, time_in_force=TimeInForce.IOC
            )
        )


def prepare(case: kit.Case, bars: np.ndarray, scratch: Path) -> Callable[[], kit.Repeat]:
    times = pd.to_datetime(kit.START_MS + kit.BAR_MS * np.arange(1, case.bars + 1), unit="ms", utc=True)
    pairs = [instrument(base) for base in case.symbols]
    kinds = [BarType.from_str(f"{pair.id}-1-MINUTE-LAST-EXTERNAL") for pair in pairs]
    columns = ["open", "high", "low", "close", "volume"]
    data = [
        BarDataWrangler(kind, pair).process(pd.DataFrame(bars[:, i], index=times, columns=columns))
        for i, (pair, kind) in enumerate(zip(pairs, kinds, strict=True))
    ]

    def strategy(i: int) -> Strategy:
        tag = f"{i:03d}"
        if case.variant == "EMACross":
            return EMACross(
                EMACrossConfig(
                    instrument_id=pairs[i].id, bar_type=kinds[i], trade_size=Decimal("0.01"), fast_ema_period=kit.FAST,
                    slow_ema_period=kit.SLOW, subscribe_trade_ticks=False, request_bars=False, order_id_tag=tag,
                )
            )  # fmt: skip
        kind = LongFlat if case.kind == "ema" else Nothing
        return kind(OneMarket(bar_type=kinds[i], share=kit.SHARE / case.assets, order_id_tag=tag))

    def once() -> kit.Repeat:
        engine = BacktestEngine(
            BacktestEngineConfig(trader_id=TraderId("BENCH-001"), logging=LoggingConfig(bypass_logging=True))
        )
        # One currency and margin account: the cheaper bookkeeping of its two, and what its own examples use.
        engine.add_venue(
            VENUE, oms_type=OmsType.NETTING, account_type=AccountType.MARGIN, base_currency=USDT,
            starting_balances=[Money(kit.CAPITAL, USDT)], default_leverage=Decimal(1),
        )  # fmt: skip
        for i, (pair, rows) in enumerate(zip(pairs, data, strict=True)):
            engine.add_instrument(pair)
            engine.add_data(rows)
            engine.add_strategy(strategy(i))
        with kit.Stopwatch() as watch:
            engine.run()
        orders = engine.kernel.cache.orders_total_count()
        equity = float(engine.kernel.cache.account_for_venue(VENUE).balance_total(USDT).as_double())
        engine.dispose()
        return kit.Repeat(watch.seconds, watch.cpu_s, orders, equity)

    return once


if __name__ == "__main__":
    sys.exit(kit.serve("nautilus_trader", prepare))
