"""Trades through the real ccxt: whole, resumable at any moment, nothing believed that is not proven."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daemon.backtest.data import asking, trade_folder
from daemon.backtest.data import trade_fetch as venue
from daemon.backtest.data.trade_reader import chunks, facts_of_set, read_trades
from daemon.backtest.data.trades import TradeSet, folder_of
from daemon.domain.errors import AlreadyRunning, ConfigError, Unreachable
from daemon.edge.clock import Clock
from daemon.edge.lane import Quota
from daemon.edge.rest import make_exchange
from daemon.exchange.faults import Action, FaultRule
from daemon.exchange.server import SimulatedExchange

S = 1_000_000_000
PAIR = "BTC/USDT"
TRADES = "GET /api/v3/aggTrades"
ALWAYS = 2**63 - 1


@pytest.fixture
def asker(ccxt: Any) -> asking.Asker:
    """Questions by way of the real ccxt."""
    return asking.Asker(ccxt)


async def present(asker: asking.Asker) -> int:
    """Return the exchange's time in whole seconds, ns."""
    return int(await asker.exchange.fetch_time()) // 1_000 * S


def nobody(_done: int, _whole: int) -> None:
    """Watch no progress."""


async def fetch(
    asker: asking.Asker, folder: Path, since_ns: int, until_ns: int, pair: str = PAIR
) -> trade_folder.FetchedTrades:
    """Fetch the trades of a stretch."""
    return await trade_folder.fetch_trades(
        asker, folder, pair=pair, since_ns=since_ns, until_ns=until_ns, progress=nobody
    )


def held(folder: Path) -> Any:
    """Return everything a folder has of the pair, as on file."""
    parts = list(chunks(TradeSet(folder_of(folder, PAIR), PAIR)))
    return np.concatenate(parts)


def whole(folder: Path) -> bool:
    """Say whether ids rise by one throughout."""
    return bool((np.diff(held(folder)["id"]) == 1).all())


async def every(sim: SimulatedExchange, asker: asking.Asker, since_ns: int, until_ns: int) -> Any:
    """Return what the exchange itself says of a stretch, by ids, without our code."""
    rows: list[Any] = []
    at = 0
    while not rows or rows[-1]["T"] * 1_000_000 < until_ns:
        page = await asker.exchange.publicGetAggTrades({"symbol": "BTCUSDT", "fromId": at, "limit": 1000})
        rows += [{"T": int(one["T"]), "a": int(one["a"]), "p": one["p"], "q": one["q"], "m": one["m"]} for one in page]
        at = rows[-1]["a"] + 1
    return [one for one in rows if since_ns <= one["T"] * 1_000_000 < until_ns]


async def test_a_stretch_comes_whole_and_is_extended_on_both_sides(
    sim: SimulatedExchange, asker: asking.Asker, tmp_path: Path
) -> None:
    """The middle, then more before and after it: the exchange's own rows, each once, nothing asked for twice."""
    now = await present(asker)
    begin, end = now - 1_500 * S, now - 60 * S
    middle = await fetch(asker, tmp_path, begin + 300 * S + 123_456, end - 400 * S)
    wider = await fetch(asker, tmp_path, begin, end)
    again = await fetch(asker, tmp_path, begin, end)
    truth = await every(sim, asker, begin, end)
    rows = held(tmp_path)

    assert len(truth) > 3_000
    assert (again.rows, middle.rows + wider.rows, wider.total) == (0, len(truth), len(truth))
    assert rows["id"].tolist() == [one["a"] for one in truth]
    assert rows["ts_ns"].tolist() == [one["T"] * 1_000_000 for one in truth]
    assert rows["price"].tolist() == [float(one["p"]) for one in truth]
    assert rows["amount"].tolist() == [float(one["q"]) for one in truth]
    assert rows["sell"].tolist() == [one["m"] for one in truth]
    assert facts_of_set(TradeSet(folder_of(tmp_path, PAIR), PAIR)).covered == ((begin, end),)
    assert np.array_equal(np.concatenate(list(read_trades(tmp_path, PAIR, begin, end))), rows)


async def test_what_is_not_settled_is_left_for_the_next_time(asker: asking.Asker, tmp_path: Path) -> None:
    """The last ten seconds, and what our clock takes for the past, are not called whole."""
    now = await present(asker)
    await fetch(asker, tmp_path, now - 60 * S, now + 3_600 * S)
    ((_, end),) = facts_of_set(TradeSet(folder_of(tmp_path, PAIR), PAIR)).covered

    assert now - 11 * S <= end <= await present(asker) - 9 * S


