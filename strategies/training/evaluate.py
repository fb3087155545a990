"""What models forecast on bars they could not know: purged walk-forward, one fitted model per fold, nothing looked at ahead.

In every fold a model is fitted, where it can be, on the bars before the window less purge and embargo, exactly as
`strategies.training` fits it; the closing part of those bars, which the fit never saw, calibrates its intervals. Then it
forecasts at every close of the window. Gaps: López de Prado, Advances in Financial Machine Learning (2018), chapter 7.
"""

from collections.abc import Callable
from pathlib import Path
from re import fullmatch
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
from numpy import float64, int64
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from strategies.artifact import BUILT_IN, Hyper, list_models, load_forecaster
from strategies.baselines import Ewma
from strategies.conformal import advance, begin, scores_of, split_widths, spread_scores, widths
from strategies.skill import LEVELS
from strategies.training.history import History, split
from strategies.training.purged import Fold

if TYPE_CHECKING:
    from strategies.forecaster import Forecaster

__all__ = ["FITTED", "Asked", "BadModel", "FoldForecast", "Ground", "find_model", "forecast_fold"]

FITTED: Final = frozenset({"lstm"})
"""Models that are trained in every fold."""
UNBOUNDED_S: Final = 1e12
"""Wall seconds that never end a training: the same bars and seed give the same model."""
WINDOWS_BYTES: Final = 64 * 2**20
"""Memory for bars that one call to a model is given."""
SAME: Final = 1e-6
"""Relative difference up to which a forecast in a large batch is the one that a call by itself gives."""
CALIBRATION_MIN: Final = 30
"""Fewest times that intervals are calibrated on."""
_CLASS: Final = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"

Floats = NDArray[float64]
Say = Callable[[str], None]


class BadModel(ValueError):
    """A model that cannot be evaluated; one line says which, where and what to do."""


class Asked(msgspec.Struct, frozen=True):
    """A model to judge: its name as it was asked for, what `load_forecaster` takes, and where its artifact or registry is."""

    name: str
    spec: str
    folder: Path | None

    @property
    def fitted(self) -> bool:
        """Return whether it is trained in every fold; an artifact is taken as it is."""
        return self.spec in FITTED and self.folder is None


class Ground(msgspec.Struct, frozen=True):
    """What all models are judged on.

    ``history`` holds every bar, holes filled with the close before; ``known`` (n_assets, n_bars) says where there was one.
    """

    history: History
    known: NDArray[np.bool_]
    folds: tuple[Fold, ...]
    lookback: int
    horizon_bars: int
    seed: int
    hyper: Hyper = Hyper()


class FoldForecast(msgspec.Struct, frozen=True):
    """What a model said in one test window, and what it is compared with; times are the window's closes.

    Attributes
    ----------
    place
        (n_times,) index of the bar at whose close was forecast.
    mean, scale
        (n_assets, n_times) simple return over the horizon and its deviation, as the model gave them.
    realised, variance
        (n_assets, n_times) simple return that came, and the sum of squared log returns of the horizon's bars; NaN where a
        price was missing or the data end.
    ewma
        (n_assets, n_times) scale that the EWMA baseline gives.
    drift
        (n_assets,) mean return over the horizon in the fold's training part: the naive forecast of Campbell & Thompson.
    split
        (n_levels,) widths of split conformal intervals, in units of scale.
    adaptive
        (n_levels, n_times) widths that adaptive conformal inference issued.
    model
        Name of the model that served, with its id.
    models_dir
        Where its artifact is, None without one.
    calibrated_on
        Times behind ``split``; 0 when the artifact's own widths were taken.
    """

    fold: Fold
    place: NDArray[int64]
    mean: Floats
    scale: Floats
    realised: Floats
    variance: Floats
    ewma: Floats
    drift: Floats
    split: Floats
    adaptive: Floats
    model: str
    models_dir: Path | None
    calibrated_on: int


