"""``ballast data`` as a user runs it: fetch from an exchange, look, break, mend, take over a folder."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daemon.backtest.data.files import Candles, read, write
from tests.e2e.kit import Exchange

Tree = dict[str, Any]


@pytest.fixture(scope="module")
def exchange() -> Iterator[Exchange]:
    """A simulated exchange process."""
    with Exchange() as one:
        yield one


def ballast(exchange: Exchange, folder: Path, *words: str, code: int = 0) -> Tree:
    """Run ``ballast data …`` with this folder and return its JSON; a failure returns its one line."""
    settings = {
        "BALLAST_EXCHANGE__REST_URL": f"http://{exchange.base}",
        "BALLAST_EXCHANGE__WS_URL": f"ws://{exchange.base}",
        "BALLAST_UNIVERSE": '["BTC/USDT", "ETH/USDT", "SOL/USDT", "XRP/USDT"]',
    }
    command = [sys.executable, "-m", "daemon", "data", *words, "--data", str(folder), "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **settings}, check=False, timeout=60
    )
    assert done.returncode == code, done.stderr + done.stdout
    if not done.stdout:
        return {"error": done.stderr.strip()}
    answer: Tree = json.loads(done.stdout)
    return answer


def test_fetch_check_break_repair(exchange: Exchange, tmp_path: Path) -> None:
    """The universe is fetched; a spoilt file is noticed (3), mended from the exchange, and sound again (0)."""
    begin = datetime.now(UTC) - timedelta(minutes=20)
    since = ("--since", begin.strftime("%Y-%m-%dT%H:%M"), "--until", (begin + timedelta(minutes=10)).isoformat())
    fetched = ballast(exchange, tmp_path, "fetch", "-t", "1s", *since)
    assert [one["rows"] >= 599 for one in fetched["files"]] == [True] * 4
    assert [one["pair"] for one in ballast(exchange, tmp_path, "list")["files"]][:2] == ["BTC/USDT", "ETH/USDT"]
    assert ballast(exchange, tmp_path, "check")["ok"] is True

    path = tmp_path / "ETH_USDT-1s.parquet"
    whole = read(path)
    keep = np.delete(np.arange(len(whole)), [100, 101])
    write(path, Candles(whole.times[keep], whole.values[keep]))
    found = ballast(exchange, tmp_path, "check", code=3)
    (spoilt,) = [one for one in found["files"] if any(each["kind"] == "gap" for each in one["findings"])]
    assert spoilt["file"] == path.name

    offline = ballast(exchange, tmp_path, "repair", "ETH/USDT", code=3)
    assert offline["files"][0]["left"] == [int(whole.times[100])]
    online = ballast(exchange, tmp_path, "repair", "ETH/USDT", "--online")
    assert [one["what"] for one in online["files"][0]["changes"]] == ["filled"] * 2
    assert np.array_equal(read(path).values, whole.values)

    taken = tmp_path / "taken"
    imported = ballast(exchange, taken, "import", str(tmp_path))
    assert [one["rows"] for one in imported["files"]] == [len(read(one)) for one in sorted(tmp_path.glob("*.parquet"))]


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (("fetch",), 2, "--since is missing"),
        (("fetch", "--since", "yesterday"), 2, "'yesterday' is no day"),
        (("fetch", "--since", "2030-01-01"), 2, "does not lie before now"),
        (("fetch", "NO/USDT", "--since", "2024-01-01"), 78, "NO/USDT: binance has no such pair"),
        (("fetch", "--since", "2024-01-01", "-t", "7m"), 78, "timeframe 7m: binance has 1s"),
        (("check",), 78, "no data folder at"),
        (("list",), 78, "no data folder at"),
        (("import", "nowhere"), 78, "no data folder at nowhere"),
    ],
)
def test_bad_input_is_one_line(
    exchange: Exchange, tmp_path: Path, words: tuple[str, ...], code: int, line: str
) -> None:
    """What is wrong, and the exit code."""
    answer = ballast(exchange, tmp_path / "none", *words, code=code)
    assert line in answer["error"]
    assert len(answer["error"].splitlines()) == 1
