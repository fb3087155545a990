"""Exits under way: positions that must go, retried rung by rung until they are gone (FAULTS A8)."""

from dataclasses import dataclass

from daemon.domain.orders import Cause

RUNG_NS = 1_000_000_000
"""Pause between two attempts of one exit, so that the book can refill."""

PAGE_AFTER = 5
"""Attempts after which every further one is paged."""


@dataclass(slots=True)
class Exit:
    """One position on its way out."""

    symbol: str
    cause: Cause
    attempt: int
    next_ns: int
    serial: int
    waited: int = 0
    told_ns: int = 0


class Exits:
    """The exits under way, at most one per symbol; plain data, so that they survive a restart."""

    def __init__(self) -> None:
        """Start with none."""
        self.active: dict[str, Exit] = {}
        self._serial = 0

    def start(self, symbol: str, cause: Cause, now_ns: int) -> bool:
        """Begin an exit; false when the symbol is already on its way out."""
        if symbol in self.active:
            return False
        self.active[symbol] = Exit(symbol=symbol, cause=cause, attempt=0, next_ns=now_ns, serial=0)
        return True

    def due(self, now_ns: int) -> list[Exit]:
        """Return the exits whose next attempt is due, in order of symbol."""
        active = self.active
        return [active[symbol] for symbol in sorted(active) if active[symbol].next_ns <= now_ns] if active else []

    def attempted(self, job: Exit, now_ns: int) -> int:
        """Count one attempt and return its number, never used before: not even by a ledger that was lost (ids derive from it)."""
        self._serial = max(self._serial + 1, now_ns)
        job.attempt += 1
        job.serial = self._serial
        job.next_ns = now_ns + RUNG_NS
        return self._serial

    def abandon(self, causes: frozenset[Cause]) -> None:
        """End the exits that began for one of these causes, whatever is left of their positions."""
        self.active = {symbol: job for symbol, job in self.active.items() if job.cause not in causes}

    def finish(self, symbol: str) -> Cause | None:
        """End an exit because the position is gone; return why it had begun."""
        job = self.active.pop(symbol, None)
        return job.cause if job is not None else None

    def snapshot(self) -> dict[str, Cause]:
        """Return the causes by symbol, for persistence."""
        return {symbol: job.cause for symbol, job in sorted(self.active.items())} if self.active else {}

    def restore(self, causes: dict[str, Cause], now_ns: int) -> None:
        """Take up the exits of the last session again."""
        for symbol, cause in causes.items():
            self.start(symbol, cause, now_ns)
