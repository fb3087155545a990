"""Metrics: names, types and labels of the contract, and what events and effects count."""

import asyncio
from decimal import Decimal

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from daemon.domain.events import (
    Action,
    Alert,
    BarClosed,
    Booked,
    Command,
    Decided,
    FetchTrades,
    Link,
    Recorded,
    Repair,
    Step,
    Submit,
    TradingState,
    WorkerDown,
)
from daemon.domain.market import Bar, BarFlag, Malformed, RejectReason
from daemon.domain.orders import Approved, Cause, Check, Fill, Intent, OrderState, OrderUpdate, Refused, Side
from daemon.domain.signal import Forecast, NoDecision, NoReason, Targets
from daemon.outlets.listener import Tokens
from daemon.outlets.metrics import Metrics, MetricsListener, Snapshot, make_registry, render
from tests.core.driver import make_intent

S = 1_000_000_000
T = 1_700_000_000 * S

# DESIGN A6, as types: name → (type, labels)
CONTRACT = {
    "build_info": ("gauge", None),
    "mode_info": ("gauge", {"mode"}),
    "ticks_total": ("counter", {"symbol"}),
    "ticks_rejected_total": ("counter", {"reason"}),
    "feed_gaps_total": ("counter", {"symbol"}),
    "feed_repairs_total": ("counter", {"symbol"}),
    "feed_reconnects_total": ("counter", {"feed"}),
    "feed_age_seconds": ("gauge", {"symbol"}),
    "bars_total": ("counter", {"symbol"}),
    "decisions_total": ("counter", {"outcome"}),
    "bar_close_to_decision_seconds": ("histogram", set()),
    "bar_close_to_order_seconds": ("histogram", set()),
    "barrier_wait_seconds": ("histogram", set()),
    "forecast_seconds": ("histogram", set()),
    "optimize_seconds": ("histogram", set()),
    "solver_status_total": ("counter", {"status"}),
    "forecast_skill": ("gauge", {"symbol"}),
    "forecast_rmse": ("gauge", {"symbol"}),
    "forecast_coverage_ratio": ("gauge", {"level"}),
    "model_age_seconds": ("gauge", set()),
    "feature_drift_psi": ("gauge", {"feature"}),
    "target_weight": ("gauge", {"symbol"}),
    "position_weight": ("gauge", {"symbol"}),
    "equity": ("gauge", set()),
    "cash": ("gauge", set()),
    "pnl_realized": ("gauge", set()),
    "pnl_unrealized": ("gauge", set()),
    "drawdown_ratio": ("gauge", set()),
    "cvar_ratio": ("gauge", set()),
    "turnover_total": ("counter", set()),
    "fees_total": ("counter", set()),
    "orders_total": ("counter", {"side", "status"}),
    "order_ack_seconds": ("histogram", set()),
    "orders_unresolved": ("gauge", set()),
    "fills_total": ("counter", set()),
    "slippage_bps": ("histogram", set()),
    "risk_denied_total": ("counter", {"check"}),
    "stops_triggered_total": ("counter", {"kind"}),
    "trading_state": ("gauge", {"state"}),
    "reconcile_breaks": ("gauge", set()),
    "reconcile_age_seconds": ("gauge", set()),
    "loop_lag_seconds": ("histogram", set()),
    "queue_depth": ("gauge", {"queue"}),
    "journal_bytes_total": ("counter", set()),
    "mqtt_connected": ("gauge", set()),
    "exchange_requests_total": ("counter", {"endpoint", "outcome"}),
    "exchange_weight_used_ratio": ("gauge", set()),
}

FULL = Snapshot(
    equity=1000.0,
    cash=400.0,
    pnl_realized=1.0,
    pnl_unrealized=-2.0,
    drawdown=0.01,
    cvar=0.02,
    position_weights={"BTC/USDT": 0.6},
    target_weights={"BTC/USDT": 0.5},
    state=TradingState.ACTIVE,
    feed_age_s={"BTC/USDT": 0.1},
    model_age_s=5.0,
    forecast_rmse={"BTC/USDT": 0.01},
    coverage={"90": 0.91},
    drift_psi={"close": 0.1},
    reconcile_age_s=3.0,
    queue_depth={"events": 0},
    journal_bytes=123,
    weight_used=0.1,
)


def intent(client_id: str = "b1", side: Side = Side.BUY, cause: Cause = Cause.REBALANCE) -> Intent:
    """An order that wants to exist."""
    return make_intent(
        client_id=client_id, decision="bar-1-1", side=side, limit=Decimal(101), cause=cause, ts_ns=T, expires_ns=T + S
    )


def submit(one: Intent) -> Submit:
    """One approved, one refused."""
    approved = Approved(one, T)
    return Submit("bar-1-1", (approved,), (Refused(intent("b2"), Check.P3_COLLAR, "far", T),), "{}")


