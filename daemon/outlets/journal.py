"""The flight recorder: every inbound event in the order it entered, compressed, checksummed, bounded.

A run is a series of segments ``<start_ns>-<index>.journal``. A segment is a magic number and blocks; a block is a
header (magic, sizes, CRC-32 of the compressed body) and a zstd frame of at most ``BLOCK_RECORDS_MAX`` msgpack records.
The first record of every segment is a ``Header``. The first segment of a run begins with an engine that knows nothing;
every later one opens with the engine's whole state (``Piece`` … ``Opened``), so that any kept segment can be replayed.
The hot path appends to a list and does nothing else; encoding, compression and writing happen in one thread, block by
block, so that the interpreter is never held for long.

A segment that is full asks for a cut (``due``): whoever owns the engine freezes it between two events and calls ``cut``.
"""

import asyncio
import contextlib
import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import Final

import msgspec
import zstandard

from daemon.core.snapshot import Picture, pieces
from daemon.domain.events import Event
from daemon.outlets.journal_reader import (
    BLOCK,
    BLOCK_MAGIC,
    MAGIC,
    SUFFIX,
    DamagedJournalError,
    EffectsHash,
    Frame,
    Header,
    Lost,
    Opened,
    Piece,
    Record,
    Wide,
    read_journal,
    read_segment,
    runs,
    segments,
)

__all__ = [
    "MAGIC",
    "SUFFIX",
    "DamagedJournalError",
    "EffectsHash",
    "Frame",
    "Header",
    "Journal",
    "Lost",
    "Opened",
    "Piece",
    "Record",
    "Wide",
    "read_journal",
    "read_segment",
    "runs",
    "segments",
]

SEGMENT_BYTES: Final = 64 * 2**20
BLOCK_RECORDS_MAX: Final = 2_048
PENDING_RECORDS_MAX: Final = 2_000_000
"""Records kept while the disk refuses writes; beyond it they are dropped and a ``Lost`` record says how many."""
PRESSING: Final = 1.5
"""A segment this many times as large as it should be is cut at the next best instant, quiet or not."""
OVERFULL: Final = 2.0
"""So many times: it ends without a snapshot of what follows; its successor can only be replayed together with it."""
SNAPSHOT_SHARE: Final = 2
"""A segment is at least this many times as large as the snapshot it opens with."""
LEVEL: Final = 1


class _Cut(msgspec.Struct, frozen=True):
    """Between two records: here the next segment begins, with this state."""

    picture: Picture
    opened: Opened


