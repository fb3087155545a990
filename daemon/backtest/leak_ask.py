"""Ask a strategy in worlds of our making: each question, or each series of them, in a fresh process."""

import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from array import array
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple, Self, TypeVar

import msgspec
import numpy as np

from daemon.backtest.leak_child import (
    FROM_CHILD,
    READ_BYTES,
    Bad,
    FromChild,
    Open,
    Reply,
    Tell,
    ToChild,
    Told,
    Up,
    packed,
)
from daemon.backtest.leak_world import World
from daemon.core.buffers import ROW_FIELDS
from daemon.domain.errors import ConfigError
from daemon.domain.events import Decide, Decided, Seed
from daemon.domain.signal import NoDecision, Targets
from daemon.edge import child
from daemon.edge.worker_wire import Frames, WorkerConfig

END_S: Final = 5.0
"""How long the nursery is given to end."""
SLACK_S: Final = 30.0
"""How much longer than its own limit a child may be silent: it writes its world first."""
Answer = Targets | NoDecision
T = TypeVar("T")


class Tape:
    """Every bar a worker was told of since it was seeded, and the daily closes it knows."""

    def __init__(self, seed: Seed) -> None:
        self._symbols = seed.symbols
        self._bar_ns = seed.bar_ns
        self._index = {symbol: at for at, symbol in enumerate(seed.symbols)}
        self._rows = [array("d", np.frombuffer(one, dtype=np.float64).tolist()) for one in seed.rows]
        self._daily = seed.daily

    def hear(self, decide: Decide) -> None:
        """Add what a question brings."""
        self._daily = decide.daily or self._daily
        for bar in decide.bars:
            at = self._index.get(bar.symbol)
            if at is not None:
                rows = self._rows[at]
                if not rows or bar.close_ns > rows[-ROW_FIELDS]:
                    rows.extend((float(bar.close_ns), bar.open, bar.high, bar.low, bar.close, bar.volume))

    def question(self, decide: Decide) -> "Question":
        """Return a question, asked anew: with full buffers, and no more than the bars that have just closed."""
        last = tuple(bar for bar in decide.bars if bar.close_ns == decide.close_ns)
        return Question(self, msgspec.structs.replace(decide, bars=last, daily=()), self._daily)

    def seed(self, begin_ns: int, end_ns: int, daily: tuple[bytes, ...]) -> Seed:
        """Return the bars that closed after ``begin_ns`` and before ``end_ns``."""
        rows: list[bytes] = []
        for one in self._rows:
            table = np.frombuffer(one, dtype=np.float64).reshape(-1, ROW_FIELDS)
            rows.append(table[(table[:, 0] > begin_ns) & (table[:, 0] < end_ns)].tobytes())
        return Seed(self._symbols, tuple(rows), daily, self._bar_ns)

    def begin_ns(self) -> int:
        """Return the first close there is."""
        return min((int(one[0]) for one in self._rows if one), default=0)


