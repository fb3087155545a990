"""Market data on its way to a bar: absurd prices, lost links, silence, repairs that come late."""

import pytest

from daemon.core.market import Phase
from daemon.domain.events import (
    Alert,
    Backfill,
    BarClosed,
    Candle,
    Confirmed,
    ConfirmQuiet,
    Decide,
    FetchBar,
    FetchTrades,
    History,
    Link,
    Repair,
    Submit,
)
from daemon.domain.market import NS_PER_MS, NS_PER_S, Bar, BarFlag, Book, Malformed, RejectReason, Tick
from tests.core.driver import SYMBOLS, Driver, all_of, make_config, only

BTC, ETH = SYMBOLS


def trade(driver: Driver, number: int, price: float, *, event_ns: int = 0, symbol: str = BTC) -> Tick:
    """Return a trade that arrives now."""
    return Tick(symbol, number, price, 10**6, event_ns or driver.now_ns, driver.now_ns, sell=False)


def reconnect(driver: Driver) -> None:
    """Let the stream come back."""
    driver.send(Link("market", up=True, detail="", ts_ns=driver.now_ns))


# ---------------------------------------------------------------------- F24: absurd prices


@pytest.mark.parametrize("factor", [1e-3, 0.1, 10.0, 1e3])
def test_an_absurd_trade_triggers_no_stop(factor: float) -> None:
    """F24: a quarantined price neither falls below a stop nor raises the high that a trailing stop hangs on."""
    driver = Driver().start().buy(BTC=0.1)

    assert not all_of(driver.tick(BTC, 40_000.0 * factor), Submit)
    driver.ids[BTC] -= 1  # the spike's id again, with the true price: it had been refused
    effects = driver.tick(BTC, 40_000.0)
    effects += driver.tick(BTC, 40_000.0)

    assert not all_of(effects, Submit)
    assert not driver.engine.state.exits.active


def test_a_trade_seen_before_triggers_no_stop() -> None:
    """F20: a replayed trade of an hour ago is no price."""
    driver = Driver().start().buy(BTC=0.1)

    assert not all_of(driver.send(trade(driver, driver.ids[BTC] - 1, 30_000.0)), Submit)


def test_a_fall_that_others_agree_with_does_trigger_it() -> None:
    """A crash to a tenth is believed once three trades say so; then the stop sells."""
    driver = Driver().start().buy(BTC=0.1)
    effects = driver.tick(BTC, 4_000.0) + driver.tick(BTC) + driver.tick(BTC)

    assert [one.code for one in all_of(effects, Alert)][:1] == ["stop_loss"]


def test_stops_are_judged_behind_a_gap_too() -> None:
    """A missing trade does not blind the stops: what comes behind it is a price."""
    driver = Driver().start().buy(BTC=0.1)

    assert all_of(driver.tick(BTC, 36_000.0, skip=3), Submit)


def test_stops_are_judged_while_a_symbol_is_stitched_anew() -> None:
    """Too much was missing: until the candles are here the last known price says what is plausible."""
    driver = Driver(make_config(repair_trades_max=10)).start().buy(BTC=0.1)
    only(driver.tick(BTC, skip=50), Backfill)

    assert not all_of(driver.tick(BTC, 400.0), Submit)
    assert all_of(driver.tick(BTC, 36_000.0), Submit)


@pytest.mark.parametrize(("bid", "ask"), [(1.0, 2.0), (4e6, 4.1e6), (10_000.0, 70_000.0)])
def test_an_absurd_book_is_no_price(bid: float, ask: float) -> None:
    """F24 and F25: a book ×1000 or with a chasm in it moves no equity."""
    driver = Driver().start().buy(BTC=0.1)
    before = driver.engine.state.equity()
    driver.send(Book(BTC, bid, 1.0, ask, 1.0, driver.now_ns))

    assert driver.engine.state.markets[BTC].book is None
    assert driver.engine.markets.rejected[RejectReason.PRICE_SPIKE] == 1
    after = driver.engine.state.equity()
    assert before is not None
    assert after is not None
    assert abs(after - before) < before / 100


