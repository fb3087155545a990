"""REST market data through the real ccxt, against the simulated exchange on loopback."""

import asyncio
import math
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon.core.bars import BarBuilder
from daemon.core.continuity import Continuity
from daemon.domain.errors import ConfigError, Transient, Unreachable, VenueBusy
from daemon.domain.market import Bar, BarFlag, Malformed, Tick
from daemon.edge.clock import Clock
from daemon.edge.feed import Feed
from daemon.edge.market import PAGES_MAX, MarketData, rows_of
from daemon.edge.rest import Rest, make_exchange, reach
from daemon.exchange.config import SimConfig
from daemon.exchange.faults import Action, FaultRule
from daemon.exchange.server import SimulatedExchange
from daemon.wire import binance_rest
from daemon.wire.binance import BinanceWire
from daemon.wire.binance_streams import IdSpace, streams_of

S = 1_000_000_000
BTC = "BTC/USDT"
UNIVERSE = (BTC, "ETH/USDT")


class Bench:
    """A simulated exchange, ccxt pointed at it, and the market data under test."""

    def __init__(self, sim: SimulatedExchange, *, bar_ns: int = S, space: IdSpace = IdSpace.AGG_TRADE) -> None:
        self.sim = sim
        self.base = f"http://127.0.0.1:{sim.port}"
        self.seen: list[tuple[str, str, int]] = []
        # The trade id space is repaired by historicalTrades, for which ccxt wants a key.
        key = ("sim-key", "sim-secret") if space is IdSpace.TRADE else ("", "")
        self.exchange = make_exchange("binance", rest_url=self.base, api_key=key[0], api_secret=key[1])
        self.rest = Rest(
            self.exchange,
            Clock(),
            rng=random.Random(1),
            on_request=lambda *seen: self.seen.append(seen),
            retry_base_s=0.02,
        )
        self.data = MarketData(self.rest, Clock(), bar_ns=bar_ns, space=space)


@pytest.fixture
async def sim() -> AsyncIterator[SimulatedExchange]:
    """A simulated exchange in real time."""
    exchange = SimulatedExchange(SimConfig(symbols=3, bar_s=1, history_bars=4000, trades_per_s=20.0))
    await exchange.start(0)
    yield exchange
    await exchange.stop()


@pytest.fixture
async def bench(sim: SimulatedExchange) -> AsyncIterator[Bench]:
    """Market data of one-second bars."""
    one = Bench(sim)
    yield one
    await one.exchange.close()


class Live:
    """Live trades of one symbol through feed, decoder and continuity."""

    def __init__(self, bench: Bench, wire: BinanceWire, streams: tuple[str, ...]) -> None:
        self.ticks: list[Tick] = []
        self._wire = wire
        url = bench.base.replace("http", "ws") + "/stream"
        self.feed = Feed(url, streams, self._frame, lambda *_: None, clock=Clock())

    def _frame(self, frame: bytes, recv_ns: int) -> None:
        answer = self._wire.decode(frame, recv_ns)
        assert not isinstance(answer, Malformed), answer
        if isinstance(answer, Tick) and answer.symbol == BTC:
            self.ticks.append(answer)

    async def until(self, seconds: float) -> None:
        """Wait until live trades span so many seconds of the exchange's time."""
        deadline = time.monotonic() + 15.0
        while not self.ticks or self.ticks[-1].ts_event_ns < self.ticks[0].ts_event_ns + seconds * S:
            assert time.monotonic() < deadline, "no trades came"
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("space", list(IdSpace))
@pytest.mark.parametrize("known", [True, False], ids=["first-live-known", "quiet-start"])
async def test_history_is_stitched_to_the_stream(sim: SimulatedExchange, space: IdSpace, *, known: bool) -> None:
    """History and live bars together equal the exchange's own candles: no gap, no overlap, in either id space."""
    bench = Bench(sim, space=space)
    listed = await bench.data.instruments(UNIVERSE)
    live = Live(bench, BinanceWire(listed.instruments), streams_of(listed.instruments, space))
    task = asyncio.create_task(live.feed.run())
    await live.until(0.0)
    first = live.ticks[0]
    history = await (
        bench.data.history(BTC, bars=1500, first_id=first.id, first_ts_ns=first.ts_event_ns)
        if known
        else bench.data.history(BTC, bars=1500)
    )
    await live.until(2.5)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task

    continuity, builder = Continuity(BTC), BarBuilder(BTC, S)
    builder.start(history.bars[-1].close_ns, last_price=history.bars[-1].close, partial=history.partial)
    continuity.start(history.ticks[0].id if history.ticks else history.next_id, history.bars[-1].close)
    built: list[Bar] = []
    for tick in (*history.ticks, *(tick for tick in live.ticks if tick.id >= history.next_id)):
        assert continuity.accept(tick) is None
        built.extend(builder.on_tick(tick))
    truth = await bench.data.candles(BTC, S, 1500)
    await bench.exchange.close()

    ours = [*history.bars, *built]
    theirs = {bar.open_ns: bar for bar in truth.bars}
    assert len(history.bars) == 1500
    assert not history.partial
    assert all(left.close_ns == right.open_ns for left, right in pairwise(ours))
    compared = 0
    for bar in ours[100:]:
        other = theirs[bar.open_ns]
        assert (bar.open, bar.high, bar.low, bar.close) == (other.open, other.high, other.low, other.close)
        assert bar.volume == other.volume
        compared += bar.flag is BarFlag.LIVE

    assert compared >= 2


