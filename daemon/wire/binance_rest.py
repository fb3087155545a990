"""Binance Spot's REST answers → domain values. Pure; a broken answer is a ``Malformed``, never an exception.

ccxt hands broken bodies through silently, so every row is typed and checked here before anything believes it.
"""

from collections.abc import Iterable
from decimal import Decimal

import msgspec

from daemon.domain.market import LOTS_PER_UNIT, Bar, BarFlag, Instrument, Malformed, RejectReason, Tick
from daemon.wire.binance import ID_MAX, PRICE_MAX, malformed, reason_of, venue_time_ns
from daemon.wire.binance_streams import BROKEN
from daemon.wire.lots import lots_of

ROWS_MAX = 1000
"""Rows in one answer of klines, aggTrades or historicalTrades (the venue's limit)."""

DECIMALS_MAX = 40
"""Longest fraction of a rule's amount that is believed."""
RULE_MAX = Decimal("1e18")
"""Largest amount that is believed of a rule."""
ORDERS_MAX = 100_000
"""Most orders in ten seconds that any limit allows."""
NS_PER_S = 1_000_000_000
INTERVALS: dict[int, str] = {
    1 * NS_PER_S: "1s",
    60 * NS_PER_S: "1m",
    180 * NS_PER_S: "3m",
    300 * NS_PER_S: "5m",
    900 * NS_PER_S: "15m",
    1800 * NS_PER_S: "30m",
    3600 * NS_PER_S: "1h",
    7200 * NS_PER_S: "2h",
    14400 * NS_PER_S: "4h",
    21600 * NS_PER_S: "6h",
    28800 * NS_PER_S: "8h",
    43200 * NS_PER_S: "12h",
    86400 * NS_PER_S: "1d",
}
"""Candles the venue has, by length in ns. Weeks and months are not aligned to the epoch and are left out."""


def finest_divisor(bar_ns: int) -> int:
    """Return the longest candle of the venue that divides ``bar_ns``, ns. Raises ValueError when there is none."""
    fitting = [length for length in INTERVALS if bar_ns % length == 0]
    if not fitting:
        raise ValueError(f"no candle of the venue divides {bar_ns} ns")
    return max(fitting)


class _Kline(msgspec.Struct, array_like=True, gc=False):
    open_time: int
    open: float
    high: float
    low: float
    close: float
    volume: str
    close_time: int
    quote_volume: str
    trades: int


class _Agg(msgspec.Struct, gc=False):
    a: int
    p: float
    q: str
    T: int
    m: bool
    f: int = 0
    l: int = 0  # noqa: E741 (the venue's own name)


class _Trade(msgspec.Struct, gc=False):
    id: int
    price: float
    qty: str
    time: int
    is_buyer_maker: bool = msgspec.field(name="isBuyerMaker")


class _Time(msgspec.Struct):
    server_time: int = msgspec.field(name="serverTime")


def klines(
    rows: object, *, symbol: str, interval_ns: int, flag: BarFlag = BarFlag.BACKFILLED
) -> tuple[Bar, ...] | Malformed:
    """Return the bars of a klines answer, ascending and aligned; holes are left as they are."""
    try:
        parsed = msgspec.convert(rows, list[_Kline], strict=False)
    except BROKEN as error:
        return malformed(reason_of(error), f"klines: {error}", symbol, 0)
    bars: list[Bar] = []
    last_ns = 0
    for row in parsed:
        open_ns = venue_time_ns(row.open_time)
        if open_ns < 0 or open_ns % interval_ns or open_ns <= last_ns:
            return malformed(RejectReason.BAD_TIME, f"candle at {row.open_time}", symbol, 0)
        lots = lots_of(row.volume)
        if lots < 0 or not 0 <= row.trades < ID_MAX:
            return malformed(RejectReason.BAD_SIZE, f"candle volume {row.volume!r}", symbol, 0)
        if not 0.0 < row.low <= min(row.open, row.close) <= max(row.open, row.close) <= row.high < PRICE_MAX:
            return malformed(
                RejectReason.BAD_PRICE,
                f"candle at {row.open_time}: {row.open} {row.high} {row.low} {row.close}",
                symbol,
                0,
            )
        last_ns = open_ns
        prices = (row.open, row.high, row.low, row.close)
        bars.append(
            Bar(symbol, open_ns, open_ns + interval_ns, *prices, lots / LOTS_PER_UNIT, row.trades, -1, -1, flag)
        )
    return tuple(bars)


