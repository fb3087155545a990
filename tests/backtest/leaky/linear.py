"""A linear strategy: weights on past returns, and with ``ahead`` one on a close that is not known yet."""

from pathlib import Path

import numpy as np

from daemon.backtest.data.files import read
from daemon.domain.signal import Targets, View

CANDLES = Path(__file__).parent / "candles"
NS_PER_MS = 1_000_000


class Linear:
    """Sums of returns, squeezed into (0, 0.25)."""

    def decide(self, view: View, params: dict[str, object]) -> Targets:
        """Weigh."""
        past = np.array(params["past"], dtype=np.float64)
        ahead = int(str(params["ahead"]))
        closes = view.bars[:, -len(past) - 1 :, 3]
        score = np.diff(np.log(closes), axis=1) @ past
        if ahead:
            for at, symbol in enumerate(view.symbols):
                times, values = read(CANDLES / f"{symbol.replace('/', '_')}-1h.parquet")
                place = int(np.searchsorted(times * NS_PER_MS, view.ts_ns + (ahead - 1) * view.bar_ns))
                if place < len(times):
                    score[at] += np.log(values[place, 3] / closes[at, -1])
        return Targets(view.symbols, tuple((0.25 / (1.0 + np.exp(-10.0 * score))).tolist()))
