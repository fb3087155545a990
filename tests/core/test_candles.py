"""Sequences of bars: holes filled, finer bars merged."""

import msgspec
import pytest

from daemon.core.candles import contiguous, merged
from daemon.domain.market import Bar, BarFlag

S = 1_000_000_000


def bar(number: int, price: float = 1.0) -> Bar:
    """Return the bar of second ``number``."""
    high, low = price + 0.5, price - 0.5
    return Bar("X/Y", number * S, (number + 1) * S, price, high, low, price + 0.1, 5, 2, -1, -1, BarFlag.BACKFILLED)


def test_holes_become_empty_bars() -> None:
    """An outage of the venue is flat bars at the last close, up to the end asked for; later bars are cut."""
    filled = contiguous([bar(1), bar(4), bar(9)], 7 * S)

    assert [one.open_ns // S for one in filled] == [1, 2, 3, 4, 5, 6]
    assert [one.flag is BarFlag.EMPTY for one in filled] == [False, True, True, False, True, True]
    assert (filled[1].open, filled[1].volume, filled[1].close_ns) == (1.1, 0.0, 3 * S)
    assert contiguous([], 7 * S) == ()


def test_groups_merge_whole_or_not_at_all() -> None:
    """A group needs all its parts; its volume is their exact sum."""
    coarse = merged([bar(number, float(number + 1)) for number in range(3, 12)], 5 * S)

    assert [(one.open_ns // S, one.close_ns // S) for one in coarse] == [(5, 10)]
    assert (coarse[0].open, coarse[0].high, coarse[0].low, coarse[0].close) == (6.0, 10.5, 5.5, 10.1)
    assert (coarse[0].volume, coarse[0].trades, coarse[0].flag) == (25, 10, BarFlag.BACKFILLED)


def test_a_group_of_nothing_is_empty() -> None:
    """Five empty seconds are an empty bar."""
    parts = [msgspec.structs.replace(bar(number), flag=BarFlag.EMPTY, volume=0.0, trades=0) for number in range(5)]
    assert merged(parts, 5 * S)[0].flag is BarFlag.EMPTY


def test_holes_are_not_merged_over() -> None:
    """Finer bars must be contiguous."""
    with pytest.raises(ValueError, match="holes"):
        merged([bar(1), bar(3)], 5 * S)
