"""The signed REST endpoints: account, orders, fills and permissions."""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import msgspec

from daemon.exchange import errors
from daemon.exchange.books import Entry, Fill, Order
from daemon.exchange.config import ApiKey
from daemon.exchange.errors import ApiError
from daemon.exchange.filters import Ticket
from daemon.exchange.rest_market import Params, integer, limit_of
from daemon.exchange.text import amount
from daemon.exchange.venue import Venue

__all__ = ["ACCOUNT_ROUTES", "Caller", "ticket_of"]

_CLIENT_ID: Final = re.compile(r"^[\.A-Z\:/a-z0-9_-]{1,36}$")
_NUMBER: Final = re.compile(r"^([0-9]{1,20})(\.[0-9]{1,20})?$")
_DAY_MS: Final = 86_400_000


class Caller(msgspec.Struct, frozen=True):
    """Who asks: the key pair of a signed request."""

    key: ApiKey


def _decimal(params: Params, name: str, *, required: bool) -> Decimal:
    text = params.get(name, "")
    if not text:
        if required:
            raise errors.missing(name)
        return Decimal(0)
    if not _NUMBER.match(text):
        raise errors.illegal(name)
    value = Decimal(text)
    if value <= 0:
        raise ApiError(-1013, f"Invalid {name}.")
    return value


def _client_id(venue: Venue, params: Params, name: str) -> str:
    text = params.get(name, "")
    if not text:
        return venue.client_id()
    if not _CLIENT_ID.match(text):
        raise errors.illegal(name, r"^[\.A-Z\:/a-z0-9_-]{1,36}$")
    return text


def ticket_of(venue: Venue, params: Params) -> Ticket:
    """Read a new order.

    Raises
    ------
    ApiError
        With Binance's code for what is missing, malformed or not allowed together.
    """
    index = venue.symbol(params)
    for name in ("side", "type"):
        if not params.get(name):
            raise errors.missing(name)
    side, kind = params["side"].upper(), params["type"].upper()
    if side not in {"BUY", "SELL"}:
        raise ApiError(-1117, "Invalid side.")
    if kind not in {"LIMIT", "LIMIT_MAKER", "MARKET"}:
        raise ApiError(-1116, "Invalid orderType.")
    tif = params.get("timeInForce", "").upper()
    if kind == "LIMIT":
        if not tif:
            raise errors.missing("timeInForce")
        if tif not in {"GTC", "IOC", "FOK"}:
            raise ApiError(-1115, "Invalid timeInForce.")
    elif tif:
        raise ApiError(-1106, "Parameter 'timeInForce' sent when not required.")
    if kind == "MARKET" and "price" in params:
        raise ApiError(-1106, "Parameter 'price' sent when not required.")
    by_quote = kind == "MARKET" and "quoteOrderQty" in params
    if by_quote and "quantity" in params:
        raise ApiError(-1106, "Parameter 'quantity' sent when not required.")
    return Ticket(
        index=index,
        side=side,
        type=kind,
        client_id=_client_id(venue, params, "newClientOrderId"),
        tif=tif or "GTC",
        price=_decimal(params, "price", required=kind != "MARKET"),
        qty=_decimal(params, "quantity", required=not by_quote),
        quote_qty=_decimal(params, "quoteOrderQty", required=by_quote) if by_quote else Decimal(0),
    )


def _order(order: Order) -> dict[str, Any]:
    return {
        "symbol": order.symbol,
        "orderId": order.order_id,
        "orderListId": -1,
        "clientOrderId": order.client_id,
        "price": amount(order.price),
        "origQty": amount(order.qty),
        "executedQty": amount(order.filled),
        "cummulativeQuoteQty": amount(order.quote_filled),
        "status": order.status,
        "timeInForce": order.tif,
        "type": order.type,
        "side": order.side,
        "stopPrice": "0.00000000",
        "icebergQty": "0.00000000",
        "time": order.time_ms,
        "updateTime": order.update_ms,
        "isWorking": order.working,
        "workingTime": order.time_ms,
        "origQuoteOrderQty": amount(order.quote_qty),
        "selfTradePreventionMode": "EXPIRE_MAKER",
    }


