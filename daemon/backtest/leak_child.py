"""Processes in which a strategy lives in a world of our making, each fresh: a nursery that has the libraries loaded forks them.

Run as ``python -m daemon.backtest.leak_child FD SCRATCH MODULE…``. Over the socket FD come the ends of further sockets, one
for each child; on its own socket a child first hears of its world, then questions. Module globals, caches, random generators
and files are as they would be had the strategy just been started.
"""

import contextlib
import ctypes
import gc
import os
import shutil
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

import msgspec

from daemon.backtest.leak_clock import move
from daemon.backtest.leak_paths import Elsewhere, Watch, show
from daemon.backtest.leak_world import World, build
from daemon.domain.errors import ConfigError
from daemon.domain.events import Decide, Decided, Seed
from daemon.edge.worker_child import InlineWorker
from daemon.edge.worker_wire import PREFIX, Frames, WorkerConfig, one_line

PR_SET_PDEATHSIG: Final = 1
READ_BYTES: Final = 1 << 20
LIBRARIES: Final = frozenset(
    {
        "clarabel",
        "cvxpy",
        "msgspec",
        "numpy",
        "osqp",
        "pandas",
        "piqp",
        "polars",
        "pyarrow",
        "safetensors",
        "scipy",
        "sklearn",
        "statsmodels",
        "threadpoolctl",
        "torch",
    }
)
"""Packages that may be loaded before the strategy: they hold none of its data. Whatever else it imports is fresh, a
neighbour in ``strategies`` too."""


class Open(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The first message: who is asked, and in which world.

    The files called ``names`` in ``folders`` are shown as they are in ``world``; copies are made in ``scratch``.
    ``clock_ns`` is how far the clock is wrong, ``seconds`` how long a start or an answer may take.
    """

    config: WorkerConfig
    world: World
    folders: tuple[str, ...]
    names: tuple[str, ...]
    scratch: str
    clock_ns: int = 0
    seconds: float = 60.0
    mount: bool = True


class Tell(msgspec.Struct, frozen=True, tag=True):
    """Ask what was opened and loaded."""


class Up(msgspec.Struct, frozen=True, tag=True):
    """The strategy is set up: its model, the newest bar's close that this has seen, and how the world is shown."""

    model: str
    trained_ns: int
    detail: str
    shown: str


class Bad(msgspec.Struct, frozen=True, tag=True):
    """The strategy cannot be used, or its world not be made."""

    detail: str


class Reply(msgspec.Struct, frozen=True, tag=True):
    """The answer to a ``Decide``."""

    decided: Decided


class Told(msgspec.Struct, frozen=True, tag=True):
    """Files of the shown folders that were opened, what else was, and libraries that are loaded.

    ``watched`` is False where opening cannot be watched.
    """

    opened: tuple[str, ...]
    elsewhere: tuple[str, ...]
    modules: tuple[str, ...]
    watched: bool


ToChild = Open | Seed | Decide | Tell
FromChild = Up | Bad | Reply | Told
_ENCODER = msgspec.msgpack.Encoder()
_TO_CHILD: msgspec.msgpack.Decoder[ToChild] = msgspec.msgpack.Decoder(ToChild)
FROM_CHILD: msgspec.msgpack.Decoder[FromChild] = msgspec.msgpack.Decoder(FromChild)


def packed(message: ToChild | FromChild) -> bytes:
    """Return a message with its length in front."""
    body = _ENCODER.encode(message)
    return PREFIX.pack(len(body)) + body


def serve(link: socket.socket, loaded: frozenset[str]) -> None:
    """Answer until the other end closes; the world is made by the first message. ``loaded`` are modules of the nursery."""
    frames = Frames()
    worker: InlineWorker | None = None
    watch, elsewhere, opened = Watch(()), None, None
    while data := link.recv(READ_BYTES):
        for body in frames.feed(data):
            message = _TO_CHILD.decode(body)
            if isinstance(message, Open):
                opened = message
                _limit(message.seconds)
                try:
                    shown = _make(message)
                    watch = Watch([Path(one) for one in message.folders])
                    elsewhere = Elsewhere(
                        [Path(one) for one in (*message.folders, message.config.setup.models_dir) if one]
                    )
                    if message.clock_ns:
                        move(message.clock_ns)
                    worker = InlineWorker(message.config)
                except Exception as error:  # noqa: BLE001 - whatever a strategy's start raises is said in one line
                    known = isinstance(error, ValueError | ConfigError)
                    link.sendall(packed(Bad(str(error) if known else one_line(error))))
                    return
                served = worker.ready
                link.sendall(packed(Up(served.model, served.trained_ns, served.detail, shown)))
            elif worker is None or opened is None:
                return
            elif isinstance(message, Seed):
                worker.seed(message)
            elif isinstance(message, Decide):
                _limit(opened.seconds)
                link.sendall(packed(Reply(worker.decide(message))))
                watch.opened()  # the system keeps a bounded number of events
            else:
                heard = elsewhere.opened() if elsewhere is not None else ()
                link.sendall(packed(Told(watch.opened(), heard, _libraries(loaded), watch.ready)))
            _limit(0.0)


def _make(opened: Open) -> str:
    """Write the changed copies and show them in their originals' places; return how."""
    if not opened.world.kind:
        return ""
    copies: list[tuple[Path, Path]] = []
    for number, folder in enumerate(opened.folders):
        copies.extend(build(Path(folder), Path(opened.scratch) / str(number), opened.world, opened.names))
    return show(copies, mount=opened.mount)


def _limit(seconds: float) -> None:
    """End this process by a signal when the next step takes longer; 0: no limit."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _libraries(loaded: frozenset[str]) -> tuple[str, ...]:
    """Return what else may be loaded before a strategy."""
    return tuple(
        name
        for name in sorted(sys.modules.keys() - loaded)
        if name.partition(".")[0] in LIBRARIES and not name.endswith("__main__")
    )


def _follow_parent() -> None:
    """Ask the system to end this process with the nursery, which ends when its socket is closed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _child(link: socket.socket, loaded: frozenset[str]) -> None:
    """Live as one child and end, whatever happens."""
    with contextlib.suppress(OSError, struct.error):  # the other end hangs up on a child it has given up
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        _follow_parent()
        serve(link, loaded)


def _clear(scratch: str) -> None:
    """End the children and remove what they wrote: the command may have been killed, and nobody else would."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    shutil.rmtree(scratch, ignore_errors=True)


def main(arguments: Sequence[str]) -> int:
    """Fork a child for each socket that comes, until the parent hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the command's to handle
    os.dup2(2, 1)
    for name in arguments[2:]:
        with contextlib.suppress(Exception):  # a module that loads in another order only: the child will load it
            import_module(name)
    loaded = frozenset(sys.modules)
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    with socket.socket(fileno=int(arguments[0])) as control:
        while True:
            data, ends, _flags, _address = socket.recv_fds(control, 1, 1)
            if not data:
                _clear(arguments[1])
                return 0
            if os.fork() == 0:
                control.close()
                code = 1
                try:
                    _child(socket.socket(fileno=ends[0]), loaded)
                    code = 0
                finally:
                    os._exit(code)  # a fork must not run its parent's clean-up
            os.close(ends[0])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
