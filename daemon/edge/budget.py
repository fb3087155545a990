"""The venue's request weight (A5): what is left of it goes to cancels and questions about our orders first.

Binance counts weight by calendar minute and says with every answer how much of this minute's is used. History, repairs
and candles stop at 60 % of it, new orders at 80 %; cancels, questions about orders, and orders that reduce exposure do
not stop before the venue says so itself.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from daemon.edge.clock import Clock

DATA_SHARE: Final = 0.6
ORDER_SHARE: Final = 0.8
MINUTE_NS: Final = 60_000_000_000
MARGIN_S: Final = 1.0
"""The venue's minute begins a little before or after ours: clocks may differ by half a second (P10)."""

BULK: Final = frozenset({"publicGetKlines", "publicGetAggTrades", "publicGetTrades", "publicGetHistoricalTrades"})
"""Endpoints of data in quantity; one row of them is a question (is the silence of a symbol real?), not data."""


class Budget:
    """Knows the limit once the rules are read, and what is used of the minute that runs.

    Without a limit (``limit`` 0: not published, or not read yet) nothing is held back.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.limit = 0
        self._used = 0
        self._minute = 0

    def see(self, used: int) -> None:
        """Take the venue's word on the weight used so far in this minute."""
        self._used, self._minute = used, self._clock.now_ns() // MINUTE_NS

    @property
    def used(self) -> int:
        """Return the weight used in the minute that runs, as far as we were told."""
        return self._used if self._clock.now_ns() // MINUTE_NS == self._minute else 0

    @property
    def share(self) -> float | None:
        """Return the share in use, None while the limit is not known."""
        return self.used / self.limit if self.limit > 0 else None

    def wait_s(self, share: float) -> float:
        """Return for how long what may use up to ``share`` of the weight must wait, 0 when it may go."""
        if self.limit <= 0 or self.used < share * self.limit:
            return 0.0
        return (MINUTE_NS - self._clock.now_ns() % MINUTE_NS) / 1e9 + MARGIN_S

    async def wait(self, share: float) -> None:
        """Wait until that much is free."""
        while (left := self.wait_s(share)) > 0:  # noqa: ASYNC110 (others may use up the new minute meanwhile)
            await asyncio.sleep(left)


def share_of(endpoint: str, params: Mapping[str, object]) -> float:
    """Return up to which share of the weight a request for market data may go."""
    return DATA_SHARE if endpoint in BULK and params.get("limit") != 1 else 1.0