def test_a_crossed_book_is_counted_and_not_kept() -> None:
    """F25: crossed is not a book."""
    driver = Driver().start()
    driver.send(Book(BTC, 40_001.0, 1.0, 40_000.0, 1.0, driver.now_ns))

    assert driver.engine.state.markets[BTC].book is None
    assert driver.engine.markets.rejected[RejectReason.CROSSED_BOOK] == 1


def test_a_book_that_stands_still_while_trades_flow_is_dropped() -> None:
    """F25: lost book frames leave a price that is no longer the market's; one beside which nothing trades stays."""
    driver = Driver().start()
    driver.books()
    for _ in range(8):
        driver.tick(BTC)
        driver.timer(500)

    assert driver.engine.state.markets[BTC].book is None
    assert driver.engine.state.markets[ETH].book is not None


def test_what_the_decoder_refused_is_counted() -> None:
    """Malformed frames reach the counters and nothing else."""
    driver = Driver().start()
    driver.send(Malformed(RejectReason.BROKEN_JSON, "x", "", driver.now_ns))

    assert driver.engine.markets.rejected[RejectReason.BROKEN_JSON] == 1


def test_time_closes_no_bar_while_a_backlog_is_read() -> None:
    """F22: after the loop was busy the trades of a bar that is over still lie in the socket; they count."""
    driver = Driver().start()
    open_ns = driver.now_ns // driver.config.bar_ns * driver.config.bar_ns
    end_ns = open_ns + driver.config.bar_ns
    driver.now_ns = end_ns + 2 * driver.config.grace_ns
    driver.send(trade(driver, driver.ids[BTC], 40_000.0, event_ns=open_ns + NS_PER_MS))
    early = all_of(driver.timer(), BarClosed)
    driver.send(trade(driver, driver.ids[BTC] + 1, 40_000.0, event_ns=end_ns - NS_PER_MS))
    late = all_of(driver.send(trade(driver, driver.ids[BTC] + 2, 40_000.0, event_ns=end_ns)), BarClosed)

    assert [one for one in early if one.bar.symbol == BTC] == []
    assert [one.bar.trades for one in late if one.bar.symbol == BTC] == [2]


# ---------------------------------------------------------------------- links


def test_bars_of_an_outage_wait_until_rest_has_said_what_happened() -> None:
    """F13 and F19: after a reconnect a fresh book alone does not close the outage's bars as empty."""
    driver = Driver().start()
    driver.bar()
    driver.now_ns += 300 * NS_PER_MS
    missed_ns = driver.now_ns + NS_PER_S
    first = driver.ids[BTC]
    driver.send(Link("market", up=False, detail="cut", ts_ns=driver.now_ns))
    driver.now_ns += 3 * NS_PER_S
    reconnect(driver)
    driver.books()

    assert not all_of(driver.timer(200), BarClosed)

    driver.ids[BTC] += 2
    fetch = only(driver.send(Confirmed(BTC, first + 1, 40_000.0, True, driver.now_ns)), FetchTrades)
    assert (fetch.from_id, fetch.to_id) == (first, first + 1)
    ticks = (trade(driver, first, 41_000.0, event_ns=missed_ns), trade(driver, first + 1, 40_500.0))
    effects = driver.send(Repair(BTC, first, first + 1, ticks, True, "", driver.now_ns))

    bars = [one.bar for one in all_of(effects, BarClosed)]
    assert [bar.flag for bar in bars] == [BarFlag.LIVE, BarFlag.REPAIRED, BarFlag.EMPTY]
    assert bars[1].high == 41_000.0
    assert driver.engine.state.markets[BTC].builder.late == 0


def test_a_trade_in_order_proves_that_nothing_was_missed() -> None:
    """The next id right after a reconnect closes the silent bars without asking anybody."""
    driver = Driver().start()
    driver.bar()
    driver.send(Link("market", up=False, detail="cut", ts_ns=driver.now_ns))
    driver.now_ns += 2 * NS_PER_S
    reconnect(driver)

    assert [one.bar.flag for one in all_of(driver.tick(BTC), BarClosed)] == [BarFlag.LIVE, BarFlag.EMPTY]


