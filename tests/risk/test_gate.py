"""The gate: one test or more for each control, named by its number; properties for the invariants."""

import itertools
import math
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.domain.events import TradingState
from daemon.domain.market import NS_PER_MS, NS_PER_S, Instrument
from daemon.domain.orders import Approved, Cause, Check, Intent, Refused, Side, Tif
from risk.gate import Gate, GateView, MarketView
from risk.limits import Limits

D = Decimal
NOW = 1_700_000_000 * NS_PER_S
BTC, ETH, SOL = "BTC/USDT", "ETH/USDT", "SOL/USDT"
UNIVERSE = (BTC, ETH, SOL)
LIMITS = Limits(fee_rate=0.001)
RULES = Instrument(
    symbol=BTC,
    venue_id="BTCUSDT",
    base="BTC",
    quote="USDT",
    tick=D("0.01"),
    step=D("0.001"),
    min_qty=D("0.001"),
    max_qty=D(1000),
    min_notional=D(5),
    bid_up=D(5),
    bid_down=D("0.2"),
    ask_up=D(5),
    ask_down=D("0.2"),
    max_orders=200,
)
MARKET = MarketView(
    BTC, RULES, bid=99.99, ask=100.01, last=100.0, frame_ns=NOW, confirmed_ns=0, frozen=False, ref_ns=NOW
)


def _market(symbol: str = BTC, /, **changes: object) -> MarketView:
    rules = msgspec.structs.replace(RULES, symbol=symbol)
    return msgspec.structs.replace(MARKET, **{"symbol": symbol, "instrument": rules, **changes})


VIEW = GateView(
    now_ns=NOW,
    state=TradingState.ACTIVE,
    equity=D(10_000),
    cash_free=D(8_000),
    positions={BTC: D(20)},
    sellable={BTC: D(20)},
    reserved_buys={},
    reserved_sells={},
    markets={symbol: _market(symbol) for symbol in UNIVERSE},
    live_intents=frozenset(),
    open_orders={},
    clock_offset_ns=0,
    user_link_up=True,
)
_numbers = itertools.count()


def _intent(side: Side = Side.BUY, qty: str | Decimal = "5", limit: str | Decimal = "100", **changes: object) -> Intent:
    base = Intent(
        client_id=f"b{next(_numbers):025d}",
        decision="bar-1-1",
        leg=0,
        symbol=BTC,
        side=side,
        qty=D(qty),
        limit=D(limit),
        tif=Tif.IOC,
        cause=Cause.REBALANCE,
        exit=False,
        reference=D(100),
        ts_ns=NOW,
        expires_ns=NOW + LIMITS.order_ttl_ns,
    )
    return msgspec.structs.replace(base, **changes)


def _exit(qty: str = "5", limit: str = "99", **changes: object) -> Intent:
    return _intent(Side.SELL, qty, limit, **{"exit": True, "cause": Cause.STOP_LOSS, **changes})


def _view(**changes: object) -> GateView:
    return msgspec.structs.replace(VIEW, **changes)


def _at(**changes: object) -> GateView:
    """The usual view with BTC's market changed."""
    return _view(markets={**VIEW.markets, BTC: _market(BTC, **changes)})


def _under(**rules: object) -> GateView:
    """The usual view with BTC's venue rules changed."""
    return _at(instrument=msgspec.structs.replace(RULES, **rules))


def _judge(intent: Intent, view: GateView = VIEW, limits: Limits = LIMITS) -> Check | None:
    """The refusing check, None when approved."""
    (verdict,) = Gate(limits, UNIVERSE).judge([intent], view)
    assert verdict.intent.client_id == intent.client_id
    assert verdict.ts_ns == view.now_ns
    if isinstance(verdict, Approved):
        return None
    assert verdict.detail
    return verdict.check


def test_a_sound_order_passes() -> None:
    """Buy, sell and exit of ordinary size in an ordinary market."""
    assert _judge(_intent()) is None
    assert _judge(_intent(Side.SELL)) is None
    assert _judge(_exit()) is None


def test_f58_impossible_limits_make_no_gate() -> None:
    """Leverage is not for sale."""
    with pytest.raises(ValueError, match="max_gross = 3"):
        Gate(Limits(max_gross=3.0), UNIVERSE)


