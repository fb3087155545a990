"""Every objective behind one call, with the shape of ``strategies.optimise.Optimiser``: numbers in, verified weights out."""

from typing import TYPE_CHECKING, get_args

import numpy as np

from strategies.inputs import fault_of
from strategies.ladder import Solver, Step, climb
from strategies.limits import binding_names, limits_of
from strategies.objectives import definitions as define
from strategies.objectives.case import Case, Groups, Region, case_of, no_groups, scenario_fault
from strategies.objectives.cvar import LEVEL, MinimumCVaR, cvar_of
from strategies.objectives.hrp import HierarchicalRiskParity
from strategies.objectives.kelly import FractionalKelly, kelly_objective
from strategies.objectives.quadratic import EqualWeight, MinimumVariance, equal_target
from strategies.objectives.risk_parity import RiskParity, ccd_minimum, newton_minimum
from strategies.objectives.sharpe import MaximumSharpe, net_return
from strategies.optimise import BPS, NoSolution, Solution
from strategies.params import Objective, OptimizerParams
from strategies.shadow import Price, prices

if TYPE_CHECKING:
    from numpy.typing import NDArray

TURNOVER = ("turnover",)
UNITS = {
    "min_variance": "risk-adjusted return",
    "max_sharpe": "expected return",
    "kelly": "growth",
    "min_cvar": "tail loss",
}
"""What a shadow price of an objective is measured in; the others have no prices."""
OBJECTIVES = tuple(name for name in get_args(Objective) if name != "mean_variance")
NEEDS_SCENARIOS = ("kelly", "min_cvar")
BINDING_TOLERANCE = 1e-6


class Portfolio:
    """Solves one objective for ``n`` assets again and again.

    Parameters
    ----------
    n : number of assets
    params : limits and costs; ``params.objective`` is one of ``OBJECTIVES``; the Kelly fraction is ``params.risk_tolerance``
    groups : a split of the assets whose sums may be limited; none when left out

    Raises
    ------
    ValueError
        When the objective is not known, or Kelly is asked for with a fraction of zero.
    """

    def __init__(self, n: int, params: OptimizerParams, groups: Groups | None = None) -> None:
        if params.objective not in OBJECTIVES:
            raise ValueError(f"optimizer.objective = {params.objective!r} is not one of {', '.join(OBJECTIVES)}")
        self._n, self._params = n, params
        self._groups = no_groups(n) if groups is None else groups
        self._steps = _steps(params, n, self._groups)
        self.prices: tuple[Price, ...] = ()

    @property
    def needs_scenarios(self) -> bool:
        """Say whether ``solve`` must be given scenarios."""
        return self._params.objective in NEEDS_SCENARIOS

    @property
    def params(self) -> OptimizerParams:
        """Return what the object was made with."""
        return self._params

    def solve(  # noqa: PLR0913 - one instance
        self,
        mean: "NDArray[np.float64]",
        F: "NDArray[np.float64]",
        D: "NDArray[np.float64]",
        *,
        w0: "NDArray[np.float64]",
        caps: "NDArray[np.float64]",
        frozen: "NDArray[np.bool_]",
        turnover_left: float,
        symbols: tuple[str, ...] = (),
        scenarios: "NDArray[np.float64] | None" = None,
        group_caps: "NDArray[np.float64] | None" = None,
    ) -> Solution | NoSolution:
        """Return verified weights; a solver that fails, lies or raises costs a rung, never a limit.

        Parameters
        ----------
        mean, F, D, w0, caps, frozen, turnover_left, symbols : see ``Optimiser.solve``
        scenarios : array (T, n), returns over the horizon, for the objectives in ``NEEDS_SCENARIOS``
        group_caps : array (n_groups,), largest sum of weights of each group; no limit when left out
        """
        params, objective = self._params, self._params.objective
        fault = fault_of(self._n, mean, F, D, w0=w0, caps=caps, frozen=frozen, turnover_left=turnover_left)
        if not fault and objective in NEEDS_SCENARIOS:
            fault = scenario_fault(scenarios, self._n)
        bounds = np.full(len(self._groups.names), np.inf) if group_caps is None else group_caps
        if bounds.shape != (len(self._groups.names),) or not bool(np.all(bounds >= 0.0)):
            fault = fault or f"group_caps are {bounds.tolist()}, expected {len(self._groups.names)} numbers >= 0"
        if fault:
            return NoSolution(fault)
        limits = limits_of(params, w0=w0, caps=caps, frozen=frozen, turnover_left=turnover_left)
        region = Region(limits=limits, groups=self._groups, group_caps=np.minimum(bounds, max(1.0, limits.budget)))
        case = case_of(mean, F, D, kappa=params.cost_bps * BPS, region=region, scenarios=scenarios)
        climbed = climb(self._steps, case, region)
        names = symbols or tuple(str(i) for i in range(self._n))
        self.prices = ()
        if climbed.duals is not None:
            self.prices = prices(
                climbed.duals, w=climbed.weights, limits=limits, kappa=case.kappa, max_weight=params.max_weight,
                symbols=names, frozen=frozen, group_of=self._groups.of, group_names=self._groups.names,
            )  # fmt: skip
        return Solution(
            weights=climbed.weights,
            status=climbed.status,
            rung=climbed.rung,
            binding=(*binding_names(climbed.weights, limits, names), *_binding_groups(climbed.weights, region)),
            shadow=tuple((one.name, one.value) for one in self.prices),
            turnover=float(np.abs(climbed.weights - limits.w0).sum()),
            objective=value_of(climbed.weights, case, params),
            tried=climbed.tried,
        )


