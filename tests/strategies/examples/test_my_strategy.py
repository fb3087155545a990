"""The sample that `ballast init` writes."""

import numpy as np
import pytest
from hypothesis import given, settings

from daemon.domain.signal import NoDecision, NoReason, View
from strategies.examples.my_strategy import INVEST, MyStrategy
from tests.strategies.examples.views import closes, decided, market, view_of, views

PARAMS: dict[str, object] = {"lookback": 20}


@settings(max_examples=100, deadline=None)
@given(view=views())
def test_caps_and_frozen_assets(view: View) -> None:
    """Finite, within caps, at most the share invested; what is frozen never grows; no prices, no weight."""
    answer = decided(MyStrategy(), view, PARAMS)
    w = np.array(answer.weights)

    assert np.isfinite(w).all()
    assert ((w >= 0.0) & (w <= np.array(view.caps))).all()
    assert w.sum() <= INVEST + 1e-9
    assert not w[np.isnan(view.bars[:, -20:, 3]).any(axis=1)].any()
    assert (w[np.array(view.frozen)] <= np.array(view.weights)[np.array(view.frozen)]).all()


def test_what_is_above_its_average_is_held() -> None:
    """By hand."""
    answer = decided(MyStrategy(), view_of(closes([1.0, 2.0, 3.0], [3.0, 2.0, 1.0])), {"lookback": 3})

    assert answer.weights == (0.3, 0.0)


def test_too_few_bars() -> None:
    """Holds and says how many are there."""
    answer = MyStrategy().decide(view_of(market(n_bars=10)), {})

    assert answer == NoDecision(NoReason.WARMING_UP, "10 of 48 bars")


@pytest.mark.parametrize(
    ("params", "wanted"),
    [({"lokback": 3}, "lokback: unknown"), ({"lookback": True}, "True: must be"), ({"lookback": 1}, "1: must be")],
)
def test_wrong_parameters(params: dict[str, object], wanted: str) -> None:
    """The key and the remedy."""
    with pytest.raises(ValueError, match=wanted):
        MyStrategy().decide(view_of(market()), params)
