"""Show a process changed copies of files in the files' own places, and tell which files it opens.

Where the system allows it each copy is mounted over its file, in a mount namespace of this process alone: nobody else
sees it, whatever opens the file gets the copy, and it is gone with the process. Elsewhere Python's ``open`` and
pyarrow's readers are led to the copy instead; what opens files by other means then still sees the original.
"""

import builtins
import ctypes
import io
import os
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

CLONE_NEWNS: Final = 0x0002_0000
CLONE_NEWUSER: Final = 0x1000_0000
MS_BIND: Final = 4096
MS_REC: Final = 16_384
MS_PRIVATE: Final = 1 << 18
IN_ACCESS: Final = 0x1
IN_OPEN: Final = 0x20
IN_Q_OVERFLOW: Final = 0x4000
IN_NONBLOCK: Final = os.O_NONBLOCK
EVENT: Final = struct.Struct("iIII")
EVENTS_BYTES: Final = 1 << 16
MOUNT: Final = "mount"
PYTHON: Final = "python"
OPENED_MAX: Final = 200
"""Names of opened files that are kept."""
_OPENERS: Final = (
    ("pyarrow", ("memory_map", "OSFile")),
    ("pyarrow.parquet", ("read_table", "read_pandas", "ParquetFile", "ParquetDataset")),
    ("pyarrow.feather", ("read_table", "read_feather")),
    ("pyarrow.dataset", ("dataset",)),
    ("pyarrow.csv", ("read_csv", "open_csv")),
)
"""Readers that open a path themselves, without Python's ``open``; their first argument names it."""
SYSTEM: Final = ("/proc/", "/sys/", "/dev/", "/usr/", "/lib/", "/etc/", "/run/")
"""What lies here belongs to the machine, not to a strategy,"""
SHARED_MEMORY: Final = "/dev/shm/"  # noqa: S108 - it is looked for in names, nothing is written there
"""except here: a folder in memory holds files like any other."""


class CannotMount(OSError):
    """The system does not let this process mount."""


def show(copies: Sequence[tuple[Path, Path]], *, mount: bool = True) -> str:
    """Show each copy in the place of its original to this process from now on; return how: "mount" or "python".

    The process must have one thread. With ``mount`` False mounting is not tried.
    """
    if not copies:
        return MOUNT
    if mount and sys.platform == "linux":
        try:
            _mount(copies)
        except OSError:
            pass
        else:
            return MOUNT
    _lead({os.path.realpath(original): os.fspath(copy) for original, copy in copies})
    return PYTHON


def _mount(copies: Sequence[tuple[Path, Path]]) -> None:
    """Bind each copy over its original in a mount namespace of our own. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: Any) -> None:
        if getattr(libc, name)(*arguments) != 0:
            code = ctypes.get_errno()
            raise CannotMount(code, os.strerror(code), name)

    user, group = os.getuid(), os.getgid()
    try:
        call("unshare", CLONE_NEWNS)
    except CannotMount:
        call("unshare", CLONE_NEWUSER | CLONE_NEWNS)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    call("mount", b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None)  # what follows stays ours
    for original, copy in copies:
        place = os.fsencode(os.path.realpath(original))
        call("mount", os.fsencode(copy), place, None, ctypes.c_ulong(MS_BIND), None)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:  # noqa: PTH123 - the system's own files
        file.write(text)


def _lead(moves: dict[str, str]) -> None:
    """Lead Python's ``open`` and pyarrow's readers from originals to copies."""

    def moved(path: Any) -> Any:
        if isinstance(path, list | tuple):  # of pieces of one table
            return [moved(one) for one in path]
        if not isinstance(path, str | bytes | os.PathLike):
            return path
        return moves.get(os.path.realpath(os.fsdecode(path)), path)

    def wrap(opener: Callable[..., Any]) -> Callable[..., Any]:
        def opened(source: Any, *arguments: Any, **options: Any) -> Any:
            return opener(moved(source), *arguments, **options)

        return opened

    builtins.open = io.open = wrap(builtins.open)
    os.open = wrap(os.open)
    for name, attributes in _OPENERS:
        try:
            module = __import__(name, fromlist=["_"])
        except ImportError:
            continue
        for attribute in attributes:
            setattr(module, attribute, wrap(getattr(module, attribute)))


class Watch:
    """Which files directly in these folders are opened, by whatever means (inotify); ``ready`` is False where it cannot tell."""

    ready = False

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders: dict[int, Path] = {}
        self._seen: set[str] = set()
        self._fd = -1
        if sys.platform != "linux":
            return
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(IN_NONBLOCK | os.O_CLOEXEC)
        for folder in folders:
            number = libc.inotify_add_watch(self._fd, os.fsencode(folder), IN_OPEN | IN_ACCESS) if self._fd >= 0 else -1
            if number >= 0:
                self._folders[number] = folder
        self.ready = len(self._folders) == len(folders)

    def opened(self) -> tuple[str, ...]:
        """Return the names of the files opened so far, sorted."""
        for number, mask, name in self._events():
            if mask & IN_Q_OVERFLOW:
                self.ready = False
            if number in self._folders and name:
                self._seen.add(name)
        return tuple(sorted(self._seen))

    def _events(self) -> Iterator[tuple[int, int, str]]:
        while self._fd >= 0:
            try:
                data = os.read(self._fd, EVENTS_BYTES)
            except (BlockingIOError, OSError):
                return
            at = 0
            while at + EVENT.size <= len(data):
                number, mask, _cookie, length = EVENT.unpack_from(data, at)
                name = data[at + EVENT.size : at + EVENT.size + length].rstrip(b"\0")
                at += EVENT.size + length
                yield number, mask, os.fsdecode(name)


class Elsewhere:
    """What Python code opens outside its installation and these folders: files, databases, connections.

    Installed once, as an audit hook; it cannot be removed, so it belongs into a process of its own.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        roots = {sys.prefix, sys.base_prefix, sys.exec_prefix, *(os.fspath(one) for one in folders)}
        self._known = tuple(os.path.realpath(root) + os.sep for root in sorted(roots))
        self._seen: dict[str, None] = {}
        self._inside = False
        sys.addaudithook(self._hear)

    def opened(self) -> tuple[str, ...]:
        """Return what was opened, in order, at most ``OPENED_MAX`` names."""
        return tuple(self._seen)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._inside or len(self._seen) >= OPENED_MAX:
            return
        self._inside = True
        try:
            if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
                self._file(os.path.realpath(os.fsdecode(arguments[0])), arguments[1])
            elif event == "sqlite3.connect":
                self._seen[os.fsdecode(arguments[0])] = None
            elif event == "socket.connect":
                self._seen[f"network: {arguments[1]}"] = None
        finally:
            self._inside = False

    def _file(self, path: str, mode: Any) -> None:
        reading = mode is None or (isinstance(mode, str) and not set(mode) & set("wxa"))
        code = path.endswith((".py", ".pyc", ".so", ".pth", ".pyi")) or "__pycache__" in path
        system = path.startswith(SYSTEM) and not path.startswith(SHARED_MEMORY)
        if reading and not code and not system and not path.startswith(self._known) and os.path.isfile(path):  # noqa: PTH113
            self._seen[path] = None
