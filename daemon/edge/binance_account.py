"""Binance's answers about our own account, typed and checked: orders, executions, balances, permissions."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, TypeVar

import msgspec

from daemon.domain.errors import Transient
from daemon.domain.orders import Balance, Fill, OrderState, OrderUpdate, Side
from daemon.edge.outcomes import BROKEN, STATES, Reply, error_code, is_sound, redact

NS_PER_MS = 1_000_000
NOT_FOUND = -2013
CANCEL_REJECTED = -2011

T = TypeVar("T")


Number = Annotated[int, msgspec.Meta(ge=-1, lt=1 << 62)]
"""An id of the venue's; -1 stands for none."""
Millis = Annotated[int, msgspec.Meta(ge=-1, lt=10**13)]
"""A time of the venue's, ms; -1 stands for none. Later ones no calendar and no database would take."""


class VenueOrder(msgspec.Struct, frozen=True, rename="camel"):
    """An order as the venue shows it."""

    symbol: str
    order_id: Number
    status: str
    side: str
    orig_qty: Decimal
    executed_qty: Decimal
    client_order_id: str = ""
    orig_client_order_id: str = ""
    time: Millis = 0
    update_time: Millis = 0
    transact_time: Millis = 0

    @property
    def client_id(self) -> str:
        """Return the order's own id; in the answer to a cancel ``clientOrderId`` is the cancel's."""
        return self.orig_client_order_id or self.client_order_id

    @property
    def state(self) -> OrderState:
        """Return our word for its status; what is not known stays unresolved."""
        return STATES.get(self.status, OrderState.UNKNOWN)


class VenueTrade(msgspec.Struct, frozen=True, rename="camel"):
    """An execution on the account as the venue shows it, ours or not."""

    symbol: str
    id: Number
    order_id: Number
    price: Decimal
    qty: Decimal
    commission: Decimal
    commission_asset: str
    time: Millis
    is_buyer: bool
    is_maker: bool

    def fill(self, symbol: str, client_id: str) -> Fill:
        """Return it as an execution of one of our orders."""
        return Fill(
            symbol=symbol,
            trade_id=str(self.id),
            client_id=client_id,
            venue_id=str(self.order_id),
            side=Side.BUY if self.is_buyer else Side.SELL,
            qty=self.qty,
            price=self.price,
            fee=self.commission,
            fee_asset=self.commission_asset,
            maker=self.is_maker,
            ts_event_ns=self.time * NS_PER_MS,
            source="query",
        )


class _Placed(msgspec.Struct, rename="camel"):
    order_id: Number
    transact_time: Millis
    fills: list["_Piece"] = []


class _Piece(msgspec.Struct, rename="camel"):
    price: Decimal
    qty: Decimal
    commission: Decimal
    commission_asset: str
    trade_id: Number


class _Asset(msgspec.Struct):
    asset: str
    free: Decimal
    locked: Decimal


class _Account(msgspec.Struct):
    balances: list[_Asset]


class Permissions(msgspec.Struct, frozen=True, rename="camel"):
    """What the key may do."""

    enable_withdrawals: bool
    enable_spot_and_margin_trading: bool
    ip_restrict: bool = False


_ORDER = msgspec.json.Decoder(VenueOrder)
_ORDERS = msgspec.json.Decoder(list[VenueOrder])
_TRADES = msgspec.json.Decoder(list[VenueTrade])
_PLACED = msgspec.json.Decoder(_Placed)
_ACCOUNT = msgspec.json.Decoder(_Account)
_PERMISSIONS = msgspec.json.Decoder(Permissions)


def read_order(reply: Reply) -> VenueOrder | None:
    """Return the order asked for, None when the venue says that it has none. Raises Transient for anything else."""
    if error_code(reply) == NOT_FOUND:
        return None
    order = _read(reply, _ORDER, "order")
    _finite(order.orig_qty, order.executed_qty)
    return order


def read_orders(reply: Reply) -> list[VenueOrder]:
    """Return a list of orders. Raises Transient."""
    orders = _read(reply, _ORDERS, "orders")
    for order in orders:
        _finite(order.orig_qty, order.executed_qty)
    return orders


def read_trades(reply: Reply) -> list[VenueTrade]:
    """Return executions in id order. Raises Transient."""
    trades = _read(reply, _TRADES, "trades")
    for trade in trades:
        _finite(trade.price, trade.qty, trade.commission)
    return sorted(trades, key=lambda trade: trade.id)


def read_balances(reply: Reply) -> tuple[Balance, ...]:
    """Return every asset held, in the order of names. Raises Transient: an account without assets is no answer."""
    account = _read(reply, _ACCOUNT, "account")
    if not account.balances:
        raise Transient("account: an answer without balances")
    for held in account.balances:
        _finite(held.free, held.locked)
    balances = (Balance(asset=one.asset, free=one.free, locked=one.locked) for one in account.balances)
    return tuple(sorted((one for one in balances if one.free or one.locked), key=lambda one: one.asset))


def read_permissions(reply: Reply) -> Permissions:
    """Return what the key may do. Raises Transient."""
    return _read(reply, _PERMISSIONS, "apiRestrictions")


def read_pieces(reply: Reply, *, symbol: str, client_id: str, side: Side) -> list[Fill]:
    """Return the executions inside the answer to an order, [] where it has none that can be read.

    Whatever is missing here is found by order id later, so this never fails.
    """
    try:
        placed = _PLACED.decode(reply.body)
        for piece in placed.fills:
            _finite(piece.price, piece.qty, piece.commission)
    except (*BROKEN, Transient):
        return []
    return [
        Fill(
            symbol=symbol,
            trade_id=str(piece.trade_id),
            client_id=client_id,
            venue_id=str(placed.order_id),
            side=side,
            qty=piece.qty,
            price=piece.price,
            fee=piece.commission,
            fee_asset=piece.commission_asset,
            maker=False,
            ts_event_ns=placed.transact_time * NS_PER_MS,
            source="send",
        )
        for piece in placed.fills
        if piece.trade_id >= 0
    ]


def update_of(order: VenueOrder, *, symbol: str, client_id: str, ts_ns: int) -> OrderUpdate:
    """Return what the venue shows as news about our order."""
    return OrderUpdate(
        client_id=client_id,
        symbol=symbol,
        state=order.state,
        venue_id=str(order.order_id),
        filled=order.executed_qty,
        code="" if order.state is not OrderState.REJECTED else order.status,
        source="query",
        ts_ns=ts_ns,
    )


def totals(balances: tuple[Balance, ...]) -> Mapping[str, Decimal]:
    """Return free + locked of each asset."""
    return {one.asset: one.free + one.locked for one in balances}


def _read(reply: Reply, decoder: msgspec.json.Decoder[T], what: str) -> T:
    if reply.status != 200:
        body = redact(reply.body.strip()[:160])
        raise Transient(f"{what}: {f'status {reply.status}: {body}' if reply.status else 'no answer'}")
    try:
        return decoder.decode(reply.body)
    except BROKEN as error:
        raise Transient(f"{what}: broken answer: {str(error)[:120]}") from error


def _finite(*amounts: Decimal) -> None:
    if not all(map(is_sound, amounts)):
        raise Transient("an amount in the venue's answer is no amount")
