"""The reference strategy with every objective that can be configured: decides within its limits, from the view alone."""

from typing import get_args

import msgspec
import numpy as np
import pytest

from daemon.domain.signal import NoDecision, Targets, View
from daemon.settings_checks import contradictions
from daemon.settings_schema import Optimizer, Settings
from strategies.forecast_optimise import ForecastOptimise
from strategies.objectives.portfolio import OBJECTIVES
from strategies.params import ForecastParams, Objective, OptimizerParams, StrategySetup

SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT", "XRP/USDT", "ADA/USDT")
BAR_NS = 3_600 * 10**9


def view(bars: int = 400, **changes: object) -> View:
    """A market with a drift, an empty portfolio."""
    rng = np.random.default_rng(3)
    steps = rng.normal(0.0003, 0.004, (5, bars)) + rng.normal(0, 0.003, bars)
    closes = 100 * np.exp(np.cumsum(steps, axis=1))
    base = View(
        seq=1, ts_ns=1_700_000_000 * 10**9, bar_ns=BAR_NS, symbols=SYMBOLS,
        bars=np.stack([closes, closes, closes, closes, np.ones_like(closes)], axis=2),
        weights=(0.1, 0.0, 0.2, 0.0, 0.05), frozen=(False, False, False, True, False), caps=(0.3, 0.3, 0.3, 0.3, 0.0),
        equity=1e5, cash_weight=0.65, turnover_left=0.6,
    )  # fmt: skip
    return msgspec.structs.replace(base, **changes)


def strategy(objective: str) -> ForecastOptimise:
    """Set up with the moving-average forecaster, unshrunk so that there are means."""
    made = ForecastOptimise()
    setup = StrategySetup(
        forecast=ForecastParams(model="ewma", shrink="none"),
        optimizer=OptimizerParams(objective=objective, turnover_max=0.6),
        symbols=SYMBOLS,
        bar_ns=BAR_NS,
    )
    assert made.setup(setup, int).model
    return made


def test_what_can_be_configured_is_what_exists() -> None:
    """The settings offer mean-variance and every objective of the folder, nothing else; Kelly needs a fraction."""
    assert get_args(Objective) == ("mean_variance", *OBJECTIVES)
    assert Settings().optimizer.objective == "mean_variance"
    chosen = Settings(optimizer=Optimizer(objective="kelly", risk_tolerance=0.0))
    assert any("risk_tolerance = 0" in line for line in contradictions(chosen))
    assert not contradictions(Settings(optimizer=Optimizer(objective="kelly")))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_decides_within_its_limits_and_repeatably(objective: str) -> None:
    """Caps, budget, turnover, the frozen and the stopped asset hold; asked again, also by a new strategy, it says the same."""
    one = strategy(objective)
    answer = one.decide(view(), {})
    assert isinstance(answer, Targets), answer
    w, w0 = np.array(answer.weights), np.array(view().weights)

    assert (w >= 0.0).all()
    assert (w <= 0.3 + 1e-9).all()
    assert w[3] == 0.0
    assert w[4] == 0.0
    assert w.sum() <= 0.98 + 1e-9
    assert np.maximum(w - w0, 0.0).sum() <= 0.6 + 1e-9
    assert (answer.rung, answer.status) in {("warm", "solved"), ("hold", "no_return")}
    one.decide(view(bars=300), {})
    assert one.decide(view(), {}) == strategy(objective).decide(view(), {}) == answer


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_asset_with_broken_bars_is_not_bought(objective: str) -> None:
    """NaN in one asset's last bars freezes it; the others are decided on."""
    broken = view()
    broken.bars[1, -1, :] = np.nan
    answer = strategy(objective).decide(broken, {})
    assert isinstance(answer, Targets), answer
    assert answer.weights[1] == 0.0


@pytest.mark.parametrize("objective", ["kelly", "min_cvar"])
def test_too_few_windows_for_scenarios_is_warming_up(objective: str) -> None:
    """Bars for the forecast but not for thirty windows of the horizon: no decision yet, with the reason."""
    made = ForecastOptimise()
    setup = StrategySetup(
        forecast=ForecastParams(model="ewma", shrink="none", horizon_bars=200),
        optimizer=OptimizerParams(objective=objective),
        symbols=SYMBOLS,
        bar_ns=BAR_NS,
    )
    made.setup(setup, int)
    answer = made.decide(view(bars=220), {})
    assert isinstance(answer, NoDecision)
    assert "windows" in answer.detail
