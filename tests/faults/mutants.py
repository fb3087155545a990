"""Planted faults of ours: each breaks the daemon's process in one way, and a named row must turn red, for that reason.

They are applied by `tests.faults.launch`; nothing of them is in the product.
"""

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from tests.faults.harness import ROWS, load, perform
from tests.faults.launch import fired

LATE_NS: Final = 5_000_000_000


@dataclass(frozen=True)
class Mutant:
    """One planted fault: its function here, the row that must notice it, and what that row's finding must say."""

    name: str
    title: str
    row: str
    says: str


def chosen(names: Sequence[str]) -> tuple[Mutant, ...]:
    """Return the mutants of these names, all of them without names."""
    return tuple(one for one in MUTANTS if not names or one.name in names)


def prove(mutant: Mutant) -> dict[str, object]:
    """Run the mutant's row with it; ``ok`` only when the row is red for the reason named."""
    load()
    finding = perform(ROWS[mutant.row], mutants=(f"tests.faults.mutants:{mutant.name}",))
    noticed = not finding.ok and re.search(mutant.says, finding.detail) is not None
    how = finding.detail.splitlines()[0][:160] if finding.detail else "the row stayed green"
    return {"name": mutant.name, "title": mutant.title, "row": mutant.row, "ok": noticed, "how": how}


def resend_on_timeout() -> None:
    """Send an order again whose answer did not come."""
    from daemon.edge.venue_calls import VenueCalls

    place = VenueCalls.place

    async def twice(self: Any, intent: Any, guard: Any) -> Any:
        answer = await place(self, intent, guard)
        if answer.left and not answer.reply.status:
            fired("resend_on_timeout")
            late = msgspec.structs.replace(intent, expires_ns=intent.expires_ns + 60_000_000_000)
            return await place(self, late, lambda: "")
        return answer

    VenueCalls.place = twice  # type: ignore[method-assign]


def unknown_is_rejected() -> None:
    """Take ccxt's ExchangeError, and whatever else proves nothing, for a refusal."""
    from daemon.domain.orders import OrderState
    from daemon.edge import orders

    module: Any = orders
    judge = module.judge

    def careless(*arguments: Any, **options: Any) -> Any:
        outcome = judge(*arguments, **options)
        if outcome.state is OrderState.UNKNOWN:
            fired("unknown_is_rejected")
            return msgspec.structs.replace(outcome, state=OrderState.REJECTED)
        return outcome

    module.judge = careless


def fsync_skipped() -> None:
    """Let the ledger commit without waiting for the disk."""
    from sqlalchemy import Engine, event

    def hasty(connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.lstrip().upper().startswith("INSERT INTO INTENTS"):
            fired("fsync_skipped")

    def relaxed(dbapi: Any, _record: Any) -> None:
        if hasattr(dbapi, "execute"):
            _SLOPPY.append(dbapi)
            dbapi.execute("PRAGMA synchronous=OFF")

    def begun(connection: Any) -> None:
        for dbapi in _SLOPPY:
            with contextlib.suppress(Exception):
                dbapi.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", relaxed)
    event.listen(Engine, "before_cursor_execute", hasty)
    event.listen(Engine, "begin", begun)


_SLOPPY: list[Any] = []


def late_fill_dropped() -> None:
    """Forget an execution that comes more than 5 s after its order was sent."""
    from daemon.domain.orders import Fill
    from daemon.edge.tracker import Tracker

    take = Tracker.execution

    def forgetful(self: Any, fill: Fill) -> bool:
        order = self.find(fill.client_id)
        if order is not None and fill.ts_event_ns - order.sent_ns > LATE_NS:
            fired("late_fill_dropped")
            self._trades[fill.symbol, fill.trade_id] = None
            return False
        return take(self, fill)

    Tracker.execution = forgetful  # type: ignore[method-assign]


def fill_booked_twice() -> None:
    """Book each execution a second time under another id."""
    from daemon.domain.orders import Fill
    from daemon.edge.tracker import Tracker

    take = Tracker.execution

    def twice(self: Tracker, fill: Fill) -> bool:
        if take(self, msgspec.structs.replace(fill, trade_id=f"9{fill.trade_id}")):
            fired("fill_booked_twice")
        return take(self, fill)

    Tracker.execution = twice  # type: ignore[method-assign]


MUTANTS: Final = (
    Mutant("resend_on_timeout", "an order without an answer is sent again", "F2", r"I1: \d+ orders sent"),
    Mutant("unknown_is_rejected", "ExchangeError is counted as rejected", "F4", r"I8: \S+ was called \{'rejected'\}"),
    Mutant("fsync_skipped", "the fsync of an intent is skipped", "F48s", r"halted because of \('ledger_unwritable',\)"),
    Mutant("late_fill_dropped", "a fill that comes late is dropped", "F7", r"I9: fills .*only there \[\("),
    Mutant("fill_booked_twice", "a fill is booked twice", "F31", r"I9: fills only in the ledger \[\("),
)
