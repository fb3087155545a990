"""What shocks do to a portfolio, against sums done another way."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import float64
from numpy.typing import NDArray

from daemon.backtest.data.files import Candles, path_of, write
from daemon.backtest.stress import CRASH, DEPEG, Asked, Scenario, Stressed, stress
from daemon.backtest.stress_history import EPISODES, replay
from daemon.backtest.stress_market import DAYS_MIN, Market, estimate, load_market
from daemon.backtest.stress_page import page
from daemon.backtest.stress_portfolio import Given, Portfolio, read_portfolio, valued
from daemon.backtest.stress_portfolio import given as parsed
from daemon.backtest.stress_show import document, grids
from daemon.domain.errors import ConfigError, UsageError
from risk.portfolio import historical_tail

FOUR_HOURS_MS = 14_400_000
DAY_MS = 86_400_000
BTC, ETH, NEW, NONE = "BTC/USDT", "ETH/USDT", "NEW/USDT", "NONE/USDT"
BEGIN, END = "2021-03-01", "2024-10-01"


def ms(day: str) -> int:
    """Return a day as ms UTC."""
    return int(np.datetime64(day, "ms").astype(np.int64))


def candles(begin: str, end: str, moves: NDArray[float64], volume: float) -> Candles:
    """Return candles whose closes follow ``moves`` (log returns), from an even 100."""
    times = np.arange(ms(begin), ms(end), FOUR_HOURS_MS)
    close = 100.0 * np.exp(np.cumsum(moves[-len(times) :]))
    values = np.stack((close, 1.01 * close, 0.99 * close, close, np.full(len(close), volume)), 1)
    return Candles(times, values)


def write_world(folder: Path) -> None:
    """Write BTC, ETH that moves 1.5 times as far, and NEW, listed in 2024, that moves on its own."""
    rng = np.random.default_rng(7)
    n = (ms(END) - ms(BEGIN)) // FOUR_HOURS_MS
    common = rng.normal(0.0, 0.01, n)
    for pair, begin, moves, volume in (
        (BTC, BEGIN, common, 1000.0),
        (ETH, BEGIN, 1.5 * common + rng.normal(0.0, 0.003, n), 5000.0),
        (NEW, "2024-03-01", rng.normal(0.0, 0.02, n), 10.0),
    ):
        write(path_of(folder, pair, "4h"), candles(begin, END, moves, volume))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of three pairs."""
    made = tmp_path_factory.mktemp("candles")
    write_world(made)
    return made


@pytest.fixture(scope="module")
def market(folder: Path) -> Market:
    """The folder, read."""
    return load_market(folder, (BTC, ETH, NEW, NONE), leader=BTC, timeframe="4h")


VALUES = np.array([40_000.0, 30_000.0, 10_000.0, 5_000.0])
MINE = Portfolio((BTC, ETH, NEW, NONE), VALUES, 15_000.0, "USDT", "mine")


@pytest.fixture(scope="module")
def found(market: Market) -> Stressed:
    """Everything about a portfolio of all four."""
    return stress(MINE, market, Asked(paths=200, seed=3))


def named(found: Stressed, start: str) -> Scenario:
    """Return the only scenario whose name starts so."""
    (one,) = [one for one in found.scenarios if one.name.startswith(start)]
    return one


def closes(folder: Path, pair: str) -> dict[int, float]:
    """Return close by closing time, ms, read by another library."""
    import pandas as pd

    table = pd.read_parquet(path_of(folder, pair, "4h"))
    times = table["date"].dt.tz_localize(None).astype("datetime64[ms]").astype("int64") + FOUR_HOURS_MS
    return dict(zip(times.tolist(), table["close"].tolist(), strict=True))


