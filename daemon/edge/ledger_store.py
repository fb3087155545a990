"""The synchronous half of the ledger: one connection, owned by one thread."""

import threading
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import Connection, Engine, func, insert, select, text, update
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError, StatementError

from daemon.domain.errors import ConfigError
from daemon.domain.events import Booked, Restored, Submit
from daemon.domain.orders import OrderRecord, OrderState
from daemon.edge import crash, tables
from daemon.edge import ledger_rows as rows
from daemon.edge.books import Books
from daemon.edge.clock import Clock
from daemon.edge.database import brief, sqlite_engine
from daemon.edge.lock import ProcessLock, machine_lock_path

CHECK_BYTES_MAX: Final = 64 * 1024 * 1024
"""Up to this size the start verifies indexes too; larger files get the quick check."""

Row = rows.Written
FILL_KEYS_MAX: Final = 20_000
"""Newest executions whose ids are handed to the engine, so that none is booked again after a restart."""


class LedgerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where the ledger lies and whose it is.

    ``folder`` is ``<state_dir>/<mode>``; ``account`` the hash of the API key ("" in paper, where none is read);
    ``lock_folder`` replaces the machine's lock folder (tests). The stamps go into every order row.
    """

    folder: Path
    instance: str
    mode: str
    venue: str
    quote: str
    account: str = ""
    config_hash: str = ""
    code_version: str = ""
    lock_folder: Path | None = None

    @property
    def path(self) -> Path:
        """Return the database file."""
        return self.folder / "ballast.db"


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


class Store:
    """The database and the locks around it; every method runs in the ledger's thread."""

    def __init__(self, config: LedgerConfig, *, clock: Clock) -> None:
        self.config = config
        self.model_hash = ""
        self.first_start = True
        self.healthy = True
        self._clock = clock
        self._engine: Engine | None = None
        self._connection: Connection | None = None
        self._epoch = 0
        self._book = 1
        self._books = Books(config.quote)
        self._locks: list[ProcessLock] = []
        self._late: list[str] = []  # intents still to be marked DENIED

    # ------------------------------------------------------------------ opening

    def open(self) -> Restored:
        """Lock, verify, migrate, raise the epoch durably and read what is remembered."""
        self._lock()
        self._engine = sqlite_engine(self.config.path)
        self._connection = self._engine.connect()
        self._verify(self._connection)
        with self._connection.begin():
            tables.META.create_all(self._connection)
        crash.point("ledger.epoch.before")
        with self._connection.begin():
            self._own(self._connection)
            crash.point("ledger.epoch.open")
        crash.point("ledger.epoch.after")
        return self._restore(self._connection)

    def _lock(self) -> None:
        config = self.config
        try:
            config.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"state_dir: {config.folder} cannot be made ({error.strerror}); choose a folder that can be written"
            ) from error
        self._take(ProcessLock(config.folder / "lock", what=f"ledger {config.folder}"))
        if config.account:
            path = machine_lock_path(config.venue, config.account, folder=config.lock_folder)
            self._take(ProcessLock(path, what=f"account on {config.venue}"))

    def _take(self, lock: ProcessLock) -> None:
        lock.acquire()
        self._locks.append(lock)

    def _verify(self, connection: Connection) -> None:
        path = self.config.path
        large = path.exists() and path.stat().st_size > CHECK_BYTES_MAX
        try:
            word = connection.scalar(text("PRAGMA quick_check(1)" if large else "PRAGMA integrity_check(1)"))
        except SQLAlchemyError as error:
            word = brief(error)
        connection.rollback()
        if word != "ok":
            raise ConfigError(
                f"ledger {path} is damaged ({word}); it is kept as it is: move it away, restore a backup, "
                "or start without it and let reconciliation adopt the account"
            )

    def _own(self, connection: Connection) -> None:
        config = self.config
        known = dict(connection.execute(select(tables.meta.c.key, tables.meta.c.value)).all())
        schema = int(known.get("schema", tables.SCHEMA_VERSION))
        if schema > tables.SCHEMA_VERSION:
            raise ConfigError(
                f"ledger {config.path} has schema {schema}, this version knows {tables.SCHEMA_VERSION}; "
                "run the version that wrote it or a newer one"
            )
        self._book = int(known.get("book", "1"))
        identity = {"venue": config.venue, "account": config.account, "mode": config.mode, "quote": config.quote}
        changed = [key for key, value in identity.items() if known.get(key, value) != value]
        if changed:
            self._change(connection, known, changed)
        self._epoch = int(known.get("epoch", "0")) + 1
        wanted = {
            **identity,
            "schema": str(tables.SCHEMA_VERSION),
            "epoch": str(self._epoch),
            "book": str(self._book),
            "instance": config.instance,
        }
        for key, value in wanted.items():
            if key in known:
                connection.execute(update(tables.meta).where(tables.meta.c.key == key).values(value=value))
            else:
                connection.execute(insert(tables.meta).values(key=key, value=value))

    def _change(self, connection: Connection, known: dict[str, str], changed: list[str]) -> None:
        """Refuse another quote, venue, account or mode while anything is held; else a new book begins."""
        books = rows.read_books(connection, known["quote"], self._book)
        waiting = rows.unfinished(connection)
        words = ", ".join(
            f"{key} {known[key] or 'none'!r} to {getattr(self.config, key) or 'none'!r}" for key in changed
        )
        held = sorted(books.positions)
        if held or waiting:
            what = f"positions are held ({', '.join(held[:5])})" if held else f"{len(waiting)} orders are open"
            raise ConfigError(
                f"ledger {self.config.path}: {words} is refused while {what}; flatten under the old configuration first, "
                "or choose another state_dir"
            )
        self._book += 1

    def _restore(self, connection: Connection) -> Restored:
        books = self._books = rows.read_books(connection, self.config.quote, self._book)
        state_json = connection.scalar(select(tables.state.c.value).where(tables.state.c.key == "engine")) or ""
        self.first_start = not books.flows or not rows.opened(connection, self._book, quote=self.config.quote)
        waiting = rows.unfinished(connection)
        fill_keys = rows.recent_fills(connection, self._book, limit=FILL_KEYS_MAX)
        connection.rollback()
        return Restored(
            epoch=self._epoch,
            cash=books.cash,
            positions=tuple(sorted(books.positions.items())),
            entries=tuple(sorted(books.entries.items())),
            orders=tuple(as_unknown(record) for record in waiting),
            state_json=state_json,
            ts_ns=self._clock.now_ns(),
            fill_keys=fill_keys,
        )

    def close(self) -> None:
        """Close the database, then let go of the locks."""
        try:
            if self._connection is not None:
                self._connection.close()
            if self._engine is not None:
                self._engine.dispose()
        finally:
            self._connection = None
            self._engine = None
            for lock in reversed(self._locks):
                lock.release()
            self._locks.clear()

    # ------------------------------------------------------------------ writing

    def commit(self, submit: Submit, ticket: Ticket) -> bool:
        """Write a decision, its refusals and its intents; true when durable and still wanted."""
        if ticket.abandoned:
            return False
        connection = self._open_connection()
        try:
            self._deny_late(connection)
            crash.point("ledger.commit.before")
            with connection.begin():
                self._write_submit(connection, submit)
                crash.point("ledger.commit.open")
                if ticket.abandoned:
                    raise _AbandonedError
        except _AbandonedError:
            return False
        except SQLAlchemyError:
            self.healthy = False
            raise
        crash.point("ledger.commit.after")
        self.healthy = True
        if ticket.land():
            return True
        self._late.extend(one.intent.client_id for one in submit.approved)
        self._deny_late(connection)
        return False

    def _write_submit(self, connection: Connection, submit: Submit) -> None:
        decision = {
            "id": submit.decision,
            "epoch": self._epoch,
            "record": submit.record_json,
            "ts_ns": self._clock.now_ns(),
        }
        connection.execute(rows.insert_once(connection, tables.decisions), decision)
        if submit.refused:
            connection.execute(insert(tables.refusals), [rows.refusal_row(submit, one) for one in submit.refused])
        if submit.approved:
            stamp = {
                "epoch": self._epoch,
                "config_hash": self.config.config_hash,
                "model_hash": self.model_hash,
                "code_version": self.config.code_version,
            }
            connection.execute(insert(tables.intents), [{**rows.intent_row(one), **stamp} for one in submit.approved])

    def _deny_late(self, connection: Connection) -> None:
        """Mark intents that became durable after nobody waited for them, before anything else is done."""
        if self._late:
            late = update(tables.intents).where(tables.intents.c.client_id.in_(self._late))
            with connection.begin():
                connection.execute(late.values(state=OrderState.DENIED.value, code="commit_late"))
            self._late.clear()

    def write(self, batch: list[Row]) -> Written:
        """Write rows in order, in one transaction; singly, to find it, when one of them is at fault itself."""
        connection = self._open_connection()
        try:
            self._deny_late(connection)
            self._write_all(connection, batch)
        except StatementError as error:
            if not about_the_row(error):
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
                    return Written(done, tuple(refused), error)
                refused.append((row, brief(error)))
        return Written(len(batch), tuple(refused), None)

    def _write_all(self, connection: Connection, batch: list[Row]) -> None:
        """Write rows in one transaction; once it is durable, count the new ones in."""
        crash.point("ledger.rows.before")
        with connection.begin():
            new = [row for row in batch if rows.write_row(connection, row, self._book)]
            crash.point("ledger.rows.open")
        crash.point("ledger.rows.after")
        for row in new:
            if isinstance(row, Booked) and row.fill is not None:
                self._books.book_fill(row.fill)
            if isinstance(row, Booked) and row.flow is not None:
                self._books.book_flow(row.flow)

    # ------------------------------------------------------------------ reading

    def books(self) -> Books:
        """Return what all flows and fills written so far add up to."""
        return self._books.copy()

    def unfinished(self) -> list[OrderRecord]:
        """Return orders that may still change money; ``filled`` is what is booked."""
        with self._open_connection().begin():
            return rows.unfinished(self._open_connection())

    def known_trades(self, symbol: str, trade_ids: tuple[str, ...]) -> set[str]:
        """Return those trade ids that are booked."""
        with self._open_connection().begin():
            return rows.known_trades(self._open_connection(), self._book, symbol=symbol, trade_ids=trade_ids)

    def known_flows(self, details: tuple[str, ...]) -> set[str]:
        """Return those of the details under which a flow is booked already."""
        with self._open_connection().begin():
            return rows.known_flows(self._open_connection(), self._book, details)

    def first_flow(self) -> int:
        """Return when the books were opened (ns UTC), 0 when they were not."""
        with self._open_connection().begin():
            return rows.first_flow(self._open_connection(), self._book)

    def last_trades(self) -> dict[str, int]:
        """Return the newest numeric trade id of each symbol."""
        with self._open_connection().begin():
            return rows.last_trades(self._open_connection(), self._book)

    def find_orders(self, client_ids: tuple[str, ...]) -> dict[str, OrderRecord]:
        """Return the orders known under these client ids; ``filled`` is what is booked."""
        query = select(tables.intents).where(tables.intents.c.client_id.in_(client_ids))
        with self._open_connection().begin():
            found = rows.orders_booked(self._open_connection(), query)
        return {record.intent.client_id: record for record in found}

    def find_venue_ids(self, symbol: str, venue_ids: tuple[str, ...]) -> dict[str, OrderRecord]:
        """Return the orders of a symbol known under these ids of the venue; ``filled`` is what is booked."""
        column = tables.intents.c
        query = select(tables.intents).where(column.symbol == symbol, column.venue_id.in_(venue_ids))
        with self._open_connection().begin():
            found = rows.orders_booked(self._open_connection(), query)
        return {record.venue_id: record for record in found}

    def traded_symbols(self) -> dict[str, int]:
        """Return every symbol with an intent, and the time of its first one."""
        column = tables.intents.c
        with self._open_connection().begin():
            found = self._open_connection().execute(
                select(column.symbol, func.min(column.ts_ns)).group_by(column.symbol)
            )
            return {symbol: int(first) for symbol, first in found}

    def _open_connection(self) -> Connection:
        if self._connection is None:
            raise ConfigError(f"ledger {self.config.path} is not open")
        return self._connection


class _AbandonedError(Exception):
    """Rolls a transaction back that nobody waits for any more."""


def as_unknown(record: OrderRecord) -> OrderRecord:
    """Return the order as recovery must see it: without evidence, or short of fills, its fate is unknown."""
    if record.state is OrderState.ACKED:
        return record
    return msgspec.structs.replace(record, state=OrderState.UNKNOWN)


def about_the_row(error: StatementError) -> bool:
    """Say whether the row is at fault (a value no column takes), not the database: repeating would not help."""
    return isinstance(error, IntegrityError | DataError) or not isinstance(error, DBAPIError)
