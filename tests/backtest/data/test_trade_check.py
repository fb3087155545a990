"""What a backtest on trades would silently believe is found, and what venues really do is not called an error."""

from pathlib import Path

import numpy as np
import pytest

from daemon.backtest.data.files import Candles, write
from daemon.backtest.data.trade_check import inspect_trades
from daemon.backtest.data.trade_repair import mend_trades
from daemon.backtest.data.trade_store import store
from daemon.backtest.data.trades import DAY_NS, Facts, Trades, TradeSet, day_path, read_day, write_day
from tests.backtest.data.trade_kit import DAY, LATER, PAIR, S, kept, trades

MINUTE_MS = 60_000
WHOLE = Facts(((DAY, DAY + DAY_NS),))


def found(one: TradeSet, now_ns: int = LATER) -> dict[str, int]:
    """Return how many rows of each kind are found."""
    return {each.kind: each.rows for each in inspect_trades(one, now_ns=now_ns)}


def spoilt(folder: Path, rows: Trades, facts: Facts = WHOLE) -> TradeSet:
    """Write a day as it is, whatever is wrong with it."""
    one = kept(folder, trades(1))
    write_day(day_path(one.path, DAY), rows, facts)
    return one


def candles(rows: Trades, *, shift_ms: int = 0) -> Candles:
    """Return the minutes' volumes of trades, as a venue whose clock differs would date them."""
    minutes = rows["ts_ns"] // 1_000_000 // MINUTE_MS
    times = np.unique(minutes)
    volumes = np.array([rows["amount"][minutes == one].sum() for one in times])
    prices = np.full(len(times), 100.0)
    return Candles(times * MINUTE_MS + shift_ms, np.stack([prices, prices, prices, prices, volumes], axis=1))


def test_sound_trades_have_no_findings(tmp_path: Path) -> None:
    """Days that follow each other, a day without trades, nothing at all."""
    rows = trades(40_000)
    assert found(kept(tmp_path / "days", rows, days=4)) == {}
    assert found(kept(tmp_path / "none", rows[:0], days=2)) == {}


def test_missing_doubled_and_contradicting_trades(tmp_path: Path) -> None:
    """Each by its own name; a gap over midnight too."""
    rows = trades(1_000)
    twice = np.concatenate([rows[:500], rows[499:500], rows[500:]])
    other = twice.copy()
    other["amount"][500] += 1.0
    assert found(spoilt(tmp_path / "a", np.delete(rows, [10, 11, 700]))) == {"gap": 3}
    assert found(spoilt(tmp_path / "b", twice)) == {"duplicate": 1}
    assert found(spoilt(tmp_path / "c", other)) == {"conflict": 1}
    assert found(spoilt(tmp_path / "d", rows[np.r_[0:10, 20:30, 10:20, 30:1_000]])) == {"unsorted": 1}
    long = trades(20_000)
    midnight = int(np.searchsorted(long["ts_ns"], DAY + DAY_NS))
    one = kept(tmp_path / "e", np.delete(long, [midnight - 1, midnight]), days=2)
    (gap,) = inspect_trades(one, now_ns=LATER)
    assert (gap.kind, gap.rows) == ("gap", 2)
    assert gap.places[0][1] == f"ids {long['id'][midnight - 1]} to {long['id'][midnight]}"


def test_time_that_was_never_fetched_is_no_gap(tmp_path: Path) -> None:
    """Two stretches: the ids between them are missing because nobody asked."""
    rows = trades(1_000)
    facts = Facts(((DAY, int(rows["ts_ns"][400])), (int(rows["ts_ns"][600]), DAY + DAY_NS)))
    one = spoilt(tmp_path, np.delete(rows, np.arange(401, 600)), facts)
    assert found(one) == {"unfetched": 1}
    assert mend_trades(one).left == ()


def test_time_that_goes_backwards(tmp_path: Path) -> None:
    """Seconds are an error, milliseconds are the venue's; the future and another day are errors."""
    rows = trades(1_000)
    back, jitter, early = rows.copy(), rows.copy(), rows.copy()
    back["ts_ns"][500] -= 30 * S
    jitter["ts_ns"][500] = jitter["ts_ns"][499] - 1_000_000
    early["ts_ns"][0] -= S
    assert found(spoilt(tmp_path / "a", back)) == {"backwards": 1}
    (note,) = inspect_trades(spoilt(tmp_path / "b", jitter), now_ns=LATER)
    assert (note.kind, note.is_error) == ("jitter", False)
    assert found(spoilt(tmp_path / "c", early)) == {"wrong_day": 1}
    assert found(spoilt(tmp_path / "d", rows), now_ns=int(rows["ts_ns"][899])) == {"unclosed": 100}


@pytest.mark.parametrize(
    ("column", "value", "kind"),
    [
        ("price", 0.0, "absurd"),
        ("price", -1.0, "absurd"),
        ("price", np.nan, "absurd"),
        ("price", np.inf, "absurd"),
        ("amount", 0.0, "absurd"),
        ("amount", -1.0, "absurd"),
        ("amount", np.nan, "absurd"),
        ("price", 3_000.0, "spike"),
        ("price", 3.0, "spike"),
        ("amount", 1e6, "huge"),
    ],
)
def test_prices_and_sizes_that_cannot_be_true(tmp_path: Path, column: str, value: float, kind: str) -> None:
    """Not finite, not positive, far from neighbours that agree, far from any size of the day."""
    rows = trades(2_000)
    rows[column][777] = value
    assert found(spoilt(tmp_path, rows)) == {kind: 1}


