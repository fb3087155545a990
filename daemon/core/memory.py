"""The engine's own small state as it survives a restart: one JSON document in the ledger."""

from typing import Final

import msgspec

from daemon.core.state import State
from daemon.domain.events import TradingState
from daemon.domain.orders import Cause
from risk.drawdown import DrawdownState
from risk.repeats import RepeatsState
from risk.stops import StopsState


class Memory(msgspec.Struct, frozen=True):
    """Everything that is neither in the orders nor in the fills and must not be forgotten."""

    causes: dict[str, TradingState] = {}
    exits: dict[str, Cause] = {}
    paused: bool = False
    stops: StopsState = StopsState()
    drawdown: DrawdownState = DrawdownState()
    day: int = 0
    turnover_day: float = 0.0
    repeats: RepeatsState = RepeatsState()
    breaks: dict[str, int] = {}


_encode: Final = msgspec.json.Encoder(order="sorted").encode


def remember(state: State) -> str:
    """Return the state's memory as JSON, the same text for the same state."""
    memory = Memory(
        state.causes.latched(),
        state.exits.snapshot(),
        state.paused,
        state.stops.snapshot(),
        state.drawdown.snapshot(),
        state.day,
        state.turnover_day,
        state.repeats.snapshot(),
        state.break_clocks.snapshot(),
    )
    return _encode(memory).decode()


def recall(state: State, text: str) -> None:
    """Restore what ``remember`` wrote; "" is a first start. Raises ValueError when it is not ours."""
    if not text:
        return
    try:
        memory = msgspec.json.decode(text, type=Memory)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error
    state.causes.restore(memory.causes)
    state.exits.restore(memory.exits, state.now_ns)
    state.paused = memory.paused
    state.stops.restore(memory.stops)
    state.drawdown.restore(memory.drawdown)
    state.day = memory.day
    state.turnover_day = memory.turnover_day
    state.repeats.restore(memory.repeats)
    state.break_clocks.restore(memory.breaks)
