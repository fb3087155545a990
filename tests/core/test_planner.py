"""Targets and exits become intents: by example, and by property through the real gate."""

import math
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.core.planner import ExitRequest, Plan, PlanRequest, Quote, exit_plan, plan
from daemon.domain.events import TradingState
from daemon.domain.market import NS_PER_S, Instrument
from daemon.domain.orders import Approved, Cause, Intent, Side, Tif
from risk.gate import Gate, GateView, MarketView
from risk.limits import Limits

D = Decimal
NOW = 1_700_000_000 * NS_PER_S
A, B, C = "AAA/USDT", "BBB/USDT", "CCC/USDT"
UNIVERSE = (A, B, C)
RULES = Instrument(
    symbol=A,
    venue_id="AAAUSDT",
    base="AAA",
    quote="USDT",
    tick=D("0.01"),
    step=D("0.001"),
    min_qty=D("0.001"),
    max_qty=D(9000),
    min_notional=D(5),
    bid_up=D(5),
    bid_down=D("0.2"),
    ask_up=D(5),
    ask_down=D("0.2"),
)
QUOTE = Quote(bid=99.99, ask=100.01, last=100.0)
REQUEST = PlanRequest(
    decision="bar-1-1",
    instance="main",
    account="acct",
    mode="paper",
    now_ns=NOW,
    targets={},
    positions={},
    sellable={},
    equity=D(10_000),
    cash_free=D(10_000),
    quotes=dict.fromkeys(UNIVERSE, QUOTE),
    instruments={symbol: msgspec.structs.replace(RULES, symbol=symbol) for symbol in UNIVERSE},
    limits=Limits(),
    max_intents=100,
)
EXIT = ExitRequest(
    decision="stop-1-1",
    instance="main",
    account="acct",
    mode="paper",
    now_ns=NOW,
    symbol=A,
    qty=D("25.0004"),
    equity=D(10_000),
    quote=QUOTE,
    instrument=RULES,
    limits=Limits(),
    cause=Cause.STOP_LOSS,
)


def _plan(targets: dict[str, float], held: dict[str, str] | None = None, /, **changes: object) -> Plan:
    positions = {symbol: D(qty) for symbol, qty in (held or {}).items()}
    base = {"targets": targets, "positions": positions, "sellable": positions}
    return plan(msgspec.structs.replace(REQUEST, **{**base, **changes}))


def _rules(**changes: object) -> dict[str, Instrument]:
    return {symbol: msgspec.structs.replace(RULES, symbol=symbol, **changes) for symbol in UNIVERSE}


def _short(made: Plan) -> list[tuple[str, str, str, str]]:
    return [(i.symbol, i.side.value, str(i.qty), str(i.limit)) for i in made.intents]


def _why(made: Plan) -> dict[str, str]:
    return {one.symbol: one.reason for one in made.deferred}


def _judge(made: Plan, request: PlanRequest | ExitRequest, view: GateView) -> list[object]:
    return list(Gate(request.limits, UNIVERSE).judge(made.intents, view))


def _view(request: PlanRequest, **changes: object) -> GateView:
    """The gate's view of the same account and prices."""
    view = GateView(
        now_ns=request.now_ns,
        state=TradingState.ACTIVE,
        equity=request.equity,
        cash_free=request.cash_free,
        positions=request.positions,
        sellable=request.sellable,
        reserved_buys=request.reserved_buys,
        reserved_sells={},
        markets={
            s: MarketView(s, request.instruments[s], q.bid, q.ask, q.last, NOW, 0, s in request.frozen, NOW)
            for s, q in request.quotes.items()
        },
        live_intents=frozenset(),
        open_orders={},
        clock_offset_ns=0,
        user_link_up=True,
    )
    return msgspec.structs.replace(view, **changes)


# ---------------------------------------------------------------------------------- rebalancing


