"""The reference strategy: believes what was earned, freezes what is broken, scales to the tail limit, reads no clock."""

from pathlib import Path
from typing import Self

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from daemon.domain.signal import NoDecision, NoReason, Targets, View
from strategies.artifact import BadArtifact
from strategies.cvar import historical_cvar
from strategies.forecast_optimise import UNKNOWN_SCALE, ForecastOptimise
from strategies.forecaster import RawForecast
from strategies.params import NS_PER_DAY, ForecastParams, NeedsSetup, OptimizerParams, StrategySetup
from strategies.qp import FixedQP, Problem, Raw
from strategies.skill import Earned

Floats = NDArray[np.float64]
SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT", "XRP/USDT")
BAR_NS = 3_600 * 10**9
NOW_NS = 1_700_000_000 * 10**9
EARNED = Earned(
    pooled=0.2, assets={"BTC/USDT": 0.3}, slope=1.0, statistic=9.0, threshold=2.3, shrink=1.0,
    conformal={"0.9": 1.6}, conformal_raw={"0.9": 1.7}, times=500, overlap=24,
)  # fmt: skip


class Stub:
    """A forecaster whose answer and history the test chooses through class attributes."""

    mean: tuple[float, ...] = (0.05, 0.04, 0.03, 0.02)
    scale: tuple[float, ...] = (0.02,) * 4
    earned: Earned | None = EARNED
    trained_until_ns: int | None = NOW_NS - NS_PER_DAY
    seen: tuple[int, ...] = ()
    name, lookback, horizon_bars = "stub:1", 60, 24

    @classmethod
    def load(cls, model_dir: Path | None, *, horizon_bars: int, lookback: int) -> Self:
        """Make it."""
        return cls()

    def predict(self, bars: Floats) -> RawForecast:
        """Answer as told, for as many assets as asked."""
        Stub.seen = bars.shape
        n = bars.shape[0]
        return RawForecast(mean=np.array(self.mean[:n]), scale=np.array(self.scale[:n]))


@pytest.fixture(autouse=True)
def fresh_stub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test starts from the stub's own answers and a strategy that loads it."""
    monkeypatch.setattr("strategies.forecast_optimise.load_forecaster", lambda *_args, **_named: Stub())
    for name in ("mean", "scale", "earned", "trained_until_ns"):
        monkeypatch.setattr(Stub, name, getattr(Stub, name))


def strategy(forecast: ForecastParams | None = None, optimizer: OptimizerParams | None = None) -> ForecastOptimise:
    """A strategy, set up."""
    out = ForecastOptimise()
    setup = StrategySetup(
        forecast=forecast or ForecastParams(),
        optimizer=optimizer or OptimizerParams(),
        symbols=SYMBOLS,
        bar_ns=BAR_NS,
    )
    info = out.setup(setup, int)
    assert info.model == "stub:1"
    return out


def view(bars: int = 200, **changes: object) -> View:
    """A calm market and an empty portfolio."""
    rng = np.random.default_rng(0)
    closes = 100 * np.exp(np.cumsum(rng.normal(0, 0.003, (4, bars)) + rng.normal(0, 0.003, bars), axis=1))
    base = View(
        seq=1, ts_ns=NOW_NS, bar_ns=BAR_NS, symbols=SYMBOLS,
        bars=np.stack([closes, closes, closes, closes, np.ones_like(closes)], axis=2),
        weights=(0.0,) * 4, frozen=(False,) * 4, caps=(0.3,) * 4, equity=1e5, cash_weight=1.0, turnover_left=0.5,
    )  # fmt: skip
    return msgspec.structs.replace(base, **changes)


def decided(answer: Targets | NoDecision) -> Targets:
    """The decision there must be."""
    assert isinstance(answer, Targets), answer
    return answer


def refused(answer: Targets | NoDecision) -> NoReason:
    """The reason there must be."""
    assert isinstance(answer, NoDecision), answer
    return answer.reason


