"""The one progress display of the commands: bars on a terminal, nothing anywhere else."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.cli.common import progress_bars

REPO = Path(__file__).resolve().parents[2]
PROGRAM = """
from daemon.cli.common import progress_bars
with progress_bars({options}) as tell:
    tell("BTC/USDT", 0, None)
    tell("BTC/USDT", 3, 4, "of [batch]")
    tell("trace", 1, 2)
"""


def on_a_terminal(options: str) -> str:
    """Return what a terminal 120 columns wide gets to see, control sequences included."""
    ours, theirs = pty.openpty()
    variables = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "NO_COLOR": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(options=options)], cwd=REPO, stderr=theirs, env=variables
    ) as process:
        os.close(theirs)
        seen = b""
        try:
            while more := os.read(ours, 65_536):
                seen += more
        except OSError:  # Linux says so when the other side is closed
            pass
        finally:
            os.close(ours)
    assert process.returncode == 0, seen
    return seen.decode()


def test_a_bar_for_each_thing_with_numbers_and_a_note() -> None:
    """Numbers by default; what stands behind the bar is text, not markup."""
    seen = on_a_terminal("")

    for words in ("BTC/USDT", "3/4", "of [batch]", "trace", "1/2"):
        assert words in seen
    assert "75 %" not in seen


def test_the_share_instead_of_numbers() -> None:
    """As `data fetch` shows a stretch of time."""
    seen = on_a_terminal("percent=True, keep=True")

    assert " 75 %" in seen
    assert "3/4" not in seen


@pytest.mark.parametrize(("keep", "left"), [(True, True), (False, False)])
def test_bars_are_kept_or_taken_away(keep: bool, left: bool) -> None:
    """The last thing written is the bars themselves, or the sequence that erases their lines."""
    erased = on_a_terminal(f"keep={keep}").rstrip().endswith("\x1b[2K")

    assert erased is not left


def test_quiet_shows_nothing_on_a_terminal() -> None:
    """With --json a person's terminal stays empty too."""
    assert on_a_terminal("quiet=True") == ""


def test_nothing_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A log or a pipe gets no bars."""
    with progress_bars(keep=True) as tell:
        tell("BTC/USDT", 1, 2, "note")

    assert capsys.readouterr() == ("", "")
