"""Proof that it learns: a planted signal is found and pays after costs; without one nothing is believed.

The numbers are those of a real training at full network size; see `tests.strategies.forecast_kit` for the planted formula.
"""

from math import sqrt

import numpy as np
import pytest
import torch
from numpy import float64
from numpy.typing import NDArray

from strategies.artifact import Hyper, load_forecaster
from strategies.forecaster import RawForecast
from strategies.skill import THRESHOLD, apply_skill, skill_score
from strategies.training.history import History
from strategies.training.registry import make_manifest, publish
from strategies.training.train import TrainResult, TrainSpec, train
from tests.strategies.forecast_kit import history_of, planted_r2, planted_returns

A, B, HORIZON = 0.9, 0.2, 8
N_ASSETS, N_BARS = 8, 3_500
VOLATILITY = 2e-3
COST = 10e-4


@pytest.fixture(scope="module")
def returns() -> tuple[NDArray[float64], NDArray[float64]]:
    """Planted log returns and their best expectation."""
    torch.set_num_threads(1)
    return planted_returns(11, n_assets=N_ASSETS, n_bars=N_BARS, a=A, b=B, volatility=VOLATILITY)


@pytest.fixture(scope="module")
def learnt(returns: tuple[NDArray[float64], NDArray[float64]]) -> TrainResult:
    """The reference LSTM with its default hyper-parameters."""
    return train(history_of(returns[0]), TrainSpec(horizon_bars=HORIZON, seconds_max=60))


def test_the_formula_of_the_planted_signal() -> None:
    """On a long sample the best forecast reaches the stated R²."""
    log_returns, expected = planted_returns(1, n_assets=20, n_bars=20_000, a=A, b=B, volatility=VOLATILITY)
    sums = np.cumsum(log_returns, axis=1)
    realised = sums[:, HORIZON:] - sums[:, :-HORIZON]
    best = expected[:, :-HORIZON] * (1 - A**HORIZON) / (1 - A)

    assert planted_r2(A, B, HORIZON) == pytest.approx(0.247, abs=0.001)
    assert skill_score(realised, best) == pytest.approx(planted_r2(A, B, HORIZON), abs=0.01)


def test_it_finds_the_planted_signal(learnt: TrainResult, returns: tuple[NDArray[float64], NDArray[float64]]) -> None:
    """Out of sample it reaches at least 70 % of the planted R², of the stated one and of the best possible there."""
    best = returns[1][:, learnt.held_ends] * (1 - A**HORIZON) / (1 - A)
    possible = skill_score(learnt.held_realised, best)
    found = skill_score(learnt.held_realised, learnt.held_mean)
    print(f"planted {planted_r2(A, B, HORIZON):.3f}, possible here {possible:.3f}, found {found:.3f}, {learnt.metrics}")

    assert found >= 0.7 * planted_r2(A, B, HORIZON)
    assert found >= 0.7 * possible
    assert learnt.earned.pooled >= 0.7 * planted_r2(A, B, HORIZON)
    assert min(learnt.earned.assets.values()) > 0.05
    assert learnt.earned.statistic > THRESHOLD
    assert 0.8 <= learnt.earned.shrink <= 1.0


def trading_gain(learnt: TrainResult, mean: NDArray[float64]) -> float:
    """Mean log growth per horizon and asset of a position that follows ``mean``, 10 bps charged on what is traded.

    The position is held for the horizon, so only every eighth held-out bar decides: one path, nothing counted twice.
    """
    realised = learnt.held_realised[:, ::HORIZON]
    position = np.tanh(mean[:, ::HORIZON] / (VOLATILITY * sqrt(HORIZON)))
    traded = np.abs(np.diff(position, axis=1, prepend=0.0))
    return float(np.mean(np.log1p(position * realised - COST * traded)))


def test_trading_on_it_gains_after_costs(learnt: TrainResult) -> None:
    """Following the shrunk mean gains after costs; the same rule on the forecasts of other assets loses."""
    mean = learnt.earned.shrink * learnt.held_mean
    mistaken = [trading_gain(learnt, np.roll(mean, shift, axis=0)) for shift in range(1, N_ASSETS)]

    assert trading_gain(learnt, mean) > 1e-3
    assert float(np.mean(mistaken)) < 0


def test_the_conformal_interval_covers(learnt: TrainResult) -> None:
    """The stored quantiles are ordered, and near those of the normal distribution that the shocks have."""
    quantiles = [learnt.earned.conformal[level] for level in ("0.5", "0.8", "0.9", "0.95")]

    assert quantiles == sorted(quantiles)
    assert learnt.earned.conformal["0.9"] == pytest.approx(1.645, abs=0.3)


def test_the_same_bars_in_another_order_teach_nothing(
    returns: tuple[NDArray[float64], NDArray[float64]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """On shuffled returns the shrink factor is exactly 0 and so is every mean that the optimiser would see."""
    for seed in range(3):
        shuffled = np.random.default_rng(seed).permuted(returns[0][:4, :1500], axis=1)
        history = history_of(shuffled)
        spec = TrainSpec(horizon_bars=HORIZON, seconds_max=60, seed=seed, hyper=Hyper(epochs_max=8))
        result = train(history, spec)

        assert result.earned.shrink == 0.0
        assert _seen_means(result, history, spec, tmp_path_factory) == (0.0,) * 4


def _seen_means(
    result: TrainResult, history: History, spec: TrainSpec, folders: pytest.TempPathFactory
) -> tuple[float, ...]:
    """The means after shrinkage, by way of the registry, as the worker gets them."""
    models = folders.mktemp("models")
    publish(models, result.net, make_manifest(result, history, spec, created_ns=1))
    forecaster = load_forecaster("lstm", models, HORIZON)
    raw: RawForecast = forecaster.predict(history.bars)
    return apply_skill(raw, forecaster, symbols=history.symbols, shrink="skill", age_ok=True).mean
