"""The simulated exchange as a server on loopback: HTTP, websockets, the pump of the market, and faults."""

import asyncio
import contextlib
import json
import random
import sys
from ipaddress import ip_address
from typing import Any, Final

from aiohttp import web

from daemon.exchange.books import Books
from daemon.exchange.clients import Connection
from daemon.exchange.clock import Clock, ManualClock, wall_clock
from daemon.exchange.config import SimConfig
from daemon.exchange.control import Control
from daemon.exchange.faults import Action, FaultBook, FaultRule
from daemon.exchange.hub import Hub
from daemon.exchange.limits import RateLimiter
from daemon.exchange.market import Market
from daemon.exchange.requests import Answer, Dispatcher, Incoming, Seen, read_request
from daemon.exchange.sockets import Sockets
from daemon.exchange.userdata import UserData
from daemon.exchange.venue import Venue

__all__ = ["SimulatedExchange", "serve"]

_PUMP_SECONDS: Final = 0.05  # longest sleep of the pump
_PUMP_SECONDS_MIN: Final = 0.004
_HANG_POLL_SECONDS: Final = 0.05
_MANUAL_SLICE_NS: Final = 100_000_000
_JSON: Final = "application/json;charset=UTF-8"
_PAGE: Final = (
    "<html><head><title>Attention Required!</title></head><body><h1>Sorry, you have been blocked</h1></body></html>"
)


