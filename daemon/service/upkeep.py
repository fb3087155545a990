"""What goes on beside the line for ever: comparing with the venue, its clock, its rules, candles of other lengths."""

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import structlog

from daemon.core.config import EngineConfig
from daemon.domain.errors import ConfigError, Transient
from daemon.domain.events import Effect, Link, Listed, Recorded
from daemon.domain.market import NS_PER_S
from daemon.domain.orders import OrderState
from daemon.domain.ports import Emit, Venue
from daemon.edge.clock import Clock
from daemon.edge.market import MarketData
from daemon.service.steady import STEP_NS, SteadyClock

log = structlog.get_logger("ballast")

RECONCILE_S = 30.0
CLOCK_S = 60.0
CLOCK_WRONG_S = 5.0
"""How often the venue's clock is measured while ours is wrong or unknown; never more often."""
CLOCK_AGAIN_S = 20.0
"""How soon after a measurement that found it right another may be asked for: by a machine whose clock stays set wrong, say."""
RULES_S = 1_800.0
RULES_HALTED_S = 60.0
"""How often the rules are read while a symbol is not traded: its return is told by nothing else."""
RETRY_S = 2.0
WRONG_TIME = "-1021"
"""The venue's word for a timestamp that is not its own time."""
QUIET_S_MAX = 5.0
"""A pause that the venue asks for and that is longer than this is REST down."""
FAILURES_MAX = 3
"""After so many requests in a row that failed the venue is asked at once whether it is still there."""
DAY_NS = 86_400 * NS_PER_S
HOUR_NS = 3_600 * NS_PER_S
DAILY_BARS = 365
HOURLY_BARS = 15
CANDLE_LATE_S = 30.0
"""How long after its close a candle of another length is fetched."""

T = TypeVar("T")


async def until(ask: Callable[[], Awaitable[T]], what: str) -> T:
    """Ask again and again until the venue answers: an unreachable exchange is waited for, in HALTED."""
    while True:
        try:
            return await ask()
        except Transient as error:
            log.warning("waiting for the exchange", wanted=what, error=str(error))
            await asyncio.sleep(RETRY_S)


async def rules_of(market: MarketData, config: EngineConfig) -> Listed:
    """Return the trading rules of the universe and of what has left it, as far as the exchange has it still.

    What it has no more and is held all the same must not keep the others unguarded: it is told, stays in the books, and
    nothing can be done with it here. Raises ConfigError for a symbol of the universe that the exchange does not have.
    """
    listed = await until(partial(market.instruments, config.watched, leaving=config.leaving), "trading rules")
    if gone := sorted(set(config.leaving) - {one.symbol for one in listed.instruments}):
        log.error(
            "not listed",
            symbols=gone,
            effect="held, but without price and rules: not guarded, not sold; equity is unknown, so nothing is bought",
            remedy="sell, convert or withdraw it at the exchange by hand; in paper, begin a new state folder",
        )
    return listed


