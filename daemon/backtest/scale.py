"""How work is spread: in this process, over local processes, or over a Ray cluster, behind one interface.

A piece of work is ``work(shared, item)``: a function of a module, what all pieces need, and what is particular to one.
It must be pure: a piece whose worker died is done again elsewhere, and its answer must be the same. Answers come in the
order in which they are ready; whoever needs another order sorts by the tag. Nothing here knows what the work is.
"""

import ctypes
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Final, Protocol

import msgspec

from daemon.domain.errors import Fatal, UsageError

RETRIES: Final = 3
"""Times a piece of work is done again after its worker died; an exception of the work itself is never tried again."""
JOBS_MAX: Final = 1_024
OFF: Final = "off"
AUTO: Final = "auto"
PR_SET_PDEATHSIG: Final = 1

Work = Callable[[Any, Any], Any]


class WorkersDie(Fatal):
    """A piece of work took its worker with it again and again."""


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Where work goes: ``ray`` is "off", "auto" or a cluster's address; ``jobs`` local processes, 1 = in this one."""

    ray: str = OFF
    jobs: int = 1


class Crew(Protocol):
    """Workers that share one function and one thing that all pieces need."""

    @property
    def where(self) -> str:
        """Return where the work goes, in words."""
        ...

    def submit(self, tag: int, item: Any) -> None:
        """Queue a piece of work; tags in use at one time are distinct."""
        ...

    def take(self) -> tuple[int, Any]:
        """Wait for a piece that is done and return its tag and answer; what the work raised is raised here."""
        ...

    def close(self) -> None:
        """End the workers at once, whatever they are doing."""
        ...


@contextmanager
def crew_of(spread: Spread, work: Work, shared: Any) -> Generator[Crew]:
    """Return workers for one function; they end with the block.

    Raises
    ------
    UsageError
        ``jobs`` is out of range, or Ray was asked for and is not installed.
    Unreachable
        The named cluster does not answer.
    """
    if not 1 <= spread.jobs <= JOBS_MAX:
        raise UsageError(f"--jobs {spread.jobs}: must be between 1 and {JOBS_MAX}")
    crew: Crew | None = None
    if spread.ray != OFF:
        from daemon.backtest.scale_ray import ray_crew  # noqa: PLC0415 - Ray is loaded only when it is asked for

        crew = ray_crew(spread.ray, work, shared)
    if crew is None:
        crew = Here(work, shared) if spread.jobs == 1 else Processes(work, shared, spread.jobs)
    try:
        yield crew
    finally:
        crew.close()


def in_order(crew: Crew, items: Iterable[Any]) -> list[Any]:
    """Do all pieces and return the answers in the order of the items."""
    count = 0
    for count, item in enumerate(items, start=1):
        crew.submit(count - 1, item)
    answers: dict[int, Any] = dict(crew.take() for _ in range(count))
    return [answers[tag] for tag in range(count)]


class Here:
    """One piece after the other in this process."""

    where = "in this process"

    def __init__(self, work: Work, shared: Any) -> None:
        self._work = work
        self._shared = shared
        self._waiting: deque[tuple[int, Any]] = deque()

    def submit(self, tag: int, item: Any) -> None:
        """Keep it until it is asked for."""
        self._waiting.append((tag, item))

    def take(self) -> tuple[int, Any]:
        """Do the oldest piece. Raises IndexError when there is none."""
        tag, item = self._waiting.popleft()
        return tag, self._work(self._shared, item)

    def close(self) -> None:
        """Forget what was not done."""
        self._waiting.clear()


class _Piece:
    """A piece of work and how often it was begun."""

    __slots__ = ("begun", "item", "tag")

    def __init__(self, tag: int, item: Any) -> None:
        self.tag = tag
        self.item = item
        self.begun = 0


