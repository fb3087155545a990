"""Connections to the ledger's database."""

from pathlib import Path
from typing import Final
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry, StaticPool

BUSY_S_MAX: Final = 0.2
"""How long SQLite waits for another process's lock on the file."""


def sqlite_engine(path: Path, *, read_only: bool = False) -> Engine:
    """Return an engine with one connection: WAL and a sync on every commit."""
    uri = f"sqlite:///file:{quote(str(path.absolute()))}?mode={'ro' if read_only else 'rwc'}&uri=true"
    engine = create_engine(uri, poolclass=StaticPool, connect_args={"timeout": BUSY_S_MAX, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def connected(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # the driver must not begin transactions by itself
        cursor = connection.cursor()
        if not read_only:
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        # Deferred: reading asks for no lock, so it goes on where writing is impossible.
        connection.exec_driver_sql("BEGIN")

    return engine


def brief(error: BaseException | None) -> str:
    """Return the cause of a database error in one line, without its SQL."""
    cause = getattr(error, "orig", None) or error
    return f"{type(cause).__name__}: {cause}".splitlines()[0]
