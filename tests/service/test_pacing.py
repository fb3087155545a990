"""Orders leave one after the other while the loop stays awake; what came back is written when the last has left."""

import asyncio
from typing import Any

import pytest

from daemon.domain.events import Booked, Effect, Persist, Submit
from daemon.domain.orders import Approved
from daemon.edge.clock import Clock
from daemon.edge.supervisor import Supervisor
from daemon.service import dispatch
from daemon.service.dispatch import Dispatcher
from daemon.service.heap import Heap
from tests.core.driver import make_intent

ORDERS = 9


def approved(number: int) -> Approved:
    """Return an approved order."""
    return Approved(make_intent(client_id=f"o{number}"), 1)


class Ports:
    """A ledger and a venue that answers each order with a row for the ledger, at once."""

    def __init__(self) -> None:
        """Write down what happens, in order."""
        self.log: list[str] = []
        self.answer: Any = None

    async def commit(self, submit: Submit) -> bool:
        """Make durable."""
        return True

    def record(self, effect: Effect) -> None:
        """Queue a row."""
        self.log.append(f"row {type(effect).__name__}")

    async def send(self, one: Approved) -> None:
        """Send an order; its answer is booked immediately."""
        self.log.append(f"send {one.intent.client_id}")
        self.answer(Booked(None, None))


class Rig:
    """A dispatcher over such ports."""

    def __init__(self, heap: Heap | None = None) -> None:
        """Plug everything in."""
        self.ports = Ports()
        clock = Clock()
        self.jobs = Supervisor(clock, lambda _task, _detail: None)
        ports: Any = self.ports
        self.dispatch = Dispatcher(
            ledger=ports,
            venue=ports,
            market=ports,
            worker=ports,
            supervisor=self.jobs,
            emit=lambda _event: None,
            clock=clock,
            watch=lambda _effect: None,
            stopping=lambda: False,
            heap=heap,
        )
        self.ports.answer = self.dispatch


SUBMIT = Submit("d", tuple(approved(number) for number in range(ORDERS)), (), "{}")
SENDS = [f"send o{number}" for number in range(ORDERS)]


async def test_rows_wait_until_the_last_order_has_left() -> None:
    """The ledger's thread must not compete with orders that are just being signed; nothing is lost or reordered."""
    rig = Rig()
    rig.dispatch(SUBMIT)
    await rig.jobs.settle(5.0)
    rig.dispatch(Persist("{}"))

    assert rig.ports.log == [*SENDS, *["row Booked"] * ORDERS, "row Persist"]


async def test_rows_wait_in_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound all are written at once, in their order."""
    monkeypatch.setattr(dispatch, "HELD_ROWS_MAX", 2)
    monkeypatch.setattr(dispatch, "ORDERS_PER_TURN", 1)
    rig = Rig()
    rig.dispatch(SUBMIT)
    await rig.jobs.settle(5.0)

    assert rig.ports.log.count("row Booked") == ORDERS
    assert rig.ports.log[:6] == [*SENDS[:3], *["row Booked"] * 3]


async def test_the_loop_turns_while_orders_leave() -> None:
    """A trade that arrives while orders leave is heard after a few of them."""
    rig = Rig()
    turns: list[int] = []

    async def hear() -> None:
        while len(turns) < 100:
            turns.append(len(rig.ports.log))
            await asyncio.sleep(0)

    rig.dispatch(SUBMIT)
    await asyncio.gather(hear(), rig.jobs.settle(5.0))

    assert {dispatch.ORDERS_PER_TURN, 2 * dispatch.ORDERS_PER_TURN} <= set(turns)
