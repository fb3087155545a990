"""What the engine asks a strategy in a backtest: the questions of sampled decisions, with the answers given in sequence."""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import numpy as np

from daemon.backtest.history import Panel
from daemon.backtest.leak_ask import Answer, Question, Talk
from daemon.backtest.record import Served
from daemon.backtest.run import prepare
from daemon.core.buffers import ROW_FIELDS
from daemon.domain.errors import ConfigError
from daemon.domain.events import Decide, Decided, Seed
from daemon.domain.market import Bar
from daemon.settings import Settings

SEEDS_BYTES_MAX: Final = 2 * 2**30
"""Buffers of sampled decisions that are kept in memory."""


class Sample(msgspec.Struct, frozen=True):
    """A decision of the run: what was asked, and the answer in its place in the sequence."""

    question: Question
    answer: Answer


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
        self._seed: Seed | None = None
        self._bars: list[Bar] = []
        self._kept_bytes = 0
        self._kept_seed: Seed | None = None
        self.samples: list[Sample] = []
        self.decisions = 0
        self.ready: Served = talk.up

    def seed(self, seed: Seed) -> None:
        """Replace the buffers."""
        self._seed, self._bars = seed, []
        self._talk.seed(seed)

    def decide(self, decide: Decide) -> Decided:
        """Pass a question on. Raises ConfigError when the process ended."""
        self._bars.extend(decide.bars)
        decided = self._talk.decide(decide)
        self.decisions += 1
        if self._seed is not None and (self._all or self._due(decide.close_ns)):
            self._room(self._seed)
            whole = msgspec.structs.replace(decide, bars=tuple(self._bars))
            self.samples.append(Sample(Question(self._seed, whole), decided.result))
        return decided

    def _due(self, close_ns: int) -> bool:
        due = False
        while self._wanted and self._wanted[-1] <= close_ns:
            self._wanted.pop()
            due = True
        return due

    def _room(self, seed: Seed) -> None:
        """Count the memory of a seed that is kept for the first time. Raises ConfigError when it is too much."""
        if seed is self._kept_seed:
            return
        self._kept_seed = seed
        self._kept_bytes += sum(map(len, seed.rows)) + sum(map(len, seed.daily))
        if self._kept_bytes > SEEDS_BYTES_MAX:
            raise ConfigError(
                f"the buffers of {len(self.samples)} decisions fill {SEEDS_BYTES_MAX >> 30} GiB; "
                "take fewer --samples or a shorter period"
            )


def record(
    settings: Settings,
    panel: Panel,
    *,
    first: int,
    talk: Talk,
    wanted_ns: Sequence[int],
    progress: Callable[[int, int], None],
) -> Recorder:
    """Run the daemon's engine over a panel with the strategy in a process. Raises ConfigError as ``prepare`` does."""
    recorder = Recorder(talk, wanted_ns)
    prepare(settings, panel, first=first, worker=recorder).run(progress)
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


def whole(question: Question) -> Question:
    """Return the same question with every bar before the last close in the seed: it can be shortened then."""
    seed, decide = question.seed, question.decide
    index = {symbol: at for at, symbol in enumerate(seed.symbols)}
    tables = [np.frombuffer(one, dtype=np.float64).reshape(-1, ROW_FIELDS) for one in seed.rows]
    later: list[list[tuple[float, ...]]] = [[] for _ in tables]
    for bar in decide.bars:
        at = index.get(bar.symbol)
        if at is not None and bar.close_ns < decide.close_ns:
            later[at].append((float(bar.close_ns), bar.open, bar.high, bar.low, bar.close, bar.volume))
    rows: list[bytes] = []
    for table, more in zip(tables, later, strict=True):
        known = table[-1, 0] if len(table) else 0.0
        fresh = np.array([row for row in more if row[0] > known], dtype=np.float64).reshape(-1, ROW_FIELDS)
        rows.append(np.concatenate((table, fresh)).tobytes())
    last = tuple(bar for bar in decide.bars if bar.close_ns == decide.close_ns)
    return Question(msgspec.structs.replace(seed, rows=tuple(rows)), msgspec.structs.replace(decide, bars=last))


def shortened(question: Question, bars: int) -> Question:
    """Return a question made by ``whole`` with the newest so many bars only, the one just closed included."""
    begin = question.close_ns - bars * question.decide.bar_ns
    rows: list[bytes] = []
    for one in question.seed.rows:
        table = np.frombuffer(one, dtype=np.float64).reshape(-1, ROW_FIELDS)
        rows.append(table[table[:, 0] > begin].tobytes())
    return Question(msgspec.structs.replace(question.seed, rows=tuple(rows)), question.decide)


def length(question: Question) -> int:
    """Return how many bars a question made by ``whole`` shows, the one just closed included."""
    firsts = [
        int(table[0, 0])
        for table in (np.frombuffer(one, dtype=np.float64).reshape(-1, ROW_FIELDS) for one in question.seed.rows)
        if len(table)
    ]
    return (question.close_ns - min(firsts)) // question.decide.bar_ns + 1 if firsts else 1