def find_model(name: str, models_dir: Path) -> Asked:
    """Say what a name stands for: a built-in model, ``package.module:Class`` or the id of a registered artifact.

    Raises
    ------
    BadModel
        When it is none of them.
    """
    if name in BUILT_IN:
        return Asked(name, name, None)
    if fullmatch(_CLASS, name):
        return Asked(name, name, models_dir)
    if name in list_models(models_dir):
        return Asked(name, "lstm", models_dir / name)
    raise BadModel(
        f"model {name!r} is unknown: use {', '.join(BUILT_IN)}, package.module:Class, or an id of `ballast models list` "
        f"(registry {models_dir})"
    )


def forecast_fold(
    ground: Ground, asked: Asked, fold: Fold, *, models_dir: Path, say: Say = lambda _: None
) -> FoldForecast:
    """Fit, calibrate and ask one model for one fold.

    Parameters
    ----------
    ground, asked, fold
        The bars, the model and the window.
    models_dir
        An empty folder for the registry of a model that is fitted here.
    say
        Hears in a few words what is being done.

    Raises
    ------
    BadModel
        When it cannot be loaded, has seen bars of the window, or forecasts what is not finite.
    BadHistory
        When the training part is too short.
    """
    forecaster, folder = _served(ground, asked, fold, models_dir=models_dir, say=say)
    say("forecasts")
    n_bars = ground.history.close_ns.size
    place = np.arange(fold.first, min(fold.last, n_bars), dtype=int64)
    mean, scale = _predict(ground, asked, forecaster, place)
    realised, variance = _truth(ground, place)
    scores, calibrated_on = _calibration(ground, asked, forecaster, fold)
    return FoldForecast(
        fold=fold,
        place=place,
        mean=mean,
        scale=scale,
        realised=realised,
        variance=variance,
        ewma=_ewma(ground, place),
        drift=_drift(ground, fold),
        split=split_widths(scores),
        adaptive=_adaptive(scores, scores_of(realised, mean, scale), horizon=ground.horizon_bars),
        model=forecaster.name,
        models_dir=folder,
        calibrated_on=calibrated_on,
    )


def _served(
    ground: Ground, asked: Asked, fold: Fold, *, models_dir: Path, say: Say
) -> "tuple[Forecaster, Path | None]":
    """Return the model that serves the window, trained where it is one to train, and its folder."""
    history, folder = ground.history, asked.folder
    if asked.fitted:
        say("training")
        _train(ground, fold, models_dir, say)
        folder = models_dir
    try:
        forecaster = load_forecaster(
            asked.spec, folder, ground.horizon_bars, lookback=ground.lookback, bar_ns=history.bar_ns
        )
    except ValueError as error:
        raise BadModel(f"model {asked.name}: {error}") from error
    except Exception as error:
        raise BadModel(f"model {asked.name} cannot be loaded: {type(error).__name__}: {error}") from error
    seen_ns, opens_ns = forecaster.trained_until_ns, int(history.close_ns[fold.first]) - history.bar_ns
    if seen_ns is not None and seen_ns > opens_ns:
        raise BadModel(
            f"model {asked.name} has seen bars up to {_day(seen_ns)}, the first test window begins {_day(opens_ns)}: "
            "its results would be hindsight; take a later --start, fewer --folds or newer data"
        )
    if forecaster.horizon_bars != ground.horizon_bars:
        raise BadModel(
            f"model {asked.name} forecasts {forecaster.horizon_bars} bars ahead, forecast.horizon_bars is "
            f"{ground.horizon_bars}"
        )
    return forecaster, folder


def _train(ground: Ground, fold: Fold, models_dir: Path, say: Say) -> None:
    """Train on what was known before the window and register the model in a folder of its own."""
    from strategies.training.registry import make_manifest, publish  # noqa: PLC0415 - torch: only for models that learn
    from strategies.training.train import TrainSpec, train  # noqa: PLC0415

    part = _known_part(ground, fold)
    spec = TrainSpec(
        lookback=ground.lookback,
        horizon_bars=ground.horizon_bars,
        seconds_max=UNBOUNDED_S,
        seed=ground.seed,
        hyper=ground.hyper,
    )
    result = train(part, spec, lambda at: say(f"training, epoch {at.epoch} of {at.epochs}"))
    publish(models_dir, result.net, make_manifest(result, part, spec, created_ns=int(part.close_ns[-1])))