def test_a_buy_from_cash() -> None:
    """5 % of 10,000 at a mid of 100 is 5 units; the limit is the ask plus slippage, down to the tick."""
    made = _plan({A: 0.05})
    (intent,) = made.intents

    assert _short(made) == [(A, "buy", "5.000", "100.21")]
    assert (intent.reference, intent.tif, intent.cause, intent.exit) == (D(100), Tif.IOC, Cause.REBALANCE, False)
    assert (intent.ts_ns, intent.expires_ns) == (NOW, NOW + 2 * NS_PER_S)
    assert made.errors == {A: 0.0}
    assert made == _plan({A: 0.05})


def test_a_sale_passes_as_an_exit_at_the_bid() -> None:
    """Down to 5 %: what is above leaves at the bid less slippage, up to the tick."""
    made = _plan({A: 0.05}, {A: "10"})

    assert _short(made) == [(A, "sell", "5.000", "99.80")]
    assert made.intents[0].exit


def test_resting_orders_sit_at_the_touch() -> None:
    """With order = limit buys rest at the bid, sales at the ask; forced exits cross all the same."""
    limits = Limits(order=Tif.GTC)
    made = _plan({A: 0.05, B: 0.0}, {B: "5", C: "5"}, limits=limits, closing=frozenset({C}))

    assert [(i.symbol, str(i.limit), i.tif) for i in made.intents] == [
        (C, "99.80", Tif.IOC),
        (B, "100.01", Tif.GTC),
        (A, "99.99", Tif.GTC),
    ]


def test_band_leaves_noise_alone() -> None:
    """Twice the one-way cost (10 bp fee, 1 bp half spread) is 0.22 % of equity; minimum notional if that is more."""
    assert _plan({A: 0.0022}).intents == ()
    assert len(_plan({A: 0.00221}).intents) == 1
    assert _plan({A: 0.0478}, {A: "5"}).intents == ()
    assert len(_plan({A: 0.0477}, {A: "5"}).intents) == 1
    assert _plan({A: 0.01}, instruments=_rules(min_notional=D(100))).intents == ()
    assert _plan({A: 0.01}, band_weight=0.01).intents == ()
    made = _plan({A: 0.0022})
    assert made.errors == {A: pytest.approx(0.0022)}
    assert _plan({A: 0.05}, {A: "5"}).errors == {A: 0.0}


def test_one_sided_and_crossed_books() -> None:
    """A missing side is replaced by the last trade and widens no band; a crossed book counts for nothing."""
    assert _short(_plan({A: 0.05}, quotes={A: Quote(0.0, 100.01, 100.0)})) == [(A, "buy", "5.000", "100.21")]
    assert _short(_plan({A: 0.05}, quotes={A: Quote(99.99, 0.0, 100.0)})) == [(A, "buy", "5.000", "100.20")]
    assert _short(_plan({A: 0.0}, {A: "5"}, quotes={A: Quote(0.0, 100.01, 100.0)})) == [(A, "sell", "5.000", "99.80")]
    assert _short(_plan({A: 0.0}, {A: "5"}, quotes={A: Quote(91.0, 90.0, 90.0)})) == [(A, "sell", "5.000", "89.82")]


def test_a_target_of_zero_has_no_band() -> None:
    """Crumbs of solvers count as zero; what the venue would not take is dust and left out."""
    assert _short(_plan({A: 1e-9}, {A: "0.1"})) == [(A, "sell", "0.100", "99.80")]
    dust = _plan({A: 0.0}, {A: "0.05"})
    assert dust.intents == ()
    assert dust.dust == (A,)
    assert _plan({A: 0.0}).dust == ()


def test_a_remainder_that_could_never_be_sold_goes_too() -> None:
    """Down to 0.03 %: three units of quote would be left below the minimum notional, so all goes."""
    assert _short(_plan({A: 0.0003}, {A: "5"})) == [(A, "sell", "5.000", "99.80")]


def test_small_sales_the_venue_would_not_take_wait() -> None:
    """Beyond the band but below the minimum quantity: nothing, and no dust either."""
    made = _plan({A: 0.05}, {A: "10"}, sellable={A: D("0.01")})

    assert made.intents == ()
    assert made.dust == ()


