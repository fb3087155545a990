"""The last word: ledger and exchange compared to the last unit, order by order and fill by fill. Reads only."""

import asyncio
import contextlib
from decimal import Decimal
from typing import Any

import msgspec

from daemon.core.breaks import UNEXPLAINED, told
from daemon.core.planner import client_prefix
from daemon.domain.errors import Transient, Unreachable
from daemon.domain.events import Flow
from daemon.domain.orders import OrderRecord
from daemon.edge.binance_account import VenueOrder, VenueTrade, totals
from daemon.edge.clock import Clock
from daemon.edge.lane import Lane
from daemon.edge.ledger_read import LedgerReader
from daemon.edge.market import MarketData
from daemon.edge.rest import Rest
from daemon.edge.venue_calls import PAGE, PAGES_MAX, VenueCalls
from daemon.service.place import ledger_place
from daemon.service.venues import check_key, exchange_of, hasty
from daemon.settings import Settings, read_keys

ZERO = Decimal(0)
ALL = 1_000_000
KEPT_NS = 89 * 86_400 * 1_000_000_000
"""The venue forgets orders without an execution after 90 days."""
AT_ONCE = 4
"""Symbols asked for at the same time."""
BURST = 120.0
"""What may be asked without a pause, in units of ccxt's limiter (5 of the venue's weight each)."""
FLOWS_MAX = 100
"""Newest changes by others that a comparison tells."""


class Row(msgspec.Struct, frozen=True):
    """One asset: what the ledger has and what the exchange has."""

    asset: str
    ledger: Decimal
    exchange: Decimal


class Comparison(msgspec.Struct, frozen=True):
    """Everything compared. ``strangers`` are client ids that one side has and the other has not.

    ``external`` are the open orders of others on the account, ``flows`` what others did, as the ledger has it.
    """

    rows: tuple[Row, ...]
    orders: int
    exchange_orders: int
    fills: int
    exchange_fills: int
    unresolved: int
    strangers: tuple[str, ...]
    external: tuple[VenueOrder, ...] = ()
    flows: tuple[Flow, ...] = ()

    @property
    def breaks(self) -> tuple[Row, ...]:
        """Return the assets that differ."""
        return tuple(row for row in self.rows if row.ledger != row.exchange)

    @property
    def ok(self) -> bool:
        """Return whether nothing differs and no order's fate is open."""
        return not (self.breaks or self.strangers or self.unresolved) and self.fills == self.exchange_fills


async def compare_ledger(reader: LedgerReader, calls: VenueCalls, symbols: tuple[str, ...], prefix: str) -> Comparison:
    """Compare a ledger with the account it stands for. Raises Transient when the venue does not answer."""
    held = totals(await calls.balances())
    booked = reader.balances()
    records = reader.orders(ALL)
    fills = {(fill.symbol, fill.trade_id) for fill in reader.fills(-1)}
    known = {record.intent.client_id for record in records}
    kept_ns = Clock().now_ns() - KEPT_NS
    placed = {one.intent.client_id for one in records if one.venue_id and (one.filled or one.intent.ts_ns > kept_ns)}
    gate = asyncio.Semaphore(AT_ONCE)
    watched = sorted({*symbols, *(record.intent.symbol for record in records)})

    async def shown(symbol: str) -> tuple[set[str], set[tuple[str, str]]]:
        async with gate:
            ours = {one.order_id: one.client_id for one in await _orders(calls, symbol, records, prefix)}
            trades = await _trades(calls, symbol, [int(number) for name, number in fills if name == symbol])
        return set(ours.values()), {(symbol, str(trade.id)) for trade in trades if trade.order_id in ours}

    found = await asyncio.gather(*map(shown, watched))
    theirs = set[str]().union(*(orders for orders, _ in found))
    traded = set[tuple[str, str]]().union(*(trades for _, trades in found))
    return Comparison(
        rows=tuple(Row(asset, booked.get(asset, ZERO), held.get(asset, ZERO)) for asset in sorted({*booked, *held})),
        orders=len(placed),
        exchange_orders=len(theirs),
        fills=len(fills),
        exchange_fills=len(traded),
        unresolved=len(reader.open_orders()),
        strangers=tuple(sorted((theirs - known) | (placed - theirs))),
        external=tuple(one for one in await calls.open_orders() if not one.client_id.startswith(prefix)),
        flows=tuple(flow for flow in reader.flows() if told(flow) is not None)[-FLOWS_MAX:],
    )


