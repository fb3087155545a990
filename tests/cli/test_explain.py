"""``explain`` against a real ledger, and the same record through the API's reader."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from daemon.core import submit as door
from daemon.core.engine import Engine
from daemon.core.plans import Deferred, Plan
from daemon.core.submit import Verdicts
from daemon.domain.events import Booked, Recorded, Step
from daemon.domain.orders import Approved, Cause, Check, Fill, Intent, OrderState, OrderUpdate, Refused, Side, Tif
from daemon.domain.signal import Forecast
from daemon.edge.clock import Clock
from daemon.edge.explain import Explanation, explain, slippage_bps
from daemon.edge.ledger import LedgerConfig, SqlLedger
from daemon.edge.ledger_read import LedgerReader
from daemon.service.desk import Desk, Facts
from daemon.settings import Settings, load_settings

D = Decimal
NS = 1_767_225_600_000_000_000
"""2026-01-01T00:00:00Z."""
S_NS = 1_000_000_000
BUY, SELL, DENIED, EXIT = "baaaa1", "baaaa2", "baaaa3", "baaaa4"
BAR, STOP = f"bar-{NS}-1", f"stop_loss-ETH/USDT-{NS + 5}-1"
SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT")
FORECAST = Forecast(
    symbols=SYMBOLS,
    horizon_bars=5,
    mean=(0.0011, -0.0002, 0.0),
    raw_mean=(0.0044, -0.0008, 0.0),
    scale=(0.01, 0.02, 0.03),
    skill=(0.25, 0.25, 0.0),
    interval_90=(0.017, 0.033, 0.05),
    model="lstm:abc",
)

Run = Callable[..., tuple[int, str, str]]


def intent(client_id: str, symbol: str, side: Side, leg: int, **changes: object) -> Intent:
    """One leg of the bar's decision."""
    made = Intent(
        client_id=client_id,
        decision=BAR,
        leg=leg,
        symbol=symbol,
        side=side,
        qty=D("0.5"),
        limit=D("100.10"),
        tif=Tif.IOC,
        cause=Cause.REBALANCE,
        exit=side is Side.SELL,
        reference=D(100),
        ts_ns=NS + leg,
        expires_ns=NS + 2 * S_NS,
    )
    return msgspec.structs.replace(made, **changes)


def news(order: Intent, state: OrderState, filled: str = "0", code: str = "", source: str = "send") -> Recorded:
    """News about an order."""
    return Recorded(
        OrderUpdate(
            client_id=order.client_id,
            symbol=order.symbol,
            state=state,
            venue_id="4711",
            filled=D(filled),
            code=code,
            source=source,
            ts_ns=NS + 7,
        )
    )


def fill(order: Intent, trade: int, qty: str, price: str) -> Booked:
    """An execution of an order."""
    paid = Fill(
        symbol=order.symbol,
        trade_id=str(trade),
        client_id=order.client_id,
        venue_id="4711",
        side=order.side,
        qty=D(qty),
        price=D(price),
        fee=D("0.0004"),
        fee_asset="BTC",
        maker=False,
        ts_event_ns=NS + 8,
        source="stream",
    )
    return Booked(fill=paid, flow=None)


