"""The figures of a result: by hand, by their properties, and against another library."""

from math import isclose, isfinite, sqrt
from pathlib import Path

import empyrical  # type: ignore[import-untyped]
import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy import float64, int64
from numpy.typing import NDArray

from daemon.backtest.metrics import (
    DAY_NS,
    Metrics,
    accumulated,
    attribution,
    daily_returns,
    daily_turnover,
    daily_values,
    drawdowns,
    metrics,
    monthly,
    ratio,
    returns_of,
    rolling_sharpe,
    sharpe,
    turned_over,
    unit_values,
)

Floats = NDArray[float64]
Times = NDArray[int64]

HOUR_NS = DAY_NS // 24
START = 18_993 * DAY_NS  # 2022-01-01 00:00 UTC


def every(step: int, n: int, start: int = START) -> Times:
    """Return n dates, the opening first."""
    return start + step * np.arange(n, dtype=int64)


def figures(date_ns: Times, equity: NDArray[np.floating], flow: Floats | None = None) -> Metrics:
    """Return the metrics of a curve without trades."""
    return metrics(
        date_ns,
        equity.astype(float64),
        np.zeros(len(equity)) if flow is None else flow,
        exposure=np.zeros(len(equity)),
        turnover_ns=np.zeros(0, dtype=int64),
        turnover=np.zeros(0),
        fees=0.0,
        slippage_cost=0.0,
    )


def walk(n: int, seed: int, spread: float = 0.02) -> Floats:
    """Return n values of a random curve that starts at 1000."""
    steps = np.random.default_rng(seed).normal(0.001, spread, n - 1)
    return np.concatenate(([1000.0], 1000.0 * np.cumprod(1.0 + steps)))


def test_figures_by_hand() -> None:
    """100, 110, 99, 99: returns +10 %, -10 %, 0."""
    found = figures(every(DAY_NS, 4), np.array([100.0, 110.0, 99.0, 99.0]))

    assert found.days == 3
    assert isclose(found.total_return, -0.01, rel_tol=1e-12)
    assert found.cagr is not None
    assert isclose(found.cagr, 0.99 ** (365 / 3) - 1)
    # The mean is 0; the sum of squares 0.02, over n - 1 = 2: the daily deviation is exactly 10 %.
    assert found.volatility is not None
    assert isclose(found.volatility, 0.1 * sqrt(365))
    assert found.sharpe == pytest.approx(0.0, abs=1e-12)
    assert isclose(found.max_drawdown, -0.1)
    assert found.calmar is not None
    assert isclose(found.calmar, found.cagr / 0.1)
    assert found.win_rate == 1 / 3


def test_sharpe_and_sortino_by_hand() -> None:
    """Returns +3 %, -1 %, +1 %: mean 1 %, deviation 2 %, downside sqrt(0.0001/3)."""
    found = figures(every(DAY_NS, 4), np.array([1.0, 1.03, 1.03 * 0.99, 1.03 * 0.99 * 1.01]))

    assert found.sharpe is not None
    assert found.sortino is not None
    assert isclose(found.sharpe, 0.01 / 0.02 * sqrt(365))
    assert isclose(found.sortino, 0.01 / (0.01 / sqrt(3)) * sqrt(365))


def test_midnight_ends_the_day_before() -> None:
    """48 hourly bars from midnight are two days; the row at the second midnight is the last of the first day."""
    equity = np.full(49, 100.0)
    equity[24:] = 110.0
    equity[48] = 121.0
    days, returns = daily_returns(every(HOUR_NS, 49), equity, np.zeros(49))

    assert days.tolist() == [18_993, 18_994]
    assert returns == pytest.approx([0.1, 0.1])


