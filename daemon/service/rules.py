"""Reading the venue's trading rules again when it refused an order for breaking them (P12, F26)."""

import asyncio
from functools import partial

import structlog

from daemon.domain.errors import ConfigError
from daemon.domain.ports import Emit
from daemon.edge.market import MarketData
from daemon.service.upkeep import until

log = structlog.get_logger("ballast")

REREAD_S_MIN = 10.0
"""Between two readings: the rules cost weight 20, and what they do not explain is not explained by reading faster."""


class Rules:
    """Reads the rules when somebody doubts them; one eternal task.

    ``universe`` are the symbols whose rules are read; they reach the engine as one ``Listed``.
    """

    def __init__(
        self, market: MarketData, emit: Emit, universe: tuple[str, ...], *, pause_s: float = REREAD_S_MIN
    ) -> None:
        self._market = market
        self._emit = emit
        self._universe = universe
        self._pause_s = pause_s
        self._doubt = asyncio.Event()

    def doubt(self) -> None:
        """Have the rules read again soon: an order broke one of them."""
        self._doubt.set()

    async def run(self) -> None:
        """Wait for doubt, read, pause; for ever."""
        while True:
            await self._doubt.wait()
            self._doubt.clear()
            log.warning("rules read again", why="the exchange refused an order for breaking them")
            try:
                self._emit(await until(partial(self._market.instruments, self._universe), "trading rules"))
            except ConfigError as error:
                log.error("rules", error=str(error))
            await asyncio.sleep(self._pause_s)
