"""Re-run a recorded session through the same engine and compare every effect.

``recorded`` takes the worker's answers from the journal and must end with the very hash of effects that was recorded.
``recomputed`` asks a worker again, feeds a second engine with its answers and compares forecasts to 1e-6 and intents
exactly. The first difference ends the comparison and is told in one line.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal, Protocol

import msgspec

from daemon.core.config import EngineConfig
from daemon.core.engine import Engine
from daemon.core.run import Runner
from daemon.domain.events import Decide, Decided, Effect, Event, Listed, Seed, Submit, Timer, WorkerUp
from daemon.domain.market import Book, Ignored, Malformed, Tick
from daemon.domain.orders import Intent
from daemon.domain.signal import Targets
from daemon.outlets.journal import EffectsHash, Frame, Header, Lost, Record, read_journal, runs
from daemon.wire.binance import BinanceWire

FORECAST_TOLERANCE: Final = 1e-6

Decisions = Literal["recorded", "recomputed"]


class Decoder(Protocol):
    """Turns raw frames into events as the live decoder did; ``observe`` tells it what the live one was told."""

    def decode(self, frame: bytes, recv_ns: int) -> Tick | Book | Malformed | Ignored:
        """Decode one frame."""
        ...

    def observe(self, event: Event) -> None:
        """See an event before the engine does."""
        ...


class Worker(Protocol):
    """Stages 4 to 6 as an inline call."""

    def seed(self, seed: Seed) -> None:
        """Fill the buffers."""
        ...

    def decide(self, decide: Decide) -> Decided:
        """Answer a request."""
        ...


WorkerFactory = Callable[[Header, str], Worker]
"""Makes the worker of a session that serves the model of this name ("" when it had none); ValueError when it cannot."""


class ReplayResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay found. ``checked`` counts recorded hashes that matched; ``difference`` is "" or one line."""

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
    engine_factory: Callable[[Header], Engine] = engine_of,
    *,
    decisions: Decisions = "recorded",
    decoder: Decoder | None = None,
    worker_factory: WorkerFactory | None = None,
) -> ReplayResult:
    """Feed a journal's records to a fresh engine and compare the effects with those recorded.

    Parameters
    ----------
    path
        A journal folder (its newest run is taken) or one segment.
    engine_factory
        Makes the engine from the journal's header.
    worker_factory
        Makes a worker whenever the session got one; needed to recompute.
    decisions
        Where the worker's answers come from.
    decoder
        Decodes frames; `WireDecoder` unless given.

    Raises
    ------
    ValueError
        If the journal is damaged, does not begin with the start of a run, or no worker is given to recompute.
    """
    if decisions == "recomputed" and worker_factory is None:
        raise ValueError("decisions = recomputed: needs a worker")
    records = read_journal(path)
    header = _opening(path, records)
    workers = worker_factory if decisions == "recomputed" else None
    tape = _Tape(engine_factory, header, decoder or WireDecoder(), workers)
    for record in records:
        tape.feed(record)
        if tape.difference:
            break
    if not tape.difference and not tape.checked:
        tape.difference = "the journal holds no hash of effects to compare with; it ended before the first flush"
    return ReplayResult(
        ok=not tape.difference,
        decisions=decisions,
        frames=tape.frames,
        events=tape.events,
        effects=tape.runner.effects,
        decided=tape.decided,
        checked=tape.checked,
        digest=tape.runner.digest,
        code_version=header.code_version,
        difference=tape.difference,
    )


def _opening(path: Path, records: Iterator[Record]) -> Header:
    first = next(records, None)
    if not isinstance(first, Header):
        raise ValueError(f"{path}: empty journal; nothing was recorded before the daemon ended")
    if first.segment != 0:
        kept = len(runs(path).get(first.start_ns, [])) if path.is_dir() else 1
        raise ValueError(
            f"{path}: begins with segment {first.segment} of its run ({kept} kept): the first are gone "
            "(journal.max_bytes), and a replay needs the start of the run"
        )
    return first


class _Null:
    """A recorder that records nothing."""

    def add_frame(self, recv_ns: int, channel: int, frame: bytes) -> None:
        """Forget a frame."""

    def add_event(self, event: Event) -> None:
        """Forget an event."""


