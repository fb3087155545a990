"""Random instances for the tests of the objectives, and a reference that shares no code with the hot path."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from strategies.limits import limits_of
from strategies.objectives.case import Case, Groups, Region, case_of
from strategies.objectives.portfolio import Portfolio, groups_of
from strategies.optimise import BPS, Solution
from strategies.params import OptimizerParams

Floats = NDArray[np.float64]
SCENARIOS = 60
KINDS = ("full", "factor", "rank_one", "zero", "repeated", "tiny", "huge")


class Instance(msgspec.Struct, frozen=True):
    """One portfolio, its forecast and its limits."""

    mean: Floats
    F: Floats
    D: Floats
    scenarios: Floats
    w0: Floats
    caps: Floats
    frozen: NDArray[np.bool_]
    turnover_left: float
    groups: Groups
    group_caps: Floats

    @property
    def n(self) -> int:
        """Number of assets."""
        return int(self.mean.size)


def instance(n: int, seed: int, *, kind: str = "full", limited: bool = True, invested: float = 0.7) -> Instance:
    """Horizon returns of a few percent; `kind` says how the covariance degenerates; `limited` sets frozen, caps and groups."""
    rng = np.random.default_rng([seed, n])
    k = {"full": n, "factor": min(3, n), "rank_one": 1}.get(kind, n)
    F = rng.normal(0, 0.03 / np.sqrt(k), (n, k))
    D = rng.uniform(1e-4, 6e-4, n)
    mean = rng.normal(0.004, 0.01, n)
    if kind in ("rank_one", "zero"):
        D = np.zeros(n)
    if kind == "zero":
        F = np.zeros((n, k))
    if kind == "repeated":  # pairs of assets that are one and the same
        F, D, mean = F[np.arange(n) // 2], np.zeros(n), mean[np.arange(n) // 2]
    size = {"tiny": 1e-6, "huge": 1e3}.get(kind, 1.0)
    F, D, mean = F * size, D * size**2, mean * size
    R = rng.normal(0, 1, (SCENARIOS, F.shape[1])) @ F.T + rng.normal(0, 1, (SCENARIOS, n)) * np.sqrt(D)
    scenarios = np.maximum(R - R.mean(axis=0) + mean, -0.9)
    names = tuple(("majors", "alts", "")[i % 3] if limited else "" for i in range(n))
    groups = groups_of(names)
    caps = np.ones(n)
    frozen = np.zeros(n, dtype=np.bool_)
    if limited:
        frozen = np.arange(n) % 5 == 4
        caps[rng.random(n) < 0.15] = 0.0
    return Instance(
        mean=mean, F=F, D=D, scenarios=scenarios, w0=rng.dirichlet(np.ones(n)) * invested, caps=caps, frozen=frozen,
        turnover_left=float(rng.choice([0.05, 0.3, 2.0])) if limited else 2.0,
        groups=groups, group_caps=np.array([0.35, 0.45])[: len(groups.names)],
    )  # fmt: skip


def params_for(objective: str, n: int, **changes: float) -> OptimizerParams:
    """Limits that bind for some assets and can be met."""
    plain = OptimizerParams(
        objective=objective, max_weight=min(1.0, max(0.12, 1.6 / n)), turnover_max=changes.pop("turnover_max", 2.0)
    )
    return msgspec.structs.replace(plain, **changes)


def region_of(one: Instance, params: OptimizerParams) -> Region:
    """The region the answer must lie in."""
    limits = limits_of(params, w0=one.w0, caps=one.caps, frozen=one.frozen, turnover_left=one.turnover_left)
    return Region(limits=limits, groups=one.groups, group_caps=one.group_caps)


def case_for(one: Instance, params: OptimizerParams) -> Case:
    """The instance as the solvers see it."""
    return case_of(
        one.mean, one.F, one.D, kappa=params.cost_bps * BPS, region=region_of(one, params), scenarios=one.scenarios
    )


def solve(one: Instance, params: OptimizerParams, portfolio: Portfolio | None = None) -> Solution:
    """Solve an instance that has a solution."""
    answer = (portfolio or Portfolio(one.n, params, one.groups)).solve(
        one.mean, one.F, one.D, w0=one.w0, caps=one.caps, frozen=one.frozen, turnover_left=one.turnover_left,
        scenarios=one.scenarios, group_caps=one.group_caps,
    )  # fmt: skip
    assert isinstance(answer, Solution), answer
    return answer


def excess(w: Floats, one: Instance, params: OptimizerParams) -> float:
    """The largest violation of any limit, hard or soft, written out here once more."""
    before = np.maximum(one.w0, 0.0)
    room = np.where(one.frozen, before, np.maximum(before, np.minimum(one.caps, params.max_weight)))
    room = np.where(one.caps <= 0.0, 0.0, room)
    bought = float(np.maximum(w - before, 0.0).sum())
    sums = [float(w[one.groups.of == g].sum()) - float(cap) for g, cap in enumerate(one.group_caps)]
    worst = [float((-w).max()), float((w - room).max()), float(w.sum()) - min(1 - params.min_cash, params.max_gross)]
    return max(*worst, bought - min(one.turnover_left, params.turnover_max), *sums, 0.0)
