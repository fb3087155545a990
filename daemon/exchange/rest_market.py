"""The public REST endpoints: rules, time, trades, candles and books."""

from collections.abc import Callable
from typing import Any, Final

import msgspec
import numpy as np

from daemon.exchange import bars, errors
from daemon.exchange.config import INTERVALS
from daemon.exchange.errors import ApiError
from daemon.exchange.filters import filters_of
from daemon.exchange.market import AggTrade, Trade
from daemon.exchange.tape import Ints
from daemon.exchange.text import fixed
from daemon.exchange.universe import SymbolSpec, padding_names
from daemon.exchange.venue import Venue

__all__ = ["MARKET_ROUTES", "klines_of"]

Params = dict[str, str]
_ORDER_TYPES: Final = ["LIMIT", "LIMIT_MAKER", "MARKET"]
_DAY_MS: Final = 86_400_000
_PRICES: Final = (bars.OPEN, bars.HIGH, bars.LOW, bars.CLOSE)


def integer(params: Params, name: str, default: int | None = None) -> int | None:
    """Read an optional whole number.

    Raises
    ------
    ApiError
        -1100 when it holds anything but digits.
    """
    text = params.get(name)
    if text is None or text == "":
        return default
    if not text.isascii() or not text.isdigit():
        raise errors.illegal(name, "^[0-9]{1,20}$")
    return int(text)


def limit_of(params: Params, default: int, most: int) -> int:
    """Read ``limit``, 1..most; larger values are cut as Binance does."""
    value = integer(params, "limit", default) or default
    return max(1, min(most, value))


def ping(_venue: Venue, _params: Params) -> Any:
    """Answer an empty object."""
    return {}


def time(venue: Venue, _params: Params) -> Any:
    """Answer the exchange's time."""
    return {"serverTime": venue.now_ms()}


def _symbol_info(spec: SymbolSpec, status: str) -> dict[str, Any]:
    return {
        "symbol": spec.name,
        "status": status,
        "baseAsset": spec.base,
        "baseAssetPrecision": 8,
        "quoteAsset": spec.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": _ORDER_TYPES,
        "icebergAllowed": False,
        "ocoAllowed": False,
        "otoAllowed": False,
        "quoteOrderQtyMarketAllowed": True,
        "allowTrailingStop": False,
        "cancelReplaceAllowed": False,
        "amendAllowed": False,
        "pegInstructionsAllowed": False,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": filters_of(spec),
        "permissions": [],
        "permissionSets": [["SPOT"]],
        "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
        "allowedSelfTradePreventionModes": ["EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH"],
    }


def exchange_info(venue: Venue, params: Params) -> Any:
    """Answer the rules of all symbols, or of ``symbol`` or ``symbols``."""
    specs = venue.desk.rules
    if "symbol" in params:
        chosen = [specs[venue.symbol(params)]]
    elif "symbols" in params:
        names = [part.strip(' "') for part in params["symbols"].strip("[]").split(",") if part.strip(' "')]
        chosen = [specs[venue.symbol({"symbol": name})] for name in names]
    else:
        chosen = list(specs)
    symbols = [_symbol_info(spec, venue.desk.status[spec.index]) for spec in chosen]
    if len(chosen) == len(specs):
        pattern = specs[0]
        for base, quote in padding_names(venue.config):
            info = _symbol_info(pattern, "BREAK")
            info |= {"symbol": base + quote, "baseAsset": base, "quoteAsset": quote}
            symbols.append(info)
    limits = venue.config.limits
    return {
        "timezone": "UTC",
        "serverTime": venue.now_ms(),
        "rateLimits": [
            _rate("REQUEST_WEIGHT", "MINUTE", 1, limits.weight_per_minute),
            _rate("ORDERS", "SECOND", 10, limits.orders_per_10s),
            _rate("ORDERS", "DAY", 1, limits.orders_per_day),
            _rate("RAW_REQUESTS", "MINUTE", 5, limits.raw_per_5m),
        ],
        "exchangeFilters": [],
        "symbols": symbols,
    }


def _rate(kind: str, interval: str, number: int, limit: int) -> dict[str, Any]:
    return {"rateLimitType": kind, "interval": interval, "intervalNum": number, "limit": limit}


