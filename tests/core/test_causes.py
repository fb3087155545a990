"""State = the worst active cause; what latches, what clears by itself, what survives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core import causes as cause
from daemon.core.causes import LATCHED, LIFTED_BY_RESUME, SEVERITY, Causes
from daemon.domain.events import Action, Command, Killed, Link, Reconciled, Restored, Timer, TradingState
from daemon.domain.market import NS_PER_MS, NS_PER_S
from tests.core.driver import START_NS, Driver

NAMES = sorted(LATCHED | {cause.STALE_FEED, cause.CLOCK, cause.DAILY_LOSS, cause.STARTING})


def test_a_start_is_halted() -> None:
    """Nothing trades before recovery is complete."""
    causes = Causes()

    assert causes.state is TradingState.HALTED
    assert causes.names == (cause.STARTING,)
    assert causes.drop(cause.STARTING)
    assert not causes.drop(cause.STARTING)
    assert causes.state is TradingState.ACTIVE


def test_the_worst_cause_counts_and_is_named_first() -> None:
    """REDUCING beside HALTED is HALTED."""
    causes = Causes()
    causes.put(cause.CLOCK, TradingState.REDUCING)

    assert causes.names == (cause.STARTING, cause.CLOCK)
    causes.drop(cause.STARTING)
    assert causes.state is TradingState.REDUCING


def test_news_is_told_once() -> None:
    """Putting what is there already says nothing new; a worse demand does."""
    causes = Causes()

    assert causes.put(cause.DRAWDOWN, TradingState.REDUCING)
    assert not causes.put(cause.DRAWDOWN, TradingState.REDUCING)
    assert causes.put(cause.DRAWDOWN, TradingState.HALTED)
    assert causes.keep(cause.CLOCK, TradingState.REDUCING, active=True)
    assert not causes.keep(cause.CLOCK, TradingState.REDUCING, active=True)
    assert causes.keep(cause.CLOCK, TradingState.REDUCING, active=False)


def test_resume_lifts_latched_causes_and_never_the_kill() -> None:
    """A9: only the host lifts a kill; self-clearing causes clear by themselves."""
    causes = Causes()
    for name in NAMES:
        causes.put(name, TradingState.HALTED)

    assert causes.resume()
    assert not causes.resume()
    assert set(causes.names) == set(NAMES) - LIFTED_BY_RESUME
    assert cause.KILL in causes


@given(st.dictionaries(st.sampled_from(NAMES), st.sampled_from(list(TradingState))))
def test_what_is_latched_survives_a_restart_and_nothing_else(active: dict[str, TradingState]) -> None:
    """The memory of one session is the start of the next, HALTED until recovered."""
    causes = Causes()
    for name, state in active.items():
        causes.put(name, state)
    again = Causes()
    again.restore({**causes.latched(), cause.STALE_FEED: TradingState.HALTED})

    assert set(again.names) == {name for name in active if name in LATCHED} | {cause.STARTING}
    assert again.latched() == causes.latched()
    assert SEVERITY[again.state] == SEVERITY[TradingState.HALTED]


def test_starting_is_over_once() -> None:
    """A break later in the session is REDUCING, not a second start."""
    driver = Driver().start()
    breaks = (("BTC", driver.engine.state.account.cash, driver.engine.state.account.cash),)
    driver.send(Reconciled(ok=False, balances=(), breaks=breaks, external_orders=0, ts_ns=driver.now_ns))
    assert driver.engine.state.trading is TradingState.REDUCING

    driver.send(Reconciled(ok=True, balances=(), breaks=(), external_orders=0, ts_ns=driver.now_ns))
    assert driver.engine.state.trading is TradingState.ACTIVE


def test_a_kill_that_was_lifted_while_the_daemon_was_away_is_over() -> None:
    """The latch on disk is the truth: the service says at start whether it is set, and memory gives way."""
    driver = Driver()
    driver.send(
        Restored(2, START_NS * 0 + driver.engine.state.account.cash, (), (), (), '{"causes":{"kill":"halted"}}', 1)
    )
    assert cause.KILL in driver.engine.state.causes

    driver.send(Killed(on=False, detail="", ts_ns=START_NS))
    assert cause.KILL not in driver.engine.state.causes


def test_a_memory_that_cannot_be_read_halts_and_says_so() -> None:
    """F50: truncated state is reported; it neither crashes the start nor trades on."""
    driver = Driver()
    effects = driver.send(Restored(2, driver.engine.state.account.cash, (), (), (), '{"causes":{"fau', START_NS))
    driver.start()

    assert any(getattr(effect, "code", "") == "memory_lost" for effect in effects)
    assert driver.engine.state.trading is TradingState.HALTED
    driver.send(Command("1", Action.RESUME, "test", driver.now_ns))
    assert driver.engine.state.trading is TradingState.ACTIVE


@pytest.mark.parametrize(
    ("feed", "name", "state"),
    [
        ("rest", cause.REST_DOWN, TradingState.REDUCING),
        ("user", cause.USER_STREAM, TradingState.REDUCING),
        ("ledger", cause.LEDGER, TradingState.HALTED),
    ],
)
def test_a_link_that_is_down_restricts_until_it_is_up(feed: str, name: str, state: TradingState) -> None:
    """F16 and F48: each by itself, and each clears by itself."""
    driver = Driver().start()
    driver.send(Link(feed, up=False, detail="", ts_ns=driver.now_ns))
    driver.timer(50)
    assert driver.engine.state.causes.names == (name,)
    assert driver.engine.state.trading is state

    driver.send(Link(feed, up=True, detail="", ts_ns=driver.now_ns))
    driver.timer(50)
    assert driver.engine.state.trading is TradingState.ACTIVE


def test_a_clock_that_is_off_restricts() -> None:
    """P10: more than half a second from the venue's."""
    driver = Driver().start()
    driver.now_ns += 50 * NS_PER_MS
    driver.send(Timer(driver.now_ns, driver.now_ns + NS_PER_S))

    assert driver.engine.state.causes.names == (cause.CLOCK,)
