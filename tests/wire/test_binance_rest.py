"""REST answers: typed values for what is right, a reason for what is wrong."""

import gzip
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.domain.market import Bar, BarFlag, Instrument, Malformed, RejectReason, Tick
from daemon.wire import binance_rest as wire

MINUTE = 60 * 10**9
BTC = "BTC/USDT"

KLINE: list[Any] = [
    1720000020000,
    "10.0",
    "12.0",
    "9.0",
    "11.0",
    "1.50000000",
    1720000079999,
    "16.0",
    7,
    "1",
    "11",
    "0",
]
AGG: dict[str, Any] = {"a": 5, "p": "10.5", "q": "0.30000000", "f": 8, "l": 9, "T": 1720000000000, "m": True, "M": True}
TRADE: dict[str, Any] = {"id": 5, "price": "10.5", "qty": "0.3", "time": 1720000000000, "isBuyerMaker": False}
ENTRY: dict[str, Any] = {
    "symbol": "BTCUSDT",
    "status": "TRADING",
    "baseAsset": "BTC",
    "quoteAsset": "USDT",
    "filters": [
        {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "1000000.0", "tickSize": "0.01000000"},
        {"filterType": "LOT_SIZE", "minQty": "0.00001000", "maxQty": "9000.00000000", "stepSize": "0.00001000"},
        {"filterType": "NOTIONAL", "minNotional": "5.00000000"},
        {"filterType": "PERCENT_PRICE_BY_SIDE", "bidMultiplierUp": "5", "bidMultiplierDown": "0.2"},
        {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": 200},
    ],
}

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def klines(rows: object) -> tuple[Bar, ...] | Malformed:
    """Parse one-minute candles."""
    return wire.klines(rows, symbol=BTC, interval_ns=MINUTE)


def test_candle_is_exact() -> None:
    """A row becomes a bar with its volume in lots."""
    bar = Bar(BTC, 1720000020 * 10**9, 1720000080 * 10**9, 10.0, 12.0, 9.0, 11.0, 1.5, 7, -1, -1, BarFlag.BACKFILLED)
    assert klines([KLINE]) == (bar,)
    assert klines([]) == ()


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (0, 1720000000001, RejectReason.BAD_TIME),
        (0, "soon", RejectReason.BROKEN_JSON),
        (1, "NaN", RejectReason.BAD_PRICE),
        (2, "8.0", RejectReason.BAD_PRICE),
        (3, "0", RejectReason.BAD_PRICE),
        (3, "10.5", RejectReason.BAD_PRICE),
        (4, "-1", RejectReason.BAD_PRICE),
        (4, None, RejectReason.BROKEN_JSON),
        (5, "1.123456789", RejectReason.BAD_SIZE),
        (8, -1, RejectReason.BAD_SIZE),
    ],
)
def test_absurd_candles_are_refused(place: int, value: object, reason: RejectReason) -> None:
    """A candle that cannot be is never believed."""
    row = [*KLINE]
    row[place] = value
    answer = klines([row])
    assert isinstance(answer, Malformed)
    assert answer.reason is reason


def test_candles_must_ascend() -> None:
    """Repeated or falling times are refused."""
    assert isinstance(klines([KLINE, KLINE]), Malformed)


def test_trades_of_both_spaces() -> None:
    """Aggregates and single trades become ticks of their own id space."""
    agg = wire.agg_trades([AGG, AGG | {"a": 6}], symbol=BTC, recv_ns=9)
    assert not isinstance(agg, Malformed)
    assert agg[0] == Tick(BTC, 5, 10.5, 30_000_000, 1720000000 * 10**9, 9, sell=True, trades=2)
    assert agg[1].id == 6
    single = wire.trades([TRADE], symbol=BTC, recv_ns=9)
    assert single == (Tick(BTC, 5, 10.5, 30_000_000, 1720000000 * 10**9, 9, sell=False, trades=1),)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"p": "0"}, RejectReason.BAD_PRICE),
        ({"p": "inf"}, RejectReason.BAD_PRICE),
        ({"q": "0.00000000"}, RejectReason.BAD_SIZE),
        ({"T": 5}, RejectReason.BAD_TIME),
        ({"a": 8}, RejectReason.OUT_OF_ORDER),
        ({"a": None}, RejectReason.BAD_PRICE),
    ],
)
def test_broken_trades_are_refused(change: dict[str, Any], reason: RejectReason) -> None:
    """One absurd row, or a hole in the ids, spoils the page."""
    answer = wire.agg_trades([AGG, AGG | {"a": 6} | change], symbol=BTC, recv_ns=9)
    assert isinstance(answer, Malformed)
    assert answer.reason is reason or reason is RejectReason.BAD_PRICE


