"""`ballast backtest --sweep`: the same run with other pauses between decisions, none of them made twice."""

import json
from pathlib import Path
from typing import Any

import pytest

import daemon.backtest.run
from daemon.backtest.data.files import Candles, read, write
from daemon.backtest.run import Finished
from daemon.settings import Settings
from tests.backtest.home_kit import write_home
from tests.cli.conftest import Run

RunOf = dict[str, Any]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Candles of three pairs, hours."""
    return write_home(tmp_path_factory.mktemp("sweep"), seed=3, drift=0.0, wicks=(1.004, 0.996))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[RunOf]:
    """What the driver is asked for, run by run; it does the work all the same, from bars, since there are no trades here."""
    asked: list[RunOf] = []
    real = daemon.backtest.run.backtest

    def watched(settings: Settings, *given: Any, **named: Any) -> Finished:
        asked.append({"every": settings.optimizer.rebalance_every, **named})
        return real(settings, *given, **{**named, "trades": None})

    monkeypatch.setattr(daemon.backtest.run, "backtest", watched)
    return asked


def sweep(ballast: Run, home: Path, out: Path, *more: str) -> list[RunOf]:
    """Run three days with a sweep and return its rows."""
    given = ("-c", str(home / "ballast.toml"), "--data", str(home / "candles"), "--out", str(out), "--no-report")
    code, said, err = ballast(
        "backtest", *given, "--start", "2024-02-01", "--end", "2024-02-04", "--sweep", "--json", *more
    )
    assert code == 0, err
    rows: list[RunOf] = json.loads(said)["sweep"]
    return rows


def test_the_sweep_is_the_same_run(ballast: Run, home: Path, tmp_path: Path, runs: list[RunOf]) -> None:
    """From trades where the run is; a registry of its own for each where the run trains one, else none."""
    sweep(ballast, home, tmp_path / "trained")
    assert len({one["models"] for one in runs} - {None}) == len(runs) > 1
    assert {one["trades"] for one in runs} == {None}
    runs.clear()
    sweep(ballast, home, tmp_path / "served", "--no-retrain", "--trades")
    assert len(runs) > 1
    assert {one["models"] for one in runs} == {None}
    assert {one["trades"] for one in runs} == {home / "candles"}


@pytest.mark.parametrize(("every", "made"), [(1, [1, 24, 168]), (24, [24, 1, 168]), (5, [5, 1, 24, 168])])
def test_what_has_been_run_is_not_run_again(
    ballast: Run,
    home: Path,
    tmp_path: Path,
    runs: list[RunOf],
    monkeypatch: pytest.MonkeyPatch,
    every: int,
    made: list[int],
) -> None:
    """The row of the configured pause is the main run's own result, its folder byte for byte the same."""
    monkeypatch.setenv("BALLAST_OPTIMIZER__REBALANCE_EVERY", str(every))
    rows = sweep(ballast, home, tmp_path / "out")
    main = json.loads((tmp_path / "out" / "result.json").read_text())

    assert [one["every"] for one in runs] == made
    assert [(row["decides each"], row["bars"]) for row in rows] == [("bar", 1), ("day", 24), ("week", 168)]
    for row in rows:
        folder = tmp_path / "out" / "sweep" / row["decides each"]
        found = json.loads((folder / "result.json").read_text())
        assert found["params"]["optimizer"]["rebalance_every"] == row["bars"]
        assert (found["total_return"], found["fills"]) == (row["total_return"], row["fills"])
        if row["bars"] == every:
            assert found == main
            for name in ("equity", "fills", "decisions", "weights"):
                ours, theirs = (one / f"{name}.parquet" for one in (tmp_path / "out", folder))
                assert ours.read_bytes() == theirs.read_bytes()
        else:
            assert found["config_hash"] != main["config_hash"]


def test_a_bar_that_is_a_day_is_one_run(
    ballast: Run, home: Path, tmp_path: Path, runs: list[RunOf], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rows of the sweep may be the same pause: they too are run once."""
    hours = {path: read(path) for path in sorted((home / "candles").iterdir())}
    for path, (times, values) in hours.items():
        write(tmp_path / path.name.replace("-1h", "-1d"), Candles(24 * times[:40] - 23 * times[0], values[:40]))
    monkeypatch.setenv("BALLAST_BAR", "1d")
    rows = sweep(ballast, home, tmp_path / "out", "--data", str(tmp_path))

    assert [one["every"] for one in runs] == [1, 7]
    assert [(row["decides each"], row["bars"]) for row in rows] == [("bar", 1), ("day", 1), ("week", 7)]
