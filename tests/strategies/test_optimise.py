"""The optimiser: right against independent solvers, inside the limits whatever happens."""

from typing import cast

import cvxpy as cp
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize

from strategies.limits import Limits, hold, limits_of, project, violation
from strategies.optimise import Definition, NoSolution, Optimiser, Solution, objective_of
from strategies.params import OptimizerParams
from strategies.qp import FixedQP, Problem, Raw

Floats = NDArray[np.float64]
FREE = OptimizerParams(
    cost_bps=0.0, min_cash=0.0, max_weight=0.3, fully_invested=True, turnover_max=10.0, risk_tolerance=0.5
)
COMPILED: dict[tuple[int, OptimizerParams, int], Optimiser] = {}


def optimiser(n: int, params: OptimizerParams | None = None, k: int | None = None) -> Optimiser:
    """Compile once per size and parameters, as the daemon does."""
    params = params or OptimizerParams()
    key = (n, params, n if k is None else k)
    if key not in COMPILED:
        COMPILED[key] = Optimiser(n, params, k)
    return COMPILED[key]


class Case(msgspec.Struct, frozen=True):
    """One random instance."""

    mean: Floats
    F: Floats
    D: Floats
    w0: Floats

    @property
    def covariance(self) -> Floats:
        """The covariance."""
        return np.asarray(self.F @ self.F.T + np.diag(self.D), dtype=np.float64)


def case(n: int, k: int, seed: int, invested: float = 0.7) -> Case:
    """Horizon returns of a few percent, correlated; weights that sum to `invested`."""
    rng = np.random.default_rng(seed)
    return Case(
        mean=rng.normal(0.005, 0.02, n),
        F=rng.normal(0, 0.03 / np.sqrt(k), (n, k)),
        D=rng.uniform(1e-4, 6e-4, n),
        w0=rng.dirichlet(np.ones(n)) * invested,
    )


def solve(
    case: Case,
    params: OptimizerParams | None = None,
    *,
    caps: Floats | None = None,
    frozen: tuple[int, ...] = (),
    turnover_left: float = 10.0,
) -> Solution:
    """Solve a case that has a solution."""
    n = case.w0.size
    held = np.zeros(n, dtype=np.bool_)
    held[list(frozen)] = True
    answer = optimiser(n, params, case.F.shape[1]).solve(
        case.mean, case.F, case.D,
        w0=case.w0, caps=np.full(n, 1.0) if caps is None else caps, frozen=held, turnover_left=turnover_left,
    )  # fmt: skip
    assert isinstance(answer, Solution), answer
    return answer


def gradient(case: Case, w: Floats, tolerance: float) -> Floats:
    """Gradient of the smooth part of the objective."""
    return np.asarray(case.covariance @ w - tolerance * case.mean, dtype=np.float64)


def converged_slsqp(S: Floats, gmu: Floats) -> Floats:
    """Minimise 1/2 w'Sw - gmu'w over sum 1 and 0..0.3 with SciPy; its line search fails now and then, so scales are tried."""
    n = gmu.size
    for scale in (1e3, 1e2, 1.0):
        found = minimize(
            lambda w, scale=scale: scale * (0.5 * w @ S @ w - gmu @ w),
            np.full(n, 1 / n),
            jac=lambda w, scale=scale: scale * (S @ w - gmu),
            method="SLSQP",
            bounds=[(0.0, 0.3)] * n,
            constraints=[{"type": "eq", "fun": lambda w: w.sum() - 1.0, "jac": np.ones_like}],
            options={"ftol": 1e-12, "maxiter": 2_000},
        )
        if found.success:
            return np.asarray(found.x, dtype=np.float64)
    pytest.fail("SLSQP did not converge at any scale")


