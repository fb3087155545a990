"""The reference strategy: forecast every asset, believe it as far as it has earned, optimise, limit the tail."""

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from daemon.domain.signal import Forecast, NoDecision, NoReason, Targets, View
from strategies.artifact import BadArtifact, load_forecaster
from strategies.covariance import RETURNS_MAX, NoCovariance, estimate_factors, factor_count, returns_of
from strategies.cvar import scale_down
from strategies.objectives.portfolio import Portfolio
from strategies.optimise import NoSolution, Optimiser, Solution
from strategies.params import ModelInfo, StrategySetup, Timings
from strategies.risk_models import horizon_scenarios
from strategies.skill import NotFinite, Shrink, apply_skill
from strategies.usable import bars_needed, sound_assets

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from strategies.forecaster import Forecaster, RawForecast

UNKNOWN_SCALE = 1.0
"""Scale reported for an asset without a forecast: 100 % over the horizon, nothing is known."""
CLOSE = 3


class _Forecasts(msgspec.Struct, frozen=True):
    """The forecast of every asset and which of them (n_assets,) can be decided on at all."""

    forecast: Forecast
    sound: "NDArray[np.bool_]"


class ForecastOptimise:
    """Forecast, shrink, covariance, optimise, CVaR; implements ``Strategy`` and ``NeedsSetup``.

    An asset whose bars or forecast are not finite is frozen for this decision: it may be held or sold, never bought.
    A model over age or without measured skill counts as an expected return of zero. Decisions depend on the view alone.
    """

    def __init__(self) -> None:
        self._setup: StrategySetup | None = None
        self._forecaster: Forecaster | None = None
        self._why_not = "strategy was not set up"
        self._through: Callable[[Forecaster], Forecaster] | None = None
        self._optimiser: Optimiser | Portfolio | None = None
        self._optimiser_size = 0
        self._monotonic_ns: Callable[[], int] = int
        self._timings = Timings()

    @property
    def timings(self) -> Timings:
        """Return what the last decision took."""
        return self._timings

    def setup(self, setup: StrategySetup, monotonic_ns: "Callable[[], int]") -> ModelInfo:
        """Load the forecaster and compile the optimiser; a model that is missing or refused leaves the one served before.

        Raises
        ------
        ValueError
            When ``forecast.model`` names nothing that exists.
        """
        self._setup, self._monotonic_ns = setup, monotonic_ns
        self._optimiser_for(len(setup.symbols), setup)
        detail = ""
        try:
            loaded = load_forecaster(
                setup.forecast.model,
                Path(setup.models_dir) if setup.models_dir else None,
                setup.forecast.horizon_bars,
                lookback=setup.forecast.lookback,
                bar_ns=setup.bar_ns,
            )
        except BadArtifact as error:
            detail = self._why_not = str(error)
        else:
            self._forecaster = loaded if self._through is None else self._through(loaded)
        if self._forecaster is None:
            return ModelInfo(detail=detail)
        return ModelInfo(model=self._forecaster.name, trained_ns=self._forecaster.trained_until_ns or 0, detail=detail)

    def decide(self, view: View, params: dict[str, object]) -> Targets | NoDecision:
        """Return target weights for the view, or why there are none."""
        setup, forecaster = self._setup, self._forecaster
        self._timings = Timings()
        if setup is None or forecaster is None:
            return NoDecision(reason=NoReason.NO_MODEL, detail=self._why_not)
        started = self._monotonic_ns()
        needed = bars_needed(forecaster)
        if view.bars.shape[1] < needed:
            return NoDecision(NoReason.WARMING_UP, f"{view.bars.shape[1]} of {needed} bars")
        recent = view.bars[:, -needed:, :]
        sound = sound_assets(recent)
        if not bool(sound.any()):
            missing = bool(np.isnan(recent).any())
            reason = NoReason.WARMING_UP if missing else NoReason.NOT_FINITE
            return NoDecision(reason, f"no asset has {needed} usable bars")
        checked = self._monotonic_ns()
        forecasts = _forecast(forecaster, view, sound, setup)
        if isinstance(forecasts, NoDecision):
            return forecasts
        forecast_done = self._monotonic_ns()
        factors = _factors(view, forecasts.sound, setup)
        if isinstance(factors, NoDecision):
            return factors
        estimated = self._monotonic_ns()
        answer, note = self._optimise(view, forecasts, factors, setup)
        self._timings = Timings(
            features_ns=(checked - started) + (estimated - forecast_done),
            forecast_ns=forecast_done - checked,
            solve_ns=self._monotonic_ns() - estimated,
            raw_skill=forecaster.earned.pooled if forecaster.earned else 0.0,
            note=note,
        )
        return answer

    def forecast_through(self, wrap: "Callable[[Forecaster], Forecaster]") -> None:
        """Ask what ``wrap`` makes of the forecaster that serves now, and of each that is loaded later."""
        self._through = wrap
        if self._forecaster is not None:
            self._forecaster = wrap(self._forecaster)

    def _optimiser_for(self, n: int, setup: StrategySetup) -> Optimiser | Portfolio:
        """Return the compiled optimiser for ``n`` assets; compiled again only when the universe changes its size."""
        if self._optimiser is None or self._optimiser_size != n:
            params = setup.optimizer
            if params.objective == "mean_variance":
                self._optimiser = Optimiser(n, params, factor_count(n, params.covariance))
            else:
                self._optimiser = Portfolio(n, params)
            self._optimiser_size = n
        return self._optimiser

    def _optimise(
        self,
        view: View,
        forecasts: _Forecasts,
        factors: "tuple[NDArray[np.float64], NDArray[np.float64]]",
        setup: StrategySetup,
    ) -> tuple[Targets | NoDecision, str]:
        """Solve and scale; return the answer and a note on solvers that failed on the way."""
        w0 = np.array(view.weights, dtype=np.float64)
        mean = np.array(forecasts.forecast.mean, dtype=np.float64)
        caps = np.array(view.caps, dtype=np.float64)
        frozen = np.array(view.frozen, dtype=np.bool_) | ~forecasts.sound
        optimiser = self._optimiser_for(len(view.symbols), setup)
        if isinstance(optimiser, Portfolio):
            scenarios = _scenarios(view, forecasts.sound, mean, setup) if optimiser.needs_scenarios else None
            if isinstance(scenarios, NoDecision):
                return scenarios, ""
            solution = optimiser.solve(
                mean, *factors, w0=w0, caps=caps, frozen=frozen, turnover_left=view.turnover_left,
                symbols=view.symbols, scenarios=scenarios,
            )  # fmt: skip
        else:
            solution = optimiser.solve(
                mean, *factors, w0=w0, caps=caps, frozen=frozen, turnover_left=view.turnover_left, symbols=view.symbols
            )
        if isinstance(solution, NoSolution):
            return NoDecision(NoReason.NOT_FINITE, solution.reason), ""
        return _targets(view, solution, forecasts.forecast, setup, w0=w0), "; ".join(solution.tried)


