"""Noticing that the venue refuses our key, whatever was asked: orders, cancels or reads (F68)."""

from typing import Final

from daemon.domain.events import Fault, Link
from daemon.domain.ports import Emit
from daemon.edge.bans import Bans
from daemon.edge.clock import Clock
from daemon.edge.lane import Quota, firewalled
from daemon.edge.outcomes import Reply
from daemon.edge.rejects import BINANCE, refuses_key

REFUSALS_MAX: Final = 2
"""Refusals within ``WINDOW_NS`` that mean the key itself: trading halts."""
WINDOW_NS: Final = 60_000_000_000
FIREWALL: Final = "firewall"
"""Name of the link whose loss is told when a web firewall answers (F10)."""
TASK: Final = "key"
"""Name of the fault; the engine halts for it with the cause ``key_refused``."""


class KeyWatch(Quota):
    """The lanes' common patience, which also counts refusals of the key.

    Parameters
    ----------
    emit
        Gets ``Fault("key")`` when the venue refuses the key for the second time within a minute, then once a minute.
    venue
        ccxt's exchange id: each venue refuses in its own words.
    """

    def __init__(self, clock: Clock, emit: Emit, bans: Bans | None = None, *, venue: str = BINANCE) -> None:
        super().__init__(clock, bans)
        self.venue = venue
        self._time = clock
        self._report = emit
        self._last_ns = 0
        self._told_ns = 0

    @property
    def refused(self) -> bool:
        """Say whether the key was refused within the last minute."""
        return self._last_ns > 0 and self._time.mono_ns() - self._last_ns < WINDOW_NS

    def see(self, reply: Reply) -> None:
        """Read an answer's status, headers and code."""
        super().see(reply)
        if firewalled(reply):
            self._report(Link(FIREWALL, False, f"403 and a page: {reply.body.strip()[:80]!r}", self._time.now_ns()))
        code = refuses_key(self.venue, reply)
        if not code:
            return
        now = self._time.mono_ns()
        repeated, self._last_ns = self.refused, now
        if repeated and (not self._told_ns or now - self._told_ns >= WINDOW_NS):
            self._told_ns = now
            detail = f"the venue refuses our key ({code}); check that it exists, its permissions and its IP list"
            self._report(Fault(TASK, detail, self._time.now_ns()))
