"""Candles of trades are the daemon's: every interval, exact volumes, only of time that is whole; the venue's say the same."""

from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.backtest.data import asking
from daemon.backtest.data import folder as candle_folder
from daemon.backtest.data.files import Candles, read, timeframe_ms, write
from daemon.backtest.data.trade_bars import build, candles_of, lots
from daemon.backtest.data.trade_folder import fetch_trades
from daemon.backtest.data.trade_store import store
from daemon.backtest.data.trades import DAY_NS, TradeSet, folder_of, set_of
from daemon.domain.errors import ConfigError
from daemon.edge.rest import make_exchange
from daemon.exchange.config import SimConfig
from daemon.exchange.server import SimulatedExchange
from daemon.settings_values import BAR_NS
from tests.backtest.data.trade_kit import DAY, PAIR, S, kept, trades


@pytest.mark.parametrize("timeframe", list(BAR_NS))
def test_every_interval_is_built_as_arithmetic_says(tmp_path: Path, timeframe: str) -> None:
    """Two days: open, high, low, close by numpy; volumes by Decimal, to the last bit; quiet time repeats the last price."""
    rows = trades(4_000, step_ns=43 * S)
    one = kept(tmp_path, rows, days=2)
    step_ns = timeframe_ms(timeframe) * 1_000_000
    made, late = candles_of(tmp_path, one, step_ns)
    opens = rows["ts_ns"] // step_ns * step_ns
    grid = np.arange(int(opens[0]), DAY + 2 * DAY_NS, step_ns)

    assert late == 0
    assert np.array_equal(made.times * 1_000_000, grid)
    quiet = ~np.isin(grid, opens)
    assert (made.values[quiet, 4] == 0.0).all()
    for at in np.unique(opens)[:: max(1, len(np.unique(opens)) // 50)]:
        part = rows[opens == at]
        price = part["price"]
        volume = sum(Decimal(repr(float(size))) for size in part["amount"])
        wanted = [price[0], price.max(), price.min(), price[-1], float(volume)]
        assert made.values[int(np.flatnonzero(grid == at)[0])].tolist() == wanted


def test_only_whole_time_makes_candles(tmp_path: Path) -> None:
    """Stretches that begin and end inside candles, and ids that are missing, leave theirs out."""
    rows = trades(2_000, step_ns=S)
    path = folder_of(tmp_path, PAIR)
    span = [(DAY + 30 * S, DAY + 610 * S), (DAY + 1_200 * S, DAY + 1_500 * S)]
    store(path, rows[(rows["id"] != 1_130)], span, "contiguous")
    made, _ = candles_of(tmp_path, TradeSet(path, PAIR), 60 * S)

    assert (made.times - DAY // 1_000_000).tolist() == [
        60_000 * minute for minute in (1, 3, 4, 5, 6, 7, 8, 9, 20, 21, 22, 23, 24)
    ]


def test_quiet_hours_longer_than_one_run_of_the_builder(tmp_path: Path) -> None:
    """Seconds: half a day without a trade is a run of flat candles, none is left out."""
    rows = trades(2, step_ns=43_200 * S)
    made, _ = candles_of(tmp_path, kept(tmp_path, rows), S)

    assert len(made) == 86_400
    assert np.array_equal(np.diff(made.times), np.full(86_399, 1_000))
    assert np.count_nonzero(made.values[:, 4]) == 2


def test_candles_on_file_stay_and_differences_are_told(tmp_path: Path) -> None:
    """New ones are added, equal ones counted, another volume named; a dry run writes nothing."""
    one = kept(tmp_path, trades(17_000))
    dry = build(tmp_path, one, "1h", dry=True)
    assert not (tmp_path / "BTC_USDT-1h.parquet").exists()
    first = build(tmp_path, one, "1h")
    assert (first.made, first.new, first.same, first.differing) == (24, 24, 0, 0)
    assert dry == first
    path = tmp_path / "BTC_USDT-1h.parquet"
    have = read(path)
    have.values[5, 4] *= 2.0
    write(path, Candles(have.times[:20], have.values[:20]))
    again = build(tmp_path, one, "1h")

    assert (again.new, again.same, again.differing) == (4, 19, 1)
    assert again.places[0][0] == int(have.times[5])
    assert again.places[0][1].startswith("volume ")
    assert read(path).values[5, 4] == have.values[5, 4]
    with pytest.raises(ConfigError, match="timeframe '2h': candles are made of 1s 5s"):
        build(tmp_path, one, "2h")


@given(st.lists(st.integers(1, 10**17), min_size=1, max_size=20), st.sampled_from([1e-8, 1e-5, 1.0]))
def test_sizes_are_whole_lots(numbers: list[int], step: float) -> None:
    """What a venue writes with up to 15 digits comes back exactly, however large."""
    digits = [number % 10**15 + 1 for number in numbers]
    exact = [Decimal(number) * Decimal(repr(step)) for number in digits]
    assert lots(np.array([float(one) for one in exact])) == [int(one * 10**8) for one in exact]


async def test_the_exchanges_own_candles_are_the_same(tmp_path: Path) -> None:
    """Trades and candles of the simulated exchange, fetched through ccxt: no difference in any second or minute."""
    sim = SimulatedExchange(SimConfig(symbols=1, history_bars=3_000))
    await sim.start(0)
    exchange = make_exchange("binance", rest_url=f"http://127.0.0.1:{sim.port}", limited=False)
    asker = asking.Asker(exchange)

    def nobody(_done: int, _whole: int) -> None:
        """Watch no progress."""

    try:
        now_ms = int(await exchange.fetch_time()) // 60_000 * 60_000
        begin, end = now_ms - 1_800_000, now_ms - 60_000
        await fetch_trades(
            asker, tmp_path, pair=PAIR, since_ns=begin * 1_000_000, until_ns=end * 1_000_000, progress=nobody
        )
        for timeframe in ("1s", "1m"):
            await candle_folder.fetch(
                asker, tmp_path, pair=PAIR, timeframe=timeframe, since_ms=begin, until_ms=end, progress=nobody
            )
    finally:
        await exchange.close()
        await sim.stop()
    seconds = build(tmp_path, set_of(tmp_path, PAIR), "1s")
    minutes = build(tmp_path, set_of(tmp_path, PAIR), "1m")

    assert (seconds.differing, minutes.differing) == (0, 0), (seconds.places, minutes.places)
    assert minutes.same == 29
    assert seconds.same >= 1_738  # before the first trade there is no price to repeat
