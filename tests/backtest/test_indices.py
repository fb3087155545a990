"""Benchmark curves: by hand, and against an independent accounting in exact fractions."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy import float64, int64
from numpy.typing import NDArray

from daemon.backtest.indices import Index, buy_and_hold, cash, equal_weight, last_prices, market_cap
from daemon.backtest.metrics import DAY_NS, metrics

Floats = NDArray[float64]
Rows = NDArray[int64]
NAN = float("nan")


def random_closes(seed: int, n_rows: int, n_assets: int) -> Floats:
    """Return prices that wander around 1 and are all known."""
    closes: Floats = np.cumprod(
        1.0 + np.random.default_rng(seed).normal(0.001, 0.05, (n_rows, n_assets)), axis=0, dtype=float64
    )
    return closes


def rows(*which: int) -> Rows:
    """Return rows as an array."""
    return np.array(which, dtype=int64)


def test_two_assets_by_hand() -> None:
    """1000 in two assets, one doubles, equal weights are restored: 1500, 750 each; the sale and purchase cost nothing."""
    closes = np.array([[10.0, 50.0], [20.0, 50.0], [20.0, 100.0]])
    found = equal_weight(closes, rows(0, 1), fee_rate=0.0, initial=1000.0)

    assert found.value.tolist() == [1000.0, 1500.0, 2250.0]
    assert found.quantity.tolist() == [[50.0, 10.0], [37.5, 15.0], [37.5, 15.0]]
    assert found.turnover == pytest.approx([1.0, 500.0 / 1500.0])
    assert (found.fees, found.cash.tolist(), found.traded_rows.tolist()) == (0.0, [0.0] * 3, [0, 1])


def test_costs_by_hand() -> None:
    """A purchase for a fee of 25 % per unit bought: 1000 buy 1000/1.2 = 833.33, the fee of 20 % of that is 166.67."""
    found = buy_and_hold(np.array([[10.0], [11.0]]), rows(0), fee_rate=0.2, initial=1000.0)

    assert found.value == pytest.approx([1000.0 / 1.2, 1100.0 / 1.2])
    assert found.fees == pytest.approx(1000.0 / 6.0)


def test_a_rebalance_pays_its_own_costs() -> None:
    """750/250 become equal: x each with 2x + 1 % · (750 - x + x - 250) = 1000, so x = 497.5 and the fee 5."""
    closes = np.array([[1.0, 1.0], [3.0, 1.0]])
    found = equal_weight(closes, rows(0, 1), fee_rate=0.01, initial=500.0 * 1.01)

    assert found.value == pytest.approx([500.0, 995.0])
    assert (found.quantity[1] * closes[1]).tolist() == pytest.approx([497.5, 497.5])
    assert found.fees == pytest.approx(10.0)


def test_buy_and_hold_never_trades_again() -> None:
    """What is listed later is not bought; what ends keeps its last price."""
    closes = np.array([[10.0, NAN, 5.0], [12.0, 1.0, 6.0], [15.0, 2.0, NAN], [20.0, 9.0, NAN]])
    found = buy_and_hold(closes, rows(0, 1, 2, 3), fee_rate=0.0, initial=100.0)

    assert found.value.tolist() == [100.0, 120.0, 135.0, 160.0]
    assert found.quantity.tolist() == [[5.0, 0.0, 10.0]] * 4
    assert found.traded_rows.tolist() == [0]


def test_nothing_happens_before_the_first_row_or_without_a_price() -> None:
    """Cash until the first row that is given, and until one in which something has a price."""
    closes = np.array([[1.0], [NAN], [2.0], [4.0]])

    assert buy_and_hold(closes, rows(1, 2), fee_rate=0.0, initial=10.0).value.tolist() == [10.0, 10.0, 10.0, 20.0]
    assert equal_weight(closes, rows(1, 2), fee_rate=0.0, initial=10.0).value.tolist() == [10.0, 10.0, 10.0, 20.0]
    assert buy_and_hold(closes, rows(), fee_rate=0.0, initial=10.0).value.tolist() == [10.0] * 4
    assert buy_and_hold(closes, rows(1), fee_rate=0.0, initial=10.0).exposure.tolist() == [0.0] * 4


def test_equal_weight_takes_new_assets_and_leaves_dead_ones() -> None:
    """An asset whose data end stays at its last price, frozen; the living share the rest equally."""
    closes = np.array([[1.0, 1.0, NAN], [1.0, 3.0, 2.0], [NAN, 4.0, 4.0]])
    found = equal_weight(closes, rows(0, 1, 2), fee_rate=0.0, initial=300.0)

    # 150 + 450 = 600, 200 each; then the first is frozen at 200 and the others hold 266.67 + 400 = 666.67.
    assert found.value == pytest.approx([300.0, 600.0, 200.0 + 200.0 * 4 / 3 + 400.0])
    assert found.quantity[2] * np.array([1.0, 4.0, 4.0]) == pytest.approx([200.0, 1000.0 / 3.0, 1000.0 / 3.0])


def test_market_cap_by_hand() -> None:
    """Weights 3 · 10 : 1 · 10, then unknown supply for the first: all goes to the second."""
    closes = np.array([[10.0, 10.0], [20.0, 10.0]])
    supply = np.array([[3.0, 1.0], [NAN, 1.0]])
    found = market_cap(closes, rows(0, 1), supply, fee_rate=0.0, initial=400.0)

    assert found.value.tolist() == [400.0, 700.0]
    assert found.quantity.tolist() == [[30.0, 10.0], [0.0, 70.0]]


def test_market_cap_with_constant_supply_trades_once() -> None:
    """Market-cap weights hold themselves: after the first purchase the curve is that of the whole market."""
    closes = random_closes(1, 500, 7)
    supply = np.array([5.0, 1.0, 2.0, NAN, 9.0, 0.5, 3.0])
    found = market_cap(closes, np.arange(500), supply, fee_rate=0.001, initial=1000.0)
    market = closes @ np.nan_to_num(supply)

    assert found.traded_rows.tolist() == [0]
    assert found.value == pytest.approx(1000.0 / 1.001 * market / market[0], rel=1e-12)


def test_cash_is_cash() -> None:
    """Nothing moves and nothing is paid."""
    found = cash(3, 50.0, 2)

    assert found.value.tolist() == found.cash.tolist() == [50.0] * 3
    assert (found.fees, found.exposure.tolist(), found.quantity.shape) == (0.0, [0.0] * 3, (3, 2))


# ------------------------------------------------------------------------------------------------------------------
# An independent accounting: Python fractions, one position at a time, the equation of costs solved piece by piece
# between the points where an asset turns from bought to sold, instead of by substitution.


def exactly_settled(values: list[Fraction], weights: list[Fraction], free: Fraction, rate: Fraction) -> Fraction:
    """Return x with x + rate · sum |w·x - v| = free, exactly: the equation is linear between the points v/w."""
    points = sorted({v / w for v, w in zip(values, weights, strict=True) if w})
    for low, high in zip([Fraction(0), *points], [*points, free + 1], strict=True):
        middle = (low + high) / 2
        signs = [1 if w * middle >= v else -1 for v, w in zip(values, weights, strict=True)]
        # x + rate · sum s·(w·x - v) = free
        slope = 1 + rate * sum(s * w for s, w in zip(signs, weights, strict=True))
        x = (free + rate * sum(s * v for s, v in zip(signs, values, strict=True))) / slope
        if low <= x <= high:
            return x
    raise AssertionError("no piece holds the solution")


def recomputed(closes: Floats, decisions: list[int], caps: Floats, *, fee: float, initial: float) -> list[Fraction]:
    """Return the value curve of weights proportional to ``caps`` (k, n_assets), in fractions."""
    n_rows, n_assets = closes.shape
    price: list[Fraction] = [Fraction(0)] * n_assets
    held, money, curve = [Fraction(0)] * n_assets, Fraction(initial), []
    for row in range(n_rows):
        alive = [bool(np.isfinite(closes[row, k])) for k in range(n_assets)]
        price = [Fraction(float(closes[row, k])) if alive[k] else price[k] for k in range(n_assets)]
        if row in decisions:
            caps_now = caps[decisions.index(row)]
            cap = [Fraction(float(caps_now[k])) if alive[k] else Fraction(0) for k in range(n_assets)]
            if sum(cap):
                mine = [k for k in range(n_assets) if alive[k]]
                values = [held[k] * price[k] for k in mine]
                weights = [cap[k] / sum(cap) for k in mine]
                after = exactly_settled(values, weights, money + sum(values), Fraction(fee))
                for k, weight in zip(mine, weights, strict=True):
                    held[k] = weight * after / price[k]
                money = Fraction(0)
        curve.append(money + sum(h * p for h, p in zip(held, price, strict=True)))
        # Fractions grow with every row; 200 bits are far more than a float has.
        held = [Fraction(round(h * 2**200), 2**200) for h in held]
    return curve


@st.composite
def markets(draw: st.DrawFn) -> tuple[Floats, Rows]:
    """Draw closes with late listings, early ends and holes, and rows to decide in."""
    n_rows, n_assets = draw(st.integers(2, 25)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 100_000)))
    closes: Floats = 100.0 * np.cumprod(1.0 + rng.uniform(-0.3, 0.4, (n_rows, n_assets)), axis=0, dtype=float64)
    for asset in range(n_assets):
        closes[: draw(st.integers(0, n_rows // 2)), asset] = NAN
        closes[n_rows - draw(st.integers(0, n_rows // 3)) :, asset] = NAN
        closes[rng.random(n_rows) < 0.1, asset] = NAN
    chosen = sorted(draw(st.sets(st.integers(0, n_rows - 1), min_size=1, max_size=n_rows)))
    return closes, np.array(chosen, dtype=int64)


@given(markets(), st.sampled_from([0.0, 0.001, 0.01, 0.2]))
def test_equal_weight_is_exact(market: tuple[Floats, Rows], fee: float) -> None:
    """The curve agrees with the fractions to 1e-12, whatever is listed, ended or missing."""
    closes, decisions = market
    found = equal_weight(closes, decisions, fee_rate=fee, initial=1000.0)
    caps = np.ones((len(decisions), closes.shape[1]))
    theirs = recomputed(closes, decisions.tolist(), caps, fee=fee, initial=1000.0)

    assert found.value == pytest.approx([float(one) for one in theirs], rel=1e-12)


@given(markets(), st.sampled_from([0.0, 0.001, 0.2]), st.integers(0, 100_000))
def test_market_cap_is_exact(market: tuple[Floats, Rows], fee: float, seed: int) -> None:
    """The same for weights by supply, some of them unknown, with a supply that changes."""
    closes, decisions = market
    rng = np.random.default_rng(seed)
    supply = rng.uniform(1.0, 1000.0, closes.shape)
    supply[rng.random(closes.shape) < 0.2] = NAN
    supply[0, 0] = 1.0
    found = market_cap(closes, decisions, supply, fee_rate=fee, initial=1000.0)
    caps = np.nan_to_num(supply * closes)[decisions]
    theirs = recomputed(closes, decisions.tolist(), caps, fee=fee, initial=1000.0)

    assert found.value == pytest.approx([float(one) for one in theirs], rel=1e-12)


@given(markets(), st.sampled_from([0.0, 0.001, 0.2]))
def test_buy_and_hold_is_exact(market: tuple[Floats, Rows], fee: float) -> None:
    """Equal amounts at the first chance, then each coin at its last price."""
    closes, decisions = market
    found = buy_and_hold(closes, decisions, fee_rate=fee, initial=1000.0)
    first = next((int(row) for row in decisions if np.isfinite(closes[row]).any()), None)
    if first is None:
        assert found.value.tolist() == [1000.0] * len(closes)
        return
    bought = np.flatnonzero(np.isfinite(closes[first]))
    share = Fraction(1000) / (1 + Fraction(fee)) / len(bought)
    for row in range(first, len(closes)):
        value = Fraction(0)
        for asset in bought:
            known = [price for price in closes[: row + 1, asset] if np.isfinite(price)]
            value += share / Fraction(float(closes[first, asset])) * Fraction(float(known[-1]))
        assert found.value[row] == pytest.approx(float(value), rel=1e-12)
    assert found.value[:first].tolist() == [1000.0] * first


@given(markets())
def test_the_order_of_assets_is_free(market: tuple[Floats, Rows]) -> None:
    """Permuted assets give permuted quantities and the same curve, fees and turnover."""
    closes, decisions = market
    order = np.random.default_rng(len(closes)).permutation(closes.shape[1])
    supply = np.arange(1.0, closes.shape[1] + 1.0)
    for one, other in (
        (
            equal_weight(closes, decisions, fee_rate=0.001, initial=1000.0),
            equal_weight(closes[:, order], decisions, fee_rate=0.001, initial=1000.0),
        ),
        (
            market_cap(closes, decisions, supply, fee_rate=0.001, initial=1000.0),
            market_cap(closes[:, order], decisions, supply[order], fee_rate=0.001, initial=1000.0),
        ),
    ):
        assert other.value == pytest.approx(one.value, rel=1e-12)
        assert other.quantity == pytest.approx(one.quantity[:, order], rel=1e-10, abs=1e-12)
        assert other.fees == pytest.approx(one.fees, rel=1e-10)


@given(markets(), st.floats(0.01, 1e9))
def test_scale_is_free(market: tuple[Floats, Rows], initial: float) -> None:
    """Twice the money is twice the curve."""
    closes, decisions = market
    one = equal_weight(closes, decisions, fee_rate=0.002, initial=1.0)
    other = equal_weight(closes, decisions, fee_rate=0.002, initial=initial)

    assert other.value / initial == pytest.approx(one.value, rel=1e-12)
    assert other.turnover == pytest.approx(one.turnover, rel=1e-9)


@given(markets())
def test_value_is_cash_and_coins_and_fees_explain_the_rest(market: tuple[Floats, Rows]) -> None:
    """In every row value = cash + coins · last price, and trades cost exactly the fees."""
    closes, decisions = market
    found = equal_weight(closes, decisions, fee_rate=0.01, initial=1000.0)
    prices = last_prices(closes)

    assert found.value == pytest.approx(found.cash + (found.quantity * prices).sum(axis=1), rel=1e-13)
    held = np.concatenate((np.zeros((1, closes.shape[1])), found.quantity[:-1]))
    before = np.concatenate(([1000.0], found.cash[:-1])) + (held * prices).sum(axis=1)
    traded = np.abs((found.quantity - held) * prices).sum(axis=1)
    assert (before - found.value).sum() == pytest.approx(found.fees, rel=1e-9, abs=1e-9)
    assert 0.01 * traded.sum() == pytest.approx(found.fees, rel=1e-9, abs=1e-9)
    assert found.turnover == pytest.approx((traded / before)[found.traded_rows], rel=1e-9)
    assert (found.exposure <= 1.0).all()
    assert (found.exposure >= 0.0).all()


def test_recorded_prices_of_a_late_listing(shared_data: Path) -> None:
    """BTC, ETH and APT (listed October 2022), hourly, as pandas would hold them: one coin's growth each, then the mean."""
    import pandas as pd

    columns = {
        name: pq.read_table(shared_data / "binance" / f"{name}_USDT-1h.parquet", columns=["date", "close"])
        .to_pandas()
        .set_index("date")["close"]
        for name in ("BTC", "ETH", "APT")
    }
    table = pd.DataFrame(columns).loc["2022-06-01":"2023-06-01"]
    closes = table.to_numpy(dtype=float64)
    listed = int(np.isfinite(closes[:, 2]).argmax())
    assert 0 < listed < len(closes) - 1000
    held = buy_and_hold(closes, rows(0), fee_rate=0.0, initial=1000.0)
    equal = equal_weight(closes, np.arange(len(closes)), fee_rate=0.0, initial=1000.0)

    theirs = 1000.0 * (table[["BTC", "ETH"]].ffill() / table[["BTC", "ETH"]].iloc[0]).mean(axis=1)
    assert held.value == pytest.approx(theirs.to_numpy(), rel=1e-12)
    # Restored in every row, the return of a row is the mean return of those that had a price in the row before.
    growth = table.pct_change(fill_method=None).mean(axis=1).fillna(0.0)
    assert equal.value == pytest.approx(1000.0 * (1.0 + growth).cumprod().to_numpy(), rel=1e-9)


