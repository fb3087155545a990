"""The engine, event by event: recovery, decisions, stops, faults, commands."""

from array import array
from decimal import Decimal
from typing import get_args

import pytest

from daemon.core.engine import Engine
from daemon.domain.events import (
    Action,
    Alert,
    BarClosed,
    Booked,
    Cancel,
    CancelAll,
    Candle,
    Candles,
    Command,
    Confirmed,
    ConfirmQuiet,
    Decide,
    Decided,
    Denied,
    Event,
    Fault,
    FetchBar,
    FetchTrades,
    Killed,
    Link,
    Listed,
    Persist,
    Reconciled,
    Recorded,
    Repair,
    Resolve,
    Restored,
    Seed,
    StateChanged,
    Step,
    Submit,
    TradingState,
    WorkerDown,
)
from daemon.domain.market import NS_PER_MS, NS_PER_S, Bar, BarFlag, Book, Tick
from daemon.domain.orders import Cause, OrderRecord, OrderState, Side
from daemon.domain.signal import NoDecision, NoReason, Targets
from risk.limits import Limits
from tests.core.driver import START_NS, SYMBOLS, Driver, all_of, make_config, only


def test_a_start_is_halted_until_reconciled() -> None:
    """A9: nothing trades before ledger and exchange agree."""
    driver = Driver()
    driver.send(Restored(1, Decimal(0), (), (), (), "", START_NS))

    assert driver.engine.state.trading is TradingState.HALTED

    driver.start()

    assert driver.engine.state.trading is TradingState.ACTIVE


def test_a_break_at_start_keeps_it_halted() -> None:
    """I9: a difference between ledger and exchange is reported, and trading waits."""
    driver = Driver()
    driver.send(Restored(1, Decimal(0), (), (), (), "", START_NS))
    breaks = (("BTC", Decimal(1), Decimal(2)),)

    alert = only(driver.send(Reconciled(False, (), breaks, 0, START_NS)), Alert)

    assert alert.code == "reconcile_break"
    assert "BTC: ledger 1, exchange 2" in alert.detail
    assert driver.engine.state.trading is TradingState.HALTED


def test_a_closed_column_asks_the_worker_with_the_bars_since_the_last_request() -> None:
    """One question per bar close, carrying the bars of all symbols."""
    driver = Driver().start()

    ask = only(driver.bar(), Decide)

    assert ask.symbols == SYMBOLS
    assert [bar.symbol for bar in ask.bars][-2:] == list(SYMBOLS)
    assert {bar.close_ns for bar in ask.bars} == {ask.close_ns}
    assert ask.weights == (0.0, 0.0)
    assert ask.equity == 100_000.0


def test_targets_become_one_durable_submit_within_the_order_limit() -> None:
    """A target of 30 % is worked in slices of 10 %: one order now, reserved from then on."""
    driver = Driver().start()

    submit = only(driver.decide(BTC=0.3), Submit)
    intent = submit.approved[0].intent

    assert len(submit.approved) == 1
    assert intent.side is Side.BUY
    assert intent.notional <= Decimal(10_000)
    assert driver.engine.state.blotter.reserved(Side.BUY)[intent.symbol] == intent.notional


def test_a_late_answer_is_refused() -> None:
    """F61: an answer after the deadline is no decision."""
    driver = Driver().start()
    ask = only(driver.bar(), Decide)
    driver.now_ns = ask.deadline_ns + 1
    driver.send(Tick("BTC/USDT", driver.ids["BTC/USDT"], 40_000.0, 1, driver.now_ns, driver.now_ns, sell=False))

    effects = driver.send(Decided(ask.seq, Targets(SYMBOLS, (0.1, 0.0)), 1, 1, 1, driver.now_ns))

    assert not all_of(effects, Submit)
    assert only(effects, Step).outcome == NoReason.DEADLINE


def test_an_answer_to_an_older_view_is_ignored() -> None:
    """Newest view wins."""
    driver = Driver().start()
    first = only(driver.bar(), Decide)
    driver.bar()

    assert driver.send(Decided(first.seq, Targets(SYMBOLS, (0.1, 0.0)), 1, 1, 1, driver.now_ns)) == ()


