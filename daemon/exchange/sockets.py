"""The websocket endpoints: market streams and the websocket API with the user data stream."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import msgspec
from aiohttp import WSMsgType, web

from daemon.exchange import auth, errors
from daemon.exchange.clients import Connection
from daemon.exchange.config import SimConfig
from daemon.exchange.errors import ApiError
from daemon.exchange.faults import FaultBook
from daemon.exchange.hub import Hub, Listener
from daemon.exchange.rest_account import ACCOUNT_ROUTES, Caller
from daemon.exchange.rest_market import MARKET_ROUTES
from daemon.exchange.userdata import UserData
from daemon.exchange.venue import Venue

__all__ = ["Sockets"]

_API_METHODS: Final = {
    "order.place": ("POST", "/api/v3/order"),
    "order.test": ("POST", "/api/v3/order/test"),
    "order.status": ("GET", "/api/v3/order"),
    "order.cancel": ("DELETE", "/api/v3/order"),
    "openOrders.status": ("GET", "/api/v3/openOrders"),
    "openOrders.cancelAll": ("DELETE", "/api/v3/openOrders"),
    "allOrders": ("GET", "/api/v3/allOrders"),
    "myTrades": ("GET", "/api/v3/myTrades"),
    "account.status": ("GET", "/api/v3/account"),
}
_FIVE_MINUTES_S: Final = 300.0


class Sockets:
    """All websocket connections.

    Attributes
    ----------
    market, api
        Open connections of the two kinds.
    connects
        Times (loop seconds) of the connection attempts of the last five minutes.
    """

    def __init__(self, venue: Venue, hub: Hub, users: UserData, faults: FaultBook) -> None:
        """Serve a venue."""
        self._venue = venue
        self._config: SimConfig = venue.config
        self._hub = hub
        self._users = users
        self._faults = faults
        self.market: set[Connection] = set()
        self.api: set[Connection] = set()
        self.connects: deque[float] = deque()

    def admit(self) -> bool:
        """Count a connection attempt; False when there were too many."""
        now = asyncio.get_running_loop().time()
        while self.connects and now - self.connects[0] > _FIVE_MINUTES_S:
            self.connects.popleft()
        self.connects.append(now)
        return len(self.connects) <= self._config.limits.connections_per_5m

    async def serve_market(self, request: web.Request) -> web.StreamResponse:
        """Serve /ws, /ws/<streams>, /stream, /stream?streams= and /stream/ws."""
        path = request.path
        combined = path == "/stream"
        names = request.query.get("streams", "") if combined else path.removeprefix("/stream").removeprefix("/ws")
        connection = Connection(request, self._config, self._faults)
        listener = Listener(connection, combined=combined)
        await connection.open()
        self.market.add(connection)
        for name in filter(None, names.split("/")):
            self._hub.subscribe(listener, name)
        try:
            await self._converse(connection, lambda text: self._market_message(listener, text))
        finally:
            self.market.discard(connection)
            self._hub.leave(listener)
        return connection.socket

    async def serve_api(self, request: web.Request) -> web.StreamResponse:
        """Serve /ws-api/v3."""
        connection = Connection(request, self._config, self._faults)
        await connection.open()
        self.api.add(connection)
        try:
            await self._converse(connection, lambda text: self._api_message(connection, text))
        finally:
            self.api.discard(connection)
            self._users.unsubscribe(connection)
        return connection.socket

    async def _converse(self, connection: Connection, handle: Callable[[str], None]) -> None:
        """Read messages until the peer leaves, while the connection's writer runs beside."""
        writer = asyncio.create_task(connection.run())
        loop = asyncio.get_running_loop()
        recent: deque[float] = deque()
        try:
            async for message in connection.socket:
                recent.append(loop.time())
                while recent[0] < loop.time() - 1.0:
                    recent.popleft()
                if len(recent) > self._config.limits.ws_messages_per_s and connection in self.market:
                    connection.close(1008)
                elif message.type is WSMsgType.PING:
                    await connection.socket.pong(message.data)
                elif message.type is WSMsgType.PONG:
                    connection.pong_received(bytes(message.data))  # a bytearray, as aiohttp hands it over
                elif message.type is WSMsgType.TEXT:
                    handle(message.data)
        finally:
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await writer

    # ------------------------------------------------------------------ market streams

    def _market_message(self, listener: Listener, text: str) -> None:
        reply = self._control(listener, text)
        listener.connection.push(msgspec.json.encode(reply), "frame reply")

    def _control(self, listener: Listener, text: str) -> dict[str, Any]:
        try:
            message = msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            return {"error": {"code": 3, "msg": f"Invalid JSON: {error}"}, "id": None}
        if not isinstance(message, dict):
            return {"error": {"code": 2, "msg": "Invalid request: request must be an object"}, "id": None}
        number, method = message.get("id"), message.get("method")
        params = message.get("params") or []
        if method == "LIST_SUBSCRIPTIONS":
            return {"result": list(listener.streams), "id": number}
        if method == "SET_PROPERTY" and params[:1] == ["combined"]:
            listener.combined = bool(params[1])
            return {"result": None, "id": number}
        if method not in {"SUBSCRIBE", "UNSUBSCRIBE"}:
            text = (
                f"Invalid request: unknown variant {method}, expected one of SUBSCRIBE, UNSUBSCRIBE, LIST_SUBSCRIPTIONS"
            )
            return {"error": {"code": 2, "msg": text}, "id": number}
        if not isinstance(params, list) or not all(isinstance(name, str) for name in params):
            return {"error": {"code": 2, "msg": "Invalid request: params must be a list of stream names"}, "id": number}
        for name in params:
            if method == "UNSUBSCRIBE":
                self._hub.unsubscribe(listener, name)
            elif len(listener.streams) < self._config.limits.streams_per_connection:
                self._hub.subscribe(listener, name)
            else:
                return {"error": {"code": 2, "msg": "Too many streams on one connection."}, "id": number}
        return {"result": None, "id": number}

    # ------------------------------------------------------------------ websocket API

    def _api_message(self, connection: Connection, text: str) -> None:
        number: Any = None
        method = ""
        try:
            message = msgspec.json.decode(text)
            number, method = message.get("id"), str(message.get("method"))
            params = {name: _written(value) for name, value in (message.get("params") or {}).items()}
            result = self._api_call(connection, method, params)
            reply = {"id": number, "status": 200, "result": result, "rateLimits": []}
        except ApiError as error:
            reply = {"id": number, "status": error.status, "error": {"code": error.code, "msg": error.text}}
        except (msgspec.DecodeError, AttributeError):
            reply = {"id": None, "status": 400, "error": {"code": -1135, "msg": "Invalid JSON Request"}}
        connection.push(msgspec.json.encode(reply), "wsapi " + method)

    def _api_call(self, connection: Connection, method: str, params: dict[str, str]) -> Any:
        match method:
            case "ping":
                return {}
            case "time":
                return {"serverTime": self._venue.now_ms()}
            case "exchangeInfo":
                return MARKET_ROUTES["GET", "/api/v3/exchangeInfo"](self._venue, params)
            case "userDataStream.subscribe.signature":
                self._authorise(params)
                return {"subscriptionId": self._users.subscribe(connection)}
            case "userDataStream.unsubscribe":
                number = params.get("subscriptionId")
                self._users.unsubscribe(connection, int(number) if number else None)
                return {}
            case "session.subscriptions":
                return [{"subscriptionId": number} for number in self._users.subscriptions(connection)]
            case _:
                pass
        route = _API_METHODS.get(method)
        if route is None:
            raise ApiError(-1000, f"Method {method!r} is not supported by the simulated exchange.")
        return ACCOUNT_ROUTES[route](self._venue, params, self._authorise(params))

    def _authorise(self, params: dict[str, str]) -> Caller:
        pair = auth.check_key(self._config, params.get("apiKey"))
        if not params.get("timestamp"):
            raise errors.missing("timestamp")
        payload = "&".join(f"{name}={params[name]}" for name in sorted(params) if name != "signature")
        auth.check_signature(pair.secret, payload, params.get("signature"))
        if self._config.check_time:
            auth.check_time(params, self._venue.now_ms())
        return Caller(pair)


def _written(value: object) -> str:
    """Write a JSON parameter as the signature covers it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
