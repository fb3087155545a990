"""The flight recorder's records and how they are read back; what a segment is stands in ``daemon/outlets/journal.py``."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import zstandard

from daemon.domain.events import Event

MAGIC: Final = b"BALLAST1"
BLOCK_BYTES_MAX: Final = 256 * 2**20
SUFFIX: Final = ".journal"
BLOCK: Final = struct.Struct("<4sIII")  # magic, compressed bytes, raw bytes, CRC-32 of the compressed bytes
BLOCK_MAGIC: Final = b"BLK1"


class Header(msgspec.Struct, frozen=True, tag="header"):
    """First record of a segment: which run, which code, which configuration.

    ``config_json`` is the redacted configuration, ``engine_json`` and ``worker_json`` what engine and worker were told:
    enough to build both again. ``start_ns`` (UTC) names the run.
    """

    start_ns: int
    code_version: str = ""
    config_hash: str = ""
    config_json: str = "{}"
    engine_json: str = ""
    worker_json: str = ""
    segment: int = 0


class Frame(msgspec.Struct, frozen=True, gc=False):
    """A raw frame of a feed channel as it was received."""

    recv_ns: int
    channel: int
    data: bytes


class Piece(msgspec.Struct, frozen=True, tag="piece"):
    """A part of the engine's state when the segment was opened; see `daemon.core.snapshot.pieces`."""

    data: bytes


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """The state is complete; up to here the engine had produced so many effects with this rolling hash."""

    effects: int
    digest: str


class EffectsHash(msgspec.Struct, frozen=True, tag="effects"):
    """How many effects the engine had produced at this point, and the rolling hash of all of them."""

    count: int
    digest: str


class Lost(msgspec.Struct, frozen=True, tag="lost"):
    """Records that could not be kept at this point; a replay cannot pass it."""

    count: int
    reason: str


Record = Header | Piece | Opened | Frame | EffectsHash | Lost | Event


class Wide(msgspec.Struct, frozen=True, tag="wide"):
    """An event that msgpack cannot hold, as JSON."""

    text: bytes


_Stored = tuple[int, int, bytes] | Header | Piece | Opened | EffectsHash | Lost | Wide | Event
"""A frame is stored as the tuple that the hot path made."""
_DECODE: Final = msgspec.msgpack.Decoder(list[_Stored]).decode


class DamagedJournalError(ValueError):
    """A journal that is no journal, or is broken before its tail; one line."""


def segments(folder: Path) -> list[Path]:
    """Return all segments in a folder, oldest first."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def runs(folder: Path) -> dict[int, list[Path]]:
    """Return the segments of every run by its start in ns UTC, oldest first."""
    found: dict[int, list[Path]] = {}
    for path in segments(folder):
        start, _, _ = path.stem.partition("-")
        if start.isdigit():
            found.setdefault(int(start), []).append(path)
    return found


def read_journal(path: Path) -> Iterator[Record]:
    """Yield every record in the order it entered: of one segment, or of the newest run in a folder.

    A torn tail (a crash mid-write) ends a segment silently.

    Raises
    ------
    DamagedJournalError
        If it is no journal, or a block before the tail is broken.
    """
    if path.is_dir():
        found = runs(path)
        if not found:
            raise DamagedJournalError(f"{path}: no journal segments (*{SUFFIX}) in this folder")
        for segment in found[max(found)]:
            yield from read_segment(segment)
    else:
        yield from read_segment(path)


def read_segment(path: Path) -> Iterator[Record]:
    """Yield the records of one segment; see `read_journal`."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            if size < len(MAGIC):
                return
            raise DamagedJournalError(
                f"{path}: not a journal of this version; give a *{SUFFIX} file that Ballast wrote"
            )
        while head := file.read(BLOCK.size):
            if len(head) < BLOCK.size:
                return
            magic, length, raw_length, crc = BLOCK.unpack(head)
            at = file.tell() - BLOCK.size
            if magic != BLOCK_MAGIC or length > BLOCK_BYTES_MAX or raw_length > BLOCK_BYTES_MAX:
                raise DamagedJournalError(f"{path}: damaged at byte {at}: no block begins there")
            body = file.read(length)
            if len(body) < length:
                return
            if zlib.crc32(body) != crc:
                if file.tell() == size:
                    return
                raise DamagedJournalError(f"{path}: damaged at byte {at}: checksum differs")
            try:
                records = [_event(record) for record in _DECODE(_expand(body, raw_length))]
            except (msgspec.DecodeError, zstandard.ZstdError, UnicodeError, RecursionError) as error:
                raise DamagedJournalError(f"{path}: block at byte {at} cannot be read ({str(error)[:200]})") from None
            yield from records


def _expand(body: bytes, raw_length: int) -> bytes:
    """Return a block's content; zstd would unpack whatever the frame itself says, however large."""
    said = zstandard.get_frame_parameters(body).content_size
    if said != raw_length:
        raise zstandard.ZstdError(f"its content is {said} bytes, {raw_length} were announced")
    return zstandard.ZstdDecompressor().decompress(body, max_output_size=raw_length)


def _event(record: _Stored) -> Record:
    """Return what a stored record stands for."""
    if isinstance(record, tuple):
        return Frame(*record)
    return msgspec.json.decode(record.text, type=Event) if isinstance(record, Wide) else record