def test_no_decision_is_a_step_and_no_order() -> None:
    """A worker that cannot decide holds."""
    driver = Driver().start()
    ask = only(driver.bar(), Decide)

    effects = driver.send(Decided(ask.seq, NoDecision(NoReason.NOT_FINITE, "nan"), 1, 1, 1, driver.now_ns))

    assert only(effects, Step).outcome == "not_finite"
    assert not all_of(effects, Submit)


def test_a_symbol_with_a_working_order_is_not_planned_again() -> None:
    """P8: while an order's fate is open its symbol waits."""
    driver = Driver().start()
    driver.decide(BTC=0.3)

    assert not all_of(driver.decide(BTC=0.3), Submit)


def test_fills_book_once_and_conserve_cash_to_the_last_digit() -> None:
    """I3 and F31: a fill reported twice is booked once; fees are taken in base."""
    driver = Driver().start()
    approved = only(driver.decide(BTC=0.3), Submit).approved[0]
    effects = driver.fill(approved)
    fill = next(booked.fill for booked in all_of(effects, Booked) if booked.fill is not None)

    again = driver.send(fill)

    account = driver.engine.state.account
    assert again == ()
    assert account.cash == Decimal(100_000) - fill.qty * fill.price
    assert account.position("BTC/USDT") == fill.qty - fill.fee


def test_a_partial_fill_releases_what_is_left() -> None:
    """F29: an expired order keeps its fills and reserves nothing."""
    driver = Driver().start()
    approved = only(driver.decide(BTC=0.3), Submit).approved[0]
    driver.fill(approved, "0.4")

    state = driver.engine.state
    assert not state.blotter.live
    assert state.blotter.reserved(Side.BUY) == {}
    assert state.account.position("BTC/USDT") > 0


def test_a_terminal_order_keeps_its_reservation_until_its_fills_are_booked() -> None:
    """I4: the venue says filled, the executions have not come yet: exposure stays reserved."""
    driver = Driver().start()
    approved = only(driver.decide(BTC=0.3), Submit).approved[0]
    driver.send(driver.news(approved, OrderState.FILLED, filled=approved.intent.qty))

    assert driver.engine.state.blotter.reserved(Side.BUY)["BTC/USDT"] == approved.intent.notional


def test_unknown_asks_for_evidence_and_keeps_the_reservation() -> None:
    """F2: a lost reply is UNKNOWN; it is resolved, never re-sent, and freezes its symbol."""
    driver = Driver().start()
    approved = only(driver.decide(BTC=0.3), Submit).approved[0]

    effects = driver.send(driver.news(approved, OrderState.UNKNOWN))

    assert only(effects, Resolve).client_id == approved.intent.client_id
    assert driver.engine.state.blotter.unresolved == 1
    assert only(driver.bar(), Decide).frozen == (True, False)
    assert driver.engine.state.blotter.reserved(Side.BUY)["BTC/USDT"] == approved.intent.notional


def test_a_late_fill_books_after_never_placed() -> None:
    """F7: evidence of an execution outranks every verdict."""
    driver = Driver().start()
    approved = only(driver.decide(BTC=0.3), Submit).approved[0]
    driver.send(driver.news(approved, OrderState.UNKNOWN), driver.news(approved, OrderState.NEVER_PLACED))
    assert not driver.engine.state.blotter.live

    driver.fill(approved)

    assert driver.engine.state.account.position("BTC/USDT") > 0


def test_stale_news_does_not_move_an_order_back() -> None:
    """F30: a REST reply older than the stream changes nothing."""
    driver = Driver().start()
    approved = only(driver.decide(BTC=0.3), Submit).approved[0]
    driver.fill(approved)

    assert driver.send(driver.news(approved, OrderState.ACKED)) == ()


