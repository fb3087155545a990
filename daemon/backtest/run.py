"""From configuration and history to a finished run: what `ballast backtest` plugs into the engine."""

from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec

from daemon.backtest.ahead import NEVER_NS, Coming, ahead
from daemon.backtest.data.trade_reader import read_trades
from daemon.backtest.history import Panel
from daemon.backtest.record import Record, Worker
from daemon.backtest.rules import infer_rules
from daemon.backtest.session import DAILY_BARS, DAY_NS, Retrain, Session
from daemon.backtest.trades import TradeSession
from daemon.backtest.venue import Rates, VenueConfig
from daemon.backtest.walk import WalkForward
from daemon.core.config import EngineConfig
from daemon.domain.errors import ConfigError
from daemon.domain.market import NS_PER_MS, Instrument
from daemon.edge.worker_child import InlineWorker
from daemon.edge.worker_wire import WorkerConfig
from daemon.matching.bars import Costs
from daemon.service import wiring
from daemon.service.training import TRAINABLE
from daemon.settings import Settings

BPS: Final = Decimal("0.0001")


class Finished(msgspec.Struct, frozen=True):
    """A run that is over: the session with its engine and venue, its record, and what it ran on."""

    session: Session
    record: Record
    panel: Panel
    first: int
    trained_ns: tuple[int, ...] = ()
    """Closes at which a model was trained."""
    failures: tuple[str, ...] = ()
    """Why a training came to nothing."""


def engine_config(settings: Settings) -> EngineConfig:
    """Return what the engine is told in a backtest: the daemon's own configuration, paper mode, irregular time."""
    config = wiring.engine_config(settings, "")
    # Without any grace the time of the close would close a bar before its data is told.
    return msgspec.structs.replace(config, mode="paper", lag_max_ns=0, grace_ns=max(1, config.grace_ns))


def venue_config(settings: Settings) -> VenueConfig:
    """Return fees, costs and latency of the venue."""
    backtest = settings.backtest
    flat = Decimal(repr(settings.paper.fee_bps)) * BPS
    tiers = [
        Rates(Decimal(repr(volume)), Decimal(repr(maker)) * BPS, Decimal(repr(taker)) * BPS)
        for volume, maker, taker in sorted(backtest.fee_tiers)
    ]
    if not tiers or tiers[0].volume > 0:
        tiers.insert(0, Rates(Decimal(0), flat, flat))
    return VenueConfig(
        quote=settings.quote,
        rates=tuple(tiers),
        costs=Costs(backtest.spread_bps / 2e4, backtest.impact_bps / 1e4, backtest.participation),
        latency_ns=settings.paper.latency_ms * NS_PER_MS,
        bar_ns=settings.bar_ns,
    )


def worker_config(settings: Settings, models: Path | None = None) -> WorkerConfig:
    """Return what the inline worker is set up with; ``models`` is a registry other than the daemon's."""
    config = wiring.worker_config(settings)
    if models is None:
        return config
    return msgspec.structs.replace(config, setup=msgspec.structs.replace(config.setup, models_dir=str(models)))


def prepare(
    settings: Settings,
    panel: Panel,
    *,
    first: int,
    worker: Worker | None = None,
    instruments: Mapping[str, Instrument] | None = None,
    retrain: Retrain | None = None,
    trades: Path | None = None,
) -> Session:
    """Build a session over a panel whose bars before ``first`` only warm up; ``trades`` is a folder of recorded trades.

    Raises
    ------
    ConfigError
        The strategy cannot be set up, or nothing is left to trade on.
    """
    if not 0 <= first < len(panel.open_ns):
        raise ConfigError("no bars in that time: `ballast data list` says what there is")
    given: dict[str, Any] = {
        "first": first,
        "instruments": instruments or infer_rules(panel, settings.quote),
        "venue": venue_config(settings),
        "cash": Decimal(repr(settings.paper.cash)),
        "rearm_ns": settings.backtest.rearm_after_ns,
        "retrain": retrain,
    }
    config, asked = engine_config(settings), worker or inline_worker(settings)
    if trades is None:
        return Session(config, asked, panel, **given)
    span = int(panel.open_ns[first]), int(panel.open_ns[-1]) + panel.bar_ns
    recorded = {symbol: read_trades(trades, symbol, *span) for symbol in panel.symbols}
    return TradeSession(config, asked, panel, trades=recorded, **given)


def inline_worker(settings: Settings, models: Path | None = None) -> InlineWorker:
    """Return the strategy as the daemon's worker runs it, without the process. Raises ConfigError when it cannot be set up."""
    try:
        return InlineWorker(worker_config(settings, models))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def backtest(
    settings: Settings,
    panel: Panel,
    *,
    first: int,
    models: Path | None = None,
    trades: Path | None = None,
    batched: bool = True,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
    say: Callable[[str], None] = lambda _line: None,
) -> Finished:
    """Run the daemon's engine over a panel.

    Parameters
    ----------
    settings, panel, first
        As ``prepare`` takes them.
    models
        A registry of the run's own: a model that can be trained is trained walk-forward into it. None: the daemon's
        current model serves throughout.
    trades
        A folder of recorded trades: fills, stops and bars come from them; None: from bars.
    batched
        Whether a pure forecaster is asked for many closes at once (``daemon.backtest.ahead``): quicker, never different.
        With trades it never is, since the bars are not known before.
    progress, say
        Hear of bars done and of models trained.

    Raises
    ------
    ConfigError
        As ``prepare``.
    """
    learns = models is not None and settings.forecast.model in TRAINABLE
    worker = inline_worker(settings, models if learns else None)
    walk = None
    if models is not None and learns and worker.ready.learns:
        every_ns = settings.backtest.retrain_every_ns
        walk = WalkForward(settings, panel, models=models, worker=worker, every_ns=every_ns, say=say)
    asked: Worker = worker
    if batched and trades is None:
        every = engine_config(settings).rebalance_every
        asked = ahead(worker, lambda: Coming(panel, every=every, until_ns=lambda: walk.due_ns if walk else NEVER_NS))
    session = prepare(settings, panel, first=first, worker=asked, retrain=walk, trades=trades)
    record = session.run(progress)
    return Finished(
        session, record, panel, first, tuple(walk.trained) if walk else (), tuple(walk.failed) if walk else ()
    )


def warm_up_ns(settings: Settings) -> int:
    """Return how much history before the start is read: the daemon's backfill, a year of days for CVaR, what training reads."""
    bars = engine_config(settings).backfill_bars
    if settings.forecast.model in TRAINABLE:
        bars = max(bars, settings.forecast.train_bars)
    return max(bars * settings.bar_ns, DAILY_BARS * DAY_NS)
