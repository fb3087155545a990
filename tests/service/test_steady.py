"""The clock of the daemon: what was timed before the venue set it back is not believed to be of the future."""

from decimal import Decimal

from daemon.domain.events import Action, Command, Restored
from daemon.domain.market import NS_PER_S
from daemon.service.steady import not_ahead

NOW_NS = 1_760_000_000 * NS_PER_S
AHEAD_NS = NOW_NS + 3_600 * NS_PER_S


def test_f47_what_was_made_while_the_clock_was_ahead_happens_now() -> None:
    """The ledger's memory and early commands get the time that the venue says; the rest of them stays."""
    restored = Restored(3, Decimal(7), (), (), (), "{}", AHEAD_NS, sent_ns=(NOW_NS - 5,))
    command = Command("cli-1", Action.PAUSE, "cli", AHEAD_NS)

    assert not_ahead(restored, NOW_NS) == Restored(3, Decimal(7), (), (), (), "{}", NOW_NS, sent_ns=(NOW_NS - 5,))
    assert not_ahead(command, NOW_NS) == Command("cli-1", Action.PAUSE, "cli", NOW_NS)


def test_f47_what_has_happened_keeps_its_time() -> None:
    """An event of the past is handed on as it is."""
    command = Command("cli-1", Action.PAUSE, "cli", NOW_NS - 1)

    assert not_ahead(command, NOW_NS) is command
