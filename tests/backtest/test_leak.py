"""`ballast leak`: planted leaks are found and named, honest strategies are clean, the bar that matters is right."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.backtest.data.files import Candles, path_of, write
from daemon.backtest.history import load_panel
from daemon.backtest.leak import Plan, compared, find_leaks
from daemon.backtest.leak_find import Finding, Needed, Report
from daemon.backtest.leak_record import Turn
from daemon.backtest.longer import Longer
from daemon.backtest.run import warm_up_ns
from daemon.cli.main import run
from daemon.domain.errors import ConfigError
from daemon.settings import load_settings

REPO = Path(__file__).resolve().parents[2]
DEADLINE_S = 120.0
LEAKY = Path(__file__).parent / "leaky"
HOUR_NS = 3_600 * 10**9
T0_NS = 1_704_067_200 * 10**9
"""2024-01-01."""
BEFORE = 9_216
"""Bars in the files before that: more than the daemon keeps, and than a year of days."""
BARS = BEFORE + 500
FIRST, LAST = 400, 460
"""Bars that are traded."""
KEPT = 60
PAIRS = ("AAA/USDT", "BBB/USDT")


def candles(seed: int, *, step_ms: int = 3_600_000, bars: int = BARS) -> Candles:
    """Return a random walk that begins long before 2024."""
    rng = np.random.default_rng(seed)
    close = 100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.01, bars)))
    opened = np.concatenate(([100.0], close[:-1]))
    spread = 1.0 + rng.uniform(0.0005, 0.005, bars)
    high, low = np.maximum(opened, close) * spread, np.minimum(opened, close) / spread
    values = np.stack([opened, high, low, close, rng.lognormal(12.0, 0.5, bars)], axis=1)
    return Candles((T0_NS - BEFORE * HOUR_NS) // 1_000_000 + step_ms * np.arange(bars, dtype=np.int64), values)


@pytest.fixture(scope="session")
def candle_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Candles of two pairs, and of a third in another timeframe."""
    folder = tmp_path_factory.mktemp("candles")
    for seed, pair in enumerate(PAIRS):
        write(path_of(folder, pair, "1h"), candles(seed))
    write(path_of(folder, "CCC/USDT", "1d"), candles(9, step_ms=86_400_000, bars=400))
    return folder


@pytest.fixture
def place(candle_files: Path) -> Iterator[Path]:
    """A folder with the strategies, their candles beside them; not below /dev/shm, whose files count as the system's."""
    with tempfile.TemporaryDirectory(prefix="ballast-leaky-") as name:
        folder = Path(name)
        for path in LEAKY.glob("*.py"):
            shutil.copy(path, folder)
        shutil.copytree(candle_files, folder / "candles")
        (folder / "features.json").write_text('{"share": 0.1}')
        yield folder


def configuration(place: Path, strategy: str, extra: str = "") -> Path:
    """Write a configuration for a strategy and return its file."""
    file = place / "leak.toml"
    pairs = ", ".join(f'"{pair}"' for pair in PAIRS)
    file.write_text(
        f'universe = [{pairs}]\nstrategy = "{strategy}"\nstate_dir = "{place / "var"}"\n{extra}\n'
        f'[feed]\nbackfill_bars = {KEPT}\n[forecast]\nmodel = "ewma"\nlookback = 20\nshrink = "none"\n'
    )
    return file


def look(place: Path, strategy: str, extra: str = "", **plan: Any) -> Report:
    """Look for leaks in a strategy."""
    known = load_settings([configuration(place, strategy, extra)], {})
    folder = place / "candles"
    start_ns = T0_NS + FIRST * HOUR_NS
    panel = load_panel(
        folder,
        known.universe,
        bar=known.bar,
        bar_ns=known.bar_ns,
        start_ns=start_ns - warm_up_ns(known),
        end_ns=T0_NS + LAST * HOUR_NS,
    )
    chosen = Plan(**{"folders": (folder,), "samples": 6, **plan})
    return find_leaks(known, panel, first=panel.place(start_ns), plan=chosen)


def only(report: Report) -> Finding:
    """Return the one finding there is, or the first of several of one experiment."""
    assert {one.experiment for one in report.findings} == {report.findings[0].experiment}
    return report.findings[0]


# ---------------------------------------------------------------------- what is planted is found


def test_a_strategy_that_reads_tomorrows_close_is_found_with_the_bar_it_reads(place: Path) -> None:
    """The close 24 bars later, and nothing else; the files are named."""
    report = look(place, "tomorrow:Tomorrow")
    found = only(report)
    assert found.trace is not None

    assert (found.experiment, found.leak) == ("future", True)
    assert (found.trace.first_bars, found.trace.last_bars) == (24, 24)
    assert found.trace.fields == ("close",)
    assert found.trace.last_ns == found.close_ns + 24 * HOUR_NS
    assert found.difference is not None
    assert found.difference.what == "weight"
    assert found.difference.symbol in found.trace.pairs
    assert "it hangs on the close of" in found.message
    assert any("reads candles by itself: AAA_USDT-1h.parquet, BBB_USDT-1h.parquet" in note for note in report.notes)


