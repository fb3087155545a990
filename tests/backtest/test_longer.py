"""Candles of a longer interval, told in whole or piece by piece."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from daemon.backtest.history import make_panel
from daemon.backtest.longer import Longer
from daemon.core.pack import closes_after
from daemon.domain.market import NS_PER_S
from tests.backtest.market import BEGIN_NS, BTC, HOUR_NS

DAY_NS = 24 * HOUR_NS


@given(
    st.lists(st.booleans(), min_size=72, max_size=240),
    st.integers(1, 5),
    st.lists(st.integers(0, 60), min_size=1, max_size=12),
)
def test_pieces_add_up_to_the_newest(there: list[bool], most: int, steps: list[int]) -> None:
    """Whatever is missing, and however seldom it is asked: the closes joined are those that would be told in whole."""
    closes = np.where(there, np.arange(1.0, len(there) + 1.0), np.nan)
    values = np.repeat(closes[:, None, None], 5, axis=2)
    open_ns = BEGIN_NS + HOUR_NS * np.arange(len(there), dtype=np.int64)
    panel = make_panel((BTC,), HOUR_NS, open_ns, values)
    pieces, known, now = Longer(panel, DAY_NS, most, piecemeal=True), b"", BEGIN_NS

    for step in steps:
        now += step * HOUR_NS + NS_PER_S
        bars, follows = pieces.news(0, now)
        if bars:
            known = closes_after(known, follows, bars)
        whole = Longer(panel, DAY_NS, most).news(0, now)
        assert whole == (pieces.until(0, now), 0)
        assert known == closes_after(b"", 0, whole[0])
