"""Getting out: stops, flatten and drawdown finish what they begin, whatever comes between."""

from decimal import Decimal

import msgspec
import pytest

from daemon.core.exitdesk import WAITS_MAX
from daemon.core.exits import PAGE_AFTER, Exits
from daemon.domain.events import (
    Action,
    Alert,
    Backfill,
    Cancel,
    CancelAll,
    Candles,
    Command,
    Confirmed,
    ConfirmQuiet,
    Decide,
    Decided,
    Effect,
    Fault,
    Flow,
    Killed,
    Link,
    Listed,
    Persist,
    Reconciled,
    Restored,
    Submit,
    TradingState,
    WorkerUp,
)
from daemon.domain.market import NS_PER_MS, NS_PER_S, Bar, BarFlag, Book
from daemon.domain.orders import Approved, Cause, OrderRecord, OrderState, Side, Tif
from daemon.domain.signal import Targets
from risk.limits import Limits
from tests.core.driver import PRICES, START_NS, SYMBOLS, Driver, all_of, instrument, make_config, make_intent, only

BTC, ETH = SYMBOLS
GTC = make_config(tif=Tif.GTC, limits=Limits(order=Tif.GTC, stop_cooldown_ns=60 * NS_PER_S))
DROP = Limits(stop_loss=0.0, trailing_stop=0.0, max_drawdown=0.02, max_daily_loss=0.9)


def command(driver: Driver, action: Action) -> tuple[Effect, ...]:
    """Let an operator speak."""
    return driver.send(Command("1", action, "test", driver.now_ns))


def approved(effects: tuple[Effect, ...]) -> list[Approved]:
    """Return every approved intent."""
    return [one for submit in all_of(effects, Submit) for one in submit.approved]


def fall(driver: Driver, symbol: str, price: float) -> tuple[Effect, ...]:
    """Let a price fall far, with its book, and time pass until losses are judged."""
    effects = driver.tick(symbol, price)
    driver.books()
    return effects + driver.timer(1100)


# ---------------------------------------------------------------------- the list of exits


def test_numbers_of_attempts_rise_with_time_and_never_repeat() -> None:
    """A ledger that was lost begins again with epoch 1: the number alone must keep client ids apart."""
    first, second = Exits(), Exits()
    first.start(BTC, Cause.STOP_LOSS, 5)
    second.start(BTC, Cause.STOP_LOSS, 5)
    job = first.active[BTC]

    numbers = [first.attempted(job, 10), first.attempted(job, 10), first.attempted(job, 9)]

    assert numbers == [10, 11, 12]
    assert second.attempted(second.active[BTC], 20) == 20


def test_a_symbol_has_one_exit_with_the_cause_it_began_for() -> None:
    """A second reason does not start it twice; ending it tells the first."""
    exits = Exits()

    assert exits.start(BTC, Cause.STOP_LOSS, 1)
    assert not exits.start(BTC, Cause.FLATTEN, 1)
    assert [job.symbol for job in exits.due(1)] == [BTC]
    assert exits.due(0) == []
    assert exits.finish(BTC) is Cause.STOP_LOSS
    assert exits.finish(BTC) is None


# ---------------------------------------------------------------------- resting orders


def test_a_resting_sale_does_not_keep_a_stop_from_selling() -> None:
    """A limit at the touch that the market has left is cancelled; the stop sells when it has ended."""
    driver = Driver(GTC).start()
    for one in approved(driver.decide(BTC=0.1)):
        driver.fill(one)
    resting = approved(driver.decide(BTC=0.03))[0]
    assert resting.intent.side is Side.SELL
    driver.send(driver.news(resting, OrderState.ACKED))

    effects = driver.tick(BTC, 36_000.0)
    assert only(effects, Cancel).client_id == resting.intent.client_id
    assert not approved(effects)
    driver.send(driver.news(resting, OrderState.CANCELED))
    driver.books()

    sold = approved(driver.timer(600))
    assert {one.intent.cause for one in sold} == {Cause.STOP_LOSS}
    assert {one.intent.tif for one in sold} == {Tif.IOC}


