"""A standby takes over: how long after SIGKILL of the holder it has the ledger, is ready, and has sent its first order.

Both daemons are processes of their own, in live mode against one simulated exchange, eight symbols on bars of one second.
On PostgreSQL each has a state folder of its own, as on two machines; on SQLite they share one. The roles swap each round.
A restart is the same daemon started again the moment it is dead, which a supervisor could not do faster. At the end the
ledger is compared with the exchange: orders, fills and balances to the last digit, and no order twice.
"""

import contextlib
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

from benchmarks.alone import alone  # noqa: E402
from tests.e2e.conftest import STRONG  # noqa: E402
from tests.e2e.kit import Daemon, Exchange, assert_same, until  # noqa: E402
from tests.edge.postgres import REMEDY, ROLE, Server, binaries  # noqa: E402

ROUNDS = 3
ORDERS = 6
CASES = ("postgresql", "sqlite", "restart")
STEPS = ("ledger_s", "ready_s", "order_s")
GOAL_S = 10.0
"""Recovery after SIGKILL (DESIGN)."""


def stamp_ns(event: dict[str, Any]) -> int:
    """Return when a line was logged, ns UTC."""
    return int(datetime.fromisoformat(event["timestamp"]).timestamp() * 1e9)


def trading(daemon: Daemon, exchange: Exchange) -> None:
    """Wait until the daemon has sent some orders."""
    sent = len(exchange.orders_sent())
    until(lambda: len(exchange.orders_sent()) >= sent + ORDERS, timeout_s=60, what="orders", why=daemon.tail)


def after_kill(heir: Daemon, exchange: Exchange, began_ns: int) -> dict[str, float]:
    """Return the seconds from the kill to each step of the one that goes on."""
    heir.where = ""
    heir.wait_ready()
    ready_ns = time.time_ns()
    orders = until(lambda: exchange.orders_sent(began_ns), timeout_s=60, what="an order", why=heir.tail)
    words = heir.events("takeover") or heir.events("ready")
    return {
        "ledger_s": (stamp_ns(words[0]) - began_ns) / 1e9 if heir.events("takeover") else 0.0,
        "ready_s": (ready_ns - began_ns) / 1e9,
        "order_s": (min(one["ns"] for one in orders) - began_ns) / 1e9,
    }


def swap(holder: Daemon, other: Daemon, exchange: Exchange) -> dict[str, float]:
    """Start the other one as a standby, kill the holder, and time what happens."""
    other.start()
    until(lambda: other.events("standby listens"), timeout_s=60, what="a standby", why=other.tail)
    trading(holder, exchange)
    began_ns = time.time_ns()
    holder.kill9()
    return after_kill(other, exchange, began_ns)


def restart(daemon: Daemon, exchange: Exchange) -> dict[str, float]:
    """Kill the daemon, start it again at once, and time what happens."""
    trading(daemon, exchange)
    began_ns = time.time_ns()
    daemon.kill9()
    daemon.start()
    return after_kill(daemon, exchange, began_ns)


@contextlib.contextmanager
def daemons(case: str, exchange: Exchange, folder: Path, server: Server | None) -> Iterator[tuple[Daemon, Daemon]]:
    """Configure two daemons of one account."""
    if case == "postgresql":
        assert server is not None
        server.do(f"CREATE DATABASE bench OWNER {ROLE}")
        ledger = {"url": server.url("bench"), "standby": True}
        pair = (Daemon(exchange, folder / "a", ledger=ledger), Daemon(exchange, folder / "b", ledger=ledger))
    else:
        first = Daemon(exchange, folder / "a", ledger={"standby": True})
        second = Daemon(exchange, folder / "b", state_dir=str(first.state_dir), ledger={"standby": True})
        second.state_dir = first.state_dir
        pair = (first, second)
    try:
        yield pair
    finally:
        for one in pair:
            one.close()


def measure(case: str, rounds: int, server: Server | None) -> dict[str, Any]:
    """Run one case; return medians and the worst."""
    with (
        tempfile.TemporaryDirectory(prefix="ballast-bench-") as folder,
        Exchange(*STRONG) as exchange,
        daemons(case, exchange, Path(folder), server) as pair,
    ):
        holder, other = pair
        holder.start().wait_ready()
        found = []
        for _ in range(rounds):
            if case == "restart":
                found.append(restart(holder, exchange))
            else:
                found.append(swap(holder, other, exchange))
                holder, other = other, holder
        until(lambda: not holder.api("status")["unresolved"], timeout_s=90, what="every fate", why=holder.tail)
        holder.settle()
        truth = exchange.truth()
        assert_same(holder.books, truth)
        sent = Counter(one["client_id"] for one in exchange.orders_sent())
    return {
        "rounds": rounds,
        "orders": len(truth["orders"]),
        "duplicates": sum(count - 1 for count in sent.values()),
        **{f"{step}_p50": round(median(one[step] for one in found), 2) for step in STEPS},
        **{f"{step}_max": round(max(one[step] for one in found), 2) for step in STEPS},
    }


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    """Measure every case."""
    if binaries() is None:
        print(REMEDY)
        cases = {case: measure(case, rounds, None) for case in CASES if case != "postgresql"}
    else:
        server = Server()
        try:
            server.start()
            server.do(f"CREATE ROLE {ROLE} LOGIN")
            cases = {case: measure(case, rounds, server) for case in CASES}
        finally:
            server.close()
    worst = max(one["ready_s_max"] for name, one in cases.items() if name != "restart")
    return {
        "cases": cases,
        "goal_s": GOAL_S,
        "ok": worst <= GOAL_S and not any(one["duplicates"] for one in cases.values()),
    }


def report(result: dict[str, Any]) -> None:
    """Print the table."""
    print(f"{'case':12} {'kills':>5} {'orders':>6} {'twice':>5} {'ledger s':>15} {'ready s':>15} {'first order s':>15}")
    for case, one in result["cases"].items():
        steps = "".join(f" {one[f'{step}_p50']:6.2f} ≤ {one[f'{step}_max']:6.2f}" for step in STEPS)
        print(f"{case:12} {one['rounds']:5} {one['orders']:6} {one['duplicates']:5}{steps}")
    print(f"ready within {result['goal_s']:.0f} s of the kill: {'ok' if result['ok'] else 'MISSED'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    return alone(run, report, argv, about=__doc__, rounds=ROUNDS)


if __name__ == "__main__":
    raise SystemExit(main())