def test_a_crash_is_a_market(tmp_path: Path) -> None:
    """A price that falls by nine tenths and stays there."""
    rows = trades(2_000)
    rows["price"][1_000:] /= 12.0
    assert found(spoilt(tmp_path, rows)) == {}


@pytest.mark.parametrize("shift_s", [1, -7, 60, -120, 3_600, -7_200, 19_800])
def test_a_clock_that_differs_from_the_candles_is_named(tmp_path: Path, shift_s: int) -> None:
    """Seconds, minutes, time zones: the volumes say by how much."""
    rows = trades(17_000)
    rows["ts_ns"] += np.random.default_rng(7).integers(0, 4 * S, len(rows))
    moved = rows.copy()
    moved["ts_ns"] += shift_s * S
    one = kept(tmp_path, moved[(moved["ts_ns"] >= DAY) & (moved["ts_ns"] < DAY + DAY_NS)])
    write(tmp_path / "BTC_USDT-1m.parquet", candles(rows))
    (shift,) = inspect_trades(one, now_ns=LATER)

    assert (shift.kind, shift.is_error) == ("shifted", True)
    assert shift.places[0][1] == f"{abs(shift_s)} s {'behind' if shift_s > 0 else 'ahead of'} the candles"


def test_clocks_that_agree_and_single_candles_that_differ(tmp_path: Path) -> None:
    """The same volumes are silent; one other volume is a note; nothing alike is one too, for no shift explains it."""
    rows = trades(17_000)
    one = kept(tmp_path, rows)
    path = tmp_path / "BTC_USDT-1m.parquet"
    made = candles(rows)
    write(path, made)
    assert found(one) == {}
    made.values[100, 4] += 1.0
    write(path, made)
    assert found(one) == {"differs": 1}
    made.values[:, 4] *= 1.1
    write(path, made)
    (note,) = inspect_trades(one, now_ns=LATER)
    assert (note.kind, note.is_error) == ("differs", False)


def test_days_are_mended_by_what_proves_it(tmp_path: Path) -> None:
    """Sorted, repetitions dropped, impossible rows taken out and asked for, holes filled; the day as it was is kept."""
    rows = trades(1_000)
    bad = rows.copy()
    bad["price"][300] = np.nan
    bad["amount"][400] = -1.0
    bad = np.concatenate([bad[500:], bad[:499], bad[600:601]])
    other = bad[-1:].copy()
    other["id"], other["ts_ns"] = 1_450, DAY + 9
    bad = np.concatenate([bad, other])
    one = spoilt(tmp_path, bad)
    before = day_path(one.path, DAY).read_bytes()
    dry = mend_trades(one, dry=True)
    assert day_path(one.path, DAY).read_bytes() == before

    offline = mend_trades(one)
    kinds = {each.what for each in offline.changes}
    assert offline.changes == dry.changes
    assert kinds == {"sorted", "dropped", "removed"}
    assert offline.left == tuple(int(rows["ts_ns"][at]) // 1_000_000 for at in (299, 399, 449, 498))
    assert found(one) == {"unfetched": 3, "gap": 1}  # what was taken out no longer counts as fetched

    asked: list[tuple[int, int]] = []

    def online(pair: str, ranges: list[tuple[int, int]]) -> Trades:
        assert pair == PAIR
        asked.extend(ranges)
        return rows[np.isin(rows["id"], [each for first, last in ranges for each in range(first, last + 1)])]

    write_day(day_path(one.path, DAY), np.delete(rows, [7, 8, 300]), WHOLE)
    done = mend_trades(one, online=online)
    assert asked == [(1_007, 1_008), (1_300, 1_300)]
    assert [each.what for each in done.changes] == ["filled"] * 3
    assert done.left == ()
    assert np.array_equal(read_day(day_path(one.path, DAY))[0], rows)
    assert found(one) == {}
    assert day_path(one.path, DAY).with_name("2023-12-09.parquet.orig").read_bytes() == before


def test_what_nobody_has_stays_missing_and_strays_go_home(tmp_path: Path) -> None:
    """A hole that the exchange does not fill is told; a row of the next day moves there."""
    rows = trades(1_000)
    rows["ts_ns"][-1] += DAY_NS
    one = spoilt(tmp_path, np.delete(rows, 5))
    store(one.path, rows[:0], [(DAY + DAY_NS, DAY + 2 * DAY_NS)], "contiguous")
    done = mend_trades(one, online=lambda _pair, _ranges: rows[:0])

    assert done.left == (int(rows["ts_ns"][4]) // 1_000_000,)
    assert [each.what for each in done.changes] == ["moved"]
    assert read_day(day_path(one.path, DAY + DAY_NS))[0].tolist() == rows[-1:].tolist()
    assert len(read_day(day_path(one.path, DAY))[0]) == 998
