"""The comparison with other engines: the judge, the data, our own driver, and what is said when a peer cannot be run."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.peers import install, kit, race
from benchmarks.strategies_ema import LongFlat
from daemon.domain.signal import NoDecision, Targets, View

FAKE = """
import json, sys
print(json.dumps({"ready": "fake"}), flush=True)
for number, _ in enumerate(sys.stdin):
    if number == 2:
        sys.exit("the engine broke")
    print(json.dumps({"seconds": 2.0, "cpu_s": 1.0, "orders": 3, "final_equity": 1.0, "note": ""}), flush=True)
print(json.dumps({"engine": "fake", "version": "9", "rss_mb": 1.0, "orders": 3, "final_equity": 1.0, "note": ""}))
"""


@pytest.fixture
def _data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "DATA", tmp_path / "data")


@pytest.mark.parametrize(
    ("ratios", "bar", "verdict"),
    [
        ([3.1, 3.2, 3.3, 3.2], 3.0, "met"),
        ([2.1, 2.2, 2.3, 2.2], 3.0, "missed"),
        ([2.0, 2.5, 3.5, 4.0], 3.0, "too noisy"),
        ([1.0, 3.1, 3.2, 3.3, 3.2, 3.3, 3.4, 9.0], 3.0, "met"),
        ([3.0], 3.0, "met"),
        ([2.9], 3.0, "missed"),
    ],
)
def test_a_verdict_needs_most_rounds_on_one_side(ratios: list[float], bar: float, verdict: str) -> None:
    """One wild round changes nothing; a spread across the bar is no verdict."""
    assert race.judge(ratios, bar) == (pytest.approx(float(np.median(ratios))), verdict)


def test_the_bars_favour_nobody() -> None:
    """Each open is the close before it, the extremes lie around both, everything on the tick; the same on any day."""
    bars = kit.walk(kit.Case("ema", 3, 500))
    o, h, low, c = (bars[:, :, place] for place in range(4))

    assert np.array_equal(o[1:], c[:-1])
    assert bool((h >= np.maximum(o, c)).all() and (low <= np.minimum(o, c)).all())
    assert np.array_equal(np.round(bars[:, :, :4], 2), bars[:, :, :4])
    assert np.array_equal(bars, kit.walk(kit.Case("ema", 3, 500)))


def test_all_engines_read_one_file(tmp_path: Path) -> None:
    """The do-nothing case and the EMA cross share theirs; a case has a name that gives it back."""
    case = kit.Case.of("ema-2x40")

    assert case.name == "ema-2x40"
    assert kit.data_file(case, tmp_path) == kit.data_file(kit.Case.of("noop-2x40"), tmp_path)
    assert np.load(kit.data_file(case, tmp_path)).shape == (40, 2, 5)


def test_given_forecasts_know_the_past_only() -> None:
    """Row t is the mean of the returns up to t, and ours computes the same numbers from the bars."""
    from benchmarks.given import Momentum

    close = kit.factor_walk(kit.Case("portfolio", 4, 10))[:, :, 3]
    forecasts = kit.momentum(close)
    t = 100
    past = close[t - kit.MOMENTUM : t + 1]

    assert forecasts[t] == pytest.approx((past[1:] / past[:-1] - 1.0).mean(axis=0))
    bars = np.repeat(close[: t + 1].T[:, :, None], 5, axis=2)
    assert Momentum(1).predict(bars).mean == pytest.approx(forecasts[t])


def recursion(close: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """Return the exponential average begun at the first close."""
    average = close.copy()
    for t in range(1, len(close)):
        average[t] = average[t - 1] + 2.0 / (length + 1.0) * (close[t] - average[t - 1])
    return average


def test_our_rule_is_the_recursion() -> None:
    """Bar by bar, and begun anew in the middle, each asset is wanted exactly while its fast average is the higher one."""
    close = kit.walk(kit.Case("ema", 2, 400))[:, :, 3]
    rising = recursion(close, kit.FAST) > recursion(close, kit.SLOW)

    def wanted(rule: LongFlat, t: int) -> list[bool]:
        bars = np.repeat(close[max(0, t - 299) : t + 1].T[:, :, None], 5, axis=2)
        nothing = (0.0, 0.0)
        view = View(t, t, 1, ("A/B", "C/D"), bars, nothing, (False, False), (1.0, 1.0), 1.0, 1.0, 1.0)
        answer = rule.decide(view, {})
        return [one > 0.0 for one in answer.weights] if isinstance(answer, Targets) else [False, False]

    whole, late = LongFlat(), LongFlat()
    times = range(kit.SLOW - 1, 400)
    assert [wanted(whole, t) for t in times] == rising[kit.SLOW - 1 :].tolist()
    assert [wanted(late, t) for t in range(350, 400)] == rising[350:].tolist()


def test_what_is_held_is_left_alone() -> None:
    """No target when holdings and wishes agree; a held weight is kept as it is when another asset changes."""
    bars = np.repeat(np.linspace(100.0, 130.0, 30)[None, :, None], 5, axis=2).repeat(2, axis=0)

    def answer(weights: tuple[float, float]) -> Targets | NoDecision:
        return LongFlat().decide(View(1, 1, 1, ("A/B", "C/D"), bars, weights, (), (), 1.0, 1.0, 1.0), {})

    assert isinstance(answer((0.5, 0.4)), NoDecision)
    assert answer((0.5, 0.0)) == Targets(("A/B", "C/D"), (0.5, kit.SHARE / 2))


@pytest.mark.usefixtures("_data")
def test_our_driver_trades_every_crossing(tmp_path: Path) -> None:
    """Through configuration, engine, gate and venue, in a process of its own: an order for each change of the sign."""
    case = kit.Case.of("ema-2x400")
    found = race.race(case, {}, rounds=1, folder=tmp_path)
    close = np.load(kit.data_file(case, tmp_path / "data"))[:, :, 3]
    rising = recursion(close, kit.FAST) > recursion(close, kit.SLOW)
    rising[: kit.SLOW - 1] = False
    changes = int((rising[1:-1] != rising[:-2]).sum())  # what is decided at the last close is sent and never filled

    assert found["ours"]["note"].startswith(f"{changes} fills, 0 refused")
    assert changes > 10
    assert found["ours"]["rate"] > 0


@pytest.mark.usefixtures("_data")
def test_a_peer_that_cannot_be_installed_is_a_row_that_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No figure, and the others are measured all the same."""
    monkeypatch.setattr(race, "environment", lambda name: install.Absent(name, "no wheel for this machine"))
    found = race.race(kit.Case.of("noop-1x30"), {"jesse": 1.0}, rounds=1, folder=tmp_path)
    race.print_table(found)

    assert found["peers"] == [
        {"peer": "jesse", "bar": 1.0, "why": "not installed: no wheel for this machine", "verdict": "not measured"}
    ]
    assert "not installed: no wheel" in capsys.readouterr().out


