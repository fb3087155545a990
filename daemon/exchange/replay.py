"""Markets replayed from candles in a folder: each candle is played in ``data_bar_s`` seconds, trade by trade.

The trades of a candle open at its open, touch its high and low, end at its close and add up to its volume. A candle that
is missing in the file, or has no volume, is an outage: no trades. After the last candle the market stays silent.
"""

import math
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from daemon.exchange.config import SimConfig, interval_ms
from daemon.exchange.path import block_length
from daemon.exchange.tape import Floats, Ints, TradeBlock, spread_extras
from daemon.exchange.universe import SymbolSpec

__all__ = ["ReplaySource"]

_EXTRA_RATE: Final = 0.35
_DECIMALS_MAX: Final = 8
_SAMPLE: Final = 400  # candles from which the price step is read


def _price_decimals(values: Floats) -> int:
    """Return the fewest decimals that write the sampled prices, at most 8."""
    sample = values[np.isfinite(values)][-_SAMPLE:]
    exponents = [Decimal(repr(float(value))).normalize().as_tuple().exponent for value in sample]
    return min(_DECIMALS_MAX, max([0, *(-exponent for exponent in exponents if isinstance(exponent, int))]))


def _read(path: Path, step_ms: int) -> tuple[int, Floats]:
    """Read a file of candles onto a full grid: (opening time of the first, (R, 5) OHLCV with NaN where missing)."""
    from pyarrow import parquet  # noqa: PLC0415 (30 MB that only a replay needs)

    if not path.is_file():
        msg = f"no candles at {path}: the folder must hold <BASE>_<QUOTE>-<timeframe>.parquet"
        raise ValueError(msg)
    table: Any = parquet.read_table(path, columns=["date", "open", "high", "low", "close", "volume"])
    times = table["date"].to_numpy().astype("datetime64[ms]").astype(np.int64)
    columns = np.stack([table[name].to_numpy() for name in ("open", "high", "low", "close", "volume")], axis=1)
    if len(times) == 0:
        msg = f"no candles in {path}"
        raise ValueError(msg)
    grid = np.full(((int(times[-1]) - int(times[0])) // step_ms + 1, 5), np.nan)
    grid[(times - times[0]) // step_ms] = columns
    return int(times[0]), grid


class ReplaySource:
    """Candles played as trades. Implements `daemon.exchange.tape.Source`.

    The oldest candle common to all symbols stands ``history`` candles before the market goes live.
    """

    def __init__(self, config: SimConfig, wanted: tuple[SymbolSpec, ...]) -> None:
        """Read one file per wanted symbol and align them.

        Raises
        ------
        ValueError
            When a file is missing, empty, or the files share no period.
        """
        self._config = config
        step = interval_ms(config.data_timeframe)
        folder = Path(config.data_dir)
        read = [_read(folder / f"{spec.base}_{spec.quote}-{config.data_timeframe}.parquet", step) for spec in wanted]
        start = max(first for first, _ in read)
        end = min(first + len(grid) * step for first, grid in read)
        count = (end - start) // step
        if count < 2:
            msg = f"the candles in {folder} share no period"
            raise ValueError(msg)
        self._bar_s = config.data_bar_s
        self.block_seconds = block_length(self._bar_s)
        per_block = max(1, self.block_seconds // self._bar_s)
        seconds = min(config.history_bars, count // 2) * self._bar_s
        self.history_seconds = max(1, min(seconds, config.fine_seconds_max) // (per_block * self._bar_s))
        self.history_seconds *= per_block * self._bar_s
        self.candles = np.stack(
            [grid[(start - first) // step : (start - first) // step + count] for first, grid in read], axis=1
        )  # (candles, symbols, 5)
        live = min(self.history_seconds // self._bar_s, count - 1)
        self.specs = tuple(self._spec(spec, self.candles[:, spec.index], live) for spec in wanted)
        self._factor = np.ones(len(wanted))
        self._jumps: list[tuple[int, int, float]] = []
        self._counts: list[tuple[Ints, Ints]] = []

    @staticmethod
    def _spec(spec: SymbolSpec, candles: Floats, live: int) -> SymbolSpec:
        closes = candles[: live + 1, 3]
        known = closes[np.isfinite(closes)]
        price = float(known[-1]) if len(known) else spec.price
        return msgspec.structs.replace(spec, price=price, price_decimals=_price_decimals(candles[:, 0:4].ravel()))

    def first_price(self, symbol: int) -> float:
        """Return the open of the first candle that exists."""
        opens = self.candles[:, symbol, 0]
        return float(opens[np.isfinite(opens)][0])

    def jump(self, symbol: int, block: int, factor: float) -> None:
        """Multiply the prices of all blocks after the given one."""
        self._jumps.append((symbol, block, factor))

    def _lots(self, first: int, count: int) -> Ints:
        """Return (count, N) volumes in lots of the candles from first on; 0 where there is no candle."""
        out = np.zeros((count, len(self.specs)), dtype=np.int64)
        rows = self.candles[first : first + count, :, 4]
        scale = 10.0 ** np.array([spec.qty_decimals for spec in self.specs])
        out[: len(rows)] = np.rint(np.nan_to_num(rows) * scale).astype(np.int64)
        return out

    def aggregates(self, block: int) -> tuple[Ints, Ints]:
        """Return (aggregates, further trades) per second and symbol, (S, N) each."""
        while len(self._counts) <= block:
            k = len(self._counts)
            size, n = self.block_seconds, len(self.specs)
            rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(self._config.seed, spawn_key=(1, k))))
            first = k * size // self._bar_s
            per_bar = min(self._bar_s, size)
            lots = self._lots(first, max(1, size // self._bar_s))
            n_agg = rng.poisson(self._config.trades_per_s, (size, n)).astype(np.int64)
            extra = rng.poisson(n_agg * _EXTRA_RATE).astype(np.int64)
            bars = n_agg.reshape(-1, per_bar, n)
            # Four trades at least, so that open, high, low and close all happen; never more trades than lots.
            bars[:, 0] += np.maximum(0, 4 - bars.sum(axis=1))
            enough = lots >= (n_agg + extra).reshape(-1, per_bar, n).sum(axis=1)
            scarce = np.zeros_like(bars)
            scarce[:, 0] = np.minimum(lots, 4)
            bars = np.where(enough[:, None], bars, scarce)
            extra = np.where(np.repeat(enough, per_bar, axis=0), extra, 0)
            self._counts.append((bars.reshape(size, n), extra))
        return self._counts[block]

    def build(self, symbol: int, block: int) -> TradeBlock:
        """Generate the trades of a symbol in a block."""
        n_agg, extra = (column[:, symbol] for column in self.aggregates(block))
        rng = np.random.Generator(
            np.random.PCG64(np.random.SeedSequence(self._config.seed, spawn_key=(2, symbol, block)))
        )
        size, count, spec = self.block_seconds, int(n_agg.sum()), self.specs[symbol]
        per_agg = spread_extras(rng, n_agg, extra)
        agg = np.repeat(np.arange(count), per_agg)
        second = np.repeat(np.arange(size), n_agg)
        key = np.sort(second + rng.random(count))
        time_ms = block * size * 1000 + np.minimum(key * 1000, second * 1000 + 999).astype(np.int64)
        bar = second // min(self._bar_s, size)
        first = block * size // self._bar_s
        factor = math.prod(jump for i, k, jump in self._jumps if i == symbol and block > k)
        values = self._prices(bar, self._candles(first, bar, symbol)) * (10.0**spec.price_decimals * factor)
        price = np.maximum(1, np.rint(values)).astype(np.int64)
        lots = self._lots(first, int(bar[-1]) + 1 if count else 1)[:, symbol]
        sold = rng.random(count) >= 0.5
        spread = np.maximum(1, np.rint(price * self._config.spread_bps / 1e4)).astype(np.int64)
        bid = np.maximum(1, np.where(sold, price, price - spread))
        shown = self._config.touch_notional * np.exp(0.6 * rng.standard_normal((2, count)) - 0.18) / spec.price
        touch = np.maximum(1, np.rint(shown * 10.0**spec.qty_decimals)).astype(np.int64)
        return TradeBlock(
            start=block * size,
            first=np.concatenate(([0], np.cumsum(n_agg + extra))).astype(np.int64),
            time_ms=time_ms[agg],
            price=price[agg],
            qty=self._quantities(rng, bar[agg], lots),
            sold=sold[agg],
            agg=agg,
            bid=bid[agg],
            ask=(bid + spread)[agg],
            bid_qty=touch[0][agg],
            ask_qty=touch[1][agg],
        )

    def _candles(self, first: int, bar: Ints, symbol: int) -> Floats:
        """Return (A, 4) open, high, low and close of each aggregate's candle."""
        if len(bar) == 0:
            return np.zeros((0, 4))
        return self.candles[first + bar, symbol, :4]

    @staticmethod
    def _prices(bar: Ints, candle: Floats) -> Floats:
        """Lead the price of each candle's aggregates from its open over both extremes to its close."""
        count = len(bar)
        if count == 0:
            return np.zeros(0)
        starts = np.flatnonzero(np.concatenate(([True], np.diff(bar) > 0)))
        lengths = np.diff(np.concatenate((starts, [count])))
        inside = np.arange(count) - np.repeat(starts, lengths)
        last = np.repeat(lengths, lengths) - 1
        up = candle[:, 3] >= candle[:, 0]
        one = np.where(up, candle[:, 2], candle[:, 1])  # a rising candle visits its low first
        two = np.where(up, candle[:, 1], candle[:, 2])
        a = np.maximum(1, last // 3)
        b = np.maximum(a + 1, 2 * last // 3)
        end = np.maximum(last, 1)
        out: Floats = np.where(
            inside <= a,
            candle[:, 0] + (one - candle[:, 0]) * inside / a,
            np.where(
                inside <= b,
                one + (two - one) * (inside - a) / np.maximum(1, b - a),
                two + (candle[:, 3] - two) * (inside - b) / np.maximum(1, end - b),
            ),
        )
        return np.where(inside == last, candle[:, 3], out)

    @staticmethod
    def _quantities(rng: np.random.Generator, bar: Ints, lots: Ints) -> Ints:
        """Split each candle's volume over its trades, every trade at least one lot, the sum exact."""
        count = len(bar)
        if count == 0:
            return np.zeros(0, dtype=np.int64)
        starts = np.flatnonzero(np.concatenate(([True], np.diff(bar) > 0)))
        lengths = np.diff(np.concatenate((starts, [count])))
        weights = rng.exponential(1.0, count)
        share = weights / np.repeat(np.add.reduceat(weights, starts), lengths)
        spare = np.repeat(lots[bar[starts]] - lengths, lengths)
        qty: Ints = 1 + np.floor(share * spare).astype(np.int64)
        rest = lots[bar[starts]] - np.add.reduceat(qty, starts)
        qty[starts + lengths - 1] += rest
        return qty
