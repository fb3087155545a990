"""The market data socket: websocket frames → one synchronous call each, kept alive for ever.

Frames never wait in a queue: ``on_frame`` runs inside the socket's read callback, from decoder to bar, so a slow engine
holds the venue back through TCP and nothing is lost or conflated on the way. ``run`` dials, subscribes, watches for
silence and dials again, under a delay that grows, is fully jittered and is bounded in rate.
"""

import asyncio
import contextlib
import functools
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import cast

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI, WebSocketException
from websockets.frames import CloseCode
from websockets.http11 import Response

from daemon.domain.errors import ConfigError, LinkDown
from daemon.domain.market import Book, Malformed
from daemon.edge.clock import Clock
from daemon.edge.feed_socket import FRAME_BYTES_MAX, OnFrame, Socket, ignore
from daemon.wire.binance import BinanceWire, Held
from daemon.wire.binance_streams import answer_of, subscribe

STREAMS_MAX = 1024
"""Streams on one connection (the venue's limit)."""
STREAMS_PER_MESSAGE = 200
MESSAGE_GAP_S = 0.25
"""Between two messages of ours: 4 per second, the venue cuts above 5 (pings and pongs count)."""
OPEN_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 10.0
"""How long a subscription may go unanswered."""
WATCH_S = 0.5
CLOSE_TIMEOUT_S = 1.0

BACKOFF_BASE_S = 0.5
BACKOFF_CAP_S = 20.0
DIALS_MAX = 12
DIALS_WINDOW_S = 60.0
"""At most so many dials in so long, whatever happens: one per 5 s on average."""
STABLE_S = 30.0
"""A connection that lived so long was a good one: the next delay starts small again."""
RETRY_AFTER_MAX_S = 300.0
OVERLAP_S = 1.0
"""How long the old connection is still read after its successor is subscribed; continuity counts every trade once."""
RENEW_RETRY_S = 5.0
"""After a successor that did not come up, while the old connection still serves."""

OnLink = Callable[[bool, str], None]


class Patience(msgspec.Struct, frozen=True):
    """How long silence is borne, seconds.

    After ``ping_s`` without a byte we ping; after ``silence_s`` without one (pongs count) the connection is dead; after
    ``data_silence_s`` without a message a live socket is useless all the same. The venue ends connections after 24 h; after
    ``life_s`` a successor takes over.
    """

    ping_s: float = 3.0
    silence_s: float = 8.0
    data_silence_s: float = 30.0
    life_s: float = 23.5 * 3_600.0


class _RenewedError(Exception):
    """The successor is subscribed and serves; never leaves this module."""


class Backoff:
    """Delays between dials: exponential, capped, fully jittered, and bounded in rate over a sliding window.

    Times are monotonic seconds given by the caller.
    """

    __slots__ = ("_dials", "_failures", "_rng")

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._failures = 0
        self._dials: deque[float] = deque(maxlen=DIALS_MAX)

    def dialled(self, now_s: float) -> None:
        """Note a dial."""
        self._dials.append(now_s)

    def lived(self, seconds: float) -> None:
        """Note how long the last connection lived (0: it never came up)."""
        self._failures = 0 if seconds >= STABLE_S else self._failures + 1

    def delay_s(self, now_s: float) -> float:
        """Return how long to wait before the next dial, seconds."""
        ceiling = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** min(self._failures, 16))
        jittered = self._rng.uniform(0.0, ceiling)
        if len(self._dials) < DIALS_MAX:
            return jittered
        return max(jittered, self._dials[0] + DIALS_WINDOW_S - now_s)


class Conflator:
    """Keeps the newest undecoded best bid/ask frame per symbol until the caller flushes.

    Give ``held`` to ``BinanceWire(…, held=…)``, which fills it.
    """

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held: Held = {}

    def flush(self, wire: BinanceWire) -> Iterator[Book | Malformed]:
        """Decode and forget what is held; at most one item per symbol."""
        if not self.held:
            return
        frames = list(self.held.values())
        self.held.clear()
        for frame, recv_ns in frames:
            yield wire.decode_book(frame, recv_ns)


