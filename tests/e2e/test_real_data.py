"""Recorded hourly candles of Binance through the whole line, a real outage of the exchange included."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import compute, parquet

from tests.e2e.kit import SYMBOLS, Daemon, Exchange, assert_same, until

HOUR_MS = 3_600_000
OUTAGE = np.datetime64("2021-08-13T02:00", "ms")
"""Binance was down; the hours from here on are missing in every file."""
OUTAGE_HOURS = 4
BEFORE = 14
"""Candles played, one a second, before the outage begins."""
HISTORY = 512
"""Candles that lie in the past when the market goes live: a multiple of the exchange's block of 256."""
AFTER = 1_500


@pytest.fixture(scope="module")
def window(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recorded candles around the outage, so that it is reached after a few seconds."""
    folder = tmp_path_factory.mktemp("candles")
    start = OUTAGE - np.timedelta64((HISTORY + BEFORE) * HOUR_MS, "ms")
    end = OUTAGE + np.timedelta64(AFTER * HOUR_MS, "ms")
    for symbol in SYMBOLS:
        name = f"{symbol.replace('/', '_')}-1h.parquet"
        table: Any = parquet.read_table(shared_data / "binance" / name)
        dates = table["date"].to_numpy().astype("datetime64[ms]")
        hole = dates[(dates >= OUTAGE) & (dates < OUTAGE + np.timedelta64(OUTAGE_HOURS * HOUR_MS, "ms"))]
        assert len(hole) == 0, f"{name} has candles in the outage"
        table = table.filter(compute.is_in(table["date"], table["date"].filter((dates >= start) & (dates < end))))
        parquet.write_table(table, folder / name)
    return folder


@pytest.fixture(scope="module")
def played(window: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, list[str]]]:
    """Eight real pairs, an hour a second, from shortly before the outage to after it; the reasons it was not ready for."""
    options = ("--data", window, "--data-timeframe", "1h", "--data-bar-s", 1)
    stops = {"stop_loss": 0.3, "trailing_stop": 0.4}
    with (
        Exchange(*options, history_bars=HISTORY) as exchange,
        Daemon(exchange, tmp_path_factory.mktemp("real"), risk=stops) as daemon,
    ):
        daemon.wait_ready()
        until(lambda: len(exchange.orders_sent()) >= 2, timeout_s=BEFORE, what="orders", why=daemon.tail)
        until(lambda: daemon.readiness()[0] == 503, timeout_s=BEFORE + 10, what="the outage", why=daemon.tail)
        reasons = daemon.readiness()[1]
        daemon.wait_ready(timeout_s=30)
        healed_ns = exchange.now_ns()
        until(lambda: exchange.orders_sent(healed_ns), timeout_s=40, what="orders again", why=daemon.tail)
        daemon.settle()
        yield daemon, reasons


def silence(daemon: Daemon) -> tuple[int, int]:
    """Return the longest time without any trade of the first pair on the exchange, ns: the outage as it was played."""
    rows = daemon.exchange.ask(f"/api/v3/klines?symbol={SYMBOLS[0].replace('/', '')}&interval=1s&limit=200")
    opens = [int(row[0]) for row in rows if float(row[5]) > 0]
    gap, begin = max((after - before, before) for before, after in pairwise(opens))
    return (begin + 1000) * 1_000_000, (begin + gap) * 1_000_000


def test_real_candles_are_traded(played: tuple[Daemon, list[str]]) -> None:
    """Real prices through exchange, feed, bars, forecast, optimiser, gate and orders; the books agree."""
    daemon, _ = played
    truth = daemon.exchange.truth()

    assert len(truth["fills"]) >= 4
    assert_same(daemon.ledger, truth)


def test_bars_are_the_recorded_candles(played: tuple[Daemon, list[str]]) -> None:
    """Every bar of the last minute equals the exchange's candle; hours without trades are empty bars at the last price."""
    daemon, _ = played
    for symbol in SYMBOLS:
        assert daemon.wrong_bars(symbol) == []


def test_nothing_is_traded_in_a_real_outage(played: tuple[Daemon, list[str]]) -> None:
    """F23: from three seconds into the exchange's own outage until data flows again no order leaves, with a reason."""
    daemon, reasons = played
    begin_ns, end_ns = silence(daemon)

    assert end_ns - begin_ns >= OUTAGE_HOURS * 1_000_000_000
    assert "stale_data" in reasons
    sent = [one["ns"] for one in daemon.exchange.orders_sent()]
    assert [ns for ns in sent if begin_ns + 3_100_000_000 < ns < end_ns] == []
    assert min(sent) < begin_ns
    assert max(sent) > end_ns
