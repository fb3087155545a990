"""From a closed column to a decision and back: ask the worker, refuse what is late, plan, gate, submit."""

from daemon.core import submit as door
from daemon.core.causes import REPEATED, STARTING
from daemon.core.columns import Columns
from daemon.core.config import EngineConfig
from daemon.core.pieces import PIECE, Work, quietly
from daemon.core.planner import PlanRequest, decision_id, pieces
from daemon.core.state import State
from daemon.domain.events import Cancel, Continue, Decide, Decided, Effect, Seed, Step, TradingState
from daemon.domain.market import Bar
from daemon.domain.orders import Tif
from daemon.domain.signal import NoDecision, NoReason, Targets
from risk.money import ZERO
from risk.views import GateView

NONE: tuple[Effect, ...] = ()
HALTED = TradingState.HALTED
PENDING_BARS_MAX = 50_000
"""Bars kept for the worker between two requests; beyond it the worker is seeded anew."""


class Decisions:
    """At most one decision is in flight; the newest view wins; an answer that is too old is refused."""

    def __init__(self, config: EngineConfig, state: State, columns: Columns) -> None:
        """Start without a worker."""
        self._config = config
        self._state = state
        self._columns = columns
        self._pending: list[Bar] = []
        self._asked: Decide | None = None
        self._work: Work | None = None
        self._barrier_ns = 0
        self._turn = 0
        self._begun = False
        self.seq = 0
        self.up = False
        self.reseed = True
        self.new_days = False
        """Daily closes have changed since the worker heard of them."""
        self.last: Step | None = None
        self.last_close_ns = 0
        self.decided_ns = 0

    # ------------------------------------------------------------------ in pieces

    @property
    def working(self) -> bool:
        """Say whether a piece of work waits for ``proceed``."""
        return self._work is not None

    @property
    def asked(self) -> Decide | None:
        """Return the question that the worker has not answered yet."""
        return self._asked

    def proceed(self) -> tuple[Effect, ...]:
        """Do the next piece of what was begun."""
        work, self._work = self._work, None
        if work is None:
            return NONE
        try:
            effects = next(work)
        except StopIteration:
            return NONE
        self._work = work  # not before: what raises is over
        return (*effects, Continue())

    def _begin(self, work: Work) -> tuple[Effect, ...]:
        """Begin work: in pieces with many symbols, at once with few; what was begun before is ended first."""
        before = self._all(self._work) if self._work is not None else NONE
        if len(self._state.symbols) <= PIECE:
            return before + self._all(work)
        self._work = work
        return before + self.proceed()

    def _all(self, work: Work) -> tuple[Effect, ...]:
        self._work = None
        effects: tuple[Effect, ...] = NONE
        for some in work:
            effects += some
        return effects

    # ------------------------------------------------------------------ worker

    def worker_up(self) -> tuple[Effect, ...]:
        """Seed a new worker in full."""
        self.up = True
        self._asked = None
        return self._seed()

    def worker_down(self) -> None:
        """Note that nobody answers now."""
        self.up = False
        self._asked = None

    def _seed(self) -> tuple[Effect, ...]:
        if not self._columns.buffers.count:
            self.reseed = True
            return NONE
        self.reseed = False
        self._columns.amended = False
        self._pending.clear()
        daily = self._daily()
        return (Seed(self._state.symbols, self._columns.seed_rows(), daily, self._config.bar_ns),)

    def _daily(self) -> tuple[bytes, ...]:
        """Return the daily closes of every symbol; the worker knows them then."""
        self.new_days = False
        daily = self._state.daily
        return tuple([daily.get(symbol, b"") for symbol in self._state.symbols])

    # ------------------------------------------------------------------ asking

    def closed(self, done: list[tuple[int, tuple[Bar, ...]]], exchange_ns: int, barrier_ns: int) -> tuple[Effect, ...]:
        """Take columns, complete since ``barrier_ns`` and appended; decide on the newest one when it is current and due."""
        for _, bars in done:
            self._pending.extend(bars)
        if len(self._pending) > PENDING_BARS_MAX:
            self._pending.clear()
            self.reseed = True
        close_ns = done[-1][0]
        self.last_close_ns = close_ns
        # Turns are counted from the epoch, not from the start: a restart does not move them, and a backtest has the same.
        turn = close_ns // (self._config.bar_ns * self._config.rebalance_every)
        due = turn != self._turn or not self._begun
        self._turn = turn
        if exchange_ns - close_ns >= self._config.bar_ns:
            return NONE  # history, or catching up after an outage
        self._barrier_ns = barrier_ns
        effects: tuple[Effect, ...] = NONE
        if self.reseed or self._columns.amended:
            effects = self._seed() if self.up else NONE
        if not due:
            return effects
        if self._work is None and len(self._state.symbols) <= PIECE:
            return effects + self._ask(close_ns)
        return effects + self._begin(self._ask_later(close_ns))

    def _ask_later(self, close_ns: int) -> Work:
        """Ask in a piece of its own, behind the closing of the column."""
        yield NONE
        yield self._ask(close_ns)

    def _ask(self, close_ns: int) -> tuple[Effect, ...]:
        state, config = self._state, self._config
        why = self._obstacle()
        if why is not None:
            return (self._step(close_ns, why.reason, why.detail),)
        equity = state.equity()
        if equity is None or equity <= ZERO:
            return (self._step(close_ns, NoReason.NOT_READY, "equity is unknown"),)
        self.seq += 1
        now_ns = state.now_ns
        cancels = [
            Cancel(order.intent.client_id, order.intent.symbol, "its symbol is decided anew")
            for order in state.blotter.live.values()
            if order.intent.tif is Tif.GTC and order.state == "acked"
        ]
        cash = state.account.cash
        ask = Decide(
            seq=self.seq,
            ts_ns=now_ns,
            bar_ns=config.bar_ns,
            close_ns=close_ns,
            symbols=state.symbols,
            bars=tuple(self._pending),
            weights=state.weights(equity),
            frozen=self._frozen(close_ns),
            caps=self._caps(now_ns),
            equity=float(equity),
            cash_weight=1.0 if cash is equity else float(cash / equity),
            turnover_left=max(0.0, min(config.turnover_max, config.turnover_max_day - state.turnover_day)),
            deadline_ns=now_ns + config.decision_deadline_ns,
            daily=self._daily() if self.new_days else (),
        )
        self._pending.clear()
        self._begun = True
        self._asked = ask
        return (*cancels, ask)

    def _caps(self, now_ns: int) -> tuple[float, ...]:
        """Return the largest weight of each symbol, 0 after a stop until it has cooled down."""
        symbols, stops, most = self._state.symbols, self._state.stops, self._config.limits.max_weight
        if not stops.resting:
            return (most,) * len(symbols)
        return tuple([0.0 if stops.cooling(symbol, now_ns) else most for symbol in symbols])

    def _frozen(self, close_ns: int) -> tuple[bool, ...]:
        """Return whose weight may not grow: also those whose own bar the decision could not wait for."""
        state = self._state
        uncertain = state.blotter.uncertain
        markets, is_frozen = state.markets, state.is_frozen
        frozen: list[bool] = []
        for symbol in state.symbols:
            market = markets[symbol]
            bar = market.bar
            frozen.append(bar is None or bar.close_ns < close_ns or is_frozen(market, uncertain))
        return tuple(frozen)

    def _obstacle(self) -> NoDecision | None:
        state = self._state
        causes = state.causes
        if causes.names:  # nearly always there is none
            if STARTING in causes or causes.state is HALTED:
                return NoDecision(NoReason.NOT_READY, "halted: " + ", ".join(causes.names))
            if REPEATED in causes:
                return NoDecision(NoReason.PAUSED, "the strategy repeated itself: it waits for `resume`")
        if state.paused:
            return NoDecision(NoReason.PAUSED, "paused by an operator")
        if not self.up:
            return NoDecision(NoReason.WORKER_DOWN, "no worker to decide")
        if self._columns.buffers.count <= self._config.lookback:
            have, need = self._columns.buffers.count, self._config.lookback + 1
            return NoDecision(NoReason.WARMING_UP, f"{have} of {need} bars")
        return None

    def timer(self, now_ns: int) -> tuple[Effect, ...]:
        """Give up a question that nobody answered in time (the edge replaces the worker)."""
        asked = self._asked
        if asked is None or now_ns <= asked.deadline_ns + self._config.decision_deadline_ns:
            return NONE
        self._asked = None
        return (self._step(asked.close_ns, NoReason.DEADLINE, "no answer from the worker"),)

    # ------------------------------------------------------------------ answering

    def decided(self, event: Decided) -> tuple[Effect, ...]:
        """Take the worker's answer to the newest question; turn targets into approved orders."""
        asked = self._asked
        if asked is None or event.seq != asked.seq:
            return NONE
        self._asked = None
        self.decided_ns = event.ts_ns
        if isinstance(event.result, NoDecision):
            return (self._step(asked.close_ns, event.result.reason, event.result.detail),)
        if self._state.now_ns > asked.deadline_ns:
            return (self._step(asked.close_ns, NoReason.DEADLINE, "the answer came too late"),)
        obstacle = self._obstacle()
        if obstacle is not None:
            return (self._step(asked.close_ns, obstacle.reason, obstacle.detail),)
        return self._begin(self._submit(asked, event.result))

    def _submit(self, asked: Decide, targets: Targets) -> Work:
        state = self._state
        equity = state.equity()
        if equity is None:
            yield (self._step(asked.close_ns, NoReason.NOT_READY, "equity is unknown"),)
            return
        view = state.gate_view(equity)
        request = self._request(asked, targets, view)
        yield NONE
        made = yield from quietly(pieces(request, PIECE))
        at_once = len(state.symbols) <= PIECE  # then nothing happens between two pieces, see ``_begin``
        verdicts = yield from quietly(door.judge_pieces(state, made.intents, PIECE, view if at_once else None))
        yield NONE
        sent, stopped = len(verdicts.approved), len(verdicts.refused)
        outcome = "submitted" if sent else "refused" if stopped else "no_change"
        detail = verdicts.refused[0].detail if stopped else ""
        # Told before the orders are made durable: the ledger's thread would share the interpreter with whoever is told.
        step = self._step(asked.close_ns, outcome, detail, targets=targets, approved=sent, refused=stopped)
        yield (step,)
        if not made.intents:
            return
        record: dict[str, object] = {
            "seq": asked.seq,
            "close_ns": asked.close_ns,
            "symbols": targets.symbols,
            "targets": targets.weights,
            "weights": asked.weights,
            "forecast": targets.forecast,
            "status": targets.status,
            "rung": targets.rung,
            "binding": targets.binding,
        }
        yield (door.submit(request.decision, made, verdicts, record),)

    def _request(self, asked: Decide, targets: Targets, view: GateView) -> PlanRequest:
        """Return everything the plan depends on, as it is now."""
        state = self._state
        growing = view.state is TradingState.ACTIVE
        return PlanRequest(
            decision=decision_id("bar", asked.close_ns, state.epoch),
            instance=self._config.instance,
            account=self._config.account,
            mode=self._config.mode,
            now_ns=state.now_ns,
            targets=dict(zip(targets.symbols, targets.weights, strict=True)),
            positions=view.positions,
            sellable=view.sellable,
            equity=view.equity,
            cash_free=view.cash_free,
            quotes={symbol: door.quote(state, symbol) for symbol in state.markets},
            instruments={symbol: market.instrument for symbol, market in view.markets.items()},
            limits=self._config.limits,
            max_intents=state.gate.capacity(state.now_ns),
            reserved_buys=view.reserved_buys,
            blocked=self._blocked(),
            frozen=frozenset([symbol for symbol, market in view.markets.items() if market.frozen or not growing]).union(
                [symbol for symbol, held in zip(asked.symbols, asked.frozen, strict=True) if held]
            ),
            closing=frozenset(
                [
                    symbol
                    for symbol in view.positions
                    if symbol not in state.symbols or state.stops.cooling(symbol, state.now_ns)
                ]
            ),
            benefits=benefits(targets, asked.weights),
            band_weight=self._config.min_weight_step,
        )

    def _blocked(self) -> dict[str, str]:
        """Return the symbols that must not be planned now, with the reason."""
        blocked = dict.fromkeys(self._state.exits.active, "exit under way")
        for order in self._state.blotter.live.values():
            blocked.setdefault(order.intent.symbol, f"order {order.state}")
        return blocked

    def _step(
        self,
        close_ns: int,
        outcome: str,
        detail: str,
        *,
        targets: Targets | None = None,
        approved: int = 0,
        refused: int = 0,
    ) -> Step:
        state = self._state
        equity = state.equity()
        self.last = Step(
            decision=decision_id("bar", close_ns, state.epoch),
            seq=self.seq,
            outcome=str(outcome),
            close_ns=close_ns,
            barrier_ns=self._barrier_ns,
            ts_ns=state.now_ns,
            equity=float(equity) if equity is not None else 0.0,
            cash=float(state.account.cash),
            symbols=state.symbols,
            targets=targets.weights if targets is not None else (),
            weights=state.weights(equity) if equity is not None else (),
            forecast=targets.forecast if targets is not None else None,
            status=targets.status if targets is not None else "",
            approved=approved,
            refused=refused,
            detail=detail,
        )
        return self.last


def benefits(targets: Targets, weights: tuple[float, ...]) -> dict[str, float]:
    """Return how much each symbol's difference is worth: expected return gained, else the size of the difference."""
    gaps = [abs(after - before) for after, before in zip(targets.weights, weights, strict=True)]
    forecast = targets.forecast
    if forecast is None or forecast.symbols != targets.symbols:
        return dict(zip(targets.symbols, gaps, strict=True))
    return {
        symbol: gap * (abs(mean) + 1e-9) for symbol, gap, mean in zip(targets.symbols, gaps, forecast.mean, strict=True)
    }
