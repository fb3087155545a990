"""Views of made-up markets, and the decision of an example on one."""

import msgspec
import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from daemon.domain.events import Decide
from daemon.domain.signal import NoDecision, Strategy, Targets, View
from daemon.edge.containment import contain
from strategies.examples.equal_weight import EqualWeight
from strategies.examples.mean_reversion import MeanReversion
from strategies.examples.momentum import Momentum
from strategies.limits import limits_of
from strategies.params import OptimizerParams

BAR_NS = 3_600 * 10**9
TS_NS = 1_700_000_000 // 3_600 * BAR_NS
EXAMPLES: dict[str, tuple[Strategy, dict[str, object]]] = {
    "momentum": (Momentum(), {"lookback": 24}),
    "momentum of two": (Momentum(), {"lookback": 24, "top": 2}),
    "mean reversion": (MeanReversion(), {"lookback": 24, "entry": 0.0}),
    "equal weight": (EqualWeight(), {}),
}


def market(n_assets: int = 4, n_bars: int = 60, seed: int = 1) -> NDArray[np.float64]:
    """Random walks (n_assets, n_bars, 5)."""
    rng = np.random.default_rng(seed)
    closes = 100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.01, (n_assets, n_bars)), axis=1))
    opens = np.concatenate([np.full((n_assets, 1), 100.0), closes[:, :-1]], axis=1)
    volume = rng.uniform(1.0, 9.0, closes.shape)
    return np.stack([opens, np.maximum(opens, closes), np.minimum(opens, closes), closes, volume], axis=2)


def view_of(bars: NDArray[np.float64], **changes: object) -> View:
    """A view of these bars with everything in cash and room for everything, but for the changes."""
    n = bars.shape[0]
    view = View(
        seq=1, ts_ns=TS_NS, bar_ns=BAR_NS, symbols=tuple(f"A{i}/USDT" for i in range(n)), bars=bars,
        weights=(0.0,) * n, frozen=(False,) * n, caps=(0.3,) * n, equity=1e5, cash_weight=1.0, turnover_left=2.0,
    )  # fmt: skip
    return msgspec.structs.replace(view, **changes)


def closes(*rows: list[float]) -> NDArray[np.float64]:
    """Bars (n_assets, n_bars, 5) of which only the closes matter."""
    table = np.array(rows, dtype=np.float64)
    return np.repeat(table[:, :, None], 5, axis=2)


def decided(strategy: Strategy, view: View, params: dict[str, object] | None = None) -> Targets:
    """The decision, which must be one."""
    answer = strategy.decide(view, params or {})
    assert isinstance(answer, Targets), answer
    return answer


def as_the_worker_would(answer: Targets | NoDecision, view: View, params: OptimizerParams) -> Targets:
    """What is left of an answer after containment."""
    asked = Decide(
        seq=view.seq, ts_ns=view.ts_ns, bar_ns=view.bar_ns, close_ns=view.ts_ns, symbols=view.symbols, bars=(),
        weights=view.weights, frozen=view.frozen, caps=view.caps, equity=view.equity, cash_weight=view.cash_weight,
        turnover_left=view.turnover_left, deadline_ns=0,
    )  # fmt: skip
    limits = limits_of(
        params, w0=np.array(view.weights), caps=np.array(view.caps), frozen=np.array(view.frozen, dtype=np.bool_),
        turnover_left=view.turnover_left,
    )  # fmt: skip
    contained = contain(answer, asked, limits)
    assert isinstance(contained, Targets), contained
    return contained


@st.composite
def views(draw: st.DrawFn) -> View:
    """Any market, portfolio and limits: assets without history, frozen, capped at 0, above their cap; little cash left."""
    n = draw(st.integers(1, 6))
    bars = market(n, draw(st.integers(25, 60)), draw(st.integers(0, 10_000)))
    for i in range(n):
        unlisted = draw(st.sampled_from([0, 0, 0, 1, bars.shape[1] - 1, bars.shape[1]]))
        bars[i, :unlisted] = np.nan
    share = st.floats(0.0, 1.0)
    raw = np.array(draw(st.lists(share, min_size=n, max_size=n)))
    held = raw / max(raw.sum(), 1.0) * draw(share)
    return view_of(
        bars,
        weights=tuple(held.tolist()),
        frozen=tuple(draw(st.lists(st.booleans(), min_size=n, max_size=n))),
        caps=tuple(draw(st.lists(st.sampled_from([0.0, 0.1, 0.3, 1.0]), min_size=n, max_size=n))),
        cash_weight=1.0 - float(held.sum()),
        turnover_left=draw(st.floats(0.0, 2.0)),
    )
