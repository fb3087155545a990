"""The backtest: fills, stops, outages, listings and halts, bar by bar, on histories small enough to check by hand."""

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.backtest.session import Session
from daemon.backtest.venue import Rates
from daemon.domain.events import Decide
from daemon.domain.orders import Fill, Side, Tif
from daemon.matching.bars import Costs
from tests.backtest.market import (
    BEGIN_NS,
    BTC,
    ETH,
    HOUR_NS,
    WARM,
    Wish,
    engine,
    flat,
    limits_with,
    panel,
    replayed,
    session,
)

FREE = (Rates(Decimal(0), Decimal(0), Decimal(0)),)
FIRST_CLOSE_NS = BEGIN_NS + (WARM + 1) * HOUR_NS


def first_only(weight: float) -> Wish:
    """Wish for a weight at the first close, and for nothing after it."""

    def wish(decide: Decide) -> list[float] | None:
        return [weight] if decide.close_ns == FIRST_CLOSE_NS else None

    return wish


# ---------------------------------------------------------------------- fills


def test_an_order_decided_at_a_close_fills_at_the_next_open() -> None:
    """Half the spread is paid beyond the open of the bar after the decision, at the time the order arrives there."""
    history = panel({BTC: [*flat(100.0, 1), [100.05, 101.0, 99.0, 100.5, 10_000.0], *flat(100.5, 2)]})
    made, _ = session(history, first_only(0.5), costs=Costs(0.0005, 0.0, 1.0))
    made.run()
    (fill,) = made.venue.fills

    assert fill.price == Decimal("100.11")  # 100.05 × 1.0005 = 100.100025, up to the tick
    assert fill.ts_event_ns == FIRST_CLOSE_NS + 100_000_000
    assert fill.qty == Decimal("500.00000")


def test_impact_grows_with_the_square_root_of_the_volume_taken() -> None:
    """A quarter of a bar's volume at 1 % for all of it: 2/3 × 1 % × 1/2 on average."""
    history = panel({BTC: [*flat(100.0, 1), *flat(100.0, 3, volume=2_000.0)]})
    wide = engine((BTC,), limits=limits_with(max_slippage_bps=200.0, price_collar=0.05))
    made, _ = session(history, first_only(0.5), config=wide, costs=Costs(0.0, 0.01, 1.0))
    made.run()
    (fill,) = made.venue.fills

    assert fill.price == Decimal("100.34")  # 100.3333 up to the tick
    assert float(made.venue.slippage) == pytest.approx(float(fill.qty) * 0.34)


def test_no_more_than_the_allowed_part_of_a_bars_volume_is_filled() -> None:
    """The rest of an immediate order expires; the next decision asks for it again."""
    history = panel({BTC: [*flat(100.0, 1), *flat(100.0, 4, volume=1_000.0)]})
    made, worker = session(history, lambda _: [0.5], costs=Costs(0.0, 0.0, 0.1))
    made.run()

    assert [fill.qty for fill in made.venue.fills] == [Decimal(100)] * 4
    assert worker.asked[1].weights[0] == pytest.approx(0.1, abs=2e-4)


def test_a_bar_without_volume_fills_nothing() -> None:
    """A price nobody traded at is no price to trade at."""
    history = panel({BTC: [*flat(100.0, 1), *flat(100.0, 1, volume=0.0), *flat(100.0, 1)]})
    made, _ = session(history, first_only(0.5))
    record = made.run()

    assert made.venue.fills == []
    assert record.orders == 1
    assert not made.engine.state.blotter.live


def test_an_immediate_order_does_not_pay_more_than_its_limit() -> None:
    """The next open is a per cent higher, the order allows 20 basis points: nothing trades."""
    history = panel({BTC: [*flat(100.0, 1), *flat(101.0, 2)]})
    made, _ = session(history, first_only(0.5))
    made.run()

    assert made.venue.fills == []


def test_a_resting_order_fills_only_when_the_market_trades_through_it() -> None:
    """A low at the limit is not enough, a tick below is; the maker's fee applies and the price is the limit."""
    touch = [100.1, 100.2, 100.0, 100.1, 10_000.0]
    through = [100.1, 100.2, 99.99, 100.1, 10_000.0]
    resting = engine((BTC,), tif=Tif.GTC, limits=limits_with(order=Tif.GTC))
    rates = (Rates(Decimal(0), Decimal("0.0001"), Decimal("0.001")),)

    def run(bar: list[float]) -> list[Fill]:
        history = panel({BTC: [*flat(100.0, 1), bar, *flat(100.1, 1)]})
        made, _ = session(history, first_only(0.5), config=resting, rates=rates)
        made.run()
        return made.venue.fills

    assert run(touch) == []
    (fill,) = run(through)
    assert (fill.price, fill.maker) == (Decimal("100.00"), True)
    assert fill.fee == (fill.qty * Decimal("0.0001")).quantize(Decimal("1e-8"))


