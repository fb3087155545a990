"""Trades to spoil: a day or more of them, whole."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from daemon.backtest.data.trade_store import store
from daemon.backtest.data.trades import DAY_NS, Trades, TradeSet, folder_of, rows_of

PAIR = "BTC/USDT"
DAY = 19_700 * DAY_NS
"""2023-12-09."""
S = 1_000_000_000
LATER = DAY + 10_000 * DAY_NS


def trades(count: int, *, begin_ns: int = DAY, step_ns: int = 5 * S, first_id: int = 1_000, seed: int = 1) -> Trades:
    """Return trades at even distances, ids that follow each other, prices that wander a little."""
    rng = np.random.default_rng(seed)
    price = np.round(100.0 * np.exp(np.cumsum(rng.normal(0.0, 1e-4, count))), 2)
    amount = np.round(rng.lognormal(-3.0, 1.0, count) + 1e-5, 5)
    times: NDArray[np.int64] = begin_ns + step_ns * np.arange(count, dtype=np.int64) + 250_000_000
    return rows_of(np.arange(first_id, first_id + count), times, price, amount, rng.random(count) < 0.5)


def kept(folder: Path, rows: Trades, *, days: int = 1, ids: str = "contiguous") -> TradeSet:
    """Store rows as all of so many days from ``DAY`` on."""
    path = folder_of(folder, PAIR)
    store(path, rows, [(DAY, DAY + days * DAY_NS)], ids)
    return TradeSet(path, PAIR)
