"""Intervals and paths from resampled days: the theory, another program's figures, and the same numbers for a seed."""

from math import inf, isclose, sqrt
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy import float64
from numpy.typing import NDArray

from daemon.backtest import metrics as figures
from daemon.backtest.stats import bootstrap
from daemon.backtest.stats.bootstrap import block_length, drawn, intervals, paths

Floats = NDArray[float64]


def rng(seed: int = 1) -> np.random.Generator:
    """Return a seeded generator."""
    return np.random.default_rng(seed)


def remembering(rho: float, n: int, seed: int) -> Floats:
    """Return n returns of which each repeats ``rho`` of the one before."""
    shocks = rng(seed).standard_normal(n)
    values = np.empty(n)
    values[0] = shocks[0]
    for i in range(1, n):
        values[i] = rho * values[i - 1] + shocks[i]
    return values * 0.01


def daily(n: int = 500, seed: int = 2) -> Floats:
    """Return fat-tailed daily returns with some drift."""
    return np.maximum(rng(seed).standard_t(4, n) * 0.02 + 0.001, -0.5)


@pytest.mark.parametrize(
    ("rho", "n", "seed", "theirs"),
    [
        (0.0, 500, 1, 3.189708859245308),
        (0.0, 2000, 2, 1.5675604832065455),
        (0.5, 500, 3, 9.217292781867494),
        (0.5, 5000, 4, 21.685314246960925),
        (0.9, 5000, 5, 54.1606123192787),
        (-0.3, 1500, 6, 8.11272283433666),
        (0.2, 1000, 7, 5.773034794421666),
    ],
)
def test_block_length_is_that_of_arch(rho: float, n: int, seed: int, theirs: float) -> None:
    """The package arch 8.0.0 (`optimal_block_length(x)["stationary"]`) found these figures for the same series."""
    assert block_length(remembering(rho, n, seed)) == pytest.approx(theirs, rel=1e-9)


def test_block_length_approaches_the_theory() -> None:
    """For an autoregression the best mean block is (2ρ/(1 - ρ²))^(2/3) · n^(1/3): 32.9 for ρ = 0.5, n = 20,000."""
    found = [block_length(remembering(0.5, 20_000, seed)) for seed in range(10)]

    assert np.mean(found) == pytest.approx((2 * 0.5 / 0.75) ** (2 / 3) * 20_000 ** (1 / 3), rel=0.1)


@given(st.lists(st.floats(-0.9, 2.0), min_size=1, max_size=300))
def test_block_length_stays_within_its_bounds(values: list[float]) -> None:
    """Any returns at all have a block of at least one day and at most 3 · sqrt(n)."""
    n = len(values)

    assert 1.0 <= block_length(np.array(values)) <= max(np.ceil(min(3 * sqrt(n), n / 3)), 1.0)


def test_block_length_of_extremes() -> None:
    """Too few or constant returns: single days. Returns that cancel out: the longest."""
    alternating = np.array([0.01, -0.01] * 100)

    assert block_length(np.array([0.1, -0.1, 0.2])) == 1.0
    assert block_length(np.full(100, 0.01)) == 1.0
    assert block_length(alternating) == 43.0


def test_blocks_are_geometric_uniform_and_wrap() -> None:
    """Mean run length is the block asked for, every day is drawn equally often, the last day is followed by the first."""
    found = drawn(50, 2000, 400, block=8.0, rng=rng())
    follows = found[:, 1:] == (found[:, :-1] + 1) % 50

    # A new block starts with probability 1/8, and one time in fifty it happens to be the successor anyway.
    assert follows.mean() == pytest.approx(1 - (1 / 8) * (1 - 1 / 50), abs=0.002)
    counts = np.bincount(found.ravel(), minlength=50)
    assert counts == pytest.approx(found.size / 50, rel=0.03)
    assert ((found[:, :-1] == 49) & (found[:, 1:] == 0)).sum() > 0.8 * (found[:, :-1] == 49).sum()
    endless = drawn(50, 200, 1, block=1e18, rng=rng())[0]
    assert endless.tolist() == [(int(endless[0]) + k) % 50 for k in range(200)]


def test_blocks_of_one_day_are_the_plain_bootstrap() -> None:
    """With blocks of one day each day is drawn on its own."""
    found = drawn(20, 5000, 1, block=1.0, rng=rng())[0]

    assert np.mean(found[1:] == (found[:-1] + 1) % 20) == pytest.approx(1 / 20, abs=0.01)


