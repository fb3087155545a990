"""Normalises by a figure of the whole file: its highest close, which may lie ahead; or its first, which may be too far back."""

from pathlib import Path

from pyarrow import parquet

from daemon.domain.signal import Targets, View

CANDLES = Path(__file__).parent / "candles"


class Highest:
    """Weighs by the last close as a part of the highest one in the file."""

    def decide(self, view: View, params: dict[str, object]) -> Targets:
        """Open the file without Python's ``open``, as pyarrow does."""
        weights = []
        for at, symbol in enumerate(view.symbols):
            closes = parquet.read_table(f"{CANDLES}/{symbol.replace('/', '_')}-1h.parquet")["close"].to_numpy()
            weights.append(0.25 * min(1.0, view.bars[at, -1, 3] / closes.max()))
        return Targets(view.symbols, tuple(weights))


class First:
    """Weighs by the last close as a part of the first one in the file: past, but not what a live run has."""

    def decide(self, view: View, params: dict[str, object]) -> Targets:
        """Read the first row."""
        weights = []
        for at, symbol in enumerate(view.symbols):
            closes = parquet.read_table(f"{CANDLES}/{symbol.replace('/', '_')}-1h.parquet")["close"].to_numpy()
            weights.append(min(0.25, 0.1 * view.bars[at, -1, 3] / closes[0]))
        return Targets(view.symbols, tuple(weights))
