"""The simulated exchange in a process of its own, with the kernel's stamp on what arrives and ours on what leaves.

The exchange's own request log stamps an order when its handler runs, behind the orders before it. What a benchmark of the
client needs is when the bytes reached the server's socket, however busy the server is: Linux stamps every segment on
arrival (SO_TIMESTAMPING), and on loopback the moment of ``send`` is the moment of arrival at the other side.

Run as ``python -m benchmarks.venue OUT [--frames] [arguments of daemon.exchange]``; on SIGTERM it writes OUT, JSON:
``{"orders": {client id: ns}, "frames": {"SYMBOL:trade id": ns}}``.
"""

import asyncio
import contextlib
import json
import os
import re
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

SO_TIMESTAMPING = 37
RX_SOFTWARE, SOFTWARE = 1 << 3, 1 << 4
STAMP = struct.Struct("qq")
ANCILLARY_BYTES = 256
CLIENT_ID = re.compile(rb"newClientOrderId=([^&\s]+)")
TRADE = re.compile(rb'"s":"([A-Z0-9]+)","a":(\d+)')
NS_PER_S = 1_000_000_000
READY_S_MAX = 60.0


class Seen:
    """What crossed the sockets: last byte of each order in, each trade frame out, ns UTC."""

    def __init__(self) -> None:
        self.orders: dict[str, int] = {}
        self.sent: list[tuple[int, bytes]] = []
        self.frames = False

    def write(self, file: Path) -> None:
        frames = {
            f"{match[1].decode()}:{int(match[2])}": ns for ns, data in self.sent for match in TRADE.finditer(data)
        }
        file.write_text(json.dumps({"orders": self.orders, "frames": frames}))


SEEN = Seen()


class Stamped(socket.socket):
    """An accepted connection that notes when the kernel received each chunk."""

    def begin(self) -> "Stamped":
        self.last = ""
        with contextlib.suppress(OSError):  # elsewhere than on Linux the time of reading must do
            self.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, RX_SOFTWARE | SOFTWARE)
        return self

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        data, ancillary, _, _ = self.recvmsg(bufsize, ANCILLARY_BYTES)
        if data.startswith(b"POST /api/v3/order"):
            self.last = "?"
        if self.last and data:
            self._order(data, ancillary)
        return data

    def _order(self, data: bytes, ancillary: list[tuple[int, int, bytes]]) -> None:
        """Stamp the order these bytes belong to; the newest chunk counts, as the last byte is what is measured."""
        ns = time.time_ns()
        for level, _, value in ancillary:
            if level == socket.SOL_SOCKET and len(value) >= STAMP.size:
                seconds, nanoseconds = STAMP.unpack_from(value)
                ns = seconds * NS_PER_S + nanoseconds or ns
        if data.startswith((b"GET", b"DELETE")):
            self.last = ""
            return
        found = CLIENT_ID.search(data)
        if found is not None:
            self.last = found[1].decode()
        if self.last != "?":
            SEEN.orders[self.last] = ns

    def send(self, data: Any, flags: int = 0, /) -> int:
        if SEEN.frames:
            SEEN.sent.append((time.time_ns(), bytes(data)))
        return super().send(data, flags)


class Listener(socket.socket):
    """A listening socket whose connections are stamped."""

    def accept(self) -> tuple[socket.socket, Any]:
        fd, address = self._accept()  # type: ignore[attr-defined]
        connection = Stamped(self.family, self.type, self.proto, fileno=fd).begin()
        return connection, address


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose servers listen on such sockets."""

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        listener = Listener(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        return await super().create_server(protocol_factory, sock=listener, backlog=options.get("backlog", 128))


class Policy(asyncio.DefaultEventLoopPolicy):
    """Gives the exchange such a loop without its knowing."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return Loop()


def main(argv: list[str]) -> int:
    from daemon.exchange.__main__ import main as exchange

    out, arguments = Path(argv[0]), argv[1:]
    SEEN.frames = "--frames" in arguments
    asyncio.set_event_loop_policy(Policy())
    code = exchange([one for one in arguments if one != "--frames"])
    SEEN.write(out)
    return code


CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def pin(pid: int, *cores: int) -> None:
    """Keep a process on the cores of these numbers, where there are two or more: nobody measures while being preempted.

    A send on loopback wakes the receiver, and the scheduler likes to run it at once and in the sender's place.
    """
    if len(CORES) > max(cores):
        os.sched_setaffinity(pid, {CORES[one] for one in cores})


class Venue:
    """A running venue process: where it listens, and after it has ended what it saw."""

    def __init__(self, base: str, pid: int) -> None:
        self.base = base
        self.pid = pid
        self.orders: dict[str, int] = {}
        self.frames: dict[str, int] = {}


@contextlib.asynccontextmanager
async def running(folder: Path, *, frames: bool = False, **options: object) -> AsyncIterator[Venue]:
    """Start a venue with options of ``daemon.exchange``; its stamps are there when the block has ended."""
    out = folder / "venue.json"
    arguments = ["--exit-with-parent"]
    arguments += [str(part) for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.venue", str(out), *(["--frames"] if frames else []), *arguments,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), READY_S_MAX)
        if not line:
            raise RuntimeError("the exchange of the benchmark did not start: see the error above")
        pin(process.pid, 1)
        venue = Venue(f"127.0.0.1:{json.loads(line)['port']}", process.pid)
        yield venue
        process.terminate()
        await asyncio.wait_for(process.wait(), READY_S_MAX)
        seen = json.loads(out.read_text())
        venue.orders, venue.frames = seen["orders"], seen["frames"]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