@given(anything)
def test_any_body_is_a_value(body: object) -> None:
    """Whatever ccxt hands through, the answer is a value."""
    for answer in (
        klines(body),
        wire.agg_trades(body, symbol=BTC, recv_ns=1),
        wire.trades(body, symbol=BTC, recv_ns=1),
        wire.instrument(body),
        wire.server_time_ns(body),
    ):
        assert isinstance(answer, Malformed) or answer == ()


def test_trades_of_the_future_are_refused() -> None:
    """F27: a trade later than the venue's own clock would close bars that are still open."""
    at_ns = 1720000000 * 10**9
    assert not isinstance(wire.agg_trades([AGG], symbol=BTC, recv_ns=9, latest_ns=at_ns), Malformed)
    answer = wire.agg_trades([AGG], symbol=BTC, recv_ns=9, latest_ns=at_ns - 1)
    assert isinstance(answer, Malformed)
    assert answer.reason is RejectReason.BAD_TIME


def test_rules_are_plain_decimals() -> None:
    """Filters come out as Decimals without trailing zeros; what is absent is zero."""
    one = wire.instrument(ENTRY)
    assert isinstance(one, Instrument)
    assert (str(one.tick), str(one.step), str(one.max_qty), str(one.min_notional)) == ("0.01", "0.00001", "9000", "5")
    assert (one.symbol, one.bid_up, one.ask_up, one.max_orders, one.trading) == (BTC, Decimal(5), Decimal(0), 200, True)
    halted = wire.instrument(ENTRY | {"status": "BREAK"})
    assert isinstance(halted, Instrument)
    assert not halted.trading


def test_rules_that_are_missing_forbid_trading() -> None:
    """Without tick, step and minimum an instrument is refused by name."""
    answer = wire.instrument(ENTRY | {"filters": ENTRY["filters"][:1]})
    assert isinstance(answer, Malformed)
    assert "BTCUSDT" in answer.detail


def test_intervals() -> None:
    """Bars the venue lacks are merged from the longest candle that divides them."""
    assert [wire.finest_divisor(seconds * 10**9) for seconds in (1, 15, 60, 7200)] == [
        10**9,
        10**9,
        MINUTE,
        7200 * 10**9,
    ]
    with pytest.raises(ValueError, match="no candle"):
        wire.finest_divisor(500_000_000)


def test_server_time() -> None:
    """The venue's clock in ns."""
    assert wire.server_time_ns({"serverTime": 1720000000123}) == 1720000000123 * 10**6
    assert isinstance(wire.server_time_ns({"serverTime": 3}), Malformed)


def test_recorded_rules(shared_data: Path) -> None:
    """Every symbol of a real exchangeInfo is understood."""
    with gzip.open(shared_data / "ws" / "BINANCE.0.gz") as lines:
        line = next(one for one in lines if b"exchangeInfo" in one)
    answer = msgspec.json.decode(line[line.index(b'{"timezone"') :].strip())
    parsed = [wire.instrument(entry) for entry in answer["symbols"]]

    assert len(parsed) > 1000
    assert all(isinstance(one, Instrument) and one.tick > 0 and one.min_notional >= 0 for one in parsed)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"rateLimits": [{"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": 100}]}, 100),
        ({"rateLimits": [{"rateLimitType": "ORDERS", "interval": "DAY", "intervalNum": 1, "limit": 200000}]}, 0),
        ({"rateLimits": "none"}, 0),
        ([], 0),
    ],
)
def test_p6_the_order_limit_is_read_from_the_rules(answer: object, expected: int) -> None:
    """What the venue publishes counts; anything else is no limit at all."""
    assert expected == wire.orders_per_10s(answer)
