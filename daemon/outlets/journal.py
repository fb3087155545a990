"""The flight recorder: every inbound event in the order it entered, compressed, checksummed, bounded.

A run is a series of segments ``<start_ns>-<index>.journal``. A segment is a magic number and blocks; a block is a
header (magic, sizes, CRC-32 of the compressed body) and a zstd frame of at most ``BLOCK_RECORDS_MAX`` msgpack records.
The first record of every segment is a ``Header``. The hot path appends to a list and does nothing else; encoding,
compression and writing happen in one thread, block by block, so that the interpreter is never held for long.
"""

import asyncio
import contextlib
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import Final

import msgspec
import zstandard

from daemon.domain.events import Event

MAGIC: Final = b"BALLAST1"
SEGMENT_BYTES: Final = 64 * 2**20
BLOCK_RECORDS_MAX: Final = 2_048
BLOCK_BYTES_MAX: Final = 256 * 2**20
PENDING_RECORDS_MAX: Final = 2_000_000
"""Records kept while the disk refuses writes; beyond it they are dropped and a ``Lost`` record says how many."""
SUFFIX: Final = ".journal"
LEVEL: Final = 1
_BLOCK = struct.Struct("<4sIII")  # magic, compressed bytes, raw bytes, CRC-32 of the compressed bytes
_BLOCK_MAGIC: Final = b"BLK1"


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


class EffectsHash(msgspec.Struct, frozen=True, tag="effects"):
    """How many effects the engine had produced at this point, and the rolling hash of all of them."""

    count: int
    digest: str


class Lost(msgspec.Struct, frozen=True, tag="lost"):
    """Records that could not be kept at this point; a replay cannot pass it."""

    count: int
    reason: str


Record = Header | Frame | EffectsHash | Lost | Event


class Wide(msgspec.Struct, frozen=True, tag="wide"):
    """An event that msgpack cannot hold, as JSON."""

    text: bytes


_Stored = tuple[int, int, bytes] | Header | EffectsHash | Lost | Wide | Event
"""A frame is stored as the tuple that the hot path made."""
_DECODE: Final = msgspec.msgpack.Decoder(list[_Stored]).decode


def _nobody(name: str) -> None:
    """Tell nobody."""


class DamagedJournalError(ValueError):
    """A journal that is no journal, or is broken before its tail; one line."""


