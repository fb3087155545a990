"""One crash point: a real daemon killed there, started again, and everything it wrote compared with the exchange."""

import signal
import time
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from daemon.outlets.journal import read_segment, segments
from tests.e2e.kit import (
    Daemon,
    Exchange,
    Tree,
    ledger_balances,
    ledger_fills,
    rows,
    true_balances,
    true_fills,
    until,
)

ORDERS = 10
"""Orders of one run, before it is told to kill and stop."""
RECOVER_S = 60.0
BAR_S = 10.0
"""The bar on recovery: all orders that the exchange knows are booked."""
PROVEN_S = 150.0
"""How long NEVER_PLACED may take, with its queries over 60 s."""
STRONG = ("--planted-r2", 0.45, "--planted-horizon-bars", 5, "--planted-persistence", 0.9, "--volatility-bar", 0.0015)
NOT_PLACED = {"denied", "never_placed", "rejected"}
UNCERTAIN = {"planned", "sending", "unknown", "resolving"}
FINAL = {"FILLED": "filled", "CANCELED": "canceled", "EXPIRED": "expired", "REJECTED": "rejected"}


def furnish(exchange: Exchange) -> Exchange:
    """Put several assets on the account: opening balances are several rows then."""
    for asset in ("BTC", "ETH", "SOL"):
        exchange.steer("deposit", asset=asset, amount="0.5")
    return exchange


class Trial(NamedTuple):
    """What came of one point; ``point`` is "" when the run ended its work before it got there."""

    number: int
    point: str
    orders: int
    duplicates: int
    orphans: int
    uncertain: int
    recover_s: float


class Since:
    """What the exchange knows beyond what it knew at one moment."""

    def __init__(self, exchange: Exchange) -> None:
        """Remember this moment."""
        self._exchange = exchange
        truth = exchange.truth()
        self._orders = {(one["symbol"], one["order_id"]) for one in truth["orders"]}
        self._fills = {(one["symbol"], one["trade_id"]) for one in truth["fills"]}
        self._ns = int(truth["now_ns"])

    def truth(self) -> Tree:
        """Return orders and fills since then, and everything else as it is."""
        truth = self._exchange.truth()
        orders = [one for one in truth["orders"] if (one["symbol"], one["order_id"]) not in self._orders]
        fills = [one for one in truth["fills"] if (one["symbol"], one["trade_id"]) not in self._fills]
        return {**truth, "orders": orders, "fills": fills}

    def duplicates(self) -> int:
        """Return how many client ids were sent or placed more than once (I1)."""
        sent = Counter(one["client_id"] for one in self._exchange.orders_sent(self._ns))
        placed = Counter(one["client_id"] for one in self.truth()["orders"])
        return sum(1 for name in sent | placed if max(sent[name], placed[name]) > 1)


def never(_point: str) -> bool:
    """Prove nothing: the absence of an order takes more than a minute."""
    return False


def trial(exchange: Exchange, folder: Path, number: int, *, prove: Callable[[str], bool] = never) -> Trial:
    """Kill a fresh daemon at its ``number``-th point and see it recover; raises AssertionError when it does not.

    Parameters
    ----------
    exchange
        May have served other trials; nobody else uses it now.
    prove
        Says of a point's name whether to wait until every order that never reached the exchange is proven absent.
    """
    since = Since(exchange)
    daemon = Daemon(
        exchange, folder, execution={"order": "limit"}, risk={"max_weight": 0.14}, feed={"backfill_bars": 60}
    )
    try:
        point = run_to(daemon, since, number)
        if not point:
            compare(daemon, since.truth(), uncertain=0)
            return Trial(number, "", len(since.truth()["orders"]), since.duplicates(), 0, 0, 0.0)
        at_crash = settled(since)
        orphans = len({one["client_id"] for one in at_crash["orders"]} - set(intents(daemon)))
        latched = files_are_whole(daemon, point)
        recover_s = recover(daemon, at_crash)
        if prove(point):
            await_proof(daemon, since)
        until(
            lambda: ended(daemon, point) or daemon.readiness()[0] == 200 or latched or uncertain(daemon),
            timeout_s=RECOVER_S, what=f"trading after {point}", why=daemon.tail,
        )  # fmt: skip
        if latched:
            assert {one["client_id"] for one in since.truth()["orders"]} == {o["client_id"] for o in at_crash["orders"]}
        kill_and_stop(daemon, since)
        left = len(uncertain(daemon))
        compare(daemon, since.truth(), uncertain=left)
        return Trial(
            number, point, len(since.truth()["orders"]), since.duplicates(), orphans, left, round(recover_s, 2)
        )
    finally:
        if daemon.process is not None:
            daemon.process.kill()
            daemon.process.wait()


def run_to(daemon: Daemon, since: Since, number: int) -> str:
    """Run until the daemon ends itself at a point, or its work is done; return the point's name, "" without one."""
    daemon.env["BALLAST_TEST_CRASH_AT"] = str(number)
    daemon.start()
    del daemon.env["BALLAST_TEST_CRASH_AT"]
    process = daemon.process
    assert process is not None
    until(
        lambda: process.poll() is not None or len(since.truth()["orders"]) >= ORDERS,
        timeout_s=RECOVER_S, what=f"point {number} or {ORDERS} orders", why=daemon.tail,
    )  # fmt: skip
    if process.poll() is None:
        process.send_signal(signal.SIGUSR1)
        until(
            lambda: process.poll() is not None or (quiet(daemon, since) and status(daemon)["causes"] == ["kill"]),
            timeout_s=RECOVER_S, what=f"point {number} or the end of every order", why=daemon.tail,
        )  # fmt: skip
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    code = process.wait(20)
    daemon.process = None
    words = [line for line in daemon.log_file.read_text().splitlines() if line.startswith("crash point ")]
    assert code == (-signal.SIGKILL if words else 0), (number, code, daemon.tail())
    return words[0].partition(": ")[2] if words else ""