async def test_rules_of_the_universe_only(bench: Bench) -> None:
    """The rules come typed, and ccxt knows the universe's markets and no other."""
    listed = await bench.data.instruments(UNIVERSE)

    assert [one.symbol for one in listed.instruments] == list(UNIVERSE)
    assert all(one.tick > 0 and one.step > 0 and one.min_notional > 0 and one.trading for one in listed.instruments)
    assert set(bench.exchange.markets) == set(UNIVERSE)
    assert bench.exchange.amount_to_precision(BTC, 1.23456789) == "1.23456"


async def test_unknown_symbol_is_named(bench: Bench) -> None:
    """A symbol the exchange does not list is a configuration error that names it."""
    with pytest.raises(ConfigError, match="NOPE/USDT not listed"):
        await bench.data.instruments((*UNIVERSE, "NOPE/USDT"))


@pytest.mark.parametrize("how", ["unknown", "nonsense"])
async def test_f26_what_is_only_held_and_not_listed_is_left_out_and_the_others_get_their_rules(
    bench: Bench, how: str
) -> None:
    """Nobody can correct it in the configuration; one of the universe still ends the start."""
    gone = "NOPE/USDT"
    if how == "nonsense":
        gone = "ETH/USDT"
        answer: dict[str, Any] = await bench.exchange.public_get_exchangeinfo({"symbols": '["BTCUSDT","ETHUSDT"]'})
        eth = next(one for one in answer["symbols"] if one["symbol"] == "ETHUSDT")
        next(one for one in eth["filters"] if one["filterType"] == "PRICE_FILTER")["tickSize"] = "-1"
        text = msgspec.json.encode(answer).decode()
        bench.sim.faults.add(FaultRule(match="GET /api/v3/exchangeInfo", action=Action.REPLACE, text=text, times=2))
    listed = await bench.data.instruments((BTC, gone), leaving=(gone,))

    assert [one.symbol for one in listed.instruments] == [BTC]
    assert listed.instruments[0].trading
    with pytest.raises(ConfigError, match=f"universe: {gone}"):
        await bench.data.instruments((BTC, gone))


@pytest.mark.parametrize("how", ["omitted", "unknown", "nonsense"])
async def test_f26_a_symbol_that_is_delisted_is_not_traded_and_the_others_go_on(bench: Bench, how: str) -> None:
    """It keeps the rules it had; the others' new rules arrive; when it is back, so is trading in it."""
    before = (await bench.data.instruments(UNIVERSE)).instruments
    answer: dict[str, Any] = await bench.exchange.public_get_exchangeinfo({"symbols": '["BTCUSDT","ETHUSDT"]'})
    btc, eth = sorted(answer["symbols"], key=lambda one: str(one["symbol"]))
    next(one for one in eth["filters"] if one["filterType"] == "LOT_SIZE")["stepSize"] = "0.5"
    if how == "nonsense":
        next(one for one in btc["filters"] if one["filterType"] == "PRICE_FILTER")["tickSize"] = "-1"
    shown = [eth] if how != "nonsense" else [btc, eth]
    match = "GET /api/v3/exchangeInfo"
    if how == "unknown":
        bench.sim.faults.add(FaultRule(match=match, action=Action.ERROR, status=400, code=-1121, times=1))
    text = msgspec.json.encode({**answer, "symbols": shown}).decode()
    bench.sim.faults.add(FaultRule(match=match, action=Action.REPLACE, text=text, times=1))
    during = (await bench.data.instruments(UNIVERSE)).instruments

    assert [one.trading for one in before] == [True, True]
    assert during[0] == msgspec.structs.replace(before[0], trading=False)
    assert during[1] == msgspec.structs.replace(before[1], step=during[1].step)
    assert during[1].step == Decimal("0.5")
    assert set(bench.exchange.markets) == set(UNIVERSE)
    assert (await bench.data.instruments(UNIVERSE)).instruments == before


