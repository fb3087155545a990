"""PostgreSQL under the ledger: its connection, what a session must be set to, and advisory locks."""

import contextlib
import hashlib
import os
import socket
from collections.abc import Iterable
from typing import Any, Final

import psycopg
import psycopg.conninfo
from psycopg.pq import TransactionStatus
from sqlalchemy import BigInteger, Connection, Engine, bindparam, create_engine, event, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from daemon.domain.errors import ConfigError
from daemon.edge.database import BUSY_S_MAX, Place

CONNECT_S_MAX: Final = 3
"""How long one attempt to reach the server may take."""
LEASE_S: Final = 15
"""After so long without a word from us the server ends our session: a frozen holder loses its locks to a standby."""
DEAD_S_MAX: Final = 10
"""How long either side believes in a peer whose machine has gone without saying so."""
VERSION_MIN: Final = 12
IDLE_TIMEOUT_SINCE: Final = 14
READ_ONLY_STATES: Final = frozenset({"25006"})
"""Error codes of a server that has become a replica: another host of the URL may be the primary now."""
REFUSALS: Final = (
    "authentication failed",
    "does not exist",
    "no pg_hba.conf entry",
    "no password supplied",
    "permission denied",
    "not permitted",
)
"""What a server says that will say the same tomorrow; the driver hands on no code for a refused connection."""
NAME_BYTES_MAX: Final = 63


def parameters(url: str) -> dict[str, str]:
    """Return libpq's parameters of a connection URI.

    Raises
    ------
    ConfigError
        It cannot be read; the message does not repeat it, since a part of it may be a password.
    """
    plain = url.replace("postgresql+psycopg://", "postgresql://", 1)
    try:
        found = psycopg.conninfo.conninfo_to_dict(plain)
    except (psycopg.Error, ValueError):
        raise ConfigError(
            "ledger.url: not a connection URI such as postgresql://user@host:5432/database; "
            "percent-encode special characters in it"
        ) from None
    return {key: str(value) for key, value in found.items() if value is not None}


def postgres_engine(place: Place, *, read_only: bool, owner: str) -> Engine:
    """Return an engine whose connections look into the place's schema and commit durably."""
    own: dict[str, Any] = {
        "connect_timeout": CONNECT_S_MAX,
        "application_name": owner.encode()[:NAME_BYTES_MAX].decode(errors="ignore") or "ballast",
        "keepalives_idle": DEAD_S_MAX // 2,
        "keepalives_interval": 1,
        "keepalives_count": DEAD_S_MAX // 2,
        "tcp_user_timeout": DEAD_S_MAX * 1_000,
    }

    def connect() -> "psycopg.Connection[Any]":
        wanted: dict[str, Any] = own | dict(place.server)
        return psycopg.connect(**wanted)

    level: Any = "REPEATABLE READ" if read_only else "READ COMMITTED"  # a reader sees one moment
    engine = create_engine("postgresql+psycopg://", creator=connect, poolclass=NullPool, isolation_level=level)

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _entry: ConnectionPoolEntry) -> None:
        version = connection.info.server_version // 10_000
        with connection.cursor() as cursor:
            for name, value in _session(place, read_only=read_only, version=version):
                cursor.execute("SELECT set_config(%s, %s, false)", (name, value))
        connection.commit()

    return engine


def _session(place: Place, *, read_only: bool, version: int) -> Iterable[tuple[str, str]]:
    """Return the settings of a session, each of which any user may make."""
    yield "search_path", place.schema
    yield "tcp_keepalives_idle", str(DEAD_S_MAX // 2)
    yield "tcp_keepalives_interval", "1"
    yield "tcp_keepalives_count", str(DEAD_S_MAX // 2)
    if read_only:
        yield "default_transaction_read_only", "on"
        return
    yield "lock_timeout", f"{BUSY_S_MAX:.3f}s"
    yield "statement_timeout", "0"
    yield "idle_in_transaction_session_timeout", f"{LEASE_S}s"
    if version >= IDLE_TIMEOUT_SINCE:
        yield "idle_session_timeout", f"{LEASE_S}s"


def verify(connection: Connection, place: Place) -> None:
    """Refuse a server that cannot keep what it confirms; make this session's commits durable.

    Raises
    ------
    ConfigError
        It is too old, a replica, or runs without fsync.
    """
    version = int((connection.dialect.server_version_info or (0,))[0])
    if version < VERSION_MIN:
        raise ConfigError(f"ledger {place}: PostgreSQL {version} is too old; {VERSION_MIN} or newer is needed")
    settings = {name: connection.scalar(select(func.current_setting(name))) for name in ("fsync", "synchronous_commit")}
    if settings["fsync"] != "on":
        raise ConfigError(
            f"ledger {place}: the server runs with fsync = {settings['fsync']} and would lose orders in a power cut; "
            "set fsync = on in postgresql.conf"
        )
    if connection.scalar(select(func.pg_is_in_recovery())):
        raise ConfigError(
            f"ledger {place}: this server is a replica; name the primary, or several hosts with "
            "?target_session_attrs=read-write"
        )
    if settings["synchronous_commit"] == "off":
        connection.execute(select(func.set_config("synchronous_commit", "on", False)))
    connection.commit()


def failed_over(error: DBAPIError) -> bool:
    """Say whether the server has become one that does not write: a new connection may find the one that does."""
    return getattr(error.orig, "sqlstate", None) in READ_ONLY_STATES


def refused(error: DBAPIError) -> bool:
    """Say whether the server turned us away for a reason that waiting does not cure."""
    words = str(error.orig)
    return any(reason in words for reason in REFUSALS)


def owner_name(instance: str) -> str:
    """Return how this process shows on the server, for whoever is refused because of it."""
    return f"ballast {instance} {os.getpid()}@{socket.gethostname()}"


def lock_key(*words: str) -> int:
    """Return the 64-bit key of an advisory lock."""
    return int.from_bytes(hashlib.sha256("\n".join(words).encode()).digest()[:8], "big", signed=True)


def try_lock(connection: Connection, key: int) -> bool:
    """Take an advisory lock until the session ends; false when another session has it."""
    wanted = bindparam("key", key, BigInteger)
    return bool(connection.scalar(select(func.pg_try_advisory_lock(wanted))))


def holder(connection: Connection, key: int) -> str:
    """Return the name of the session that has a lock, "unknown" when it cannot be seen."""
    query = text(
        "SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
        "WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 "
        "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
        "AND ((l.classid::bigint << 32) | l.objid::bigint) = :key"
    ).bindparams(bindparam("key", key, BigInteger))
    return connection.scalar(query) or "unknown"


def cut(connection: Any) -> None:
    """Cut the wire under a connection from another thread, so that whoever waits for the server stops waiting."""
    with contextlib.suppress(psycopg.Error, OSError):
        if connection.pgconn.transaction_status is TransactionStatus.UNKNOWN:
            return
        with socket.socket(fileno=os.dup(connection.pgconn.socket)) as wire:
            wire.shutdown(socket.SHUT_RDWR)