def test_p1_largest_order_is_a_fraction_of_equity() -> None:
    """10 % of 10,000 passes, one lot more does not; an exit is the planner's to slice."""
    assert _judge(_intent(qty="9.999")) is None
    assert _judge(_intent(Side.SELL, "10.001")) is Check.P1_MAX_NOTIONAL
    assert _judge(_intent(qty="10.001")) is Check.P1_MAX_NOTIONAL
    assert _judge(_exit("20")) is None


def test_p2_largest_quantity_is_the_venues() -> None:
    """Nobody sends more than LOT_SIZE allows, exits neither."""
    assert _judge(_intent(), _under(max_qty=D(4))) is Check.P2_MAX_QTY
    assert _judge(_exit(), _under(max_qty=D(4))) is Check.P2_MAX_QTY
    assert _judge(_intent(), _under(max_qty=D(0))) is None


@pytest.mark.parametrize(("limit", "ok"), [("101", True), ("101.01", False), ("99", True), ("98.99", False)])
def test_p3_limit_stays_in_the_collar(limit: str, *, ok: bool) -> None:
    """1 % around the mid of a sound book, on both sides."""
    assert _judge(_intent(limit=limit)) is (None if ok else Check.P3_COLLAR)


def test_p3_exits_have_the_wider_collar() -> None:
    """5 % around the same reference, not a tick more."""
    assert _judge(_exit(limit="95")) is None
    assert _judge(_exit(limit="94.99")) is Check.P3_COLLAR


def test_p3_reference_falls_back_to_the_last_trade() -> None:
    """Without a book the last trade counts; without either nothing is known."""
    assert _judge(_intent(), _at(bid=0.0, ask=0.0)) is None
    assert _judge(_intent(), _at(bid=0.0, ask=0.0, last=90.0)) is Check.P3_COLLAR
    assert _judge(_exit(), _at(bid=0.0, ask=0.0, last=0.0)) is Check.UNKNOWN_INPUT


def test_p4_weight_counts_all_buys_that_may_fill() -> None:
    """20 % held: 10 % more is the most at a cap of 30 %, live buys and earlier ones of the batch included."""
    assert _judge(_intent(qty="9.99")) is None
    assert _judge(_intent(qty="9.99"), _view(positions={BTC: D("20.02")})) is Check.P4_EXPOSURE
    assert _judge(_intent(qty="5"), _view(reserved_buys={BTC: D("500.01")})) is Check.P4_EXPOSURE
    first, second = Gate(LIMITS, UNIVERSE).judge([_intent(qty="6"), _intent(qty="6", decision="other")], VIEW)
    assert isinstance(first, Approved)
    assert isinstance(second, Refused)
    assert second.check is Check.P4_EXPOSURE


def test_p4_gross_counts_other_symbols() -> None:
    """Positions and live buys elsewhere use up max_gross."""
    limits = Limits(max_gross=0.5)
    held = _view(positions={BTC: D(20), ETH: D(20)}, reserved_buys={SOL: D("600")})

    assert _judge(_intent(qty="4"), held, limits) is None
    assert _judge(_intent(qty="4.1"), held, limits) is Check.P4_EXPOSURE


def test_p4_cash_reserve_stays() -> None:
    """A buy that would eat into min_cash is refused, though the money is there."""
    assert _judge(_intent(), _view(cash_free=D("700.5"))) is None
    assert _judge(_intent(), _view(cash_free=D("700.49"))) is Check.P4_EXPOSURE


def test_p4_unknown_value_denies_growth() -> None:
    """A position that cannot be valued stops buys of anything; sells go on."""
    nowhere = _view(positions={BTC: D(20), "OLD/USDT": D(1)})
    nan = _view(positions={BTC: D("NaN")})

    assert _judge(_intent(), nowhere) is Check.UNKNOWN_INPUT
    assert _judge(_intent(Side.SELL), nowhere) is None
    assert _judge(_intent(), nan) is Check.UNKNOWN_INPUT
    assert _judge(_intent(symbol=ETH), nan) is Check.UNKNOWN_INPUT
    assert _judge(_intent(), _view(positions={BTC: D(20), "OLD/USDT": D(0)})) is None


