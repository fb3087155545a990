"""Why the market data as a whole cannot be trusted: one look at all symbols."""

from daemon.core.market import Phase
from daemon.core.state import State
from daemon.domain.market import NS_PER_S

LIVE = Phase.LIVE
STALE_SHARE = 5
"""More than one in this many symbols stale is a reason not to be ready."""


def silence(state: State) -> str:
    """Return why the market data as a whole cannot be trusted, "" when it can."""
    if not state.links["market"]:
        return "market stream is down"
    now_ns, config = state.now_ns, state.config
    bound_ns = now_ns - 10 * config.max_age_ns
    asked = newest_ns = 0
    old: list[str] = []
    for market in state.markets.values():
        if market.instrument is None and state.is_unlisted(market):
            continue
        asked += 1
        # Frames only: REST may vouch for a quiet symbol on a flowing connection, never for a connection that is silent.
        newest_ns = max(newest_ns, market.frame_ns)
        if market.phase is not LIVE or (market.frame_ns < bound_ns and market.confirmed_ns < bound_ns):
            old.append(market.symbol)
    if now_ns - newest_ns > config.max_age_ns:
        return f"no market data for {(now_ns - newest_ns) / NS_PER_S:.1f} s"
    if len(old) * STALE_SHARE > asked:
        return f"{len(old)} of {asked} symbols are stale: {', '.join(old[:5])}"
    return ""
