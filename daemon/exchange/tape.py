"""Blocks of trades: the one truth from which every stream, candle and answer of a market is derived.

A block holds all trades of one symbol in a stretch of whole seconds, as columns. Prices are integer ticks, quantities
integer lots, so sums are exact. Consecutive trades that one taker order made at one price form an aggregate.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "Ints", "Source", "TradeBlock", "spread_extras"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(slots=True)
class TradeBlock:
    """Trades of one symbol in a block of S seconds, T trades in A aggregates, in time order.

    Attributes
    ----------
    start
        Index of the block's first second on the market's axis of seconds.
    first
        (S + 1,) index of the first trade of each second; the last entry is T.
    time_ms
        (T,) time since the start of the market's axis, ms.
    price, qty
        (T,) ticks and lots.
    sold
        (T,) True when the taker sold (Binance's ``m``: the buyer is the maker).
    agg
        (T,) index of the trade's aggregate within the block.
    bid, ask, bid_qty, ask_qty
        (T,) the touch around the trade, ticks and lots.
    """

    start: int
    first: Ints
    time_ms: Ints
    price: Ints
    qty: Ints
    sold: Flags
    agg: Ints
    bid: Ints
    ask: Ints
    bid_qty: Ints
    ask_qty: Ints

    def jump(self, index: int, factor: float) -> None:
        """Multiply the prices of all trades from index on; used by a forced crash."""
        for column in (self.price, self.bid, self.ask):
            column[index:] = np.maximum(1, np.rint(column[index:] * factor).astype(np.int64))
        self.ask[index:] = np.maximum(self.ask[index:], self.bid[index:] + 1)
        self.price[index:] = np.where(self.sold[index:], self.bid[index:], self.ask[index:])


class Source(Protocol):
    """Where a market's trades come from: a random path or a replay. The axis counts seconds from `origin_ms`."""

    block_seconds: int
    history_seconds: int

    def aggregates(self, block: int) -> tuple[Ints, Ints]:
        """Return (aggregates, further trades in them) per second and symbol, both (S, N), of a block."""
        ...

    def build(self, symbol: int, block: int) -> TradeBlock:
        """Generate the trades of a symbol in a block; equal arguments give equal blocks."""
        ...

    def jump(self, symbol: int, block: int, factor: float) -> None:
        """Multiply the prices of a symbol in all blocks after the given one."""
        ...

    def first_price(self, symbol: int) -> float:
        """Return the price of a symbol where the axis starts, quote per base."""
        ...


def spread_extras(rng: np.random.Generator, n_agg: Ints, extra: Ints) -> Ints:
    """Distribute the further trades of each second over its aggregates.

    Parameters
    ----------
    rng
        Source of chance.
    n_agg, extra
        (S,) aggregates and further trades per second; a second with extra > 0 has aggregates.

    Returns
    -------
    (A,) trades per aggregate, each at least 1.
    """
    starts = np.concatenate(([0], np.cumsum(n_agg)[:-1])).astype(np.int64)
    seconds = np.repeat(np.arange(len(n_agg)), extra)
    chosen = starts[seconds] + np.floor(rng.random(len(seconds)) * n_agg[seconds]).astype(np.int64)
    return (1 + np.bincount(chosen, minlength=int(n_agg.sum()))).astype(np.int64)