def _nobody(name: str) -> None:
    """Tell nobody."""


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
        Size at which the next segment is asked for; never more than a quarter of ``max_bytes``.
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
        self._full_bytes = self._segment_bytes
        self._lost = 0
        self._headless = False
        self._cutting = False
        self._holes = self._holes_known = 0
        self._encode = msgspec.msgpack.Encoder(decimal_format="string").encode
        self._compress = zstandard.ZstdCompressor(level=LEVEL).compress
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._flushing = False
        self.bytes_written = 0
        self.records_lost = 0
        self.failure = ""
        self.snapshot_failure = ""

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
    def due(self) -> bool:
        """Return whether the next segment should begin, at a quiet moment."""
        waits = self._cutting or bool(self.failure)  # a disk that refuses writes takes no snapshot either
        return not waits and (self._headless or self._size >= self._full_bytes)

    @property
    def pressing(self) -> bool:
        """Return whether the next segment should begin at once."""
        return self.due and self._size >= PRESSING * self._full_bytes

    def cut(self, picture: Picture, effects: int, digest: str) -> None:
        """Begin the next segment here, with the engine's state and its effects so far."""
        self._cutting = True
        self._holes_known = self._holes
        self.add_effects_hash(effects, digest)
        self._append(_Cut(picture, Opened(effects, digest)))

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
        """Drop what waits when it is too much; the record of it stands where they would have stood."""
        if len(self._pending) > PENDING_RECORDS_MAX:
            lost = self._drop(self._take())
            self._append(Lost(lost, self.failure or "too many records waited for the disk"))

    def _drop(self, records: list[object]) -> int:
        """Give records up; return how many are missing at their place, earlier ones included."""
        fresh = sum(type(one) is not _Cut and type(one) is not Lost for one in records)
        self.records_lost += fresh
        self._holes += 1
        self._headless = True  # what follows can be replayed from a new snapshot only
        self._cutting = False  # the one on its way may have been among them
        return fresh + sum(one.count for one in records if isinstance(one, Lost))

    def _write(self, batch: list[object]) -> None:
        """Write a batch block by block; on a full or broken disk keep counting what is lost and try again next time."""
        done = 0
        try:
            if self._lost:
                self._write_block([Lost(self._lost, self.failure)])
                self._lost = 0
            for end in [*(at for at, one in enumerate(batch) if type(one) is _Cut), len(batch)]:
                while done < end:
                    count = min(BLOCK_RECORDS_MAX, end - done)
                    self._write_block(batch[done : done + count])
                    done += count
                if end < len(batch):
                    self._write_opening(batch[end])
                    batch[end] = None  # let go of the state
                    done = end + 1
            self.failure = ""
        except OSError as error:
            self.failure = f"{self._path}: {error.strerror or error}"
            self._lost += self._drop(batch[done:])
            self._abandon_segment()

    def _write_block(self, records: list[object]) -> None:
        block = self._block(records)
        size = self._size + len(block)
        overfull = self._size >= self._full_bytes and size > OVERFULL * self._full_bytes and not self._cutting
        if self._file is None or overfull:
            self._headless = self._file is not None or self._headless
            self._next_segment()
        self._trim(self._size + len(block))
        self._boundary("journal.block.before")
        self._put(block)
        self._boundary("journal.block.after")
        self._whole = self._size

    def _write_opening(self, cut: object) -> None:
        """Begin a segment with the engine's state; one that cannot be written is told, and the records go on without it."""
        if not isinstance(cut, _Cut):
            return
        self._cutting = False
        self._next_segment()
        self._boundary("journal.snapshot.before")
        try:
            for data in pieces(cut.picture):
                self._put(self._block([Piece(data)]))
        except (AttributeError, OverflowError, TypeError, ValueError) as error:  # SnapshotError is a ValueError
            self.snapshot_failure = str(error) or type(error).__name__
            self._whole = self._size
            return
        self._put(self._block([cut.opened]))
        self._boundary("journal.snapshot.after")
        self._whole = self._opening_bytes = self._size
        self._full_bytes = max(self._segment_bytes, SNAPSHOT_SHARE * self._size)
        self._headless = self._holes != self._holes_known  # something was lost behind the state
        self.snapshot_failure = ""
        self._trim(self._size)

    def _block(self, records: list[object]) -> bytes:
        try:
            raw = self._encode(records)
        except OverflowError:
            raw = self._encode([self._small(record) for record in records])
        body = self._compress(raw)
        return BLOCK.pack(BLOCK_MAGIC, len(body), len(raw), zlib.crc32(body)) + body

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
        self._trim(OVERFULL * self._full_bytes)
        self._put(opening)

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
        if self._whole <= self._opening_bytes:  # a disk that stays full must not collect an empty file per second
            try:
                self._path.unlink(missing_ok=True)
            except OSError as error:  # read-only by now: the file keeps its name, the next one gets another
                self.failure += f"; it cannot be removed: {error.strerror or error}"
            else:
                self._index -= 1
                return
        self._kept.append((self._path, self._whole))

    def _trim(self, room: float) -> None:
        """Remove the oldest segments until the others and ``room`` bytes for the open one fit the bound."""
        total = sum(size for _, size in self._kept) + room
        while self._kept and total > self._max_bytes:
            path, size = self._kept.pop(0)
            path.unlink(missing_ok=True)
            total -= size
