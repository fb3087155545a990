"""Health, readiness and metrics of the running daemon, with the streams silent and cut."""

from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import PATIENT, STRONG
from tests.e2e.kit import SYMBOLS, Daemon, Exchange, http, until

MAX_AGE_S = 3.0
STALL_S = 8.0
SEEN: dict[str, dict[str, str]] = {
    "build_info": {}, "mode_info": {"mode": "live"}, "ticks_total": {"symbol": "BTC/USDT"},
    "ticks_rejected_total": {}, "feed_gaps_total": {"symbol": "BTC/USDT"}, "feed_repairs_total": {"symbol": "BTC/USDT"},
    "feed_reconnects_total": {"feed": "market"}, "feed_age_seconds": {"symbol": "BTC/USDT"},
    "bars_total": {"symbol": "BTC/USDT"}, "decisions_total": {"outcome": "submitted"},
    "bar_close_to_decision_seconds": {}, "bar_close_to_order_seconds": {}, "barrier_wait_seconds": {},
    "forecast_seconds": {}, "optimize_seconds": {}, "solver_status_total": {"status": "solved"},
    "forecast_skill": {"symbol": "BTC/USDT"}, "target_weight": {"symbol": "BTC/USDT"},
    "position_weight": {"symbol": "BTC/USDT"}, "equity": {}, "cash": {}, "pnl_realized": {}, "pnl_unrealized": {},
    "drawdown_ratio": {}, "turnover_total": {}, "fees_total": {}, "orders_total": {"side": "buy"},
    "order_ack_seconds": {}, "orders_unresolved": {}, "fills_total": {}, "slippage_bps": {},
    "risk_denied_total": {}, "stops_triggered_total": {}, "trading_state": {"state": "active"}, "reconcile_breaks": {},
    "reconcile_age_seconds": {}, "loop_lag_seconds": {}, "queue_depth": {"queue": "events"},
    "journal_bytes_total": {}, "exchange_requests_total": {"outcome": "ok"}, "exchange_weight_used_ratio": {},
}  # fmt: skip
"""Names of DESIGN A6 that exist after some trading, each with a label it must carry."""
HISTOGRAMS = {
    "bar_close_to_decision_seconds", "bar_close_to_order_seconds", "barrier_wait_seconds", "forecast_seconds",
    "optimize_seconds", "order_ack_seconds", "slippage_bps", "loop_lag_seconds",
}  # fmt: skip
EMPTY_AT_FIRST = {"ticks_rejected_total", "feed_gaps_total", "feed_repairs_total", "stops_triggered_total"}
EMPTY_AT_FIRST |= {"risk_denied_total", "feed_reconnects_total"}
"""Counters whose label sets appear with their first event."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon that trades; every test leaves it healthy."""
    with Exchange(*STRONG) as exchange, Daemon(exchange, tmp_path_factory.mktemp("health"), **PATIENT) as one:
        yield one.wait_ready()


def families(daemon: Daemon) -> dict[str, Any]:
    """Parse the scrape with Prometheus' own parser."""
    return {one.name: one for one in text_string_to_metric_families(daemon.metrics())}


def value(daemon: Daemon, name: str, **labels: str) -> float:
    """Return the sum of a family's samples with these labels, 0 when there is none."""
    family = families(daemon).get(f"ballast_{name.removesuffix('_total')}")
    found = family.samples if family is not None else []
    return sum(
        float(one.value) for one in found if labels.items() <= one.labels.items() and not one.name.endswith("_created")
    )


def test_healthz_and_readyz(daemon: Daemon) -> None:
    """200 and no reasons while it trades; both are open to anyone on loopback."""
    assert daemon.get("/healthz") == (200, {"ok": True})
    assert daemon.get("/readyz") == (200, {"ready": True, "reasons": []})


def test_commands_need_a_token(daemon: Daemon) -> None:
    """F67: a command without a token, or with the wrong one, is refused and changes nothing; files are private."""
    for token in ("", "wrong", (daemon.state_dir / "api.read.token").read_text().strip()):
        status, _ = http(f"http://{daemon.address}/api/v1/kill", post={}, token=token)
        assert status in {401, 403}
    assert not (daemon.state_dir / "KILL").exists()
    assert daemon.readiness()[0] == 200
    for scope in ("read", "control", "kill"):
        assert (daemon.state_dir / f"api.{scope}.token").stat().st_mode & 0o777 == 0o600


