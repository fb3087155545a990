"""From effects to ports: what the engine asks for, done by whoever can."""

import asyncio
import itertools
from collections.abc import Callable
from decimal import Decimal

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
    Continue,
    Decide,
    Denied,
    Effect,
    Fault,
    FetchBar,
    FetchTrades,
    Persist,
    Proceed,
    Recorded,
    Repair,
    Resolve,
    Seed,
    StateChanged,
    Step,
    Submit,
    TradingState,
)
from daemon.domain.orders import Approved, OrderState, OrderUpdate
from daemon.domain.ports import Emit, Ledger, Venue
from daemon.edge.clock import Clock
from daemon.edge.market import MarketData
from daemon.edge.supervisor import JOBS_MAX, Supervisor
from daemon.edge.turns import Turns
from daemon.edge.worker import Worker
from daemon.service.heap import Heap

log = structlog.get_logger("ballast")

RETRY_S_MAX = 15.0
ORDERS_PER_TURN = 2
"""Orders started between two turns of the loop, 0.2 ms of signing each: few, so that trades are heard in between."""
ROWS_PER_TURN = 25
HELD_ROWS_MAX = 2_000
"""Rows that wait while orders leave; beyond it they are written at once."""
REPAIR_PAUSE_S = 0.5
ZERO = Decimal(0)


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
        turns: Turns | None = None,
        heap: Heap | None = None,
    ) -> None:
        """Plug the ports in.

        ``watch`` sees every effect for metrics and API, ``stopping`` says when nothing may leave, at ``turns`` answers wait
        while orders leave, ``heap`` is settled when trading begins.
        """
        self._turns = turns or Turns()
        self._ledger = ledger
        self._venue = venue
        self._market = market
        self._worker = worker
        self._jobs = supervisor
        self._emit = emit
        self._clock = clock
        self._watch = watch
        self._stopping = stopping
        self._leaving = 0
        self._held: list[Booked | Recorded | Persist] = []
        self._heap = heap

    def __call__(self, effect: Effect) -> None:
        """Carry out one effect; one that fails halts trading and takes none of those behind it with it."""
        try:
            self._carry_out(effect)
        except Exception as error:
            log.exception("effect failed", effect=type(effect).__name__)
            if isinstance(effect, Submit):
                self._deny(effect, "it could not be handed on")
            self._emit(Fault("dispatch", f"{type(effect).__name__}: {error}", self._clock.now_ns()))
        try:
            self._watch(effect)
        except Exception:  # whoever only watches can never reach trading
            log.exception("watching failed", effect=type(effect).__name__)

    def _carry_out(self, effect: Effect) -> None:  # noqa: C901, PLR0912 - one case per effect
        match effect:
            case BarClosed():
                pass
            case Decide():
                self._worker.decide(effect)
            case Continue():
                self._jobs.job("proceed", self._proceed())
            case Submit():
                self._begin(effect)
            case Booked() | Recorded() | Persist():
                self._record(effect)
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
                if effect.state is TradingState.ACTIVE and self._heap is not None:
                    self._heap.settle()
            case Step():
                log.info("decision", **summary(effect))

    async def _proceed(self) -> None:
        """Give the engine its next piece of work in the next turn of the loop."""
        try:
            self._emit(Proceed(self._clock.now_ns()))
        except Exception as error:
            log.exception("a decision failed")
            self._emit(Fault("dispatch", f"Proceed: {error}", self._clock.now_ns()))

    def _begin(self, submit: Submit) -> None:
        if self._jobs.jobs >= JOBS_MAX:
            self._deny(submit, f"{JOBS_MAX} requests are under way")
        else:
            self._jobs.job("submit", self._submit(submit))

    def _deny(self, submit: Submit, detail: str) -> None:
        ids = tuple(one.intent.client_id for one in submit.approved)
        self._emit(Denied(ids, detail, self._clock.now_ns()))

    async def _submit(self, submit: Submit) -> None:
        """Make the intents durable, then send each once, without waiting for answers; without durability nothing leaves.

        The loop turns after every few: started all at once they would all be signed before the first byte of any left, and
        no trade would be heard meanwhile.
        """
        if self._stopping():
            self._deny(submit, "the daemon is stopping")
            return
        try:
            durable = await self._ledger.commit(submit)
        except Exception:  # whatever the ledger raises: nothing of it may be sent, and nothing may stay reserved
            log.exception("commit failed", decision=submit.decision)
            durable = False
        if not durable:
            self._deny(submit, "the ledger could not make it durable in time")
            return
        if self._stopping():  # meanwhile: durably denied, so that the next start has nothing to look for (F44)
            self._deny(submit, "the daemon is stopping")
            return
        self._leaving += 1
        self._turns.hold()
        try:
            for number, approved in enumerate(submit.approved, start=1):
                if self._jobs.jobs >= JOBS_MAX:
                    detail = f"{JOBS_MAX} requests are under way"
                    self._emit(Denied((approved.intent.client_id,), detail, self._clock.now_ns()))
                    continue
                self._jobs.job("send", self._send(approved))
                if number % ORDERS_PER_TURN == 0:
                    await asyncio.sleep(0)
            await asyncio.sleep(0)  # the last ones are under way
            if self._leaving == 1:
                await self._write_held()
        finally:
            self._turns.release()
            self._leaving -= 1
            if not self._leaving:
                self._release()

    def _record(self, effect: Booked | Recorded | Persist) -> None:
        """Queue a row that follows the venue's truth, after the orders that are just leaving.

        The ledger's thread and the loop share one interpreter: rows of the first answers would hold up the last orders.
        """
        if self._leaving and len(self._held) < HELD_ROWS_MAX:
            self._held.append(effect)
            return
        self._release()
        self._ledger.record(effect)

    async def _write_held(self) -> None:
        """Queue the rows that waited a few at a time: those of a hundred orders take 2 ms together."""
        while len(self._held) > ROWS_PER_TURN:
            some, self._held = self._held[:ROWS_PER_TURN], self._held[ROWS_PER_TURN:]
            for effect in some:
                self._ledger.record(effect)
            await asyncio.sleep(0)

    def _release(self) -> None:
        """Queue the rows that waited, in their order."""
        held, self._held = self._held, []
        for effect in held:
            self._ledger.record(effect)

    async def _send(self, approved: Approved) -> None:
        """Send one order; should the port raise all the same, the order may have left: its fate is unknown."""
        if self._stopping():
            self._emit(Denied((approved.intent.client_id,), "the daemon is stopping", self._clock.now_ns()))
            return
        try:
            await self._venue.send(approved)
        except Exception:
            log.exception("send failed", client_id=approved.intent.client_id)
            self._emit(
                OrderUpdate(
                    client_id=approved.intent.client_id,
                    symbol=approved.intent.symbol,
                    state=OrderState.UNKNOWN,
                    venue_id="",
                    filled=ZERO,
                    code="port_raised",
                    source="send",
                    ts_ns=self._clock.now_ns(),
                )
            )

    async def _cancel_all(self) -> None:
        """Cancel until the venue shows none of our orders (F36); what is left is told each time."""
        for attempt in itertools.count(1):
            try:
                left = await self._venue.cancel_all()
            except Exception:
                log.exception("cancel_all failed", attempt=attempt)
                left = -1
            if left == 0:
                log.warning("cancel_all", still_open=0)
                return
            log.critical("cancel_all", still_open=left if left > 0 else "the venue does not say", attempt=attempt)
            if self._stopping():
                return
            await asyncio.sleep(pause_s(attempt))

    async def _trades(self, effect: FetchTrades) -> None:
        first, last = effect.from_id, effect.to_id
        try:
            answer = await self._market.trades(effect.symbol, first, last)
        except Exception as error:
            log.exception("trades failed", symbol=effect.symbol)
            answer = Repair(effect.symbol, first, last, (), ok=False, detail=str(error), ts_ns=self._clock.now_ns())
        if not answer.ok:
            await asyncio.sleep(REPAIR_PAUSE_S)  # the engine asks again at once
        self._emit(answer)

    async def _bar(self, effect: FetchBar) -> None:
        self._emit(await self._market.candle(effect.symbol, effect.open_ns, effect.close_ns))

    async def _backfill(self, effect: Backfill) -> None:
        """Fetch until the venue answers: without history a symbol stays frozen, so nothing is lost by waiting."""
        for attempt in itertools.count(1):
            try:
                history = await self._market.history(effect.symbol, bars=effect.bars)
            except Transient as error:
                log.warning("backfill", symbol=effect.symbol, error=str(error), attempt=attempt)
            except Exception:  # an answer nobody foresaw must not leave the symbol dark for ever
                log.exception("backfill failed", symbol=effect.symbol, attempt=attempt)
            else:
                self._emit(history)
                return
            await asyncio.sleep(pause_s(attempt))

    async def _confirm(self, effect: ConfirmQuiet) -> None:
        self._emit(await self._market.confirm(effect.symbol))


def pause_s(attempt: int) -> float:
    """Return how long to wait after so many vain attempts (>= 1), seconds."""
    return min(RETRY_S_MAX, 0.25 * 2.0 ** min(attempt, 10))


def summary(step: Step) -> dict[str, object]:
    """Return the few fields of a decision that a log line needs."""
    fields: dict[str, object] = {"outcome": step.outcome, "equity": round(step.equity, 2), "approved": step.approved}
    if step.refused:
        fields["refused"] = step.refused
    if step.detail:
        fields["detail"] = step.detail
    return fields
