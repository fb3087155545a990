import os
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.domain.errors import AlreadyRunning, ConfigError
from daemon.edge.lock import ProcessLock, machine_lock_path


def test_second_holder_is_named(tmp_path: Path) -> None:
    """The refusal carries exit code 75 and the holder's process id."""
    path = tmp_path / "lock"
    first, second = ProcessLock(path, what="ledger"), ProcessLock(path, what="ledger")
    first.acquire()
    with pytest.raises(AlreadyRunning, match=str(os.getpid())) as caught:
        second.acquire()
    first.release()

    assert caught.value.exit_code == 75
    second.acquire()
    assert second.held
    second.release()


def test_lock_dies_with_its_process(tmp_path: Path) -> None:
    """A killed holder leaves a file but no lock."""
    path = tmp_path / "lock"
    code = (
        "import sys; from pathlib import Path; from daemon.edge.lock import ProcessLock\n"
        "lock = ProcessLock(Path(sys.argv[1]), what='x'); lock.acquire(); print('held', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stdout.readline() == "held\n"
    mine = ProcessLock(path, what="x")
    with pytest.raises(AlreadyRunning, match=str(child.pid)):
        mine.acquire()
    child.kill()
    child.wait()
    child.stdout.close()
    child.stdin.close()

    mine.acquire()
    assert path.read_text() == f"{os.getpid()}\n"
    mine.release()


def test_machine_lock_depends_on_venue_and_key(tmp_path: Path) -> None:
    """Two accounts have two locks."""
    one = machine_lock_path("binance", "abc", folder=tmp_path)

    assert one != machine_lock_path("binance", "abd", folder=tmp_path)
    assert one != machine_lock_path("kraken", "abc", folder=tmp_path)


def test_missing_folder_is_a_configuration_error(tmp_path: Path) -> None:
    """A lock that cannot be made says which file and what to do."""
    with pytest.raises(ConfigError, match="state_dir"):
        ProcessLock(tmp_path / "none" / "lock", what="x").acquire()


def test_acquire_twice_is_harmless(tmp_path: Path) -> None:
    """The holder may ask again."""
    lock = ProcessLock(tmp_path / "lock", what="x")
    lock.acquire()
    lock.acquire()
    assert lock.held
    lock.release()
    lock.release()
    assert not lock.held


def test_machine_lock_lies_where_it_can_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A sandbox that closes the shared folders leaves the temporary one."""
    monkeypatch.setattr("daemon.edge.lock.MACHINE_FOLDERS", ("/proc/nowhere", str(tmp_path)))
    assert machine_lock_path("binance", "k").parent == tmp_path
    monkeypatch.setattr("daemon.edge.lock.MACHINE_FOLDERS", ("/proc/nowhere",))
    path = machine_lock_path("binance", "k")

    assert os.access(path.parent, os.W_OK)
