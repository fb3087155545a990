"""What arms the crash points: one variable, read once, never where real money is."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.domain.errors import ConfigError
from daemon.edge import crash
from daemon.settings import CRASH_AT, Settings, crash_at, load_settings
from tests.e2e.kit import REPO, bare

LIVE = 'mode = "live"\nlive_confirm = "main"\n[exchange]\n'
LOCAL = LIVE + 'rest_url = "http://127.0.0.1:1"\nws_url = "ws://127.0.0.1:1"\n'


def settings(tmp_path: Path, text: str) -> Settings:
    """Load a text, with the variable set: it is no configuration key."""
    file = tmp_path / "ballast.toml"
    file.write_text(text)
    return load_settings([file], {CRASH_AT: "3"})


@pytest.mark.parametrize("text", ["", LOCAL])
def test_a_test_may_name_a_point(tmp_path: Path, text: str) -> None:
    """In paper, and in live against this machine."""
    assert crash_at(settings(tmp_path, text), {CRASH_AT: "3"}) == 3
    assert crash_at(settings(tmp_path, text), {}) == 0


@pytest.mark.parametrize("text", [LIVE, LIVE + 'rest_url = "https://api.binance.com"\n'])
def test_never_where_real_money_is(tmp_path: Path, text: str) -> None:
    """Live against anything but this machine is refused with 78."""
    with pytest.raises(ConfigError, match="is not this machine") as caught:
        crash_at(settings(tmp_path, text), {CRASH_AT: "3"})
    assert caught.value.exit_code == 78


@pytest.mark.parametrize("word", ["0", "-1", "x", "1.5", "²", "9" * 5000])
def test_only_a_number_arms(tmp_path: Path, word: str) -> None:
    """Anything else is refused in one line."""
    with pytest.raises(ConfigError, match="must be a number") as caught:
        crash_at(settings(tmp_path, ""), {CRASH_AT: word})
    assert "\n" not in str(caught.value)


def test_run_refuses_with_78(tmp_path: Path) -> None:
    """The command says so before it touches anything."""
    file = tmp_path / "ballast.toml"
    file.write_text(f'state_dir = "{tmp_path}/var"\n{LIVE}')
    env = bare() | {CRASH_AT: "1", "BALLAST_EXCHANGE__API_KEY": "k", "BALLAST_EXCHANGE__API_SECRET": "s"}
    done = subprocess.run(
        [sys.executable, "-m", "daemon", "run", "-c", str(file)],
        cwd=REPO, env=env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 78
    assert CRASH_AT in done.stderr
    assert not (tmp_path / "var" / "live" / "ballast.db").exists()


def test_points_do_nothing_unless_armed() -> None:
    """Nothing happens to a process that no test wants to end."""
    assert not crash.armed()
    crash.point("anything")


@pytest.mark.parametrize("at", [1, 3])
def test_the_nth_point_is_the_last(at: int) -> None:
    """An armed process dies of SIGKILL at exactly that point and says which one it was."""
    script = f"from daemon.edge import crash\ncrash.arm({at})\nfor n in range(1, 9): crash.point(f'step {{n}}')"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPO, env=dict(os.environ), capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stderr == f"crash point {at}: step {at}\n"
