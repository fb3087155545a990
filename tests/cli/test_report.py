"""``ballast report`` at the command line: tables, page, one document; bad input is one line."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.backtest.report.kit import Plan, change_result, write_run

Run = Callable[..., tuple[int, str, str]]
SMALL = Plan(bars=24 * 60)


def test_one_run(ballast: Run, tmp_path: Path) -> None:
    """Tables in order on stdout, the page in the run's folder."""
    books = write_run(tmp_path / "run", SMALL)
    code, out, err = ballast("report", str(tmp_path / "run"))

    assert (code, err) == (0, "")
    assert out.index("Average gross exposure") < out.index("Turnover a day") < out.index("Total profit")
    assert f"{books.equity[-1]:,.2f}" in out
    assert f"{books.fees:,.2f}" in out
    assert "Equal weight" in out
    page = tmp_path / "run" / "report.html"
    assert f"page: {page}" in out
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_one_run_as_a_document(ballast: Run, tmp_path: Path) -> None:
    """One JSON document, the result's figures as they are."""
    books = write_run(tmp_path / "run", SMALL)
    code, out, _ = ballast("report", str(tmp_path / "run"), "--json", "--out", str(tmp_path / "page.html"))
    document = json.loads(out)

    assert code == 0
    assert document["result"] == json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))
    assert sum(document["profit"].values()) == pytest.approx(books.equity[-1] - books.equity[0])
    assert 0.0 < document["evidence"]["probabilistic"] < 1.0
    assert document["stress"]["worst_days"][0]["change"] < 0.0
    assert Path(document["html"]).is_file()
    assert not (tmp_path / "run" / "report.html").exists()


def test_several_runs(ballast: Run, tmp_path: Path) -> None:
    """Runs in columns, the best marked, what differs listed, the page beside the caller."""
    first = {"risk": {"max_weight": 0.3}, "forecast": {"horizon_bars": 24}}
    second = {"risk": {"max_weight": 0.5}, "forecast": {"horizon_bars": 24}}
    write_run(tmp_path / "calm", SMALL._replace(params=first))
    write_run(tmp_path / "wild", SMALL._replace(seed=5, params=second))
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("calm", "wild")]
    code, out, err = ballast("report", "calm", "wild")

    assert (code, err) == (0, "")
    (row,) = [line for line in out.splitlines() if line.strip().startswith("Total profit")]
    best = max(results, key=lambda one: one["total_return"])
    assert f"* {100 * best['total_return']:,.2f} %" in row
    assert row.count("*") == 1
    assert [line.split() for line in out.splitlines() if "risk.max_weight" in line] == [
        ["risk.max_weight", "0.3", "0.5"]
    ]
    assert "forecast.horizon_bars" not in out
    assert "Probability of backtest overfitting" in out
    assert (tmp_path / "comparison.html").is_file()

    code, out, _ = ballast("report", "calm", "wild", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["differences"] == {"risk.max_weight": [0.3, 0.5]}
    assert [one["name"] for one in document["runs"]] == ["calm", "wild"]
    assert 0.0 <= document["overfitting"]["probability"] <= 1.0
    assert document["shared_days"] == 60


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        ((), 2, "Missing argument 'RUN...'"),
        (("none",), 2, "none: no such folder; name the folder that `ballast backtest --out` wrote"),
        (("file",), 2, "file: is a file, not a folder"),
        (("run", "run"), 2, "named twice"),
        (("run", "--out", "run"), 2, "--out run: is a folder; name the file to write"),
        (("run", "--out", "file/report.html"), 78, "file/report.html: cannot be written"),
        (("empty",), 78, "empty: no result.json: this is not the folder of a finished run"),
        (("future",), 78, "future/result.json: schema 2 is unknown, this version reads 1"),
        (("run", "future"), 78, "future/result.json: schema 2 is unknown"),
    ],
)
def test_bad_input_is_one_line(ballast: Run, tmp_path: Path, words: tuple[str, ...], code: int, line: str) -> None:
    """What is wrong, and the exit code."""
    write_run(tmp_path / "run", SMALL)
    write_run(tmp_path / "future", SMALL)
    change_result(tmp_path / "future", schema=2)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("", encoding="utf-8")

    found, out, err = ballast("report", *words)
    assert (found, out) == (code, "")
    assert line in err
    assert len(err.splitlines()) == 1


def test_escape_codes_never_reach_the_terminal(ballast: Run, tmp_path: Path) -> None:
    """A name may not colour, clear or turn the terminal around, nor be read as markup."""
    write_run(tmp_path / "run", SMALL._replace(pairs=("BTC/USDT", "\x1b[2J\u202e/USDT", "[bold]x[/]/USDT")))
    change_result(tmp_path / "run", start="\x1b]0;owned\x07")
    code, out, _ = ballast("report", str(tmp_path / "run"))

    assert code == 0
    assert not set("\x1b\x07\u202e") & set(out)
    assert "[bold]x[/]/USDT" in out


def test_as_a_user_runs_it(tmp_path: Path) -> None:
    """In processes of their own, whatever order their sets have: the same document, the same page, nothing on stderr."""
    write_run(tmp_path / "run", SMALL)
    seen: list[tuple[str, bytes]] = []
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "daemon", "report", "run", "--json"],
            capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "PYTHONHASHSEED": seed},
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        seen.append((done.stdout, (tmp_path / "run" / "report.html").read_bytes()))

    assert json.loads(seen[0][0])["html"] == "run/report.html"
    assert seen[0] == seen[1]
