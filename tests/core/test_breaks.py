"""Breaks between ledger and venue: REDUCING while fresh, HALTED when they last; others' doings are told once."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from daemon.core import causes as cause
from daemon.core.breaks import PERSISTS_NS, VERDICTS_MIN, Breaks, told
from daemon.domain.events import (
    Action,
    Alert,
    Booked,
    Command,
    Fault,
    Flow,
    Persist,
    Reconciled,
    Restored,
    TradingState,
)
from daemon.domain.market import NS_PER_S
from tests.core.driver import Driver, all_of

D = Decimal
ONE = ("BTC", D(1), D(2))
TWO = ("ETH", D(1), D(3))


def verdict(ts_ns: int, *breaks: tuple[str, Decimal, Decimal], external: int = 0) -> Reconciled:
    """Return a comparison that found these breaks."""
    return Reconciled(ok=not breaks, balances=(), breaks=breaks, external_orders=external, ts_ns=ts_ns)


def compare(driver: Driver, seconds: float, *breaks: tuple[str, Decimal, Decimal], external: int = 0) -> list[str]:
    """Let an engine take a comparison some seconds later and return the codes of its alerts."""
    driver.now_ns += int(seconds * NS_PER_S)
    return [one.code for one in all_of(driver.send(verdict(driver.now_ns, *breaks, external=external)), Alert)]


def test_a_fresh_break_reduces_and_clears_by_itself() -> None:
    """T2: one comparison that differs restricts; the next that agrees lifts it."""
    driver = Driver().start()

    assert compare(driver, 1, ONE) == ["reconcile_break"]
    assert driver.engine.state.trading is TradingState.REDUCING
    assert compare(driver, 30) == []
    assert driver.engine.state.trading is TradingState.ACTIVE


def test_a_break_that_lasts_halts_until_resume() -> None:
    """T2: the same asset differs for more than 60 s: HALTED, latched, told once, durable, lifted by ``resume``."""
    driver = Driver().start()
    compare(driver, 1, ONE)
    compare(driver, 60, ONE)
    assert driver.engine.state.trading is TradingState.REDUCING

    assert compare(driver, 1, ONE) == [cause.PERSISTENT_BREAK, "reconcile_break"]
    assert driver.engine.state.trading is TradingState.HALTED
    assert '"persistent_break":"halted"' in all_of(driver.effects, Persist)[-1].state_json
    assert compare(driver, 30, ONE) == ["reconcile_break"]
    assert compare(driver, 30) == []
    assert driver.engine.state.causes.names == (cause.PERSISTENT_BREAK,)

    driver.send(Command("1", Action.RESUME, "test", driver.now_ns))
    assert cause.PERSISTENT_BREAK not in driver.engine.state.causes


def test_resume_starts_the_clock_anew() -> None:
    """Whoever resumed has looked at it: REDUCING stays, and 60 s later it halts again."""
    driver = Driver().start()
    for seconds in (1, 61):
        compare(driver, seconds, ONE)
    driver.send(Command("1", Action.RESUME, "test", driver.now_ns))
    compare(driver, 1, ONE)
    assert driver.engine.state.trading is TradingState.REDUCING

    compare(driver, 61, ONE)
    assert driver.engine.state.trading is TradingState.HALTED


def test_each_asset_has_a_clock_of_its_own() -> None:
    """Two breaks, each shorter than 60 s, are not one that lasts."""
    driver = Driver().start()
    compare(driver, 1, ONE)
    compare(driver, 40, TWO)
    compare(driver, 40, TWO)

    assert driver.engine.state.trading is TradingState.REDUCING


def test_one_comparison_alone_never_halts() -> None:
    """A break first seen counts from then on, whatever time has passed before."""
    breaks = Breaks()

    assert VERDICTS_MIN == 2
    assert breaks.see(verdict(10 * PERSISTS_NS, ONE)) == ()
    assert breaks.see(verdict(12 * PERSISTS_NS, ONE)) == ("BTC",)


@given(st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=40))
def test_halts_exactly_when_the_unbroken_run_exceeds_a_minute(steps: list[tuple[int, bool]]) -> None:
    """Property: whatever the sequence of comparisons, the verdict follows from the current run of breaks alone."""
    breaks = Breaks()
    now, began = 0, None
    for seconds, differs in steps:
        now += seconds * NS_PER_S
        began = (began if began is not None else now) if differs else None
        lasting = breaks.see(verdict(now, ONE)) if differs else breaks.see(verdict(now))

        assert bool(lasting) == (began is not None and now - began > PERSISTS_NS)


def test_external_orders_are_told_when_there_are_more() -> None:
    """T3: an alert when one appears, none while it stays."""
    driver = Driver().start()

    assert compare(driver, 1, external=1) == ["external_orders"]
    assert compare(driver, 1, external=1) == []
    assert compare(driver, 1, external=3) == ["external_orders"]
    assert driver.engine.state.external_orders == 3
    assert driver.engine.state.trading is TradingState.ACTIVE


def test_flows_of_others_are_told_and_touch_our_books_only_when_ours() -> None:
    """F38: an external sale leaves our books alone; the part that was ours does not. One alert for each part."""
    driver = Driver().start().buy(BTC=0.1, ETH=0.1)
    held = driver.engine.state.account.position("BTC/USDT")
    detail = "external trade BTC/USDT 7: sell 1 at 40000"
    effects = driver.send(
        Flow("BTC", D("-0.9"), ours=False, detail=detail, ts_ns=driver.now_ns),
        Flow("BTC", D("-0.1"), ours=True, detail=detail, ts_ns=driver.now_ns),
        Flow("USDT", D(40_000), ours=True, detail="external trade BTC/USDT 7, quote", ts_ns=driver.now_ns),
    )

    assert driver.engine.state.account.position("BTC/USDT") == held - D("0.1")
    assert len(all_of(effects, Booked)) == 3
    assert [one.detail for one in all_of(effects, Alert)] == [
        f"BTC -0.9, external: {detail}", f"BTC -0.1, ours: {detail}",
    ]  # fmt: skip


def test_opening_balances_are_no_news() -> None:
    """Only what others do is told."""
    assert told(Flow("USDT", D(1), ours=True, detail="opening balance", ts_ns=1)) is None
    assert told(Flow("USDT", D(1), ours=True, detail="unexplained change", ts_ns=1)) is not None


def test_a_key_that_reads_find_refused_halts_by_its_name() -> None:
    """F68: the fault of the key is the cause ``key_refused``, that of a second writer its own, any other a fault."""
    for task, name in (("key", cause.KEY_REFUSED), ("second writer", cause.SECOND_WRITER), ("feed", cause.FAULT)):
        driver = Driver().start()
        effects = driver.send(Fault(task, "refused (-2015)", driver.now_ns))

        assert driver.engine.state.causes.names == (name,)
        assert driver.engine.state.trading is TradingState.HALTED
        assert [one.code for one in all_of(effects, Alert)] == [name]


def restarted(driver: Driver) -> Driver:
    """Return an engine that knows of the first one what its ledger knows."""
    again = Driver(driver.config)
    again.now_ns = driver.now_ns
    account, memory = driver.engine.state.account, all_of(driver.effects, Persist)[-1].state_json
    again.send(Restored(2, account.cash, tuple(account.positions.items()), (), (), memory, driver.now_ns))
    return again


def test_a_restart_does_not_start_the_clock_anew() -> None:
    """T2: what differed before a restart and differs after it has lasted; two comparisons of the new session say so."""
    driver = Driver().start()
    compare(driver, 1, ONE)
    compare(driver, 40, ONE)
    again = restarted(driver)

    assert cause.PERSISTENT_BREAK not in compare(again, 25, ONE)
    assert cause.PERSISTENT_BREAK in compare(again, 1, ONE)
    assert again.engine.state.trading is TradingState.HALTED


def test_a_break_that_is_gone_after_a_restart_is_forgotten() -> None:
    """T2: agreement ends the clock, also the remembered one; so does another asset's break."""
    driver = Driver().start()
    compare(driver, 1, ONE)
    again = restarted(driver)
    compare(again, 100, TWO)
    compare(again, 10, ONE)
    compare(again, 10, ONE)

    assert cause.PERSISTENT_BREAK not in again.engine.state.causes


def test_a_restart_loop_cannot_outrun_the_clock() -> None:
    """T2: restarted after every second comparison, an engine halts all the same once the minute is over."""
    driver = Driver().start()
    compare(driver, 1, ONE)
    halted_after = 0
    for seconds in range(20, 200, 20):
        driver = restarted(driver)
        if cause.PERSISTENT_BREAK in [*compare(driver, 10, ONE), *compare(driver, 10, ONE)]:
            halted_after = seconds
            break

    assert 60 < halted_after <= 80
