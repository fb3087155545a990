"""What the daemon counts (DESIGN A6): plain numbers; `daemon.outlets.metrics` turns them into Prometheus' text.

Counters and histograms come from events and effects, gauges from a ``Snapshot`` pulled at the scrape.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from daemon.core.causes import REPEATED
from daemon.domain.events import (
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
from daemon.domain.market import Malformed
from daemon.domain.orders import Cause, Check, Fill, Intent, OrderState, OrderUpdate, Side
from daemon.domain.signal import NoReason, Targets
from daemon.outlets.counts import SLIPPAGE_BPS, Counts, Histogram

ORDERS_REMEMBERED_MAX: Final = 10_000
"""Orders whose side, reference and times are kept for the news that follows."""

STOPPED_BY: Final[Mapping[str, Check]] = {
    "killed": Check.A1_KILL,
    "too_old": Check.P16_TOO_OLD,
    "backing_off": Check.A5_RATE_BUDGET,
}
"""Which control stopped an approved order from leaving, by the code of its DENIED; any other code is ``not_sent``."""

CLIPPED: Final = "clipped:"
"""How the worker names in ``binding`` a weight that it had to bring back inside the limits."""
_UNSOUND: Final = frozenset(
    {NoReason.NOT_FINITE, NoReason.INFEASIBLE, NoReason.SOLVER_FAILED, NoReason.STRATEGY_RAISED}
)
"""Answers of strategy and solver that are refused as a whole (P11)."""

_STOPS: Final = frozenset({Cause.STOP_LOSS, Cause.TRAILING_STOP, Cause.VOLATILITY_STOP})
_ANSWERS: Final = frozenset({"send", "stream", "paper"})
_NS: Final = 1e9


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Gauges as they are at a scrape. Ratios are fractions, ages and lags seconds, money quote currency; None is unknown.

    ``model_age_s`` and ``reconcile_age_s`` are None before the first model or reconciliation; ``coverage`` maps the
    nominal level ("90") to the measured share; ``weight_used`` is the share of the venue's request weight in use.
    """

    equity: float | None = None
    cash: float | None = None
    pnl_realized: float | None = None
    pnl_unrealized: float | None = None
    drawdown: float | None = None
    cvar: float | None = None
    position_weights: Mapping[str, float] = {}
    target_weights: Mapping[str, float] = {}
    state: TradingState = TradingState.HALTED
    feed_age_s: Mapping[str, float] = {}
    model_age_s: float | None = None
    forecast_rmse: Mapping[str, float] = {}
    coverage: Mapping[str, float] = {}
    drift_psi: Mapping[str, float] = {}
    orders_unresolved: int = 0
    reconcile_breaks: int = 0
    reconcile_age_s: float | None = None
    queue_depth: Mapping[str, int] = {}
    journal_bytes: int = 0
    mqtt_connected: bool = False
    weight_used: float | None = None


class _Order(NamedTuple):
    intent: Intent
    sent_ns: int


class _Due(NamedTuple):
    barrier_ns: int
    step_ns: int


_V = TypeVar("_V")