def test_fees_follow_the_volume_of_thirty_days() -> None:
    """The first fill pays the first tier, one after enough volume the second."""
    rates = (
        Rates(Decimal(0), Decimal("0.001"), Decimal("0.001")),
        Rates(Decimal(10_000), Decimal(0), Decimal("0.0002")),
    )
    history = panel({BTC: flat(100.0, 5)})
    wishes = iter([[0.5], [0.0], None, None, None])
    made, _ = session(history, lambda _: next(wishes), rates=rates)
    made.run()
    buy, sell = made.venue.fills

    assert buy.fee == (buy.qty * Decimal("0.001")).quantize(Decimal("1e-8"))
    assert sell.fee == (sell.qty * sell.price * Decimal("0.0002")).quantize(Decimal("1e-8"))


# ---------------------------------------------------------------------- stops


def test_a_stop_inside_a_bar_sells_at_its_level() -> None:
    """Entry at 100, stop 5 % below; the bar falls to 90 and recovers: sold at 95 less half the spread."""
    history = panel({BTC: [*flat(100.0, 2), [100.0, 101.0, 90.0, 100.0, 10_000.0], *flat(100.0, 2)]})
    config = engine((BTC,), limits=limits_with(stop_loss=0.05))
    made, _ = session(history, first_only(0.5), config=config, costs=Costs(0.0002, 0.0, 1.0))
    record = made.run()
    buy, sell = made.venue.fills

    assert buy.price == Decimal("100.02")
    level = 100.02 * 0.95
    assert sell.side is Side.SELL
    assert float(sell.price) == pytest.approx(level * 0.9998, abs=0.01)
    assert record.alert_counts["stop_loss"] == 1


def test_a_bar_that_opens_below_the_stop_sells_at_the_open() -> None:
    """min(stop, open): nobody is given a price that never was."""
    history = panel({BTC: [*flat(100.0, 2), [92.0, 93.0, 90.0, 91.0, 10_000.0], *flat(91.0, 2)]})
    made, _ = session(history, first_only(0.5), config=engine((BTC,), limits=limits_with(stop_loss=0.05)))
    made.run()

    assert made.venue.fills[1].price == Decimal("92.00")


def test_the_adverse_extreme_comes_before_the_favourable_one() -> None:
    """A trailing stop 10 % below the high: the bar's own high raises it only after the bar's low was judged."""
    wide = [100.0, 130.0, 91.0, 125.0, 10_000.0]
    fall = [125.0, 126.0, 116.0, 118.0, 10_000.0]
    history = panel({BTC: [*flat(100.0, 2), wide, fall, *flat(118.0, 2)]})
    made, _ = session(history, first_only(0.5), config=engine((BTC,), limits=limits_with(trailing_stop=0.1)))
    record = made.run()

    assert record.alert_counts["trailing_stop"] == 1
    assert made.venue.fills[1].price == Decimal("117.00")  # 130 × 0.9, hit in the bar after


def test_a_close_below_the_stop_that_the_high_has_raised_is_a_hit() -> None:
    """Up to 150, back to 120, with a trailing stop at 10 %: sold at 135 on the way down."""
    history = panel({BTC: [*flat(100.0, 2), [100.0, 150.0, 100.0, 120.0, 10_000.0], *flat(120.0, 2)]})
    made, _ = session(history, first_only(0.5), config=engine((BTC,), limits=limits_with(trailing_stop=0.1)))
    made.run()

    assert made.venue.fills[1].price == Decimal("135.00")


# ---------------------------------------------------------------------- halts


def test_a_drawdown_sells_everything_halts_and_is_lifted_after_its_time() -> None:
    """The limit is hit at a close, sold at the next open, trading halts, and resumes after ``rearm_after``."""
    history = panel({BTC: [*flat(100.0, 2), *flat(70.0, 12)]})
    config = engine((BTC,), limits=limits_with(max_drawdown=0.1))
    made, worker = session(history, lambda _: [0.5], config=config, rearm_ns=5 * HOUR_NS)
    record = made.run()
    sides = [fill.side for fill in made.venue.fills]

    assert record.halts == 1
    assert sides[:2] == [Side.BUY, Side.SELL]
    assert sides[2] is Side.BUY  # again after the halt
    halted = [step for step in record.steps if step.detail.startswith("halted: drawdown")]
    assert len(halted) >= 4
    assert worker.asked[-1].weights[0] == pytest.approx(0.5, abs=0.01)


# ---------------------------------------------------------------------- outages, listings, ends


def test_an_outage_of_the_venue_means_no_bars_no_decisions_no_fills() -> None:
    """The order sent before it finds no market; after it the engine has every bar, the hidden ones empty."""
    history = panel({BTC: [*flat(100.0, 1), None, None, None, *flat(100.0, 3)]})
    made, worker = session(history, lambda _: [0.5])
    record = made.run()
    asked = [round((one.close_ns - BEGIN_NS) / HOUR_NS) - WARM for one in worker.asked]

    assert record.outages == 1
    assert asked == [1, 5, 6, 7]
    assert len(made.venue.fills) == 1
    assert (made.venue.fills[0].ts_event_ns - BEGIN_NS) // HOUR_NS == WARM + 5
    assert len(record.equity) == 8
    bars = {bar.close_ns for one in worker.asked for bar in one.bars}
    assert {BEGIN_NS + (WARM + n) * HOUR_NS for n in range(2, 8)} <= bars


