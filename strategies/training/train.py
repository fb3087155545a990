"""Fit the reference LSTM: split in time order, early stopping, then judge it on bars it never saw."""

import time
from collections.abc import Callable
from copy import deepcopy
from math import ceil, cos, pi
from typing import Final

import msgspec
import numpy as np
import torch
from numpy import float32, float64, int64
from numpy.typing import NDArray
from torch import Tensor

from strategies.artifact import Hyper
from strategies.lstm import LstmNet, predict_windows
from strategies.skill import Earned, measure, skill_score
from strategies.training.history import BadHistory, History, Split, cut_windows, split
from strategies.training.loss import training_loss

__all__ = ["Progress", "TrainResult", "TrainSpec", "learning_rate", "train"]

WARM_UP: Final = 20
"""Bars at a window's start that carry no label: there the recurrence has seen too little."""
WINDOWS_MAX: Final = 60_000
"""Windows held in memory: 60,000 × 60 × 5 float32 = 72 MB. More history is read with a larger stride."""
JUDGED_MAX: Final = 4_000
"""Windows that validation reads per epoch."""
HELD_MAX: Final = 20_000
"""Windows that the final judgement reads."""
LABEL_MAX: Final = 6.0
"""Labels are clipped here, in standardised units, for training only; skill is measured on what happened."""
THREADS: Final = 1
"""More threads wait for each other at every step of the recurrence: alone on two cores two are 1.4× faster than one, beside
one busy process ten times slower (measured: 80 s against 9 s)."""
FIT_SHARE: Final = 0.9
"""Share of ``seconds_max`` after which fitting ends: judging and saving want the rest."""
HURRY_SLACK: Final = 0.1
"""Share of ``seconds_max`` by which an epoch count may lag the clock before the learning rate follows the clock."""


class TrainSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to train: bars read, bars ahead, wall seconds after which the best so far is kept, hyper-parameters."""

    lookback: int = 60
    horizon_bars: int = 24
    seconds_max: float = 900.0
    seed: int = 1
    hyper: Hyper = Hyper()

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        hyper = self.hyper
        at_least = {
            "lookback": (self.lookback, 2),
            "horizon_bars": (self.horizon_bars, 1),
            "hyper.hidden": (hyper.hidden, 1),
            "hyper.hidden_top": (hyper.hidden_top, 1),
            "hyper.batch": (hyper.batch, 1),
            "hyper.epochs_max": (hyper.epochs_max, 1),
            "hyper.patience": (hyper.patience, 1),
        }
        for key, (value, least) in at_least.items():
            if value < least:
                raise ValueError(f"{key} = {value} must be at least {least}")
        if not 0 <= hyper.dropout < 1 or not hyper.learning_rate > 0 or not self.seconds_max >= 0:
            raise ValueError("dropout must lie in 0..1, learning_rate above 0, seconds_max at or above 0")


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """One line of progress; ``skill`` is that on the validation part, ``best`` the best so far."""

    epoch: int
    epochs: int
    loss: float
    skill: float
    best: float
    seconds: float


class TrainResult(msgspec.Struct, frozen=True):
    """A trained network in evaluation mode, what it earned on held-out bars, and numbers for the manifest.

    ``held_ends`` (n_times,) are the indices of the held-out bars, ``held_mean`` and ``held_realised`` (n_assets, n_times)
    what was forecast and what happened, simple returns over the horizon.
    """

    net: LstmNet
    earned: Earned
    metrics: dict[str, float]
    split: Split
    held_ends: NDArray[int64]
    held_mean: NDArray[float64]
    held_realised: NDArray[float64]


def train(
    history: History,
    spec: TrainSpec,
    progress: Callable[[Progress], None] = lambda _: None,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> TrainResult:
    """Train on the first 64 % of the bars, stop on the next 12 %, measure skill on the rest.

    Deterministic for a seed as long as ``seconds_max`` does not end it: the learning rate then hurries towards its end.

    Parameters
    ----------
    history
        Bars of all symbols; every asset trains the same model.
    spec
        What to train.
    progress
        Called after every epoch.
    clock
        Monotonic seconds.

    Raises
    ------
    BadHistory
        When there is too little history, or a bar is not usable.
    """
    started = clock()
    n_bars = history.close_ns.size
    parts = split(n_bars, lookback=spec.lookback, horizon_bars=spec.horizon_bars)
    torch.manual_seed(spec.seed)
    rng = np.random.default_rng(spec.seed)
    trainer = _Trainer(history, spec, parts)
    net = LstmNet(spec.hyper)
    epochs, best = trainer.fit(net, rng, progress, lambda: clock() - started)
    net.eval()
    stride = max(1, ceil((parts.held[1] - parts.held[0]) * len(history.symbols) / HELD_MAX))
    ends = np.arange(*parts.held, stride, dtype=int64)
    realised, mean, scale, unit = _judge(net, history, spec, ends)
    overlap = ceil(spec.horizon_bars / stride)
    earned = measure(realised, mean, scale, symbols=history.symbols, overlap=overlap)
    metrics = {
        "seconds": clock() - started,
        "epochs": float(epochs),
        "validation_skill": best,
        "held_skill": earned.pooled,
        "held_rmse": float(np.sqrt(np.mean(np.square((realised - mean) * unit)))),
        "held_mae": float(np.mean(np.abs((realised - mean) * unit))),
        "held_directional_accuracy": float(np.mean(np.sign(realised) == np.sign(mean))),
        "held_windows": float(realised.size),
    }
    return TrainResult(
        net=net,
        earned=earned,
        metrics=metrics,
        split=parts,
        held_ends=ends,
        held_mean=mean * unit,
        held_realised=realised * unit,
    )


def learning_rate(peak: float, done: float) -> float:
    """Return the rate at ``done`` in 0..1: a linear rise over the first 15 %, then half a cosine down to 1 % of the peak.

    The one-cycle policy of Smith & Topin, Super-Convergence, 2018.
    """
    if done < 0.15:
        return peak * (0.1 + 0.9 * done / 0.15)
    return peak * (0.01 + 0.99 * 0.5 * (1 + cos(pi * min((done - 0.15) / 0.85, 1.0))))


def _judge(
    net: LstmNet, history: History, spec: TrainSpec, ends: NDArray[int64]
) -> tuple[NDArray[float64], NDArray[float64], NDArray[float64], NDArray[float64]]:
    """Return realised, mean, scale (standardised) and unit, each (n_assets, n_ends)."""
    windows = cut_windows(history, ends, lookback=spec.lookback, horizon_bars=spec.horizon_bars, last=1)
    shape = windows.unit.shape
    mean, scale = predict_windows(net, windows.X.reshape(-1, *windows.X.shape[2:]))
    return windows.y[:, :, 0], mean.reshape(shape), scale.reshape(shape), windows.unit


class _Trainer:
    """The training windows, and the loop over them."""

    def __init__(self, history: History, spec: TrainSpec, parts: Split) -> None:
        self._spec = spec
        self._last = max(2, spec.lookback - WARM_UP)
        self._shift = min(spec.horizon_bars, self._last // 2)
        n_assets = len(history.symbols)
        first, end = parts.train
        # Each window labels its `last` newest bars; windows start on a grid finer than that, and an epoch draws as
        # many as cover every bar twice, so that a bar is seen at different depths of the recurrence.
        stride = max(1, self._last // 8, ceil((end - first) * n_assets / WINDOWS_MAX))
        ends = np.arange(end - 1, first - 1, -stride, dtype=int64)[::-1]
        try:
            windows = cut_windows(
                history, ends, lookback=spec.lookback, horizon_bars=spec.horizon_bars, last=self._last
            )
            judged = max(1, ceil((parts.valid[1] - parts.valid[0]) * n_assets / JUDGED_MAX))
            valid_ends = np.arange(*parts.valid, judged, dtype=int64)
            valid = cut_windows(history, valid_ends, lookback=spec.lookback, horizon_bars=spec.horizon_bars, last=1)
        except ValueError as error:
            raise BadHistory(f"history cannot be used: {error}") from None
        self._X = windows.X.reshape(-1, *windows.X.shape[2:])
        self._y = np.clip(windows.y, -LABEL_MAX, LABEL_MAX).reshape(-1, self._last).astype(float32)
        self._unit = windows.unit.reshape(-1).astype(float32)
        self._valid_X = valid.X.reshape(-1, *valid.X.shape[2:])
        self._valid_y = valid.y.reshape(-1)
        covered = ceil(2 * (end - first) * n_assets / self._last)
        self._per_epoch = max(min(covered, self._X.shape[0]), min(spec.hyper.batch, self._X.shape[0]))

    def fit(
        self,
        net: LstmNet,
        rng: np.random.Generator,
        progress: Callable[[Progress], None],
        elapsed: Callable[[], float],
    ) -> tuple[int, float]:
        """Train the network in place, leave the best state in it; return the epochs run and the best validation skill."""
        spec, hyper = self._spec, self._spec.hyper
        optimiser = torch.optim.AdamW(net.parameters(), lr=hyper.learning_rate, weight_decay=hyper.weight_decay)
        steps = ceil(self._per_epoch / hyper.batch)
        budget = max(spec.seconds_max * FIT_SHARE, 1e-3)
        best, best_state, waited, epoch = 0.0, deepcopy(net.state_dict()), 0, 0
        for epoch in range(1, hyper.epochs_max + 1):
            net.train()
            order = rng.permutation(self._X.shape[0])[: self._per_epoch]
            total, taken = 0.0, 0
            for step in range(steps):
                spent = (elapsed() / budget - HURRY_SLACK) / (1 - HURRY_SLACK)
                done = max((epoch - 1 + step / steps) / hyper.epochs_max, spent)
                for group in optimiser.param_groups:
                    group["lr"] = learning_rate(hyper.learning_rate, done)
                total += self._step(net, optimiser, order[step * hyper.batch : (step + 1) * hyper.batch])
                taken += 1
                if elapsed() > budget:
                    break
            net.eval()
            skill = skill_score(self._valid_y, predict_windows(net, self._valid_X)[0])
            if skill > best:
                best, best_state, waited = skill, deepcopy(net.state_dict()), 0
            else:
                waited += 1
            progress(Progress(epoch, hyper.epochs_max, total / taken, skill, best, elapsed()))
            if waited >= hyper.patience or elapsed() > budget:
                break
        net.load_state_dict(best_state)
        return epoch, best

    def _step(self, net: LstmNet, optimiser: torch.optim.Optimizer, chosen: NDArray[int64]) -> float:
        """Take one optimiser step on the chosen windows and return the loss."""
        X, y = torch.from_numpy(self._X[chosen]), torch.from_numpy(self._y[chosen])
        mean, scale = net(X, self._last)
        unit = torch.from_numpy(self._unit[chosen])
        loss: Tensor = training_loss(mean, scale, y, unit, hyper=self._spec.hyper, shift=self._shift)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own annotation is missing
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        return float(loss.detach())