def test_the_books_of_a_lost_stream_are_forgotten() -> None:
    """A bid that nobody keeps current is no reference for an exit."""
    driver = Driver().start()
    driver.send(Link("market", up=False, detail="cut", ts_ns=driver.now_ns))

    assert all(market.book is None for market in driver.engine.state.markets.values())
    assert driver.engine.state.price(BTC) == 40_000.0
    assert driver.engine.markets.doubt(driver.now_ns) == ()


def test_no_history_is_asked_for_before_the_stream_is_up() -> None:
    """Stitching needs a stream to stitch to; it is asked for once, shortly after."""
    driver = Driver()
    assert not all_of(driver.timer(500), Backfill)
    reconnect(driver)

    asked = all_of(driver.timer(1000), Backfill)

    assert [one.symbol for one in asked] == list(SYMBOLS)
    assert driver.engine.state.markets[BTC].phase is Phase.SYNCING


# ---------------------------------------------------------------------- silence


def test_a_symbol_whose_book_moves_but_never_trades_is_confirmed_by_rest() -> None:
    """F23: trades alone may have been lost while the book still comes."""
    driver = Driver().start()
    asked = []
    for _ in range(36):
        driver.now_ns += NS_PER_S
        driver.books()
        asked += all_of(driver.timer(50), ConfirmQuiet)

    assert {one.symbol for one in asked} == set(SYMBOLS)


def test_rest_that_does_not_know_confirms_nothing() -> None:
    """An answer that failed leaves the silence unproven."""
    driver = Driver().start()
    before = driver.engine.state.markets[BTC].confirmed_ns

    assert driver.send(Confirmed(BTC, -1, 0.0, False, driver.now_ns + 9)) == ()
    assert driver.engine.state.markets[BTC].confirmed_ns == before


def test_rest_s_price_counts_for_exits_and_an_absurd_one_does_not() -> None:
    """DESIGN: exits go on with a price by REST when the stream is dead."""
    driver = Driver().start()
    driver.send(Link("market", up=False, detail="cut", ts_ns=driver.now_ns))
    driver.now_ns += 20 * NS_PER_S
    last = driver.ids[BTC] - 1
    driver.send(Confirmed(BTC, last, 39_000.0, True, driver.now_ns))
    assert driver.engine.state.price(BTC) == 39_000.0

    driver.send(Confirmed(BTC, last, 39.0, True, driver.now_ns))
    assert driver.engine.state.price(BTC) == 39_000.0


def test_a_confirmation_for_a_symbol_that_is_being_stitched_moves_no_ids() -> None:
    """While history is on its way REST's newest id means nothing yet."""
    driver = Driver(make_config(repair_trades_max=10)).start()
    driver.tick(BTC, skip=50)

    assert driver.send(Confirmed(BTC, 10**6, 40_000.0, True, driver.now_ns)) == ()


def test_a_confirmation_behind_a_gap_confirms_nothing() -> None:
    """Trades are known to be missing: the symbol is not current."""
    driver = Driver().start()
    driver.now_ns += NS_PER_S
    driver.tick(BTC, skip=2)
    driver.send(Confirmed(BTC, driver.ids[BTC] - 1, 40_000.0, True, driver.now_ns))

    assert driver.engine.state.markets[BTC].confirmed_ns < driver.now_ns


# ---------------------------------------------------------------------- gaps and repairs


def test_trades_rest_knows_of_but_cannot_give_are_lost_in_the_end_and_the_bar_says_so() -> None:
    """F19: a span that only REST knew of is asked for until its time is over, then the bar is GAPPED, never LIVE."""
    driver = Driver().start()
    driver.bar()
    first = driver.ids[BTC]
    driver.send(Confirmed(BTC, first, 40_000.0, True, driver.now_ns))
    again = driver.send(Repair(BTC, first, first, (), False, "not yet", driver.now_ns))
    assert only(again, FetchTrades).from_id == first

    driver.now_ns += 11 * NS_PER_S
    driver.books()
    effects = driver.send(Repair(BTC, first, first, (), False, "gone", driver.now_ns))
    assert only(effects, Alert).code == "trades_lost"
    driver.ids[BTC] = first + 1
    closed = [one.bar for one in all_of(driver.tick(BTC), BarClosed)]

    assert {bar.flag for bar in closed} == {BarFlag.GAPPED}


