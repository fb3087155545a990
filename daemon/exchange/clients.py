"""A websocket client's connection: bounded queue, pings, faults per frame."""

import asyncio
import contextlib
from collections import deque
from typing import Final

import msgspec
from aiohttp import WSMsgType, web

from daemon.exchange.config import SimConfig
from daemon.exchange.faults import Action, FaultBook, FaultRule

__all__ = ["Connection"]

_FOREVER: Final = 10**9  # seconds
_PINGS_MAX: Final = 10_000  # pings whose answers are awaited


def _set_field(frame: bytes, path: str, text: str) -> bytes:
    """Replace the value at a dotted path; ``text`` goes in as it is, so it may be invalid JSON."""
    decoded = msgspec.json.decode(frame)
    target = decoded.get("data", decoded) if isinstance(decoded, dict) else decoded
    *parents, last = path.split(".")
    for name in parents:
        target = target[name]
    marker = "\0marker\0"
    target[last] = marker
    return msgspec.json.encode(decoded).replace(msgspec.json.encode(marker), text.encode())


class Connection:
    """One websocket: frames are queued without waiting and written by `run`.

    Attributes
    ----------
    sent
        Frames written so far.
    pongs, pong_lag_s
        Answers to our pings that carried the ping's payload, and the longest time one took, seconds.
    """

    def __init__(self, request: web.Request, config: SimConfig, faults: FaultBook) -> None:
        """Prepare a connection; `open` completes the handshake."""
        self.socket = web.WebSocketResponse(autoping=False, compress=False, max_msg_size=1 << 20)
        self.sent = 0
        self.pongs = 0
        self.pong_lag_s = 0.0
        self._pings: dict[bytes, float] = {}
        self._flood = 0
        self._request = request
        self._config = config
        self._faults = faults
        self._queue: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._held_until = 0.0
        self._muted_until = 0.0
        self._frozen_until = 0.0
        self._parked: bytes | None = None
        self._pong_at = self._loop.time()
        self._closing: int | None = None

    async def open(self) -> None:
        """Complete the handshake."""
        await self.socket.prepare(self._request)

    @property
    def frozen(self) -> bool:
        """Whether the connection plays dead."""
        return self._loop.time() < self._frozen_until

    def push(self, frame: bytes, subject: str) -> None:
        """Queue a frame, applying the fault that its subject draws."""
        if self._faults:
            rule = self._faults.pick(subject, frame)
            if rule is not None:
                self._apply(rule, frame)
                return
        if self._loop.time() < self._muted_until:
            return
        self._enqueue(frame)

    def _enqueue(self, frame: bytes) -> None:
        if len(self._queue) >= self._config.limits.frames_queued_max:
            self.abort()  # the writer waits for a peer that does not read: a close frame would wait too
            return
        self._queue.append(frame)
        if self._parked is not None:
            self._queue.append(self._parked)
            self._parked = None
        self._wake.set()

    def _apply(self, rule: FaultRule, frame: bytes) -> None:
        now = self._loop.time()
        until = now + (rule.seconds or _FOREVER)
        match rule.action:
            case Action.SKIP | Action.DROP:
                pass
            case Action.DUPLICATE:
                self._enqueue(frame)
                self._enqueue(frame)
            case Action.REORDER:
                self._parked = frame
            case Action.CORRUPT:
                self._enqueue(frame[: len(frame) // 2])
            case Action.REPLACE:
                self._enqueue(rule.text.encode())
            case Action.SET:
                self._enqueue(_set_field(frame, rule.field, rule.text))
            case Action.STALL:
                self._muted_until = until
            case Action.HOLD | Action.DELAY:
                self._held_until = until
                self._enqueue(frame)
            case Action.FREEZE:
                self.freeze(rule.seconds)
            case Action.CLOSE:
                self.close(rule.status or 1001)
            case Action.CUT:
                self.abort()
            case _:
                raise ValueError(f"action {rule.action} is for requests, rule {rule.match!r} matched a frame")

    def freeze(self, seconds: float) -> None:
        """Play dead: send nothing, read nothing."""
        self._frozen_until = self._loop.time() + (seconds or _FOREVER)
        transport = self._request.transport
        if isinstance(transport, asyncio.Transport):
            transport.pause_reading()

    def close(self, code: int) -> None:
        """Close in order, after what is queued has been dropped."""
        self._closing = code
        self._queue.clear()
        self._wake.set()

    def abort(self) -> None:
        """Reset the TCP connection."""
        if self._request.transport is not None:
            self._request.transport.abort()

    def pong_received(self, payload: bytes) -> None:
        """Note that the peer lives, and how long it took to echo a ping of ours."""
        self._pong_at = self._loop.time()
        sent = self._pings.pop(payload, None)
        if sent is not None:
            self.pongs += 1
            self.pong_lag_s = max(self.pong_lag_s, self._pong_at - sent)

    def flood(self, count: int) -> None:
        """Send so many pings as fast as the peer's socket takes them (F15)."""
        self._flood += count
        self._wake.set()

    async def _ping(self) -> None:
        payload = f"{int(self._loop.time() * 1000)}.{len(self._pings)}.{self.pongs}".encode()
        if len(self._pings) < _PINGS_MAX:
            self._pings[payload] = self._loop.time()
        await self.socket.ping(payload)

    async def run(self) -> None:
        """Write frames and pings until the connection ends."""
        started = self._loop.time()
        next_ping = started + self._config.ping_seconds
        with contextlib.suppress(ConnectionError):
            while not self.socket.closed:
                now = self._loop.time()
                if self._closing is not None:
                    await self.socket.close(code=self._closing)
                    return
                if now < self._frozen_until:
                    await self._pause(self._frozen_until - now)
                    continue
                self._thaw()
                if now >= next_ping:
                    next_ping = now + self._config.ping_seconds
                    if now - self._pong_at > self._config.pong_seconds:
                        self.abort()
                        return
                    await self._ping()
                if now - started > self._config.session_seconds:
                    self.close(1000)
                    continue
                while self._flood > 0 and not self.frozen:
                    self._flood -= 1
                    await self._ping()
                if now < self._held_until:
                    await self._pause(min(self._held_until, next_ping) - now)
                    continue
                await self._drain()
                if not self._queue and self._closing is None:
                    await self._pause(max(0.0, next_ping - self._loop.time()))

    async def _drain(self) -> None:
        while self._queue and self._loop.time() >= self._held_until and not self.frozen:
            await self.socket.send_frame(self._queue.popleft(), WSMsgType.TEXT)
            self.sent += 1

    async def _pause(self, seconds: float) -> None:
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)

    def _thaw(self) -> None:
        if self._frozen_until:
            self._frozen_until = 0.0
            self._pong_at = self._loop.time()
            transport = self._request.transport
            if isinstance(transport, asyncio.Transport) and not transport.is_closing():
                transport.resume_reading()
