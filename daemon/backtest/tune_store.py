"""The study in its database: one row per trial in optuna's own schema, so its tools can read it, and one writer at a time.

Each trial carries its ``slot``: its place in the study, 0, 1, 2 … A run that is killed leaves trials RUNNING (or WAITING);
the next one fails them with the attribute ``stale`` and enqueues their slots again. A slot is over when a trial of it is
COMPLETE, PRUNED, or FAIL without ``stale``; so none is ever counted twice.
"""

import contextlib
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import optuna
import sqlalchemy
from optuna.exceptions import OptunaError, StorageInternalError
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from daemon.backtest.tune_sample import DIRECTIONS, Params
from daemon.backtest.tune_space import Space
from daemon.domain.errors import AlreadyRunning, ConfigError, Unreachable
from daemon.edge.lock import ProcessLock
from daemon.edge.postgres import lock_key, try_lock
from daemon.settings_values import hide_password

IDENTITY: Final = "ballast"
"""Attribute of a study: digests of everything its result depends on."""
SLOT: Final = "slot"
STALE: Final = "stale"
CONNECT_S_MAX: Final = 10
SQLITE_PREFIX: Final = "sqlite:///"
BUSY_S_MAX: Final = 30


class Store:
    """A study that is open for writing; made by `open_store`."""

    def __init__(self, study: Study, url: str) -> None:
        self._study = study
        self.url = hide_password(url)
        self.restarted = self._bury()

    def finished(self) -> dict[int, FrozenTrial]:
        """Return what is over, by slot."""
        found: dict[int, FrozenTrial] = {}
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state.is_finished() and not trial.user_attrs.get(STALE) and SLOT in trial.user_attrs:
                found.setdefault(int(trial.user_attrs[SLOT]), trial)
        return found

    def begin(self, slot: int, params: Params, space: Space) -> Trial:
        """Write down that a slot is being tried."""
        self._study.enqueue_trial(params, user_attrs={SLOT: slot})
        trial = self._study.ask(dict(space))
        if trial.user_attrs.get(SLOT) != slot or trial.params != params:
            raise ConfigError(
                f"{self.url}: another program writes into this study (slot {slot} came back as {trial.user_attrs}); "
                "end it, or choose another --name"
            )
        return trial

    def end(
        self, trial: Trial, state: TrialState, values: tuple[float, ...] | None, attributes: Mapping[str, Any]
    ) -> None:
        """Write down how a trial ended; what it found is written before, so a finished trial is never without it."""
        for name, value in attributes.items():
            trial.set_user_attr(name, value)
        self._study.tell(trial, values=values, state=state)

    def _bury(self) -> int:
        """Fail what an earlier run left open; return how many trials."""
        buried = 0
        while any(trial.state is TrialState.WAITING for trial in self._study.get_trials(deepcopy=False)):
            self._study.ask()  # the only way from WAITING to an end leads through RUNNING
        for frozen in self._study.get_trials(deepcopy=False):
            if frozen.state is TrialState.RUNNING:
                trial = Trial(self._study, frozen._trial_id)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
                trial.set_user_attr(STALE, True)
                self._study.tell(frozen.number, state=TrialState.FAIL)
                buried += 1
        return buried


@contextlib.contextmanager
def open_store(url: str, *, name: str, identity: Mapping[str, str]) -> Generator[Store]:
    """Open a study, or make it, and keep every other writer out meanwhile.

    Parameters
    ----------
    url
        ``sqlite:///file`` or ``postgresql://user@host/database``.
    name
        Of the study: a database may hold many.
    identity
        Digest or value of each thing that the result depends on.

    Raises
    ------
    ConfigError
        The URL cannot be used, or a study of that name was made from other inputs; says which.
    AlreadyRunning
        Another process works on it.
    Unreachable
        The database does not answer, or stopped doing so: what was told is kept, the same command goes on.
    """
    try:
        path = _sqlite_path(url)
        with _alone(url, name, path):
            storage = _storage(url, path)
            try:
                yield Store(_study(storage, name, identity), url)
            finally:
                storage.remove_session()
                storage.engine.dispose()
    except (StorageInternalError, SQLAlchemyError) as error:
        cause = error.__cause__ or error
        said = hide_password(" ".join(str(getattr(cause, "orig", None) or cause).split()))[:300]
        raise Unreachable(
            f"study {hide_password(url)}: the database cannot be used ({said}); "
            "what was finished is kept: run the same command again to go on"
        ) from None


def _study(storage: RDBStorage, name: str, identity: Mapping[str, str]) -> Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=list(DIRECTIONS),
            sampler=RandomSampler(seed=0),  # never asked: every trial comes with its parameters
            load_if_exists=True,
        )
    except OptunaError as error:
        if isinstance(error, StorageInternalError):
            raise
        raise ConfigError(f"study {name!r}: {error}; choose another --name") from None
    known: dict[str, str] | None = study.user_attrs.get(IDENTITY)
    if known is None:
        if study.get_trials(deepcopy=False) or [one.name.lower() for one in study.directions] != list(DIRECTIONS):
            raise ConfigError(f"study {name!r} was not made by `ballast tune`; choose another --name")
        study.set_user_attr(IDENTITY, dict(identity))
    elif known != identity:
        other = ", ".join(sorted(key for key in {*known, *identity} if known.get(key) != identity.get(key)))
        raise ConfigError(
            f"study {name!r} was begun with other inputs ({other}): its trials cannot be compared with new ones; "
            "choose another --name"
        )
    return study


def _sqlite_path(url: str) -> Path | None:
    """Return the file of a SQLite study, its folder made; None for a server. Raises ConfigError when there can be none."""
    if not url.startswith(SQLITE_PREFIX):
        return None
    path = Path(url.removeprefix(SQLITE_PREFIX))
    if not path.name or path.is_dir():
        raise ConfigError(f"--study {url}: names no file; write sqlite:///folder/study.db")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--study {url}: {error.strerror or error}; choose a folder this user may write") from None
    return path


def _storage(url: str, path: Path | None) -> RDBStorage:
    if path is not None:
        return RDBStorage(url, engine_kwargs={"connect_args": {"timeout": BUSY_S_MAX}})
    return RDBStorage(_driver(url), engine_kwargs={"connect_args": {"connect_timeout": CONNECT_S_MAX}})


@contextlib.contextmanager
def _alone(url: str, name: str, path: Path | None) -> Generator[None]:
    """Hold a lock that ends with this process: a file beside the file, or an advisory lock on the server."""
    if path is not None:
        lock = ProcessLock(path.with_name(f"{path.name}.lock"), what=f"study {path}")
        lock.acquire()
        try:
            yield
        finally:
            lock.release()
        return
    if urlsplit(url).scheme not in {"postgresql", "postgresql+psycopg"}:
        raise ConfigError(f"--study {hide_password(url)}: must be sqlite:///file or postgresql://user@host/database")
    engine = sqlalchemy.create_engine(
        _driver(url),
        isolation_level="AUTOCOMMIT",
        connect_args={"connect_timeout": CONNECT_S_MAX, "application_name": f"ballast tune {name}"},
    )
    try:
        with engine.connect() as connection:
            if not try_lock(connection, lock_key("tune", name)):
                raise AlreadyRunning(
                    f"study {name!r}: another process works on it; wait for it, or choose another --name"
                )
            yield
    finally:
        engine.dispose()


def _driver(url: str) -> str:
    """Return the URL with the driver that is installed."""
    return url.replace("postgresql://", "postgresql+psycopg://", 1)
