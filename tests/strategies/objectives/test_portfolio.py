"""Every objective: as good as an independent solver, inside every limit, and the ladder under it (F62, F63)."""

import os

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.ladder import Answer, Step
from strategies.limits import Limits
from strategies.objectives.case import Case, no_groups
from strategies.objectives.definitions import equal_weight, minimum_variance
from strategies.objectives.portfolio import NEEDS_SCENARIOS, OBJECTIVES, UNITS, Portfolio, groups_of, value_of
from strategies.optimise import NoSolution, Solution
from strategies.params import OptimizerParams
from tests.strategies.objectives.kit import (
    KINDS,
    Floats,
    Instance,
    case_for,
    excess,
    instance,
    params_for,
    region_of,
    solve,
)

CASES = int(os.environ.get("OPTIMISER_CASES", "3"))
"""Random instances for each objective and size; OPTIMISER_CASES=50 is the long run of docs/optimiser.md."""
GAP = 1e-6
CONVEX = ("min_variance", "max_sharpe", "kelly", "min_cvar", "equal_weight", "risk_parity")
PORTFOLIOS: dict[tuple[str, int, bool], Portfolio] = {}


def portfolio(objective: str, one: Instance) -> Portfolio:
    """Compile once for each objective, size and split, as the daemon does."""
    key = (objective, one.n, bool(one.groups.names))
    if key not in PORTFOLIOS:
        PORTFOLIOS[key] = Portfolio(one.n, params_for(objective, one.n), one.groups)
    return PORTFOLIOS[key]


def reference(one: Instance, params: OptimizerParams) -> Solution:
    """The same instance by the second rung alone."""
    alone = Portfolio(one.n, params, one.groups)
    alone._steps = alone._steps[1:2]
    return solve(one, params, alone)


def gap(mine: Solution, best: Solution, one: Instance, params: OptimizerParams) -> float:
    """How much worse, relative to the objective; where that is near zero, to a ten-thousandth of the largest coefficient."""
    case = case_for(one, params)
    largest = max(float(np.abs(one.scenarios).max()), float(np.diag(case.S).max()), case.kappa)
    return (mine.objective - best.objective) / max(abs(best.objective), 1e-4 * largest, 1e-300)


