"""Recorded candles are played trade by trade, exactly, with their outages."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from daemon.exchange import bars
from daemon.exchange.config import SimConfig
from daemon.exchange.market import Market

NOW_NS = 1_800_000_000_000_000_000
HOUR_MS = 3_600_000


def write(folder: Path, base: str, count: int, missing: tuple[int, ...] = ()) -> None:
    """Write hourly candles of a random walk, some of them missing."""
    rng = np.random.default_rng(len(base))
    close = np.round(100 * np.exp(np.cumsum(0.01 * rng.standard_normal(count))), 2)
    opened = np.concatenate(([100.0], close[:-1]))
    high = np.round(np.maximum(opened, close) * 1.003, 2)
    low = np.round(np.minimum(opened, close) * 0.997, 2)
    keep = np.array([k for k in range(count) if k not in missing])
    times = (1_600_000_000_000 // HOUR_MS + np.arange(count)) * HOUR_MS
    table = pa.table(
        {
            "date": pa.array(times[keep], type=pa.timestamp("ms", tz="UTC")),
            "open": opened[keep],
            "high": high[keep],
            "low": low[keep],
            "close": close[keep],
            "volume": np.round(rng.uniform(1, 50, count), 3)[keep],
        }
    )
    parquet.write_table(table, folder / f"{base}_USDT-1h.parquet")


def played(folder: Path, **settings: Any) -> Market:
    """A market that replays two symbols."""
    return Market(SimConfig(symbols=2, data_dir=str(folder), history_bars=300, **settings), NOW_NS)


@pytest.mark.parametrize("bar_s", [1, 5])
def test_each_candle_is_reproduced_exactly(tmp_path: Path, bar_s: int) -> None:
    """Candles of the played length equal the recorded ones, in history and live."""
    for base in ("BTC", "ETH"):
        write(tmp_path, base, 900)
    made = played(tmp_path, data_bar_s=bar_s)
    made.advance(made.live_ms + 60 * bar_s * 1_000)
    source: Any = made.source
    for spec in made.specs:
        rows = made.klines(spec.index, f"{bar_s}s" if bar_s == 1 else "1s", 10_000, start_ms=made.origin_ms)
        for k in range(len(source.candles[: source.history_seconds // bar_s + 50])):
            inside = rows[(rows[:, 0] >= made.origin_ms + k * bar_s * 1_000)][:bar_s]
            inside = inside[inside[:, bars.COUNT] > 0]
            o, h, low, c, v = source.candles[k, spec.index]
            found = (inside[0, 1], inside[:, 2].max(), inside[:, 3].min(), inside[-1, 4], inside[:, 5].sum())

            assert found == tuple(
                round(x) for x in (o * 100, h * 100, low * 100, c * 100, v * 10**spec.qty_decimals)
            ), k


def test_a_missing_candle_is_an_outage(tmp_path: Path) -> None:
    """No trade of the symbol happens while its candle is missing; the other symbol goes on."""
    write(tmp_path, "BTC", 900, missing=(310, 311, 312))
    write(tmp_path, "ETH", 900)
    made = played(tmp_path)
    history = made.source.history_seconds
    made.advance(made.live_ms + 100_000)
    rows = made.klines(0, "1s", 10_000, start_ms=made.origin_ms)
    other = made.klines(1, "1s", 10_000, start_ms=made.origin_ms)

    assert 256 <= history <= 300
    assert np.flatnonzero(rows[:, bars.COUNT] == 0)[:3].tolist() == [310, 311, 312]
    assert rows[311, bars.CLOSE] == rows[309, bars.CLOSE]
    assert other[310, bars.COUNT] > 0
    ids = [trade.id for trade in made.trades(0, 1_000)]
    assert ids == list(range(ids[0], ids[0] + 1_000))


def test_after_the_last_candle_the_market_is_silent(tmp_path: Path) -> None:
    """Nothing is invented when the data end."""
    for base in ("BTC", "ETH"):
        write(tmp_path, base, 600)
    made = played(tmp_path)
    made.advance(made.live_ms + 600_000)
    last = made.last[0]
    made.advance(made.live_ms + 900_000)

    assert made.last[0] == last


def test_missing_or_disjoint_files_are_refused(tmp_path: Path) -> None:
    """One line that names the file."""
    with pytest.raises(ValueError, match=r"BTC_USDT-1h\.parquet"):
        played(tmp_path)
    write(tmp_path, "BTC", 10)
    write(tmp_path, "ETH", 1)
    with pytest.raises(ValueError, match="share no period"):
        played(tmp_path)


def test_recorded_hourly_candles_play(shared_data: Path) -> None:
    """Eight real markets build, and their recorded outages are silent seconds."""
    made = Market(SimConfig(data_dir=str(shared_data / "binance"), history_bars=4_000), NOW_NS)
    made.advance(made.live_ms + 30_000)
    source: Any = made.source
    rows = made.klines(0, "1s", 5_000, start_ms=made.origin_ms)
    candles = source.candles[: len(rows) - 1, 0]

    assert len(made.specs) == 8
    assert (rows[:-1, bars.COUNT] == 0).tolist() == (~np.isfinite(candles[:, 0]) | (candles[:, 4] == 0)).tolist()
    assert rows[:-1, bars.CLOSE].max() == round(np.nanmax(candles[:, 3]) * 100)