def test_p6_throttle_stops_entries_not_exits() -> None:
    """Beyond the budget buys are refused, exits pass and are counted; refusals take nothing."""
    gate = Gate(Limits(max_orders_per_minute=3), UNIVERSE)
    refused = _intent(qty="900")
    batch = [refused, _intent(symbol=BTC, qty="1"), _intent(symbol=ETH), _exit("1", symbol=BTC), _intent(symbol=SOL)]
    verdicts = gate.judge(batch, VIEW)

    assert [isinstance(one, Approved) for one in verdicts] == [False, True, True, True, False]
    last = verdicts[-1]
    assert isinstance(last, Refused)
    assert last.check is Check.P6_THROTTLE
    assert gate.capacity(NOW) == 0
    assert gate.capacity(NOW + 61 * NS_PER_S) == 3
    other = Gate(Limits(max_orders_per_minute=3), UNIVERSE)
    other.restore(gate.state())
    assert other.capacity(NOW) == 0


def test_p8_one_live_intent_per_symbol_side_and_decision() -> None:
    """Live elsewhere, twice in a batch, or an id used twice: refused; the legs of an exit are one intent cut up."""
    live = _view(live_intents=frozenset({(BTC, Side.BUY, "bar-1-1")}))
    assert _judge(_intent(), live) is Check.P8_DUPLICATE
    assert _judge(_intent(decision="bar-2-1"), live) is None
    gate = Gate(LIMITS, UNIVERSE)
    twice = gate.judge([_intent(qty="1"), _intent(qty="1", leg=1)], VIEW)
    same_id = gate.judge([_exit(client_id="x"), _exit(client_id="x", decision="other")], VIEW)
    legs = gate.judge([_exit(), _exit(leg=1), _exit(leg=2)], VIEW)

    assert [isinstance(one, Approved) for one in twice] == [True, False]
    assert [isinstance(one, Approved) for one in same_id] == [True, False]
    assert all(isinstance(one, Approved) for one in legs)
    assert _judge(_exit(), _view(live_intents=frozenset({(BTC, Side.SELL, "bar-1-1")}))) is Check.P8_DUPLICATE


def test_p9_no_crossing_of_own_orders() -> None:
    """A live order on the other side stops an entry; an exit goes on, the engine has cancelled what it could."""
    assert _judge(_intent(), _view(reserved_sells={BTC: D(1)})) is Check.P9_SELF_TRADE
    assert _judge(_intent(Side.SELL), _view(reserved_buys={BTC: D(1)})) is Check.P9_SELF_TRADE
    assert _judge(_exit(), _view(reserved_buys={BTC: D(1)})) is None
    both = Gate(LIMITS, UNIVERSE).judge([_exit(), _intent()], VIEW)
    assert [isinstance(one, Approved) for one in both] == [True, False]


def test_p10_data_must_be_fresh_or_confirmed() -> None:
    """3 s without any frame is too old unless REST confirmed the silence; a stamp from the future is no proof."""
    old = NOW - 3001 * NS_PER_MS
    assert _judge(_intent(), _at(frame_ns=NOW - 3000 * NS_PER_MS)) is None
    assert _judge(_intent(), _at(frame_ns=old)) is Check.P10_STALE
    assert _judge(_intent(), _at(frame_ns=old, confirmed_ns=NOW - NS_PER_S)) is None
    assert _judge(_intent(), _at(frame_ns=NOW + NS_PER_S)) is Check.P10_STALE


@given(age_ms=st.integers(0, 3000), confirmed_ms=st.integers(0, 3000), exit_age_ms=st.integers(0, 10_000))
def test_i6_an_order_leaves_while_its_data_is_fresh_or_never(age_ms: int, confirmed_ms: int, exit_age_ms: int) -> None:
    """P10 holds at the byte, not only here: what waits longer than the data stays fresh is too old to be sent."""
    market = _at(
        frame_ns=NOW - age_ms * NS_PER_MS,
        confirmed_ns=NOW - confirmed_ms * NS_PER_MS,
        ref_ns=NOW - exit_age_ms * NS_PER_MS,
    )
    (entry, closing) = Gate(LIMITS, UNIVERSE).judge([_intent(), _exit()], market)
    ttl_ms = LIMITS.order_ttl_ns // NS_PER_MS

    assert isinstance(entry, Approved)
    assert isinstance(closing, Approved)
    assert entry.intent.expires_ns == NOW + min(ttl_ms, 3000 - min(age_ms, confirmed_ms)) * NS_PER_MS
    assert closing.intent.expires_ns == NOW + min(ttl_ms, 10_000 - exit_age_ms) * NS_PER_MS


