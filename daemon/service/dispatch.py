"""From effects to ports: what the engine asks for, done by whoever can."""

import asyncio
from collections.abc import Callable

import structlog

from daemon.domain.errors import Transient
from daemon.domain.events import (
    Alert,
    Backfill,
    BarClosed,
    Booked,
    Cancel,
    CancelAll,
    ConfirmQuiet,
    Decide,
    Denied,
    Effect,
    FetchBar,
    FetchTrades,
    Persist,
    Recorded,
    Resolve,
    Seed,
    StateChanged,
    Step,
    Submit,
)
from daemon.domain.ports import Emit, Ledger, Venue
from daemon.edge.clock import Clock
from daemon.edge.market import MarketData
from daemon.edge.supervisor import Supervisor
from daemon.edge.worker import Worker

log = structlog.get_logger("ballast")

RETRIES_MAX = 1_000
RETRY_S_MAX = 15.0


class Dispatcher:
    """Carries out effects in order; whatever takes time becomes a job of the supervisor and answers with an event."""

    def __init__(  # noqa: PLR0913 - one argument per port
        self,
        *,
        ledger: Ledger,
        venue: Venue,
        market: MarketData,
        worker: Worker,
        supervisor: Supervisor,
        emit: Emit,
        clock: Clock,
        watch: Callable[[Effect], None],
        stopping: Callable[[], bool],
    ) -> None:
        """Plug the ports in; ``watch`` sees every effect for metrics and API, ``stopping`` says when nothing may leave."""
        self._ledger = ledger
        self._venue = venue
        self._market = market
        self._worker = worker
        self._jobs = supervisor
        self._emit = emit
        self._clock = clock
        self._watch = watch
        self._stopping = stopping

    def __call__(self, effect: Effect) -> None:  # noqa: C901, PLR0912 - one case per effect
        """Carry out one effect."""
        match effect:
            case BarClosed():
                pass
            case Decide():
                self._worker.decide(effect)
            case Submit():
                self._jobs.job("submit", self._submit(effect))
            case Booked() | Recorded() | Persist():
                self._ledger.record(effect)
            case Cancel():
                self._jobs.job("cancel", self._venue.cancel(effect.client_id, effect.symbol))
            case CancelAll():
                self._jobs.job("cancel_all", self._cancel_all())
            case Resolve():
                self._jobs.job("resolve", self._venue.resolve(effect.client_id, effect.symbol, effect.sent_ns))
            case FetchTrades():
                self._jobs.job("fetch_trades", self._trades(effect))
            case FetchBar():
                self._jobs.job("fetch_bar", self._bar(effect))
            case Backfill():
                self._jobs.job("backfill", self._backfill(effect))
            case ConfirmQuiet():
                self._jobs.job("confirm", self._confirm(effect))
            case Seed():
                self._worker.seed(effect)
            case Alert():
                log.warning(effect.code, detail=effect.detail, symbol=effect.symbol)
            case StateChanged():
                log.info("trading_state", state=effect.state.value, causes=effect.causes)
            case Step():
                log.info("decision", **summary(effect))
        self._watch(effect)

    async def _submit(self, submit: Submit) -> None:
        """Make the intents durable, then send each once, at the same time; without durability nothing leaves."""
        ids = tuple(one.intent.client_id for one in submit.approved)
        if self._stopping():
            self._emit(Denied(ids, "the daemon is stopping", self._clock.now_ns()))
            return
        if not await self._ledger.commit(submit):
            self._emit(Denied(ids, "the ledger could not make it durable in time", self._clock.now_ns()))
            return
        for approved in submit.approved:
            self._jobs.job("send", self._venue.send(approved))

    async def _cancel_all(self) -> None:
        left = await self._venue.cancel_all()
        log.warning("cancel_all", still_open=left)

    async def _trades(self, effect: FetchTrades) -> None:
        self._emit(await self._market.trades(effect.symbol, effect.from_id, effect.to_id))

    async def _bar(self, effect: FetchBar) -> None:
        self._emit(await self._market.candle(effect.symbol, effect.open_ns, effect.close_ns))

    async def _backfill(self, effect: Backfill) -> None:
        """Fetch until the venue answers: without history a symbol stays frozen, so nothing is lost by waiting."""
        for attempt in range(RETRIES_MAX):
            try:
                history = await self._market.history(effect.symbol, bars=effect.bars)
            except Transient as error:
                log.warning("backfill", symbol=effect.symbol, error=str(error), attempt=attempt + 1)
                await asyncio.sleep(min(RETRY_S_MAX, 0.5 * 2**attempt))
                continue
            self._emit(history)
            return
        raise Transient(f"no history of {effect.symbol} after {RETRIES_MAX} attempts")

    async def _confirm(self, effect: ConfirmQuiet) -> None:
        self._emit(await self._market.confirm(effect.symbol))


def summary(step: Step) -> dict[str, object]:
    """Return the few fields of a decision that a log line needs."""
    fields: dict[str, object] = {"outcome": step.outcome, "equity": round(step.equity, 2), "approved": step.approved}
    if step.refused:
        fields["refused"] = step.refused
    if step.detail:
        fields["detail"] = step.detail
    return fields
