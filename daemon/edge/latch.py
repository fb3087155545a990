"""The kill latch: a file that stops every order, survives restarts and needs no part of the daemon to work."""

import contextlib
import os
from pathlib import Path
from typing import Final

from daemon.edge import crash

NAME: Final = "KILL"


class KillLatch:
    """The file ``<state_dir>/KILL``; its presence is what counts, its text is for people.

    Setting it writes a temporary file, syncs, renames and syncs the folder, so that a power cut leaves either no latch
    or a whole one.
    """

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / NAME
        self._name = os.fspath(self.path)
        self._loose = False

    def is_set(self) -> bool:
        """Say whether orders are forbidden; a few microseconds. What cannot be read counts as set."""
        try:
            os.stat(self._name)  # noqa: PTH116 (Path.stat costs five times as much on the order path)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return True

    def set(self, detail: str) -> None:
        """Latch durably; setting it again keeps the first detail.

        Where the disk refuses the text or the sync, the latch is made all the same: it holds for every process and most
        likely over a restart, only not over a power cut. Setting it again tries to make it durable.

        Raises
        ------
        OSError
            The state directory cannot be written, or the latch is there and not durable.
        """
        if self.path.exists():
            if self._loose:
                self._sync(self.path)
                self._loose = False
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        crash.point("latch.before")
        temporary = self.path.with_name(f".{NAME}.{os.getpid()}")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, f"{detail}\n".encode())
            os.fsync(fd)
        except OSError:
            self._loose = True
            raise
        finally:
            os.close(fd)
            crash.point("latch.written")
            temporary.replace(self.path)
        self._sync_folder()
        crash.point("latch.after")

    def detail(self) -> str:
        """Return why the latch was set, "" when it is not set or cannot be read."""
        try:
            return self.path.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""

    def lift(self) -> bool:
        """Remove the latch durably; false when it was not set. Only a person on the host does this."""
        if not self.path.exists():
            return False
        self.path.unlink()
        self._sync_folder()
        return True

    def _sync_folder(self) -> None:
        with contextlib.suppress(OSError):  # some file systems cannot sync a folder; the rename stands
            self._sync(self.path.parent)

    @staticmethod
    def _sync(path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
