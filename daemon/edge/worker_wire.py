"""What the daemon and its worker say to each other: length-prefixed msgpack over one Unix socket, typed at both ends."""

import struct

import msgspec

from daemon.domain.events import Decide, Decided, Seed
from daemon.domain.market import Bar
from strategies.params import StrategySetup

PREFIX = struct.Struct(">I")
MESSAGE_BYTES_MAX = 512 * 2**20
"""A seed of 3,000 symbols and 2,000 bars is 288 MB; anything larger is not ours."""
DETAIL_CHARS_MAX = 300
NS_PER_S = 1_000_000_000


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Everything a worker is started with. It is also the first message.

    ``strategy`` is ``module:Class``, looked for in ``folders`` too, after everything installed; ``params`` the
    configuration's ``[strategy_params]`` as they are; ``buffer_bars`` how
    many bars the child keeps; ``rss_bytes_max`` the resident size from which a child is replaced between decisions;
    ``hang_ns`` how long after a missed deadline a child is given before it is killed; ``start_ns_max`` how long it may
    take until it is ready; ``backoff_ns_max`` the longest pause between two starts.
    """

    setup: StrategySetup
    strategy: str = "strategies.forecast_optimise:ForecastOptimise"
    params: dict[str, object] = {}
    folders: tuple[str, ...] = ()
    buffer_bars: int = 2_000
    rss_bytes_max: int = 600 * 2**20
    hang_ns: int = 1 * NS_PER_S
    start_ns_max: int = 60 * NS_PER_S
    backoff_ns_max: int = 30 * NS_PER_S
    seed: int = 0


class Reload(msgspec.Struct, frozen=True, tag=True):
    """Serve the model that is current now."""


class Bars(msgspec.Struct, frozen=True, tag=True):
    """Closed bars (and daily closes) of a ``Decide`` that is not asked any more: the buffers need them all the same."""

    bars: tuple[Bar, ...]
    daily: tuple[bytes, ...] = ()


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Set up: the model served ("" when none) and the close of the newest bar it saw.

    ``detail`` says why there is no model, or why a new one was refused; ``learns`` is False of a strategy without
    ``setup``: no model will ever be asked.
    """

    model: str
    trained_ns: int
    detail: str
    learns: bool = True


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The strategy cannot be used at all; the child ends after saying so."""

    detail: str


class Answer(msgspec.Struct, frozen=True, tag=True):
    """The answer to a ``Decide``, the child's resident size after it, and a line for the log ("" mostly)."""

    decided: Decided
    rss_bytes: int
    note: str


ToChild = WorkerConfig | Seed | Decide | Bars | Reload
FromChild = Ready | Failed | Answer

_ENCODER = msgspec.msgpack.Encoder()
TO_CHILD: msgspec.msgpack.Decoder[ToChild] = msgspec.msgpack.Decoder(ToChild)
FROM_CHILD: msgspec.msgpack.Decoder[FromChild] = msgspec.msgpack.Decoder(FromChild)


def parts(message: ToChild | FromChild) -> tuple[bytes, bytes]:
    """Return the length (4 bytes, big endian) and the body: a seed is large, so they are not joined by copying."""
    body = _ENCODER.encode(message)
    return PREFIX.pack(len(body)), body


def frame(message: ToChild | FromChild) -> bytes:
    """Return the message with its length in front, in one piece."""
    return b"".join(parts(message))


class Frames:
    """Cuts a byte stream into message bodies.

    Raises
    ------
    ValueError
        From ``feed`` when a length is absurd: the stream is not ours and cannot be resynchronised.
    """

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes as they come and return the bodies they complete, in order."""
        buffer = self._buffer
        buffer += data
        bodies: list[bytes] = []
        at = 0
        while len(buffer) - at >= PREFIX.size:
            (length,) = PREFIX.unpack_from(buffer, at)
            if length > MESSAGE_BYTES_MAX:
                raise ValueError(f"message of {length} bytes, at most {MESSAGE_BYTES_MAX}")
            end = at + PREFIX.size + length
            if len(buffer) < end:
                break
            bodies.append(bytes(buffer[at + PREFIX.size : end]))
            at = end
        if at:
            del buffer[:at]
        return bodies


def one_line(error: BaseException) -> str:
    """Return ``Type: message (file:line)`` of where an exception was raised, as one bounded line."""
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    place = f" ({where.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{where.tb_lineno})" if where else ""
    return (f"{type(error).__name__}: {error}".replace("\n", " ")[:DETAIL_CHARS_MAX]) + place