class Upkeep:
    """Holds the chores; each method is one eternal task.

    ``hourly`` says whether hourly candles are wanted (the volatility stop), ``on_offset`` takes the venue's clock minus ours.
    """

    def __init__(
        self,
        *,
        universe: tuple[str, ...],
        hourly: bool,
        market: MarketData,
        venue: Venue,
        emit: Emit,
        clock: Clock,
        on_offset: Callable[[int], None],
    ) -> None:
        """Start with a venue that is believed to be there."""
        self._universe = universe
        self._hourly = hourly
        self._market = market
        self._venue = venue
        self._emit = emit
        self._clock = clock
        self._on_offset = on_offset
        self._failures = 0
        self._now = asyncio.Event()
        self._clock_now = asyncio.Event()
        self._rules_now = asyncio.Event()
        self._rest_up = True
        self._quiet = False
        self._writable = True

    # ------------------------------------------------------------------ comparing

    async def reconcile(self) -> None:
        """Compare at start and then continuously; a venue that does not answer is REST down until it does (F16)."""
        while True:
            self._now.clear()
            try:
                await self._venue.reconcile()
            except Transient as error:
                log.warning("reconcile", error=str(error))
                self._rest(up=False, detail=str(error))
                await asyncio.sleep(RETRY_S)
                continue
            if not self._market.quiet_s:  # in paper nothing is asked: a ban may last all the same
                self._rest(up=True, detail="")
            try:
                await asyncio.wait_for(self._now.wait(), RECONCILE_S)
            except TimeoutError:
                continue

    def hurry(self) -> None:
        """Compare now: something happened that makes what we know doubtful."""
        self._now.set()

    def asked(self, outcome: str) -> None:
        """Take the outcome of any request: several failures in a row are a reason to compare now."""
        self._failures = 0 if outcome == "ok" else self._failures + 1
        if self._failures == FAILURES_MAX:
            self.hurry()

    def _rest(self, *, up: bool, detail: str) -> None:
        if up != self._rest_up:
            self._rest_up = up
            self._emit(Link("rest", up, detail, self._clock.now_ns()))

    # ------------------------------------------------------------------ the venue's clock and rules

    async def follow_clock(self) -> None:
        """Measure the venue's clock every minute, and when ours was found to have been set; not more often than it helps.

        While it is wrong, or unknown, it is measured more often: nothing is bought until it is right again.
        """
        wait_s = CLOCK_S
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._clock_now.wait(), wait_s)
            self._clock_now.clear()
            wait_s, pause_s = 0.0, CLOCK_WRONG_S
            with contextlib.suppress(Transient):  # told by whoever counts requests
                offset_ns = await self._market.clock_offset()
                self._on_offset(offset_ns)
                if abs(offset_ns) <= STEP_NS:
                    wait_s, pause_s = CLOCK_S - CLOCK_AGAIN_S, CLOCK_AGAIN_S
            await asyncio.sleep(pause_s)  # what asks for a measurement meanwhile gets it then

    def look(self, *, writable: bool) -> None:
        """Look around once a second.

        A ledger that cannot be written halts (F48), a clock that was set is measured now, and a venue that wants quiet for long
        is REST down (F9): what waits for its end fails nowhere, so nobody else would tell.
        """
        quiet_s = self._market.quiet_s
        if quiet_s > QUIET_S_MAX:
            self._rest(up=False, detail=f"the exchange has told us to send nothing for another {math.ceil(quiet_s)} s")
        elif self._quiet and not quiet_s:
            self.hurry()  # it is over: a comparison says whether all is well again
        self._quiet = quiet_s > 0
        if writable != self._writable:
            self._writable = writable
            detail = "" if writable else "the ledger cannot be written"
            self._emit(Link("ledger", writable, detail, self._clock.now_ns()))
        if isinstance(self._clock, SteadyClock) and self._clock.stepped():
            self._clock_now.set()

    def watch(self, effect: Effect) -> None:
        """Look at what happens: a refused order is a reason to read the rules now (P12, F26), a refused time to measure (F47)."""
        if not isinstance(effect, Recorded):
            return
        if effect.update.state is OrderState.REJECTED:
            self._rules_now.set()
        if effect.update.code == WRONG_TIME:
            self._clock_now.set()

    async def follow_rules(self) -> None:
        """Refresh the trading rules: halts, delistings, new steps (F26).

        A refused order is a reason to do so at once; while refusals go on and the rules stay as they are, less often.
        """
        wait_s, known = RULES_S, None
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._rules_now.wait(), wait_s)
            self._rules_now.clear()
            pause_s = 5 * RETRY_S
            try:
                listed = await until(partial(self._market.instruments, self._universe), "trading rules")
                self._emit(listed)
                wait_s = RULES_S if all(one.trading for one in listed.instruments) else RULES_HALTED_S
                if listed.instruments != known:
                    known, pause_s = listed.instruments, RETRY_S
            except ConfigError as error:
                log.error("rules", error=str(error))
            await asyncio.sleep(pause_s)

    # ------------------------------------------------------------------ candles of other lengths

    async def candles(self) -> None:
        """Fetch daily candles for CVaR, hourly ones for the volatility stop; again after each has closed."""
        while True:
            for symbol in self._universe:
                try:
                    self._emit(await until(partial(self._market.candles, symbol, DAY_NS, DAILY_BARS), "daily candles"))
                    if self._hourly:
                        hourly = partial(self._market.candles, symbol, HOUR_NS, HOURLY_BARS)
                        self._emit(await until(hourly, "hourly candles"))
                except ConfigError as error:  # delisted meanwhile: the others' candles must come all the same
                    log.error("candles", symbol=symbol, error=str(error))
            period_ns = HOUR_NS if self._hourly else DAY_NS
            left_ns = period_ns - self._clock.now_ns() % period_ns
            await asyncio.sleep(left_ns / NS_PER_S + CANDLE_LATE_S)
