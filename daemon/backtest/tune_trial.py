"""One piece of a study: a configuration on one fold. Pure, so it may be done again on another machine."""

from contextlib import nullcontext
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from daemon.backtest.history import Panel
from daemon.backtest.metrics import daily_returns, metrics, turned_over
from daemon.backtest.record import Record
from daemon.backtest.run import inline_worker, prepare
from daemon.backtest.tune_models import FromShelf, one_thread, registry
from daemon.domain.errors import Fatal
from daemon.domain.signal import NoReason
from daemon.service.training import TRAINABLE
from daemon.settings import Settings
from strategies.training.purged import Fold

REASON_CHARS_MAX: Final = 300
NO_REASONS: Final = frozenset(map(str, NoReason))


class Ground(NamedTuple):
    """What all trials of a study run on; ``shelf`` is a folder for models that were trained before, "" for none."""

    panel: Panel
    folds: tuple[Fold, ...]
    shelf: str = ""


EVERY: Final = -1


class Piece(NamedTuple):
    """A configuration, the number of the fold it is to run on, and the index of the pair it may trade, `EVERY` for all."""

    settings: Settings
    fold: int
    pair: int = EVERY


class FoldRun(msgspec.Struct, frozen=True, kw_only=True):
    """What a configuration did in one test window, costs included.

    ``total_return`` and ``max_drawdown`` (<= 0) are fractions of equity, ``turnover`` the mean of sum |dw| per day,
    ``fees`` quote currency, ``sharpe`` annual (None: undefined). ``daily`` are the returns of its days. ``raised`` counts
    decisions in which the strategy raised.
    """

    fold: int
    total_return: float
    max_drawdown: float
    turnover: float
    sharpe: float | None
    fees: float
    days: int
    decisions: int
    orders: int
    halts: int
    raised: int
    daily: tuple[float, ...]


class Refused(msgspec.Struct, frozen=True):
    """A configuration that cannot run; ``reason`` is one line."""

    reason: str


def run_piece(ground: Ground, piece: Piece) -> FoldRun | Refused:
    """Run the daemon's engine over the fold's test window; the bars before it warm up, none after it are seen."""
    try:
        return _run(ground, piece)
    except Exception as error:  # noqa: BLE001 - whatever a configuration does, the study goes on and says what it was
        prefix = "" if isinstance(error, Fatal) else f"{type(error).__name__}: "
        return Refused(one_line(f"{prefix}{error}"))


def one_line(text: str) -> str:
    """Return a text without line breaks, cut to a length that a table can show."""
    return " ".join(text.split())[:REASON_CHARS_MAX]


def _run(ground: Ground, piece: Piece) -> FoldRun | Refused:
    fold, settings = ground.folds[piece.fold], piece.settings
    panel = ground.panel.part(0, fold.last)
    if piece.pair != EVERY:
        symbol = panel.symbols[piece.pair]
        values = panel.values[:, piece.pair : piece.pair + 1]
        panel = panel._replace(symbols=(symbol,), values=values, digest=f"{panel.digest} {symbol}")
        settings = settings.model_copy(update={"universe": (symbol,)})
    opening_ns = int(panel.open_ns[fold.first])
    learns = settings.forecast.model in TRAINABLE
    with registry(ground.shelf) if learns else nullcontext() as models:
        worker = inline_worker(settings, models)
        walk = None
        if models is not None and worker.ready.learns:
            one_thread()
            every_ns = settings.backtest.retrain_every_ns
            walk = FromShelf(
                settings, panel, shelf=ground.shelf, models=models, worker=worker, every_ns=every_ns, say=lambda _: None
            )
        elif worker.ready.trained_ns > opening_ns:
            return Refused(
                f"model {worker.ready.model} has seen bars after the fold begins "
                f"({np.datetime64(opening_ns, 'ns').astype('datetime64[s]')}Z): its results would be hindsight"
            )
        session = prepare(settings, panel, first=fold.first, worker=worker, retrain=walk)
        record = session.run()
    none = [step for step in record.steps if step.outcome in NO_REASONS]
    if len(none) == len(record.steps):
        last = f": {none[-1].outcome}: {none[-1].detail}" if none else ""
        training = f"; training: {walk.failed[-1]}" if walk is not None and walk.failed else ""
        return Refused(one_line(f"not one decision in {len(none)} bars{last}{training}"))
    raised = sum(step.outcome == NoReason.STRATEGY_RAISED for step in none)
    return figures_of(fold, record, fees=float(session.engine.state.account.fees_quote), raised=raised)


def figures_of(fold: Fold, record: Record, *, fees: float, raised: int) -> FoldRun:
    """Return the figures of a run over a fold's test window."""
    date_ns = np.array(record.times_ns, dtype=np.int64)
    equity = np.array([float(value) for value in record.equity])
    flow = np.zeros(len(equity))
    cash = np.array([float(value) for value in record.cash])
    turnover_ns, turnover = _turnover(record)
    figures = metrics(
        date_ns,
        equity,
        flow,
        exposure=np.clip(1.0 - cash / np.where(equity > 0.0, equity, 1.0), 0.0, None),
        turnover_ns=turnover_ns,
        turnover=turnover,
        fees=fees,
        slippage_cost=0.0,
    )
    return FoldRun(
        fold=fold.number,
        total_return=figures.total_return,
        max_drawdown=figures.max_drawdown,
        turnover=figures.turnover,
        sharpe=figures.sharpe,
        fees=fees,
        days=figures.days,
        decisions=len(record.steps),
        orders=record.orders,
        halts=record.halts,
        raised=raised,
        daily=tuple(daily_returns(date_ns, equity, flow)[1].tolist()),
    )


def _turnover(record: Record) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return when was decided and what each decision turned over, sum |dw| between before it and after its orders."""
    pairs = [(record.steps[at], after) for at, after in record.weights if len(record.steps[at].weights) == len(after)]
    times = np.array([step.close_ns for step, _ in pairs], dtype=np.int64)
    if not pairs:
        return times, np.zeros(0)
    before = np.array([step.weights for step, _ in pairs], dtype=np.float64)
    return times, turned_over(before, np.array([after for _, after in pairs], dtype=np.float64))
