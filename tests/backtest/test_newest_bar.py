"""What a decision is made on is the data up to its close, whatever is missing beside it and however short the grace."""

from pathlib import Path

import numpy as np
import pytest

from daemon.backtest import run
from daemon.backtest.history import make_panel
from daemon.domain.events import Decide, Decided, Seed
from daemon.domain.signal import Targets
from daemon.edge.worker_wire import Ready
from daemon.settings import load_settings

BARS = 60
MINUTE_NS = 60 * 10**9
START_NS = 1_704_067_200 * 10**9


class Holder:
    """A worker that wants 40 % of the first symbol and notes which closes it is told."""

    def __init__(self) -> None:
        self.ready = Ready("", 0, "")
        self.told: dict[int, float] = {}
        self.newest: dict[int, float] = {}

    def seed(self, seed: Seed) -> None:
        self.told |= dict(np.frombuffer(seed.rows[0]).reshape(-1, 6)[:, [0, 4]].tolist())

    def decide(self, decide: Decide) -> Decided:
        self.told |= {bar.close_ns: bar.close for bar in decide.bars if bar.symbol == decide.symbols[0]}
        self.newest[decide.close_ns] = self.told[decide.close_ns]
        weights = (0.4, *(0.0 for _ in decide.symbols[1:]))
        return Decided(decide.seq, Targets(decide.symbols, weights), 0, 0, 0, decide.ts_ns, 0.0)


def test_time_judged_while_nothing_is_held_does_not_find_the_feed_silent(tmp_path: Path) -> None:
    """Bars of a day, flat: losses are judged at every midnight, and the data that comes then counts as data."""
    file = tmp_path / "b.toml"
    file.write_text(
        f'universe = ["BTC/USDT"]\nbar = "1d"\nstate_dir = "{tmp_path}"\n[forecast]\nlookback = 2\n'
        "[risk]\nmax_weight = 0.5\nmax_order_notional = 1.0\n"
    )
    settings = load_settings([file], {})
    close = 100.0 + np.arange(30.0)[:, None] / 100.0
    values = np.stack([close, close, close, close, np.full_like(close, 1e6)], axis=2)
    panel = make_panel(settings.universe, settings.bar_ns, START_NS + settings.bar_ns * np.arange(30), values)
    session = run.prepare(settings, panel, first=0, worker=Holder())
    session.run()

    assert session.venue.balances["BTC"] > 0
    assert session.engine.state.causes.names == ()


@pytest.mark.parametrize("grace_ms", [0, 500])
@pytest.mark.parametrize("listed", [0, 30])
def test_no_bar_is_closed_by_time_before_its_data_is_told(tmp_path: Path, listed: int, grace_ms: int) -> None:
    """While a position is held, and while the second symbol is not listed yet, every close of the first is its own."""
    file = tmp_path / "b.toml"
    file.write_text(
        f'universe = ["BTC/USDT", "ETH/USDT"]\nbar = "1m"\nstate_dir = "{tmp_path}"\n[feed]\ngrace_ms = {grace_ms}\n'
        "[forecast]\nlookback = 2\n[risk]\nmax_weight = 0.5\nmax_order_notional = 1.0\n"
    )
    settings = load_settings([file], {})
    close = 100.0 + np.round(np.random.default_rng(1).normal(0.0, 0.05, (BARS, 2)).cumsum(axis=0), 2)
    before = np.vstack([close[:1], close[:-1]])
    volume = np.full_like(close, 1e6)
    values = np.stack([before, np.maximum(before, close), np.minimum(before, close), close, volume], axis=2)
    values[:listed, 1] = np.nan
    panel = make_panel(settings.universe, MINUTE_NS, START_NS + MINUTE_NS * np.arange(BARS), values)
    worker = Holder()
    session = run.prepare(settings, panel, first=0, worker=worker)
    session.run()

    assert session.venue.balances["BTC"] > 0
    assert len(worker.newest) >= BARS - 3
    assert worker.newest == {at: close[(at - START_NS) // MINUTE_NS - 1, 0] for at in worker.newest}