def test_a_centred_average_cached_at_import_is_found_with_its_reach(place: Path) -> None:
    """Five bars to the right."""
    found = only(look(place, "centred:Centred"))
    assert found.trace is not None

    assert (found.experiment, found.count) == ("future", 6)
    assert (found.trace.first_bars, found.trace.last_bars) == (1, 5)
    assert found.trace.fields == ("close",)


def test_what_a_neighbour_of_the_strategy_caches_is_fresh_in_every_world(place: Path) -> None:
    """The table is made in a module that the strategy imports."""
    (place / "front.py").write_text("from centred import Centred\n\n\nclass Front(Centred):\n    pass\n")
    found = only(look(place, "front:Front", samples=2))

    assert (found.experiment, found.count) == ("future", 2)


@pytest.mark.parametrize("mount", [True, False])
def test_the_maximum_of_a_whole_file_is_found(place: Path, mount: bool) -> None:
    """Read by pyarrow, which does not open files through Python: with mounts, and without them."""
    report = look(place, "whole_file:Highest", mount=mount)
    found = only(report)

    assert (found.experiment, found.leak) == ("future", True)
    assert report.shown == ("mount" if mount else "python")
    assert any("allows no mounts" in note for note in report.notes) is not mount


def test_a_model_trained_past_the_decisions_is_found_with_both_times(place: Path) -> None:
    """Trained until bar 450, decisions from bar 401 on."""
    found = only(look(place, "trained:Trained"))

    assert (found.experiment, found.leak) == ("model", True)
    assert "2024-01-19 18:00Z" in found.message
    assert found.close_ns < T0_NS + 450 * HOUR_NS
    assert found.count == 5


def test_state_kept_between_decisions_is_a_warning(place: Path) -> None:
    """What it was asked before changes the answer, so a restart does."""
    report = look(place, "impure:Memory")
    found = only(report)

    assert (found.experiment, found.leak) == ("order", False)
    assert "state is kept" in found.message
    assert (report.leaks, report.warnings) == (0, 1)
    assert report.needed is None


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("Chance", "random numbers that nobody seeded"),
        ("SeededChance", "global random generator"),
        ("Clock", "reads the clock"),
        ("Hashes", "order of a set"),
    ],
)
def test_what_is_not_repeated_is_found_with_its_cause(place: Path, name: str, word: str) -> None:
    """Chance, seeded chance, the clock, the order of a set."""
    report = look(place, f"impure:{name}")
    found = next(one for one in report.findings if one.experiment == "repeat")

    assert found.leak
    assert word in found.message
    assert "future" not in {one.experiment for one in report.findings}


def test_the_beginning_of_a_file_is_a_warning(place: Path) -> None:
    """Past, but older than what the daemon keeps."""
    found = only(look(place, "whole_file:First"))

    assert (found.experiment, found.leak) == ("past", False)


@pytest.mark.parametrize(("name", "word"), [("Table", "features.json"), ("Network", "network: ('127.0.0.1', 9)")])
def test_what_no_world_can_vary_is_a_warning_that_names_it(place: Path, name: str, word: str) -> None:
    """A table of its own, a connection."""
    found = only(look(place, f"impure:{name}"))

    assert (found.experiment, found.leak) == ("files", False)
    assert word in found.message


# ---------------------------------------------------------------------- what is honest is clean


@pytest.mark.parametrize(
    ("strategy", "extra"),
    [
        ("strategies.examples.equal_weight:EqualWeight", ""),
        ("strategies.examples.momentum:Momentum", "[strategy_params]\nlookback = 24"),
        ("strategies.examples.mean_reversion:MeanReversion", "[strategy_params]\nlookback = 24\nentry = 0.1"),
        ("strategies.forecast_optimise:ForecastOptimise", ""),
    ],
)
def test_honest_strategies_are_clean(place: Path, strategy: str, extra: str) -> None:
    """Nothing is found, and the history they need is no more than is kept."""
    report = look(place, strategy, extra)

    assert report.findings == ()
    assert report.needed is not None
    assert 1 <= report.needed.bars <= KEPT
    if "Momentum" in strategy:
        assert report.needed.bars == 25


def test_a_strategy_that_uses_all_of_its_view_is_clean(place: Path) -> None:
    """Each question is asked again with the very bars, days and weights of the run; all bars are needed."""
    report = look(place, "honest:Everything", samples=12)

    assert report.findings == ()
    assert report.needed is not None
    assert report.needed == Needed(KEPT, KEPT)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(past=st.lists(st.floats(-3.0, 3.0), min_size=1, max_size=8), ahead=st.integers(0, 30), seed=st.integers(0, 99))
