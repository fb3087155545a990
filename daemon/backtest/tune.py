"""A study: configurations are tried on walk-forward folds, several objectives at once, and what was found is told whole.

Trials are asked for in batches of a fixed size, run on whatever workers there are, and told in the order asked; what is
asked depends on earlier batches alone (`tune_sample`), and so does whether a trial is stopped early. So the same inputs
give the same study, on one core or on a cluster, interrupted or not.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, Trial, TrialState

from daemon.backtest.scale import Crew
from daemon.backtest.tune_sample import Params, Tried, propose
from daemon.backtest.tune_space import Space, settings_with, space_text
from daemon.backtest.tune_store import Store
from daemon.backtest.tune_trial import FoldRun, Ground, Piece, Refused
from daemon.domain.errors import ConfigError
from daemon.settings import Settings, redacted

BATCH: Final = 8
"""Trials asked for at once. More would use more workers and learn more slowly; part of the study's identity."""
PRUNE_TRIALS_MIN: Final = 8
"""Completed trials of earlier batches that there must be before one is stopped early."""
PRUNE_MARGIN: Final = 0.5
"""What a clear margin is: this many standard deviations of the completed trials' figures on the same folds."""
TRIALS_MAX: Final = 100_000
RULES: Final = "1"
"""Raise when the meaning of a trial's figures changes: studies of both must not be mixed."""
RELEVANT: Final = (
    "universe", "quote", "bar", "strategy", "strategy_params", "portfolio", "feed", "forecast", "optimizer",
    "execution", "risk", "paper", "backtest",
)  # fmt: skip
"""Parts of the configuration that a result depends on."""

COMPLETE: Final = "complete"
PRUNED: Final = "pruned"
FAILED: Final = "failed"
STATES: Final = {TrialState.COMPLETE: COMPLETE, TrialState.PRUNED: PRUNED, TrialState.FAIL: FAILED}

Values = tuple[float, float, float]


class Plan(NamedTuple):
    """What a study is made of."""

    settings: Settings
    space: Space
    ground: Ground
    seed: int
    batch: int = BATCH


class Attempt(NamedTuple):
    """A trial that is over.

    ``state`` is "complete", "pruned" (stopped early; ``folds`` are those it ran on) or "failed" (``reason`` says why).
    ``values`` are total return, drawdown (positive) and turnover per day over all folds; None unless complete.
    """

    slot: int
    state: str
    params: Params
    values: Values | None
    folds: tuple[FoldRun, ...]
    reason: str


class Progress(NamedTuple):
    """How far a run is: trials over, and pieces of work done of the batch under way."""

    over: int
    pieces: int


def identity_of(plan: Plan) -> dict[str, str]:
    """Return a digest of each thing that the study's result depends on; of a strategy of the user's own, its file."""
    tree = redacted(plan.settings)
    parts: dict[str, Any] = {
        "configuration": {key: tree[key] for key in RELEVANT},
        "space": space_text(plan.space),
        "folds": [list(fold) for fold in plan.ground.folds],
    }
    digests = {
        key: hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest() for key, part in parts.items()
    }
    return {
        **digests,
        "data": plan.ground.panel.digest,
        "strategy": _own_file(plan.settings),
        "code": version("ballast"),
        "seed": str(plan.seed),
        "batch": str(plan.batch),
        "rules": RULES,
    }


def run_study(
    plan: Plan, store: Store, crew: Crew, *, trials: int, progress: Callable[[Progress], None] = lambda _: None
) -> list[Attempt]:
    """Go on with a study until it has so many trials; return all of them in order.

    ``crew`` must work with `daemon.backtest.tune_trial.run_piece` and the plan's ground.
    """
    known = store.finished()
    over = {slot: attempt_of(slot, trial) for slot, trial in known.items() if slot < trials}
    for start in range(0, trials, plan.batch):
        slots = range(start, min(start + plan.batch, trials))
        if all(slot in over for slot in slots):
            continue
        earlier = [over[slot] for slot in range(start)]
        asked = propose(
            plan.space,
            [_tried(one) for one in earlier],
            seed=plan.seed,
            batch=start // plan.batch,
            count=len(slots),
        )
        open_ = [(slot, params) for slot, params in zip(slots, asked, strict=True) if slot not in over]
        begun = [(slot, params, store.begin(slot, params, plan.space)) for slot, params in open_]
        found = _Batch(plan, crew, earlier).run(open_, partial(_say, progress, len(over)))
        for slot, _, trial in begun:
            over[slot] = found[slot]
            _tell(store, trial, found[slot])
    return [over[slot] for slot in range(trials)]


