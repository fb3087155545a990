"""Each scripted fault does what it says, once, and is counted."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import ccxt.async_support as ccxt
import msgspec
import pytest
import websockets
from websockets.asyncio.client import connect

from daemon.exchange.faults import Action, FaultBook, FaultRule
from daemon.exchange.server import SimulatedExchange

Start = Callable[..., Awaitable[SimulatedExchange]]
Client = Callable[..., Any]
Poll = Callable[[Callable[[], bool]], Awaitable[None]]
ORDER = "POST /api/v3/order"


def join(exchange: SimulatedExchange, path: str, **settings: Any) -> connect:
    """Connect to a websocket path; the client buffers without bound so that closing never waits for the reader."""
    return connect(f"ws://127.0.0.1:{exchange.port}{path}", **{"max_queue": None, "close_timeout": 1, **settings})


@pytest.mark.parametrize(
    ("action", "raised", "placed"),
    [
        (Action.DROP, ccxt.RequestTimeout, 0),
        (Action.CUT, ccxt.ExchangeNotAvailable, 0),
        (Action.CUT_AFTER, ccxt.ExchangeNotAvailable, 1),
        (Action.HANG_AFTER, ccxt.RequestTimeout, 1),
        (Action.TRUNCATE, ccxt.BaseError, 1),
        (Action.SLOW, ccxt.RequestTimeout, 1),
        (Action.EMPTY, None, 1),
        (Action.HTML, None, 1),
        (Action.BROKEN, None, 1),
        (Action.REPLACE, None, 1),
        (Action.DELAY, None, 1),
        (Action.ERROR, ccxt.OperationFailed, 0),
    ],
)
async def test_faults_of_an_order_request(
    start: Start, client: Client, action: Action, raised: type[Exception] | None, placed: int
) -> None:
    """What the client sees and whether the exchange has the order, for every way to lose a reply."""
    exchange = await start()
    binance = client(exchange, timeout=300)
    await binance.load_markets()
    rule = FaultRule(match=ORDER, action=action, seconds=0.1 if action is Action.DELAY else 2.0, status=503, text="{}")
    if action in {Action.HTML, Action.REPLACE}:
        rule = msgspec.structs.replace(rule, status=0)
    number = exchange.faults.add(rule)
    if raised is None:
        order = await binance.create_order("BTC/USDT", "market", "buy", 0.01)
        assert (order["id"] is None) == (action is not Action.DELAY)
    else:
        with pytest.raises(raised):
            await binance.create_order("BTC/USDT", "market", "buy", 0.01)

    assert (len(exchange.books.orders), exchange.faults.fired(number)) == (placed, 1)
    assert [seen.fault for seen in exchange.requests if seen.method == "POST"] == [action]
    await binance.create_order("BTC/USDT", "market", "buy", 0.01)
    assert len(exchange.books.orders) == placed + 1


async def test_an_order_can_execute_after_the_client_gave_up(start: Start, client: Client, poll: Poll) -> None:
    """LATE: no answer ever, the order appears afterwards."""
    exchange = await start()
    binance = client(exchange, timeout=100)
    await binance.load_markets()
    exchange.faults.add(FaultRule(match=ORDER, action=Action.LATE, seconds=0.3))
    binance.options["recvWindow"] = 150  # long over when the order executes: it was admitted in time
    with pytest.raises(ccxt.RequestTimeout):
        await binance.create_order("BTC/USDT", "market", "buy", 0.01)

    assert exchange.books.orders == []
    await poll(lambda: len(exchange.books.orders) == 1)


async def test_errors_carry_code_status_and_headers(start: Start, client: Client) -> None:
    """ERROR with Retry-After, before or after the request took effect."""
    exchange = await start()
    binance = client(exchange)
    await binance.load_markets()
    headers = {"Retry-After": "7"}
    exchange.faults.add(FaultRule(match=ORDER, action=Action.ERROR, status=429, code=-1003, msg="Too", headers=headers))
    exchange.faults.add(FaultRule(match=ORDER, action=Action.ERROR, status=503, code=-1008, handle=True))
    with pytest.raises(ccxt.DDoSProtection):
        await binance.create_order("BTC/USDT", "market", "buy", 0.01)
    assert binance.last_response_headers["Retry-After"] == "7"
    with pytest.raises(ccxt.BaseError):
        await binance.create_order("BTC/USDT", "market", "buy", 0.01)

    assert len(exchange.books.orders) == 1


async def test_lists_can_be_incomplete(start: Start, client: Client) -> None:
    """OMIT leaves items out of an answer."""
    exchange = await start()
    binance = client(exchange)
    await binance.load_markets()
    bid = (await binance.fetch_ticker("BTC/USDT"))["bid"]
    await binance.create_order("BTC/USDT", "limit", "buy", 0.01, bid * 0.9)
    exchange.faults.add(FaultRule(match="GET /api/v3/openOrders", action=Action.OMIT))

    assert await binance.fetch_open_orders("BTC/USDT") == []
    assert len(await binance.fetch_open_orders("BTC/USDT")) == 1


async def frames_under(start: Start, rule: FaultRule) -> tuple[list[bytes], list[bytes]]:
    """What two clients hear in ten seconds: one before whom the rule fires, one that knows the truth."""
    exchange = await start(manual=True, symbols=1)
    async with (
        join(exchange, "/ws/btcusdt@trade") as truth,
        join(exchange, "/ws/btcusdt@aggTrade") as victim,
    ):
        number = exchange.faults.add(rule)
        await exchange.step(10)
        heard = []
        for socket in (victim, truth):
            out: list[bytes] = []
            try:
                while True:
                    out.append(await asyncio.wait_for(socket.recv(decode=False), 0.2))
            except TimeoutError:
                heard.append(out)
        assert exchange.faults.fired(number) == 1
        return heard[0], heard[1]


def aggs(frames: list[bytes]) -> list[int]:
    """Ids of aggregate frames."""
    return [msgspec.json.decode(frame)["a"] for frame in frames]


MATCH = "frame *@aggTrade"


async def test_skipped_duplicated_and_reordered_frames(start: Start) -> None:
    """The ids show exactly one irregularity each."""
    skipped = aggs((await frames_under(start, FaultRule(match=MATCH, action=Action.SKIP, after=3)))[0])
    doubled = aggs((await frames_under(start, FaultRule(match=MATCH, action=Action.DUPLICATE, after=3)))[0])
    swapped = aggs((await frames_under(start, FaultRule(match=MATCH, action=Action.REORDER, after=3)))[0])

    assert [b - a for a, b in itertools.pairwise(skipped)].count(2) == 1
    assert [b - a for a, b in itertools.pairwise(doubled)].count(0) == 1
    assert [b - a for a, b in itertools.pairwise(swapped)].count(-1) == 1
    assert sorted(swapped) == list(range(swapped[0], swapped[-1] + 1))


async def test_spoiled_frames(start: Start) -> None:
    """Half a frame, a replaced frame and a frame with an absurd price."""
    half = (await frames_under(start, FaultRule(match=MATCH, action=Action.CORRUPT)))[0]
    other = (await frames_under(start, FaultRule(match=MATCH, action=Action.REPLACE, text="[NaN]")))[0]
    absurd = (await frames_under(start, FaultRule(match=MATCH, action=Action.SET, field="p", text='"-1"')))[0]

    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(half[0])
    assert other[0] == b"[NaN]"
    assert msgspec.json.decode(absurd[0])["p"] == "-1"
    assert msgspec.json.decode(absurd[1])["p"] != "-1"


async def test_a_stalled_client_hears_nothing_but_pongs(start: Start) -> None:
    """STALL mutes one client for its time while the other hears everything and pings are answered."""
    exchange = await start(manual=True, symbols=1)
    async with join(exchange, "/ws/btcusdt@trade") as victim, join(exchange, "/ws/btcusdt@aggTrade") as other:
        exchange.faults.add(FaultRule(match="frame *@trade", action=Action.STALL, seconds=30))
        await exchange.step(5)
        await asyncio.wait_for(other.recv(), 2)
        await asyncio.wait_for(await victim.ping(), 2)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(victim.recv(), 0.1)


async def test_a_held_stream_bursts_afterwards(start: Start) -> None:
    """HOLD keeps frames and sends all of them at once, none lost."""
    exchange = await start(manual=True, symbols=1)
    async with join(exchange, "/ws/btcusdt@trade") as socket:
        exchange.faults.add(FaultRule(match="frame *@trade", action=Action.HOLD, seconds=0.5))
        first = exchange.market.last[0]
        await exchange.step(60)
        last = exchange.market.last[0]
        assert first is not None
        assert last is not None
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(socket.recv(), 0.2)
        ids = [msgspec.json.decode(await asyncio.wait_for(socket.recv(), 2))["t"] for _ in range(last.id - first.id)]

    assert ids == list(range(first.id + 1, last.id + 1))


async def test_a_frozen_connection_answers_no_ping(start: Start) -> None:
    """FREEZE is a half-open peer: the socket stands, nothing comes back."""
    exchange = await start(manual=True, symbols=1)
    async with join(exchange, "/ws/btcusdt@trade", close_timeout=0.1) as socket:
        exchange.faults.add(FaultRule(match="frame *@trade", action=Action.FREEZE, seconds=0.5))
        await exchange.step(3)
        pong = await socket.ping()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(pong), 0.2)
        await asyncio.wait_for(pong, 3)


async def test_connections_can_be_closed_reset_and_refused(start: Start) -> None:
    """CLOSE, CUT, the disconnect command and faults of the handshake."""
    exchange = await start(manual=True, symbols=1)
    for action, kind in ((Action.CLOSE, websockets.ConnectionClosed), (Action.CUT, websockets.ConnectionClosedError)):
        exchange.faults.add(FaultRule(match="frame *", action=action, status=1012))
        async with join(exchange, "/ws/btcusdt@trade") as socket:
            await exchange.step(3)
            with pytest.raises(kind):
                await asyncio.wait_for(socket.recv(), 2)
    async with join(exchange, "/ws/btcusdt@trade") as socket:
        assert exchange.push("market", b'{"e":"serverShutdown"}') == 1
        assert await asyncio.wait_for(socket.recv(), 2) == '{"e":"serverShutdown"}'
        assert exchange.disconnect("market", 0) == 1
        with pytest.raises(websockets.ConnectionClosedError):
            await asyncio.wait_for(socket.recv(), 2)
    exchange.faults.add(FaultRule(match="connect /ws*", action=Action.ERROR, status=503))
    exchange.faults.add(FaultRule(match="connect /ws*", action=Action.CUT))
    exchange.faults.add(FaultRule(match="connect /ws*", action=Action.DROP))
    with pytest.raises(websockets.InvalidStatus):
        await join(exchange, "/ws")
    with pytest.raises((websockets.InvalidHandshake, OSError, EOFError)):
        await join(exchange, "/ws")
    with pytest.raises(TimeoutError):
        await join(exchange, "/ws", open_timeout=0.2)


async def test_user_events_can_be_lost(start: Start) -> None:
    """A rule on the user data stream matches by event."""
    book = FaultBook()
    number = book.add(FaultRule(match="user executionReport", action=Action.SKIP, contains='"x":"TRADE"'))

    assert book.pick("user executionReport", b'{"x":"NEW"}') is None
    assert book.pick("user outboundAccountPosition", b"{}") is None
    assert book.pick("user executionReport", b'{"x":"TRADE"}') is not None
    assert book.pick("user executionReport", b'{"x":"TRADE"}') is None
    assert book.fired(number) == 1


def test_an_action_must_fit_what_it_matches() -> None:
    """Frames cannot answer 503, requests cannot be reordered."""
    with pytest.raises(ValueError, match="for requests"):
        FaultBook().add(FaultRule(match="frame *", action=Action.ERROR))
    with pytest.raises(ValueError, match="for frames"):
        FaultBook().add(FaultRule(match="GET *", action=Action.REORDER))


def test_chance_times_and_delay_of_a_rule_are_seeded() -> None:
    """Probability draws from the rule's own seed; after and times bound it; rules can be lifted."""

    def draws(seed: int) -> list[bool]:
        book = FaultBook()
        book.add(FaultRule(match="*", action=Action.DROP, times=0, probability=0.5, seed=seed, after=2))
        return [book.pick("GET /x") is not None for _ in range(50)]

    book = FaultBook()
    number = book.add(FaultRule(match="x", action=Action.DROP))
    book.remove(number)

    assert draws(1) == draws(1) != draws(2)
    assert draws(1)[:2] == [False, False]
    assert 10 < sum(draws(1)) < 40
    assert book.pick("x") is None
    assert not book


