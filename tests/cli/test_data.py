"""``ballast data`` as a user runs it: fetch from an exchange, look, break, mend, take over a folder."""

import contextlib
import io
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daemon.backtest.data import supply
from daemon.backtest.data.files import Candles, read, write
from daemon.backtest.data.trade_reader import chunks
from daemon.backtest.data.trades import read_day, set_of, write_day
from daemon.cli.data_common import asker_of
from daemon.cli.main import run
from daemon.settings import load_settings
from tests.e2e.kit import Exchange, free_port

Tree = dict[str, Any]

KILLED = """
import os, signal, sys
from daemon.backtest.data import trade_folder, trades
from daemon.cli.main import run

trade_folder.SAVE_PAGES = 1
writes = 0
whole = trades.parquet.write_table

def write_table(table, where, **options):
    global writes
    writes += 1
    at = int(os.environ["KILL_AT"])
    if writes * 2 - 1 == at:  # before the first byte
        os.kill(os.getpid(), signal.SIGKILL)
    whole(table, where, **options)
    if writes * 2 == at:  # written, not yet in its place
        os.kill(os.getpid(), signal.SIGKILL)

trades.parquet.write_table = write_table
sys.exit(run(["data", "fetch", *sys.argv[2:], "--data", sys.argv[1]]))
"""
"""Runs the command and is killed at the KILL_AT-th half of a write."""


@pytest.fixture(scope="module")
def exchange() -> Iterator[Exchange]:
    """A simulated exchange process."""
    with Exchange() as one:
        yield one


def settings_for(exchange: Exchange) -> dict[str, str]:
    """Return the variables that name the exchange and the pairs."""
    return {
        "BALLAST_EXCHANGE__REST_URL": f"http://{exchange.base}",
        "BALLAST_EXCHANGE__WS_URL": f"ws://{exchange.base}",
        "BALLAST_UNIVERSE": '["BTC/USDT", "ETH/USDT", "SOL/USDT", "XRP/USDT"]',
    }


def told(code: int, stdout: str, stderr: str, *, wanted: int) -> Tree:
    """Return the JSON that a command printed; a failure returns its one line."""
    assert code == wanted, stderr + stdout
    if not stdout:
        return {"error": stderr.strip()}
    answer: Tree = json.loads(stdout)
    return answer


def process(exchange: Exchange, folder: Path, *words: str, code: int = 0) -> Tree:
    """Run ``ballast data …`` with this folder in a process of its own."""
    command = [sys.executable, "-m", "daemon", "data", *words, "--data", str(folder), "--json"]
    env = {**os.environ, **settings_for(exchange)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=60)
    return told(done.returncode, done.stdout, done.stderr, wanted=code)


