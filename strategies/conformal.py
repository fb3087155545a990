"""Intervals that hold what they promise: split conformal at training, adaptive conformal inference afterwards.

A score is |realised - mean| / scale, so an interval is mean ± width · scale with one width per level for all assets.

- [L18] Lei, G'Sell, Rinaldo, Tibshirani & Wasserman, Distribution-Free Predictive Inference for Regression, JASA 113
  (2018), sections 2.2 and 5.2: the width is a quantile of the scores on data that the model was not fitted to.
- [G21] Gibbs & Candès, Adaptive Conformal Inference Under Distribution Shift, NeurIPS 34 (2021), eq. 2: the level that is
  asked for follows what was missed, so that the long-run coverage holds whatever the market turns into.

Pure: a state goes in, another comes out. It is plain data, so it survives a restart as JSON.
"""

from typing import Final

import msgspec
import numpy as np
from numpy import float64
from numpy.typing import NDArray

from strategies.skill import LEVELS, conformal_quantile

__all__ = ["Adaptive", "advance", "begin", "restored", "scores_of", "split_widths", "spread_scores", "widths"]

RATE: Final = 0.005
"""Step of the asked level per answer, gamma in [G21], which takes this value in its section 2.2."""
WINDOW: Final = 2_000
"""Scores that are kept, all assets together; older ones are forgotten."""
WINDOW_MAX: Final = 100_000
BEYOND: Final = 2.0
"""Where [G21] answers with the whole line, risk needs a number: the largest score times this."""
SPREAD: Final = 200
"""Scores that `spread_scores` makes up from four quantiles."""

Floats = NDArray[float64]