def test_resting_sales_are_cancelled_before_their_symbol_is_decided_anew() -> None:
    """A resting order of either side ends before its symbol is planned again."""
    driver = Driver(GTC).start()
    for one in approved(driver.decide(BTC=0.1)):
        driver.fill(one)
    resting = approved(driver.decide(BTC=0.03))[0]
    driver.send(driver.news(resting, OrderState.ACKED))

    assert only(driver.bar(), Cancel).client_id == resting.intent.client_id


def test_an_exit_awaits_the_end_of_a_resting_buy_but_not_for_ever() -> None:
    """P9: we do not meet our own bid; a venue that does not answer must not keep us in."""
    driver = Driver(GTC).start()
    for one in approved(driver.decide(BTC=0.1)):
        driver.fill(one)
    resting = approved(driver.decide(BTC=0.2))[0]
    driver.send(driver.news(resting, OrderState.ACKED))

    effects = driver.tick(BTC, 36_000.0)
    assert all_of(effects, Cancel)
    assert not approved(effects)
    driver.books()
    waited = driver.timer(WAITS_MAX * 500 - 100)
    assert not approved(waited)
    driver.books()

    assert approved(driver.timer(600))


def test_resting_buys_are_withdrawn_when_exposure_may_not_grow() -> None:
    """I12: REDUCING leaves no buy in the book, and asks again until it is gone."""
    driver = Driver(GTC).start()
    resting = approved(driver.decide(BTC=0.1))[0]
    driver.send(driver.news(resting, OrderState.ACKED))

    assert only(command(driver, Action.REDUCE_ONLY), Cancel).client_id == resting.intent.client_id
    later = []
    for _ in range(7):
        driver.books()
        later += [one for one in all_of(driver.timer(1000), Cancel) if one.detail == "exposure may not grow now"]
    assert len(later) == 1

    command(driver, Action.RESUME)
    driver.books()
    assert not all_of(driver.timer(100), Cancel)


def test_f26_what_rests_in_a_halted_symbol_is_cancelled_until_it_is_gone() -> None:
    """Also while trading is ACTIVE; the other symbol's order stays, and nothing is cancelled once the symbol is back."""
    driver = Driver(GTC).start()
    one, other = approved(driver.decide(BTC=0.1, ETH=0.1))
    for order in (one, other):
        driver.send(driver.news(order, OrderState.ACKED))
    rules = {symbol: market.instrument for symbol, market in driver.engine.state.markets.items()}
    mine = rules[one.intent.symbol]
    assert mine is not None
    driver.send(Listed((msgspec.structs.replace(mine, trading=False),), driver.now_ns))

    def asked() -> list[str]:
        driver.books()
        cancels = all_of(driver.timer(1000), Cancel)
        return [cancel.client_id for cancel in cancels if cancel.detail == "its symbol is not traded now"]

    assert [name for _ in range(7) for name in asked()] == [one.intent.client_id] * 2
    driver.send(Listed((mine,), driver.now_ns))
    assert not [name for _ in range(7) for name in asked()]


# ---------------------------------------------------------------------- flatten


def test_what_a_late_execution_buys_after_flatten_is_sold_too() -> None:
    """Flatten = sell all: an order that was on its way when the word came is no exception."""
    driver = Driver().start()
    late = approved(driver.decide(BTC=0.1))[0]
    assert only(command(driver, Action.FLATTEN), CancelAll).detail == "flatten"

    sold = approved(driver.fill(late))

    assert {one.intent.cause for one in sold} == {Cause.FLATTEN}


