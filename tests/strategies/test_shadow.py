"""Shadow prices: one-sided derivatives with a name and a sentence."""

import numpy as np
import pytest
from numpy.typing import NDArray

from strategies.limits import Limits
from strategies.shadow import Duals, Price, prices, upper_prices, words

Floats = NDArray[np.float64]
SYMBOLS = ("SOL/USDT", "BTC/USDT", "ETH/USDT", "XRP/USDT", "ADA/USDT")
W0 = np.array([0.10, 0.30, 0.20, 0.20, 0.05])
LIMITS = Limits(w0=W0, ub=np.array([0.30, 0.30, 0.20, 0.00, 0.08]), budget=0.9, turnover_left=0.5)
W = np.array([0.30, 0.30, 0.15, 0.00, 0.08])
GRADIENT = np.array([-0.05, -0.02, -0.01, -0.03, -0.04])


def found(**changes: object) -> dict[str, float]:
    """The prices by name, of weights at every kind of bound."""
    given = {"budget": 0.005, "turnover": 0.002, **changes}
    duals = Duals(gradient=GRADIENT, **given)  # type: ignore[arg-type]
    frozen = np.array([False, True, False, False, False])
    return {
        one.name: one.value
        for one in prices(duals, w=W, limits=LIMITS, kappa=0.001, max_weight=0.3, symbols=SYMBOLS, frozen=frozen)
    }


def test_each_bound_is_named_by_its_reason_and_priced_by_what_growing_brings() -> None:
    """Growing gains -gradient, costs kappa and the turnover when bought, saves kappa when less is sold, and uses the budget."""
    assert found() == pytest.approx(
        {
            "max_weight:SOL/USDT": 0.05 - 0.005 - 0.002 - 0.001,
            "frozen:BTC/USDT": 0.02 - 0.005 - 0.002 - 0.001,
            "stopped:XRP/USDT": 0.03 - 0.005 + 0.001,
            "cap:ADA/USDT": 0.04 - 0.005 - 0.002 - 0.001,
            "budget": 0.005,
            "turnover": 0.002,
        }
    )


def test_dearest_first_and_rounding_left_out() -> None:
    """The first price is the largest; what is below the solver's tolerance is none; an asset inside its bounds has none."""
    values = list(found().values())
    assert values == sorted(values, key=abs, reverse=True)
    assert "turnover" not in found(turnover=1e-12)
    upper = upper_prices(Duals(gradient=GRADIENT), w=W, limits=LIMITS, kappa=0.0)
    assert upper[2] == 0.0
    assert upper_prices(Duals(gradient=np.full(5, 0.1)), w=W, limits=LIMITS, kappa=0.0).tolist() == [0.0] * 5


def test_groups_have_prices_and_their_members_pay_them() -> None:
    """A group's limit is named; a bound within it is worth less by the group's price."""
    of = np.array([0, 0, 1, -1, -1], dtype=np.intp)
    duals = Duals(gradient=GRADIENT, groups=(0.01, 0.0))
    all_prices = prices(
        duals,
        w=W,
        limits=LIMITS,
        kappa=0.001,
        max_weight=0.3,
        symbols=SYMBOLS,
        group_of=of,
        group_names=("majors", "alts"),
    )
    by_name = {one.name: one.value for one in all_prices}

    assert by_name["group:majors"] == 0.01
    assert "group:alts" not in by_name
    assert by_name["max_weight:SOL/USDT"] == pytest.approx(0.05 - 0.001 - 0.01)
    assert by_name["cap:ADA/USDT"] == pytest.approx(0.04 - 0.001)


def test_words() -> None:
    """A sentence that a person reads: in bps per 1 % of equity, in units of return."""
    sol = Price("max_weight", "SOL/USDT", 0.031)
    assert words(sol) == "max_weight on SOL/USDT cost 3.1 bps of expected return per 1 % of equity"
    assert words(sol, risk_tolerance=0.25).startswith("max_weight on SOL/USDT cost 12.4 bps of expected return")
    assert words(Price("budget", "", -0.002), unit="growth") == "budget saved 0.2 bps of growth per 1 % of equity"
    with pytest.raises(ValueError, match="risk_tolerance is 0"):
        words(sol, risk_tolerance=0.0)