class _Tape:
    """One replay under way: the runner, its shadow with recomputed decisions, and the first difference."""

    def __init__(
        self,
        engine_factory: Callable[[Header], Engine],
        header: Header,
        decoder: Decoder,
        workers: WorkerFactory | None,
    ) -> None:
        self.frames = self.events = self.decided = self.checked = 0
        self.difference = ""
        self._header = header
        self._segment = header.segment
        self._decoder = decoder
        self._workers = workers
        self._worker: Worker | None = None
        self._answers: dict[int, Decided] = {}
        self._effects: list[Effect] = []
        self._shadow = engine_factory(header) if workers is not None else None
        self.runner = Runner(
            engine_factory(header),
            decode=self._decode,
            recorder=_Null(),
            dispatch=self._effects.append,
            observe=decoder.observe,
        )
        self._decoded: Event | None = None

    def _decode(self, frame: bytes, recv_ns: int) -> Tick | Book | Malformed | Ignored:
        event = self._decoder.decode(frame, recv_ns)
        self._decoded = None if isinstance(event, Ignored) else event
        return event

    def feed(self, record: Record) -> None:
        """Take one record; sets ``difference`` when something does not match."""
        if isinstance(record, Frame):
            self.frames += 1
            self.runner.on_frame(record.data, record.recv_ns)
            self._follow(self._decoded)
        elif isinstance(record, EffectsHash):
            self._check(record)
        elif isinstance(record, Header):
            if record.segment != self._segment + 1:
                self.difference = f"segment {self._segment + 1} of the run is missing"
            self._segment = record.segment
        elif isinstance(record, Lost):
            self.difference = f"{record.count} records were lost while recording ({record.reason})"
        else:
            self.events += 1
            self.decided += isinstance(record, Decided)
            self.runner.emit(record)
            self._follow(record)

    def _check(self, recorded: EffectsHash) -> None:
        count, digest = self.runner.effects, self.runner.digest
        if recorded.count != count:
            self.difference = f"{recorded.count} effects were recorded up to here, the replay made {count}"
        elif recorded.digest != digest:
            self.difference = f"hash of the first {count} effects is {digest[:16]}…, recorded {recorded.digest[:16]}…"
        else:
            self.checked += 1

    def _follow(self, event: Event | None) -> None:
        """Let worker and shadow see what just happened, and compare."""
        effects, self._effects[:] = tuple(self._effects), ()
        shadow = self._shadow
        if shadow is None or event is None:
            return
        if isinstance(event, Decided):
            event = self._recomputed(event)
        elif isinstance(event, WorkerUp):
            self._hire(event)
        mine = _intents(shadow.process(event))
        theirs = _intents(effects)
        if mine != theirs and not self.difference:
            self.difference = _intent_difference(theirs, mine)
        if self._worker is None:
            return
        for effect in effects:
            if isinstance(effect, Seed):
                self._worker.seed(effect)
            elif isinstance(effect, Decide):
                self._answers = {effect.seq: self._worker.decide(effect)}

    def _recomputed(self, recorded: Decided) -> Decided:
        """Return the worker's own answer in place of the recorded one, at the recorded time."""
        answer = self._answers.pop(recorded.seq, None)
        if answer is None:
            return recorded  # an answer to a request that a newer one had replaced: the engine refuses it either way
        self.difference = self.difference or _forecast_difference(recorded, answer)
        return msgspec.structs.replace(
            answer,
            ts_ns=recorded.ts_ns,
            features_ns=recorded.features_ns,
            forecast_ns=recorded.forecast_ns,
            solve_ns=recorded.solve_ns,
        )

    def _hire(self, event: WorkerUp) -> None:
        """Get a worker that serves the model the session's own served from here on."""
        if self._workers is None:
            return
        try:
            self._worker = self._workers(self._header, event.model)
        except ValueError as error:
            self.difference = f'no worker with model "{event.model}": {error}'


def _intents(effects: tuple[Effect, ...]) -> list[Intent]:
    return [approved.intent for effect in effects if isinstance(effect, Submit) for approved in effect.approved]


def _intent_difference(recorded: list[Intent], computed: list[Intent]) -> str:
    for index in range(max(len(recorded), len(computed))):
        was = recorded[index] if index < len(recorded) else None
        now = computed[index] if index < len(computed) else None
        if was != now:
            return f"intent {index}: recorded {_brief(was)}, recomputed {_brief(now)}"
    return ""


def _brief(intent: Intent | None) -> str:
    return f"{intent.side} {intent.qty} {intent.symbol} at {intent.limit} ({intent.decision})" if intent else "none"


def _forecast_difference(recorded: Decided, computed: Decided) -> str:
    was, now = recorded.result, computed.result
    if not isinstance(was, Targets) or not isinstance(now, Targets):
        return (
            ""
            if type(was) is type(now)
            else f"decision {recorded.seq}: recorded {_kind(recorded)}, now {_kind(computed)}"
        )
    if was.forecast is None or now.forecast is None:
        return "" if was.forecast is now.forecast else f"decision {recorded.seq}: only one side has a forecast"
    for field in ("mean", "raw_mean", "scale", "skill", "interval_90"):
        pairs = zip(getattr(was.forecast, field), getattr(now.forecast, field), strict=True)
        for symbol, (old, new) in zip(was.forecast.symbols, pairs, strict=True):
            if not math.isclose(old, new, rel_tol=FORECAST_TOLERANCE, abs_tol=FORECAST_TOLERANCE):
                return f"decision {recorded.seq}: forecast {field} of {symbol} is {new!r}, recorded {old!r}"
    return ""


def _kind(decided: Decided) -> str:
    result = decided.result
    return "targets" if isinstance(result, Targets) else f"no decision ({result.reason}: {result.detail})"
