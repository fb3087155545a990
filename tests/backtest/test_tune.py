"""Studies: the same inputs give the same result, whoever does the work and however often it is interrupted."""

import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from daemon.backtest.history import make_panel
from daemon.backtest.run import backtest
from daemon.backtest.scale import Here, Spread, crew_of
from daemon.backtest.tune import (
    PRUNE_MARGIN,
    PRUNE_TRIALS_MIN,
    Attempt,
    Plan,
    Progress,
    attempt_of,
    identity_of,
    objectives,
    pareto,
    pruned,
    run_study,
)
from daemon.backtest.tune_assets import each_alone
from daemon.backtest.tune_result import distinct, result_of, sharpe_of, walk_forward_choice, write_result
from daemon.backtest.tune_sample import DIRECTIONS, RANDOM_TRIALS, Tried, propose
from daemon.backtest.tune_space import settings_with
from daemon.backtest.tune_store import STALE, Store, open_store
from daemon.backtest.tune_trial import FoldRun, Piece, Refused, run_piece
from tests.backtest.tune_kit import HOUR_NS, NAME, alone, candles, made_up, make_plan, settings_of, study, trials_in

WHOLE = 14
"""Trials of the study that others are compared with: three batches of four and a half one."""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Three folds, batches of four."""
    return make_plan(tmp_path_factory.mktemp("plan"))


@pytest.fixture(scope="module")
def whole_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The database of that study, to be read only."""
    return f"sqlite:///{tmp_path_factory.mktemp('whole') / 'study.db'}"


@pytest.fixture(scope="module")
def whole(plan: Plan, whole_url: str) -> dict[str, Any]:
    """The result of a study that nothing disturbed."""
    return study(plan, whole_url, WHOLE)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database of the test's own."""
    return f"sqlite:///{tmp_path / 'study.db'}"


class CutShort:
    """A store whose writer is gone after so many writes, as by a SIGKILL."""

    def __init__(self, inner: Store, after: int) -> None:
        self._inner = inner
        self._left = after

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in {"begin", "end"}:
            return found

        def counted(*arguments: Any) -> Any:
            self._left -= 1
            if self._left < 0:
                raise KeyboardInterrupt
            return found(*arguments)

        return counted


# ---------------------------------------------------------------------------------------------- the same result


def test_the_study_that_others_are_compared_with(whole: dict[str, Any]) -> None:
    """It has trials of every kind, or the comparisons below would say little."""
    assert whole["trials"] == WHOLE
    assert {one["state"] for one in whole["all"]} == {"complete", "pruned", "failed"}
    assert [one["trial"] for one in whole["all"]] == list(range(WHOLE))
    assert {one["reason"] for one in whole["all"] if one["state"] == "failed"} == {
        "too long on fold 1"
    }  # 2 says so too


def test_three_workers_the_same_study(plan: Plan, url: str, whole: dict[str, Any]) -> None:
    """Which worker is faster, and how many there are, changes nothing."""
    assert study(plan, url, WHOLE, jobs=3) == whole


def test_with_the_engine_too(plan: Plan, tmp_path: Path) -> None:
    """The real piece of work, on one worker and on two."""
    one = study(plan, f"sqlite:///{tmp_path / 'a.db'}", 4, work=run_piece)

    assert one == study(plan, f"sqlite:///{tmp_path / 'b.db'}", 4, jobs=2, work=run_piece)
    assert one["complete"] == 4
    assert len({member["return"] for member in one["all"]}) > 1


@pytest.mark.parametrize("seed", range(2))
def test_answers_in_any_order_the_same_study(plan: Plan, url: str, whole: dict[str, Any], seed: int) -> None:
    """Workers that answer the last piece first, or at random, lead to the same trials and the same reasons."""

    class Shuffled(Here):
        def take(self) -> tuple[int, Any]:
            rng.shuffle(self._waiting)
            return super().take()

    rng = random.Random(seed)
    with open_store(url, name=NAME, identity=identity_of(plan)) as store:
        attempts = run_study(plan, store, Shuffled(made_up, plan.ground), trials=WHOLE)

    assert result_of(plan, attempts, name=NAME) == whole


