"""Getting out: stops, drawdown and flatten sell what is held, rung by rung, until it is gone."""

from decimal import Decimal
from itertools import pairwise

from daemon.core import submit as door
from daemon.core.causes import DRAWDOWN
from daemon.core.causes import OPERATOR_FLATTEN as FLATTEN
from daemon.core.config import EngineConfig
from daemon.core.exits import PAGE_AFTER, Exit
from daemon.core.market import Market
from daemon.core.planner import ExitRequest, decision_id, exit_plan
from daemon.core.state import State
from daemon.domain.events import Alert, Cancel, Candles, ConfirmQuiet, Effect, TradingState
from daemon.domain.market import NS_PER_S
from daemon.domain.orders import Cause, Side, Tif
from risk.money import ZERO, exact, floor_to
from risk.stops import StopHit

NONE: tuple[Effect, ...] = ()
ATR_BARS = 14
LOOK_EVERY_NS = NS_PER_S
LOOKS_MAX = 4
"""Symbols whose price REST is asked for in one look: 240 a minute at a weight of 4, whatever is held."""
TELL_EVERY_NS = 30 * NS_PER_S
"""How often an exit that cannot even be tried is told."""
WAITS_MAX = 4
"""How often an exit waits for the end of resting buys before it goes all the same."""
STOPS = frozenset({Cause.STOP_LOSS, Cause.TRAILING_STOP, Cause.VOLATILITY_STOP})


