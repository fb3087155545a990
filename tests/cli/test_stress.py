"""``ballast stress`` at the command line: a given portfolio, a running daemon's, a ledger's; bad input is one line."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from daemon.backtest.stress_market import load_market
from daemon.domain.events import Booked, Flow
from daemon.edge.clock import Clock
from daemon.edge.ledger import LedgerConfig, SqlLedger
from tests.backtest.test_stress import write_world
from tests.cli.test_commands import Shown, daemon_api
from tests.cli.test_explain import write

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of three pairs."""
    made = tmp_path_factory.mktemp("candles")
    write_world(made)
    return made


@pytest.fixture
def words(folder: Path) -> tuple[str, ...]:
    """The command and what it needs to be quick."""
    return ("stress", "--data", str(folder), "-t", "4h", "--paths", "100")


def test_a_given_portfolio(ballast: Run, words: tuple[str, ...], tmp_path: Path) -> None:
    """Tables first, in order; the page beside them, whole; the same twice."""
    (tmp_path / "mine.csv").write_text("pair,quantity\nBTC/USDT,100\nNONE/USDT,0\nETH/USDT,50\n")
    code, out, err = ballast(*words, "--portfolio", "mine.csv", "--cash", "5000", "--html", "page.html")

    assert (code, err) == (0, "")
    titles = [
        "Portfolio: mine.csv",
        "Risk now",
        "Historical shocks",
        "Hypothetical shocks",
        "Wilder days",
        "Selling everything",
    ]
    places = [out.index(title) for title in titles]
    assert places == sorted(places)
    assert "candles of it (the files: 2021-03-01 to 2024-09-30): 2020-03." in " ".join(out.split())
    assert "Valued at the newest candles, 2024-10-01 00:00." in " ".join(out.split())
    assert out.endswith("page: page.html\n")
    first = Path("page.html").read_bytes()
    assert first.startswith(b"<!doctype html>")
    assert first.count(b'class="plot"') == 4
    assert ballast(*words, "--portfolio", "mine.csv", "--cash", "5000", "--html", "page.html")[1] == out
    assert Path("page.html").read_bytes() == first


def test_as_one_document(ballast: Run, words: tuple[str, ...], tmp_path: Path) -> None:
    """Money as text, ratios as numbers, weights taken as weights."""
    (tmp_path / "mine.toml").write_text('"BTC/USDT" = 0.5\n"NONE/USDT" = 0.2\n')
    code, out, _ = ballast(*words, "--portfolio", "mine.toml", "--weights", "--cash", "600", "--json")
    found = json.loads(out)

    assert code == 0
    assert (found["portfolio"]["equity"], found["portfolio"]["cash"]) == ("2000.00", "600.00")
    assert found["portfolio"]["positions"]["BTC/USDT"]["value"] == "1000.00"
    assert found["estimates"]["stand_ins"] == {"NONE/USDT": "no candles: as the leader (beta 1)"}
    assert [one["key"] for one in found["historical"]] == ["2020-03", "2021-05", "2022-05", "2022-11", "2024-08"]
    assert (found["historical"][0]["change"], found["historical"][1]["by_beta"]) == (None, ["NONE/USDT"])
    flat = next(one for one in found["scenarios"] if one["name"] == "Every asset −20 %")
    assert (flat["change"], flat["money"]) == (pytest.approx(-0.14), "-280.00")
    assert flat["contributions"] == {"BTC/USDT": pytest.approx(-0.1), "NONE/USDT": pytest.approx(-0.04)}
    assert found["risk"]["historical"]["cvar"] >= found["risk"]["historical"]["var"] > 0.0


