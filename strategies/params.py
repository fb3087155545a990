"""What the configuration tells the reference strategy, with durations in nanoseconds and shares as fractions."""

from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

Objective: TypeAlias = Literal[
    "mean_variance", "min_variance", "max_sharpe", "kelly", "risk_parity", "hrp", "min_cvar", "equal_weight"
]
"""What the optimiser may be asked for: ``strategies/optimise.py`` has the first, ``strategies/objectives`` the others."""
NS_PER_DAY = 86_400 * 1_000_000_000


class ForecastParams(msgspec.Struct, frozen=True, kw_only=True):
    """The ``[forecast]`` block (DESIGN A4).

    ``lookback``, ``horizon_bars`` and ``train_bars`` count bars; ``retrain_every_ns`` 0 means
    never, and then no model is too old; ``shrink`` is ``skill`` or ``none``.
    """

    model: str = "lstm"
    lookback: int = 60
    horizon_bars: int = 24
    shrink: str = "skill"
    train_bars: int = 20_000
    train_seconds_max: float = 900.0
    retrain_every_ns: int = NS_PER_DAY
    min_skill: float = 0.0
    max_model_age_ns: int = 7 * NS_PER_DAY


class OptimizerParams(msgspec.Struct, frozen=True, kw_only=True):
    """The ``[optimizer]`` block and the limits of ``[risk]`` that bound weights (DESIGN A4).

    Weights, cash and turnover are fractions of equity; ``cost_bps`` is the cost of trading one way in 1e-4 of the
    amount traded; ``cvar_limit`` a positive one-day loss as a fraction of equity.
    """

    objective: str = "mean_variance"
    risk_tolerance: float = 0.25
    covariance: str = "ledoit_wolf"
    fully_invested: bool = False
    rebalance_every: int = 1
    cost_bps: float = 10.0
    turnover_max: float = 0.5
    turnover_max_day: float = 2.0
    max_weight: float = 0.30
    max_gross: float = 1.0
    min_cash: float = 0.02
    cvar_limit: float = 0.10

    @property
    def budget(self) -> float:
        """Return the largest sum of weights: what cash reserve and gross limit leave."""
        return max(0.0, min(1.0 - self.min_cash, self.max_gross))


class StrategySetup(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a strategy of ours is set up with once, before its first decision."""

    forecast: ForecastParams
    optimizer: OptimizerParams
    symbols: tuple[str, ...]
    bar_ns: int
    models_dir: str = ""


class ModelInfo(msgspec.Struct, frozen=True):
    """Which model a strategy serves: its name with its id, "" when none, and then why.

    ``trained_ns`` is the close of the newest bar it has seen, 0 for a model that does not age.
    """

    model: str = ""
    trained_ns: int = 0
    detail: str = ""


class Timings(msgspec.Struct, frozen=True):
    """What the last decision took, in ns, and the pooled out-of-sample skill of its model.

    ``features_ns`` covers checks, returns and covariance, ``forecast_ns`` the model with its own features, ``solve_ns``
    optimiser and CVaR. ``note`` is one line for the log when something was survived, such as a solver that failed.
    """

    features_ns: int = 0
    forecast_ns: int = 0
    solve_ns: int = 0
    raw_skill: float = 0.0
    note: str = ""


@runtime_checkable
class NeedsSetup(Protocol):
    """A strategy that wants more than the view: forecaster, limits and a stopwatch. Users need not implement it."""

    def setup(self, setup: StrategySetup, monotonic_ns: "Callable[[], int]") -> ModelInfo:
        """Load what the decisions need; called again whenever a newly trained model is to be served."""
        ...

    @property
    def timings(self) -> Timings:
        """Return what the last decision took."""
        ...