class Feed:
    """One market data connection for up to 1,024 streams.

    Parameters
    ----------
    url
        Where to dial, e.g. ``wss://stream.binance.com:9443/stream``.
    streams
        Names to subscribe to.
    on_frame
        Called with every message and its time of arrival (ns UTC), in the socket's callback. What it raises ends ``run``.
    on_link
        Called with (True, detail) when every subscription has been accepted, and (False, reason) when the link is lost or
        a dial failed.
    clock
        Reads the time of arrival.
    rng
        Source of jitter.
    patience
        Limits of silence.
    """

    def __init__(
        self,
        url: str,
        streams: Iterable[str],
        on_frame: OnFrame,
        on_link: OnLink,
        *,
        clock: Clock,
        rng: random.Random | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.url = url
        self.streams = tuple(dict.fromkeys(streams))
        if not 0 < len(self.streams) <= STREAMS_MAX:
            raise ConfigError(f"feed: {len(self.streams)} streams on one connection; 1 to {STREAMS_MAX} are possible")
        self.connects = 0
        """Connections that came up so far."""
        self.dials = 0
        """Connections tried so far."""
        self._on_frame = on_frame
        self._on_link = on_link
        self._clock = clock
        self._backoff = Backoff(rng or random.Random())
        self._patience = patience or Patience()
        self._answers: dict[int, asyncio.Event] = {}
        self._cut = ""
        self._refusal = ""
        self._leaving = asyncio.Event()
        self._heir: Socket | None = None

    def renew(self) -> None:
        """Let a successor take over before this connection ends (the venue has announced that): no trade is missed."""
        self._leaving.set()

    def cut(self, reason: str) -> None:
        """Drop the present connection within a moment and dial anew: for whoever sees it lag too far behind."""
        self._cut = reason

    async def run(self) -> None:
        """Stay connected for ever; returns only by cancellation or by a fault of ``on_frame``."""
        loop = asyncio.get_running_loop()
        while True:
            self._backoff.dialled(loop.time())
            self.dials += 1
            lived_s = wait_s = 0.0
            try:
                lived_s, reason = await self._session(loop)
            except InvalidStatus as error:
                wait_s = _retry_after_s(error.response)
                reason = f"handshake refused: HTTP {error.response.status_code}"
            except InvalidURI as error:
                raise ConfigError(f"exchange.ws_url: {self.url!r} is no websocket address: {error}") from error
            except (InvalidHandshake, WebSocketException, OSError, TimeoutError) as error:
                reason = f"{type(error).__name__}: {error}"
            self._backoff.lived(lived_s)
            self._on_link(False, reason)
            await asyncio.sleep(max(self._backoff.delay_s(loop.time()), wait_s))

    # ------------------------------------------------------------------ one connection

    async def _session(self, loop: asyncio.AbstractEventLoop) -> tuple[float, str]:
        """Dial, subscribe and serve until the link is lost; return how long it was up (seconds) and why it ended.

        A successor that serves already makes the end of a connection none: the link stays up.
        """
        socket = await self._dial()
        started_s = loop.time()
        inherited = False
        try:
            while True:
                reason = await self._serve(socket, loop, inherited=inherited)
                if socket.fault is not None:
                    raise socket.fault
                if self._heir is None:
                    return loop.time() - started_s, reason
                socket, self._heir, inherited = self._heir, None, True
        finally:
            if self._heir is not None:
                _drop(self._heir)
                self._heir = None

    async def _serve(self, socket: Socket, loop: asyncio.AbstractEventLoop, *, inherited: bool) -> str:
        """Serve one connection, subscribed already when ``inherited``; return why it ended."""
        reason = "closed"
        self._leaving.clear()  # not in the task that waits for it: what is announced before that one runs counts
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch(socket, loop), name="feed-watch")
                group.create_task(_until_closed(socket), name="feed-closed")
                if not inherited:
                    await self._subscribe(socket)
                    socket.sink = self._on_frame
                    self.connects += 1
                    self._on_link(True, f"{len(self.streams)} streams")
                group.create_task(self._succeed(), name="feed-renewal")
        except* (LinkDown, _RenewedError) as caught:
            reason = str(caught.exceptions[0])
        finally:
            socket.sink = ignore
            self._answers.clear()
            await socket.close()
        return reason

    async def _succeed(self) -> None:
        """When its time is over or the venue says so, raise a successor beside the present connection, then end that one."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._leaving.wait(), self._patience.life_s)
        loop = asyncio.get_running_loop()
        while self._heir is None:
            self._backoff.dialled(loop.time())
            self.dials += 1
            try:
                self._heir = await self._raised()
            except (LinkDown, InvalidHandshake, WebSocketException, OSError, TimeoutError):
                await asyncio.sleep(max(RENEW_RETRY_S, self._backoff.delay_s(loop.time())))
        self.connects += 1
        await asyncio.sleep(OVERLAP_S)
        raise _RenewedError("renewed")

    async def _raised(self) -> Socket:
        """Return a second connection that is subscribed and delivers; one that fails leaves nothing open."""
        socket = await self._dial()
        try:
            await self._subscribe(socket)
        except BaseException:
            _drop(socket)
            raise
        socket.sink = self._on_frame
        return socket

    async def _dial(self) -> Socket:
        """Open the connection: no compression, no queue, no keepalive but ours."""
        factory = functools.partial(Socket, sink=self._while_subscribing, clock=self._clock)
        socket = await connect(
            self.url,
            compression=None,
            proxy=None,
            max_size=FRAME_BYTES_MAX,
            open_timeout=OPEN_TIMEOUT_S,
            close_timeout=CLOSE_TIMEOUT_S,
            ping_interval=None,
            create_connection=cast("type[ClientConnection]", factory),
        )
        return cast("Socket", socket)

    async def _subscribe(self, socket: Socket) -> None:
        """Subscribe in chunks below the venue's message rate and wait for every answer. Raises LinkDown."""
        chunks = [
            self.streams[at : at + STREAMS_PER_MESSAGE] for at in range(0, len(self.streams), STREAMS_PER_MESSAGE)
        ]
        self._answers = {number: asyncio.Event() for number in range(1, len(chunks) + 1)}
        self._refusal = ""
        try:
            for number, chunk in enumerate(chunks, start=1):
                await socket.send(subscribe(chunk, number))
                await asyncio.sleep(MESSAGE_GAP_S if number < len(chunks) else 0.0)
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                for answered in list(self._answers.values()):
                    await answered.wait()
        except ConnectionClosed:
            raise LinkDown(_close_reason(socket)) from None
        except TimeoutError:
            raise LinkDown(f"subscription unanswered for {ANSWER_TIMEOUT_S:.0f} s") from None
        if self._refusal:
            raise LinkDown(f"subscription refused: {self._refusal}")

    def _while_subscribing(self, frame: bytes, recv_ns: int) -> None:
        """Look for answers among the first frames, and pass all on."""
        if not frame.startswith(b'{"stream"') and (answer := answer_of(frame)) is not None:
            self._refusal = self._refusal or answer.error
            waiting = [self._answers[answer.id]] if answer.id in self._answers else []
            for answered in waiting if not answer.error else self._answers.values():
                answered.set()
        self._on_frame(frame, recv_ns)

    async def _watch(self, socket: Socket, loop: asyncio.AbstractEventLoop) -> None:
        """Ping when it is quiet, and raise LinkDown when it is too quiet."""
        pinged_s = 0.0
        self._cut = ""
        while True:
            slept_s = loop.time()
            await asyncio.sleep(WATCH_S)
            now_s = loop.time()
            if now_s - slept_s > 2.0 * WATCH_S:
                # The loop itself was away: bytes may wait unread, so silence cannot be judged yet.
                socket.heard_s = socket.data_s = now_s
            if self._cut:
                raise LinkDown(self._cut)
            if now_s - socket.heard_s > self._patience.silence_s:
                raise LinkDown(f"no byte for {self._patience.silence_s:.1f} s")
            if now_s - socket.data_s > self._patience.data_silence_s:
                raise LinkDown(f"no data for {self._patience.data_silence_s:.1f} s on a live socket")
            if now_s - max(socket.heard_s, pinged_s) > self._patience.ping_s:
                pinged_s = now_s
                try:
                    await socket.ping()
                except ConnectionClosed:
                    raise LinkDown(_close_reason(socket)) from None


def _drop(socket: Socket) -> None:
    """End a connection at once; nothing of it is heard any more."""
    socket.sink = ignore
    socket.transport.abort()


async def _until_closed(socket: Socket) -> None:
    """Raise LinkDown when the connection is gone."""
    await socket.wait_closed()
    raise LinkDown(_close_reason(socket))


def _close_reason(socket: Socket) -> str:
    """Return why a connection ended, one line."""
    sent = socket.protocol.close_sent
    if socket.protocol.close_rcvd is None and sent is not None and sent.code != CloseCode.NORMAL_CLOSURE:
        return f"cut by us: {sent.code} {sent.reason}".strip()
    return f"closed by the venue: {socket.close_code} {socket.close_reason or ''}".strip()


def _retry_after_s(response: Response) -> float:
    """Return how long the venue asks us to stay away, seconds, bounded."""
    text = response.headers.get("Retry-After", "")
    return min(float(text), RETRY_AFTER_MAX_S) if text.isdigit() else 0.0