def test_the_same_seed_gives_the_same_numbers() -> None:
    """Intervals and paths depend on inputs and seed alone, and another seed changes them."""
    returns = daily()

    assert intervals(returns, rng(5), resamples=200) == intervals(returns, rng(5), resamples=200)
    assert intervals(returns, rng(5), resamples=200) != intervals(returns, rng(6), resamples=200)
    assert paths(returns, rng(5), count=50) == paths(returns, rng(5), count=50)
    assert paths(returns, rng(5), count=50) != paths(returns, rng(6), count=50)


def test_chance_is_the_callers() -> None:
    """Nothing is drawn from numpy's global generator."""
    np.random.seed(1)  # noqa: NPY002 - the global one is what must stay untouched
    before = np.random.get_state()[1].tobytes()  # type: ignore[index] # noqa: NPY002
    intervals(daily(), rng(), resamples=20)
    paths(daily(), rng(), count=20)

    assert np.random.get_state()[1].tobytes() == before  # type: ignore[index] # noqa: NPY002


def test_points_are_the_metrics_of_the_sample() -> None:
    """The figures between the bounds are those of `metrics` for the same daily curve."""
    returns = daily()
    unit = np.concatenate(([1.0], np.cumprod(1.0 + returns)))
    dates = np.arange(len(unit)) * figures.DAY_NS
    found = intervals(returns, rng(), resamples=500)

    assert found.sharpe is not None
    assert found.sharpe.point == pytest.approx(figures.sharpe(returns))
    assert found.cagr.point == pytest.approx(figures.cagr(dates, unit))
    assert found.max_drawdown.point == pytest.approx(float(figures.drawdowns(unit).min()))
    for one in (found.sharpe, found.cagr, found.max_drawdown):
        assert one.low < one.point < one.high
    assert (found.days, found.resamples) == (500, 500)
    assert found.block_days == block_length(returns)


def test_bounds_are_quantiles_of_resampled_figures() -> None:
    """The long way, resample by resample with the plain functions, finds the same bounds."""
    returns = daily(120)
    found = intervals(returns, rng(9), resamples=60, level=0.8, block=5.0)
    dates = np.arange(121) * figures.DAY_NS
    ratios, yearly, deepest = [], [], []
    for row in drawn(120, 120, 60, block=5.0, rng=rng(9)):
        unit = np.concatenate(([1.0], np.cumprod(1.0 + returns[row])))
        ratios.append(figures.sharpe(returns[row]))
        yearly.append(figures.cagr(dates, unit))
        deepest.append(float(figures.drawdowns(unit).min()))

    assert found.sharpe is not None
    for one, many in ((found.sharpe, ratios), (found.cagr, yearly), (found.max_drawdown, deepest)):
        assert (one.low, one.high) == pytest.approx(tuple(np.quantile(np.array(many, dtype=float64), [0.1, 0.9])))


def test_intervals_hold_the_truth_as_often_as_they_promise() -> None:
    """Of 150 samples whose true Sharpe ratio is 1 a year, about 90 % have it within their 90 % interval."""
    truth, hits = 1.0, 0
    for seed in range(150):
        returns = rng(seed).normal(truth / sqrt(365) * 0.02, 0.02, 400)
        found = intervals(returns, rng(seed + 1000), resamples=200, level=0.9).sharpe
        assert found is not None
        hits += found.low <= truth <= found.high

    assert 0.8 <= hits / 150 <= 0.97


def test_blocks_see_what_single_days_do_not() -> None:
    """Returns that come in trends are less certain than their days one by one suggest."""
    returns = remembering(0.6, 1000, 3)
    single = intervals(returns, rng(), resamples=500, block=1.0).sharpe
    blocks = intervals(returns, rng(), resamples=500).sharpe

    assert single is not None
    assert blocks is not None
    assert blocks.high - blocks.low > 1.4 * (single.high - single.low)


def test_cash_has_no_sharpe_interval_and_no_risk() -> None:
    """Returns that do not vary: no ratio, and everything else is a point."""
    found = intervals(np.zeros(30), rng(), resamples=10)

    assert found.sharpe is None
    assert (found.cagr.low, found.cagr.high, found.max_drawdown.low) == (0.0, 0.0, 0.0)
    assert msgspec.json.decode(msgspec.json.encode(found), type=bootstrap.Intervals) == found


def test_growth_beyond_a_float_stays_a_number() -> None:
    """Two days of +900 % are no infinite figure in a result."""
    found = intervals(np.array([9.0, 9.0, 8.0]), rng(), resamples=10)

    assert found.cagr.high < inf


def test_paths_by_hand() -> None:
    """Returns of +10 % only: every path is the same."""
    found = paths(np.full(3, 0.1), rng(), count=20, days=2)

    assert found.final == pytest.approx((1.21,) * 5)
    assert found.drawdown == (0.0,) * 5
    assert found.fan[2] == pytest.approx((1.0, 1.1, 1.21))
    assert (found.loss, found.worse_drawdown, found.paths, found.days) == (0.0, 0.0, 20, 2)