class _Hand:
    """One local process and what it is doing."""

    def __init__(self, work: Work, shared: Any) -> None:
        context = get_context("spawn")  # forking a process with BLAS threads may lock up
        self.line, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_serve, args=(theirs, os.getpid()), daemon=True)
        self.process.start()
        theirs.close()
        self.piece: _Piece | None = None
        self._opening: tuple[Work, Any] | None = (work, shared)

    def begin(self, piece: _Piece) -> bool:
        """Hand the piece over; false when nobody takes it any more."""
        piece.begun += 1
        self.piece = piece
        try:
            if self._opening is not None:
                self.line.send(self._opening)
                self._opening = None
            self.line.send(piece.item)
        except OSError:
            return False
        return True

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.line.close()


class Processes:
    """Local processes, each with its own copy of what is shared; one that dies is replaced and its piece done again."""

    def __init__(self, work: Work, shared: Any, jobs: int) -> None:
        self._work = work
        self._shared = shared
        self._jobs = jobs
        self._hands: list[_Hand] = []
        self._waiting: deque[_Piece] = deque()

    @property
    def where(self) -> str:
        """Return how many processes."""
        return f"{self._jobs} local processes"

    def submit(self, tag: int, item: Any) -> None:
        """Queue a piece, and start a process for it while there may be more.

        It is handed over in `take`: what is shared may be larger than a pipe holds, and then handing over waits until the
        process has started; so they all start at once.
        """
        self._waiting.append(_Piece(tag, item))
        idle = sum(hand.piece is None for hand in self._hands)
        if idle < len(self._waiting) and len(self._hands) < self._jobs:
            self._hands.append(_Hand(self._work, self._shared))

    def take(self) -> tuple[int, Any]:
        """Wait for the next answer. Raises WorkersDie when a piece has outlived `RETRIES` replacements."""
        while True:
            self._hand_out()
            busy = [hand for hand in self._hands if hand.piece is not None]
            if not busy:
                raise IndexError("nothing was submitted")
            ready = wait([hand.line for hand in busy])
            for hand in busy:
                piece = hand.piece
                if piece is None or hand.line not in ready:
                    continue
                try:
                    failed, answer = hand.line.recv()
                except (EOFError, OSError):
                    self._bury(hand)
                    continue
                hand.piece = None
                if failed:
                    raise answer
                return piece.tag, answer

    def close(self) -> None:
        """Kill the processes."""
        self._waiting.clear()
        while self._hands:
            self._hands.pop().end()

    def _hand_out(self) -> None:
        while self._waiting:
            idle = next((hand for hand in self._hands if hand.piece is None), None)
            if idle is None:
                if len(self._hands) >= self._jobs:
                    return
                idle = _Hand(self._work, self._shared)
                self._hands.append(idle)
            if not idle.begin(self._waiting.popleft()):
                self._bury(idle)

    def _bury(self, hand: _Hand) -> None:
        """Give up a process that died; what it was doing is the next to be done."""
        hand.end()
        self._hands.remove(hand)
        piece = hand.piece
        if piece is None:
            return
        if piece.begun > RETRIES:
            code = hand.process.exitcode
            raise WorkersDie(
                f"a worker process died {piece.begun} times over the same piece of work (exit code {code}); "
                "out of memory? try fewer --jobs"
            )
        self._waiting.appendleft(piece)


def _serve(line: Connection, parent: int) -> None:
    """Live as a local process: answer until the line is cut."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends us
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # nobody computes for a parent that was killed
    if os.getppid() != parent:
        return
    try:
        work, shared = line.recv()
        while True:
            item = line.recv()
            try:
                answer = (False, work(shared, item))
            except Exception as error:  # noqa: BLE001 - raised again where the answer is wanted
                answer = (True, _sendable(error))
            line.send(answer)
    except (EOFError, OSError):
        return


def _sendable(error: Exception) -> Exception:
    """Return what surely reaches the other side: our own exceptions as they are, others as one line of text."""
    if isinstance(error, Fatal):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")
