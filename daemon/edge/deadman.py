"""The dead-man switch at the venue (A3): orders that nobody watches any more are cancelled by the venue itself.

A timer at the venue is wound up again and again; when nobody winds it up (the daemon, its machine or its network is gone)
the venue cancels what rests. Through ccxt's ``cancelAllOrdersAfter``, where ``exchange.has`` names it. Binance Spot and
Coinbase have none: there the watchdog process stands in, which lives and dies with the machine.

The timer knows no client ids: it cancels every order of the account. While orders of others rest there it is therefore
not armed, and a person is told.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import structlog

from daemon.domain.errors import Transient
from daemon.domain.events import Link
from daemon.domain.ports import Emit
from daemon.edge.clock import Clock
from daemon.edge.lane import Answer, Lane
from daemon.edge.outcomes import BROKEN, first_line
from daemon.edge.rejects import VENUES

TIMEOUT_S: Final = 60.0
"""How long after the last sign of life the venue cancels."""
REFRESH_S: Final = (15.0, 20.0)
"""Between two signs of life, drawn anew each time; two may be lost before the timer runs out."""
RETRY_S: Final = 2.0
"""After one that failed."""
ANSWER_S: Final = 10.0
"""How long one is waited for; a ban that lasts longer is a failure too."""
DISARM_S: Final = 2.0
"""The same at the end, where others wait for us."""

FEED: Final = "deadman"
"""Name of the link: the engine raises the alert ``dead_man_down`` when it goes down."""
PARAMS: Final[Mapping[str, Mapping[str, str]]] = {"bybit": {"type": "spot"}}
"""What ccxt must be told besides; it takes Bybit's derivatives for meant."""
NO_OFF: Final = frozenset({"bybit"})
"""Venues whose switch cannot be turned off: it watches the private stream and ends with the session."""


def has_switch(exchange: Any) -> bool:
    """Say whether the venue has a dead-man switch that ccxt can reach."""
    return exchange.has.get("cancelAllOrdersAfter") is True


class DeadMan:
    """Keeps the venue's timer wound up; one eternal task with a lane of its own.

    Parameters
    ----------
    lane
        A lane nobody else uses; closed at the end.
    emit
        Gets ``Link("deadman")`` when the switch stops or begins to protect us.
    clock
        Ours.
    others
        Returns how many open orders on the account are not ours.
    leave_armed
        Asked at the end: true keeps the timer running (a kill whose cancels are not confirmed).
    refresh_s
        Shortest and longest time between two signs of life, seconds; tests are in a hurry.
    """

    def __init__(
        self,
        lane: Lane,
        *,
        emit: Emit,
        clock: Clock,
        others: Callable[[], int] = lambda: 0,
        leave_armed: Callable[[], bool] = lambda: False,
        refresh_s: tuple[float, float] = REFRESH_S,
    ) -> None:
        self._lane = lane
        self._venue = str(lane.exchange.id)
        self._emit = emit
        self._clock = clock
        self._others = others
        self._leave_armed = leave_armed
        self._refresh_s = refresh_s
        self._told: str | None = None
        self._log = structlog.get_logger("ballast")
        self._wound = False  # the venue's timer may be running, whether we heard of it or not
        self.armed = False
        """The venue has confirmed that the timer runs."""

    async def run(self) -> None:
        """Wind up for ever; when cancelled, which is the end of a clean stop, disarm and close the lane."""
        self._lane.open()
        low_s, high_s = self._refresh_s
        try:
            while True:
                trouble = await self._look()
                self._tell(trouble)
                await asyncio.sleep(
                    min(RETRY_S, low_s) if trouble and not self._others() else random.uniform(low_s, high_s)
                )
        except asyncio.CancelledError:
            await self._end()
            raise

    async def _look(self) -> str:
        """Give one sign of life, or none while others would suffer; return what is wrong, "" when nothing is."""
        others = self._others()
        if not others:
            self._wound = True
            failure = await self._set(TIMEOUT_S, ANSWER_S)
            self.armed = self.armed or not failure
            return failure
        if self._wound and self._venue not in NO_OFF and not await self._set(0.0, ANSWER_S):
            self._wound = self.armed = False
        state = "stays armed" if self._wound else "is off"
        return f"the switch {state}: it would cancel {others} open orders that are not ours too"

    async def _set(self, timeout_s: float, patience_s: float) -> str:
        """Set the venue's timer, 0 disarms; return why it failed, "" when the venue has confirmed it."""
        exchange = self._lane.exchange
        params = dict(PARAMS.get(self._venue, {}))
        exchange.timeout = min(exchange.timeout, int(patience_s * 1_000))
        try:
            async with asyncio.timeout(patience_s):
                answer = await self._lane.ask(
                    "deadman", lambda: exchange.cancel_all_orders_after(int(timeout_s * 1_000), params)
                )
        except TimeoutError:
            return f"no answer within {patience_s:.0f} s"
        except Transient as error:  # the venue wants quiet for longer than anybody here waits
            return str(error)
        return "" if self._confirmed(answer) else answer.error or f"answered {first_line(answer.reply.body)[:80]!r}"

    def _confirmed(self, answer: Answer) -> bool:
        """Say whether the venue has taken it: ccxt makes nothing of an empty or broken 200."""
        if answer.error or answer.reply.status != 200:
            return False
        try:
            if self._venue in VENUES:
                return not VENUES[self._venue][1](answer.reply.body).codes
            return isinstance(msgspec.json.decode(answer.reply.body), dict)
        except BROKEN:
            return False

    def _tell(self, trouble: str) -> None:
        """Log and report what has changed since the last time."""
        if self._told is None and not trouble:
            self._log.info("deadman.armed", venue=self._venue, timeout_s=TIMEOUT_S)
        if trouble and trouble != self._told:
            self._log.critical("deadman.down", venue=self._venue, why=trouble)
        if bool(trouble) != bool(self._told):
            if not trouble:
                self._log.warning("deadman.up", venue=self._venue)
            self._emit(Link(FEED, not trouble, trouble, self._clock.now_ns()))
        self._told = trouble

    async def _end(self) -> None:
        """Disarm, unless the timer is the last one to see to a kill; then close."""
        try:
            if self._wound and self._leave_armed():
                self._log.warning("deadman.left_armed", venue=self._venue, timeout_s=TIMEOUT_S)
            elif self._wound and self._venue in NO_OFF:
                self._log.warning("deadman.left_armed", venue=self._venue, why="this venue has no way to turn it off")
            elif self._wound:
                failure = await self._set(0.0, DISARM_S)
                self._wound = bool(failure)
                self.armed = self.armed and self._wound
                if failure:
                    self._log.error("deadman.not_disarmed", venue=self._venue, why=failure, timeout_s=TIMEOUT_S)
                else:
                    self._log.info("deadman.disarmed", venue=self._venue)
        finally:
            await self._lane.close()