class _Batch:
    """Runs the open trials of one batch; they do not see each other."""

    def __init__(self, plan: Plan, crew: Crew, earlier: list[Attempt]) -> None:
        self._plan = plan
        self._crew = crew
        self._judges = [one.folds for one in earlier if one.state == COMPLETE]
        self._n_folds = len(plan.ground.folds)
        self._settings: dict[int, Settings] = {}
        self._answers: dict[int, dict[int, FoldRun | Refused]] = {}
        self._missing: dict[int, int] = {}
        self.pieces = 0

    def run(self, trials: list[tuple[int, Params]], progress: Callable[[int, int], None]) -> dict[int, Attempt]:
        """Return the outcome of each slot; ``progress`` hears of pieces done and of trials over."""
        over: dict[int, Attempt] = {}
        wanted = dict(trials)
        for slot, params in trials:
            try:
                self._settings[slot] = settings_with(self._plan.settings, params)
            except ConfigError as error:
                over[slot] = Attempt(slot, FAILED, params, None, (), str(error).splitlines()[0])
                continue
            # Fold by fold where a trial may be stopped in between; all at once where none can.
            self._submit(slot, range(1 if len(self._judges) >= PRUNE_TRIALS_MIN else self._n_folds))
        while len(over) < len(trials):
            tag, answer = self._crew.take()
            slot, fold = divmod(tag, self._n_folds)
            self._answers[slot][fold] = answer
            self._missing[slot] -= 1
            self.pieces += 1
            if not self._missing[slot]:
                outcome = self._outcome(slot, wanted[slot])
                if outcome is None:
                    self._submit(slot, range(len(self._answers[slot]), len(self._answers[slot]) + 1))
                else:
                    over[slot] = outcome
            progress(self.pieces, len(over))
        return over

    def _submit(self, slot: int, folds: range) -> None:
        self._answers.setdefault(slot, {})
        self._missing[slot] = len(folds)
        for fold in folds:
            self._crew.submit(slot * self._n_folds + fold, Piece(self._settings[slot], fold))

    def _outcome(self, slot: int, params: Params) -> Attempt | None:
        """Judge a trial none of whose pieces is out; None: it goes on with the next fold."""
        answers = [answer for _, answer in sorted(self._answers[slot].items())]
        refused = [answer.reason for answer in answers if isinstance(answer, Refused)]
        if refused:  # the first fold's reason, whichever worker was the first to say so
            return Attempt(slot, FAILED, params, None, (), refused[0])
        runs = tuple(answer for answer in answers if isinstance(answer, FoldRun))
        if len(runs) == self._n_folds:
            return Attempt(slot, COMPLETE, params, objectives(runs), runs, "")
        reason = pruned(runs, self._judges)
        return Attempt(slot, PRUNED, params, None, runs, reason) if reason else None


def objectives(runs: tuple[FoldRun, ...]) -> Values:
    """Return what a trial is judged by: compounded return of its folds, deepest drawdown (>= 0), turnover per day."""
    growth = 1.0
    for run in runs:
        growth *= 1.0 + run.total_return
    days = sum(run.days for run in runs)
    turnover = sum(run.turnover * run.days for run in runs) / days if days else 0.0
    return growth - 1.0, max(-run.max_drawdown for run in runs) + 0.0, turnover


def losses(values: Values) -> NDArray[np.float64]:
    """Return the objectives with their signs turned so that less is better in each."""
    return np.array([-values[0], values[1], values[2]])


def pruned(runs: tuple[FoldRun, ...], judges: Sequence[tuple[FoldRun, ...]]) -> str:
    """Say why a trial is stopped after these folds, "" when it goes on.

    optuna's pruners know one objective. Here a trial is stopped when, on the very folds it has run on, some completed trial
    of an earlier batch is better in every objective by more than `PRUNE_MARGIN` standard deviations of the completed
    trials' figures on those folds. It needs `PRUNE_TRIALS_MIN` completed trials.
    """
    if len(judges) < PRUNE_TRIALS_MIN:
        return ""
    mine = losses(objectives(runs))
    theirs = np.array([losses(objectives(folds[: len(runs)])) for folds in judges])
    margin = PRUNE_MARGIN * theirs.std(axis=0)
    better = (theirs + margin < mine).all(axis=1)
    if not bool(better.any()):
        return ""
    return f"after fold {len(runs)} clearly worse in every objective than {int(better.sum())} completed trials"


def pareto(attempts: list[Attempt]) -> list[Attempt]:
    """Return the completed trials that no other one is at least as good as in all and better in one; best return first.

    Of trials with equal objectives the oldest stands for all.
    """
    done = [one for one in attempts if one.values is not None]
    table = np.array([losses(one.values) for one in done if one.values is not None]).reshape(-1, 3)
    front: list[tuple[float, int, Attempt]] = []
    for at, one in enumerate(done):
        as_good = (table <= table[at]).all(axis=1)
        better = as_good & (table < table[at]).any(axis=1)
        equal_before = bool((table[:at] == table[at]).all(axis=1).any())
        if not bool(better.any()) and not equal_before:
            front.append((float(table[at, 0]), one.slot, one))
    return [one for _, _, one in sorted(front, key=lambda entry: entry[:2])]


def attempt_of(slot: int, trial: FrozenTrial) -> Attempt:
    """Return a trial as it was written down."""
    attributes: Mapping[str, Any] = trial.user_attrs
    folds = tuple(msgspec.convert(one, FoldRun) for one in attributes.get("folds", []))
    state = STATES[trial.state]
    values = objectives(folds) if state == COMPLETE else None
    return Attempt(slot, state, dict(trial.params), values, folds, str(attributes.get("reason", "")))


def _own_file(settings: Settings) -> str:
    """Return the digest of the strategy's file when it lies beside the configuration, "" for an installed one."""
    name = settings.strategy.partition(":")[0].replace(".", "/")
    for folder in settings.folders:
        file = Path(folder) / f"{name}.py"
        if file.is_file():
            return hashlib.sha256(file.read_bytes()).hexdigest()
    return ""


def _tell(store: Store, trial: Trial, one: Attempt) -> None:
    attributes = {"folds": msgspec.to_builtins(one.folds), **({"reason": one.reason} if one.reason else {})}
    store.end(trial, _state(one), one.values, attributes)


def _say(progress: Callable[[Progress], None], before: int, pieces: int, over: int) -> None:
    progress(Progress(before + over, pieces))


def _tried(one: Attempt) -> Tried:
    return Tried(one.params, _state(one), one.values)


def _state(one: Attempt) -> TrialState:
    return next(state for state, name in STATES.items() if name == one.state)
