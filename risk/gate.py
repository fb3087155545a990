"""The gate: every order, whoever wants it, is judged here; ``Approved`` is made nowhere else.

Checks carry the names of the controls they implement (P1 … P16). All are hard blocks. What the judgement needs and
does not know is a refusal. Worst case throughout: a buy is judged as if every live and approved buy fills and no sell
does; a sell as if every live and approved sell fills and no buy does. Intents of one batch are judged in order and each
approval counts against the next.

Exit profile (``intent.exit``: a sell of what is owned and free): no throttle, no size limit, and no need of equity, live
links or a sound book, because the planner slices exits and a stop must get out in bad weather; the wider ``exit_collar``
applies around a price at most ``exit_price_age_ns`` old. State, duplicates, filters, age and free quantity hold as ever.
"""

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal

import msgspec

from daemon.domain.events import TradingState
from daemon.domain.market import NS_PER_MS, NS_PER_S
from daemon.domain.orders import Approved, Check, Intent, Refused, Side
from risk.limits import Limits
from risk.money import ONE, ZERO, exact, is_amount, is_crossed, reference_price
from risk.throttle import Throttle
from risk.views import GateView, MarketView

__all__ = ["Gate", "GateView", "MarketView"]

Finding = tuple[Check, str] | None
CLIENT_ID_LENGTH_MAX = 36
"""Longest client order id venues take."""


class _Batch:
    """What the approvals of one batch have used up so far: the worst case grows with each."""

    def __init__(self, view: GateView, free: int) -> None:
        self.view = view
        self.cash = view.cash_free
        self.free = free
        self.buys = dict(view.reserved_buys)
        self.sold: dict[str, Decimal] = {}
        self.placed: dict[str, int] = {}
        self.ids: set[str] = set()
        self.shapes: set[tuple[str, Side, str]] = set()
        self._values: dict[str, Decimal | None] = {}
        self._gross: Decimal | None = None

    def reference(self, symbol: str) -> Decimal | None:
        """Return the reference price of a symbol, None when unknown."""
        if symbol not in self._values:
            market = self.view.markets.get(symbol)
            price = reference_price(market.bid, market.ask, market.last) if market else 0.0
            self._values[symbol] = exact(price) if price else None
        return self._values[symbol]

    def value(self, symbol: str) -> Decimal | None:
        """Return the worth of the position in quote currency, None when it cannot be known."""
        qty = self.view.positions.get(symbol, ZERO)
        if not is_amount(qty):
            return None
        if qty == ZERO:
            return ZERO
        price = self.reference(symbol)
        return None if price is None else qty * price

    def gross(self) -> Decimal | str:
        """Return positions plus all buys that may fill, or why that is unknown; positions are valued once."""
        if self._gross is None:
            total = ZERO
            for symbol in self.view.positions:
                value = self.value(symbol)
                if value is None:
                    return f"the position in {symbol} has no known value"
                total += value
            self._gross = total
        return self._gross + sum(self.buys.values(), ZERO)

    def count(self, intent: Intent) -> None:
        """Let one approval weigh on the rest of the batch."""
        symbol = intent.symbol
        self.ids.add(intent.client_id)
        self.shapes.add((symbol, intent.side, intent.decision))
        self.placed[symbol] = self.placed.get(symbol, 0) + 1
        if intent.side is Side.SELL:
            self.sold[symbol] = self.sold.get(symbol, ZERO) + intent.qty


