"""Forecasters and strategies that fail on command, for F59–F63. They run in the worker, a process of its own.

A file in the folder of models (forecaster) or in the one that ``strategy_params.folder`` names (strategies) says how; each
decision that was spoilt adds a byte to the file ``spoilt`` beside it, which is how the row counts.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self, cast

import cvxpy as cp
import numpy as np
from numpy import float64
from numpy.typing import NDArray

from daemon.domain.signal import NoDecision, Targets, View
from strategies import covariance
from strategies.baselines import Ewma
from strategies.forecast_optimise import ForecastOptimise
from strategies.forecaster import RawForecast
from strategies.optimise import Optimiser
from strategies.qp import Problem, Raw

MODE: Final = "mode"
SPOILT: Final = "spoilt"
Matrix = NDArray[float64]


def _mode(folder: Path) -> str:
    """Return how to fail, "" not at all."""
    try:
        return (folder / MODE).read_text()
    except FileNotFoundError:
        return ""


def _count(folder: Path) -> None:
    with (folder / SPOILT).open("ab") as file:
        file.write(b".")


class Voice(Ewma):
    """F59: a forecaster that says what nobody can use."""

    _folder = Path()

    @classmethod
    def load(cls, model_dir: Path | None, *, horizon_bars: int, lookback: int = 60) -> Self:
        """Make one that looks for its orders in the folder of models."""
        made = super().load(model_dir, horizon_bars=horizon_bars, lookback=lookback)
        made._folder = model_dir or Path()
        return made

    def predict(self, bars: NDArray[float64]) -> RawForecast:
        """Forecast soundly, or spoil it."""
        sound = super().predict(bars)
        mode = _mode(self._folder)
        if not mode:
            return sound
        _count(self._folder)
        if mode not in SPOILS:
            raise RuntimeError("planted: the forecaster raises")
        return cast("RawForecast", SPOILS[mode](sound.mean.copy(), sound.scale.copy()))


def _nan_of_one(mean: Matrix, scale: Matrix) -> object:
    mean[0] = np.nan
    return RawForecast(mean, scale)


def _infinite(mean: Matrix, scale: Matrix) -> object:
    mean[1], scale[2] = np.inf, np.inf
    return RawForecast(mean, scale)


SPOILS: Final[dict[str, Callable[[Matrix, Matrix], object]]] = {
    "nan of one": _nan_of_one,
    "nan": lambda mean, scale: RawForecast(np.full_like(mean, np.nan), scale),
    "infinite": _infinite,
    "huge": lambda mean, scale: RawForecast(np.full_like(mean, 1e300), scale),
    "large": lambda mean, scale: RawForecast(np.full_like(mean, 50.0), scale),
    "constant": lambda mean, scale: RawForecast(np.full_like(mean, 0.001), scale),
    "scale zero": lambda mean, scale: RawForecast(mean, np.zeros_like(scale)),
    "scale negative": lambda mean, scale: RawForecast(mean, -scale),
    "shape": lambda mean, scale: RawForecast(mean[:-1], scale[:-1]),
    "matrix": lambda mean, scale: RawForecast(np.tile(mean, (2, 1)), np.tile(scale, (2, 1))),
    "integers": lambda mean, scale: RawForecast(cast("Matrix", np.zeros(mean.size, dtype=np.int64)), scale),
    "text": lambda mean, scale: RawForecast(cast("Matrix", np.array(["a"] * mean.size)), scale),
    "none": lambda _mean, _scale: None,
}
FORECASTS: Final = (*SPOILS, "raise")


class Slow(ForecastOptimise):
    """F61: inference that takes longer than a bar."""

    def decide(self, view: View, params: dict[str, object]) -> Targets | NoDecision:
        """Decide soundly, late."""
        folder = Path(str(params["folder"]))
        mode = _mode(folder)
        if mode:
            _count(folder)
            time.sleep(float(mode))
        return super().decide(view, params)


class _Rung:
    """A solver that answers as told, with cvxpy's own words where it has any."""

    def __init__(self, mode: str) -> None:
        self._mode = mode

    def solve(self, problem: Problem) -> Raw:
        """Fail."""
        n = problem.w0.size
        w = cp.Variable(n)
        match self._mode:
            case "infeasible":
                stated = cp.Problem(cp.Minimize(cp.sum_squares(w)), [w >= 1, w <= 0])
                stated.solve(solver=cp.CLARABEL)
                return Raw(w=np.full(n, np.nan), status=str(stated.status), optimal=False, duals=(0.0, 0.0))
            case "unbounded":
                stated = cp.Problem(cp.Minimize(cp.sum(w)))
                stated.solve(solver=cp.CLARABEL)
                return Raw(w=np.full(n, np.nan), status=str(stated.status), optimal=False, duals=(0.0, 0.0))
            case "inaccurate":
                return Raw(w=np.full(n, 0.1), status=cp.OPTIMAL_INACCURATE, optimal=False, duals=(0.0, 0.0))
            case "user_limit":
                return Raw(w=np.zeros(n), status=cp.USER_LIMIT, optimal=False, duals=(0.0, 0.0))
            case "lies":
                return Raw(w=np.full(n, 5.0), status=cp.OPTIMAL, optimal=True, duals=(0.0, 0.0))
            case "nan":
                return Raw(w=np.full(n, np.nan), status=cp.OPTIMAL, optimal=True, duals=(0.0, 0.0))
            case "not convex":
                stated = cp.Problem(cp.Maximize(cp.sum_squares(w)), [w <= 1])
                stated.solve()
            case _:
                time.sleep(60.0)
        raise RuntimeError("planted: no solver gets this far")