def test_another_seed_is_another_study(plan: Plan, url: str, whole: dict[str, Any]) -> None:
    """The seed decides what is tried."""
    other = study(plan._replace(seed=2), url, 4)

    assert [one["params"] for one in other["all"]] != [one["params"] for one in whole["all"][:4]]


def test_a_study_that_is_asked_for_more_goes_on(plan: Plan, url: str, tmp_path: Path) -> None:
    """What is asked for later in a batch does not know how the batch began: 26 trials, then 28, are 28 at once."""
    assert study(plan, url, 26)["trials"] == 26

    assert study(plan, url, 28) == study(plan, f"sqlite:///{tmp_path / 'once.db'}", 28)


def test_a_study_that_has_enough_does_nothing(plan: Plan, url: str, whole: dict[str, Any]) -> None:
    """The same command again repeats the result; a smaller number shows the first trials; neither runs anything."""

    def never(_ground: object, _piece: object) -> None:
        pytest.fail("a trial that is over is run again")

    assert study(plan, url, WHOLE) == whole
    assert study(plan, url, WHOLE, work=never) == whole
    assert study(plan, url, 4, work=never)["all"] == whole["all"][:4]
    assert len(trials_in(url)) == WHOLE


@pytest.mark.parametrize("writes", [0, 3, 4, 6, 8, 17, 27])
def test_cut_short_anywhere_and_begun_again(plan: Plan, url: str, whole: dict[str, Any], writes: int) -> None:
    """Whether it ends while trials are asked for, run or told: begun again it is the same study, each slot over once."""
    with pytest.raises(KeyboardInterrupt), open_store(url, name=NAME, identity=identity_of(plan)) as store:
        run_study(plan, CutShort(store, writes), alone(plan), trials=WHOLE)  # type: ignore[arg-type]
    left = sum(trial.state is TrialState.RUNNING for trial in trials_in(url))
    with open_store(url, name=NAME, identity=identity_of(plan)) as store:
        assert store.restarted == left
        result = result_of(plan, run_study(plan, store, alone(plan), trials=WHOLE), name=NAME)

    assert result == whole
    trials = trials_in(url)
    assert sorted(one.user_attrs["slot"] for one in trials if not one.user_attrs.get(STALE)) == list(range(WHOLE))
    assert all(one.state is TrialState.FAIL for one in trials if one.user_attrs.get(STALE))
    assert all(one.state.is_finished() for one in trials)


def test_a_trial_that_was_enqueued_and_never_asked_for(plan: Plan, url: str, whole: dict[str, Any]) -> None:
    """A run that ended between the two leaves a WAITING trial, which must not become another slot's."""
    with open_store(url, name=NAME, identity=identity_of(plan)):
        pass
    storage = optuna.storages.RDBStorage(url)
    waiting = propose(plan.space, [], seed=plan.seed + 9, batch=0, count=1)[0]
    optuna.load_study(study_name=NAME, storage=storage).enqueue_trial(waiting, user_attrs={"slot": 0})
    storage.remove_session()
    storage.engine.dispose()

    assert study(plan, url, WHOLE) == whole


def test_progress_ends_at_the_number_asked_for(plan: Plan, url: str) -> None:
    """The bar hears of every piece; trials over never fall."""
    heard: list[Progress] = []
    with open_store(url, name=NAME, identity=identity_of(plan)) as store:
        run_study(plan, store, alone(plan), trials=6, progress=heard.append)

    assert heard[-1].over == 6
    assert [one.over for one in heard] == sorted(one.over for one in heard)


# ---------------------------------------------------------------------------------------------- what is tried


def test_a_batch_is_a_function_of_what_was_tried(plan: Plan) -> None:
    """The same history twice is the same batch, a shorter batch is its beginning, another history is another batch."""
    rng = np.random.default_rng(4)
    tried = [
        Tried(params, TrialState.COMPLETE, (rng.normal(), rng.uniform(), rng.uniform()))
        for batch in range(6)
        for params in propose(plan.space, [], seed=3, batch=batch, count=4)
    ]
    assert len(tried) > RANDOM_TRIALS
    asked = propose(plan.space, tried, seed=3, batch=9, count=6)

    assert propose(plan.space, tried, seed=3, batch=9, count=6) == asked
    assert propose(plan.space, tried, seed=3, batch=9, count=2) == asked[:2]
    assert (
        propose(plan.space, [*tried[:-1], tried[-1]._replace(values=(9.0, 0.0, 0.0))], seed=3, batch=9, count=6)
        != asked
    )


