"""The synchronous half of the ledger: one connection, owned by one thread."""

import threading
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

from sqlalchemy import Connection, insert, text, update
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError, StatementError

from daemon.core.books import Books
from daemon.domain.errors import AlreadyRunning, ConfigError, Fatal, Transient
from daemon.domain.events import Booked, Restored, Submit
from daemon.domain.orders import OrderState
from daemon.edge import crash, fence, tables
from daemon.edge import ledger_rows as rows
from daemon.edge.clock import Clock
from daemon.edge.database import LedgerConfig, brief
from daemon.edge.lease import Lease
from daemon.edge.ledger_open import own, restored
from daemon.edge.migrate import migrate

CHECK_BYTES_MAX: Final = 64 * 1024 * 1024
"""Up to this size the start verifies indexes too; larger files get the quick check."""

Row = rows.Written
T = TypeVar("T")


class Written(NamedTuple):
    """How far a write came: rows done, those among them that no table takes (with the reason), and what stopped it."""

    done: int
    refused: tuple[tuple[Row, str], ...]
    error: BaseException | None


class Ticket:
    """Decides, once, whether a commit was in time: whoever comes first wins."""

    def __init__(self) -> None:
        """Start undecided."""
        self._lock = threading.Lock()
        self._word = ""

    def abandon(self) -> bool:
        """Give the commit up; false when it has landed already."""
        return self._decide("abandoned")

    def land(self) -> bool:
        """Say that the commit is durable; false when it had been given up."""
        return self._decide("landed")

    @property
    def abandoned(self) -> bool:
        """Say whether the commit was given up."""
        return self._word == "abandoned"

    def _decide(self, word: str) -> bool:
        with self._lock:
            if not self._word:
                self._word = word
            return self._word == word


class Superseded(AlreadyRunning):
    """Another instance has taken the ledger over: whatever this one still wanted to write is refused."""


class LedgerLost(Fatal):
    """What the database had confirmed is not in it any more."""