# ------------------------------------------------------------- right


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("n", [4, 10, 25])
def test_cost_free_case_agrees_with_converged_slsqp(n: int, seed: int) -> None:
    """Min 1/2 w'Sw - g mu'w with sum 1 and caps of 0.3: objective within 1e-6 of SLSQP at ftol 1e-12, weights within 1e-4."""
    one = case(n, n, seed, invested=0.0)
    S, g, mu = one.covariance, FREE.risk_tolerance, one.mean

    def objective(w: Floats) -> float:
        return float(0.5 * w @ S @ w - g * mu @ w)

    reference = converged_slsqp(S, g * mu)
    mine = solve(one, FREE)

    assert mine.weights.sum() == pytest.approx(1.0, abs=1e-6)
    assert objective(mine.weights) == pytest.approx(objective(reference), abs=1e-6)
    assert objective(mine.weights) <= objective(reference) + 1e-8
    np.testing.assert_allclose(mine.weights, reference, atol=1e-4)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("n", "k"), [(4, 4), (10, 10), (30, 5), (60, 60), (100, 8)])
def test_hot_path_equals_the_definition(n: int, k: int, full: bool) -> None:
    """PIQP on the fixed pattern and cvxpy on the definition reach the same objective and budget dual."""
    params = OptimizerParams(fully_invested=full)
    direct, definition = FixedQP(n, k, fully_invested=full), Definition(n, k, fully_invested=full)
    for seed in range(6):
        one = case(n, k, seed)
        limits = limits_of(
            params, w0=one.w0, caps=np.full(n, 0.2), frozen=np.arange(n) % 3 == 0, turnover_left=0.1 + 0.1 * seed
        )
        problem, _ = optimiser(n, params, k)._scaled(one.mean, one.F, one.D, limits)
        fast, reference = direct.solve(problem), definition.solve(problem)

        assert fast.optimal
        assert reference.optimal
        shortfall = 10.0 * (reference.w.sum() - fast.w.sum()) if full else 0.0
        assert objective_of(fast.w, problem) + shortfall == pytest.approx(objective_of(reference.w, problem), abs=1e-6)
        assert violation(fast.w, limits) <= 1e-8
        assert violation(reference.w, limits) <= 1e-8
        assert fast.duals == pytest.approx(reference.duals, abs=1e-4)


def test_unknown_objective_is_refused() -> None:
    """Only what is implemented can be asked for."""
    with pytest.raises(ValueError, match="max_sharpe"):
        Optimiser(2, OptimizerParams(objective="max_sharpe"))


def test_definition_is_dpp() -> None:
    """The problem is compiled once: disciplined and parametrised."""
    assert Definition(5, 3, fully_invested=True).problem.is_dcp(dpp=True)


@given(st.integers(0, 2**32 - 1))
def test_interior_weights_satisfy_first_order_conditions(seed: int) -> None:
    """Without binding budget or turnover: gradient = -kappa where bought, +kappa where sold, between where untouched."""
    one, params = case(6, 6, seed, invested=0.5), OptimizerParams(risk_tolerance=0.02)
    mine = solve(one, params)
    g = gradient(one, mine.weights, params.risk_tolerance)
    kappa, slack = params.cost_bps * 1e-4, 1e-6
    if {"budget", "turnover"} & set(mine.binding):
        return
    for i, w in enumerate(mine.weights):
        at_cap, at_zero = w >= 0.3 - 1e-6, w <= 1e-6
        if abs(w - one.w0[i]) <= 1e-9:
            assert -kappa - slack <= g[i] or at_cap or one.w0[i] > 0.3
            assert g[i] <= kappa + slack or at_zero
        elif w > one.w0[i]:
            assert g[i] == pytest.approx(-kappa, abs=slack) or (at_cap and g[i] < -kappa)
        else:
            assert g[i] == pytest.approx(kappa, abs=slack) or (at_zero and g[i] > kappa)


