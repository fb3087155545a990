"""Only what can be proven is mended; every change is told; the file as it was stays beside it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.backtest.data.check import absurd, inspect
from daemon.backtest.data.files import EMPTY, Candles, files_in, read, write
from daemon.backtest.data.folder import import_folder, mend, merge
from daemon.backtest.data.repair import from_finer, repair
from tests.backtest.data.test_files import HOUR, candles, equal

FINE = 300_000
LATER = 10**13


def coarse(fine: Candles) -> Candles:
    """Return hourly candles by an independent sum of five-minute ones."""
    rows = fine.values.reshape(-1, 12, 5)
    values = np.stack(
        [rows[:, 0, 0], rows[:, :, 1].max(1), rows[:, :, 2].min(1), rows[:, -1, 3], rows[:, :, 4].sum(1)], axis=1
    )
    return Candles(fine.times[::12], values)


def without(made: Candles, *places: int) -> Candles:
    """Return the candles less some."""
    return Candles(np.delete(made.times, places), np.delete(made.values, places, axis=0))


@given(
    gone=st.sets(st.integers(1, 22), max_size=6),
    doubled=st.lists(st.integers(0, 23), max_size=5),
    broken=st.sets(st.integers(0, 23), max_size=4),
    order=st.randoms(use_true_random=False),
)
def test_with_the_finer_candles_everything_comes_back(
    gone: set[int], doubled: list[int], broken: set[int], order: object
) -> None:
    """Holes, repetitions, impossible rows and any order: the result is what it was before, to the bit."""
    fine = candles(24 * 12, step_ms=FINE)
    whole = coarse(fine)
    spoilt = [(int(at), whole.values[number].copy()) for number, at in enumerate(whole.times) if number not in gone]
    spoilt += [(int(whole.times[number]), whole.values[number].copy()) for number in doubled if number not in gone]
    for at, row in spoilt:
        if (at - int(whole.times[0])) // HOUR in broken:
            row[1] = np.nan
    order.shuffle(spoilt)  # type: ignore[attr-defined]
    given_rows = Candles(np.array([at for at, _ in spoilt], dtype=np.int64), np.array([row for _, row in spoilt]))
    mended = repair(given_rows, HOUR, [("5m candles", from_finer(fine, FINE, HOUR))])

    assert np.allclose(mended.candles.values, whole.values, rtol=1e-15, atol=0.0)
    assert np.array_equal(mended.candles.times, whole.times)
    assert mended.left == ()
    assert inspect(mended.candles, HOUR, now_ms=LATER) == ()


@given(gone=st.sets(st.integers(1, 47), max_size=12), broken=st.sets(st.integers(0, 48), max_size=6))
def test_nothing_is_ever_invented(gone: set[int], broken: set[int]) -> None:
    """Without a source a hole stays a hole and an impossible row goes: every row left was there before."""
    whole = candles(49)
    made = without(whole, *gone)
    for number in broken:
        if number < len(made):
            made.values[number, 0] = -1.0
    mended = repair(made, HOUR, [])
    before = {int(at): row for at, row in zip(made.times, made.values, strict=True)}

    assert not absurd(mended.candles.values).any()
    assert all(np.array_equal(before[int(at)], row) for at, row in zip(*mended.candles, strict=True))
    assert len(mended.candles) == len(made) - int(absurd(made.values).sum())
    assert len(mended.changes) == len(made) - len(mended.candles)


def test_rows_that_contradict_each_other_are_left_unless_a_source_decides() -> None:
    """The first is kept and named; with the finer candles the true one takes its place."""
    fine = candles(24 * 12, step_ms=FINE)
    whole = coarse(fine)
    false = whole.values[5:6] * 1.01
    made = Candles(np.insert(whole.times, 5, whole.times[5]), np.insert(whole.values, 5, false, axis=0))
    alone, decided = repair(made, HOUR, []), repair(made, HOUR, [("5m", from_finer(fine, FINE, HOUR))])

    assert alone.left == (int(whole.times[5]),)
    assert decided.left == ()
    assert np.allclose(decided.candles.values, whole.values, rtol=1e-15, atol=0.0)


@pytest.mark.parametrize("spoil", ["missing", "absurd", "doubled"])
def test_finer_candles_that_are_not_whole_prove_nothing(spoil: str) -> None:
    """One of twelve missing, impossible or doubled: the hour stays a hole."""
    fine = candles(24 * 12, step_ms=FINE)
    whole = coarse(fine)
    at = 5 * 12 + 3
    if spoil == "missing":
        fine = without(fine, at)
    elif spoil == "absurd":
        fine.values[at, 2] = 0.0
    else:
        fine = Candles(np.insert(fine.times, at, fine.times[at]), np.insert(fine.values, at, fine.values[at], axis=0))
    mended = repair(without(whole, 5), HOUR, [("5m", from_finer(fine, FINE, HOUR))])

    assert mended.left == (int(whole.times[5]),)
    assert equal(mended.candles, without(whole, 5))


def test_real_hours_are_the_sum_of_their_five_minutes(shared_data: Path) -> None:
    """Hours cut out of recorded candles come back from the recorded five minutes as they were."""
    folder = shared_data / "binance"
    hours, fine = read(folder / "BTC_USDT-1h.parquet"), read(folder / "BTC_USDT-5m.parquet")
    inside = np.flatnonzero((hours.times >= fine.times[0] + 24 * HOUR) & (hours.times < fine.times[-1] - 24 * HOUR))
    cut = inside[::7][:200]
    mended = repair(without(hours, *cut), HOUR, [("5m candles", from_finer(fine, FINE, HOUR))])
    back = mended.candles.values[np.searchsorted(mended.candles.times, hours.times[cut])]

    assert sum(one.what == "filled" for one in mended.changes) == len(cut) == 200
    assert np.array_equal(back[:, :4], hours.values[cut][:, :4])
    assert np.allclose(back[:, 4], hours.values[cut][:, 4], rtol=1e-9)


def test_a_folder_is_mended_and_the_original_kept(tmp_path: Path) -> None:
    """Dry it only tells; then it writes, once more there is nothing to do, and the old rows lie beside it."""
    fine = candles(24 * 12, step_ms=FINE)
    write(tmp_path / "BTC_USDT-5m.parquet", fine)
    write(tmp_path / "BTC_USDT-1h.parquet", without(coarse(fine), 4, 9))
    before = (tmp_path / "BTC_USDT-1h.parquet").read_bytes()

    dry = {one.file: one for one in mend(files_in(tmp_path), dry=True)}
    assert (tmp_path / "BTC_USDT-1h.parquet").read_bytes() == before
    done = {one.file: one for one in mend(files_in(tmp_path))}
    again = list(mend(files_in(tmp_path)))

    assert dry == done
    assert [(one.what, one.proof) for one in done["BTC_USDT-1h.parquet"].changes] == [("filled", "5m candles")] * 2
    assert not any(one.changes for one in again)
    assert (tmp_path / "BTC_USDT-1h.parquet.orig").read_bytes() == before
    assert len(read(tmp_path / "BTC_USDT-1h.parquet")) == 24


def test_import_takes_new_rows_and_keeps_ours(tmp_path: Path) -> None:
    """What is here stays; what differs is counted; a second time nothing is new."""
    made = candles(50)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    write(ours / "BTC_USDT-1h.parquet", Candles(made.times[:30], made.values[:30]))
    other = made.values.copy()
    other[10] *= 1.5
    write(theirs / "BTC_USDT-1h.feather", Candles(made.times, other))
    first, second = list(import_folder(theirs, ours)), list(import_folder(theirs, ours))

    assert [(one.rows, one.differing) for one in first] == [(20, 1)]
    assert [(one.rows, one.differing) for one in second] == [(0, 1)]
    assert equal(read(ours / "BTC_USDT-1h.parquet"), made)


def test_merging_nothing_gives_nothing() -> None:
    """Two empty files."""
    assert merge(EMPTY, EMPTY)[1:] == (0, 0)
