"""Random markets: correlated log prices with regimes, clustered volatility and a planted predictable component.

The axis counts seconds from the start of the fine history. Block k covers ``block_seconds`` of them and draws its shocks
from a generator seeded by (seed, k), so a path is a function of the seed alone. Volatility is
``volatility_bar * symbol factor * regime * exp(h)``, h an AR(1) common to all symbols and the regime a three-state Markov
chain; both are scaled so that the mean variance is the stated one, which keeps the formula of `daemon.exchange.planted`
exact. Neither has a drift: nothing but the planted component is predictable in sign.
"""

import math
from typing import Final

import numpy as np

from daemon.exchange.config import SimConfig
from daemon.exchange.planted import solve_gain
from daemon.exchange.tape import Floats, Ints, TradeBlock, spread_extras
from daemon.exchange.universe import SymbolSpec

__all__ = ["RandomSource", "bar_volatility", "block_length"]

YEAR_SECONDS: Final = 31_536_000
_BLOCK_SECONDS: Final = 256
_BLOCK_SECONDS_MAX: Final = 3_600
_REGIMES: Final = ((0.70, 0.50), (1.00, 0.35), (1.80, 0.15))  # (volatility factor, share of time)
_REGIME_SECONDS: Final = 900.0  # mean stay
_VOL_SD: Final = 0.30  # standard deviation of the log volatility
_VOL_DECAY_SECONDS: Final = 120.0
_EXTRA_RATE: Final = 0.35  # further trades per aggregate
_AGGREGATES_MAX: Final = 400  # per second and symbol
_MIN_VOLATILITY: Final = 0.0010


def bar_volatility(config: SimConfig) -> float:
    """Return the standard deviation of the unpredictable log return of one bar for a volatility factor of 1."""
    if config.volatility_bar > 0:
        return config.volatility_bar
    return max(_MIN_VOLATILITY, config.volatility_year * math.sqrt(config.bar_s / YEAR_SECONDS))


