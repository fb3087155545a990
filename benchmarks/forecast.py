"""Stages 4 and 5, features and LSTM for all assets, one thread: against the FLOP bound and a call per asset.

The bound is the time the network's multiplications would take at the speed of a 512 x 512 float32 product measured in the
same run. ``naive`` is what one would write first: pandas features and a torch call, asset by asset.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np

LOOKBACK = 60
SIZES = (10, 100)
ROUNDS = 40
PER_ASSET_GOALS = {10: 3.0, 100: 4.0}
GOALS = {"flop_bound_max": 2.0, "features_share_max": 0.20, "per_asset_min": PER_ASSET_GOALS}


def milliseconds(work: Callable[[], object], rounds: int) -> float:
    """Median of ``rounds`` runs after three to warm up."""
    for _ in range(3):
        work()
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return median(taken) * 1e3


def flops(hidden: int, top: int, n_features: int) -> int:
    """Floating point operations of both LSTMs for one window; attention and heads are below 1 % of it."""
    return LOOKBACK * 2 * (4 * hidden * (n_features + hidden) + 4 * top * (hidden + top))


def sample_bars(n_assets: int) -> "np.ndarray[Any, np.dtype[np.float64]]":
    rng = np.random.default_rng(n_assets)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 1e-3, (n_assets, 500)), axis=1))
    wick = np.abs(rng.normal(0, 3e-4, (2, *close.shape)))
    columns = (close, close * np.exp(wick[0]), close * np.exp(-wick[1]), close, rng.exponential(5, close.shape))
    return np.stack(columns, axis=2)


def naive_features(frame: Any) -> Any:
    """What a notebook does with the last 61 bars of one asset."""
    previous = frame["close"].shift(1)
    out = frame[["open", "high", "low", "close"]].div(previous, axis=0).apply(np.log)
    out = out / np.sqrt((out["close"] ** 2).mean())
    level = np.log1p(frame["volume"] / frame["volume"].mean())
    out["volume"] = (level - level.mean()) / level.std()
    return out.iloc[1:].clip(-10, 10)


def run() -> dict[str, Any]:
    """Measure and return milliseconds and ratios by number of assets."""
    import pandas as pd
    import torch

    from strategies.artifact import Hyper
    from strategies.features import FEATURES, make_features
    from strategies.lstm import LstmNet, predict_windows

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    hyper = Hyper()
    net = LstmNet(hyper).eval()
    a, b = torch.randn(512, 512), torch.randn(512, 512)
    product_ms = milliseconds(lambda: a @ b, 100)
    gflops = 2 * 512**3 / product_ms / 1e6
    result: dict[str, Any] = {"name": "forecast", "gflops": gflops, "goals": GOALS, "assets": {}}
    for n in SIZES:
        bars = sample_bars(n)
        frames = [pd.DataFrame(b, columns=["open", "high", "low", "close", "volume"]) for b in bars]
        X, _ = make_features(bars, LOOKBACK)

        def per_asset(X: Any = X) -> None:
            with torch.inference_mode():
                for i in range(len(X)):
                    net(torch.from_numpy(X[i : i + 1]))

        def naive(frames: Any = frames) -> None:
            with torch.inference_mode():
                for frame in frames:
                    features = naive_features(frame.iloc[-LOOKBACK - 1 :])
                    net(torch.from_numpy(features.to_numpy(dtype=np.float32))[None])

        def ours(bars: Any = bars) -> None:
            predict_windows(net, make_features(bars, LOOKBACK)[0])

        bound = n * flops(hyper.hidden, hyper.hidden_top, len(FEATURES)) / gflops / 1e6
        features = milliseconds(partial(make_features, bars, LOOKBACK), ROUNDS)
        forward = milliseconds(partial(predict_windows, net, X), ROUNDS)
        total, single, first = milliseconds(ours, ROUNDS), milliseconds(per_asset, 7), milliseconds(naive, 3)
        result["assets"][n] = {
            "features_ms": features,
            "forward_ms": forward,
            "total_ms": total,
            "flop_bound_ms": bound,
            "call_per_asset_ms": single,
            "naive_ms": first,
            "forward_over_bound": forward / bound,
            "features_share": features / forward,
            "faster_than_per_asset": single / forward,
            "faster_than_naive": first / total,
        }
    torch.set_num_threads(threads)
    return result


def main(argv: list[str] | None = None) -> int:
    """Print the table, or JSON with ``--json``."""
    result = run()
    if "--json" in (sys.argv[1:] if argv is None else argv):
        print(json.dumps(result))
        return 0
    print(f"forecast: one thread, 512² product at {result['gflops']:.0f} GFLOP/s")
    for n, row in result["assets"].items():
        print(
            f"  {n:>4} assets  features {row['features_ms']:6.2f} ms ({row['features_share']:.0%} of the pass, goal <= 20 %)"
            f"  pass {row['forward_ms']:6.2f} ms = {row['forward_over_bound']:.2f}x FLOP bound (goal <= 2)"
            f"  {row['faster_than_per_asset']:.1f}x a call per asset (goal >= {PER_ASSET_GOALS[n]:g})"
            f"  {row['faster_than_naive']:.1f}x pandas + a call per asset"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
