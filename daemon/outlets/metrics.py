"""Prometheus' view of the counts: families built at the scrape, one at a time, the loop free in between."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from daemon.domain.events import TradingState
from daemon.outlets.counts import Counts, Histogram, Key
from daemon.outlets.listener import Guard, Listener, Message, Receive, Scope, Send, Tokens
from daemon.outlets.meters import Metrics, Snapshot
from daemon.settings_values import is_loopback, split_listen

__all__ = ["Metrics", "MetricsCollector", "MetricsListener", "Snapshot", "make_registry", "render"]

PREFIX: Final = "ballast_"
CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"

_Build = Callable[[], Metric]


class MetricsCollector(Collector):
    """Renders a ``Metrics`` for a registry of our own."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Yield every family once, from one snapshot of the gauges."""
        snapshot = self._metrics.snapshot()
        for build in (
            *_counters(self._metrics, snapshot),
            *_histograms(self._metrics),
            *_gauges(self._metrics, snapshot),
        ):
            yield build()


class _One(Collector):
    """A collector of one family, for rendering family by family."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return (self._family,)


def make_registry(metrics: Metrics) -> CollectorRegistry:
    """Return a registry of our own that holds this daemon's metrics and the process's."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(MetricsCollector(metrics))
    ProcessCollector(registry=registry)
    return registry


async def render(registry: CollectorRegistry) -> bytes:
    """Return the exposition text; yields to the loop between families, so that no trade waits for a scrape."""
    parts: list[bytes] = []
    for family in registry.collect():
        parts.append(generate_latest(_One(family)))
        await asyncio.sleep(0)
    return b"".join(parts)


class MetricsListener(Listener):
    """``GET /metrics`` on a listener of its own; off loopback it needs the read token."""

    def __init__(self, listen: str, metrics: Metrics, *, tokens: Tokens) -> None:
        self._registry = make_registry(metrics)
        loopback = is_loopback(split_listen(listen)[0])
        super().__init__("metrics.listen", listen, Guard(self._app_metrics, tokens, loopback=loopback))

    async def _app_metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        known = scope["path"] in {"/metrics", "/"} and scope["method"] in {"GET", "HEAD"}
        body = await render(self._registry) if known else b"see /metrics\n"
        start: Message = {
            "type": "http.response.start",
            "status": 200 if known else 404,
            "headers": [(b"content-type", CONTENT_TYPE), (b"content-length", str(len(body)).encode())],
        }
        await send(start)
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _counter(name: str, text: str, labels: tuple[str, ...], values: Callable[[], Mapping[Key, float]]) -> _Build:
    def build() -> Metric:
        family = CounterMetricFamily(PREFIX + name, text, labels=labels)
        for key, value in values().items():
            family.add_metric(key, value)
        return family

    return build


def _gauge(name: str, text: str, labels: tuple[str, ...], values: Mapping[Key, float]) -> _Build:
    def build() -> Metric:
        family = GaugeMetricFamily(PREFIX + name, text, labels=labels)
        for key, value in values.items():
            family.add_metric(key, value)
        return family

    return build


def _histogram(name: str, text: str, histogram: Histogram) -> _Build:
    def build() -> Metric:
        family = HistogramMetricFamily(PREFIX + name, text)
        buckets = histogram.cumulative()
        for bound, count in buckets:
            family.add_sample(f"{PREFIX}{name}_bucket", {"le": bound}, count)
        # add_metric() would leave sum and count out where a bound is negative; averages need them
        family.add_sample(f"{PREFIX}{name}_count", {}, buckets[-1][1])
        family.add_sample(f"{PREFIX}{name}_sum", {}, histogram.total)
        return family

    return build


def _keyed(values: Mapping[str, float]) -> dict[Key, float]:
    return {(label,): value for label, value in values.items()}


def _single(value: float | None) -> dict[Key, float]:
    return {} if value is None else {(): value}