def test_without_expected_return_costs_keep_still() -> None:
    """Mean zero and risk smaller than costs: every weight stays to the last bit, and nothing is bought from cash."""
    one = case(5, 5, 1, invested=0.6)
    calm = msgspec.structs.replace(one, mean=np.zeros(5), F=one.F / 10, D=one.D / 100, w0=np.full(5, 0.12))
    np.testing.assert_array_equal(solve(calm).weights, calm.w0)
    idle = msgspec.structs.replace(one, mean=np.zeros(5), w0=np.zeros(5))
    np.testing.assert_array_equal(solve(idle).weights, np.zeros(5))


def test_shadow_price_is_what_more_budget_would_bring() -> None:
    """The budget's price equals the slope of the optimum against the budget."""
    one = case(8, 8, 2, invested=0.0)
    eager = msgspec.structs.replace(one, mean=np.abs(one.mean) + 0.05)
    params = OptimizerParams(turnover_max=10.0, risk_tolerance=1.0, min_cash=0.30)
    step = 1e-4
    low, high = (
        solve(eager, msgspec.structs.replace(params, min_cash=params.min_cash + change)).objective
        for change in (step, -step)
    )
    prices = dict(solve(eager, params).shadow)

    assert prices["budget"] == pytest.approx((low - high) / (2 * step), rel=1e-3)


def test_same_inputs_same_bits_whatever_came_before() -> None:
    """The answer depends on the inputs alone, not on the instances solved before."""
    first, other = case(10, 10, 5), case(10, 10, 6)
    fresh = Optimiser(10, OptimizerParams())
    args = {"caps": np.full(10, 0.3), "frozen": np.zeros(10, dtype=np.bool_), "turnover_left": 0.5}

    def weights(one: Case) -> Floats:
        answer = fresh.solve(one.mean, one.F, one.D, w0=one.w0, **args)  # type: ignore[arg-type]
        assert isinstance(answer, Solution)
        return answer.weights

    before = weights(first)
    weights(other)
    np.testing.assert_array_equal(weights(first), before)


# ------------------------------------------------------------- limits


def test_full_investment_is_reached_over_several_decisions() -> None:
    """Turnover goes first: each decision buys what is left of it until the budget is full."""
    params = OptimizerParams(fully_invested=True, turnover_max=0.3, max_weight=0.3)
    one = case(6, 6, 3, invested=0.0)
    sums = []
    for _ in range(4):
        answer = solve(one, params)
        assert np.maximum(answer.weights - one.w0, 0).sum() <= 0.3 + 1e-9
        one = msgspec.structs.replace(one, w0=answer.weights)
        sums.append(float(answer.weights.sum()))

    assert sums[0] == pytest.approx(0.3, abs=1e-6)
    assert sums[-1] == pytest.approx(0.98, abs=1e-6)


def test_turnover_never_limits_a_reduction() -> None:
    """With no turnover left, bad assets are still sold and nothing is bought."""
    one = case(4, 4, 4, invested=0.9)
    gloomy = msgspec.structs.replace(one, mean=np.array([-0.5, -0.5, 0.5, 0.5]), w0=np.array([0.3, 0.3, 0.1, 0.1]))
    answer = solve(gloomy, turnover_left=0.0)

    np.testing.assert_allclose(answer.weights, [0.0, 0.0, 0.1, 0.1], atol=1e-9)
    assert answer.turnover == pytest.approx(0.6)


def test_frozen_and_drifted_assets_never_grow_and_stopped_ones_go() -> None:
    """Frozen: at most w0. Above the cap: at most w0, may stay. Cap 0: target 0."""
    one = case(4, 4, 4)
    eager = msgspec.structs.replace(one, mean=np.full(4, 0.2), w0=np.array([0.1, 0.4, 0.2, 0.05]))
    answer = solve(eager, caps=np.array([0.3, 0.3, 0.0, 0.3]), frozen=(0,))

    assert answer.weights[0] <= 0.1
    assert answer.weights[1] <= 0.4
    assert answer.weights[2] == 0.0
    assert answer.weights[3] == pytest.approx(0.3, abs=1e-6)
    assert {"held:0", "held:1", "cap:2", "cap:3"} <= set(answer.binding)


