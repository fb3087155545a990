"""The ladder (F62): only a verified answer leaves, whatever solvers and projections do."""

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from strategies.ladder import DETAIL_CHARS_MAX, Answer, Climbed, Step, climb

Floats = NDArray[np.float64]
HELD = np.array([0.25, 0.25])


class Box:
    """A guard that allows weights up to `top`; `faulty` says that its projection does nothing."""

    def __init__(self, *, faulty: bool = False) -> None:
        self.faulty = faulty

    def violation(self, w: Floats) -> float:
        """Above 0.5."""
        return float(np.max(w - 0.5, initial=0.0)) if np.isfinite(w).all() else float("inf")

    def project(self, w: Floats) -> Floats:
        """Clip, or not."""
        return w if self.faulty else np.minimum(w, 0.5)

    def hold(self) -> Floats:
        """What is held."""
        return HELD


class Says:
    """A solver that says what it is told; its case is a number it ignores."""

    def __init__(self, answer: Answer | Exception) -> None:
        self.answer = answer

    def solve(self, case: float, /) -> Answer:
        """Answer or raise."""
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def good(w: float) -> Answer:
    """An answer that claims to be optimal."""
    return Answer(w=np.array([w, 0.1]), status="solved", optimal=True)


def climbed(*answers: Answer | Exception, faulty: bool = False) -> Climbed:
    """Climb rungs named a, b, c, ..."""
    steps = tuple((Step("abc"[i]), Says(one)) for i, one in enumerate(answers))
    return climb(steps, 0.0, Box(faulty=faulty))


def test_the_first_verified_answer_leaves_projected() -> None:
    """A violation within the tolerance is projected away; later rungs are not asked."""
    answer = climbed(good(0.5 + 5e-7), RuntimeError("never asked"))
    assert (answer.rung, answer.status, answer.tried) == ("a", "solved", ())
    assert answer.weights.tolist() == [0.5, 0.1]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (good(0.6), "a: solved, violation 1.0e-01"),
        (good(float("nan")), "a: solved, violation inf"),
        (msgspec.structs.replace(good(0.2), optimal=False, status="user_limit"), "a: user_limit, violation 0.0e+00"),
        (ValueError("x" * 999), "a: ValueError: xxx"),
    ],
)
def test_a_bad_answer_costs_a_rung(bad: Answer | Exception, why: str) -> None:
    """The next rung answers, and the record says in bounded words why."""
    answer = climbed(bad, good(0.2))
    assert answer.rung == "b"
    assert answer.tried[0].startswith(why)
    assert len(answer.tried[0]) <= DETAIL_CHARS_MAX


def test_when_all_fail_what_is_held_stays() -> None:
    """The last rung is to hold, with every reason."""
    answer = climbed(good(0.9), ValueError(), good(float("inf")))
    assert (answer.rung, answer.status, len(answer.tried)) == ("hold", "failed", 3)
    assert answer.weights is HELD


def test_a_projection_that_fails_is_noticed() -> None:
    """What leaves is checked after the projection too, to 1e-9."""
    answer = climbed(good(0.5 + 5e-7), faulty=True)
    assert answer.rung == "hold"
    assert "after projection" in answer.tried[0]


def test_an_answer_may_be_to_hold_and_a_relaxed_one_says_so() -> None:
    """Nothing to gain is an answer, not a failure; soft limits left out are named."""
    still = climbed(msgspec.structs.replace(good(0.2), holds=True, status="no_return"))
    relaxed = climb([(Step("relaxed", ("turnover",)), Says(good(0.2)))], 0.0, Box())

    assert (still.rung, still.status, still.tried) == ("hold", "no_return", ())
    assert relaxed.relaxed == ("turnover",)
    assert relaxed.tried == ("relaxed: without turnover",)
