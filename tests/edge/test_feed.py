"""The feed against a real websockets server on loopback."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from decimal import Decimal

import msgspec
import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.utils import accept_key

from daemon.domain.errors import ConfigError
from daemon.domain.market import Book, Instrument
from daemon.edge.clock import Clock
from daemon.edge.feed import DIALS_MAX, DIALS_WINDOW_S, Backoff, Conflator, Feed, Patience
from daemon.wire.binance import BinanceWire

Handler = Callable[[ServerConnection], Awaitable[None]]
DEADLINE_S = 8.0


class Ear:
    """Collects what a feed reports."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.links: list[tuple[bool, str]] = []

    def frame(self, message: bytes, recv_ns: int) -> None:
        """Keep a data frame; answers are not data."""
        if b'"id":' not in message[:40]:
            self.frames.append(message)

    def link(self, up: bool, detail: str) -> None:
        """Keep a report of the link."""
        self.links.append((up, detail))


async def until(ready: Callable[[], object], what: str) -> None:
    """Poll with a deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not ready():
        assert time.monotonic() < deadline, f"never happened: {what}"
        await asyncio.sleep(0.005)


def port_of(server: Server) -> int:
    """Return the port a server listens on."""
    return int(next(iter(server.sockets)).getsockname()[1])


async def answer(socket: ServerConnection) -> list[str]:
    """Answer one SUBSCRIBE and return its streams."""
    request = msgspec.json.decode(await socket.recv())
    await socket.send(msgspec.json.encode({"result": None, "id": request["id"]}).decode())
    streams: list[str] = request["params"]
    return streams


@asynccontextmanager
async def running(
    handler: Handler, ear: Ear, *, streams: tuple[str, ...] = ("btcusdt@trade",), patience: Patience | None = None
) -> AsyncIterator[Feed]:
    """Run a server and a feed dialled into it."""
    async with serve(handler, "127.0.0.1", 0, ping_interval=None, max_size=None, close_timeout=0.1) as server:
        url = f"ws://127.0.0.1:{port_of(server)}/stream"
        feed = Feed(url, streams, ear.frame, ear.link, clock=Clock(), rng=random.Random(1), patience=patience)
        task = asyncio.create_task(feed.run())
        try:
            yield feed
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_frames_arrive_in_order_and_pings_are_answered() -> None:
    """Every frame reaches the callback once, in order, and a ping of the server is echoed."""
    pongs: list[float] = []

    async def handler(socket: ServerConnection) -> None:
        assert await answer(socket) == ["btcusdt@trade"]
        for number in range(200):
            await socket.send(f'{{"n":{number}}}')
        pongs.append(await (await socket.ping(b"payload")))
        await socket.wait_closed()

    ear = Ear()
    async with running(handler, ear):
        await until(lambda: pongs and len(ear.frames) == 200, "200 frames and a pong")

    assert ear.frames == [f'{{"n":{number}}}'.encode() for number in range(200)]
    assert ear.links[0] == (True, "1 streams")


async def test_many_streams_go_out_in_few_messages() -> None:
    """450 streams are subscribed in three messages below the venue's message rate."""
    seen: list[list[str]] = []
    times: list[float] = []

    async def handler(socket: ServerConnection) -> None:
        for _ in range(3):
            seen.append(await answer(socket))
            times.append(time.monotonic())
        await socket.wait_closed()

    streams = tuple(f"s{number}usdt@trade" for number in range(450))
    ear = Ear()
    async with running(handler, ear, streams=streams):
        await until(lambda: ear.links, "link up")

    assert [name for chunk in seen for name in chunk] == list(streams)
    assert times[-1] - times[0] > 0.4


async def test_burst_while_the_loop_is_busy_loses_nothing() -> None:
    """F22: 5,000 trades in one burst while the loop is blocked all arrive, in order."""
    ready = asyncio.Event()

    async def handler(socket: ServerConnection) -> None:
        await answer(socket)
        await ready.wait()
        for number in range(5000):
            await socket.send(b"%d" % number, text=True)
        await socket.wait_closed()

    ear = Ear()
    async with running(handler, ear):
        await until(lambda: ear.links, "link up")
        ready.set()
        await asyncio.sleep(0)
        time.sleep(0.3)  # noqa: ASYNC251 (the point of the test: the loop is busy)
        await until(lambda: len(ear.frames) == 5000, "5,000 frames")

    assert ear.frames == [b"%d" % number for number in range(5000)]