def block_length(bar_s: int) -> int:
    """Return the seconds of a block: whole bars near 256 s, or a part of one very long bar."""
    if bar_s <= _BLOCK_SECONDS:
        return bar_s * (_BLOCK_SECONDS // bar_s)
    return min(bar_s, _BLOCK_SECONDS_MAX)


def _rng(seed: int, *key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


class RandomSource:
    """The seeded random market. Implements `daemon.exchange.tape.Source`."""

    def __init__(self, config: SimConfig, specs: tuple[SymbolSpec, ...]) -> None:
        """Generate the history so that each symbol has its listed price where the market goes live."""
        self._config = config
        self._specs = specs
        self.block_seconds = block_length(config.bar_s)
        wanted = min(config.history_bars * config.bar_s, config.fine_seconds_max)
        unit = max(self.block_seconds, config.bar_s)
        self.history_seconds = max(1, -(-wanted // unit)) * unit
        self._gain = solve_gain(config.planted_r2, config.planted_persistence, config.planted_horizon_bars)
        n = len(specs)
        self._factor = np.array([spec.volatility for spec in specs]) * bar_volatility(config) / math.sqrt(config.bar_s)
        self._forecast = np.zeros(n)
        self._bar_shock = np.zeros(n)
        self._log_vol = 0.0
        self._regime = 1
        self._paths: list[Floats] = []  # per block (S + 1, N): log price at the start and after each second
        self._scales: list[Floats] = []  # per block (S,): volatility relative to its mean
        self._counts: list[tuple[Ints, Ints]] = []
        self._jumps: list[tuple[int, int, float]] = []
        self._extend(self.history_seconds // self.block_seconds - 1)
        offset = np.log(np.array([spec.price for spec in specs])) - self._paths[-1][-1]
        for block, path in enumerate(self._paths):
            self._paths[block] = path + offset

    @property
    def gain(self) -> float:
        """The b of the planted component."""
        return self._gain

    def aggregates(self, block: int) -> tuple[Ints, Ints]:
        """Return (aggregates, further trades) per second and symbol, (S, N) each."""
        self._extend(block)
        return self._counts[block]

    def first_price(self, symbol: int) -> float:
        """Return the price at the start of the axis."""
        return math.exp(float(self._paths[0][0, symbol]))

    def log_prices(self, block: int) -> Floats:
        """Return (S + 1, N) log prices at the start of a block and after each of its seconds."""
        self._extend(block)
        return self._paths[block]

    def jump(self, symbol: int, block: int, factor: float) -> None:
        """Multiply the prices of all blocks after the given one."""
        self._jumps.append((symbol, block, math.log(factor)))

    def _volatility(self, rng: np.random.Generator) -> Floats:
        """Draw (S,) volatilities relative to their mean square of 1."""
        size = self.block_seconds
        decay = math.exp(-1.0 / max(_VOL_DECAY_SECONDS, 30.0 * self._config.bar_s))
        noise = rng.standard_normal(size) * (_VOL_SD * math.sqrt(1 - decay * decay))
        switch = rng.random(size) < 1.0 / max(_REGIME_SECONDS, 200.0 * self._config.bar_s)
        state = np.searchsorted(np.cumsum([share for _, share in _REGIMES])[:-1], rng.random(size), side="right")
        mean_square = sum(factor * factor * share for factor, share in _REGIMES) * math.exp(2 * _VOL_SD * _VOL_SD)
        out = np.empty(size)
        log_vol, regime = self._log_vol, self._regime
        for s in range(size):
            log_vol = decay * log_vol + float(noise[s])
            if switch[s]:
                regime = int(state[s])
            out[s] = _REGIMES[regime][0] * math.exp(log_vol)
        self._log_vol, self._regime = log_vol, regime
        return out / math.sqrt(mean_square)

    def _extend(self, block: int) -> None:
        while len(self._paths) <= block:
            k = len(self._paths)
            rng = _rng(self._config.seed, 1, k)
            size, n = self.block_seconds, len(self._specs)
            scale = self._volatility(rng)
            rho = self._config.correlation
            common = rng.standard_normal((size, 1))
            shocks = math.sqrt(rho) * common + math.sqrt(1 - rho) * rng.standard_normal((size, n))
            returns = self._planted(k, shocks * scale[:, None] * self._factor)
            start = self._paths[-1][-1] if self._paths else np.zeros(n)
            path = np.concatenate((start[None, :], start + np.cumsum(returns, axis=0)))
            rate = self._config.trades_per_s * (0.5 + 0.5 * np.minimum(scale, 5.0))
            n_agg = np.minimum(rng.poisson(np.broadcast_to(rate[:, None], (size, n))), _AGGREGATES_MAX).astype(np.int64)
            extra = rng.poisson(n_agg * _EXTRA_RATE).astype(np.int64)
            self._paths.append(path)
            self._scales.append(scale)
            self._counts.append((n_agg, extra))

    def _planted(self, block: int, shocks: Floats) -> Floats:
        """Turn (S, N) unpredictable shocks into returns by adding the forecast, spread evenly over each bar."""
        bar_s = self._config.bar_s
        a, b = self._config.planted_persistence, self._gain
        returns = shocks.copy()
        first = block * self.block_seconds
        s = 0
        while s < self.block_seconds:
            end = min(self.block_seconds, s + bar_s - (first + s) % bar_s)
            returns[s:end] += self._forecast / bar_s
            self._bar_shock = self._bar_shock + shocks[s:end].sum(axis=0)
            if (first + end) % bar_s == 0:
                self._forecast = a * self._forecast + b * self._bar_shock
                self._bar_shock = np.zeros_like(self._bar_shock)
            s = end
        return returns

    def build(self, symbol: int, block: int) -> TradeBlock:
        """Generate the trades of a symbol in a block."""
        n_agg, extra = (column[:, symbol] for column in self.aggregates(block))
        rng = _rng(self._config.seed, 2, symbol, block)
        spec = self._specs[symbol]
        size, count = self.block_seconds, int(n_agg.sum())
        second = np.repeat(np.arange(size), n_agg)
        key = np.sort(second + rng.random(count))
        ends = np.cumsum(n_agg)
        # The last trade of a second stands at the path's value, so closes carry the planted component undiluted.
        last = np.maximum(ends[second] - 1, 0)
        weight = (key - second) / np.maximum(key[last] - second, 1e-9)
        path = self._paths[block][:, symbol]
        shift = sum(jump for i, k, jump in self._jumps if i == symbol and block > k)
        sigma = self._scales[block][second] * self._factor[symbol]
        bridge = 0.4 * sigma * np.sqrt(np.maximum(weight * (1 - weight), 0.0)) * rng.standard_normal(count)
        low, high = path[:-1][second], path[1:][second]
        mid = np.exp(low + (high - low) * weight + bridge + shift) * 10.0**spec.price_decimals
        half = np.maximum(0.5, mid * (self._config.spread_bps / 2e4))
        bid = np.maximum(1, np.floor(mid - half + 0.5)).astype(np.int64)
        ask = np.maximum(bid + 1, np.ceil(mid + half - 0.5).astype(np.int64))
        sold = rng.random(count) >= 0.5 + 0.2 * np.sign(high - low)
        lots = 10.0**spec.qty_decimals / np.exp(low)
        touch = self._config.touch_notional * np.exp(0.6 * rng.standard_normal((2, count)) - 0.18) * lots
        shown = np.maximum(1, np.rint(touch)).astype(np.int64)
        per_agg = spread_extras(rng, n_agg, extra)
        agg = np.repeat(np.arange(count), per_agg)
        notional = self._config.touch_notional * 0.15 * np.exp(1.1 * rng.standard_normal(len(agg)) - 0.605)
        return TradeBlock(
            start=block * size,
            first=np.concatenate(([0], np.cumsum(n_agg + extra))).astype(np.int64),
            time_ms=(block * size * 1000 + np.minimum(key * 1000, second * 1000 + 999).astype(np.int64))[agg],
            price=np.where(sold, bid, ask)[agg],
            qty=np.maximum(1, np.rint(notional * lots[agg])).astype(np.int64),
            sold=sold[agg],
            agg=agg,
            bid=bid[agg],
            ask=ask[agg],
            bid_qty=shown[0][agg],
            ask_qty=shown[1][agg],
        )