class Store:
    """The database and the locks around it; every method runs in the ledger's thread, `cut` in any."""

    def __init__(self, config: LedgerConfig, *, clock: Clock) -> None:
        self.config = config
        self.model_hash = ""
        self.first_start = True
        self.healthy = True
        self.moved = ""
        self._opened = False
        self._ours: Connection | None = None  # the connection whose session has every lock
        self.lease = Lease(config)
        self._clock = clock
        self._server = config.place.path is None
        self._epoch = 0
        self._book = 1
        self._books = Books(config.quote)
        self._late: list[str] = []  # intents still to be marked DENIED
        self._newest = ""  # the intent that was committed last
        self._batches = 0
        self._confirmed = ""  # the mark of the batch that was written last
        self._unsure: _Batch | None = None  # a batch whose commit was not answered

    @property
    def _connection(self) -> Connection | None:
        return self.lease.connection

    # ------------------------------------------------------------------ opening

    def open(self) -> Restored:
        """Lock, verify, migrate, raise the epoch durably and read what is remembered."""
        holder = self.lease.take()
        if holder:
            raise AlreadyRunning(holder)
        connection = self.lease.connect()
        if not self._server:
            self._verify(connection)
        with connection.begin():
            if migrate(connection, self.config.place):
                crash.point("ledger.migrate.open")
        crash.point("ledger.epoch.before")
        with connection.begin():
            self._epoch, self._book, self.moved = own(connection, self.config)
            crash.point("ledger.epoch.open")
        crash.point("ledger.epoch.after")
        self._opened, self._ours = True, connection
        with connection.begin():
            self._books = rows.read_books(connection, self.config.quote, self._book)
            self.first_start = not self._books.flows or not rows.opened(connection, self._book, quote=self.config.quote)
            return restored(connection, self._books, epoch=self._epoch, book=self._book, now_ns=self._clock.now_ns())

    def _verify(self, connection: Connection) -> None:
        path = self.config.place.path
        large = path is not None and path.exists() and path.stat().st_size > CHECK_BYTES_MAX
        try:
            word = connection.scalar(text("PRAGMA quick_check(1)" if large else "PRAGMA integrity_check(1)"))
        except SQLAlchemyError as error:
            word = brief(error)
        connection.rollback()
        if word != "ok":
            word = " ".join(str(word).split())  # SQLite tells in several lines
            raise ConfigError(
                f"ledger {path} is damaged ({word}); it is kept as it is: move it away, restore a backup, "
                "or start without it and let reconciliation adopt the account"
            )

    def close(self) -> None:
        """Close the database, then let go of the locks; whoever comes later finds it closed, and does not open it again."""
        self._opened = False
        self.lease.release()

    # ------------------------------------------------------------------ being the one writer

    def _live(self) -> Connection:
        """Return the connection; a server's that was lost is made anew, if the ledger is still ours."""
        connection = self.lease.connection
        if not self._opened:
            raise ConfigError(f"ledger {self.config.place} is not open")
        if connection is None or connection.invalidated or connection is not self._ours:
            connection = self._ours = self._rejoin()
        return connection

    def _rejoin(self) -> Connection:
        """Take the locks again after a lost connection; the epoch tells whether somebody had them meanwhile."""
        self.healthy = False
        try:
            connection = self.lease.connect()
        except ConfigError as error:  # in the middle of a failover, say: what would end a start is waited for here
            raise Transient(str(error)) from error
        with connection.begin():
            self._hold(connection)
        holder = self.lease.take()
        if holder:
            raise Transient(holder)  # our own session, which the server has not missed yet, or one that takes over now
        with connection.begin():
            self._hold(connection)
            mark = fence.batch_mark(connection)
            there = not self._newest or bool(fence.found(connection, [self._newest]))
        known = {self._confirmed, self._unsure.mark if self._unsure else self._confirmed}
        if not there or (mark not in known and self._confirmed):
            raise LedgerLost(
                f"ledger {self.config.place}: what the server had confirmed is not there any more (was a replica that "
                "lagged made the primary?); start again, the exchange is asked what happened"
            )
        return connection

    def _hold(self, connection: Connection) -> None:
        """Refuse to go on unless the epoch is ours; until the transaction ends nobody else can raise it."""
        epoch = connection.scalar(fence.EPOCH_LOCKED)
        if epoch != str(self._epoch):
            raise Superseded(
                f"ledger {self.config.place}: another instance has taken over (epoch {epoch}, ours is {self._epoch}); "
                "this one stops"
            )

    @property
    def quiet(self) -> bool:
        """Say whether there is nothing to tend: a file, and the last write was fine."""
        return self.healthy and not self._server

    def tend(self) -> None:
        """Say to the server that we live and see that the ledger is ours; after a failed write, try one that is harmless."""
        connection = self._live()
        try:
            with connection.begin():
                self._hold(connection)
                if not self.healthy:
                    probe = update(tables.meta).where(tables.meta.c.key == "instance")
                    connection.execute(probe.values(value=self.config.instance))
        except SQLAlchemyError as error:
            self._failed(error)
            raise
        self.healthy = True

    def _failed(self, error: Exception) -> None:
        self.healthy = False
        self.lease.noticed(error)

    # ------------------------------------------------------------------ writing

    def commit(self, submit: Submit, ticket: Ticket) -> bool:
        """Write a decision, its refusals and its intents; true when durable and still wanted."""
        if ticket.abandoned:
            return False
        names = [one.intent.client_id for one in submit.approved]
        try:
            connection = self._live()
            self._deny_late(connection)
            crash.point("ledger.commit.before")
            with connection.begin():
                self._write_submit(connection, submit)
                crash.point("ledger.commit.open")
                if ticket.abandoned:
                    raise _AbandonedError
        except _AbandonedError:
            return False
        except SQLAlchemyError as error:
            self._failed(error)
            if self.lease.lost:
                self._late.extend(names)  # the answer to the commit may be what was lost
            elif isinstance(error, IntegrityError):
                with self._live().begin():
                    self._hold(self._live())
            raise
        crash.point("ledger.commit.after")
        self.healthy = True
        self._newest = names[-1] if names else self._newest
        if ticket.land():
            return True
        self._late.extend(names)
        self._deny_late(connection)
        return False

    def _write_submit(self, connection: Connection, submit: Submit) -> None:
        """Write the rows of a decision; each INSERT fails by itself when the epoch is not ours any more (F46)."""
        held = {"held": str(self._epoch)}
        decision = {"id": submit.decision, "record": submit.record_json, "ts_ns": self._clock.now_ns()}
        connection.execute(fence.decision_insert(connection), {**decision, **held})
        if submit.refused:
            connection.execute(insert(tables.refusals), [rows.refusal_row(submit, one) for one in submit.refused])
        if submit.approved:
            stamp = {
                **held,
                "config_hash": self.config.config_hash,
                "model_hash": self.model_hash,
                "code_version": self.config.code_version,
            }
            connection.execute(fence.INTENT_INSERT, [{**rows.intent_row(one), **stamp} for one in submit.approved])

    def _deny_late(self, connection: Connection) -> None:
        """Mark intents that became durable after nobody waited for them, before anything else is done."""
        if self._late:
            column = tables.intents.c
            late = update(tables.intents).where(
                column.client_id.in_(self._late),
                column.epoch == self._epoch,
                column.state == OrderState.SENDING.value,
            )
            with connection.begin():
                connection.execute(late.values(state=OrderState.DENIED.value, code="commit_late"))
            self._late.clear()

    def write(self, batch: list[Row]) -> Written:
        """Write rows in order, in one transaction; singly, to find it, when one of them is at fault itself."""
        connection = self._live()
        landed = self._landed(connection)
        if landed:
            return Written(landed, (), None)
        try:
            self._deny_late(connection)
            self._write_all(connection, batch)
        except StatementError as error:
            if not about_the_row(error):
                self._doubt(error)
                return Written(0, (), error)
        else:
            self.healthy = True
            return Written(len(batch), (), None)
        refused: list[tuple[Row, str]] = []
        for done, row in enumerate(batch):
            try:
                self._write_all(connection, [row])
            except StatementError as error:
                if not about_the_row(error):
                    self._doubt(error)
                    return Written(done, tuple(refused), error)
                refused.append((row, brief(error)))
        return Written(len(batch), tuple(refused), None)

    def _write_all(self, connection: Connection, batch: list[Row]) -> None:
        """Write rows in one transaction; once it is durable, count the new ones in."""
        crash.point("ledger.rows.before")
        with connection.begin():
            self._hold(connection)
            new = [row for row in batch if rows.write_row(connection, row, self._book)]
            crash.point("ledger.rows.open")
            self._batches += 1
            written = _Batch(f"{self._epoch}-{self._batches}", len(batch), new)
            if self._server:
                fence.mark_batch(connection, written.mark)
                self._unsure = written
        crash.point("ledger.rows.after")
        self._count(written)

    def _count(self, written: "_Batch") -> None:
        """Take a batch that is durable into the books."""
        self._unsure = None
        self._confirmed = written.mark if self._server else ""
        for row in written.new:
            if isinstance(row, Booked) and row.fill is not None:
                self._books.book_fill(row.fill)
            if isinstance(row, Booked) and row.flow is not None:
                self._books.book_flow(row.flow)

    def _doubt(self, error: Exception) -> None:
        """Keep a batch in doubt only when the connection died, perhaps after the server had committed it."""
        self.lease.noticed(error)
        if not self.lease.lost:
            self._unsure = None

    def _landed(self, connection: Connection) -> int:
        """Return how many rows of the batch in doubt are in the database after all, 0 when they must be written again."""
        unsure = self._unsure
        if unsure is None:
            return 0
        with connection.begin():
            mark = fence.batch_mark(connection)
        self._unsure = None  # not before: without an answer the batch stays in doubt
        if mark != unsure.mark:
            return 0
        self._count(unsure)
        return unsure.rows

    # ------------------------------------------------------------------ reading

    def books(self) -> Books:
        """Return what all flows and fills written so far add up to."""
        return self._books.copy()

    def read(self, query: Callable[[Connection, int], T]) -> T:
        """Run a query with (connection, book) in a transaction of its own."""
        connection = self._live()
        try:
            with connection.begin():
                return query(connection, self._book)
        except SQLAlchemyError as error:
            self.lease.noticed(error)
            raise


class _Batch(NamedTuple):
    """Rows of one transaction: its mark in the database, how many, and those of them that were not there before."""

    mark: str
    rows: int
    new: list[Row]


class _AbandonedError(Exception):
    """Rolls a transaction back that nobody waits for any more."""


def about_the_row(error: StatementError) -> bool:
    """Say whether the row is at fault (a value no column takes), not the database: repeating would not help."""
    return isinstance(error, IntegrityError | DataError) or not isinstance(error, DBAPIError)