async def test_before_the_first_trade_there_is_nothing_to_ask_for(asker: asking.Asker, tmp_path: Path) -> None:
    """Years before the listing cost two requests and no days."""
    now = await present(asker)
    first = await venue.first_ns(asker, PAIR)
    assert first is not None
    done = await fetch(asker, tmp_path, 0, first + 10 * S)

    assert done.rows > 0
    assert len(list(folder_of(tmp_path, PAIR).glob("*.parquet"))) == 1
    assert int(held(tmp_path)["ts_ns"][0]) == first < now


@pytest.mark.parametrize("after", [2, 7, 21])
async def test_what_came_before_a_fault_is_kept_and_continued(
    sim: SimulatedExchange, asker: asking.Asker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """The exchange fails for good somewhere: one line, what came is on file, the next run goes on behind it without a seam."""
    monkeypatch.setattr(asking, "RETRY_S", 0.001)
    now = await present(asker)
    begin, end = now - 3_600 * S, now - 60 * S
    sim.faults.add(FaultRule(match=TRADES, action=Action.ERROR, after=after, times=0, status=503))
    with pytest.raises(Unreachable, match="no trades of BTC/USDT"):
        await fetch(asker, tmp_path, begin, end)
    sim.faults.clear()
    await fetch(asker, tmp_path, begin, end)
    truth = await every(sim, asker, begin, end)

    assert held(tmp_path)["id"].tolist() == [one["a"] for one in truth]


async def test_an_interrupted_fetch_keeps_what_came(
    sim: SimulatedExchange, asker: asking.Asker, tmp_path: Path
) -> None:
    """Ctrl-C in the middle of a page: the pages before it are on file, and only they are called whole."""
    now = await present(asker)
    begin, end = now - 3_600 * S, now - 60 * S
    rule = sim.faults.add(FaultRule(match=TRADES, action=Action.DROP, after=20))
    task = asyncio.create_task(fetch(asker, tmp_path, begin, end))
    async with asyncio.timeout(20):
        while not sim.faults.fired(rule):
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    ((first, reached),) = facts_of_set(TradeSet(folder_of(tmp_path, PAIR), PAIR)).covered
    kept = len(held(tmp_path))

    assert first == begin
    assert int(held(tmp_path)["ts_ns"][-1]) == reached < end
    sim.faults.clear()
    rest = await fetch(asker, tmp_path, begin, end)
    assert rest.total == rest.rows + kept
    assert whole(tmp_path)


async def test_too_many_requests_are_waited_out_as_long_as_asked(
    sim: SimulatedExchange, asker: asking.Asker, tmp_path: Path
) -> None:
    """429 with Retry-After 1: nothing leaves for a second, and no trade is missing."""
    now = await present(asker)
    begin, end = now - 600 * S, now - 60 * S
    rule = sim.faults.add(
        FaultRule(
            match=TRADES, action=Action.ERROR, after=3, times=2, status=429, code=-1003, headers={"Retry-After": "1"}
        )
    )
    clock = Clock()
    started = clock.mono_ns()
    await fetch(asker, tmp_path, begin, end)

    assert sim.faults.fired(rule) == 2
    assert clock.mono_ns() - started >= 2 * S
    assert whole(tmp_path)


async def test_a_long_ban_ends_the_fetch_with_what_came(
    sim: SimulatedExchange, asker: asking.Asker, tmp_path: Path
) -> None:
    """418 for an hour: one line that says how long, the pages before it stay, not one request more leaves."""
    now = await present(asker)
    sim.faults.add(
        FaultRule(
            match=TRADES,
            action=Action.ERROR,
            after=20,
            times=0,
            status=418,
            code=-1003,
            headers={"Retry-After": "3600"},
        )
    )
    with pytest.raises(Unreachable, match=r"nothing for another 3[56]\d\d s; run it again then"):
        await fetch(asker, tmp_path, now - 3_600 * S, now - 60 * S)
    rule = sim.faults.add(FaultRule(match="*", action=Action.ERROR, times=0, status=418))
    with pytest.raises(Unreachable, match="nothing for another"):
        await fetch(asker, tmp_path, now - 3_600 * S, now - 60 * S)

    assert not sim.faults.fired(rule)
    assert len(held(tmp_path)) > 1_000


async def test_history_leaves_the_daemon_its_share_of_the_weight(sim: SimulatedExchange, tmp_path: Path) -> None:
    """The limit is read from the exchange, so that history can stop at 60 % of it."""
    exchange = make_exchange("binance", rest_url=f"http://127.0.0.1:{sim.port}", limited=False)
    quota = Quota(Clock())
    asker = asking.Asker(exchange, quota)
    now = await present(asker)
    await fetch(asker, tmp_path, now - 120 * S, now - 60 * S)
    await exchange.close()

    assert quota.budget.limit == 6_000
    assert quota.weight_used > 0


@pytest.mark.parametrize("action", [Action.HTML, Action.BROKEN, Action.EMPTY, Action.TRUNCATE])
async def test_broken_answers_are_asked_for_again(
    sim: SimulatedExchange, asker: asking.Asker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: Action
) -> None:
    """A page instead of JSON, half of it, none of it, less than announced: no trade is missing afterwards."""
    monkeypatch.setattr(asking, "RETRY_S", 0.001)
    now = await present(asker)
    rule = sim.faults.add(FaultRule(match=TRADES, action=action, after=8, times=2))
    await fetch(asker, tmp_path, now - 1_200 * S, now - 60 * S)

    assert sim.faults.fired(rule) == 2
    assert whole(tmp_path)


@pytest.mark.parametrize("action", [Action.HTML, Action.BROKEN, Action.ERROR])
async def test_broken_rules_do_not_end_a_fetch(
    sim: SimulatedExchange, asker: asking.Asker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: Action
) -> None:
    """The exchange's limits are asked for as a courtesy, its markets are asked for again."""
    monkeypatch.setattr(asking, "RETRY_S", 0.001)
    now = await present(asker)
    rule = sim.faults.add(FaultRule(match="GET /api/v3/exchangeInfo", action=action, times=2, status=503))
    await fetch(asker, tmp_path, now - 120 * S, now - 60 * S)

    assert sim.faults.fired(rule) == 2
    assert whole(tmp_path)


async def test_trades_left_out_of_an_answer_are_asked_for_again(
    sim: SimulatedExchange, asker: asking.Asker, tmp_path: Path
) -> None:
    """Some answers lack a tenth of their rows: ids show it."""
    now = await present(asker)
    begin, end = now - 1_200 * S, now - 60 * S
    rule = sim.faults.add(
        FaultRule(match=TRADES, action=Action.OMIT, share=0.1, times=1, contains="limit=1000", after=1)
    )
    await fetch(asker, tmp_path, begin, end)

    assert sim.faults.fired(rule)
    assert held(tmp_path)["id"].tolist() == [one["a"] for one in await every(sim, asker, begin, end)]


async def test_bad_requests_are_one_line(asker: asking.Asker, tmp_path: Path) -> None:
    """A pair that the exchange does not have, a name that is none, a single file that is somebody else's."""
    now = await present(asker)
    with pytest.raises(ConfigError, match="NO/USDT: binance has no such pair"):
        await fetch(asker, tmp_path, now - 60 * S, now, pair="NO/USDT")
    with pytest.raises(ConfigError, match="makes no folder name"):
        await fetch(asker, tmp_path, now - 60 * S, now, pair="../USDT")
    (tmp_path / "BTC_USDT-trades.feather").write_bytes(b"")
    with pytest.raises(ConfigError, match="takes it over first"):
        await fetch(asker, tmp_path, now - 60 * S, now)


async def test_two_fetches_of_one_pair_do_not_undo_each_other(
    sim: SimulatedExchange, asker: asking.Asker, tmp_path: Path
) -> None:
    """The second one is refused while the first one works."""
    now = await present(asker)
    rule = sim.faults.add(FaultRule(match=TRADES, action=Action.DROP, after=3))
    task = asyncio.create_task(fetch(asker, tmp_path, now - 900 * S, now - 60 * S))
    async with asyncio.timeout(20):
        while not sim.faults.fired(rule):
            await asyncio.sleep(0.01)
    with pytest.raises(AlreadyRunning, match="another `ballast data` is writing here"):
        await fetch(asker, tmp_path, now - 900 * S, now - 60 * S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