def _number(decimals: int) -> str:
    """Return the %-template of a fixed number given as whole part and fraction; see `daemon.exchange.text.fixed`."""
    return f'"%d.%0{decimals}d{"0" * (8 - max(decimals, 1))}"'


def klines_of(spec: SymbolSpec, rows: Ints, interval: str) -> msgspec.Raw:
    """Write candle rows as Binance does: times ms, numbers as text.

    One template per row, because a training set asks for a hundred thousand of them.
    """
    p, q = spec.price_decimals, spec.qty_decimals
    scales = {bars.VOLUME: q, bars.QUOTE: p + q, bars.TAKER: q, bars.TAKER_QUOTE: p + q}
    columns: list[list[int]] = []
    for column in (*_PRICES, bars.VOLUME, bars.QUOTE, bars.TAKER, bars.TAKER_QUOTE):
        whole, part = np.divmod(rows[:, column], 10 ** scales.get(column, p))
        columns += [whole.tolist(), part.tolist()]
    opens, counts = rows[:, bars.TIME].tolist(), rows[:, bars.COUNT].tolist()
    ends = [bars.next_open(open_ms, interval) - 1 for open_ms in opens]
    columns = [opens, *columns[:10], ends, *columns[10:12], counts, *columns[12:]]
    price, qty, quote = _number(p) + ",", _number(q), _number(p + q)
    row = f'[%d,{price * 4}{qty},%d,{quote},%d,{qty},{quote},"0"]'
    return msgspec.Raw(("[" + ",".join([row % values for values in zip(*columns, strict=True)]) + "]").encode())


def klines(venue: Venue, params: Params) -> Any:
    """Answer candles."""
    index = venue.symbol(params)
    interval = params.get("interval", "")
    if not interval:
        raise errors.missing("interval")
    if interval not in INTERVALS:
        raise ApiError(-1120, "Invalid interval.")
    rows = venue.market.klines(
        index,
        interval,
        limit_of(params, 500, 1000),
        start_ms=integer(params, "startTime"),
        end_ms=integer(params, "endTime"),
    )
    return klines_of(venue.desk.specs[index], rows, interval)


def _trade(spec: SymbolSpec, trade: Trade) -> dict[str, Any]:
    return {
        "id": trade.id,
        "price": fixed(trade.price, spec.price_decimals),
        "qty": fixed(trade.qty, spec.qty_decimals),
        "quoteQty": fixed(trade.price * trade.qty, spec.price_decimals + spec.qty_decimals),
        "time": trade.time_ms,
        "isBuyerMaker": trade.sold,
        "isBestMatch": True,
    }


def trades(venue: Venue, params: Params) -> Any:
    """Answer the newest trades."""
    index = venue.symbol(params)
    spec = venue.desk.specs[index]
    return [_trade(spec, trade) for trade in venue.market.trades(index, limit_of(params, 500, 1000))]


def historical_trades(venue: Venue, params: Params) -> Any:
    """Answer trades from an id on."""
    index = venue.symbol(params)
    spec = venue.desk.specs[index]
    found = venue.market.trades(index, limit_of(params, 500, 1000), integer(params, "fromId"))
    return [_trade(spec, trade) for trade in found]


def _agg_trade(spec: SymbolSpec, agg: AggTrade) -> dict[str, Any]:
    return {
        "a": agg.id,
        "p": fixed(agg.price, spec.price_decimals),
        "q": fixed(agg.qty, spec.qty_decimals),
        "f": agg.first_id,
        "l": agg.last_id,
        "T": agg.time_ms,
        "m": agg.sold,
        "M": True,
    }


def agg_trades(venue: Venue, params: Params) -> Any:
    """Answer aggregates from an id on, from a time on, or the newest."""
    index = venue.symbol(params)
    spec = venue.desk.specs[index]
    end_ms = integer(params, "endTime")
    found = venue.market.agg_trades(
        index,
        limit_of(params, 500, 1000),
        from_id=integer(params, "fromId"),
        start_ms=integer(params, "startTime", 0) or 0,
        end_ms=2**62 if end_ms is None else end_ms,
    )
    return [_agg_trade(spec, agg) for agg in found]


