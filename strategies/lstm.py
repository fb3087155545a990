"""Stage 5: the reference LSTM, its definition and its inference; training is in `strategies.training`.

LSTM 128 → LSTM 64 with dropout (Hochreiter & Schmidhuber, Neural Computation 9, 1997), causal self-attention over time
(Vaswani et al., Attention Is All You Need, 2017, eq. 1), then two linear heads: the mean return of the horizon and,
through softplus, its standard deviation, both in units of sigma·sqrt(horizon). One model for all assets.
"""

from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from typing import Final, Self

import numpy as np
import torch
from numpy import float32, float64
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from strategies.artifact import Artifact, BadArtifact, Hyper, load_artifact
from strategies.features import FEATURES, make_features
from strategies.forecaster import RawForecast
from strategies.skill import Earned

__all__ = ["LstmForecaster", "LstmNet", "golden_input", "predict_windows"]

PAD: Final = 16
"""Batches are padded to a multiple of this: smaller ones take other kernels and differ in the last bits."""
BATCH: Final = 256
"""Windows in one pass at most: more fall out of the cache, and a window costs a quarter more."""
LANES: Final = 64
"""Outputs are bounded in multiples of this: the last ones of another length would take scalar code, with other bits."""
MEAN_MAX: Final = 5.0
"""Largest mean a model may utter, in units of sigma·sqrt(horizon)."""
SCALE_MIN: Final = 0.05
SCALE_MAX: Final = 20.0
_GOLDEN_SAMPLES: Final = 4
_GOLDEN_TOLERANCE: Final = 1e-5
_ALIKE: Final[dict[tuple[int, ...], bool]] = {}
"""What `LstmForecaster` found out about this machine, by shapes: at most one entry per number of assets and network."""


class LstmNet(nn.Module):
    """The network; float32, input (n, time, n_features) as `make_features` gives it."""

    def __init__(self, hyper: Hyper, n_features: int = len(FEATURES)) -> None:
        super().__init__()
        top = hyper.hidden_top
        self.lower = nn.LSTM(n_features, hyper.hidden, batch_first=True)
        self.upper = nn.LSTM(hyper.hidden, top, batch_first=True)
        self.dropout = nn.Dropout(hyper.dropout)
        self.query = nn.Linear(top, top, bias=False)
        self.key = nn.Linear(top, top, bias=False)
        self.value = nn.Linear(top, top, bias=False)
        self.mean_head = nn.Linear(top, 1)
        self.scale_head = nn.Linear(top, 1)
        # Training starts at the naive forecast (mean 0, scale 1), so whatever it keeps has beaten it.
        nn.init.zeros_(self.mean_head.weight)
        nn.init.zeros_(self.mean_head.bias)
        nn.init.zeros_(self.scale_head.weight)
        nn.init.constant_(self.scale_head.bias, 0.4899)  # softplus(0.4899) + SCALE_MIN = 1.02

    def forward(self, X: Tensor, last: int = 1) -> tuple[Tensor, Tensor]:
        """Return mean and scale, each (n, last), as forecast at the last ``last`` bars of every window."""
        return bounded(*self.heads(X, last))

    def heads(self, X: Tensor, last: int = 1) -> tuple[Tensor, Tensor]:
        """Return what the two heads say, each (n, last), before it is bounded.

        Attention is causal: the forecast at a bar reads that bar and those before it, so the many forecasts of one
        training window and the single one of inference are the same function.
        """
        hidden: Tensor = self.upper(self.dropout(self.lower(X)[0]))[0]
        hidden = self.dropout(hidden)
        time, width = hidden.shape[1], hidden.shape[2]
        newest = hidden[:, time - last :]
        # (q W_q)(h W_k)' = (q W_q W_k') h': projecting the few queries is cheaper than every key.
        query = self.query(newest) @ self.key.weight
        scores = query @ hidden.transpose(1, 2) / sqrt(width)
        if last > 1:
            steps = torch.arange(time, device=X.device)
            scores = scores.masked_fill(steps > steps[time - last :, None], float("-inf"))
        context = newest + self.value(scores.softmax(dim=-1) @ hidden)
        mean: Tensor = self.mean_head(context).squeeze(-1)
        scale: Tensor = self.scale_head(context).squeeze(-1)
        return mean, scale


