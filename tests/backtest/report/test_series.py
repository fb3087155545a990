"""Thinning loses no extreme; numbers and fees are written as they are."""

import math
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from daemon.backtest.report.folder import load_run
from daemon.backtest.report.grids import NONE, plain, written
from daemon.backtest.report.series import daily, deepest, every, fee_in_quote, significant, thin
from tests.backtest.report.kit import Plan, change_column, write_run


@given(n=st.integers(1, 4_000), points=st.integers(10, 500), holes=st.floats(0.0, 0.5), seed=st.integers(0, 1_000))
def test_thinning_keeps_extremes_and_ends(n: int, points: int, holes: float, seed: int) -> None:
    """In order, not too many, first and last row, lowest and highest value; also with missing values."""
    rng = np.random.default_rng(seed)
    values = np.cumsum(rng.normal(size=n))
    values[rng.random(n) < holes] = np.nan
    rows = thin(values, points)

    assert len(rows) <= max(points, 4)
    assert (np.diff(rows) > 0).all()
    assert rows[0] == 0
    assert rows[-1] == n - 1
    known = values[np.isfinite(values)]
    if len(known):
        assert np.nanmin(values[rows]) == known.min()
        assert np.nanmax(values[rows]) == known.max()


@given(n=st.integers(0, 5_000), most=st.integers(2, 600))
def test_even_rows(n: int, most: int) -> None:
    """At most so many, rising, ends included; everything when it fits."""
    rows = every(n, most)

    assert len(rows) == min(n, most)
    assert (np.diff(rows) > 0).all()
    if n:
        assert rows[0] == 0
        assert rows[-1] == n - 1


def test_days_multiply_to_the_whole(tmp_path: Path) -> None:
    """Daily returns make the total return, daily turnover the sum of the decisions'."""
    books = write_run(tmp_path, Plan(bars=24 * 30 + 7))
    run = load_run(tmp_path)
    by_day = daily(run)

    assert math.isclose(np.prod(1.0 + by_day.returns), books.equity[-1] / books.equity[0])
    assert math.isclose(by_day.turnover.sum(), run.decisions.turnover.sum())
    assert len(by_day.times) == len(by_day.returns) == len(by_day.turnover) == 31


def test_deepest_fall_has_its_dates() -> None:
    """Top and bottom of the deepest fall, not of the last or the longest."""
    unit = np.array([1.0, 1.2, 0.9, 1.3, 1.25, 1.4])
    fall = deepest(np.arange(6, dtype=np.int64), unit)

    assert (fall.top_ns, fall.bottom_ns) == (1, 2)
    assert math.isclose(fall.depth, -0.25)


def test_fees_in_other_assets(tmp_path: Path) -> None:
    """Paid in the base asset they are worth the fill's price; in a third asset they are counted, not guessed."""
    books = write_run(tmp_path, Plan(bars=24 * 5))
    path = tmp_path / "fills.parquet"
    assets = ["BTC", "BNB", *["USDT"] * (books.fills - 2)]
    pairs = load_run(tmp_path).fills.pair
    assert pairs[0] == "BTC/USDT"
    change_column(path, "fee_asset", assets)
    change_column(path, "fee", [0.5, 0.1, *[1.0] * (books.fills - 2)])
    run = load_run(tmp_path)
    fees, unknown = fee_in_quote(run)

    assert unknown == 1
    assert fees[0] == 0.5 * run.fills.price[0]
    assert fees[1] == 0.0
    assert fees[2:].tolist() == [1.0] * (books.fills - 2)


def test_fills_are_sorted_by_time(tmp_path: Path) -> None:
    """A file in another order gives the same run."""
    books = write_run(tmp_path, Plan(bars=24 * 9))
    before = load_run(tmp_path).fills
    table = parquet.read_table(tmp_path / "fills.parquet")
    order = [*range(3, books.fills), 0, 1, 2]
    parquet.write_table(table.take(order), tmp_path / "fills.parquet")
    after = load_run(tmp_path).fills

    assert np.array_equal(after.times, before.times)
    assert list(after.order_id) == list(before.order_id)


def test_figures_as_people_read_them() -> None:
    """Percent, groups of three, no minus before nothing, a dash for what does not exist."""
    assert written(0.12345, "percent") == "12.35 %"
    assert written(-0.00001, "percent") == "0.00 %"
    assert written(-1234567.891, "money") == "-1,234,567.89"
    assert written(12345.0, "count") == "12,345"
    assert written(0.000123456789, "number") == "0.000123457"
    assert written(None, "ratio") == written(math.nan, "money") == written(math.inf, "percent") == NONE
    assert significant(np.array([1.23456789, np.nan, -0.0]), 4) == [1.235, None, -0.0]


@given(st.text())
def test_plain_text_is_one_printable_line(text: str) -> None:
    """No control, direction or line break survives, and the length is bounded."""
    shown = plain(text)

    assert shown.isprintable()
    assert len(shown) <= 80
    assert shown == text or not text.isprintable() or len(text) > 80
