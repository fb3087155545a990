"""F48, in the one place where it hurts most: the system call that makes an intent durable fails."""

import signal

from tests.e2e.kit import until
from tests.faults.harness import Trial, row

NS = 1_000_000_000


@row(
    "F48",
    "fsync itself answers EIO",
    part="s",
    expect="order not sent, HALTED, cancels still work; sound after a restart",
)
def f48s(trial: Trial) -> None:
    """The kernel refuses fsync and fdatasync to every thread of the daemon from a moment on, and for good."""
    broken = trial.patch("tests.faults.planted:no_fsync")
    daemon = trial.trading(execution={"order": "limit"})
    until(lambda: "acked" in trial.states().values(), what="a resting order", why=trial.tail)
    daemon.flag.touch()
    broken.wait()
    broken_ns = trial.exchange.now_ns()
    trial.wait_state("halted", "ledger_unwritable", timeout_s=10)
    late = [one["client_id"] for one in trial.exchange.orders_sent(broken_ns + NS // 2)]
    assert not late, f"I2: {len(late)} orders left although nothing can be made durable"
    process = daemon.process
    assert process is not None
    process.send_signal(signal.SIGUSR1)
    until(lambda: not trial.open_orders(), timeout_s=10, what="every cancel", why=trial.tail)
    daemon.flag.unlink()
    daemon.kill9()
    trial.heal()
    daemon.start()
    trial.wait_state("halted", "kill", timeout_s=60)
    assert daemon.cli("resume", "--clear-kill").returncode == 0
    trial.recovered()
    trial.orders(1, since_ns=trial.exchange.now_ns())