async def test_reconnects_after_a_cut() -> None:
    """A dropped connection is reported, dialled again and subscribed again."""
    visits: list[list[str]] = []

    async def handler(socket: ServerConnection) -> None:
        visits.append(await answer(socket))
        await socket.send('{"n":1}')
        if len(visits) == 1:
            socket.transport.abort()
        await socket.wait_closed()

    ear = Ear()
    async with running(handler, ear) as feed:
        await until(lambda: len(ear.frames) == 2, "a frame after the cut")

    assert [up for up, _ in ear.links] == [True, False, True]
    assert visits == [["btcusdt@trade"]] * 2
    assert feed.connects == 2


async def test_dead_socket_is_cut() -> None:
    """F12: a peer that neither sends nor pongs is given up after the limit of silence."""

    async def handler(socket: ServerConnection) -> None:
        await answer(socket)
        socket.transport.pause_reading()  # half-open: our pings are never read
        await socket.wait_closed()

    ear = Ear()
    async with running(handler, ear, patience=Patience(ping_s=0.3, silence_s=1.0)):
        await until(lambda: len(ear.links) >= 2, "the cut")

    assert ear.links[1] == (False, "no byte for 1.0 s")


async def test_silent_but_living_socket_is_cut_later() -> None:
    """F23: pongs keep the socket alive, but without data it is dialled anew."""

    async def handler(socket: ServerConnection) -> None:
        await answer(socket)
        await socket.wait_closed()

    ear = Ear()
    async with running(handler, ear, patience=Patience(ping_s=0.2, silence_s=0.7, data_silence_s=1.5)):
        await until(lambda: len(ear.links) >= 2, "the cut")

    assert ear.links[1] == (False, "no data for 1.5 s on a live socket")


@pytest.mark.parametrize("kind", ["huge", "fragments", "utf8"])
async def test_hostile_frames_cost_only_the_connection(kind: str) -> None:
    """F28: a 10 MB message cuts the connection and the stream starts again; bytes that are not UTF-8 are passed on."""
    visits: list[int] = []

    async def handler(socket: ServerConnection) -> None:
        await answer(socket)
        visits.append(1)
        if len(visits) == 1:
            with suppress(ConnectionClosed):
                if kind == "huge":
                    await socket.send(b"x" * 10_000_000, text=True)
                elif kind == "fragments":
                    await socket.send([b"x" * 100_000] * 100, text=True)
                else:
                    socket.transport.write(Frame(Opcode.TEXT, b"\xff\xfe").serialize(mask=False))
        await socket.send("after")
        await socket.wait_closed()

    ear = Ear()
    async with running(handler, ear):
        await until(lambda: b"after" in ear.frames, "the stream goes on")

    assert len(visits) == (1 if kind == "utf8" else 2)
    assert max(map(len, ear.frames)) <= 1 << 20


async def test_fragmented_message_is_one_frame() -> None:
    """A message in fragments arrives whole, once."""

    async def handler(socket: ServerConnection) -> None:
        await answer(socket)
        await socket.send(["ab", "cd", "ef"])
        await socket.wait_closed()

    ear = Ear()
    async with running(handler, ear):
        await until(lambda: ear.frames, "the message")

    assert ear.frames == [b"abcdef"]


