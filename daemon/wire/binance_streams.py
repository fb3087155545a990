"""Binance's stream names, subscription requests and the answers to them. Pure."""

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from daemon.domain.market import Instrument

DETAIL_CHARS_MAX = 120
BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, OverflowError, MemoryError)
"""Everything msgspec raises on bytes that are not what they should be (ValidationError is a DecodeError)."""


class Kind(StrEnum):
    """What a frame carries, as far as its stream name tells."""

    AGG_TRADE = "aggTrade"
    TRADE = "trade"
    BOOK = "bookTicker"
    OTHER = "other"


class IdSpace(StrEnum):
    """The two numberings of trades; a feed uses one of them and never mixes."""

    AGG_TRADE = "aggTrade"
    TRADE = "trade"


def stream_name(venue_id: str, kind: Kind | IdSpace) -> str:
    """Return the name of a stream, e.g. ``btcusdt@aggTrade``."""
    return f"{venue_id.lower()}@{kind.value}"


def streams_of(instruments: Iterable[Instrument], space: IdSpace = IdSpace.AGG_TRADE) -> tuple[str, ...]:
    """Return the streams a universe needs: its trades in one id space, and its best bid and ask."""
    return tuple(stream_name(one.venue_id, kind) for one in instruments for kind in (space, Kind.BOOK))


def subscribe(streams: Iterable[str], request_id: int) -> str:
    """Return the SUBSCRIBE message."""
    return _request("SUBSCRIBE", streams, request_id)


def unsubscribe(streams: Iterable[str], request_id: int) -> str:
    """Return the UNSUBSCRIBE message."""
    return _request("UNSUBSCRIBE", streams, request_id)


def _request(method: str, streams: Iterable[str], request_id: int) -> str:
    """Return a request of the stream protocol as JSON text."""
    return msgspec.json.encode({"method": method, "params": list(streams), "id": request_id}).decode()


class Answer(msgspec.Struct, frozen=True):
    """The venue's answer to a request; ``error`` is "" when it accepted."""

    id: int
    error: str


class _AnswerWire(msgspec.Struct):
    id: int | None
    error: msgspec.Raw = msgspec.Raw()
    code: int = 0
    msg: str = ""


_decode_answer = msgspec.json.Decoder(_AnswerWire).decode


def answer_of(frame: bytes) -> Answer | None:
    """Return the answer a frame holds, None when it is something else."""
    try:
        wire = _decode_answer(frame)
    except BROKEN:
        return None
    error = bytes(wire.error).decode(errors="replace") or wire.msg or (f"code {wire.code}" if wire.code else "")
    return Answer(-1 if wire.id is None else wire.id, error[:DETAIL_CHARS_MAX])
