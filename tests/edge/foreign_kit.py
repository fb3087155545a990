"""Real ccxt classes of other venues on a loopback server that answers what a test tells it to, or breaks as told."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import ccxt.async_support as ccxt
from aiohttp import web

CLIENT_ID = "b" + "a" * 25
VENUES = ("kraken", "coinbase", "bybit", "okx")
SYMBOL = "BTC/USDT"
MARKET_IDS = {"kraken": "XBTUSDT", "coinbase": "BTC-USDT", "bybit": "BTCUSDT", "okx": "BTC-USDT"}
CLIENT_ID_FIELDS = {
    "kraken": "clientOrderId",
    "coinbase": "client_order_id",  # ccxt drops the unified name (FAULTS 1.2)
    "bybit": "clientOrderId",
    "okx": "clientOrderId",
}
SECRET = "c2VjcmV0LXNlY3JldC1z"  # base64 without padding: kraken decodes it, coinbase takes padding for an Ed25519 key


@dataclass
class Answer:
    """One answer: ``fault`` is how it goes wrong on the wire, "" when it does not."""

    body: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict[str, str])
    fault: str = ""


@dataclass
class Loopback:
    """The server: gives ``answer`` to everybody and notes what was asked as (path, body)."""

    url: str = ""
    answer: Answer = field(default_factory=Answer)
    asked: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def says(self, body: object, status: int = 200, **headers: str) -> None:
        """Answer with this from now on; anything but text is written as JSON."""
        text = body if isinstance(body, str) else json.dumps(body)
        self.answer = Answer(text, status, {name.replace("_", "-"): value for name, value in headers.items()})

    def breaks(self, fault: str, body: object = "") -> None:
        """Break from now on: hang, reset, cut, drip."""
        self.answer = Answer(body if isinstance(body, str) else json.dumps(body), fault=fault)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        self.asked.append((request.path, await request.text()))
        answer = self.answer
        if answer.fault == "hang":
            await asyncio.Event().wait()
        if answer.fault in {"reset", "cut"}:
            return await self._break(request, answer)
        if answer.fault == "drip":
            return await self._drip(request, answer)
        headers = {"Content-Type": "application/json", **answer.headers}
        return web.Response(text=answer.body, status=answer.status, headers=headers)

    async def _break(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        """End the connection: before a byte of the answer, or after half of a body that was announced whole."""
        response = web.StreamResponse(headers={"Content-Length": str(len(answer.body) + 10)})
        if answer.fault == "cut":
            await response.prepare(request)
            await response.write(answer.body.encode())
        if request.transport is not None:
            request.transport.abort()
        return response

    async def _drip(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        """Send a byte now and then for ever."""
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(answer.body[:1].encode() or b" ")
            await asyncio.sleep(0.02)


@asynccontextmanager
async def loopback() -> AsyncGenerator[Loopback]:
    """Serve on an ephemeral port of this machine."""
    server = Loopback()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


def exchange_at(venue: str, url: str, *, timeout_ms: int = 10_000) -> Any:
    """Return ccxt's class of a venue, pointed at ``url``, with one spot market and keys of no value."""
    exchange = getattr(ccxt, venue)(
        {"apiKey": "key", "secret": SECRET, "password": "pass", "enableRateLimit": False, "timeout": timeout_ms}
    )
    exchange.urls["api"] = dict.fromkeys(exchange.urls["api"], url)
    exchange.options |= {"enableUnifiedMargin": False, "enableUnifiedAccount": True}  # bybit would ask
    base, quote = SYMBOL.split("/")
    exchange.set_markets(
        [
            {
                "id": MARKET_IDS[venue],
                "symbol": SYMBOL,
                "base": base,
                "quote": quote,
                "baseId": base,
                "quoteId": quote,
                "type": "spot",
                "spot": True,
                "active": True,
                "precision": {"amount": 1e-8, "price": 0.01},
                "limits": {"amount": {}, "price": {}, "cost": {}},
                "info": {},
            }
        ]
    )
    return exchange


def limit_buy(exchange: Any) -> Any:
    """Return the coroutine of one limit order under ``CLIENT_ID``, through ccxt's unified call."""
    params = {CLIENT_ID_FIELDS[exchange.id]: CLIENT_ID}
    return exchange.create_order(SYMBOL, "limit", "buy", 0.5, 100.0, params)
