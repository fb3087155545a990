"""The in-flight monitor (A4): an order without news is asked for, so that a lost report is found within 10 s (F32).

Nothing is concluded from absence here: an order that the venue does not show stays what it is, and its fate is left to
`daemon.edge.evidence`. Requests go through the lane of reads and never delay an order or a cancel.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from daemon.domain.errors import Transient
from daemon.domain.orders import OrderState
from daemon.edge.clock import Clock
from daemon.edge.evidence import Evidence
from daemon.edge.tracker import Tracked, Tracker
from daemon.edge.venue_calls import VenueCalls

WATCH_S: Final = 1.0
"""How often live orders are looked over."""
IMMEDIATE_NS_MAX: Final = 2_000_000_000
SENDING_NS_MAX: Final = 3_000_000_000
RESTING_NS_MAX: Final = 5_000_000_000
"""An order is asked for after so long without an end or an answer."""
SYNC_NS: Final = 300_000_000_000
"""How often the venue's clock is measured again: ours may drift."""
ASKED_AT_ONCE: Final = 10
"""Orders asked for in one look, each at a weight of 4; with more of them one list (a weight of 80) comes first."""
PAUSE_S_MAX: Final = 30.0
"""Longest pause between two looks while the venue does not answer."""
WATCHED: Final = frozenset({OrderState.SENDING, OrderState.ACKED})


class InFlight:
    """Looks after orders that should have made themselves heard.

    Parameters
    ----------
    sync_clock
        Measures the venue's clock; called now and then.
    """

    def __init__(
        self,
        calls: VenueCalls,
        *,
        tracker: Tracker,
        evidence: Evidence,
        clock: Clock,
        sync_clock: Callable[[], Awaitable[None]],
    ) -> None:
        self._calls = calls
        self._tracker = tracker
        self._evidence = evidence
        self._clock = clock
        self._sync_clock = sync_clock
        self._log = structlog.get_logger("ballast")

    async def run(self) -> None:
        """Look for ever; pauses grow while the venue does not answer."""
        synced_ns = self._clock.mono_ns()
        pause_s = WATCH_S
        while True:
            await asyncio.sleep(pause_s)
            if self._clock.mono_ns() - synced_ns > SYNC_NS:
                synced_ns = self._clock.mono_ns()
                await self._sync_clock()
            try:
                await self.look()
            except Transient as error:
                self._log.warning("orders.watch_failed", error=str(error))
                pause_s = min(pause_s * 2, PAUSE_S_MAX)
            else:
                pause_s = WATCH_S

    async def look(self) -> None:
        """Ask for the orders that have been silent for too long, those asked for longest ago first. Raises Transient."""
        now = self._clock.now_ns()
        silent = [order for order in self._tracker.live if overdue(order, now)]
        if len(silent) > ASKED_AT_ONCE:
            silent = await self._list(silent, now)
        silent = sorted(silent, key=lambda one: one.checked_ns)[:ASKED_AT_ONCE]
        for order in silent:
            order.checked_ns = now
        answers = await asyncio.gather(*(self._evidence.look_up(order) for order in silent), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer

    async def _list(self, silent: list[Tracked], now: int) -> list[Tracked]:
        """Accept what the list of open orders shows of silent orders; return those that it does not show."""
        wanted = {order.client_id: order for order in silent}
        for shown in await self._calls.open_orders():
            order = wanted.pop(shown.client_id, None)
            if order is not None:
                order.checked_ns = now
                await self._evidence.accept(order, shown)
        return list(wanted.values())


def overdue(order: Tracked, now_ns: int) -> bool:
    """Say whether an order that is being sent or acknowledged has been silent for too long."""
    if order.state not in WATCHED:
        return False
    patience = RESTING_NS_MAX if order.rests else IMMEDIATE_NS_MAX
    if order.state is OrderState.SENDING:
        patience = SENDING_NS_MAX
    return now_ns - max(order.sent_ns, order.checked_ns) > patience
