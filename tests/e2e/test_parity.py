"""`ballast parity` on what real daemons recorded against the simulated exchange: decisions identical, the gap explained."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from daemon.backtest.data.files import Candles, write
from tests.e2e.conftest import PATIENT, STRONG
from tests.e2e.kit import SYMBOLS, Daemon, Exchange, only_line, toml

DECISIONS = 8
FOUR = list(SYMBOLS[:4])


class Run(NamedTuple):
    """A run that is over, and the exchange's own candles of its time."""

    daemon: Daemon
    candles: Path

    @property
    def recorded(self) -> str:
        """Where it lies."""
        return str(self.daemon.state_dir / self.daemon.mode)


def candles(exchange: Exchange, folder: Path) -> Path:
    """Write the exchange's candles of the last minutes as files."""
    folder.mkdir()
    for pair in FOUR:
        rows = exchange.ask(f"/api/v3/klines?symbol={pair.replace('/', '')}&interval=1s&limit=300")
        times = np.array([int(row[0]) for row in rows], dtype=np.int64)
        values = np.array([[float(cell) for cell in row[1:6]] for row in rows])
        write(folder / f"{pair.replace('/', '_')}-1s.parquet", Candles(times, values))
    return folder


@pytest.fixture(scope="module", params=["paper", "live"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Trade, pause, let the last orders end, stop."""
    mode = str(request.param)
    folder = tmp_path_factory.mktemp(mode)
    confirm = "main" if mode == "live" else ""
    changes: dict[str, Any] = {"mode": mode, "live_confirm": confirm, "universe": FOUR, **PATIENT}
    with Exchange(*STRONG, "--trades-per-s", 40, symbols=4) as exchange:
        with Daemon(exchange, folder, **changes) as daemon:
            daemon.wait_ready().wait_decisions(DECISIONS)
            daemon.settle()
            daemon.wait_bars(2)
            assert daemon.stop()[0] == 0
        yield Run(daemon, candles(exchange, folder / "candles"))


def compared(run: Run, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and document of one comparison."""
    done = run.daemon.cli_plain("parity", run.recorded, *arguments, "--json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_decisions_are_identical_and_the_gap_is_explained(run: Run, tmp_path: Path) -> None:
    """Bars, forecasts, targets and orders one by one; what is left of the gap is below 1 bp in every interval."""
    code, found = compared(run, "--data", str(run.candles), "--out", str(tmp_path / "out"))

    assert (code, found["problems"]) == (0, [])
    assert found["ok"] is True
    assert set(found["checks"].values()) == {True}
    assert found["mode"] == run.daemon.mode
    made = [one for one in found["decisions"] if one["made"]]
    assert len(made) >= DECISIONS // 2
    assert {one["difference"] for one in made} == {""}
    assert max(one["forecast_error"] for one in made) <= 1e-6
    assert max(one["target_error"] for one in made) <= 1e-6
    orders = found["orders"]
    assert len([one for one in orders if one["filled"] and one["backtest_filled"]]) >= 5
    assert all(one["equal"] for one in orders if one["number"] in {row["number"] for row in made})
    trades, files = found["bars"]
    assert trades["equal"] > 20
    assert files["equal"] > trades["equal"]  # what was fetched to warm up, too
    gap = found["gap"]
    assert max(gap["residual_bps"], gap["worst_bps"]) < 1.0
    assert float(gap["total"]) == pytest.approx(
        sum(map(float, gap["parts"].values())) + float(gap["residual"]), abs=1e-6
    )
    assert float(gap["total"]) != 0.0
    assert {one.name for one in (tmp_path / "out").iterdir()} == {
        "parity.json",
        "bars.parquet",
        "decisions.parquet",
        "orders.parquet",
        "intervals.parquet",
    }


def test_a_changed_configuration_breaks_parity(run: Run) -> None:
    """Hardly any appetite for risk: other targets, exit 3, and the last line names the first decision that differs."""
    changed = run.daemon.folder / "changed.toml"
    changed.write_text(toml({**run.daemon.tree, "optimizer": {**run.daemon.tree["optimizer"], "risk_tolerance": 1e-4}}))
    done = run.daemon.cli_plain("parity", run.recorded, "-c", str(changed))

    assert done.returncode == 3, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("parity broken: 0 of ")
    assert "target of " in last
    assert "unexplained 0.0" in last


def test_bad_input_is_one_line(run: Run, tmp_path: Path) -> None:
    """No run, an empty folder, no candles there, another market: 78 and what to do."""
    other = tmp_path / "other.toml"
    other.write_text(toml({**run.daemon.tree, "bar": "5s"}))
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        ((str(tmp_path / "none"),), "no such run"),
        ((str(tmp_path / "empty"),), "no journal segments"),
        ((run.recorded, "--data", str(tmp_path / "none")), "no such folder"),
        ((run.recorded, "--data", str(tmp_path / "empty")), "no 1s candles"),
        ((run.recorded, "--out", str(other)), "is a file"),
        ((run.recorded, "-c", str(other)), "bar_ns: the run was recorded with"),
    ):
        done = run.daemon.cli_plain("parity", *arguments)
        assert done.returncode == 78, (arguments, done.stdout, done.stderr)
        assert words in only_line(done.stderr)
