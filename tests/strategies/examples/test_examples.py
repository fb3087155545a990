"""What holds for every example: the limits of the view, the past alone, and nothing remembered."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.domain.signal import NoDecision, NoReason, Strategy, Targets, View
from strategies.examples.equal_weight import EqualWeight
from strategies.examples.mean_reversion import MeanReversion
from strategies.examples.momentum import Momentum
from strategies.params import OptimizerParams
from tests.strategies.examples.views import EXAMPLES, as_the_worker_would, closes, decided, market, view_of, views

REPO = Path(__file__).resolve().parents[3]
TOLERANCE = 1e-9
each = pytest.mark.parametrize("name", EXAMPLES)


@each
@settings(max_examples=150, deadline=None)
@given(view=views())
def test_weights_stay_inside_the_limits(name: str, view: View) -> None:
    """Finite, at most the cap, paid from cash, within the turnover; what is frozen or has no prices never grows."""
    strategy, params = EXAMPLES[name]
    answer = strategy.decide(view, params)
    if isinstance(answer, NoDecision):
        assert answer.reason is NoReason.WARMING_UP
        return
    w, w0, caps = np.array(answer.weights), np.array(view.weights), np.array(view.caps)
    unknown = np.isnan(view.bars[:, -1, 3])

    assert np.isfinite(w).all()
    assert (w >= 0.0).all()
    assert (w <= np.where(caps > 0.0, np.maximum(w0, caps), 0.0) + TOLERANCE).all()
    assert w.sum() <= max(0.95, w0.sum()) + TOLERANCE
    assert (w - w0)[np.array(view.frozen) | unknown].max(initial=0.0) <= TOLERANCE
    assert np.maximum(w - w0, 0.0).sum() <= view.turnover_left + TOLERANCE
    assert answer.turnover == pytest.approx(np.abs(w - w0).sum())


@each
@settings(max_examples=100, deadline=None)
@given(view=views())
def test_the_worker_has_nothing_to_clip(name: str, view: View) -> None:
    """An example that knows its limits is passed on as it is: nothing is named as clipped."""
    strategy, params = EXAMPLES[name]
    answer = strategy.decide(view, params)
    room = OptimizerParams(max_weight=1.0, min_cash=0.0, turnover_max=2.0)
    if isinstance(answer, Targets):
        assert as_the_worker_would(answer, view, room) == answer


@each
@settings(max_examples=60, deadline=None)
@given(view=views(), power=st.lists(st.integers(-20, 20), min_size=6, max_size=6))
def test_the_unit_of_a_price_does_not_matter(name: str, view: View, power: list[int]) -> None:
    """Prices in other units (powers of two, which are exact) give the same weights to the bit."""
    strategy, params = EXAMPLES[name]
    scaled = view.bars.copy()
    scaled[:, :, :4] *= 2.0 ** np.array(power[: scaled.shape[0]])[:, None, None]

    assert strategy.decide(msgspec.structs.replace(view, bars=scaled), params) == strategy.decide(view, params)


@each
@settings(max_examples=60, deadline=None)
@given(view=views(), seed=st.integers(0, 100))
def test_only_the_window_is_read(name: str, view: View, seed: int) -> None:
    """Bars older than the window change nothing, however absurd; and so nothing beyond it can."""
    strategy, params = EXAMPLES[name]
    longer = np.concatenate([market(view.bars.shape[0], 30, seed) * 1e3, view.bars], axis=1)

    assert strategy.decide(msgspec.structs.replace(view, bars=longer), params) == strategy.decide(view, params)


@each
def test_the_past_decides_alone(name: str) -> None:
    """F-look-ahead: decisions made bar by bar are the same whatever comes after them."""
    strategy, params = EXAMPLES[name]
    before, after = market(seed=5), market(seed=5)
    after[:, 40:] = market(seed=6)[:, 40:]
    differs = False
    for end in range(25, 60):
        one, other = (strategy.decide(view_of(bars[:, :end]), params) for bars in (before, after))
        assert end > 40 or one == other
        differs |= one != other

    assert differs or name == "equal weight"  # the test would see a difference


@each
def test_nothing_is_remembered(name: str) -> None:
    """The same view gives the same answer, from a strategy that has seen others and from a new one; the view stays as it was."""
    strategy, params = EXAMPLES[name]
    bars = market(seed=7)
    bars.flags.writeable = False
    first = decided(strategy, view_of(bars), params)
    decided(strategy, view_of(market(seed=8)), params)

    assert decided(strategy, view_of(bars), params) == first
    assert decided(type(strategy)(), view_of(bars), dict(params)) == first


@each
def test_assets_that_are_not_listed_yet(name: str) -> None:
    """A column without prices gets nothing and keeps what it has; the others share what that leaves."""
    strategy, params = EXAMPLES[name]
    bars = market(5, seed=3)
    bars[4] = np.nan
    without = decided(strategy, view_of(bars[:4]), params)
    unheld = decided(strategy, view_of(bars), params)
    held = decided(strategy, view_of(bars, weights=(0.0, 0.0, 0.0, 0.0, 0.05), cash_weight=0.95), params)
    room = min(1.0, 0.90 / sum(without.weights))

    assert unheld.weights == (*without.weights, 0.0)
    assert held.weights == pytest.approx((*(room * weight for weight in without.weights), 0.05))


@each
def test_too_few_bars_is_warming_up(name: str) -> None:
    """Said with the number of bars; so is a market in which nothing is listed."""
    strategy, params = EXAMPLES[name]
    if name != "equal weight":
        short = strategy.decide(view_of(market(n_bars=10)), params)
        assert isinstance(short, NoDecision)
        assert (short.reason, short.detail[:6]) == (NoReason.WARMING_UP, "10 of ")
    nothing = strategy.decide(view_of(np.full((3, 40, 5), np.nan)), params)
    assert isinstance(nothing, NoDecision)
    assert nothing.reason is NoReason.WARMING_UP
    assert "no asset has" in nothing.detail


@pytest.mark.parametrize(
    ("strategy", "params", "wanted"),
    [
        (Momentum(), {"lokback": 5}, "strategy_params: Object contains unknown field `lokback`; known are .*lookback"),
        (Momentum(), {"lookback": "5"}, r"strategy_params\.lookback: Expected `int`, got `str`"),
        (Momentum(), {"lookback": 1}, r"strategy_params\.lookback: Expected `int` >= 2"),
        (Momentum(), {"target_volatility": float("nan")}, r"strategy_params\.target_volatility: Expected"),
        (MeanReversion(), {"entry": 2.0, "full": 1}, r"strategy_params\.full = 1: must be more than entry = 2"),
        (EqualWeight(), {"invest": 1.5}, r"strategy_params\.invest: Expected `float` <= 1"),
    ],
)
def test_wrong_parameters_are_one_line(strategy: Strategy, params: dict[str, object], wanted: str) -> None:
    """The key, what is wrong with it, and which keys there are."""
    with pytest.raises(ValueError, match=wanted) as caught:
        strategy.decide(view_of(market()), params)
    assert "\n" not in str(caught.value)


def test_momentum_holds_what_rises_at_equal_risk() -> None:
    """Equation 5 by hand: 0.4 / (sigma·sqrt(8760)) / n; what fell or stood still gets nothing."""
    steady = [100.0 * 1.01 ** (i + 2 * (i % 2)) for i in range(25)]
    wild = [100.0 * 1.02 ** (i + 2 * (i % 2)) for i in range(25)]
    bars = closes(steady, wild, steady[::-1], [100.0] * 25)
    answer = decided(Momentum(), view_of(bars, caps=(1.0,) * 4), {"lookback": 24, "band": 0.0})
    sigma = np.sqrt(np.mean(np.square(np.diff(np.log(steady)))))

    assert answer.weights == pytest.approx((0.4 / (sigma * np.sqrt(8760)) / 4, answer.weights[0] / 2, 0, 0), rel=0.01)
    best = decided(Momentum(), view_of(bars, caps=(1.0,) * 4), {"lookback": 24, "band": 0.0, "top": 1})
    assert sorted(best.weights)[:3] == [0.0, 0.0, 0.0]
    assert max(best.weights) == pytest.approx(4 * answer.weights[int(np.argmax(best.weights))])


def test_mean_reversion_buys_deeper_falls_more() -> None:
    """Nothing above the mean, more the deeper below it, never more than a share of `invest`."""
    wave = [100.0 + (i % 4) for i in range(23)]
    bars = closes([*wave, 90.0], [*wave, 99.0], [*wave, 101.5], [*wave, 110.0], [5.0] * 24)
    answer = decided(MeanReversion(), view_of(bars, caps=(1.0,) * 5), {"lookback": 24, "band": 0.0})
    deep, shallow, *rest = answer.weights

    assert deep == pytest.approx(0.95 / 5)
    assert 0.0 < shallow < deep
    assert rest == [0.0, 0.0, 0.0]


def test_equal_weight_waits_until_one_has_drifted() -> None:
    """Within the band nothing is traded; beyond it every weight is its share again; a capped asset has none."""
    bars = market()
    near, far = (0.22, 0.25, 0.23, 0.26), (0.10, 0.30, 0.23, 0.30)
    kept = decided(EqualWeight(), view_of(bars, weights=near, cash_weight=0.04))
    restored = decided(EqualWeight(), view_of(bars, weights=far, cash_weight=0.07))
    stopped = decided(EqualWeight(), view_of(bars, caps=(0.0, 0.5, 0.5, 0.5)))

    assert kept.weights == near
    assert (kept.turnover, kept.status) == (0.0, "within_drift")
    assert restored.weights == pytest.approx((0.2375,) * 4)
    assert stopped.weights == pytest.approx((0.0, 0.95 / 3, 0.95 / 3, 0.95 / 3))


def test_equal_weight_restores_only_what_can_move() -> None:
    """A frozen weight below its share is no reason to trade, however far; one above is: it may be sold."""
    frozen = (True, False, False, False)
    low = view_of(market(), weights=(0.0, 0.24, 0.23, 0.24), frozen=frozen, cash_weight=0.29)
    high = msgspec.structs.replace(low, weights=(0.40, 0.20, 0.20, 0.20), cash_weight=0.0, caps=(0.5,) * 4)

    assert decided(EqualWeight(), low).weights == (0.0, 0.24, 0.23, 0.24)
    assert decided(EqualWeight(), high).weights == pytest.approx((0.2375,) * 4)


@each
def test_no_more_is_bought_than_cash_can_pay(name: str) -> None:
    """Where the rest of the account is tied up elsewhere, what is held and the cash beside it are all there is."""
    strategy, params = EXAMPLES[name]
    rich = decided(strategy, view_of(market(seed=7)), params)
    poor = decided(strategy, view_of(market(seed=7), weights=(0.01,) * 4, cash_weight=0.02), params)

    assert sum(rich.weights) > 0.1
    assert sum(poor.weights) <= 0.06 + TOLERANCE


def test_a_small_difference_is_not_traded() -> None:
    """Inside the no-trade band the old weight stays; a way out is never too small."""
    up = [100.0 * 1.01 ** (i + 2 * (i % 2)) for i in range(25)]
    view = view_of(closes(up, up[::-1]))
    aim = decided(Momentum(), view, {"lookback": 24}).weights[0]
    nearly = msgspec.structs.replace(view, weights=(aim - 0.005, 0.005), cash_weight=1.0 - aim)

    assert decided(Momentum(), nearly, {"lookback": 24}).weights == (aim - 0.005, 0.0)
    assert decided(Momentum(), nearly, {"lookback": 24, "band": 0.0}).weights == pytest.approx((aim, 0.0))


@pytest.mark.parametrize("module", ["momentum", "mean_reversion", "equal_weight"])
def test_each_is_short(module: str) -> None:
    """The seam is small: under 80 lines each, and nothing but numpy and our own vocabulary is imported."""
    text = (REPO / "strategies/examples" / f"{module}.py").read_text()
    imported = {line.split()[1].split(".")[0] for line in text.splitlines() if line.startswith(("import ", "from "))}

    assert len(text.splitlines()) < 80
    assert imported <= {"typing", "msgspec", "numpy", "daemon", "strategies"}