def test_denied_releases_and_records() -> None:
    """F48: no durable intent, no order; the reservation goes."""
    driver = Driver().start()
    submit = only(driver.decide(BTC=0.3), Submit)
    ids = tuple(one.intent.client_id for one in submit.approved)

    effects = driver.send(Denied(ids, "disk full", driver.now_ns))

    assert only(effects, Recorded).update.state is OrderState.DENIED
    assert not driver.engine.state.blotter.live


def test_a_stop_sells_at_once_and_the_symbol_cools_down() -> None:
    """A trade below the stop sends an exit without waiting for a bar; the target stays 0 until the cool-down ends."""
    driver = Driver().start().buy(BTC=0.1)
    effects = driver.tick("BTC/USDT", 40_000.0 * 0.9)
    submit = only(effects, Submit)

    assert only(effects, Alert).code == "stop_loss"
    assert {one.intent.side for one in submit.approved} == {Side.SELL}
    assert {one.intent.cause for one in submit.approved} == {Cause.STOP_LOSS}

    for approved in submit.approved:
        driver.fill(approved, price="35900")

    assert only(driver.bar(), Decide).caps == (0.0, 0.3)
    assert not driver.engine.state.exits.active


def test_an_exit_that_expires_is_tried_again_on_the_next_rung() -> None:
    """A8: a stop that did not fill is repeated with a wider limit."""
    driver = Driver().start().buy(BTC=0.1)
    first = only(driver.tick("BTC/USDT", 36_000.0), Submit)
    for approved in first.approved:
        driver.send(driver.news(approved, OrderState.EXPIRED))
    driver.books()

    second = all_of(driver.timer(1500), Submit)

    assert second
    assert second[0].approved[0].intent.limit < first.approved[0].intent.limit


def test_an_exit_waits_for_a_sell_that_is_under_way() -> None:
    """I12: never more is sold than is held."""
    driver = Driver().start().buy(BTC=0.1)
    driver.tick("BTC/USDT", 36_000.0)
    driver.books()

    assert not all_of(driver.timer(3000), Submit)


def test_kill_cancels_and_halts_and_only_the_host_lifts_it() -> None:
    """I7: after a kill nothing is sent; resume does not lift it."""
    driver = Driver().start()
    effects = driver.send(Killed(True, "test", driver.now_ns))

    assert only(effects, CancelAll).detail == "kill"
    assert driver.engine.state.trading is TradingState.HALTED
    assert not all_of(driver.bar(), Decide)

    driver.send(Command("1", Action.RESUME, "test", driver.now_ns))
    assert driver.engine.state.trading is TradingState.HALTED

    driver.send(Killed(False, "lifted", driver.now_ns))
    assert driver.engine.state.trading is TradingState.ACTIVE


def test_pause_makes_no_decisions_and_keeps_stops() -> None:
    """A9: pause stops decisions, not protection."""
    driver = Driver().start().buy(BTC=0.1)
    driver.send(Command("1", Action.PAUSE, "test", driver.now_ns))

    assert only(driver.bar(), Step).outcome == "paused"
    assert all_of(driver.tick("BTC/USDT", 36_000.0), Submit)


def test_reduce_only_refuses_growth() -> None:
    """I12: REDUCING never increases exposure."""
    driver = Driver().start()
    driver.send(Command("1", Action.REDUCE_ONLY, "test", driver.now_ns))

    assert not [one for submit in all_of(driver.decide(BTC=0.3), Submit) for one in submit.approved]


def test_flatten_sells_everything_and_stays_reducing() -> None:
    """A9: flatten = sell all, then REDUCING until resume."""
    driver = Driver().start().buy(BTC=0.1, ETH=0.1)
    effects = driver.send(Command("1", Action.FLATTEN, "test", driver.now_ns))
    for submit in all_of(effects, Submit):
        for approved in submit.approved:
            driver.fill(approved)

    assert driver.engine.state.trading is TradingState.REDUCING
    assert all(qty < Decimal("0.001") for qty in driver.engine.state.account.positions.values())