def ballast(exchange: Exchange, folder: Path, *words: str, code: int = 0) -> Tree:
    """Run ``ballast data …`` with this folder in this process, which has imported everything already."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        for name, value in settings_for(exchange).items():
            patch.setenv(name, value)
        ended = run(["data", *words, "--data", str(folder), "--json"])
    return told(ended, out.getvalue(), err.getvalue(), wanted=code)


def whole_trades(folder: Path) -> int:
    """Return how many trades of BTC/USDT a folder holds, without a gap or a repetition."""
    parts = list(chunks(set_of(folder, "BTC/USDT")))
    ids = np.concatenate([one["id"] for one in parts]) if parts else np.empty(0, dtype=np.int64)
    assert (np.diff(ids) == 1).all()
    return len(ids)


def test_a_fetch_of_trades_that_is_killed_goes_on_without_gap_or_duplicate(exchange: Exchange, tmp_path: Path) -> None:
    """SIGKILL at several moments, also while a day is written; in the end the same files as without."""
    begin = datetime.now(UTC) - timedelta(minutes=22)
    words = (
        "--trades",
        "--pairs",
        "BTC/USDT",
        "--start",
        begin.isoformat(),
        "--end",
        (begin + timedelta(minutes=20)).isoformat(),
    )
    settings = {
        "BALLAST_EXCHANGE__REST_URL": f"http://{exchange.base}",
        "BALLAST_EXCHANGE__WS_URL": f"ws://{exchange.base}",
    }
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), *words]
    kills = 0
    for at in ("1", "3", "4", "6"):
        done = subprocess.run(
            command, env={**os.environ, **settings, "KILL_AT": at}, check=False, timeout=60, capture_output=True
        )
        kills += done.returncode == -signal.SIGKILL
        if (tmp_path / "killed" / "BTC_USDT-trades").is_dir():
            whole_trades(tmp_path / "killed")
    assert kills >= 3
    ballast(exchange, tmp_path / "killed", "fetch", *words)
    (fetched,) = ballast(exchange, tmp_path / "whole", "fetch", *words)["files"]

    assert fetched["total"] == whole_trades(tmp_path / "killed") == whole_trades(tmp_path / "whole") > 3_000
    listed = ballast(exchange, tmp_path / "killed", "list")["trades"]
    assert [(one["pair"], one["rows"], len(one["covered_ns"])) for one in listed] == [("BTC/USDT", fetched["total"], 1)]


def test_trades_are_checked_mended_made_into_candles_and_taken_over(exchange: Exchange, tmp_path: Path) -> None:
    """The commands know trades as they know candles: 3 when something is wrong, 0 when it is right again."""
    begin = (datetime.now(UTC) - timedelta(minutes=20)).replace(second=0, microsecond=0)
    days = ("--since", begin.isoformat(), "--until", (begin + timedelta(minutes=15)).isoformat())
    ballast(exchange, tmp_path, "fetch", "--trades", "ETH/USDT", *days)
    ballast(exchange, tmp_path, "fetch", "-t", "1m", "ETH/USDT", *days)
    assert ballast(exchange, tmp_path, "check")["ok"] is True
    built = ballast(exchange, tmp_path, "bars", "ETH/USDT", "-t", "1m")
    assert (built["files"][0]["same"], built["files"][0]["differing"]) == (15, 0)
    assert ballast(exchange, tmp_path, "bars", "-t", "5s")["files"][0]["new"] == 180

    path = next((tmp_path / "ETH_USDT-trades").glob("*.parquet"))
    rows, facts = read_day(path)
    write_day(path, np.delete(rows, [10, 11, 500]), facts)
    found = ballast(exchange, tmp_path, "check", "--trades", code=3)
    assert {one["kind"]: one["rows"] for one in found["files"][0]["findings"]}["gap"] == 3
    assert len(ballast(exchange, tmp_path, "repair", "--trades", code=3)["files"][0]["left"]) == 2
    mended = ballast(exchange, tmp_path, "repair", "ETH/USDT", "--online")
    assert sum(len(one["changes"]) for one in mended["files"]) == 3
    assert np.array_equal(read_day(path)[0], rows)

    (tmp_path / "supply.csv").write_text("date,asset,supply\n2024-01-01,ETH,120000000\n")
    taken = ballast(exchange, tmp_path / "taken", "import", str(tmp_path))
    assert {one["file"]: one["rows"] for one in taken["files"]}["ETH_USDT-trades"] == len(rows)
    assert taken["supplies"] == 1
    assert ballast(exchange, tmp_path / "taken", "check")["ok"] is True


def test_a_terminal_shows_progress(exchange: Exchange, tmp_path: Path) -> None:
    """On a pseudo-terminal: the pair, per cent up to the end; the exchange's rate limits are on."""
    begin = datetime.now(UTC) - timedelta(minutes=12)
    days = ["--since", begin.isoformat(), "--until", (begin + timedelta(minutes=10)).isoformat()]
    command = [sys.executable, "-m", "daemon", "data", "fetch", "--trades", "BTC/USDT", *days, "--data", str(tmp_path)]
    settings = {
        "BALLAST_EXCHANGE__REST_URL": f"http://{exchange.base}",
        "BALLAST_EXCHANGE__WS_URL": f"ws://{exchange.base}",
    }
    ours, its = pty.openpty()
    done = subprocess.run(
        command,
        stderr=its,
        stdout=subprocess.PIPE,
        env={**os.environ, **settings, "TERM": "xterm"},
        check=True,
        timeout=60,
    )
    os.close(its)
    seen = b""
    with contextlib.suppress(OSError):  # the end of a pseudo-terminal
        while part := os.read(ours, 65_536):
            seen += part
    os.close(ours)

    assert b"BTC/USDT" in seen
    assert b"100 %" in seen
    assert b"BTC_USDT-trades" in done.stdout
    assert asker_of(load_settings([])).exchange.enableRateLimit is True


