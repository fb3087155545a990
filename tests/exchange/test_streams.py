"""Raw websocket clients follow the market and the account."""

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import msgspec
import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from daemon.exchange.config import Limits
from daemon.exchange.server import SimulatedExchange

Start = Callable[..., Awaitable[SimulatedExchange]]


async def read(socket: ClientConnection, count: int) -> list[Any]:
    """Decode the next frames."""
    return [msgspec.json.decode(await asyncio.wait_for(socket.recv(), 5)) for _ in range(count)]


async def read_until(socket: ClientConnection, last: Callable[[Any], bool]) -> list[Any]:
    """Decode frames up to the first that fulfils a condition."""
    out: list[Any] = []
    while not out or not last(out[-1]):
        out += await read(socket, 1)
    return out


def join(exchange: SimulatedExchange, path: str, **settings: Any) -> connect:
    """Connect to a websocket path; the client buffers without bound so that closing never waits for the reader."""
    return connect(f"ws://127.0.0.1:{exchange.port}{path}", **{"max_queue": None, "close_timeout": 1, **settings})


async def ask(socket: ClientConnection, method: str, params: object = None) -> Any:
    """Send a control message and return its reply."""
    await socket.send(msgspec.json.encode({"method": method, "params": params, "id": 7}).decode())
    frames = await read_until(socket, lambda frame: isinstance(frame, dict) and frame.get("id") == 7)
    return frames[-1]


async def flood(socket: ClientConnection) -> None:
    """Send more control messages than a second allows."""
    for _ in range(20):
        await ask(socket, "LIST_SUBSCRIPTIONS")


async def test_raw_and_combined_paths_carry_the_same_event(start: Start) -> None:
    """/ws/<stream> is bare, /stream?streams= is wrapped, the content equal."""
    exchange = await start(manual=True)
    async with (
        join(exchange, "/ws/btcusdt@trade") as bare,
        join(exchange, "/stream?streams=btcusdt@trade/ethusdt@trade") as wrapped,
    ):
        await exchange.step(2)
        event = (await read(bare, 1))[0]
        both = await read_until(wrapped, lambda frame: frame["stream"] == "btcusdt@trade")

        assert set(event) == {"e", "E", "s", "t", "p", "q", "T", "m", "M"}
        assert both[-1]["data"] == event
        assert Decimal(event["p"]) % Decimal("0.01") == 0


async def test_subscribe_unsubscribe_and_list(start: Start) -> None:
    """The control messages work on every path, wrong ones get Binance's errors."""
    exchange = await start(manual=True)
    for path in ("/ws", "/stream", "/stream/ws"):
        async with join(exchange, path) as socket:
            assert await ask(socket, "SUBSCRIBE", ["btcusdt@trade", "ethusdt@aggTrade"]) == {"result": None, "id": 7}
            assert (await ask(socket, "LIST_SUBSCRIPTIONS"))["result"] == ["btcusdt@trade", "ethusdt@aggTrade"]
            await ask(socket, "UNSUBSCRIBE", ["btcusdt@trade"])
            await exchange.step(2)
            first = (await read(socket, 1))[0]
            assert (first["data"] if path == "/stream" else first)["e"] == "aggTrade"
    async with join(exchange, "/ws") as socket:
        assert (await ask(socket, "DANCE"))["error"]["code"] == 2
        assert (await ask(socket, "SUBSCRIBE", [1]))["error"]["code"] == 2
        await socket.send("{")
        assert (await read(socket, 1))[0]["error"]["code"] == 3
        await socket.send("[1]")
        assert (await read(socket, 1))[0]["error"]["code"] == 2


async def test_ids_run_on_from_rest_into_the_stream(start: Start, client: Callable[..., Any]) -> None:
    """The first streamed trade follows the last one of REST, and the stream has no hole."""
    exchange = await start(manual=True)
    await exchange.step(3)
    binance = client(exchange)
    async with join(exchange, "/ws/btcusdt@trade/btcusdt@aggTrade") as socket:
        last = await binance.publicGetTrades({"symbol": "BTCUSDT", "limit": 1})
        last_agg = await binance.publicGetAggTrades({"symbol": "BTCUSDT", "limit": 1})
        await exchange.step(20)
        newest = await binance.publicGetAggTrades({"symbol": "BTCUSDT", "limit": 1})
        frames = await read_until(socket, lambda frame: frame.get("a") == int(newest[0]["a"]))
        trades, aggs = ([f for f in frames if f["e"] == kind] for kind in ("trade", "aggTrade"))

        assert [f["t"] for f in trades] == list(range(int(last[0]["id"]) + 1, int(newest[0]["l"]) + 1))
        assert [f["a"] for f in aggs] == list(range(int(last_agg[0]["a"]) + 1, int(newest[0]["a"]) + 1))
        assert sum(Decimal(f["q"]) for f in trades) == sum(Decimal(f["q"]) for f in aggs)
        assert all(f["l"] - f["f"] >= 0 for f in aggs)


