"""A websockets client connection that hands each message to a callback at once.

The library shakes hands, answers pings, closes and judges whatever is unusual; plain text frames, which is what a market
sends, are taken apart here and never wait in a queue.
"""

from collections.abc import Callable
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import Event, State

from daemon.edge.clock import Clock

FRAME_BYTES_MAX = 1 << 20
"""Largest message accepted, bytes; a larger one cuts the connection."""
TEXT_FINAL = 0x81
"""First byte of an unfragmented text frame without extensions."""
HEAD_BYTES_MAX = 1 << 16
"""Longest answer to the handshake that is collected; the library judges a longer one."""
FRAGMENTS_MAX = 4096
"""Fragments of one message; more cut the connection."""

OnFrame = Callable[[bytes, int], None]


class Socket(ClientConnection):
    """A websockets client connection that hands each message to a callback at once, past the library's queue.

    Attributes
    ----------
    sink
        Where messages go; replaced by the feed once it is subscribed, and when it has had enough.
    fault
        What the sink raised, None while all is well.
    heard_s, data_s
        Loop time of the last byte and of the last message, seconds.
    """

    def __init__(self, protocol: ClientProtocol, *, sink: OnFrame, clock: Clock, **options: Any) -> None:
        super().__init__(protocol, **options)
        self.sink = sink
        self.fault: Exception | None = None
        self.heard_s = self.data_s = self.loop.time()
        self._clock = clock
        self._parts: list[bytes] = []
        self._recv_ns = 0
        self._head: bytes | None = b""
        self._splitting = False
        self._tail = b""

    def data_received(self, data: bytes) -> None:
        """Stamp a chunk of bytes with its time of arrival and take it apart."""
        self._recv_ns = self._clock.now_ns()
        self.heard_s = self.loop.time()
        if self._splitting:
            self._split(data)
        elif self._head is None:
            super().data_received(data)
        else:
            self._handshake(self._head + data)

    def _handshake(self, head: bytes) -> None:
        """Give the library the answer to our handshake and nothing behind it: frames are split here."""
        end = head.find(b"\r\n\r\n") + 4
        if end < 4 and len(head) <= HEAD_BYTES_MAX:
            self._head = head
            return
        self._head = None
        super().data_received(head[:end] if end >= 4 else head)
        rest = head[end:] if end >= 4 else b""
        self._splitting = self.protocol.state is State.OPEN
        if self._splitting:
            self._split(rest)
        elif rest:
            super().data_received(rest)

    def _split(self, data: bytes) -> None:
        """Deliver whole plain text frames; hand every other frame to the library, whole, one at a time.

        Only the common case of RFC 6455, section 5.2, is read here: final, no extension, unmasked. The library parses a
        frame in 2 µs, which was half the way from socket to bar.
        """
        data = self._tail + data
        at, size = 0, len(data)
        try:
            while size - at >= 2:
                length = data[at + 1]
                start = at + 2
                if length == 126:
                    start = at + 4
                    length = int.from_bytes(data[at + 2 : start])
                elif length > 126:
                    start = at + 10
                    length = int.from_bytes(data[at + 2 : start]) if length == 127 else FRAME_BYTES_MAX + 1
                end = start + length
                if length > FRAME_BYTES_MAX and size >= start:
                    self._delegate(data[at:])  # too large, or masked: the library says so and fails the connection
                    return
                if end > size:
                    break
                if data[at] == TEXT_FINAL and not self._parts:
                    self.data_s = self.heard_s
                    self.sink(data[start:end], self._recv_ns)
                else:
                    super().data_received(data[at:end])
                    if self.protocol.state is not State.OPEN:
                        self._delegate(data[end:])
                        return
                at = end
        except Exception as error:  # noqa: BLE001 (kept and raised by Feed.run: a fault of the engine, not of the network)
            self._blame(error)
            return
        self._tail = data[at:]

    def _delegate(self, data: bytes) -> None:
        """Leave the rest of this connection to the library."""
        self._splitting = False
        self._tail = b""
        if data:
            super().data_received(data)

    def process_event(self, event: Event) -> None:
        """Hand a complete message over; leave handshake and control frames to the library."""
        if self.response is None or not isinstance(event, Frame):
            super().process_event(event)
            return
        opcode = event.opcode
        if opcode is Opcode.TEXT or opcode is Opcode.BINARY:
            if event.fin:
                self._deliver(bytes(event.data))
            else:
                self._parts = [bytes(event.data)]
        elif opcode is Opcode.CONT:
            self._continue(event)
        else:
            super().process_event(event)

    def _continue(self, event: Frame) -> None:
        """Collect a fragment; the protocol bounds the sum by its size limit, this their number."""
        self._parts.append(bytes(event.data))
        if event.fin:
            whole, self._parts = b"".join(self._parts), []
            self._deliver(whole)
        elif len(self._parts) >= FRAGMENTS_MAX:
            self._parts = []
            self.transport.abort()

    def _deliver(self, message: bytes) -> None:
        """Run the callback for a message the library put together."""
        self.data_s = self.heard_s
        try:
            self.sink(message, self._recv_ns)
        except Exception as error:  # noqa: BLE001 (see _split)
            self._blame(error)

    def _blame(self, error: Exception) -> None:
        """Keep the fault of the callback and drop the connection."""
        self.fault = self.fault or error
        self.sink = ignore
        self._delegate(b"")
        self.transport.abort()


def ignore(message: bytes, recv_ns: int) -> None:
    """Take messages nobody wants any more."""
