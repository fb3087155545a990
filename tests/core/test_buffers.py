"""Rolling buffers: aligned, contiguous, never copied."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.buffers import Buffers
from daemon.domain.market import Bar, BarFlag

S = 1_000_000_000


def column(n_assets: int, number: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return recognisable values for one column."""
    return np.arange(n_assets * 5, dtype=np.float64).reshape(n_assets, 5) + 1000.0 * number


def bar(close_ns: int, price: float) -> Bar:
    """Return a flat bar of one second."""
    return Bar("X/Y", close_ns - S, close_ns, price, price, price, price, 1.0, 1, 1, 1, BarFlag.LIVE)


@given(st.integers(1, 7), st.integers(0, 30), st.integers(1, 3))
def test_windows_equal_a_plain_list(capacity: int, appended: int, n_assets: int) -> None:
    """Any window equals the tail of everything appended, whatever wrapped around."""
    buffers = Buffers(n_assets, capacity, S)
    kept = []
    for number in range(1, appended + 1):
        buffers.append_column(number * S, column(n_assets, number))
        kept.append(column(n_assets, number))
    for n in range(capacity + 2):
        expected = kept[-min(n, capacity) :] if n else []
        window = buffers.window(n)
        assert window.shape == (n_assets, len(expected), 5)
        assert all(np.array_equal(window[:, at], one) for at, one in enumerate(expected))
        assert list(buffers.closes(n)) == [S * (appended - len(expected) + 1 + at) for at in range(len(expected))]


def test_window_is_a_view_contiguous_in_time() -> None:
    """A window shares the buffer's memory, one stretch per asset, and cannot be written through."""
    buffers = Buffers(2, 4, S)
    for number in range(1, 8):
        buffers.append_column(number * S, column(2, number))
    window = buffers.window(4)

    assert np.shares_memory(window, buffers.window(3))
    assert window[0].flags.c_contiguous
    with pytest.raises(ValueError, match="read-only"):
        window[0, 0, 0] = 1.0


def test_columns_follow_each_other() -> None:
    """A hole in time is refused by name."""
    buffers = Buffers(1, 4, S)
    buffers.append_column(S, column(1, 1))
    with pytest.raises(ValueError, match="does not follow"):
        buffers.append_column(3 * S, column(1, 3))


def test_single_bars_fill_their_column() -> None:
    """Bars may come one symbol at a time, and replace what stood there (a repaired bar)."""
    buffers = Buffers(2, 3, S)
    for number in range(1, 6):
        buffers.append(0, bar(number * S, float(number)))
    buffers.append(1, bar(4 * S, 40.0))
    buffers.append(0, bar(5 * S, 50.0))
    closes = buffers.window(3)[:, :, 3]

    assert np.array_equal(closes, [[3.0, 4.0, 50.0], [np.nan, 40.0, np.nan]], equal_nan=True)
    with pytest.raises(ValueError, match="not in the buffer"):
        buffers.append(0, bar(2 * S, 1.0))
    with pytest.raises(ValueError, match="does not follow"):
        buffers.append(0, bar(9 * S, 1.0))


def test_rows_travel_and_come_back() -> None:
    """What is sent to a worker fills its buffers with the same bars, aligned by close time."""
    buffers = Buffers(2, 5, S)
    for number in range(1, 9):
        buffers.append(0, bar(number * S, float(number)))
        if number > 6:
            buffers.append(1, bar(number * S, 10.0 * number))
    copy = Buffers.from_rows([buffers.rows(0), buffers.rows(1)], capacity=5, bar_ns=S)

    assert copy.close_ns == buffers.close_ns
    assert np.array_equal(copy.window(5), buffers.window(5), equal_nan=True)
    assert len(buffers.rows(1)) == 2 * 6 * 8
    copy.append(0, bar(9 * S, 9.0))
    assert copy.window(1)[0, 0, 3] == 9.0


def test_empty_rows_and_longer_history_than_capacity() -> None:
    """Nothing known is an empty buffer; of a long history the newest bars are kept."""
    assert Buffers.from_rows([b"", b""], capacity=5, bar_ns=S).count == 0
    long = Buffers(1, 50, S)
    for number in range(1, 41):
        long.append(0, bar(number * S, float(number)))
    short = Buffers.from_rows([long.rows(0)], capacity=8, bar_ns=S)

    assert list(short.window(8)[0, :, 3]) == [float(number) for number in range(33, 41)]


def test_impossible_sizes_are_refused() -> None:
    """Sizes must be positive."""
    with pytest.raises(ValueError, match="must be positive"):
        Buffers(0, 5, S)


@given(st.integers(1, 5), st.lists(st.booleans(), max_size=12), st.integers(1, 4), st.integers(0, 12))
def test_bars_appended_at_once_are_those_appended_one_by_one(
    capacity: int, at_once: list[bool], n_assets: int, amended: int
) -> None:
    """Every window is the same whichever way a column came, also where a bar is written anew later."""
    ours, theirs = Buffers(n_assets, capacity, S), Buffers(n_assets, capacity, S)
    for number, once in enumerate(at_once, start=1):
        values = column(n_assets, number)
        bars = [
            Bar("X/Y", (number - 1) * S, number * S, o, h, low, c, v, 1, 1, 1, BarFlag.LIVE)
            for o, h, low, c, v in values.tolist()
        ]
        if once:
            ours.append_bars(number * S, bars)
        else:
            for place, one in enumerate(bars):
                ours.append(place, one)
        if number == amended:
            values[-1] = [7.5, 7.5, 7.5, 7.5, 1.0]
        theirs.append_column(number * S, values)
    if max(0, len(at_once) - capacity) < amended <= len(at_once):
        ours.append(n_assets - 1, bar(amended * S, 7.5))

    assert (ours.count, ours.close_ns) == (theirs.count, theirs.close_ns)
    for n in range(capacity + 1):
        assert np.array_equal(ours.window(n), theirs.window(n))
        assert np.array_equal(ours.closes(n), theirs.closes(n))


def test_a_column_lacks_no_symbol() -> None:
    """Fewer bars than symbols cannot be a column, and none is left out of step."""
    buffers = Buffers(2, 4, S)
    with pytest.raises(ValueError, match="1 bars for 2 assets"):
        buffers.append_bars(S, [bar(S, 1.0)])
    buffers.append_bars(S, [bar(S, 1.0), bar(S, 2.0)])
    with pytest.raises(ValueError, match="does not follow"):
        buffers.append_bars(3 * S, [bar(3 * S, 1.0), bar(3 * S, 2.0)])