def test_slices_over_time() -> None:
    """A difference of 25 % is worked in orders of at most 10 % of equity, one per decision."""
    buy = _plan({A: 0.25})
    sell = _plan({A: 0.05}, {A: "30"})

    assert _short(buy) == [(A, "buy", "9.979", "100.21")]
    assert _why(buy) == {A: "slice"}
    assert buy.deferred[0].weight == pytest.approx(0.15021)
    assert _short(sell) == [(A, "sell", "8.334", "99.80")]
    assert _why(sell) == {A: "slice"}
    assert sell.deferred[0].weight == pytest.approx(-0.16666)
    assert buy.intents[0].notional <= D(1000)


def test_closing_symbols_go_at_once_in_legs() -> None:
    """Close-only and cooling symbols: target 0 whatever is wished, all legs now, the rate limit set aside."""
    made = _plan({A: 0.3}, {A: "25"}, closing=frozenset({A}), max_intents=0)

    assert [str(i.qty) for i in made.intents] == ["8.334", "8.333", "8.333"]
    assert [i.leg for i in made.intents] == [0, 1, 2]
    assert {i.cause for i in made.intents} == {Cause.CLOSE_ONLY}
    assert made.deferred == ()


def test_p14_cash_is_rationed_by_benefit() -> None:
    """Fees and min_cash are kept back; the larger difference first, the rest waits for cash."""
    made = _plan({A: 0.08, B: 0.09}, cash_free=D(1500))

    assert [i.symbol for i in made.intents] == [B, A]
    assert _why(made) == {A: "cash"}
    bought = made.intents[1].qty * 100 / D(10_000)
    assert made.deferred[0].weight == pytest.approx(0.08 - float(bought))
    assert sum(i.notional for i in made.intents) * D("1.001") <= D(1300)
    assert _plan({A: 0.08}, cash_free=D(201)).intents == ()
    other = _plan({A: 0.08, B: 0.09}, cash_free=D(1500), benefits={A: 2.0, B: math.nan})
    assert [i.symbol for i in other.intents] == [A, B]


def test_sells_leave_before_buys() -> None:
    """And when cash is short they come first under the rate limit too."""
    held = {A: "5"}
    made = _plan({A: 0.02, B: 0.09}, held)
    assert [i.side for i in made.intents] == [Side.SELL, Side.BUY]
    one = _plan({A: 0.02, B: 0.09}, held, max_intents=1)
    assert [i.symbol for i in one.intents] == [B]
    assert _why(one) == {A: "rate"}
    short = _plan({A: 0.02, B: 0.09}, held, max_intents=1, cash_free=D(600))
    assert [i.symbol for i in short.intents] == [A]
    assert _why(short)[B] == "rate"


def test_p4_weight_and_gross_leave_room() -> None:
    """Sizes stop where the worst case would pass a limit, live buys included."""
    capped = _plan({A: 0.30}, {A: "25"})
    assert capped.intents[0].notional <= D(500)
    assert _why(capped) == {A: "limit"}
    assert _plan({A: 0.30}, {A: "25"}, reserved_buys={A: D(498)}).intents == ()
    gross = _plan({A: 0.1}, {B: "25"}, limits=Limits(max_gross=0.3))
    assert gross.intents[0].notional <= D(500)
    two = _plan({A: 0.1, B: 0.1}, {C: "25"}, limits=Limits(max_gross=0.4))
    assert [i.symbol for i in two.intents] == [A, B]
    assert D(1490) < sum(i.notional for i in two.intents) <= D(1500)
    unknown = _plan({A: 0.1}, {"OLD/USDT": "1"})
    assert _why(unknown) == {A: "limit"}
    assert len(_plan({A: 0.1}, {"OLD/USDT": "0"}).intents) == 1