def _forecast(
    forecaster: "Forecaster", view: View, sound: "NDArray[np.bool_]", setup: StrategySetup
) -> _Forecasts | NoDecision:
    """Forecast all sound assets in one batch, shrink, and put the answer back into the order of the universe."""
    asked = np.flatnonzero(sound)
    bars = view.bars if asked.size == sound.size else view.bars[asked]
    raw = forecaster.predict(bars)
    if raw.mean.shape != asked.shape or raw.scale.shape != asked.shape:
        return NoDecision(
            NoReason.NOT_FINITE, f"{forecaster.name} forecast {raw.mean.shape} means for {asked.size} assets"
        )
    finite = np.isfinite(raw.mean) & np.isfinite(raw.scale) & (raw.scale > 0.0)
    if not bool(finite.any()):
        return NoDecision(NoReason.NOT_FINITE, f"{forecaster.name} forecast nothing finite")
    kept = asked[finite]
    symbols = tuple(view.symbols[int(i)] for i in kept)
    params = setup.forecast
    shrink: Shrink = "none" if params.shrink == "none" else "skill"
    try:
        believed = apply_skill(
            _subset(raw, finite), forecaster, symbols=symbols, shrink=shrink, age_ok=_age_ok(forecaster, view, setup)
        )
    except NotFinite as error:
        return NoDecision(NoReason.NOT_FINITE, str(error))
    if kept.size == sound.size:
        return _Forecasts(forecast=believed, sound=sound)
    usable = np.zeros(sound.size, dtype=np.bool_)
    usable[kept] = True

    def scatter(values: tuple[float, ...], fill: float) -> tuple[float, ...]:
        whole = np.full(sound.size, fill)
        whole[kept] = values
        return tuple(whole.tolist())

    whole = msgspec.structs.replace(
        believed,
        symbols=view.symbols,
        mean=scatter(believed.mean, 0.0),
        raw_mean=scatter(believed.raw_mean, 0.0),
        scale=scatter(believed.scale, UNKNOWN_SCALE),
        skill=scatter(believed.skill, 0.0),
        interval_90=scatter(believed.interval_90, 0.0),
    )
    return _Forecasts(forecast=whole, sound=usable)