def test_last_prices_wait_for_the_next() -> None:
    """A hole keeps the price before it; before the first price there is none."""
    assert last_prices(np.array([[NAN], [2.0], [NAN], [3.0], [NAN]]))[:, 0].tolist() == [0.0, 2.0, 2.0, 3.0, 3.0]


def test_a_benchmark_is_what_metrics_asks_for() -> None:
    """Every field fits the function that measures a curve."""
    closes = random_closes(2, 200, 4)
    dates = np.arange(200, dtype=int64) * DAY_NS
    index: Index = equal_weight(closes, np.arange(0, 200, 7), fee_rate=0.001, initial=1000.0)
    found = metrics(
        dates,
        index.value,
        np.zeros(200),
        exposure=index.exposure,
        turnover_ns=dates[index.traded_rows],
        turnover=index.turnover,
        fees=index.fees,
        slippage_cost=0.0,
    )

    assert found.avg_gross_exposure == 1.0
    assert found.total_return == pytest.approx(index.value[-1] / index.value[0] - 1.0)
    assert 0.0 < found.turnover < 0.1


@pytest.mark.parametrize(
    ("closes", "which", "fee", "initial", "words"),
    [
        (np.ones(3), rows(0), 0.0, 1.0, "rows × assets"),
        (np.zeros((3, 1)), rows(0), 0.0, 1.0, "closes must be positive"),
        (np.full((3, 1), np.inf), rows(0), 0.0, 1.0, "closes must be positive"),
        (np.ones((3, 1)), rows(1, 1), 0.0, 1.0, "rise strictly"),
        (np.ones((3, 1)), rows(3), 0.0, 1.0, "within 0..2"),
        (np.ones((3, 1)), rows(-1), 0.0, 1.0, "within 0..2"),
        (np.ones((3, 1)), rows(0), 0.3, 1.0, "fee_rate 0.3"),
        (np.ones((3, 1)), rows(0), NAN, 1.0, "fee_rate nan"),
        (np.ones((3, 1)), rows(0), 0.0, 0.0, "initial 0.0"),
    ],
)
def test_bad_input_is_refused(closes: Floats, which: Rows, fee: float, initial: float, words: str) -> None:
    """What would give a wrong curve is refused by name, by each of the three."""
    with pytest.raises(ValueError, match=words):
        equal_weight(closes, which, fee_rate=fee, initial=initial)
    with pytest.raises(ValueError, match=words):
        buy_and_hold(closes, which, fee_rate=fee, initial=initial)
    with pytest.raises(ValueError, match=words):
        market_cap(closes, which, np.ones(closes.shape[1:]), fee_rate=fee, initial=initial)


@pytest.mark.parametrize("supply", [np.ones(3), np.array([NAN, NAN]), np.array([1.0, -1.0]), np.array([1.0, np.inf])])
def test_a_supply_that_cannot_be_is_refused(supply: Floats) -> None:
    """Wrong shape, nothing known, negative or infinite."""
    with pytest.raises(ValueError, match="supply"):
        market_cap(np.ones((3, 2)), rows(0), supply, fee_rate=0.0, initial=1.0)