class Journal:
    """Writes the flight record of one run.

    Parameters
    ----------
    folder
        Where segments of all runs lie; created when missing.
    max_bytes
        Bound on all segments together; the oldest go first, the open one never.
    start_ns
        Start of the run in ns UTC; names its segments.
    code_version, config_hash, config_json, engine_json, worker_json
        What the header of every segment says; see `Header`.
    segment_bytes
        Size at which the next segment begins; never more than a quarter of ``max_bytes``.
    boundary
        Told before and after each write of a block: a crash point (``daemon.edge.crash``).
    """

    def __init__(  # noqa: PLR0913 (one keyword per field of the header)
        self,
        folder: Path,
        max_bytes: int,
        *,
        start_ns: int,
        code_version: str = "",
        config_hash: str = "",
        config_json: str = "{}",
        engine_json: str = "",
        worker_json: str = "",
        segment_bytes: int = SEGMENT_BYTES,
        boundary: Callable[[str], None] = _nobody,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._boundary = boundary
        self._max_bytes = max_bytes
        self._segment_bytes = max(4096, min(segment_bytes, max_bytes // 4))
        self._header = Header(start_ns, code_version, config_hash, config_json, engine_json, worker_json)
        self._pending: list[object] = []
        self._append = self._pending.append
        self._kept = [(path, path.stat().st_size) for path in segments(folder)]
        self._file: FileIO | None = None
        self._path = folder
        self._index = 0
        self._size = 0
        self._whole = 0  # bytes up to the end of the last block that was written in full
        self._opening_bytes = 0
        self._lost = 0
        self._encode = msgspec.msgpack.Encoder(decimal_format="string").encode
        self._compress = zstandard.ZstdCompressor(level=LEVEL).compress
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._flushing = False
        self.bytes_written = 0
        self.records_lost = 0
        self.failure = ""

    def add_frame(self, recv_ns: int, channel: int, frame: bytes) -> None:
        """Append a raw frame; the hot path."""
        self._append((recv_ns, channel, frame))

    def add_event(self, event: Event) -> None:
        """Append an event that did not come as a frame."""
        self._append(event)

    def add_effects_hash(self, count: int, digest: str) -> None:
        """Append how many effects there were up to here and their rolling hash."""
        self._append(EffectsHash(count, digest))

    @property
    def pending(self) -> int:
        """Return how many records wait for the next flush."""
        return len(self._pending)

    async def flush(self) -> None:
        """Write what is pending, in a thread; a flush that finds another under way leaves the work to the next."""
        if self._flushing:
            self._bound()
            return
        self._flushing = True
        try:
            batch = self._take()
            await asyncio.get_running_loop().run_in_executor(self._thread, self._write, batch)
        finally:
            self._flushing = False

    def flush_now(self) -> None:
        """Write what is pending from the calling thread, after any flush under way."""
        self._thread.submit(self._write, self._take()).result()

    def close(self) -> None:
        """Write what is pending and close the open segment."""
        self.flush_now()
        self._thread.submit(self._close_segment).result()
        self._thread.shutdown()

    def _take(self) -> list[object]:
        batch = self._pending
        self._pending = []
        self._append = self._pending.append
        return batch

    def _bound(self) -> None:
        if len(self._pending) > PENDING_RECORDS_MAX:
            self._drop(len(self._take()))

    def _drop(self, count: int) -> None:
        self._lost += count
        self.records_lost += count

    def _write(self, batch: list[object]) -> None:
        """Write a batch block by block; on a full or broken disk keep counting what is lost and try again next time."""
        done = 0
        try:
            if self._lost:
                self._write_block([Lost(self._lost, self.failure or "too many records waited for the disk")])
                self._lost = 0
            while done < len(batch):
                self._write_block(batch[done : done + BLOCK_RECORDS_MAX])
                done += BLOCK_RECORDS_MAX
            self.failure = ""
        except OSError as error:
            self.failure = f"{self._path}: {error.strerror or error}"
            self._drop(max(0, len(batch) - done))
            self._abandon_segment()

    def _write_block(self, records: list[object]) -> None:
        block = self._block(records)
        if self._file is None or self._size + len(block) > self._segment_bytes:
            self._next_segment()
        self._boundary("journal.block.before")
        self._put(block)
        self._boundary("journal.block.after")
        self._whole = self._size

    def _block(self, records: list[object]) -> bytes:
        try:
            raw = self._encode(records)
        except OverflowError:
            raw = self._encode([self._small(record) for record in records])
        body = self._compress(raw)
        return _BLOCK.pack(_BLOCK_MAGIC, len(body), len(raw), zlib.crc32(body)) + body

    def _small(self, record: object) -> object:
        """Return a record as it is, or as JSON text when it holds an integer beyond 64 bits (a trade of 2e11 units)."""
        try:
            self._encode(record)
        except OverflowError:
            return Wide(msgspec.json.encode(record))
        return record

    def _put(self, data: bytes) -> None:
        if self._file is None:
            raise OSError("no open segment")
        rest = memoryview(data)
        while rest:
            written = self._file.write(rest)
            rest = rest[written:]
            self._size += written
            self.bytes_written += written

    def _next_segment(self) -> None:
        self._close_segment()
        header = msgspec.structs.replace(self._header, segment=self._index)
        self._path = self._folder / f"{header.start_ns:020d}-{self._index:06d}{SUFFIX}"
        self._file = self._path.open("xb", buffering=0)  # a buffer would lose whole blocks on a full disk, unnoticed
        self._size = 0
        self._index += 1
        opening = MAGIC + self._block([header])
        self._opening_bytes = len(opening)
        self._whole = 0
        self._put(opening)
        self._trim()

    def _close_segment(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            self._kept.append((self._path, self._size))

    def _abandon_segment(self) -> None:
        """Leave a segment whose last write failed, its torn tail is tolerated; keep none that holds no record."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            os.ftruncate(self._file.fileno(), self._whole)
        with contextlib.suppress(OSError):
            self._file.close()
        self._file = None
        if self._whole > self._opening_bytes:
            self._kept.append((self._path, self._whole))
        else:  # a disk that stays full must not collect an empty file per second
            self._path.unlink(missing_ok=True)
            self._index -= 1

    def _trim(self) -> None:
        """Remove the oldest segments until the others and a full open one fit the bound."""
        total = sum(size for _, size in self._kept) + self._segment_bytes
        while self._kept and total > self._max_bytes:
            path, size = self._kept.pop(0)
            path.unlink(missing_ok=True)
            total -= size


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
        while head := file.read(_BLOCK.size):
            if len(head) < _BLOCK.size:
                return
            magic, length, raw_length, crc = _BLOCK.unpack(head)
            at = file.tell() - _BLOCK.size
            if magic != _BLOCK_MAGIC or length > BLOCK_BYTES_MAX or raw_length > BLOCK_BYTES_MAX:
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