class SimulatedExchange:
    """Binance Spot, simulated.

    Attributes
    ----------
    faults
        Scripted faults; see `daemon.exchange.faults`.
    books, market, venue
        The account, the market and what holds both.
    port
        Where it listens after `start`.
    """

    def __init__(self, config: SimConfig, clock: Clock | None = None) -> None:
        """Build market and books as of the clock's time; with ``config.manual`` time then stands still."""
        real = clock or wall_clock
        self.clock: Clock = ManualClock(config.start_ns or real()) if config.manual else real
        self.config = config
        self.venue = Venue(config, self.clock)
        self.market: Market = self.venue.market
        self.books: Books = self.venue.books
        self.faults = FaultBook()
        self.hub = Hub(self.venue)
        self.users = UserData(self.venue)
        self.sockets = Sockets(self.venue, self.hub, self.users, self.faults)
        self.port = 0
        self._dispatcher = Dispatcher(self.venue, RateLimiter(config.limits), config.requests_kept)
        self._control = Control(self)
        self._runner: web.AppRunner | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()

    @property
    def requests(self) -> list[Seen]:
        """The requests seen so far, oldest first."""
        return list(self._dispatcher.log)

    # ------------------------------------------------------------------ life

    async def start(self, port: int = 0) -> int:
        """Listen on ``config.host``; return the port."""
        app = web.Application(client_max_size=1 << 20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5, handle_signals=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.config.host, port)
        await site.start()
        self.port = int(self._runner.addresses[0][1])
        if not self.config.manual:
            self._spawn(self._pump())
        return self.port

    async def stop(self) -> None:
        """Drop every connection and stop listening."""
        self._stopping.set()
        self.disconnect("all", 0)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pump(self) -> None:
        while True:
            self._tick()
            wait = self.market.next_event_ms() / 1000 - self.clock() / 1e9
            await asyncio.sleep(min(_PUMP_SECONDS, max(_PUMP_SECONDS_MIN, wait)))

    def _tick(self) -> int:
        now_ms = self.clock() // 1_000_000
        count = self.market.advance(now_ms)
        self.hub.on_time(now_ms)
        return count

    async def advance_to(self, now_ns: int) -> int:
        """Move a manual clock to now_ns, publishing on the way; return the number of trades.

        Raises
        ------
        RuntimeError
            When the exchange runs on a real clock.
        """
        if not isinstance(self.clock, ManualClock):
            msg = "advance_to needs SimConfig(manual=True)"
            raise RuntimeError(msg)
        count = 0
        while self.clock() < now_ns:
            self.clock.set(min(now_ns, self.clock() + _MANUAL_SLICE_NS))
            count += self._tick()
            await asyncio.sleep(0)
        return count

    async def step(self, seconds: int = 1) -> int:
        """Move a manual clock by whole seconds; return the number of trades published."""
        return await self.advance_to(self.clock() + seconds * 1_000_000_000)

    def disconnect(self, kind: str, code: int) -> int:
        """Cut the websockets of a kind ("market", "user" or "all"): reset when code is 0, else close; return how many."""
        chosen = self._connections(kind)
        for connection in chosen:
            if code:
                connection.close(code)
            else:
                connection.abort()
        return len(chosen)

    def push(self, kind: str, frame: bytes) -> int:
        """Send a frame as it is to the websockets of a kind, e.g. a serverShutdown event; return how many."""
        chosen = self._connections(kind)
        for connection in chosen:
            connection.push(frame, "pushed")
        return len(chosen)

    def flood(self, kind: str, count: int) -> int:
        """Send so many pings at once to the websockets of a kind; return how many there are (F15)."""
        chosen = self._connections(kind)
        for connection in chosen:
            connection.flood(count)
        return len(chosen)

    def _connections(self, kind: str) -> list[Connection]:
        return [*(self.sockets.market if kind != "user" else ()), *(self.sockets.api if kind != "market" else ())]

    # ------------------------------------------------------------------ truth

    def stats(self) -> dict[str, Any]:
        """Return counts of requests, frames, connections and used weight."""
        limiter = self._dispatcher.limiter
        return {
            "now_ns": self.clock(),
            "requests": len(self._dispatcher.log),
            "market_frames": self.hub.frames,
            "user_frames": self.users.frames,
            "market_connections": len(self.sockets.market),
            "user_connections": len(self.sockets.api),
            "connects": len(self.sockets.connects),
            "pongs": sum(one.pongs for one in self._connections("all")),
            "pong_lag_s": max((one.pong_lag_s for one in self._connections("all")), default=0.0),
            "weight_1m": limiter.weight,
        }

    def truth(self) -> dict[str, Any]:
        """Return everything that tests compare with: orders, fills, balances, the audit and fault counts."""
        return {
            "now_ns": self.clock(),
            "orders": self.books.orders,
            "fills": self.books.fills,
            "balances": self.books.balances,
            "audit": {
                asset: {**row._asdict(), "difference": row.difference} for asset, row in self.books.audit().items()
            },
            "conserved": self.books.conserved(),
            "fired": {str(number): count for number, count in self.faults.counts().items()},
            "stats": self.stats(),
            "planted_r2": self.config.planted_r2,
            "planted_horizon_bars": self.config.planted_horizon_bars,
            "bar_s": self.config.bar_s,
        }

    # ------------------------------------------------------------------ requests

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if path.startswith(("/ws", "/stream")):
            return await self._connect(request)
        incoming = await read_request(request)
        if not self.config.manual:
            self._tick()
        if path.startswith("/sim/"):
            if not ip_address(request.remote or "0.0.0.0").is_loopback:
                return web.Response(status=403, text="the control interface answers on loopback only")
            status, body = self._control.answer(incoming)
            return web.Response(status=status, body=body, content_type="application/json")
        seen = self._dispatcher.record(incoming)
        rule = (
            self.faults.pick(f"{incoming.method} {path}", f"{incoming.query}&{incoming.body}") if self.faults else None
        )
        if rule is None:
            answer = self._dispatcher.answer(incoming)
            seen.status = answer.status
            return _response(answer)
        seen.fault = rule.action
        return await self._faulty(request, incoming, rule, seen)

    async def _connect(self, request: web.Request) -> web.StreamResponse:
        rule = self.faults.pick(f"connect {request.raw_path}") if self.faults else None
        if rule is not None:
            if rule.action is Action.DELAY:
                await asyncio.sleep(rule.seconds)
            elif rule.action is Action.ERROR:
                return web.Response(status=rule.status or 503)
            else:
                if rule.action is Action.DROP:
                    await self._hang(request)
                _abort(request)
                return web.Response()
        if not self.sockets.admit():
            return web.Response(status=429, headers={"Retry-After": "60"})
        if request.path.startswith("/ws-api"):
            return await self.sockets.serve_api(request)
        return await self.sockets.serve_market(request)

    async def _faulty(
        self, request: web.Request, incoming: Incoming, rule: FaultRule, seen: Seen
    ) -> web.StreamResponse:
        """Answer a request as its fault says."""
        action = rule.action
        if action is Action.DELAY:
            await asyncio.sleep(rule.seconds)
            return _response(self._answer(incoming, seen))
        if action is Action.DELAY_AFTER:
            answer = self._answer(incoming, seen)
            await asyncio.sleep(rule.seconds)
            return _response(answer)
        if action in {Action.DROP, Action.CUT, Action.LATE}:
            if action is Action.LATE:
                self._spawn(self._handle_late(incoming, rule.seconds, seen))
            if action is not Action.CUT:
                await self._hang(request)
            _abort(request)
            return web.Response()
        if action in {Action.CUT_AFTER, Action.HANG_AFTER}:
            self._answer(incoming, seen)
            if action is Action.HANG_AFTER:
                await self._hang(request)
            _abort(request)
            return web.Response()
        if action in {Action.TRUNCATE, Action.SLOW}:
            return await self._partly(request, self._answer(incoming, seen), rule)
        return self._spoiled(incoming, rule, seen)

    def _spoiled(self, incoming: Incoming, rule: FaultRule, seen: Seen) -> web.StreamResponse:
        """Answer completely, but not with the truth."""
        handle = rule.action is not Action.ERROR if rule.handle is None else rule.handle
        answer = self._answer(incoming, seen) if handle else Answer(200, b"{}", {})
        match rule.action:
            case Action.ERROR:
                body = json.dumps({"code": rule.code, "msg": rule.msg}).encode()
                return _response(Answer(rule.status or 400, body, answer.headers | rule.headers))
            case Action.EMPTY:
                return _response(Answer(200, b"", answer.headers))
            case Action.HTML | Action.REPLACE:
                page = rule.action is Action.HTML
                text = rule.text or (_PAGE if page else "{}")
                kind = {"Content-Type": "text/html"} if page else {}
                return _response(Answer(rule.status or 200, text.encode(), answer.headers | rule.headers | kind))
            case Action.BROKEN:
                return _response(Answer(200, answer.body[: max(1, len(answer.body) // 2)], answer.headers))
            case Action.OMIT:
                items = json.loads(answer.body)
                if isinstance(items, list):
                    chance = random.Random(rule.seed)
                    items = [item for item in items if chance.random() >= rule.share]
                return _response(Answer(answer.status, json.dumps(items).encode(), answer.headers))
            case _:
                raise ValueError(f"action {rule.action} is for frames, rule {rule.match!r} matched a request")

    def _answer(self, incoming: Incoming, seen: Seen, *, admitted: bool = False) -> Answer:
        if not self.config.manual:
            self._tick()
        answer = self._dispatcher.answer(incoming, admitted=admitted)
        seen.status = answer.status
        return answer

    async def _handle_late(self, incoming: Incoming, seconds: float, seen: Seen) -> None:
        await asyncio.sleep(seconds)
        self._answer(incoming, seen, admitted=True)

    async def _hang(self, request: web.Request) -> None:
        """Wait until the client gives up or the exchange stops."""
        while not self._stopping.is_set():
            if request.transport is None or request.transport.is_closing():
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _HANG_POLL_SECONDS)

    async def _partly(self, request: web.Request, answer: Answer, rule: FaultRule) -> web.StreamResponse:
        """Send half the promised body and cut, or all of it drop by drop."""
        response = web.StreamResponse(status=answer.status, headers={**answer.headers, "Content-Type": _JSON})
        response.content_length = len(answer.body)
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
            if rule.action is Action.TRUNCATE:
                await response.write(answer.body[: len(answer.body) // 2])
                if request.transport is not None:
                    request.transport.close()
                return response
            pieces = max(1, len(answer.body) // 16)
            for start in range(0, len(answer.body), pieces):
                await response.write(answer.body[start : start + pieces])
                await asyncio.sleep(rule.seconds / 16)
            await response.write_eof()
        return response


def _response(answer: Answer) -> web.Response:
    headers = answer.headers if "Content-Type" in answer.headers else {**answer.headers, "Content-Type": _JSON}
    return web.Response(status=answer.status, body=answer.body, headers=headers)


def _abort(request: web.Request) -> None:
    transport = request.transport
    if transport is not None:
        transport.abort()


async def serve(config: SimConfig, port: int = 0) -> None:
    """Run an exchange until cancelled; print one JSON line with its port when it listens."""
    exchange = SimulatedExchange(config)
    try:
        bound = await exchange.start(port)
        line = {"port": bound, "rest_url": f"http://{config.host}:{bound}", "ws_url": f"ws://{config.host}:{bound}"}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        await asyncio.Event().wait()
    finally:
        await exchange.stop()
