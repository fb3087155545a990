"""Risk parity: equal contributions, bounds that bind, and two solvers and a definition that agree."""

import cvxpy as cp
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.ladder import Answer
from strategies.objectives.risk_parity import (
    RiskParity,
    ccd_minimum,
    conditioned,
    contributions,
    newton_minimum,
)
from tests.strategies.objectives.kit import KINDS, Floats, case_for, instance, params_for, solve

DEFINITE = tuple(kind for kind in KINDS if kind not in ("rank_one", "repeated"))
"""Singular ones may not converge (docs/optimiser.md): that their answer keeps every limit is tested with the ladder."""


def covariance(n: int, seed: int) -> Floats:
    """A full-rank covariance of horizon returns, correlations of both signs."""
    one = instance(n, seed, limited=False)
    return np.asarray(one.F @ one.F.T + np.diag(one.D), dtype=np.float64)


@pytest.mark.parametrize("n", [1, 2, 12, 60])
def test_every_asset_contributes_the_same_risk(n: int) -> None:
    """Without binding bounds each of n assets brings 1/n of the variance, to 1e-9, and the budget is met."""
    one = instance(n, 3, limited=False)
    params = params_for("risk_parity", n, max_weight=1.0)
    answer = solve(one, params)
    S = covariance(n, 3)

    np.testing.assert_allclose(contributions(answer.weights, S), 1.0 / n, atol=1e-9)
    assert answer.weights.sum() == pytest.approx(0.98, abs=1e-9)


def test_two_assets_are_weighted_by_inverse_volatility() -> None:
    """For two assets the weights are inverse to the deviations, whatever the correlation (Maillard, Roncalli, Teïletche 2010)."""
    deviations = np.array([0.02, 0.05])
    for correlation in (-0.9, 0.0, 0.7):
        S = np.outer(deviations, deviations) * np.array([[1.0, correlation], [correlation, 1.0]])
        one = msgspec.structs.replace(instance(2, 1, limited=False), F=np.linalg.cholesky(S), D=np.zeros(2))
        w = solve(one, params_for("risk_parity", 2, max_weight=1.0)).weights
        assert w[0] / w[1] == pytest.approx(2.5, rel=1e-8)


@settings(max_examples=30)
@given(st.integers(0, 2**16), st.sampled_from([2, 5, 11]), st.sampled_from(DEFINITE))
def test_at_a_bound_an_asset_contributes_less_and_the_others_the_same(seed: int, n: int, kind: str) -> None:
    """Richard and Roncalli (2019): free assets share one contribution, those at their bound are below it."""
    one = msgspec.structs.replace(instance(n, seed, kind=kind, limited=False), caps=np.full(n, 1.4 / n))
    params = params_for("risk_parity", n, max_weight=1.0)
    case = case_for(one, params)
    answer = RiskParity(newton_minimum).solve(case)
    S, ub = conditioned(case.S), case.region.limits.ub
    parts = answer.w * (S @ answer.w)
    free = answer.w < ub * (1 - 1e-9)

    assert answer.optimal
    assert (answer.w <= ub + 1e-12).all()
    assert answer.w.sum() == pytest.approx(min(0.98, ub.sum()), abs=1e-9)
    if free.any():
        np.testing.assert_allclose(parts[free], parts[free].max(), rtol=1e-5)
        assert (parts[~free] <= parts[free].max() * (1 + 1e-5)).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [2, 15, 40])
def test_inner_minimum_agrees_with_cvxpy(n: int, seed: int) -> None:
    """Newton and coordinate descent reach the minimum of 1/2 w'Sw - lambda sum log w under bounds as Clarabel finds it."""
    S, rng = covariance(n, seed), np.random.default_rng(seed)
    power, ub = float(np.trace(S)) / n**3, rng.uniform(0.5, 2.0, n) / n
    x = cp.Variable(n)
    risk = cp.sum_squares((np.linalg.cholesky(S) / np.sqrt(power)).T @ x)
    problem = cp.Problem(cp.Minimize(0.5 * risk - cp.sum(cp.log(x))), [x <= ub])
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
    assert problem.status == cp.OPTIMAL
    for minimum in (newton_minimum, ccd_minimum):
        w = minimum(S, power, ub, np.full(n, 0.5 / n))
        assert w is not None
        mine = 0.5 * float(w @ S @ w) / power - float(np.log(w).sum())
        assert (w <= ub).all()
        assert mine <= problem.value + 1e-6 * abs(problem.value)
        np.testing.assert_allclose(w, x.value, rtol=1e-3)


def test_nothing_to_hold_and_nothing_that_moves() -> None:
    """No asset may be held: no weights. No asset moves: equal weights. One never moved: it gets what its bound allows."""
    one = instance(4, 1, limited=False)
    params = params_for("risk_parity", 4, max_weight=0.4)
    none = msgspec.structs.replace(one, caps=np.zeros(4))
    still = msgspec.structs.replace(one, F=np.zeros((4, 4)), D=np.zeros(4))
    lazy = msgspec.structs.replace(one, F=np.zeros((4, 4)), D=np.array([0.0, 1e-4, 1e-4, 1e-4]), w0=np.zeros(4))

    np.testing.assert_array_equal(solve(none, params).weights, np.zeros(4))
    np.testing.assert_allclose(solve(still, params).weights, 0.245, atol=1e-9)
    np.testing.assert_allclose(solve(lazy, params).weights, [0.4, *[0.58 / 3] * 3], atol=1e-9)


def gives_up(S: Floats, power: float, ub: Floats, start: Floats) -> Floats | None:
    """A search without convergence."""
    return None


def test_a_minimum_that_does_not_converge_is_no_answer() -> None:
    """The ladder hears of a failed search."""
    answer = RiskParity(gives_up).solve(case_for(instance(5, 1), params_for("risk_parity", 5, max_weight=1.0)))
    assert answer == Answer(w=answer.w, status="no_convergence", optimal=False)
    assert contributions(np.zeros(3), np.eye(3)).tolist() == [0.0, 0.0, 0.0]