async def test_refused_subscription_is_a_lost_link() -> None:
    """An error answer is reported with the venue's words, not mistaken for a quiet market."""

    async def handler(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send('{"error":{"code":2,"msg":"Invalid request"},"id":1}')
        await socket.wait_closed()

    ear = Ear()
    async with running(handler, ear):
        await until(lambda: ear.links, "the refusal")

    assert not ear.links[0][0]
    assert "Invalid request" in ear.links[0][1]


async def test_fault_of_the_callback_ends_run() -> None:
    """An exception of the engine is raised by run: it is no network problem to be retried."""

    async def handler(socket: ServerConnection) -> None:
        await answer(socket)
        await socket.send("boom")
        await socket.wait_closed()

    def explode(message: bytes, recv_ns: int) -> None:
        if message == b"boom":
            raise KeyError("engine")

    ear = Ear()
    async with serve(handler, "127.0.0.1", 0, close_timeout=0.1) as server:
        feed = Feed(f"ws://127.0.0.1:{port_of(server)}/stream", ["x@trade"], explode, ear.link, clock=Clock())
        with pytest.raises(KeyError):
            await asyncio.wait_for(feed.run(), DEADLINE_S)


async def test_nobody_listens() -> None:
    """F14: a refused dial is reported and retried with a delay."""
    ear = Ear()
    feed = Feed("ws://127.0.0.1:9/stream", ["x@trade"], ear.frame, ear.link, clock=Clock(), rng=random.Random(1))
    task = asyncio.create_task(feed.run())
    await until(lambda: len(ear.links) >= 2, "two refused dials")
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task

    assert not any(up for up, _ in ear.links)


def test_backoff_is_bounded_in_rate() -> None:
    """F14: whatever happens, a storm dials at most once per 5 s on average, and never waits for ever."""
    backoff = Backoff(random.Random(3))
    now_s, dials = 0.0, []
    while now_s < 600.0:
        dials.append(now_s)
        backoff.dialled(now_s)
        backoff.lived(0.5)
        delay_s = backoff.delay_s(now_s)
        assert delay_s <= DIALS_WINDOW_S
        now_s += delay_s

    for first in range(len(dials) - DIALS_MAX):
        assert dials[first + DIALS_MAX] - dials[first] >= DIALS_WINDOW_S - 1e-6


def test_good_connection_resets_the_backoff() -> None:
    """After a long-lived connection the next dial comes soon."""
    backoff = Backoff(random.Random(3))
    for _ in range(20):
        backoff.lived(0.0)
    backoff.lived(3600.0)

    assert backoff.delay_s(0.0) <= 0.5


def test_conflator_gives_the_newest_book_once() -> None:
    """Of many book frames between two flushes the newest per symbol is decoded, once."""
    small = Decimal("0.01")
    pair = Instrument("BTC/USDT", "BTCUSDT", "BTC", "USDT", small, small, small, Decimal(100), Decimal(5))
    conflator = Conflator()
    wire = BinanceWire([pair], held=conflator.held)
    for bid in range(90, 99):
        body = f'{{"u":{bid},"s":"BTCUSDT","b":"{bid}.0","B":"1.0","a":"100.0","A":"2.0"}}'
        wire.decode(f'{{"stream":"btcusdt@bookTicker","data":{body}}}'.encode(), bid)

    assert list(conflator.flush(wire)) == [Book("BTC/USDT", 98.0, 1.0, 100.0, 2.0, 98)]
    assert list(conflator.flush(wire)) == []


async def test_an_impossible_address_is_a_configuration_error() -> None:
    """An address that is no websocket's is not retried."""
    feed = Feed("http://127.0.0.1/", ["x@trade"], Ear().frame, Ear().link, clock=Clock())
    with pytest.raises(ConfigError, match="ws_url"):
        await asyncio.wait_for(feed.run(), DEADLINE_S)


async def test_a_cut_of_ours_is_a_reconnect() -> None:
    """The daemon may drop the connection itself (it lags too far behind): the stream starts anew."""

    async def handler(socket: ServerConnection) -> None:
        await answer(socket)
        await socket.wait_closed()

    ear = Ear()
    async with running(handler, ear) as feed:
        await until(lambda: ear.links, "link up")
        feed.cut("30 s behind")
        await until(lambda: len(ear.links) == 3, "up again")

    assert ear.links[1:] == [(False, "30 s behind"), (True, "1 streams")]


def test_too_many_streams_are_refused() -> None:
    """More streams than the venue allows on a connection is a configuration error."""
    with pytest.raises(ConfigError, match="1025 streams"):
        Feed("ws://x", [f"s{number}" for number in range(1025)], Ear().frame, Ear().link, clock=Clock())


# ---------------------------------------------------------------- bytes on the wire


def wire_of(rng: random.Random) -> tuple[bytes, list[bytes], int]:
    """Return a server's bytes, the messages in them, and the number of pings: all frame sizes, fragments, controls."""
    stream, messages, pings = b"", [], 0
    for number in range(120):
        size = rng.choice([0, 3, 125, 126, 200, 65_535, 65_536]) if number % 10 == 0 else rng.randrange(400)
        body = b"%d:" % number + b"x" * size
        if rng.random() < 0.2:
            stream += Frame(Opcode.PING, b"%d" % number).serialize(mask=False)
            pings += 1
        if rng.random() < 0.2:
            cut = rng.randrange(len(body))
            stream += Frame(Opcode.TEXT, body[:cut], fin=False).serialize(mask=False)
            stream += Frame(Opcode.PING, b"inside %d" % number).serialize(mask=False)
            stream += Frame(Opcode.CONT, body[cut:]).serialize(mask=False)
            pings += 1
        else:
            stream += Frame(rng.choice([Opcode.TEXT, Opcode.TEXT, Opcode.BINARY]), body).serialize(mask=False)
        messages.append(body)
    return stream, messages, pings


@asynccontextmanager
async def raw_server(chunks: Callable[[bytes], list[bytes]], heard: bytearray) -> AsyncIterator[int]:
    """Serve one websocket by hand: the handshake's answer and all frames in exactly these chunks."""

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        key = next(
            line[18:].strip() for line in request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key")
        )
        head = (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept_key(key.decode())}\r\n\r\n"
        )
        for chunk in chunks(head.encode()):
            writer.write(chunk)
            await writer.drain()
            await asyncio.sleep(0)
        while more := await reader.read(4096):
            if not heard:  # the first thing a client says is its subscription
                writer.write(Frame(Opcode.TEXT, b'{"result":null,"id":1}').serialize(mask=False))
            heard.extend(more)
            if more[0] == 0x88:  # goodbye
                break
        writer.close()

    server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
    async with server:
        yield int(server.sockets[0].getsockname()[1])