def test_resume_ends_a_flatten_but_no_stop() -> None:
    """The operator's word takes back the operator's word; a stop was the market's."""
    driver = Driver().start().buy(BTC=0.1, ETH=0.1)
    driver.tick(BTC, 36_000.0)
    command(driver, Action.FLATTEN)
    assert set(driver.engine.state.exits.active) == {BTC, ETH}

    command(driver, Action.RESUME)

    assert set(driver.engine.state.exits.active) == {BTC}


# ---------------------------------------------------------------------- drawdown


def test_a_drawdown_does_not_halt_while_a_stop_is_still_selling() -> None:
    """A9: HALTED when flat; before, the halt itself would keep the position in."""
    limits = msgspec.structs.replace(DROP, stop_loss=0.08)
    driver = Driver(make_config(limits=limits)).start().buy(BTC=0.1)
    first = approved(driver.tick(BTC, 30_000.0))
    assert first
    driver.books()
    driver.timer(1100)
    assert "drawdown" in driver.engine.state.causes
    for one in first:
        driver.send(driver.news(one, OrderState.EXPIRED))
    driver.books()
    again = approved(driver.timer(2000))

    assert driver.engine.state.trading is TradingState.REDUCING
    assert again
    for one in again:
        driver.fill(one, price="29990")
    driver.books()
    driver.timer(1100)
    assert driver.engine.state.trading is TradingState.HALTED


def test_a_drawdown_cancels_what_rests_and_sells_what_is_bought_after_it() -> None:
    """A late fill reopens the sale, and the halt waits for it."""
    driver = Driver(make_config(limits=DROP)).start().buy(BTC=0.1)
    late = approved(driver.decide(BTC=0.1, ETH=0.1))[0]
    effects = fall(driver, BTC, 20_000.0)
    assert any(one.detail == "drawdown" for one in all_of(effects, CancelAll))
    for one in approved(effects):
        driver.fill(one, price="19990")
    driver.books()
    driver.timer(1100)
    assert driver.engine.state.trading is TradingState.REDUCING, "an order is still on its way"

    sold = approved(driver.fill(late))
    assert {one.intent.cause for one in sold} == {Cause.DRAWDOWN}
    for one in sold:
        driver.fill(one)
    driver.books()
    driver.timer(2000)
    assert driver.engine.state.trading is TradingState.HALTED

    command(driver, Action.RESUME)
    assert driver.engine.state.trading is TradingState.ACTIVE
    driver.books()
    driver.timer(1100)
    assert driver.engine.state.trading is TradingState.ACTIVE, "the peak begins again from here"


def test_a_drawdown_remembered_goes_on_selling_after_a_restart() -> None:
    """The latch survives; what is still held is sold, then trading halts."""
    driver = Driver(make_config(limits=DROP)).start().buy(BTC=0.1)
    fall(driver, BTC, 20_000.0)
    memory = all_of(driver.effects, Persist)[-1].state_json
    account = driver.engine.state.account
    again = Driver(make_config(limits=DROP))
    again.prices[BTC] = 20_000.0
    positions, entries = tuple(account.positions.items()), tuple(account.entries.items())
    again.send(Restored(2, account.cash, positions, entries, (), memory.replace('"BTC/USDT":"drawdown"', ""), START_NS))
    again.send(Listed(tuple(instrument(symbol) for symbol in SYMBOLS), START_NS))
    assert "drawdown" in again.engine.state.causes
    assert not again.engine.state.exits.active
    again.send(Link("user", up=True, detail="", ts_ns=START_NS), Link("market", up=True, detail="", ts_ns=START_NS))
    again.send(*(again.history(symbol, 10) for symbol in SYMBOLS))
    again.books()
    again.send(Reconciled(ok=True, balances=(), breaks=(), external_orders=0, ts_ns=START_NS))

    sold = approved(again.timer(1100))

    assert {one.intent.cause for one in sold} == {Cause.DRAWDOWN}
    assert again.engine.state.trading is TradingState.REDUCING


