"""The requests we make about our account, through ccxt, each with a checked and typed answer."""

import functools
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from daemon.domain.errors import Transient
from daemon.domain.market import Instrument
from daemon.domain.orders import Balance, Intent, Tif
from daemon.edge import binance_account as account
from daemon.edge.lane import Answer, Guard, Lane
from daemon.edge.outcomes import error_code

RECV_WINDOW_MS: Final = 3_000
"""How old an order may be when the venue sees it."""
SELF_TRADE: Final = "EXPIRE_MAKER"
"""Of two orders of ours that would meet, the resting one ends (P9): the gate refuses the second one before, the venue is
the second line of defence."""
PAGE: Final = 1_000
"""Rows of one page of executions or orders."""
PAGES_MAX: Final = 20
"""Pages followed in one go; the next reconciliation continues where this one ended."""
NS_PER_MS: Final = 1_000_000


UNKNOWN_SYMBOL: Final = -1121


class NoMarketError(Transient):
    """The venue has no such market (any more): who guessed one need not ask again, and others must not wait for an answer."""


class VenueCalls:
    """Three lanes with limiters of their own: orders never wait behind reads, cancels never behind either.

    Every read raises ``Transient`` when no usable answer came. All go to ccxt's signed endpoints rather than through its
    unified methods, which refuse a market they were not told of: orders of earlier sessions may be in symbols that have
    left the universe.
    """

    def __init__(self, *, send: Lane, cancel: Lane, read: Lane, instruments: Mapping[str, Instrument]) -> None:
        self.send_lane = send
        self.cancel_lane = cancel
        self.read_lane = read
        self.lanes = (send, cancel, read)
        self.symbols = {one.venue_id: symbol for symbol, one in instruments.items()}
        self._venue_names = {symbol: one.venue_id for symbol, one in instruments.items()}

    async def place(self, intent: Intent, guard: Guard) -> Answer:
        """Send one limit order once.

        Amounts are on the venue's grid already, to the digit, and of the answer only the raw body counts; ccxt's unified
        parsing costs more than the signing.
        """
        exchange: Any = self.send_lane.exchange
        params = {
            "symbol": self._venue_symbol(intent.symbol),
            "side": intent.side.value.upper(),
            "type": "LIMIT",
            "timeInForce": "IOC" if intent.tif is Tif.IOC else "GTC",
            "quantity": plain(intent.qty),
            "price": plain(intent.limit),
            "newClientOrderId": intent.client_id,
            "newOrderRespType": "FULL",
            "selfTradePreventionMode": SELF_TRADE,
            "recvWindow": RECV_WINDOW_MS,
        }
        return await self.send_lane.call("order.place", lambda: exchange.private_post_order(params), guard=guard)

    async def cancel(self, client_id: str, symbol: str) -> Answer:
        """Cancel one order by its client id."""
        exchange: Any = self.cancel_lane.exchange
        params = {
            "symbol": self._venue_symbol(symbol),
            "origClientOrderId": client_id,
            "recvWindow": RECV_WINDOW_MS,
        }
        return await self.cancel_lane.ask("order.cancel", lambda: exchange.private_delete_order(params))

    async def query(self, client_id: str, symbol: str, *, urgent: bool = False) -> account.VenueOrder | None:
        """Return one order by its client id, None when the venue says there is none."""
        lane = self.cancel_lane if urgent else self.read_lane
        exchange: Any = lane.exchange
        params = {"symbol": self._venue_symbol(symbol), "origClientOrderId": client_id}
        answer = await lane.ask("order.query", lambda: exchange.private_get_order(params))
        if error_code(answer.reply) == UNKNOWN_SYMBOL:
            raise NoMarketError(f"no market {params['symbol']}")
        return account.read_order(answer.reply)

    async def query_venue_id(self, venue_id: str, symbol: str) -> account.VenueOrder | None:
        """Return one order by the venue's id."""
        exchange: Any = self.read_lane.exchange
        params = {"symbol": self._venue_symbol(symbol), "orderId": venue_id}
        answer = await self.read_lane.ask("order.query", lambda: exchange.private_get_order(params))
        return account.read_order(answer.reply)

    async def open_orders(self, symbol: str | None = None, *, urgent: bool = False) -> list[account.VenueOrder]:
        """Return the open orders of one symbol (weight 6) or of the account (weight 80)."""
        lane = self.cancel_lane if urgent else self.read_lane
        exchange: Any = lane.exchange
        params = {"symbol": self._venue_symbol(symbol)} if symbol is not None else {}
        answer = await lane.ask("openOrders", lambda: exchange.private_get_openorders(params))
        return account.read_orders(answer.reply)

    async def orders_since(self, symbol: str, since_ns: int) -> list[account.VenueOrder]:
        """Return the symbol's orders of any state since a time, ns."""
        exchange: Any = self.read_lane.exchange
        params = {"symbol": self._venue_symbol(symbol), "startTime": since_ns // NS_PER_MS, "limit": PAGE}
        answer = await self.read_lane.ask("allOrders", lambda: exchange.private_get_allorders(params))
        return account.read_orders(answer.reply)

    async def orders_from(self, symbol: str, order_id: int) -> list[account.VenueOrder]:
        """Return the symbol's orders of any state from the venue's id on, inclusive: every page."""
        exchange: Any = self.read_lane.exchange
        found: list[account.VenueOrder] = []
        while True:
            params = {"symbol": self._venue_symbol(symbol), "orderId": order_id, "limit": PAGE}
            answer = await self.read_lane.ask("allOrders", functools.partial(exchange.private_get_allorders, params))
            page = account.read_orders(answer.reply)
            found.extend(page)
            if len(page) < PAGE:
                return found
            order_id = max(one.order_id for one in page) + 1

    async def trades_of(self, venue_id: str, symbol: str) -> list[account.VenueTrade]:
        """Return the executions of one order."""
        return await self._my_trades({"symbol": self._venue_symbol(symbol), "orderId": venue_id, "limit": PAGE})

    async def trades_since(self, symbol: str, since_ns: int) -> list[account.VenueTrade]:
        """Return the first page of the account's executions in a symbol since a time, ns."""
        since_ms = since_ns // NS_PER_MS
        return await self._my_trades({"symbol": self._venue_symbol(symbol), "startTime": since_ms, "limit": PAGE})

    async def trades_from(self, symbol: str, trade_id: int) -> list[account.VenueTrade]:
        """Return all executions in a symbol from an id on, inclusive, at most 20 pages of 1,000."""
        found: list[account.VenueTrade] = []
        for _ in range(PAGES_MAX):
            page = await self._my_trades({"symbol": self._venue_symbol(symbol), "fromId": trade_id, "limit": PAGE})
            found.extend(page)
            if len(page) < PAGE:
                break
            trade_id = page[-1].id + 1
        return found

    async def balances(self) -> tuple[Balance, ...]:
        """Return every asset held."""
        exchange: Any = self.read_lane.exchange
        answer = await self.read_lane.ask("account", lambda: exchange.private_get_account({"omitZeroBalances": "true"}))
        return account.read_balances(answer.reply)

    async def permissions(self) -> account.Permissions:
        """Return what the key may do."""
        exchange: Any = self.read_lane.exchange
        answer = await self.read_lane.ask("apiRestrictions", exchange.sapi_get_account_apirestrictions)
        return account.read_permissions(answer.reply)

    async def sync_clock(self) -> None:
        """Measure the venue's clock and let every lane sign with it. Raises Transient."""
        exchange: Any = self.read_lane.exchange
        answer = await self.read_lane.ask("time", exchange.load_time_difference)
        if answer.error:
            raise Transient(f"clock: {answer.error}")
        difference = exchange.options["timeDifference"]
        for lane in (self.send_lane, self.cancel_lane):
            lane.exchange.options["timeDifference"] = difference

    async def close(self) -> None:
        """Close all lanes."""
        for lane in self.lanes:
            await lane.close()

    async def _my_trades(self, params: dict[str, object]) -> list[account.VenueTrade]:
        exchange: Any = self.read_lane.exchange
        answer = await self.read_lane.ask("myTrades", lambda: exchange.private_get_mytrades(params))
        if error_code(answer.reply) == UNKNOWN_SYMBOL:
            raise NoMarketError(f"no market {params['symbol']}")
        return account.read_trades(answer.reply)

    def symbol_of(self, venue_symbol: str) -> str:
        """Return our name of the venue's symbol, "" for one outside the universe."""
        return self.symbols.get(venue_symbol, "")

    def _venue_symbol(self, symbol: str) -> str:
        return self._venue_names.get(symbol) or symbol.replace("/", "")


def plain(amount: Decimal) -> str:
    """Return an amount in plain notation, digit by digit."""
    return format(amount, "f")
