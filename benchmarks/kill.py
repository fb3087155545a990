"""The kill switch: how soon after the latch appears nothing new is sent, the first cancel arrives, the last order is gone.

The daemon is a process of its own, in live mode, with an order resting in each of its 50 symbols; the latch is a file made
beside it, as ``touch`` would. Times are those of arrival in the simulated exchange's request log. Cases: the daemon is
healthy; its loop is blocked (SIGSTOP) in the moment of the kill; another process holds the ledger locked; and a kill in
the middle of a burst of new orders.
"""

import contextlib
import os
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

from tests.e2e.kit import Daemon, Exchange, until  # noqa: E402

SYMBOLS = 50
ROUNDS = 3
ENDED_S_MAX = 10.0
GRACE_MS = 10.0
GOALS = {"first_cancel_ms": 250.0, "all_cancelled_ms": 5000.0, "new_orders_after_10_ms": 0}
CASES = ("healthy", "loop blocked", "ledger locked")


def daemon_on(exchange: Exchange, folder: Path) -> Daemon:
    """Return a daemon that lets an order rest in each of its symbols and decides every 15 s."""
    names = [one["symbol"] for one in exchange.ask("/api/v3/exchangeInfo")["symbols"][:SYMBOLS]]
    return Daemon(
        exchange, folder,
        universe=[f"{name.removesuffix('USDT')}/USDT" for name in names],
        bar="15s",
        strategy="benchmarks.even:Even",
        execution={"order": "limit"},
        risk={"max_order_notional": 0.01, "price_collar": 0.1, "exit_collar": 0.2},
    )  # fmt: skip


def open_orders(exchange: Exchange) -> list[str]:
    """Return the client ids of what is open on the exchange."""
    return [one["client_id"] for one in exchange.truth()["orders"] if one["status"] in {"NEW", "PARTIALLY_FILLED"}]


@contextlib.contextmanager
def trouble(case: str, daemon: Daemon) -> Iterator[None]:
    """Let the daemon suffer while the kill is measured."""
    assert daemon.process is not None
    if case == "loop blocked":
        os.kill(daemon.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(daemon.process.pid, signal.SIGCONT)
    elif case == "ledger locked":
        with contextlib.closing(sqlite3.connect(daemon.ledger, isolation_level=None)) as connection:
            connection.execute("begin immediate")
            yield
            connection.execute("rollback")
    else:
        yield


def kill_once(case: str, daemon: Daemon, exchange: Exchange) -> dict[str, float]:
    """Kill once and say what arrived when, in ms after the latch appeared; then lift the latch."""
    with trouble(case, daemon):
        before = len(open_orders(exchange))
        began_ns = time.time_ns()
        (daemon.state_dir / "KILL").touch()
        until(lambda: not open_orders(exchange), timeout_s=ENDED_S_MAX, what="every order's end", why=daemon.tail)
        seen = exchange.requests("/api/v3/order", began_ns)
    cancels = sorted(one["ns"] for one in seen if one["method"] == "DELETE")
    done = [one["ns"] for one in seen if one["method"] == "DELETE" and one["status"] == 200]
    new = [(one["ns"] - began_ns) / 1e6 for one in seen if one["method"] == "POST"]
    assert daemon.cli("resume", "--clear-kill").returncode == 0
    return {
        "open": before,
        "first_cancel_ms": (cancels[0] - began_ns) / 1e6 if cancels else 0.0,
        "all_cancelled_ms": (max(done) - began_ns) / 1e6 if done else 0.0,
        "cancel_requests": len(cancels),
        "last_new_order_ms": max(new, default=0.0),
        "new_orders_after_10_ms": sum(ms > GRACE_MS for ms in new),
    }


def many_open(daemon: Daemon, exchange: Exchange) -> None:
    """Wait until orders rest and no more are being sent."""

    def resting() -> bool:
        now_ns = exchange.now_ns()
        return len(open_orders(exchange)) >= SYMBOLS * 0.8 and not exchange.orders_sent(now_ns - 500_000_000)

    until(
        resting,
        timeout_s=90.0,
        what="resting orders",
        why=lambda: f"{len(open_orders(exchange))} open\n{daemon.tail()}",
    )


def burst(daemon: Daemon, exchange: Exchange) -> None:
    """Wait until a burst of new orders has just begun."""
    now_ns = exchange.now_ns()
    until(lambda: exchange.orders_sent(now_ns), timeout_s=60.0, what="new orders", why=daemon.tail)


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    """Measure every case; return the medians and the worst."""
    found: dict[str, list[dict[str, float]]] = {}
    options = ("--trades-per-s", 0.5, "--spread-bps", 40, "--volatility-bar", 0.00002, "--cash", 1_000_000)
    with (
        tempfile.TemporaryDirectory() as folder,
        Exchange(*options, symbols=SYMBOLS, history_bars=4000) as exchange,
        daemon_on(exchange, Path(folder)) as daemon,
    ):
        daemon.wait_ready()
        for _ in range(rounds):
            for case in CASES:
                many_open(daemon, exchange)
                found.setdefault(case, []).append(kill_once(case, daemon, exchange))
            burst(daemon, exchange)
            found.setdefault("burst", []).append(kill_once("burst", daemon, exchange))
    cases = {
        case: {
            "open": min(one["open"] for one in made),
            **{
                f"{name}_{word}": round(pick(one[name] for one in made), 1)
                for name in ("first_cancel_ms", "all_cancelled_ms", "last_new_order_ms")
                for word, pick in (("p50", median), ("max", max))
            },
            "new_orders_after_10_ms": sum(one["new_orders_after_10_ms"] for one in made),
            "kills": len(made),
        }
        for case, made in found.items()
    }
    worst = {name: max(case.get(f"{name}_max", case.get(name, 0.0)) for case in cases.values()) for name in GOALS}
    return {
        "cases": cases,
        "worst": worst,
        "goals": GOALS,
        "ok": all(worst[name] <= goal for name, goal in GOALS.items()),
    }


def report(result: dict[str, Any]) -> None:
    """Print the table."""
    print(
        f"{'case':14} {'kills':>5} {'open':>5} {'first cancel ms':>17} {'all cancelled ms':>18} {'last new order ms':>18}"
    )
    for case, one in result["cases"].items():
        first, last = one["first_cancel_ms_p50"], one["first_cancel_ms_max"]
        all_p50, all_max = one["all_cancelled_ms_p50"], one["all_cancelled_ms_max"]
        print(
            f"{case:14} {one['kills']:5} {one['open']:5} {first:8.0f} ≤ {last:6.0f} {all_p50:9.0f} ≤ {all_max:6.0f} "
            f"{one['last_new_order_ms_max']:18.1f}"
        )
    print(f"orders sent later than {GRACE_MS:.0f} ms after the latch: {result['worst']['new_orders_after_10_ms']}")


if __name__ == "__main__":
    report(run(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS))
