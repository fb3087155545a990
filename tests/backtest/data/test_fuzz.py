"""Whatever lies in the data folder: rows, or one line that names the file."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import feather

from daemon.backtest.data.files import Candles, read, write
from daemon.backtest.data.supply import read_supply
from daemon.backtest.data.trade_dumps import import_dump
from daemon.backtest.data.trade_reader import chunks, facts_of_set
from daemon.backtest.data.trades import TradeSet, day_path, last_row, read_day
from daemon.domain.errors import ConfigError
from tests.backtest.data.test_trade_dumps import dump
from tests.backtest.data.test_trades import theirs
from tests.backtest.data.trade_kit import DAY, PAIR, kept, trades

FLIPS = st.lists(st.tuples(st.integers(0, 2**32), st.integers(1, 255)), min_size=1, max_size=4)
CUT = st.integers(0, 2**32)


def damaged(whole: bytes, flips: list[tuple[int, int]], cut: int) -> bytes:
    """Return bytes with some of them changed, and sometimes fewer of them."""
    out = bytearray(whole)
    for at, by in flips:
        out[at % len(out)] ^= by
    return bytes(out if cut % 3 else out[: cut % len(out)])


def said(look: Callable[[], object]) -> str:
    """Return the line that a look ends with, "" when it ends well; anything but a ConfigError is a failure."""
    try:
        look()
    except ConfigError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def samples() -> Iterator[Path]:
    """A folder with a sound file of each kind."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kept(folder, trades(200))
        feather.write_feather(theirs(trades(200)), str(folder / "t.feather"))
        times = DAY // 1_000_000 + 60_000 * np.arange(100, dtype=np.int64)
        write(folder / "c.parquet", Candles(times, np.ones((100, 5))))
        yield folder


@settings(max_examples=150)
@given(flips=FLIPS, cut=CUT)
def test_damaged_days_files_and_candles(samples: Path, flips: list[tuple[int, int]], cut: int) -> None:
    """Rows, or a typed error: nothing else comes out."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "BTC_USDT-trades").mkdir()
        day = folder / "BTC_USDT-trades" / "2023-12-09.parquet"
        day.write_bytes(damaged(day_path(samples / "BTC_USDT-trades", DAY).read_bytes(), flips, cut))
        single = folder / "ETH_USDT-trades.feather"
        single.write_bytes(damaged((samples / "t.feather").read_bytes(), flips, cut))
        candles = folder / "BTC_USDT-1m.parquet"
        candles.write_bytes(damaged((samples / "c.parquet").read_bytes(), flips, cut))
        lines = [
            said(lambda: read_day(day)),
            said(lambda: last_row(day)),
            said(lambda: facts_of_set(TradeSet(day.parent, PAIR))),
            said(lambda: list(chunks(TradeSet(single, "ETH/USDT")))),
            said(lambda: facts_of_set(TradeSet(single, "ETH/USDT"))),
            said(lambda: read(candles)),
        ]
        assert all(not line or (str(folder) in line and "\n" not in line) for line in lines), lines


@given(
    st.one_of(st.binary(max_size=200), st.text(max_size=100).map(lambda text: b"date,asset,supply\n" + text.encode()))
)
def test_any_bytes_for_supplies(content: bytes) -> None:
    """Supplies, all of them positive, or a typed error."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "supply.csv"
        path.write_bytes(content)
        line = said(lambda: read_supply(path))
        assert "\n" not in line
        if not line:
            assert all(value > 0.0 for rows in read_supply(path).values() for _, value in rows)


@settings(max_examples=60)
@given(
    st.one_of(
        st.binary(max_size=200), st.tuples(FLIPS, CUT).map(lambda pair: damaged(dump(trades(50)).encode(), *pair))
    )
)
def test_any_bytes_for_a_dump(content: bytes) -> None:
    """Trades, or a typed error."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "BTCUSDT-aggTrades-2023-12-09.csv"
        path.write_bytes(content)
        assert "\n" not in said(lambda: import_dump(path, Path(name) / "data"))
