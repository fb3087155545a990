"""The study's database: one writer, one set of inputs, and an end of the process at any moment."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from daemon.backtest.history import load_panel
from daemon.backtest.tune import Plan, identity_of
from daemon.backtest.tune_store import open_store
from daemon.backtest.tune_trial import Refused
from daemon.cli.main import run
from daemon.domain.errors import AlreadyRunning, ConfigError, Unreachable
from tests.backtest.tune_kit import HOUR_NS, NAME, PAIRS, make_plan, study, trials_in, write_ground
from tests.edge.postgres import Server

REPO = Path(__file__).resolve().parents[2]
DEADLINE_S = 180.0


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Three folds, batches of four."""
    return make_plan(tmp_path_factory.mktemp("plan"))


def test_one_writer_at_a_time(plan: Plan, tmp_path: Path) -> None:
    """A second process is turned away by name while the first works, and let in after it."""
    url = f"sqlite:///{tmp_path / 'study.db'}"
    program = (
        "import sys; from daemon.backtest.tune_store import open_store\n"
        "with open_store(sys.argv[1], name='s', identity={'a': 'b'}): print('open', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, url], cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with (
            pytest.raises(AlreadyRunning, match=rf"process {other.pid}"),
            open_store(url, name="s", identity={"a": "b"}),
        ):
            pytest.fail("two writers")
        other.kill()
    with open_store(url, name="s", identity={"a": "b"}) as store:
        assert store.finished() == {}


def test_other_inputs_are_another_study(plan: Plan, tmp_path: Path) -> None:
    """What differs is named; under another name the same database takes both."""
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study(plan, url, 1)
    other = plan._replace(seed=5, batch=8)

    with pytest.raises(ConfigError, match=r"other inputs \(batch, seed\).*--name"):
        study(other, url, 1)
    with open_store(url, name="another", identity=identity_of(other)) as store:
        assert store.finished() == {}


def test_what_a_study_depends_on(plan: Plan, tmp_path: Path) -> None:
    """Data, space, folds and the configuration that trades are part of it; where the metrics listen is not."""
    same = identity_of(plan)
    panel = plan.ground.panel
    settings = plan.settings

    def differs(other: Plan) -> set[str]:
        return {key for key, value in identity_of(other).items() if value != same[key]}

    assert differs(plan._replace(ground=plan.ground._replace(panel=panel._replace(digest="other")))) == {"data"}
    assert differs(plan._replace(ground=plan.ground._replace(folds=plan.ground.folds[:2]))) == {"folds"}
    assert differs(plan._replace(space={})) == {"space"}
    risk = settings.model_copy(update={"risk": settings.risk.model_copy(update={"stop_loss": 0.5})})
    assert differs(plan._replace(settings=risk)) == {"configuration"}
    metrics = settings.model_copy(update={"metrics": settings.metrics.model_copy(update={"listen": "127.0.0.1:1"})})
    assert differs(plan._replace(settings=metrics)) == set()
    own = settings.model_copy(update={"strategy": "mine:Mine"}).found_in((str(tmp_path),))
    (tmp_path / "mine.py").write_text("one = 1")
    first = identity_of(plan._replace(settings=own))["strategy"]
    (tmp_path / "mine.py").write_text("one = 2")
    assert identity_of(plan._replace(settings=own))["strategy"] != first != same["strategy"]


def test_a_study_of_another_tool_is_left_alone(plan: Plan, tmp_path: Path) -> None:
    """Its trials are none of ours: refused, and nothing is written."""
    url = f"sqlite:///{tmp_path / 'study.db'}"
    storage = optuna.storages.RDBStorage(url)
    theirs = optuna.create_study(study_name=NAME, storage=storage, directions=["maximize", "minimize", "minimize"])
    theirs.add_trial(optuna.trial.create_trial(values=[0.0, 0.0, 0.0]))
    optuna.create_study(study_name="single", storage=storage)
    storage.remove_session()
    storage.engine.dispose()

    with pytest.raises(ConfigError, match="not made by `ballast tune`"):
        study(plan, url, 1)
    with pytest.raises(ConfigError, match="--name"), open_store(url, name="single", identity={}):
        pytest.fail("opened")
    assert len(trials_in(url)) == 1


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://user:secret@host/db", "must be sqlite:///file or postgresql://"),
        ("sqlite:///", "names no file"),
        ("sqlite:////proc/nowhere/study.db", "choose a folder"),
    ],
)
def test_a_url_that_cannot_be_used(url: str, words: str) -> None:
    """One line, and no password in it."""
    with pytest.raises(ConfigError, match=words) as caught, open_store(url, name=NAME, identity={}):
        pytest.fail("opened")

    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """Is said in one line, and stays as it was."""
    file = tmp_path / "study.db"
    file.write_text("these are my notes, and no database at all" * 100)
    before = file.read_bytes()

    with pytest.raises(Unreachable, match="not a database"), open_store(f"sqlite:///{file}", name=NAME, identity={}):
        pytest.fail("opened")
    assert file.read_bytes() == before


