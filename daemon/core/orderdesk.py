"""News of orders and executions: booked once, recorded, and what follows from them."""

from daemon.core import causes as cause
from daemon.core.blotter import Working
from daemon.core.config import EngineConfig
from daemon.core.exitdesk import ExitDesk
from daemon.core.plans import client_prefix
from daemon.core.state import State
from daemon.domain.events import Alert, Booked, Cancel, Denied, Effect, Recorded, Resolve, TradingState
from daemon.domain.market import NS_PER_S, Instrument
from daemon.domain.orders import Cause, Fill, OrderState, OrderUpdate, Side, Tif
from risk.money import ZERO

NONE: tuple[Effect, ...] = ()
KEY_CODES = frozenset({"-2014", "-2015", "-1002"})
WITHDRAW_EVERY_NS = 5 * NS_PER_S
"""How often a resting order that must not be there is cancelled again until it is gone."""


class OrderDesk:
    """Takes what the venue says about our orders."""

    def __init__(self, config: EngineConfig, state: State, exits: ExitDesk) -> None:
        """Start with what the state remembers."""
        self._state = state
        self._exits = exits
        self._prefix = client_prefix(config.instance)
        self._withdrawn: dict[str, int] = {}

    def update(self, news: OrderUpdate) -> tuple[Effect, ...]:
        """Take the venue's word on an order."""
        state = self._state
        if state.blotter.find(news.client_id) is None:
            return self._stray(news)
        order = state.blotter.update(news)
        if order is None:
            return NONE
        effects: tuple[Effect, ...] = (Recorded(news),)
        if news.state is OrderState.UNKNOWN:
            effects += (Resolve(news.client_id, news.symbol, order.intent.ts_ns),)
        if news.state is OrderState.REJECTED and news.code in KEY_CODES:
            state.causes.put(cause.KEY_REFUSED, TradingState.HALTED)
            effects += (Alert("key_refused", f"the venue refused our key ({news.code})", "", news.ts_ns),)
        return effects

    def _stray(self, news: OrderUpdate) -> tuple[Effect, ...]:
        """Take news of an order of ours that had ended before this session: one found alive is cancelled, never adopted."""
        if not news.client_id.startswith(self._prefix):
            return NONE
        if news.state is not OrderState.ACKED:
            return (Recorded(news),)
        detail = f"{news.client_id} had ended by our books and is open at the venue; it is cancelled"
        return (
            Recorded(news),
            Cancel(news.client_id, news.symbol, "it had ended by our books"),
            Alert("stray_order", detail, news.symbol, news.ts_ns),
        )

    def fill(self, fill: Fill) -> tuple[Effect, ...]:
        """Book an execution once, however late: also one of an order that this session does not know any more."""
        state = self._state
        known = state.blotter.find(fill.client_id)
        if known is None and not fill.client_id.startswith(self._prefix):
            return NONE
        was = known.state if known is not None else None
        if not state.account.book(fill):
            return NONE
        order = state.blotter.fill(fill)
        equity = state.equity()
        if equity is not None and equity > 0:
            share = float(fill.qty * fill.price / equity)
            state.turnover_day += share
            state.turnover_total += share
        effects: tuple[Effect, ...] = (Booked(fill, None),)
        if order is not None and order.state is not was:
            effects += (Recorded(self._moved(order, fill)),)
        if order is not None and order.booked == fill.qty and order.intent.cause is Cause.REBALANCE:
            effects += self._repeated(fill)
        effects += self._exits.position_changed(fill.symbol)
        if fill.side is Side.BUY:
            effects += self._exits.bought(fill.symbol, state.now_ns)
        return effects

    def _repeated(self, fill: Fill) -> tuple[Effect, ...]:
        """Count the first execution of an order that the strategy wanted (P7)."""
        state = self._state
        if not state.repeats.executed(fill.symbol, fill.side, fill.ts_event_ns):
            return NONE
        if not state.causes.put(cause.REPEATED, TradingState.REDUCING):
            return NONE
        most = state.config.limits.max_repeats
        detail = f"{most} times {fill.side} within minutes and nothing back: no decisions until `resume`"
        return (Alert(cause.REPEATED, detail, fill.symbol, state.now_ns),)

    def _moved(self, order: Working, fill: Fill) -> OrderUpdate:
        """Return the state that an execution proves."""
        return OrderUpdate(
            client_id=fill.client_id,
            symbol=fill.symbol,
            state=order.state,
            venue_id=fill.venue_id,
            filled=order.booked,
            code="",
            source=fill.source,
            ts_ns=self._state.now_ns,
        )

    def denied(self, event: Denied) -> tuple[Effect, ...]:
        """Release what was reserved for intents that never left."""
        effects: list[Effect] = []
        for client_id in event.client_ids:
            order = self._state.blotter.find(client_id)
            if order is None:
                continue
            news = OrderUpdate(
                client_id=client_id,
                symbol=order.intent.symbol,
                state=OrderState.DENIED,
                venue_id="",
                filled=ZERO,
                code=event.detail,
                source="send",
                ts_ns=event.ts_ns,
            )
            if self._state.blotter.update(news) is not None:
                effects.append(Recorded(news))
        effects.append(Alert("denied", f"{len(event.client_ids)} orders not sent: {event.detail}", "", event.ts_ns))
        return tuple(effects)

    def withdraw(self, now_ns: int) -> tuple[Effect, ...]:
        """Cancel resting orders that may not rest now, again and again until they are gone.

        Buys while exposure may not grow (I12) or of a symbol that has left the universe (P15), and all of a symbol that is not
        traded (F26): when it returns, its price may be another.
        """
        state = self._state
        if not state.blotter.live and not self._withdrawn:
            return NONE
        growing = state.trading is TradingState.ACTIVE
        halted = {symbol for symbol, market in state.markets.items() if _halted(market.instrument)}
        if growing and not halted and not state.config.leaving:
            self._withdrawn.clear()
            return NONE
        effects: list[Effect] = []
        for client_id, order in state.blotter.live.items():
            intent = order.intent
            if intent.tif is not Tif.GTC or order.state is not OrderState.ACKED:
                continue
            if intent.symbol in halted:
                why = "its symbol is not traded now"
            elif intent.side is Side.BUY and not growing:
                why = "exposure may not grow now"
            elif intent.side is Side.BUY and intent.symbol in state.config.leaving:
                why = "it has left the universe"
            else:
                continue
            if now_ns - self._withdrawn.get(client_id, 0) >= WITHDRAW_EVERY_NS:
                self._withdrawn[client_id] = now_ns
                effects.append(Cancel(client_id, intent.symbol, why))
        return tuple(effects)


def _halted(instrument: Instrument | None) -> bool:
    return instrument is not None and not instrument.trading
