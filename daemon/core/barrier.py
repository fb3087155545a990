"""From complete columns to a decision: at once with few symbols, in a turn of its own with many."""

from daemon.core.decisions import Decisions
from daemon.core.markets import Markets
from daemon.core.pieces import PIECE
from daemon.core.state import State
from daemon.domain.events import Continue, Effect
from daemon.domain.market import NS_PER_S

NONE: tuple[Effect, ...] = ()
LATE_NS = NS_PER_S
"""A turn that does not come for so long is not waited for."""


class Barrier:
    """Appends columns once every symbol's bar is there, or its time is over, and lets the newest be decided on."""

    def __init__(self, state: State, markets: Markets, decisions: Decisions) -> None:
        """Start with no column complete."""
        self._state = state
        self._markets = markets
        self._decisions = decisions
        self._since_ns = 0

    def look(self) -> tuple[Effect, ...]:
        """Append what is complete; with many symbols the trade that completed it is done first."""
        state = self._state
        if self._since_ns:
            return self.proceed() if state.now_ns - self._since_ns > LATE_NS else NONE
        columns = self._markets.columns
        if not columns.open:
            return NONE
        passed_ns = self._passed_ns()
        if len(state.symbols) <= PIECE:
            return self._append(passed_ns, state.now_ns) if state.now_ns else NONE
        if not columns.due(passed_ns):
            return NONE
        self._since_ns = state.now_ns
        return (Continue(),)

    def proceed(self) -> tuple[Effect, ...]:
        """Append what was complete when somebody looked last."""
        since_ns, self._since_ns = self._since_ns, 0
        return self._append(self._passed_ns(), since_ns) if since_ns else NONE

    def _append(self, passed_ns: int, since_ns: int) -> tuple[Effect, ...]:
        done = self._markets.columns.drain(passed_ns)
        exchange_ns = self._state.now_ns - self._state.offset_ns
        return self._decisions.closed(done, exchange_ns, since_ns) if done else NONE

    def _passed_ns(self) -> int:
        return self._markets.passed_ns(self._state.now_ns - self._state.offset_ns)