def depth(venue: Venue, params: Params) -> Any:
    """Answer a snapshot of the book."""
    index = venue.symbol(params)
    bids, asks = venue.book(index, limit_of(params, 100, 5000))
    return {"lastUpdateId": venue.ladder.update_id(index), "bids": bids, "asks": asks}


def _each(venue: Venue, params: Params, one: Callable[[Venue, int], dict[str, Any]]) -> Any:
    if "symbol" in params:
        return one(venue, venue.symbol(params))
    return [one(venue, index) for index in range(len(venue.desk.specs)) if venue.market.last[index]]


def _book_ticker(venue: Venue, index: int) -> dict[str, Any]:
    bids, asks = venue.book(index, 1)
    bid = bids[0] if bids else ["0.00000000", "0.00000000"]
    ask = asks[0] if asks else ["0.00000000", "0.00000000"]
    name = venue.desk.specs[index].name
    return {"symbol": name, "bidPrice": bid[0], "bidQty": bid[1], "askPrice": ask[0], "askQty": ask[1]}


def _price(venue: Venue, index: int) -> dict[str, Any]:
    spec, last = venue.desk.specs[index], venue.market.last[index]
    return {"symbol": spec.name, "price": fixed(last.price if last else 0, spec.price_decimals)}


def _ticker(venue: Venue, index: int) -> dict[str, Any]:
    spec, now = venue.desk.specs[index], venue.now_ms()
    rows = venue.market.klines(index, "1m", 1440)
    row = bars.aggregate(rows[rows[:, bars.COUNT] > 0], "1M")  # at most two months touch the last day
    p, q = spec.price_decimals, spec.qty_decimals
    opened, close = int(row[0, bars.OPEN]), int(row[-1, bars.CLOSE])
    volume, quote = int(row[:, bars.VOLUME].sum()), int(row[:, bars.QUOTE].sum())
    ticker = _book_ticker(venue, index)
    change = close - opened
    return {
        **ticker,
        "priceChange": ("-" if change < 0 else "") + fixed(abs(change), p),
        "priceChangePercent": f"{100 * change / opened:.3f}",
        "weightedAvgPrice": f"{quote / max(volume, 1) / 10**p:.8f}",
        "prevClosePrice": fixed(opened, p),
        "lastPrice": fixed(close, p),
        "lastQty": fixed(venue.market.last[index].qty if venue.market.last[index] else 0, q),  # type: ignore[union-attr]
        "openPrice": fixed(opened, p),
        "highPrice": fixed(int(row[:, bars.HIGH].max()), p),
        "lowPrice": fixed(int(row[:, bars.LOW].min()), p),
        "volume": fixed(volume, q),
        "quoteVolume": fixed(quote, p + q),
        "openTime": now - _DAY_MS,
        "closeTime": now,
        "firstId": venue.market.trades(index, 1)[0].id,
        "lastId": venue.market.trades(index, 1)[0].id,
        "count": int(row[:, bars.COUNT].sum()),
    }


def book_ticker(venue: Venue, params: Params) -> Any:
    """Answer the touch of one symbol or of all."""
    return _each(venue, params, _book_ticker)


def price(venue: Venue, params: Params) -> Any:
    """Answer the last price of one symbol or of all."""
    return _each(venue, params, _price)


def ticker(venue: Venue, params: Params) -> Any:
    """Answer the statistics of the last day."""
    return _each(venue, params, _ticker)


def system_status(_venue: Venue, _params: Params) -> Any:
    """Answer that no maintenance is going on."""
    return {"status": 0, "msg": "normal"}


MARKET_ROUTES: Final[dict[tuple[str, str], Callable[[Venue, Params], Any]]] = {
    ("GET", "/api/v3/ping"): ping,
    ("GET", "/api/v3/time"): time,
    ("GET", "/api/v3/exchangeInfo"): exchange_info,
    ("GET", "/api/v3/klines"): klines,
    ("GET", "/api/v3/trades"): trades,
    ("GET", "/api/v3/historicalTrades"): historical_trades,
    ("GET", "/api/v3/aggTrades"): agg_trades,
    ("GET", "/api/v3/depth"): depth,
    ("GET", "/api/v3/ticker/bookTicker"): book_ticker,
    ("GET", "/api/v3/ticker/price"): price,
    ("GET", "/api/v3/ticker/24hr"): ticker,
    ("GET", "/sapi/v1/system/status"): system_status,
}
