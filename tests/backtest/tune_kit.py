"""Small studies: candles made by chance, a plan, and a piece of work that needs no engine."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from daemon.backtest.data.files import Candles, path_of, write
from daemon.backtest.history import Panel, make_panel
from daemon.backtest.scale import Here, Spread, crew_of
from daemon.backtest.tune import Plan, identity_of, run_study
from daemon.backtest.tune_result import result_of
from daemon.backtest.tune_space import read_space
from daemon.backtest.tune_store import open_store
from daemon.backtest.tune_trial import FoldRun, Ground, Piece, Refused
from daemon.domain.market import NS_PER_MS
from daemon.settings import Settings, load_settings
from strategies.training.purged import walk_forward

HOUR_NS = 3_600 * 10**9
T0_NS = 1_672_531_200 * 10**9
"""2023-01-01."""
BARS = 240
PAIRS = ("AAA/USDT", "BBB/USDT")
STRATEGY = "strategies.examples.momentum:Momentum"
NAME = "s"

SPACE = """
[strategy_params.lookback]
low = 12
high = 48
step = 12
[strategy_params.target_volatility]
low = 0.1
high = 2.0
log = true
[risk.max_weight]
low = 0.1
high = 0.6
["optimizer.rebalance_every"]
choices = [1, 3, 6]
"""
CONFIG = f"""
universe = ["AAA/USDT", "BBB/USDT"]
strategy = "{STRATEGY}"
[forecast]
horizon_bars = 4
"""


def candles(bars: int = BARS, seed: int = 5) -> Panel:
    """Return a random walk with enough volume to trade in."""
    rng = np.random.default_rng(seed)
    close = np.round(100.0 * np.exp(np.cumsum(rng.normal(0.0003, 0.01, (bars, len(PAIRS))), axis=0)), 2)
    opened = np.vstack([np.full(len(PAIRS), 100.0), close[:-1]])
    high, low = np.maximum(opened, close) * 1.001, np.minimum(opened, close) * 0.999
    values = np.stack([opened, high, low, close, np.full(close.shape, 1e6)], axis=-1)
    return make_panel(PAIRS, HOUR_NS, T0_NS + HOUR_NS * np.arange(bars, dtype=np.int64), values)


def settings_of(**changes: Any) -> Settings:
    """Return a configuration of the two pairs."""
    base = load_settings([], {}).model_dump()
    return Settings.model_validate(base | {"universe": PAIRS, "strategy": STRATEGY} | changes)


def write_ground(folder: Path) -> list[str]:
    """Write candles, configuration and space into a folder; return the arguments of `ballast tune` for them."""
    panel = candles()
    for at, pair in enumerate(PAIRS):
        write(path_of(folder / "data", pair, "1h"), Candles(panel.open_ns // NS_PER_MS, panel.values[:, at]))
    (folder / "ballast.toml").write_text(CONFIG)
    (folder / "space.toml").write_text(SPACE)
    arguments = ["tune", "-c", str(folder / "ballast.toml"), "--space", str(folder / "space.toml")]
    return [*arguments, "--data", str(folder / "data"), "--folds", "3", "--batch", "4"]


def make_plan(folder: Path, *, seed: int = 1, batch: int = 4, space: str = SPACE) -> Plan:
    """Return a plan of three short folds."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "space.toml").write_text(space)
    settings = settings_of()
    ground = Ground(candles(), walk_forward(BARS, folds=3, purge=4, embargo=2))
    return Plan(settings, read_space(folder / "space.toml", settings), ground, seed, batch)


def made_up(ground: Ground, piece: Piece) -> FoldRun | Refused:
    """Return figures that depend on the piece alone: a heavy weight is bad in everything, a long lookback is refused."""
    settings, fold = piece.settings, piece.fold
    chosen = (
        f"{settings.risk.max_weight} {settings.optimizer.rebalance_every} {sorted(settings.strategy_params.items())}"
    )
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{chosen} {fold}".encode()).digest()[:8], "big"))
    bad = settings.risk.max_weight - 0.1
    if settings.strategy_params.get("lookback") == 48 and fold:
        return Refused(f"too long on fold {fold}")
    daily = rng.normal(0.004 - 0.02 * bad, 0.01, 8)
    return FoldRun(
        fold=ground.folds[fold].number,
        total_return=float(np.prod(1.0 + daily) - 1.0),
        max_drawdown=-float(0.02 + bad + rng.uniform(0.0, 0.02)),
        turnover=float(0.1 + bad + rng.uniform(0.0, 0.05)),
        sharpe=float(daily.mean() / daily.std(ddof=1)),
        fees=1.0,
        days=8,
        decisions=10,
        orders=5,
        halts=0,
        raised=0,
        daily=tuple(daily.tolist()),
    )


def study(plan: Plan, url: str, trials: int, *, jobs: int = 1, work: Any = made_up) -> dict[str, Any]:
    """Run a study to so many trials and return its result; a path stands for the file of that name."""
    with (
        open_store(url, name=NAME, identity=identity_of(plan)) as store,
        crew_of(Spread(jobs=jobs), work, plan.ground) as crew,
    ):
        return result_of(plan, run_study(plan, store, crew, trials=trials), name=NAME)


def alone(plan: Plan) -> Here:
    """Return workers that make figures up, in this process."""
    return Here(made_up, plan.ground)


def trials_in(url: str) -> list[FrozenTrial]:
    """Return a study's trials as optuna's own tools read them."""
    storage = optuna.storages.RDBStorage(url)
    try:
        return optuna.load_study(study_name=NAME, storage=storage).get_trials()
    finally:
        storage.remove_session()
        storage.engine.dispose()
