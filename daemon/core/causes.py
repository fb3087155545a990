"""Why trading is restricted: state = the worst active cause (DESIGN A9)."""

from daemon.domain.events import TradingState

SEVERITY = {TradingState.ACTIVE: 0, TradingState.REDUCING: 1, TradingState.HALTED: 2}

STARTING = "starting"
KILL = "kill"
DRAWDOWN = "drawdown"
DAILY_LOSS = "daily_loss"
OPERATOR_REDUCE = "operator_reduce_only"
OPERATOR_FLATTEN = "operator_flatten"
STALE_FEED = "stale_feed"
USER_STREAM = "user_stream_down"
REST_DOWN = "rest_down"
LEDGER = "ledger_unwritable"
CLOCK = "clock_offset"
LOOP_LAG = "loop_lag"
BREAK = "reconcile_break"
PERSISTENT_BREAK = "persistent_break"
FAULT = "fault"
KEY_REFUSED = "key_refused"
REPEATED = "repeated_execution"
SECOND_WRITER = "second_writer"

OF_TASK = {"key": KEY_REFUSED, "second writer": SECOND_WRITER}
"""Causes of faults that have a name of their own, by the task that reports them."""

LIFTED_BY_RESUME = frozenset(
    {DRAWDOWN, OPERATOR_REDUCE, OPERATOR_FLATTEN, FAULT, KEY_REFUSED, REPEATED, SECOND_WRITER, PERSISTENT_BREAK}
)
"""Latched causes that ``resume`` lifts; the kill latch is lifted on the host alone."""

LATCHED = LIFTED_BY_RESUME | {KILL}


class Causes:
    """The set of active causes, each with the state it demands."""

    def __init__(self) -> None:
        """Start HALTED: nothing trades before recovery is complete."""
        self._active: dict[str, TradingState] = {STARTING: TradingState.HALTED}
        self._state = TradingState.HALTED
        self._names: tuple[str, ...] = (STARTING,)

    def _changed(self) -> None:
        """Work out what is asked for many times between two changes."""
        active = self._active
        self._state = max(active.values(), key=SEVERITY.__getitem__, default=TradingState.ACTIVE)
        self._names = tuple(sorted(active, key=lambda name: (-SEVERITY[active[name]], name)))

    def put(self, name: str, state: TradingState) -> bool:
        """Activate a cause (or change what it demands); true when that is news."""
        if self._active.get(name) is state:
            return False
        self._active[name] = state
        self._changed()
        return True

    def drop(self, name: str) -> bool:
        """Clear a cause; true when it was active."""
        if self._active.pop(name, None) is None:
            return False
        self._changed()
        return True

    def keep(self, name: str, state: TradingState, *, active: bool) -> bool:
        """Activate or clear a self-clearing cause; true when that is news."""
        if active:
            return self.put(name, state)
        return name in self._active and self.drop(name)

    def resume(self) -> bool:
        """Lift every latched cause an operator may lift; true when there was one."""
        lifted = [name for name in self._active if name in LIFTED_BY_RESUME]
        for name in lifted:
            del self._active[name]
        self._changed()
        return bool(lifted)

    def __contains__(self, name: str) -> bool:
        """Return whether a cause is active."""
        return name in self._active

    @property
    def state(self) -> TradingState:
        """Return the worst state any active cause demands."""
        return self._state

    @property
    def names(self) -> tuple[str, ...]:
        """Return the active causes, worst first, then by name."""
        return self._names

    def latched(self) -> dict[str, TradingState]:
        """Return the causes that survive a restart."""
        if not self._active:
            return {}
        return {name: state for name, state in sorted(self._active.items()) if name in LATCHED}

    def restore(self, latched: dict[str, TradingState]) -> None:
        """Take over the causes that were latched when the last session ended."""
        for name, state in latched.items():
            if name in LATCHED:
                self._active[name] = state
        self._changed()