class Metrics:
    """Counters of one daemon. ``ticks[symbol] += 1`` is all that a trade costs.

    Parameters
    ----------
    symbols
        The universe.
    version, mode
        For ``build_info`` and ``mode_info``.
    """

    def __init__(self, symbols: Sequence[str], *, version: str, mode: str) -> None:
        self.ticks: dict[str, int] = dict.fromkeys(symbols, 0)
        self.version = version
        self.mode = mode
        self.rejected = Counts()
        self.gaps = Counts({(symbol,): 0 for symbol in symbols})
        self.repairs = Counts({(symbol,): 0 for symbol in symbols})
        self.reconnects = Counts()
        self.bars = Counts({(symbol,): 0 for symbol in symbols})
        self.decisions = Counts()
        self.solver_status = Counts()
        self.orders = Counts()
        self.denied = Counts()
        self.stops = Counts()
        self.requests = Counts()
        self.alerts = Counts()
        self.commands = Counts()
        self.fills = 0
        self.fees = 0.0
        self.turnover = 0.0
        self.worker_restarts = 0
        self.skill: dict[str, float] = {}
        self.to_decision = Histogram()
        self.to_order = Histogram()
        self.barrier_wait = Histogram()
        self.features = Histogram()
        self.forecast = Histogram()
        self.optimize = Histogram()
        self.ack = Histogram()
        self.loop_lag = Histogram()
        self.slippage = Histogram(SLIPPAGE_BPS)
        self.snapshot: Callable[[], Snapshot] = Snapshot
        self._linked: set[str] = set()
        self._known: OrderedDict[str, _Order] = OrderedDict()
        self._due: OrderedDict[str, _Due] = OrderedDict()
        self._equity = 0.0
        self._on_event: dict[type, Callable[[Any], None]] = {
            Malformed: self._malformed,
            Link: self._link,
            Repair: self._repair,
            Decided: self._decided,
            WorkerDown: self._worker_down,
            Command: self._command,
            OrderUpdate: self._order_update,
        }
        self._on_effect: dict[type, Callable[[Any], None]] = {
            FetchTrades: self._fetch_trades,
            BarClosed: self._bar_closed,
            Step: self._step,
            Submit: self._submit,
            Recorded: self._recorded,
            Booked: self._booked,
            Alert: self._alert,
        }

    def set_gauges(self, snapshot: Callable[[], Snapshot]) -> None:
        """Take gauges from this callable at every scrape."""
        self.snapshot = snapshot

    def order_sent(self, client_id: str, ts_ns: int) -> None:
        """Note when an order's last byte left (ns UTC)."""
        order = self._known.get(client_id)
        if order is not None:
            self._known[client_id] = order._replace(sent_ns=ts_ns)
            due = self._due.get(order.intent.decision)
            if due is not None and order.intent.ts_ns <= due.step_ns:  # slices that follow later were not held up
                self.to_order.observe((ts_ns - due.barrier_ns) / _NS)

    def request(self, endpoint: str, outcome: str) -> None:
        """Count one REST request to the venue."""
        self.requests.add(endpoint, outcome)

    def observe_event(self, event: object) -> None:
        """Count an inbound event that is not a trade; most leave no trace here and cost one look-up."""
        handler = self._on_event.get(type(event))
        if handler is not None:
            handler(event)

    def observe_effect(self, effect: object) -> None:
        """Count an effect."""
        handler = self._on_effect.get(type(effect))
        if handler is not None:
            handler(effect)

    def _malformed(self, event: Malformed) -> None:
        self.rejected.add(event.reason.value)

    def _link(self, event: Link) -> None:
        if event.up and event.feed in self._linked:
            self.reconnects.add(event.feed)
        elif event.up:
            self._linked.add(event.feed)
            self.reconnects.add(event.feed, by=0)

    def _repair(self, event: Repair) -> None:
        if event.ok:
            self.repairs.add(event.symbol)

    def _decided(self, event: Decided) -> None:
        self.features.observe(event.features_ns / _NS)
        self.forecast.observe(event.forecast_ns / _NS)
        self.optimize.observe(event.solve_ns / _NS)
        status = event.result.status if isinstance(event.result, Targets) else event.result.reason.value
        self.solver_status.add(status or "none")
        if isinstance(event.result, Targets):
            beyond = sum(one.startswith(CLIPPED) for one in event.result.binding)
        else:
            beyond = int(event.result.reason in _UNSOUND)
        if beyond:
            self.denied.add(Check.P11_MODEL.value, by=beyond)

    def _worker_down(self, event: WorkerDown) -> None:
        self.worker_restarts += 1

    def _command(self, event: Command) -> None:
        self.commands.add(event.action.value, event.source)

    def _order_update(self, event: OrderUpdate) -> None:
        order = self._known.get(event.client_id)
        if order is not None and event.source in _ANSWERS and order.sent_ns:  # the first news is the answer
            if event.state not in {OrderState.SENDING, OrderState.UNKNOWN, OrderState.RESOLVING}:
                self.ack.observe(max(0, event.ts_ns - order.sent_ns) / _NS)
            self._known[event.client_id] = order._replace(sent_ns=0)

    def _fetch_trades(self, effect: FetchTrades) -> None:
        self.gaps.add(effect.symbol)

    def _bar_closed(self, effect: BarClosed) -> None:
        self.bars.add(effect.bar.symbol)

    def _step(self, effect: Step) -> None:
        self.decisions.add(effect.outcome)
        self._equity = effect.equity
        if effect.barrier_ns:
            self.to_decision.observe((effect.ts_ns - effect.barrier_ns) / _NS)
            self.barrier_wait.observe(max(0, effect.barrier_ns - effect.close_ns) / _NS)
            _remember(self._due, effect.decision, _Due(effect.barrier_ns, effect.ts_ns))
        if effect.forecast is not None:
            self.skill.update(zip(effect.forecast.symbols, effect.forecast.skill, strict=True))

    def _submit(self, effect: Submit) -> None:
        for approved in effect.approved:
            intent = approved.intent
            _remember(self._known, intent.client_id, _Order(intent, approved.ts_ns))
            self.orders.add(intent.side.value, OrderState.SENDING.value)
        for refused in effect.refused:
            self.denied.add(refused.check.value)

    def _recorded(self, effect: Recorded) -> None:
        order = self._known.get(effect.update.client_id)
        side = order.intent.side.value if order else "unknown"
        self.orders.add(side, effect.update.state.value)
        if effect.update.state is OrderState.DENIED:
            self.denied.add(STOPPED_BY.get(effect.update.code, Check.NOT_SENT).value)

    def _booked(self, effect: Booked) -> None:
        if effect.fill is not None:
            self._fill(effect.fill)

    def _alert(self, effect: Alert) -> None:
        self.alerts.add(effect.code)
        if effect.code == REPEATED:
            self.denied.add(Check.P7_REPEATED.value)
        if effect.code in _STOPS:
            self.stops.add(effect.code)

    def _fill(self, fill: Fill) -> None:
        self.fills += 1
        price, qty = float(fill.price), float(fill.qty)
        base, _, quote = fill.symbol.partition("/")
        if fill.fee_asset in {base, quote}:  # a fee in a third asset has no price here
            self.fees += float(fill.fee) * (price if fill.fee_asset == base else 1.0)
        if self._equity > 0:
            self.turnover += price * qty / self._equity
        order = self._known.get(fill.client_id)
        if order is not None and order.intent.reference > 0:
            reference = float(order.intent.reference)
            worse = (price - reference) if fill.side is Side.BUY else (reference - price)
            self.slippage.observe(worse / reference * 1e4)


def _remember(known: "OrderedDict[str, _V]", key: str, value: "_V") -> None:
    known[key] = value
    while len(known) > ORDERS_REMEMBERED_MAX:
        known.popitem(last=False)
