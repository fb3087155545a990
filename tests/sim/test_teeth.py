"""The simulation turns red for the faults in the daemon that it exists to find: each is planted and must be noticed."""

from typing import Any

import msgspec
import pytest

from daemon.domain.orders import Approved, Fill, OrderState
from daemon.edge.ledger_store import Store, Ticket
from daemon.edge.orders import LiveVenue
from daemon.edge.outcomes import Outcome
from daemon.edge.rejects import judge
from daemon.edge.tracker import Tracker
from tests.sim.run import Outcome as Run
from tests.sim.run import simulate

MINUTES = 1.5
LOST_REPLIES = ("F2", "F3", "F4")


def broken(run: Run) -> set[str]:
    """Return the invariants that a run has seen broken."""
    return {line.partition(" ")[0] for line in run.found}


def test_a_resend_on_timeout_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """I1 or I8: an order without an answer is sent again."""
    place = LiveVenue.send

    async def twice(self: Any, approved: Approved) -> None:
        await place(self, approved)
        order = self.tracker.find(approved.intent.client_id)
        if order is not None and order.state in {OrderState.UNKNOWN, OrderState.RESOLVING}:
            later = approved.intent.expires_ns + 60_000_000_000
            await self.calls.place(msgspec.structs.replace(approved.intent, expires_ns=later), lambda: "")

    monkeypatch.setattr(LiveVenue, "send", twice)

    assert "I1" in broken(simulate(2, MINUTES, only=LOST_REPLIES))


def test_an_unknown_fate_called_rejected_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """I8: ExchangeError taken for a refusal; the user stream corrects it, but the exposure was free meanwhile."""

    def careless(*arguments: Any, **options: Any) -> Outcome:
        outcome = judge(*arguments, **options)
        if outcome.state is OrderState.UNKNOWN:
            return msgspec.structs.replace(outcome, state=OrderState.REJECTED)
        return outcome

    monkeypatch.setattr("daemon.edge.orders.judge", careless)

    assert "I8" in broken(simulate(2, MINUTES, only=LOST_REPLIES))


def test_a_fill_dropped_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """I3, I9: every seventh execution is forgotten."""
    take = Tracker.execution
    seen = [0]

    def forgetful(self: Tracker, fill: Fill) -> bool:
        seen[0] += 1
        if seen[0] % 7 == 0:
            self._trades[fill.symbol, fill.trade_id] = None
            return False
        return take(self, fill)

    monkeypatch.setattr(Tracker, "execution", forgetful)

    assert {"I3", "I9"} & broken(simulate(2, 1.0, faults=False))


def test_a_fill_booked_twice_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """I3 or I5: one trade under two ids."""
    take = Tracker.execution

    def twice(self: Tracker, fill: Fill) -> bool:
        take(self, msgspec.structs.replace(fill, trade_id=f"9{fill.trade_id}"))
        return take(self, fill)

    monkeypatch.setattr(Tracker, "execution", twice)

    assert {"I3", "I5"} & broken(simulate(2, 1.0, faults=False))


def test_an_order_sent_before_it_is_durable_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """I2: the commit is skipped."""

    def skipped(_self: Store, _submit: object, ticket: Ticket) -> bool:
        return ticket.land()

    monkeypatch.setattr(Store, "commit", skipped)

    assert "I2" in broken(simulate(2, 0.5, faults=False))