def _counters(m: Metrics, s: Snapshot) -> list[_Build]:
    def of(counts: Counts) -> Callable[[], Mapping[Key, float]]:
        return lambda: counts

    return [
        _counter("ticks", "Trades received.", ("symbol",), lambda: _keyed(m.ticks)),
        _counter("ticks_rejected", "Frames and trades quarantined.", ("reason",), of(m.rejected)),
        _counter("feed_gaps", "Gaps found in the trade ids.", ("symbol",), of(m.gaps)),
        _counter("feed_repairs", "Gaps filled by REST.", ("symbol",), of(m.repairs)),
        _counter("feed_reconnects", "Connections re-established.", ("feed",), of(m.reconnects)),
        _counter("bars", "Bars closed.", ("symbol",), of(m.bars)),
        _counter("decisions", "Decisions by outcome.", ("outcome",), of(m.decisions)),
        _counter("solver_status", "Answers of the optimiser by status.", ("status",), of(m.solver_status)),
        _counter("turnover", "Traded notional as a fraction of equity.", (), lambda: _single(m.turnover)),
        _counter(
            "fees", "Fees paid, in quote currency; fees in a third asset not included.", (), lambda: _single(m.fees)
        ),
        _counter("orders", "Order state changes.", ("side", "status"), of(m.orders)),
        _counter("fills", "Fills booked.", (), lambda: _single(m.fills)),
        _counter("risk_denied", "Intents refused by the gate.", ("check",), of(m.denied)),
        _counter("stops_triggered", "Stops triggered.", ("kind",), of(m.stops)),
        _counter("exchange_requests", "REST requests to the venue.", ("endpoint", "outcome"), of(m.requests)),
        _counter("alerts", "Alerts raised.", ("code",), of(m.alerts)),
        _counter("commands", "Operator commands.", ("action", "source"), of(m.commands)),
        _counter("worker_restarts", "Workers lost or replaced.", (), lambda: _single(m.worker_restarts)),
        _counter("journal_bytes", "Bytes the flight recorder wrote.", (), lambda: _single(s.journal_bytes)),
    ]


def _histograms(m: Metrics) -> list[_Build]:
    return [
        _histogram("bar_close_to_decision_seconds", "From the completed barrier to the decision.", m.to_decision),
        _histogram("bar_close_to_order_seconds", "From the completed barrier to an order's last byte.", m.to_order),
        _histogram("barrier_wait_seconds", "From the bar's close to the completed barrier.", m.barrier_wait),
        _histogram("features_seconds", "Making the features.", m.features),
        _histogram("forecast_seconds", "Forecasting all assets.", m.forecast),
        _histogram("optimize_seconds", "Solving the portfolio problem.", m.optimize),
        _histogram("order_ack_seconds", "From sending an order to the venue's answer.", m.ack),
        _histogram("loop_lag_seconds", "How late the event loop ran its timer.", m.loop_lag),
        _histogram("slippage_bps", "Fill price against the planned price; positive is worse.", m.slippage),
    ]


def _gauges(m: Metrics, s: Snapshot) -> list[_Build]:
    states: dict[Key, float] = {(state.value,): float(s.state is state) for state in TradingState}
    return [
        _gauge("build_info", "Version of the code.", ("version",), {(m.version,): 1}),
        _gauge("mode_info", "Paper or live.", ("mode",), {(m.mode,): 1}),
        _gauge("trading_state", "One-hot trading state.", ("state",), states),
        _gauge("equity", "Equity in quote currency.", (), _single(s.equity)),
        _gauge("cash", "Own quote cash.", (), _single(s.cash)),
        _gauge("pnl_realized", "Realised profit in quote currency.", (), _single(s.pnl_realized)),
        _gauge("pnl_unrealized", "Unrealised profit in quote currency.", (), _single(s.pnl_unrealized)),
        _gauge("drawdown_ratio", "Loss from the peak unit value.", (), _single(s.drawdown)),
        _gauge("cvar_ratio", "One-day 95 % CVaR.", (), _single(s.cvar)),
        _gauge("position_weight", "Share of equity held.", ("symbol",), _keyed(s.position_weights)),
        _gauge("target_weight", "Share of equity wanted.", ("symbol",), _keyed(s.target_weights)),
        _gauge("feed_age_seconds", "Age of the newest frame.", ("symbol",), _keyed(s.feed_age_s)),
        _gauge("model_age_seconds", "Age of the model in use.", (), _single(s.model_age_s)),
        _gauge("forecast_skill", "1 - MSE / MSE of the naive forecast.", ("symbol",), _keyed(m.skill)),
        _gauge("forecast_rmse", "Root mean squared error.", ("symbol",), _keyed(s.forecast_rmse)),
        _gauge("forecast_coverage_ratio", "Measured interval coverage.", ("level",), _keyed(s.coverage)),
        _gauge("feature_drift_psi", "Population stability index.", ("feature",), _keyed(s.drift_psi)),
        _gauge("orders_unresolved", "Orders whose fate is unknown.", (), _single(s.orders_unresolved)),
        _gauge("reconcile_breaks", "Assets on which ledger and venue differ.", (), _single(s.reconcile_breaks)),
        _gauge("reconcile_age_seconds", "Time since the last reconciliation.", (), _single(s.reconcile_age_s)),
        _gauge("queue_depth", "Entries waiting.", ("queue",), _keyed(s.queue_depth)),
        _gauge("mqtt_connected", "1 while the bus is connected.", (), _single(float(s.mqtt_connected))),
        _gauge("exchange_weight_used_ratio", "Share of the request weight in use.", (), _single(s.weight_used)),
    ]