def _fill(fill: Fill) -> dict[str, Any]:
    return {
        "symbol": fill.symbol,
        "id": fill.trade_id,
        "orderId": fill.order_id,
        "orderListId": -1,
        "price": amount(fill.price),
        "qty": amount(fill.qty),
        "quoteQty": amount(fill.price * fill.qty),
        "commission": amount(fill.commission),
        "commissionAsset": fill.commission_asset,
        "time": fill.time_ms,
        "isBuyer": fill.side == "BUY",
        "isMaker": fill.maker,
        "isBestMatch": True,
    }


def _placed(order: Order, kind: str) -> dict[str, Any]:
    ack: dict[str, Any] = {
        "symbol": order.symbol,
        "orderId": order.order_id,
        "orderListId": -1,
        "clientOrderId": order.client_id,
        "transactTime": order.time_ms,
    }
    if kind == "ACK":
        return ack
    kept = ("price", "origQty", "executedQty", "origQuoteOrderQty", "cummulativeQuoteQty", "status", "timeInForce")
    full = _order(order)
    ack |= {name: full[name] for name in (*kept, "type", "side", "workingTime", "selfTradePreventionMode")}
    if kind == "FULL":
        ack["fills"] = [
            {
                "price": amount(fill.price),
                "qty": amount(fill.qty),
                "commission": amount(fill.commission),
                "commissionAsset": fill.commission_asset,
                "tradeId": fill.trade_id,
            }
            for fill in order.fills
        ]
    return ack


def place(venue: Venue, params: Params, caller: Caller) -> Any:
    """Place an order and answer as ``newOrderRespType`` asks."""
    if not caller.key.trade:
        raise ApiError(*errors.REJECTED_KEY, status=401)
    ticket = ticket_of(venue, params)
    order = venue.desk.place(ticket)
    default = "ACK" if ticket.type == "LIMIT_MAKER" else "FULL"
    return _placed(order, params.get("newOrderRespType", default).upper())


def check_only(venue: Venue, params: Params, _caller: Caller) -> Any:
    """Check an order without placing it."""
    venue.desk.check(ticket_of(venue, params))
    return {}


def _ids(params: Params) -> tuple[int | None, str | None]:
    order_id, client_id = integer(params, "orderId"), params.get("origClientOrderId")
    if order_id is None and not client_id:
        raise ApiError(-1102, "Param 'origClientOrderId' or 'orderId' must be sent, but both were empty/null!")
    return order_id, client_id


def query(venue: Venue, params: Params, _caller: Caller) -> Any:
    """Answer one order."""
    index = venue.symbol(params)
    order = venue.desk.find(index, *_ids(params))
    if order is None:
        raise ApiError(*errors.NO_SUCH_ORDER)
    return _order(order)


def _cancelled(order: Order, cancel_id: str) -> dict[str, Any]:
    full = _order(order)
    kept = ("price", "origQty", "executedQty", "origQuoteOrderQty", "cummulativeQuoteQty", "status", "timeInForce")
    return {
        "symbol": order.symbol,
        "origClientOrderId": order.client_id,
        "orderId": order.order_id,
        "orderListId": -1,
        "clientOrderId": cancel_id,
        "transactTime": order.update_ms,
        **{name: full[name] for name in (*kept, "type", "side", "selfTradePreventionMode")},
    }


def cancel(venue: Venue, params: Params, caller: Caller) -> Any:
    """Cancel one order."""
    if not caller.key.trade:
        raise ApiError(*errors.REJECTED_KEY, status=401)
    index = venue.symbol(params)
    cancel_id = _client_id(venue, params, "newClientOrderId")
    order_id, client_id = _ids(params)
    return _cancelled(venue.desk.cancel(index, order_id, client_id, cancel_id=cancel_id), cancel_id)


