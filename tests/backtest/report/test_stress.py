"""The stress table against sums done another way."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.backtest.report.folder import Run, load_run
from daemon.backtest.report.stress import WORST, estimates, grids, stress, worst
from tests.backtest.report.kit import Plan, change_result, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of 90 days, three pairs."""
    folder = tmp_path_factory.mktemp("run")
    write_run(folder)
    return load_run(folder)


def test_flat_drops_are_exposure_times_drop(run: Run) -> None:
    """Cash keeps its value: a drop of all assets costs the share that is invested."""
    shocks = {one.name: one for one in stress(run).shocks}

    assert shocks["Every asset −20 %"].last == pytest.approx(-0.2 * run.held[-1].sum())
    assert shocks["Every asset −40 %"].fullest == pytest.approx(-0.4 * run.held.sum(axis=1).max())


def test_betas_are_slopes(run: Run) -> None:
    """Each beta is the slope of a line fitted through the realised returns; the leader's own is one."""
    returns = run.decisions.realised[np.isfinite(run.decisions.realised).all(axis=1)]
    known = estimates(run)

    assert known.leader == "BTC/USDT"
    assert known.beta[0] == pytest.approx(1.0)
    for at in (1, 2):
        assert known.beta[at] == pytest.approx(np.polyfit(returns[:, 0], returns[:, at], 1)[0])
    leader = next(one for one in stress(run).shocks if one.name.startswith("BTC −30 %"))
    assert leader.last == pytest.approx(-0.3 * float(run.held[-1] @ known.beta))


def test_correlation_at_one_is_the_worst_of_its_kind(run: Run) -> None:
    """No portfolio of long positions loses more in three deviations than when all fall together."""
    measured, one = stress(run).shocks[-2:]
    deviation = np.std(run.decisions.realised[:-1], axis=0, ddof=1)

    assert one.last < measured.last < 0.0
    assert one.last == pytest.approx(-3.0 * float(run.held[-1] @ deviation))


def test_the_horizon_scales_the_day(run: Run) -> None:
    """Returns over four days have twice a day's deviation; without a horizon there is no day."""
    params = {"forecast": {"horizon_bars": 96}}
    longer = run._replace(result={**run.result, "params": params})
    unknown = run._replace(result={**run.result, "params": {}})

    assert np.allclose(2.0 * estimates(longer).deviation, estimates(run).deviation)
    assert math.isnan(stress(unknown).shocks[-1].last)
    assert "The horizon is not in the run's parameters" in " ".join(stress(unknown).assumptions)


def test_too_few_returns_estimate_nothing(tmp_path: Path) -> None:
    """Fewer than thirty: no betas, no deviations, and the table says so; flat drops remain."""
    write_run(tmp_path, Plan(bars=24 * 20))
    found = stress(load_run(tmp_path))

    assert "are not estimated" in " ".join(found.assumptions)
    assert all(math.isnan(one.last) for one in found.shocks[3:])
    assert all(one.last < 0.0 for one in found.shocks[:3])


def test_a_run_without_the_leader(tmp_path: Path) -> None:
    """No BTC, no shock by beta."""
    write_run(tmp_path, Plan(pairs=("ETH/USDT", "SOL/USDT")))
    found = stress(load_run(tmp_path))

    assert not [one for one in found.shocks if "beta" in one.name]
    assert "The run holds no BTC" in " ".join(found.assumptions)


def test_the_worst_day_is_the_worst(run: Run) -> None:
    """The first row is the lowest daily return, dated by its day, beside the benchmark of that day."""
    days = run.equity.equity[::24]
    returns = days[1:] / days[:-1] - 1.0
    at = int(np.argmin(returns))
    found = stress(run).days

    assert found[0].change == pytest.approx(returns.min())
    assert found[0].first_ns == run.equity.times[24 * at]
    assert run.benchmarks is not None
    market = run.benchmarks.column("equal_weight")
    assert found[0].market == pytest.approx(market[24 * at + 24] / market[24 * at] - 1.0)
    assert [one.change for one in found] == sorted(one.change for one in found)
    row = next(grid for grid in grids(run) if grid.key == "worst-days").rows[0]
    assert row[1] == f"{100 * returns.min():.2f} %"


@given(seed=st.integers(0, 10_000), length=st.sampled_from([1, 7]))
def test_worst_stretches_never_overlap(run: Run, seed: int, length: int) -> None:
    """At most five, all losses, each as long as asked, and no day told twice, whatever the curve."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0.0, 0.01, len(run.equity.times))
    steps[0] = 0.0
    curve = 1e5 * np.exp(np.cumsum(steps))
    other = run._replace(equity=run.equity._replace(equity=curve, flow=np.zeros(len(curve))))
    found = worst(other, length)
    days = [day for one in found for day in range(one.first_ns, one.last_ns, 86_400_000_000_000)]

    assert len(found) <= WORST
    assert len(set(days)) == len(days) == length * len(found)
    assert all(one.change < 0.0 for one in found)


def test_a_run_that_never_lost(tmp_path: Path) -> None:
    """Without a loss there is no worst day, and the page says so."""
    write_run(tmp_path, Plan(bars=24 * 10, every=10_000))
    table = {grid.key: grid for grid in grids(load_run(tmp_path))}

    assert table["worst-days"].rows == ()
    assert table["worst-days"].note == "None lost anything."
    assert {row[1] for row in table["shocks"].rows} == {"0.00 %"}


def test_an_unknown_bar_is_no_horizon(tmp_path: Path) -> None:
    """A bar of another name than ours leaves the deviations unknown instead of wrong."""
    write_run(tmp_path)
    change_result(tmp_path, bar="17h")

    assert np.isnan(estimates(load_run(tmp_path)).deviation).all()
