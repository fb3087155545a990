"""A private PostgreSQL: a server of our own on loopback, started once per session, that may be paused, killed and restarted."""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest

from tests.absent import absent
from tests.places import memory_folder

REMEDY = "PostgreSQL is not installed: apt-get install postgresql"
START_S = 30.0
OWNER = "postgres"
"""Debian's user for it: the server refuses to run as root."""
ROLE = "ballast"
"""An ordinary role, as in production: it owns databases and is no superuser."""
GUARDED = "guarded"
"""A role that needs its password."""
PASSWORD = "MARKERpassw0rdMARKER"


def binaries() -> Path | None:
    """Return the folder of the newest PostgreSQL on this machine."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    one = shutil.which("initdb")
    return Path(one).resolve().parent if one else None


class Server:
    """One server with a data folder of its own."""

    def __init__(self) -> None:
        """Make the data folder; `start` runs the server."""
        folder = binaries()
        assert folder is not None, REMEDY
        self._binaries = folder
        self.folder = Path(tempfile.mkdtemp(prefix="ballast-pg-", dir=memory_folder()))
        self._as: tuple[str, ...] = ()
        if os.geteuid() == 0:
            user = pwd.getpwnam(OWNER)
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._as = ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
        self.data = self.folder / "data"
        self._do("initdb", "-D", self.data, "-U", OWNER, "--auth=trust", "--no-sync", "--no-locale", "--encoding=UTF8")
        (self.data / "pg_hba.conf").write_text(
            f"host all {GUARDED} 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"
            "host replication all 127.0.0.1/32 trust\n"
        )
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.port = int(taken.getsockname()[1])
        self.process: subprocess.Popen[bytes] | None = None
        self.log = self.folder / "log"

    def _do(self, name: str, *arguments: object) -> None:
        done = subprocess.run(
            [*self._as, str(self._binaries / name), *map(str, arguments)], capture_output=True, cwd="/", check=False
        )
        assert done.returncode == 0, done.stderr.decode()

    def start(self) -> Self:
        """Start the server and wait until it answers."""
        assert self.process is None
        options = ("max_connections=40", "shared_buffers=16MB", "deadlock_timeout=200ms")
        command = [str(self._binaries / "postgres"), "-D", str(self.data), "-p", str(self.port), "-h", "127.0.0.1"]
        command += ["-k", "", *(part for option in options for part in ("-c", option))]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([*self._as, *command], stdout=log, stderr=log, cwd="/")
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                self.do("SELECT 1")
                return self
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End the server: SIGINT closes every session at once, SIGKILL is a power cut."""
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(number)
            process.wait(START_S)
            if number is signal.SIGKILL:
                self._orphans()

    def _orphans(self) -> None:
        """Wait until the backends of a killed server have noticed and let go of its memory."""
        deadline = time.monotonic() + START_S
        while _working_in(self.data):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def replica(self) -> "Server":
        """Return a running server that follows this one, which waits for it at every commit from now on."""
        other = Server.__new__(Server)
        other._binaries, other._as, other.process = self._binaries, self._as, None
        other.folder = Path(tempfile.mkdtemp(prefix="ballast-pg-", dir=memory_folder()))
        if self._as:
            shutil.chown(other.folder, OWNER, OWNER)
        other.data, other.log = other.folder / "data", other.folder / "log"
        source = f"postgresql://{OWNER}@127.0.0.1:{self.port}/?application_name=follower"
        other._do("pg_basebackup", "-D", other.data, "-d", source, "-R", "-c", "fast", "--no-sync")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            other.port = int(taken.getsockname()[1])
        other.start()
        self.do("ALTER SYSTEM SET synchronous_standby_names = 'follower'")
        self.do("SELECT pg_reload_conf()")
        deadline = time.monotonic() + START_S
        while not self.do("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"):
            assert time.monotonic() < deadline, other.log.read_text()
            time.sleep(0.02)
        return other

    def promote(self) -> None:
        """Make a replica the primary."""
        self.do("ALTER SYSTEM SET synchronous_standby_names = ''")
        assert self.do("SELECT pg_promote()") == [(True,)]

    def close(self) -> None:
        """End it and remove everything."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Let every process of the server stand still meanwhile."""
        assert self.process is not None
        family = [self.process.pid, *_working_in(self.data)]
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def url(self, database: str = "postgres", *, role: str = ROLE) -> str:
        """Return the connection URI."""
        return f"postgresql://{role}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres", *, role: str = OWNER) -> "psycopg.Connection[tuple[Any, ...]]":
        """Return a connection that commits every statement."""
        return psycopg.connect(self.url(database, role=role), autocommit=True, connect_timeout=5)

    def do(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement as the superuser; return its rows."""
        with self.connect(database) as connection:
            done = connection.execute(statement.encode())
            return done.fetchall() if done.description else []

    def end_sessions(self, database: str) -> int:
        """End every session in a database, as an administrator or a failover would; return how many."""
        mine = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        return len(self.do(f"{mine} WHERE datname = '{database}' AND pid <> pg_backend_pid()"))


def _working_in(folder: Path) -> list[int]:
    """Return the processes whose working folder this is: a server and its backends."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if path.readlink() == folder:
                found.append(int(path.parts[2]))
    return found


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A running server; the test is skipped where PostgreSQL is missing, and fails there under CI."""
    if binaries() is None:
        absent(REMEDY)
    server = Server()
    try:
        server.start()
        server.do(f"CREATE ROLE {ROLE} LOGIN")
        server.do(f"CREATE ROLE {GUARDED} LOGIN PASSWORD '{PASSWORD}'")
        yield server
    finally:
        server.close()


@pytest.fixture
def postgres_database(postgres: Server) -> Iterator[str]:
    """A database of the test's own, owned by the ordinary role; its name."""
    if postgres.process is None:  # a test before this one left it down
        postgres.start()
    name = f"t{secrets.token_hex(6)}"
    postgres.do(f"CREATE DATABASE {name} OWNER {ROLE}")
    yield name
    if postgres.process is None:
        postgres.start()
    postgres.do(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
