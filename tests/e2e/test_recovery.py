"""Crashes in the middle of sending: nothing is sent twice, nothing is lost, the books agree again."""

from collections import Counter

import pytest

from tests.e2e.conftest import MakeDaemon
from tests.e2e.kit import SYMBOLS, Daemon, Exchange, assert_same, meta, only_line, rows, until

FATE_S = 120
"""Longest wait for a fate: an order that never left takes the 60 s of evidence that NEVER_PLACED needs, and the last look."""


def crash_while(daemon: Daemon, exchange: Exchange, action: str, **rule: object) -> set[str]:
    """Let orders meet a fault, end the process without warning; return the client ids that were caught in it."""
    since_ns = exchange.now_ns()  # before the fault: on a crowded machine it may be met at once
    number = exchange.fault("POST /api/v3/order", action, times=3, **rule)
    until(lambda: exchange.fired(number) >= 2, timeout_s=40, what="orders to be caught", why=daemon.tail)
    kill_when_all_left(daemon, exchange)
    exchange.heal()
    return {one["client_id"] for one in exchange.orders_sent(since_ns) if one["fault"]}


def kill_when_all_left(daemon: Daemon, exchange: Exchange) -> None:
    """End the process without warning when every order written down has reached the exchange.

    One that had not would be looked for during a minute before it counts as never placed (FAULTS 1.3); `make crash` kills
    between writing and sending.
    """

    def all_left() -> bool:
        written = {name for (name,) in rows(daemon.ledger, "select client_id from intents")}
        return bool(written) and written <= {one["client_id"] for one in exchange.orders_sent()}

    until(all_left, timeout_s=40, what="every order to leave", why=daemon.tail)
    daemon.kill9()


def recovered(daemon: Daemon, exchange: Exchange) -> None:
    """Start again, wait until every fate is known and trading goes on, then compare everything."""
    daemon.start().wait_ready()
    until(lambda: daemon.api("status")["unresolved"] == 0, timeout_s=FATE_S, what="every fate", why=daemon.tail)
    daemon.settle()
    assert_same(daemon.ledger, exchange.truth())
    daemon.tell("resume")


@pytest.mark.parametrize("action", ["hang_after", "cut_after"])
def test_f43_f2_f3_crash_after_the_accept(exchange: Exchange, make_daemon: MakeDaemon, action: str) -> None:
    """F2, F3, F43: accepted orders whose reply never came are found after a crash: no duplicate, no orphan (I1, I2, I3, I9)."""
    daemon = make_daemon(exchange).start().wait_ready()
    caught = crash_while(daemon, exchange, action)
    at_crash = exchange.truth()

    known = {name for (name,) in rows(daemon.ledger, "select client_id from intents")}
    assert len(caught) >= 2
    assert {one["client_id"] for one in at_crash["orders"]} <= known  # I2: durable before the first byte
    assert caught <= {one["client_id"] for one in at_crash["orders"]}

    epoch = int(meta(daemon.ledger, "epoch"))
    recovered(daemon, exchange)

    assert int(meta(daemon.ledger, "epoch")) == epoch + 1
    sends = Counter(one["client_id"] for one in exchange.orders_sent())
    assert max(sends.values()) == 1  # never sent again
    states = dict(rows(daemon.ledger, "select client_id, state from intents"))
    assert {states[name] for name in caught} <= {"filled", "expired"}


def test_f43_an_order_whose_symbol_has_left_the_universe_is_found(exchange: Exchange, make_daemon: MakeDaemon) -> None:
    """F43, P15: accepted, never answered, then the universe is changed: its fate is found, what it bought is close-only."""
    exchange.fault("user executionReport", "skip", times=0)
    number = exchange.fault("POST /api/v3/order", "hang_after", times=1)
    daemon = make_daemon(exchange).start().wait_ready()
    until(lambda: exchange.fired(number), timeout_s=60, what="an order to be caught", why=daemon.tail)
    kill_when_all_left(daemon, exchange)
    exchange.heal()
    (caught,) = [one["client_id"] for one in exchange.orders_sent() if one["fault"]]
    ((symbol,),) = rows(daemon.ledger, f"select symbol from intents where client_id = '{caught}'")
    assert rows(daemon.ledger, f"select 1 from fills where symbol = '{symbol}'") == []

    recovered(make_daemon(exchange, universe=[one for one in SYMBOLS if one != symbol]), exchange)

    assert dict(rows(daemon.ledger, "select client_id, state from intents"))[caught] in {"filled", "expired"}


def test_f2_f3_f4_f5_lost_replies_while_running(exchange: Exchange, make_daemon: MakeDaemon) -> None:
    """F2–F5: whatever happens to the reply, the order is found by its client id, booked once and never sent again."""
    daemon = make_daemon(exchange).start().wait_ready()
    numbers = [
        exchange.fault("POST /api/v3/order", action, after=index)
        for index, action in enumerate(("cut_after", "truncate", "empty", "html", "broken"))
    ]
    numbers.append(exchange.fault("POST /api/v3/order", "error", status=503, code=-1007, msg="Timeout", handle=True))
    until(lambda: all(exchange.fired(one) for one in numbers), timeout_s=60, what="faults", why=daemon.tail)
    exchange.heal()
    until(lambda: daemon.api("status")["unresolved"] == 0, timeout_s=60, what="every fate", why=daemon.tail)
    daemon.settle()

    assert_same(daemon.ledger, exchange.truth())
    assert max(Counter(one["client_id"] for one in exchange.orders_sent()).values()) == 1


def test_f46_a_second_instance_is_refused(exchange: Exchange, make_daemon: MakeDaemon) -> None:
    """F46, I15: 75 for the same state folder, and for another folder with the same key; the first one goes on."""
    first = make_daemon(exchange).start()
    until(lambda: first.readiness()[0], what="an API", why=first.tail)
    second = make_daemon(exchange, "two")
    first.wait_ready()

    twin = first.cli("run")
    stranger = second.cli("run")

    for done in (twin, stranger):
        assert done.returncode == 75, done.stderr
        assert "another instance" in only_line(done.stderr)
    assert first.readiness()[0] == 200  # and its address and tokens are still its own
    assert first.tell("status")["ready"] is True
    assert first.stop()[0] == 0
