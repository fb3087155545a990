"""P7: a strategy that repeats itself is stopped until a person has looked at it.

Many executions of one symbol on one side in a short time, with nothing on the other side in between, is what a strategy
looks like that does not see what it has done. RTS 6 (EU 2017/589), article 15(3), asks for a throttle on how often a
strategy may be applied before a person has to enable it again.
"""

from bisect import bisect_right, insort

import msgspec

from daemon.domain.market import NS_PER_S
from daemon.domain.orders import Side

WINDOW_NS = 300 * NS_PER_S
"""Length of the window in which executions are counted."""
REPEATS = 20
"""Executions of one symbol and side in the window that disable decisions, unless configured otherwise."""


class RepeatsState(msgspec.Struct, frozen=True):
    """Times in ns of the executions that still count, by symbol, oldest first."""

    buys: dict[str, tuple[int, ...]] = {}
    sells: dict[str, tuple[int, ...]] = {}


class Repeats:
    """Counts executed orders by symbol and side. One order is one execution, however many fills it took.

    Late news is sorted in by its own time, so the order in which executions become known does not matter.
    Memory is bounded by ``most`` times per symbol and side.

    Parameters
    ----------
    most : int
        So many executions within ``WINDOW_NS`` without an opposite one trip the throttle; 0 switches it off.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._times: dict[Side, dict[str, list[int]]] = {side: {} for side in Side}

    def executed(self, symbol: str, side: Side, ts_ns: int) -> bool:
        """Count one executed order at its time in ns; true when the throttle must disable decisions."""
        if not self._most:
            return False
        ours = self._times[side].setdefault(symbol, [])
        others = self._times[opposite(side)].get(symbol, [])
        insort(ours, ts_ns)
        since_ns = max(ours[-1] - WINDOW_NS, others[-1] if others else 0)
        # What left the window or lies before an opposite execution never counts again; the last one may yet be such an
        # opposite itself.
        kept = max(1, min(len(ours) - bisect_right(ours, since_ns), self._most))
        del ours[:-kept]
        return ours[0] > since_ns and len(ours) >= self._most

    def clear(self) -> None:
        """Forget everything: a person has looked and lets the strategy go on."""
        for times in self._times.values():
            times.clear()

    def snapshot(self) -> RepeatsState:
        """Return what must survive a restart."""
        return RepeatsState(_kept(self._times[Side.BUY]), _kept(self._times[Side.SELL]))

    def restore(self, state: RepeatsState) -> None:
        """Take over what ``snapshot`` returned."""
        self._times = {
            Side.BUY: {symbol: list(times) for symbol, times in state.buys.items()},
            Side.SELL: {symbol: list(times) for symbol, times in state.sells.items()},
        }


def _kept(times: dict[str, list[int]]) -> dict[str, tuple[int, ...]]:
    return {symbol: tuple(times[symbol]) for symbol in sorted(times)} if times else {}


def opposite(side: Side) -> Side:
    """Return the other side."""
    return Side.SELL if side is Side.BUY else Side.BUY
