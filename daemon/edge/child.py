"""What every child process of ours has in common: the link to it, its environment, its end."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

POLL_S: Final = 0.005
THREAD_LIMITS: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
)

Process = subprocess.Popen[bytes]


def start(spawn: Callable[[socket.socket], Process]) -> tuple[socket.socket, Process]:
    """Return our end of a new link and the child that was given the other.

    Raises
    ------
    OSError
        The machine has no memory or no file handles left for one; nothing stays open.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            return ours, spawn(theirs)
        except OSError:
            ours.close()
            raise


def environment(*, hash_seed: int = 0) -> dict[str, str]:
    """Return all that a child is told of ours: where its modules lie, not our variables with the keys in them.

    One thread for each numeric library and no graphics card: the same input gives the same bits. A child that loads no
    such library does not read them.
    """
    return {
        "PATH": os.defpath,
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
        "PYTHONHASHSEED": str(hash_seed),
        "CUDA_VISIBLE_DEVICES": "",
        **dict.fromkeys(THREAD_LIMITS, "1"),
    }


async def reap(process: Process, seconds: float) -> None:
    """Wait for a child to end, at most so long, without blocking the loop."""
    for _ in range(int(seconds / POLL_S)):
        if process.poll() is not None:
            return
        await asyncio.sleep(POLL_S)
