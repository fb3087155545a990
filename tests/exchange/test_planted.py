"""The planted component has the strength that it states."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.exchange import bars
from daemon.exchange.config import SimConfig
from daemon.exchange.market import Market
from daemon.exchange.path import RandomSource
from daemon.exchange.planted import horizon_r2, solve_gain
from daemon.exchange.tape import Floats
from daemon.exchange.universe import symbol_specs


def returns_of(source: RandomSource, bar_s: int) -> Floats:
    """Log returns per bar, (bars, symbols)."""
    blocks = source.history_seconds // source.block_seconds
    path = np.concatenate([source.log_prices(k)[1:] for k in range(blocks)])
    closes: Floats = path[bar_s - 1 :: bar_s]
    return np.asarray(np.diff(closes, axis=0))


def forecast_r2(returns: Floats, gain: float, persistence: float, horizon: int) -> float:
    """Out-of-sample R2 of the formula's forecast from past returns alone, over all symbols."""
    state, forecasts = np.zeros(returns.shape[1]), np.zeros_like(returns)
    for t, row in enumerate(returns):
        state = (persistence - gain) * state + gain * row
        forecasts[t] = state
    total = np.cumsum(returns, axis=0)
    future = total[horizon:] - total[:-horizon]
    forecast = forecasts[:-horizon] * (1 - persistence**horizon) / (1 - persistence)
    return float(1 - ((future - forecast) ** 2).sum() / (future**2).sum())


@pytest.mark.parametrize(("bar_s", "horizon", "r2"), [(1, 24, 0.10), (1, 1, 0.05), (5, 24, 0.30)])
def test_the_generated_path_has_the_stated_r2(bar_s: int, horizon: int, r2: float) -> None:
    """The best linear forecast explains the stated share of variance."""
    config = SimConfig(
        seed=5, bar_s=bar_s, planted_r2=r2, planted_horizon_bars=horizon, history_bars=60_000, fine_seconds_max=10**6
    )
    source = RandomSource(config, symbol_specs(config))
    measured = forecast_r2(returns_of(source, bar_s), source.gain, config.planted_persistence, horizon)

    assert measured == pytest.approx(r2, rel=0.15)


def test_candles_show_the_planted_component_undiluted() -> None:
    """Measured on the closes that clients see, with spread and ticks, the strength is still the stated one."""
    config = SimConfig(seed=7, planted_r2=0.2, history_bars=20_000)
    made = Market(config, 1_800_000_000_000_000_000)
    closes = [made.klines(i, "1s", 10**6, start_ms=made.origin_ms)[:-1, bars.CLOSE] for i in range(8)]
    returns = np.diff(np.log(np.stack(closes, axis=1)), axis=0)
    gain = solve_gain(0.2, config.planted_persistence, config.planted_horizon_bars)

    assert forecast_r2(returns, gain, config.planted_persistence, 24) == pytest.approx(0.2, rel=0.15)


def test_without_a_planted_component_nothing_is_predictable() -> None:
    """Autocorrelation of returns vanishes, that of their squares does not."""
    config = SimConfig(seed=2, planted_r2=0.0, history_bars=60_000, fine_seconds_max=10**6)
    source = RandomSource(config, symbol_specs(config))
    r: Floats = returns_of(source, 1)
    first = [np.corrcoef(r[1:, i], r[:-1, i])[0, 1] for i in range(8)]
    squared: Floats = r**2
    squares = [np.corrcoef(squared[1:, i], squared[:-1, i])[0, 1] for i in range(8)]

    assert source.gain == 0
    assert np.abs(first).max() < 0.03
    assert np.min(squares) > 0.05
    assert np.asarray(np.corrcoef(r.T))[0, 1] == pytest.approx(config.correlation, abs=0.05)


@given(r2=st.floats(0.001, 0.5), horizon=st.integers(1, 48), persistence=st.floats(0.8, 0.98))
def test_the_gain_solves_the_formula(r2: float, horizon: int, persistence: float) -> None:
    """Solving and evaluating agree wherever the target can be reached."""
    if horizon_r2(persistence, persistence, horizon) < r2:
        with pytest.raises(ValueError, match="cannot be reached"):
            solve_gain(r2, persistence, horizon)
    else:
        assert horizon_r2(solve_gain(r2, persistence, horizon), persistence, horizon) == pytest.approx(r2)


def test_impossible_strengths_are_refused() -> None:
    """R2 of one, a persistence of one and an empty horizon are errors."""
    for r2, persistence, horizon in ((1.0, 0.9, 1), (0.1, 1.0, 1), (0.1, 0.9, 0)):
        with pytest.raises(ValueError, match="impossible"):
            solve_gain(r2, persistence, horizon)
