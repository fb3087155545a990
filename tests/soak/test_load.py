"""The load test itself, for seconds: it loads, it counts, and it tells flat memory from growing memory."""

import gzip
from collections import Counter
from pathlib import Path

import pytest

from tests.soak.load import PEAK_FRAMES_PER_S, Sample, run, slope


def test_some_seconds_of_load_lose_nothing(tmp_path: Path) -> None:
    """T5: hundreds of frames a second, orders in every bar: the exchange's counts are the ledger's."""
    report = run(tmp_path, 6.0, 400.0)

    assert not report.wrong
    assert report.orders >= 10
    assert report.fills >= 10
    assert report.ticks > 500


def test_the_slope_of_memory() -> None:
    """A megabyte a minute is seen as one, a flat line as none."""
    growing = [Sample(float(second), 80 + second / 60, 0.0, 0, 0) for second in range(600)]
    flat = [Sample(float(second), 80 + second % 2, 0.0, 0, 0) for second in range(600)]

    assert slope(growing) == pytest.approx(1.0)
    assert abs(slope(flat)) < 0.01


def test_the_peak_is_the_recorded_one(shared_data: Path) -> None:
    """The figure that the load is a multiple of comes from the recording."""
    frames: Counter[int] = Counter()
    for pair in ("btcusdt", "ethusdt"):
        with gzip.open(shared_data / "ws" / f"binance_spot_{pair}_20240808.gz", "rt") as lines:
            frames.update(int(line.partition(" ")[0]) // 10**9 for line in lines)

    assert max(frames.values()) == PEAK_FRAMES_PER_S
