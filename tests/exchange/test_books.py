"""The exchange's books conserve every asset whatever clients do, and fills follow the matching model."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.exchange.books import Books, Order
from daemon.exchange.clock import ManualClock
from daemon.exchange.config import SimConfig
from daemon.exchange.desk import Report
from daemon.exchange.errors import ApiError
from daemon.exchange.filters import Ticket
from daemon.exchange.venue import Venue

NOW_NS = 1_800_000_000_000_000_000


def venue(**changes: Any) -> Venue:
    """A small exchange without network."""
    return Venue(SimConfig(**{"history_bars": 256, "symbols": 2, **changes}), ManualClock(NOW_NS))


def touch(made: Venue, index: int = 0) -> tuple[Decimal, Decimal]:
    """Best bid and ask."""
    return made.ladder.levels(index, asks=False)[0][0], made.ladder.levels(index, asks=True)[0][0]


def ticket(made: Venue, **changes: Any) -> Ticket:
    """A limit buy of the first symbol, changed as asked."""
    plain = {"index": 0, "side": "BUY", "type": "LIMIT", "client_id": made.client_id(), "tif": "GTC"}
    return Ticket(**{**plain, **changes})


actions = st.lists(
    st.tuples(
        st.sampled_from(["LIMIT", "MARKET", "LIMIT_MAKER", "QUOTE", "CANCEL", "STEP", "DEPOSIT", "CRASH"]),
        st.sampled_from(["BUY", "SELL"]),
        st.sampled_from(["GTC", "IOC", "FOK"]),
        st.integers(0, 1),
        st.integers(1, 4_000),
        st.integers(-60, 60),
    ),
    min_size=5,
    max_size=40,
)


def act(made: Venue, kind: str, side: str, tif: str, index: int, size: int, offset: int) -> None:
    """Do one thing to an exchange; refusals are fine."""
    spec, (bid, ask) = made.desk.specs[index], touch(made, index)
    qty = (Decimal(size) * 20 / ask).quantize(spec.lot)
    price = ((bid + ask) / 2 * (1 + Decimal(offset) / 10_000)).quantize(spec.tick)
    base = {"index": index, "side": side, "qty": qty}
    if kind == "LIMIT":
        made.desk.place(ticket(made, **base, price=price, tif=tif))
    elif kind == "LIMIT_MAKER":
        made.desk.place(ticket(made, **base, price=price, type=kind))
    elif kind == "MARKET":
        made.desk.place(ticket(made, **base, type="MARKET"))
    elif kind == "QUOTE":
        made.desk.place(ticket(made, index=index, side=side, type="MARKET", quote_qty=Decimal(size)))
    elif kind == "CANCEL" and made.desk.open_orders(None):
        order = made.desk.open_orders(None)[0]
        made.desk.cancel(order.index, order.order_id, None, cancel_id="c")
    elif kind == "DEPOSIT":
        made.books.deposit(spec.base, qty if side == "BUY" else -qty, made.market.now_ms)
    elif kind == "CRASH":
        made.market.crash(index, 1 + offset / 1000)
    made.market.advance(made.market.now_ms + size)


@settings(max_examples=60, deadline=None)
@given(script=actions)
def test_every_asset_is_conserved(script: list[tuple[str, str, str, int, int, int]]) -> None:
    """Opening + flows + fills - fees equals free + locked, exactly, after every action."""
    made = venue(touch_notional=20_000.0)
    for step in script:
        try:
            act(made, *step)
        except (ApiError, ValueError):
            continue
        finally:
            assert made.books.conserved()
            assert all(row.difference == 0 for row in made.books.audit().values())
    for order in made.books.orders:
        assert order.filled == sum((fill.qty for fill in order.fills), Decimal(0)) <= order.qty
        assert all(
            fill.price <= order.price if order.side == "BUY" else fill.price >= order.price
            for fill in order.fills
            if order.type != "MARKET"
        )
        assert order.is_open or order.locked == 0
        assert order.tif != "FOK" or order.filled in {0, order.qty}


def test_an_aggressive_order_takes_what_the_book_shows() -> None:
    """An immediate-or-cancel order at the touch fills the shown quantity, the rest expires, the touch is gone."""
    made = venue()
    price, shown = made.ladder.levels(0, asks=True)[0]
    order = made.desk.place(ticket(made, tif="IOC", price=price, qty=shown + made.desk.specs[0].lot))

    assert (order.status, order.filled) == ("EXPIRED", shown)
    assert made.ladder.levels(0, asks=True)[0][0] > price
    fill = made.books.fills[-1]
    assert (fill.commission, fill.commission_asset, fill.maker) == (shown * Decimal("0.001"), "BTC", False)
    assert made.books.balance("BTC").free == shown * Decimal("0.999")


def test_selling_what_was_filled_is_refused_because_the_fee_was_taken_in_base() -> None:
    """The free base amount is below the filled one, as on the real exchange."""
    made = venue()
    bought = made.desk.place(ticket(made, type="MARKET", qty=Decimal("0.01")))
    with pytest.raises(ApiError, match="insufficient balance"):
        made.desk.place(ticket(made, side="SELL", type="MARKET", qty=bought.filled))
    sold = made.desk.place(ticket(made, side="SELL", type="MARKET", qty=Decimal("0.00999")))

    assert sold.status == "FILLED"
    assert {fill.commission_asset for fill in sold.fills} == {"USDT"}


def test_a_resting_order_fills_in_parts_when_traded_through() -> None:
    """Market trades a tick beyond the limit fill it as maker, at its own price, in several pieces."""
    made = venue()
    bid, _ = touch(made)
    reports: list[Report] = []
    made.desk.reports.append(reports.append)
    order = made.desk.place(ticket(made, price=bid - 50, qty=Decimal("0.5")))
    while order.is_open and made.market.now_ms < made.market.live_ms + 3_600_000:
        made.market.advance(made.market.now_ms + 1_000)

    assert order.status == "FILLED"
    assert len(order.fills) > 1
    assert {fill.price for fill in order.fills} == {bid - 50}
    assert all(fill.maker for fill in order.fills)
    assert [r.order.status for r in reports][:2] == ["NEW", "PARTIALLY_FILLED"]
    assert [r.kind for r in reports] == ["NEW", *["TRADE"] * len(order.fills)]
    assert made.books.conserved()


def test_the_best_and_oldest_order_fills_first() -> None:
    """Price before time, and orders that the trade did not reach stay."""
    made = venue()
    bid, _ = touch(made)
    lower = made.desk.place(ticket(made, price=bid - 2_000, qty=Decimal("0.1")))
    higher = made.desk.place(ticket(made, price=bid - 30, qty=Decimal("0.001")))
    while higher.is_open:
        made.market.advance(made.market.now_ms + 1_000)

    assert (higher.status, lower.filled) == ("FILLED", Decimal(0))


def test_a_market_order_by_quote_spends_at_most_the_amount() -> None:
    """quoteOrderQty buys whole lots."""
    made = venue()
    order = made.desk.place(ticket(made, type="MARKET", quote_qty=Decimal(1_000)))

    assert order.status == "FILLED"
    assert Decimal(1_000) - order.quote_filled < Decimal("0.7")
    assert order.quote_filled <= 1_000


def test_refusals_leave_no_trace() -> None:
    """A refused order changes neither balances nor orders."""
    made = venue()
    _, ask = touch(made)
    for wrong, text in (
        ({"price": ask, "qty": Decimal(50)}, "insufficient"),
        ({"price": ask, "qty": Decimal("0.000001")}, "LOT_SIZE"),
        ({"price": ask + Decimal("0.001"), "qty": Decimal(1)}, "PRICE_FILTER"),
        ({"price": ask * 9, "qty": Decimal(1)}, "PERCENT_PRICE_BY_SIDE"),
        ({"price": ask, "qty": Decimal("0.00001")}, "NOTIONAL"),
        ({"price": ask + 10, "qty": Decimal("0.01"), "type": "LIMIT_MAKER"}, "immediately match"),
        ({"price": ask, "qty": Decimal("0.0000000001")}, "precision"),
    ):
        with pytest.raises(ApiError, match=text):
            made.desk.place(ticket(made, **wrong))

    assert made.books.orders == []
    assert made.books.balance("USDT").free == 100_000
    assert made.books.conserved()


def test_open_orders_are_limited_and_client_ids_unique_among_them() -> None:
    """MAX_NUM_ORDERS and duplicates are refused; an id is free again once its order has ended."""
    made = venue()
    bid, _ = touch(made)
    low = (bid * Decimal("0.9")).quantize(Decimal(1))
    first = made.desk.place(ticket(made, price=low, qty=Decimal("0.0001"), client_id="mine"))
    with pytest.raises(ApiError, match="Duplicate order sent"):
        made.desk.place(ticket(made, price=low, qty=Decimal("0.0001"), client_id="mine"))
    made.desk.cancel(0, first.order_id, None, cancel_id="x")
    made.desk.place(ticket(made, price=low, qty=Decimal("0.0001"), client_id="mine"))
    for _ in range(199):
        made.desk.place(ticket(made, price=low, qty=Decimal("0.0001")))
    with pytest.raises(ApiError, match="MAX_NUM_ORDERS"):
        made.desk.place(ticket(made, price=low, qty=Decimal("0.0001")))


def test_a_third_asset_can_pay_the_commission() -> None:
    """Commissions come from it while it lasts, then from what is received."""
    made = venue(balances=(("USDT", Decimal(10_000)), ("BNB", Decimal("0.002"))))
    made.desk.fee_asset = ("BNB", Decimal(600))
    for _ in range(3):
        made.desk.place(ticket(made, type="MARKET", quote_qty=Decimal(700)))

    assert next(fill.commission_asset for fill in made.books.fills) == "BNB"
    assert [fill.commission_asset for fill in made.books.fills][-1] == "BTC"
    assert made.books.conserved()


def test_the_books_refuse_to_be_overdrawn() -> None:
    """A withdrawal beyond the free amount is refused; a wrong posting is an error of the exchange itself."""
    books = Books((("USDT", Decimal(10)),))
    with pytest.raises(ValueError, match="cannot withdraw"):
        books.deposit("USDT", Decimal(-11), 1)
    order = Order(
        symbol="X",
        index=0,
        order_id=1,
        client_id="a",
        side="BUY",
        type="LIMIT",
        tif="GTC",
        price=Decimal(1),
        qty=Decimal(1),
    )
    with pytest.raises(AssertionError, match="overdrawn"):
        books.lock(order, "USDT", Decimal(11), 1)
