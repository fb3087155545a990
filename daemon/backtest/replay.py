"""Re-run a recorded session through the same engine and compare every effect.

``recorded`` takes the worker's answers from the journal and must end with the very hash of effects that was recorded.
``recomputed`` asks a worker again, feeds a second engine with its answers and compares forecasts to 1e-6 and intents
exactly. A run is replayed from the first segment that is there: it begins with the start of the run, or opens with the
engine's state. What a replay has come to at the beginning of a later segment is compared with the state that one opens
with, to the bit. Segments are judged one by one: behind a difference, or damage, the next one begins from its own state.
"""

from pathlib import Path
from typing import Final, Literal

import msgspec

from daemon.backtest.tape import Counts, Decoder, EngineFactory, Tape, Watch, Worker, WorkerFactory
from daemon.core.config import EngineConfig
from daemon.core.engine import Engine
from daemon.core.snapshot_values import SnapshotError
from daemon.domain.events import Event, Listed, Timer
from daemon.domain.market import Book, Ignored, Malformed, Tick
from daemon.outlets.journal import (
    SUFFIX,
    DamagedJournalError,
    Header,
    Opened,
    Piece,
    read_segment,
    runs,
)
from daemon.wire.binance import BinanceWire

__all__ = ["Decisions", "Decoder", "ReplayResult", "SegmentResult", "WireDecoder", "Worker", "WorkerFactory", "replay"]

Decisions = Literal["recorded", "recomputed"]
Verdict = Literal["equal", "differs", "damaged", "skipped"]
NO_SNAPSHOT: Final = "it opens without a snapshot, and what came before it is not there"
TORN_SNAPSHOT: Final = "the daemon ended while it wrote the snapshot that it opens with; nothing follows"


class SegmentResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one segment; ``detail`` is one line unless it is equal."""

    name: str
    number: int
    verdict: Verdict
    frames: int = 0
    events: int = 0
    effects: int = 0
    decided: int = 0
    checked: int = 0
    detail: str = ""

    @property
    def summary(self) -> str:
        """Return the outcome in one line."""
        seen = f"{self.frames} frames, {self.events} events, {self.effects} effects, {self.checked} hashes matched"
        return f"{self.name}: {self.verdict}: {self.detail or seen}"


class ReplayResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay found. ``checked`` counts recorded hashes that matched; ``difference`` is "" or the first one, one line."""

    ok: bool
    decisions: Decisions
    frames: int
    events: int
    effects: int
    decided: int
    checked: int
    digest: str
    code_version: str
    difference: str
    segments: tuple[SegmentResult, ...] = ()

    @property
    def summary(self) -> str:
        """Return the outcome in one line."""
        seen = f"{self.frames} frames, {self.events} events, {self.effects} effects, {self.decided} decisions"
        if self.ok:
            return f"replay ({self.decisions}) equal: {seen}, {self.checked} recorded hashes matched"
        return f"replay ({self.decisions}) differs after {seen}: {self.difference}"


class WireDecoder:
    """Binance's decoder as the daemon runs it: universe from ``Listed``, clock offset from ``Timer``, books held."""

    def __init__(self) -> None:
        self._wire = BinanceWire((), held={}, skew_ns_max=0)

    def decode(self, frame: bytes, recv_ns: int) -> Tick | Book | Malformed | Ignored:
        """Decode one frame; book frames are held back, as they were when their conflated event was recorded."""
        return self._wire.decode(frame, recv_ns)

    def observe(self, event: Event) -> None:
        """Follow the universe and the venue's clock."""
        if isinstance(event, Timer):
            self._wire.offset_ns = event.exchange_ns - event.ts_ns
        elif isinstance(event, Listed):
            offset_ns = self._wire.offset_ns
            self._wire = BinanceWire(event.instruments, held={}, skew_ns_max=0)
            self._wire.offset_ns = offset_ns


def engine_of(header: Header) -> Engine:
    """Return the engine of a recorded session.

    Raises
    ------
    ValueError
        If the header holds no engine configuration of this version.
    """
    try:
        return Engine(msgspec.json.decode(header.engine_json, type=EngineConfig))
    except msgspec.DecodeError as error:
        raise ValueError(
            f"the journal's engine configuration (code {header.code_version}) does not fit: {error}"
        ) from None


def replay(
    path: Path,
    engine_factory: EngineFactory = engine_of,
    *,
    decisions: Decisions = "recorded",
    decoder: Decoder | None = None,
    worker_factory: WorkerFactory | None = None,
    from_segment: str = "",
    watch: Watch | None = None,
) -> ReplayResult:
    """Feed a journal's records to a fresh engine and compare the effects with those recorded.

    Parameters
    ----------
    path
        A journal folder or one segment.
    engine_factory
        Makes the engine from a segment's header.
    worker_factory
        Makes a worker whenever the session got one; needed to recompute.
    decisions
        Where the worker's answers come from.
    decoder
        Decodes frames; `WireDecoder` unless given.
    from_segment
        Where to begin in a folder: a number in its newest run, or a segment's file name, which names its run too. ""
        is the first of the newest run that can be opened.
    watch
        Told of every event and its effects; a new engine means that what follows does not continue what came before.

    Raises
    ------
    ValueError
        If there is no such journal, nothing in it can be replayed, or no worker is given to recompute.
    """
    if decisions == "recomputed" and worker_factory is None:
        raise ValueError("decisions = recomputed: needs a worker")
    parts = chosen(path, from_segment)
    workers = worker_factory if decisions == "recomputed" else None
    session = _Session(engine_factory, decoder or WireDecoder(), workers, watch)
    done = [session.play(part) for part in parts]
    if not session.readable or all(one.verdict == "skipped" for one in done):
        raise ValueError(f"{parts[0]}: nothing here can be replayed: {done[0].detail}")
    checked = sum(one.checked for one in done)
    difference = next((f"{one.name}: {one.detail}" for one in done if one.verdict in {"differs", "damaged"}), "")
    if not difference and not checked:
        difference = "the journal holds no hash of effects to compare with; it ended before the first flush"
    return ReplayResult(
        ok=not difference,
        decisions=decisions,
        frames=sum(one.frames for one in done),
        events=sum(one.events for one in done),
        effects=session.effects,
        decided=sum(one.decided for one in done),
        checked=checked,
        digest=session.digest,
        code_version=session.code_version,
        difference=difference,
        segments=tuple(done),
    )


