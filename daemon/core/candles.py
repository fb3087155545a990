"""Sequences of closed bars: holes filled, finer ones merged into longer ones. Pure."""

from collections.abc import Sequence
from itertools import pairwise
from math import fsum

from daemon.domain.market import Bar, BarFlag


def empty_bar(before: Bar, open_ns: int) -> Bar:
    """Return the bar without trades that opens at ``open_ns``, as long as ``before``, at the price it closed with."""
    length = before.close_ns - before.open_ns
    price = before.close
    return Bar(before.symbol, open_ns, open_ns + length, price, price, price, price, 0.0, 0, -1, -1, BarFlag.EMPTY)


def contiguous(bars: Sequence[Bar], end_ns: int) -> tuple[Bar, ...]:
    """Return ``bars`` (ascending, one length) with EMPTY bars wherever one is missing, up to ``end_ns``; bars after it cut."""
    out: list[Bar] = []
    for bar in bars:
        if bar.close_ns > end_ns:
            break
        while out and out[-1].close_ns < bar.open_ns:
            out.append(empty_bar(out[-1], out[-1].close_ns))
        out.append(bar)
    while out and out[-1].close_ns < end_ns:
        out.append(empty_bar(out[-1], out[-1].close_ns))
    return tuple(out)


def merged(bars: Sequence[Bar], bar_ns: int) -> tuple[Bar, ...]:
    """Return contiguous finer ``bars`` merged into bars of ``bar_ns``; groups that are not whole are left out.

    Raises ValueError when the finer bars have holes.
    """
    if any(left.close_ns != right.open_ns for left, right in pairwise(bars)):
        raise ValueError(f"finer bars of {bars[0].symbol} have holes: make them contiguous first")
    out: list[Bar] = []
    group: list[Bar] = []
    for bar in bars:
        if not group and bar.open_ns % bar_ns:
            continue
        group.append(bar)
        if bar.close_ns % bar_ns == 0:
            out.append(_merge(group))
            group = []
    return tuple(out)


def _merge(group: Sequence[Bar]) -> Bar:
    """Return one bar for a whole group; it is EMPTY when all of it is."""
    first, last = group[0], group[-1]
    empty = all(bar.flag is BarFlag.EMPTY for bar in group)
    return Bar(
        first.symbol,
        first.open_ns,
        last.close_ns,
        first.open,
        max(bar.high for bar in group),
        min(bar.low for bar in group),
        last.close,
        fsum(bar.volume for bar in group),
        sum(bar.trades for bar in group),
        -1,
        -1,
        BarFlag.EMPTY if empty else next(bar.flag for bar in group if bar.flag is not BarFlag.EMPTY),
    )