def test_paths_are_quantiles_of_the_drawn_curves() -> None:
    """The long way finds the same fan, drawdowns and shares."""
    returns = daily(90)
    found = paths(returns, rng(4), count=40, days=60, block=3.0)
    curves = np.stack(
        [np.concatenate(([1.0], np.cumprod(1.0 + returns[row]))) for row in drawn(90, 60, 40, block=3.0, rng=rng(4))]
    )
    deepest = [float(figures.drawdowns(curve).min()) for curve in curves]
    own = float(figures.drawdowns(np.concatenate(([1.0], np.cumprod(1.0 + returns)))).min())

    for k, quantile in enumerate(found.quantiles):
        assert found.fan[k] == pytest.approx(np.quantile(curves, quantile, axis=0))
        assert isclose(found.drawdown[k], float(np.quantile(deepest, quantile)))
        assert found.final[k] == found.fan[k][-1]
    assert found.loss == np.mean(curves[:, -1] < 1.0)
    assert found.worse_drawdown == np.mean([one < own for one in deepest])


@given(st.integers(0, 1000), st.integers(2, 100), st.floats(1.0, 50.0))
def test_quantiles_rise_and_drawdowns_stay_in_bounds(seed: int, n: int, block: float) -> None:
    """For any sample the quantiles are in order, drawdowns within -1..0, shares within 0..1."""
    found = paths(daily(n, seed), rng(seed), count=30, block=block)

    assert sorted(found.final) == list(found.final)
    assert sorted(found.drawdown) == list(found.drawdown)
    assert -1.0 <= found.drawdown[0] <= found.drawdown[-1] <= 0.0
    assert 0.0 <= found.loss <= 1.0
    assert 0.0 <= found.worse_drawdown <= 1.0


def test_work_in_parts_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for 100 days at a time, 50 resamples of 60 days are still 50."""
    monkeypatch.setattr(bootstrap, "CHUNK", 100)
    found = paths(daily(60), rng(), count=50)

    assert found.fan[0][0] == 1.0
    assert found.final[0] != 1.0  # the last rows were drawn too: an empty one would end at 1
    assert found.fan[0][-1] < found.fan[4][-1]
    assert intervals(daily(60), rng(), resamples=50).resamples == 50


def test_bitcoin_has_wide_bounds(shared_data: Path) -> None:
    """Four real years say little about a Sharpe ratio: the 95 % bounds are more than one apart and hold the point."""
    table = pq.read_table(shared_data / "binance" / "BTC_USDT-1h.parquet", columns=["date", "close"])
    dates = table["date"].to_numpy().astype("datetime64[ns]").astype(np.int64)
    closes = table["close"].to_numpy().astype(float64)
    _, returns = figures.daily_returns(dates, closes, np.zeros(len(closes)))
    found = intervals(returns, rng(), resamples=300)

    assert found.sharpe is not None
    assert found.sharpe.low < found.sharpe.point < found.sharpe.high
    assert found.sharpe.high - found.sharpe.low > 1.0
    assert found.max_drawdown.low < -0.5


@pytest.mark.parametrize(
    ("returns", "options", "words"),
    [
        (np.zeros(1), {}, "at least 2"),
        (np.zeros(0), {}, "at least one"),
        (np.array([0.1, -1.5]), {}, ">= -1"),
        (np.array([0.1, np.nan]), {}, "finite"),
        (np.zeros((2, 2)), {}, "one finite number"),
        (np.zeros(5), {"level": 1.0}, "level 1.0"),
        (np.zeros(5), {"block": 0.5}, "block 0.5"),
        (np.zeros(5), {"block": inf}, "block inf"),
        (np.zeros(5), {"resamples": 0}, "at least 1"),
        (np.zeros(5), {"resamples": 10**9}, "at most"),
    ],
)
def test_bad_input_of_intervals_is_refused(returns: Floats, options: dict[str, float], words: str) -> None:
    """What cannot be resampled is refused by name."""
    with pytest.raises(ValueError, match=words):
        intervals(returns, rng(), **options)  # type: ignore[arg-type]


def test_bad_input_of_paths_is_refused() -> None:
    """No days, too many values, no paths."""
    for options, words in (
        ({"days": 0}, "at least one day"),
        ({"count": 10**8}, "at most"),
        ({"count": 0}, "at least 1"),
    ):
        with pytest.raises(ValueError, match=words):
            paths(np.zeros(5), rng(), **options)