def test_days_in_part_count_whole_and_gaps_keep_the_value() -> None:
    """A run from noon to noon, with two days without rows, has five days whose returns multiply to the total."""
    hours = np.array([0, 6, 12, 20, 36 + 48, 48 + 48])
    equity = np.array([100.0, 101.0, 102.0, 103.0, 206.0, 309.0])
    days, values = daily_values(START + 12 * HOUR_NS + hours * HOUR_NS, equity)

    # 18:00 and 24:00 end day 0, 08:00 is of day 1, days 2 and 3 are empty, 00:00 of day 5 ends day 4 …
    assert days.tolist() == [18_992, 18_993, 18_994, 18_995, 18_996, 18_997]
    assert values.tolist() == [100.0, 102.0, 103.0, 103.0, 206.0, 309.0]


@given(
    st.lists(st.tuples(st.integers(1, 5 * 24), st.floats(0.5, 2.0)), min_size=1, max_size=60),
    st.integers(0, 23),
)
def test_daily_and_monthly_returns_multiply_to_the_total(steps: list[tuple[int, float]], hour: int) -> None:
    """However the rows lie, no part of the return is lost or counted twice."""
    dates = START + HOUR_NS * (hour + np.concatenate(([0], np.cumsum([step for step, _ in steps]))))
    equity = np.cumprod(np.array([100.0, *(factor for _, factor in steps)]))
    zero = np.zeros(len(equity))
    total = equity[-1] / equity[0]
    table = monthly(dates, equity, zero)

    assert np.prod(1.0 + daily_returns(dates, equity, zero)[1]) == pytest.approx(total, rel=1e-9)
    assert np.prod([1.0 + one for row in table.months for one in row if one is not None]) == pytest.approx(total)
    assert np.prod([1.0 + one for one in table.totals]) == pytest.approx(total)


