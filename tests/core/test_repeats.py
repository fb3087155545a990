"""P7 in the engine: a strategy that repeats itself makes no decisions until a person resumes it."""

from decimal import Decimal

import pytest

from daemon.domain.events import Action, Alert, Command, Decide, Persist, Restored, Step, Submit, TradingState
from daemon.domain.orders import Approved
from risk.limits import Limits
from tests.core.driver import Driver, all_of, make_config, only

MOST = 3


def make_driver(most: int = MOST) -> Driver:
    """Return a started engine with a short patience for repetition."""
    return Driver(make_config(limits=Limits(max_repeats=most))).start()


def bought(driver: Driver, times: int) -> Driver:
    """Let the strategy buy a little more, again and again."""
    for number in range(1, times + 1):
        driver.buy(BTC=0.05 * number)
    return driver


def test_p7_decisions_stop_and_an_alert_says_why() -> None:
    """The last execution that was allowed disables decisions, once, and what trades now only reduces."""
    driver = bought(make_driver(), MOST - 1)

    assert driver.engine.state.trading is TradingState.ACTIVE

    driver.buy(BTC=0.15)

    assert driver.engine.state.causes.names == ("repeated_execution",)
    assert driver.engine.state.trading is TradingState.REDUCING
    assert [one.code for one in all_of(driver.effects, Alert)] == ["repeated_execution"]

    step = only(driver.bar(), Step)

    assert (step.outcome, step.detail) == ("paused", "the strategy repeated itself: it waits for `resume`")


def test_p7_exits_are_neither_stopped_nor_counted() -> None:
    """A stop sells although decisions are disabled, and the parts it sells in are no repetition."""
    driver = bought(make_driver(), MOST)
    alerts = len(all_of(driver.effects, Alert))
    exits: list[Approved] = []
    effects = driver.tick("BTC/USDT", 36_000.0)
    for _ in range(MOST + 1):
        parts = all_of(effects, Submit)[0].approved
        exits.extend(parts)
        for part in parts:
            driver.fill(part, "0.1", price="36000")
        effects = driver.books() + driver.timer(1100)

    assert all(one.intent.exit for one in exits)
    assert "repeated_execution" not in [one.code for one in all_of(driver.effects, Alert)[alerts:]]
    assert driver.engine.state.repeats.snapshot().sells == {}


@pytest.mark.parametrize("parts", [1, 5])
def test_p7_counts_orders_not_parts(parts: int) -> None:
    """An order that fills in five parts is one execution."""
    driver = make_driver()
    approved = only(driver.decide(BTC=0.05), Submit).approved[0]
    for _ in range(parts):
        driver.fill(approved, "0.1")

    assert len(driver.engine.state.repeats.snapshot().buys["BTC/USDT"]) == 1


def test_p7_a_sale_in_between_is_no_repetition() -> None:
    """Trading to and fro is for turnover limits to judge."""
    driver = bought(make_driver(), MOST - 1).buy(BTC=0.02).buy(BTC=0.05)

    assert driver.engine.state.trading is TradingState.ACTIVE


def test_p7_zero_is_off() -> None:
    """Without the limit decisions go on."""
    driver = bought(make_driver(0), MOST + 2)

    assert driver.engine.state.trading is TradingState.ACTIVE


def test_p7_a_restart_keeps_the_latch_and_resume_lifts_it() -> None:
    """Stopped stays stopped until a person says otherwise; then counting begins anew."""
    driver = bought(make_driver(), MOST)
    memory = all_of(driver.effects, Persist)[-1].state_json
    account = driver.engine.state.account
    again = Driver(driver.config)
    again.now_ns = driver.now_ns
    again.send(
        Restored(2, account.cash, tuple(account.positions.items()), tuple(account.entries.items()), (), memory, 0)
    )

    assert "repeated_execution" in again.engine.state.causes

    driver.send(Command("1", Action.RESUME, "test", driver.now_ns))

    assert driver.engine.state.trading is TradingState.ACTIVE
    assert len(all_of(driver.bar(), Decide)) == 1

    driver.buy(BTC=0.2)

    assert driver.engine.state.trading is TradingState.ACTIVE
    assert driver.engine.state.account.cash > Decimal(0)


def reborn(driver: Driver) -> Driver:
    """Return a started engine that knows of the first one what was to be written before its last effect."""
    again = Driver(driver.config)
    again.now_ns = driver.now_ns
    again.start()
    account, memory = driver.engine.state.account, all_of(driver.effects, Persist)[-1].state_json
    positions, entries = tuple(account.positions.items()), tuple(account.entries.items())
    again.send(Restored(2, account.cash, positions, entries, (), memory, driver.now_ns))
    return again


def test_p7_a_crash_right_behind_an_execution_forgets_nothing() -> None:
    """The count is durable with the fill it counts: no timer needs to pass in between."""
    driver = make_driver()
    approved = only(driver.decide(BTC=0.05), Submit).approved[0]
    driver.fill(approved)
    again = reborn(driver)

    assert again.engine.state.repeats.snapshot() == driver.engine.state.repeats.snapshot()
    assert len(again.engine.state.repeats.snapshot().buys["BTC/USDT"]) == 1


def test_p7_restarts_in_between_do_not_fool_the_throttle() -> None:
    """A daemon that dies after every order is stopped after as many orders as one that lives."""
    driver = make_driver()
    for number in range(1, MOST + 1):
        driver = reborn(driver.buy(BTC=0.05 * number))

    assert "repeated_execution" in driver.engine.state.causes


def test_p6_the_throttle_counts_over_a_restart() -> None:
    """What the last session sent within the minute counts against this one's rate."""
    driver = make_driver()
    room = driver.engine.state.gate.capacity(driver.now_ns)
    sent = tuple(driver.now_ns - 1_000_000 * number for number in range(5, 0, -1))
    again = Driver(driver.config)
    again.send(Restored(2, Decimal(1000), (), (), (), "", driver.now_ns, sent_ns=sent))

    assert again.engine.state.gate.capacity(driver.now_ns) == room - 5
    assert again.engine.state.gate.capacity(driver.now_ns + 61_000_000_000) == room
