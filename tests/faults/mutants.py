"""Planted faults of ours: each breaks the daemon's process in one way, and a named row must turn red, for that reason.

They are applied by `tests.faults.launch`; nothing of them is in the product.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from tests.faults.harness import ROWS, load, perform
from tests.faults.launch import fired


@dataclass(frozen=True)
class Mutant:
    """One planted fault: its function here, the row that must notice it, and what that row's finding must say."""

    name: str
    title: str
    row: str
    says: str


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


MUTANTS: Final = (Mutant("resend_on_timeout", "an order without an answer is sent again", "F2", "I1: "),)
