"""The real daemon with its ledger on PostgreSQL, and a second one that waits and takes over."""

import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable

import pytest

from tests.e2e.conftest import MakeDaemon
from tests.e2e.kit import Daemon, Exchange, assert_same, ledger_balances, meta, only_line, rows, true_balances, until
from tests.edge.postgres import GUARDED, PASSWORD, Server

ORDERS = 6
ELSEWHERE = (
    *("unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])),
    *("sh", "-c", 'mkdir -p /run/lock && mount -t tmpfs tmpfs /run/lock && exec "$@"', "sh"),
)
"""As on another machine: its lock folder is not ours. Who is not root is root there, where the kernel allows it."""
MakePair = Callable[[], tuple[Daemon, Daemon]]


def settled(daemon: Daemon, exchange: Exchange) -> None:
    """Wait until every fate is known, stop deciding, and compare everything with the exchange."""
    until(lambda: daemon.api("status")["unresolved"] == 0, timeout_s=60, what="every fate", why=daemon.tail)
    daemon.settle()
    assert_same(daemon.books, exchange.truth())
    assert max(Counter(one["client_id"] for one in exchange.orders_sent()).values()) == 1


def trading(daemon: Daemon, exchange: Exchange, orders: int = ORDERS) -> None:
    """Wait until the daemon has sent some more orders."""
    sent = len(exchange.orders_sent())
    until(lambda: len(exchange.orders_sent()) >= sent + orders, timeout_s=60, what="orders", why=daemon.tail)


@pytest.fixture(params=["postgresql", "sqlite"])
def make_pair(request: pytest.FixtureRequest, exchange: Exchange, make_daemon: MakeDaemon) -> MakePair:
    """Configure a daemon and its standby: two machines' folders on one server, or one folder on one machine."""

    def pair() -> tuple[Daemon, Daemon]:
        if request.param == "sqlite":
            first = make_daemon(exchange)
            second = make_daemon(exchange, "two", state_dir=str(first.state_dir), ledger={"standby": True})
            second.state_dir = first.state_dir
            return first, second
        server: Server = request.getfixturevalue("postgres")
        url = server.url(request.getfixturevalue("postgres_database"))
        first = make_daemon(exchange, ledger={"url": url})
        return first, make_daemon(exchange, "two", ledger={"url": url, "standby": True})

    return pair


def test_f46_a_standby_waits_and_takes_over(exchange: Exchange, make_pair: MakePair) -> None:
    """F46, I15: it says that it waits and sends nothing; the holder is killed: it reconciles, then trades; nothing is doubled."""
    first, second = make_pair()
    first.start().wait_ready()
    trading(first, exchange)
    second.start()
    until(lambda: second.events("standby listens"), what="a standby", why=second.tail)
    (listens,) = second.events("standby listens")
    second.where = listens["api"]

    assert second.readiness() == (503, ["standby"])
    assert second.get("/healthz") == (200, {"ok": True})
    status = second.api("status")
    assert (status["state"], status["causes"], status["ready"]) == ("halted", ["standby"], False)
    assert "another instance" in status["waiting_for"]
    assert second.get("/api/v1/orders") == (200, {"orders": []})
    assert 'ballast_trading_state{state="halted"} 1' in second.metrics()
    assert first.readiness()[0] == 200  # and its address is still its own
    assert first.tell("status")["ready"] is True
    epoch = int(meta(first.books, "epoch"))

    first.kill9()
    second.where = ""
    second.wait_ready()

    assert int(meta(second.books, "epoch")) == epoch + 1
    (taken,) = second.events("takeover")
    assert taken["waited_s"] > 0
    trading(second, exchange)
    settled(second, exchange)
    done = second.cli("reconcile", "--json")
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert json.loads(done.stdout)["ok"] is True
    first.start()
    assert first.process is not None
    assert first.process.wait(30) == 75  # the roles are swapped, and the first one is no standby
    first.process = None
    assert "another instance" in only_line(first.log_file.read_text())


def test_f46_a_frozen_holder_wakes_up_replaced(
    exchange: Exchange, make_daemon: MakeDaemon, postgres: Server, postgres_database: str
) -> None:
    """F46, I15: a machine stands still, its standby takes over and trades; awake again it sends nothing and ends with 75."""
    if subprocess.run([*ELSEWHERE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a lock folder of its own needs a mount namespace, which this container or kernel does not allow")
    url = postgres.url(postgres_database)
    first = make_daemon(exchange, ledger={"url": url}).start().wait_ready()
    trading(first, exchange)
    second = make_daemon(exchange, "two", ledger={"url": url, "standby": True})
    second.prefix = ELSEWHERE
    second.start()
    until(lambda: second.events("standby listens"), what="a standby", why=second.tail)
    assert first.process is not None
    first.process.send_signal(signal.SIGSTOP)
    until(lambda: second.events("takeover"), timeout_s=60, what="the end of the lease", why=second.tail)
    second.wait_ready()
    epoch = int(meta(second.books, "epoch"))
    trading(second, exchange)
    woken_ns = exchange.now_ns()
    first.process.send_signal(signal.SIGCONT)
    code = first.process.wait(60)
    first.process = None
    trading(second, exchange)
    settled(second, exchange)

    assert code == 75
    assert "another instance has taken over" in only_line(first.log_file.read_text())
    epochs = dict(rows(second.books, "select client_id, epoch from intents"))
    late = [epochs[one["client_id"]] for one in exchange.orders_sent(woken_ns)]
    assert late
    assert set(late) == {epoch}


def test_f49_the_server_restarts_while_the_daemon_trades(
    exchange: Exchange, make_daemon: MakeDaemon, postgres: Server, postgres_database: str
) -> None:
    """F49: a power cut of the server: no order without a durable intent, and it recovers by itself."""
    daemon = make_daemon(exchange, ledger={"url": postgres.url(postgres_database)}).start().wait_ready()
    trading(daemon, exchange)
    postgres.stop(signal.SIGKILL)
    until(lambda: "ledger" in daemon.readiness()[1], what="a ledger that cannot be written", why=daemon.tail)
    cut_ns = exchange.now_ns()
    until(lambda: daemon.api("status")["state"] == "halted", what="a halt", why=daemon.tail)
    assert exchange.orders_sent(cut_ns) == []
    postgres.start()
    daemon.wait_ready()
    trading(daemon, exchange)
    settled(daemon, exchange)

    known = {name for (name,) in rows(daemon.books, "select client_id from intents")}
    assert {one["client_id"] for one in exchange.truth()["orders"]} <= known


def test_explain_on_postgresql(
    exchange: Exchange, make_daemon: MakeDaemon, postgres: Server, postgres_database: str
) -> None:
    """Why an order exists, from the server, by command and by API, with the password in a file; it appears nowhere."""
    postgres.do(f"GRANT CREATE ON DATABASE {postgres_database} TO {GUARDED}")
    url = postgres.url(postgres_database, role=GUARDED)
    daemon = make_daemon(exchange)
    secret = daemon.folder / "password"
    secret.write_text(f"{PASSWORD}\n")
    daemon = make_daemon(exchange, ledger={"url": url, "password_file": str(secret)})
    daemon.start().wait_ready()
    trading(daemon, exchange, 2)
    daemon.settle()
    truth = exchange.truth()
    order = truth["orders"][0]["client_id"]
    told = daemon.tell("explain", order)

    assert told["order"] == order
    assert told["orders"][0]["fills"] or told["orders"][0]["evidence"]
    assert daemon.api(f"decisions/{order}")["decision"] == told["decision"]
    secret.unlink()
    shown = json.dumps(daemon.api("config")) + daemon.metrics() + daemon.log_file.read_text()
    assert PASSWORD not in shown
    for path in (one for one in daemon.folder.rglob("*") if one.is_file()):
        assert PASSWORD.encode() not in path.read_bytes(), path
    with postgres.connect(postgres_database) as connection:
        seen = connection.execute("SELECT application_name, query FROM pg_stat_activity").fetchall()
    assert PASSWORD not in str(seen)


def test_a_kill_on_the_lost_machine_is_taken_over(
    exchange: Exchange, make_daemon: MakeDaemon, postgres: Server, postgres_database: str
) -> None:
    """The latch is a file of the machine that is gone: the standby latches for itself instead of trading on."""
    url = postgres.url(postgres_database)
    first = make_daemon(exchange, ledger={"url": url}).start().wait_ready()
    trading(first, exchange)
    assert first.cli("kill").returncode == 0
    until(lambda: "kill" in first.api("status")["causes"], what="a kill", why=first.tail)
    until(
        lambda: any('"kill"' in one for (one,) in rows(first.books, "select value from state where key = 'engine'")),
        what="a durable kill",
        why=first.tail,
    )
    first.kill9()
    second = make_daemon(exchange, "two", ledger={"url": url, "standby": True}).start()
    until(
        lambda: second.readiness()[0] and (second.state_dir / "KILL").exists(),
        timeout_s=60,
        what="a latch",
        why=second.tail,
    )
    until(lambda: "kill" in second.api("status")["causes"], what="a kill", why=second.tail)

    assert second.api("status")["state"] == "halted"
    assert ledger_balances(second.books) == true_balances(exchange.truth())
