"""Does a configuration live on one pair? Every pair alone, on every fold: as many pieces of work as there are of both."""

from typing import Any

from daemon.backtest.scale import Crew, in_order
from daemon.backtest.tune import Attempt, Plan, objectives
from daemon.backtest.tune_space import settings_with
from daemon.backtest.tune_trial import FoldRun, Piece, Refused


def each_alone(plan: Plan, crew: Crew, attempts: list[Attempt]) -> dict[int, dict[str, Any]]:
    """Return, per trial (slot) and pair, what the configuration does when it may trade that pair alone.

    ``crew`` must work with `daemon.backtest.tune_trial.run_piece` and the plan's ground. Values are ``return``, ``drawdown``
    and ``turnover`` as the study's objectives, or ``reason`` why it cannot run on that pair.
    """
    pairs, folds = plan.ground.panel.symbols, range(len(plan.ground.folds))
    pieces = [
        Piece(settings_with(plan.settings, one.params), fold, pair)
        for one in attempts
        for pair in range(len(pairs))
        for fold in folds
    ]
    answers = iter(in_order(crew, pieces))
    return {one.slot: {pair: _told([next(answers) for _ in folds]) for pair in pairs} for one in attempts}


def _told(answers: list[FoldRun | Refused]) -> dict[str, Any]:
    refused = [one.reason for one in answers if isinstance(one, Refused)]
    if refused:
        return {"reason": refused[0]}
    total, drawdown, turnover = objectives(tuple(one for one in answers if isinstance(one, FoldRun)))
    return {"return": total, "drawdown": drawdown, "turnover": turnover}
