"""History through the real ccxt from the simulated exchange: whole, resumable, nothing half-closed, errors in one line."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daemon.backtest.data import asking
from daemon.backtest.data import fetch as venue
from daemon.backtest.data import folder as work
from daemon.backtest.data.check import inspect
from daemon.backtest.data.files import Candles, files_in, read, write
from daemon.domain.errors import ConfigError, Unreachable
from daemon.edge.rest import make_exchange
from daemon.exchange.faults import Action, FaultRule
from daemon.exchange.server import SimulatedExchange

S = 1_000
PAIR = "BTC/USDT"
KLINES = "GET /api/v3/klines"


async def present(ccxt: Any) -> int:
    """Return the exchange's own time in whole seconds, ms."""
    return int(await ccxt.fetch_time()) // S * S


def nobody(_done: int, _whole: int) -> None:
    """Watch no progress."""


async def fetch(ccxt: Any, folder: Path, since_ms: int, until_ms: int) -> work.Fetched:
    """Fetch one-second candles."""
    return await work.fetch(
        asking.Asker(ccxt),
        folder,
        pair=PAIR,
        timeframe="1s",
        since_ms=since_ms,
        until_ms=until_ms,
        progress=nobody,
    )


async def test_a_range_comes_whole_and_is_extended_on_both_sides(ccxt: Any, tmp_path: Path) -> None:
    """The middle, then more before and after it: the same rows as in one go, nothing asked for twice."""
    now = await present(ccxt)
    begin, end = now - 3_600 * S, now - 60 * S
    middle = await fetch(ccxt, tmp_path / "parts", begin + 900 * S, end - 900 * S)
    wider = await fetch(ccxt, tmp_path / "parts", begin, end)
    again = await fetch(ccxt, tmp_path / "parts", begin, end)
    whole = await fetch(ccxt, tmp_path / "whole", begin, end)
    parts, one = (read(tmp_path / name / "BTC_USDT-1s.parquet") for name in ("parts", "whole"))

    assert (middle.rows, wider.rows, again.rows, whole.rows) == (1_740, 1_800, 0, 3_540)
    assert np.array_equal(parts.times, np.arange(begin, end, S))
    assert np.array_equal(parts.times, one.times)
    assert np.array_equal(parts.values, one.values)
    assert not [one for one in inspect(parts, S, now_ms=now) if one.is_error]


async def test_the_candle_that_is_still_open_is_not_kept(ccxt: Any, tmp_path: Path) -> None:
    """Up to the middle of a second: the last row closed before it."""
    now = await present(ccxt)
    await fetch(ccxt, tmp_path, now - 20 * S, now - 5 * S + 700)
    assert int(read(tmp_path / "BTC_USDT-1s.parquet").times[-1]) == now - 6 * S