def cancel_all(venue: Venue, params: Params, caller: Caller) -> Any:
    """Cancel every open order of a symbol."""
    if not caller.key.trade:
        raise ApiError(*errors.REJECTED_KEY, status=401)
    index = venue.symbol(params)
    found = venue.desk.open_orders(index)
    if not found:
        raise ApiError(*errors.CANCEL_REJECTED)
    out: list[dict[str, Any]] = []
    for order in found:
        cancel_id = venue.client_id()
        out.append(_cancelled(venue.desk.cancel(index, order.order_id, None, cancel_id=cancel_id), cancel_id))
    return out


def open_orders(venue: Venue, params: Params, _caller: Caller) -> Any:
    """Answer the open orders of one symbol or of all."""
    index = venue.symbol(params) if "symbol" in params else None
    return [_order(order) for order in venue.desk.open_orders(index)]


def all_orders(venue: Venue, params: Params, _caller: Caller) -> Any:
    """Answer a symbol's orders from an id or time on, or the newest."""
    index = venue.symbol(params)
    low, high = integer(params, "startTime", 0) or 0, integer(params, "endTime", 2**62) or 2**62
    first = integer(params, "orderId")
    found = [order for order in venue.books.orders if order.index == index and low <= order.time_ms <= high]
    limit = limit_of(params, 500, 1000)
    if first is not None:
        return [_order(order) for order in found if order.order_id >= first][:limit]
    return [_order(order) for order in (found[:limit] if low else found[-limit:])]


def my_trades(venue: Venue, params: Params, _caller: Caller) -> Any:
    """Answer a symbol's fills by order, from an id or time on, or the newest."""
    symbol = venue.desk.specs[venue.symbol(params)].name
    low, high = integer(params, "startTime", 0) or 0, integer(params, "endTime", 2**62) or 2**62
    if "startTime" in params and "endTime" in params and high - low > _DAY_MS:
        raise ApiError(-1127, "More than 24 hours between startTime and endTime.")
    order_id, first = integer(params, "orderId"), integer(params, "fromId")
    found = [
        fill
        for fill in venue.books.fills
        if fill.symbol == symbol
        and low <= fill.time_ms <= high
        and (order_id is None or fill.order_id == order_id)
        and (first is None or fill.trade_id >= first)
    ]
    limit = limit_of(params, 500, 1000)
    return [_fill(fill) for fill in (found[:limit] if low or first is not None else found[-limit:])]


def account(venue: Venue, params: Params, caller: Caller) -> Any:
    """Answer balances and commission rates."""
    omit = params.get("omitZeroBalances", "false") == "true"
    rate = f"{venue.desk.fee_rate:.8f}"
    named = {spec.base for spec in venue.desk.specs} | {spec.quote for spec in venue.desk.specs}
    assets = sorted(named | set(venue.books.balances))
    balances = [(asset, venue.books.balance(asset)) for asset in assets]
    return {
        "makerCommission": int(venue.desk.fee_rate * 10_000),
        "takerCommission": int(venue.desk.fee_rate * 10_000),
        "buyerCommission": 0,
        "sellerCommission": 0,
        "commissionRates": {"maker": rate, "taker": rate, "buyer": "0.00000000", "seller": "0.00000000"},
        "canTrade": caller.key.trade,
        "canWithdraw": True,
        "canDeposit": True,
        "brokered": False,
        "requireSelfTradePrevention": False,
        "preventSor": False,
        "updateTime": venue.books.update_ms,
        "accountType": "SPOT",
        "balances": [
            {"asset": asset, "free": amount(held.free), "locked": amount(held.locked)}
            for asset, held in balances
            if not omit or held.free or held.locked
        ],
        "permissions": ["SPOT"],
        "uid": 354937868,
    }