def step() -> Step:
    """What a decision did."""
    symbols = ("BTC/USDT",)
    forecast = Forecast(symbols, 24, (0.01,), (0.02,), (0.03,), (0.04,), (0.05,), "lstm")
    return Step(
        decision="bar-1-1",
        seq=1,
        outcome="decided",
        close_ns=T - S,
        barrier_ns=T - S // 2,
        ts_ns=T,
        equity=1000.0,
        cash=400.0,
        symbols=symbols,
        targets=(0.5,),
        weights=(0.6,),
        forecast=forecast,
        status="solved",
        approved=1,
        refused=1,
        detail="",
    )


def update(state: OrderState, source: str, ts_ns: int) -> OrderUpdate:
    """News about the order."""
    return OrderUpdate("b1", "BTC/USDT", state, "9", Decimal(0), "", source, ts_ns)


def fill(price: str = "100.1", fee_asset: str = "BTC") -> Fill:
    """An execution of it."""
    money = (Decimal(2), Decimal(price), Decimal("0.002"))
    return Fill("BTC/USDT", "1", "b1", "9", Side.BUY, *money, fee_asset, False, T, "stream")


def busy() -> Metrics:
    """Metrics that saw one of everything."""
    metrics = Metrics(("BTC/USDT", "ETH/USDT"), version="0.1", mode="paper")
    metrics.set_gauges(lambda: FULL)
    metrics.ticks["BTC/USDT"] += 3
    metrics.request("depth", "ok")
    metrics.loop_lag.observe(0.004)
    targets = Targets(("BTC/USDT",), (0.5,), status="solved")
    for event in (
        Malformed(RejectReason.BAD_PRICE, "0", "BTC/USDT", T),
        Link("market", True, "", T),
        Link("market", False, "", T),
        Link("market", True, "", T),
        Repair("BTC/USDT", 1, 2, (), True, "", T),
        Repair("BTC/USDT", 1, 2, (), False, "", T),
        Decided(1, targets, 1_000_000, 2_000_000, 3_000_000, T),
        Decided(2, NoDecision(NoReason.NO_MODEL, ""), 0, 0, 0, T),
        Command("1", Action.PAUSE, "api", T),
        WorkerDown("died", T),
    ):
        metrics.observe_event(event)
    bar = Bar("BTC/USDT", T, T + S, 1, 1, 1, 1, 1, 1, 1, 1, BarFlag.LIVE)
    for effect in (
        FetchTrades("BTC/USDT", 1, 2),
        BarClosed(bar),
        submit(intent()),
        step(),
        Recorded(update(OrderState.FILLED, "send", T)),
        Alert("stop_loss", "", "BTC/USDT", T),
        Alert("dust", "", "BTC/USDT", T),
    ):
        metrics.observe_effect(effect)
    metrics.order_sent("b1", T + S // 100)
    metrics.observe_event(update(OrderState.ACKED, "send", T + S // 50))
    metrics.observe_effect(Booked(fill(), None))
    return metrics


async def families(metrics: Metrics) -> dict[str, Metric]:
    """What a scrape shows, parsed."""
    text = (await render(make_registry(metrics))).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(found: dict[str, Metric], sample_name: str, **labels: str) -> float:
    """The one sample of this name with these labels."""
    matches = [
        sample.value
        for family in found.values()
        for sample in family.samples
        if sample.name == f"ballast_{sample_name}" and labels.items() <= sample.labels.items()
    ]
    assert len(matches) == 1, (sample_name, labels, matches)
    return matches[0]


async def test_names_types_and_labels_are_those_of_the_contract() -> None:
    """Every metric of A6 is exposed with its type and labels; every sample parses."""
    found = await families(busy())

    for name, (kind, labels) in CONTRACT.items():
        family = found[f"ballast_{name.removesuffix('_total') if kind == 'counter' else name}"]
        assert family.type == kind, name
        assert family.samples, name
        if labels is not None:
            for sample in family.samples:
                assert set(sample.labels) - {"le"} == labels, name
        if kind == "counter":
            assert {sample.name for sample in family.samples} == {f"ballast_{name}"}


async def test_what_was_counted() -> None:
    """Numbers follow from the events and effects seen."""
    found = await families(busy())

    assert value(found, "ticks_total", symbol="BTC/USDT") == 3
    assert value(found, "ticks_total", symbol="ETH/USDT") == 0
    assert value(found, "feed_reconnects_total", feed="market") == 1
    assert value(found, "feed_repairs_total", symbol="BTC/USDT") == 1
    assert value(found, "solver_status_total", status="no_model") == 1
    assert value(found, "bar_close_to_decision_seconds_sum") == pytest.approx(0.5)
    assert value(found, "barrier_wait_seconds_sum") == pytest.approx(0.5)
    assert value(found, "bar_close_to_order_seconds_sum") == pytest.approx(0.51)
    assert value(found, "order_ack_seconds_sum") == pytest.approx(0.01)
    assert value(found, "orders_total", side="buy", status="sending") == 1
    assert value(found, "orders_total", side="buy", status="filled") == 1
    assert value(found, "risk_denied_total", check="p3_collar") == 1
    assert value(found, "stops_triggered_total", kind="stop_loss") == 1
    assert value(found, "fees_total") == pytest.approx(0.002 * 100.1)
    assert value(found, "turnover_total") == pytest.approx(0.2002)
    assert value(found, "slippage_bps_sum") == pytest.approx(10.0)
    assert value(found, "slippage_bps_count") == 1
    assert value(found, "trading_state", state="active") == 1
    assert value(found, "trading_state", state="halted") == 0
    assert value(found, "forecast_skill", symbol="BTC/USDT") == 0.04


async def test_a_fresh_daemon_exposes_everything_it_knows() -> None:
    """Before anything happened nothing is invented: unknown gauges have no sample."""
    metrics = Metrics(("BTC/USDT",), version="0.1", mode="live")
    found = await families(metrics)

    assert set(CONTRACT) <= {
        name.removeprefix("ballast_") + ("_total" if family.type == "counter" else "") for name, family in found.items()
    }
    assert found["ballast_equity"].samples == []
    assert value(found, "mode_info", mode="live") == 1
    assert value(found, "trading_state", state="halted") == 1


def test_labels_are_bounded() -> None:
    """Values beyond the bound are counted as "other"."""
    from daemon.outlets.counts import KEYS_MAX, Counts

    counts = Counts()
    for n in range(KEYS_MAX + 50):
        counts.add(f"reason{n}")

    assert len(counts) == KEYS_MAX + 1
    assert counts[("other",)] == 50


def test_orders_remembered_are_bounded() -> None:
    """The daemon may send orders for years."""
    from daemon.outlets import meters

    metrics = Metrics(("BTC/USDT",), version="", mode="paper")
    for n in range(meters.ORDERS_REMEMBERED_MAX + 10):
        metrics.observe_effect(submit(intent(f"b{n}")))

    assert len(metrics._known) == meters.ORDERS_REMEMBERED_MAX


async def test_rendering_yields_to_the_loop() -> None:
    """Between two families other tasks run."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with asyncio.timeout(10):
        task = asyncio.get_running_loop().create_task(other())
        await render(make_registry(busy()))
        task.cancel()

    assert turns >= len(CONTRACT)


@pytest.fixture
def tokens() -> Tokens:
    """Fixed tokens, read not configured."""
    return Tokens({"read": "r" * 40, "control": "c" * 40, "kill": "k" * 40}, read_configured=False)


async def test_listener_serves_and_stops(tokens: Tokens) -> None:
    """A scrape over HTTP; other paths are 404; cancelling frees the port."""
    server = MetricsListener("127.0.0.1:0", busy(), tokens=tokens)
    server.bind()
    task = asyncio.get_running_loop().create_task(server.serve())
    async with httpx.AsyncClient(base_url=f"http://{server.address}") as client:
        answer = await client.get("/metrics")
        missing = await client.get("/other")
    task.cancel()
    await asyncio.wait([task], timeout=5)

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "ballast_ticks_total" in answer.text
    assert missing.status_code == 404
    again = MetricsListener(server.address, busy(), tokens=tokens)
    again.bind()
    again.close()


@pytest.mark.parametrize(
    ("code", "check"),
    [
        ("killed", "a1_kill"),
        ("too_old", "p16_too_old"),
        ("backing_off", "a5_rate_budget"),
        ("the ledger could not make it durable in time", "not_sent"),
        ("http_429", "not_sent"),
    ],
)
def test_what_stops_an_approved_order_is_counted_by_its_control(code: str, check: str) -> None:
    """A1, P16, A5: a refusal at the last moment counts like one of the gate, under a bounded label."""
    metrics = Metrics(("BTC/USDT",), version="0.1", mode="paper")
    metrics.observe_effect(submit(intent()))
    metrics.observe_effect(Recorded(OrderUpdate("b1", "BTC/USDT", OrderState.DENIED, "", Decimal(0), code, "send", T)))

    assert metrics.denied == {("p3_collar",): 1, (check,): 1}
    assert metrics.orders[("buy", "denied")] == 1


def test_p7_is_counted_when_it_trips() -> None:
    """P7 refuses decisions, not intents: each time it stops them counts once."""
    metrics = Metrics(("BTC/USDT",), version="0.1", mode="paper")
    metrics.observe_effect(Alert("repeated_execution", "20 times", "BTC/USDT", T))

    assert metrics.denied == {("p7_repeated",): 1}


def test_p11_what_the_strategy_got_wrong_is_counted() -> None:
    """P11: each weight that was clipped, and each answer that was refused as a whole; a normal "no" is neither."""
    metrics = Metrics(("BTC/USDT",), version="0.1", mode="paper")
    clipped = Targets(
        ("BTC/USDT", "ETH/USDT"), (0.3, 0.3), binding=("cap:BTC/USDT", "clipped:BTC/USDT", "clipped:ETH/USDT")
    )
    for answer in (clipped, NoDecision(NoReason.NOT_FINITE, ""), NoDecision(NoReason.NO_MODEL, "")):
        metrics.observe_event(Decided(1, answer, 1, 1, 1, T))

    assert metrics.denied == {("p11_model",): 3}