def bounded(mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and scale as a model may utter them, from what its heads say."""
    positive = functional.softplus(scale) + SCALE_MIN
    return mean.clamp(-MEAN_MAX, MEAN_MAX), positive.clamp(max=SCALE_MAX)


def predict_windows(net: LstmNet, X: NDArray[float32]) -> tuple[NDArray[float64], NDArray[float64]]:
    """Return mean and scale (n,) in standardised units for windows (n, lookback, n_features), in padded batches."""
    n = X.shape[0]
    mean, scale = torch.zeros(2, -(-n // LANES) * LANES)
    with torch.inference_mode():
        for start in range(0, n, BATCH):
            part = X[start : start + BATCH]
            padded = np.zeros((-(-part.shape[0] // PAD) * PAD, *part.shape[1:]), dtype=float32)
            padded[: part.shape[0]] = part
            mu, sd = net.heads(torch.from_numpy(padded))
            mean[start : start + BATCH][: part.shape[0]] = mu[: part.shape[0], 0]
            scale[start : start + BATCH][: part.shape[0]] = sd[: part.shape[0], 0]
        mean, scale = bounded(mean, scale)
    return mean[:n].numpy().astype(float64), scale[:n].numpy().astype(float64)


def golden_input(seed: int, lookback: int) -> NDArray[float32]:
    """Return the self-test's input (4, lookback, n_features), standard normal numbers from ``seed``."""
    return np.random.default_rng(seed).standard_normal((_GOLDEN_SAMPLES, lookback, len(FEATURES))).astype(float32)


class LstmForecaster:
    """A trained `LstmNet` behind the forecaster's seam. The caller bounds torch's threads (one, in the worker)."""

    def __init__(self, artifact: Artifact) -> None:
        manifest = artifact.manifest
        self._manifest = manifest
        self._name = f"lstm:{artifact.id}"
        self._net = LstmNet(manifest.hyper, len(manifest.features))
        expected = {name: tuple(tensor.shape) for name, tensor in self._net.state_dict().items()}
        found = {name: tensor.shape for name, tensor in artifact.weights.items()}
        if expected != found:
            wrong = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
            raise BadArtifact(
                f"model {artifact.id}: tensors do not fit an LSTM of this version: {', '.join(wrong[:5])}"
            )
        self._net.load_state_dict({name: torch.tensor(tensor) for name, tensor in artifact.weights.items()})
        self._net.eval()
        self.self_test()

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> Self:
        """Build the model from an artifact that was read and checked; runs the golden self-test."""
        return cls(artifact)

    @classmethod
    def load(cls, model_dir: Path | None, *, horizon_bars: int | None = None, lookback: int | None = None) -> Self:
        """Read an artifact folder and build the model.

        Raises
        ------
        BadArtifact
            As `load_artifact`, and when tensors or the golden self-test do not fit.
        """
        if model_dir is None:
            raise BadArtifact("model lstm needs an artifact folder; train one with `ballast train`")
        return cls(load_artifact(model_dir, horizon_bars=horizon_bars, lookback=lookback))

    @property
    def name(self) -> str:
        """Return "lstm:" and the artifact's id."""
        return self._name

    @property
    def lookback(self) -> int:
        """Return the number of bars read."""
        return self._manifest.lookback

    @property
    def horizon_bars(self) -> int:
        """Return the bars that the forecast return runs over."""
        return self._manifest.horizon_bars

    @property
    def earned(self) -> Earned | None:
        """Return the skill measured on held-out bars."""
        return self._manifest.skill

    @property
    def trained_until_ns(self) -> int | None:
        """Return the close of the newest bar the model was fitted or judged on, ns UTC."""
        return self._manifest.data_end_ns

    def predict(self, bars: NDArray[float64]) -> RawForecast:
        """Forecast all assets in one batched pass; bars (n_assets, n_bars > lookback, 5), returns over the horizon.

        Raises
        ------
        ValueError
            As `make_features`.
        """
        X, sigma = make_features(bars, self.lookback)
        mean, scale = predict_windows(self._net, X)
        unit = sigma * sqrt(self.horizon_bars)
        return RawForecast(mean=mean * unit, scale=scale * unit)

    def predict_many(self, windows: Sequence[NDArray[float64]]) -> list[RawForecast]:
        """Forecast many closes in batches over time: exactly what `predict` says of each, see `Batched`.

        One at a time wherever this machine's kernels say otherwise of a window in another batch (they are asked once).
        """
        need, sizes = self.lookback + 1, [one.shape[0] for one in windows]
        if not all(self._batch_alike(n) for n in set(sizes)):
            return [self.predict(one) for one in windows]
        rows = np.concatenate([one[:, -need:] for one in windows])
        X = np.empty((len(rows), self.lookback, len(FEATURES)), dtype=float32)
        sigma = np.empty(len(rows))
        for start in range(0, len(rows), BATCH):
            part = slice(start, start + BATCH)
            X[part], sigma[part] = make_features(rows[part], self.lookback)
        mean, scale = predict_windows(self._net, X)
        unit = sigma * sqrt(self.horizon_bars)
        cuts = np.cumsum(sizes)[:-1]
        means, scales = np.split(mean * unit, cuts), np.split(scale * unit, cuts)
        return [RawForecast(mean=mu, scale=sd) for mu, sd in zip(means, scales, strict=True)]

    def _batch_alike(self, n: int) -> bool:
        """Say whether windows are answered to the last bit alike ``n`` at a time and in full batches."""
        hyper = self._manifest.hyper
        key = (
            hyper.hidden,
            hyper.hidden_top,
            self.lookback,
            torch.get_num_threads(),
            n,
        )  # kernels are chosen by shapes
        known = _ALIKE.get(key)
        if known is None:
            times = BATCH // n + 2 if n else 0
            shape = (times * n, self.lookback, len(FEATURES))
            X = np.random.default_rng(n).standard_normal(shape).astype(float32)
            whole = np.concatenate(predict_windows(self._net, X))
            parts = [predict_windows(self._net, one) for one in (np.split(X, times) if n else ())]
            single = np.concatenate([np.concatenate([one[at] for one in parts]) for at in (0, 1)]) if n else whole
            known = _ALIKE[key] = bool(np.array_equal(whole, single))
        return known

    def self_test(self) -> None:
        """Compare the answers to the golden input with those of the trainer.

        Raises
        ------
        BadArtifact
            When one differs by more than 1e-5: another build of the library, or weights that are not the trained ones.
        """
        golden = self._manifest.golden
        mean, scale = predict_windows(self._net, golden_input(golden.seed, self.lookback))
        got, want = np.concatenate([mean, scale]), np.array(golden.mean + golden.scale)
        if got.shape != want.shape or not np.allclose(got, want, rtol=0, atol=_GOLDEN_TOLERANCE):
            raise BadArtifact(f"model {self._name}: the self-test's answers differ from the trainer's; train again")
