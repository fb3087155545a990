"""The statistics on the page: taken from where they belong, repeatable, and absent where nothing can be said."""

import math
from pathlib import Path

import numpy as np
import pytest

from daemon.backtest.report.folder import Run, load_run
from daemon.backtest.report.series import daily
from daemon.backtest.report.trust import GROUPS, TRIES, calibration, grids, groups, plots, trust
from daemon.domain.errors import ConfigError
from tests.backtest.report.kit import COVERAGE, Plan, change_result, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of 90 days, three pairs."""
    folder = tmp_path_factory.mktemp("run")
    write_run(folder)
    return load_run(folder)


def test_the_same_run_gives_the_same_statistics(run: Run) -> None:
    """Chance has a fixed seed."""
    assert trust(run) == trust(run)


def test_the_sharpe_ratio_is_that_of_the_result(run: Run) -> None:
    """Evidence and intervals speak of the same curve as result.json."""
    known = trust(run)
    assert known.evidence is not None
    assert known.intervals is not None
    assert known.intervals.sharpe is not None

    assert known.evidence.sharpe * math.sqrt(365) == pytest.approx(run.result["sharpe"])
    assert known.intervals.sharpe.point == pytest.approx(run.result["sharpe"])
    assert known.intervals.sharpe.low < run.result["sharpe"] < known.intervals.sharpe.high


def test_more_tries_prove_less(run: Run) -> None:
    """One try deflates nothing; each further one lowers the probability."""
    known = trust(run)
    assert known.evidence is not None
    values = [value for _, value in known.deflated]

    assert [tries for tries, _ in known.deflated] == list(TRIES)
    assert values[0] == pytest.approx(known.evidence.probabilistic)
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0]


def test_the_fan_holds_the_run(run: Run) -> None:
    """Bands are ordered, start at one, and the run's own path ends at its return."""
    known = trust(run)
    drawn = {plot.key: plot for plot in plots(run, known)}
    traces = {trace["name"]: trace for trace in drawn["fan"].data}
    low, high = (traces[f"{share} of the paths end below"]["y"] for share in ("5%", "95%"))

    assert all(one <= other for one, other in zip(low, high, strict=True))
    assert low[0] == high[0] == traces["Run"]["y"][0] == 1.0
    assert traces["Run"]["y"][-1] == pytest.approx(1.0 + run.result["total_return"], rel=1e-4)


def test_coverage_is_what_the_result_counted(run: Run) -> None:
    """The plotted points are those of result.json."""
    drawn = {plot.key: plot for plot in plots(run, trust(run))}
    measured = drawn["coverage"].data[1]

    assert measured["x"] == [one["nominal"] for one in COVERAGE]
    assert measured["y"] == [one["empirical"] for one in COVERAGE]
    assert measured["y"][2] == run.result["forecast"]["coverage_90"]


def test_tenths_are_sorted_forecasts_with_what_followed(run: Run) -> None:
    """Ten groups of nearly equal size; their means, weighted, are the whole's; forecasts rise."""
    found = groups(run)
    assert found is not None
    known = np.isfinite(run.decisions.raw_mean) & np.isfinite(run.decisions.realised)

    assert len(found.forecast) == GROUPS
    assert found.n == known.sum()
    assert (np.diff(found.forecast) >= 0.0).all()
    sizes = [len(part) for part in np.array_split(np.arange(found.n), GROUPS)]
    assert np.average(found.realised, weights=sizes) == pytest.approx(run.decisions.realised[known].mean())
    assert found.realised[-1] > found.realised[0]  # the kit's forecasts know a tenth of what comes


def test_a_short_run_says_nothing(tmp_path: Path) -> None:
    """Nineteen days: no interval, no fan; the tables say why. Without forecasts: no calibration."""
    write_run(tmp_path, Plan(bars=24 * 19, forecasts=False))
    run = load_run(tmp_path)
    known = trust(run)

    assert (known.intervals, known.paths) == (None, None)
    assert "Fewer than 20 daily returns" in grids(known)[1].note
    assert groups(run) is None
    assert [bool(plot.data) for plot in plots(run, known)] == [False, False, False]
    assert all(plot.note for plot in plots(run, known))


def test_a_run_that_never_moved_has_no_sharpe_ratio(tmp_path: Path) -> None:
    """Cash all the way: no evidence, one sentence, and a fan that is a line."""
    write_run(tmp_path, Plan(bars=24 * 30, every=10_000))
    run = load_run(tmp_path)
    known = trust(run)

    assert not daily(run).returns.any()
    assert known.evidence is None
    assert known.deflated == ()
    assert "no Sharpe ratio" in grids(known)[0].note
    assert known.paths is not None
    assert set(known.paths.final) == {1.0}


def test_a_calibration_of_another_form_is_one_line(tmp_path: Path) -> None:
    """Named, with the file."""
    write_run(tmp_path, Plan(bars=48))
    change_result(tmp_path, forecast={"calibration": [{"nominal": "half"}]})

    with pytest.raises(ConfigError, match=r"result.json: forecast.calibration is not what this version reads"):
        calibration(load_run(tmp_path))