@pytest.mark.parametrize("n", [2, 9, 25, 60])
@pytest.mark.parametrize("objective", CONVEX)
def test_objectives_reach_the_optimum_of_an_independent_solver(objective: str, n: int) -> None:
    """The gap to cvxpy with Clarabel (parity: to coordinate descent) is at most 1e-6, no limit is broken by more than 1e-9."""
    compared = 0
    for seed in range(CASES if n < 60 else max(1, CASES // 3)):
        kind = KINDS[(seed + n) % len(KINDS)]
        one, params = instance(n, seed, kind=kind), params_for(objective, n)
        mine, best = solve(one, params, portfolio(objective, one)), reference(one, params)

        assert excess(mine.weights, one, params) <= 1e-9
        if objective == "risk_parity" and kind in ("rank_one", "repeated") and mine.rung == "hold":
            continue  # singular: may not converge (docs/optimiser.md)
        assert mine.rung == "warm" or mine.status == "no_return", (seed, kind, mine)
        if best.status == "failed" or "inaccurate" in best.status:
            continue
        compared += 1
        assert (mine.status == "no_return") == (best.status == "no_return"), (seed, kind)
        assert gap(mine, best, one, params) <= GAP, (seed, kind, mine.objective, best.objective)
        if objective != "kelly":
            assert mine.weights.sum() == pytest.approx(best.weights.sum(), abs=1e-6), (seed, kind)
    assert compared >= 1


@settings(max_examples=60)
@given(st.data())
def test_limits_hold_for_any_input(data: st.DataObject) -> None:
    """I14, F63: degenerate covariance, absurd sizes, no turnover, weights beyond limits: inside every limit, or no solution."""
    objective = data.draw(st.sampled_from(OBJECTIVES))
    n = data.draw(st.sampled_from([1, 2, 5]))
    one = instance(n, data.draw(st.integers(0, 2**16)), kind=data.draw(st.sampled_from(KINDS)))
    size = data.draw(st.sampled_from([0.0, 1e-9, 1.0, 1e9, float("nan"), float("inf")]))
    with np.errstate(invalid="ignore", over="ignore"):
        one = msgspec.structs.replace(
            one,
            mean=one.mean * size,
            scenarios=one.scenarios * min(size, 1.0),
            w0=one.w0 * data.draw(st.sampled_from([0.0, 1.0, 2.5])),
            turnover_left=data.draw(st.sampled_from([0.0, 0.1, 2.0])),
        )
    params = params_for(objective, n)
    answer = portfolio(objective, one).solve(
        one.mean, one.F, one.D, w0=one.w0, caps=one.caps, frozen=one.frozen, turnover_left=one.turnover_left,
        scenarios=one.scenarios, group_caps=one.group_caps,
    )  # fmt: skip

    assert isinstance(answer, Solution) == bool(np.isfinite(size)), answer
    if isinstance(answer, Solution):
        assert excess(answer.weights, one, params) <= 1e-9


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_same_inputs_same_bits_whatever_came_before(objective: str) -> None:
    """The answer depends on the inputs alone, not on what was solved before, not even on a solve that failed."""
    one, other = instance(9, 1), instance(9, 2, kind="zero")
    fresh = Portfolio(9, params_for(objective, 9), one.groups)
    params = fresh.params
    first = solve(one, params, fresh).weights
    solve(other, params, fresh)
    np.testing.assert_array_equal(solve(one, params, fresh).weights, first)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_invested_as_far_as_the_limits_allow(objective: str) -> None:
    """All but Kelly and a ratio that nothing earns invest what budget, bounds, groups and turnover let them."""
    one = instance(12, 5, invested=0.2)
    params = params_for(objective, 12)
    answer = solve(one, params)
    reach = region_of(one, params).reachable()

    assert answer.weights.sum() <= reach + 1e-9
    if objective in ("min_variance", "max_sharpe", "min_cvar", "equal_weight"):
        assert answer.weights.sum() == pytest.approx(reach, abs=1e-6)


@pytest.mark.parametrize("objective", ["min_variance", "min_cvar", "kelly"])
def test_costs_keep_still(objective: str) -> None:
    """Trading at a prohibitive price is not done where nothing must be bought; at no price the weights move."""
    one = msgspec.structs.replace(instance(6, 3, limited=False), w0=np.full(6, 0.98 / 6))
    dear = solve(one, params_for(objective, 6, cost_bps=1_000.0, max_weight=0.5))
    free = solve(one, params_for(objective, 6, cost_bps=0.0, max_weight=0.5))

    np.testing.assert_array_equal(dear.weights, one.w0)
    assert free.turnover > 0.05


def test_the_other_objectives_agree_with_mean_variance_where_they_must() -> None:
    """Uncorrelated equal assets: minimum variance, parity, hierarchy and equal weight are all the same."""
    n = 6
    one = msgspec.structs.replace(instance(n, 1, limited=False), F=np.zeros((n, n)), D=np.full(n, 4e-4))
    for objective in ("min_variance", "risk_parity", "hrp", "equal_weight"):
        answer = solve(one, params_for(objective, n, cost_bps=0.0))
        np.testing.assert_allclose(answer.weights, 0.98 / n, atol=1e-7)


# ------------------------------------------------------------- refused


@pytest.mark.parametrize("objective", NEEDS_SCENARIOS)
@pytest.mark.parametrize(
    ("scenarios", "word"),
    [
        (None, "no scenarios"),
        (np.zeros((60, 3)), "shape"),
        (np.zeros((5, 4)), "at least 20"),
        (np.full((60, 4), np.nan), "not finite"),
    ],
)
def test_scenarios_are_needed_and_checked(objective: str, scenarios: Floats | None, word: str) -> None:
    """Without scenarios that can be used there is no tail and no growth: a typed refusal that says what is missing."""
    one = instance(4, 1, limited=False)
    answer = Portfolio(4, params_for(objective, 4)).solve(
        one.mean, one.F, one.D, w0=one.w0, caps=one.caps, frozen=one.frozen, turnover_left=1.0, scenarios=scenarios
    )
    assert isinstance(answer, NoSolution)
    assert word in answer.reason


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mean", np.zeros(3)),
        ("mean", np.full(4, np.nan)),
        ("F", np.zeros((3, 2))),
        ("F", np.full((4, 2), np.inf)),
        ("D", -np.ones(4)),
        ("w0", np.full(4, np.nan)),
        ("caps", np.full(4, np.nan)),
        ("turnover_left", float("nan")),
        ("group_caps", np.array([0.5])),
    ],
)
def test_impossible_inputs_have_no_solution(name: str, value: object) -> None:
    """Wrong shapes and numbers that are not finite are a typed refusal that names the input."""
    given = {
        "mean": np.zeros(4), "F": np.eye(4), "D": np.ones(4), "w0": np.full(4, 0.1), "caps": np.ones(4),
        "frozen": np.zeros(4, dtype=np.bool_), "turnover_left": 0.5, name: value,
    }  # fmt: skip
    answer = Portfolio(4, params_for("min_variance", 4)).solve(**given)  # type: ignore[arg-type]
    assert isinstance(answer, NoSolution)
    assert name in answer.reason


