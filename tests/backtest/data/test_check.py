"""Everything a backtest would silently believe is found, and what markets really do is not called an error."""

from pathlib import Path

import numpy as np
import pytest

from daemon.backtest.data.check import holes, inspect
from daemon.backtest.data.files import Candles, read
from daemon.backtest.data.folder import check, chosen
from tests.backtest.data.test_files import HOUR, START, candles

LATER = START + 10**12


def kinds(made: Candles) -> dict[str, int]:
    """Return how many rows of each kind are found."""
    return {one.kind: one.rows for one in inspect(made, HOUR, now_ms=LATER)}


def changed(row: int, column: int, value: float) -> Candles:
    """Return sound candles with one cell changed."""
    made = candles(50)
    made.values[row, column] = value
    return made


def test_sound_candles_have_no_findings() -> None:
    """Neither has an empty file."""
    assert kinds(candles(200)) == {}
    assert kinds(candles(0)) == {}


@pytest.mark.parametrize(
    ("column", "value"),
    [(0, np.nan), (1, np.inf), (2, 0.0), (3, -1.0), (1, 1.0), (2, 1e6), (4, -0.1), (4, np.nan)],
)
def test_rows_that_cannot_be_true(column: int, value: float) -> None:
    """Not finite, no price, a range that leaves out its ends, a negative volume."""
    assert kinds(changed(20, column, value))["absurd"] == 1


def test_a_misprint_is_no_market() -> None:
    """A close ten times away from neighbours that agree; a real crash, after which prices stay there, is none."""
    made = candles(50)
    made.values[20, :4] *= 30.0
    crashed = candles(50)
    crashed.values[20:, :4] /= 30.0

    assert kinds(made) == {"spike": 1}
    assert kinds(crashed) == {}


@pytest.mark.parametrize(("column", "factor"), [(1, 12.0), (2, 1 / 12.0)])
def test_a_wick_far_from_every_close_around_is_no_market(column: int, factor: float) -> None:
    """A stop would be hit by it; a wick of a flash crash, half the price, is one."""
    made, crash = candles(50), candles(50)
    made.values[20, column] *= factor
    crash.values[20, 2] /= 2.0
    (finding,) = inspect(made, HOUR, now_ms=LATER)

    assert (finding.kind, finding.rows) == ("spike", 1)
    assert finding.places[0][1].startswith("high" if column == 1 else "low")
    assert kinds(crash) == {}


def test_times_that_are_missing_doubled_shifted_or_out_of_order() -> None:
    """Each by its own name."""
    made = candles(50)
    without = Candles(np.delete(made.times, [10, 11, 30]), np.delete(made.values, [10, 11, 30], axis=0))
    twice = Candles(np.append(made.times, made.times[7]), np.append(made.values, made.values[7:8], axis=0))
    other = Candles(np.append(made.times, made.times[7]), np.append(made.values, made.values[8:9], axis=0))

    assert kinds(without) == {"gap": 3}
    assert kinds(twice) == {"unsorted": 1, "duplicate": 1}
    assert kinds(other) == {"unsorted": 1, "conflict": 1}
    assert kinds(Candles(made.times + 120_000, made.values)) == {"off_grid": 50}


def test_a_candle_that_has_not_closed_is_no_history() -> None:
    """The last row of a file that was fetched in the middle of an hour."""
    made = candles(50)
    now_ms = int(made.times[-1]) + HOUR // 2
    assert [one.kind for one in inspect(made, HOUR, now_ms=now_ms)] == ["unclosed"]


def test_what_nobody_has_was_an_outage() -> None:
    """Three others that lack the same hours prove it; one that has them disproves it."""
    made = candles(50)
    without = Candles(np.delete(made.times, [10, 11]), np.delete(made.values, [10, 11], axis=0))
    lacking = np.delete(made.times, [10, 11])

    assert [one.kind for one in inspect(without, HOUR, now_ms=LATER, others=[lacking] * 3)] == ["outage"]
    assert [one.kind for one in inspect(without, HOUR, now_ms=LATER, others=[lacking] * 2)] == ["gap"]
    assert [one.kind for one in inspect(without, HOUR, now_ms=LATER, others=[lacking] * 3 + [made.times])] == ["gap"]
    assert [one.kind for one in inspect(without, HOUR, now_ms=LATER, others=[lacking[:10]] * 9)] == ["gap"]


def test_the_recorded_candles_have_the_known_outages_and_nothing_else(shared_data: Path) -> None:
    """53 files, 2.3 million rows: 11 outages of 23 hours in all, two hours without volume, 1,923 minutes of BCH without."""
    folder = shared_data / "binance"
    found = {one.file: one for one in check(chosen(folder, [], ""), now_ms=LATER)}
    bitcoin = {one.kind: one for one in found["BTC_USDT-1h.parquet"].findings}

    assert all(one.ok for one in found.values())
    assert {kind: one.rows for kind, one in bitcoin.items()} == {"outage": 23, "zero_volume": 2}
    assert len(bitcoin["outage"].places) == 11
    assert [(one.kind, one.rows) for one in found["BCH_USDT-1m.parquet"].findings] == [("zero_volume", 1923)]
    assert len(holes(read(folder / "BTC_USDT-1h.parquet").times, HOUR)) == 11