async def test_what_the_daemon_holds(
    ballast: Run, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quantities and prices of the API; asked again when it traded between two answers."""
    monkeypatch.setenv("BALLAST_API__LISTEN", "127.0.0.1:0")
    cash = iter([Decimal(9000), Decimal(7000), Decimal(7000)])
    monkeypatch.setattr(Shown, "equity", lambda *_: {"cash": next(cash)})
    held: list[dict[str, Any]] = [
        {"symbol": "BTC/USDT", "qty": Decimal("0.10"), "price": 20_000.0},
        {"symbol": "ETH/USDT", "qty": Decimal(1), "price": 1_000.0},
        {"symbol": "SOL/USDT", "qty": Decimal(0), "price": 0.0},
    ]
    monkeypatch.setattr(Shown, "positions", lambda *_: held)
    async with daemon_api(tmp_path / "var"):
        code, out, err = await asyncio.to_thread(ballast, *words, "--json")

    assert (code, err) == (0, "")
    found = json.loads(out)["portfolio"]
    assert found["origin"].startswith("the daemon at http://127.0.0.1:")
    assert {pair: one["value"] for pair, one in found["positions"].items()} == {
        "BTC/USDT": "2000.00",
        "ETH/USDT": "1000.00",
    }
    assert found["cash"] == "7000.00"


async def test_what_the_ledger_says(ballast: Run, words: tuple[str, ...], tmp_path: Path) -> None:
    """Without a daemon the books are read and valued at the newest candles; without books either both are told."""
    code, out, err = await asyncio.to_thread(ballast, *words)
    assert (code, out) == (69, "")
    assert "nor is there a ledger to read" in err
    assert err.rstrip().endswith("--portfolio FILE gives one")
    assert err.count("\n") == 1

    await write_books(tmp_path / "var/paper")
    code, out, err = await asyncio.to_thread(ballast, *words, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    price = load_market(Path(words[2]), (), leader="BTC/USDT", timeframe="4h").price[0]
    assert found["portfolio"]["origin"].startswith("the ledger ")
    assert found["portfolio"]["cash"] == f"{1000 - 0.3 * 100.02 - 0.2 * 99.99:.2f}"
    assert found["portfolio"]["positions"]["BTC/USDT"]["value"] == f"{0.4992 * price:.2f}"


async def write_books(folder: Path) -> None:
    """A ledger with 1,000 USDT, half a bitcoin bought and its fee paid in it."""
    await write(folder)
    config = LedgerConfig(
        folder=folder, instance="main", mode="paper", venue="binance", quote="USDT", lock_folder=folder
    )
    ledger = SqlLedger(config, clock=Clock())
    await ledger.open()
    ledger.record(Booked(fill=None, flow=Flow(asset="USDT", amount=Decimal(1000), ours=True, detail="", ts_ns=1)))
    assert await ledger.flush(5)
    await ledger.close()


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["--cash", "5"], 2, "--cash and --weights go with --portfolio FILE"),
        (["--portfolio", "none.csv"], 2, "--portfolio none.csv: cannot be read: No such file"),
        (["--portfolio", "mine.json", "--html", "."], 2, "--html .: is a folder"),
        (["--portfolio", "mine.json", "--days", "3"], 2, "'--days'"),
        (["--portfolio", "mine.json", "--leader", "FOO/USDT"], 78, "FOO/USDT: no 4h candles in"),
        (["--portfolio", "two.json"], 2, "pairs in EUR, USDT: all must have one quote currency"),
        (["--portfolio", "mine.json", "--data", "nowhere"], 78, "no data folder at nowhere"),
    ],
)
def test_errors(
    ballast: Run, words: tuple[str, ...], tmp_path: Path, arguments: list[str], code: int, line: str
) -> None:
    """One line that says what is wrong, and the exit code of DESIGN A3."""
    (tmp_path / "mine.json").write_text('{"BTC/USDT": 1}')
    (tmp_path / "two.json").write_text('{"BTC/USDT": 1, "BTC/EUR": 1}')
    found, out, err = ballast(*words, *arguments)

    assert (found, out) == (code, "")
    assert line in err
    assert err.count("\n") == 1


def test_as_a_process(words: tuple[str, ...], tmp_path: Path) -> None:
    """From the outside: tables on stdout, nothing on stderr, exit code 0."""
    (tmp_path / "mine.json").write_text('{"weights": {"BTC/USDT": 0.4, "ETH/USDT": 0.4}}')
    command = [sys.executable, "-m", "daemon", *words, "--portfolio", "mine.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert "BTC −30 %, others by their beta" in done.stdout
