"""The account: exact to the last digit, equal to the ledger's own arithmetic."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.account import KEYS_MAX, Account
from daemon.core.books import Books
from daemon.domain.orders import Fill, Side

BTC = "BTC/USDT"


def fill(trade: str, side: Side, qty: str, price: str, fee: str = "0", asset: str = "USDT") -> Fill:
    """Return an execution."""
    return Fill(
        symbol=BTC,
        trade_id=trade,
        client_id="a",
        venue_id="1",
        side=side,
        qty=Decimal(qty),
        price=Decimal(price),
        fee=Decimal(fee),
        fee_asset=asset,
        maker=False,
        ts_event_ns=1,
        source="send",
    )


def test_entries_average_buys_and_end_with_the_position() -> None:
    """The stop hangs on the average entry; a new position begins anew."""
    account = Account("USDT")
    account.book(fill("1", Side.BUY, "1", "100"))
    account.book(fill("2", Side.BUY, "3", "200"))
    assert account.entries[BTC] == pytest.approx(175.0)

    account.book(fill("3", Side.SELL, "4", "300"))
    assert account.positions == {}
    assert account.entries == {}
    assert account.realized == Decimal(500)
    assert account.cash == Decimal(500)


def test_fees_are_valued_in_quote_wherever_they_are_taken() -> None:
    """F40: base, quote or a third asset; each conserves."""
    account = Account("USDT")
    account.book(fill("1", Side.BUY, "1", "100", "0.001", "BTC"))
    account.book(fill("2", Side.BUY, "1", "100", "0.1", "USDT"))
    account.book(fill("3", Side.BUY, "1", "100", "0.01", "BNB"))

    assert account.fees_quote == Decimal("0.2")
    assert account.position(BTC) == Decimal("2.999")
    assert account.cash == Decimal("-300.1")
    assert account.other == {"BNB": Decimal("-0.01")}


def test_flows_move_cash_and_positions() -> None:
    """Deposits and adopted assets."""
    account = Account("USDT")
    account.flow("USDT", Decimal(5))
    account.flow("BTC", Decimal(2))
    account.flow("BTC", Decimal(-2))

    assert (account.cash, account.positions) == (Decimal(5), {})


def test_a_sale_of_what_has_no_entry_realises_nothing() -> None:
    """An adopted position has no cost of ours."""
    account = Account("USDT")
    account.flow("BTC", Decimal(1))
    account.book(fill("1", Side.SELL, "0.5", "100"))

    assert account.realized == 0


def test_the_memory_of_trade_ids_is_bounded_and_keeps_the_newest() -> None:
    """A year of executions must not grow without bound; repetitions are always recent."""
    account = Account("USDT")
    account.restore(Decimal(0), ((BTC, Decimal(0)),), (), tuple((BTC, str(n)) for n in range(KEYS_MAX + 10)))
    assert account.positions == {}

    assert not account.book(fill(str(KEYS_MAX + 9), Side.BUY, "1", "1"))
    assert account.book(fill("new", Side.BUY, "1", "1"))
    assert not account.book(fill("new", Side.BUY, "1", "1"))
    assert len(account.booked) == KEYS_MAX


amounts = st.decimals("0.00000001", "1000", places=8)


@given(
    st.lists(
        st.tuples(st.sampled_from(Side), amounts, amounts, amounts, st.sampled_from(["BTC", "USDT", "BNB"])),
        max_size=12,
    )
)
def test_the_account_and_the_ledger_add_up_to_the_same(
    rows: list[tuple[Side, Decimal, Decimal, Decimal, str]],
) -> None:
    """I3: two independent sums over the same executions agree exactly, entries included."""
    account, books = Account("USDT"), Books("USDT")
    for number, (side, qty, price, fee, asset) in enumerate(rows):
        one = fill(str(number), side, str(qty), str(price), str(fee), asset)
        account.book(one)
        books.book_fill(one)

    assert account.cash == books.cash
    assert account.positions == books.positions
    assert account.entries == pytest.approx(books.entries)