def test_the_search_learns(plan: Plan, tmp_path: Path) -> None:
    """Where a light weight is better in everything, later trials are lighter than the first ones."""
    result = study(make_plan(tmp_path, batch=8), f"sqlite:///{tmp_path / 'a.db'}", 64)
    weights = [one["params"]["risk.max_weight"] for one in result["all"]]

    assert np.mean(weights[-24:]) < np.mean(weights[:16]) - 0.05


# ---------------------------------------------------------------------------------------------- stopping early


def _run(
    fold: int, total: float, drawdown: float, turnover: float, *, sharpe: float = 0.0, swing: float | None = None
) -> FoldRun:
    """A run of four days: its whole return on the first, or, with a swing, up and down around it day by day."""
    return FoldRun(
        fold=fold,
        total_return=total,
        max_drawdown=-drawdown,
        turnover=turnover,
        sharpe=sharpe,
        fees=0.0,
        days=4,
        decisions=4,
        orders=0,
        halts=0,
        raised=0,
        daily=(total, 0.0, 0.0, 0.0) if swing is None else (total + swing, total - swing) * 2,
    )


def _judges(count: int = PRUNE_TRIALS_MIN) -> list[tuple[FoldRun, ...]]:
    """Completed trials whose figures on the first fold rise in steps of one hundredth."""
    return [(_run(0, 0.10 + at / 100, 0.10 + at / 100, 0.10 + at / 100), _run(1, 0.0, 0.0, 0.0)) for at in range(count)]


def test_a_trial_is_stopped_when_it_is_clearly_worse_in_everything() -> None:
    """Half a standard deviation of the others is the margin, in every objective."""
    margin = PRUNE_MARGIN * float(np.std(np.arange(PRUNE_TRIALS_MIN) / 100))
    best = 0.10  # the first judge has the smallest drawdown and turnover
    just, not_yet = margin + 1e-6, margin - 1e-6

    assert "after fold 1 clearly worse in every objective than 1 " in pruned(
        (_run(0, best - just, best + just, best + just),), _judges()
    )
    assert pruned((_run(0, best - not_yet, best + just, best + just),), _judges()) == ""
    assert pruned((_run(0, best - just, best + not_yet, best + just),), _judges()) == ""
    assert pruned((_run(0, best - just, best + just, best + not_yet),), _judges()) == ""


def test_nothing_is_stopped_by_too_few_judges() -> None:
    """With one completed trial fewer than the minimum the worst trial goes on."""
    worst = (_run(0, -0.9, 0.9, 9.0),)

    assert pruned(worst, _judges(PRUNE_TRIALS_MIN - 1)) == ""
    assert pruned(worst, _judges())


def test_a_trial_is_judged_on_the_folds_it_ran_on() -> None:
    """What others did on later folds does not count: here they were ruined there."""
    judges = [(runs[0], _run(1, -0.99, 0.99, 9.0)) for runs in _judges()]

    assert pruned((_run(0, -0.9, 0.9, 9.0),), judges)
    assert pruned((_run(0, -0.9, 0.9, 9.0), _run(1, 0.0, 0.9, 9.0)), judges) == ""


@pytest.mark.usefixtures("whole")
def test_stopped_trials_ran_on_some_folds_only(whole_url: str) -> None:
    """In the database they are PRUNED, with the folds they ran on and the rule's words."""
    stopped = [one for one in trials_in(whole_url) if one.state is TrialState.PRUNED]

    assert stopped
    assert all(0 < len(one.user_attrs["folds"]) < 3 for one in stopped)
    assert all("clearly worse in every objective" in one.user_attrs["reason"] for one in stopped)


# ---------------------------------------------------------------------------------------------- one piece