async def test_faults_can_be_scripted_from_another_process(start: Start) -> None:
    """POST, GET and DELETE /sim/faults."""
    exchange = await start(manual=True)
    base = f"http://127.0.0.1:{exchange.port}"
    async with aiohttp.ClientSession() as session:
        rule = {"match": "GET /api/v3/time", "action": "error", "status": 418, "code": -1003, "times": 0}
        async with session.post(base + "/sim/faults", json=rule) as reply:
            number = (await reply.json())["id"]
        async with session.get(base + "/api/v3/time") as reply:
            assert reply.status == 418
        async with session.get(base + "/sim/faults") as reply:
            assert await reply.json() == {"fired": {str(number): 1}}
        async with session.delete(base + f"/sim/faults?id={number}") as reply:
            assert reply.status == 200
        began = time.monotonic()
        async with session.get(base + "/api/v3/time") as reply:
            assert reply.status == 200
        assert time.monotonic() - began < 2


async def test_a_fill_can_overtake_the_reply(start: Start, client: Client, poll: Poll) -> None:
    """DELAY_AFTER: the order executes at once while its answer waits."""
    exchange = await start()
    binance = client(exchange)
    await binance.load_markets()
    exchange.faults.add(FaultRule(match=ORDER, action=Action.DELAY_AFTER, seconds=0.3))
    order = asyncio.ensure_future(binance.create_order("BTC/USDT", "market", "buy", 0.01))
    await poll(lambda: len(exchange.books.fills) > 0)

    assert not order.done()
    assert (await order)["status"] == "closed"


