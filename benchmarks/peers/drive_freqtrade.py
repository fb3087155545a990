"""freqtrade's Backtesting, offline: its markets are given instead of fetched; indicators, signals and backtest are timed.

Reading its feather files is not timed, nor is printing. A signal on a candle is filled at the open of the next.
"""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import kit
import numpy as np
import pandas as pd

STRATEGY = f"""
import talib.abstract as ta
from freqtrade.strategy import IStrategy


class LongFlat(IStrategy):
    INTERFACE_VERSION = 3
    timeframe = "1m"
    minimal_roi = {{"0": 100.0}}
    stoploss = -0.99
    startup_candle_count = {kit.SLOW}

    def populate_indicators(self, dataframe, metadata):
        dataframe["fast"] = ta.EMA(dataframe, timeperiod={kit.FAST})
        dataframe["slow"] = ta.EMA(dataframe, timeperiod={kit.SLOW})
        return dataframe

    def populate_entry_trend(self, dataframe, metadata):
        dataframe.loc[dataframe["fast"] > dataframe["slow"], "enter_long"] = 1
        return dataframe

    def populate_exit_trend(self, dataframe, metadata):
        dataframe.loc[dataframe["fast"] <= dataframe["slow"], "exit_long"] = 1
        return dataframe
"""


def market(api: object, base: str) -> dict[str, object]:
    return api.safe_market_structure(  # type: ignore[attr-defined, no-any-return]
        {
            "id": f"{base}USDT", "lowercaseId": f"{base}USDT".lower(), "symbol": f"{base}/USDT", "base": base,
            "quote": "USDT", "baseId": base, "quoteId": "USDT", "type": "spot", "spot": True, "margin": False,
            "swap": False, "future": False, "option": False, "active": True, "contract": False,
            "taker": kit.FEE, "maker": kit.FEE, "precision": {"amount": 1e-6, "price": 0.01, "cost": 1e-8},
            "limits": {
                "amount": {"min": 1e-6, "max": 1e9}, "price": {"min": 0.01, "max": 1e9},
                "cost": {"min": 1e-3, "max": 1e12}, "leverage": {"min": None, "max": None},
            },
            "info": {},
        }
    )  # fmt: skip


def settings(case: kit.Case) -> dict[str, object]:
    return {
        "max_open_trades": case.assets, "stake_currency": "USDT", "stake_amount": "unlimited",
        "tradable_balance_ratio": kit.SHARE, "dry_run": True, "dry_run_wallet": kit.CAPITAL, "timeframe": "1m",
        "fee": kit.FEE, "dataformat_ohlcv": "feather", "trading_mode": "spot", "margin_mode": "",
        "cancel_open_orders_on_exit": False, "unfilledtimeout": {"entry": 10, "exit": 10},
        "exchange": {
            "name": "binance", "key": "", "secret": "", "pair_blacklist": [],
            "pair_whitelist": [f"{base}/USDT" for base in case.symbols],
        },
        "pairlists": [{"method": "StaticPairList"}],
        "entry_pricing": {"price_side": "same", "use_order_book": False},
        "exit_pricing": {"price_side": "same", "use_order_book": False},
    }  # fmt: skip


def lay_out(case: kit.Case, bars: np.ndarray, scratch: Path) -> Path:
    """Write a freqtrade user folder with strategy, configuration and candles; return the folder of the candles."""
    user = scratch / "user_data"
    folder = user / "data" / "binance"
    folder.mkdir(parents=True, exist_ok=True)
    (user / "strategies").mkdir(exist_ok=True)
    (user / "strategies" / "long_flat.py").write_text(STRATEGY)
    (scratch / "config.json").write_text(json.dumps(settings(case)))
    times = pd.to_datetime(kit.START_MS + kit.BAR_MS * np.arange(case.bars), unit="ms", utc=True)
    for i, base in enumerate(case.symbols):
        frame = pd.DataFrame(bars[:, i], columns=["open", "high", "low", "close", "volume"])
        frame.insert(0, "date", times)
        frame.to_feather(folder / f"{base}_USDT-1m.feather")
    return folder


def prepare(case: kit.Case, bars: np.ndarray, scratch: Path) -> Callable[[], kit.Repeat]:
    from freqtrade.configuration import Configuration
    from freqtrade.enums import RunMode
    from freqtrade.exchange import Exchange
    from freqtrade.optimize.backtesting import Backtesting

    folder = lay_out(case, bars, scratch)

    async def given(self: Exchange, *_: object, **__: object) -> dict[str, object]:
        self._api_async.set_markets([market(self._api_async, base) for base in case.symbols])
        return self._api_async.markets

    def given_now(self: Exchange, *_: object, **__: object) -> None:
        self._api_async.set_markets([market(self._api_async, base) for base in case.symbols])

    import inspect

    Exchange._load_async_markets = given if inspect.iscoroutinefunction(Exchange._load_async_markets) else given_now
    logging.disable(logging.INFO)
    arguments = {
        "config": [str(scratch / "config.json")], "strategy": "LongFlat", "export": "none", "timerange": None,
        "strategy_path": str(scratch / "user_data" / "strategies"), "user_data_dir": str(scratch / "user_data"),
        "datadir": str(folder),
    }  # fmt: skip

    def once() -> kit.Repeat:
        config = Configuration(arguments, RunMode.BACKTEST).get_config()
        config |= {"backtest_cache": "none", "disableparamexport": True}
        backtesting = Backtesting(config)
        data, span = backtesting.load_bt_data()
        with kit.Stopwatch() as watch:
            backtesting.backtest_one_strategy(backtesting.strategylist[0], data, span)
        found = backtesting.all_bt_content["LongFlat"]
        trades = found["results"]
        orders = sum(len(one) for one in trades["orders"])
        equity = float(found["final_balance"])
        Backtesting.cleanup()
        return kit.Repeat(watch.seconds, watch.cpu_s, orders, equity, f"{len(trades)} round trips")

    return once


if __name__ == "__main__":
    sys.exit(kit.serve("freqtrade", prepare))
