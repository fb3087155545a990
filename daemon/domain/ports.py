"""The seams between the engine's effects and the world. One Protocol per real seam, no more.

``emit`` is how an edge hands an event back: ``Callable[[Event], None]``, called in the event loop's thread,
processed at once, in order.
"""

from collections.abc import Callable
from typing import Protocol

from daemon.domain.events import Booked, Event, Persist, Recorded, Restored, Submit
from daemon.domain.orders import Approved

Emit = Callable[[Event], None]


class Venue(Protocol):
    """Where approved orders go: ccxt (live) or the matching model on live data (paper)."""

    async def send(self, approved: Approved) -> None:
        """Send one approved order once; news comes back as ``OrderUpdate`` and ``Fill`` events, never as an exception."""
        ...

    async def cancel(self, client_id: str, symbol: str) -> None:
        """Cancel one order; "unknown order" means query, not gone."""
        ...

    async def cancel_all(self) -> int:
        """Cancel every open order of ours and return how many the venue still shows."""
        ...

    async def resolve(self, client_id: str, symbol: str, sent_ns: int) -> None:
        """Query until the order is found or proven absent; report as ``OrderUpdate`` and ``Fill`` events."""
        ...

    async def reconcile(self) -> None:
        """Compare orders, fills and balances with the ledger; emit what was missing, then one ``Reconciled``."""
        ...

    async def close(self) -> None:
        """Release sockets and tasks."""
        ...


class Ledger(Protocol):
    """Durable memory. Synchronous inside one thread of its own; these coroutines await that thread."""

    async def open(self) -> Restored:
        """Lock, migrate, raise the epoch durably and return what is remembered. Raises AlreadyRunning, ConfigError."""
        ...

    async def commit(self, submit: Submit) -> bool:
        """Make the intents durable (state SENDING) in one transaction; false when it could not within the limit."""
        ...

    def record(self, effect: Booked | Recorded | Persist) -> None:
        """Queue a row that follows the venue's truth; written in order, retried, never dropped."""
        ...

    async def close(self) -> None:
        """Write what is queued and close."""
        ...
