"""One instance of a portfolio problem and the region its weights must lie in.

Symbols are those of ``strategies/optimise.py``; beside them

    R (T, n) scenarios of simple returns over the horizon      c (m,) largest sum of weights of each group

    region   0 <= w <= ub, sum(w) <= B, sum(w in group j) <= c_j     hard
             sum((w - w0)+) <= tau                                   soft: only buys count

Groups do not overlap. w = 0 is always in the region, and w = w0 scaled to it.
"""

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from strategies.inputs import COEFFICIENT_MAX
from strategies.limits import Limits
from strategies.limits import project as project_limits
from strategies.limits import violation as limit_violation

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

SCENARIOS_MIN = 20
"""Fewer scenarios than one tail event at 95 % say nothing about a tail."""
NO_GROUP = -1
GROUP_SLACK = 1e-12
"""A group's sum above its limit by less than this share is rounding, which the projection removes."""


class Groups(msgspec.Struct, frozen=True):
    """A split of some assets into groups that do not overlap.

    ``of`` (n_assets,) is the position of each asset's group, -1 for none; ``names`` has one entry a group.
    """

    of: "NDArray[np.intp]"
    names: tuple[str, ...]

    def members(self, group: int) -> "NDArray[np.intp]":
        """Return the positions of the assets of one group."""
        return np.flatnonzero(self.of == group)


def no_groups(n: int) -> Groups:
    """Return the split without any group."""
    return Groups(of=np.full(n, NO_GROUP, dtype=np.intp), names=())


class Region(msgspec.Struct, frozen=True):
    """The limits of one decision with those of groups; the ``Guard`` of the ladder."""

    limits: Limits
    groups: Groups
    group_caps: "NDArray[np.float64]"

    def violation(self, w: "NDArray[np.float64]") -> float:
        """Return the largest violation of a hard limit in weight; infinite when ``w`` is not finite or misshapen."""
        worst = limit_violation(w, self.limits)
        if not np.isfinite(worst) or not self.groups.names:
            return worst
        return max(worst, float(np.max(self.sums(w) - self.group_caps)))

    def project(self, w: "NDArray[np.float64]") -> "NDArray[np.float64]":
        """Return the weights inside every limit, turnover too; scaling a group down breaks no other limit."""
        w = project_limits(w, self.limits)
        if not self.groups.names:
            return w
        sums = self.sums(w)
        scale = np.where(sums > self.group_caps, self.group_caps / np.where(sums > 0.0, sums, 1.0), 1.0)
        grouped = self.groups.of >= 0
        return np.where(grouped, w * scale[self.groups.of], w)

    def hold(self) -> "NDArray[np.float64]":
        """Return the current weights brought inside the limits."""
        return self.project(self.limits.w0)

    def reachable(self) -> float:
        """Return the largest sum of weights in the region.

        Kept is what bounds and groups leave of the current weights; what turnover leaves may be bought into the room above it.
        """
        limits = self.limits
        kept, room = np.minimum(limits.w0, limits.ub), limits.ub
        base, whole = kept[self.groups.of < 0], room[self.groups.of < 0]
        stays, buys = float(base.sum()), float((whole - base).sum())
        for group, cap in enumerate(self.group_caps):
            mine = self.groups.of == group
            most, held = min(float(cap), float(room[mine].sum())), float(kept[mine].sum())
            stays += min(held, most)
            buys += max(most - held, 0.0)
        return min(limits.budget, stays + min(limits.turnover_left, buys))

    def sums(self, w: "NDArray[np.float64]") -> "NDArray[np.float64]":
        """Return the sum of weights of each group (n_groups,)."""
        grouped = self.groups.of >= 0
        sums = np.bincount(self.groups.of[grouped], weights=w[grouped], minlength=len(self.groups.names))
        return np.asarray(sums, dtype=np.float64)


class Case(msgspec.Struct, frozen=True):
    """One instance in numbers, in the units of returns over the horizon.

    ``mean`` (n,), ``F`` (n, k) and ``D`` (n,) with ``S`` (n, n) = F F' + diag(D), ``kappa`` the cost of trading one way,
    ``scenarios`` (T, n) or None, and the region.
    """

    mean: "NDArray[np.float64]"
    F: "NDArray[np.float64]"
    D: "NDArray[np.float64]"
    S: "NDArray[np.float64]"
    kappa: float
    region: Region
    scenarios: "NDArray[np.float64] | None" = None

    @property
    def n(self) -> int:
        """Return the number of assets."""
        return int(self.mean.size)


def case_of(
    mean: "NDArray[np.float64]",
    F: "NDArray[np.float64]",
    D: "NDArray[np.float64]",
    *,
    kappa: float,
    region: Region,
    scenarios: "NDArray[np.float64] | None" = None,
) -> Case:
    """Return the case with its covariance multiplied out."""
    S = F @ F.T
    S[np.diag_indices(mean.size)] += D
    return Case(mean=mean, F=F, D=D, S=S, kappa=kappa, region=region, scenarios=scenarios)


def scenario_fault(scenarios: "NDArray[np.float64] | None", n: int) -> str:
    """Return what is wrong with scenarios for an objective that needs them, or ""."""
    if scenarios is None:
        return "no scenarios; this objective needs returns over the horizon"
    if scenarios.ndim != 2 or scenarios.shape[1] != n:
        return f"scenarios have shape {scenarios.shape}, expected (at least {SCENARIOS_MIN}, {n})"
    if scenarios.shape[0] < SCENARIOS_MIN:
        return f"{scenarios.shape[0]} scenarios, at least {SCENARIOS_MIN} needed"
    if not bool(np.all(np.abs(scenarios) <= COEFFICIENT_MAX)):
        return "scenarios are not finite"
    return ""


def under_groups(
    case: Case, allocate: "Callable[[NDArray[np.float64]], NDArray[np.float64] | None]"
) -> "NDArray[np.float64] | None":
    """Return what ``allocate`` makes of the bounds, with groups: for methods that know upper bounds only.

    A group above its limit is scaled down to it, what its assets then have becomes their bound, and the others are allocated
    again: every round settles at least one group, so there are at most n_groups + 1. None from ``allocate`` is passed on.
    """
    region = case.region
    ub, settled = region.limits.ub, np.zeros(len(region.groups.names), dtype=np.bool_)
    while True:
        w = allocate(ub)
        if w is None or not settled.size:
            return w
        sums = region.sums(w)
        over = (sums > region.group_caps * (1.0 + GROUP_SLACK)) & ~settled
        if not bool(over.any()):
            return w
        settled |= over
        scale = np.where(over, region.group_caps / np.where(sums > 0.0, sums, 1.0), 1.0)
        mine = (region.groups.of >= 0) & over[region.groups.of]
        ub = np.where(mine, w * scale[region.groups.of], ub)


def given_scenarios(case: Case) -> "NDArray[np.float64]":
    """Return the scenarios of a case.

    Raises
    ------
    ValueError
        When it has none.
    """
    if case.scenarios is None:
        raise ValueError("the case has no scenarios")
    return case.scenarios
