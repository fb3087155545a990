"""A wall clock that steps of the machine's clock do not move: timers, ages and intents live on it (F47)."""

import msgspec
import structlog

from daemon.domain.events import Event
from daemon.domain.market import NS_PER_MS, NS_PER_S
from daemon.edge.clock import Clock

log = structlog.get_logger("ballast")

STEP_NS = 500 * NS_PER_MS
"""A difference between this clock and the machine's that is a step, not a drift."""
AGREE_NS = 50 * NS_PER_MS
"""Beyond the error of the measurement, clocks that are no further apart say the same: drift and rounding lie far below."""
ERROR_NS_MAX = 200 * NS_PER_MS
"""A measurement that may be further off agrees with nothing: with this a step that never was cannot be believed."""


class SteadyClock(Clock):
    """UTC as it was at the start, carried on by the monotonic clock.

    A wall clock set back by a day would stall every timer for a day, one set forward would close bars that have not
    been; here nothing moves. Only when the venue agrees that the time is later (a machine that was suspended) does this clock
    go forward; it never goes back. Once, at the start, before anything
    has been timed by it, the venue may set it back: so it begins at the earlier of the two, and whichever of them was wrong
    and is put right later, this clock is right or has to go forward.
    """

    __slots__ = ("_base_ns",)

    def __init__(self) -> None:
        """Take the wall clock's word once."""
        self._base_ns = super().now_ns() - super().mono_ns()

    def now_ns(self) -> int:
        """Return UTC in ns, never less than before."""
        return self._base_ns + self.mono_ns()

    def begin(self, offset_ns: int) -> int:
        """Take the venue's clock minus ours, measured before anything was timed by this clock; return what is left of it.

        A machine whose clock is ahead now and is set right later would else leave this clock ahead until the next start.
        """
        if offset_ns < -STEP_NS:
            log.warning(
                "the machine's clock is ahead; the venue's time is used", ahead_s=round(-offset_ns / NS_PER_S, 3)
            )
            self._base_ns += offset_ns
            return 0
        return offset_ns

    def stepped(self) -> bool:
        """Return whether the machine's clock and this one disagree: the venue is to be asked who is right."""
        return abs(super().now_ns() - self.now_ns()) > STEP_NS

    def follow(self, offset_ns: int, error_ns: int = 0) -> int:
        """Take the venue's clock minus ours as just measured; return what it is after going forward where both others agree.

        ``error_ns`` is how far off the measurement may be: one over a slow line agrees with nothing, since what goes forward
        never comes back.
        """
        ahead_ns = super().now_ns() - self.now_ns()
        agreed = error_ns <= ERROR_NS_MAX and abs(offset_ns - ahead_ns) <= error_ns + AGREE_NS
        if ahead_ns > STEP_NS and agreed:
            self._base_ns += ahead_ns
            return offset_ns - ahead_ns
        return offset_ns


def not_ahead(event: Event, now_ns: int) -> Event:
    """Return an event made before the clock was set back at the start with a time that has come.

    The engine's time never goes back: one event from an hour ahead would make everything look an hour old for an hour.
    """
    if getattr(event, "ts_ns", 0) <= now_ns:
        return event
    return msgspec.structs.replace(event, ts_ns=now_ns)
