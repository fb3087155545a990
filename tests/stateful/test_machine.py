"""The state machine as a test, and the faults that it exists to find."""

import os
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from daemon.core.account import Account
from daemon.core.blotter import Blotter
from daemon.core.causes import Causes
from daemon.core.orderdesk import OrderDesk
from daemon.core.projection import Room
from daemon.domain.events import Effect, TradingState
from daemon.domain.orders import TERMINAL, Fill, OrderState, OrderUpdate
from risk.gate import Gate
from tests.stateful.machine import Machine

EXAMPLES = int(os.environ.get("STATEFUL_EXAMPLES", "300"))
"""`make soak` runs more; see docs/testing.md."""
STEPS = int(os.environ.get("STATEFUL_STEPS", "80"))


def play(examples: int, *, steps: int = STEPS, shrink: bool = True) -> None:
    """Run the machine so many times; raises what it finds."""
    Machine.seen.clear()
    phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=EXAMPLES <= 300,
            database=None,
            phases=phases,
            print_blob=True,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_whatever_happens_in_whatever_order_the_invariants_hold() -> None:
    """I1, I3, I4, I5, I8, I12, I14 by books of the other side; and everything that should have happened did."""
    play(EXAMPLES)

    wanted = ("order", "ack", "reply lost", "request lost", "late arrival", "late fill", "late evidence", "partial fill",
              "duplicate", "cancel race", "never placed", "found", "restart", "limits changed", "link down", "kill",
              "deposit", "denied", "refused", "flatten")  # fmt: skip
    assert not [name for name in wanted if not Machine.seen[name]], dict(Machine.seen)


def caught() -> str:
    """Run the machine on a daemon with a planted fault; return the invariant that it finds broken, "" when none."""
    try:
        play(400, shrink=False)
    except AssertionError as error:
        return str(error).partition(":")[0]
    return ""


def test_a_late_fill_that_is_dropped_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: an execution that comes after its order's end is not booked."""
    book = OrderDesk.fill

    def careless(self: Any, fill: Fill) -> tuple[Effect, ...]:
        order = self._state.blotter.find(fill.client_id)
        return () if order is not None and order.state in TERMINAL else book(self, fill)

    monkeypatch.setattr(OrderDesk, "fill", careless)

    assert caught() == "I3"


def test_a_fill_booked_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: what was booked is forgotten, a repeated report counts again."""
    book = Account.book

    def forgetful(self: Account, fill: Fill) -> bool:
        self.booked.clear()
        return book(self, fill)

    monkeypatch.setattr(Account, "book", forgetful)

    assert caught() == "I3"


def test_an_unknown_order_whose_exposure_is_set_free_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: an order without an answer is taken for one that failed."""
    update = Blotter.update

    def hasty(self: Blotter, news: OrderUpdate) -> Any:
        if news.state is OrderState.UNKNOWN:
            news = msgspec.structs.replace(news, state=OrderState.REJECTED)
        return update(self, news)

    monkeypatch.setattr(Blotter, "update", hasty)

    assert caught() == "I4"


def test_a_weight_beyond_its_limit_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: neither planner nor gate knows a limit of the weight (P4); one of them alone is enough."""
    monkeypatch.setattr(Gate, "_check_exposure", lambda *_arguments: None)
    monkeypatch.setattr(Room, "weight", lambda _self, _symbol: Decimal(10**9))

    assert caught() in {"I4", "P14"}


def test_a_buy_in_reducing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: whatever happened, the trading state is ACTIVE."""
    monkeypatch.setattr(Causes, "state", property(lambda _self: TradingState.ACTIVE))

    assert caught() == "I12"


def test_an_end_that_is_not_final_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: the last word counts, in whatever order words arrive."""
    monkeypatch.setattr("daemon.core.blotter.RANK", dict.fromkeys(OrderState, 0) | {OrderState.ACKED: 1})

    assert caught() in {"I8", "I4"}