class Solver(ForecastOptimise):
    """F62: every rung of the ladder fails the same way."""

    _sound: tuple[tuple[str, Any], ...] = ()

    def decide(self, view: View, params: dict[str, object]) -> Targets | NoDecision:
        """Decide with solvers that fail, or with the real ones."""
        folder = Path(str(params["folder"]))
        mode, optimiser = _mode(folder), self._optimiser
        if isinstance(optimiser, Optimiser):
            self._sound = self._sound or optimiser._rungs
            spoilt = tuple((name, _Rung(mode)) for name, _ in self._sound)
            optimiser._rungs = spoilt if mode else self._sound
        if mode:
            _count(folder)
        return super().decide(view, params)


SOLVERS: Final = ("infeasible", "unbounded", "inaccurate", "user_limit", "lies", "nan", "not convex", "hangs")


def _rank_one(S: Matrix) -> Matrix:
    return np.asarray(np.outer(np.sqrt(np.diag(S)), np.sqrt(np.diag(S))), dtype=np.float64)


def _indefinite(S: Matrix) -> Matrix:
    spoilt = S.copy()
    spoilt[0, 1] = spoilt[1, 0] = 3.0 * float(np.sqrt(S[0, 0] * S[1, 1]))
    return spoilt


def _lopsided(S: Matrix) -> Matrix:
    spoilt = S.copy()
    spoilt[0, 1] *= 5.0
    return spoilt


COVARIANCES: Final[dict[str, Callable[[Matrix], Matrix]]] = {
    "rank 1": _rank_one,
    "zero": np.zeros_like,
    "nan": lambda S: np.full_like(S, np.nan),
    "infinite": lambda S: np.full_like(S, np.inf),
    "negative": lambda S: -S,
    "indefinite": _indefinite,
    "lopsided": _lopsided,
    "1e12": lambda S: S * 1e12,
    "1e-12": lambda S: S * 1e-12,
    "1e300": lambda S: S * 1e300,
}


class Risky(ForecastOptimise):
    """F63: the estimate of the covariance is spoilt before it is repaired."""

    def decide(self, view: View, params: dict[str, object]) -> Targets | NoDecision:
        """Decide on a spoilt covariance."""
        folder = Path(str(params["folder"]))
        mode, real = _mode(folder), covariance.ledoit_wolf
        if not mode:
            return super().decide(view, params)
        _count(folder)
        covariance.ledoit_wolf = lambda returns: (COVARIANCES[mode](real(returns)[0]), 0.0)
        try:
            return super().decide(view, params)
        finally:
            covariance.ledoit_wolf = real
