"""Equity is what valuing every position anew would give, whatever moved since it was asked for last."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from daemon.core.state import State
from daemon.domain.market import Book
from risk.money import exact
from tests.core.driver import SYMBOLS, make_config

PRICES = st.sampled_from([0.0, 0.5, 99.5, 100.0, 101.0])
MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("last"), st.sampled_from(SYMBOLS), PRICES),
        st.tuples(st.just("book"), st.sampled_from(SYMBOLS), PRICES),
        st.tuples(st.just("cash"), st.just(""), st.sampled_from([0.0, 10.0, 1000.0])),
        st.tuples(st.just("qty"), st.sampled_from(SYMBOLS), st.sampled_from([0.0, 1.0, 2.5])),
    ),
    max_size=20,
)


def fresh(state: State) -> Decimal | None:
    """Value every position from nothing."""
    total = state.account.cash
    for symbol, qty in state.account.positions.items():
        price = state.price(symbol)
        if price <= 0.0:
            return None
        total += qty * exact(price)
    return total


def fresh_weights(state: State, equity: Decimal) -> tuple[float, ...]:
    """Weigh every symbol from nothing."""
    held = state.account.positions
    values = [held.get(symbol, Decimal(0)) * exact(max(0.0, state.price(symbol))) for symbol in state.symbols]
    return tuple(float(value / equity) if equity > 0 else 0.0 for value in values)


@given(MOVES)
def test_equity_and_weights_follow_every_price_book_quantity_and_cash(moves: list[tuple[str, str, float]]) -> None:
    """Values and weights that are kept are never stale."""
    state = State(make_config())
    state.account.cash = Decimal(1000)
    for what, symbol, value in moves:
        if what == "last":
            state.markets[symbol].last = value
        elif what == "book":
            state.markets[symbol].book = Book(symbol, value, 1.0, value + 1.0, 1.0, 1) if value else None
        elif what == "cash":
            state.account.cash = exact(value)
        elif value:
            state.account.positions[symbol] = exact(value)
        else:
            state.account.positions.pop(symbol, None)
        equity = state.equity()
        assert equity == fresh(state)
        for total in (equity, Decimal(1000), Decimal(0)):
            if total is not None:
                assert state.weights(total) == fresh_weights(state, total)


def test_a_position_outside_the_universe_has_no_known_value() -> None:
    """Unknown is None, not zero."""
    state = State(make_config())
    state.account.positions["XYZ/USDT"] = Decimal(1)

    assert state.equity() is None