def test_p10_book_clock_link_and_freeze() -> None:
    """A crossed book, a clock off by more than 0.5 s, a dead account stream or a frozen symbol."""
    assert _judge(_intent(), _at(bid=100.02)) is Check.P10_STALE
    assert _judge(_intent(), _at(frozen=True)) is Check.P10_STALE
    assert _judge(_intent(Side.SELL), _at(frozen=True)) is None
    for offset in (501 * NS_PER_MS, -501 * NS_PER_MS):
        assert _judge(_intent(), _view(clock_offset_ns=offset)) is Check.P10_STALE
    assert _judge(_intent(), _view(user_link_up=False)) is Check.P10_STALE


def test_p10_exits_need_a_price_ten_seconds_old_at_most() -> None:
    """Nothing else of the weather stops an exit."""
    storm = msgspec.structs.replace(
        _at(frame_ns=0, bid=100.02, frozen=True, ref_ns=NOW - 10 * NS_PER_S),
        clock_offset_ns=9 * NS_PER_S,
        user_link_up=False,
        equity=D("NaN"),
        cash_free=D("NaN"),
        state=TradingState.REDUCING,
    )
    assert _judge(_exit(), storm) is None
    assert _judge(_exit(), _at(ref_ns=NOW - 10 * NS_PER_S - 1)) is Check.P10_STALE
    assert _judge(_exit(), _at(ref_ns=NOW + NS_PER_S)) is Check.P10_STALE


@pytest.mark.parametrize(
    ("intent", "rules"),
    [
        (_intent(qty="5.0001"), {}),
        (_intent(limit="100.001"), {}),
        (_intent(qty="0.049"), {}),
        (_intent(), {"min_qty": D(6)}),
        (_intent(), {"bid_up": D("0.999")}),
        (_intent(limit="99.5"), {"bid_down": D("0.999")}),
        (_exit(limit="99"), {"ask_down": D("0.995")}),
        (_exit(limit="101"), {"ask_up": D("1.005")}),
    ],
)
def test_p12_filters(intent: Intent, rules: dict[str, Decimal]) -> None:
    """Lot, tick, minimum notional, minimum quantity and the price band of the side, exact in Decimal."""
    assert _judge(intent, _under(**rules)) is Check.P12_FILTER


def test_p12_number_of_open_orders() -> None:
    """Open ones and those of this batch count against MAX_NUM_ORDERS."""
    view = msgspec.structs.replace(_under(max_orders=3), open_orders={BTC: 2})
    verdicts = Gate(LIMITS, UNIVERSE).judge([_exit(), _exit(leg=1)], view)

    assert [isinstance(one, Approved) for one in verdicts] == [True, False]


def test_p14_buys_are_paid_from_free_cash_with_fees() -> None:
    """Notional plus fee must be there, after what the batch already took."""
    limits = Limits(min_cash=0.0)
    assert _judge(_intent(), _view(cash_free=D("500.5")), limits) is None
    assert _judge(_intent(), _view(cash_free=D("500.49")), limits) is Check.P14_FUNDS
    assert _judge(_intent(), _view(cash_free=D("-1")), limits) is Check.P14_FUNDS
    assert _judge(_intent(), _view(cash_free=D("NaN")), limits) is Check.UNKNOWN_INPUT
    verdicts = Gate(limits, UNIVERSE).judge([_intent(), _intent(symbol=ETH)], _view(cash_free=D("1000.99")))
    assert [isinstance(one, Approved) for one in verdicts] == [True, False]


def test_p14_i5_legs_never_sell_more_than_is_free() -> None:
    """Σ child ≤ parent: the legs of an exit together stay within the free position."""
    verdicts = Gate(LIMITS, UNIVERSE).judge([_exit("9"), _exit("9", leg=1), _exit("2.001", leg=2)], VIEW)

    assert [isinstance(one, Approved) for one in verdicts] == [True, True, False]
    assert _judge(_intent(Side.SELL, symbol=ETH)) is Check.P14_FUNDS
    assert _judge(_exit(), _view(sellable={BTC: D("NaN")})) is Check.UNKNOWN_INPUT


