"""An unmodified ccxt client trades on the exchange over loopback."""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

import aiohttp
import ccxt.async_support as ccxt
import msgspec
import pytest
from yarl import URL

from daemon.exchange import bars
from daemon.exchange.config import ApiKey, Limits
from daemon.exchange.rest_market import klines_of
from daemon.exchange.server import SimulatedExchange
from daemon.exchange.text import fixed

Start = Callable[..., Awaitable[SimulatedExchange]]
Client = Callable[..., Any]


async def raw(exchange: SimulatedExchange, method: str, path: str, text: str = "", key: str | None = "sim-key") -> Any:
    """Send a request as it is: (status, JSON, headers)."""
    headers = {"X-MBX-APIKEY": key} if key is not None else {}
    url = f"http://127.0.0.1:{exchange.port}{path}"
    async with aiohttp.ClientSession() as session:
        target = URL(f"{url}?{text}" if text else url, encoded=True)
        async with session.request(method, target, headers=headers) as reply:
            return reply.status, await reply.json(content_type=None), reply.headers


def signed(params: dict[str, Any], secret: str = "sim-secret") -> str:
    """Write and sign parameters."""
    text = urlencode({"timestamp": time.time_ns() // 10**6, **params})
    return f"{text}&signature={hmac.new(secret.encode(), text.encode(), 'sha256').hexdigest()}"


async def test_markets_carry_the_filters(start: Start, client: Client) -> None:
    """load_markets understands precision, limits and status."""
    exchange = await start()
    binance = client(exchange)
    markets = await binance.load_markets()
    market = markets["BTC/USDT"]

    assert list(markets) == ["BTC/USDT", "ETH/USDT", "SOL/USDT"]
    assert (market["precision"]["price"], market["precision"]["amount"]) == (0.01, 0.00001)
    assert (market["active"], market["limits"]["cost"]["min"], market["spot"]) == (True, 5.0, True)


async def test_public_data_agree_with_each_other(start: Start, client: Client) -> None:
    """Candles, trades, book and tickers describe one market."""
    exchange = await start(manual=True)
    await exchange.step(30)
    binance = client(exchange)
    candles = await binance.fetch_ohlcv("BTC/USDT", "1s", limit=100)
    trades = await binance.fetch_trades("BTC/USDT", limit=500, params={"fetchTradesMethod": "publicGetTrades"})
    aggs = await binance.fetch_trades("BTC/USDT", limit=500)
    ticker, book = await binance.fetch_ticker("BTC/USDT"), await binance.fetch_order_book("BTC/USDT", 50)
    second = candles[-2][0]
    inside = [trade for trade in trades if second <= trade["timestamp"] < second + 1_000]

    assert len(candles) == 100
    assert candles[-2][5] == pytest.approx(sum(trade["amount"] for trade in inside))
    assert ticker["last"] == trades[-1]["price"] == aggs[-1]["price"]
    assert (ticker["bid"], ticker["ask"]) == (book["bids"][0][0], book["asks"][0][0])
    assert len(book["bids"]) == len(book["asks"]) == 50
    assert int(aggs[-1]["id"]) < int(trades[-1]["id"])
    assert await binance.fetch_time() == exchange.clock() // 10**6
    assert len(await binance.fetch_tickers()) == 3
    assert len(await binance.fetch_bids_asks()) == 3


async def test_historical_trades_page_by_id(start: Start, client: Client) -> None:
    """historicalTrades and aggTrades by fromId continue without hole."""
    binance = client(await start(manual=True))
    newest = await binance.publicGetHistoricalTrades({"symbol": "BTCUSDT", "limit": 5})
    older = await binance.publicGetHistoricalTrades(
        {"symbol": "BTCUSDT", "limit": 100, "fromId": int(newest[0]["id"]) - 95}
    )
    aggs = await binance.publicGetAggTrades({"symbol": "BTCUSDT", "limit": 5})
    page = await binance.publicGetAggTrades({"symbol": "BTCUSDT", "limit": 8, "fromId": int(aggs[0]["a"]) - 3})

    assert older[95:] == newest
    assert page[3:] == aggs


async def test_the_life_of_an_order(start: Start, client: Client) -> None:
    """Create, query by both ids, list, cancel, fill; balances and fills follow."""
    exchange = await start(manual=True)
    binance = client(exchange)
    await binance.load_markets()
    ticker = await binance.fetch_ticker("BTC/USDT")
    resting = await binance.create_order(
        "BTC/USDT", "limit", "buy", 0.01, ticker["bid"] * 0.99, {"clientOrderId": "b1"}
    )
    by_client = await binance.fetch_order(None, "BTC/USDT", {"clientOrderId": "b1"})
    balance = await binance.fetch_balance()

    assert (resting["status"], by_client["id"]) == ("open", resting["id"])
    assert [order["id"] for order in await binance.fetch_open_orders()] == [resting["id"]]
    assert balance["USDT"]["used"] == pytest.approx(resting["price"] * 0.01)
    assert (await binance.cancel_order(resting["id"], "BTC/USDT"))["status"] == "canceled"
    taken = await binance.create_order("BTC/USDT", "limit", "buy", 0.01, ticker["ask"] * 1.001, {"timeInForce": "IOC"})

    assert (taken["status"], taken["filled"], taken["fee"]["currency"]) == ("closed", 0.01, "BTC")
    assert taken["average"] <= ticker["ask"] * 1.001
    sold = await binance.create_order("BTC/USDT", "market", "sell", 0.009)
    fills = await binance.fetch_my_trades("BTC/USDT")
    one = await binance.fetch_my_trades("BTC/USDT", params={"orderId": sold["id"]})
    later = await binance.fetch_my_trades("BTC/USDT", params={"fromId": int(fills[1]["id"])})
    orders = await binance.fetch_orders("BTC/USDT")

    assert [fill["id"] for fill in later] == [fill["id"] for fill in fills[1:]]
    assert sum(fill["amount"] for fill in one) == pytest.approx(0.009)
    assert {fill["fee"]["currency"] for fill in one} == {"USDT"}
    assert [order["status"] for order in orders] == ["canceled", "closed", "closed"]
    assert (await binance.fetch_balance())["BTC"]["total"] == pytest.approx(0.00099)
    assert exchange.books.conserved()


async def test_cancel_all_and_order_test(start: Start, client: Client) -> None:
    """openOrders DELETE ends all orders of a symbol; order/test places none."""
    exchange = await start(manual=True)
    binance = client(exchange)
    price = (await binance.fetch_ticker("ETH/USDT"))["bid"] * 0.98
    for _ in range(3):
        await binance.create_order("ETH/USDT", "limit", "buy", 0.1, price)
    await binance.create_order("ETH/USDT", "limit", "buy", 0.1, price, {"test": True})
    await binance.cancel_all_orders("ETH/USDT")

    assert [order.status for order in exchange.books.orders] == ["CANCELED"] * 3


async def test_errors_arrive_as_ccxt_classes(start: Start, client: Client) -> None:
    """Binance's codes and texts lead ccxt to its usual classes."""
    exchange = await start(manual=True)
    binance = client(exchange)
    await binance.load_markets()
    bid = (await binance.fetch_ticker("BTC/USDT"))["bid"]
    cases: list[tuple[type[Exception], str, Any]] = [
        (ccxt.InsufficientFunds, "insufficient", lambda: binance.create_order("BTC/USDT", "market", "sell", 0.01)),
        (ccxt.BadRequest, "NOTIONAL", lambda: binance.create_order("BTC/USDT", "market", "buy", 0.00001)),
        (ccxt.InvalidOrder, "PERCENT", lambda: binance.create_order("BTC/USDT", "limit", "buy", 1, 1)),
        (ccxt.OrderNotFound, "-2013", lambda: binance.fetch_order("77", "BTC/USDT")),
        (ccxt.OrderNotFound, "-2011", lambda: binance.cancel_order("77", "BTC/USDT")),
        (
            ccxt.InvalidOrder,
            "immediately match",
            lambda: binance.create_order("BTC/USDT", "limit", "buy", 0.01, bid * 1.01, {"postOnly": True}),
        ),
        (ccxt.BadSymbol, "-1121", lambda: binance.publicGetTrades({"symbol": "NOPE"})),
        (ccxt.AuthenticationError, "-2015", lambda: client(exchange, apiKey="wrong").fetch_balance()),
        (ccxt.AuthenticationError, "-1022", lambda: client(exchange, secret="wrong").fetch_balance()),
    ]
    for kind, text, call in cases:
        with pytest.raises(kind, match=text):
            await call()
    exchange.venue.desk.status[0] = "HALT"
    with pytest.raises(ccxt.MarketClosed):
        await binance.create_order("BTC/USDT", "market", "buy", 0.01)
    assert exchange.books.orders == []


async def test_signatures_and_timestamps_are_verified_over_the_raw_text(start: Start) -> None:
    """Codes and statuses of every way to sign wrongly."""
    exchange = await start()
    now = time.time_ns() // 10**6
    cases: list[tuple[int, int, str, str | None]] = [
        (200, 0, signed({}), "sim-key"),
        (200, 0, signed({"omitZeroBalances": "true", "recvWindow": 5000}), "sim-key"),
        (200, 0, signed({"timestamp": now * 1000}), "sim-key"),
        (401, -2014, signed({}), None),
        (401, -2015, signed({}), "other"),
        (400, -1102, "", "sim-key"),
        (400, -1102, f"timestamp={now}", "sim-key"),
        (400, -1022, signed({}, secret="no"), "sim-key"),
        (400, -1022, signed({}) + "&extra=1", "sim-key"),
        (400, -1021, signed({"timestamp": now + 5_000}), "sim-key"),
        (400, -1021, signed({"timestamp": now - 20_000}), "sim-key"),
        (400, -1131, signed({"recvWindow": 70_000}), "sim-key"),
        (400, -1100, signed({"timestamp": "abc"}), "sim-key"),
        (400, -1100, signed({"recvWindow": "abc"}), "sim-key"),
    ]
    for status, code, text, key in cases:
        found, body, _ = await raw(exchange, "GET", "/api/v3/account", text, key)

        assert (found, body.get("code", 0)) == (status, code), text
    upper = signed({})
    head, _, tail = upper.rpartition("=")
    assert (await raw(exchange, "GET", "/api/v3/account", f"{head}={tail.upper()}"))[0] == 200


async def test_malformed_orders_get_binances_codes(start: Start) -> None:
    """Every parameter is checked before the engine sees the order."""
    exchange = await start(manual=True)
    good = {
        "symbol": "BTCUSDT",
        "side": "BUY",
        "type": "LIMIT",
        "timeInForce": "GTC",
        "quantity": "0.01",
        "price": "60000",
    }
    cases: list[tuple[int, dict[str, str | None]]] = [
        (-1102, {"symbol": None}),
        (-1100, {"symbol": "btc!"}),
        (-1121, {"symbol": "NOPEUSDT"}),
        (-1102, {"side": None}),
        (-1117, {"side": "HOLD"}),
        (-1116, {"type": "STOP"}),
        (-1102, {"timeInForce": None}),
        (-1115, {"timeInForce": "DAY"}),
        (-1106, {"type": "MARKET"}),
        (-1102, {"quantity": None}),
        (-1100, {"quantity": "1e5"}),
        (-1100, {"price": "-1"}),
        (-1013, {"price": "0"}),
        (-1111, {"quantity": "0.0100000001"}),
        (-1013, {"quantity": "0.000001"}),
        (-1100, {"newClientOrderId": "what is this"}),
    ]
    for code, change in cases:
        params = {name: value for name, value in {**good, **change}.items() if value is not None}
        status, body, _ = await raw(exchange, "POST", "/api/v3/order", signed(params))

        assert (status, body["code"]) == (400, code), change
    assert (await raw(exchange, "GET", "/api/v3/order", signed({"symbol": "BTCUSDT"})))[1]["code"] == -1102
    assert (await raw(exchange, "GET", "/api/v3/klines", "symbol=BTCUSDT&interval=7m"))[1]["code"] == -1120
    assert (await raw(exchange, "GET", "/api/v3/nothing"))[0] == 404
    assert (await raw(exchange, "PUT", "/api/v3/order", signed({})))[0] == 405


async def test_permissions_follow_the_key(start: Start) -> None:
    """apiRestrictions tells what a key may do, and a key that may not trade cannot."""
    keys = (ApiKey(), ApiKey(key="reader", secret="sim-secret", trade=False, withdraw=True))
    exchange = await start(keys=keys)
    path = "/sapi/v1/account/apiRestrictions"
    mine, other = await raw(exchange, "GET", path, signed({})), await raw(exchange, "GET", path, signed({}), "reader")
    order = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.01"}

    assert (mine[1]["enableWithdrawals"], mine[1]["enableSpotAndMarginTrading"]) == (False, True)
    assert (other[1]["enableWithdrawals"], other[1]["enableSpotAndMarginTrading"]) == (True, False)
    assert (await raw(exchange, "POST", "/api/v3/order", signed(order), "reader"))[1]["code"] == -2015


async def test_weights_are_counted_and_exceeding_them_is_refused(start: Start) -> None:
    """429 with Retry-After, then 418; the headers tell what was used."""
    exchange = await start(manual=True, limits=Limits(weight_per_minute=45, bans_after=2))
    info = await raw(exchange, "GET", "/api/v3/exchangeInfo")
    await raw(exchange, "GET", "/api/v3/account", signed({}))
    replies = [await raw(exchange, "GET", "/api/v3/exchangeInfo") for _ in range(4)]

    assert info[2]["X-MBX-USED-WEIGHT-1M"] == "20"
    assert [reply[0] for reply in replies] == [429, 429, 418, 418]
    assert {reply[1]["code"] for reply in replies} == {-1003}
    assert 1 <= int(replies[0][2]["Retry-After"]) <= 60
    assert int(replies[3][2]["Retry-After"]) == 120
    await exchange.step(121)
    assert (await raw(exchange, "GET", "/api/v3/ping"))[0] == 200


async def test_too_many_orders_are_refused(start: Start) -> None:
    """The order count has its own limit, code and header."""
    exchange = await start(manual=True, limits=Limits(orders_per_10s=2))
    params = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.001"}
    replies = [await raw(exchange, "POST", "/api/v3/order", signed(params)) for _ in range(3)]

    assert [reply[0] for reply in replies] == [200, 200, 429]
    assert replies[1][2]["X-MBX-ORDER-COUNT-10S"] == "2"
    assert replies[2][1]["code"] == -1015


async def test_exchange_info_can_be_padded(start: Start) -> None:
    """Three thousand symbols for memory tests; the padding does not trade."""
    exchange = await start(pad_symbols_to=3_000)
    symbols = (await raw(exchange, "GET", "/api/v3/exchangeInfo"))[1]["symbols"]

    assert len({symbol["symbol"] for symbol in symbols}) == 3_000
    assert [symbol["status"] for symbol in symbols].count("TRADING") == 3


async def test_the_control_interface_moves_money_prices_and_orders(start: Start) -> None:
    """Deposits, external orders, crashes and the truth over HTTP."""
    exchange = await start(manual=True)
    base = f"http://127.0.0.1:{exchange.port}/sim/"
    async with aiohttp.ClientSession() as session:

        async def send(path: str, body: object = None) -> Any:
            async with session.request("GET" if body is None else "POST", base + path, json=body) as reply:
                return reply.status, await reply.json()

        await send("deposit", {"asset": "BTC", "amount": "0.5"})
        order = {"symbol": "BTCUSDT", "side": "SELL", "type": "MARKET", "quantity": "0.1"}
        placed = (await send("place", order))[1]
        rest = {
            "symbol": "BTCUSDT",
            "side": "BUY",
            "type": "LIMIT",
            "timeInForce": "GTC",
            "quantity": "0.1",
            "price": "50000",
        }
        resting = (await send("place", rest))[1]
        other = (await send("place", rest))[1]
        await send("expire", {"symbol": "BTCUSDT", "orderId": resting["order_id"]})
        await send("cancel", {"symbol": "BTCUSDT", "orderId": other["order_id"]})
        before = exchange.market.last[0]
        await send("crash", {"symbol": "BTCUSDT", "pct": 10})
        await exchange.step(3)
        after = exchange.market.last[0]
        await send("rules", {"symbol": "BTCUSDT", "qty_decimals": 2})
        await send("fee", {"rate": "0.002"})
        await send("status", {"symbol": "ETHUSDT", "status": "BREAK"})
        truth = (await send("truth"))[1]

        assert placed["external"] is True
        assert [o["status"] for o in truth["orders"]] == ["FILLED", "EXPIRED", "CANCELED"]
        assert before is not None
        assert after is not None
        assert after.price == pytest.approx(before.price * 0.9, rel=0.02)
        assert truth["conserved"] is True
        assert Decimal(truth["audit"]["BTC"]["flows"]) == Decimal("0.5")
        assert (await send("place", {**order, "quantity": "0.001"}))[1]["msg"] == "Filter failure: LOT_SIZE"
        assert (await send("requests"))[1] == []
        assert (await send("stats"))[1]["now_ns"] == exchange.clock()
        for path, body in (
            ("crash", {"symbol": "BTCUSDT", "pct": 100}),
            ("status", {}),
            ("faults", {"match": 1}),
            ("expire", {}),
        ):
            assert (await send(path, body))[0] == 400
        assert (await send("nothing"))[0] == 404


async def test_eight_clients_can_ask_at_once(start: Start, client: Client) -> None:
    """Concurrent requests are all answered and logged with their client ids."""
    exchange = await start()
    binance = client(exchange)
    await binance.load_markets()
    bid = (await binance.fetch_ticker("BTC/USDT"))["bid"]
    await asyncio.gather(
        *(
            binance.create_order("BTC/USDT", "limit", "buy", 0.001, bid * 0.9, {"clientOrderId": f"b{k}"})
            for k in range(8)
        )
    )
    seen = [s for s in exchange.requests if s.method == "POST"]

    assert {s.client_id for s in seen} == {f"b{k}" for k in range(8)}
    assert {s.status for s in seen} == {200}


async def test_candles_are_written_like_single_numbers(start: Start) -> None:
    """The fast writer of candles agrees with the plain one, for every symbol's decimals."""
    exchange = await start(manual=True, symbols=8)
    for spec in exchange.market.specs:
        rows = exchange.market.klines(spec.index, "1m", 30)
        written = msgspec.json.decode(bytes(klines_of(spec, rows, "1m")))
        p, q = spec.price_decimals, spec.qty_decimals
        expected = [
            [
                row[bars.TIME],
                *(fixed(row[column], p) for column in (bars.OPEN, bars.HIGH, bars.LOW, bars.CLOSE)),
                fixed(row[bars.VOLUME], q),
                row[bars.TIME] + 59_999,
                fixed(row[bars.QUOTE], p + q),
                row[bars.COUNT],
                fixed(row[bars.TAKER], q),
                fixed(row[bars.TAKER_QUOTE], p + q),
                "0",
            ]
            for row in rows.tolist()
        ]

        assert written == expected


async def test_a_wrong_clock_refuses_signed_requests(start: Start) -> None:
    """The exchange's time can be shifted; the market goes on."""
    exchange = await start()
    exchange.venue.offset_ms = -5_000

    assert (await raw(exchange, "GET", "/api/v3/account", signed({})))[1]["code"] == -1021
    assert (await raw(exchange, "POST", "/api/v3/userDataStream"))[0] == 410