# ---------------------------------------------------------------------------------------------- PostgreSQL


def test_postgresql_keeps_the_same_study(plan: Plan, tmp_path: Path, postgres: Server, postgres_database: str) -> None:
    """The study in PostgreSQL, made in two runs, is the study in a file; a second writer is turned away meanwhile."""
    url = postgres.url(postgres_database)
    study(plan, url, 6)
    with open_store(url, name=NAME, identity=identity_of(plan)):
        with pytest.raises(AlreadyRunning, match="another process works on it"):
            study(plan, url, 6)
        study(plan._replace(seed=9), f"sqlite:///{tmp_path / 'other.db'}", 1)  # another study is not held up

    assert study(plan, url, 10) == study(plan, f"sqlite:///{tmp_path / 'study.db'}", 10)


def test_the_server_goes_away(plan: Plan, tmp_path: Path, postgres: Server, postgres_database: str) -> None:
    """Not there at the start, or gone in the middle: one line with what to do, and what was finished is kept."""
    url = postgres.url(postgres_database)
    with (
        pytest.raises(Unreachable, match="run the same command again"),
        open_store("postgresql://nobody@127.0.0.1:1/none", name=NAME, identity={}),
    ):
        pytest.fail("opened")
    study(plan, url, 2)

    def cut(_ground: Any, _piece: Any) -> Refused:
        postgres.end_sessions(postgres_database)
        postgres.do(f"ALTER DATABASE {postgres_database} ALLOW_CONNECTIONS false")
        return Refused("what is found now cannot be written down")

    with pytest.raises(Unreachable, match="run the same command again"):
        study(plan, url, 6, work=cut)
    with pytest.raises(Unreachable, match="run the same command again"):
        study(plan, url, 6)
    postgres.do(f"ALTER DATABASE {postgres_database} ALLOW_CONNECTIONS true")
    assert study(plan, url, 6) == study(plan, f"sqlite:///{tmp_path / 'study.db'}", 6)


# ---------------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with candles, configuration and space."""
    folder = tmp_path_factory.mktemp("ground")
    write_ground(folder)
    return folder


@pytest.fixture
def arguments(ground: Path) -> list[str]:
    """The command line without its end."""
    return write_ground(ground)


def _over(database: Path) -> int:
    """Return how many trials are over in a study that is under way."""
    if not database.exists():
        return 0
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)) as connection:
        try:
            (count,) = connection.execute("SELECT count(*) FROM trials WHERE state = 'COMPLETE'").fetchone()
        except sqlite3.OperationalError:  # the tables are being made
            return 0
    return int(count)