@pytest.mark.parametrize("seed", range(6))
async def test_any_chunking_gives_the_same_messages(seed: int) -> None:
    """However the bytes are cut, every message arrives once, whole and in order, and every ping is answered."""
    rng = random.Random(seed)
    stream, messages, pings = wire_of(rng)
    reach = [1, 7, 150, 5000, 100_000, 10**7][seed]

    def chunks(head: bytes) -> list[bytes]:
        whole = head + stream
        out: list[bytes] = []
        while whole:
            size = rng.randrange(1, reach + 1) if len(out) < 3000 else 10**7
            out.append(whole[:size])
            whole = whole[size:]
        return out

    ear, heard = Ear(), bytearray()
    async with raw_server(chunks, heard) as port:
        feed = Feed(f"ws://127.0.0.1:{port}/stream", ["x@trade"], ear.frame, ear.link, clock=Clock())
        task = asyncio.create_task(feed.run())
        await until(lambda: len(ear.frames) == len(messages) and ear.links, "all messages")
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await until(lambda: heard.count(b"\x8a") >= pings, "all pongs")

    assert ear.frames == messages
    assert ear.links == [(True, "1 streams")]


@pytest.mark.parametrize(
    "poison",
    [
        b"\x81\xff" + (1 << 40).to_bytes(8) + b"xxxx",  # masked, and far too large
        b"\x81\x85mask" + b"hello",  # masked: forbidden from a server
        b"\xc1\x01x",  # reserved bit
        b"\x80\x01x",  # continuation of nothing
        b"\x01\x01a" + b"\x81\x01b",  # a new message inside a fragmented one
        b"\x83\x00",  # unknown opcode
        b"\x88\x02\x03\xe8",  # the venue says goodbye
        b"\x81\x7f" + (1 << 21).to_bytes(8) + b"x",
    ],
)
async def test_protocol_errors_end_the_connection(poison: bytes) -> None:
    """What RFC 6455 forbids ends the connection with nothing delivered after it."""
    stream = b"".join(
        (
            Frame(Opcode.TEXT, b"before").serialize(mask=False),
            poison,
            Frame(Opcode.TEXT, b"after").serialize(mask=False),
        )
    )
    ear, heard = Ear(), bytearray()
    async with raw_server(lambda head: [head + stream], heard) as port:
        feed = Feed(f"ws://127.0.0.1:{port}/stream", ["x@trade"], ear.frame, ear.link, clock=Clock())
        task = asyncio.create_task(feed.run())
        await until(lambda: any(not up for up, _ in ear.links), "the end")
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    assert ear.frames[:1] == [b"before"]
    assert b"after" not in ear.frames


