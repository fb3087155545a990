"""Bad input at the command line: one plain line on stderr and the exit code of the contract."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
Run = Callable[..., tuple[int, str, str]]
MARKER = "MARKERsecret0123456789"


def write(path: Path, text: str) -> str:
    """Write a small file and return its name."""
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[risk]\nmax_weigth = 0.1\n", "risk.max_weigth: unknown key"),
        ('[risk]\nmax_weight = "0.3"\n', "risk.max_weight"),
        ("[risk]\nmax_weight = 1.5\n", "must be at most 1"),
        ('[exchange]\nid = "binanse"\n', "ccxt knows no exchange"),
        ('universe = ["BTCUSDT"]\n', "not a spot pair"),
        ('[exchange]\nrest_url = "http://10.0.0.1"\n', "use https://"),
        ("mode = 'live'\nlive_confirm = 'main'\n", "exchange.api_key: missing"),
        ("[[[\n", "not valid TOML"),
    ],
)
@pytest.mark.parametrize("command", ["run", "check", "train", "reconcile"])
def test_invalid_configuration_is_78(ballast: Run, tmp_path: Path, command: str, text: str, wanted: str) -> None:
    """Nothing starts: no traceback, no second line."""
    code, out, err = ballast(command, "-c", write(tmp_path / "c.toml", text))

    assert code == 78
    assert out == ""
    assert err.startswith("ballast: ")
    assert wanted in err
    assert len(err.splitlines()) == 1


def test_live_without_confirmation_is_77(ballast: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The remedy is in the line."""
    monkeypatch.setenv("BALLAST_LIVE_CONFIRM", "")
    code, _, err = ballast("run", "-c", str(REPO / "config/live.toml"))

    assert code == 77
    assert 'set live_confirm = "main"' in err
    assert len(err.splitlines()) == 1


def test_unwritable_state_folder_is_78(ballast: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found before anything starts."""
    monkeypatch.setenv("BALLAST_STATE_DIR", write(tmp_path / "file", ""))
    code, _, err = ballast("run")

    assert code == 78
    assert "state_dir" in err
    assert "not writable" in err


def test_missing_file_is_78(ballast: Run) -> None:
    """A configuration that was asked for must exist."""
    code, _, err = ballast("config", "-c", "nope.toml")

    assert (code, err) == (
        78,
        "ballast: nope.toml: cannot be read (No such file or directory); give an existing file with --config\n",
    )


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["nothing"], "No such command 'nothing'"),
        (["run", "--nothing"], "No such option"),
        (["simulate", "--port", "99999"], "65535"),
        (["simulate", "--data", "absent"], "--data absent: no such folder"),
        (["demo", "--seconds", "soon"], "--seconds"),
        (["replay"], "JOURNAL"),
        (["replay", "absent"], "absent: no such journal"),
        (["models", "show", "absent"], "absent: no such model"),
    ],
)
def test_wrong_usage_is_2(ballast: Run, arguments: list[str], wanted: str) -> None:
    """One line that says what and where to look."""
    code, out, err = ballast(*arguments)

    assert (code, out) == (2, "")
    assert wanted in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "command", ["status", "positions", "orders", "pnl", "pause", "reduce-only", "flatten", "resume"]
)
def test_no_daemon_is_69(ballast: Run, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """Says where it looked and how to start one."""
    monkeypatch.setenv("BALLAST_API__LISTEN", "127.0.0.1:9")
    code, out, err = ballast(command)

    assert (code, out) == (69, "")
    assert err.startswith("ballast: no daemon answers at http://127.0.0.1:9 ")
    assert "`ballast run`" in err
    monkeypatch.setenv("BALLAST_API__LISTEN", "127.0.0.1:0")
    code, _, err = ballast(command)
    assert code == 69
    assert "no api.address" in err


def test_unexpected_failure_is_1(ballast: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line last, the traceback in the log before it, secrets in neither."""
    from daemon.cli import configure

    def broken(_files: object) -> None:
        raise RuntimeError(f"GET https://x/?signature={MARKER}&a=1")

    monkeypatch.setattr(configure, "settings_from", broken)
    code, out, err = ballast("config")

    assert (code, out) == (1, "")
    log, line = err.splitlines()
    assert line.startswith("ballast: unexpected RuntimeError: GET https://x/?signature=[redacted]")
    assert "Traceback" in json.loads(log)["exception"]
    assert MARKER not in err


def test_interrupted_is_130(ballast: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C leaves no traceback."""
    from daemon.cli import configure

    def interrupted(_files: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(configure, "settings_from", interrupted)

    assert ballast("config") == (130, "", "ballast: interrupted\n")


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    """`ballast config --schema | head -1` ends quietly."""
    command = f"{sys.executable} -m daemon config --schema | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=REPO, capture_output=True, text=True, timeout=30, check=True)

    assert done.stdout.splitlines()[0] == "{"
    assert done.stderr == ""


def test_damaged_journal_is_78(ballast: Run, tmp_path: Path) -> None:
    """A file that is no journal is named."""
    code, _, err = ballast("replay", write(tmp_path / "x.journal", "something else entirely"))

    assert code == 78
    assert "not a journal" in err


@pytest.mark.parametrize("command", ["list", "show"])
def test_foreign_and_corrupt_models(ballast: Run, tmp_path: Path, command: str) -> None:
    """A model that is not whole is named with what is wrong; a pointer to nothing is refused."""
    model = tmp_path / "var/models/m1"
    model.mkdir(parents=True)
    write(model / "manifest.json", '{"kind": "foreign"}')
    write(model / "model.safetensors", "garbage")
    code, out, err = ballast("models", command, *(["m1"] if command == "show" else []))
    if command == "list":
        assert code == 0
        assert "m1" in out
        assert "manifest.json" in out
    else:
        assert code == 78
        assert "manifest.json" in err
        assert len(err.splitlines()) == 1
    write(tmp_path / "var/models/current", "gone")
    code, _, err = ballast("models", "list")
    assert code == 78
    assert "current" in err


def test_simulate_port_in_use_and_clean_end() -> None:
    """The second one says so; SIGINT ends the first with 0 and without a traceback."""
    command = [sys.executable, "-m", "daemon", "simulate", "--json", "--symbols", "2", "--port"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BALLAST_")}
    with subprocess.Popen(
        [*command, "0"], cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as first:
        assert first.stdout is not None
        announced = json.loads(first.stdout.readline())
        port = announced["rest_url"].rpartition(":")[2]
        second = subprocess.run(
            [*command, port], cwd=REPO, capture_output=True, text=True, timeout=60, check=False, env=environment
        )
        first.send_signal(signal.SIGINT)
        _, errors = first.communicate(timeout=30)

    assert first.returncode == 0
    assert "Traceback" not in errors
    assert second.returncode == 78
    assert f"--port {port}: cannot listen there" in second.stderr
    assert "Traceback" not in second.stderr
