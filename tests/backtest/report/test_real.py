"""The report of a real backtest: what the page sums up by itself is what the engine counted."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from daemon.backtest.data.files import read
from daemon.backtest.metrics import drawdowns
from daemon.backtest.report.folder import Run, load_run
from daemon.backtest.report.series import daily, fee_in_quote, units
from daemon.backtest.report.stress import estimates
from daemon.backtest.report.summary import profits
from daemon.backtest.report.trust import calibration, groups, trust
from daemon.cli.main import run as ballast
from tests.backtest.home_kit import write_home
from tests.backtest.report.pages import Elements, figures


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with candles of forty days and a configuration."""
    return write_home(tmp_path_factory.mktemp("real"), seed=11, drift=0.0005, wicks=(1.003, 0.997))


def backtest(home: Path, out: str, end: str, *more: str) -> Run:
    """Run the command from January 10 on and return what it wrote."""
    words = ["-c", str(home / "ballast.toml"), "--data", str(home / "candles"), "--out", str(home / out), *more]
    assert ballast(["backtest", *words, "--start", "2024-01-10", "--end", end]) == 0
    return load_run(home / out)


@pytest.fixture(scope="module")
def run(home: Path) -> Run:
    """Thirty days of hours through the daemon's own engine."""
    return backtest(home, "out", "2024-02-09")


def test_it_traded(run: Run) -> None:
    """There is something to report: fills, positions, forecasts with a known outcome."""
    assert len(run.fills) > 20
    assert run.held.max() > 0.05
    assert np.isfinite(run.decisions.realised).sum() > 100


def test_fees_and_profits_are_the_engines(run: Run) -> None:
    """Fees of the fills in quote currency, whatever they were paid in, and profits per pair add up to the books."""
    fees, unknown = fee_in_quote(run)

    assert unknown == 0
    assert fees.sum() == pytest.approx(run.result["fees"], rel=1e-9)
    assert profits(run).sum() == pytest.approx(run.result["final_equity"] - run.result["initial_equity"], rel=1e-9)


def test_days_are_the_engines(run: Run) -> None:
    """Turnover, Sharpe ratio and drawdown from the files are those of result.json."""
    by_day = daily(run)
    known = trust(run).evidence
    assert known is not None

    assert len(by_day.returns) == run.result["days"] == 30
    assert by_day.turnover.mean() == pytest.approx(run.result["turnover"])
    assert known.sharpe * math.sqrt(365) == pytest.approx(run.result["sharpe"])
    assert drawdowns(units(run)).min() == pytest.approx(run.result["max_drawdown"])


def test_weights_are_what_was_bought(run: Run) -> None:
    """A row of weights and its cash are one whole, and exposure follows from them."""
    assert np.allclose(run.weights.values.sum(axis=1), 1.0)
    assert run.held.min() >= 0.0


def test_forecasts_are_the_results(run: Run) -> None:
    """Coverage comes from result.json, betas from returns that the run saw."""
    assert [one.empirical for one in calibration(run) if one.nominal == 0.9] == [
        one for one in [run.result["forecast"]["coverage_90"]] if one is not None
    ]
    assert estimates(run).beta[0] == pytest.approx(1.0)


def test_the_page_that_the_backtest_wrote(run: Run) -> None:
    """It is there, whole, and ends where equity.parquet ends."""
    text = (run.folder / "report.html").read_text(encoding="utf-8")
    found = Elements(text)

    assert found.table("performance")["Final balance"][0] == f"{run.equity.equity[-1]:,.2f}"
    assert figures(text)["plot-equity"]["data"][0]["y"][-1] == pytest.approx(run.equity.equity[-1], rel=1e-8)
    assert json.loads((run.folder / "result.json").read_text(encoding="utf-8"))["config_hash"] in text


def test_a_strategy_without_forecasts_still_tells_returns(home: Path) -> None:
    """What followed a decision does not depend on a forecast: the stress table has its betas, the calibration nothing."""
    (home / "plain.toml").write_text('strategy = "strategies.examples.equal_weight:EqualWeight"\n', encoding="utf-8")
    run = backtest(home, "plain", "2024-01-15", "-c", str(home / "plain.toml"), "--no-report")
    closes = read(home / "candles" / "ETH_USDT-1h.parquet")
    at = int(np.searchsorted(closes.times, run.decisions.times[0] // 1_000_000)) - 1  # the bar that closed then

    assert np.isnan(run.decisions.mean).all()
    assert run.decisions.realised[0, 1] == pytest.approx(closes.values[at + 6, 3] / closes.values[at, 3] - 1.0)
    assert estimates(run).returns > 100
    assert estimates(run).beta[0] == pytest.approx(1.0)
    assert groups(run) is None