def test_a_symbol_listed_later_is_not_bought_before() -> None:
    """Until its first bar it is frozen; decisions on the other go on."""
    history = panel({BTC: flat(100.0, 6), ETH: [None, None, None, *flat(50.0, 3)]})
    made, worker = session(history, lambda _: [0.3, 0.3])
    made.run()
    eth = [fill for fill in made.venue.fills if fill.symbol == ETH]

    assert len(worker.asked) == 6
    assert worker.asked[0].frozen == (False, True)
    assert min(fill.ts_event_ns for fill in eth) > BEGIN_NS + (WARM + 4) * HOUR_NS


def test_the_end_of_a_file_is_not_a_delisting() -> None:
    """What is held keeps its last price and cannot be traded; nothing is sold at zero."""
    history = panel({BTC: flat(100.0, 8), ETH: [*flat(50.0, 4), None, None, None, None]})
    made, _ = session(history, lambda _: [0.3, 0.3], rates=FREE)
    record = made.run()

    assert made.engine.state.account.positions[ETH] == Decimal(600)
    assert float(record.equity[-1]) == pytest.approx(100_000.0)
    assert max(fill.ts_event_ns for fill in made.venue.fills if fill.symbol == ETH) < BEGIN_NS + (WARM + 4) * HOUR_NS


def test_a_delisted_symbol_is_traded_no_more() -> None:
    """From the time given on its orders are not even sent."""
    history = panel({BTC: flat(100.0, 8)})
    wishes = iter([[0.5], *[[0.0]] * 20])
    made, _ = session(history, lambda _: next(wishes), delisted={BTC: BEGIN_NS + (WARM + 2) * HOUR_NS})
    made.run()

    assert [fill.side for fill in made.venue.fills] == [Side.BUY]


def test_a_symbol_without_a_row_among_others_gets_an_empty_bar() -> None:
    """Its price stays and its order finds no volume, while the other trades."""
    history = panel({BTC: flat(100.0, 4), ETH: [*flat(50.0, 1), None, *flat(50.0, 2)]})
    wishes = iter([[0.3, 0.3], None, None, None])
    made, _ = session(history, lambda _: next(wishes))
    record = made.run()

    assert [fill.symbol for fill in made.venue.fills] == [BTC]
    assert record.outages == 0


# ---------------------------------------------------------------------- accounting


@given(
    seed=st.integers(0, 10_000),
    spread=st.sampled_from([0.0, 0.0005]),
    impact=st.sampled_from([0.0, 0.005]),
    stop=st.sampled_from([0.0, 0.03]),
)
def test_equity_follows_from_fills_and_closes_alone(seed: int, spread: float, impact: float, stop: float) -> None:
    """Random walks, random wishes, stops, holes: equity recomputed from fills and closes agrees to 1e-9 at every bar."""
    rng = np.random.default_rng(seed)
    table: dict[str, list[list[float] | None]] = {}
    for symbol, price in ((BTC, 100.0), (ETH, 7.0)):
        rows: list[list[float] | None] = []
        before = price
        for _ in range(40):
            close = before * float(np.exp(rng.normal(0.0, 0.02)))
            high, low = max(before, close) * 1.01, min(before, close) * 0.99
            rows.append([before, high, low, close, float(rng.uniform(0.0, 5_000.0))])
            before = close
        table[symbol] = rows
    for place in range(10, 13):
        table[BTC][place] = table[ETH][place] = None
    table[ETH][20] = None
    history = panel(table)
    config = engine((BTC, ETH), limits=limits_with(stop_loss=stop, max_slippage_bps=100.0, price_collar=0.05))
    made, _ = session(
        history, lambda _: rng.uniform(0.0, 0.49, 2).tolist(), config=config, costs=Costs(spread, impact, 0.2)
    )
    record = made.run()
    equity = [float(one) for one in record.equity]

    assert replayed(made, history) == pytest.approx(equity, rel=1e-9)
    own = made.engine.state.account
    balances = {asset: amount for asset, amount in made.venue.balances.items() if amount}
    assert balances.pop("USDT") == own.cash
    assert balances == {symbol.partition("/")[0]: qty for symbol, qty in own.positions.items()}


def test_the_same_history_gives_the_same_run() -> None:
    """Twice the same: equity, fills, steps, to the last digit."""
    rng = np.random.default_rng(1)
    walk = 100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.01, 60)))
    rows = [[p, p * 1.01, p * 0.99, p * 1.002, 1_000.0] for p in walk.tolist()]

    def run() -> Session:
        wishes = np.random.default_rng(2)
        made, _ = session(panel({BTC: rows}), lambda _: [float(wishes.uniform(0.0, 0.9))])
        made.run()
        return made

    one, two = run(), run()
    assert one.venue.fills == two.venue.fills
    assert one.record.equity == two.record.equity
    assert one.record.steps == two.record.steps
