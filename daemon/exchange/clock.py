"""The clocks of the simulated exchange: the machine's, and one that stands still until it is moved."""

import time
from collections.abc import Callable

__all__ = ["Clock", "ManualClock", "wall_clock"]

Clock = Callable[[], int]
"""Returns the current time in ns since the UTC epoch."""


def wall_clock() -> int:
    """Return the machine's time in ns UTC."""
    return time.time_ns()


class ManualClock:
    """A clock that only `set` moves, and never backwards."""

    def __init__(self, now_ns: int) -> None:
        """Start at now_ns."""
        self._now_ns = now_ns

    def __call__(self) -> int:
        """Return the time in ns UTC."""
        return self._now_ns

    def set(self, now_ns: int) -> None:
        """Move to now_ns; earlier times are ignored."""
        self._now_ns = max(self._now_ns, now_ns)