def test_drawdown_flattens_then_halts() -> None:
    """P5: the drawdown limit sells everything while REDUCING and halts when flat."""
    limits = Limits(stop_loss=0.0, trailing_stop=0.0, max_drawdown=0.02, max_daily_loss=0.9)
    driver = Driver(make_config(limits=limits)).start().buy(BTC=0.1)
    driver.tick("BTC/USDT", 20_000.0)
    driver.books()
    effects = driver.timer(1100)

    assert any(alert.code == "drawdown" for alert in all_of(effects, Alert))
    assert driver.engine.state.trading is TradingState.REDUCING
    for submit in all_of(effects, Submit):
        for approved in submit.approved:
            driver.fill(approved, price="19990")
    driver.books()
    driver.timer(4000)

    assert driver.engine.state.trading is TradingState.HALTED


def test_a_gap_is_repaired_in_the_same_id_space() -> None:
    """F19: missing ids are fetched; until they come the symbol does not close its bar, then the bar is REPAIRED."""
    driver = Driver().start()
    driver.bar()
    driver.now_ns += 100 * NS_PER_MS
    first = driver.ids["BTC/USDT"]
    fetch = only(driver.tick("BTC/USDT", skip=2), FetchTrades)
    assert (fetch.from_id, fetch.to_id) == (first, first + 1)
    assert not all_of(driver.bar(), Decide)

    missing = tuple(
        Tick("BTC/USDT", number, 40_000.0, 10**6, START_NS + NS_PER_S + NS_PER_MS, driver.now_ns, sell=False)
        for number in (first, first + 1)
    )
    effects = driver.send(Repair("BTC/USDT", first, first + 1, missing, True, "", driver.now_ns))

    closed = [effect.bar for effect in all_of(effects, BarClosed) if effect.bar.symbol == "BTC/USDT"]
    assert closed[0].flag is BarFlag.REPAIRED
    assert all_of(effects, Decide)


def test_a_gap_that_cannot_be_repaired_freezes_the_symbol_until_the_venue_s_candle() -> None:
    """F19: ids that never come mark the bar GAPPED; the venue's own candle mends it."""
    driver = Driver().start()
    driver.bar()
    first = driver.ids["BTC/USDT"]
    driver.tick("BTC/USDT", skip=2)
    driver.now_ns += 11 * NS_PER_S
    driver.books()
    effects = driver.send(Repair("BTC/USDT", first, first + 1, (), False, "gone", driver.now_ns))
    effects += driver.bar()
    gapped = [effect.bar for effect in all_of(effects, BarClosed) if effect.bar.flag is BarFlag.GAPPED]

    assert any(alert.code == "trades_lost" for alert in all_of(effects, Alert))
    assert gapped
    fetched = all_of(effects, FetchBar)
    assert fetched

    bar = gapped[-1]
    mended = Bar(bar.symbol, bar.open_ns, bar.close_ns, 1.0, 2.0, 0.5, 1.5, 7, 3, -1, -1, BarFlag.REPAIRED)
    driver.send(Candle(bar.symbol, bar.open_ns, mended, driver.now_ns))
    driver.bar()

    assert not driver.engine.state.markets["BTC/USDT"].frozen


def test_silence_is_confirmed_by_rest_before_a_bar_closes_by_time() -> None:
    """F23: a silent symbol closes nothing by itself; REST's word makes the silence real."""
    driver = Driver().start()
    driver.bar()
    driver.now_ns += 4 * NS_PER_S
    effects = driver.timer(100)

    assert not all_of(effects, BarClosed)
    asked = {one.symbol for one in all_of(effects, ConfirmQuiet)}
    assert asked == set(SYMBOLS)

    for symbol in SYMBOLS:
        driver.send(Confirmed(symbol, driver.ids[symbol] - 1, 1.0, True, driver.now_ns))
    closed = all_of(driver.timer(100), BarClosed)

    assert {effect.bar.symbol for effect in closed} == set(SYMBOLS)
    assert closed[-1].bar.flag is BarFlag.EMPTY


def test_a_silent_feed_is_reducing_and_orders_are_refused() -> None:
    """P10 and F12: stale data means no new exposure, within max_age."""
    driver = Driver().start()
    ask = only(driver.bar(), Decide)
    driver.timer(3100)
    effects = driver.send(Decided(ask.seq, Targets(SYMBOLS, (0.3, 0.0)), 1, 1, 1, driver.now_ns))

    assert driver.engine.silence()
    assert driver.engine.state.trading is TradingState.REDUCING
    assert not all_of(effects, Submit)