def chosen(path: Path, from_segment: str = "") -> list[Path]:
    """Return the segments to replay, oldest first: one file, or those of one run from a given one on.

    Raises
    ------
    ValueError
        If there is none.
    """
    if not path.is_dir():
        if from_segment:
            raise ValueError(f"--from-segment {from_segment}: only with a folder, {path} is one segment already")
        return [path]
    found = runs(path)
    if not found:
        raise ValueError(f"{path}: no journal segments (*{SUFFIX}) in this folder")
    run = found[max(found)]
    if not from_segment:
        return run
    name = Path(from_segment).name.removesuffix(SUFFIX)
    for parts in (run, *found.values()):
        for at, part in enumerate(parts):
            number = part.stem.rpartition("-")[2]
            if part.stem == name or (parts is run and name.isdigit() and number.isdigit() and int(name) == int(number)):
                return parts[at:]
    kept = f"{run[0].name} to {run[-1].name}"
    raise ValueError(f"--from-segment {from_segment}: no such segment in {path}; of its newest run {kept} are kept")


class _Session:
    """The segments of one run, one after the other; a tape goes on over several while nothing is missing between them."""

    def __init__(
        self, make_engine: EngineFactory, decoder: Decoder, workers: WorkerFactory | None, watch: Watch | None
    ) -> None:
        self.code_version = ""
        self.effects = 0
        self.digest = ""
        self._make_engine = make_engine
        self._decoder = decoder
        self._workers = workers
        self._watch = watch
        self._tape: Tape | None = None
        self._counts = Counts()
        self._number = self._named = -1
        self.readable = False

    def play(self, path: Path) -> SegmentResult:
        """Replay one segment; what is wrong with it is its verdict.

        Raises
        ------
        ValueError
            If no engine can be built from its header.
        """
        counts = self._counts = Counts()
        number = path.stem.rpartition("-")[2]
        self._named = int(number) if number.isdecimal() else self._number + 1
        verdict: Verdict
        try:
            verdict, detail = self._play(path)
        except DamagedJournalError as error:
            verdict, detail = "damaged", str(error).removeprefix(f"{path}: ")
        except SnapshotError as error:
            verdict, detail = "skipped", f"its snapshot cannot be used: {error}"
        if self._tape is not None:
            self.effects, self.digest = self._tape.runner.effects, self._tape.runner.digest
        if verdict != "equal":
            self._tape = None
            self._number = self._named
        seen = msgspec.structs.asdict(counts)
        return SegmentResult(name=path.name, number=self._number, verdict=verdict, detail=detail, **seen)

    def _play(self, path: Path) -> tuple[Verdict, str]:
        records = read_segment(path)
        header = next(records, None)
        if not isinstance(header, Header):
            return "skipped", "empty: nothing was recorded before the daemon ended"
        self.readable = True
        problem = self._begin(header)
        parts: list[bytes] = []
        for record in records:
            if isinstance(record, Piece):
                parts.append(record.data)
            elif isinstance(record, Opened):
                problem = self._open(header, parts, record) or problem
                parts = []
            elif isinstance(record, Header):
                return "differs", "it begins twice"
            elif self._tape is None:
                return ("differs", problem) if problem else ("skipped", NO_SNAPSHOT)
            else:
                parts = []
                self._tape.feed(record)
                if self._tape.difference:
                    return "differs", problem or self._tape.difference
        if problem:
            return "differs", problem
        if parts or self._tape is None:
            return "skipped", TORN_SNAPSHOT if parts else NO_SNAPSHOT
        return "equal", ""

    def _begin(self, header: Header) -> str:
        """Take a segment's header; return what is missing before it."""
        before, self._number, self._named = self._number, header.segment, header.segment
        self.code_version = header.code_version
        if header.segment == 0:
            self._tape = self._new_tape(header)
        elif before >= 0 and header.segment != before + 1:
            self._tape = None
            return f"segment {before + 1} of the run is missing"
        if self._tape is not None:
            self._tape.counts = self._counts
        return ""

    def _new_tape(self, header: Header) -> Tape:
        tape = Tape(self._make_engine, header, self._decoder, self._workers, self._watch)
        tape.counts = self._counts
        return tape

    def _open(self, header: Header, parts: list[bytes], opened: Opened) -> str:
        """Take the state a segment opens with; return how it differs from what the segments before it came to."""
        before = self._tape
        if before is not None:
            before.meet(parts, opened)
            if not before.difference:
                return ""
        tape = self._new_tape(header)
        try:
            tape.restore(parts, opened)
        except SnapshotError:
            if before is None or not before.same_effects(opened):
                raise
            before.difference = ""  # other code, which makes the same effects: it goes on with its own state
            return ""
        self._tape = tape
        return before.difference if before is not None else ""
