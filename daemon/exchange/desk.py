"""The matching engine of the exchange: takes, checks, matches, rests and cancels clients' orders."""

from collections import defaultdict
from collections.abc import Callable
from decimal import Decimal
from typing import Final, NamedTuple

import msgspec

from daemon.exchange import errors
from daemon.exchange.books import ZERO, Books, Fill, Order
from daemon.exchange.config import SimConfig
from daemon.exchange.errors import ApiError
from daemon.exchange.filters import Ticket, check_filters
from daemon.exchange.ladder import Ladder
from daemon.exchange.market import Market, Trade
from daemon.exchange.universe import SymbolSpec
from daemon.matching.model import Match, fee, round_down, sweep, traded_through

__all__ = ["Desk", "Report"]

_FIRST_ORDER_ID: Final = 1_000_001


class Report(NamedTuple):
    """Something that happened to an order: execution type as in executionReport, and the fill of a TRADE."""

    kind: str  # NEW CANCELED TRADE EXPIRED REJECTED
    order: Order
    fill: Fill | None
    client_id: str
    """``c`` of the event: the order's id, or that of the cancel request."""


class Desk:
    """Orders of the simulated account.

    Attributes
    ----------
    specs, rules
        The symbols as the market counts them, and the rules that orders are held to (a test may change these).
    fee_asset
        None, or (asset, its price in quote): commissions are then taken from its balance while it lasts.
    status
        Trading status of each symbol, "TRADING" unless a test changed it.
    reports
        Called with every `Report`, in order.
    balance_changes
        Called with the set of assets that changed, after the reports of one action.
    """

    def __init__(self, config: SimConfig, market: Market, ladder: Ladder, books: Books) -> None:
        """Follow the market's trades with the resting orders."""
        self._config = config
        self._market = market
        self._ladder = ladder
        self._books = books
        self.specs = market.specs
        self.rules: list[SymbolSpec] = list(market.specs)
        self.status = ["TRADING"] * len(market.specs)
        self.fee_rate = config.fee_rate
        self.fee_asset: tuple[str, Decimal] | None = None
        self.reports: list[Callable[[Report], None]] = []
        self.balance_changes: list[Callable[[set[str]], None]] = []
        self._by_id: dict[tuple[int, int], Order] = {}
        self._by_client: dict[tuple[int, str], Order] = {}
        self._resting: list[list[Order]] = [[] for _ in market.specs]
        self._next_order: dict[int, int] = defaultdict(lambda: _FIRST_ORDER_ID)
        self._next_trade: dict[int, int] = defaultdict(lambda: 1)
        self._executions = 0
        market.listeners.append(self._on_trade)

    # ------------------------------------------------------------------ placing

    def check(self, ticket: Ticket) -> None:
        """Refuse an order that the venue's rules forbid.

        Raises
        ------
        ApiError
            With Binance's code and text.
        """
        index = ticket.index
        if self.status[index] != "TRADING":
            raise errors.rejected(errors.MARKET_CLOSED)
        last = self._market.last[index]
        reference = last.price * self.specs[index].tick if last else Decimal(repr(self.specs[index].price))
        check_filters(self.rules[index], ticket, reference, len(self._resting[index]))
        known = self._by_client.get((index, ticket.client_id))
        if known is not None and known.is_open:
            raise errors.rejected(errors.DUPLICATE)

    def place(self, ticket: Ticket, *, external: bool = False) -> Order:
        """Check an order, match it and let the rest of it rest or expire.

        Raises
        ------
        ApiError
            When the order is refused; nothing has changed then.
        """
        self.check(ticket)
        spec, now = self.specs[ticket.index], self._market.now_ms
        buy = ticket.side == "BUY"
        qty, matches = self._match(ticket, spec)
        asset, amount = self._needed(ticket, spec, qty, matches)
        if amount > self._books.balance(asset).free:
            raise errors.rejected(errors.INSUFFICIENT)
        order = Order(
            symbol=spec.name,
            index=ticket.index,
            order_id=self._next_order[ticket.index],
            client_id=ticket.client_id,
            side=ticket.side,
            type=ticket.type,
            tif=ticket.tif,
            price=ticket.price,
            qty=qty,
            quote_qty=ticket.quote_qty,
            time_ms=now,
            update_ms=now,
            working=True,
            external=external,
        )
        self._next_order[ticket.index] += 1
        self._books.orders.append(order)
        self._by_id[order.index, order.order_id] = order
        self._by_client[order.index, order.client_id] = order
        self._books.lock(order, asset, amount, now)
        self._report("NEW", order)
        for match in matches:
            lots = int(match.qty / spec.lot)
            self._ladder.take(order.index, asks=buy, price=int(match.price / spec.tick), qty=lots)
            self._fill(order, match, maker=False)
        if order.is_open:
            if ticket.type in {"LIMIT", "LIMIT_MAKER"} and ticket.tif == "GTC":
                self._resting[order.index].append(order)
            else:
                self._end(order, "EXPIRED", order.client_id)
        self._changed(spec)
        return order

    def _match(self, ticket: Ticket, spec: SymbolSpec) -> tuple[Decimal, list[Match]]:
        """Return the order's quantity in base and what it takes from the book at once."""
        buy = ticket.side == "BUY"
        levels = self._ladder.levels(ticket.index, asks=buy, depth=self._ladder.depth_max)
        limit = None if ticket.type == "MARKET" else ticket.price
        qty = ticket.qty
        if ticket.quote_qty > 0:
            qty, spent = ZERO, ticket.quote_qty
            for price, shown in levels:
                take = min(shown, round_down(spent / price, spec.lot))
                qty, spent = qty + take, spent - take * price
                if take < shown:
                    break
        matches = sweep("buy" if buy else "sell", qty, limit, levels)
        if ticket.type == "LIMIT_MAKER" and matches:
            raise errors.rejected(errors.WOULD_MATCH)
        if ticket.tif == "FOK" and sum((match.qty for match in matches), ZERO) < qty:
            matches = []
        return qty, matches

    @staticmethod
    def _needed(ticket: Ticket, spec: SymbolSpec, qty: Decimal, matches: list[Match]) -> tuple[str, Decimal]:
        """Return asset and amount that the order reserves."""
        if ticket.side == "SELL":
            return spec.base, qty
        if ticket.type == "MARKET":
            return spec.quote, sum((match.price * match.qty for match in matches), ZERO)
        return spec.quote, ticket.price * qty

    def _fill(self, order: Order, match: Match, *, maker: bool) -> None:
        spec, now = self.specs[order.index], self._market.now_ms
        amount, asset = self._commission(order, spec, match)
        self._executions += 1
        fill = Fill(
            symbol=order.symbol,
            trade_id=self._next_trade[order.index],
            order_id=order.order_id,
            client_id=order.client_id,
            side=order.side,
            price=match.price,
            qty=match.qty,
            commission=amount,
            commission_asset=asset,
            base=spec.base,
            quote=spec.quote,
            time_ms=now,
            maker=maker,
            execution_id=self._executions,
        )
        self._next_trade[order.index] += 1
        self._books.execute(order, fill)
        if order.side == "BUY" and order.type != "MARKET":
            self._books.release(order, (order.price - match.price) * match.qty, now)
        order.update_ms = now
        order.status = "FILLED" if order.left == 0 else "PARTIALLY_FILLED"
        if order.left == 0:
            order.working = False
            self._books.release(order, order.locked, now)
        self._report("TRADE", order, fill)

    def _commission(self, order: Order, spec: SymbolSpec, match: Match) -> tuple[Decimal, str]:
        amount, kind = fee(order.side.lower(), match.price, match.qty, self.fee_rate)
        if self.fee_asset is not None:
            asset, price = self.fee_asset
            third = fee("buy", price, match.price * match.qty / price, self.fee_rate)[0]
            if self._books.balance(asset).free >= third:
                return third, asset
        return amount, spec.base if kind == "base" else spec.quote

    def _end(self, order: Order, status: str, client_id: str) -> None:
        now = self._market.now_ms
        order.status, order.update_ms, order.working = status, now, False
        self._books.release(order, order.locked, now)
        self._report(status, order, None, client_id)

    def _report(self, kind: str, order: Order, fill: Fill | None = None, client_id: str = "") -> None:
        report = Report(kind, msgspec.structs.replace(order), fill, client_id or order.client_id)
        for listener in self.reports:
            listener(report)

    def _changed(self, spec: SymbolSpec) -> None:
        for listener in self.balance_changes:
            listener({spec.base, spec.quote})

    # ------------------------------------------------------------------ resting

    def _on_trade(self, trade: Trade) -> None:
        resting = self._resting[trade.symbol]
        if not resting:
            return
        spec = self.specs[trade.symbol]
        price, left = trade.price * spec.tick, trade.qty * spec.lot
        done = False
        # Best price first, then time: buys from above, sells from below.
        for order in sorted(resting, key=lambda o: (o.side, -o.price if o.side == "BUY" else o.price)):
            if left <= 0:
                break
            if traded_through(order.side.lower(), order.price, price, spec.tick):
                qty = min(left, order.left)
                left -= qty
                self._fill(order, Match(order.price, qty), maker=True)
                done = True
        if done:
            self._resting[trade.symbol] = [order for order in resting if order.is_open]
            self._changed(spec)

    # ------------------------------------------------------------------ asking and cancelling

    def find(self, index: int, order_id: int | None, client_id: str | None) -> Order | None:
        """Find an order by its id, or by the newest use of a client id."""
        if order_id is not None:
            return self._by_id.get((index, order_id))
        return self._by_client.get((index, client_id or ""))

    def open_orders(self, index: int | None) -> list[Order]:
        """List resting orders of one symbol or of all."""
        books = self._resting if index is None else [self._resting[index]]
        return [order for resting in books for order in resting]

    def cancel(self, index: int, order_id: int | None, client_id: str | None, *, cancel_id: str) -> Order:
        """Cancel a resting order.

        Raises
        ------
        ApiError
            -2011 when there is no such open order.
        """
        order = self.find(index, order_id, client_id)
        if order is None or not order.is_open:
            raise ApiError(*errors.CANCEL_REJECTED)
        self._resting[index].remove(order)
        self._end(order, "CANCELED", cancel_id)
        self._changed(self.specs[index])
        return order

    def expire(self, order: Order) -> None:
        """End a resting order from the venue's side, as an exchange-initiated expiry does."""
        self._resting[order.index].remove(order)
        self._end(order, "EXPIRED", order.client_id)
        self._changed(self.specs[order.index])