def test_losses_are_not_judged_before_recovery_is_complete() -> None:
    """An account half read must not look like a loss."""
    driver = Driver()
    driver.timer(2000)

    assert not driver.engine.state.losses.known


# ---------------------------------------------------------------------- halted, blind, dust


def test_nothing_is_attempted_while_halted_and_all_of_it_afterwards() -> None:
    """A9: HALTED sends only cancels; the stop that was hit waits and does not fill the ledger with refusals."""
    driver = Driver().start().buy(BTC=0.1)
    driver.send(Fault("feed", "died", driver.now_ns))
    effects = driver.tick(BTC, 36_000.0)
    assert [one.code for one in all_of(effects, Alert)] == ["stop_loss", "exit_waits"]
    driver.books()
    later = driver.timer(3000)
    assert not all_of(effects + later, Submit)
    assert not all_of(later, Alert)

    command(driver, Action.RESUME)
    driver.books()
    assert approved(driver.timer(600))


def test_stops_live_on_prices_by_rest_while_the_stream_is_dead() -> None:
    """DESIGN: REST if the stream is dead; its price is judged and the exit leaves on it."""
    driver = Driver().start().buy(BTC=0.1)
    driver.send(Link("market", up=False, detail="cut", ts_ns=driver.now_ns))
    asked = all_of(driver.timer(8000), ConfirmQuiet)
    assert {one.symbol for one in asked} == {BTC}
    assert 1 <= len(asked) <= 3

    answer = Confirmed(BTC, driver.ids[BTC] + 9, 36_000.0, True, driver.now_ns)
    effects = driver.send(answer)

    assert {one.intent.cause for one in approved(effects)} == {Cause.STOP_LOSS}


def test_an_exit_without_a_price_is_paged() -> None:
    """Nobody may believe a position is being sold while nothing can be planned."""
    driver = Driver().start().buy(BTC=0.1)
    command(driver, Action.FLATTEN)
    market = driver.engine.state.markets[BTC]
    for one in driver.engine.state.blotter.working(BTC):
        driver.send(driver.news(Approved(one.intent, 0), OrderState.EXPIRED))
    market.book, market.last = None, 0.0
    effects = driver.timer(2000)

    assert "no price" in all_of(effects, Alert)[0].detail


def test_an_exit_that_takes_too_many_attempts_is_paged() -> None:
    """A8: the last rung is repeated and paged."""
    driver = Driver().start().buy(BTC=0.1)
    effects = driver.tick(BTC, 36_000.0)
    for _ in range(PAGE_AFTER + 1):
        for one in approved(effects):
            driver.send(driver.news(one, OrderState.EXPIRED))
        driver.books()
        effects = driver.timer(1600)

    assert any(one.code == "exit_slow" for one in all_of(effects, Alert))


def test_an_exit_the_gate_refuses_says_why() -> None:
    """A refusal of an exit is an alert, not a silence."""
    driver = Driver().start().buy(BTC=0.1)
    rules = instrument(BTC)
    driver.engine.state.markets[BTC].instrument = msgspec.structs.replace(rules, max_orders=1)
    live = approved(driver.decide(BTC=0.2))[0]
    assert live.intent.side is Side.BUY
    effects = driver.send(Command("1", Action.FLATTEN, "test", driver.now_ns))

    assert "p12_filter" in only(effects, Alert).detail


def test_an_exit_that_cannot_succeed_is_told_now_and_then_and_fills_no_ledger() -> None:
    """A market that is closed, or a price nobody knows: waiting, not a refusal every second."""
    driver = Driver().start().buy(BTC=0.1)
    driver.now_ns += 11 * NS_PER_S
    effects = driver.send(Command("1", Action.FLATTEN, "test", driver.now_ns))
    assert "11 s old" in only(effects, Alert).detail

    driver.engine.state.markets[BTC].instrument = msgspec.structs.replace(instrument(BTC), trading=False)
    driver.books()
    later: list[Effect] = []
    for _ in range(70):
        driver.books()
        later += driver.timer(1000)
    assert not all_of(later, Submit)
    told = [one.detail for one in all_of(later, Alert) if one.code == "exit_waits"]
    assert told == ["the venue does not trade it now"] * 2