def test_a_lost_stream_asks_rest_what_was_missed() -> None:
    """F13: after a reconnect the silence in between is checked by REST."""
    driver = Driver().start()
    driver.send(Link("market", up=False, detail="cut", ts_ns=driver.now_ns))
    driver.timer(100)
    assert driver.engine.state.trading is TradingState.REDUCING

    effects = driver.send(Link("market", up=True, detail="", ts_ns=driver.now_ns))

    assert {one.symbol for one in all_of(effects, ConfirmQuiet)} == set(SYMBOLS)


def test_a_missed_trade_is_noticed_by_the_confirmation() -> None:
    """F19: REST knows a newer id than the stream brought."""
    driver = Driver().start()
    expected = driver.ids["BTC/USDT"]

    fetch = only(driver.send(Confirmed("BTC/USDT", expected + 4, 1.0, True, driver.now_ns)), FetchTrades)

    assert (fetch.from_id, fetch.to_id) == (expected, expected + 4)


def test_a_new_worker_is_seeded_in_full() -> None:
    """A worker that was replaced gets everything, not the difference."""
    driver = Driver().start()
    driver.bar()
    driver.send(WorkerDown("died", driver.now_ns))
    assert only(driver.bar(), Step).outcome == "worker_down"

    from daemon.domain.events import WorkerUp

    seed = only(driver.send(WorkerUp("model", 0, driver.now_ns)), Seed)

    assert len(seed.rows[0]) == (22 * 6 * 8)


def test_a_fault_halts_until_resume() -> None:
    """F53: a part of the daemon that failed for good halts trading."""
    driver = Driver().start()
    driver.send(Fault("feed", "died", driver.now_ns))
    assert driver.engine.state.trading is TradingState.HALTED

    driver.send(Command("1", Action.RESUME, "test", driver.now_ns))

    assert driver.engine.state.trading is TradingState.ACTIVE


def test_memory_survives_a_restart() -> None:
    """A latched cause, a cool-down and an exit under way are there again after a restart."""
    driver = Driver().start().buy(BTC=0.1)
    driver.tick("BTC/USDT", 36_000.0)
    driver.send(Command("1", Action.REDUCE_ONLY, "test", driver.now_ns))
    driver.timer(1100)
    memory = all_of(driver.effects, Persist)[-1].state_json
    account = driver.engine.state.account
    live = tuple(
        OrderRecord(order.intent, order.state, "", Decimal(0), driver.now_ns)
        for order in driver.engine.state.blotter.live.values()
    )

    again = Driver()
    again.send(
        Restored(2, account.cash, tuple(account.positions.items()), tuple(account.entries.items()), live, memory, 0)
    )

    state = again.engine.state
    assert "operator_reduce_only" in state.causes
    assert state.stops.cooling("BTC/USDT", driver.now_ns)
    assert "BTC/USDT" in state.exits.active
    assert state.blotter.unresolved == len(live) > 0


def test_orders_that_were_sending_are_unknown_after_a_restart_and_unsent_again() -> None:
    """F43: recovery never re-sends; the venue is asked."""
    driver = Driver().start()
    approved = only(driver.decide(BTC=0.3), Submit).approved[0]
    record = OrderRecord(approved.intent, OrderState.SENDING, "", Decimal(0), driver.now_ns)
    again = Driver()

    effects = again.send(Restored(2, Decimal(100_000), (), (), (record,), "", START_NS))

    assert not all_of(effects, Submit)
    assert again.engine.state.blotter.unresolved == 1


def test_a_refused_key_halts() -> None:
    """F68: -2015 halts and pages; nothing is retried."""
    driver = Driver().start()
    approved = only(driver.decide(BTC=0.3), Submit).approved[0]
    news = driver.news(approved, OrderState.REJECTED)

    import msgspec

    effects = driver.send(msgspec.structs.replace(news, code="-2015"))

    assert any(alert.code == "key_refused" for alert in all_of(effects, Alert))
    assert driver.engine.state.trading is TradingState.HALTED


