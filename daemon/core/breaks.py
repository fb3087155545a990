"""What comparisons of ledger and venue mean: how long they have differed, and what a person is told of others' doings."""

from daemon.domain.events import Alert, Flow, Reconciled
from daemon.domain.market import NS_PER_S

PERSISTS_NS = 60 * NS_PER_S
"""An asset that differs for longer than this, over at least two comparisons, halts trading (T2)."""
VERDICTS_MIN = 2
UNEXPLAINED = "unexplained change"
TAKEN_BACK = f"{UNEXPLAINED} taken back: it is explained now"
DEPOSIT = "deposit"
WITHDRAWAL = "withdrawal"
EXTERNAL_TRADE = "external trade"
TOLD = (UNEXPLAINED, DEPOSIT, WITHDRAWAL, EXTERNAL_TRADE)
"""Beginnings of the details of flows that a person is told of."""
QUIET = (", quote", ", fee")
"""Ends of the details of a trade's other legs: a trade by hand is told once, with its base asset."""


class Breaks:
    """Remembers since when each asset has differed, by the times in events.

    The clocks survive a restart: a break that was there before and is there after has lasted. What was seen of it must be
    seen anew all the same, for a session that has just begun may know less than the venue.
    """

    def __init__(self) -> None:
        """Start in agreement."""
        self._since: dict[str, tuple[int, int]] = {}

    def see(self, verdict: Reconciled) -> tuple[str, ...]:
        """Take a comparison; return the assets that have differed for too long, in the order of names."""
        before = self._since
        self._since = {}
        for asset, _, _ in verdict.breaks:
            since_ns, verdicts = before.get(asset, (verdict.ts_ns, 0))
            self._since[asset] = (since_ns, verdicts + 1)
        return tuple(
            asset
            for asset, (since_ns, verdicts) in sorted(self._since.items())
            if verdicts >= VERDICTS_MIN and verdict.ts_ns - since_ns > PERSISTS_NS
        )

    def snapshot(self) -> dict[str, int]:
        """Return since when (ns) each asset has differed."""
        return {asset: since_ns for asset, (since_ns, _) in sorted(self._since.items())} if self._since else {}

    def restore(self, since: dict[str, int]) -> None:
        """Take over what ``snapshot`` returned; comparisons are counted from none."""
        self._since = {asset: (since_ns, 0) for asset, since_ns in since.items()}

    def forgive(self) -> None:
        """Start the clock anew: a person has looked at it."""
        self._since.clear()


def told(flow: Flow) -> Alert | None:
    """Return what a person is told of a flow; None of an opening balance and of the other legs of a trade."""
    if not flow.detail.startswith(TOLD) or flow.detail.endswith(QUIET):
        return None
    whose = "ours" if flow.ours else "external"
    amount = f"{flow.amount:+f}"
    if "." in amount:
        amount = amount.rstrip("0").rstrip(".")
    return Alert("flow", f"{flow.asset} {amount}, {whose}: {flow.detail}", "", flow.ts_ns)
