"""Paper mode: the same line, fills through the matching model, and not one signed byte on the wire."""

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

import pytest

from tests.e2e.conftest import STRONG, MakeDaemon, MakeExchange
from tests.e2e.kit import SYMBOLS, Daemon, Exchange, ledger_balances, ledger_fills, meta, names, only_line, rows, until
from tests.e2e.tap import Tap

CASH = "100000"
FEE = Decimal("0.001")
PUBLIC = {
    f"GET /api/v3/{name}"
    for name in ("ping", "time", "exchangeInfo", "klines", "trades", "historicalTrades", "aggTrades", "depth")
} | {"GET /api/v3/ticker/bookTicker"}


class Story(NamedTuple):
    """What two runs in paper mode left behind."""

    exchange: Exchange
    daemon: Daemon
    sent: bytes
    first: dict[str, Any]
    second: dict[str, Any]
    codes: list[int]


def filled(daemon: Daemon, count: int) -> None:
    """Wait for so many fills in the ledger."""
    until(lambda: len(ledger_fills(daemon.ledger)) >= count, timeout_s=60, what="fills", why=daemon.tail)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Trade on paper, stop, start again, trade on, stop; keys lie in the environment all the time."""
    with Exchange(*STRONG) as exchange, Tap(exchange.base) as tap:
        daemon = Daemon(exchange, tmp_path_factory.mktemp("paper"), base=tap.base, mode="paper", live_confirm="")
        codes = []
        shown = []
        try:
            for wanted in (10, 14):
                daemon.start().wait_ready()
                shown.append({path: daemon.api(path) for path in ("status", "positions", "orders")})
                if daemon.starts > 1:
                    daemon.tell("resume")
                filled(daemon, wanted)
                daemon.settle()
                shown.append({path: daemon.api(path) for path in ("status", "positions", "orders", "fills")})
                codes.append(daemon.stop()[0])
        finally:
            daemon.close()
        yield Story(exchange, daemon, tap.sent, shown[1], shown[2], codes)


def test_paper_decides_orders_and_fills(story: Story) -> None:
    """Decisions become orders, and the matching model fills them on live market data."""
    assert story.codes == [0, 0]
    assert story.first["status"]["mode"] == "paper"
    assert len(story.first["fills"]["fills"]) >= 10
    assert {one["state"] for one in story.first["orders"]["orders"]} <= {"filled", "expired", "canceled", "rejected"}
    assert meta(story.daemon.ledger, "mode") == "paper"


def test_p17_f69_no_signed_request_leaves_in_paper(story: Story) -> None:
    """P17: no signature, no key header, no private endpoint, no user stream; the keys in the environment are never used."""
    assert story.sent
    assert b"signature=" not in story.sent
    assert b"x-mbx-apikey" not in story.sent.lower()
    assert story.exchange.key.encode() not in story.sent
    assert b"/ws-api" not in story.sent
    assert names(story.exchange.requests()) <= PUBLIC
    asked = set(re.findall(rb"(?:GET|POST|DELETE|PUT) (/[^ ?]*)", story.sent))
    assert asked
    assert all(path.startswith((b"/api/v3/", b"/stream", b"/ws")) for path in asked)
    assert story.exchange.truth()["orders"] == []


def test_paper_fills_happen_at_the_markets_prices(story: Story) -> None:
    """Every fill lies within its order's limit, fees are the configured ones, taken in base on buys."""
    limits = {
        name: (Decimal(limit), Decimal(qty))
        for name, limit, qty in rows(story.daemon.ledger, "select client_id, limit_price, qty from intents")
    }
    fills = ledger_fills(story.daemon.ledger)

    assert fills
    for _, _, client_id, side, qty, price, fee, asset in fills:
        limit, ordered = limits[client_id]
        assert price <= limit if side == "buy" else price >= limit
        assert 0 < qty <= ordered
        assert (asset == "USDT") == (side == "sell")
        assert fee <= (qty if side == "buy" else qty * price) * FEE + Decimal("1e-8")


def test_i3_paper_account_conserves(story: Story) -> None:
    """I3: cash and positions follow from the opening cash and the fills alone, to the last digit."""
    balances = ledger_balances(story.daemon.ledger)
    flows = rows(story.daemon.ledger, "select asset, amount from flows")

    assert [(asset, Decimal(amount)) for asset, amount in flows] == [("USDT", Decimal(CASH))]
    assert all(amount >= 0 for amount in balances.values())


def test_restart_keeps_the_paper_account(story: Story) -> None:
    """Positions and cash are as before, the epoch is higher, no second opening balance."""
    first, second = story.first, story.second

    assert second["status"]["cash"] == first["status"]["cash"]
    assert {one["symbol"]: one["qty"] for one in second["positions"]["positions"]} == {
        one["symbol"]: one["qty"] for one in first["positions"]["positions"]
    }
    assert any(Decimal(one["qty"]) > 0 for one in second["positions"]["positions"])
    assert int(meta(story.daemon.ledger, "epoch")) == 2
    done = story.daemon.tell("reconcile")
    assert (done["ok"], done["unresolved"], done["breaks"]) == (True, 0, [])


@pytest.mark.parametrize("decisions", ["recorded", "recomputed"])
def test_i10_a_paper_journal_replays_equal(story: Story, decisions: str) -> None:
    """I10: the second run gives the same effects again from its journal alone."""
    done = story.daemon.cli_plain("replay", str(story.daemon.state_dir / "paper/journal"), "--decisions", decisions)

    assert done.returncode == 0, (done.stdout, done.stderr)
    assert f"replay ({decisions}) equal" in done.stdout


def test_f26_what_is_held_and_not_listed_any_more_ends_no_start(
    make_exchange: MakeExchange, make_daemon: MakeDaemon
) -> None:
    """Left the universe, then gone from the exchange: told once with the remedy, shown as held; the others go on."""
    paper = {"mode": "paper", "live_confirm": ""}
    daemon = make_daemon(make_exchange(*STRONG, symbols=5), universe=list(SYMBOLS[:5]), **paper).start().wait_ready()
    gone = SYMBOLS[4]

    def held() -> bool:
        return any(row["symbol"] == gone and Decimal(row["qty"]) > 0 for row in daemon.api("positions")["positions"])

    def kept() -> bool:
        until(held, timeout_s=60, what="a position", why=daemon.tail)
        daemon.tell("pause")
        daemon.settle()
        if not held():  # a sale was under way
            daemon.tell("resume")
        return held()

    until(kept, timeout_s=90, what="a position that stays", why=daemon.tail)
    daemon.kill9()
    smaller = make_exchange(*STRONG, symbols=4)
    again = make_daemon(smaller, universe=list(SYMBOLS[:4]), **paper).start().wait_ready()
    (told,) = again.events("not listed")
    shown = {row["symbol"]: row for row in again.api("positions")["positions"]}

    assert told["symbols"] == [gone]
    assert "by hand" in told["remedy"]
    assert Decimal(shown[gone]["qty"]) > 0
    assert shown[gone]["target"] is None
    assert not [
        one for one in again.log() if one.get("level") in {"error", "critical"} and one["event"] != "not listed"
    ]
    assert again.stop()[0] == 0

    wrong = make_daemon(smaller, universe=list(SYMBOLS[:5]), **paper).cli("run")
    assert wrong.returncode == 78, wrong.stderr
    assert f"universe: {gone} not listed" in only_line(wrong.stderr)
