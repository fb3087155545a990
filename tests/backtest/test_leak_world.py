"""Other futures: what is past stays to the last bit, what is not is changed, and a file keeps its shape."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyarrow import feather, parquet

from daemon.backtest.data.files import CandleFile
from daemon.backtest.leak_world import BEGUN, ENDED, KINDS, World, build, change, last_close_ns, perturbed

HOUR_MS = 3_600_000
HOUR_NS = 3_600 * 10**9
T0_MS = 1_704_067_200_000
T0_NS = T0_MS * 1_000_000


def values(bars: int, seed: int = 0) -> NDArray[np.float64]:
    """Return (n, 5) candles of a random walk."""
    rng = np.random.default_rng(seed)
    close = 50.0 * np.exp(np.cumsum(rng.normal(0.0, 0.02, bars)))
    opened = np.concatenate(([50.0], close[:-1]))
    spread = 1.0 + rng.uniform(0.001, 0.01, bars)
    high, low = np.maximum(opened, close) * spread, np.minimum(opened, close) / spread
    return np.stack([opened, high, low, close, rng.lognormal(3.0, 1.0, bars)], axis=1)


def table(bars: int, *, step_ms: int = HOUR_MS, unit: str = "ns") -> Any:
    """Return a table as others write it: 32-bit volumes, one column more, metadata."""
    rows = values(bars)
    dates = pa.array(T0_MS + step_ms * np.arange(bars)).cast(pa.timestamp("ms", "UTC")).cast(pa.timestamp(unit, "UTC"))
    columns = {name: rows[:, at] for at, name in enumerate(("open", "high", "low", "close"))}
    made = pa.table(
        {"date": dates, **columns, "volume": rows[:, 4].astype(np.float32), "trades": np.arange(bars, dtype=np.int64)}
    )
    return made.replace_schema_metadata({b"made": b"elsewhere"})


def file(timeframe: str = "1h") -> CandleFile:
    """Return what a file's name says."""
    return CandleFile(Path(f"AAA_USDT-{timeframe}.parquet"), "AAA/USDT", timeframe)