def test_days_prices_and_volumes(folder: Path, market: Market) -> None:
    """Daily returns are those between midnights, the price is the last close, the volume that of the newest days."""
    table = closes(folder, ETH)
    midnights = [table[at] for at in range(ms(BEGIN) + DAY_MS, ms(END) + 1, DAY_MS)]
    expected = [b / a - 1.0 for a, b in pairwise(midnights)]

    assert market.returns[:, 1] == pytest.approx(np.array(expected))
    assert str(np.datetime64(int(market.days[0]), "D")) == "2021-03-02"
    assert market.price[1] == table[ms(END)]
    assert market.priced_ns[1] == ms(END) * 1_000_000
    last = [table[at] for at in sorted(table)][-30 * 6 :]
    assert market.volume[1] == pytest.approx(5000.0 * sum(last) / 30.0)
    assert math.isnan(market.volume[3])


def test_half_a_day_is_no_day(tmp_path: Path) -> None:
    """A day with fewer than half of its bars has no return, nor has the day after it."""
    whole = candles("2024-01-01", "2024-04-01", np.random.default_rng(1).normal(0.0, 0.01, 600), 1.0)
    kept = np.ones(len(whole), dtype=bool)
    kept[6 * 20 + 1 : 6 * 20 + 5] = False  # two of six bars are left of January 21
    kept[6 * 40 : 6 * 40 + 3] = False  # three are left of February 10
    write(path_of(tmp_path, BTC, "4h"), Candles(whole.times[kept], whole.values[kept]))
    read = load_market(tmp_path, (), leader=BTC, timeframe="4h")

    assert [str(np.datetime64(int(day), "D")) for day in read.days[np.isnan(read.returns[:, 0])]] == [
        "2024-01-21",
        "2024-01-22",
    ]


def test_estimates_stand_on_days_in_common(market: Market) -> None:
    """NEW limits the days to its own; a pair without candles has the leader's returns."""
    known = estimate(market, 365)
    rows = market.returns[np.isfinite(market.returns[:, :3]).all(axis=1), :3]

    assert known.rows[:, :3] == pytest.approx(rows)
    assert known.rows[:, 3] == pytest.approx(rows[:, 0])
    assert known.stand_ins == {NONE: "no candles: as the leader (beta 1)"}
    assert known.beta[1] == pytest.approx(np.polyfit(rows[:, 0], rows[:, 1], 1)[0])
    assert known.beta[1] == pytest.approx(1.5, abs=0.1)
    assert known.covariance[:3, :3] == pytest.approx(np.cov(rows, rowvar=False))
    assert len(estimate(market, 100).rows) == 100


def test_a_pair_with_few_days_stands_in_by_its_beta(market: Market) -> None:
    """With 45 days it has a beta but leaves the others too few; with 20 it has none."""
    days = len(market.returns)
    for left, beta in ((45, "times beta"), (20, "as the leader (beta 1)")):
        returns = market.returns.copy()
        returns[: days - left, 1] = np.nan
        known = estimate(market._replace(returns=returns), 365)
        assert beta in known.stand_ins[ETH]
        assert known.rows[:, 1] == pytest.approx(known.beta[1] * known.rows[:, 0])
        assert len(known.rows) > DAYS_MIN
    returns = market.returns.copy()
    returns[DAYS_MIN - 1 :, 0] = np.nan
    with pytest.raises(ConfigError, match="BTC/USDT: 59 whole days of candles; 60 are needed"):
        estimate(market._replace(returns=returns), 365)