def _known_part(ground: Ground, fold: Fold) -> History:
    """Return the bars that the fold's training may read: labels of its last observation end with the last of them."""
    history = ground.history
    part = slice(fold.train_first, fold.train_last + ground.horizon_bars)
    return History(symbols=history.symbols, close_ns=history.close_ns[part], bars=history.bars[:, part])


def _calibration(ground: Ground, asked: Asked, forecaster: "Forecaster", fold: Fold) -> tuple[Floats, int]:
    """Return scores on the closing part of what was known, which no fit has seen, in order of time; and how many times.

    An artifact was fitted elsewhere: where too few bars came after it, it brings the widths that it measured itself.
    """
    n_known = fold.train_last + ground.horizon_bars - fold.train_first
    first, last = split(n_known, lookback=ground.lookback, horizon_bars=ground.horizon_bars).held
    place = np.arange(fold.train_first + first, fold.train_first + last, dtype=int64)
    seen_ns = forecaster.trained_until_ns
    if not asked.fitted and seen_ns is not None:
        place = place[ground.history.close_ns[place] >= seen_ns]
        if place.size < CALIBRATION_MIN:
            if forecaster.earned is None:
                raise BadModel(f"model {asked.name} has seen the bars that its intervals would be calibrated on")
            return spread_scores(forecaster.earned.conformal_raw), 0
    mean, scale = _predict(ground, asked, forecaster, place)
    scores = scores_of(_truth(ground, place)[0], mean, scale).T
    if not np.isfinite(scores).any():
        raise BadModel(
            f"model {asked.name}: nothing to calibrate on before {_day(int(ground.history.close_ns[fold.first]))}"
        )
    return scores, place.size


def _predict(ground: Ground, asked: Asked, forecaster: "Forecaster", place: NDArray[int64]) -> tuple[Floats, Floats]:
    """Return mean and scale (n_assets, n_times) at the closes of these bars.

    The built-in models judge every asset by itself, so assets of many times go into one call; the answers at both ends are
    compared with those of a call for one time. Any other model is asked time by time, as the daemon asks it.
    """
    if not place.size:
        empty = np.empty((len(ground.history.symbols), 0))
        return empty, empty.copy()
    if asked.spec in BUILT_IN:
        batched = _predict_batched(ground, forecaster, place)
        ends = place[[0, -1]]
        mean, scale = _predict_single(ground, asked, forecaster, ends)
        if all(
            np.allclose(got[:, [0, -1]], want, rtol=SAME, atol=SAME * float(scale.max()))
            for got, want in zip(batched, (mean, scale), strict=True)
        ):
            return _sound(ground, asked, place, *batched)
    return _predict_single(ground, asked, forecaster, place)


def _predict_single(
    ground: Ground, asked: Asked, forecaster: "Forecaster", place: NDArray[int64]
) -> tuple[Floats, Floats]:
    bars, back = ground.history.bars, max(forecaster.lookback, ground.lookback)
    if int(place.min()) < back:
        raise BadModel(
            f"model {asked.name} reads {back} bars, {int(place.min())} lie before its first forecast: take fewer --folds"
        )
    mean = np.empty((bars.shape[0], place.size))
    scale = np.empty_like(mean)
    for at, end in enumerate(place.tolist()):
        try:
            raw = forecaster.predict(bars[:, end - back : end + 1])
        except Exception as error:
            raise BadModel(f"model {asked.name} raised {type(error).__name__}: {error}") from error
        if raw.mean.shape != (bars.shape[0],) or raw.scale.shape != (bars.shape[0],):
            raise BadModel(f"model {asked.name} forecast {raw.mean.shape} means for {bars.shape[0]} assets")
        mean[:, at], scale[:, at] = raw.mean, raw.scale
    return _sound(ground, asked, place, mean, scale)