@pytest.mark.parametrize("interval", ["1s", "1m"])
async def test_streamed_candles_equal_their_trades_and_rest(
    start: Start, client: Callable[..., Any], interval: str
) -> None:
    """Every closed candle is sent once, with exactly what its trades add up to; REST says the same."""
    exchange = await start(manual=True)
    await exchange.step(7)
    width = 1_000 if interval == "1s" else 60_000
    async with join(exchange, f"/ws/btcusdt@trade/btcusdt@kline_{interval}") as socket:
        end = exchange.clock() // 10**6 // width * width + 2 * width
        await exchange.advance_to((end + width) * 10**6 + 50_000_000)
        frames = await read_until(socket, lambda f: f["e"] == "kline" and f["k"]["x"] and f["k"]["T"] > end)
        closed = [f["k"] for f in frames if f["e"] == "kline" and f["k"]["x"]]
        rows = await client(exchange).publicGetKlines({"symbol": "BTCUSDT", "interval": interval, "limit": 100})
        rest = {int(row[0]): row for row in rows}

        assert len({k["t"] for k in closed}) == len(closed) == 3
        for k in closed:
            row = rest[k["t"]]
            assert [k[name] for name in "ohlcv"] == row[1:6]
            assert (k["T"], k["q"], k["n"], k["V"], k["Q"]) == (int(row[6]), row[7], int(row[8]), row[9], row[10])
        for k in closed[1:]:
            inside = [f for f in frames if f["e"] == "trade" and k["t"] <= f["T"] <= k["T"]]
            prices = [Decimal(f["p"]) for f in inside]
            assert (Decimal(k["o"]), Decimal(k["c"])) == (prices[0], prices[-1])
            assert (Decimal(k["h"]), Decimal(k["l"])) == (max(prices), min(prices))
            assert Decimal(k["v"]) == sum(Decimal(f["q"]) for f in inside)
            assert (k["f"], k["L"], k["n"]) == (inside[0]["t"], inside[-1]["t"], len(inside))


async def test_book_streams_rebuild_the_snapshot(start: Start, client: Callable[..., Any]) -> None:
    """Applying the differences to a snapshot gives the next snapshot; update ids follow each other."""
    exchange = await start(manual=True)
    async with join(exchange, "/ws/btcusdt@depth@100ms/btcusdt@depth5/btcusdt@bookTicker") as socket:
        before = await client(exchange).publicGetDepth({"symbol": "BTCUSDT", "limit": 5000})
        await exchange.step(5)
        exchange.market.crash(0, 0.9)
        await exchange.step(5)
        after = await client(exchange).publicGetDepth({"symbol": "BTCUSDT", "limit": 5000})
        frames = await read_until(socket, lambda f: f.get("u") == after["lastUpdateId"] and "U" in f)
        book = {side: dict(before[side]) for side in ("bids", "asks")}
        known = before["lastUpdateId"]
        for frame in frames:
            if "U" in frame:
                assert frame["U"] == known + 1
                known = frame["u"]
                for side, key in (("bids", "b"), ("asks", "a")):
                    book[side].update(dict(frame[key]))
        partial = [f for f in frames if "lastUpdateId" in f][-1]
        touch = [f for f in frames if "B" in f][-1]

        for side in ("bids", "asks"):
            left = {price: qty for price, qty in book[side].items() if Decimal(qty)}
            assert left == dict(after[side])
        assert len(partial["bids"]) == len(partial["asks"]) == 5
        assert Decimal(touch["b"]) < Decimal(touch["a"])


async def test_the_server_pings_and_a_client_without_pong_is_dropped(start: Start) -> None:
    """Pings come at the configured pace; a silent peer is cut."""
    exchange = await start(ping_seconds=0.05, pong_seconds=0.3)
    async with join(exchange, "/ws", ping_interval=None) as socket:
        pong = await socket.ping()
        await asyncio.wait_for(pong, 2)
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", exchange.port)
        request = "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        writer.write(
            f"{request}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        heard = b""
        try:
            while piece := await reader.read(1_000):
                heard += piece
        except ConnectionResetError:
            pass
        writer.close()
    assert heard.count(b"\x89") >= 3


async def test_limits_of_a_connection(start: Start) -> None:
    """More than five messages a second or too many streams are refused; connection attempts are counted."""
    exchange = await start(limits=Limits(streams_per_connection=2, connections_per_5m=3))
    async with join(exchange, "/ws") as socket:
        assert "error" in await ask(socket, "SUBSCRIBE", ["a@trade", "b@trade", "c@trade"])
        with pytest.raises(websockets.ConnectionClosedError) as caught:
            await flood(socket)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1008
    for _ in range(2):
        async with join(exchange, "/ws"):
            pass
    with pytest.raises(websockets.InvalidStatus):
        await join(exchange, "/ws")


async def test_sessions_end_after_their_time(start: Start) -> None:
    """A connection is closed when its day is over."""
    exchange = await start(session_seconds=0.1, ping_seconds=0.05)
    async with join(exchange, "/ws") as socket:
        with pytest.raises(websockets.ConnectionClosedOK):
            await asyncio.wait_for(socket.recv(), 5)


