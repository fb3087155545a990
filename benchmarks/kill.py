"""The kill switch: how soon after the latch appears nothing new is sent, the first cancel arrives, the last order is gone.

The daemon is a process of its own, in live mode, with at least 50 orders resting; the latch is a file made
beside it, as ``touch`` would. Cancels are timed by the simulated exchange's request log; new orders, which must not come
at all, by the kernel's stamp on their last byte (`benchmarks/venue.py`). Cases: the daemon is healthy; its loop is
blocked (SIGSTOP) in the moment of the kill; another process holds the ledger locked; and a kill in the middle of a burst
of new orders.
"""

import contextlib
import json
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

from benchmarks.alone import alone  # noqa: E402
from tests.e2e.kit import SECRET, Daemon, Exchange, bare, suffering, until  # noqa: E402

SYMBOLS = 56
OPEN = 50
ROUNDS = 2
SLATES_MAX = 6
SLATE_S = 22.0
ENDED_S_MAX = 10.0
GRACE_MS = 10.0
GOALS = {"first_cancel_ms": 250.0, "all_cancelled_ms": 5000.0, "new_orders_after_10_ms": 0}
CASES = ("healthy", "loop blocked", "ledger locked")


class StampedExchange(Exchange):
    """The simulated exchange with kernel stamps; they are there when it has ended."""

    def __init__(self, out: Path, *options: object) -> None:
        self.key = f"key{secrets.token_hex(8)}"
        self.out = out
        command = [out, "--symbols", SYMBOLS, "--history-bars", 4000, "--key", self.key, "--secret", SECRET, *options]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.venue", *map(str, command)],
            stdout=subprocess.PIPE, cwd=REPO, env=bare(),
        )  # fmt: skip
        assert self.process.stdout is not None
        self.base = f"127.0.0.1:{json.loads(self.process.stdout.readline())['port']}"

    def stamps(self) -> dict[str, int]:
        """Return when the last byte of each order arrived, ns UTC, by client id."""
        return dict(json.loads(self.out.read_text())["orders"])


def daemon_on(exchange: Exchange, folder: Path) -> Daemon:
    """Return a daemon that lets an order rest in each of its symbols and decides every 15 s."""
    names = [one["symbol"] for one in exchange.ask("/api/v3/exchangeInfo")["symbols"][:SYMBOLS]]
    return Daemon(
        exchange, folder,
        universe=[f"{name.removesuffix('USDT')}/USDT" for name in names],
        bar="15s",
        strategy="benchmarks.swing:Swing",
        execution={"order": "limit"},
        risk={"max_order_notional": 0.01, "price_collar": 0.1, "exit_collar": 0.2},
    )  # fmt: skip


def open_orders(exchange: Exchange) -> list[str]:
    """Return the client ids of what is open on the exchange."""
    return [one["client_id"] for one in exchange.truth()["orders"] if one["status"] in {"NEW", "PARTIALLY_FILLED"}]


def kill_once(case: str, daemon: Daemon, exchange: Exchange) -> dict[str, Any]:
    """Kill once and say what arrived when, in ms after the latch appeared; then lift the latch."""
    with suffering(case, daemon):
        before = len(open_orders(exchange))
        began_ns = time.time_ns()
        (daemon.state_dir / "KILL").touch()
        until(lambda: not open_orders(exchange), timeout_s=ENDED_S_MAX, what="every order's end", why=daemon.tail)
        seen = exchange.requests("/api/v3/order", began_ns)
    cancels = sorted(one["ns"] for one in seen if one["method"] == "DELETE")
    done = [one["ns"] for one in seen if one["method"] == "DELETE" and one["status"] == 200]
    assert daemon.cli("resume", "--clear-kill").returncode == 0
    return {
        "open": before,
        "first_cancel_ms": (cancels[0] - began_ns) / 1e6 if cancels else 0.0,
        "all_cancelled_ms": (max(done) - began_ns) / 1e6 if done else 0.0,
        "cancel_requests": len(cancels),
        "began_ns": began_ns,
        "new": [one["client_id"] for one in seen if one["method"] == "POST"],
    }


def stamp(kills: list[dict[str, Any]], arrivals: dict[str, int]) -> None:
    """Add how late after the latch new orders arrived."""
    for kill in kills:
        late = [(arrivals[name] - kill["began_ns"]) / 1e6 for name in kill["new"]]
        kill["last_new_order_ms"] = max(late, default=0.0)
        kill["new_orders_after_10_ms"] = sum(ms > GRACE_MS for ms in late)


def many_open(daemon: Daemon, exchange: Exchange) -> None:
    """Wait until orders rest and no more are being sent.

    Orders that rest are cancelled before their symbol is planned again, so after the first decision about half of them
    are at work; another kill makes a clean slate for a first decision.
    """

    def resting() -> bool:
        now_ns = exchange.now_ns()
        return len(open_orders(exchange)) >= OPEN and not exchange.orders_sent(now_ns - 500_000_000)

    for _ in range(SLATES_MAX):
        with contextlib.suppress(AssertionError):
            until(resting, timeout_s=SLATE_S)
            return
        kill_once("slate", daemon, exchange)
    raise AssertionError(f"never {OPEN} orders open: {daemon.tail()}")


def burst(daemon: Daemon, exchange: Exchange) -> None:
    """Wait until a burst of new orders has just begun."""
    now_ns = exchange.now_ns()
    until(lambda: exchange.orders_sent(now_ns), timeout_s=60.0, what="new orders", why=daemon.tail)


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    """Measure every case; return the medians and the worst."""
    found: dict[str, list[dict[str, Any]]] = {}
    options = ("--trades-per-s", 0.5, "--spread-bps", 40, "--volatility-bar", 0.00002, "--cash", 1_000_000)
    with tempfile.TemporaryDirectory() as folder:
        with (
            StampedExchange(Path(folder) / "stamps.json", *options) as exchange,
            daemon_on(exchange, Path(folder)) as daemon,
        ):
            daemon.wait_ready()
            for _ in range(rounds):
                for case in CASES:
                    many_open(daemon, exchange)
                    found.setdefault(case, []).append(kill_once(case, daemon, exchange))
                burst(daemon, exchange)
                found.setdefault("burst", []).append(kill_once("burst", daemon, exchange))
        arrivals = exchange.stamps()
    for kills in found.values():
        stamp(kills, arrivals)
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    return alone(run, report, argv, about=__doc__, rounds=ROUNDS)


if __name__ == "__main__":
    raise SystemExit(main())
