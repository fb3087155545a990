"""F1–F18: what happens to requests and connections on their way."""

from tests.e2e.kit import until
from tests.faults.harness import Trial, row


def given_up(trial: Trial, count: int) -> None:
    """Wait until the daemon has given up waiting for so many answers."""
    until(
        lambda: trial.metric("exchange_requests_total", outcome="no_answer") >= count,
        timeout_s=30, what="answers to be given up", why=trial.tail,
    )  # fmt: skip


@row("F2", "accepted, reply lost", expect="found by client id, ACKED, exactly one order", quick=True)
def f2(trial: Trial) -> None:
    """The exchange executes the order and never answers."""
    trial.trading()
    trial.arm("POST /api/v3/order", "hang_after", times=2).wait(2)
    trial.recovered()
    given_up(trial, 2)
    states = trial.states()
    assert {states[name] for name in trial.caught()} <= {"filled", "expired"}