MAGNITUDES = st.sampled_from([0.0, 1e-12, 1e-6, 1e-3, 1.0, 1e6, 1e12, np.nan, np.inf, -1.0])


@settings(max_examples=150)
@given(st.data())
def test_limits_hold_for_any_input(data: st.DataObject) -> None:
    """Random, rank one, zero, NaN, 1e±12: a solution is inside every hard limit to 1e-9, or there is none."""
    n = data.draw(st.sampled_from([1, 2, 5]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    kind = data.draw(st.sampled_from(["full", "rank_one", "zero"]))
    F = {
        "full": rng.normal(size=(n, n)),
        "rank_one": np.outer(rng.normal(size=n), np.eye(n)[0]),
        "zero": np.zeros((n, n)),
    }[kind]
    size, tilt, noise = data.draw(MAGNITUDES), data.draw(MAGNITUDES), data.draw(MAGNITUDES)
    w0 = rng.dirichlet(np.ones(n)) * data.draw(st.floats(0, 1.4))
    caps = rng.uniform(0, 0.5, n) * rng.integers(0, 2, n)
    frozen = rng.integers(0, 2, n).astype(np.bool_)
    left = data.draw(st.floats(0, 2))
    params = OptimizerParams(fully_invested=data.draw(st.booleans()))
    with np.errstate(invalid="ignore"):
        mean, F, D = rng.normal(size=n) * tilt, F * size, np.full(n, 1.0) * noise
    answer = optimiser(n, params).solve(mean, F, D, w0=w0, caps=caps, frozen=frozen, turnover_left=left)
    finite = all(np.isfinite(one).all() for one in (mean, F, D)) and noise >= 0

    assert isinstance(answer, Solution) == finite, answer
    if isinstance(answer, Solution):
        limits = limits_of(params, w0=w0, caps=caps, frozen=frozen, turnover_left=left)
        assert violation(answer.weights, limits) <= 1e-9
        assert np.maximum(answer.weights - w0, 0).sum() <= limits.turnover_left + 1e-9
        assert (answer.weights[frozen] <= w0[frozen]).all()
        assert (answer.weights[w0 > caps] <= w0[w0 > caps]).all()
        assert (answer.weights[caps == 0] == 0.0).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_projection_is_feasible_and_leaves_the_feasible_alone(seed: int, n: int) -> None:
    """Any finite weights come out inside every limit; doing it twice changes nothing."""
    rng = np.random.default_rng(seed)
    limits = limits_of(
        OptimizerParams(),
        w0=rng.uniform(0, 0.5, n),
        caps=rng.uniform(0, 0.5, n),
        frozen=rng.integers(0, 2, n).astype(np.bool_),
        turnover_left=float(rng.uniform(0, 1)),
    )
    w = project(rng.normal(0, 1, n), limits)

    assert violation(w, limits) <= 1e-12
    assert np.maximum(w - limits.w0, 0).sum() <= limits.turnover_left + 1e-12
    np.testing.assert_allclose(project(w, limits), w, atol=1e-12)
    assert violation(hold(limits), limits) <= 1e-12


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mean", np.array([np.nan, 0, 0])),
        ("mean", np.zeros(2)),
        ("F", np.zeros((3, 4))),
        ("F", np.full((3, 3), np.inf)),
        ("D", -np.ones(3)),
        ("w0", np.array([0.1, np.nan, 0.1])),
        ("caps", np.array([0.1, np.nan, 0.1])),
        ("turnover_left", float("nan")),
    ],
)
def test_impossible_inputs_have_no_solution(name: str, value: object) -> None:
    """Wrong shapes and numbers that are not finite are a typed refusal that names the input."""
    given = {
        "mean": np.zeros(3), "F": np.eye(3), "D": np.ones(3), "w0": np.full(3, 0.1), "caps": np.ones(3),
        "frozen": np.zeros(3, dtype=np.bool_), "turnover_left": 0.5, name: value,
    }  # fmt: skip
    answer = optimiser(3).solve(**given)  # type: ignore[arg-type]
    assert isinstance(answer, NoSolution)
    assert name in answer.reason