def test_p15_only_listed_and_trading_symbols() -> None:
    """Outside the universe is close-only; a halted market takes nothing."""
    gate = Gate(LIMITS, [ETH])
    buy, sell = gate.judge([_intent(), _exit()], VIEW)
    assert isinstance(buy, Refused)
    assert buy.check is Check.P15_NOT_TRADABLE
    assert isinstance(sell, Approved)
    for intent in (_intent(), _exit()):
        assert _judge(intent, _under(trading=False)) is Check.P15_NOT_TRADABLE


def test_p16_intents_expire() -> None:
    """Older than its time to live, past its own expiry, or from the future."""
    assert _judge(_intent(), _view(now_ns=NOW + 2 * NS_PER_S)) is None
    assert _judge(_intent(expires_ns=NOW + 9 * NS_PER_S), _view(now_ns=NOW + 2 * NS_PER_S + 1)) is Check.P16_TOO_OLD
    assert _judge(_exit(expires_ns=NOW - 1)) is Check.P16_TOO_OLD
    assert _judge(_intent(ts_ns=NOW + 1, expires_ns=NOW + 9)) is Check.P16_TOO_OLD


def test_a2_i12_states() -> None:
    """REDUCING lets sells through and nothing else; HALTED nothing at all."""
    reducing, halted = _view(state=TradingState.REDUCING), _view(state=TradingState.HALTED)

    assert _judge(_intent(), reducing) is Check.STATE
    assert _judge(_intent(Side.SELL), reducing) is None
    assert _judge(_exit(), reducing) is None
    for intent in (_intent(), _intent(Side.SELL), _exit()):
        assert _judge(intent, halted) is Check.STATE


def test_p5_a_refusal_after_a_loss_says_so() -> None:
    """What a loss limit stops is named after it; what reduces exposure goes on while REDUCING."""
    reducing = _view(state=TradingState.REDUCING, losing=True)

    assert _judge(_intent(), reducing) is Check.P5_LOSS
    assert _judge(_intent(Side.SELL), reducing) is None
    assert _judge(_exit(), _view(state=TradingState.HALTED, losing=True)) is Check.P5_LOSS


@pytest.mark.parametrize(
    "intent",
    [
        _intent(symbol="XRP/USDT"),
        _intent(qty="NaN"),
        _intent(qty="0"),
        _intent(qty="-5"),
        _intent(limit="Infinity"),
        _intent(limit="0"),
        _intent(qty="1e20"),
        _intent(exit=True),
        _intent(client_id=""),
        _intent(client_id="b" * 37),
    ],
)
def test_unknown_means_deny(intent: Intent) -> None:
    """No market, no number, a buy that calls itself an exit, an id no venue takes."""
    assert _judge(intent) is Check.UNKNOWN_INPUT


def test_unknown_equity_denies_entries() -> None:
    """Zero, NaN, infinite or negative equity: no size can be judged."""
    for equity in ("0", "NaN", "Infinity", "-1"):
        assert _judge(_intent(), _view(equity=D(equity))) is Check.UNKNOWN_INPUT
        assert _judge(_intent(Side.SELL), _view(equity=D(equity))) is Check.UNKNOWN_INPUT


@pytest.mark.parametrize(
    ("intent", "view"),
    [
        (_intent(qty="10"), VIEW),  # P1: exactly 10 % of equity; P4: exactly 30 % with the 20 % held
        (_intent(), _under(max_qty=D(5))),
        (_intent(), _under(min_qty=D(5))),
        (_intent(), _under(min_notional=D(500))),
        (_intent(), _under(max_orders=0)),
        (_intent(), _under(bid_up=D(1), bid_down=D(1))),
        (_intent(), _under(bid_up=D(0), bid_down=D(0))),
        (_exit(limit="100"), _under(ask_up=D(1), ask_down=D(1))),
        (_intent(), _view(clock_offset_ns=-500 * NS_PER_MS)),
        (_intent(), _at(frame_ns=NOW + 500 * NS_PER_MS)),
        (_exit(), _at(ref_ns=NOW + 500 * NS_PER_MS)),
        (_intent(client_id="b" * 36), VIEW),
        (_exit("20"), VIEW),
    ],
)
def test_a_limit_reached_is_not_a_limit_passed(intent: Intent, view: GateView) -> None:
    """Exactly at each bound an order is approved."""
    assert _judge(intent, view) is None


