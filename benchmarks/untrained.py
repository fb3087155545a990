"""Publish an LSTM of full size that nobody trained: speed does not depend on the weights.

Run as ``python -m benchmarks.untrained MODELS_DIR BAR_NS HORIZON SYMBOL…`` (a process of its own, because it needs torch).
"""

import sys
import time
from hashlib import sha256
from pathlib import Path

LOOKBACK = 60
SEED = 20_260_101


def publish_untrained(
    models_dir: Path, bar_ns: int, horizon: int, symbols: tuple[str, ...], *, opinion: float = 0.0
) -> str:
    """Publish it and return its name; ``opinion`` is the deviation of all weights, 0: it expects nothing."""
    import torch
    from safetensors.torch import save

    from strategies.artifact import Golden, Hyper, Manifest
    from strategies.features import FEATURES, SCALER
    from strategies.lstm import LstmNet, golden_input, predict_windows
    from strategies.skill import Earned
    from strategies.training.registry import publish

    torch.manual_seed(1)
    net = LstmNet(Hyper()).eval()
    if opinion:
        for weights in net.parameters():
            torch.nn.init.normal_(weights, std=opinion)
    blob = save({name: tensor.contiguous() for name, tensor in net.state_dict().items()})
    mean, scale = predict_windows(net, golden_input(SEED, LOOKBACK))
    now_ns = time.time_ns()
    level = {"0.9": 1.7}
    manifest = Manifest(
        kind="lstm",
        weights_sha256=sha256(blob).hexdigest(),
        features=FEATURES,
        scaler=SCALER,
        lookback=LOOKBACK,
        horizon_bars=horizon,
        bar_ns=bar_ns,
        symbols=symbols,
        train_start_ns=now_ns - 2 * bar_ns,
        train_end_ns=now_ns - bar_ns,
        data_end_ns=now_ns,
        data_sha256="0" * 64,
        seed=1,
        created_ns=now_ns,
        hyper=Hyper(),
        metrics={},
        skill=Earned(
            pooled=0.02, assets={}, slope=1.0, statistic=3.0, threshold=1.6, shrink=0.5, conformal=level,
            conformal_raw=level, times=1000, overlap=horizon,
        ),
        golden=Golden(seed=SEED, mean=tuple(mean.tolist()), scale=tuple(scale.tolist())),
    )  # fmt: skip
    return publish(models_dir, net, manifest)


if __name__ == "__main__":
    print(publish_untrained(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), tuple(sys.argv[4:])))