def test_good_forecast_is_bought_within_limits() -> None:
    """An earned positive forecast is bought up to caps and turnover; the answer tells how."""
    answer = decided(strategy().decide(view(), {}))

    assert isinstance(strategy(), NeedsSetup)
    assert sum(answer.weights) == pytest.approx(0.5, abs=1e-6)
    assert answer.weights[0] == pytest.approx(0.3, abs=1e-6)
    assert answer.forecast is not None
    assert answer.forecast.mean == Stub.mean
    assert answer.forecast.interval_90[0] == pytest.approx(1.6 * 0.02)
    assert (answer.rung, answer.status) == ("warm", "solved")
    assert {"turnover", "cap:BTC/USDT"} <= set(answer.binding)
    assert answer.turnover == pytest.approx(0.5, abs=1e-6)


def test_nothing_earned_means_nothing_bought() -> None:
    """Without measured skill the mean is zero and nothing is bought; the raw mean stays visible."""
    Stub.earned = None
    answer = decided(strategy().decide(view(), {}))

    assert answer.weights == (0.0,) * 4
    assert answer.forecast is not None
    assert answer.forecast.mean == (0.0,) * 4
    assert answer.forecast.raw_mean == Stub.mean


@pytest.mark.parametrize(("age_days", "retrain_ns", "bought"), [(6, 1, True), (8, 1, False), (800, 0, True)])
def test_model_over_age_counts_as_zero(age_days: int, retrain_ns: int, bought: bool) -> None:
    """Older than max_model_age its mean is zero; with retraining off no age is checked."""
    Stub.trained_until_ns = NOW_NS - age_days * NS_PER_DAY
    answer = decided(strategy(ForecastParams(retrain_every_ns=retrain_ns)).decide(view(), {}))
    assert (sum(answer.weights) > 0) is bought


@pytest.mark.parametrize(
    ("mean", "scale"), [((0.05, np.nan, 0.03, 0.02), (0.02,) * 4), ((0.05,) * 4, (0.02, 0.0, 0.02, 0.02))]
)
def test_asset_without_a_finite_forecast_is_frozen(mean: tuple[float, ...], scale: tuple[float, ...]) -> None:
    """NaN, or a scale of zero, for one asset: it is held, the others are decided, and the forecast says unknown."""
    Stub.mean, Stub.scale = mean, scale
    answer = decided(strategy().decide(view(weights=(0.0, 0.1, 0.0, 0.0), turnover_left=5.0), {}))

    assert answer.weights[1] == 0.1
    assert answer.weights[0] > 0.1
    assert answer.forecast is not None
    assert (answer.forecast.mean[1], answer.forecast.scale[1]) == (0.0, UNKNOWN_SCALE)
    assert answer.forecast.symbols == SYMBOLS


def test_asset_without_sound_bars_is_frozen_and_not_asked_about() -> None:
    """An asset with NaN or a price of zero in the window is left out of the batch and never bought."""
    for bad in (np.nan, 0.0, -1.0, np.inf):
        broken = view()
        broken.bars[2, -5, 3] = bad
        answer = decided(strategy().decide(broken, {}))
        assert Stub.seen[0] == 3
        assert answer.weights[2] == 0.0
        assert sum(answer.weights) > 0.1


def test_young_listing_waits_and_the_rest_trades() -> None:
    """NaN before a listing: the asset is decided on once it has its lookback; covariance uses what all have."""
    young = view()
    young.bars[3, :170] = np.nan
    assert decided(strategy().decide(young, {})).weights[3] == 0.0
    Stub.mean = (0.02, 0.02, 0.02, 0.05)
    older = view()
    older.bars[3, :120] = np.nan
    assert decided(strategy().decide(older, {})).weights[3] > 0.0


@pytest.mark.parametrize("mean", [(np.nan,) * 4, (np.inf,) * 4, (0.1, 0.1)])
def test_forecast_that_is_broken_as_a_whole_is_no_decision(mean: tuple[float, ...]) -> None:
    """All NaN, all infinite or the wrong shape: hold, with the reason."""
    Stub.mean = mean
    assert refused(strategy().decide(view(), {})) is NoReason.NOT_FINITE