def agg_trades(rows: object, *, symbol: str, recv_ns: int, latest_ns: int = 0) -> tuple[Tick, ...] | Malformed:
    """Return the ticks of an aggTrades answer; ids must ascend without a gap, none be later than ``latest_ns`` (0: any)."""
    try:
        parsed = msgspec.convert(rows, list[_Agg], strict=False)
    except BROKEN as error:
        return malformed(reason_of(error), f"aggTrades: {error}", symbol, recv_ns)
    return _ticks(
        ((one.a, one.p, one.q, one.T, one.m, max(one.l - one.f + 1, 1)) for one in parsed),
        symbol=symbol,
        recv_ns=recv_ns,
        latest_ns=latest_ns,
    )


def trades(rows: object, *, symbol: str, recv_ns: int, latest_ns: int = 0) -> tuple[Tick, ...] | Malformed:
    """Return the ticks of a trades or historicalTrades answer, under the same conditions."""
    try:
        parsed = msgspec.convert(rows, list[_Trade], strict=False)
    except BROKEN as error:
        return malformed(reason_of(error), f"trades: {error}", symbol, recv_ns)
    return _ticks(
        ((one.id, one.price, one.qty, one.time, one.is_buyer_maker, 1) for one in parsed),
        symbol=symbol,
        recv_ns=recv_ns,
        latest_ns=latest_ns,
    )


def _ticks(
    rows: Iterable[tuple[int, float, str, int, bool, int]], *, symbol: str, recv_ns: int, latest_ns: int
) -> tuple[Tick, ...] | Malformed:
    """Return checked ticks of (id, price, size text, time, buyer is maker, trades) rows."""
    out: list[Tick] = []
    last_id = -1
    for number, price, size, stamp, sell, count in rows:
        lots = lots_of(size)
        event_ns = venue_time_ns(stamp)
        if not 0 <= number < ID_MAX or (last_id >= 0 and number != last_id + 1):
            return malformed(RejectReason.OUT_OF_ORDER, f"REST trade id {number} after {last_id}", symbol, recv_ns)
        if not 0.0 < price < PRICE_MAX:
            return malformed(RejectReason.BAD_PRICE, f"REST price {price!r}", symbol, recv_ns)
        if lots <= 0:
            return malformed(RejectReason.BAD_SIZE, f"REST size {size!r}", symbol, recv_ns)
        if event_ns < 0 or (latest_ns and event_ns > latest_ns):
            return malformed(RejectReason.BAD_TIME, f"REST time {stamp}", symbol, recv_ns)
        last_id = number
        out.append(Tick(symbol, number, price, lots, event_ns, recv_ns, sell, count))
    return tuple(out)


def server_time_ns(answer: object) -> int | Malformed:
    """Return the venue's time of a ``time`` answer, ns."""
    try:
        stamp = venue_time_ns(msgspec.convert(answer, _Time, strict=False).server_time)
    except BROKEN as error:
        return malformed(RejectReason.BAD_TIME, f"time: {error}", "", 0)
    return stamp if stamp >= 0 else malformed(RejectReason.BAD_TIME, "time: no time stamp", "", 0)


# ---------------------------------------------------------------- exchangeInfo


class _Filter(msgspec.Struct):
    type: str = msgspec.field(name="filterType")
    tick: Decimal = msgspec.field(name="tickSize", default=Decimal(0))
    step: Decimal = msgspec.field(name="stepSize", default=Decimal(0))
    min_qty: Decimal = msgspec.field(name="minQty", default=Decimal(0))
    max_qty: Decimal = msgspec.field(name="maxQty", default=Decimal(0))
    min_notional: Decimal = msgspec.field(name="minNotional", default=Decimal(0))
    bid_up: Decimal = msgspec.field(name="bidMultiplierUp", default=Decimal(0))
    bid_down: Decimal = msgspec.field(name="bidMultiplierDown", default=Decimal(0))
    ask_up: Decimal = msgspec.field(name="askMultiplierUp", default=Decimal(0))
    ask_down: Decimal = msgspec.field(name="askMultiplierDown", default=Decimal(0))
    max_orders: int = msgspec.field(name="maxNumOrders", default=0)

    @property
    def amounts(self) -> tuple[Decimal, ...]:
        """Return every amount the rule states."""
        sizes = (self.tick, self.step, self.min_qty, self.max_qty, self.min_notional)
        return (*sizes, self.bid_up, self.bid_down, self.ask_up, self.ask_down)


