"""The one place where events meet the engine: one at a time, in order, recorded before they are processed."""

import hashlib
from collections import deque
from collections.abc import Callable
from typing import Protocol

import msgspec

from daemon.core.engine import Engine
from daemon.domain.events import Effect, Event
from daemon.domain.market import Book, Ignored, Malformed, Tick

WAITING_MAX = 100_000
MARKET_CHANNEL = 0


def ignore(effect: Effect) -> None:
    """Drop an effect: the dispatcher of an engine that nobody listens to."""


class Recorder(Protocol):
    """The flight recorder as the runner needs it; appends only, never blocks."""

    def add_frame(self, recv_ns: int, channel: int, frame: bytes) -> None:
        """Append a raw frame."""
        ...

    def add_event(self, event: Event) -> None:
        """Append an event."""
        ...


class Runner:
    """Feed events to the engine and hand its effects on.

    ``decode`` turns a raw frame into an event, ``dispatch`` is called once per effect in order, ``observe`` once per
    event that is not a tick, ``on_tick`` after a tick (the paper venue lives on them). Events emitted while one is being
    processed wait their turn. ``digest`` is the rolling hash of every effect so far, a chain of one SHA-256 per event
    that had effects: two runs over the same tape end with the same digest, and ``resume`` goes on from one that is known.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        decode: Callable[[bytes, int], Tick | Book | Malformed | Ignored],
        recorder: Recorder,
        observe: Callable[[Event], None],
        dispatch: Callable[[Effect], None] = ignore,
        on_tick: Callable[[Tick], None] | None = None,
    ) -> None:
        """Wire the engine between its inputs and its outputs."""
        self.engine = engine
        self.effects = 0
        self._process_tick = engine.on_tick
        self._decode = decode
        self._recorder = recorder
        self._dispatch = dispatch
        self._observe = observe
        self._on_tick = on_tick
        self._waiting: deque[Event] = deque()
        self._busy = False
        self._chain = hashlib.sha256().digest()
        self._encode = msgspec.msgpack.Encoder(decimal_format="string").encode

    def plug(self, *, dispatch: Callable[[Effect], None], on_tick: Callable[[Tick], None] | None) -> None:
        """Say where effects go, once the ports exist; effects before that are lost, so plug before the first event."""
        self._dispatch = dispatch
        self._on_tick = on_tick

    @property
    def digest(self) -> str:
        """Return the hash of all effects so far, hexadecimal."""
        return self._chain.hex()

    def resume(self, effects: int, digest: str) -> None:
        """Go on after so many effects with this hash: the engine has been restored to the state it had then.

        Raises ValueError when ``digest`` is not hexadecimal.
        """
        self.effects = effects
        self._chain = bytes.fromhex(digest)

    @property
    def depth(self) -> int:
        """Return how many events wait."""
        return len(self._waiting)

    def on_frame(self, frame: bytes, recv_ns: int) -> None:
        """Process one raw market frame: the hot path, straight from the socket's callback.

        Trades are recorded as the frames they came in; everything else that means something as the event it is.
        """
        event = self._decode(frame, recv_ns)
        if type(event) is Tick:
            self._recorder.add_frame(recv_ns, MARKET_CHANNEL, frame)
            effects = self._process_tick(event)
            if effects:
                self._hand_on(effects)
            if self._on_tick is not None:
                self._on_tick(event)
        elif not isinstance(event, Ignored):
            self.emit(event)

    def emit(self, event: Event) -> None:
        """Process one event now, or after the one being processed."""
        self._waiting.append(event)
        if self._busy:
            if len(self._waiting) > WAITING_MAX:
                raise OverflowError(f"{WAITING_MAX} events wait for the engine: it lags too far behind")
            return
        self._drain()

    def _drain(self) -> None:
        self._busy = True
        try:
            while self._waiting:
                event = self._waiting.popleft()
                self._recorder.add_event(event)
                self._observe(event)
                effects = self.engine.process(event)
                if effects:
                    self._account(effects)
                    for effect in effects:
                        self._dispatch(effect)
        finally:
            self._busy = False

    def _hand_on(self, effects: tuple[Effect, ...]) -> None:
        self._busy = True
        try:
            self._account(effects)
            for effect in effects:
                self._dispatch(effect)
        finally:
            self._busy = False
        if self._waiting:
            self._drain()

    def _account(self, effects: tuple[Effect, ...]) -> None:
        self.effects += len(effects)
        link = hashlib.sha256(self._chain)
        for effect in effects:
            link.update(self._encode(effect))
        self._chain = link.digest()