@given(st.floats(1e-6, 1e9), st.integers(0, 1000))
def test_scale_changes_nothing(scale: float, seed: int) -> None:
    """A result is the same for an account of any size."""
    dates = every(6 * HOUR_NS, 200)
    equity = walk(200, seed)

    one, other = (msgspec.structs.asdict(figures(dates, curve)) for curve in (equity, equity * scale))
    for name, value in one.items():
        assert other[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name


@given(st.integers(0, 1000), st.lists(st.floats(-0.5, 3.0), min_size=199, max_size=199))
def test_flows_change_no_return(seed: int, shares: list[float]) -> None:
    """Money that comes and goes between bars changes the size of the account, and no figure."""
    dates = every(6 * HOUR_NS, 200)
    plain = walk(200, seed)
    growth = plain[1:] / plain[:-1]
    equity, flow = np.full(200, 1000.0), np.zeros(200)
    for i in range(1, 200):
        grown = equity[i - 1] * growth[i - 1]
        # Bounded, so that the account neither vanishes nor overflows in 200 steps.
        flow[i] = grown * shares[i - 1] if 1.0 < grown * (1.0 + shares[i - 1]) < 1e9 else 0.0
        equity[i] = grown + flow[i]

    one, other = (msgspec.structs.asdict(figures(dates, *curve)) for curve in ((plain,), (equity, flow)))
    for name, value in one.items():
        assert other[name] == pytest.approx(value, rel=1e-8, abs=1e-10), name


def test_a_deposit_by_hand() -> None:
    """100 grow to 110, of which 50 more are paid in (160), which grow to 176: 10 % and 10 %."""
    unit = unit_values(every(DAY_NS, 3), np.array([100.0, 160.0, 176.0]), np.array([0.0, 50.0, 0.0]))

    assert unit == pytest.approx([1.0, 1.1, 1.21])


def test_an_emptied_account_keeps_its_unit_value() -> None:
    """All is paid out, later money comes back: the time in between earned nothing and lost nothing."""
    equity, flow = np.array([100.0, 0.0, 0.0, 50.0, 55.0]), np.array([0.0, -120.0, 0.0, 50.0, 0.0])

    assert unit_values(every(DAY_NS, 5), equity, flow) == pytest.approx([1.0, 1.2, 1.2, 1.2, 1.32])


def test_a_lost_account_is_a_loss_of_all() -> None:
    """Equity 0 without a withdrawal: -100 %, and every figure is still a number or None."""
    found = figures(every(DAY_NS, 4), np.array([100.0, 50.0, 0.0, 0.0]))

    assert (found.total_return, found.max_drawdown, found.cagr) == (-1.0, -1.0, -1.0)
    assert all(value is None or isfinite(value) for value in msgspec.structs.asdict(found).values())


def test_undefined_figures_are_none_and_cash_is_zero() -> None:
    """Cash has Sharpe 0; a curve that only rises has no Sortino or Calmar; a single day has no volatility."""
    still = figures(every(DAY_NS, 30), np.full(30, 100.0))
    rising = figures(every(DAY_NS, 4), np.array([100.0, 101.0, 103.0, 104.0]))
    steady = figures(every(DAY_NS, 30), 100.0 * 1.001 ** np.arange(30))
    short = figures(every(HOUR_NS, 5), np.array([100.0, 101.0, 100.0, 102.0, 101.0]))
    nothing = figures(every(HOUR_NS, 1), np.array([100.0]))

    assert (still.sharpe, still.sortino, still.calmar, still.volatility, still.win_rate) == (0.0, 0.0, 0.0, 0.0, 0.0)
    assert (rising.sortino, rising.calmar) == (None, None)
    assert rising.sharpe is not None
    assert rising.sharpe > 0
    assert steady.sharpe is None  # a deviation of 1e-17 is rounding, no risk
    assert (short.volatility, short.sharpe, short.sortino, short.days) == (None, None, None, 1)
    assert (nothing.cagr, nothing.win_rate, nothing.total_return, nothing.days) == (None, None, 0.0, 0)


def test_a_growth_that_no_float_can_hold_is_none() -> None:
    """An hour of +10 % a minute is no CAGR that JSON could hold."""
    found = figures(every(60 * 10**9, 10), 100.0 * 1.1 ** np.arange(10))

    assert (found.cagr, found.calmar) == (None, None)
    assert b"null" in msgspec.json.encode(found)


def test_drawdown_is_measured_in_every_row() -> None:
    """A fall and recovery within one day is a drawdown, though no daily value shows it."""
    equity = np.full(25, 100.0)
    equity[10] = 60.0
    found = figures(every(HOUR_NS, 25), equity)

    assert isclose(found.max_drawdown, -0.4)
    assert found.win_rate == 0.0


def test_turnover_exposure_and_costs() -> None:
    """Turnover is summed per day and averaged over the days; exposure is the mean of the rows; costs pass through."""
    dates = every(12 * HOUR_NS, 5)
    found = metrics(
        dates,
        np.full(5, 100.0),
        np.zeros(5),
        exposure=np.array([0.0, 0.5, 1.0, 1.0, 0.5]),
        turnover_ns=dates[[0, 1, 3]],
        turnover=np.array([0.5, 0.3, 0.4]),
        fees=1.5,
        slippage_cost=0.25,
    )

    assert (found.days, found.fees, found.slippage_cost) == (2, 1.5, 0.25)
    assert isclose(found.turnover, 0.6)
    assert isclose(found.avg_gross_exposure, 0.6)
    assert daily_turnover(dates, dates[[0, 1, 3]], np.array([0.5, 0.3, 0.4])) == pytest.approx([0.8, 0.4])


def test_turned_over_counts_buys_and_sells() -> None:
    """From cash into A is 1, from A to B is 2, a weight that is NaN (not listed yet) counts as none."""
    before = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.nan]])
    after = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])

    assert turned_over(before, after).tolist() == [1.0, 2.0, 0.5]