class Adaptive(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Adaptive conformal inference between two answers; one tuple element per level of `LEVELS`.

    Attributes
    ----------
    rate
        Step of ``miss`` per answer.
    window
        Scores kept at most.
    miss
        The share that is asked to be missed now (alpha_t), within -rate … 1 + rate.
    scores
        The newest scores, oldest first.
    seen
        Answers so far.
    asked
        Scores in these answers.
    hits
        How many of them lay within the interval that had been issued.
    """

    rate: float
    window: int
    miss: tuple[float, ...]
    scores: tuple[float, ...]
    seen: int = 0
    asked: int = 0
    hits: tuple[int, ...] = (0,) * len(LEVELS)

    @property
    def coverage(self) -> tuple[float, ...] | None:
        """Return the share of hits per level, None before the first answer."""
        return tuple(one / self.asked for one in self.hits) if self.asked else None


def scores_of(realised: Floats, mean: Floats, scale: Floats) -> Floats:
    """Return |realised - mean| / scale, any one shape; NaN where something is not known."""
    scores: Floats = np.abs(realised - mean) / scale
    return scores


def split_widths(scores: Floats) -> Floats:
    """Return (n_levels,) widths in units of scale: [L18], over all known scores; NaN without any.

    With n exchangeable scores the next one lies within the width of a level with at least that probability.
    """
    known = scores[np.isfinite(scores)]
    if not known.size:
        return np.full(len(LEVELS), np.nan)
    return np.array([conformal_quantile(known, level) for level in LEVELS])


def spread_scores(quantiles: dict[str, float]) -> Floats:
    """Return (`SPREAD`,) scores whose quantiles are the given ones ("0.9": width), for a model that kept only those.

    Straight lines between the levels, and beyond the last one as steep as before it. They stand in until real scores come.

    Raises
    ------
    ValueError
        When a level of `LEVELS` is missing or not finite, or widths fall as levels rise.
    """
    known = np.array([0.0, *(quantiles.get(f"{level:g}", np.nan) for level in LEVELS)])
    if not np.isfinite(known).all() or (np.diff(known) < 0.0).any():
        raise ValueError(f"quantiles {quantiles} must hold rising widths for {', '.join(f'{one:g}' for one in LEVELS)}")
    levels = np.array([0.0, *LEVELS])
    slope = (known[-1] - known[-2]) / (levels[-1] - levels[-2])
    at = (np.arange(SPREAD) + 0.5) / SPREAD
    made: Floats = np.interp(at, [*levels, 1.0], [*known, known[-1] + slope * (1.0 - levels[-1])])
    return made


def begin(scores: Floats, *, rate: float = RATE, window: int = WINDOW) -> Adaptive:
    """Return the state before the first answer, calibrated on known scores, oldest first (any shape).

    Raises
    ------
    ValueError
        Without a known score, for a negative one, or a rate or window out of bounds.
    """
    kept = scores[np.isfinite(scores)][-window:]
    miss = tuple(1.0 - level for level in LEVELS)
    return _checked(Adaptive(rate=rate, window=window, miss=miss, scores=tuple(kept.tolist())))


def widths(state: Adaptive) -> Floats:
    """Return (n_levels,) widths in units of scale for the next interval, rising with the level.

    The quantile of the kept scores at 1 - miss: 0 when everything may be missed, `BEYOND` × the largest when nothing may.
    """
    ordered = np.sort(np.array(state.scores))
    n = ordered.size
    asked = 1.0 - np.array(state.miss)
    rank = np.ceil((n + 1) * asked).astype(np.int64)
    found = ordered[np.clip(rank, 1, n) - 1]
    found = np.where(asked <= 0.0, 0.0, np.where(asked >= 1.0, BEYOND * ordered[-1], found))
    rising: Floats = np.maximum.accumulate(found)
    return rising


def advance(state: Adaptive, scores: Floats, issued: Floats) -> Adaptive:
    """Return the state after the truth about one moment's forecasts came in: [G21] eq. 2.

    miss ← miss + rate · (1 - level - share of scores above the width). A truth comes ``horizon_bars`` after its
    forecast, so the width it is held against is the one that was issued then, not today's.

    Parameters
    ----------
    state
        Before.
    scores
        (n,) scores of the forecasts made at one time, NaN where the truth is not known; without any nothing changes.
    issued
        (n_levels,) widths that these forecasts were given.

    Raises
    ------
    ValueError
        For widths that are not one finite number per level.
    """
    if issued.shape != (len(LEVELS),) or not np.isfinite(issued).all():
        raise ValueError(f"issued widths {issued} must be {len(LEVELS)} finite numbers")
    known = scores[np.isfinite(scores)]
    if not known.size:
        return state
    missed = np.mean(known[:, np.newaxis] > issued, axis=0)
    miss = np.array(state.miss) + state.rate * (1.0 - np.array(LEVELS) - missed)
    hits = np.sum(known[:, np.newaxis] <= issued, axis=0)
    return msgspec.structs.replace(
        state,
        miss=tuple(np.clip(miss, -state.rate, 1.0 + state.rate).tolist()),
        scores=(*state.scores, *known.tolist())[-state.window :],
        seen=state.seen + 1,
        asked=state.asked + int(known.size),
        hits=tuple(int(a + b) for a, b in zip(state.hits, hits.tolist(), strict=True)),
    )


def restored(text: bytes) -> Adaptive:
    """Read a state that ``msgspec.json.encode`` wrote.

    Raises
    ------
    ValueError
        When it is not one, or one that no run can have left behind; one line.
    """
    try:
        return _checked(msgspec.json.decode(text, type=Adaptive))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"adaptive state: {error}") from None


def _checked(state: Adaptive) -> Adaptive:
    """Return the state unless no run can have left it behind; not done at every step, which can only make sound ones."""
    n = len(LEVELS)
    scores = np.array(state.scores)
    if len(state.miss) != n or len(state.hits) != n:
        raise ValueError(f"adaptive state: {len(state.miss)} and {len(state.hits)} levels, must be {n}")
    if not (0.0 < state.rate < 1.0 and 1 <= state.window <= WINDOW_MAX):
        raise ValueError(
            f"adaptive state: rate {state.rate} must lie in 0..1, window {state.window} in 1..{WINDOW_MAX}"
        )
    if not 1 <= scores.size <= state.window or not (np.isfinite(scores) & (scores >= 0.0)).all():
        raise ValueError(f"adaptive state: {scores.size} scores, must be 1..{state.window}, finite, not negative")
    if not all(-state.rate <= one <= 1.0 + state.rate for one in state.miss):
        raise ValueError(f"adaptive state: miss {state.miss} must lie within -rate..1+rate")
    if min(state.seen, state.asked, *state.hits) < 0 or max(state.hits) > state.asked:
        raise ValueError(f"adaptive state: {state.hits} hits of {state.asked}")
    return state
