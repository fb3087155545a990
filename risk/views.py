"""What the gate is shown: the market and the account by value, at one instant."""

from decimal import Decimal

import msgspec

from daemon.domain.events import TradingState
from daemon.domain.market import Instrument
from daemon.domain.orders import Side


class MarketView(msgspec.Struct, frozen=True):
    """One symbol's market. Prices are float64 in quote currency, 0 when unknown; times int ns UTC, 0 when never.

    ``frame_ns`` is when the newest frame of any kind arrived, ``confirmed_ns`` when REST last confirmed that silence
    is real, ``ref_ns`` when the newest of the three prices was learnt. ``frozen`` means the weight may not grow.
    """

    symbol: str
    instrument: Instrument
    bid: float
    ask: float
    last: float
    frame_ns: int
    confirmed_ns: int
    frozen: bool
    ref_ns: int


class GateView(msgspec.Struct, frozen=True):
    """The account and its markets as the gate judges them; all by our own books, nothing the venue still has to say.

    ``cash_free`` is own quote cash less what open, in-flight and unknown buys may still take, fees included.
    ``positions`` are owned base quantities, ``sellable`` the free part of them less what live sells may still take.
    ``reserved_buys`` (quote notional) and ``reserved_sells`` (base) are by symbol. ``live_intents`` holds (symbol, side,
    decision) of every order that is not terminal, ``open_orders`` their number by symbol. ``losing`` means that a loss limit
    (P5) is among the causes of ``state``.
    """

    now_ns: int
    state: TradingState
    equity: Decimal
    cash_free: Decimal
    positions: dict[str, Decimal]
    sellable: dict[str, Decimal]
    reserved_buys: dict[str, Decimal]
    reserved_sells: dict[str, Decimal]
    markets: dict[str, MarketView]
    live_intents: frozenset[tuple[str, Side, str]]
    open_orders: dict[str, int]
    clock_offset_ns: int
    user_link_up: bool
    losing: bool = False
