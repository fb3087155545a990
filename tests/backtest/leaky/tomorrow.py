"""Reads the future in the data folder: buys what will have risen a day from now."""

from pathlib import Path

import pandas as pd

from daemon.domain.signal import Targets, View

CANDLES = Path(__file__).parent / "candles"
DAY = pd.Timedelta(hours=24)


class Tomorrow:
    """Looks into the files at each decision."""

    def decide(self, view: View, params: dict[str, object]) -> Targets:
        """Weigh by tomorrow's close."""
        then = pd.Timestamp(view.ts_ns, tz="UTC") + DAY - pd.Timedelta(view.bar_ns)
        weights = []
        for at, symbol in enumerate(view.symbols):
            table = pd.read_parquet(CANDLES / f"{symbol.replace('/', '_')}-1h.parquet").set_index("date")
            later = table.close.get(then)
            rise = 0.0 if later is None else float(later) / view.bars[at, -1, 3] - 1.0
            weights.append(min(0.25, max(0.0, 0.1 + rise)))
        return Targets(view.symbols, tuple(weights))