@pytest.mark.timeout(600)
def test_killed_in_the_middle_and_begun_again(arguments: list[str], tmp_path: Path) -> None:
    """kill -9 with half of a study done: the same command goes on to the number asked for, and to the same bytes."""
    command = [sys.executable, "-m", "daemon", *arguments, "--trials", "16"]
    cut = [*command, "--jobs", "2", "--out", str(tmp_path / "cut")]
    with subprocess.Popen(cut, cwd=REPO, stderr=subprocess.PIPE, start_new_session=True) as first:
        deadline = time.monotonic() + DEADLINE_S
        while not _over(tmp_path / "cut" / "study.db"):
            assert first.poll() is None, "ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(first.pid, signal.SIGKILL)
    done = _over(tmp_path / "cut" / "study.db")
    assert 0 < done < 16
    again = subprocess.run(cut, cwd=REPO, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert again.returncode == 0, again.stderr
    whole = [*command, "--jobs", "1", "--out", str(tmp_path / "whole")]
    subprocess.run(whole, cwd=REPO, capture_output=True, timeout=DEADLINE_S, check=True)

    assert (tmp_path / "cut" / "study.json").read_bytes() == (tmp_path / "whole" / "study.json").read_bytes()
    assert json.loads((tmp_path / "cut" / "study.json").read_bytes())["trials"] == 16


def test_the_tables(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The front with its parameters, what failed, what to think of it, and where all of it is."""
    assert run([*arguments, "--trials", "5", "--jobs", "1", "--alone", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr()

    for words in (
        "return",
        "drawdown",
        "deflated",
        "pairs up",
        "strategy_params.lookback",
        "probability of overfitting",
        "fold 2:",
    ):
        assert words in said.out
    assert "5 trials on 3 folds, in this process" in said.err
    assert f"all of it: {tmp_path / 'study.json'}" in said.out


def test_json(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One document on stdout, the one that is in the file."""
    assert run([*arguments, "--trials", "2", "--jobs", "1", "--out", str(tmp_path), "--json"]) == 0

    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "study.json").read_bytes())


def test_windows_and_what_warms_up(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--start` bounds the folds, not what is read before it; a horizon that is searched sets the gap by its largest value."""
    (tmp_path / "space.toml").write_text("[forecast.horizon_bars]\nlow = 2\nhigh = 10\n")
    more = ["--space", str(tmp_path / "space.toml"), "--start", "2023-01-04", "--embargo", "3", "--folds", "2"]
    assert run([*arguments, *more, "--trials", "1", "--jobs", "1", "--out", str(tmp_path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    read = load_panel(
        Path(arguments[arguments.index("--data") + 1]), PAIRS, bar="1h", bar_ns=HOUR_NS, start_ns=None, end_ns=None
    )

    assert result["identity"]["data"] == read.digest
    assert result["folds"][0]["learn_from"] == "2023-01-04T00:00:00Z"
    assert [one["bars"] for one in result["folds"]] == [47, 47]  # (7 days * 24 - 2 gaps of 13) / 3
    assert result["folds"][1]["end"] == "2023-01-11T00:00:00Z"
    gaps = [np.datetime64(one["start"][:-1]) - np.datetime64(one["learn_to"][:-1]) for one in result["folds"]]
    assert gaps == [np.timedelta64(13, "h")] * 2


def test_no_trial_can_be_completed(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 3, and the reason is on the screen."""
    (tmp_path / "space.toml").write_text("[strategy_params.nonsense]\nchoices = [1, 2]\n")
    command = [
        *arguments,
        "--trials",
        "2",
        "--jobs",
        "1",
        "--out",
        str(tmp_path),
        "--space",
        str(tmp_path / "space.toml"),
    ]

    assert run(command) == 3
    said = capsys.readouterr().out
    assert "no trial could be completed" in said
    assert "trial 0 failed: not one decision" in said
    assert "nonsense" in said


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--folds", "90"], 78, "take fewer folds"),
        (["--start", "yesterday"], 2, "--start 'yesterday'"),
        (["--start", "2023-02-01", "--end", "2023-01-01"], 2, "is not after --start"),
        (["--start", "2030-01-01"], 78, "no 1h candles"),
        (["--trials", "0"], 2, "trials"),
        (["--ray", "127.0.0.1:1"], 69, "no cluster answers"),
        (["--ray", "nonsense"], 2, "HOST:PORT"),
        (["--study", "mysql://x/y"], 78, "--study"),
        (["--space", "/nonexistent/space.toml"], 78, "cannot be read"),
        (["--data", "/nonexistent"], 78, "no 1h candles"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], code: int, words: str
) -> None:
    """One line each, and its exit code."""
    assert run([*arguments, "--jobs", "1", "--out", str(tmp_path), *more]) == code
    said = capsys.readouterr().err

    assert words in said.splitlines()[-1]


def test_a_folder_that_cannot_be_written(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Is said before anything is computed."""
    assert run([*arguments, "--jobs", "1", "--out", "/proc/nowhere"]) == 78

    assert "choose a folder" in capsys.readouterr().err
