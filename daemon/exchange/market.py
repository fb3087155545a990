"""The live market: publishes the tape as time passes and answers questions about what has been published."""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

from daemon.exchange import bars
from daemon.exchange.coarse import CoarseHistory
from daemon.exchange.config import SimConfig, interval_ms
from daemon.exchange.path import RandomSource
from daemon.exchange.replay import ReplaySource
from daemon.exchange.tape import Ints, Source, TradeBlock
from daemon.exchange.universe import SymbolSpec, symbol_specs

__all__ = ["AggTrade", "Market", "Trade"]

_BLOCKS_KEPT: Final = 256
_ROWS_KEPT: Final = 4_096
_FIRST_ID: Final = 100_000_001


class Trade(NamedTuple):
    """One published trade; ticks, lots, ms UTC. ``closes_agg`` marks the last trade of its aggregate."""

    symbol: int
    id: int
    agg_id: int
    price: int
    qty: int
    sold: bool
    time_ms: int
    bid: int
    ask: int
    bid_qty: int
    ask_qty: int
    closes_agg: bool


class AggTrade(NamedTuple):
    """One published aggregate: trades first_id..last_id of one taker order at one price."""

    id: int
    price: int
    qty: int
    first_id: int
    last_id: int
    time_ms: int
    sold: bool


