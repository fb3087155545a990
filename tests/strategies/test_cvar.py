"""CVaR: the tail mean, exactly, and scaling that only ever lowers weights."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.cvar import DAYS_MIN, historical_cvar, scale_down


def test_tail_mean_by_hand() -> None:
    """Of 100 days the mean of the five worst."""
    daily = np.zeros((100, 1))
    daily[:6, 0] = [-0.10, -0.08, -0.06, -0.04, -0.02, -0.01]
    assert historical_cvar(np.array([1.0]), daily) == pytest.approx(0.06)
    assert historical_cvar(np.array([0.5]), daily) == pytest.approx(0.03)


def test_tail_counts_a_day_in_part() -> None:
    """Of 30 days the worst and half of the next: (L1 + L2 / 2) / 1.5."""
    daily = np.zeros((30, 1))
    daily[:2, 0] = [-0.09, -0.06]
    assert historical_cvar(np.array([1.0]), daily) == pytest.approx((0.09 + 0.03) / 1.5)


def test_equals_rockafellar_uryasev() -> None:
    """The tail mean is the minimum over v of v + E[(L - v)+] / (1 - a)."""
    rng = np.random.default_rng(3)
    daily = rng.standard_t(3, (173, 4)) * 0.02
    w = np.array([0.3, 0.2, 0.0, 0.4])
    losses = -daily @ w
    reference = min(v + np.maximum(losses - v, 0).mean() / 0.05 for v in losses)
    assert historical_cvar(w, daily) == pytest.approx(reference, rel=1e-12)


def test_gains_nothing_held_and_unknown_days() -> None:
    """No tail loss is 0; nothing held is 0; days without a return for what is held are left out; too few say None."""
    assert historical_cvar(np.array([1.0]), np.full((50, 1), 0.01)) == 0.0
    assert historical_cvar(np.zeros(2), np.full((50, 2), np.nan)) == 0.0
    daily = np.full((50, 2), -0.01)
    daily[:, 1] = np.nan
    assert historical_cvar(np.array([1.0, 0.0]), daily) == pytest.approx(0.01)
    assert historical_cvar(np.array([0.5, 0.5]), daily) is None
    assert historical_cvar(np.array([1.0]), np.zeros((DAYS_MIN - 1, 1))) is None


@given(st.integers(0, 2**32 - 1), st.floats(0.001, 0.2), st.integers(1, 6))
def test_scaling_reaches_the_limit_and_only_lowers(seed: int, limit: float, n: int) -> None:
    """Afterwards CVaR is within the limit, no weight grew, and weights within it were left alone."""
    rng = np.random.default_rng(seed)
    daily = rng.standard_t(3, (250, n)) * 0.03
    w = rng.dirichlet(np.ones(n + 1))[:n]
    scaled, before = scale_down(w, daily, limit)
    after = historical_cvar(scaled, daily)

    assert before is not None
    assert after is not None
    assert after <= limit + 1e-12
    assert (scaled <= w).all()
    assert before > limit or scaled is w


def test_unknown_history_changes_nothing() -> None:
    """Without enough days nothing is claimed and nothing scaled."""
    w = np.array([0.3])
    assert scale_down(w, np.zeros((3, 1)), 0.1) == (w, None)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_a_limit_of_everything_is_not_computed_and_never_binds(seed: int, n: int) -> None:
    """Nobody loses more than all: the worst days there can be scale nothing down; a smaller limit would."""
    rng = np.random.default_rng(seed)
    daily = rng.choice([-1.0, -0.99, 0.0], (60, n), p=[0.5, 0.3, 0.2])
    w = rng.dirichlet(np.ones(n + 1))[:n]
    cvar = historical_cvar(w, daily)

    assert cvar is not None
    assert cvar <= 1.0
    assert scale_down(w, daily, 1.0) == (w, None)
    assert scale_down(2.0 * w / w.sum(), daily, 1.0)[1] is not None  # more than everything: judged all the same


@given(st.integers(0, 2**32 - 1))
def test_days_with_holes_are_left_out(seed: int) -> None:
    """A day that one held asset lacks counts for nothing, as if it were not there."""
    rng = np.random.default_rng(seed)
    daily = rng.normal(0.0, 0.02, (80, 3))
    daily[rng.integers(0, 80, 10), rng.integers(0, 2, 10)] = np.nan
    w = np.array([0.5, 0.3, 0.0])
    whole = daily[np.isfinite(daily[:, :2]).all(axis=1)]

    assert historical_cvar(w, daily) == historical_cvar(w, whole)
