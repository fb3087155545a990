"""The worker seen from the process that owns the sockets: start it, ask it, replace it.

No heavy library is imported here.

At most one decision is in flight and the newest view wins: a request that arrives meanwhile waits alone, and a newer
one takes its place; of the older only the bars are sent. Every ``Decide`` is answered exactly once. An answer
after the deadline is dropped; a child that hangs, dies or grows is replaced.
"""

import asyncio
import socket
import subprocess
import sys

import msgspec
import structlog

from daemon.domain.events import Decide, Decided, Seed, WorkerDown, WorkerUp
from daemon.domain.ports import Emit
from daemon.domain.signal import NoDecision, NoReason
from daemon.edge import child
from daemon.edge.clock import Clock
from daemon.edge.worker_wire import (
    FROM_CHILD,
    NS_PER_S,
    Answer,
    Bars,
    Failed,
    Frames,
    Ready,
    Reload,
    ToChild,
    WorkerConfig,
    parts,
)

BACKOFF_S_MIN = 0.1
REAP_S_MAX = 5.0
EXIT_S_MAX = 0.5
JOIN_BYTES_MAX = 65_536
"""Smaller messages go out in one write; a seed of megabytes is not copied for that."""

log = structlog.get_logger("ballast")


class Worker:
    """Supervises one child process and speaks with it.

    Parameters
    ----------
    emit
        Takes ``WorkerUp``, ``WorkerDown`` and ``Decided``; always called from the event loop, never from within
        ``decide``.
    clock
        Wall time for deadlines.
    config
        Strategy, model folder, limits.
    """

    def __init__(self, emit: Emit, clock: Clock, config: WorkerConfig) -> None:
        self._emit, self._clock, self._config = emit, clock, config
        self._link: _Link | None = None
        self._flying: Decide | None = None
        self._waiting: Decide | None = None
        self._late = False
        self._timer: asyncio.TimerHandle | None = None
        self.pid = 0
        self.starts = 0
        self.superseded = 0
        self.late = 0
        self.rss_bytes = 0
        self.detail = ""
        self.learns: bool | None = None  # whether the strategy serves a trained model; known once a child was ready

    @property
    def up(self) -> bool:
        """Return whether a child is ready to be seeded and asked."""
        return self._link is not None

    # ------------------------------------------------------------- asked by the engine

    def seed(self, seed: Seed) -> None:
        """Fill the child's buffers. Without a child nothing is lost: every new one is announced and seeded in full."""
        if self._link is not None:
            self._link.send(seed)

    def decide(self, decide: Decide) -> None:
        """Ask for a decision; the answer comes as a ``Decided`` event."""
        if self._link is None:
            self._answer(decide, NoReason.WORKER_DOWN, self.detail or "no worker is running")
        elif self._flying is None:
            self._send(self._link, decide)
        else:
            older, self._waiting = self._waiting, decide
            if older is not None:
                self.superseded += 1
                self._link.send(Bars(older.bars, older.daily))
                self._answer(older, NoReason.DEADLINE, f"superseded by view {decide.seq} before the worker was free")

    def reload_model(self) -> None:
        """Have the child serve the model that is current now; announced by another ``WorkerUp``."""
        if self._link is not None:
            self._link.send(Reload())

    # ------------------------------------------------------------- life of the child

    async def run(self) -> None:
        """Keep one child alive for ever; pauses between failed starts grow to the configured limit."""
        backoff_s = BACKOFF_S_MIN
        while True:
            detail, served = await self.session()
            self.detail = detail
            if served:
                backoff_s = BACKOFF_S_MIN
            log.warning("worker_down", detail=detail, again_in_s=backoff_s)
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, self._config.backoff_ns_max / NS_PER_S)

    async def session(self) -> tuple[str, bool]:
        """Run one child to its end; return why it ended and whether it had answered anything.

        A machine that has no memory or no file handles left for a child is a worker that is down.
        """
        try:
            ours, process = child.start(_spawn)
        except OSError as error:
            return self._ended(f"worker process could not be started: {error.strerror or error}"), False
        self.starts += 1
        self.pid = process.pid
        link = _Link(self)
        try:
            ours.setblocking(False)
            await asyncio.get_running_loop().create_connection(lambda: link, sock=ours)
            link.send(self._config)
            timer = asyncio.get_running_loop().call_later(
                self._config.start_ns_max / NS_PER_S, link.not_started, self._config.start_ns_max / NS_PER_S
            )
            try:
                detail = await link.ended
            finally:
                timer.cancel()
            if not detail:  # it left by itself: its exit code says how
                await child.reap(process, EXIT_S_MAX)
        except OSError as error:
            ours.close()
            detail = f"worker process cannot be talked to: {error.strerror or error}"
        finally:
            self._link = None
            link.close()
            process.kill()
            await child.reap(process, REAP_S_MAX)
            self.pid = 0
        return self._ended(detail or f"worker process ended by itself with code {process.returncode}"), link.served

    def _ended(self, detail: str) -> str:
        """Tell that there is no child, and why."""
        self._drop(detail)
        self._emit(WorkerDown(detail=detail, ts_ns=self._clock.now_ns()))
        return detail

    def _drop(self, detail: str) -> None:
        """Answer what the child can no longer answer."""
        lost = [self._waiting] if self._late else [self._flying, self._waiting]
        self._waiting = None
        self._land()
        for decide in lost:
            if decide is not None:
                self._emit(self._refusal(decide, NoReason.WORKER_DOWN, detail))

    def _land(self) -> None:
        """Note that nothing is in flight any more."""
        self._flying, self._late = None, False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ------------------------------------------------------------- heard from the child

    def on_message(self, link: "_Link", message: Ready | Failed | Answer) -> None:
        """Handle one message of the child."""
        if isinstance(message, Ready):
            self._link = link
            self.detail = message.detail
            self.learns = message.learns
            if message.detail:
                log.warning("worker_model", detail=message.detail)
            self._emit(WorkerUp(model=message.model, model_trained_ns=message.trained_ns, ts_ns=self._clock.now_ns()))
        elif isinstance(message, Failed):
            link.end(message.detail)
        else:
            self._on_answer(link, message)

    def _on_answer(self, link: "_Link", answer: Answer) -> None:
        flying = self._flying
        if flying is None or answer.decided.seq != flying.seq:
            link.end(f"answer to view {answer.decided.seq}, which was not asked")
            return
        late = self._late
        self._land()
        link.served = True
        self.rss_bytes = answer.rss_bytes
        if answer.note:
            log.warning("worker_note", seq=answer.decided.seq, note=answer.note)
        waiting, self._waiting = self._waiting, None
        if answer.rss_bytes > self._config.rss_bytes_max:
            self._waiting = waiting  # answered when the child has gone
            link.end(f"worker grew to {answer.rss_bytes >> 20} MiB, limit {self._config.rss_bytes_max >> 20} MiB")
        elif waiting is not None:
            self._send(link, waiting)
        if not late:
            self._emit(msgspec.structs.replace(answer.decided, ts_ns=self._clock.now_ns()))

    def _send(self, link: "_Link", decide: Decide) -> None:
        """Put a decision in flight, unless it is too late to ask: then only its bars are sent."""
        left_ns = decide.deadline_ns - self._clock.now_ns()
        if left_ns <= 0:
            link.send(Bars(decide.bars, decide.daily))
            self._answer(decide, NoReason.DEADLINE, "the deadline had passed before the worker was free")
            return
        self._flying = decide
        link.send(decide)
        # A wall clock set back must not let a child hang: never longer than the engine allowed when it asked.
        left_ns = min(left_ns, max(decide.deadline_ns - decide.ts_ns, 0))
        self._timer = asyncio.get_running_loop().call_later(left_ns / NS_PER_S, self._overdue, link, decide)

    def _overdue(self, link: "_Link", decide: Decide) -> None:
        """Answer that the deadline was missed, and give the child a little longer before it counts as hanging."""
        self._late = True
        self.late += 1
        self._timer = asyncio.get_running_loop().call_later(
            self._config.hang_ns / NS_PER_S, link.end, f"no answer to view {decide.seq} long after its deadline"
        )
        self._emit(self._refusal(decide, NoReason.DEADLINE, "the worker did not answer in time"))

    def _answer(self, decide: Decide, reason: NoReason, detail: str) -> None:
        """Answer without the child, after the current event has been processed."""
        asyncio.get_running_loop().call_soon(self._emit, self._refusal(decide, reason, detail))

    def _refusal(self, decide: Decide, reason: NoReason, detail: str) -> Decided:
        return Decided(
            seq=decide.seq,
            result=NoDecision(reason, detail),
            features_ns=0,
            forecast_ns=0,
            solve_ns=0,
            ts_ns=self._clock.now_ns(),
        )


