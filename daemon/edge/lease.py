"""The right to write one ledger: this machine's locks and, on PostgreSQL, the database's, with the connection they hang on."""

from typing import Any, Final

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from daemon.domain.errors import AlreadyRunning, ConfigError
from daemon.edge.database import LedgerConfig, engine_of
from daemon.edge.lock import ProcessLock, machine_lock_path

ALONE: Final = "stop it first"


class Lease:
    """Locks in a fixed order: the state folder, the file, the account on this machine, the ledger and the account on the server.

    What was taken is kept while the rest is waited for. Every method runs in the ledger's thread, `cut` in any.
    """

    def __init__(self, config: LedgerConfig) -> None:
        """Name the locks; nothing is taken yet."""
        self._config = config
        self._place = config.place
        self._engine: Engine | None = None
        self._keys: tuple[tuple[str, int], ...] = ()
        self._locks: list[ProcessLock] = []
        self.connection: Connection | None = None
        self._wire: Any = None  # the driver's connection to a server

    def take(self) -> str:
        """Take what is missing; return who holds it, "" when everything is ours.

        Raises
        ------
        ConfigError
            A lock or the database cannot be used at all.
        SQLAlchemyError
            The database did not answer.
        """
        for lock in self._process_locks():
            try:
                lock.acquire()
            except AlreadyRunning as error:
                return str(error)
        connection = self.connect()
        for what, key in self._keys:
            from daemon.edge import postgres  # noqa: PLC0415 (there are keys on PostgreSQL only)

            if not postgres.try_lock(connection, key):
                who = postgres.holder(connection, key)
                connection.rollback()
                return f"{what} is held by another instance ({who}); {ALONE}"
            connection.commit()
        return ""

    @property
    def folder_held(self) -> bool:
        """Say whether the state folder is ours already, so that files in it may be written."""
        return bool(self._locks) and self._locks[0].held

    def connect(self) -> Connection:
        """Return the connection, made anew when it was lost."""
        if self.connection is not None and not self.connection.invalidated:
            return self.connection
        self._drop()
        self._engine = self._engine or self._make_engine()
        connection = self._engine.connect()
        if self._place.path is None:
            from daemon.edge import postgres  # noqa: PLC0415

            try:
                postgres.verify(connection, self._place)
            except BaseException:
                connection.close()
                raise
            self._wire = connection.connection.dbapi_connection
        self.connection = connection
        return connection

    @property
    def lost(self) -> bool:
        """Say whether the connection, and with it the server's locks, is gone."""
        return self.connection is not None and self.connection.invalidated

    def noticed(self, error: Exception) -> None:
        """Look at a database error: a server that only reads any more is left, so that the next attempt looks elsewhere."""
        if isinstance(error, DBAPIError) and self._place.path is None and self.connection is not None:
            from daemon.edge import postgres  # noqa: PLC0415

            if postgres.failed_over(error) and not self.connection.invalidated:
                self.connection.invalidate(error)

    def refused(self, error: DBAPIError) -> bool:
        """Say whether a server answered, and will answer the same tomorrow: wrong password, no such database."""
        if self._place.path is not None:
            return True
        from daemon.edge import postgres  # noqa: PLC0415

        return postgres.refused(error)

    def cut(self) -> None:
        """Cut the wire to the server, from any thread: whoever waits for it gets an error."""
        if self._wire is not None:
            from daemon.edge import postgres  # noqa: PLC0415

            postgres.cut(self._wire)

    def release(self) -> None:
        """Close the connection, then let go of the locks."""
        try:
            self._drop()
            if self._engine is not None:
                self._engine.dispose()
        finally:
            self._engine = None
            for lock in reversed(self._locks):
                lock.release()

    def _drop(self) -> None:
        connection, self.connection = self.connection, None
        self._wire = None
        if connection is not None:
            connection.close()

    def _make_engine(self) -> Engine:
        config = self._config
        if self._place.path is not None:
            return engine_of(self._place)
        from daemon.edge import postgres  # noqa: PLC0415

        ledger = (f"ledger {self._place}", postgres.lock_key("ballast ledger", self._place.schema))
        account = (
            f"account on {config.venue}",
            postgres.lock_key("ballast", config.venue, config.account, config.mode),
        )
        self._keys = (ledger, account) if config.account else (ledger,)
        return engine_of(self._place, owner=postgres.owner_name(config.instance))

    def _process_locks(self) -> list[ProcessLock]:
        """Return this machine's locks, made at the first call."""
        if self._locks:
            return self._locks
        config = self._config
        try:
            config.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"state_dir: {config.folder} cannot be made ({error.strerror}); choose a folder that can be written"
            ) from error
        locks = [ProcessLock(config.folder / "lock", what=f"ledger {config.folder}")]
        file = self._place.path
        if file is not None and file.parent != config.folder:
            locks.append(ProcessLock(file.with_name(f"{file.name}.lock"), what=f"ledger {file}"))
        if config.account:
            path = machine_lock_path(config.venue, config.account, folder=config.lock_folder)
            locks.append(ProcessLock(path, what=f"account on {config.venue}"))
        self._locks = locks
        return locks