def test_a_symbol_without_trading_rules_waits() -> None:
    """Unknown filters: nothing can be planned, the exit stays."""
    driver = Driver().start().buy(BTC=0.1)
    driver.engine.state.markets[BTC].instrument = None
    command(driver, Action.FLATTEN)

    assert BTC in driver.engine.state.exits.active


def test_dust_remembered_from_the_last_session_is_not_guarded() -> None:
    """A crumb the venue would not take must not trigger a stop and a day of cool-down."""
    driver = Driver()
    driver.send(Restored(2, Decimal(1000), ((BTC, Decimal("0.000001")),), ((BTC, 50_000.0),), (), "", START_NS))
    driver.send(Listed(tuple(instrument(symbol) for symbol in SYMBOLS), START_NS))
    driver.send(Link("market", up=True, detail="", ts_ns=START_NS), driver.history(BTC, 10))

    effects = driver.tick(BTC, 39_000.0)

    assert not all_of(effects, Alert)
    assert not driver.engine.state.stops.cooling(BTC, driver.now_ns)


def test_dust_that_is_left_ends_a_flatten() -> None:
    """What cannot be sold is not tried again for ever."""
    driver = Driver().start()
    driver.send(Flow("BTC", Decimal("0.00000001"), ours=True, detail="adopted", ts_ns=driver.now_ns))
    effects = command(driver, Action.FLATTEN)

    assert only(effects, Alert).code == "dust"
    assert not driver.engine.state.exits.active
    assert driver.engine.exits.begin(Cause.DRAWDOWN, driver.now_ns) == ()


def test_an_adopted_position_is_guarded_at_once() -> None:
    """No position is ever without a stop: the first trade stands in for an entry nobody knows."""
    driver = Driver().start()
    driver.send(Flow("BTC", Decimal("0.2"), ours=True, detail="adopted", ts_ns=driver.now_ns))
    driver.tick(BTC)

    assert driver.engine.state.stops.level(BTC) == pytest.approx(40_000.0 * 0.92)
    assert approved(driver.tick(BTC, 36_000.0))


def test_an_exit_that_lost_its_position_ends_by_itself() -> None:
    """A remembered exit of what was sold meanwhile is not attempted."""
    driver = Driver().start().buy(BTC=0.1)
    driver.engine.state.exits.start(ETH, Cause.FLATTEN, driver.now_ns)
    driver.timer(50)

    assert ETH not in driver.engine.state.exits.active


def test_hourly_candles_feed_the_volatility_stop() -> None:
    """The chandelier exit hangs ATR multiples below the high."""
    limits = Limits(stop_loss=0.5, trailing_stop=0.5, volatility_stop=2.0)
    driver = Driver(make_config(limits=limits)).start()
    hour = 3600 * NS_PER_S
    bars = tuple(
        Bar(BTC, at, at + hour, 40_000.0, 40_200.0, 39_800.0, 40_000.0, 1, 1, -1, -1, BarFlag.BACKFILLED)
        for at in range(0, 16 * hour, hour)
    )
    driver.send(Candles(BTC, hour, bars[:1], driver.now_ns))
    driver.buy(BTC=0.1)
    assert driver.engine.state.stops.level(BTC) < 25_000
    driver.send(Candles(BTC, hour, bars, driver.now_ns))

    assert driver.engine.state.stops.level(BTC) == pytest.approx(40_084.0 - 2 * 400.0)


# ---------------------------------------------------------------------- being away