def api_call(method: str, params: dict[str, Any], secret: str = "sim-secret") -> str:
    """Write a signed request of the websocket API."""
    params = {"apiKey": "sim-key", "timestamp": 1, **params}
    payload = "&".join(f"{name}={params[name]}" for name in sorted(params))
    params["signature"] = hmac.new(secret.encode(), payload.encode(), "sha256").hexdigest()
    return msgspec.json.encode({"id": "x", "method": method, "params": params}).decode()


async def test_the_user_data_stream_tells_every_change(start: Start, client: Callable[..., Any]) -> None:
    """Reports and balances of an order's life come wrapped with the subscription's id, in order."""
    exchange = await start(manual=True)
    binance = client(exchange)
    await binance.load_markets()
    bid = (await binance.fetch_ticker("BTC/USDT"))["bid"]
    async with join(exchange, "/ws-api/v3") as socket:
        await socket.send(api_call("userDataStream.subscribe.signature", {}))
        reply = (await read(socket, 1))[0]
        number = reply["result"]["subscriptionId"]
        order = await binance.create_order("BTC/USDT", "limit", "buy", 0.01, bid * 0.99, {"clientOrderId": "mine"})
        await binance.cancel_order(order["id"], "BTC/USDT")
        await binance.create_order("BTC/USDT", "market", "buy", 0.01)
        exchange.users.deposit("ETH", Decimal(1))
        frames = await read_until(socket, lambda f: f["event"]["e"] == "balanceUpdate")
        events = [frame["event"] for frame in frames]
        reports = [event for event in events if event["e"] == "executionReport"]

        assert (reply["status"], {frame["subscriptionId"] for frame in frames}) == (200, {number})
        assert [(r["x"], r["X"]) for r in reports[:3]] == [("NEW", "NEW"), ("CANCELED", "CANCELED"), ("NEW", "NEW")]
        assert (reports[0]["c"], reports[1]["C"], reports[1]["c"] != "mine") == ("mine", "mine", True)
        assert reports[-1]["X"] == "FILLED"
        assert Decimal(reports[-1]["z"]) == sum(Decimal(r["l"]) for r in reports[2:]) == Decimal("0.01")
        assert {r["N"] for r in reports if r["x"] == "TRADE"} == {"BTC"}
        assert len({r["I"] for r in reports}) == len(reports)
        assert "outboundAccountPosition" in {event["e"] for event in events}
        assert events[-1]["d"] == "1.00000000"
        position = [event for event in events if event["e"] == "outboundAccountPosition" and len(event["B"]) == 2][-1]
        held = {row["a"]: Decimal(row["f"]) for row in position["B"]}
        assert held["USDT"] == exchange.books.balance("USDT").free
        exchange.users.terminate()
        assert (await read(socket, 1))[0]["event"]["e"] == "eventStreamTerminated"


async def test_the_websocket_api_places_and_refuses(start: Start) -> None:
    """Orders, time and errors over the websocket API."""
    exchange = await start(manual=True)
    order = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.01", "newClientOrderId": "w1"}
    async with join(exchange, "/ws-api/v3") as socket:
        for message, status, code in (
            (api_call("order.place", order), 200, 0),
            (api_call("order.status", {"symbol": "BTCUSDT", "origClientOrderId": "w1"}), 200, 0),
            (api_call("userDataStream.subscribe.signature", {}), 200, 0),
            (api_call("session.subscriptions", {}), 200, 0),
            (api_call("userDataStream.unsubscribe", {"subscriptionId": 0}), 200, 0),
            (api_call("order.place", order, secret="wrong"), 400, -1022),
            (api_call("userDataStream.start", {}), 400, -1000),
            ('{"id": 1, "method": "ping"}', 200, 0),
            ('{"id": 1, "method": "time"}', 200, 0),
            ('{"id": 1, "method": "exchangeInfo"}', 200, 0),
            ('{"id": 1, "method": "userDataStream.subscribe.signature", "params": {"apiKey": "sim-key"}}', 400, -1102),
            ("[]", 400, -1135),
            ("{", 400, -1135),
        ):
            await socket.send(message)
            reply = (await read_until(socket, lambda frame: "status" in frame))[-1]

            assert (reply["status"], reply.get("error", {}).get("code", 0)) == (status, code), message
    assert exchange.books.orders[0].client_id == "w1"


async def test_a_real_clock_publishes_by_itself(start: Start) -> None:
    """Trades arrive within a moment of their time, and the pump costs little."""
    exchange = await start(symbols=8)
    loop = asyncio.get_running_loop()
    streams = "/".join(f"{spec.name.lower()}@trade" for spec in exchange.market.specs)
    async with join(exchange, f"/stream?streams={streams}") as socket:
        deadline, late = loop.time() + 2.0, []
        while loop.time() < deadline:
            frame = (await read(socket, 1))[0]["data"]
            late.append(exchange.clock() // 10**6 - frame["T"])

    assert len(late) > 20
    assert sorted(late)[len(late) // 2] < 100
