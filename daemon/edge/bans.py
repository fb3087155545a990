"""What the venue asked for outlives the process: a ban or Retry-After is kept in a file, so that a restart obeys it too.

A venue counts requests by address, not by key, so every daemon of one user on one machine shares the pause: it lies in
the state folder, which survives a reboot, and in the machine's lock folder, which the others see. An exchange on
loopback is a simulated one, whose port soon belongs to another: its pause stays in the state folder.
"""

import contextlib
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from daemon.edge import crash
from daemon.edge.clock import Clock
from daemon.edge.lock import machine_lock_path

PAUSE_S_MAX: Final = 3 * 86_400.0
"""The longest ban of any venue we know; a file that says more is not believed."""
SHORTER_S: Final = 0.05
"""A pause that lengthens the one on file by less is not worth a write."""
BYTES_MAX: Final = 4_096
NS_PER_S: Final = 1_000_000_000
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})

Signature = tuple[int, int, int]


class Pause(msgspec.Struct, frozen=True):
    """A pause as it lies on file: its end on the wall clock (ns UTC), its length (s), its end on the clock of one boot."""

    until_ns: int
    seconds: float
    boot: str = ""
    mono_until_ns: int = 0


_PAUSE: Final = msgspec.json.Decoder(Pause)


def ban_files(state_dir: Path, venue: str, base_url: str = "", *, shared: Path | None = None) -> tuple[Path, ...]:
    """Return where the pauses of one venue are kept: in the state folder, then in the machine's.

    Parameters
    ----------
    state_dir
        The instance's state folder.
    venue
        Id of the exchange.
    base_url
        Another address than the venue's own, "" for that.
    shared
        Another folder than the machine's own (tests).
    """
    address = urlsplit(base_url)
    name = re.sub(r"[^a-z0-9.-]", "_", f"{venue}-{address.netloc.rpartition('@')[2] or 'own'}".lower())[:100]
    own = state_dir / "bans" / f"{name}.json"
    if address.hostname in LOOPBACK and shared is None:
        return (own,)
    folder = shared or machine_lock_path(venue, "").parent
    return own, folder / f"ballast-ban-{os.geteuid()}-{name}.json"


class Bans:
    """The pauses on file; reading costs a few microseconds per file while nothing changes there.

    Parameters
    ----------
    files
        Where they are kept; the latest end counts. Files that cannot be read, are another user's or make no sense do not.
    clock
        Ours.
    tell
        Takes an event's name and fields: a pause was found on file, or could not be written there.
    """

    def __init__(self, files: tuple[Path, ...], clock: Clock, tell: Callable[..., None] | None = None) -> None:
        self._files = tuple((path, os.fspath(path)) for path in files)
        self._clock = clock
        self._seen: dict[str, tuple[Signature, int]] = {}
        self._boot = _boot_id()
        self._tell = tell or _nobody
        self._writing = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """Return the paths of the files."""
        return tuple(name for _, name in self._files)

    def left_s(self) -> float:
        """Return how many seconds are left of the longest pause on file, 0 when there is none."""
        until_ns = max((self._until_ns(name) for _, name in self._files), default=0)
        return max(until_ns - self._clock.mono_ns(), 0) / NS_PER_S if until_ns else 0.0

    def note(self, seconds: float) -> None:
        """Keep a pause that begins now, durably, unless a longer one is kept already; what cannot be written is logged."""
        seconds = min(seconds, PAUSE_S_MAX)
        with self._writing:
            if seconds > 0 and self.left_s() < seconds - SHORTER_S:
                self._keep(seconds)

    def _keep(self, seconds: float) -> None:
        length_ns = int(seconds * NS_PER_S)
        pause = Pause(
            until_ns=self._clock.now_ns() + length_ns,
            seconds=seconds,
            boot=self._boot,
            mono_until_ns=self._clock.mono_ns() + length_ns,
        )
        crash.point("ban.before")
        for number, (path, _) in enumerate(self._files):
            try:
                _write(path, msgspec.json.encode(pause) + b"\n")
            except OSError as error:
                if not number:  # the machine's folder may be closed to us; the state folder is ours
                    self._tell("ban_not_kept", file=str(path), error=error.strerror, seconds=round(seconds))
        crash.point("ban.after")

    def _until_ns(self, name: str) -> int:
        """Return the end of the pause in a file on our monotonic clock, 0 where there is none."""
        try:
            found = os.stat(name, follow_symlinks=False)  # noqa: PTH116 (five times as fast as Path on the order path)
        except OSError:
            return 0
        signature = (found.st_ino, found.st_mtime_ns, found.st_size)
        known = self._seen.get(name)
        if known is None or known[0] != signature:
            known = self._seen[name] = (signature, self._read(name))
        return known[1]

    def _read(self, name: str) -> int:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return 0
        try:
            if os.fstat(fd).st_uid not in {os.geteuid(), 0}:
                return 0  # in a folder that all may write to, nobody else stops our trading
            pause = _PAUSE.decode(os.read(fd, BYTES_MAX))
        except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError):
            return 0
        finally:
            os.close(fd)
        if not 0 < pause.seconds <= PAUSE_S_MAX:
            return 0
        mono_ns = self._clock.mono_ns()
        if self._boot and pause.boot == self._boot:
            left_ns = pause.mono_until_ns - mono_ns  # whatever was done to the wall clock meanwhile
        else:
            left_ns = pause.until_ns - self._clock.now_ns()
        if left_ns <= 0:
            return 0
        left_ns = min(
            left_ns, int(pause.seconds * NS_PER_S)
        )  # more is left only when the clock was set back: it begins anew
        self._tell("venue_wants_quiet", seconds=round(left_ns / NS_PER_S), file=name)
        return mono_ns + left_ns


def _write(path: Path, text: bytes) -> None:
    """Replace a file durably: whoever reads it finds the old text or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        try:
            os.write(fd, text)
            os.fsync(fd)
        finally:
            os.close(fd)
        crash.point("ban.written")
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    with contextlib.suppress(OSError):  # some file systems cannot sync a folder; the rename stands
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _nobody(_event: str, **_fields: object) -> None:
    """Tell nobody."""


def _boot_id() -> str:
    """Return what names this boot of the machine, "" where nothing does."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()[:64]
    except (OSError, UnicodeError):
        return ""
