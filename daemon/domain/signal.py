"""Signals: what a strategy sees, what it forecasts and what it wants."""

from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray


class Forecast(msgspec.Struct, frozen=True, tag=True):
    """Return forecast for every asset over the next ``horizon_bars`` bars.

    All tuples have length n_assets in the order of ``symbols``. ``mean`` is the simple return expected by the
    model *after* shrinkage, ``raw_mean`` before it, ``scale`` the standard deviation of the return (> 0), both
    as fractions over the whole horizon; ``skill`` is 1 - MSE / MSE(naive) out of sample, as measured for the asset.
    ``interval_90`` is the half width of the conformal 90 % interval (0 where the model gives none).
    """

    symbols: tuple[str, ...]
    horizon_bars: int
    mean: tuple[float, ...]
    raw_mean: tuple[float, ...]
    scale: tuple[float, ...]
    skill: tuple[float, ...]
    interval_90: tuple[float, ...]
    model: str


class NoReason(StrEnum):
    """Why there is no decision."""

    NO_MODEL = "no_model"
    WARMING_UP = "warming_up"
    NOT_FINITE = "not_finite"
    INFEASIBLE = "infeasible"
    SOLVER_FAILED = "solver_failed"
    STRATEGY_RAISED = "strategy_raised"
    DEADLINE = "deadline"
    WORKER_DOWN = "worker_down"
    PAUSED = "paused"
    NOT_READY = "not_ready"


class NoDecision(msgspec.Struct, frozen=True, tag=True):
    """A normal answer: hold. ``detail`` is one line for the operator."""

    reason: NoReason
    detail: str


class Targets(msgspec.Struct, frozen=True, tag=True):
    """Target weights, fractions of equity, in the order of ``symbols``; cash is what is left.

    ``status`` is the solver's own word, ``rung`` the step of the ladder that produced the solution
    ("warm", "second", "relaxed", "hold"), ``binding`` names the limits that bind, ``turnover`` is
    sum |w - w0|.
    """

    symbols: tuple[str, ...]
    weights: tuple[float, ...]
    forecast: Forecast | None = None
    status: str = ""
    rung: str = ""
    binding: tuple[str, ...] = ()
    turnover: float = 0.0


class View(msgspec.Struct, frozen=True):
    """What a strategy sees at one bar close; past only.

    ``bars`` is an array (n_assets, n_bars, 5) of float64: open, high, low, close, volume, oldest first, the last column
    the bar that just closed at ``ts_ns``; ``n_bars`` grows to the buffer's size. ``weights`` are current weights,
    ``frozen`` marks assets whose weight must not grow, ``caps`` the largest weight allowed for each. All tuples are in
    the order of ``symbols``.
    """

    seq: int
    ts_ns: int
    bar_ns: int
    symbols: tuple[str, ...]
    bars: "NDArray[float64]"
    weights: tuple[float, ...]
    frozen: tuple[bool, ...]
    caps: tuple[float, ...]
    equity: float
    cash_weight: float
    turnover_left: float
    daily: "NDArray[float64] | None" = None
    """Daily simple returns (n_days, n_assets), oldest first, for CVaR; None where unknown."""


class Strategy(Protocol):
    """The seam users implement; pure, run in the worker under a deadline."""

    def decide(self, view: View, params: dict[str, object]) -> Targets | NoDecision:
        """Return target weights for the view, or say why there are none."""
        ...