def test_a_machine_that_slept_reconciles_before_exposure_may_grow() -> None:
    """F45: after a pause nothing from before is believed; only a comparison with the venue lifts the restriction."""
    driver = Driver().start()
    driver.bar()
    driver.now_ns += 30 * NS_PER_S
    effects = driver.timer(50)
    assert {one.symbol for one in all_of(effects, ConfirmQuiet)} == set(SYMBOLS)
    for _ in range(8):
        driver.bar()
        driver.timer(100)
    assert "loop_lag" in driver.engine.state.causes

    driver.send(Reconciled(ok=True, balances=(), breaks=(), external_orders=0, ts_ns=driver.now_ns))
    driver.timer(50)
    assert "loop_lag" not in driver.engine.state.causes


def test_a_lagging_loop_is_reducing_for_a_while() -> None:
    """A7: lag above two seconds restricts, and clears by itself."""
    driver = Driver().start()
    driver.now_ns += 2500 * NS_PER_MS
    driver.timer(50)
    assert "loop_lag" in driver.engine.state.causes

    driver.timer(6000)
    assert "loop_lag" not in driver.engine.state.causes


# ---------------------------------------------------------------------- turns


def test_decisions_fall_on_multiples_of_the_epoch_whatever_the_start() -> None:
    """A restart does not move them; only the very first one of a session comes at once."""
    driver = Driver(make_config(rebalance_every=4)).start()
    asked = [ask.close_ns // NS_PER_S % 4 for _ in range(12) for ask in all_of(driver.bar(), Decide)]

    assert asked[1:] == [0] * (len(asked) - 1)
    assert len(asked) >= 3


# ---------------------------------------------------------------------- out of the universe


def test_what_is_held_and_has_left_the_universe_is_valued_guarded_and_sold() -> None:
    """DESIGN: a held symbol that leaves the universe is close-only; it must not blind equity and stop all trading."""
    config = make_config(universe=(BTC,), leaving=(ETH,))
    driver = Driver(config)
    now = driver.now_ns
    driver.send(Restored(2, Decimal(90_000), ((ETH, Decimal(5)),), ((ETH, 2_000.0),), (), "", now))
    driver.send(Listed(tuple(instrument(symbol) for symbol in SYMBOLS), now))
    driver.send(Link("user", up=True, detail="", ts_ns=now), Link("market", up=True, detail="", ts_ns=now))
    driver.ids[ETH] = 1000
    driver.send(*(driver.history(symbol, 20) for symbol in SYMBOLS))
    driver.send(Reconciled(ok=True, balances=(), breaks=(), external_orders=0, ts_ns=now), WorkerUp("m", 0, now))
    for symbol in SYMBOLS:
        driver.send(Book(symbol, PRICES[symbol] * 0.9999, 5.0, PRICES[symbol] * 1.0001, 5.0, driver.now_ns))
    assert driver.engine.state.equity() == 90_000 + 5 * Decimal(2_000)
    assert driver.engine.state.stops.level(ETH) == pytest.approx(2_000 * 0.92)

    driver.bar()
    driver.now_ns = (driver.now_ns // NS_PER_S + 1) * NS_PER_S + NS_PER_MS
    driver.tick(ETH)
    driver.send(Book(ETH, 1_999.8, 5.0, 2_000.2, 5.0, driver.now_ns))
    ask = only(driver.tick(BTC), Decide)
    assert ask.symbols == (BTC,)
    sold = approved(driver.send(Decided(ask.seq, Targets((BTC,), (0.0,)), 1, 1, 1, driver.now_ns)))

    assert {(one.intent.symbol, one.intent.cause) for one in sold} == {(ETH, Cause.CLOSE_ONLY)}
    assert sum(one.intent.qty for one in sold) == 5


def test_f26_what_is_held_and_not_listed_any_more_is_shown_and_keeps_no_stop_of_the_others() -> None:
    """Nothing is asked about it, nothing is bought since equity is unknown, and the universe is guarded as ever."""
    driver = Driver(make_config(universe=(BTC,), leaving=(ETH,)))
    now = driver.now_ns
    held = ((BTC, Decimal(1)), (ETH, Decimal(5)))
    driver.send(Restored(2, Decimal(90_000), held, ((BTC, PRICES[BTC]), (ETH, 2_000.0)), (), "", now))
    driver.send(Listed((instrument(BTC),), now))
    driver.send(Link("user", up=True, detail="", ts_ns=now), Link("market", up=True, detail="", ts_ns=now))
    driver.send(driver.history(BTC, 20))
    driver.send(Reconciled(ok=True, balances=(), breaks=(), external_orders=0, ts_ns=now), WorkerUp("m", 0, now))
    driver.send(Book(BTC, PRICES[BTC] * 0.9999, 5.0, PRICES[BTC] * 1.0001, 5.0, driver.now_ns))
    quiet = [one for _ in range(200) for one in driver.timer(100)]
    state = driver.engine.state

    assert {one.symbol for one in quiet if isinstance(one, Backfill | ConfirmQuiet)} <= {BTC}
    assert state.account.position(ETH) == 5
    assert state.equity() is None
    driver.send(Book(BTC, PRICES[BTC] * 0.9999, 5.0, PRICES[BTC] * 1.0001, 5.0, driver.now_ns))
    driver.timer()
    assert driver.engine.silence() == ""
    assert state.trading is TradingState.ACTIVE
    fallen = PRICES[BTC] * 0.8
    driver.send(Book(BTC, fallen * 0.9999, 5.0, fallen * 1.0001, 5.0, driver.now_ns))
    sold = approved(driver.tick(BTC, fallen))
    assert {(one.intent.symbol, one.intent.cause) for one in sold} == {(BTC, Cause.STOP_LOSS)}


def test_p15_a_resting_buy_of_what_has_left_the_universe_is_withdrawn() -> None:
    """Close-only holds for orders of an earlier session too; a sell may go on, and the universe's own orders stay."""
    driver = Driver(make_config(universe=(BTC,), leaving=(ETH,), tif=Tif.GTC))
    wishes = [
        make_intent(client_id="b1", symbol=ETH, tif=Tif.GTC),
        make_intent(client_id="b2", symbol=ETH, tif=Tif.GTC, side=Side.SELL),
        make_intent(client_id="b3", symbol=BTC, tif=Tif.GTC),
    ]
    orders = tuple(OrderRecord(one, OrderState.ACKED, one.client_id, Decimal(0), START_NS) for one in wishes)
    held = ((ETH, Decimal(5)),)
    driver.send(Restored(2, Decimal(90_000), held, ((ETH, 2_000.0),), orders, "", START_NS))
    driver.send(Listed(tuple(instrument(symbol) for symbol in SYMBOLS), START_NS))
    driver.send(Link("user", up=True, detail="", ts_ns=START_NS), Link("market", up=True, detail="", ts_ns=START_NS))
    driver.ids[ETH] = 1000
    driver.send(*(driver.history(symbol, 20) for symbol in SYMBOLS))
    driver.send(
        Reconciled(ok=True, balances=(), breaks=(), external_orders=0, ts_ns=START_NS), WorkerUp("m", 0, START_NS)
    )
    assert driver.engine.state.trading is TradingState.ACTIVE

    asked = []
    for _ in range(6):
        driver.books()
        asked += [one for one in all_of(driver.timer(1000), Cancel) if one.detail == "it has left the universe"]

    assert {one.client_id for one in asked} == {"b1"}
    assert 1 <= len(asked) <= 2


def test_a_kill_that_was_remembered_cancels_again() -> None:
    """I7: the last session may have died before its cancels were answered."""
    driver = Driver()
    driver.send(Restored(2, Decimal(1000), (), (), (), '{"causes":{"kill":"halted"}}', START_NS))

    assert only(driver.send(Killed(on=True, detail="x", ts_ns=START_NS)), CancelAll).detail == "kill"
