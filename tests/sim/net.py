"""The network between daemon and exchange: connections in memory, with latency, cuts, silence and partitions.

The real HTTP client and server, the real websocket libraries and the daemon's own connector talk through it; what they
see is bytes in order, late, or never. Every departure and arrival is known to the nanosecond of virtual time.
"""

import asyncio
import errno
import random
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any

from tests.sim.loop import NS, SIDE, SimLoop

CLIENT_PORTS = 40_000
REFUSE_S = 0.002
CONNECT_TIMEOUT_S = 60.0
"""How long an unanswered SYN waits before the kernel gives up."""

Watch = Callable[["Pipe", bytes, int], None]


class Weather:
    """How the network is right now; times in seconds."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.base_s = 0.002
        self.jitter_s = 0.006
        self.refusing = False
        self.swallowing: set[str] = set()
        """Kinds ("http", "ws", "user") whose connections hear and say nothing, new ones included."""

    def latency_s(self) -> float:
        """Return how long the next bytes take."""
        return self.base_s + self.rng.random() * self.jitter_s


class Pipe(asyncio.Transport):
    """One end of a connection."""

    def __init__(self, network: "Network", side: str, names: tuple[tuple[str, int], tuple[str, int]]) -> None:
        super().__init__({"sockname": names[0], "peername": names[1]})
        self.network = network
        self.side = side
        self.peer: Pipe | None = None
        self.protocol: Any = None
        self.context: Context = copy_context()
        self.kind = "http"
        self.closing = False
        self.lost = False
        self.frozen_until_ns = 0
        self.sent_ns = 0
        """When the peer wrote the bytes that arrived last, virtual ns."""
        self._inbox: deque[tuple[int, int, bytes | None]] = deque()
        self._planned = False
        self._paused = False
        self._eof = False

    # ------------------------------------------------------------------ what a protocol calls

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes."""
        if self.lost or self.closing or self._eof or not data:
            return
        raw = bytes(data)
        self.network.on_write(self, raw)
        self._ship(raw)

    def writelines(self, list_of_data: Any) -> None:
        """Send several chunks."""
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        """Say that nothing more will come."""
        if not self._eof and not self.lost:
            self._eof = True
            self._ship(None)

    def can_write_eof(self) -> bool:
        """Say that it can."""
        return True

    def close(self) -> None:
        """End in order: what was written still arrives."""
        if self.closing:
            return
        self.write_eof()
        self.closing = True
        self._call(self._lose, None)

    def abort(self) -> None:
        """Reset: the peer notices when the reset arrives."""
        if self.lost:
            return
        self.closing = True
        if self.peer is not None:
            self.network.later(self.network.weather.latency_s(), self.peer.reset)
        self._call(self._lose, None)

    def is_closing(self) -> bool:
        """Say whether it is closing or closed."""
        return self.closing

    def pause_reading(self) -> None:
        """Let bytes wait."""
        self._paused = True

    def resume_reading(self) -> None:
        """Take what waits."""
        self._paused = False
        self._plan()

    def is_reading(self) -> bool:
        """Say whether bytes are taken."""
        return not self._paused

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Keep no buffer."""

    def get_write_buffer_size(self) -> int:
        """Keep no buffer."""
        return 0

    def get_protocol(self) -> Any:
        """Return the protocol."""
        return self.protocol

    def set_protocol(self, protocol: Any) -> None:
        """Hand over to another protocol."""
        self.protocol = protocol

    # ------------------------------------------------------------------ the wire

    def _ship(self, data: bytes | None) -> None:
        peer = self.peer
        if peer is None:
            return
        now = self.network.loop.now_ns
        last = peer._inbox[-1][1] if peer._inbox else 0
        due = max(last, now + round(self.network.weather.latency_s() * NS))
        peer._inbox.append((now, due, data))
        peer._plan()

    def _plan(self) -> None:
        """See to it that the oldest waiting bytes arrive when they are due."""
        if self._planned or self._paused or not self._inbox:
            return
        self._planned = True
        due = max(self._inbox[0][1], self.frozen_until_ns)
        self.network.later(max(0, due - self.network.loop.now_ns) / NS, self._arrive)

    def _arrive(self) -> None:
        """Take the oldest bytes, unless nobody reads or the line is dead for a while."""
        self._planned = False
        if self.lost or self._paused or not self._inbox:
            return
        if self.network.loop.now_ns < max(self._inbox[0][1], self.frozen_until_ns):
            self._plan()
            return
        if self.kind in self.network.weather.swallowing:
            self._inbox.clear()  # the line is dead for good: what was sent into it never arrives
            return
        self.sent_ns, _, data = self._inbox.popleft()
        if data is None:
            self._call(self._end)
        else:
            self.network.on_arrival(self, data)
            self._call(self._take, data)
        self._plan()

    def _take(self, data: bytes) -> None:
        if not self.lost:
            self.protocol.data_received(data)

    def _end(self) -> None:
        if self.lost:
            return
        if not self.protocol.eof_received():
            self.close()

    def reset(self) -> None:
        """Hear that the other end has gone without a word."""
        if not self.lost:
            self.closing = True
            self._call(self._lose, ConnectionResetError(errno.ECONNRESET, "connection reset by peer"))

    def _lose(self, error: Exception | None) -> None:
        if self.lost:
            return
        self.lost = True
        self.network.pipes.pop(id(self), None)
        self.protocol.connection_lost(error)

    def _call(self, work: Callable[..., Any], *args: Any) -> None:
        self.network.loop.call_soon(work, *args, context=self.context)

    def __hash__(self) -> int:
        """Hash by identity."""
        return id(self)


class _Bound:
    """What the exchange asks of a listening socket."""

    def __init__(self, port: int) -> None:
        self._port = port

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", self._port)


class Listening(asyncio.AbstractServer):
    """A server that takes connections until it is closed."""

    def __init__(self, network: "Network", port: int) -> None:
        self._network = network
        self._port = port
        self.sockets = [_Bound(port)]

    def close(self) -> None:
        """Take no more."""
        self._network.servers.pop(self._port, None)

    async def wait_closed(self) -> None:
        """Wait for nothing."""

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop."""
        return self._network.loop

    def is_serving(self) -> bool:
        """Say whether connections are taken."""
        return self._port in self._network.servers

    async def start_serving(self) -> None:
        """Serve already."""

    async def serve_forever(self) -> None:
        """Serve already."""