def test_unknown_objectives_and_fractions_are_refused() -> None:
    """Only what is implemented can be asked for, and a Kelly fraction is positive."""
    with pytest.raises(ValueError, match="magic"):
        Portfolio(2, OptimizerParams(objective="magic"))
    with pytest.raises(ValueError, match="must be positive"):
        Portfolio(2, OptimizerParams(objective="kelly", risk_tolerance=0.0))
    assert set(UNITS) < set(OBJECTIVES)


# ------------------------------------------------------------- the ladder


class Fails:
    """A solver that raises, lies or gives up."""

    def __init__(self, how: Exception | Answer) -> None:
        self.how = how

    def solve(self, case: Case) -> Answer:
        """Fail as told."""
        if isinstance(self.how, Exception):
            raise self.how
        return self.how


LIE = Answer(w=np.full(9, 0.9), status="solved", optimal=True)
NAN = Answer(w=np.full(9, np.nan), status="solved", optimal=True)
SHORT = Answer(w=np.zeros(3), status="solved", optimal=True)
INACCURATE = Answer(w=np.zeros(9), status="optimal_inaccurate", optimal=False)


@pytest.mark.parametrize("how", [ValueError("not psd"), np.linalg.LinAlgError("singular"), LIE, NAN, SHORT, INACCURATE])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_each_failure_costs_a_rung_and_no_limit(objective: str, how: Exception | Answer) -> None:
    """F62: whatever solvers do, the next rung answers, the last one holds, and the record says which failed and why."""
    one, params = instance(9, 4), params_for(objective, 9)
    broken = Portfolio(9, params, one.groups)
    whole = broken._steps
    for failing in {1, len(whole)}:
        broken._steps = tuple((step, Fails(how) if i < failing else rung) for i, (step, rung) in enumerate(whole))
        answer = solve(one, params, broken)

        assert answer.rung == ("hold" if failing == len(whole) else "second")
        assert len(answer.tried) == failing
        assert excess(answer.weights, one, params) <= 1e-9
        if answer.rung == "hold":
            np.testing.assert_array_equal(answer.weights, region_of(one, params).hold())


@pytest.mark.parametrize("objective", ["min_variance", "max_sharpe", "min_cvar", "equal_weight", "kelly"])
def test_the_relaxed_rung_names_what_it_left_out_and_keeps_it_all_the_same(objective: str) -> None:
    """F62: without turnover in the solver the projection still enforces it; the record names it."""
    one, params = instance(9, 4), params_for(objective, 9)
    broken = Portfolio(9, params, one.groups)
    broken._steps = broken._steps[2:]
    answer = solve(one, params, broken)

    assert answer.rung in ("relaxed", "hold")
    if answer.rung == "relaxed":
        assert "without turnover" in answer.tried[-1]
    assert excess(answer.weights, one, params) <= 1e-9