@pytest.mark.usefixtures("_data")
def test_a_driver_that_breaks_says_so_in_one_line(tmp_path: Path) -> None:
    """Its last words are the message; what it had measured before stands."""
    driver = tmp_path / "fake.py"
    driver.write_text(FAKE)
    racer = race.Racer("fake", Path(sys.executable), kit.Case.of("noop-1x30"), tmp_path, driver=driver)
    try:
        racer.warm()
        racer.once()
        with pytest.raises(race.Stopped, match=r"the engine broke \(see .*driver.log\)"):
            racer.once()
    finally:
        racer.kill()

    assert [one.seconds for one in racer.seen] == [2.0]


def test_pip_that_fails_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A requirement that nobody has, and no network asked: why, and no half-made folder."""
    monkeypatch.setitem(install.PINS, "jesse", (f"nobody-has-this @ file://{tmp_path}/missing.whl",))
    found = install.environment("jesse", cache=tmp_path / "peers")

    assert isinstance(found, install.Absent)
    assert "missing.whl" in found.why
    assert "\n" not in found.why
    assert not install.folder_of("jesse", tmp_path / "peers").exists()


def test_what_is_installed_is_not_installed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stamp decides; another pin is another folder."""
    folder = install.folder_of("jesse", tmp_path)
    folder.mkdir(parents=True)
    (folder / install.STAMP).write_text(json.dumps({"version": "1.2.3"}))

    assert install.environment("jesse", cache=tmp_path) == install.Installed(
        "jesse", folder / "bin" / "python", "1.2.3"
    )
    monkeypatch.setitem(install.PINS, "jesse", ("jesse==0",))
    assert install.folder_of("jesse", tmp_path) != folder