def test_rolling_sharpe_is_the_sharpe_of_each_window() -> None:
    """Each value equals the plain function on its window; the first ones are missing; constant windows have none."""
    daily = np.concatenate((np.random.default_rng(3).normal(0.001, 0.02, 60), np.zeros(40)))
    rolled = rolling_sharpe(daily, 30)

    assert np.isnan(rolled[:29]).all()
    for i in range(29, 100):
        assert rolled[i] == pytest.approx(sharpe(daily[i - 29 : i + 1]), rel=1e-9)
    assert rolled[-1] == 0.0
    assert np.isnan(rolling_sharpe(np.full(5, 0.01), 3)).all()  # nothing below the line: undefined
    assert np.isnan(rolling_sharpe(daily[:10], 30)).all()


def test_monthly_table_by_hand() -> None:
    """Midnight on 1 February closes January; months outside of the run are None, empty ones within it 0."""
    at = [
        int(np.datetime64(day, "ns").astype(int64))
        for day in ("2021-12-31T12", "2022-01-01", "2022-02-01", "2022-04-02")
    ]
    table = monthly(np.array(at, dtype=int64), np.array([100.0, 110.0, 121.0, 60.5]), np.zeros(4))

    assert table.years == (2021, 2022)
    assert table.months[0] == (*(None,) * 11, pytest.approx(0.1))
    assert table.months[1][:5] == (pytest.approx(0.1), 0.0, 0.0, pytest.approx(-0.5), None)
    assert table.totals == (pytest.approx(0.1), pytest.approx(-0.45))


def test_attribution_by_hand_and_its_sum() -> None:
    """Buy 2 A at 10 for a fee of 1, sell one at 12 for a fee of 1; B rises without us."""
    dates = every(HOUR_NS, 4)
    fills = np.array([dates[0] + 1, dates[2]])
    asset, quantity, price, fee = np.array([0, 0]), np.array([2.0, -1.0]), np.array([10.0, 12.0]), np.array([1.0, 1.0])
    held = accumulated(dates, fills, asset, quantity, 2)
    moved = accumulated(dates, fills, asset, -quantity * price - fee, 2)
    closes = np.array([[10.0, np.nan], [11.0, np.nan], [12.0, 5.0], [15.0, 6.0]])
    profit = attribution(held, moved, closes)

    assert held[:, 0].tolist() == [0.0, 2.0, 1.0, 1.0]
    # 2 · 11 - 20 - 1; then 12 + (12 - 1) - 21; then 15 + 11 - 21.
    assert profit.tolist() == [[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [5.0, 0.0]]


def test_what_is_held_at_the_opening_earns_from_there() -> None:
    """Three coins adopted at 10: no profit in the first row, 6 when the price is 12."""
    closes = np.array([[10.0], [12.0]])

    assert attribution(np.full((2, 1), 3.0), np.zeros((2, 1)), closes).tolist() == [[0.0], [6.0]]


@given(st.integers(0, 10_000))
def test_attribution_of_all_assets_is_the_change_of_equity(seed: int) -> None:
    """Cash + positions, followed fill by fill, rises by exactly what the assets are credited with; order is free."""
    rng = np.random.default_rng(seed)
    dates, n_assets, n_fills = every(HOUR_NS, 30), 3, 40
    closes = rng.uniform(1.0, 100.0, (30, n_assets))
    at = dates[0] + rng.integers(1, 29 * HOUR_NS, n_fills)
    asset, quantity = rng.integers(0, n_assets, n_fills), rng.normal(size=n_fills)
    price, fee = rng.uniform(1.0, 100.0, n_fills), rng.uniform(0.0, 1.0, n_fills)
    profit = attribution(
        accumulated(dates, at, asset, quantity, n_assets),
        accumulated(dates, at, asset, -quantity * price - fee, n_assets),
        closes,
    )
    for row in range(30):
        cash, held = 1000.0, [0.0] * n_assets
        for k in range(n_fills):
            if at[k] <= dates[row]:
                cash -= quantity[k] * price[k] + fee[k]
                held[asset[k]] += quantity[k]
        assert profit[row].sum() + 1000.0 == pytest.approx(cash + float(np.dot(held, closes[row])), rel=1e-9)

    order = rng.permutation(n_assets)
    moved = accumulated(dates, at, np.argsort(order)[asset], -quantity * price - fee, n_assets)
    swapped = attribution(accumulated(dates, at, np.argsort(order)[asset], quantity, n_assets), moved, closes[:, order])
    assert np.array_equal(swapped, profit[:, order])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"date_ns": every(-HOUR_NS, 5)}, "rise strictly"),
        ({"equity": np.array([0.0, 1.0, 1.0, 1.0, 1.0])}, "positive at the opening"),
        ({"equity": np.array([1.0, 1.0, -1.0, 1.0, 1.0])}, "never negative"),
        ({"equity": np.array([1.0, 1.0, np.nan, 1.0, 1.0])}, "finite in every row"),
        ({"flow": np.array([0.0, 5.0, 0.0, 0.0, 0.0])}, "smaller than the flow"),
        ({"flow": np.zeros(4)}, "equally long"),
        ({"exposure": np.zeros(4)}, "exposure"),
        ({"fees": float("nan")}, "must be finite"),
        ({"turnover": np.zeros(2)}, "one date each"),
        ({"turnover_ns": np.array([START - 1])}, "outside of the equity curve"),
        ({"turnover": np.array([-0.1])}, "not negative"),
    ],
)
def test_bad_input_is_refused_in_one_line(change: dict[str, object], words: str) -> None:
    """What cannot be a result is refused by name instead of becoming NaN."""
    given_ = {
        "date_ns": every(HOUR_NS, 5),
        "equity": np.full(5, 2.0),
        "flow": np.zeros(5),
        "exposure": np.zeros(5),
        "turnover_ns": np.array([START]),
        "turnover": np.array([1.0]),
        "fees": 0.0,
        "slippage_cost": 0.0,
    }
    with pytest.raises(ValueError, match=words) as told:
        metrics(**{**given_, **change})  # type: ignore[arg-type]
    assert "\n" not in str(told.value)