async def _orders(calls: VenueCalls, symbol: str, records: list[OrderRecord], prefix: str) -> list[VenueOrder]:
    """Return our orders in a symbol as the venue shows them, from the first one that the ledger knows on."""
    numbers = [int(one.venue_id) for one in records if one.intent.symbol == symbol and one.venue_id]
    since_ns = min((record.intent.ts_ns for record in records), default=0)
    shown = await (calls.orders_from(symbol, min(numbers)) if numbers else calls.orders_since(symbol, since_ns))
    return [one for one in shown if one.client_id.startswith(prefix)]


async def _trades(calls: VenueCalls, symbol: str, booked: list[int]) -> list[VenueTrade]:
    """Return the executions in a symbol from a page before the first booked one on, every page."""
    number = max(min(booked, default=0) - PAGE, 0)
    found: list[VenueTrade] = []
    while True:
        page = await calls.trades_from(symbol, number)
        found.extend(page)
        if len(page) < PAGE * PAGES_MAX:
            return found
        number = page[-1].id + 1


async def compare(settings: Settings) -> dict[str, Any]:
    """Compare once for ``ballast reconcile``; in paper the ledger is the account.

    Raises
    ------
    ConfigError
        There is no ledger yet.
    Unreachable
        The exchange did not answer.
    """
    with LedgerReader(ledger_place(settings)) as reader:
        if settings.mode == "paper":
            rows = tuple(Row(asset, amount, amount) for asset, amount in reader.balances().items())
            fills, unresolved = len(reader.fills(-1)), len(reader.open_orders())
            orders = len(reader.orders(ALL))
            return document(Comparison(rows, orders, orders, fills, fills, unresolved, ()))
        try:
            return document(await _compare_live(settings, reader))
        except Transient as error:
            raise Unreachable(f"the exchange did not answer: {error}") from None


async def _compare_live(settings: Settings, reader: LedgerReader) -> Comparison:
    keys = read_keys(settings)
    clock = Clock()
    quota = hasty(settings, clock)
    await check_key(settings, keys, clock, quota=quota)
    secrets = (keys.key.get_secret_value(), keys.secret.get_secret_value())
    async with contextlib.AsyncExitStack() as stack:
        exchange = exchange_of(settings)
        stack.push_async_callback(exchange.close)
        listed = await MarketData(Rest(exchange, clock, quota=quota), clock, bar_ns=settings.bar_ns).instruments(
            settings.universe
        )
        lane = Lane(exchange_of(settings, keys), quota=quota, secrets=secrets)
        # A tenth of a minute's weight at once, then as fast as the venue allows: a daemon may be asking beside us.
        lane.exchange.throttler.config.update(capacity=BURST, tokens=BURST)
        lane.open()
        lane.exchange.set_markets_from_exchange(exchange)
        calls = VenueCalls(
            send=lane, cancel=lane, read=lane, instruments={one.symbol: one for one in listed.instruments}
        )
        stack.push_async_callback(lane.close)
        await calls.sync_clock()
        return await compare_ledger(reader, calls, settings.universe, client_prefix(settings.instance))


def document(found: Comparison) -> dict[str, Any]:
    """Return the comparison as ``reconcile --json`` prints it."""
    return {
        "ok": found.ok,
        "orders": found.orders,
        "fills": found.fills,
        "unresolved": found.unresolved,
        "breaks": [msgspec.to_builtins(row) for row in found.breaks],
        "strangers": list(found.strangers),
        "external_orders": [
            {
                "symbol": one.symbol,
                "side": one.side.lower(),
                "qty": f"{one.orig_qty:f}",
                "filled": f"{one.executed_qty:f}",
                "client_id": one.client_id,
                "venue_id": str(one.order_id),
                "external": True,
            }
            for one in found.external
        ],
        "external_changes": [msgspec.to_builtins(flow) for flow in found.flows if flow.detail != UNEXPLAINED],
        "unexplained_changes": [msgspec.to_builtins(flow) for flow in found.flows if flow.detail == UNEXPLAINED],
    }