async def test_missing_trades_come_whole_or_not_at_all(bench: Bench) -> None:
    """A repair holds exactly the ids asked for; what REST cannot give is said in one line."""
    newest = (await bench.data.confirm(BTC)).last_id
    repair = await bench.data.trades(BTC, newest - 1499, newest)
    huge = await bench.data.trades(BTC, newest - PAGES_MAX * 1000, newest)
    future = await bench.data.trades(BTC, newest + 10_000, newest + 10_001)

    assert repair.ok
    assert [tick.id for tick in repair.ticks] == list(range(newest - 1499, newest + 1))
    assert (huge.ok, future.ok) == (False, False)
    assert "pages" in huge.detail
    assert future.detail == f"REST does not have ids from {newest + 10_000}"


async def test_candle_of_a_closed_bar(bench: Bench) -> None:
    """The venue's own candle is taken for a bar we could not build; one that is not closed is not."""
    bars = (await bench.data.candles(BTC, S, 5)).bars
    taken = await bench.data.candle(BTC, bars[2].open_ns, bars[2].close_ns)
    later = bars[-1].close_ns + 3600 * S
    absent = await bench.data.candle(BTC, later, later + S)

    assert taken.bar is not None
    assert taken.bar.flag is BarFlag.REPAIRED
    assert (taken.bar.open_ns, taken.bar.close, taken.bar.volume) == (bars[2].open_ns, bars[2].close, bars[2].volume)
    assert absent.bar is None


async def test_intervals_the_venue_lacks_are_merged(sim: SimulatedExchange) -> None:
    """Bars of 5 s are built from candles of 1 s, exactly."""
    bench = Bench(sim, bar_ns=5 * S)
    history = await bench.data.history(BTC, bars=100)
    seconds = (await bench.data.candles(BTC, S, 700)).bars
    one = await bench.data.candle(BTC, history.bars[50].open_ns, history.bars[50].close_ns)
    await bench.exchange.close()

    assert len(history.bars) == 100
    assert all(bar.open_ns % (5 * S) == 0 and bar.close_ns == bar.open_ns + 5 * S for bar in history.bars)
    for bar in history.bars[-50:]:
        parts = [part for part in seconds if bar.open_ns <= part.open_ns < bar.close_ns]
        assert bar.volume == pytest.approx(math.fsum(part.volume for part in parts), rel=1e-15)
        assert (bar.open, bar.close) == (parts[0].open, parts[-1].close)
    assert one.bar is not None
    assert one.bar.volume == history.bars[50].volume


async def test_training_history_and_days(bench: Bench) -> None:
    """Training gets every symbol's bars as one array; daily candles come for the risk limits."""
    told: list[tuple[int, int]] = []
    arrays = await bench.data.train_history(UNIVERSE, 2500, lambda done, of: told.append((done, of)))
    days = await bench.data.candles(BTC, 86_400 * S, 3)

    assert {symbol: rows.shape for symbol, rows in arrays.items()} == dict.fromkeys(UNIVERSE, (2500, 6))
    assert told == [(1, 2), (2, 2)]
    assert [bar.open_ns % (86_400 * S) for bar in days.bars] == [0] * len(days.bars)
    assert rows_of(()).shape == (0, 6)


async def test_clock_offset(bench: Bench) -> None:
    """On one machine both clocks agree within the limiter's wait."""
    assert abs(await bench.data.clock_offset()) < 100_000_000
    assert bench.data.offset_ns is not None


async def test_newest_candle_may_lag(bench: Bench, sim: SimulatedExchange) -> None:
    """A candle that REST does not have yet is asked for again, not taken for an outage."""
    sim.faults.add(FaultRule(match="GET /api/v3/klines", action=Action.REPLACE, text="[]", times=1))
    history = await bench.data.history(BTC, bars=50)

    assert len(history.bars) == 50
    assert all(bar.flag is BarFlag.BACKFILLED for bar in history.bars)


@pytest.mark.parametrize(
    ("action", "status"),
    [
        (Action.BROKEN, 0),
        (Action.EMPTY, 0),
        (Action.HTML, 0),
        (Action.ERROR, 503),
        (Action.CUT, 0),
        (Action.TRUNCATE, 0),
    ],
)
async def test_passing_faults_are_retried(bench: Bench, sim: SimulatedExchange, action: Action, status: int) -> None:
    """Broken bodies, pages, 5xx and cut connections are asked again; the answer that comes is whole."""
    sim.faults.add(FaultRule(match="GET /api/v3/aggTrades", action=action, status=status, times=2))
    confirmed = await bench.data.confirm(BTC)

    assert confirmed.ok
    assert bench.seen[-1][:2] == ("publicGetAggTrades", "ok")


