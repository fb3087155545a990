"""The ledger: what must survive the process, durable before any byte is sent.

Everything that touches the database runs in one thread of its own (`Store`); the coroutines here await it. Intents go
through `commit`, which has a time limit; what the venue has already done goes through `record`, which has none: those
rows wait in memory and are retried until they are written.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Final, TypeVar

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from daemon.core.books import Books
from daemon.domain.errors import ConfigError, Fatal, Transient, Unreachable
from daemon.domain.events import Booked, Persist, Recorded, Restored, Submit
from daemon.domain.orders import OrderRecord
from daemon.edge import ledger_rows as rows
from daemon.edge.clock import Clock
from daemon.edge.database import LedgerConfig, brief
from daemon.edge.ledger_store import LedgerLost, Row, Store, Superseded, Ticket, Written

__all__ = ["LedgerConfig", "SqlLedger"]

COMMIT_MS_MAX: Final = 250
"""How long a commit is awaited before its orders are denied."""
BATCH_ROWS_MAX: Final = 128
"""Rows of one write, so that a commit never waits long behind them."""
RETRY_S_MAX: Final = 2.0
"""Longest pause between two attempts to write what must be written."""
CLOSE_S_MAX: Final = 5.0
"""How long `close` waits for the rows that are still queued, and `open` between two words about a server that is away."""
BEAT_S: Final = 2.0
"""How often a server hears from us, and a fault is looked after: several times within `postgres.LEASE_S`."""
STUCK_S_MAX: Final = 30.0
"""A server that leaves us without an answer for so long is asked anew over another connection."""
OPEN_S_MAX: Final = 30.0
"""How long a start waits for a server that does not answer (it may be starting too)."""
OPEN_PAUSE_S: Final = 1.0
FINAL: Final = (Superseded, LedgerLost)
"""After these nothing is written any more: the instance has to end."""

T = TypeVar("T")


class SqlLedger:
    """Durable memory on SQLAlchemy; implements ``daemon.domain.ports.Ledger``.

    Parameters
    ----------
    config
        Where the ledger lies and whose it is.
    clock
        Source of the times that the ledger writes by itself.
    """

    def __init__(self, config: LedgerConfig, *, clock: Clock) -> None:
        self.config = config
        self._clock = clock
        self._store = Store(config, clock=clock)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self._queue: deque[Row] = deque()
        self._idle = asyncio.Event()
        self._idle.set()
        self._failures = 0
        self._closed = False
        self._beat: asyncio.TimerHandle | None = None
        self._asked: tuple[asyncio.Future[None], float] | None = None
        self._stalled: tuple[asyncio.Future[bool], float] | None = None
        self.lost: Fatal | None = None
        self.on_lost: Callable[[Fatal], None] | None = None
        """Told once when another instance has taken over, or the database forgot what it had confirmed."""
        self._log = structlog.get_logger("ballast")

    # ------------------------------------------------------------------ the port

    async def take(self) -> str:
        """Take the locks that `open` needs, keep those that are free, and return who holds the next; "" when all are ours.

        Raises
        ------
        ConfigError
            The database cannot be used.
        Transient
            Its server does not answer.
        """
        try:
            return await self._run(self._store.lease.take)
        except SQLAlchemyError as error:
            words = f"ledger {self.config.place}: {brief(error)}"
            if isinstance(error, DBAPIError) and self._store.lease.refused(error):
                raise ConfigError(f"{words}; correct ledger.url, or the server") from error
            raise Transient(words) from error

    @property
    def folder_held(self) -> bool:
        """Say whether the lock of the state folder is ours, so that its files may be written."""
        return self._store.lease.folder_held

    async def open(self) -> Restored:
        """Lock, migrate, raise the epoch durably and return what is remembered.

        Raises
        ------
        AlreadyRunning
            Another instance holds the ledger or the account.
        ConfigError
            The database is damaged, cannot be written, or belongs to another account while positions are held.
        Unreachable
            Its server did not answer for half a minute.
        """
        place = self.config.place
        try:
            restored = await self._open_patiently() if place.path is None else await self._run(self._store.open)
        except SQLAlchemyError as error:
            await self._run(self._store.close)
            remedy = "look at the server's log" if place.path is None else "free the disk or make it writable"
            raise ConfigError(
                f"ledger {place}: {brief(error)}; it is kept as it is: {remedy}, or restore it from a backup"
            ) from error
        except BaseException:
            await self._run(self._store.close)
            raise
        self._again_in(BEAT_S)
        return restored

    async def _open_patiently(self) -> Restored:
        """Open a ledger on a server, which may be starting or restarting at this moment."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + OPEN_S_MAX
        while True:
            try:
                return await self._run(self._store.open)
            except OperationalError as error:
                words = brief(error)
                if self._store.lease.refused(error):
                    raise
                if loop.time() > deadline:
                    raise Unreachable(
                        f"ledger {self.config.place}: no answer within {OPEN_S_MAX:.0f} s ({words}); "
                        "start the server, or correct ledger.url"
                    ) from error
            self._log.warning("ledger.waiting", ledger=str(self.config.place), error=words)
            await asyncio.sleep(OPEN_PAUSE_S)

    async def commit(self, submit: Submit) -> bool:
        """Make the intents durable (state SENDING) in one transaction; false when it could not within 250 ms.

        After false nothing of it may be sent: a transaction that lands late is marked DENIED before the thread does
        anything else.
        """
        if self.lost is not None:
            return False
        ticket = Ticket()
        work = self._submit(lambda: self._store.commit(submit, ticket))
        try:
            done, _ = await asyncio.wait({work}, timeout=COMMIT_MS_MAX / 1_000)
        except asyncio.CancelledError:
            ticket.abandon()
            raise
        if not done and ticket.abandon():
            self._stalled = work, asyncio.get_running_loop().time()
            work.add_done_callback(self._given_up)
            self._log.error("ledger.commit_late", decision=submit.decision, limit_ms=COMMIT_MS_MAX)
            return False
        try:
            ok = await work
        except FINAL as error:
            self._lose(error)
            return False
        except (SQLAlchemyError, Transient, OSError, ValueError) as error:
            self._log.error("ledger.commit_failed", decision=submit.decision, error=brief(error))
            return False
        return ok

    def _given_up(self, work: asyncio.Future[bool]) -> None:
        """Hear how a commit ended that nobody waits for."""
        failure = None if work.cancelled() else work.exception()
        if isinstance(failure, FINAL):
            self._lose(failure)

    def record(self, effect: Booked | Recorded | Persist) -> None:
        """Queue a row that follows the venue's truth; written in order, retried, never dropped."""
        if isinstance(effect, Booked) and effect.fill is not None and effect.flow is not None:
            self._queue.append(Booked(fill=effect.fill, flow=None))
            effect = Booked(fill=None, flow=effect.flow)
        self._queue.append(effect)
        if self._closed:
            self._log.critical("ledger.row_after_close", row=repr(effect))
        if self._idle.is_set() and not self._closed and self.lost is None:
            self._idle.clear()
            self._drain()

    async def close(self) -> None:
        """Write what is queued and close."""
        if self._closed:
            return
        if self.lost is None:
            await self.flush(CLOSE_S_MAX)
        if self._queue:
            self._log.error("ledger.closed_with_backlog", rows=len(self._queue))
        self._closed = True
        if self._beat is not None:
            self._beat.cancel()
        closing = self._submit(self._store.close)
        if not (await asyncio.wait({closing}, timeout=1.0))[0]:
            self._store.lease.cut()  # the thread waits for a server that does not answer
        await closing
        self._thread.shutdown(wait=False)

    # ------------------------------------------------------------------ for reconciliation, readiness and status
    # Queries raise Transient when the database does not answer.

    @property
    def backlog(self) -> int:
        """Return how many rows wait to be written."""
        return len(self._queue)

    @property
    def writable(self) -> bool:
        """Say whether the last write succeeded."""
        return self._failures == 0 and self._store.healthy and self.lost is None and not self._overdue

    @property
    def first_start(self) -> bool:
        """Say whether this session began without opening balances, or with a part of them (known after `open`).

        They are rows of their own, our quote cash last. A process that ended between them has not traded; the next one
        books what is missing.
        """
        return self._store.first_start

    @property
    def moved(self) -> str:
        """Return which machine and folder had the ledger before, "" when it was this one (known after `open`)."""
        return self._store.moved

    def set_model(self, model_hash: str) -> None:
        """Stamp the rows of later intents with the model that serves."""
        self._store.model_hash = model_hash

    async def flush(self, timeout_s: float) -> bool:
        """Wait until every queued row is written; false when that took longer than ``timeout_s``."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def books(self) -> Books:
        """Return the balances that follow from the rows written so far."""
        return await self._run(self._store.books)

    async def unfinished(self) -> list[OrderRecord]:
        """Return orders that may still change money; their ``filled`` is what is booked."""
        return await self._ask(lambda connection, _book: rows.unfinished(connection))

    async def known_trades(self, symbol: str, trade_ids: tuple[str, ...]) -> set[str]:
        """Return those of the trade ids that are booked already."""
        return await self._ask(
            lambda connection, book: rows.known_trades(connection, book, symbol=symbol, trade_ids=trade_ids)
        )

    async def known_flows(self, details: tuple[str, ...]) -> set[str]:
        """Return those of the details under which a flow is booked already."""
        return await self._ask(lambda connection, book: rows.known_flows(connection, book, details))

    async def first_flow(self) -> int:
        """Return when the books were opened (ns UTC), 0 when they were not."""
        return await self._ask(rows.first_flow)

    async def unexplained(self, since_ns: int) -> dict[str, Decimal]:
        """Return by asset what was booked without an explanation since a time (ns UTC) and not taken back."""
        return await self._ask(lambda connection, book: rows.unexplained(connection, book, since_ns))

    async def last_trades(self) -> dict[str, int]:
        """Return the newest numeric trade id booked for each symbol."""
        return await self._ask(rows.last_trades)

    async def find_orders(self, client_ids: tuple[str, ...]) -> dict[str, OrderRecord]:
        """Return the orders known under these client ids."""
        return await self._ask(lambda connection, _book: rows.find_orders(connection, client_ids))

    async def find_venue_ids(self, symbol: str, venue_ids: tuple[str, ...]) -> dict[str, OrderRecord]:
        """Return the orders of a symbol known under these ids of the venue."""
        return await self._ask(lambda connection, _book: rows.find_venue_ids(connection, symbol, venue_ids))

    async def traded_symbols(self) -> dict[str, int]:
        """Return every symbol an intent was ever made for, with the time of the first one (ns)."""
        return await self._ask(lambda connection, _book: rows.traded_symbols(connection))

    # ------------------------------------------------------------------ the thread

    def _submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _run(self, work: Callable[[], T]) -> T:
        return await self._submit(work)

    async def _read(self, work: Callable[[], T]) -> T:
        """Do what changes nothing; a database that does not answer is a fault that passes."""
        try:
            return await self._submit(work)
        except FINAL as error:
            self._lose(error)
            raise Transient(str(error)) from error
        except SQLAlchemyError as error:
            raise Transient(f"ledger: {brief(error)}") from error

    async def _ask(self, query: Callable[[Connection, int], T]) -> T:
        return await self._read(lambda: self._store.read(query))

    def _lose(self, error: Fatal) -> None:
        """Stop writing for good and tell the daemon, once."""
        if self.lost is None:
            self.lost = error
            self._log.critical("ledger.lost", error=str(error), rows=len(self._queue))
            self._idle.set()
            if self.on_lost is not None:
                self.on_lost(error)

    # ------------------------------------------------------------------ the heartbeat

    @property
    def _overdue(self) -> bool:
        """Say whether a heartbeat, or a commit that was given up, has been without an answer for longer than two beats."""
        long_ago = asyncio.get_running_loop().time() - 2 * BEAT_S
        return any(one is not None and not one[0].done() and one[1] < long_ago for one in (self._asked, self._stalled))

    def _again_in(self, seconds: float) -> None:
        self._beat = asyncio.get_running_loop().call_later(seconds, self._tend)

    def _tend(self) -> None:
        """Let the thread say that we live, and look after a fault; cut the wire of a server that never answers."""
        if self._closed or self.lost is not None:
            return
        self._again_in(BEAT_S)
        if self._asked is None:
            if self._store.quiet:
                return
            work = self._submit(self._store.tend)
            self._asked = work, asyncio.get_running_loop().time()
            work.add_done_callback(self._tended)
        elif asyncio.get_running_loop().time() - self._asked[1] > STUCK_S_MAX:
            self._log.error("ledger.stuck", ledger=str(self.config.place), seconds=STUCK_S_MAX)
            self._store.lease.cut()

    def _tended(self, work: asyncio.Future[None]) -> None:
        self._asked = None
        failure = None if work.cancelled() else work.exception()
        if isinstance(failure, FINAL):
            self._lose(failure)
        elif failure is not None and not self._closed:
            self._log.warning("ledger.unhealthy", error=brief(failure))

    def _drain(self) -> None:
        batch = [self._queue[n] for n in range(min(len(self._queue), BATCH_ROWS_MAX))]
        work = self._submit(lambda: self._store.write(batch))
        work.add_done_callback(self._drained)

    def _drained(self, work: asyncio.Future[Written]) -> None:
        if work.cancelled():
            written = Written(0, (), asyncio.CancelledError())
        else:
            failure = work.exception()
            written = work.result() if failure is None else Written(0, (), failure)
            if isinstance(failure, FINAL):
                self._lose(failure)
                return
        for row, reason in written.refused:
            self._log.critical("ledger.row_refused", row=repr(row), error=reason)
        for _ in range(written.done):
            self._queue.popleft()
        if written.error is None:
            self._failures = 0
            self._again()
            return
        self._failures += 1
        pause = min(RETRY_S_MAX, 0.05 * 2 ** min(self._failures, 8))
        if self._failures in {1, 10, 100} or self._failures % 1_000 == 0:
            self._log.error("ledger.write_failed", rows=len(self._queue), error=brief(written.error), retry_s=pause)
        if not self._closed:
            asyncio.get_running_loop().call_later(pause, self._again)

    def _again(self) -> None:
        if self._queue and not self._closed:
            self._drain()
        else:
            self._idle.set()