class Market:
    """All symbols of the exchange, on one axis of seconds that starts at ``origin_ms``.

    Attributes
    ----------
    specs
        The live symbols; everywhere else a symbol is its index here.
    live_ms
        Time at which the history ended and the market went live, ms UTC.
    """

    def __init__(self, config: SimConfig, now_ns: int) -> None:
        """Build the history up to the start of the bar that holds now_ns, and publish it and what came since."""
        self.config = config
        self.specs: tuple[SymbolSpec, ...]
        self.source: Source
        bar_ms = (config.data_bar_s if config.data_dir else config.bar_s) * 1000
        if config.data_dir:
            replay = ReplaySource(config, symbol_specs(config))
            self.source, self.specs = replay, replay.specs
        else:
            self.specs = symbol_specs(config)
            self.source = RandomSource(config, self.specs)
        self.live_ms = now_ns // 1_000_000 // bar_ms * bar_ms
        self.origin_ms = self.live_ms - self.source.history_seconds * 1000
        self.index = {spec.name: spec.index for spec in self.specs}
        self.listeners: list[Callable[[Trade], None]] = []
        n = len(self.specs)
        self.last: list[Trade | None] = [None] * n
        self._coarse = CoarseHistory(config, self.specs, self.origin_ms)
        self._cum_trades: list[Ints] = [np.zeros(n, dtype=np.int64)]
        self._cum_aggs: list[Ints] = [np.zeros(n, dtype=np.int64)]
        self._blocks: OrderedDict[tuple[int, int], TradeBlock] = OrderedDict()
        self._pinned: dict[tuple[int, int], TradeBlock] = {}
        self._rows: OrderedDict[tuple[int, int], Ints] = OrderedDict()
        self._second = self.source.history_seconds  # the second that pending holds
        self._pending: list[tuple[int, int, int]] = []  # (ms on the axis, symbol, index in block), newest first
        self._shown: list[int] = [0] * n  # trades of the current block that are published
        self.now_ms = self.live_ms
        for symbol in range(n):
            self._recall_last(symbol)
        self._load_second()
        self.advance(now_ns // 1_000_000)

    # ------------------------------------------------------------------ publishing

    def next_event_ms(self) -> int:
        """Return when the next trade is due, or the next second begins, ms UTC."""
        if self._pending:
            return self.origin_ms + self._pending[-1][0]
        return self.origin_ms + (self._second + 1) * 1000

    def advance(self, now_ms: int) -> int:
        """Publish every trade up to now_ms in time order; return how many."""
        count = 0
        while True:
            pending = self._pending
            limit = now_ms - self.origin_ms
            while pending and pending[-1][0] <= limit:
                time_ms, symbol, index = pending.pop()
                self.now_ms = self.origin_ms + time_ms
                self._publish(symbol, index)
                count += 1
            if pending or (self._second + 1) * 1000 > limit:
                break
            self._second += 1
            if self._second % self.source.block_seconds == 0:
                self._shown = [0] * len(self.specs)
            self._load_second()
        self.now_ms = max(self.now_ms, now_ms)
        return count

    def crash(self, symbol: int, factor: float) -> None:
        """Multiply the symbol's prices by factor from the next trade on, for good."""
        block = self._second // self.source.block_seconds
        self._block(symbol, block).jump(self._shown[symbol], factor)
        self._pinned[symbol, block] = self._block(symbol, block)
        self._rows.pop((symbol, block), None)
        self.source.jump(symbol, block, factor)
        for later in [key for key in self._blocks if key[0] == symbol and key[1] > block]:
            del self._blocks[later]

    def _load_second(self) -> None:
        size = self.source.block_seconds
        block, second = divmod(self._second, size)
        events: list[tuple[int, int, int]] = []
        for symbol in range(len(self.specs)):
            trades = self._block(symbol, block)
            low, high = int(trades.first[second]), int(trades.first[second + 1])
            if low < high:
                times = trades.time_ms[low:high].tolist()
                events.extend((time_ms, symbol, low + j) for j, time_ms in enumerate(times))
        events.sort(reverse=True)
        self._pending = events

    def _publish(self, symbol: int, index: int) -> None:
        trade = self._trade(symbol, self._second // self.source.block_seconds, index)
        self._shown[symbol] = index + 1
        self.last[symbol] = trade
        for listener in self.listeners:
            listener(trade)

    def _trade(self, symbol: int, block: int, j: int) -> Trade:
        trades = self._block(symbol, block)
        agg = int(trades.agg[j])
        return Trade(
            symbol,
            self._first_id(symbol) + int(self._before(block)[symbol]) + j,
            self._first_agg_id(symbol) + int(self._cum_aggs[block][symbol]) + agg,
            int(trades.price[j]),
            int(trades.qty[j]),
            bool(trades.sold[j]),
            self.origin_ms + int(trades.time_ms[j]),
            int(trades.bid[j]),
            int(trades.ask[j]),
            int(trades.bid_qty[j]),
            int(trades.ask_qty[j]),
            j + 1 == len(trades.agg) or int(trades.agg[j + 1]) != agg,
        )

    def _recall_last(self, symbol: int) -> None:
        block = self.source.history_seconds // self.source.block_seconds - 1
        while block >= 0:
            count = len(self._block(symbol, block).price)
            if count:
                self.last[symbol] = self._trade(symbol, block, count - 1)
                return
            block -= 1

    # ------------------------------------------------------------------ blocks and ids

    def _first_id(self, symbol: int) -> int:
        return _FIRST_ID + 1_000 * symbol

    def _first_agg_id(self, symbol: int) -> int:
        return (_FIRST_ID - 1) // 2 + 700 * symbol

    def _before(self, block: int) -> Ints:
        """Return (N,) trades of each symbol before a block."""
        while len(self._cum_trades) <= block:
            n_agg, extra = self.source.aggregates(len(self._cum_trades) - 1)
            self._cum_aggs.append(self._cum_aggs[-1] + n_agg.sum(axis=0))
            self._cum_trades.append(self._cum_trades[-1] + (n_agg + extra).sum(axis=0))
        return self._cum_trades[block]

    def _block(self, symbol: int, block: int) -> TradeBlock:
        key = (symbol, block)
        pinned = self._pinned.get(key)
        if pinned is not None:
            return pinned
        found = self._blocks.get(key)
        if found is not None:
            self._blocks.move_to_end(key)
            return found
        self._before(block)
        built = self.source.build(symbol, block)
        self._blocks[key] = built
        if len(self._blocks) > _BLOCKS_KEPT + 2 * len(self.specs):
            self._blocks.popitem(last=False)
        return built

    def _published(self, symbol: int, block: int) -> int:
        """Return how many trades of a block are public."""
        current = self._second // self.source.block_seconds
        if block == current:
            return self._shown[symbol]
        return 0 if block > current else len(self._block(symbol, block).price)

    # ------------------------------------------------------------------ questions

    def trade_count(self, symbol: int) -> int:
        """Return the number of trades published since the start of the axis."""
        return int(self._before(self._second // self.source.block_seconds)[symbol]) + self._shown[symbol]

    def trades(self, symbol: int, limit: int, from_id: int | None = None) -> list[Trade]:
        """Return up to limit trades from an id on, or the last ones."""
        total = self.trade_count(symbol)
        start = max(0, total - limit) if from_id is None else max(0, from_id - self._first_id(symbol))
        out: list[Trade] = []
        at = start
        while at < min(total, start + limit):
            block = bisect_right(range(self._blocks_known()), at, key=lambda k: int(self._before(k)[symbol])) - 1
            low = at - int(self._before(block)[symbol])
            high = min(self._published(symbol, block), low + start + limit - at)
            if high <= low:
                break
            out.extend(self._trade(symbol, block, j) for j in range(low, high))
            at += high - low
        return out

    def agg_trades(
        self, symbol: int, limit: int, *, from_id: int | None = None, start_ms: int = 0, end_ms: int = 2**62
    ) -> list[AggTrade]:
        """Return up to limit aggregates from an id on, or from a time on, or the last ones."""
        current = self._second // self.source.block_seconds
        self._before(current)
        if from_id is None and start_ms == 0:
            out: list[AggTrade] = []
            block = current if end_ms >= self.now_ms else self._block_at(end_ms)
            while len(out) < limit and block >= 0:
                out = [agg for agg in self._aggregates(symbol, block) if agg.time_ms <= end_ms] + out
                block -= 1
            return out[-limit:]
        if from_id is not None:
            at = max(0, from_id - self._first_agg_id(symbol))
            block = bisect_right(range(current + 1), at, key=lambda k: int(self._cum_aggs[k][symbol])) - 1
        else:
            block = self._block_at(start_ms)
        out = []
        while len(out) < limit and block <= current:
            out.extend(
                agg
                for agg in self._aggregates(symbol, block)
                if start_ms <= agg.time_ms <= end_ms and (from_id is None or agg.id >= from_id)
            )
            block += 1
        return out[:limit]

    def _aggregates(self, symbol: int, block: int) -> list[AggTrade]:
        trades = self._block(symbol, block)
        count = self._published(symbol, block)
        if count == 0:
            return []
        agg = trades.agg[:count]
        starts = np.flatnonzero(np.concatenate(([True], np.diff(agg) > 0)))
        sums = np.add.reduceat(trades.qty[:count], starts)
        ends = np.concatenate((starts[1:], [count]))
        first_id = self._first_id(symbol) + int(self._before(block)[symbol])
        first_agg = self._first_agg_id(symbol) + int(self._cum_aggs[block][symbol])
        return [
            AggTrade(
                first_agg + int(agg[low]),
                int(trades.price[low]),
                int(qty),
                first_id + int(low),
                first_id + int(high) - 1,
                self.origin_ms + int(trades.time_ms[low]),
                bool(trades.sold[low]),
            )
            for low, high, qty in zip(starts, ends, sums, strict=True)
        ]

    def _blocks_known(self) -> int:
        self._before(self._second // self.source.block_seconds)
        return self._second // self.source.block_seconds + 1

    def _block_at(self, time_ms: int) -> int:
        second = (time_ms - self.origin_ms) // 1000
        return max(0, min(second // self.source.block_seconds, self._second // self.source.block_seconds))

    def _fine_rows(self, symbol: int, start_ms: int, end_ms: int) -> list[Ints]:
        current = self._second // self.source.block_seconds
        out: list[Ints] = []
        for block in range(self._block_at(start_ms), self._block_at(end_ms) + 1):
            key = (symbol, block)
            rows = self._rows.get(key)
            if rows is None:
                rows = bars.second_rows(self._block(symbol, block), self.origin_ms, self._published(symbol, block))
                if block < current:
                    self._rows[key] = rows
                    if len(self._rows) > _ROWS_KEPT:
                        self._rows.popitem(last=False)
            out.append(rows)
        return out

    def _rows_between(self, symbol: int, interval: str, start_ms: int, end_ms: int) -> Ints:
        parts: list[Ints] = []
        if start_ms < self.origin_ms:
            rows = self._coarse.rows(symbol, interval, self.source.first_price(symbol))
            low, high = np.searchsorted(rows[:, bars.TIME], (start_ms, end_ms + 1))
            parts.append(rows[low:high])
        if end_ms >= self.origin_ms:
            fine = np.concatenate(self._fine_rows(symbol, max(start_ms, self.origin_ms), end_ms))
            low, high = np.searchsorted(fine[:, bars.TIME], (start_ms, end_ms + 1))
            parts.append(fine[low:high])
        return bars.aggregate(np.concatenate(parts), interval) if parts else self._rows_none()

    @staticmethod
    def _rows_none() -> Ints:
        return np.empty((0, bars.TAKER_QUOTE + 1), dtype=np.int64)

    def klines(
        self, symbol: int, interval: str, limit: int, *, start_ms: int | None = None, end_ms: int | None = None
    ) -> Ints:
        """Return (R, 10) candle rows as `daemon.exchange.bars` describes them, R <= limit, the running one included.

        Parameters
        ----------
        symbol, interval
            Index of the symbol and one of Binance's intervals.
        limit
            Most rows.
        start_ms, end_ms
            Bounds of the opening times, both inclusive. Without a start the newest rows come, else the oldest.
        """
        step = interval_ms(interval)
        last = bars.period_open(min(self.now_ms, self.now_ms if end_ms is None else end_ms), interval)
        first = last - (limit - 1) * step if start_ms is None else start_ms
        aligned = bars.period_open(first, interval)
        if aligned < first:
            aligned = bars.next_open(aligned, interval)
        if start_ms is not None:
            last = min(last, bars.period_open(aligned + (limit - 1) * step, interval))
        if last < aligned:
            return self._rows_none()
        until = min(bars.next_open(last, interval) - 1, self.now_ms)
        rows = self._rows_between(symbol, interval, aligned, until)
        if len(rows) == 0 or rows[0, bars.TIME] > aligned:
            rows = np.concatenate((self._earlier(symbol, interval, aligned), rows))
        rows = bars.fill(rows, interval, last)
        rows = rows[rows[:, bars.TIME] >= aligned]
        return rows[:limit] if start_ms is not None else rows[-limit:]

    def _earlier(self, symbol: int, interval: str, before_ms: int) -> Ints:
        """Return the newest candle with trades before a time, or no row."""
        reach = 64 * interval_ms(interval)
        while True:
            rows = self._rows_between(symbol, interval, bars.period_open(before_ms - reach, interval), before_ms - 1)
            if len(rows):
                return rows[-1:]
            if before_ms - reach < self.origin_ms - 3_000 * 86_400_000:
                return self._rows_none()
            reach *= 8
