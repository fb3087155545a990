"""The operator's commands against the running daemon, through the command line, the API's files and signals."""

import signal
from collections.abc import Iterator
from decimal import Decimal

import pytest

from tests.e2e.conftest import STRONG
from tests.e2e.kit import Daemon, Exchange, assert_same, only_line, until


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for all commands; every test leaves it trading."""
    with Exchange(*STRONG) as exchange, Daemon(exchange, tmp_path_factory.mktemp("control")) as one:
        yield one.wait_ready()


def trades(daemon: Daemon) -> None:
    """Wait until an order leaves that was not sent before."""
    since_ns = daemon.exchange.now_ns()
    until(lambda: daemon.exchange.orders_sent(since_ns), timeout_s=40, what="an order", why=daemon.tail)


def state(daemon: Daemon, wanted: str, cause: str) -> None:
    """Wait for a trading state and its cause."""
    until(
        lambda: (shown := daemon.tell("status"))["state"] == wanted and (not cause or cause in shown["causes"]),
        what=f"{wanted} because of {cause}", why=daemon.tail,
    )  # fmt: skip


def positions(daemon: Daemon) -> dict[str, Decimal]:
    """Return what is held."""
    return {one["symbol"]: Decimal(one["qty"]) for one in daemon.tell("positions")["positions"] if Decimal(one["qty"])}


def test_status_says_what_it_is(daemon: Daemon) -> None:
    """Mode, state, readiness, equity as text, times with their ISO twin."""
    shown = daemon.tell("status")

    assert (shown["mode"], shown["instance"], shown["state"], shown["ready"]) == ("live", "main", "active", True)
    assert Decimal(shown["equity"]) > 0
    assert shown["ts_iso"].endswith("Z")
    assert isinstance(shown["ts_ns"], int)


def test_pause_makes_no_decisions_until_resume(daemon: Daemon) -> None:
    """`pause`: due decisions are not made, no order leaves; `resume` goes on."""
    trades(daemon)
    daemon.settle()
    since_ns = daemon.exchange.now_ns()
    until(lambda: [one["outcome"] for one in daemon.decisions()[:3]] == ["paused"] * 3, what="paused", why=daemon.tail)
    assert daemon.exchange.orders_sent(since_ns) == []
    daemon.tell("resume")
    trades(daemon)


def test_i12_reduce_only_never_grows(daemon: Daemon) -> None:
    """I12: while REDUCING no buy arrives, whatever the targets want."""
    daemon.tell("reduce-only")
    state(daemon, "reducing", "operator_reduce_only")
    since_ns = daemon.exchange.now_ns()
    before = len(daemon.decisions())
    daemon.wait_decisions(before + 4)
    placed = [one for one in daemon.exchange.truth()["orders"] if one["time_ms"] * 1_000_000 > since_ns]
    assert [one for one in placed if one["side"] == "BUY"] == []
    daemon.tell("resume")
    state(daemon, "active", "")
    trades(daemon)


def test_flatten_sells_everything(daemon: Daemon) -> None:
    """`flatten`: nothing is held afterwards but dust below the venue's minimum; it stays reducing until `resume`."""
    assert positions(daemon)
    daemon.tell("flatten")
    state(daemon, "reducing", "operator_flatten")
    until(lambda: not daemon.exits(), timeout_s=40, what="flat", why=daemon.tail)
    prices = {one["symbol"]: one["price"] for one in daemon.api("positions")["positions"]}
    assert all(float(qty) * prices[symbol] < 5.5 for symbol, qty in positions(daemon).items()), positions(daemon)
    daemon.settle()
    assert_same(daemon.ledger, daemon.exchange.truth())
    daemon.tell("resume")
    state(daemon, "active", "")
    trades(daemon)


def test_i7_kill_halts_and_survives_a_restart(daemon: Daemon) -> None:
    """A1, I7: `kill` latches at once; no order leaves, not after a restart, not after a plain `resume` (77)."""
    trades(daemon)
    answer = daemon.tell("kill")
    killed_ns = daemon.exchange.now_ns()

    assert (answer["ok"], answer["daemon"]) == (True, True)
    assert (daemon.state_dir / "KILL").is_file()
    state(daemon, "halted", "kill")
    until(
        lambda: not [one for one in daemon.exchange.truth()["orders"] if one["status"] in {"NEW", "PARTIALLY_FILLED"}],
        timeout_s=5, what="no open order",
    )  # fmt: skip
    assert "halted" in daemon.readiness()[1]
    assert daemon.stop()[0] == 0

    daemon.start()
    until(lambda: daemon.readiness()[1] and "not_reconciled" not in daemon.readiness()[1], what="up", why=daemon.tail)
    state(daemon, "halted", "kill")
    refused = daemon.cli("resume")
    assert refused.returncode == 77
    assert "ballast resume --clear-kill" in only_line(refused.stderr)
    daemon.wait_decisions(3)
    assert daemon.exchange.orders_sent(killed_ns) == []

    daemon.tell("resume", "--clear-kill")
    daemon.wait_ready()
    trades(daemon)


def test_sigusr1_kills(daemon: Daemon) -> None:
    """A1: the signal latches without any API, database or network."""
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGUSR1)
    until((daemon.state_dir / "KILL").is_file, timeout_s=2, what="the latch")
    state(daemon, "halted", "kill")
    since_ns = daemon.exchange.now_ns()
    before = len(daemon.decisions())
    daemon.wait_decisions(before + 2)
    assert daemon.exchange.orders_sent(since_ns) == []
    daemon.tell("resume", "--clear-kill")
    daemon.wait_ready()


def test_kill_without_a_daemon_latches_and_cancels(daemon: Daemon) -> None:
    """A9: `kill` works alone; the next start is halted until the latch is lifted on this host."""
    assert daemon.stop()[0] == 0
    answer = daemon.tell("kill")

    assert (answer["ok"], answer["daemon"], answer["left"]) == (True, False, 0)
    daemon.start()
    until(lambda: daemon.readiness()[0], what="an API", why=daemon.tail)
    state(daemon, "halted", "kill")
    daemon.tell("resume", "--clear-kill")
    daemon.wait_ready()
    daemon.settle()
    assert_same(daemon.ledger, daemon.exchange.truth())