# ------------------------------------------------------------- prices


@pytest.mark.parametrize("objective", ["min_variance", "max_sharpe", "kelly", "min_cvar"])
def test_shadow_prices_are_what_loosening_brings(objective: str) -> None:
    """The price of each binding limit equals the slope of the optimum against it, in the units of the objective."""
    n, step = 8, 1e-4
    one = instance(n, 11, invested=0.5)
    one = msgspec.structs.replace(one, mean=one.mean + 0.02, scenarios=one.scenarios + 0.02, turnover_left=0.35)
    params = params_for(objective, n, max_weight=0.2, min_cash=0.2)
    mine = solve(one, params)
    priced = dict(mine.shadow)
    assert priced, mine

    def value(changed: Instance, limits: OptimizerParams) -> float:
        """The optimum in the units of the prices: for the ratio, return less the risk at the present price of risk."""
        w = solve(changed, limits).weights
        if objective != "max_sharpe":
            return value_of(w, case_for(changed, limits), limits)
        case, at = case_for(one, params), mine.weights
        aversion = -mine.objective / float(np.sqrt(at @ case.S @ at))
        costs = case.kappa * float(np.abs(w - one.w0).sum())
        return 0.5 * aversion * float(w @ case.S @ w) - float(one.mean @ w) + costs

    checked = 0
    for name, price in priced.items():
        limit, _, which = name.partition(":")
        if objective == "max_sharpe" and limit in ("budget", "turnover", "group"):
            continue  # they change how much is invested, which the ratio does not price
        if limit == "turnover":
            loose = [(msgspec.structs.replace(one, turnover_left=0.35 + h), params) for h in (-step, step)]
        elif limit == "budget":
            loose = [(one, msgspec.structs.replace(params, min_cash=0.2 - h)) for h in (-step, step)]
        elif limit == "group":
            at = one.groups.names.index(which)
            caps = [one.group_caps + h * (np.arange(2) == at) for h in (-step, step)]
            loose = [(msgspec.structs.replace(one, group_caps=c), params) for c in caps]
        elif limit == "max_weight":  # one asset's bound: its own cap a little lower
            at = int(which)
            lower = np.where(np.arange(n) == at, 0.2 - 2 * step, one.caps)
            loose = [(msgspec.structs.replace(one, caps=lower), params), (one, params)]
        else:
            continue
        below, above = (value(*each) for each in loose)
        assert price == pytest.approx((below - above) / (2 * step), rel=0.05, abs=2e-6), name
        checked += 1
    assert checked >= 1


def test_binding_groups_are_named() -> None:
    """A group at its limit is in the record by its name."""
    one = instance(9, 2)
    answer = solve(one, params_for("equal_weight", 9))
    sums = {name: answer.weights[one.groups.members(i)].sum() for i, name in enumerate(one.groups.names)}
    for i, name in enumerate(one.groups.names):
        assert (f"group:{name}" in answer.binding) == (sums[name] >= one.group_caps[i] - 1e-6)


def test_groups_by_name() -> None:
    """Equal names are one group, no name is none."""
    groups = groups_of(("a", "", "b", "a"))
    assert groups.names == ("a", "b")
    assert groups.of.tolist() == [0, -1, 1, 0]
    assert no_groups(2).of.tolist() == [-1, -1]


def test_terms_say_what_belongs_to_them() -> None:
    """Equal weight has no costs in it: a distance is no money; minimum variance has."""
    import cvxpy as cp

    one = instance(4, 1)
    case = case_for(one, params_for("min_variance", 4))
    assert minimum_variance(case, cp.Variable(4)).costs
    assert not equal_weight(case, cp.Variable(4)).costs


def test_steps_and_limits_are_plain_values() -> None:
    """What goes into the record can be compared."""
    assert Step("warm") == Step("warm", ())
    assert Limits(np.zeros(1), np.zeros(1), 1.0, 1.0).budget == 1.0