def test_what_may_not_be_touched_waits() -> None:
    """Blocked, frozen, crossed, halted, unpriced or unknown symbols are deferred with the reason."""
    crossed = {**REQUEST.quotes, A: Quote(100.02, 100.01, 100.0)}
    cases: list[tuple[dict[str, object], str]] = [
        ({"blocked": {A: "order unknown"}}, "order unknown"),
        ({"frozen": frozenset({A})}, "frozen"),
        ({"quotes": crossed}, "crossed book"),
        ({"instruments": _rules(trading=False)}, "not trading"),
        ({"instruments": {}}, "no market"),
        ({"quotes": {}}, "no price"),
        ({"quotes": {A: Quote(math.nan, math.inf, 0.0)}}, "no price"),
        ({"positions": {A: D("NaN")}}, "position unknown"),
        ({"quotes": {A: Quote(97.0, 103.0, 0.0)}}, "no limit inside the collar"),
    ]
    for changes, reason in cases:
        made = _plan({A: 0.08}, None, **changes)
        assert made.intents == ()
        assert _why(made) == {A: reason}
    assert len(_plan({A: 0.0}, {A: "5"}, frozen=frozenset({A}), quotes=crossed).intents) == 1


@pytest.mark.parametrize("target", [math.nan, math.inf, -0.1])
def test_p11_targets_that_are_no_weights_hold(target: float) -> None:
    """A NaN from a strategy moves nothing."""
    made = _plan({A: target}, {A: "5"})

    assert made.intents == ()
    assert "is not a weight" in _why(made)[A]


@pytest.mark.parametrize("changes", [{"equity": D("NaN")}, {"equity": D(0)}, {"cash_free": D("Infinity")}])
def test_unknown_equity_plans_nothing(changes: dict[str, object]) -> None:
    """Unknown means hold."""
    made = _plan({A: 0.1}, {A: "50"}, **changes)

    assert made.intents == ()
    assert _why(made) == {A: "equity unknown"}


def test_unknown_free_balance_sells_nothing() -> None:
    """A NaN balance is not a quantity."""
    assert _why(_plan({A: 0.0}, {A: "5"}, sellable={A: D("NaN")})) == {A: "free balance unknown"}


def test_p14_sells_at_most_the_free_balance_rounded_down() -> None:
    """Fees taken in base leave odd amounts: down to the lot, never up."""
    made = _plan({A: 0.0}, {A: "5"}, sellable={A: D("4.99567")})

    assert [str(i.qty) for i in made.intents] == ["4.995"]


def test_p2_largest_quantity_of_the_venue() -> None:
    """Buys are cut to LOT_SIZE's maximum, sales into legs of it."""
    rules = _rules(max_qty=D(2))
    assert [str(i.qty) for i in _plan({A: 0.05}, instruments=rules).intents] == ["2.000"]
    assert [str(i.qty) for i in _plan({}, {A: "5"}, instruments=rules, closing=frozenset({A})).intents] == [
        "1.667",
        "1.667",
        "1.666",
    ]


def test_a_slice_too_small_for_the_venue_is_not_sent() -> None:
    """A tiny account whose slices fall below the minimum notional buys nothing."""
    made = _plan({A: 0.3}, equity=D(40), cash_free=D(40))

    assert made.intents == ()
    assert made.errors[A] == pytest.approx(0.3)


# ---------------------------------------------------------------------------------- exits


def test_a8_exit_legs_and_ladder() -> None:
    """Legs within 10 % of equity; rung by rung down to the collar around the mid, never below."""
    legs = exit_plan(EXIT)
    assert [str(i.qty) for i in legs.intents] == ["8.334", "8.333", "8.333"]
    assert {(str(i.limit), i.tif, i.cause, i.exit) for i in legs.intents} == {("99.80", Tif.IOC, Cause.STOP_LOSS, True)}
    limits = [exit_plan(msgspec.structs.replace(EXIT, attempt=n)).intents[0].limit for n in range(4)]
    assert limits == [D("99.80"), D("99.20"), D("95.00"), D("95.00")]


