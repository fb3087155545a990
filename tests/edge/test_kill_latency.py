"""A1, F57, I7: the whole daemon is killed while it is healthy, while its loop is blocked, while its ledger is locked.

How fast it is, `benchmarks/kill.py` measures; here only the order of magnitude is asserted.
"""

import os
import signal
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.kit import SECRET, Daemon, Exchange, suffering, until

OPEN = 50
ENDED_S_MAX = 5.0
GRACE_NS = 250_000_000
"""Generous: a machine under load notices a file late; 10 ms is the goal that the benchmark measures."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Exchange, Daemon]]:
    """A daemon that trades every second, for all cases."""
    folder: Path = tmp_path_factory.mktemp("kill")
    with Exchange("--trades-per-s", 5) as exchange, Daemon(exchange, folder) as daemon:
        daemon.wait_ready()
        yield exchange, daemon


def prefix_of(exchange: Exchange) -> str:
    """Return how the daemon's client ids begin."""
    return str(until(lambda: exchange.truth()["orders"], what="an order")[0]["client_id"])[:5]


def rest(exchange: Exchange, prefix: str, count: int = OPEN) -> None:
    """Let orders of ours rest far below the market, as if the daemon had placed them."""
    for number in range(count):
        symbol = ("BTCUSDT", "ETHUSDT")[number % 2]
        price = Decimal(exchange.ask(f"/api/v3/ticker/price?symbol={symbol}")["price"]) * Decimal("0.7")
        exchange.steer(
            "place",
            symbol=symbol, side="BUY", type="LIMIT", timeInForce="GTC",
            quantity=f"{Decimal(20) / price:.4f}", price=f"{price:.2f}", newClientOrderId=f"{prefix}kill{number}",
        )  # fmt: skip


def resting(exchange: Exchange, prefix: str) -> list[Any]:
    """Return our open orders on the exchange."""
    return [
        one
        for one in exchange.truth()["orders"]
        if one["status"] in {"NEW", "PARTIALLY_FILLED"} and one["client_id"].startswith(prefix)
    ]


@pytest.mark.parametrize("case", ["healthy", "loop blocked", "ledger locked"])
def test_f57_i7_a_kill_cancels_everything_and_nothing_new_leaves(stage: tuple[Exchange, Daemon], case: str) -> None:
    """Fifty open orders are gone within 5 s of the latch, whoever cancels them, and no order arrives after it."""
    exchange, daemon = stage
    prefix = prefix_of(exchange)
    with suffering(case, daemon):
        rest(exchange, prefix)
        began_ns = exchange.now_ns()
        (daemon.state_dir / "KILL").touch()
        until(lambda: not resting(exchange, prefix), timeout_s=ENDED_S_MAX, what="every order's end", why=daemon.tail)

        assert exchange.orders_sent(began_ns + GRACE_NS) == []

    until(lambda: daemon.api("status")["state"] == "halted", what="halted", why=daemon.tail)

    assert not resting(exchange, prefix)
    assert exchange.orders_sent(began_ns + GRACE_NS) == []
    assert daemon.cli("resume", "--clear-kill").returncode == 0

    daemon.wait_ready()


def test_a1_a_daemon_that_is_killed_with_the_latch_set_leaves_nothing_open(stage: tuple[Exchange, Daemon]) -> None:
    """The process dies in the moment of the kill; the watchdog beside it finishes, and `ballast kill` finds nothing left."""
    exchange, daemon = stage
    prefix = prefix_of(exchange)
    assert daemon.process is not None
    os.kill(daemon.process.pid, signal.SIGSTOP)
    rest(exchange, prefix)
    (daemon.state_dir / "KILL").touch()
    daemon.kill9()
    until(lambda: not resting(exchange, prefix), timeout_s=ENDED_S_MAX, what="every order's end", why=daemon.tail)
    until(lambda: daemon.events("watchdog.ends"), what="the watchdog's end", why=daemon.tail)
    done = daemon.tell("kill")

    assert (done["ok"], done["daemon"], done["cancelled"], done["left"]) == (True, False, 0, 0)
    assert SECRET not in daemon.log_file.read_text()
    assert exchange.key not in daemon.log_file.read_text()
