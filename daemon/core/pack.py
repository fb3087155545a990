"""Arrays as bytes, for events that cross a process border."""

from array import array
from collections.abc import Iterable
from operator import attrgetter

from daemon.domain.market import Bar

FLOAT_BYTES = 8
_close = attrgetter("close")


def closes_after(known: bytes, follows: int, bars: Iterable[Bar]) -> bytes:
    """Return the newest ``follows`` of the closes in ``known``, then those of ``bars``, as the bytes of float64."""
    kept = known[-FLOAT_BYTES * follows :] if follows else b""
    return kept + array("d", map(_close, bars)).tobytes()