def test_a_repair_that_comes_after_its_bars_closed_fetches_their_candles() -> None:
    """Bars closed by time without trades that had happened are mended from the venue's own candles."""
    driver = Driver().start()
    driver.bar()
    happened_ns = driver.now_ns + 100 * NS_PER_MS
    for _ in range(6):
        driver.now_ns += 500 * NS_PER_MS
        driver.books()
        driver.timer(50)
    first = driver.ids[BTC]
    driver.ids[BTC] += 1
    driver.tick(BTC, skip=0)
    missed = (trade(driver, first, 40_100.0, event_ns=happened_ns),)
    effects = driver.send(Repair(BTC, first, first, missed, True, "", driver.now_ns))

    fetch = all_of(effects, FetchBar)
    assert fetch[0].open_ns == happened_ns - happened_ns % NS_PER_S
    assert driver.engine.state.markets[BTC].frozen


def test_a_candle_does_not_unfreeze_a_symbol_whose_next_bar_is_gapped_too() -> None:
    """Mending one bar says nothing about the one being built."""
    driver = Driver().start()
    driver.bar()
    for _ in range(2):
        driver.now_ns += 11 * NS_PER_S
        first = driver.ids[BTC]
        driver.tick(BTC, skip=2)
        driver.now_ns += 11 * NS_PER_S
        driver.send(Repair(BTC, first, first + 1, (), False, "gone", driver.now_ns))
    market = driver.engine.state.markets[BTC]
    assert market.bar is not None
    bar = market.bar
    mended = Bar(BTC, bar.open_ns, bar.close_ns, 1.0, 2.0, 0.5, 1.5, 7, 3, -1, -1, BarFlag.REPAIRED)
    driver.send(Candle(BTC, bar.open_ns, mended, driver.now_ns))

    assert market.frozen is market.builder.gapped is True
    assert driver.send(Candle(BTC, bar.open_ns, None, driver.now_ns)) == ()


def test_a_repair_that_never_answers_is_given_up() -> None:
    """A lost answer must not hold a symbol for ever."""
    driver = Driver().start()
    driver.bar()
    driver.tick(BTC, skip=2)
    effects = driver.timer(21_000)

    assert any(one.code == "trades_lost" for one in all_of(effects, Alert))
    assert driver.engine.state.markets[BTC].gap_ns == 0


def test_giving_up_one_gap_goes_on_with_the_next() -> None:
    """Two holes: the first is given up, the second has its own time."""
    driver = Driver().start()
    driver.bar()
    first = driver.ids[BTC]
    driver.tick(BTC, skip=2)
    driver.tick(BTC, skip=2)
    driver.now_ns += 11 * NS_PER_S
    driver.send(Repair(BTC, first, first + 1, (), False, "gone", driver.now_ns))

    assert driver.engine.state.markets[BTC].gap_ns == driver.now_ns
    assert driver.engine.state.markets[BTC].continuity.gap == (first + 3, first + 4)


def test_a_repair_of_a_symbol_that_is_stitched_anew_is_ignored() -> None:
    """It belongs to ids that are gone."""
    driver = Driver(make_config(repair_trades_max=10)).start()
    driver.tick(BTC, skip=50)

    assert driver.send(Repair(BTC, 1, 2, (), True, "", driver.now_ns)) == ()


def test_overlapping_history_amends_bars_and_the_worker_is_seeded_anew() -> None:
    """A re-stitch brings bars that are there already: they are written in place, nothing is appended twice."""
    driver = Driver(make_config(repair_trades_max=10)).start()
    driver.bar()
    driver.bar()
    driver.tick(BTC, skip=50)
    columns = driver.engine.markets.columns
    count = columns.buffers.count
    driver.prices[BTC] = 41_000.0
    driver.send(driver.history(BTC, 10))

    assert columns.buffers.count == count
    assert columns.amended
    assert columns.buffers.window(1)[0, 0, 3] == 41_000.0
    assert driver.engine.state.markets[BTC].phase is Phase.LIVE


