"""The result folder: complete, byte for byte the same for the same inputs, and equity that anybody can recompute."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from daemon.cli.main import run
from tests.backtest.home_kit import PAIRS, write_home

FILES = (
    "attribution.parquet",
    "benchmarks.parquet",
    "decisions.parquet",
    "equity.parquet",
    "fills.parquet",
    "report.html",
    "result.json",
    "weights.parquet",
)
KEYS = """
start end bars decisions orders fills halts initial_equity final_equity total_return cagr volatility sharpe sortino calmar
max_drawdown win_rate turnover fees slippage_cost avg_gross_exposure config_hash data_hash code_version
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with candles of three pairs, 40 days of hours with an outage in them, and a configuration."""
    folder = tmp_path_factory.mktemp("backtest")
    return write_home(folder, seed=7, drift=0.0, wicks=(1.004, 0.996), outage=slice(500, 505))


def backtest(home: Path, out: Path, *more: str) -> int:
    """Run the command."""
    given = ["-c", str(home / "ballast.toml"), "--data", str(home / "candles"), "--out", str(out)]
    return run(["backtest", *given, "--start", "2024-01-15", "--end", "2024-02-08", *more])


@pytest.fixture(scope="module")
def result(home: Path) -> Path:
    """The folder of one run."""
    assert backtest(home, home / "one") == 0
    return home / "one"


def test_every_file_is_there_and_result_json_holds_what_it_must(result: Path) -> None:
    """DESIGN A8, key by key."""
    tree = json.loads((result / "result.json").read_text())

    assert {path.name for path in result.iterdir()} == {*FILES, "timing.json"}
    assert tree.keys() >= set(KEYS.split())
    assert set(tree["benchmarks"]) == {"equal_weight", "buy_and_hold", "cash"}
    assert set(tree["forecast"]) >= {"skill", "rmse", "mae", "mape", "directional_accuracy", "coverage_90"}
    assert (tree["start"], tree["end"]) == ("2024-01-15T00:00:00Z", "2024-02-08T00:00:00Z")
    assert tree["bars"] == 24 * 24
    assert tree["outages"] == 1
    assert tree["max_drawdown"] <= 0.0
    assert tree["fills"] > 50


def test_the_same_inputs_give_the_same_bytes(home: Path, result: Path) -> None:
    """Only timing.json may differ."""
    assert backtest(home, home / "two") == 0
    for name in FILES:
        assert (home / "two" / name).read_bytes() == (result / name).read_bytes(), name


def test_equity_can_be_recomputed_from_fills_and_candles(home: Path, result: Path) -> None:
    """As an outsider would do it, with pandas, from the files alone: 1e-9 relative at every bar."""
    equity = pd.read_parquet(result / "equity.parquet")
    fills = pd.read_parquet(result / "fills.parquet")
    value = pd.Series(100_000.0, index=equity["date"])
    for pair in PAIRS:
        candles = pd.read_parquet(home / "candles" / f"{pair.replace('/', '_')}-1h.parquet")
        price = candles.set_index(candles["date"] + pd.Timedelta(hours=1))["close"]
        own = fills[fills["pair"] == pair]
        sign = np.where(own["side"] == "buy", 1.0, -1.0)
        in_base = own["fee_asset"] == pair.split("/")[0]
        qty = sign * own["qty"] - np.where(in_base, own["fee"], 0.0)
        cash = -sign * own["qty"] * own["price"] - np.where(in_base, 0.0, own["fee"])
        rows = np.searchsorted(own["date"].to_numpy(), equity["date"].to_numpy(), side="right")
        held = np.concatenate(([0.0], np.cumsum(qty)))[rows]
        moved = np.concatenate(([0.0], np.cumsum(cash)))[rows]
        close = price.reindex(equity["date"].astype(price.index.dtype), method="ffill").to_numpy()
        value += held * close + moved

    np.testing.assert_allclose(value.to_numpy(), equity["equity"].to_numpy(), rtol=1e-9)


def test_the_assets_profits_add_up_to_that_of_the_whole(result: Path) -> None:
    """Attribution per pair sums to equity less the opening, row by row."""
    equity = pd.read_parquet(result / "equity.parquet")["equity"]
    parts = pd.read_parquet(result / "attribution.parquet").drop(columns="date").sum(axis=1)

    np.testing.assert_allclose(parts, equity - equity[0], atol=1e-4)


def test_weights_and_decisions_have_a_row_per_decision(result: Path) -> None:
    """Weights after trading sum to one with cash; forecasts and what came stand beside each other."""
    tree = json.loads((result / "result.json").read_text())
    weights = pd.read_parquet(result / "weights.parquet")
    decisions = pd.read_parquet(result / "decisions.parquet")

    assert len(weights) == len(decisions) == tree["decisions"]
    np.testing.assert_allclose(weights[[*PAIRS, "cash"]].sum(axis=1), 1.0)
    assert decisions["realised:BTC/USDT"].iloc[:-6].notna().all()
    assert decisions["realised:BTC/USDT"].iloc[-6:].isna().all()
    assert decisions["mean:BTC/USDT"].notna().all()
    assert (weights["date"] == decisions["date"]).all()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--end", "2024-01-01"), "--end 2024-01-01 is not after --start 2024-01-15"),
        (("--start", "soon"), "--start 'soon' is no date"),
        (("--data", "/nowhere"), "no 1h candles in /nowhere"),
    ],
)
def test_bad_input_gets_one_line(
    home: Path, tmp_path: Path, more: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is wrong, where, what to do; nothing is written."""
    assert backtest(home, tmp_path / "out", *more) in {2, 78}
    lines = capsys.readouterr().err.strip().splitlines()

    assert len(lines) == 1
    assert said in lines[0]
    assert not (tmp_path / "out").exists()