def _steps(params: OptimizerParams, n: int, groups: Groups) -> "tuple[tuple[Step, Solver[Case]], ...]":
    """Return the rungs of an objective: the fixed program, the definition, the definition without turnover."""
    if params.objective == "risk_parity":
        return ((Step("warm"), RiskParity(newton_minimum)), (Step("second"), RiskParity(ccd_minimum)))
    if params.objective == "hrp":
        return ((Step("warm"), HierarchicalRiskParity()),)
    if params.objective == "max_sharpe":
        sharpe = define.SharpeDefinition
        return (
            (Step("warm"), MaximumSharpe(n, groups)),
            (Step("second"), sharpe()),
            (Step("relaxed", TURNOVER), sharpe(soft=False)),
        )
    first: Solver[Case]
    state: define.State
    match params.objective:
        case "min_variance":
            first, state = MinimumVariance(n, groups), define.minimum_variance
        case "equal_weight":
            first, state = EqualWeight(n, groups), define.equal_weight
        case "min_cvar":
            first, state = MinimumCVaR(n, groups), define.cvar(LEVEL)
        case _:
            fraction = params.risk_tolerance
            first, state = FractionalKelly(n, groups, fraction=fraction), define.kelly(fraction)
    return (
        (Step("warm"), first),
        (Step("second"), define.Definition(state)),
        (Step("relaxed", TURNOVER), define.Definition(state, soft=False)),
    )


def value_of(w: "NDArray[np.float64]", case: Case, params: OptimizerParams) -> float:
    """Return the objective that is minimised, at ``w``: costs as in the problem, without the price of a shortfall.

    The Sharpe ratio is negated; risk parity and its hierarchical kin report the variance w'Sw / 2.
    """
    costs = case.kappa * float(np.abs(w - case.region.limits.w0).sum())
    variance = float(w @ case.S @ w)
    match params.objective:
        case "min_variance":
            return 0.5 * variance + costs
        case "max_sharpe":
            return -net_return(w, case) / float(np.sqrt(variance)) if variance > 0.0 else 0.0
        case "min_cvar" if case.scenarios is not None:
            return cvar_of(w, case.scenarios) + costs
        case "kelly" if case.scenarios is not None:
            return kelly_objective(w, case.scenarios, params.risk_tolerance) + costs
        case "equal_weight":
            return 0.5 * float(np.sum((w - equal_target(case.region)) ** 2))
        case _:
            return 0.5 * variance


def _binding_groups(w: "NDArray[np.float64]", region: Region) -> tuple[str, ...]:
    """Name the groups whose sum of weights is at its limit."""
    sums = region.sums(w)
    return tuple(
        f"group:{name}"
        for name, total, cap in zip(region.groups.names, sums, region.group_caps, strict=True)
        if total >= cap - BINDING_TOLERANCE
    )


def groups_of(names: tuple[str, ...]) -> Groups:
    """Return the split that puts assets of the same name together; "" is no group.

    Parameters
    ----------
    names : the group's name for each asset
    """
    distinct = tuple(dict.fromkeys(name for name in names if name))
    at = {name: i for i, name in enumerate(distinct)}
    return Groups(of=np.array([at.get(name, -1) for name in names], dtype=np.intp), names=distinct)