def test_supplies_that_cannot_be_had_end_with_69(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens there: one line, after the last of all tries."""
    monkeypatch.setattr(supply, "RETRY_S", 0.01)
    words = ("fetch", "--supply", "--pairs", "BTC/USDT", "--supply-url", f"http://127.0.0.1:{free_port()}/api/v3")
    assert "no supplies: ConnectError" in ballast(exchange, tmp_path, *words, code=69)["error"]


def test_fetch_check_break_repair(exchange: Exchange, tmp_path: Path) -> None:
    """The universe is fetched; a spoilt file is noticed (3), mended from the exchange, and sound again (0)."""
    begin = datetime.now(UTC) - timedelta(minutes=20)
    since = ("--since", begin.strftime("%Y-%m-%dT%H:%M"), "--until", (begin + timedelta(minutes=10)).isoformat())
    fetched = process(exchange, tmp_path, "fetch", "-t", "1s", *since)
    assert [one["rows"] >= 599 for one in fetched["files"]] == [True] * 4
    assert [one["pair"] for one in ballast(exchange, tmp_path, "list")["files"]][:2] == ["BTC/USDT", "ETH/USDT"]
    assert ballast(exchange, tmp_path, "check")["ok"] is True

    path = tmp_path / "ETH_USDT-1s.parquet"
    whole = read(path)
    keep = np.delete(np.arange(len(whole)), [100, 101])
    write(path, Candles(whole.times[keep], whole.values[keep]))
    found = process(exchange, tmp_path, "check", code=3)
    (spoilt,) = [one for one in found["files"] if any(each["kind"] == "gap" for each in one["findings"])]
    assert spoilt["file"] == path.name

    offline = ballast(exchange, tmp_path, "repair", "ETH/USDT", code=3)
    assert offline["files"][0]["left"] == [int(whole.times[100])]
    online = process(exchange, tmp_path, "repair", "ETH/USDT", "--online")
    assert [one["what"] for one in online["files"][0]["changes"]] == ["filled"] * 2
    assert np.array_equal(read(path).values, whole.values)

    taken = tmp_path / "taken"
    imported = ballast(exchange, taken, "import", str(tmp_path))
    assert [one["rows"] for one in imported["files"]] == [len(read(one)) for one in sorted(tmp_path.glob("*.parquet"))]


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (("fetch",), 2, "--since is missing"),
        (("fetch", "--since", "yesterday"), 2, "'yesterday' is no date"),
        (("fetch", "--since", "2030-01-01"), 2, "does not lie before now"),
        (("fetch", "NO/USDT", "--since", "2024-01-01"), 78, "NO/USDT: binance has no such pair"),
        (("fetch", "--since", "2024-01-01", "-t", "7m"), 78, "timeframe 7m: binance has 1s"),
        (("check",), 78, "no data folder at"),
        (("list",), 78, "no data folder at"),
        (("import", "nowhere"), 78, "no data folder at nowhere"),
        (("bars",), 78, "no data folder at"),
        (("fetch", "--trades", "-t", "1m", "--since", "2024-01-01"), 2, "--trades have no timeframe"),
        (("fetch", "--supply", "--since", "2024-01-01"), 2, "--supply is of today"),
        (("fetch", "--supply", "--supply-url", "http://api.example"), 78, "must begin with https"),
        (("check", "--trades", "-t", "1m"), 2, "--trades have no timeframe"),
    ],
)
def test_bad_input_is_one_line(
    exchange: Exchange, tmp_path: Path, words: tuple[str, ...], code: int, line: str
) -> None:
    """What is wrong, and the exit code."""
    answer = ballast(exchange, tmp_path / "none", *words, code=code)
    assert line in answer["error"]
    assert len(answer["error"].splitlines()) == 1