def test_exit_without_a_book_uses_the_last_trade() -> None:
    """One-sided, crossed or absent books; without any price there is nothing to plan around."""
    for quote in (Quote(0.0, 0.0, 90.0), Quote(91.0, 90.0, 90.0)):
        assert exit_plan(msgspec.structs.replace(EXIT, quote=quote)).intents[0].limit == D("89.82")
    nothing = exit_plan(msgspec.structs.replace(EXIT, quote=Quote(0.0, 0.0, 0.0)))
    assert _why(nothing) == {A: "no price"}
    assert _why(exit_plan(msgspec.structs.replace(EXIT, qty=D("NaN")))) == {A: "no quantity"}


def test_a_tick_coarser_than_the_collar_leaves_no_limit() -> None:
    """Neither exit nor rebalancing sells at a price the gate must refuse; it is said why."""
    coarse = _rules(tick=D(70))

    assert _why(exit_plan(msgspec.structs.replace(EXIT, instrument=coarse[A]))) == {A: "no limit inside the collar"}
    assert _why(_plan({A: 0.0}, {A: "5"}, instruments=coarse)) == {A: "no limit inside the collar"}


def test_exit_of_dust_and_in_more_legs_than_allowed() -> None:
    """Dust is named; legs beyond the bound wait for the next attempt."""
    assert exit_plan(msgspec.structs.replace(EXIT, qty=D("0.0009"))).dust == (A,)
    made = exit_plan(msgspec.structs.replace(EXIT, legs_max=2, first_leg=7))
    assert [i.leg for i in made.intents] == [7, 8]
    assert _why(made) == {A: "legs"}
    assert made.deferred[0].weight == pytest.approx(-0.08333)


def test_exit_does_not_need_equity() -> None:
    """An account whose worth is unknown can still get out, in one piece."""
    made = exit_plan(msgspec.structs.replace(EXIT, equity=D("NaN")))
    view = _view(
        msgspec.structs.replace(REQUEST, positions={A: D(26)}, sellable={A: D(26)}, equity=D("NaN")),
        state=TradingState.REDUCING,
    )

    assert [str(i.qty) for i in made.intents] == ["25.000"]
    assert all(isinstance(v, Approved) for v in _judge(made, EXIT, view))


# ---------------------------------------------------------------------------------- properties

PRICE = st.floats(min_value=2.0, max_value=50_000.0)
TICKS = st.sampled_from([D("0.01"), D("0.0001"), D("0.5"), D(1)])
STEPS = st.sampled_from([D("0.00001"), D("0.001"), D("0.1"), D(1)])