def test_state_changes_are_reported_once() -> None:
    """A state that stays is not news."""
    driver = Driver().start()
    driver.timer(500)

    assert [change.state for change in all_of(driver.effects, StateChanged)][-1] is TradingState.ACTIVE
    assert not all_of(driver.timer(500), StateChanged)


def test_resting_orders_are_cancelled_before_their_symbol_is_decided_anew() -> None:
    """A resting order is cancelled, and its end awaited, before its symbol is planned again."""
    from daemon.domain.orders import Tif

    config = make_config(tif=Tif.GTC, limits=Limits(order=Tif.GTC))
    driver = Driver(config).start()
    approved = only(driver.decide(BTC=0.3), Submit).approved[0]
    driver.send(driver.news(approved, OrderState.ACKED))

    assert only(driver.bar(), Cancel).client_id == approved.intent.client_id


@pytest.mark.parametrize("share", ["0.25", "0.5", "1"])
def test_turnover_of_the_day_counts_fills(share: str) -> None:
    """What was traded today leaves less turnover for later decisions."""
    driver = Driver(make_config(turnover_max=2.0, turnover_max_day=1.0)).start()
    driver.fill(only(driver.decide(BTC=0.1), Submit).approved[0], share)

    left = only(driver.bar(), Decide).turnover_left

    assert left == pytest.approx(1.0 - 0.1 * float(share), abs=0.003)


def test_p6_the_venue_s_own_limit_on_orders_is_taken_over() -> None:
    """0 configured means 80 % of what the venue publishes."""
    driver = Driver().start()
    assert driver.engine.state.gate.capacity(driver.now_ns) == 40

    driver.send(Listed((), driver.now_ns, orders_per_10s=100))

    assert driver.engine.state.gate.capacity(driver.now_ns) == 80


def test_new_daily_closes_go_with_the_next_question_alone() -> None:
    """A day that has closed renews the worker's daily table; its buffers are not filled anew for it."""
    driver = Driver().start()
    day = 86_400 * NS_PER_S
    bars = tuple(
        Bar("BTC/USDT", at * day, (at + 1) * day, 1.0, 2.0, 0.5, 1.0 + at, 1.0, 1, -1, -1, BarFlag.BACKFILLED)
        for at in range(3)
    )
    driver.decide()
    driver.send(Candles("BTC/USDT", day, bars, driver.now_ns))
    first, second = driver.bar(), driver.bar()

    assert only(first, Decide).daily == (array("d", [1.0, 2.0, 3.0]).tobytes(), b"")
    assert not any(isinstance(one, Seed) for one in (*first, *second))
    assert only(second, Decide).daily == ()


def test_daily_closes_may_come_one_by_one() -> None:
    """A close told alone joins so many of those told before; told without a number it replaces them."""
    driver = Driver().start()
    day = 86_400 * NS_PER_S

    def tell(closes: tuple[float, ...], follows: int) -> bytes:
        bars = tuple(Bar("BTC/USDT", 0, day, c, c, c, c, 1.0, 1, -1, -1, BarFlag.BACKFILLED) for c in closes)
        driver.send(Candles("BTC/USDT", day, bars, driver.now_ns, follows))
        return driver.engine.state.daily["BTC/USDT"]

    assert tell((1.0, 2.0, 3.0), 0) == array("d", [1.0, 2.0, 3.0]).tobytes()
    assert tell((4.0,), 2) == array("d", [2.0, 3.0, 4.0]).tobytes()
    assert tell((5.0,), 9) == array("d", [2.0, 3.0, 4.0, 5.0]).tobytes()
    assert tell((6.0,), 0) == array("d", [6.0]).tobytes()


def test_every_event_has_what_takes_it() -> None:
    """The table of handlers holds exactly the events there are, ticks and books apart, which have a shorter way."""
    assert Engine.HANDLERS.keys() == set(get_args(Event)) - {Tick, Book}
