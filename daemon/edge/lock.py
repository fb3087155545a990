"""One writer per account: locks that the operating system releases when their holder dies."""

import fcntl
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Final

from daemon.domain.errors import AlreadyRunning, ConfigError

MACHINE_FOLDERS: Final = ("/run/lock", "/var/lock")
"""Where Linux keeps locks that all users share; the temporary folder stands in where neither can be written."""


def machine_lock_path(venue: str, key_hash: str, *, folder: Path | None = None) -> Path:
    """Return the path of the machine-wide lock of one account.

    Parameters
    ----------
    venue
        Id of the exchange.
    key_hash
        Hash of the API key; the key itself never comes here.
    folder
        Another folder than the machine's own.
    """
    if folder is None:
        # A sandbox (systemd's ProtectSystem=strict, a read-only image) may close the shared folders to us.
        known = [Path(name) for name in MACHINE_FOLDERS if os.access(name, os.W_OK | os.X_OK)]
        folder = known[0] if known else Path(tempfile.gettempdir())
    name = hashlib.sha256(f"{venue}\n{key_hash}".encode()).hexdigest()[:16]
    return folder / f"ballast-{name}.lock"


class ProcessLock:
    """An exclusive flock on a file that holds its owner's process id."""

    def __init__(self, path: Path, *, what: str) -> None:
        """Name the file and, for messages, ``what`` it protects."""
        self.path = path
        self.what = what
        self._fd = -1

    @property
    def held(self) -> bool:
        """Say whether this object holds the lock."""
        return self._fd >= 0

    def acquire(self) -> None:
        """Take the lock or raise.

        Raises
        ------
        AlreadyRunning
            Another process holds it; the message names its id.
        ConfigError
            The file can be neither opened nor made.
        """
        if self.held:
            return
        fd = self._open()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise AlreadyRunning(
                f"{self.what} is held by another instance (process {holder}, lock {self.path}); stop it first"
            ) from None
        except OSError as error:
            os.close(fd)
            raise ConfigError(
                f"lock {self.path}: {error.strerror}; put state_dir on a file system that can lock"
            ) from error
        self._fd = fd
        self._sign()

    def release(self) -> None:
        """Give the lock back; the file stays, since removing it would let two owners in."""
        if self.held:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> int:
        # A file made by another user may be readable only; flock asks for no more than that.
        attempts = (os.O_RDWR, os.O_RDONLY, os.O_RDWR | os.O_CREAT)
        failure: OSError | None = None
        for flags in attempts:
            try:
                return os.open(self.path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            except OSError as error:
                failure = error
        reason = failure.strerror if failure else "unknown"
        raise ConfigError(f"lock {self.path}: {reason}; make its folder writable or choose another state_dir")

    def _sign(self) -> None:
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            return  # opened read-only: the lock counts, the name in it is a courtesy