def test_refusals_say_by_how_much() -> None:
    """The operator reads the number that was judged."""
    (verdict,) = Gate(Limits(max_gross=0.25), UNIVERSE).judge([_intent(qty="6")], VIEW)

    assert isinstance(verdict, Refused)
    assert verdict.detail == "all positions could reach 0.2600 of equity"


def test_mixed_up_markets_deny() -> None:
    """A view filed under the wrong symbol, or with the wrong rules, is no market data."""
    assert _judge(_intent(), _view(markets={BTC: _market(ETH)})) is Check.UNKNOWN_INPUT
    assert _judge(_intent(), _at(instrument=msgspec.structs.replace(RULES, symbol=ETH))) is Check.UNKNOWN_INPUT


def test_arithmetic_that_fails_denies() -> None:
    """A broken filter is caught as unknown input, not as a crash."""
    assert _judge(_intent(), _under(step=D(0))) is Check.UNKNOWN_INPUT
    assert _judge(_intent(), _under(min_notional=D("NaN"))) is Check.UNKNOWN_INPUT
    assert _judge(_intent(), _view(reserved_buys={BTC: D("NaN")})) is Check.UNKNOWN_INPUT


# ---------------------------------------------------------------------------------- properties

SYMBOLS = st.sampled_from(UNIVERSE)
QTY = st.integers(min_value=1, max_value=12_000).map(lambda n: D(n) / 1000)
HELD = st.dictionaries(SYMBOLS, st.integers(min_value=0, max_value=40_000).map(lambda n: D(n) / 1000), max_size=3)


@st.composite
def _batches(draw: st.DrawFn) -> tuple[list[Intent], GateView]:
    """Batches near the limits: most intents are sound by themselves, what refuses them is what came before."""
    positions = draw(HELD)
    one_in_five = st.integers(min_value=0, max_value=4).map(lambda n: n == 0)
    reserved_sells = {s: min(q, draw(QTY)) for s, q in positions.items() if draw(one_in_five)}
    prices = {s: draw(st.floats(min_value=95.0, max_value=105.0)) for s in UNIVERSE}
    markets = {
        s: _market(s, bid=p * 0.9999, ask=p * 1.0001, last=p, frozen=draw(one_in_five)) for s, p in prices.items()
    }
    view = _view(
        state=TradingState.REDUCING if draw(one_in_five) else TradingState.ACTIVE,
        equity=D(draw(st.integers(min_value=2000, max_value=20_000))),
        cash_free=D(draw(st.integers(min_value=-100, max_value=10_000))),
        positions=positions,
        sellable={s: q - reserved_sells.get(s, D(0)) for s, q in positions.items()},
        reserved_buys={s: D(draw(st.integers(min_value=0, max_value=500))) for s in UNIVERSE if draw(one_in_five)},
        reserved_sells=reserved_sells,
        markets=markets,
    )
    intents: list[Intent] = []
    for number in range(draw(st.integers(min_value=1, max_value=8))):
        symbol = draw(SYMBOLS)
        side = Side.BUY if draw(st.integers(min_value=0, max_value=2)) else Side.SELL
        shift = draw(st.floats(min_value=0.995, max_value=1.005)) * (0.97 if draw(one_in_five) else 1.0)
        limit = D(repr(round(prices[symbol] * shift, 2)))
        out = side is Side.SELL and draw(st.booleans())
        intents.append(
            _intent(side, symbol=symbol, qty=draw(QTY), limit=limit, decision=f"d-{number}", leg=number, exit=out)
        )
    return intents, view