async def test_streams_and_clock_are_steered_over_http(start: Start) -> None:
    """disconnect, push, terminate and clock of the control interface."""
    exchange = await start(manual=True)
    base = f"http://127.0.0.1:{exchange.port}/sim/"
    async with (
        aiohttp.ClientSession() as session,
        join(exchange, "/ws") as market,
        join(exchange, "/ws-api/v3") as user,
    ):

        async def send(path: str, body: object) -> Any:
            async with session.post(base + path, json=body) as reply:
                assert reply.status == 200
                return await reply.json()

        assert await send("push", {"kind": "market", "frame": {"e": "serverShutdown"}}) == {"pushed": 1}
        assert await market.recv() == '{"e":"serverShutdown"}'
        await send("clock", {"offset_ms": 1_500})
        assert exchange.venue.now_ms() == exchange.clock() // 10**6 + 1_500
        await send("terminate", {})
        assert await send("disconnect", {"kind": "user", "code": 1012}) == {"closed": 1}
        with pytest.raises(websockets.ConnectionClosed):
            await asyncio.wait_for(user.recv(), 2)
        assert await send("disconnect", {"kind": "market"}) == {"closed": 1}
        with pytest.raises(websockets.ConnectionClosedError):
            await asyncio.wait_for(market.recv(), 2)
