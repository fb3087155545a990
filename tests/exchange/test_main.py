"""The exchange runs as a process of its own."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


def test_the_process_prints_its_port_serves_and_stops() -> None:
    """One JSON line, then requests are answered until SIGTERM ends it cleanly."""
    command = [sys.executable, "-m", "daemon.exchange", "--port", "0", "--seed", "4", "--history-bars", "600"]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = json.loads(process.stdout.readline())
        with urllib.request.urlopen(f"{line['rest_url']}/api/v3/time", timeout=5) as reply:
            assert json.load(reply)["serverTime"] > 0
        process.terminate()

        assert process.wait(5) == 0


def test_the_process_can_end_with_its_parent() -> None:
    """An exchange whose starter was killed does not stay behind."""
    child = [sys.executable, "-m", "daemon.exchange", "--history-bars", "600", "--exit-with-parent"]
    script = f"import subprocess, time; subprocess.Popen({child!r}); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script], cwd=REPO, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        json.loads(parent.stdout.readline())
        parent.kill()

        assert parent.stdout.read() == ""  # the pipe ends only when the exchange has gone too


def test_impossible_settings_end_with_one_line(tmp_path: Path) -> None:
    """A folder without candles is named on stderr, exit code 1."""
    command = [sys.executable, "-m", "daemon.exchange", "--data", str(tmp_path)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=30, check=False)

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "BTC_USDT-1h.parquet" in done.stderr