class ExitDesk:
    """Runs the exits of ``state.exits``; every attempt passes the gate under the exit profile."""

    def __init__(self, config: EngineConfig, state: State) -> None:
        """Start with what the state remembers."""
        self._config = config
        self._state = state
        self.triggered: dict[str, int] = {}
        self._looked_ns = 0

    # ------------------------------------------------------------------ beginnings

    def stop(self, hit: StopHit) -> tuple[Effect, ...]:
        """Begin the exit a stop demands and make its first attempt at once."""
        if not self._state.exits.start(hit.symbol, hit.cause, hit.ts_ns):
            return NONE
        self.triggered[hit.cause] = self.triggered.get(hit.cause, 0) + 1
        detail = f"{hit.cause}: {hit.price:g} fell to the stop at {hit.level:g}; selling"
        return (Alert(str(hit.cause), detail, hit.symbol, hit.ts_ns), *self._attempt(hit.symbol, hit.ts_ns))

    def all(self, cause: Cause, now_ns: int) -> tuple[Effect, ...]:
        """Begin exits for everything that is held."""
        effects: list[Effect] = []
        for symbol in sorted(self._state.account.positions):
            self._state.exits.start(symbol, cause, now_ns)
            effects.extend(self._attempt(symbol, now_ns))
        return tuple(effects)

    def begin(self, cause: Cause, now_ns: int) -> tuple[Effect, ...]:
        """Begin exits for what is held and not on its way out yet; dust stays."""
        effects: list[Effect] = []
        for symbol, qty in sorted(self._state.account.positions.items()):
            if not self._is_dust(symbol, qty) and self._state.exits.start(symbol, cause, now_ns):
                effects.extend(self._attempt(symbol, now_ns))
        return tuple(effects)

    def bought(self, symbol: str, now_ns: int) -> tuple[Effect, ...]:
        """Sell at once what a late execution bought while everything is to be sold."""
        causes = self._state.causes
        for name, cause in ((FLATTEN, Cause.FLATTEN), (DRAWDOWN, Cause.DRAWDOWN)):
            if name in causes and not self._is_dust(symbol, self._state.account.position(symbol)):
                self._state.exits.start(symbol, cause, now_ns)
                return tuple(self._attempt(symbol, now_ns))
        return NONE

    # ------------------------------------------------------------------ the course of things

    def timer(self, now_ns: int) -> tuple[Effect, ...]:
        """Make the attempts that are due; ask REST for prices that the stream does not bring."""
        state = self._state
        if not (state.exits.active or state.account.positions):
            return NONE
        effects: list[Effect] = []
        if now_ns - self._looked_ns >= LOOK_EVERY_NS:
            self._looked_ns = now_ns
            effects.extend(self._look(now_ns))
        for job in self._state.exits.due(now_ns):
            effects.extend(self._attempt(job.symbol, now_ns))
        return tuple(effects)

    def _look(self, now_ns: int) -> list[Effect]:
        """Ask REST for prices of held symbols too old to judge a stop by: first what is on its way out, a few at once."""
        state = self._state
        limit_ns = self._config.limits.exit_price_age_ns // 3
        active = state.exits.active
        blind: list[tuple[bool, int, str]] = []
        for symbol in {*active, *state.account.positions} if active else state.account.positions:
            market = state.markets.get(symbol)
            if market is None or now_ns - market.last_ns <= limit_ns or now_ns - market.priced_ns <= limit_ns:
                continue
            if state.is_unlisted(market):
                continue
            if now_ns - market.confirm_ns < self._config.max_age_ns:
                continue
            if symbol in active or not self._is_dust(symbol, state.account.position(symbol)):
                blind.append((symbol not in active, market.priced_ns, symbol))
        asked: list[Effect] = []
        for _, _, symbol in sorted(blind)[:LOOKS_MAX]:
            state.markets[symbol].confirm_ns = now_ns
            asked.append(ConfirmQuiet(symbol))
        return asked

    def position_changed(self, symbol: str) -> tuple[Effect, ...]:
        """Tell stops what is held now; end the exit of a position that is gone."""
        state = self._state
        qty = state.account.position(symbol)
        if self._is_dust(symbol, qty):
            qty = ZERO
        state.stops.set_position(symbol, qty, state.account.entries.get(symbol, 0.0))
        if qty <= ZERO:
            state.exits.finish(symbol)
        return NONE

    def _is_dust(self, symbol: str, qty: Decimal) -> bool:
        """Return whether the venue would not take an order for what is left: such a position is gone for stops and exits."""
        market, price = self._state.markets.get(symbol), self._state.price(symbol)
        rules = market.instrument if market is not None else None
        if rules is None or price <= 0.0:
            return False
        whole = floor_to(qty, rules.step)
        return whole < rules.min_qty or whole * exact(price) < rules.min_notional

    def candles(self, event: Candles) -> None:
        """Take hourly candles: the average true range of the volatility stop (Wilder 1978, plain mean of 14)."""
        bars = event.bars[-(ATR_BARS + 1) :]
        if len(bars) <= 1:
            return
        ranges = [max(bar.high, before.close) - min(bar.low, before.close) for before, bar in pairwise(bars)]
        self._state.stops.set_atr(event.symbol, sum(ranges) / len(ranges))

    def _attempt(self, symbol: str, now_ns: int) -> list[Effect]:
        state = self._state
        job = state.exits.active.get(symbol)
        market = state.markets.get(symbol)
        if job is None:
            return []
        qty = state.account.position(symbol)
        if qty <= ZERO:
            state.exits.finish(symbol)
            return []
        working = state.blotter.working(symbol)
        resting = [
            order
            for order in working
            if order.state == "acked" and (order.intent.side is Side.BUY or order.intent.tif is Tif.GTC)
        ]
        effects: list[Effect] = [Cancel(order.intent.client_id, symbol, "an exit goes first") for order in resting]
        selling = any(order.intent.side is Side.SELL for order in working)
        if not selling and resting and job.waited < WAITS_MAX:
            job.waited += 1  # its end is awaited, so that we do not meet our own order; but not for ever
            selling = True
        if selling:
            job.next_ns = now_ns + self._config.retry_ns
            return effects
        why = self._hindrance(market, now_ns)
        if not why:
            return effects + self._sell(job, now_ns)
        job.next_ns = now_ns + self._config.retry_ns
        if now_ns - job.told_ns >= TELL_EVERY_NS:
            job.told_ns = now_ns
            effects.append(Alert("exit_waits", why, symbol, now_ns))
        return effects

    def _hindrance(self, market: Market | None, now_ns: int) -> str:
        """Return why no attempt can succeed now, "" when one may: what the gate would refuse is not written down every second."""
        if self._state.trading is TradingState.HALTED:
            return "halted: " + ", ".join(self._state.causes.names)
        if market is None or market.instrument is None:
            return "its trading rules are not known"
        if not market.instrument.trading:
            return "the venue does not trade it now"
        age_ns = now_ns - market.priced_ns
        old = age_ns > self._config.limits.exit_price_age_ns
        return f"its newest price is {age_ns / NS_PER_S:.0f} s old" if old else ""

    def _sell(self, job: Exit, now_ns: int) -> list[Effect]:
        state, symbol = self._state, job.symbol
        instrument = state.markets[symbol].instrument
        if instrument is None:
            return []
        rung = job.attempt
        number = state.exits.attempted(job, now_ns)
        decision = decision_id(f"{job.cause}-{symbol}", number, state.epoch)
        plan = exit_plan(
            ExitRequest(
                decision=decision,
                instance=self._config.instance,
                account=self._config.account,
                mode=self._config.mode,
                now_ns=now_ns,
                symbol=symbol,
                qty=state.account.position(symbol),
                equity=door.known_or_nan(state.equity()),
                quote=door.quote(state, symbol),
                instrument=instrument,
                limits=self._config.limits,
                cause=job.cause,
                attempt=rung,
            )
        )
        if symbol in plan.dust:
            state.exits.finish(symbol)
            state.stops.set_position(symbol, ZERO, 0.0)
            return [Alert("dust", "what is left is too small for the venue to take", symbol, now_ns)]
        if not plan.intents:
            why = plan.deferred[0].reason if plan.deferred else "nothing to sell"
            return [Alert("exit_slow", f"attempt {rung + 1} to get out: {why}", symbol, now_ns)] if rung else []
        verdicts = door.judge(state, plan.intents)
        effects: list[Effect] = [door.submit(decision, plan, verdicts, {"cause": str(job.cause), "rung": rung})]
        if not verdicts.approved:
            first = verdicts.refused[0]
            effects.append(Alert("exit_refused", f"{first.check}: {first.detail}", symbol, now_ns))
        if rung >= PAGE_AFTER:
            effects.append(Alert("exit_slow", f"attempt {rung + 1} to get out", symbol, now_ns))
        return effects
