"""Who may use the loop when much arrives at once: orders leave first, trades are heard in between, answers come last.

A hundred orders bring some four hundred answers and reports. Handled as they come, they stand between the first order and
the last, and whole batches of them between one trade and the next. So each waits for its turn.
"""

import asyncio
from collections import deque
from typing import Final

PER_TURN: Final = 3
"""Answers and reports handled between two turns of the loop, about 0.2 ms each."""
HOLD_S_MAX: Final = 0.1
"""Longest time for which news waits while orders leave; beyond it both take turns."""


class Turns:
    """Gives turns in the order of asking: a few per turn of the loop, none while orders are leaving."""

    def __init__(self) -> None:
        """Start with nobody waiting."""
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._holds = 0
        self._held_until_s = 0.0
        self._next: asyncio.Handle | None = None

    def hold(self) -> None:
        """Let nobody have a turn until ``release``; may be nested."""
        self._holds += 1
        if self._holds == 1:
            self._held_until_s = asyncio.get_running_loop().time() + HOLD_S_MAX

    def release(self) -> None:
        """Undo one ``hold``."""
        self._holds -= 1
        if not self._holds:
            self._go_on()

    async def turn(self) -> None:
        """Wait for a turn; whoever is cancelled meanwhile holds nobody up."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        if self._next is None:
            self._go_on()
        await future

    def _go_on(self) -> None:
        """Give the next turns in the next turn of the loop, or when the orders that leave have had their time."""
        loop = asyncio.get_running_loop()
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if not self._waiting:
            return
        if self._holds and loop.time() < self._held_until_s:
            self._next = loop.call_at(self._held_until_s, self._give)
        else:
            self._next = loop.call_soon(self._give)

    def _give(self) -> None:
        self._next = None
        given = 0
        while self._waiting and given < PER_TURN:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                given += 1
        self._go_on()
