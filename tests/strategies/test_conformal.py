"""Intervals: what split conformal promises, what adaptive conformal inference repairs, and that it survives a restart."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import float64
from numpy.typing import NDArray

from strategies.conformal import (
    BEYOND,
    Adaptive,
    advance,
    begin,
    restored,
    scores_of,
    split_widths,
    spread_scores,
    widths,
)
from strategies.skill import LEVELS

PROMISED = np.array(LEVELS)


def issued_and_covered(
    scores: NDArray[float64], state: Adaptive, *, delay: int
) -> tuple[NDArray[float64], NDArray[float64], Adaptive]:
    """Widths (n_levels, n_times) as they would have been issued, the share of scores (n_assets, n_times) they covered."""
    n = scores.shape[1]
    issued = np.empty((len(LEVELS), n))
    for at in range(n):
        if at >= delay:
            state = advance(state, scores[:, at - delay], issued[:, at - delay])
        issued[:, at] = widths(state)
    covered = np.array([float(np.mean(scores <= issued[level])) for level in range(len(LEVELS))])
    return issued, covered, state


def test_split_widths_by_hand() -> None:
    """Of 19 scores 1..19 the ceil(20 · level)-th: 10, 16, 18, 19; NaN is no score, and without any there is no width."""
    scores = np.array([[*range(19, 0, -1), np.nan]], dtype=float64)

    assert split_widths(scores).tolist() == [10.0, 16.0, 18.0, 19.0]
    assert np.isnan(split_widths(np.full((2, 3), np.nan))).all()
    assert scores_of(np.array([0.03]), np.array([0.01]), np.array([0.01])).tolist() == pytest.approx([2.0])


def test_split_conformal_covers_what_it_promises() -> None:
    """On exchangeable scores of any shape coverage is at least the level, and at most 1/(n + 1) more, on average."""
    rng = np.random.default_rng(3)
    scores = rng.pareto(2.5, (4_000, 100))  # 99 to calibrate on, one to cover
    found = np.array([split_widths(row[:99]) >= row[99] for row in scores]).mean(axis=0)

    assert np.abs(found - PROMISED).max() < 0.02


def test_adaptive_repairs_what_split_conformal_loses() -> None:
    """The market becomes nearly twice as wild: split conformal stays wrong, adaptive holds every level within 2 points."""
    rng = np.random.default_rng(11)
    calibration = np.abs(rng.standard_normal(600))
    scores = np.abs(rng.standard_normal((5, 3_000))) * np.linspace(1.0, 1.8, 3_000)
    fixed = np.array([float(np.mean(scores <= width)) for width in split_widths(calibration)])
    _, covered, state = issued_and_covered(scores, begin(calibration), delay=24)

    assert np.abs(fixed - PROMISED).max() > 0.08
    assert np.abs(covered - PROMISED).max() < 0.02
    assert state.coverage == pytest.approx(covered, abs=0.01)  # counted on the way, less the last 24 that are not known


def test_the_step_of_the_paper_by_hand() -> None:
    """Gibbs & Candès eq. 2: two of four above a width that may miss one in ten: miss falls by rate · (0.5 - 0.1)."""
    state = begin(np.arange(1.0, 101.0), rate=0.01)
    after = advance(state, np.array([1.0, 2.0, 50.0, 60.0, np.nan]), np.array([0.5, 1.5, 40.0, 70.0]))

    assert after.miss == pytest.approx(
        (0.5 + 0.01 * (0.5 - 1.0), 0.2 + 0.01 * (0.2 - 0.75), 0.1 - 0.004, 0.05 + 0.0005)
    )
    assert (after.seen, after.asked, after.hits) == (1, 4, (0, 1, 2, 4))
    assert after.scores == (*state.scores, 1.0, 2.0, 50.0, 60.0)
    assert advance(after, np.array([np.nan]), widths(after)) is after


def test_a_truth_is_held_against_the_width_it_was_issued() -> None:
    """The same scores, narrower widths issued: more was missed, so the next interval is wider."""
    state = begin(np.arange(1.0, 201.0), rate=0.2)
    truth = np.array([90.0])
    narrow, wide = (advance(state, truth, np.full(len(LEVELS), width)) for width in (80.0, 100.0))

    assert (widths(narrow) > widths(wide)).all()


def test_everything_and_nothing_missed() -> None:
    """Asked to miss nothing, it answers with a number beyond all it knows; asked to miss everything, with 0."""
    state = begin(np.array([1.0, 2.0, 3.0]))
    nothing = msgspec.structs.replace(state, miss=(-0.005,) * 4)
    everything = msgspec.structs.replace(state, miss=(1.005,) * 4)

    assert widths(nothing).tolist() == [3.0 * BEYOND] * 4
    assert widths(everything).tolist() == [0.0] * 4


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.floats(0.0, 1e6) | st.just(float("nan")), min_size=1, max_size=4), min_size=1, max_size=40),
    st.integers(0, 39),
    st.sampled_from([0.001, 0.05, 0.9]),
)
def test_a_restart_changes_nothing(answers: list[list[float]], cut: int, rate: float) -> None:
    """Written as JSON and read anywhere on the way, the state ends the same; widths stay finite and rise with the level."""
    straight = stopped = begin(np.array([1.0, 2.0]), rate=rate, window=25)
    for at, answer in enumerate(answers):
        if at == cut:
            stopped = restored(msgspec.json.encode(stopped))
        found = widths(straight)
        assert np.isfinite(found).all()
        assert (np.diff(found) >= 0.0).all()
        assert (found >= 0.0).all()
        straight, stopped = (advance(one, np.array(answer), widths(one)) for one in (straight, stopped))

    assert straight == stopped
    assert len(straight.scores) <= 25
    assert all(-rate <= one <= 1.0 + rate for one in straight.miss)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"miss": (0.1,)}, "1 and 4 levels"),
        ({"scores": ()}, "0 scores"),
        ({"scores": (None,)}, "float"),
        ({"scores": (-1.0,)}, "not negative"),
        ({"rate": 0.0}, "rate 0.0"),
        ({"window": 0}, "window 0"),
        ({"miss": (0.5, 0.2, 0.1, 3.0)}, "within -rate"),
        ({"hits": (0, 0, 0, 1)}, "hits of 0"),
    ],
)
def test_what_no_run_left_behind_is_refused(change: dict[str, object], what: str) -> None:
    """A state that was altered is refused in one line."""
    fields = msgspec.structs.asdict(begin(np.array([1.0]))) | change

    with pytest.raises(ValueError, match=what):
        restored(msgspec.json.encode(fields))
    with pytest.raises(ValueError, match="adaptive state"):
        restored(b"\xff{")
    with pytest.raises(ValueError, match="0 scores"):
        begin(np.full(3, np.nan))
    with pytest.raises(ValueError, match="issued widths"):
        advance(begin(np.array([1.0])), np.array([1.0]), np.array([1.0, np.nan, 1.0, 1.0]))


def test_scores_made_of_four_quantiles_have_them() -> None:
    """Widths of a state begun on them are the given quantiles; missing or falling ones are refused."""
    given_ = {"0.5": 0.7, "0.8": 1.3, "0.9": 1.7, "0.95": 2.1}

    assert widths(begin(spread_scores(given_))) == pytest.approx(list(given_.values()), rel=0.03)
    for wrong in ({"0.5": 1.0}, given_ | {"0.9": 1.0}):
        with pytest.raises(ValueError, match="rising widths"):
            spread_scores(wrong)