def test_metrics_hold_the_contracts_names(daemon: Daemon) -> None:
    """A6: the scrape parses, the names that exist so far are there, typed as the contract says, with bounded labels."""
    until(lambda: value(daemon, "fills_total") >= 3, timeout_s=40, what="fills", why=daemon.tail)
    found = families(daemon)

    for name, labels in SEEN.items():
        family = found.get(f"ballast_{name.removesuffix('_total')}")
        assert family is not None, name
        kind = "counter" if name.endswith("_total") else "histogram" if name in HISTOGRAMS else "gauge"
        assert family.type == kind, (name, family.type)
        if labels and name not in EMPTY_AT_FIRST:
            assert any(labels.items() <= one.labels.items() for one in family.samples), (name, family.samples[:5])
    for family in found.values():
        assert len({tuple(sorted(one.labels.items())) for one in family.samples}) <= 200, family.name


def test_metrics_are_what_happened(daemon: Daemon) -> None:
    """Counts and gauges agree with the API and with the exchange once everything is still."""
    until(lambda: value(daemon, "fills_total") >= 3, timeout_s=40, what="fills", why=daemon.tail)
    daemon.settle()
    truth = daemon.exchange.truth()

    assert value(daemon, "fills_total") == len(truth["fills"])
    assert value(daemon, "equity") == pytest.approx(float(daemon.api("equity")["equity"]), rel=0.01)
    assert value(daemon, "cash") == pytest.approx(float(daemon.api("status")["cash"]))
    assert value(daemon, "trading_state", state="active") == 1
    assert value(daemon, "trading_state", state="halted") == 0
    assert value(daemon, "orders_unresolved") == 0
    assert value(daemon, "reconcile_breaks") == 0
    assert value(daemon, "bars_total", symbol="BTC/USDT") >= 2
    assert value(daemon, "ticks_total", symbol="BTC/USDT") > 0
    daemon.tell("resume")


def test_f23_a_silent_stream_stops_orders_and_heals(daemon: Daemon) -> None:
    """F23, P10, I6: 503 with a reason within max_age + 1 s; no order leaves on stale data; it heals by itself."""
    exchange = daemon.exchange
    daemon.wait_ready()
    rule = exchange.fault("frame *", "stall", seconds=STALL_S)
    until(lambda: exchange.fired(rule), what="the silence")
    silent_ns = exchange.now_ns()
    until(lambda: daemon.readiness()[0] == 503, timeout_s=MAX_AGE_S + 1.0, what="503", why=daemon.tail)
    assert "stale_data" in daemon.readiness()[1]
    assert daemon.get("/healthz")[0] == 200
    daemon.wait_ready(timeout_s=STALL_S + 20)

    stale = (silent_ns + int((MAX_AGE_S + 0.1) * 1e9), silent_ns + int((STALL_S - 0.5) * 1e9))
    assert [one for one in exchange.orders_sent(stale[0]) if one["ns"] < stale[1]] == []
    until(lambda: exchange.orders_sent(stale[1]), timeout_s=40, what="orders again", why=daemon.tail)
    exchange.heal()


def test_f13_f14_a_cut_connection_heals_without_a_gap(daemon: Daemon) -> None:
    """F13, F19: after a cut the stream is back, counted once, and every bar equals the exchange's own candle."""
    before = value(daemon, "feed_reconnects_total", feed="market")
    cut_ns = daemon.exchange.now_ns()
    assert daemon.exchange.steer("disconnect", kind="all")["closed"] >= 2
    until(
        lambda: value(daemon, "feed_reconnects_total", feed="market") == before + 1,
        what="a reconnect", why=daemon.tail,
    )  # fmt: skip
    daemon.wait_ready()
    until(lambda: daemon.exchange.orders_sent(cut_ns), timeout_s=40, what="orders again", why=daemon.tail)
    daemon.wait_bars(2)
    assert [daemon.wrong_bars(symbol) for symbol in SYMBOLS] == [[]] * len(SYMBOLS)
