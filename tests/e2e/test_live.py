"""The main job in live mode, on real parts: from an empty state folder to orders, stopped, started again, compared."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import STRONG
from tests.e2e.kit import SECRET, Daemon, Exchange, assert_same, ledger_balances, meta, rows, true_balances, until

ORDERS = 12


@dataclass
class Story:
    """What two runs of one daemon left behind."""

    exchange: Exchange
    daemon: Daemon
    seen: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Eight symbols, 1s bars: trade, pause, stop, start again, trade on, pause, compare; the daemon runs on afterwards."""
    with Exchange(*STRONG) as exchange:
        daemon = Daemon(exchange, tmp_path_factory.mktemp("live"))
        told = Story(exchange, daemon)
        seen = told.seen
        try:
            daemon.start().wait_ready()
            until(lambda: len(exchange.orders_sent()) >= ORDERS, timeout_s=60, what="orders", why=daemon.tail)
            daemon.settle()
            seen["first"] = {path: daemon.api(path) for path in ("status", "positions", "orders", "decisions", "fills")}
            seen["code"], seen["stop_s"] = daemon.stop()
            seen["epoch"], seen["balances"] = meta(daemon.ledger, "epoch"), ledger_balances(daemon.ledger)
            seen["truth"] = exchange.truth()
            seen["second_start_ns"] = exchange.now_ns()
            daemon.start().wait_ready()
            seen["second"] = {path: daemon.api(path) for path in ("status", "positions")}
            daemon.tell("resume")
            sent = len(exchange.orders_sent())
            until(lambda: len(exchange.orders_sent()) >= sent + 4, timeout_s=60, what="orders", why=daemon.tail)
            daemon.settle()
            seen["third"] = daemon.api("status")
            yield told
        finally:
            daemon.close()


def test_it_trades_eight_symbols_on_one_second_bars(story: Story) -> None:
    """Backfill, decisions, orders and fills; a decision names what it saw and what it wants."""
    decisions = story.seen["first"]["decisions"]["decisions"]
    submitted = [one for one in decisions if one["outcome"] == "submitted"]

    assert len(submitted) >= 3
    assert all(len(one["targets"]) == 8 and one["forecast"] for one in submitted)
    assert {one["symbol"] for one in story.seen["first"]["positions"]["positions"]} == set(
        story.daemon.tree["universe"]
    )
    assert len(story.seen["first"]["fills"]["fills"]) >= ORDERS
    klines = [one for one in story.exchange.requests("/api/v3/klines") if one["status"] == 200]
    assert len({one["symbol"] for one in klines}) == 8


def test_i3_i9_the_ledger_is_the_exchange_to_the_last_digit(story: Story) -> None:
    """I1, I3, I9: after two runs every order, fill and balance is equal."""
    assert_same(story.daemon.ledger, story.exchange.truth())


def test_i2_every_order_on_the_exchange_has_a_durable_intent(story: Story) -> None:
    """I2: each order's client id lies in the ledger, and was approved before it arrived."""
    approved = dict(rows(story.daemon.ledger, "select client_id, approved_ns from intents"))

    sent = story.exchange.orders_sent()
    assert sent
    for one in sent:
        assert approved[one["client_id"]] <= one["ns"]


def test_i14_no_weight_leaves_the_limits(story: Story) -> None:
    """I14: a target lies between 0 and the cap, or where a position that drifted above the cap already is; cash is kept."""
    wanted = [one for one in story.seen["first"]["decisions"]["decisions"] if one["targets"]]
    assert wanted
    for one in wanted:
        for target, weight in zip(one["targets"], one["weights"], strict=True):
            assert -1e-9 <= target <= max(0.30, weight) + 1e-6, one
        assert sum(one["targets"]) <= 0.98 + 1e-6


def test_f44_sigterm_ends_in_order(story: Story) -> None:
    """Exit 0 within ten seconds; nothing was left open."""
    assert story.seen["code"] == 0
    assert story.seen["stop_s"] < 10
    assert not [one for one in story.seen["truth"]["orders"] if one["status"] in {"NEW", "PARTIALLY_FILLED"}]
    assert not (story.daemon.folder / "run1.log").read_text().count("Traceback")


def test_restart_remembers(story: Story) -> None:
    """Positions, cash and the pause are as before, the epoch is higher, nothing is booked twice."""
    first, second = story.seen["first"], story.seen["second"]

    assert {one["symbol"]: one["qty"] for one in second["positions"]["positions"]} == {
        one["symbol"]: one["qty"] for one in first["positions"]["positions"]
    }
    assert second["status"]["cash"] == first["status"]["cash"]
    assert second["status"]["paused"] is True
    assert int(meta(story.daemon.ledger, "epoch")) == int(story.seen["epoch"]) + 1
    assert story.seen["balances"] == true_balances(story.seen["truth"])


