"""What people and dashboards see: the API's reader and the gauges, by value, from the engine's state. Reads only."""

import contextlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from daemon.core.engine import Engine
from daemon.domain.errors import ConfigError, Unreachable
from daemon.domain.events import Alert, Booked, Effect, Recorded, Step, TradingState
from daemon.domain.market import NS_PER_S
from daemon.domain.orders import Fill
from daemon.edge.explain import explain, of_step
from daemon.edge.ledger_read import LedgerReader
from daemon.edge.outsiders import External
from daemon.outlets.api import Reason
from daemon.outlets.metrics import Snapshot
from daemon.service.place import ledger_place
from daemon.service.training import TRAINABLE
from daemon.settings import Settings, redacted

KEPT = 1_000
UNMADE = frozenset({"no_model", "worker_down", "deadline", "warming_up"})
"""Outcomes that mean a due decision was not made."""
LAG_S_MAX = 2.0


class Desk:
    """Implements the API's ``Reader`` and the metrics' snapshot.

    ``facts`` supplies what the engine does not know: loop lag (s), queue depths, whether the ledger writes, journal
    bytes, model list, failed tasks.
    """

    def __init__(self, settings: Settings, engine: Engine, facts: "Facts") -> None:
        """Look at one engine."""
        self._settings = settings
        self._engine = engine
        self._facts = facts
        self._steps: deque[Step] = deque(maxlen=KEPT)
        self._fills: deque[Fill] = deque(maxlen=KEPT)
        self._alerts: deque[Alert] = deque(maxlen=KEPT)
        self._curve: deque[tuple[int, float, float]] = deque(maxlen=KEPT)
        self.counts: dict[str, int] = {"orders": 0, "fills": 0}

    def watch(self, effect: Effect) -> None:
        """Keep the recent history that the API shows."""
        match effect:
            case Step():
                self._steps.append(effect)
                if effect.equity > 0:
                    self._curve.append((effect.ts_ns, effect.equity, effect.cash))
            case Booked(fill=Fill() as fill):
                self._fills.append(fill)
                self.counts["fills"] += 1
            case Recorded():
                pass
            case Alert():
                self._alerts.append(effect)
            case _:
                pass

    # ------------------------------------------------------------------ readiness

    def not_ready(self) -> Sequence[Reason]:
        """Return why the daemon is not ready; empty when it is."""
        state, facts = self._engine.state, self._facts
        reasons = []
        silence = self._engine.silence()
        if silence:
            reasons.append(Reason("stale_data", silence))
        if state.trading is TradingState.HALTED:
            reasons.append(Reason("halted", ", ".join(state.causes.names)))
        if not state.reconciled_ns:
            reasons.append(Reason("not_reconciled", "ledger and exchange have not been compared yet"))
        elif state.breaks:
            reasons.append(Reason("reconcile_break", f"{state.breaks} assets differ"))
        if not facts.ledger_writable():
            reasons.append(Reason("ledger", "the ledger cannot be written"))
        if facts.loop_lag_s() > LAG_S_MAX:
            reasons.append(Reason("loop_lag", f"the event loop lags by {facts.loop_lag_s():.1f} s"))
        reasons.extend(Reason("task_failed", name) for name in facts.failed())
        overdue = self._overdue()
        if overdue:
            reasons.append(Reason("decision_overdue", overdue))
        return reasons

    def _overdue(self) -> str:
        """Return why the last due decision counts as not made, or the next one cannot be; "" when all is well."""
        engine = self._engine
        decisions, state, config = engine.decisions, engine.state, engine.config
        if state.paused:
            return ""
        if not decisions.up:
            return "no worker is up"
        if self._settings.forecast.model in TRAINABLE and not state.model:
            return "no model yet: training, or see the log"
        last = decisions.last
        if last is not None and last.outcome in UNMADE:
            return f"{last.outcome}: {last.detail}"
        now_ns = state.now_ns - state.offset_ns
        slack_ns = config.grace_ns + 2 * config.decision_deadline_ns
        if decisions.last_close_ns and now_ns - decisions.last_close_ns > config.bar_ns + slack_ns:
            return f"the newest bar closed {(now_ns - decisions.last_close_ns) / NS_PER_S:.0f} s ago"
        every_ns = config.bar_ns * config.rebalance_every
        if last is not None and now_ns - last.close_ns > every_ns + slack_ns:
            return f"the last decision is {(now_ns - last.close_ns) / NS_PER_S:.0f} s old"
        return ""

    # ------------------------------------------------------------------ reads

    def status(self) -> Mapping[str, Any]:
        """Return mode, instance, trading state with causes, equity, feeds, versions."""
        state = self._engine.state
        equity = state.equity()
        return {
            "instance": self._settings.instance,
            "mode": self._settings.mode,
            "exchange": self._settings.exchange.id,
            "state": state.trading.value,
            "causes": state.causes.names,
            "paused": state.paused,
            "equity": equity,
            "cash": state.account.cash,
            "positions": len(state.account.positions),
            "unresolved": state.blotter.unresolved,
            "breaks": state.breaks,
            "external_orders": [msgspec.to_builtins(one) for one in self._facts.external()],
            "drawdown": state.losses.drawdown,
            "daily_loss": state.losses.daily_loss,
            "links": dict(state.links),
            "stale": state.stale,
            "model": state.model,
            "last_decision": self._steps[-1].outcome if self._steps else None,
            "last_bar_close_ns": self._engine.decisions.last_close_ns,
            "ts_ns": state.now_ns,
            "version": self._facts.version,
            "alerts": [msgspec.to_builtins(alert) for alert in list(self._alerts)[-10:]],
        }

    def positions(self) -> Sequence[Any]:
        """Return what is held, one row per pair: the universe, then what has left it and is watched still."""
        state = self._engine.state
        equity = state.equity()
        weights = dict(zip(state.symbols, state.weights(equity), strict=True)) if equity is not None else {}
        if equity:
            for symbol in state.config.leaving:
                weights[symbol] = float(state.account.position(symbol)) * state.price(symbol) / float(equity)
        last = self._steps[-1] if self._steps else None
        targets = dict(zip(last.symbols, last.targets, strict=False)) if last is not None and last.targets else {}
        return [
            {
                "symbol": symbol,
                "qty": state.account.position(symbol),
                "entry": state.account.entries.get(symbol),
                "price": state.price(symbol),
                "weight": weights.get(symbol, 0.0),
                "target": targets.get(symbol),
                "stop": state.stops.level(symbol),
            }
            for symbol in state.markets
        ]

    def orders(self, limit: int) -> Sequence[Any]:
        """Return open and recent orders, first the open ones that are not ours."""
        blotter = self._engine.state.blotter
        rows = [*blotter.done.values(), *blotter.live.values()][-limit:]
        external = [msgspec.to_builtins(one) for one in self._facts.external()][:limit]
        return external + [
            {
                "client_id": order.intent.client_id,
                "venue_id": order.venue_id,
                "symbol": order.intent.symbol,
                "side": order.intent.side.value,
                "qty": order.intent.qty,
                "limit": order.intent.limit,
                "filled": order.booked,
                "state": order.state.value,
                "cause": order.intent.cause.value,
                "decision": order.intent.decision,
                "ts_ns": order.intent.ts_ns,
                "external": False,
            }
            for order in reversed(rows)
        ]

    def fills(self, limit: int) -> Sequence[Any]:
        """Return recent fills."""
        return list(reversed(self._fills))[:limit]

    def decisions(self, limit: int) -> Sequence[Any]:
        """Return recent decisions."""
        return list(reversed(self._steps))[:limit]

    def decision(self, decision_id: str) -> Any | None:
        """Return why a decision or order exists: from the ledger, else what is remembered of one that ordered nothing.

        Runs in a thread of its own: the copy of the steps is taken in one go. A ledger that cannot be read now
        (readiness says so) leaves the memory.
        """
        if decision_id:
            with (
                contextlib.suppress(ConfigError, Unreachable, SQLAlchemyError),
                LedgerReader(ledger_place(self._settings)) as reader,
            ):
                found = explain(reader, decision_id)
                if found is not None:
                    return found
        steps = tuple(self._steps)
        step = next((one for one in reversed(steps) if one.decision == decision_id), None)
        return of_step(step) if step is not None else None

    def equity(self, limit: int) -> Mapping[str, Any]:
        """Return equity, cash, realised and unrealised profit, fees, drawdown and the recent curve."""
        state = self._engine.state
        return {
            "equity": state.equity(),
            "cash": state.account.cash,
            "realized": state.account.realized,
            "unrealized": self._unrealized(),
            "fees": state.account.fees_quote,
            "turnover": state.turnover_total,
            "drawdown": state.losses.drawdown,
            "curve": [{"ts_ns": ts, "equity": equity, "cash": cash} for ts, equity, cash in list(self._curve)[-limit:]],
        }

    def _unrealized(self) -> float:
        account = self._engine.state.account
        return sum(
            float(qty) * (self._engine.state.price(symbol) - account.entries.get(symbol, 0.0))
            for symbol, qty in account.positions.items()
            if account.entries.get(symbol)
        )

    def risk(self) -> Mapping[str, Any]:
        """Return limits, their use, stops, cool-downs and latches."""
        state = self._engine.state
        return {
            "limits": msgspec.to_builtins(self._engine.config.limits),
            "state": state.trading.value,
            "causes": state.causes.names,
            "drawdown": state.losses.drawdown,
            "daily_loss": state.losses.daily_loss,
            "stops": {symbol: state.stops.level(symbol) for symbol in state.markets},
            "cooling": [symbol for symbol in state.markets if state.stops.cooling(symbol, state.now_ns)],
            "exits": {symbol: job.cause.value for symbol, job in state.exits.active.items()},
            "turnover_day": state.turnover_day,
        }

    def config(self) -> Mapping[str, Any]:
        """Return the configuration, secrets redacted."""
        return redacted(self._settings)

    def bars(self, pair: str, limit: int) -> Sequence[Any] | None:
        """Return closed bars of a pair, None when it is not in the universe."""
        if pair not in self._engine.state.symbols:
            return None
        buffers = self._engine.markets.columns.buffers
        place = self._engine.state.symbols.index(pair)
        closes, rows = buffers.closes(limit), buffers.window(limit)[place]
        fields = ("open", "high", "low", "close", "volume")
        return [
            {"close_ns": int(close), **dict(zip(fields, map(float, row), strict=True))}
            for close, row in zip(closes[::-1], rows[::-1], strict=True)
        ]

    def forecasts(self) -> Sequence[Any]:
        """Return the newest forecast of every pair."""
        forecast = next((step.forecast for step in reversed(self._steps) if step.forecast is not None), None)
        if forecast is None:
            return []
        return [
            {"symbol": symbol, "mean": mean, "raw_mean": raw, "scale": scale, "skill": skill, "interval_90": half}
            for symbol, mean, raw, scale, skill, half in zip(
                forecast.symbols,
                forecast.mean,
                forecast.raw_mean,
                forecast.scale,
                forecast.skill,
                forecast.interval_90,
                strict=True,
            )
        ]

    def models(self) -> Sequence[Any]:
        """Return the registered models."""
        return self._facts.models()

    # ------------------------------------------------------------------ gauges

    def snapshot(self) -> Snapshot:
        """Return the gauges as they are now."""
        state, facts = self._engine.state, self._facts
        equity = state.equity()
        weights = state.weights(equity) if equity is not None else ()
        last = next((step for step in reversed(self._steps) if step.targets), None)
        now_ns = facts.now_ns()
        return Snapshot(
            equity=float(equity) if equity is not None else None,
            cash=float(state.account.cash),
            pnl_realized=float(state.account.realized),
            pnl_unrealized=self._unrealized(),
            drawdown=state.losses.drawdown if state.losses.known else None,
            position_weights=dict(zip(state.symbols, weights, strict=False)),
            target_weights=dict(zip(last.symbols, last.targets, strict=True)) if last is not None else {},
            state=state.trading,
            feed_age_s={
                symbol: (now_ns - market.frame_ns) / NS_PER_S
                for symbol, market in state.markets.items()
                if market.frame_ns
            },
            model_age_s=(now_ns - state.model_trained_ns) / NS_PER_S if state.model_trained_ns else None,
            orders_unresolved=state.blotter.unresolved,
            reconcile_breaks=state.breaks,
            reconcile_age_s=(now_ns - state.reconciled_ns) / NS_PER_S if state.reconciled_ns else None,
            queue_depth=facts.depths(),
            journal_bytes=facts.journal_bytes(),
        )


class Facts(msgspec.Struct):
    """What the desk learns from outside the engine."""

    version: str
    now_ns: Callable[[], int]
    loop_lag_s: Callable[[], float]
    ledger_writable: Callable[[], bool]
    failed: Callable[[], list[str]]
    depths: Callable[[], dict[str, int]]
    journal_bytes: Callable[[], int]
    models: Callable[[], list[dict[str, Any]]]
    external: Callable[[], list[External]] = list