def test_ticks_held_while_history_was_fetched_are_stitched_without_gap_or_overlap() -> None:
    """History's own trades come first, held ones that it has too are dropped, the rest follow."""
    driver = Driver()
    driver.send(Link("market", up=True, detail="", ts_ns=driver.now_ns))
    start = driver.ids[BTC]
    for _ in range(3):
        driver.tick(BTC)
    history = driver.history(BTC, 3)
    ticks = tuple(trade(driver, number, 40_000.0) for number in range(start - 2, start + 2))
    driver.send(History(BTC, history.bars, ticks, start + 2, partial=False, ts_ns=driver.now_ns))

    market = driver.engine.state.markets[BTC]
    assert market.continuity.next_id == start + 3
    assert market.continuity.gap is None
    assert not market.frozen


def test_history_that_ends_before_the_held_ticks_begin_leaves_a_gap_that_is_fetched() -> None:
    """What lies between REST's newest and the stream's first is asked for by id."""
    driver = Driver()
    reconnect(driver)
    driver.tick(BTC, skip=5)
    history = driver.history(BTC, 3)
    start = driver.ids[BTC] - 1
    effects = driver.send(History(BTC, history.bars, (), start - 3, partial=True, ts_ns=driver.now_ns))

    fetch = only(effects, FetchTrades)
    assert (fetch.from_id, fetch.to_id) == (start - 3, start - 1)
    assert driver.engine.state.markets[BTC].frozen


def test_a_symbol_without_any_history_begins_with_what_comes() -> None:
    """A listing of today has no candles: its first bar is partial and says so."""
    driver = Driver()
    reconnect(driver)
    driver.send(History(BTC, (), (), -1, partial=False, ts_ns=driver.now_ns))
    driver.tick(BTC)
    driver.now_ns += NS_PER_S

    assert {one.bar.flag for one in all_of(driver.tick(BTC), BarClosed)} == {BarFlag.GAPPED}


def test_a_stuck_symbol_delays_a_decision_and_does_not_prevent_it() -> None:
    """The barrier waits a while, then the column goes on without it; the symbol is frozen."""
    driver = Driver().start()
    driver.bar()
    driver.now_ns = (driver.now_ns // NS_PER_S + 1) * NS_PER_S + NS_PER_MS
    driver.tick(ETH, skip=3)
    assert not all_of(driver.tick(BTC), Decide)
    driver.books()

    ask = only(driver.timer(800), Decide)

    assert ask.frozen == (False, True)
    assert [bar.symbol for bar in ask.bars if bar.close_ns == ask.close_ns] == [BTC]


def test_a_symbol_whose_bar_a_decision_could_not_wait_for_is_frozen() -> None:
    """After a reconnect a book alone makes a symbol look fresh; without its bar its weight may not grow all the same."""
    driver = Driver().start()
    driver.bar()
    driver.send(Link("market", up=False, detail="cut", ts_ns=driver.now_ns))
    driver.now_ns += 100 * NS_PER_MS
    reconnect(driver)
    driver.now_ns = (driver.now_ns // NS_PER_S + 1) * NS_PER_S + NS_PER_MS
    driver.books()
    driver.tick(BTC)
    asked: list[Decide] = []
    for _ in range(16):
        driver.books()
        asked += all_of(driver.timer(50), Decide)

    assert driver.engine.state.fresh(driver.engine.state.markets[ETH])
    assert [ask.frozen for ask in asked] == [(False, True)]


def test_trades_held_back_for_a_repair_that_fails_are_no_fresher_for_it() -> None:
    """I6: an exit's reference price was taken for new when the wait for a lost trade ended (simulation, seed 2035)."""
    driver = Driver().start()
    driver.now_ns += NS_PER_S
    driver.tick("BTC/USDT", skip=1)
    heard_ns = driver.now_ns
    driver.timer(11_000)
    driver.send(
        Repair("BTC/USDT", driver.ids["BTC/USDT"] - 2, driver.ids["BTC/USDT"] - 2, (), False, "no", driver.now_ns)
    )
    market = driver.engine.state.markets["BTC/USDT"]

    assert all_of(driver.effects, Alert)[-1].code in {"trades_lost", "stale_feed"}
    assert market.last > 0
    assert market.priced_ns == heard_ns
