"""Hierarchical risk parity under upper bounds (López de Prado 2016).

"Building diversified portfolios that outperform out of sample", Journal of Portfolio Management 42(4).

1. Distance d_ij = sqrt((1 - corr_ij) / 2) and the Euclidean distance between its columns; single linkage.
2. Order the assets as the leaves of the tree: similar ones lie side by side.
3. Split the order in halves again and again. Of what a piece gets, the left half gets 1 - V_l / (V_l + V_r), with V the
   variance of a half under inverse-variance weights.

Bounds enter step 3 as in Pfitzinger and Katzke (2019): the share of a half is clipped to what it and its sibling can hold, so the
budget and every bound hold exactly. No matrix is inverted, so a singular covariance is no fault. There is no objective that costs
could enter; turnover and groups are enforced by the projection of the ladder.
"""

from typing import TYPE_CHECKING

import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial.distance import pdist

from strategies.ladder import Answer
from strategies.objectives.case import Case, Groups, under_groups
from strategies.objectives.risk_parity import conditioned

if TYPE_CHECKING:
    from numpy.typing import NDArray


class HierarchicalRiskParity:
    """The three steps of the paper, with bounds."""

    def solve(self, case: Case) -> Answer:
        """Return the weights."""
        held, budget = np.flatnonzero(case.region.limits.ub > 0.0), case.region.limits.budget
        S = conditioned(case.S[np.ix_(held, held)])
        order = leaf_order(S)

        def allocate(ub: "NDArray[np.float64]") -> "NDArray[np.float64]":
            w = np.zeros(case.n)
            w[held] = bisect(S, order, total=min(budget, float(ub.sum())), ub=ub[held])
            return w

        w = under_groups(case, allocate)
        if w is None or not bool(np.all(np.isfinite(w))):
            return Answer(w=np.zeros(case.n), status="not_finite", optimal=False)
        return Answer(w=w, status="solved", optimal=True)


def correlation(S: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return the correlation matrix (n, n) of a covariance with a positive diagonal, clipped to [-1, 1]."""
    deviations = np.sqrt(np.diag(S))
    C = np.asarray(np.clip(S / np.outer(deviations, deviations), -1.0, 1.0), dtype=np.float64)
    np.fill_diagonal(C, 1.0)
    return C


def tree(S: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return the single-linkage tree (n - 1, 4) of the assets, n >= 2."""
    distance = np.sqrt(0.5 * (1.0 - correlation(S)))
    return np.asarray(hierarchy.linkage(pdist(distance), method="single"), dtype=np.float64)


def leaf_order(S: "NDArray[np.float64]") -> "NDArray[np.intp]":
    """Return the positions of the assets in the order of the tree's leaves (n,)."""
    if S.shape[0] < 2:
        return np.arange(S.shape[0])
    return np.asarray(hierarchy.leaves_list(tree(S)), dtype=np.intp)


def bisect(
    S: "NDArray[np.float64]", order: "NDArray[np.intp]", *, total: float, ub: "NDArray[np.float64]"
) -> "NDArray[np.float64]":
    """Return weights (n,) that sum to ``total`` <= sum(ub), none above its bound."""
    w = np.zeros(order.size)
    pieces = [(order, total)] if order.size else []
    while pieces:
        piece, amount = pieces.pop()
        if piece.size == 1:
            w[piece[0]] = min(amount, float(ub[piece[0]]))
            continue
        left, right = piece[: piece.size // 2], piece[piece.size // 2 :]
        risk_left, risk_right = cluster_variance(S, left), cluster_variance(S, right)
        share = 1.0 - risk_left / (risk_left + risk_right)
        least = max(0.0, amount - float(ub[right].sum()))
        mine = min(max(share * amount, least), float(ub[left].sum()))
        pieces += [(left, mine), (right, amount - mine)]
    return w


def cluster_variance(S: "NDArray[np.float64]", members: "NDArray[np.intp]") -> float:
    """Return the variance of the members under inverse-variance weights."""
    inner = S[np.ix_(members, members)]
    weights = 1.0 / np.diag(inner)
    weights /= weights.sum()
    return max(float(weights @ inner @ weights), float(np.finfo(np.float64).tiny))


def correlation_groups(S: "NDArray[np.float64]", count: int) -> Groups:
    """Split the assets into at most ``count`` groups of similar correlation, by cutting the average-linkage tree.

    Average linkage, since single linkage chains: it tends to one large group and loners. Names are ``cluster 0``, ...
    in the order of first appearance.

    Raises
    ------
    ValueError
        When ``count`` is below 1.
    """
    if count < 1:
        raise ValueError(f"{count} groups asked for, at least 1 needed")
    n = S.shape[0]
    if n < 2:
        return Groups(of=np.zeros(n, dtype=np.intp), names=("cluster 0",) * n)
    distance = np.sqrt(0.5 * (1.0 - correlation(conditioned(S))))
    condensed = distance[np.triu_indices(n, 1)]
    labels = np.asarray(hierarchy.fcluster(hierarchy.linkage(condensed, method="average"), count, criterion="maxclust"))
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(first.size, dtype=np.intp)
    rank[np.argsort(first)] = np.arange(first.size)
    return Groups(of=rank[inverse], names=tuple(f"cluster {i}" for i in range(first.size)))
