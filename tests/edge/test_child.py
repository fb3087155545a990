"""What all child processes have in common: nothing left open, nothing of our environment, an end that is waited for."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.edge import child
from tests.edge.handles_kit import handles

PATIENCE_S = 30.0


def spawn(link: socket.socket) -> child.Process:
    """Start a child that says one word through the link and then waits for its end."""
    code = f"import socket; link = socket.socket(fileno={link.fileno()}); link.send(b'here'); link.recv(1)"
    return subprocess.Popen([sys.executable, "-c", code], pass_fds=(link.fileno(),), env=child.environment())


async def test_the_other_end_is_the_childs_alone() -> None:
    """When it goes we hear of it, since we keep no copy of its end; it is reaped without blocking."""
    link, process = child.start(spawn)
    with link:
        link.settimeout(PATIENCE_S)
        assert link.recv(9) == b"here"
        link.shutdown(socket.SHUT_WR)
        assert link.recv(9) == b""
    await child.reap(process, PATIENCE_S)

    assert process.returncode == 0


async def test_a_child_that_stays_is_not_waited_for_longer_than_said() -> None:
    """The caller goes on; the child is still there."""
    link, process = child.start(spawn)
    with link:
        await child.reap(process, 3 * child.POLL_S)
        assert process.returncode is None
    process.wait(PATIENCE_S)


def test_nothing_stays_open_when_there_is_no_child() -> None:
    """Neither end of the link, and the error is the caller's."""

    def refused(_link: socket.socket) -> child.Process:
        raise OSError(11, "no room")

    before = handles()
    with pytest.raises(OSError, match="no room"):
        child.start(refused)

    assert handles() == before


def test_nothing_of_our_environment_but_where_the_modules_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys in variables stay here; hash seed and threads are set whatever ours are."""
    monkeypatch.setenv("BALLAST_EXCHANGE__API_SECRET", "secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setattr(sys, "path", ["", "/lib/ours"])
    made = child.environment(hash_seed=3)

    assert set(made) == {"PATH", "PYTHONPATH", "PYTHONHASHSEED", "CUDA_VISIBLE_DEVICES", *child.THREAD_LIMITS}
    assert made["PYTHONPATH"].split(os.pathsep) == [str(Path.cwd()), "/lib/ours"]
    assert (made["OMP_NUM_THREADS"], made["PYTHONHASHSEED"]) == ("1", "3")
    assert "secret" not in made.values()