def test_restart_sends_nothing_while_paused(story: Story) -> None:
    """No order of the first run is sent again, none leaves before the operator resumes."""
    before = {one["client_id"] for one in story.seen["truth"]["orders"]}
    after = [one["client_id"] for one in story.exchange.orders_sent(story.seen["second_start_ns"])]

    assert after
    assert not before & set(after)


def test_reconcile_command_agrees(story: Story) -> None:
    """Exit 0 and the document of the contract, while the daemon runs."""
    done = story.daemon.cli("reconcile", "--json")

    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["ok"] is True
    assert document["breaks"] == []
    assert document["unresolved"] == 0
    truth = story.exchange.truth()
    assert (document["orders"], document["fills"]) == (len(truth["orders"]), len(truth["fills"]))


def test_i18_no_secret_in_any_sink(story: Story) -> None:
    """I18, F70: neither the secret nor the key lies in log, ledger, journal, API or metrics."""
    text = json.dumps(story.daemon.api("config")) + story.daemon.metrics() + json.dumps(story.daemon.api("status"))
    assert SECRET not in text
    assert story.exchange.key not in text
    for path in [one for one in Path(story.daemon.folder).rglob("*") if one.is_file()]:
        content = path.read_bytes()
        assert SECRET.encode() not in content, path
        assert story.exchange.key.encode() not in content, path


def test_f38_money_that_nobody_explains_is_reported_and_booked_once_it_is_explained(story: Story) -> None:
    """F38, I9: a deposit is a difference to the last digit, then a flow with an alert; an order by hand is shown and kept."""
    daemon, exchange = story.daemon, story.exchange
    daemon.stop()
    exchange.steer("deposit", asset="USDT", amount="12.34")
    price = exchange.ask("/api/v3/ticker/price?symbol=BTCUSDT")["price"]
    low = str((Decimal(price) * Decimal("0.9")).quantize(Decimal("0.01")))
    exchange.steer(
        "place", symbol="BTCUSDT", side="BUY", type="LIMIT", timeInForce="GTC", quantity="0.01", price=low,
        newClientOrderId="web_1",
    )  # fmt: skip
    done = daemon.cli("reconcile", "--json")

    assert done.returncode == 3, done.stderr
    document = json.loads(done.stdout)
    (one,) = document["breaks"]
    assert one["asset"] == "USDT"
    assert Decimal(one["exchange"]) - Decimal(one["ledger"]) == Decimal("12.34")
    assert [order["client_id"] for order in document["external_orders"]] == ["web_1"]

    daemon.start()
    until(lambda: daemon.readiness()[0] == 200, what="trading again", why=daemon.tail)
    status = daemon.api("status")
    details = [alert["detail"] for alert in status["alerts"] if alert["code"] == "flow"]
    assert [detail.rpartition(" ")[0] for detail in details] == ["USDT +12.34, ours: deposit"]
    assert [order["client_id"] for order in status["external_orders"]] == ["web_1"]
    assert [order["client_id"] for order in daemon.api("orders")["orders"] if order["external"]] == ["web_1"]
    daemon.stop()
    done = daemon.cli("reconcile", "--json")
    assert done.returncode == 0, done.stdout
    (change,) = json.loads(done.stdout)["external_changes"]
    assert Decimal(change["amount"]) == Decimal("12.34")
    (kept,) = [order for order in exchange.truth()["orders"] if order["client_id"] == "web_1"]
    assert kept["status"] == "NEW"


@pytest.mark.parametrize("decisions", ["recorded", "recomputed"])
def test_i10_every_live_run_replays_equal(story: Story, decisions: str) -> None:
    """I10: each run of this daemon (a folder's newest, the others by their own segments) gives the same effects again."""
    story.daemon.close()
    folder = story.daemon.state_dir / "live" / "journal"
    first = min(path for path in folder.iterdir() if path.is_file())

    for journal, decided in ((folder, 0), (first, 3)):  # the first run traded
        done = story.daemon.cli_plain("replay", str(journal), "--decisions", decisions, "--json")
        assert done.returncode == 0, (journal, done.stdout, done.stderr)
        result = json.loads(done.stdout)
        assert (result["ok"], result["difference"]) == (True, "")
        assert result["checked"] > 0
        assert result["decided"] >= decided