class _Symbol(msgspec.Struct):
    symbol: str
    status: str
    base: str = msgspec.field(name="baseAsset")
    quote: str = msgspec.field(name="quoteAsset")
    filters: list[_Filter]
    spot: bool = msgspec.field(name="isSpotTradingAllowed", default=True)


def orders_per_10s(answer: object) -> int:
    """Return the limit on new orders in ten seconds that an exchangeInfo answer publishes, 0 when it publishes none."""
    limits = answer.get("rateLimits") if isinstance(answer, dict) else None
    for one in limits if isinstance(limits, list) else []:
        if isinstance(one, dict) and one.get("rateLimitType") == "ORDERS" and one.get("interval") == "SECOND":
            seconds, count = one.get("intervalNum"), one.get("limit")
            if isinstance(seconds, int) and isinstance(count, int) and seconds > 0 and count > 0:
                return min(max(1, count * 10 // seconds), ORDERS_MAX)
    return 0


def weight_per_minute(answer: object) -> int:
    """Return the limit on request weight in a minute that an exchangeInfo answer publishes, 0 when it publishes none."""
    limits = answer.get("rateLimits") if isinstance(answer, dict) else None
    for one in limits if isinstance(limits, list) else []:
        if isinstance(one, dict) and (one.get("rateLimitType"), one.get("interval")) == ("REQUEST_WEIGHT", "MINUTE"):
            minutes, count = one.get("intervalNum"), one.get("limit")
            if minutes == 1 and isinstance(count, int) and count > 0:
                return count
    return 0


def instrument(entry: object) -> Instrument | Malformed:
    """Return the rules of one ``symbols`` entry of exchangeInfo; without tick, step and minimum it is not tradable by us."""
    try:
        one = msgspec.convert(entry, _Symbol, strict=False)
    except BROKEN as error:
        return malformed(RejectReason.BROKEN_JSON, f"exchangeInfo: {error}", "", 0)
    by_type = {rule.type: rule for rule in one.filters}
    price, lot = by_type.get("PRICE_FILTER"), by_type.get("LOT_SIZE")
    notional = by_type.get("NOTIONAL") or by_type.get("MIN_NOTIONAL")
    if not all(_sane(value) for rule in one.filters for value in rule.amounts):
        return malformed(
            RejectReason.BAD_SIZE, f"exchangeInfo: {one.symbol} states amounts that are none", one.symbol, 0
        )
    if price is None or lot is None or notional is None or price.tick <= 0 or lot.step <= 0:
        return malformed(
            RejectReason.BAD_SIZE, f"exchangeInfo: {one.symbol} states no tick, step or minimum", one.symbol, 0
        )
    side = by_type.get("PERCENT_PRICE_BY_SIDE")
    count = by_type.get("MAX_NUM_ORDERS")
    zero = Decimal(0)
    return Instrument(
        symbol=f"{one.base}/{one.quote}",
        venue_id=one.symbol,
        base=one.base,
        quote=one.quote,
        tick=_plain(price.tick),
        step=_plain(lot.step),
        min_qty=_plain(lot.min_qty),
        max_qty=_plain(lot.max_qty),
        min_notional=_plain(notional.min_notional),
        bid_up=side.bid_up if side else zero,
        bid_down=side.bid_down if side else zero,
        ask_up=side.ask_up if side else zero,
        ask_down=side.ask_down if side else zero,
        max_orders=count.max_orders if count else 0,
        trading=one.status == "TRADING" and one.spot,
    )


def _sane(value: Decimal) -> bool:
    """Say whether a rule's amount can be reckoned with: finite, >= 0, of human size and length."""
    return value.is_finite() and 0 <= value <= RULE_MAX and abs(int(value.as_tuple().exponent)) <= DECIMALS_MAX


def _plain(value: Decimal) -> Decimal:
    """Return a value without trailing zeros and without a positive exponent: 0.01000000 → 0.01, 10.00 → 10."""
    short = value.normalize()
    return short.quantize(Decimal(1)) if int(short.as_tuple().exponent) > 0 else short