async def test_lasting_faults_are_transient(bench: Bench, sim: SimulatedExchange) -> None:
    """After bounded attempts the daemon hears Transient, a one-shot command Unreachable; quiet answers stay values."""
    sim.faults.add(FaultRule(match="GET *", action=Action.ERROR, status=502, times=0))
    with pytest.raises(Transient):
        await bench.data.history(BTC, bars=10)
    with pytest.raises(Unreachable, match="after 5 attempts"):
        await reach(bench.rest, "publicGetTime", {}, binance_rest.server_time_ns)

    assert not (await bench.data.confirm(BTC)).ok
    assert not (await bench.data.trades(BTC, 1, 2)).ok
    bench.data.offset_ns = 0
    assert (await bench.data.candle(BTC, S, 2 * S)).bar is None


async def test_retry_after_is_obeyed(bench: Bench, sim: SimulatedExchange) -> None:
    """F9: after a 429 nothing at all is asked until the venue's own time is over."""
    rule = FaultRule(
        match="GET /api/v3/aggTrades",
        action=Action.ERROR,
        status=429,
        code=-1003,
        headers={"Retry-After": "1"},
        times=1,
    )
    sim.faults.add(rule)
    started = time.monotonic()
    confirmed, offset = await asyncio.gather(bench.data.confirm(BTC), _later(bench))

    assert confirmed.ok
    assert time.monotonic() - started >= 1.0
    assert offset >= 1.0
    assert ("publicGetAggTrades", "busy") in [seen[:2] for seen in bench.seen]


async def _later(bench: Bench) -> float:
    """Ask for the time once the 429 has come; return how long it took."""
    started = time.monotonic()
    while not bench.seen:
        await asyncio.sleep(0.001)
    await bench.rest.ask("publicGetTime", {}, binance_rest.server_time_ns)
    return time.monotonic() - started


async def test_busy_venue_says_how_long(bench: Bench, sim: SimulatedExchange) -> None:
    """When all attempts end in 429 the error carries the venue's own delay."""
    sim.faults.add(
        FaultRule(match="GET *", action=Action.ERROR, status=429, code=-1003, headers={"Retry-After": "3"}, times=0)
    )
    with pytest.raises(VenueBusy) as caught:
        await bench.rest.ask("publicGetTime", {}, binance_rest.server_time_ns, attempts=1)

    assert caught.value.retry_after_s == 3.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"exchange_id": "nosuch"}, "exchange.id: 'nosuch' is not known"),
        ({"exchange_id": "kraken", "rest_url": "http://127.0.0.1:1"}, "only binance can be pointed elsewhere"),
        ({"exchange_id": "binance", "rest_url": "http://127.0.0.1:1", "sandbox": True}, "cannot be combined"),
    ],
)
def test_wrong_exchange_settings(arguments: dict[str, Any], message: str) -> None:
    """Impossible combinations are one clear line."""
    with pytest.raises(ConfigError, match=message):
        make_exchange(**arguments)


async def test_venue_without_decoder_is_refused() -> None:
    """A venue ccxt knows but we cannot decode is refused by name."""
    exchange = make_exchange("kraken")
    with pytest.raises(ConfigError, match="'kraken' has no market data decoder"):
        MarketData(Rest(exchange, Clock()), Clock(), bar_ns=S)
    await exchange.close()


MEMORY = """
import asyncio, resource, sys
from daemon.edge.clock import Clock
from daemon.edge.market import MarketData
from daemon.edge.rest import Rest, make_exchange
async def main():
    exchange = make_exchange("binance", rest_url=sys.argv[1])
    data = MarketData(Rest(exchange, Clock()), Clock(), bar_ns=10**9)
    try:
        await data.instruments(("BTC/USDT", "ETH/USDT", "NOPE/USDT"))
    except Exception as error:
        print(error)
    await data.instruments(("BTC/USDT", "ETH/USDT"))
    now = int(open("/proc/self/statm").read().split()[1]) * 4096 // 2**20
    print(now, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    await exchange.close()
asyncio.run(main())
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc; run on Linux")
async def test_memory_with_a_large_exchange() -> None:
    """Even when the whole list of 3,000 symbols has to be read, the process stays below 200 MB."""
    sim = SimulatedExchange(SimConfig(symbols=3, bar_s=1, history_bars=200, pad_symbols_to=3000))
    port = await sim.start(0)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MEMORY, f"http://127.0.0.1:{port}", stdout=subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(child.communicate(), 30.0)
    await sim.stop()
    complaint, sizes = out.decode().splitlines()

    assert "NOPE/USDT not listed" in complaint
    now_mb, peak_mb = map(int, sizes.split())
    assert now_mb <= 200, f"{now_mb} MB, peak {peak_mb} MB"
