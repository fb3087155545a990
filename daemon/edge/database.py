"""Where a ledger lies, whose it is, and connections to it: a SQLite file, or a schema of a PostgreSQL database."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry, StaticPool

LEDGER_FILE: Final = "ballast.db"
BUSY_S_MAX: Final = 0.2
"""How long a database waits for another process's lock on what we want to write."""
CAUSE_CHARS_MAX: Final = 300
SQLITE_PREFIX: Final = "sqlite:///"
SCHEMA_PREFIX: Final = "ballast_"
"""Each mode has a schema of its own in a PostgreSQL database, as it has a folder of its own on disk."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a ledger lies; as text it never shows a password.

    ``path`` is the SQLite file; without one, ``server`` holds libpq's connection parameters and ``schema`` the tables'.
    """

    path: Path | None = None
    server: Mapping[str, str] = {}
    schema: str = ""

    def __str__(self) -> str:
        """Return the file, or host, database and schema."""
        if self.path is not None:
            return str(self.path)
        known = self.server
        user = f"{known['user']}@" if "user" in known else ""
        port = f":{known['port']}" if "port" in known else ""
        where = (
            known.get("host") or known.get("hostaddr") or (f"service {known['service']}" if "service" in known else "")
        )
        return f"postgresql://{user}{where}{port}/{known.get('dbname', '')} (schema {self.schema})"

    def __repr__(self) -> str:
        """Return the same: a traceback or a log may show it."""
        return f"Place({self})"


class LedgerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where the ledger lies and whose it is.

    ``folder`` is ``<state_dir>/<mode>``; ``at`` another place than the file in it; ``account`` the hash of the API key
    ("" in paper, where none is read); ``lock_folder`` replaces the machine's lock folder (tests). The stamps go into
    every order row.
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
    at: Place | None = None

    @property
    def path(self) -> Path:
        """Return the database file that is used unless ``at`` says otherwise."""
        return self.folder / LEDGER_FILE

    @property
    def place(self) -> Place:
        """Return where the ledger lies."""
        return self.at or Place(path=self.path)


def place_of(url: str, *, folder: Path, mode: str, password: str = "") -> Place:
    """Return the place that ``ledger.url`` names: "" is the file in ``folder``.

    Parameters
    ----------
    url
        "", ``sqlite:///file``, or a connection URI as libpq takes it (several hosts, ``sslmode``, a service …).
    folder
        ``<state_dir>/<mode>``.
    mode
        Names the schema.
    password
        From a file; else the URI's, else libpq finds one by itself (PGPASSWORD, a passfile).

    Raises
    ------
    ConfigError
        The URI cannot be read.
    """
    if not url:
        return Place(path=folder / LEDGER_FILE)
    if url.startswith(SQLITE_PREFIX):
        return Place(path=Path(url.removeprefix(SQLITE_PREFIX)))
    from daemon.edge.postgres import parameters  # noqa: PLC0415 (the driver is loaded where it is needed)

    server = parameters(url)
    return Place(server=server | ({"password": password} if password else {}), schema=f"{SCHEMA_PREFIX}{mode}")


def engine_of(place: Place, *, read_only: bool = False, owner: str = "") -> Engine:
    """Return an engine with one connection; ``owner`` is the name that others see on the server."""
    if place.path is not None:
        return sqlite_engine(place.path, read_only=read_only)
    from daemon.edge.postgres import postgres_engine  # noqa: PLC0415

    return postgres_engine(place, read_only=read_only, owner=owner)


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
    cause: Any = getattr(error, "orig", None) or error
    words = str(cause).split("\nLINE ")[0] if "connection" not in str(cause) else " ".join(str(cause).split())
    return f"{type(cause).__name__}: {words}".splitlines()[0][:CAUSE_CHARS_MAX]