def _subset(raw: "RawForecast", chosen: "NDArray[np.bool_]") -> "RawForecast":
    """Return the forecast of the chosen assets only."""
    return raw if bool(chosen.all()) else msgspec.structs.replace(raw, mean=raw.mean[chosen], scale=raw.scale[chosen])


def _age_ok(forecaster: "Forecaster", view: View, setup: StrategySetup) -> bool:
    """Say whether the model may still be believed: it does not age, is never retrained, or is young enough."""
    trained = forecaster.trained_until_ns
    if trained is None or setup.forecast.retrain_every_ns == 0:
        return True
    return view.ts_ns - trained <= setup.forecast.max_model_age_ns


def _factors(
    view: View, sound: "NDArray[np.bool_]", setup: StrategySetup
) -> "tuple[NDArray[np.float64], NDArray[np.float64]] | NoDecision":
    """Estimate the covariance of the sound assets over the bars all of them have, as F and D for the whole universe.

    The others get no variance: they are frozen, and without mean or risk nothing pays for the cost of selling them.
    """
    estimated = estimate_factors(
        _returns(view, sound), method=setup.optimizer.covariance, horizon_bars=setup.forecast.horizon_bars
    )
    if isinstance(estimated, NoCovariance):
        return NoDecision(NoReason.NOT_FINITE, estimated.detail)
    F_sound, D_sound = estimated
    if bool(sound.all()):
        return F_sound, D_sound
    F, D = np.zeros((sound.size, F_sound.shape[1])), np.zeros(sound.size)
    F[sound], D[sound] = F_sound, D_sound
    return F, D


def _returns(view: View, sound: "NDArray[np.bool_]") -> "NDArray[np.float64]":
    """Return simple returns per bar (n_bars, n_sound) of the sound assets, over the bars all of them have."""
    closes = view.bars[:, -(RETURNS_MAX + 1) :, CLOSE].T
    common = np.ascontiguousarray(closes if bool(sound.all()) else closes[:, sound])
    if not bool(common.min() > 0.0 and common.max() < np.inf):
        usable = (np.isfinite(common) & (common > 0.0)).all(axis=1)
        common = common[int(np.flatnonzero(~usable)[-1]) + 1 :]
    return returns_of(common.T)


def _scenarios(
    view: View, sound: "NDArray[np.bool_]", mean: "NDArray[np.float64]", setup: StrategySetup
) -> "NDArray[np.float64] | NoDecision":
    """Return scenarios (T, n_assets) over the horizon around the forecast; an asset that is not sound moves in none."""
    found = horizon_scenarios(_returns(view, sound), mean[sound], horizon_bars=setup.forecast.horizon_bars)
    if isinstance(found, NoCovariance):
        return NoDecision(NoReason.WARMING_UP, found.detail)
    whole = np.zeros((found.shape[0], sound.size))
    whole[:, sound] = found
    return whole


def _targets(
    view: View, solution: Solution, forecast: Forecast, setup: StrategySetup, *, w0: "NDArray[np.float64]"
) -> Targets:
    """Scale to the CVaR limit where daily returns are known, and say what binds."""
    weights, binding = solution.weights, solution.binding
    if view.daily is not None:
        scaled, _ = scale_down(weights, view.daily, setup.optimizer.cvar_limit)
        if scaled is not weights:
            weights, binding = scaled, (*binding, "cvar")
    return Targets(
        symbols=view.symbols,
        weights=tuple(weights.tolist()),
        forecast=forecast,
        status=solution.status,
        rung=solution.rung,
        binding=binding,
        turnover=float(np.abs(weights - np.maximum(w0, 0.0)).sum()),
    )