def _predict_batched(ground: Ground, forecaster: "Forecaster", place: NDArray[int64]) -> tuple[Floats, Floats]:
    bars, size = ground.history.bars, ground.lookback + 1
    n_assets = bars.shape[0]
    windows = sliding_window_view(bars, size, axis=1)  # (n_assets, n_windows, 5, size), no copy
    step = max(1, WINDOWS_BYTES // (n_assets * size * bars.shape[2] * bars.itemsize))
    mean, scale = np.empty((n_assets, place.size)), np.empty((n_assets, place.size))
    for start in range(0, place.size, step):
        chosen = windows[:, place[start : start + step] - ground.lookback].transpose(0, 1, 3, 2)
        raw = forecaster.predict(chosen.reshape(-1, size, bars.shape[2]))
        mean[:, start : start + step] = raw.mean.reshape(n_assets, -1)
        scale[:, start : start + step] = raw.scale.reshape(n_assets, -1)
    return mean, scale


def _sound(ground: Ground, asked: Asked, place: NDArray[int64], mean: Floats, scale: Floats) -> tuple[Floats, Floats]:
    """Return both when every number is finite and every scale positive. Raises BadModel."""
    good = np.isfinite(mean) & np.isfinite(scale) & (scale > 0.0)
    if not good.all():
        asset, at = (int(one) for one in np.argwhere(~good)[0])
        raise BadModel(
            f"model {asked.name} forecast mean {mean[asset, at]}, scale {scale[asset, at]} for "
            f"{ground.history.symbols[asset]} at {_day(int(ground.history.close_ns[place[at]]))}"
        )
    return mean, scale


def _truth(ground: Ground, place: NDArray[int64]) -> tuple[Floats, Floats]:
    """Return realised simple returns and variances over the horizon, (n_assets, n_times), NaN where not known."""
    closes, horizon = ground.history.bars[:, :, 3], ground.horizon_bars
    inside = place + horizon < closes.shape[1]
    realised = np.full((closes.shape[0], place.size), np.nan)
    variance = realised.copy()
    now, then = place[inside], place[inside] + horizon
    there = ground.known[:, now] & ground.known[:, then]
    realised[:, inside] = np.where(there, closes[:, then] / closes[:, now] - 1.0, np.nan)
    squares = np.square(np.diff(np.log(closes), axis=1))
    total = np.concatenate([np.zeros((closes.shape[0], 1)), np.cumsum(squares, axis=1)], axis=1)
    variance[:, inside] = np.where(there, np.maximum(total[:, then] - total[:, now], 0.0), np.nan)
    return realised, variance


def _ewma(ground: Ground, place: NDArray[int64]) -> Floats:
    return _predict_batched(ground, Ewma(horizon_bars=ground.horizon_bars, lookback=ground.lookback), place)[1]


def _drift(ground: Ground, fold: Fold) -> Floats:
    """Return (n_assets,) mean return over the horizon of the training part, 0 where nothing is known."""
    realised = _truth(ground, np.arange(fold.train_first, fold.train_last, dtype=int64))[0]
    count = np.isfinite(realised).sum(axis=1)
    mean: Floats = np.nansum(realised, axis=1) / np.maximum(count, 1)
    return mean


def _adaptive(calibration: Floats, scores: Floats, *, horizon: int) -> Floats:
    """Return (n_levels, n_times) widths as they would have been issued live: a truth is told ``horizon`` bars after."""
    state = begin(calibration)
    issued = np.empty((len(LEVELS), scores.shape[1]))
    for at in range(scores.shape[1]):
        if at >= horizon:
            state = advance(state, scores[:, at - horizon], issued[:, at - horizon])
        issued[:, at] = widths(state)
    return issued


def _day(time_ns: int) -> str:
    return f"{np.datetime64(time_ns, 'ns').astype('datetime64[m]')}Z"