class Question(NamedTuple):
    """What the engine asked once: the bars before, the decision, and the daily closes known then."""

    tape: Tape
    decide: Decide
    daily: tuple[bytes, ...]

    @property
    def close_ns(self) -> int:
        """Return the close that was decided on."""
        return self.decide.close_ns

    def seed(self, bars: int) -> Seed:
        """Return buffers for the question: the newest so many bars, less the one that has just closed."""
        return self.tape.seed(self.close_ns - bars * self.decide.bar_ns, self.close_ns, self.daily)

    def length(self, most: int) -> int:
        """Return how many bars there are, the one that has just closed included, at most ``most``."""
        return min(most, (self.close_ns - self.tape.begin_ns()) // self.decide.bar_ns + 1)


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """One process: its world, its chance (seed of the global generators, error of the clock) and its hash seed."""

    world: World = World()
    seed: int = 0
    clock_ns: int = 0
    hash_seed: int = 0


class Ground(msgspec.Struct, frozen=True, kw_only=True):
    """What all processes share: whom is asked, which folders hold the prices it could read, and limits.

    ``names`` are the files of the folders that are different in another world.
    """

    config: WorkerConfig
    folders: tuple[str, ...]
    names: tuple[str, ...] = ()
    seconds: float = 60.0
    mount: bool = True


class Talk:
    """A conversation with one process. Every method raises ConfigError when the strategy is no partner for it."""

    def __init__(self, link: socket.socket, opening: Open) -> None:
        self._link = link
        self._frames = Frames()
        self._seconds = opening.seconds
        self._strategy = opening.config.strategy
        self._kept = opening.config.buffer_bars
        link.settimeout(opening.seconds + SLACK_S)
        self._send(opening)
        up = self._take()
        if isinstance(up, Bad):
            raise ConfigError(up.detail)
        assert isinstance(up, Up), up  # noqa: S101 - the child's first word
        self.up = up

    def seed(self, seed: Seed) -> None:
        """Fill the buffers."""
        self._send(seed)

    def decide(self, decide: Decide) -> Decided:
        """Return the strategy's answer."""
        self._send(decide)
        reply = self._take()
        assert isinstance(reply, Reply), reply  # noqa: S101
        return reply.decided

    def ask(self, question: Question, bars: int = 0) -> Answer:
        """Return the answer to a question, asked with the newest ``bars`` bars in the buffers, 0: all that are kept."""
        self.seed(question.seed(bars or self._kept))
        return self.decide(question.decide).result

    def told(self) -> Told:
        """Return what the process opened and loaded so far."""
        self._send(Tell())
        told = self._take()
        assert isinstance(told, Told), told  # noqa: S101
        return told

    def _send(self, message: ToChild) -> None:
        try:
            self._link.sendall(packed(message))
        except OSError:
            raise self._gone() from None

    def _take(self) -> FromChild:
        while True:
            try:
                data = self._link.recv(READ_BYTES)
            except OSError:
                raise self._gone() from None
            if not data:
                raise self._gone()
            for body in self._frames.feed(data):  # one question at a time: one answer
                return FROM_CHILD.decode(body)

    def _gone(self) -> ConfigError:
        return ConfigError(
            f"strategy = {self._strategy!r}: its process ended, or gave no answer within {self._seconds:g} s; "
            "`ballast check` starts it alone"
        )


class Nursery:
    """Makes processes; libraries are loaded once, the strategy in each of them anew. Close it in the end."""

    def __init__(self, scratch: Path, *, modules: Sequence[str] = (), hash_seed: int = 0) -> None:
        def spawn(link: socket.socket) -> child.Process:
            return subprocess.Popen(
                [sys.executable, "-m", "daemon.backtest.leak_child", str(link.fileno()), str(scratch), *modules],
                pass_fds=(link.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=child.environment(hash_seed=hash_seed),
                start_new_session=True,
            )

        self._control, self._process = child.start(spawn)
        self._lock = threading.Lock()

    @contextmanager
    def talk(self, opening: Open) -> Generator[Talk]:
        """Start a process and talk to it; it ends with the block. Raises ConfigError as ``Talk`` does."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs, self._lock:
                socket.send_fds(self._control, [b"+"], [theirs.fileno()])
            yield Talk(ours, opening)

    def close(self) -> None:
        """End the nursery and all its processes."""
        self._control.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Asker:
    """Nurseries by hash seed, a scratch folder, and as many processes at once as there are cores."""

    def __init__(self, ground: Ground, *, jobs: int) -> None:
        self.ground = ground
        self.modules: tuple[str, ...] = ()
        self.shown: set[str] = set()
        self._jobs = jobs
        self._nurseries: dict[tuple[int, bool], Nursery] = {}
        self._lock = threading.Lock()
        self._scratch = Path(tempfile.mkdtemp(prefix="ballast-leak-"))

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """End every process and remove every copy."""
        for nursery in self._nurseries.values():
            nursery.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    @contextmanager
    def talk(self, life: Life) -> Generator[Talk]:
        """Talk to a fresh process that lives that life."""
        with self._lock:
            key = (life.hash_seed, bool(self.modules))
            if key not in self._nurseries:
                self._nurseries[key] = Nursery(self._scratch, modules=self.modules, hash_seed=life.hash_seed)
            nursery = self._nurseries[key]
        scratch = Path(tempfile.mkdtemp(dir=self._scratch))
        ground = self.ground
        opening = Open(
            config=msgspec.structs.replace(ground.config, seed=life.seed),
            world=life.world,
            folders=ground.folders,
            names=ground.names,
            scratch=str(scratch),
            clock_ns=life.clock_ns,
            seconds=ground.seconds,
            mount=ground.mount,
        )
        try:
            with nursery.talk(opening) as talk:
                if talk.up.shown:
                    self.shown.add(talk.up.shown)
                yield talk
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def ask(self, life: Life, *questions: Question) -> tuple[Answer, ...]:
        """Return the answers of one fresh process, asked in this order."""
        with self.talk(life) as talk:
            return tuple(talk.ask(question) for question in questions)

    def each(self, work: Callable[[T], Answer], items: Iterable[T], done: Callable[[], None]) -> list[Answer]:
        """Return the answers of pieces of work, in order, several at once; ``done`` is called for each."""
        items = list(items)
        answers: list[Answer | None] = [None] * len(items)
        with ThreadPoolExecutor(self._jobs) as pool:
            places = {pool.submit(work, item): at for at, item in enumerate(items)}
            try:
                for future in as_completed(places):
                    answers[places[future]] = future.result()
                    done()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return [one for one in answers if one is not None]
