"""A symbol's trading rules, as exchangeInfo publishes them and as orders are held to them."""

from decimal import Decimal
from typing import Any

import msgspec

from daemon.exchange.books import ZERO
from daemon.exchange.errors import ApiError, filter_failure
from daemon.exchange.universe import SymbolSpec
from daemon.matching.model import is_multiple

__all__ = ["Ticket", "check_filters", "filters_of"]

_PLACES = 8


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """An order as a client asks for it; quantities in base unless said."""

    index: int
    side: str  # BUY SELL
    type: str  # LIMIT LIMIT_MAKER MARKET
    client_id: str
    tif: str = "GTC"
    price: Decimal = ZERO
    qty: Decimal = ZERO
    quote_qty: Decimal = ZERO


def _text(value: Decimal) -> str:
    return f"{value:.8f}"


def filters_of(spec: SymbolSpec) -> list[dict[str, Any]]:
    """Return the symbol's filters as exchangeInfo shows them."""
    tick, lot = _text(spec.tick), _text(spec.lot)
    max_qty = _text(spec.max_qty)
    return [
        {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": _text(spec.max_price), "tickSize": tick},
        {"filterType": "LOT_SIZE", "minQty": lot, "maxQty": max_qty, "stepSize": lot},
        {"filterType": "MARKET_LOT_SIZE", "minQty": _text(ZERO), "maxQty": max_qty, "stepSize": _text(ZERO)},
        {
            "filterType": "PERCENT_PRICE_BY_SIDE",
            "bidMultiplierUp": str(spec.price_up),
            "bidMultiplierDown": str(spec.price_down),
            "askMultiplierUp": str(spec.price_up),
            "askMultiplierDown": str(spec.price_down),
            "avgPriceMins": 5,
        },
        {
            "filterType": "NOTIONAL",
            "minNotional": _text(spec.min_notional),
            "applyMinToMarket": True,
            "maxNotional": _text(spec.max_notional),
            "applyMaxToMarket": False,
            "avgPriceMins": 5,
        },
        {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": spec.max_open_orders},
    ]


def _check_precision(name: str, value: Decimal) -> None:
    exponent = value.normalize().as_tuple().exponent
    if isinstance(exponent, int) and -exponent > _PLACES:
        raise ApiError(-1111, f"Parameter '{name}' has too much precision.")


def check_filters(spec: SymbolSpec, ticket: Ticket, reference: Decimal, open_orders: int) -> None:
    """Hold an order to the filters of its symbol.

    Parameters
    ----------
    spec, ticket
        The symbol and the order.
    reference
        Price against which PERCENT_PRICE_BY_SIDE and the notional of market orders are judged.
    open_orders
        Orders of the symbol that rest already.

    Raises
    ------
    ApiError
        -1111 for more than 8 decimals, -1013 with the name of the filter otherwise.
    """
    for name, value in (("price", ticket.price), ("quantity", ticket.qty), ("quoteOrderQty", ticket.quote_qty)):
        _check_precision(name, value)
    price = reference
    if ticket.type != "MARKET":
        price = ticket.price
        if not spec.tick <= price <= spec.max_price or not is_multiple(price, spec.tick):
            raise filter_failure("PRICE_FILTER")
        if not reference * spec.price_down <= price <= reference * spec.price_up:
            raise filter_failure("PERCENT_PRICE_BY_SIDE")
    if ticket.quote_qty > 0:
        notional = ticket.quote_qty
    else:
        if not spec.lot <= ticket.qty <= spec.max_qty or not is_multiple(ticket.qty, spec.lot):
            raise filter_failure("LOT_SIZE")
        notional = price * ticket.qty
    if notional < spec.min_notional or (ticket.type != "MARKET" and notional > spec.max_notional):
        raise filter_failure("NOTIONAL")
    if ticket.type != "MARKET" and ticket.tif == "GTC" and open_orders >= spec.max_open_orders:
        raise filter_failure("MAX_NUM_ORDERS")
