"""`ballast backtest --sweep`: the same run with other pauses between decisions, none of them made twice."""

import json
from pathlib import Path
from typing import Any

import pytest

import daemon.backtest.run
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