# ------------------------------------------------------------- the ladder


class Fails:
    """A solver that raises, lies or gives up."""

    def __init__(self, how: Exception | Raw) -> None:
        self.how = how

    def solve(self, problem: Problem) -> Raw:
        """Fail as told."""
        if isinstance(self.how, Exception):
            raise self.how
        return self.how


LIE = Raw(w=np.array([0.9, 0.9, 0.9, 0.9]), status="solved", optimal=True, duals=(0.0, 0.0))
NAN = Raw(w=np.full(4, np.nan), status="solved", optimal=True, duals=(0.0, 0.0))
INACCURATE = Raw(w=np.zeros(4), status="optimal_inaccurate", optimal=False, duals=(0.0, 0.0))
FAULTS = [cp.error.DCPError("not psd"), cp.SolverError("died"), ValueError("asymmetric"), LIE, NAN, INACCURATE]


def with_failures(count: int, how: Exception | Raw) -> Optimiser:
    """An optimiser whose first `count` rungs fail."""
    broken = Optimiser(4, OptimizerParams())
    broken._rungs = tuple((name, Fails(how) if i < count else rung) for i, (name, rung) in enumerate(broken._rungs))
    return broken


@pytest.mark.parametrize(
    "how", FAULTS, ids=lambda how: type(how).__name__ if isinstance(how, Exception) else how.status
)
@pytest.mark.parametrize(("count", "rung"), [(1, "second"), (2, "relaxed"), (3, "hold")])
def test_each_failure_costs_a_rung_and_no_limit(how: Exception | Raw, count: int, rung: str) -> None:
    """Raising, lying, NaN and inaccurate solvers are passed over; the answer says which rung gave it and why."""
    one = case(4, 4, 7)
    w0 = np.array([0.5, 0.0, 0.1, 0.6])
    answer = with_failures(count, how).solve(
        one.mean, one.F, one.D,
        w0=w0, caps=np.full(4, 0.3), frozen=np.zeros(4, dtype=np.bool_), turnover_left=0.2,
    )  # fmt: skip
    limits = limits_of(
        OptimizerParams(), w0=w0, caps=np.full(4, 0.3), frozen=np.zeros(4, dtype=np.bool_), turnover_left=0.2
    )
    assert isinstance(answer, Solution)

    assert answer.rung == rung
    assert len(answer.tried) == count
    assert violation(answer.weights, limits) <= 1e-9
    assert np.maximum(answer.weights - w0, 0).sum() <= 0.2 + 1e-9
    if rung == "hold":
        np.testing.assert_allclose(answer.weights, w0 * 0.98 / w0.sum())


def test_second_solver_agrees_with_the_first() -> None:
    """Falling down one rung changes the solver, not the decision."""
    one = case(4, 4, 8)
    args = {"w0": one.w0, "caps": np.full(4, 0.3), "frozen": np.zeros(4, dtype=np.bool_), "turnover_left": 0.3}
    first, second = (
        cast("Solution", with_failures(count, ValueError()).solve(one.mean, one.F, one.D, **args))  # type: ignore[arg-type]
        for count in (0, 1)
    )

    assert (first.rung, second.rung) == ("warm", "second")
    np.testing.assert_allclose(first.weights, second.weights, atol=1e-6)
    assert first.binding == second.binding


def test_limits_without_assets() -> None:
    """An empty universe violates nothing."""
    nothing = np.zeros(0)
    assert violation(nothing, Limits(w0=nothing, ub=nothing, budget=1.0, turnover_left=0.0)) == 0.0