def test_a_crash_of_the_past(folder: Path, found: Stressed) -> None:
    """Bar by bar: what was there moves as it did, what was not by its beta to BTC, from the close before the first day."""
    btc, eth = closes(folder, BTC), closes(folder, ETH)
    for one in (found.replays[1], found.replays[4]):
        first, last = ms(one.episode.first), ms(one.episode.last)
        own_new = one.episode.key == "2024-08"
        new = closes(folder, NEW)
        values: dict[int, float] = {}
        for at in range(first, last + 1, FOUR_HOURS_MS):
            moves = [btc[at] / btc[first] - 1.0, eth[at] / eth[first] - 1.0]
            moves.append(new[at] / new[first] - 1.0 if own_new else max(found.known.beta[2] * moves[0], -1.0))
            values[at] = 1.0 + float(np.dot(VALUES, [*moves, moves[0]])) / 100_000.0
        worst = min(values, key=lambda at: values[at])

        assert one.path == pytest.approx(np.array(list(values.values())))
        assert one.worst == pytest.approx(values[worst] - 1.0)
        assert one.worst_ns == worst * 1_000_000
        assert one.final == pytest.approx(values[last] - 1.0)
        assert one.contributions.sum() == pytest.approx(one.worst)
        assert one.by_beta == ((NONE,) if own_new else (NEW, NONE))
        assert one.own == pytest.approx((80.0 if own_new else 70.0) / 85.0)
        assert one.market == pytest.approx(min(btc[at] for at in values) / btc[first] - 1.0)


def test_what_the_folder_does_not_hold_is_left_out(found: Stressed, market: Market) -> None:
    """2020-03 lies before the files: no figure, and the reason; a pair is named where the leader has nothing either."""
    one = found.replays[0]
    assert one.episode.key == "2020-03"
    assert math.isnan(one.worst)
    assert "no candles of 2020-03-07 to 2020-03-17" in one.why
    assert "(the files reach from 2021-03-01 to 2024-09-30)" in one.why
    values = market.panel.values.copy()
    values[:, 0] = np.nan
    other = stress(MINE, market._replace(panel=market.panel._replace(values=values)), Asked(paths=100)).replays[1]
    assert (other.by_beta, other.left_out) == ((), (BTC, NEW, NONE))
    assert math.isnan(other.market)
    assert (
        "left out, counted as unmoved: BTC/USDT, NEW/USDT, NONE/USDT"
        in grids_of(found._replace(replays=(other,)))["historical"]
    )
    values[:, 1] = np.nan
    nothing = stress(MINE, market._replace(panel=market.panel._replace(values=values)), Asked(paths=100)).replays[1]
    assert nothing.why
    weights = np.array([0.0, 0.0, 1.0, 0.0])  # ETH is there, but not held
    values[:, 1] = market.panel.values[:, 1]
    unheld = market._replace(panel=market.panel._replace(values=values))
    assert replay(unheld, found.known, weights, EPISODES[1]).why


def grids_of(found: Stressed) -> dict[str, str]:
    """Return every table's cells and note as text."""
    return {grid.key: " | ".join(" | ".join(row) for row in grid.rows) + " | " + grid.note for grid in grids(found)}


def test_falls_by_beta_and_alone(found: Stressed) -> None:
    """Each shock against the sum it stands for; parts add up to the whole."""
    weights = VALUES / 100_000.0

    assert named(found, "Every asset −20 %").change == pytest.approx(-0.2 * 0.85)
    assert named(found, "BTC −30 %").change == pytest.approx(-0.3 * float(weights @ found.known.beta))
    assert named(found, "ETH/USDT alone").change == pytest.approx(CRASH * 0.3)
    deviation = np.sqrt(np.diag(found.known.covariance))
    assert named(found, "All fall by 3").change == pytest.approx(-3.0 * float(weights @ deviation))
    measured = named(found, "A day of 3 deviations")
    assert measured.change == pytest.approx(-3.0 * float((found.known.rows @ weights).std(ddof=1)))
    assert named(found, "USDT loses its peg").change == pytest.approx(0.15 * DEPEG)
    for one in found.scenarios:
        assert one.contributions.sum() + one.cash == pytest.approx(one.change)
        assert one.change <= 0.0


def test_no_position_loses_more_than_itself(market: Market) -> None:
    """A beta of four in a fall of 40 % is a total loss, not more."""
    known = market._replace(returns=np.where(np.arange(4) == 1, 4.0 * market.returns[:, [0]], market.returns))
    one = named(stress(MINE, known, Asked(paths=100)), "BTC −40 %")

    assert one.contributions[1] == pytest.approx(-0.3)


