"""Usable assets: judged whole where all is well, asset by asset where it is not, with the same answer."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from strategies.baselines import Zero
from strategies.covariance import RETURNS_MIN
from strategies.usable import bars_needed, sound_assets


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3), st.integers(0, 5), st.integers(0, 4),
            st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -1.0, 1e300]),
        ),
        max_size=4,
    )
)  # fmt: skip
def test_soundness_is_judged_asset_by_asset(spoilt: list[tuple[int, int, int, float]]) -> None:
    """Whatever stands in a window, whole or broken: an asset is sound when all is finite and its prices are positive."""
    bars = np.random.default_rng(1).uniform(1.0, 2.0, (4, 6, 5))
    for asset, bar, column, value in spoilt:
        bars[asset, bar, column] = value
    sound = [bool(np.isfinite(one).all() and (one[:, :4] > 0.0).all()) for one in bars]

    assert sound_assets(bars).tolist() == sound


def test_a_decision_needs_what_forecast_and_covariance_read() -> None:
    """The longer of both, and one bar more for the first return."""
    assert bars_needed(Zero(horizon_bars=1, lookback=2)) == RETURNS_MIN + 1
    assert bars_needed(Zero(horizon_bars=1, lookback=90)) == 91