async def test_what_came_before_a_fault_is_kept_and_continued(
    sim: SimulatedExchange, ccxt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exchange fails for good after two pages: one line, the pages are on file, the next run goes on behind them."""
    monkeypatch.setattr(asking, "RETRY_S", 0.001)
    now = await present(ccxt)
    begin, end = now - 3_600 * S, now - 60 * S
    sim.faults.add(
        FaultRule(match=KLINES, action=Action.ERROR, after=3, times=0, status=503)
    )  # one page asks where candles begin
    with pytest.raises(Unreachable, match="no candles of BTC/USDT"):
        await fetch(ccxt, tmp_path, begin, end)
    kept = read(tmp_path / "BTC_USDT-1s.parquet")
    sim.faults.clear()
    rest = await fetch(ccxt, tmp_path, begin, end)

    assert np.array_equal(kept.times, np.arange(begin, begin + 2_000 * S, S))
    assert rest.rows == 3_540 - 2_000
    assert np.array_equal(read(tmp_path / "BTC_USDT-1s.parquet").times, np.arange(begin, end, S))


async def test_an_interrupted_fetch_keeps_what_came(sim: SimulatedExchange, ccxt: Any, tmp_path: Path) -> None:
    """Ctrl-C in the middle of a page: the pages before it are on file."""
    now = await present(ccxt)
    rule = sim.faults.add(FaultRule(match=KLINES, action=Action.DROP, after=2))
    task = asyncio.create_task(fetch(ccxt, tmp_path, now - 3_600 * S, now - 60 * S))
    async with asyncio.timeout(10):
        while not sim.faults.fired(rule):
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert len(read(tmp_path / "BTC_USDT-1s.parquet")) == 1_000


async def test_passing_faults_are_waited_out(
    sim: SimulatedExchange, ccxt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few failures cost time, not rows."""
    monkeypatch.setattr(asking, "RETRY_S", 0.001)
    now = await present(ccxt)
    sim.faults.add(FaultRule(match=KLINES, action=Action.ERROR, after=1, times=3, status=502))
    done = await fetch(ccxt, tmp_path, now - 1_000 * S, now - 60 * S)

    assert done.rows == 940


@pytest.mark.parametrize("action", [Action.HTML, Action.BROKEN, Action.EMPTY, Action.TRUNCATE])
async def test_broken_answers_are_asked_for_again(
    sim: SimulatedExchange, ccxt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: Action
) -> None:
    """A page instead of JSON, half of it, none of it, less than announced: no row is missing afterwards."""
    monkeypatch.setattr(asking, "RETRY_S", 0.001)
    now = await present(ccxt)
    rule = sim.faults.add(FaultRule(match=KLINES, action=action, after=1, times=2))
    done = await fetch(ccxt, tmp_path, now - 1_000 * S, now - 60 * S)

    assert sim.faults.fired(rule) == 2
    assert done.rows == 940


async def test_unknown_names_are_one_line(ccxt: Any, tmp_path: Path) -> None:
    """A pair or a timeframe that the exchange does not have."""
    for pair, timeframe, why in (
        ("NO/USDT", "1s", "NO/USDT: binance has no such pair"),
        (PAIR, "7m", "timeframe 7m: binance has 1s 1m"),
    ):
        with pytest.raises(ConfigError, match=why):
            await work.fetch(
                asking.Asker(ccxt),
                tmp_path,
                pair=pair,
                timeframe=timeframe,
                since_ms=0,
                until_ms=10**12,
                progress=nobody,
            )


async def test_holes_are_filled_from_the_exchange(sim: SimulatedExchange, ccxt: Any, tmp_path: Path) -> None:
    """`repair --online`: the exchange's own rows take the place of what is missing or impossible."""
    now = await present(ccxt)
    await fetch(ccxt, tmp_path, now - 600 * S, now - 60 * S)
    path = tmp_path / "BTC_USDT-1s.parquet"
    whole = read(path)
    spoilt = whole.values.copy()
    spoilt[100, 0] = np.nan
    keep = np.delete(np.arange(len(whole)), [50, 51, 200])
    write(path, Candles(whole.times[keep], spoilt[keep]))
    online = work.online_source(
        lambda: asking.Asker(make_exchange("binance", rest_url=f"http://127.0.0.1:{sim.port}", limited=False))
    )
    (done,) = await asyncio.to_thread(lambda: list(work.mend(files_in(tmp_path), online=online)))

    assert work.summary(done.changes) == "3 filled, 1 replaced"
    assert done.left == ()
    assert np.array_equal(read(path).values, whole.values)


@pytest.mark.parametrize("after", [1, 3])
async def test_a_fetch_of_what_lies_before_goes_on_after_a_fault(
    sim: SimulatedExchange, ccxt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """The newest half first; the older half breaks off in the middle: the hole it leaves is fetched the next time."""
    monkeypatch.setattr(asking, "RETRY_S", 0.001)
    now = await present(ccxt)
    begin, end = now - 5_000 * S, now - 60 * S
    await fetch(ccxt, tmp_path, now - 1_000 * S, end)
    sim.faults.add(FaultRule(match=KLINES, action=Action.ERROR, after=after, times=0, status=503))
    with pytest.raises(Unreachable):
        await fetch(ccxt, tmp_path, begin, end)
    sim.faults.clear()
    broken = read(tmp_path / "BTC_USDT-1s.parquet")
    await fetch(ccxt, tmp_path, begin, end)

    assert len(broken) == 940 + after * 1_000
    assert np.array_equal(read(tmp_path / "BTC_USDT-1s.parquet").times, np.arange(begin, end, S))


async def test_two_stretches_far_apart_are_joined_by_a_third_fetch(ccxt: Any, tmp_path: Path) -> None:
    """What lies between them was never asked for."""
    now = await present(ccxt)
    await fetch(ccxt, tmp_path, now - 900 * S, now - 800 * S)
    await fetch(ccxt, tmp_path, now - 200 * S, now - 100 * S)
    done = await fetch(ccxt, tmp_path, now - 900 * S, now - 100 * S)
    assert (done.rows, done.total) == (600, 800)


def test_what_is_on_file_is_not_asked_for_again() -> None:
    """Before and after, and holes, the longest of very many; a range inside asks for nothing."""
    odd = np.arange(0, 1_000 * S, 2 * S)
    gappy = np.array([0, 1, 5, 6, 9]) * S
    assert venue.missing(gappy, S, 0, 10 * S) == [(2 * S, 5 * S), (7 * S, 9 * S)]
    assert venue.missing(gappy, S, 3 * S, 8 * S) == [(3 * S, 5 * S), (7 * S, 8 * S)]
    assert len(venue.missing(odd, S, 0, 999 * S)) == venue.HOLES_MAX
    times = np.arange(10 * S, 20 * S, S)
    assert venue.missing(times, S, 0, 30 * S) == [(0, 10 * S), (20 * S, 30 * S)]
    assert venue.missing(times, S, 12 * S, 18 * S) == []
    assert venue.missing(times[:0], S, 1, 3 * S) == [(S, 3 * S)]
    assert venue.missing(times, S, 25 * S, 30 * S) == [(25 * S, 30 * S)]
