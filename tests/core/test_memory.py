"""What is remembered is recalled, the same text for the same state."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.memory import recall, remember
from daemon.core.state import State
from daemon.domain.events import TradingState
from daemon.domain.orders import Cause
from tests.core.driver import START_NS, SYMBOLS, make_config

CAUSES = ["drawdown", "kill", "fault", "operator_flatten"]


@given(
    causes=st.dictionaries(st.sampled_from(CAUSES), st.sampled_from(list(TradingState))),
    exits=st.dictionaries(st.sampled_from(SYMBOLS), st.sampled_from(list(Cause))),
    paused=st.booleans(),
    equity=st.lists(st.decimals("1", "1e9", places=2), min_size=1, max_size=5),
    prices=st.lists(st.floats(1.0, 1e5), max_size=5),
    turnover=st.floats(0.0, 100.0),
)
def test_a_round_trip_forgets_nothing(
    causes: dict[str, TradingState],
    exits: dict[str, Cause],
    paused: bool,
    equity: list[Decimal],
    prices: list[float],
    turnover: float,
) -> None:
    """State → text → state → the same text."""
    state = State(make_config())
    for name, demand in causes.items():
        state.causes.put(name, demand)
    for symbol, cause in exits.items():
        state.exits.start(symbol, cause, START_NS)
    state.paused = paused
    state.turnover_day, state.day = turnover, 7
    for amount in equity:
        state.drawdown.update(amount, START_NS)
    state.stops.set_position(SYMBOLS[0], Decimal(1), 100.0)
    for price in prices:
        state.stops.on_price(SYMBOLS[0], price, START_NS)
    text = remember(state)

    again = State(make_config())
    recall(again, text)

    assert remember(again) == text


def test_a_first_start_remembers_nothing() -> None:
    """No text, no change."""
    state = State(make_config())
    before = remember(state)
    recall(state, "")

    assert remember(state) == before


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"causes":{"fault":"sideways"}}', '{"exits":{"BTC/USDT":"whim"}}', "\x00"]
)
def test_a_text_that_is_not_ours_changes_nothing(text: str) -> None:
    """A torn or foreign memory is refused as a whole."""
    state = State(make_config())
    before = remember(state)

    with pytest.raises(ValueError, match=r".+"):
        recall(state, text)
    assert remember(state) == before