def test_a_piece_is_a_backtest_of_its_window(plan: Plan) -> None:
    """Its figures are those of the backtest from the window's first bar on, and its days multiply to the whole."""
    settings = settings_of(strategy_params={"lookback": 24, "target_volatility": 1.0})
    fold = plan.ground.folds[1]
    found = run_piece(plan.ground, Piece(settings, 1))
    record = backtest(settings, plan.ground.panel.part(0, fold.last), first=fold.first).record

    assert isinstance(found, FoldRun)
    assert found.total_return == pytest.approx(float(record.equity[-1] / record.equity[0]) - 1.0, abs=1e-12)
    assert found.total_return != 0.0
    assert np.prod(1.0 + np.array(found.daily)) - 1.0 == pytest.approx(found.total_return, abs=1e-12)
    assert found.orders == record.orders > 0
    assert found.fees > 0.0


def test_nothing_after_a_window_is_seen(plan: Plan) -> None:
    """Other prices from the window's end on change nothing."""
    piece = Piece(settings_of(strategy_params={"lookback": 24}), 0)
    other = candles(seed=6)
    last = plan.ground.folds[0].last
    values = plan.ground.panel.values.copy()
    values[last:] = other.values[last:]

    changed = plan.ground._replace(panel=plan.ground.panel._replace(values=values))
    assert run_piece(changed, piece) == run_piece(plan.ground, piece)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strategy": "nowhere.at_all:Strategy"}, "nowhere"),
        ({"strategy_params": {"lookbak": 3}}, "not one decision.*strategy_raised.*lookbak"),
        ({"strategy_params": {"lookback": 5_000}}, "not one decision.*warming_up|not one decision.*not_ready"),
        ({"strategy": "strategies.forecast_optimise:ForecastOptimise", "state_dir": "/nonexistent"}, "no_model"),
    ],
)
def test_a_configuration_that_cannot_run_says_why(plan: Plan, changes: dict[str, Any], words: str) -> None:
    """One line, no exception."""
    found = run_piece(plan.ground, Piece(settings_of(**changes), 0))

    assert isinstance(found, Refused)
    assert "\n" not in found.reason
    assert re.search(words, found.reason), found.reason


def test_an_invalid_combination_is_a_failed_trial(tmp_path: Path) -> None:
    """Two keys that contradict each other fail the trial with the validation's own line; the study goes on."""
    space = "[risk.exit_collar]\nlow = 0.001\nhigh = 0.02\n[risk.price_collar]\nlow = 0.001\nhigh = 0.02\n"
    result = study(make_plan(tmp_path, space=space), f"sqlite:///{tmp_path / 'a.db'}", 16)
    failed = [one for one in result["all"] if one["state"] == "failed"]

    assert 0 < len(failed) < 16
    assert all(
        "risk.exit_collar = " in one["reason"] and "tighter than price_collar" in one["reason"] for one in failed
    )


def test_every_pair_alone(plan: Plan) -> None:
    """Each figure is that of a run in which the other pair does not exist, whoever does the work."""
    one = Attempt(3, "complete", {"strategy_params.lookback": 24, "risk.max_weight": 0.5}, None, (), "")
    with crew_of(Spread(jobs=2), run_piece, plan.ground) as crew:
        found = each_alone(plan, crew, [one, one._replace(slot=4, params={"strategy_params.lookback": 5_000})])
    alone_panel = make_panel(("BBB/USDT",), HOUR_NS, plan.ground.panel.open_ns, plan.ground.panel.values[:, 1:])
    settings = settings_with(plan.settings, one.params).model_copy(update={"universe": ("BBB/USDT",)})
    runs = [run_piece(plan.ground._replace(panel=alone_panel), Piece(settings, fold)) for fold in range(3)]

    assert set(found) == {3, 4}
    assert set(found[3]) == {"AAA/USDT", "BBB/USDT"}
    expected = objectives(tuple(run for run in runs if isinstance(run, FoldRun)))
    assert tuple(found[3]["BBB/USDT"].values()) == expected
    assert found[3]["AAA/USDT"] != found[3]["BBB/USDT"]
    assert "not one decision" in found[4]["AAA/USDT"]["reason"]


# ---------------------------------------------------------------------------------------------- the result


