"""The one place that reads a clock."""

import time


class Clock:
    """Wall and monotonic time of this machine, as integer nanoseconds."""

    __slots__ = ()

    def now_ns(self) -> int:
        """Return the UTC wall clock in ns since the epoch; it may jump when the machine's clock is set."""
        return time.time_ns()

    def mono_ns(self) -> int:
        """Return a clock in ns that never jumps; only differences mean anything."""
        return time.monotonic_ns()