async def write(folder: Path) -> None:
    """A rebalancing decision with a buy, a sale of unknown fate and a refusal; then a stop's second attempt."""
    config = LedgerConfig(
        folder=folder, instance="main", mode="paper", venue="binance", quote="USDT", lock_folder=folder
    )
    ledger = SqlLedger(config, clock=Clock())
    await ledger.open()
    ledger.set_model("lstm:abc")
    buy, sell = intent(BUY, "BTC/USDT", Side.BUY, 0), intent(SELL, "ETH/USDT", Side.SELL, 1)
    denied = intent(DENIED, "SOL/USDT", Side.BUY, 2)
    plan = Plan(
        intents=(buy, sell, denied),
        deferred=(Deferred("SOL/USDT", "cash", 0.031),),
        errors={"BTC/USDT": 0.0004},
        dust=("SOL/USDT",),
    )
    verdicts = Verdicts(
        approved=(Approved(buy, NS + 3), Approved(sell, NS + 3)),
        refused=(Refused(denied, Check.P14_FUNDS, "costs 5 more than the 1 that is free", NS + 3),),
    )
    record: dict[str, object] = {
        "seq": 3,
        "close_ns": NS,
        "symbols": SYMBOLS,
        "targets": (0.3, 0.1, 0.05),
        "weights": (0.2, 0.2, 0.0),
        "forecast": FORECAST,
        "status": "optimal",
        "rung": "warm",
        "binding": ("cap BTC/USDT", "cash"),
    }
    assert await ledger.commit(door.submit(BAR, plan, verdicts, record))
    out = intent(EXIT, "ETH/USDT", Side.SELL, 0, decision=STOP, cause=Cause.STOP_LOSS, ts_ns=NS + S_NS)
    exits = Verdicts(approved=(Approved(out, NS + S_NS),), refused=())
    assert await ledger.commit(door.submit(STOP, Plan(intents=(out,)), exits, {"cause": "stop_loss", "rung": 1}))
    for effect in (
        fill(buy, 1, "0.3", "100.02"),
        fill(buy, 2, "0.2", "99.99"),
        news(buy, OrderState.FILLED, "0.5", source="stream"),
        news(sell, OrderState.UNKNOWN, code="no_reply"),
        news(sell, OrderState.NEVER_PLACED, source="query"),
    ):
        ledger.record(effect)
    assert await ledger.flush(5)
    await ledger.close()


@pytest.fixture
async def ledger(tmp_path: Path) -> Path:
    """A ledger where the default configuration looks for it."""
    folder = tmp_path / "var/paper"
    await write(folder)
    return folder / "ballast.db"


def told(ballast: Run, *arguments: str) -> dict[str, Any]:
    """The JSON document."""
    code, out, err = ballast("explain", *arguments, "--json")
    assert (code, err) == (0, "")
    return dict(json.loads(out))


async def test_a_decision_from_forecast_to_fill(ballast: Run, ledger: Path) -> None:
    """Everything about a decision, in numbers."""
    document = told(ballast, BAR)

    assert document["outcome"] == "submitted"
    assert (document["cause"], document["rung"]) == ("rebalance", None)
    assert (document["model"], document["horizon_bars"]) == ("lstm:abc", 5)
    assert (document["status"], document["solver_rung"]) == ("optimal", "warm")
    assert document["binding"] == ["cap BTC/USDT", "cash"]
    assert document["close_iso"] == "2026-01-01T00:00:00.000Z"
    btc, _, sol = document["symbols"]
    assert (btc["mean"], btc["raw_mean"], btc["scale"], btc["skill"]) == (0.0011, 0.0044, 0.01, 0.25)
    assert (btc["weight"], btc["target"], btc["projection_error"], btc["dust"]) == (0.2, 0.3, 0.0004, False)
    assert (sol["deferred"], sol["dust"]) == ([["cash", 0.031]], True)
    buy, sell = document["orders"]
    assert (buy["client_id"], buy["state"], buy["limit"], buy["filled"]) == (BUY, "filled", "100.10", "0.5")
    assert [(one["price"], one["slippage_bps"]) for one in buy["fills"]] == [("100.02", 2.0), ("99.99", -1.0)]
    assert [(one["state"], one["source"], one["code"]) for one in sell["evidence"]] == [
        ("unknown", "send", "no_reply"),
        ("never_placed", "query", ""),
    ]
    (no,) = document["refused"]
    assert (no["client_id"], no["check"]) == (DENIED, "p14_funds")
    assert "that is free" in no["detail"]


async def test_every_name_of_an_order_leads_to_its_decision(ballast: Run, ledger: Path) -> None:
    """Client id, refused client id and the venue's id; nothing at all is the newest decision."""
    assert (told(ballast, BUY)["decision"], told(ballast, BUY)["order"]) == (BAR, BUY)
    assert told(ballast, DENIED)["order"] == DENIED
    assert told(ballast, "4711")["order"] == SELL, "the newest of those that share the venue's number"
    assert told(ballast)["decision"] == STOP