def test_factors(found: Stressed) -> None:
    """Components are three deviations of the portfolio along each eigenvector; the others' factor leaves BTC still."""
    rows, weights = found.known.rows, VALUES / 100_000.0
    _, singular, vectors = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    deviations = singular / math.sqrt(len(rows) - 1)
    for at in range(3):
        one = named(found, f"Principal component {at + 1}")
        assert one.change == pytest.approx(-3.0 * deviations[at] * abs(float(vectors[at] @ weights)))
    other = named(found, "The others against BTC")
    assert other.contributions[0] == 0.0
    rest = rows[:, 1:] - rows[:, :1] * found.known.beta[1:]
    common = rest.mean(axis=1)
    slopes = [np.polyfit(common, rest[:, at], 1)[0] for at in range(3)]
    assert other.change == pytest.approx(-3.0 * common.std(ddof=1) * float(weights[1:] @ slopes))


def test_wilder_days(found: Stressed) -> None:
    """Twice the volatility is twice the deviation; with correlations at one the tails of the pairs add up."""
    case = {one.name: one for one in found.wild}
    weights = VALUES / 100_000.0
    usual, twice = case["As measured"], case["Volatility ×2"]
    together = case["Every correlation at one"]
    parts = [historical_tail(found.known.rows[:, at]) for at in range(4)]

    assert twice.normal.cvar == pytest.approx(2.0 * usual.normal.cvar)
    assert usual.historical == found.now.historical
    assert together.historical is not None
    assert together.historical.cvar == pytest.approx(sum(w * p.cvar for w, p in zip(weights, parts, strict=True) if p))
    assert together.deviation >= usual.deviation
    assert case["Correlation at one, volatility ×2"].deviation == pytest.approx(2.0 * together.deviation)


def test_selling_everything(found: Stressed, market: Market) -> None:
    """Half the volume takes twice as long; a pair without a known volume is named, and makes the cost unknown."""
    usual, half = found.exits[:2]

    assert usual.days[:3] == pytest.approx(VALUES[:3] / (0.1 * market.volume[:3]))
    assert half.days[:3] == pytest.approx(2.0 * usual.days[:3])
    assert math.isnan(usual.days[3])
    assert math.isnan(usual.cost)
    text = grids_of(found)["liquidity"]
    assert "Volume unknown: NONE/USDT" in text
    assert "NEW/USDT" in text.split(" | ")[1]


def test_paths_are_the_seeds(found: Stressed, market: Market) -> None:
    """The same seed gives the same page and document, another one other paths."""
    again = stress(MINE, market, Asked(paths=200, seed=3))
    other = stress(MINE, market, Asked(paths=200, seed=4))

    assert page(again) == page(found)
    assert document(again) == document(found)
    assert other.paths != found.paths
    assert len(found.paths.fan[0]) == 31


def test_only_cash(folder: Path) -> None:
    """Nothing held, nothing lost, but the money itself can lose its value."""
    market = load_market(folder, (), leader=BTC, timeframe="4h")
    found = stress(Portfolio((), np.zeros(0), 1000.0, "USDT", "cash"), market, Asked(paths=100))

    assert {one.change for one in found.scenarios if not one.cash} == {0.0}
    assert named(found, "USDT loses its peg").change == DEPEG
    assert found.paths.final == (1.0,) * 5
    assert "Nothing is held." in page(found)
    assert json.dumps(document(found), allow_nan=False)


def test_a_held_stablecoin(market: Market) -> None:
    """It loses its peg on its own; a quote that is no stablecoin has none."""
    pairs = (BTC, "USDC/EUR")
    named_so = market._replace(pairs=("BTC/EUR", "USDC/EUR", *market.pairs[2:]))
    found = stress(Portfolio(pairs, np.array([50.0, 50.0]), 0.0, "EUR", "mine"), named_so, Asked(paths=100))

    assert named(found, "USDC loses its peg").change == pytest.approx(0.5 * DEPEG)
    assert not [one for one in found.scenarios if "in dollars" in one.name]