@given(
    kind=st.sampled_from(KINDS),
    bars=st.integers(1, 60),
    cut=st.integers(0, 60),
    seed=st.integers(0, 9),
    hole=st.booleans(),
)
def test_a_changed_future_is_made_of_candles_and_leaves_the_past_alone(
    kind: str, bars: int, cut: int, seed: int, hole: bool
) -> None:
    """Finite, positive, low at the bottom and high at the top; the same again for the same seed; holes stay holes."""
    rows = values(bars, seed)
    if hole:
        rows[bars // 2] = np.nan
    future = np.arange(bars) >= cut
    other = perturbed(rows, future, kind, np.random.default_rng(seed))
    known = other[np.isfinite(rows).all(axis=1)]

    np.testing.assert_array_equal(other[~future], rows[~future])
    np.testing.assert_array_equal(np.isnan(other), np.isnan(rows))
    assert np.isfinite(known).all()
    assert (known > 0.0).all()
    assert (known[:, 1] >= known[:, :4].max(axis=1)).all()
    assert (known[:, 2] <= known[:, :4].min(axis=1)).all()
    np.testing.assert_array_equal(other, perturbed(rows, future, kind, np.random.default_rng(seed)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_future_bar_is_another_one(kind: str) -> None:
    """Every kind changes the close and the volume of each of many bars; the next return has the other sign in a mirror."""
    rows = values(200)
    future = np.arange(200) >= 100
    other = perturbed(rows, future, kind, np.random.default_rng(0))

    assert (other[100:, 4] != rows[100:, 4]).all()
    assert (np.abs(other[100:, 3] / rows[100:, 3] - 1.0) > 1e-12).mean() > 0.98
    if kind == "mirrored":
        steps = np.diff(np.log(np.stack([rows[99:, 3], other[99:, 3]])), axis=1)
        np.testing.assert_allclose(steps[1], -steps[0], atol=1e-12)


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_a_table_keeps_its_columns_types_and_metadata(unit: str) -> None:
    """And the rows up to the cut, in every column."""
    before = table(100, unit=unit)
    after = change(before, World(kind="mirrored", cut_ns=T0_NS + 60 * HOUR_NS), file())

    assert after.schema.equals(before.schema, check_metadata=True)
    assert after.slice(0, 60).equals(before.slice(0, 60))
    assert after["date"].equals(before["date"])
    assert sorted(after["trades"].to_pylist()) == list(range(100))
    assert after["trades"].to_pylist()[60:] != list(range(60, 100))
    assert not np.isclose(after["close"].to_numpy()[60:], before["close"].to_numpy()[60:]).any()


def test_of_a_bar_that_is_open_only_the_opening_price_is_known() -> None:
    """The cut lies within the third day."""
    before = table(5, step_ms=24 * HOUR_MS)
    after = change(before, World(kind="scaled", cut_ns=T0_NS + 60 * HOUR_NS), file("1d"))
    opens, closes = after["open"].to_numpy(), after["close"].to_numpy()

    assert opens[:3].tolist() == before["open"].to_numpy()[:3].tolist()
    assert closes[:2].tolist() == before["close"].to_numpy()[:2].tolist()
    assert (closes[2:] > 2.0 * before["close"].to_numpy()[2:]).all()
    assert (opens[3:] > 2.0 * before["open"].to_numpy()[3:]).all()
    assert after["low"].to_numpy()[2] <= opens[2] <= after["high"].to_numpy()[2]


def test_single_cells_are_changed_to_what_they_are_in_the_whole_other_world() -> None:
    """One bar, one field: nothing else differs, and the value is that of the world it was found in."""
    before = table(100)
    cut = T0_NS + 60 * HOUR_NS
    world = World(kind="garbage", cut_ns=cut, seed=3)
    one = World(
        kind="garbage", cut_ns=cut, seed=3, from_ns=cut + 4 * HOUR_NS, until_ns=cut + 5 * HOUR_NS, fields=("close",)
    )
    closes = change(before, one, file())["close"].to_numpy()
    expected = before["close"].to_numpy().copy()
    expected[64] = change(before, world, file())["close"].to_numpy()[64]

    assert closes.tolist() == expected.tolist()
    assert change(before, one, file())["open"].equals(before["open"])
    assert change(before, one, file())["trades"].equals(before["trades"])


def test_rows_are_left_out_on_one_side_of_the_cut() -> None:
    """The bar that closes at the cut is past."""
    before = table(100)
    cut = T0_NS + 60 * HOUR_NS

    assert change(before, World(kind=ENDED, cut_ns=cut), file()).equals(before.slice(0, 60))
    assert change(before, World(kind=BEGUN, cut_ns=cut), file()).equals(before.slice(60))


def test_a_folder_is_copied_as_far_as_it_differs(tmp_path: Path) -> None:
    """Named candle files in their own format, nothing else; the originals stay as they are."""
    folder = tmp_path / "data"
    folder.mkdir()
    parquet.write_table(table(50), folder / "AAA_USDT-1h.parquet")
    feather.write_feather(table(80), str(folder / "BBB_USDT-1h.feather"))
    (folder / "supply.csv").write_text("x")
    names = ["AAA_USDT-1h.parquet", "BBB_USDT-1h.feather", "supply.csv"]
    bytes_before = {path.name: path.read_bytes() for path in folder.iterdir()}
    copies = build(folder, tmp_path / "copy", World(kind=ENDED, cut_ns=T0_NS + 10 * HOUR_NS), names)

    assert [(one.name, copy.name) for one, copy in copies] == [(name, name) for name in names[:2]]
    assert parquet.read_table(copies[0][1]).num_rows == feather.read_table(copies[1][1]).num_rows == 10
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == bytes_before
    assert last_close_ns(folder, names) == T0_NS + 80 * HOUR_NS
    only = build(folder, tmp_path / "only", World(kind=ENDED, cut_ns=T0_NS, pairs=("BBB/USDT",)), names)
    assert [copy.name for _, copy in only] == ["BBB_USDT-1h.feather"]
