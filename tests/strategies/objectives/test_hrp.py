"""Hierarchical risk parity against the paper's own procedure, written here from its text; bounds and groups."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.objectives.hrp import bisect, correlation_groups, leaf_order
from tests.strategies.objectives.kit import KINDS, Floats, case_for, excess, instance, params_for, solve


def merges(S: Floats) -> list[list[int]]:
    """Every cluster that single linkage forms, in turn: the two nearest are merged, nearest by their nearest members."""
    n = S.shape[0]
    C = S / np.sqrt(np.outer(np.diag(S), np.diag(S)))
    d = np.sqrt(np.clip(0.5 * (1 - C), 0, 1))
    far = np.array([[np.sqrt(((d[:, i] - d[:, j]) ** 2).sum()) for j in range(n)] for i in range(n)])
    clusters: list[list[int]] = [[i] for i in range(n)]
    formed = []
    while len(clusters) > 1:
        pairs = [(a, b) for a in range(len(clusters)) for b in range(a + 1, len(clusters))]
        a, b = min(pairs, key=lambda ab: min(far[i, j] for i in clusters[ab[0]] for j in clusters[ab[1]]))
        formed.append(clusters[a] + clusters[b])
        clusters = [one for at, one in enumerate(clusters) if at not in (a, b)] + formed[-1:]
    return formed


def paper(S: Floats, order: list[int]) -> Floats:
    """Recursive bisection as in section 4.3 of the paper. Which child of a merge comes first it leaves open: ``order`` says."""
    weights = np.ones(S.shape[0])

    def variance(items: list[int]) -> float:
        inverse = 1 / np.diag(S)[items]
        w = inverse / inverse.sum()
        return float(w @ S[np.ix_(items, items)] @ w)

    def split(items: list[int]) -> None:
        if len(items) < 2:
            return
        left, right = items[: len(items) // 2], items[len(items) // 2 :]
        alpha = 1 - variance(left) / (variance(left) + variance(right))
        weights[left] *= alpha
        weights[right] *= 1 - alpha
        split(left)
        split(right)

    split(order)
    return weights


def covariance(n: int, seed: int) -> Floats:
    """Random, full rank."""
    one = instance(n, seed, limited=False)
    return np.asarray(one.F @ one.F.T + np.diag(one.D), dtype=np.float64)


@pytest.mark.parametrize("n", [2, 3, 8, 15])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_paper(n: int, seed: int) -> None:
    """Without bounds the weights are the paper's, times the budget; the leaves keep every cluster together."""
    S = covariance(n, seed)
    order = leaf_order(S).tolist()
    answer = solve(instance(n, seed, limited=False), params_for("hrp", n, max_weight=1.0))

    assert sorted(order) == list(range(n))
    for cluster in merges(S):
        places = [order.index(i) for i in cluster]
        assert max(places) - min(places) == len(cluster) - 1
    np.testing.assert_allclose(answer.weights, 0.98 * paper(S, order), atol=1e-9)


@settings(max_examples=60)
@given(st.integers(0, 2**16), st.integers(1, 9), st.floats(0.0, 1.0))
def test_bounds_and_sum_hold_exactly(seed: int, n: int, fill: float) -> None:
    """Whatever the bounds, the parts sum to the total and none is above its bound."""
    rng = np.random.default_rng(seed)
    ub = rng.uniform(0.0, 0.4, n)
    total = fill * float(ub.sum())
    S = covariance(n, seed)
    w = bisect(S, leaf_order(S), total=total, ub=ub)

    assert (w <= ub + 1e-12).all()
    assert (w >= -1e-15).all()
    assert w.sum() == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_limits_and_groups_hold_for_degenerate_matrices(kind: str) -> None:
    """F63: nothing is inverted; rank one, zero and repeated assets are weighted, groups are at most at their limit."""
    for seed in range(4):
        one, params = instance(10, seed, kind=kind), params_for("hrp", 10)
        answer = solve(one, params)
        assert answer.rung == "warm", answer
        assert excess(answer.weights, one, params) <= 1e-9


def test_what_a_group_may_not_hold_goes_to_the_others() -> None:
    """A group at its limit keeps its own proportions; the rest of the budget is spread over the others."""
    one = msgspec.structs.replace(
        instance(9, 1), caps=np.ones(9), frozen=np.zeros(9, dtype=np.bool_), turnover_left=2.0
    )
    params = params_for("hrp", 9, max_weight=1.0)
    region = case_for(one, params).region
    answer = solve(one, params)
    sums = region.sums(answer.weights)

    assert (sums <= one.group_caps + 1e-12).all()
    assert answer.weights.sum() == pytest.approx(0.98, abs=1e-9)


def test_correlation_groups() -> None:
    """Two blocks of correlated assets are two groups; more groups than assets are as many as there are assets."""
    block = np.full((3, 3), 0.9) + 0.1 * np.eye(3)
    S: Floats = np.asarray(np.kron(np.eye(2), block) * 1e-4, dtype=np.float64)
    groups = correlation_groups(S, 2)
    assert groups.of.tolist() == [0, 0, 0, 1, 1, 1]
    assert groups.names == ("cluster 0", "cluster 1")
    assert correlation_groups(S, 1).names == ("cluster 0",)
    assert correlation_groups(np.eye(1), 3).names == ("cluster 0",)
    with pytest.raises(ValueError, match="at least 1"):
        correlation_groups(S, 0)