def files_are_whole(daemon: Daemon, point: str) -> bool:
    """Check the files that the dead process wrote itself; return whether it left a kill latch."""
    folder = daemon.state_dir / daemon.mode / "journal"
    for segment in segments(folder) if folder.is_dir() else []:
        for _record in read_segment(segment):  # a torn tail is tolerated, anything else raises
            pass
    latch = daemon.state_dir / "KILL"
    assert latch.exists() or point != "latch.after"
    assert not latch.exists() or latch.read_text().endswith("\n")
    return latch.exists()


def settled(since: Since) -> Tree:
    """Return what the exchange made of everything that was sent: a request on its way may still be executed."""
    last: list[Tree] = [since.truth()]

    def still() -> bool:
        before, now = last[0], since.truth()
        last[0] = now
        return bool(before["orders"] == now["orders"])

    until(still, what="the exchange to come to rest")
    return last[0]


def recover(daemon: Daemon, at_crash: Tree) -> float:
    """Start again; return after how many seconds everything that the exchange knew at the crash was booked."""
    began = time.monotonic()
    daemon.start()
    wanted = set(true_fills(at_crash))
    placed = {one["client_id"] for one in at_crash["orders"]}

    def booked() -> bool:
        assert not ended(daemon, "a crash"), daemon.tail()
        if not daemon.ledger.exists() or daemon.readiness()[0] == 0:
            return False
        if not wanted <= set(ledger_fills(daemon.ledger)):
            return False
        known = intents(daemon)
        if {name for name in placed if known.get(name, "planned") in UNCERTAIN}:
            return False
        # Reconciled: what remains of the reasons to wait is the latch, or an order whose absence is being proven.
        return set(status(daemon)["causes"]) <= {"kill"}

    until(booked, timeout_s=RECOVER_S, what="recovery", why=lambda: f"{daemon.readiness()} {daemon.tail()}")
    return time.monotonic() - began


def await_proof(daemon: Daemon, since: Since) -> None:
    """Wait until no order's fate is unknown; until then nothing is sent for its symbol."""
    symbols = dict(rows(daemon.ledger, "select client_id, replace(symbol, '/', '') from intents"))
    count = Counter(one["symbol"] for one in since.truth()["orders"])

    def proven() -> bool:
        before = {symbols[name] for name in uncertain(daemon) & set(symbols)}
        now = Counter(one["symbol"] for one in since.truth()["orders"])
        waiting = before & {symbols[name] for name in uncertain(daemon) & set(symbols)}
        assert {one: now[one] for one in waiting} == {one: count[one] for one in waiting}, (
            "an order for a blocked symbol"
        )
        return not before

    until(proven, timeout_s=PROVEN_S, what="proof that orders never arrived", why=daemon.tail)


def kill_and_stop(daemon: Daemon, since: Since) -> None:
    """End trading for good: latch, wait until no order is open, stop in order."""
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGUSR1)
    until(lambda: quiet(daemon, since), what="the end of every order", why=daemon.tail)
    assert daemon.stop()[0] == 0, daemon.tail()


def quiet(daemon: Daemon, since: Since) -> bool:
    """Say whether no order is open, at the exchange and in the ledger (those it still looks for aside)."""
    if "acked" in intents(daemon).values() or status(daemon)["state"] != "halted":
        return False
    return all(one["status"] in FINAL for one in since.truth()["orders"])


def status(daemon: Daemon) -> Tree:
    """Return what the daemon says of itself; that it waits, while it does not answer or has just been killed."""
    try:
        return dict(daemon.api("status"))
    except (OSError, ValueError, HTTPException):
        return {"state": "", "causes": ["no answer"]}


def ended(daemon: Daemon, what: str) -> bool:
    """Say whether the process ended by itself."""
    assert daemon.process is not None, what
    return daemon.process.poll() is not None


def intents(daemon: Daemon) -> dict[str, str]:
    """Return every client id in the ledger with its state; none before there is a ledger."""
    if not daemon.ledger.exists():
        return {}
    if not rows(daemon.ledger, "select name from sqlite_master where name = 'intents'"):
        return {}
    return dict(rows(daemon.ledger, "select client_id, state from intents"))


def uncertain(daemon: Daemon) -> set[str]:
    """Return the orders whose fate is not known yet."""
    return {name for name, state in intents(daemon).items() if state in UNCERTAIN}


def compare(daemon: Daemon, truth: Tree, *, uncertain: int) -> None:
    """I2, I3, I9: the ledger is what the exchange has: order by order, fill by fill, asset by asset, to the last digit."""
    assert truth["conserved"] is True
    assert ledger_fills(daemon.ledger) == true_fills(truth)
    assert ledger_balances(daemon.ledger) == true_balances(truth)
    known = {
        name: (state, Decimal(filled))
        for name, state, filled in rows(daemon.ledger, "select client_id, state, filled from intents")
    }
    there = {one["client_id"]: (FINAL[one["status"]], Decimal(one["filled"])) for one in truth["orders"]}
    assert {name: known.get(name) for name in there} == there
    rest = [state for name, (state, _) in known.items() if name not in there and state not in NOT_PLACED]
    assert len(rest) == uncertain, rest