class Gate:
    """Judge intents against limits.

    Parameters
    ----------
    limits : Limits
        Must be sound, see ``Limits.validate``.
    universe : Iterable[str]
        Symbols that may be bought; anything else that is held may only be sold.

    Raises
    ------
    ValueError
        When a limit is impossible.
    """

    def __init__(self, limits: Limits, universe: Iterable[str]) -> None:
        problems = limits.validate()
        if problems:
            raise ValueError("; ".join(problems))
        self._limits = limits
        self._universe = frozenset(universe)
        self._throttle = Throttle(limits.orders_per_minute, limits.orders_per_10s)
        self._max_weight = exact(limits.max_weight)
        self._max_gross = exact(limits.max_gross)
        self._min_cash = exact(limits.min_cash)
        self._max_order = exact(limits.max_order_notional)
        self._with_fee = ONE + exact(limits.fee_rate)
        self._collar = exact(limits.price_collar)
        self._exit_collar = exact(limits.exit_collar)
        entry: tuple[Callable[[Intent, _Batch], Finding], ...] = (
            self._check_shape,
            self._check_state,
            self._check_tradable,
            self._check_age,
            self._check_duplicate,
            self._check_fresh,
            self._check_collar,
            self._check_filters,
        )
        self._exit_checks = (*entry, self._check_free)
        self._sell_checks = (*entry, self._check_size, self._check_free, self._check_throttle)
        self._buy_checks = (*entry, self._check_size, self._check_exposure, self._check_funds, self._check_throttle)

    def judge(self, intents: Sequence[Intent], view: GateView) -> tuple[Approved | Refused, ...]:
        """Return a verdict for each intent, in order; approvals take their place in the throttle."""
        batch = _Batch(view, self._throttle.free(view.now_ns))
        return tuple(self._verdict(intent, batch) for intent in intents)

    def venue_allows(self, orders_per_10s: int) -> None:
        """Take over the venue's own limit on new orders (P6); what was sent so far stays counted."""
        limits = msgspec.structs.replace(self._limits, venue_orders_per_10s=orders_per_10s)
        if limits.validate():
            return
        state = self._throttle.state()
        self._throttle = Throttle(limits.orders_per_minute, limits.orders_per_10s)
        self._throttle.restore(state)

    def capacity(self, now_ns: int) -> int:
        """Return how many orders the throttle still lets through now: what a planner need not exceed."""
        return self._throttle.free(now_ns)

    def state(self) -> tuple[int, ...]:
        """Return the throttle's memory (ns), for snapshots."""
        return self._throttle.state()

    def restore(self, state: tuple[int, ...]) -> None:
        """Take over the memory of ``state``."""
        self._throttle.restore(state)

    def _verdict(self, intent: Intent, batch: _Batch) -> Approved | Refused:
        now_ns = batch.view.now_ns
        checks = self._buy_checks if intent.side is Side.BUY else self._sell_checks
        if intent.exit:
            checks = self._exit_checks
        try:
            for check in checks:
                finding = check(intent, batch)
                if finding is not None:
                    return Refused(intent=intent, check=finding[0], detail=finding[1], ts_ns=now_ns)
            self._reserve(intent, batch)
        except ArithmeticError as error:  # a NaN or an overflow that no check foresaw: unknown means deny
            return Refused(intent, Check.UNKNOWN_INPUT, f"arithmetic failed: {type(error).__name__}", now_ns)
        self._throttle.take(now_ns)
        before_ns = self._fresh_until(intent, batch)
        if before_ns < intent.expires_ns:
            intent = msgspec.structs.replace(intent, expires_ns=before_ns)
        return Approved(intent=intent, ts_ns=now_ns)

    def _fresh_until(self, intent: Intent, batch: _Batch) -> int:
        """Return until when what the order was judged on is fresh enough: it leaves by then or never (P10, I6), ns UTC."""
        market, limits = batch.view.markets[intent.symbol], self._limits
        if intent.exit:
            return market.ref_ns + limits.exit_price_age_ns
        return max(market.frame_ns, market.confirmed_ns) + limits.max_age_ms * NS_PER_MS

    def _reserve(self, intent: Intent, batch: _Batch) -> None:
        if intent.side is Side.BUY:
            batch.cash -= intent.notional * self._with_fee
            batch.buys[intent.symbol] = batch.buys.get(intent.symbol, ZERO) + intent.notional
        batch.free -= 1
        batch.count(intent)

    # ------------------------------------------------------------------ what holds for every order

    def _check_shape(self, intent: Intent, batch: _Batch) -> Finding:
        market = batch.view.markets.get(intent.symbol)
        if market is None or market.symbol != intent.symbol or market.instrument.symbol != intent.symbol:
            return Check.UNKNOWN_INPUT, f"no market data for {intent.symbol}"
        if not (is_amount(intent.qty) and is_amount(intent.limit) and intent.qty > ZERO and intent.limit > ZERO):
            return Check.UNKNOWN_INPUT, f"quantity {intent.qty} or limit {intent.limit} is not a usable number"
        if intent.exit and intent.side is Side.BUY:
            return Check.UNKNOWN_INPUT, "a buy cannot be an exit"
        if not 0 < len(intent.client_id) <= CLIENT_ID_LENGTH_MAX:
            return Check.UNKNOWN_INPUT, f"client id of {len(intent.client_id)} characters"
        return None

    def _check_state(self, intent: Intent, batch: _Batch) -> Finding:
        state = batch.view.state
        if state is TradingState.ACTIVE or (state is TradingState.REDUCING and intent.side is Side.SELL):
            return None
        if batch.view.losing:
            return Check.P5_LOSS, f"trading state is {state} after a loss"
        return Check.STATE, f"trading state is {state}"

    def _check_tradable(self, intent: Intent, batch: _Batch) -> Finding:
        if intent.side is Side.BUY and intent.symbol not in self._universe:
            return Check.P15_NOT_TRADABLE, f"{intent.symbol} is not in the universe: close-only"
        if not batch.view.markets[intent.symbol].instrument.trading:
            return Check.P15_NOT_TRADABLE, f"the venue does not trade {intent.symbol} now"
        return None

    def _check_age(self, intent: Intent, batch: _Batch) -> Finding:
        age_ns = batch.view.now_ns - intent.ts_ns
        if batch.view.now_ns > intent.expires_ns or age_ns > self._limits.order_ttl_ns:
            return Check.P16_TOO_OLD, f"planned {age_ns / NS_PER_MS:.0f} ms ago"
        if age_ns < 0:
            return Check.P16_TOO_OLD, f"planned {-age_ns / NS_PER_MS:.0f} ms in the future"
        return None

    def _check_duplicate(self, intent: Intent, batch: _Batch) -> Finding:
        view, symbol = batch.view, intent.symbol
        shape = (symbol, intent.side, intent.decision)
        if intent.client_id in batch.ids:
            return Check.P8_DUPLICATE, f"client id {intent.client_id} twice in one batch"
        if shape in view.live_intents or (shape in batch.shapes and not intent.exit):
            return Check.P8_DUPLICATE, f"a {intent.side} of {symbol} for decision {intent.decision} is live already"
        if intent.exit:
            return None
        # An own order on the other side could be met by this one.
        opposite = batch.buys if intent.side is Side.SELL else view.reserved_sells
        if opposite.get(symbol, ZERO) > ZERO or (intent.side is Side.BUY and symbol in batch.sold):
            return Check.P9_SELF_TRADE, f"could cross an own live order in {symbol}"
        return None

    def _check_fresh(self, intent: Intent, batch: _Batch) -> Finding:
        view, limits = batch.view, self._limits
        market = view.markets[intent.symbol]
        ahead_ns = -limits.max_clock_offset_ns
        if intent.exit:
            age_ns = view.now_ns - market.ref_ns
            if not ahead_ns <= age_ns <= limits.exit_price_age_ns:
                return Check.P10_STALE, f"the newest price of {intent.symbol} is {age_ns / NS_PER_S:.1f} s old"
            return None
        age_ns = view.now_ns - max(market.frame_ns, market.confirmed_ns)
        if not ahead_ns <= age_ns <= limits.max_age_ms * NS_PER_MS:
            return Check.P10_STALE, f"the newest frame of {intent.symbol} is {age_ns / NS_PER_S:.1f} s old"
        if is_crossed(market.bid, market.ask):
            return Check.P10_STALE, f"the book of {intent.symbol} is crossed: {market.bid} / {market.ask}"
        if market.frozen and intent.side is Side.BUY:
            return Check.P10_STALE, f"{intent.symbol} is frozen: its weight may not grow"
        if abs(view.clock_offset_ns) > limits.max_clock_offset_ns:
            return Check.P10_STALE, f"the clock is off by {view.clock_offset_ns / NS_PER_MS:.0f} ms"
        if not view.user_link_up:
            return Check.P10_STALE, "the account's own stream is down"
        return None

    def _check_collar(self, intent: Intent, batch: _Batch) -> Finding:
        reference = batch.reference(intent.symbol)
        if reference is None:
            return Check.UNKNOWN_INPUT, f"no price for {intent.symbol}"
        collar = self._exit_collar if intent.exit else self._collar
        if abs(intent.limit - reference) > reference * collar:
            return Check.P3_COLLAR, f"limit {intent.limit} is more than {collar} away from {reference}"
        rules = batch.view.markets[intent.symbol].instrument
        buy = intent.side is Side.BUY
        up, down = (rules.bid_up, rules.bid_down) if buy else (rules.ask_up, rules.ask_down)
        if (up > ZERO and intent.limit > reference * up) or intent.limit < reference * down:
            return Check.P12_FILTER, f"limit {intent.limit} leaves PERCENT_PRICE_BY_SIDE around {reference}"
        return None

    def _check_filters(self, intent: Intent, batch: _Batch) -> Finding:
        rules = batch.view.markets[intent.symbol].instrument
        if rules.max_qty > ZERO and intent.qty > rules.max_qty:
            return Check.P2_MAX_QTY, f"quantity {intent.qty} exceeds {rules.max_qty}"
        if intent.qty < rules.min_qty:
            return Check.P12_FILTER, f"quantity {intent.qty} is below {rules.min_qty}"
        if intent.qty % rules.step != ZERO:
            return Check.P12_FILTER, f"quantity {intent.qty} is no multiple of step {rules.step}"
        if intent.limit % rules.tick != ZERO:
            return Check.P12_FILTER, f"limit {intent.limit} is no multiple of tick {rules.tick}"
        if intent.notional < rules.min_notional:
            return Check.P12_FILTER, f"notional {intent.notional} is below {rules.min_notional}"
        live = batch.view.open_orders.get(intent.symbol, 0) + batch.placed.get(intent.symbol, 0)
        if 0 < rules.max_orders <= live:
            return Check.P12_FILTER, f"{live} orders are open in {intent.symbol}, the venue takes {rules.max_orders}"
        return None

    # ------------------------------------------------------------------ what holds for some

    def _check_size(self, intent: Intent, batch: _Batch) -> Finding:
        equity = batch.view.equity
        if not is_amount(equity) or equity == ZERO:
            return Check.UNKNOWN_INPUT, f"equity {equity} is not a usable number"
        cap = equity * self._max_order
        if intent.notional > cap:
            return Check.P1_MAX_NOTIONAL, f"notional {intent.notional} exceeds {cap:.8f}"
        return None

    def _check_exposure(self, intent: Intent, batch: _Batch) -> Finding:
        equity = batch.view.equity
        held = batch.value(intent.symbol)
        gross = batch.gross()
        if held is None or isinstance(gross, str):
            return Check.UNKNOWN_INPUT, gross if isinstance(gross, str) else f"unknown position in {intent.symbol}"
        worst = held + batch.buys.get(intent.symbol, ZERO) + intent.notional
        if worst > equity * self._max_weight:
            return Check.P4_EXPOSURE, f"{intent.symbol} could reach {worst / equity:.4f} of equity"
        if gross + intent.notional > equity * self._max_gross:
            return Check.P4_EXPOSURE, f"all positions could reach {(gross + intent.notional) / equity:.4f} of equity"
        return None

    def _check_funds(self, intent: Intent, batch: _Batch) -> Finding:
        if not batch.cash.is_finite():
            return Check.UNKNOWN_INPUT, f"free cash {batch.cash} is not a usable number"
        left = batch.cash - intent.notional * self._with_fee
        if left < ZERO:
            return Check.P14_FUNDS, f"costs {-left:.8f} more than the {batch.cash:.8f} that is free"
        if left < batch.view.equity * self._min_cash:
            return Check.P4_EXPOSURE, f"would leave {left:.8f} in cash, below min_cash {self._min_cash} of equity"
        return None

    def _check_free(self, intent: Intent, batch: _Batch) -> Finding:
        free = batch.view.sellable.get(intent.symbol, ZERO) - batch.sold.get(intent.symbol, ZERO)
        if not free.is_finite():
            return Check.UNKNOWN_INPUT, f"free quantity {free} of {intent.symbol} is not a usable number"
        if intent.qty > free:
            return Check.P14_FUNDS, f"sells {intent.qty} {intent.symbol}, {free} is free"
        return None

    def _check_throttle(self, intent: Intent, batch: _Batch) -> Finding:
        if batch.free <= 0:
            limits = self._limits
            return (
                Check.P6_THROTTLE,
                f"{limits.orders_per_minute} orders per minute or {limits.orders_per_10s} per 10 s are used up",
            )
        return None