def _attempt(slot: int, values: tuple[float, float, float]) -> Attempt:
    return Attempt(slot, "complete", {"a": slot}, values, (), "")


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 3), st.integers(0, 3)), max_size=30).map(
        lambda rows: [(float(a), float(b), float(c)) for a, b, c in rows]
    )
)
def test_the_front_is_that_of_optuna(values: list[tuple[float, float, float]]) -> None:
    """Same members by value, each value once, best return first."""
    reference = optuna.create_study(directions=list(DIRECTIONS))
    for one in values:
        reference.add_trial(optuna.trial.create_trial(values=list(one)))
    front = pareto([_attempt(slot, one) for slot, one in enumerate(values)])

    assert {one.values for one in front} == {tuple(one.values) for one in reference.best_trials}
    assert len({one.values for one in front}) == len(front)
    returns = [one.values[0] for one in front if one.values is not None]
    assert returns == sorted(returns, reverse=True)


def test_objectives_by_hand() -> None:
    """Returns compound, the deepest drawdown counts, turnover is per day."""
    assert objectives((_run(0, 0.10, 0.20, 1.0), _run(1, -0.5, 0.05, 3.0))) == pytest.approx((-0.45, 0.20, 2.0))


def test_how_much_is_luck(whole: dict[str, Any]) -> None:
    """The Sharpe ratio is deflated by all distinct tries, stopped ones too; never above the probabilistic one."""
    front = whole["front"]

    assert whole["luck"]["tried"] == whole["complete"] + whole["pruned"]
    assert 1.0 <= whole["luck"]["effective"] <= whole["luck"]["tried"]
    assert whole["luck"]["sharpe"] > 0.0
    assert all(0.0 <= one["deflated_sharpe"] <= one["probabilistic_sharpe"] <= 1.0 for one in front)
    assert any(one["deflated_sharpe"] < one["probabilistic_sharpe"] for one in front)
    assert 0.0 <= whole["overfitting"]["probability"] <= 1.0
    assert whole["overfitting"]["trials"] == whole["complete"]


@pytest.mark.usefixtures("whole")
def test_stopped_trials_are_tries_too(plan: Plan, whole_url: str) -> None:
    """Leaving them out would make the others look better: fewer tries, and less to expect of luck."""
    attempts = [attempt_of(int(one.user_attrs["slot"]), one) for one in trials_in(whole_url)]
    told = result_of(plan, attempts, name=NAME)["luck"]
    kept = result_of(plan, [one for one in attempts if one.state != "pruned"], name=NAME)["luck"]

    assert told["effective"] > kept["effective"]
    assert told["sharpe"] > kept["sharpe"]


def test_a_single_trial_proves_nothing(plan: Plan, url: str) -> None:
    """Without others there is no luck to deflate by and no overfitting to measure; the figures say so."""
    result = study(plan, url, 1)

    assert (result["luck"], result["overfitting"]) == (None, None)


def test_repetitions_are_no_new_tries() -> None:
    """Of trials with equal parameters the first counts."""
    one = _attempt(0, (1.0, 0.0, 0.0))

    assert distinct([one, one._replace(slot=1), one._replace(slot=2, params={"a": 9})], "complete") == [
        one,
        one._replace(slot=2, params={"a": 9}),
    ]


def test_choosing_by_the_past_alone() -> None:
    """Before each window the best Sharpe ratio on the windows before it is chosen, and judged in the window."""

    def trial(slot: int, *means: float) -> Attempt:
        runs = tuple(_run(fold, mean, 0.0, 0.0, sharpe=mean, swing=0.01) for fold, mean in enumerate(means))
        return Attempt(slot, "complete", {"a": slot}, (0.0, 0.0, 0.0), runs, "")

    rows = walk_forward_choice([trial(0, 0.01, 0.02, 0.5), trial(1, 0.03, -0.2, 0.6), trial(2, 0.02, 0.01, -0.1)])

    assert [(row["fold"], row["trial"]) for row in rows] == [(1, 1), (2, 0)]
    assert [row["return"] for row in rows] == [-0.2, 0.5]
    assert [row["median_return"] for row in rows] == [0.01, 0.5]
    assert sharpe_of(()) == 0.0


def test_the_file_is_written_whole_and_the_same_again(whole: dict[str, Any], tmp_path: Path) -> None:
    """The same result gives the same bytes, and nothing else stays in the folder."""
    first = write_result(tmp_path / "a", whole).read_bytes()

    assert write_result(tmp_path / "a", whole).read_bytes() == first
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["study.json"]