@st.composite
def _requests(draw: st.DrawFn) -> PlanRequest:
    equity = D(draw(st.integers(min_value=50, max_value=1_000_000)))
    quotes: dict[str, Quote] = {}
    rules: dict[str, Instrument] = {}
    positions: dict[str, Decimal] = {}
    used = D(0)
    for symbol in UNIVERSE:
        mid = draw(PRICE)
        half = draw(st.floats(min_value=1e-5, max_value=0.004))
        book = draw(st.booleans())
        quotes[symbol] = Quote(mid * (1 - half) if book else 0.0, mid * (1 + half) if book else 0.0, mid)
        rules[symbol] = msgspec.structs.replace(
            RULES,
            symbol=symbol,
            tick=draw(TICKS),
            step=draw(STEPS),
            min_qty=D(0),
            max_qty=D(draw(st.integers(0, 9000))),
        )
        weight = draw(st.floats(min_value=0.0, max_value=draw(st.sampled_from([0.1, 0.33]))))
        qty = D(repr(round(float(equity) * weight / mid, 7)))
        positions[symbol] = qty
        used += qty * D(repr(mid))
    return msgspec.structs.replace(
        REQUEST,
        equity=equity,
        cash_free=(equity - used) * D(draw(st.integers(min_value=-10, max_value=100))) / 100,
        quotes=quotes,
        instruments=rules,
        positions=positions,
        sellable={s: q * D(draw(st.integers(min_value=0, max_value=100))) / 100 for s, q in positions.items()},
        targets={s: draw(st.floats(min_value=0.0, max_value=0.4)) for s in UNIVERSE},
        frozen=frozenset(draw(st.sets(st.sampled_from(UNIVERSE), max_size=draw(st.integers(0, 2)) // 2))),
        closing=frozenset(draw(st.sets(st.sampled_from(UNIVERSE), max_size=1))),
        limits=Limits(order=draw(st.sampled_from(Tif)), venue_orders_per_10s=1000),
        max_intents=draw(st.integers(min_value=0, max_value=10)),
    )


@settings(max_examples=300, deadline=None)
@given(_requests())
def test_i14_the_gate_approves_what_was_planned(request: PlanRequest) -> None:
    """Planner and gate agree to the last unit: filters, collar, worst case, funds, whatever the account looks like."""
    made = plan(request)

    refused = [v for v in _judge(made, request, _view(request)) if not isinstance(v, Approved)]
    assert refused == []


@settings(max_examples=300, deadline=None)
@given(_requests())
def test_p12_i5_every_planned_order_is_on_the_grid(request: PlanRequest) -> None:
    """Exact multiples, minimum notional, one side per symbol, ids unique, never more than is free or wished."""
    made = plan(request)
    by_symbol: dict[str, list[Intent]] = {}
    for intent in made.intents:
        rules = request.instruments[intent.symbol]
        assert intent.qty % rules.step == 0
        assert intent.limit % rules.tick == 0
        assert intent.notional >= rules.min_notional
        assert not rules.max_qty or intent.qty <= rules.max_qty
        by_symbol.setdefault(intent.symbol, []).append(intent)
    ids = [i.client_id for i in made.intents]
    assert len(set(ids)) == len(ids)
    sides = [i.side for i in made.intents]
    assert sides == sorted(sides, key=lambda side: side is Side.BUY)
    for symbol, intents in by_symbol.items():
        assert len({i.side for i in intents}) == 1
        total = sum((i.qty for i in intents), D(0))
        if intents[0].side is Side.SELL:
            assert total <= request.sellable[symbol]
        else:
            gap = D(repr(request.targets[symbol])) * request.equity - request.positions[symbol] * intents[0].reference
            assert total * intents[0].reference <= gap
            assert symbol not in request.frozen
            assert symbol not in request.closing
    assert sum(1 for i in made.intents if i.cause is Cause.REBALANCE) <= request.max_intents


@settings(max_examples=200, deadline=None)
@given(_requests())
def test_projection_error_is_bounded(request: PlanRequest) -> None:
    """Without slices, caps and rationing a target is missed by the band or one lot at most."""
    free = msgspec.structs.replace(
        request,
        sellable=request.positions,
        frozen=frozenset(),
        instruments={s: msgspec.structs.replace(r, max_qty=D(0)) for s, r in request.instruments.items()},
        quotes={s: Quote(0.0, 0.0, q.last) for s, q in request.quotes.items()},
        limits=Limits(max_order_notional=1.0),
    )
    made = plan(free)
    for symbol, error in made.errors.items():
        rules = free.instruments[symbol]
        lot = rules.step * D(repr(free.quotes[symbol].last))
        band = max(D("0.002") * free.equity, 2 * rules.min_notional)
        if not any(d.symbol == symbol and "collar" in d.reason for d in made.deferred):
            assert error <= float((band + 2 * lot) / free.equity) + 1e-9


@settings(max_examples=100, deadline=None)
@given(_requests(), st.integers(min_value=0, max_value=3))
def test_a8_i12_exits_pass_the_gate_in_any_weather(request: PlanRequest, attempt: int) -> None:
    """Each rung of each exit is approved while REDUCING, and only ever sells."""
    view = _view(request, state=TradingState.REDUCING, user_link_up=False, cash_free=D("NaN"))
    for symbol in UNIVERSE:
        made = exit_plan(
            msgspec.structs.replace(
                EXIT,
                symbol=symbol,
                qty=request.sellable[symbol],
                equity=request.equity,
                quote=request.quotes[symbol],
                instrument=request.instruments[symbol],
                attempt=attempt,
            )
        )
        assert all(isinstance(v, Approved) for v in _judge(made, request, view))
        assert sum((i.qty for i in made.intents), D(0)) <= request.sellable[symbol]
        assert {i.side for i in made.intents} <= {Side.SELL}
