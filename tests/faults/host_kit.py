"""What the rows on host and guard need beside the harness: switches, file systems that break, what a process uses."""

import contextlib
import os
import resource
import shutil
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

from tests.e2e.kit import Daemon, Tree, rows, until
from tests.faults.harness import Trial

RESTING: dict[str, Any] = {"execution": {"order": "limit"}}
"""Orders rest at the touch instead of being filled or gone at once."""
OPEN_STATUS = frozenset({"NEW", "PARTIALLY_FILLED"})
INSIDE = "tests.faults.inside"


class Switches:
    """Plants patches of `tests.faults.inside` in the daemons of a trial and throws them one by one."""

    def __init__(self, trial: Trial, *names: str) -> None:
        self.folder = trial.folder / "switches"
        self.folder.mkdir()
        self._trial = trial
        self.planted = {name: trial.patch(f"{INSIDE}:{name}") for name in names}

    def wired(self, daemon: Daemon) -> Daemon:
        """Tell a daemon, before its start, where its switches are."""
        daemon.env["FAULTS_FOLDER"] = str(self.folder)
        return daemon

    def trading(self, *options: object, **changes: Any) -> Daemon:
        """Start the trial's daemon with switches; return it when its first orders have arrived."""
        self._trial.open(*options)
        daemon = self.wired(self._trial.make(**changes)).start().wait_ready()
        self._trial.orders(2)
        return daemon

    def throw(self, name: str, text: object = "", *, wait: bool = True) -> None:
        """Throw a switch and wait until the fault has happened."""
        before = self.planted[name].fired
        draft = self.folder / f".{name}"
        draft.write_text(str(text))
        draft.rename(self.folder / name)
        if wait:
            self.planted[name].wait(before + 1)


def resting(trial: Trial) -> list[Tree]:
    """Return our open orders at the exchange."""
    return [
        one
        for one in trial.exchange.truth()["orders"]
        if one["status"] in OPEN_STATUS and one["client_id"].startswith(trial.prefix)
    ]


def wait_resting(trial: Trial, count: int = 1) -> list[Tree]:
    """Wait until so many of our orders rest."""
    return until(
        lambda: found if len(found := resting(trial)) >= count else [], what=f"{count} resting", why=trial.tail
    )


def children(pid: int) -> list[int]:
    """Return the processes that a process started."""
    text = "".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return [int(one) for one in text.split()]


def worker_of(daemon: Daemon) -> int:
    """Return the process of the worker."""
    assert daemon.process is not None
    for pid in children(daemon.process.pid):
        with contextlib.suppress(OSError):
            if b"worker_child" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    raise AssertionError(f"no worker: {daemon.tail()}")


def use_of(pid: int) -> dict[str, int]:
    """Return what a process uses: descriptors, threads, resident KiB (now and at most)."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return {
        "fds": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "threads": int(status["Threads"]),
        "rss": int(status["VmRSS"].split()[0]),
        "peak": int(status["VmHWM"].split()[0]),
    }


def latch(trial: Trial) -> Path:
    """Return where the kill latch lies."""
    return trial.daemon.state_dir / "KILL"


def sound(ledger: Path) -> bool:
    """Say whether SQLite finds nothing wrong with the ledger."""
    return rows(ledger, "pragma integrity_check") == [("ok",)]


def sent_between(trial: Trial, first_ns: int, last_ns: int) -> list[Tree]:
    """Return the order requests that arrived in a span of the exchange's time."""
    return [one for one in trial.exchange.orders_sent(first_ns) if one["ns"] < last_ns]


# ---------------------------------------------------------------------------------------------- file systems that break


class CannotBreakError(AssertionError):
    """The machine has no means for the fault: it is not injected, and the row says so."""


def _run(*words: object) -> str:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotBreakError(f"this machine cannot do it ({' '.join(map(str, words))}: {done.stderr.strip()})")
    return done.stdout.strip()


def fill(folder: Path, *, leave: int = 0) -> Path:
    """Fill a file system to its last byte but ``leave``; return the file to remove."""
    ballast = folder / "filler"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(65_536))
    if leave:
        os.truncate(ballast, max(0, ballast.stat().st_size - leave))
    else:
        with (folder / "filler.rest").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"0")
    return ballast


def unfill(folder: Path) -> None:
    """Give the space back."""
    for name in ("filler", "filler.rest"):
        (folder / name).unlink(missing_ok=True)


@contextlib.contextmanager
def small_disk(trial: Trial, state_dir: Path, *, mib: int = 48) -> Generator[None]:
    """Put a state folder on a file system of its own, that can be filled; at the end its content is kept as plain files.

    Needs the right to mount (root).
    """
    state_dir.mkdir(parents=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={mib}m", "ballast-faults", state_dir)
    try:
        yield
    finally:
        _land(trial, state_dir)


@contextlib.contextmanager
def sinking_disk(trial: Trial, state_dir: Path, *, mib: int = 200) -> Generator[Path]:
    """Put a state folder on a file system whose writes succeed and whose syncs fail once the folder yielded is full.

    An image of ``mib`` without its blocks lies on a disk of a tenth of that: pages are taken by the kernel's cache, and
    only writing them back, which is what a sync waits for, finds no room. Needs root and loop devices.
    """
    under = trial.folder / "under"
    under.mkdir()
    state_dir.mkdir(parents=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={mib // 5}m", "ballast-faults", under)
    device = ""
    try:
        image = under / "image"
        with image.open("wb") as file:
            file.truncate(mib * 2**20)
        _run("mkfs.ext4", "-q", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", "-m0", image)
        device = _run("losetup", "-f", "--show", image)
        _run("mount", device, state_dir)
        yield under
    finally:
        unfill(under)
        _land(trial, state_dir)
        if device:
            subprocess.run(["losetup", "-d", device], check=False)
        _unmount(under)


def _land(trial: Trial, state_dir: Path) -> None:
    """End the daemon if it still runs, copy what it wrote to where it is mounted, and unmount."""
    daemon = trial.daemon
    process = daemon.process
    if process is not None and not trial.finished:
        daemon.process = None
        process.kill()
        process.wait()
    if not state_dir.is_mount():
        return
    unfill(state_dir)
    kept = state_dir.with_name(f"{state_dir.name}.kept")
    shutil.copytree(state_dir, kept, ignore=shutil.ignore_patterns("lost+found"))
    _unmount(state_dir)
    state_dir.rmdir()
    kept.rename(state_dir)


def _unmount(folder: Path) -> None:
    done = subprocess.run(["umount", str(folder)], capture_output=True, check=False)
    if done.returncode:
        subprocess.run(["umount", "-l", str(folder)], check=False)


@contextlib.contextmanager
def no_longer_files(pid: int) -> Generator[None]:
    """Let every write of a process fail that would make a file longer ("disk I/O error" to SQLite), then allow it again."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
