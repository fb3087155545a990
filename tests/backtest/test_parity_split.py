"""The split of a gap: by hand, and whatever the numbers are its parts add up to the difference of two accounts."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.backtest.parity_split import PARTS, Order, Parts, Trade, shortfall, split, worth

D = Decimal
PAIRS: tuple[str, ...] = ("BTC/USDT", "ETH/USDT")


def test_one_order_by_hand() -> None:
    """Wanted 10 at 100, got 6 at 103 when the market stood at 101 and its ask at 102; the interval ends at 110."""
    trade = Trade(qty=D(6), price=D(103), arrival=D(101), touch=D(102), fee_quote=D(1), fee_base=D("0.01"))
    found = shortfall([Order(symbol="BTC/USDT", qty=D(10), decided=D(100), trades=(trade,))], {"BTC/USDT": D(110)})

    assert found == {
        "BTC/USDT": Parts(
            signal=D(100), missed=D(-40), delay=D(-6), spread=D(-6), impact=D(-6), fees=D("-1") - D("0.01") * 110
        )
    }
    assert found["BTC/USDT"].total == 6 * (110 - 103) - 1 - D("1.1")


def test_a_sale_costs_too() -> None:
    """The same signs for a sale: below the middle, below the touch is a cost."""
    trade = Trade(qty=D(-2), price=D(97), arrival=D(99), touch=D(98))
    found = shortfall([Order(symbol="ETH/USDT", qty=D(-2), decided=D(100), trades=(trade,))], {"ETH/USDT": D(90)})

    assert found["ETH/USDT"] == Parts(signal=D(20), delay=D(-2), spread=D(-2), impact=D(-2), fees=D(0), missed=D(0))


def test_equal_sides_have_no_gap_and_equal_orders_no_signal() -> None:
    """The same orders and trades: nothing; the same orders, one filled at another price: anything but signal and missed."""
    end = {"BTC/USDT": D(120)}
    one = Order(
        symbol="BTC/USDT",
        qty=D(3),
        decided=D(100),
        trades=(Trade(qty=D(3), price=D(101), arrival=D(100), touch=D(101)),),
    )
    other = Order(
        symbol="BTC/USDT",
        qty=D(3),
        decided=D(100),
        trades=(Trade(qty=D(3), price=D(105), arrival=D(103), touch=D(104)),),
    )

    assert split([one], [one], end) == {"BTC/USDT": Parts()}
    assert split([one], [other], end) == {"BTC/USDT": Parts(delay=D(9), spread=D(0), impact=D(3))}


def test_a_symbol_without_a_price_is_no_zero() -> None:
    """What cannot be valued is an error, never worthless."""
    with pytest.raises(KeyError):
        shortfall([Order(symbol="BTC/USDT", qty=D(1), decided=D(1))], {})
    with pytest.raises(KeyError):
        worth(D(0), {"BTC/USDT": D(1)}, {})


amounts = st.decimals(-1000, 1000, places=5, allow_nan=False, allow_infinity=False)
prices = st.decimals("0.01", 100_000, places=4, allow_nan=False, allow_infinity=False)
fees = st.decimals(0, 5, places=8, allow_nan=False, allow_infinity=False)
trades = st.builds(Trade, qty=amounts, price=prices, arrival=prices, touch=prices, fee_quote=fees, fee_base=fees)
orders = st.lists(
    st.builds(
        Order,
        symbol=st.sampled_from(PAIRS),
        qty=amounts,
        decided=prices,
        trades=st.lists(trades, max_size=3).map(tuple),
    ),
    max_size=6,
)


def profit(made: list[Order], start: dict[str, Decimal], begin: dict[str, Decimal], end: dict[str, Decimal]) -> Decimal:
    """Keep an account: what holdings that begin like this become, trade by trade."""
    cash, held = D(1000), dict(start)
    opening = worth(cash, held, begin)
    for order in made:
        for trade in order.trades:
            cash -= trade.qty * trade.price + trade.fee_quote
            held[order.symbol] = held.get(order.symbol, D(0)) + trade.qty - trade.fee_base
    return worth(cash, held, end) - opening


@given(orders, orders, amounts, prices, prices, prices, prices)
def test_the_parts_add_up_to_the_gap_of_the_accounts(
    recorded: list[Order],
    backtest: list[Order],
    held: Decimal,
    btc: Decimal,
    eth: Decimal,
    btc_end: Decimal,
    eth_end: Decimal,
) -> None:
    """Whatever was sent and traded: two accounts that begin alike differ by the sum of the parts, to the last digit."""
    start = {"BTC/USDT": held}
    begin = dict(zip(PAIRS, (btc, eth), strict=True))
    end = dict(zip(PAIRS, (btc_end, eth_end), strict=True))
    found = split(recorded, backtest, end)
    gap = profit(recorded, start, begin, end) - profit(backtest, start, begin, end)

    assert sum((one.total for one in found.values()), D(0)) == gap


@given(orders, orders)
def test_the_two_sides_are_mirrors(recorded: list[Order], backtest: list[Order]) -> None:
    """Exchanged, every part has the other sign."""
    end = dict(zip(PAIRS, (D(100), D(7)), strict=True))
    there, back = split(recorded, backtest, end), split(backtest, recorded, end)

    assert there.keys() == back.keys()
    for symbol, parts in there.items():
        assert [getattr(parts, name) for name in PARTS] == [-getattr(back[symbol], name) for name in PARTS]