@pytest.mark.parametrize(
    "status", ["429 Too Many Requests\r\nRetry-After: 2\r\nContent-Length: 0", "502 Bad\r\nContent-Length: 3"]
)
async def test_refused_handshakes_are_reported(status: str) -> None:
    """An HTTP answer instead of a websocket is a failed dial, with the venue's status in the report."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\n\r\nabc".encode())
        writer.close()

    ear = Ear()
    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        feed = Feed(f"ws://127.0.0.1:{port}/stream", ["x@trade"], ear.frame, ear.link, clock=Clock())
        task = asyncio.create_task(feed.run())
        await until(lambda: ear.links, "the refusal")
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    assert ear.links[0] == (False, f"handshake refused: HTTP {status[:3]}")


class Venue:
    """A server that numbers its connections, sends what it is told to on all of them, and ends them when told to."""

    def __init__(self) -> None:
        self.sockets: list[ServerConnection] = []
        self.opened = 0
        self.refuse = False

    async def handle(self, socket: ServerConnection) -> None:
        """Serve one connection."""
        if self.refuse:
            await socket.close(1013)
            return
        await answer(socket)
        self.opened += 1
        self.sockets.append(socket)
        with suppress(ConnectionClosed):
            async for _ in socket:
                pass
        self.sockets.remove(socket)

    async def tell(self, text: str) -> None:
        """Send a frame on every connection; one may have been left by its client in this moment."""
        for socket in list(self.sockets):
            with suppress(ConnectionClosed):
                await socket.send(text)


async def test_f13_an_announced_end_is_preceded_by_a_successor() -> None:
    """The second connection delivers before the first one is left; nobody hears of a lost link, and no frame is lost."""
    ear, venue = Ear(), Venue()
    async with running(venue.handle, ear) as feed:
        await until(lambda: ear.links, "the first link")
        feed.renew()
        await until(lambda: len(venue.sockets) == 2, "two connections")
        number = 0
        while venue.opened < 2 or len(venue.sockets) > 1:
            await venue.tell(f'{{"stream":"btcusdt@trade","data":{number}}}')
            number += 1
            await asyncio.sleep(0.01)
        await venue.tell('{"stream":"btcusdt@trade","data":"last"}')
        await until(lambda: any(b"last" in frame for frame in ear.frames), "a frame of the successor")

    assert {f'{{"stream":"btcusdt@trade","data":{one}}}'.encode() for one in range(number)} <= set(ear.frames)
    assert ear.links[:1] == [(True, "1 streams")]
    assert all(up for up, _ in ear.links)
    assert feed.connects == 2


async def test_f13_an_end_announced_as_soon_as_the_link_is_up_counts() -> None:
    """Nothing has run since the link came up; the announcement was forgotten when the renewal began to wait."""

    class Eager(Ear):
        def link(self, up: bool, detail: str) -> None:
            super().link(up, detail)
            feed.renew()

    ear, venue = Eager(), Venue()
    async with running(venue.handle, ear) as feed:
        await until(lambda: feed.connects == 2, "a successor")

    assert [up for up, _ in ear.links] == [True]


async def test_f13_a_successor_takes_over_when_the_first_connection_ends_meanwhile() -> None:
    """The venue closes the old connection during the overlap: the link stays up."""
    ear, venue = Ear(), Venue()
    async with running(venue.handle, ear) as feed:
        await until(lambda: ear.links, "the first link")
        feed.renew()
        await until(lambda: feed.connects == 2, "a successor")
        await venue.sockets[0].close(1001)
        await until(lambda: len(venue.sockets) == 1, "the end of the first")
        await venue.tell('{"stream":"btcusdt@trade","data":1}')
        await until(lambda: ear.frames, "a frame of the successor")

    assert [up for up, _ in ear.links] == [True]
    assert venue.opened == 2


async def test_f13_connections_are_renewed_before_the_venue_s_day_is_over() -> None:
    """Again and again, each time without a gap; without announcement."""
    ear, venue = Ear(), Venue()
    async with running(venue.handle, ear, patience=Patience(life_s=0.1)) as feed:
        await until(lambda: venue.opened >= 3, "two renewals")
        assert feed.connects >= 2

    assert all(up for up, _ in ear.links)
    assert len(ear.links) == 1


async def test_f13_a_successor_that_does_not_come_up_leaves_the_first_one_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Refused twice, then taken: the first connection serves all the while."""
    monkeypatch.setattr("daemon.edge.feed.RENEW_RETRY_S", 0.05)
    ear, venue = Ear(), Venue()
    async with running(venue.handle, ear) as feed:
        await until(lambda: ear.links, "the first link")
        venue.refuse = True
        feed.renew()
        await until(lambda: feed.dials >= 3, "two vain dials")
        await venue.tell('{"stream":"btcusdt@trade","data":1}')
        await until(lambda: ear.frames, "a frame")
        venue.refuse = False
        await until(lambda: venue.opened == 2, "a successor")

    assert all(up for up, _ in ear.links)


async def test_f13_what_is_cancelled_meanwhile_leaves_no_connection_behind() -> None:
    """The daemon stops during the overlap: both connections are gone."""
    ear, venue = Ear(), Venue()
    async with running(venue.handle, ear) as feed:
        await until(lambda: ear.links, "the first link")
        feed.renew()
        await until(lambda: feed.connects == 2, "a successor")
    await until(lambda: not venue.sockets, "no connections")


@pytest.mark.parametrize(
    "frame",
    [b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1}}', b'{"e":"serverShutdown","E":1}'],
)
def test_f13_the_decoder_notes_the_announcement(frame: bytes) -> None:
    """In either form; other events are no announcement."""
    wire = BinanceWire([])
    wire.decode(b'{"stream":"x@kline_1m","data":{"e":"kline","E":1}}', 1)
    assert not wire.announced()
    wire.decode(frame, 1)
    assert wire.announced()
    assert not wire.announced()
