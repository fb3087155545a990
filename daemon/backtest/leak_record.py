"""What the engine asks a strategy in a backtest: the questions of sampled decisions, with the answers given in sequence."""

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec
import numpy as np

from daemon.backtest.history import Panel
from daemon.backtest.leak_ask import Answer, Question, Talk, Tape
from daemon.backtest.record import Served
from daemon.backtest.run import prepare
from daemon.domain.events import Decide, Decided, Seed
from daemon.domain.market import Instrument
from daemon.settings import Settings

_ENCODE: Final = msgspec.msgpack.encode


class Sample(msgspec.Struct, frozen=True):
    """A decision of the run: what was asked, and the answer in its place in the sequence."""

    question: Question
    answer: Answer


class Turn(NamedTuple):
    """A decision of the run as digests: of all that was asked up to it, and of its answer."""

    close_ns: int
    asked: bytes
    answered: bytes


class Recorder:
    """A worker for a session: asks a process, and keeps the question and answer of sampled decisions.

    Parameters
    ----------
    talk
        The process.
    wanted_ns
        Closes, rising; kept is the first decision at or after each. Empty: every decision.
    """

    def __init__(self, talk: Talk, wanted_ns: Sequence[int] = ()) -> None:
        self._talk = talk
        self._wanted = list(reversed(wanted_ns))
        self._all = not wanted_ns
        self._tape: Tape | None = None
        self._asked = sha256()
        self.turns: list[Turn] = []
        self.samples: list[Sample] = []
        self.ready: Served = talk.up

    def seed(self, seed: Seed) -> None:
        """Replace the buffers."""
        self._tape = Tape(seed)
        self._asked.update(_ENCODE(seed))
        self._talk.seed(seed)

    def decide(self, decide: Decide) -> Decided:
        """Pass a question on. Raises ConfigError when the process ended."""
        decided = self._talk.decide(decide)
        self._asked.update(_ENCODE(decide))
        self.turns.append(Turn(decide.close_ns, self._asked.digest(), sha256(_ENCODE(decided.result)).digest()))
        if self._tape is not None:
            self._tape.hear(decide)
            if self._all or self._due(decide.close_ns):
                self.samples.append(Sample(self._tape.question(decide), decided.result))
        return decided

    def _due(self, close_ns: int) -> bool:
        due = False
        while self._wanted and self._wanted[-1] <= close_ns:
            self._wanted.pop()
            due = True
        return due


def record(
    settings: Settings,
    panel: Panel,
    *,
    first: int,
    talk: Talk,
    wanted_ns: Sequence[int],
    instruments: Mapping[str, Instrument],
    progress: Callable[[int, int], None],
) -> Recorder:
    """Run the daemon's engine over a panel with the strategy in a process. Raises ConfigError as ``prepare`` does."""
    recorder = Recorder(talk, wanted_ns)
    prepare(settings, panel, first=first, worker=recorder, instruments=instruments).run(progress)
    return recorder


def sampled(panel: Panel, first: int, count: int, seed: int) -> tuple[int, ...]:
    """Return closes (ns), one drawn from each of ``count`` equal stretches of the period; all when there are no more."""
    bars = len(panel.open_ns) - first
    if count >= bars:
        places = np.arange(bars)
    else:
        edges = np.linspace(0, bars, count + 1)
        draws = np.random.default_rng(seed).random(count)
        places = np.unique((edges[:-1] + draws * np.diff(edges)).astype(np.int64))
    return tuple(int(panel.open_ns[first + int(one)]) + panel.bar_ns for one in places)
