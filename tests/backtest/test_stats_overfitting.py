"""Probability of backtest overfitting: noise, skill, a table small enough to count, and the long way round."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy import float64
from numpy.typing import NDArray

from daemon.backtest.stats.overfitting import EDGES, Overfitting, overfitting

Floats = NDArray[float64]


def noise(seed: int, n_periods: int, n_trials: int) -> Floats:
    """Return returns without any skill."""
    return np.random.default_rng(seed).normal(0.0, 0.02, (n_periods, n_trials))


def test_noise_is_overfitted_half_of_the_time() -> None:
    """Choosing the best of 50 noise strategies is right about the other half as often as not."""
    found = [overfitting(noise(seed, 500, 50), blocks=10) for seed in range(30)]

    assert 0.4 < np.mean([one.probability for one in found]) < 0.6
    assert np.mean([one.chosen for one in found]) > 0.1
    assert abs(np.mean([one.judged for one in found])) < 0.03


def test_one_dominating_strategy_is_never_overfitted() -> None:
    """A strategy that is better in every half is chosen, and is the best in every other half."""
    returns = noise(1, 800, 20)
    returns[:, 5] += 0.02
    found = overfitting(returns)

    assert found.probability == 0.0
    assert found.loss == 0.0
    assert (found.ways, found.blocks, found.periods, found.trials) == (12_870, 16, 800, 20)
    assert found.judged > 0.8
    assert sum(found.counts) == found.ways


def test_two_blocks_by_hand() -> None:
    """A is better in the first half, B in the second: each choice is wrong, so PBO is 1."""
    up, down = [0.03, 0.01], [-0.03, -0.01]
    found = overfitting(np.array([up, down, up, down]).reshape(2, 4).T, blocks=2)

    # Columns: A = 0.03 0.01 -0.03 -0.01, B the same.
    assert found.probability == 1.0
    crossed = overfitting(np.array([[*up, *down], [*down, *up]]).T, blocks=2)
    assert (crossed.probability, crossed.loss, crossed.ways) == (1.0, 1.0, 2)
    # A's mean in its half is 2 %, the deviation sqrt(2) %: the ratio is sqrt(2), and -sqrt(2) where it is judged.
    assert crossed.chosen == pytest.approx(2**0.5)
    assert crossed.judged == pytest.approx(-(2**0.5))
    steady = overfitting(np.array([[*up, *up], [*down, *down]]).T, blocks=2)
    assert (steady.probability, steady.loss) == (0.0, 0.0)


def the_long_way(returns: Floats, blocks: int) -> tuple[float, float, float, float]:
    """Return PBO, share of losses, and mean ratios by putting every half together, one way at a time."""
    length = len(returns) // blocks
    parts = np.split(returns[len(returns) - length * blocks :], blocks)
    below, losses, chosen, judged = 0, 0, [], []
    every = list(combinations(range(blocks), blocks // 2))
    for way in every:
        inside = np.concatenate([parts[k] for k in range(blocks) if k in way])
        outside = np.concatenate([parts[k] for k in range(blocks) if k not in way])
        ratios = [half.mean(axis=0) / half.std(axis=0, ddof=1) for half in (inside, outside)]
        best = int(np.argmax(ratios[0]))
        rank = 1 + int(np.sum(ratios[1] < ratios[1][best]))
        share = rank / (returns.shape[1] + 1)
        below += np.log(share / (1 - share)) <= 0
        losses += ratios[1][best] < 0
        chosen.append(ratios[0][best])
        judged.append(ratios[1][best])
    return below / len(every), losses / len(every), float(np.mean(chosen)), float(np.mean(judged))


@given(st.integers(0, 10_000), st.integers(2, 12), st.sampled_from([2, 4, 6]), st.integers(0, 30))
def test_sums_of_blocks_equal_whole_halves(seed: int, n_trials: int, blocks: int, extra: int) -> None:
    """The fast way agrees with the long one; periods that do not fill the blocks are the oldest and are left out."""
    returns = noise(seed, 4 * blocks + extra, n_trials) + 0.001
    found = overfitting(returns, blocks=blocks)
    expected = the_long_way(returns, blocks)

    assert (found.probability, found.loss) == expected[:2]
    assert (found.chosen, found.judged) == pytest.approx(expected[2:], rel=1e-9)
    assert found.periods == len(returns) // blocks * blocks


@given(st.integers(0, 10_000), st.floats(0.01, 100.0))
def test_order_and_scale_of_trials_are_free(seed: int, scale: float) -> None:
    """Permuted trials, or all of them with leverage, give the same verdict."""
    returns = noise(seed, 60, 9)
    one = overfitting(returns, blocks=6)

    def same(other: Overfitting) -> None:
        assert (other.probability, other.loss, other.counts) == (one.probability, one.loss, one.counts)
        assert (other.chosen, other.slope) == (pytest.approx(one.chosen), pytest.approx(one.slope, abs=1e-9))

    same(overfitting(returns[:, np.random.default_rng(seed).permutation(9)], blocks=6))
    same(overfitting(returns * scale, blocks=6))


def test_slope_is_least_squares() -> None:
    """Slope and intercept are those of numpy, over the chosen trials of all ways."""
    returns = noise(3, 120, 5)
    found = overfitting(returns, blocks=4)
    x, y = [], []
    parts = np.split(returns, 4)
    for way in combinations(range(4), 2):
        inside = np.concatenate([parts[k] for k in way])
        outside = np.concatenate([parts[k] for k in range(4) if k not in way])
        ratios = [half.mean(axis=0) / half.std(axis=0, ddof=1) for half in (inside, outside)]
        best = int(np.argmax(ratios[0]))
        x.append(ratios[0][best])
        y.append(ratios[1][best])

    assert (found.slope, found.intercept) == pytest.approx(tuple(np.polyfit(x, y, 1)), rel=1e-9)


def test_copies_and_idle_trials() -> None:
    """Copies of one trial tell nothing: PBO 1. Trials that never trade have ratio 0 and no slope."""
    copies = np.repeat(noise(4, 64, 1), 6, axis=1)
    idle = overfitting(np.zeros((64, 3)), blocks=8)

    assert overfitting(copies, blocks=8).probability == 1.0
    assert (idle.probability, idle.chosen, idle.slope, idle.intercept) == (1.0, 0.0, None, None)
    assert len(idle.counts) == len(EDGES) - 1


def test_many_trials_are_worked_in_parts() -> None:
    """More ways × trials than are held at a time give what the long way gives."""
    returns = noise(5, 40, 20_000)
    found = overfitting(returns, blocks=8)

    assert (found.probability, found.loss) == the_long_way(returns, 8)[:2]


@pytest.mark.parametrize(
    ("returns", "blocks", "words"),
    [
        (np.zeros((100, 1)), 4, "at least two trials"),
        (np.zeros(100), 4, "at least two trials"),
        (np.full((100, 2), np.nan), 4, "finite"),
        (np.zeros((100, 2)), 5, "even"),
        (np.zeros((100, 2)), 0, "even"),
        (np.zeros((1000, 2)), 22, "even and within"),
        (np.zeros((7, 2)), 4, "too few"),
    ],
)
def test_bad_tables_are_refused(returns: Floats, blocks: int, words: str) -> None:
    """What cannot be judged is refused by name."""
    with pytest.raises(ValueError, match=words):
        overfitting(returns, blocks=blocks)
