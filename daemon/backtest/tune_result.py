"""What a study found, told whole: the Pareto front, and how much of it is luck."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from daemon.backtest.data.files import replacing
from daemon.backtest.metrics import DAYS_PER_YEAR
from daemon.backtest.stats.overfitting import BLOCKS, PERIODS_MIN, overfitting
from daemon.backtest.stats.sharpe import (
    deflated_sharpe,
    effective_trials,
    expected_maximum,
    moments,
    probabilistic_sharpe,
)
from daemon.backtest.tune import COMPLETE, FAILED, PRUNED, Attempt, Plan, identity_of, pareto
from daemon.backtest.tune_space import space_text
from daemon.backtest.tune_trial import FoldRun
from strategies.training.purged import Fold

RESULT_FILE: Final = "study.json"
YEAR: Final = float(np.sqrt(DAYS_PER_YEAR))


def result_of(
    plan: Plan, attempts: list[Attempt], *, name: str, alone: Mapping[int, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """Return the result as JSON values; it holds no time of day and no duration: the same study gives the same bytes.

    ``alone`` are the figures of `daemon.backtest.tune_assets.each_alone` for the front's trials, None: not asked for.
    """
    states = [one.state for one in attempts]
    luck = _luck(attempts)
    return {
        "study": name,
        "seed": plan.seed,
        "batch": plan.batch,
        "trials": len(attempts),
        "complete": states.count(COMPLETE),
        "pruned": states.count(PRUNED),
        "failed": states.count(FAILED),
        "objectives": {"return": "maximize", "drawdown": "minimize", "turnover": "minimize"},
        "space": space_text(plan.space),
        "identity": identity_of(plan),
        "folds": [_window(plan, fold) for fold in plan.ground.folds],
        "front": [
            {**_member(one, luck), **({} if alone is None else {"alone": alone[one.slot]})} for one in pareto(attempts)
        ],
        "luck": luck,
        "overfitting": _overfitting(attempts),
        "walk_forward": walk_forward_choice(attempts),
        "all": [_row(one) for one in attempts],
    }


def write_result(folder: Path, result: Mapping[str, Any]) -> Path:
    """Write the result into a folder, whole or not at all. Raises ConfigError when it cannot be written."""
    path = folder / RESULT_FILE
    with replacing(path) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    return path


def daily_of(folds: tuple[FoldRun, ...]) -> NDArray[np.float64]:
    """Return (n_days,) daily returns of the test windows, one after the other."""
    return np.concatenate([np.array(one.daily, dtype=np.float64) for one in folds]) if folds else np.zeros(0)


def sharpe_of(folds: tuple[FoldRun, ...]) -> float:
    """Return the Sharpe ratio per day over these windows; 0 for what never moves."""
    sample = moments(daily_of(folds))
    return 0.0 if sample is None else sample.sharpe


def distinct(attempts: list[Attempt], *states: str) -> list[Attempt]:
    """Return the trials in these states, of those with equal parameters the first: a repetition is no new try."""
    seen: dict[str, Attempt] = {}
    for one in attempts:
        if one.state in states:
            seen.setdefault(repr(sorted(one.params.items())), one)
    return list(seen.values())


def walk_forward_choice(attempts: list[Attempt]) -> list[dict[str, Any]]:
    """Return what choosing by the past alone would have brought: per fold from the second on.

    Before each window the completed trial with the highest Sharpe ratio on all windows before it is chosen; its figures in
    the window are out of sample, since the windows lie purge and embargo apart. ``median_return`` is that of all
    completed trials in the same window: what choosing has to beat.
    """
    done = distinct(attempts, COMPLETE)
    rows: list[dict[str, Any]] = []
    for fold in range(1, len(done[0].folds) if done else 0):
        before = [sharpe_of(one.folds[:fold]) for one in done]
        chosen = done[int(np.argmax(before))]
        rows.append(
            {
                "fold": fold,
                "trial": chosen.slot,
                "sharpe_before": before[int(np.argmax(before))] * YEAR,
                "sharpe": chosen.folds[fold].sharpe,
                "return": chosen.folds[fold].total_return,
                "median_return": float(np.median([one.folds[fold].total_return for one in done])),
            }
        )
    return rows


def _luck(attempts: list[Attempt]) -> dict[str, float] | None:
    """Return what luck alone would show: Bailey & López de Prado 2014, over completed and pruned trials.

    ``effective`` counts trials after their correlation, measured on the completed ones; ``deviation`` is that of all
    Sharpe ratios (a pruned trial's on the folds it ran on), ``sharpe`` what the best without skill would show; annual.
    """
    done, stopped = distinct(attempts, COMPLETE), distinct(attempts, COMPLETE, PRUNED)
    if len(done) < 2 or len(daily_of(done[0].folds)) < 2:
        return None
    table = np.column_stack([daily_of(one.folds) for one in done])
    # effective_trials is rho + (1 - rho) * n: solved for rho, and asked again for all trials.
    alone = (len(done) - effective_trials(table)) / (len(done) - 1)
    effective = alone + (1.0 - alone) * len(stopped)
    deviation = float(np.std([sharpe_of(one.folds) for one in stopped], ddof=1))
    return {
        "tried": len(stopped),
        "effective": effective,
        "deviation": deviation * YEAR,
        "sharpe": expected_maximum(deviation, max(effective, 1.0)) * YEAR,
    }


def _overfitting(attempts: list[Attempt]) -> dict[str, Any] | None:
    """Return the probability that the best of the completed trials is below the median out of sample; None: too few."""
    done = distinct(attempts, COMPLETE)
    days = len(daily_of(done[0].folds)) if done else 0
    blocks = min(BLOCKS, days // PERIODS_MIN // 2 * 2)
    if len(done) < 2 or blocks < 2:
        return None
    found: dict[str, Any] = msgspec.to_builtins(
        overfitting(np.column_stack([daily_of(one.folds) for one in done]), blocks=blocks)
    )
    return found


def _member(one: Attempt, luck: Mapping[str, float] | None) -> dict[str, Any]:
    sample = moments(daily_of(one.folds))
    deflated = None
    if sample is not None and luck is not None:
        deflated = deflated_sharpe(sample, deviation=luck["deviation"] / YEAR, trials=max(luck["effective"], 1.0))
    return {
        **_row(one),
        "sharpe": None if sample is None else sample.sharpe * YEAR,
        "probabilistic_sharpe": None if sample is None else probabilistic_sharpe(sample),
        "deflated_sharpe": deflated,
        "folds": [
            {name: value for name, value in msgspec.to_builtins(fold).items() if name != "daily"} for fold in one.folds
        ],
    }


def _row(one: Attempt) -> dict[str, Any]:
    values = one.values or (None, None, None)
    return {
        "trial": one.slot,
        "state": one.state,
        "params": dict(sorted(one.params.items())),
        "return": values[0],
        "drawdown": values[1],
        "turnover": values[2],
        "reason": one.reason,
    }


def _window(plan: Plan, fold: Fold) -> dict[str, Any]:
    def iso(at: int) -> str:
        panel = plan.ground.panel
        opening = int(panel.open_ns[0]) + at * panel.bar_ns
        return str(np.datetime64(opening, "ns").astype("datetime64[s]")) + "Z"

    return {
        "fold": fold.number,
        "learn_from": iso(fold.train_first),
        "learn_to": iso(fold.train_last),
        "start": iso(fold.first),
        "end": iso(fold.last),
        "bars": fold.last - fold.first,
    }