class _Link(asyncio.Protocol):
    """The socket to one child: bytes to messages, in the callback that received them."""

    def __init__(self, owner: Worker) -> None:
        self._owner = owner
        self._frames = Frames()
        self._transport: asyncio.WriteTransport | None = None
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.served = False
        self._ready = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101 - a stream socket always has one
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Decode what came and hand it over at once; a child that speaks nonsense is replaced."""
        try:
            messages = [FROM_CHILD.decode(body) for body in self._frames.feed(data)]
        except (ValueError, msgspec.DecodeError) as error:
            self.end(f"worker sent what is no message: {error}")
            return
        for message in messages:
            if not self.ended.done():
                self._ready = True
                self._owner.on_message(self, message)

    def connection_lost(self, exc: Exception | None) -> None:
        """Notice the child's death."""
        self.end("")

    def not_started(self, seconds: float) -> None:
        """Give up on a child that never got ready."""
        if not self._ready:
            self.end(f"worker was not ready within {seconds:g} s")

    def send(self, message: ToChild) -> None:
        """Write one message."""
        if self._transport is not None and not self._transport.is_closing():
            prefix, body = parts(message)
            if len(body) < JOIN_BYTES_MAX:
                self._transport.write(prefix + body)
            else:
                self._transport.write(prefix)
                self._transport.write(body)

    def end(self, detail: str) -> None:
        """End the session; the first reason given counts."""
        if not self.ended.done():
            self.ended.set_result(detail)

    def close(self) -> None:
        """Close the socket at once."""
        if self._transport is not None:
            self._transport.abort()


def _spawn(link: socket.socket) -> child.Process:
    """Start the child in a session of its own: one inherited descriptor, one thread per library, no other environment."""
    fd = link.fileno()
    return subprocess.Popen(
        [sys.executable, "-m", "daemon.edge.worker_child", str(fd)],
        pass_fds=(fd,),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=child.environment(),
        start_new_session=True,
    )