@settings(max_examples=6)
@given(values=st.lists(st.floats(0.0, 1e6), min_size=4, max_size=4), cash=st.floats(1.0, 1e6))
def test_losses_keep_their_order(market: Market, values: list[float], cash: float) -> None:
    """Deeper falls lose more, nothing loses more than all, whatever is held."""
    found = stress(Portfolio(MINE.pairs, np.array(values), cash, "USDT", "mine"), market, Asked(paths=100, horizon=2))
    every = [named(found, f"Every asset −{drop} %").change for drop in (10, 20, 40)]
    leader = [named(found, f"BTC −{drop} %").change for drop in (10, 20, 30, 40)]

    assert every == sorted(every, reverse=True)
    assert leader == sorted(leader, reverse=True)
    assert named(found, "All fall by 3").change <= named(found, "A day of 3").change + 1e-12
    assert all(one.worst >= -1.0 for one in found.replays if not one.why)
    assert found.exits[0].in_day >= found.exits[1].in_day >= found.exits[2].in_day


def test_the_dates_of_the_crashes() -> None:
    """Each begins and ends where the documents say, within the month of its name."""
    assert [one.key for one in EPISODES] == ["2020-03", "2021-05", "2022-05", "2022-11", "2024-08"]
    for one in EPISODES:
        assert one.first < one.last
        assert one.key in {one.first[:7], one.last[:7]}


def test_a_folder_without_the_leader(folder: Path, tmp_path: Path) -> None:
    """One line with the remedy."""
    with pytest.raises(ConfigError, match="DOGE/USDT: no 4h candles .* --leader names another pair"):
        load_market(folder, (BTC,), leader="DOGE/USDT", timeframe="4h")
    with pytest.raises(ConfigError, match="no data folder at"):
        load_market(tmp_path / "none", (BTC,), leader=BTC, timeframe="4h")
    with pytest.raises(UsageError, match="-t 7m: must be one of"):
        load_market(folder, (BTC,), leader=BTC, timeframe="7m")


FORMS: list[tuple[str, str, bool]] = [
    ("a.json", '{"BTC/USDT": 1, "ETH/USDT": "2.5", "cash": 10}', False),
    ("b.json", '{"quantities": {"BTC/USDT": 1, "ETH/USDT": 2.5}, "cash": "10"}', False),
    ("c.json", '{"positions": [{"symbol": "BTC/USDT", "qty": "1", "price": 5}, {"pair": "ETH/USDT", "qty": 2.5}], "cash": 10}',
     False),
    ("d.toml", 'cash = 10\n[quantities]\n"BTC/USDT" = 1\n"ETH/USDT" = 2.5\n', False),
    ("e.csv", "\ufeffpair, quantity\nBTC/USDT, 1\nETH/USDT, 2.5\ncash, 10\n", False),
    ("f.csv", "Symbol,Qty,Price\nBTC/USDT,1,5\nETH/USDT,2.5,\n\ncash,10,\n", False),
    ("g.toml", 'cash = 10\n[weights]\n"BTC/USDT" = 1\n"ETH/USDT" = 2.5\n', True),
    ("h.csv", "pair,weight\nBTC/USDT,1\nETH/USDT,2.5\ncash,10", True),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "weights"), FORMS)
def test_portfolio_files(tmp_path: Path, name: str, text: str, weights: bool) -> None:
    """Every form says the same."""
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = read_portfolio(tmp_path / name)

    assert (found.amounts, found.weights, found.cash) == ({BTC: 1.0, ETH: 2.5}, weights, 10.0)
    assert found.prices == ({BTC: 5.0} if name in {"c.json", "f.csv"} else {})


def test_a_flat_table_of_weights() -> None:
    """Numbers without a name are quantities, unless it is said that they are weights."""
    assert parsed({BTC: 0.5}).weights is False
    assert parsed({BTC: 0.5}, weights=True).weights is True