class Network:
    """All connections of one simulation.

    ``on_write`` sees every chunk as it leaves, ``on_arrival`` as it arrives; both are for checks alone.
    """

    def __init__(self, loop: SimLoop, rng: random.Random) -> None:
        self.loop = loop
        self.weather = Weather(rng)
        self.servers: dict[int, tuple[Callable[[], asyncio.BaseProtocol], Context]] = {}
        self.pipes: dict[int, Pipe] = {}
        self.writers: list[Watch] = []
        self.readers: list[Watch] = []
        self.dials = 0

    def on_write(self, pipe: Pipe, data: bytes) -> None:
        """Show a departure, and learn what a connection is for."""
        if pipe.side != "world" and pipe.kind == "http" and data.startswith(b"GET /") and b"Upgrade: websocket" in data:
            pipe.kind = "user" if data.startswith(b"GET /ws-api") else "ws"
            if pipe.peer is not None:
                pipe.peer.kind = pipe.kind
        for watch in self.writers:
            watch(pipe, data, self.loop.now_ns)

    def on_arrival(self, pipe: Pipe, data: bytes) -> None:
        """Show an arrival."""
        for watch in self.readers:
            watch(pipe, data, self.loop.now_ns)

    def later(self, seconds: float, work: Callable[..., Any], *args: Any) -> None:
        """Do something of the network's own after a while."""
        self.loop.call_later(seconds, work, *args, context=self._quiet())

    def _quiet(self) -> Context:
        context = copy_context()
        context.run(SIDE.set, "world")
        return context

    def listen(self, factory: Callable[[], asyncio.BaseProtocol], port: int) -> Listening:
        """Take connections at a port; 0 chooses one."""
        port = port or 18_080 + len(self.servers)
        self.servers[port] = (factory, copy_context())
        return Listening(self, port)

    async def dial(self, factory: Callable[[], asyncio.BaseProtocol], port: int) -> tuple[Pipe, Any]:
        """Connect: one round trip, or a refusal, or nothing for a minute."""
        side = SIDE.get()
        self.dials += 1
        if self.weather.refusing or port not in self.servers:
            await asyncio.sleep(REFUSE_S)
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"connect to 127.0.0.1:{port} refused")
        await asyncio.sleep(2 * self.weather.latency_s())
        if port not in self.servers:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"connect to 127.0.0.1:{port} refused")
        serve, context = self.servers[port]
        names = (("127.0.0.1", CLIENT_PORTS + self.dials % 20_000), ("127.0.0.1", port))
        near, far = Pipe(self, side, names), context.copy().run(Pipe, self, "world", names[::-1])
        near.peer, far.peer = far, near
        self.pipes[id(near)], self.pipes[id(far)] = near, far
        near.protocol = factory()
        far.protocol = context.run(serve)
        far._call(far.protocol.connection_made, far)
        near.protocol.connection_made(near)
        return near, near.protocol

    # ------------------------------------------------------------------ faults

    def clients(self, kind: str = "") -> list[Pipe]:
        """Return the daemon's ends of a kind, oldest first."""
        return [pipe for pipe in list(self.pipes.values()) if pipe.side != "world" and kind in {"", pipe.kind}]

    def cut(self, kind: str = "") -> int:
        """Reset connections at both ends; return how many."""
        chosen = self.clients(kind)
        for pipe in chosen:
            if pipe.peer is not None:
                pipe.peer.reset()
            pipe.reset()
        return len(chosen)

    def freeze(self, kind: str, seconds: float) -> int:
        """Let connections say and hear nothing for a while; return how many."""
        until = self.loop.now_ns + round(seconds * NS)
        chosen = self.clients(kind)
        for pipe in chosen:
            pipe.frozen_until_ns = max(pipe.frozen_until_ns, until)
            if pipe.peer is not None:
                pipe.peer.frozen_until_ns = max(pipe.peer.frozen_until_ns, until)
        return len(chosen)

    def bury(self, side: str) -> None:
        """End all connections of a life of the daemon, as the kernel does when its process is killed."""
        for pipe in [pipe for pipe in self.pipes.values() if pipe.side == side]:
            pipe.lost = pipe.closing = True
            self.pipes.pop(id(pipe), None)
            if pipe.peer is not None:
                self.later(self.weather.latency_s(), pipe.peer.reset)
