"""Candles are read as freqtrade writes them, and written so that nothing is ever half there."""

import contextlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from daemon.backtest.data.files import EMPTY, Candles, files_in, path_of, read, replacing, timeframe_ms, write
from daemon.domain.errors import ConfigError

HOUR = 3_600_000
START = 1_600_000_000_000 // HOUR * HOUR


def candles(count: int, *, step_ms: int = HOUR, seed: int = 1) -> Candles:
    """Return sound random candles."""
    rng = np.random.default_rng(seed)
    closes = 100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.01, count)))
    opens = np.concatenate(([100.0], closes))[:count]
    high = np.maximum(opens, closes) * (1 + rng.random(count) / 100)
    low = np.minimum(opens, closes) * (1 - rng.random(count) / 100)
    values = np.stack([opens, high, low, closes, rng.random(count) * 10], axis=1)
    return Candles(START + step_ms * np.arange(count, dtype=np.int64), values)


def equal(one: Candles, other: Candles) -> bool:
    """Return whether both hold the same rows, to the bit."""
    return np.array_equal(one.times, other.times) and np.array_equal(one.values, other.values, equal_nan=True)


def cells(content: object) -> dict[str, list[object]]:
    """Return one row of a frame with the same in every column."""
    return {name: [content] for name in ("open", "high", "low", "close", "volume")}


@pytest.mark.parametrize("suffix", [".parquet", ".feather"])
def test_what_is_written_is_read_and_the_same_rows_give_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    """To the last bit, in both formats."""
    made = candles(500)
    one, two = tmp_path / f"BTC_USDT-1h{suffix}", tmp_path / f"ETH_USDT-1h{suffix}"
    write(one, made)
    write(two, made)

    assert equal(read(one), made)
    assert one.read_bytes() == two.read_bytes()
    assert [file.pair for file in files_in(tmp_path)] == ["BTC/USDT", "ETH/USDT"]


def test_freqtrade_s_feather_files_are_read_as_they_are(tmp_path: Path) -> None:
    """freqtrade writes a frame with a UTC date, lz4-compressed."""
    made = candles(48)
    frame = pd.DataFrame(made.values, columns=["open", "high", "low", "close", "volume"])
    frame.insert(0, "date", pd.to_datetime(made.times, unit="ms", utc=True))
    frame.to_feather(tmp_path / "BTC_USDT-1h.feather", compression="lz4", compression_level=9)

    assert equal(read(path_of(tmp_path, "BTC/USDT", "1h")), made)


def test_recorded_candles_are_read_whole(shared_data: Path) -> None:
    """The recorded files: as many rows as pandas finds, and the same numbers."""
    path = shared_data / "binance" / "BTC_USDT-1h.parquet"
    frame = pd.read_parquet(path)
    found = read(path)

    assert len(found) == len(frame)
    assert np.array_equal(found.values, frame[["open", "high", "low", "close", "volume"]].to_numpy())
    dates = pd.DatetimeIndex(frame["date"]).tz_convert(None).to_numpy()
    assert np.array_equal(found.times, dates.astype("datetime64[ms]").astype(np.int64))


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (pd.DataFrame({"date": [1], "open": [1.0]}), "columns date open high low close volume"),
        (
            pd.DataFrame({"date": ["x"], **cells(1.0)}),
            "not a time",
        ),
        (pd.DataFrame({"date": [1], **cells("x")}), "no candles"),
    ],
)
def test_what_holds_no_candles_is_one_line(tmp_path: Path, frame: pd.DataFrame, why: str) -> None:
    """The file is named, and what is wrong with it."""
    path = tmp_path / "BTC_USDT-1h.parquet"
    frame.to_parquet(path)
    with pytest.raises(ConfigError, match=why) as caught:
        read(path)

    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"\x00" * 4_096, b"PAR1" + b"x" * 100 + b"PAR1"])
@pytest.mark.parametrize("suffix", [".parquet", ".feather"])
def test_any_bytes_are_one_line(tmp_path: Path, content: bytes, suffix: str) -> None:
    """A torn or foreign file is an error that names it."""
    path = tmp_path / f"BTC_USDT-1h{suffix}"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="BTC_USDT-1h"):
        read(path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    """Killed or failing in the middle: the old rows are there, and nothing else is left behind."""
    path = tmp_path / "BTC_USDT-1h.parquet"
    write(path, candles(10))
    before = path.read_bytes()
    with contextlib.suppress(RuntimeError), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError("planted")

    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """The path and the reason."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/BTC_USDT-1h\.parquet: cannot be written"):
        write(tmp_path / "file" / "BTC_USDT-1h.parquet", EMPTY)


@pytest.mark.parametrize(("text", "ms"), [("1s", 1_000), ("5m", 300_000), ("4h", 4 * HOUR), ("1d", 24 * HOUR)])
def test_timeframes(text: str, ms: int) -> None:
    """A number and a unit."""
    assert timeframe_ms(text) == ms


@pytest.mark.parametrize("text", ["", "h", "1", "0h", "1M", "-1h", "1 h", "../1h"])
def test_what_is_no_timeframe(text: str) -> None:
    """One line that says what would be one."""
    with pytest.raises(ConfigError, match="a number and s, m, h, d or w"):
        timeframe_ms(text)


@pytest.mark.parametrize("pair", ["BTC", "../BTC/USDT", "btc/usdt", "BTC/USDT:USDT"])
def test_a_pair_that_makes_no_file_name_is_refused(tmp_path: Path, pair: str) -> None:
    """Nothing is ever read or written outside the folder."""
    with pytest.raises(ConfigError, match="a pair looks like BTC/USDT"):
        path_of(tmp_path, pair, "1h")
