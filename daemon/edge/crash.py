"""Crash points: the places where a kill would hurt most, and the means for a test to kill exactly there.

Every boundary of persistence and of sending calls `point`. It does nothing, unless a test started the daemon with
``BALLAST_TEST_CRASH_AT=n``: then the process ends itself with SIGKILL at the n-th call, as a power cut would end it.
Which variable arms it, and when that is refused, is decided by `daemon.settings.crash_at`.
"""

import itertools
import os
import signal


class _Trigger:
    """Counts calls, across threads, once it is armed."""

    __slots__ = ("at", "numbers")

    def __init__(self) -> None:
        self.at = 0
        self.numbers = itertools.count(1)  # next() is one step of the interpreter: no two threads get one number


_TRIGGER = _Trigger()


def arm(at: int) -> None:
    """End this process at the ``at``-th point from now on (>= 1); 0 disarms."""
    _TRIGGER.numbers = itertools.count(1)
    _TRIGGER.at = at


def armed() -> bool:
    """Say whether points count."""
    return _TRIGGER.at > 0


def point(name: str) -> None:
    """Pass a boundary; ``name`` says which one and on which side of it, for the last words of a process that ends here."""
    if _TRIGGER.at and next(_TRIGGER.numbers) == _TRIGGER.at:
        os.write(2, f"crash point {_TRIGGER.at}: {name}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()  # another thread may be the one that takes the signal: nothing may happen meanwhile