def test_a_curve_of_one_row_has_no_days_and_no_months() -> None:
    """A run that was stopped at its opening has empty tables, and what it decided there is still summed."""
    dates = every(HOUR_NS, 1)

    assert monthly(dates, np.ones(1), np.zeros(1)).months == ()
    assert daily_turnover(dates, dates, np.ones(1)).tolist() == []
    assert daily_returns(dates, np.ones(1), np.zeros(1))[1].tolist() == []


def test_bad_fills_and_windows_are_refused() -> None:
    """A fill after the end, a position without a price, a window of one day."""
    dates = every(HOUR_NS, 3)
    with pytest.raises(ValueError, match="after the last row"):
        accumulated(dates, dates[-1:] + 1, np.array([0]), np.array([1.0]), 1)
    with pytest.raises(ValueError, match="without a price"):
        attribution(np.ones((3, 1)), np.zeros((3, 1)), np.array([[1.0], [np.nan], [1.0]]))
    with pytest.raises(ValueError, match="one shape"):
        attribution(np.ones((3, 1)), np.zeros((3, 2)), np.ones((3, 1)))
    with pytest.raises(ValueError, match="one shape"):
        turned_over(np.ones((3, 1)), np.ones((3, 2)))
    with pytest.raises(ValueError, match="at least 2 days"):
        rolling_sharpe(np.zeros(5), 1)


def test_ratio_never_leaves_the_floats() -> None:
    """Nothing over nothing is 0, something over nothing is undefined, and so is what overflows."""
    assert ratio(0.0, 0.0) == 0.0
    assert ratio(1.0, 0.0) is None
    assert ratio(1e308, 1e-10) is None
    assert ratio(1.0, -4.0) == -0.25


# ------------------------------------------------------------------------------------------------------------------
# A second opinion: empyrical-reloaded, daily, 365 days a year. Its Sortino and ours agree: both take the downside over
# all days with a target of 0. Its Calmar sees daily drawdowns only, so it is compared on daily rows.
# What it calls infinite or NaN (nothing below the line) is None here.