def api_restrictions(venue: Venue, _params: Params, caller: Caller) -> Any:
    """Answer what the key may do."""
    return {
        "ipRestrict": caller.key.ip_restrict,
        "createTime": venue.market.live_ms - _DAY_MS,
        "enableReading": True,
        "enableSpotAndMarginTrading": caller.key.trade,
        "enableWithdrawals": caller.key.withdraw,
        "enableInternalTransfer": False,
        "permitsUniversalTransfer": False,
        "enableVanillaOptions": False,
        "enableFutures": False,
        "enableMargin": False,
        "enableFixApiTrade": False,
        "enableFixReadOnly": True,
        "enablePortfolioMarginTrading": False,
    }


def all_coins(venue: Venue, _params: Params, _caller: Caller) -> Any:
    """Answer the assets that exist, without networks to move them over."""
    named = sorted({spec.base for spec in venue.desk.specs} | {spec.quote for spec in venue.desk.specs})
    return [
        {
            "coin": asset,
            "name": asset,
            "free": amount(venue.books.balance(asset).free),
            "locked": amount(venue.books.balance(asset).locked),
            "freeze": "0",
            "withdrawing": "0",
            "ipoing": "0",
            "ipoable": "0",
            "storage": "0",
            "depositAllEnable": False,
            "withdrawAllEnable": False,
            "trading": True,
            "isLegalMoney": False,
            "networkList": [],
        }
        for asset in named
    ]


def trade_fee(venue: Venue, params: Params, _caller: Caller) -> Any:
    """Answer the commission rates of one symbol or of all."""
    rate = f"{venue.desk.fee_rate:f}"
    chosen = [venue.desk.specs[venue.symbol(params)]] if "symbol" in params else venue.desk.specs
    return [{"symbol": spec.name, "makerCommission": rate, "takerCommission": rate} for spec in chosen]


def _flows(venue: Venue, params: Params, sign: int) -> list[tuple[str, Entry]]:
    since = integer(params, "startTime") or 0
    found = [
        (str(number), entry)
        for number, entry in enumerate(venue.books.journal)
        if entry.kind == "flow" and entry.account == "free" and entry.amount * sign > 0 and entry.time_ms >= since
    ]
    return found[::-1]


def deposits(venue: Venue, params: Params, _caller: Caller) -> Any:
    """Answer what came from outside, newest first."""
    return [
        {"id": name, "amount": amount(one.amount), "coin": one.asset, "status": 1, "insertTime": one.time_ms}
        for name, one in _flows(venue, params, 1)
    ]


def withdrawals(venue: Venue, params: Params, _caller: Caller) -> Any:
    """Answer what left, newest first."""
    return [
        {"id": name, "amount": amount(-one.amount), "transactionFee": "0", "coin": one.asset, "status": 6}
        for name, one in _flows(venue, params, -1)
    ]


ACCOUNT_ROUTES: Final[dict[tuple[str, str], Callable[[Venue, Params, Caller], Any]]] = {
    ("GET", "/api/v3/account"): account,
    ("POST", "/api/v3/order"): place,
    ("GET", "/api/v3/order"): query,
    ("DELETE", "/api/v3/order"): cancel,
    ("POST", "/api/v3/order/test"): check_only,
    ("GET", "/api/v3/openOrders"): open_orders,
    ("DELETE", "/api/v3/openOrders"): cancel_all,
    ("GET", "/api/v3/allOrders"): all_orders,
    ("GET", "/api/v3/myTrades"): my_trades,
    ("GET", "/sapi/v1/account/apiRestrictions"): api_restrictions,
    ("GET", "/sapi/v1/capital/config/getall"): all_coins,
    ("GET", "/sapi/v1/capital/deposit/hisrec"): deposits,
    ("GET", "/sapi/v1/capital/withdraw/history"): withdrawals,
    ("GET", "/sapi/v1/asset/tradeFee"): trade_fee,
}
