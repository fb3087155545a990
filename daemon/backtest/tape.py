"""One stretch of recorded events on its way through the engine, beside what was recorded of its effects.

With a worker, a second engine (the shadow) is fed with answers computed anew; its intents must equal those of the first.
"""

import math
from collections.abc import Callable
from typing import Final, Protocol

import msgspec
import numpy as np

from daemon.core.buffers import ROW_FIELDS
from daemon.core.engine import Engine
from daemon.core.run import Runner
from daemon.core.snapshot import freeze, pieces
from daemon.core.snapshot_restore import difference, restore
from daemon.core.snapshot_values import SnapshotError
from daemon.domain.events import Decide, Decided, Effect, Event, Listed, Seed, Submit, Timer, WorkerUp
from daemon.domain.market import Book, Ignored, Malformed, Tick
from daemon.domain.orders import Intent
from daemon.domain.signal import Targets
from daemon.outlets.journal import EffectsHash, Frame, Header, Lost, Opened

FORECAST_TOLERANCE: Final = 1e-6


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


EngineFactory = Callable[[Header], Engine]
"""Makes an engine that knows nothing from a segment's header."""


Watch = Callable[[Engine, Event, tuple[Effect, ...]], None]
"""Told of every recorded event once the engine has taken it, with the effects it had."""


class _Null:
    """A recorder that records nothing."""

    def add_frame(self, recv_ns: int, channel: int, frame: bytes) -> None:
        """Forget a frame."""

    def add_event(self, event: Event) -> None:
        """Forget an event."""


class Counts(msgspec.Struct):
    """What was replayed of one segment; ``checked`` counts recorded hashes that matched."""

    frames: int = 0
    events: int = 0
    effects: int = 0
    decided: int = 0
    checked: int = 0


class Tape:
    """One replay under way: the runner, its shadow with recomputed decisions, and the first difference.

    It begins with an engine that knows nothing, as a run does; ``restore`` makes it begin with a recorded state instead.
    """

    def __init__(
        self,
        make_engine: EngineFactory,
        header: Header,
        decoder: Decoder,
        workers: WorkerFactory | None,
        watch: Watch | None = None,
    ) -> None:
        self.counts = Counts()
        self.difference = ""
        self._header = header
        self._decoder = decoder
        self._workers = workers
        self._watch = watch
        self._worker: Worker | None = None
        self._answers: dict[int, Decided] = {}
        self._effects: list[Effect] = []
        self._decoded: Event | None = None
        self._shadow = make_engine(header) if workers is not None else None
        self.runner = Runner(
            make_engine(header),
            decode=self._decode,
            recorder=_Null(),
            dispatch=self._effects.append,
            observe=decoder.observe,
        )

    def _decode(self, frame: bytes, recv_ns: int) -> Tick | Book | Malformed | Ignored:
        event = self._decoder.decode(frame, recv_ns)
        self._decoded = None if isinstance(event, Ignored) else event
        return event

    # ------------------------------------------------------------------ state

    def restore(self, parts: list[bytes], opened: Opened) -> None:
        """Begin with a recorded state, decoder and worker with what they knew then.

        Raises
        ------
        SnapshotError
            If it was recorded by other code.
        """
        engine = self.runner.engine
        restore(engine, parts)
        if self._shadow is not None:
            restore(self._shadow, parts)
        try:
            self.runner.resume(opened.effects, opened.digest)
        except ValueError:
            raise SnapshotError("the hash of the effects before it is no hash") from None
        state = engine.state
        known = tuple(market.instrument for market in state.markets.values() if market.instrument is not None)
        self._decoder.observe(Listed(known, state.now_ns))
        self._decoder.observe(Timer(state.now_ns, state.now_ns - state.offset_ns))
        if engine.decisions.up:
            self._hire(WorkerUp(state.model, state.model_trained_ns, state.now_ns))
            self._catch_up(engine)

    def _catch_up(self, engine: Engine) -> None:
        """Give a new worker the bars that the session's own had, and ask it what that one was being asked."""
        if self._worker is None or not engine.markets.columns.buffers.count:
            return
        asked = engine.decisions.asked
        self._worker.seed(seed_of(engine, asked.close_ns if asked is not None else 0))
        if asked is not None:
            self._answers = {asked.seq: self._worker.decide(asked)}

    def meet(self, parts: list[bytes], opened: Opened) -> None:
        """Compare what this replay has come to with the state that was recorded at the same point."""
        self._check(EffectsHash(opened.effects, opened.digest))
        if self.difference:
            self.difference = f"records before it are missing: {self.difference}"
            return
        ours = list(pieces(freeze(self.runner.engine)))
        if ours != parts and (where := difference(ours, parts)):
            self.difference = (
                f"the engine's state is another than was recorded, though its effects are the same: {where}"
            )

    def same_effects(self, opened: Opened) -> bool:
        """Return whether as many effects with the same hash were recorded."""
        return (opened.effects, opened.digest) == (self.runner.effects, self.runner.digest)

    # ------------------------------------------------------------------ records

    def feed(self, record: Frame | EffectsHash | Lost | Event) -> None:
        """Take one record; sets ``difference`` when something does not match."""
        if isinstance(record, Frame):
            self.counts.frames += 1
            self.runner.on_frame(record.data, record.recv_ns)
            self._follow(self._decoded)
        elif isinstance(record, EffectsHash):
            self._check(record)
        elif isinstance(record, Lost):
            self.difference = f"{record.count} records were lost while recording ({record.reason})"
        else:
            self.counts.events += 1
            self.counts.decided += isinstance(record, Decided)
            self.runner.emit(record)
            self._follow(record)

    def _check(self, recorded: EffectsHash) -> None:
        count, digest = self.runner.effects, self.runner.digest
        if recorded.count != count:
            self.difference = f"{recorded.count} effects were recorded up to here, the replay made {count}"
        elif recorded.digest != digest:
            self.difference = f"hash of the first {count} effects is {digest[:16]}…, recorded {recorded.digest[:16]}…"
        else:
            self.counts.checked += 1

    def _follow(self, event: Event | None) -> None:
        """Let worker and shadow see what just happened, and compare."""
        effects, self._effects[:] = tuple(self._effects), ()
        self.counts.effects += len(effects)
        if self._watch is not None and event is not None:
            self._watch(self.runner.engine, event, effects)
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


def seed_of(engine: Engine, until_ns: int) -> Seed:
    """Return what fills a worker's buffers with the engine's bars, up to the close ``until_ns`` (0: all of them)."""
    state, columns = engine.state, engine.markets.columns
    rows = columns.seed_rows()
    if until_ns:
        tables = [np.frombuffer(one, dtype=np.float64).reshape(-1, ROW_FIELDS) for one in rows]
        rows = tuple(table[table[:, 0] <= until_ns].tobytes() for table in tables)
    return Seed(
        symbols=state.symbols,
        rows=rows,
        daily=tuple(state.daily.get(symbol, b"") for symbol in state.symbols),
        bar_ns=engine.config.bar_ns,
    )