def same_as_empyrical(daily: Floats) -> None:
    """Assert that every shared figure agrees to 1e-10."""
    equity = np.concatenate(([1.0], np.cumprod(1.0 + daily)))
    found = figures(every(DAY_NS, len(equity)), equity)
    theirs = {
        "total_return": empyrical.cum_returns_final(daily),
        "cagr": empyrical.cagr(daily, annualization=365),
        "volatility": empyrical.annual_volatility(daily, annualization=365),
        "sharpe": empyrical.sharpe_ratio(daily, annualization=365),
        "sortino": empyrical.sortino_ratio(daily, annualization=365),
        "calmar": empyrical.calmar_ratio(daily, annualization=365),
        "max_drawdown": empyrical.max_drawdown(daily),
    }
    ours = msgspec.structs.asdict(found)
    for name, value in theirs.items():
        expected = pytest.approx(float(value), rel=1e-10) if isfinite(value) else None
        assert ours[name] == expected, name


@given(st.integers(0, 100_000), st.integers(10, 800), st.floats(0.001, 0.08))
def test_empyrical_agrees_on_random_curves(seed: int, n: int, spread: float) -> None:
    """Sharpe, Sortino, Calmar, volatility, CAGR, drawdown: two libraries, one figure."""
    same_as_empyrical(np.maximum(np.random.default_rng(seed).normal(0.0005, spread, n), -0.9))


def bitcoin(shared_data: Path) -> tuple[Times, Floats]:
    """Return dates (bar closes) and closes of the recorded hourly candles, the first open as opening."""
    table = pq.read_table(shared_data / "binance" / "BTC_USDT-1h.parquet", columns=["date", "open", "close"])
    dates = table["date"].to_numpy().astype("datetime64[ns]").astype(int64)
    closes = table["close"].to_numpy()
    return (
        np.concatenate((dates[:1], dates + HOUR_NS)),
        np.concatenate((table["open"].to_numpy()[:1], closes)).astype(float64),
    )


def test_empyrical_agrees_on_bitcoin(shared_data: Path) -> None:
    """Four years of real hourly closes: daily figures agree, and the hourly drawdown is deeper than the daily one."""
    dates, closes = bitcoin(shared_data)
    daily = daily_returns(dates, closes, np.zeros(len(closes)))[1]
    same_as_empyrical(daily)

    found = figures(dates, closes)
    assert len(daily) > 1000
    assert found.total_return == pytest.approx(closes[-1] / closes[0] - 1.0, rel=1e-9)
    assert found.sharpe == pytest.approx(float(empyrical.sharpe_ratio(daily, annualization=365)), rel=1e-10)
    assert found.max_drawdown == pytest.approx(float(empyrical.max_drawdown(returns_of(closes))), rel=1e-9)
    assert found.max_drawdown < float(empyrical.max_drawdown(daily))


def test_days_are_those_of_pandas(shared_data: Path) -> None:
    """`resample("1D", closed="right", label="left").last()` on a result file finds the same daily returns."""
    import pandas as pd

    dates, closes = bitcoin(shared_data)
    series = pd.Series(closes, index=pd.to_datetime(dates, utc=True))
    theirs = series.resample("1D", closed="right", label="left").last().ffill()
    days, ours = daily_returns(dates, closes, np.zeros(len(closes)))

    assert ours[1:] == pytest.approx(theirs.pct_change().to_numpy()[-len(ours) + 1 :], rel=1e-9, abs=1e-12)
    assert days[-1] * DAY_NS == theirs.index[-1].value


def test_drawdown_series_by_hand() -> None:
    """0 at each new high, and the distance to it in between."""
    assert drawdowns(np.array([1.0, 2.0, 1.5, 2.0, 4.0, 1.0])).tolist() == [0.0, 0.0, -0.25, 0.0, 0.0, -0.75]
