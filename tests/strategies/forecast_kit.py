"""Prices with a planted forecast of known strength, and a small untrained artifact; shared by the forecast tests.

The log return of bar t+1 is ``r[t+1] = m[t] + e[t+1]`` with ``m[t] = a·m[t-1] + b·e[t]``: an AR(1) expectation that is fed by
the very shocks one can see. Unrolled, the sum of the next h returns is, with A(k) = 1 + a + … + a^(k-1),

    m[t]·A(h)  +  sum over i = 1..h of e[t+i]·(1 + b·A(h-i))

since a shock at t+i is itself one term and moves the h-i later expectations by b, a·b, …. The first term is the best
forecast, the second its error, so with unit shocks R² = V/(V + W), V = A(h)²·b²/(1-a²), W = sum (1 + b·A(k))², k = 0..h-1.
"""

from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy import float64
from numpy.typing import NDArray

from strategies.artifact import Golden, Hyper, Manifest
from strategies.features import FEATURES, SCALER
from strategies.lstm import LstmNet, golden_input, predict_windows
from strategies.skill import Earned
from strategies.training.history import History
from strategies.training.registry import _weights, save_artifact

BAR_NS = 1_000_000_000


def planted_r2(a: float, b: float, horizon: int) -> float:
    """Share of the variance of the next ``horizon`` log returns that is predictable; see above."""
    A = [(1 - a**k) / (1 - a) for k in range(horizon + 1)]
    told = A[horizon] ** 2 * b**2 / (1 - a**2)
    untold = sum((1 + b * A[k]) ** 2 for k in range(horizon))
    return told / (told + untold)


def planted_returns(
    seed: int, *, n_assets: int, n_bars: int, a: float, b: float, volatility: float
) -> tuple[NDArray[float64], NDArray[float64]]:
    """Log returns and their best one-bar-ahead expectation m, both (n_assets, n_bars)."""
    shocks = np.random.default_rng(seed).standard_normal((n_assets, n_bars)) * volatility
    returns, expected = np.empty_like(shocks), np.empty_like(shocks)
    m = np.zeros(n_assets)
    for t in range(n_bars):
        returns[:, t] = m + shocks[:, t]
        m = a * m + b * shocks[:, t]
        expected[:, t] = m
    return returns, expected


def history_of(returns: NDArray[float64], seed: int = 0) -> History:
    """Bars whose log close returns are ``returns`` (n_assets, n_bars); wicks and volumes are noise."""
    rng = np.random.default_rng(seed)
    n_assets, n_bars = returns.shape
    close = 100.0 * np.exp(np.cumsum(returns, axis=1))
    open_ = np.concatenate([np.full((n_assets, 1), 100.0), close[:, :-1]], axis=1)
    wick = np.abs(rng.normal(0, returns.std() / 3, (2, n_assets, n_bars)))
    bars = np.stack(
        [
            open_,
            np.maximum(open_, close) * np.exp(wick[0]),
            np.minimum(open_, close) * np.exp(-wick[1]),
            close,
            rng.exponential(5.0, (n_assets, n_bars)),
        ],
        axis=2,
    )
    symbols = tuple(f"C{i}/USDT" for i in range(n_assets))
    return History(symbols=symbols, close_ns=(np.arange(n_bars) + 1) * BAR_NS, bars=bars)


def random_bars(seed: int, n_assets: int, n_bars: int) -> NDArray[float64]:
    """Bars of a random walk, (n_assets, n_bars, 5)."""
    returns = np.random.default_rng(seed).normal(0, 1e-3, (n_assets, n_bars))
    return history_of(returns, seed).bars


def earned(*, shrink: float = 0.5) -> Earned:
    """Some measured skill."""
    quantiles = {"0.5": 0.6, "0.8": 1.2, "0.9": 1.5, "0.95": 2.0}
    return Earned(
        pooled=0.2,
        assets={"C0/USDT": 0.3, "C1/USDT": 0.1},
        slope=shrink,
        statistic=4.0,
        threshold=2.326,
        shrink=shrink,
        conformal=quantiles,
        conformal_raw={k: 2 * v for k, v in quantiles.items()},
        times=100,
        overlap=8,
    )


def untrained(seed: int = 1, *, lookback: int = 60, horizon: int = 8) -> tuple[LstmNet, Manifest]:
    """A small network with random heads and the manifest that fits it."""
    torch.manual_seed(seed)
    hyper = Hyper(hidden=16, hidden_top=8)
    net = LstmNet(hyper)
    for head in (net.mean_head, net.scale_head):
        torch.nn.init.normal_(head.weight)
    net.eval()
    mean, scale = predict_windows(net, golden_input(7, lookback))
    manifest = Manifest(
        kind="lstm",
        weights_sha256=sha256(_weights(net)).hexdigest(),
        features=FEATURES,
        scaler=SCALER,
        lookback=lookback,
        horizon_bars=horizon,
        bar_ns=BAR_NS,
        symbols=("C0/USDT", "C1/USDT"),
        train_start_ns=BAR_NS,
        train_end_ns=2 * BAR_NS,
        data_end_ns=3 * BAR_NS,
        data_sha256="0" * 64,
        seed=seed,
        created_ns=1_700_000_000_000_000_000 + seed * BAR_NS,
        hyper=hyper,
        metrics={"epochs": 1.0},
        skill=earned(),
        golden=Golden(seed=7, mean=tuple(mean.tolist()), scale=tuple(scale.tolist())),
    )
    return net, manifest


def saved(folder: Path, seed: int = 1) -> Path:
    """An untrained artifact on disk."""
    net, manifest = untrained(seed)
    save_artifact(folder, net, manifest)
    return folder
