"""What to try next: a pure function of what was tried, so a study that was interrupted goes on as if it never had been.

For each batch a sampler is made anew, seeded by the study's seed and the batch's number, and shown the outcomes of all
earlier batches in their order. No state of a sampler has to survive a crash, and which worker was faster, how many there
were, or which of them died cannot change what is tried.
"""

import hashlib
from collections.abc import Sequence
from typing import Final, NamedTuple

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.trial import TrialState, create_trial

from daemon.backtest.tune_space import Space, Value

DIRECTIONS: Final = ("maximize", "minimize", "minimize")
"""Total return after costs, drawdown (positive), turnover per day."""
RANDOM_TRIALS: Final = 16
"""Outcomes there must be before the sampler learns from them; until then it draws at random."""

Params = dict[str, Value]


class Tried(NamedTuple):
    """A trial that is over: its parameters, and its objectives (None when it was pruned or failed)."""

    params: Params
    state: TrialState
    values: tuple[float, float, float] | None = None


def propose(space: Space, tried: Sequence[Tried], *, seed: int, batch: int, count: int) -> list[Params]:
    """Return the parameters of one batch.

    Multivariate tree-structured Parzen estimators over several objectives: Y. Ozaki et al., Multiobjective
    Tree-Structured Parzen Estimator, Journal of Artificial Intelligence Research 73 (2022), as optuna has it.

    Parameters
    ----------
    space
        What may be chosen.
    tried
        Trials of all earlier batches, in order; of this batch none.
    seed, batch
        Seed of the study and number of the batch: together the seed of the sampler.
    count
        How many. The first n of a longer batch are the same as a batch of n.
    """
    digest = hashlib.sha256(f"{seed} {batch}".encode()).digest()
    mixed = int.from_bytes(digest[:4], "big")
    sampler = TPESampler(seed=mixed, multivariate=True, n_startup_trials=RANDOM_TRIALS)
    quiet = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(directions=list(DIRECTIONS), sampler=sampler)
        for one in tried:
            study.add_trial(
                create_trial(state=one.state, values=one.values, params=one.params, distributions=dict(space))
            )
        fixed: dict[str, BaseDistribution] = dict(space)
        return [study.ask(fixed).params for _ in range(count)]
    finally:
        optuna.logging.set_verbosity(quiet)
