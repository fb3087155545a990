"""What a strategy answers, made safe before the engine sees it: right types and lengths, finite, inside every limit.

Pure; used by the worker process and by the inline worker of backtest and replay alike.
"""

from typing import Final, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from daemon.domain.events import Decide
from daemon.domain.signal import Forecast, NoDecision, NoReason, Targets
from daemon.edge.worker_wire import DETAIL_CHARS_MAX
from strategies.limits import Limits, project, violation

CLIP_TOLERANCE: Final = 1e-9
"""Weights that exceed a limit by more than this are clipped and reported."""
CLIPPED: Final = "clipped:"
WEIGHT_MAX: Final = 1e6
"""A weight beyond this is beyond every limit; so many times the equity, sums of them stay finite."""
NAMES_MAX: Final = 10
"""Clipped symbols that a line names; it says how many more there were."""


def contain(answer: object, decide: Decide, limits: Limits) -> Targets | NoDecision:
    """Return the strategy's answer made safe: right type and length, finite, inside every limit.

    What exceeds a limit is clipped to it and named ``clipped:<symbol>`` in ``binding``.
    """
    if isinstance(answer, NoDecision):
        return refusal(answer)
    if not isinstance(answer, Targets):
        return NoDecision(
            NoReason.STRATEGY_RAISED, f"decide returned {type(answer).__name__}, not Targets or NoDecision"
        )
    w = np.array(answer.weights, dtype=np.float64)
    refused = _unsound(answer, w, decide)
    if refused is not None:
        return refused
    w = np.minimum(np.maximum(w, -WEIGHT_MAX), WEIGHT_MAX)
    bought = float(np.maximum(w - limits.w0, 0.0).sum())
    if violation(w, limits) <= CLIP_TOLERANCE and bought <= limits.turnover_left + CLIP_TOLERANCE:
        return msgspec.structs.replace(answer, weights=tuple(w.tolist()), turnover=float(np.abs(w - limits.w0).sum()))
    clipped = project(w, limits)
    changed = np.flatnonzero(np.abs(clipped - w) > CLIP_TOLERANCE)
    return msgspec.structs.replace(
        answer,
        weights=tuple(clipped.tolist()),
        binding=(*answer.binding, *(f"{CLIPPED}{decide.symbols[int(i)]}" for i in changed)),
        turnover=float(np.abs(clipped - limits.w0).sum()),
    )


def refusal(answer: NoDecision) -> NoDecision:
    """Return a strategy's own refusal with one of our reasons and one bounded line, whatever it wrote there."""
    reason, detail = cast("tuple[object, object]", (answer.reason, answer.detail))
    if isinstance(reason, NoReason) and isinstance(detail, str) and detail.isprintable():
        return answer if len(detail) <= DETAIL_CHARS_MAX else NoDecision(reason, detail[:DETAIL_CHARS_MAX])
    line = " ".join(str(detail).split())[:DETAIL_CHARS_MAX]
    if not isinstance(reason, NoReason):
        return NoDecision(
            NoReason.STRATEGY_RAISED, f"decide gave the reason {reason!r:.50}, which is no NoReason: {line}"
        )
    return NoDecision(reason, line)


def clipped_note(result: Targets | NoDecision) -> str:
    """Return one line that names the weights that were clipped, "" when none was."""
    if isinstance(result, NoDecision):
        return ""
    names = [one.removeprefix(CLIPPED) for one in result.binding if one.startswith(CLIPPED)]
    more = f" and {len(names) - NAMES_MAX} more" if len(names) > NAMES_MAX else ""
    return f"weights beyond a limit were clipped: {', '.join(names[:NAMES_MAX])}{more}" if names else ""


def _unsound(answer: Targets, w: NDArray[np.float64], decide: Decide) -> NoDecision | None:
    """Say what is wrong with an answer, None when the engine can use it: a finite number for each symbol, names as text."""
    names = cast(
        "tuple[object, ...]", (answer.status, answer.rung, *answer.binding)
    )  # whatever a user's code put there
    if answer.symbols != decide.symbols:
        what = "decide returned other symbols than view.symbols, or another order; pass symbols=view.symbols"
    elif w.shape != (len(decide.symbols),):
        what = f"decide returned weights of shape {w.shape}, asked for one number for each of {len(decide.symbols)} symbols"
    elif not all(isinstance(name, str) for name in names):
        what = "decide returned status, rung or binding that are not text"
    elif not bool(np.isfinite(w).all()):
        bad = decide.symbols[int(np.argmin(np.isfinite(w)))]
        return NoDecision(NoReason.NOT_FINITE, f"the weight of {bad} is not finite")
    else:
        return _unsound_forecast(answer.forecast, decide)
    return NoDecision(NoReason.STRATEGY_RAISED, what)


def _unsound_forecast(forecast: object, decide: Decide) -> NoDecision | None:
    """Say what is wrong with a strategy's forecast, None when there is none or it has a finite number for each symbol."""
    if forecast is None:
        return None
    if not isinstance(forecast, Forecast) or forecast.symbols != decide.symbols:
        return NoDecision(NoReason.STRATEGY_RAISED, "decide returned a forecast that is not one for view.symbols")
    rows = (forecast.mean, forecast.raw_mean, forecast.scale, forecast.skill, forecast.interval_90)
    table = [np.array(row, dtype=np.float64) for row in rows]
    if any(row.shape != (len(decide.symbols),) for row in table):
        return NoDecision(
            NoReason.STRATEGY_RAISED,
            f"decide returned a forecast of {', '.join(str(row.size) for row in table)} numbers (mean, raw_mean, scale, "
            f"skill, interval_90) for {len(decide.symbols)} symbols",
        )
    model, horizon = cast("tuple[object, object]", (forecast.model, forecast.horizon_bars))
    if not isinstance(model, str) or not isinstance(horizon, int):
        return NoDecision(
            NoReason.STRATEGY_RAISED, "decide returned a forecast whose model or horizon_bars has another type"
        )
    if not all(bool(np.isfinite(row).all()) for row in table):
        return NoDecision(NoReason.NOT_FINITE, "the forecast is not finite")
    return None