@pytest.mark.parametrize("size", [1e300, -1e300, 1e6])
def test_huge_forecast_stays_inside_the_limits(size: float) -> None:
    """However absurd a finite forecast, weights stay within caps, turnover and budget (or there is no decision)."""
    Stub.mean = (size,) * 4
    answer = strategy().decide(view(), {})
    if isinstance(answer, Targets):
        assert sum(answer.weights) <= 0.5 + 1e-9
        assert all(0.0 <= w <= 0.3 for w in answer.weights)
    else:
        assert answer.reason is NoReason.NOT_FINITE


def test_warming_up_and_not_set_up() -> None:
    """Too few bars, only unknown bars, or no model: normal answers."""
    assert refused(strategy().decide(view(bars=60), {})) is NoReason.WARMING_UP
    empty = view()
    empty.bars[:] = np.nan
    assert refused(strategy().decide(empty, {})) is NoReason.WARMING_UP
    empty.bars[:] = 0.0
    assert refused(strategy().decide(empty, {})) is NoReason.NOT_FINITE
    assert refused(ForecastOptimise().decide(view(), {})) is NoReason.NO_MODEL


def test_refused_model_leaves_the_champion(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that cannot be loaded later is reported and the one before keeps deciding; without one there is no decision."""

    def refuse(*_args: object, **_named: object) -> Stub:
        raise BadArtifact("model.safetensors: sha256 is wrong; train again")

    champion = strategy()
    setup = StrategySetup(forecast=ForecastParams(), optimizer=OptimizerParams(), symbols=SYMBOLS, bar_ns=BAR_NS)
    monkeypatch.setattr("strategies.forecast_optimise.load_forecaster", refuse)
    info = champion.setup(setup, int)
    assert (info.model, "sha256" in info.detail) == ("stub:1", True)
    assert decided(champion.decide(view(), {})).weights[0] > 0.0

    newcomer = ForecastOptimise()
    assert newcomer.setup(setup, int).model == ""
    answer = newcomer.decide(view(), {})
    assert refused(answer) is NoReason.NO_MODEL
    assert isinstance(answer, NoDecision)
    assert "sha256" in answer.detail


def test_failed_solvers_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decision found on a lower rung says which, and the note says why."""

    def fail(self: FixedQP, problem: Problem) -> Raw:
        raise ValueError("no luck")

    chosen = strategy()
    monkeypatch.setattr(FixedQP, "solve", fail)
    assert decided(chosen.decide(view(), {})).rung == "second"
    assert "no luck" in chosen.timings.note


def test_returns_beyond_float_are_refused() -> None:
    """Finite prices whose covariance is not finite: hold."""
    absurd = view()
    absurd.bars[0, ::2] = 1e-150
    absurd.bars[0, 1::2] = 1e150
    assert refused(strategy().decide(absurd, {})) is NoReason.NOT_FINITE


def test_prices_that_never_move_are_decided() -> None:
    """No risk at all is still a problem with a solution."""
    still = view()
    still.bars[:] = 100.0
    assert sum(decided(strategy().decide(still, {})).weights) == pytest.approx(0.5, abs=1e-6)


def test_tail_limit_scales_everything_down() -> None:
    """With daily history the portfolio ends at the CVaR limit and keeps its mix."""
    daily = np.random.default_rng(1).standard_t(3, (365, 4)) * 0.05
    free = decided(strategy().decide(view(turnover_left=5.0), {}))
    limited = decided(strategy().decide(view(turnover_left=5.0, daily=daily), {}))
    w, cvar = np.array(limited.weights), historical_cvar(np.array(limited.weights), daily)

    assert cvar is not None
    assert cvar == pytest.approx(0.10 if "cvar" in limited.binding else cvar)
    tight = decided(strategy(optimizer=OptimizerParams(cvar_limit=0.01)).decide(view(daily=daily), {}))
    scaled = historical_cvar(np.array(tight.weights), daily)
    assert "cvar" in tight.binding
    assert scaled == pytest.approx(0.01, rel=1e-9)
    np.testing.assert_allclose(w / w.sum(), np.array(free.weights) / sum(free.weights), rtol=1e-9)


@pytest.mark.parametrize("covariance", ["sample", "ewma", "ledoit_wolf", "factor"])
def test_every_covariance_method_decides(covariance: str) -> None:
    """All configured estimates lead to a solution."""
    chosen = strategy(optimizer=OptimizerParams(covariance=covariance))
    assert decided(chosen.decide(view(), {})).rung == "warm"


def test_universe_of_another_size_is_compiled_again() -> None:
    """A view with fewer symbols than at set-up is decided too."""
    whole = view()
    part = msgspec.structs.replace(
        whole, symbols=SYMBOLS[:2], bars=whole.bars[:2], weights=(0.0,) * 2, frozen=(False,) * 2, caps=(0.3,) * 2
    )
    assert len(decided(strategy().decide(part, {})).weights) == 2


def test_decisions_depend_on_the_past_of_the_view_alone() -> None:
    """Same view, same answer, whatever was decided before; bars before the windows used change nothing."""
    chosen = strategy()
    first = chosen.decide(view(bars=1_500), {})
    chosen.decide(view(weights=(0.2,) * 4, cash_weight=0.2), {})
    assert chosen.decide(view(bars=1_500), {}) == first
    old = view(bars=1_500)
    old.bars[:, :400] *= 7.0
    assert chosen.decide(old, {}) == first


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_market_gets_a_feasible_answer_or_a_reason(data: st.DataObject) -> None:
    """Flat, jumping, missing, tiny and huge prices, any forecast: inside the limits, or no decision; never an exception."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    market = view(weights=tuple((rng.dirichlet(np.ones(5)) * 1.1)[:4].tolist()), frozen=(False, True, False, False))
    for asset in range(4):
        closes = market.bars[asset]
        match data.draw(st.sampled_from(["plain", "flat", "jump", "nan", "young", "scaled", "zero"])):
            case "flat":
                closes[:, :4] = 7.0
            case "jump":
                closes[-10:, :4] *= data.draw(st.sampled_from([1e-6, 1e6]))
            case "nan":
                closes[rng.integers(0, 200), :] = np.nan
            case "young":
                closes[: rng.integers(0, 200)] = np.nan
            case "scaled":
                closes[:, :4] *= data.draw(st.sampled_from([1e-12, 1e12]))
            case "zero":
                closes[rng.integers(0, 200), 3] = 0.0
            case _:
                pass
    Stub.mean = tuple(data.draw(st.lists(st.floats(allow_infinity=True), min_size=4, max_size=4)))
    answer = strategy().decide(market, {})

    if isinstance(answer, Targets):
        w, w0 = np.array(answer.weights), np.array(market.weights)
        assert (w >= 0).all()
        assert (w <= np.maximum(w0, 0.3) + 1e-9).all()
        assert w[1] <= w0[1] + 1e-9
        assert w.sum() <= 0.98 + 1e-9
        assert np.maximum(w - w0, 0).sum() <= 0.5 + 1e-9
    else:
        assert answer.detail


def test_timings_come_from_the_injected_stopwatch() -> None:
    """Pure code reads no clock: durations are differences of what it was given."""
    ticks = iter(range(0, 10_000, 10))
    timed = ForecastOptimise()
    setup = StrategySetup(forecast=ForecastParams(), optimizer=OptimizerParams(), symbols=SYMBOLS, bar_ns=BAR_NS)
    timed.setup(setup, lambda: next(ticks))
    timed.decide(view(), {})

    assert (timed.timings.features_ns, timed.timings.forecast_ns, timed.timings.solve_ns) == (20, 10, 10)
    assert timed.timings.raw_skill == 0.2