async def test_a_stop_tells_cause_and_attempt(ballast: Run, ledger: Path) -> None:
    """An exit has no forecast."""
    document = told(ballast, EXIT)

    assert (document["cause"], document["rung"], document["symbols"]) == ("stop_loss", 1, [])
    assert "stop_loss, attempt 2 (rung 1)" in ballast("explain", STOP)[1]


async def test_tables_for_people(ballast: Run, ledger: Path) -> None:
    """The same as tables, wide enough to be read where there is no terminal."""
    code, out, err = ballast("explain", BAR)

    assert (code, err) == (0, "")
    for words in (
        "optimal, step warm; binding: cap BTC/USDT, cash",
        "cash +3.10%, dust",
        "refused by p14_funds",
        "never_placed",
        "no_reply",
        "0.0004 BTC",
        "+2.00",
        "0.1100%",
    ):
        assert words in out
    assert max(map(len, out.splitlines())) <= 200


async def test_a_record_of_another_version_keeps_the_orders(ledger: Path) -> None:
    """What cannot be read is left out, never raised."""
    import sqlite3

    with sqlite3.connect(ledger) as connection:
        connection.execute("update decisions set record = ?", ('{"targets": "none"}',))
    connection.close()
    with LedgerReader(ledger) as reader:
        found = explain(reader, BAR)

    assert found is not None
    assert (len(found.orders), found.symbols) == (2, ())


async def test_unknown_names_and_no_ledger(ballast: Run, ledger: Path) -> None:
    """One line, exit 2; without a ledger 78."""
    for name in ("bar-1-1", "nothing", "\udcff", "a\x00b", "'; drop table intents"):
        code, out, err = ballast("explain", name)
        assert (code, out) == (2, "")
        assert err.startswith("ballast: ")
        assert err.count("\n") == 1
    for file in ledger.parent.glob("ballast.db*"):
        file.unlink()
    assert ballast("explain")[0] == 78


def test_slippage_has_a_sign() -> None:
    """Positive is worse on both sides."""
    assert slippage_bps("buy", price=D(101), reference=D(100)) == 100.0
    assert slippage_bps("sell", price=D(101), reference=D(100)) == -100.0
    assert slippage_bps("sell", price=D(101), reference=D(0)) is None


def desk(settings: Settings) -> Desk:
    """The API's reader over an engine that is not asked."""
    engine: Any = SimpleNamespace()
    facts: Any = SimpleNamespace(now_ns=lambda: NS)
    return Desk(settings, cast("Engine", engine), cast("Facts", facts))


async def test_the_api_gives_the_same_record(ballast: Run, ledger: Path) -> None:
    """From the ledger; of a decision that ordered nothing from memory, in the same form."""
    reader = desk(load_settings())
    found = reader.decision(BAR)
    quiet = Step(
        decision="bar-9-1",
        seq=9,
        outcome="no_change",
        close_ns=9,
        barrier_ns=9,
        ts_ns=9,
        equity=1.0,
        cash=1.0,
        symbols=SYMBOLS,
        targets=(0.1, 0.1, 0.1),
        weights=(0.1, 0.1, 0.1),
        forecast=FORECAST,
        status="optimal",
        approved=0,
        refused=0,
        detail="",
    )
    reader.watch(quiet)
    remembered = reader.decision("bar-9-1")

    assert isinstance(found, Explanation)
    assert found.decision == told(ballast, BAR)["decision"]
    assert isinstance(remembered, Explanation)
    assert (remembered.outcome, remembered.orders, remembered.symbols[0].mean) == ("no_change", (), 0.0011)
    assert reader.decision("bar-8-1") is None
    assert reader.decision("") is None
    for file in ledger.parent.glob("ballast.db*"):
        file.unlink()
    assert reader.decision("bar-9-1") == remembered
