"""Count orders in sliding windows: P6, at most N messages in any minute and M in any ten seconds."""

from collections import deque

from daemon.domain.market import NS_PER_S

MINUTE_NS = 60 * NS_PER_S
TEN_SECONDS_NS = 10 * NS_PER_S


class Throttle:
    """Remember when the last orders left, and say whether another may.

    A log of times, not a bucket that leaks: a bucket of N that refills at N per minute lets almost 2 N through in
    one minute, this lets through N in any. Memory is bounded by ``per_minute``.

    Parameters
    ----------
    per_minute, per_10s : int
        Most orders in any window of that length, >= 1.
    """

    def __init__(self, per_minute: int, per_10s: int) -> None:
        self._per_minute = per_minute
        self._per_10s = per_10s
        self._times: deque[int] = deque(maxlen=max(per_minute, per_10s))

    def free(self, now_ns: int) -> int:
        """Return how many more orders may leave at ``now_ns``, >= 0."""
        minute = self._per_minute - self._since(now_ns - MINUTE_NS)
        burst = self._per_10s - self._since(now_ns - TEN_SECONDS_NS)
        return max(0, min(minute, burst))

    def take(self, now_ns: int) -> None:
        """Count one order. Time that runs backwards counts as standing still."""
        self._times.append(max(now_ns, self._times[-1]) if self._times else now_ns)

    def state(self) -> tuple[int, ...]:
        """Return the remembered times in ns, oldest first."""
        return tuple(self._times)

    def restore(self, times: tuple[int, ...]) -> None:
        """Take over times from ``state``."""
        self._times.clear()
        self._times.extend(times)

    def _since(self, start_ns: int) -> int:
        count = 0
        for time_ns in reversed(self._times):
            if time_ns <= start_ns:
                break
            count += 1
        return count