def test_a_linear_strategy_is_clean_or_found_with_the_right_bar(
    place: Path, past: list[float], ahead: int, seed: int
) -> None:
    """Whatever its weights on the past are, only one on a bar ahead is found, and it is that bar."""
    report = look(place, "linear:Linear", f"[strategy_params]\npast = {past}\nahead = {ahead}", samples=3, seed=seed)

    if not ahead:
        assert report.findings == ()
    else:
        traces = [one.trace for one in report.findings if one.experiment == "future"]
        assert len(traces) == len(report.findings) == 3
        assert {(one.first_bars, one.last_bars, one.fields) for one in traces if one} == {(ahead, ahead, ("close",))}


def test_two_runs_are_compared_question_by_question() -> None:
    """Another question is the engine's fault, another answer the strategy's; what comes after the cut does not count."""
    turns = [Turn(at, b"asked", b"answered") for at in range(1, 5)]
    after = [*turns[:3], Turn(4, b"other", b"other")]
    asked = [turns[0], Turn(2, b"other", b"answered"), *turns[2:]]
    answered = [turns[0], Turn(2, b"asked", b"other"), *turns[2:]]

    assert compared(turns, after, 3) is None
    for other, experiment in ((asked, "engine"), (answered, "future")):
        found = compared(turns, other, 3)
        assert found is not None
        assert (found.experiment, found.close_ns, found.of) == (experiment, 2, 3)


def test_an_engine_that_looks_ahead_is_found(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Daily candles that are told before their day has closed: nobody but the run as a whole can notice."""
    told = Longer.news
    monkeypatch.setattr(Longer, "news", lambda self, number, time_ns: told(self, number, time_ns + 24 * HOUR_NS))
    found = only(look(place, "honest:Everything"))

    assert (found.experiment, found.leak) == ("engine", True)


# ---------------------------------------------------------------------- what cannot be looked at


@pytest.mark.parametrize(
    ("strategy", "word"),
    [
        ("impure:Never", "decided nothing"),
        ("impure:Dies", "its process ended"),
        ("impure:Nobody", "cannot be used"),
        ("nothing_there:Strategy", "no module"),
    ],
)
def test_a_strategy_that_cannot_be_asked_is_refused_in_one_line(place: Path, strategy: str, word: str) -> None:
    """Raises at each decision, ends its process, is not there."""
    with pytest.raises(ConfigError, match=word) as refused:
        look(place, strategy)

    assert "\n" not in str(refused.value)


def test_a_strategy_that_hangs_is_given_up(place: Path) -> None:
    """Its process is ended, whatever it is doing."""
    with pytest.raises(ConfigError, match="no answer within 1 s"):
        look(place, "impure:Hangs", seconds=1.0)

    assert _gone(int((place / "hanging").read_text()))


def test_no_process_outlives_a_command_that_is_killed(place: Path) -> None:
    """SIGKILL in the middle of a question: the nursery and its child end by themselves, and remove what they wrote."""
    scratch = place / "scratch"
    scratch.mkdir()
    config = configuration(place, "impure:Hangs")
    command = [sys.executable, "-m", "daemon", "leak", "-c", str(config), "--data", str(place / "candles")]
    process = subprocess.Popen(
        [*command, "--start", "2024-01-17", "--end", "2024-01-18"], cwd=REPO, env={**os.environ, "TMPDIR": str(scratch)}
    )
    name = place / "hanging"
    deadline = time.monotonic() + DEADLINE_S
    while not (name.is_file() and name.read_text()) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    child = int(name.read_text())
    assert list(scratch.iterdir())
    process.kill()
    process.wait()

    assert _gone(child)
    while list(scratch.glob("ballast-leak-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not list(scratch.glob("ballast-leak-*"))


def _gone(pid: int) -> bool:
    """Wait for a process to end, and say whether it has."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if " Z " in _stat(pid):
            return True
        time.sleep(0.02)
    return False


def _stat(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return " Z "


def test_the_command_says_what_it_found_and_exits_with_3(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Text and JSON; 0 for a clean one, 3 for a warning with --strict, 78 for a folder without candles."""
    config = configuration(place, "tomorrow:Tomorrow")
    period = ["--start", "2024-01-17T16:00", "--end", "2024-01-18", "--samples", "2"]
    data = ["--data", str(place / "candles"), "-c", str(config)]

    assert run(["leak", *data, *period]) == 3
    assert "LEAK (future): the decision of 2024-01-17" in capsys.readouterr().out
    assert run(["leak", *data, *period, "--json"]) == 3
    document = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["leaks"]) == (False, 2)
    assert document["findings"][0]["trace"]["last_bars"] == 24
    configuration(place, "impure:Memory")
    assert run(["leak", *data, *period]) == 0
    assert run(["leak", *data, *period, "--strict"]) == 3
    assert run(["leak", "-c", str(config), "--data", str(place / "nowhere"), *period]) == 78
