"""The older history: coarse candles that lead continuously to the first price of the fine axis."""

import math
from typing import Final

import numpy as np

from daemon.exchange.bars import COLUMNS
from daemon.exchange.config import SimConfig, interval_ms
from daemon.exchange.path import YEAR_SECONDS, bar_volatility
from daemon.exchange.planted import solve_gain
from daemon.exchange.tape import Floats, Ints
from daemon.exchange.universe import SymbolSpec

__all__ = ["CoarseHistory"]

_DAY_MS: Final = 86_400_000
_LEVELS: Final = ((60_000, 75), (900_000, 400), (3_600_000, 2_000))
"""(step in ms, days covered): minutes right before the fine axis, then quarters of an hour, then hours."""
_LEVELS_SHORT: Final = ((60_000, 3), (900_000, 30), (3_600_000, 1_000))
_SYMBOLS_DEEP: Final = 16  # beyond so many symbols, minutes that no bar needs would cost 15 MB each


class CoarseHistory:
    """Candles older than the axis of single trades, level behind level, generated per symbol when first asked for."""

    def __init__(self, config: SimConfig, specs: tuple[SymbolSpec, ...], origin_ms: int) -> None:
        """Place the levels before origin_ms."""
        self._config = config
        self._specs = specs
        self._origin_ms = origin_ms
        deep = len(specs) <= _SYMBOLS_DEEP or config.bar_s >= 60
        self._levels = _LEVELS if deep else _LEVELS_SHORT
        self._cache: dict[int, list[Ints]] = {}
        self._gain = solve_gain(config.planted_r2, config.planted_persistence, config.planted_horizon_bars)

    def rows(self, symbol: int, interval: str, first_price: float) -> Ints:
        """Return (R, 10) rows, oldest first, of every level whose step fits into the interval.

        Parameters
        ----------
        symbol
            Index of the symbol.
        interval
            The interval that the rows will be aggregated to; finer intervals reach back less far.
        first_price
            Price at the start of the fine axis, where the history has to arrive.
        """
        if symbol not in self._cache:
            self._cache[symbol] = self._build(symbol, first_price)
        wanted = interval_ms(interval)
        levels = [rows for (step, _), rows in zip(self._levels, self._cache[symbol], strict=True) if step <= wanted]
        if not levels:
            return np.empty((0, COLUMNS), dtype=np.int64)
        return np.concatenate(levels[::-1])

    def _build(self, symbol: int, first_price: float) -> list[Ints]:
        levels: list[Ints] = []
        end_ms, log_price = self._origin_ms, math.log(first_price)
        for number, (step, days) in enumerate(self._levels):
            start_ms = end_ms // _DAY_MS * _DAY_MS - days * _DAY_MS
            times = np.arange(start_ms, end_ms, step, dtype=np.int64)
            rng = np.random.Generator(
                np.random.PCG64(np.random.SeedSequence(self._config.seed, spawn_key=(3, symbol, number)))
            )
            log_close = self._log_closes(rng, times, symbol, step)
            log_close += log_price - log_close[-1]
            rows = self._candles(rng, times, log_close, symbol)
            levels.append(rows)
            end_ms, log_price = start_ms, float(log_close[0])
        return levels

    def _log_closes(self, rng: np.random.Generator, times: Ints, symbol: int, step_ms: int) -> Floats:
        """Return (R,) log prices up to a constant: planted as on the fine axis where the step fits into the bar."""
        config, spec = self._config, self._specs[symbol]
        bar_ms = config.bar_s * 1000
        count = len(times)
        if step_ms > bar_ms:
            sigma = config.volatility_year * math.sqrt(step_ms / 1000 / YEAR_SECONDS) * spec.volatility
            return np.cumsum(sigma * rng.standard_normal(count))
        sigma = bar_volatility(config) * math.sqrt(step_ms / bar_ms) * spec.volatility
        shocks = sigma * rng.standard_normal(count)
        opens = times // bar_ms
        starts = np.flatnonzero(np.concatenate(([True], np.diff(opens) > 0)))
        per_bar = np.add.reduceat(shocks, starts)
        forecast = np.zeros(len(per_bar))
        state = 0.0
        for index in range(len(per_bar)):
            forecast[index] = state
            state = config.planted_persistence * state + self._gain * float(per_bar[index])
        lengths = np.diff(np.concatenate((starts, [count])))
        return np.cumsum(shocks + np.repeat(forecast, lengths) * (step_ms / bar_ms))

    def _candles(self, rng: np.random.Generator, times: Ints, log_close: Floats, symbol: int) -> Ints:
        config, spec = self._config, self._specs[symbol]
        count = len(times)
        step_s = (int(times[1] - times[0]) if count > 1 else 60_000) / 1000
        close = np.exp(log_close)
        opened = np.concatenate(([close[0]], close[:-1]))
        sigma = np.std(np.diff(log_close)) if count > 1 else 0.0
        wick = np.abs(rng.standard_normal((2, count))) * sigma * 0.5
        high = np.maximum(opened, close) * np.exp(wick[0])
        low = np.minimum(opened, close) * np.exp(-wick[1])
        ticks = 10.0**spec.price_decimals
        rows = np.empty((count, COLUMNS), dtype=np.int64)
        rows[:, 0] = times
        for column, values in enumerate((opened, high, low, close), start=1):
            rows[:, column] = np.maximum(1, np.rint(values * ticks)).astype(np.int64)
        trades = np.maximum(1, rng.poisson(config.trades_per_s * 1.35 * step_s, count))
        notional = trades * config.touch_notional * 0.15 * np.exp(0.3 * rng.standard_normal(count))
        volume = np.maximum(1, np.rint(notional / close * 10.0**spec.qty_decimals)).astype(np.int64)
        taker = np.rint(volume * rng.uniform(0.3, 0.7, count)).astype(np.int64)
        average = rows[:, 1:5].sum(axis=1) // 4
        rows[:, 5], rows[:, 6], rows[:, 7] = volume, volume * average, trades
        rows[:, 8], rows[:, 9] = taker, taker * average
        return rows