@settings(max_examples=200, deadline=None)
@given(_batches())
def test_p4_i4_worst_case_holds_under_any_fills(batch: tuple[list[Intent], GateView]) -> None:
    """Whatever subset of approved and live orders fills: no limit is passed that was not passed before."""
    intents, view = batch
    approved = [v.intent for v in Gate(LIMITS, UNIVERSE).judge(intents, view) if isinstance(v, Approved)]
    fee = 1 + D("0.001")
    buys = [i for i in approved if i.side is Side.BUY]
    sells = [i for i in approved if i.side is Side.SELL]
    mids = {s: D(repr((m.bid + m.ask) / 2)) for s, m in view.markets.items()}
    for mask in range(1 << min(len(approved), 6)):
        filled = [i for n, i in enumerate(approved) if n >= 6 or mask >> n & 1]
        qty = dict(view.positions)
        value = {s: q * mids[s] for s, q in qty.items()}
        cash = view.cash_free
        for intent in filled:
            sign = 1 if intent.side is Side.BUY else -1
            qty[intent.symbol] = qty.get(intent.symbol, D(0)) + sign * intent.qty
            price = intent.limit if sign > 0 else mids[intent.symbol]
            value[intent.symbol] = value.get(intent.symbol, D(0)) + sign * intent.qty * price
            cash -= intent.notional * fee if sign > 0 else D(0)
        live = view.reserved_buys
        assert all(q >= view.reserved_sells.get(s, D(0)) for s, q in qty.items())
        bought = {i.symbol for i in filled if i.side is Side.BUY}
        for symbol in bought:
            assert value[symbol] + live.get(symbol, D(0)) <= view.equity * D("0.3")
        if bought:
            assert sum(value.values()) + sum(live.values()) <= view.equity
            assert cash >= view.equity * D("0.02")
    if view.state is TradingState.REDUCING:
        assert not buys
    for symbol in UNIVERSE:
        assert sum((i.qty for i in sells if i.symbol == symbol), D(0)) <= view.sellable.get(symbol, D(0))


@settings(max_examples=200, deadline=None)
@given(_batches())
def test_i6_p12_whatever_is_approved_is_sound(batch: tuple[list[Intent], GateView]) -> None:
    """Filters, collar and state hold for every approval; a second gate says the same."""
    intents, view = batch
    verdicts = Gate(LIMITS, UNIVERSE).judge(intents, view)
    assert Gate(LIMITS, UNIVERSE).judge(intents, view) == verdicts
    for verdict in verdicts:
        if isinstance(verdict, Refused):
            continue
        intent = verdict.intent
        market = view.markets[intent.symbol]
        mid = D(repr((market.bid + market.ask) / 2))
        assert intent.qty % RULES.step == 0
        assert intent.limit % RULES.tick == 0
        assert intent.notional >= RULES.min_notional
        assert abs(intent.limit - mid) <= mid * D("0.05" if intent.exit else "0.01")
        assert intent.exit or intent.notional <= view.equity * D("0.1")
        assert intent.side is Side.SELL or not market.frozen


BAD_FLOAT = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -1.0, 1e300])
BAD_DECIMAL = st.sampled_from([D("NaN"), D("Infinity"), D("-Infinity"), D("-1"), D("1e300")])


@given(
    st.one_of(
        BAD_FLOAT.map(lambda x: (_intent(), _at(bid=x, ask=x, last=x))),
        BAD_FLOAT.map(lambda x: (_exit(), _at(bid=x, ask=x, last=x))),
        BAD_DECIMAL.map(lambda x: (_intent(), _view(equity=x))),
        BAD_DECIMAL.filter(lambda x: x < 0 or not x.is_finite() if not x.is_nan() else True).map(
            lambda x: (_intent(), _view(cash_free=x))
        ),
        BAD_DECIMAL.map(lambda x: (_intent(), _view(positions={BTC: x}))),
        BAD_DECIMAL.map(lambda x: (_intent(symbol=ETH), _view(positions={BTC: x}))),
        BAD_DECIMAL.filter(lambda x: not x.is_finite() or x < 0).map(lambda x: (_exit(), _view(sellable={BTC: x}))),
        BAD_DECIMAL.map(lambda x: (_intent(qty=str(x)), VIEW)),
        BAD_DECIMAL.map(lambda x: (_exit(limit=str(x)), VIEW)),
    )
)
def test_unknown_numbers_are_never_approved(case: tuple[Intent, GateView]) -> None:
    """NaN, infinity, zero prices and nonsense anywhere the judgement looks: refused, never a crash."""
    intent, view = case

    assert _judge(intent, view) is not None
