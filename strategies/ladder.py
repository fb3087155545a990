"""The ladder of solvers (F62): each rung is tried until one gives an answer that passes an independent check.

warm (the fixed program) -> second (the definition, another solver) -> relaxed (soft limits left out, which are named)
-> hold (current weights inside the limits). A solver that raises, gives up, lies or returns NaN costs a rung, never a
limit. There is no rung of "the previous target": current weights are what is left of it, and an answer that depended on
anything but its inputs could not be replayed.
"""

from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec
import numpy as np

from strategies.shadow import Duals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

VERIFY_TOLERANCE = 1e-6
"""Largest violation, in weight, that a solver's own answer may show; what is smaller is projected away."""
FINAL_TOLERANCE = 1e-9
"""Largest violation, in weight, of what leaves the ladder."""
DETAIL_CHARS_MAX = 200
HOLD = "hold"


class Answer(msgspec.Struct, frozen=True):
    """A solver's own answer, unverified: weights (n_assets,), its word, whether that means optimal, its multipliers.

    ``holds`` says that the answer is to keep still, as when nothing can be gained; the weights then do not count.
    """

    w: "NDArray[np.float64]"
    status: str
    optimal: bool
    duals: Duals | None = None
    holds: bool = False


Case_contra = TypeVar("Case_contra", contravariant=True)


class Solver(Protocol[Case_contra]):
    """Anything that proposes weights for a case; it may raise whatever it likes."""

    def solve(self, case: Case_contra, /) -> Answer:
        """Return an answer, right or wrong."""
        ...


class Guard(Protocol):
    """The limits, known without any solver."""

    def violation(self, w: "NDArray[np.float64]") -> float:
        """Return the largest violation of a hard limit in weight, infinite for what is not finite."""
        ...

    def project(self, w: "NDArray[np.float64]") -> "NDArray[np.float64]":
        """Return weights inside every limit, soft ones too."""
        ...

    def hold(self) -> "NDArray[np.float64]":
        """Return current weights inside every limit."""
        ...


class Step(msgspec.Struct, frozen=True):
    """One rung: its name and the soft limits that its solver leaves out."""

    name: str
    relaxed: tuple[str, ...] = ()


class Climbed(msgspec.Struct, frozen=True):
    """Verified weights, the rung and solver status they came from, soft limits left out, why earlier rungs failed."""

    weights: "NDArray[np.float64]"
    rung: str
    status: str
    relaxed: tuple[str, ...]
    tried: tuple[str, ...]
    duals: Duals | None


def climb(steps: "Sequence[tuple[Step, Solver[Case_contra]]]", case: Case_contra, guard: Guard) -> Climbed:
    """Return the first verified answer, or the current weights inside the limits.

    The projection enforces soft limits as well, so also a relaxed answer keeps the turnover: what was left out is only
    where the solver aimed.
    """
    tried: list[str] = []
    for step, solver in steps:
        try:
            answer = solver.solve(case)
        except Exception as error:  # noqa: BLE001 - solvers raise DCPError, ValueError, LinAlgError and more; each is a failed rung
            tried.append(f"{step.name}: {type(error).__name__}: {error}"[:DETAIL_CHARS_MAX])
            continue
        if answer.optimal and answer.holds:
            return Climbed(guard.hold(), HOLD, answer.status, (), tuple(tried), None)
        excess = guard.violation(answer.w)
        if not answer.optimal or not excess <= VERIFY_TOLERANCE:
            tried.append(f"{step.name}: {answer.status}, violation {excess:.1e}"[:DETAIL_CHARS_MAX])
            continue
        weights = guard.project(answer.w)
        left = guard.violation(weights)
        if not left <= FINAL_TOLERANCE:
            tried.append(f"{step.name}: violation {left:.1e} after projection")
            continue
        if step.relaxed:
            tried.append(f"{step.name}: without {', '.join(step.relaxed)}")
        return Climbed(weights, step.name, answer.status, step.relaxed, tuple(tried), answer.duals)
    return Climbed(guard.hold(), HOLD, "failed", (), tuple(tried), None)
