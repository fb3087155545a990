"""Stops within a bar of which only open, high, low and close are known: the adverse extreme comes first."""

from daemon.core.exitdesk import ExitDesk
from daemon.core.markets import Markets
from daemon.core.state import State
from daemon.domain.events import Effect
from daemon.domain.market import Ranged


def judge_range(event: Ranged, *, state: State, markets: Markets, exits: ExitDesk) -> tuple[Effect, ...]:
    """Walk each bar's price from the open to the low, the high and the close; a stop on the way is hit at its level.

    A bar that opens at or below the level hits it at the open: a stop sells at min(level, open) less slippage. After the
    low comes the high, so that a trailing stop is raised by it before the close is judged.
    """
    effects: tuple[Effect, ...] = ()
    held = state.account.positions
    stops = state.stops
    for bar in event.bars:
        symbol = bar.symbol
        path = (bar.open, bar.low, bar.high, bar.close)
        if symbol in held and not stops.unmoved(symbol, min(path), max(path)):
            before = bar.open
            for price in path:
                level = stops.level(symbol)
                reached = level if price <= level < before else price
                hit = stops.on_price(symbol, reached, event.ts_ns)
                if hit is not None:
                    markets.moved(bar, reached, event.ts_ns)
                    effects += exits.stop(hit)
                before = price
        markets.moved(bar, bar.close, event.ts_ns)
    return effects