BAD: list[tuple[str, str, str]] = [
    ("a.txt", "", "ends in .txt"),
    ("a.json", "{", "not JSON"),
    ("a.toml", "x", "not TOML"),
    ("a.json", "3", "holds no portfolio"),
    ("a.json", '{"BTC/USDT": true}', "BTC/USDT: 'True' is no amount"),
    ("a.json", '{"BTC/USDT": "many"}', "BTC/USDT: 'many' is no amount"),
    ("a.json", '{"BTC/USDT": NaN}', "is no amount"),
    ("a.json", '{"BTC/USDT": -1}', "spot portfolios hold 0 or more"),
    ("a.json", '{"BTCUSDT": 1}', "'BTCUSDT' is no pair: write BTC/USDT"),
    ("a.json", '{"../x/USDT": 1}', "is no pair"),
    ("a.json", '{"weights": {}, "quantities": {}}', "expected one of"),
    ("a.json", '{"weights": 3}', "weights is no table"),
    ("a.json", "[3]", "row 1 is no table"),
    ("a.json", '[{"pair": "BTC/USDT"}]', "row 1 lacks a pair or a quantity"),
    ("a.csv", "pair,quantity\nBTC/USDT,1\nBTC/USDT,2\n", "BTC/USDT stands there twice"),
    ("a.csv", "pair,quantity\nBTC/USDT,1,2\n", "row 1 has more cells"),
    ("a.csv", "pair,quantity,weight\nBTC/USDT,1,\nETH/USDT,,1\n", "some rows have a quantity and some only a weight"),
    ("a.json", json.dumps({f"A{at}/USDT": 1 for at in range(501)}), "501 pairs; at most 500"),
    ("a.json", " " * 1_000_001, "1000001 bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "line"), BAD)
def test_portfolio_files_that_are_none(tmp_path: Path, name: str, text: str, line: str) -> None:
    """One line that names the file and the fault."""
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as error:
        read_portfolio(tmp_path / name)

    assert line in str(error.value)
    assert str(error.value).startswith(f"--portfolio {tmp_path / name}: ")
    assert "\n" not in str(error.value)


def value_of(known: Given, **more: Any) -> Portfolio:
    """Return it valued at 100 for BTC."""
    return valued(known, {BTC: 100.0}, **{"cash": None, "equity": 1000.0, "quote": "USDT", "origin": "mine", **more})


def test_valued() -> None:
    """Prices of the file come before those of the candles; weights take the size that is told or follows from cash."""
    quantities = Given({BTC: 2.0, ETH: 0.0}, weights=False, cash=50.0, prices={})
    weights = Given({BTC: 0.5, ETH: 0.3}, weights=True, cash=None, prices={})

    assert value_of(quantities)[:3] == ((BTC,), np.array([200.0]), 50.0)
    assert value_of(quantities).by_candles == (BTC,)
    assert value_of(quantities, cash=7.0).equity == 207.0
    assert value_of(quantities._replace(prices={BTC: 3.0})).equity == 56.0
    assert value_of(weights).values.tolist() == [500.0, 300.0]
    assert value_of(weights, cash=400.0).equity == pytest.approx(2000.0)


@pytest.mark.parametrize(
    ("known", "cash", "line"),
    [
        (Given({ETH: 1.0}, weights=False, cash=None, prices={}), None, "no price of ETH/USDT"),
        (Given({BTC: 1.1}, weights=True, cash=None, prices={}), None, "weights add up to 1.1; at most 1"),
        (Given({BTC: 1.0}, weights=True, cash=None, prices={}), 5.0, "weights add up to 1 and cash is 5"),
        (Given({}, weights=False, cash=0.0, prices={}), None, "there is nothing to stress"),
    ],
)
def test_what_cannot_be_valued(known: Given, cash: float | None, line: str) -> None:
    """One line that says what to do."""
    with pytest.raises(UsageError, match=f"mine: .*{line}"):
        value_of(known, cash=cash)
