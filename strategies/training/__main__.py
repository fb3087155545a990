"""Train one model in a process of its own: ``python -m strategies.training --data FILE.npz --out MODELS_DIR``.

Progress is one JSON object per line on stdout (``type``: "progress", then "done"), an error one plain line on stderr.
Exit code 0 when a model was published, 1 when not.
"""

import argparse
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

__all__ = ["Done", "main"]

_NICENESS: Final = 5
"""Trading and the operator come first, but the first model is waited for: at 10 a busy machine would starve it."""


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The last line: the published model and what it earned."""

    model: str
    skill: float
    shrink: float
    statistic: float
    epochs: int
    seconds: float


def main(argv: list[str] | None = None) -> int:
    """Run the training process and return its exit code."""
    started = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m strategies.training", description="Train and publish one model.")
    parser.add_argument("--data", type=Path, required=True, help="history, npz: symbols, close_ns, bars")
    parser.add_argument("--out", type=Path, required=True, help="model registry, <state_dir>/models")
    parser.add_argument(
        "--spec", default="{}", help="JSON of TrainSpec: lookback, horizon_bars, seconds_max, seed, hyper"
    )
    options = parser.parse_args(argv)
    with suppress(OSError):  # a container may forbid it; training is then as important as trading, which still works
        os.nice(_NICENESS)
    try:
        return _train(options.data, options.out, options.spec, started)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"training failed: {error}\n")
        return 1


def _train(data: Path, out: Path, spec_json: str, started: float) -> int:
    import torch  # noqa: PLC0415 (argument errors are told before a second of imports)

    from strategies.training.history import read_history  # noqa: PLC0415
    from strategies.training.registry import make_manifest, publish  # noqa: PLC0415
    from strategies.training.train import THREADS, TrainSpec, train  # noqa: PLC0415

    torch.set_num_threads(THREADS)
    try:
        spec = msgspec.json.decode(spec_json, type=TrainSpec)
    except msgspec.DecodeError as error:
        raise ValueError(f"--spec {spec_json[:200]!r} is not a training spec ({error})") from None
    history = read_history(data)
    out.mkdir(parents=True, exist_ok=True)  # a registry that cannot be written is told before the work, not after
    left = spec.seconds_max - (time.monotonic() - started)  # imports and reading count: the caller waits for them too
    result = train(history, msgspec.structs.replace(spec, seconds_max=max(left, 0.0)), _say)
    manifest = make_manifest(result, history, spec, created_ns=time.time_ns())
    name = publish(out, result.net, manifest)
    earned = result.earned
    seconds = time.monotonic() - started
    _say(Done(name, earned.pooled, earned.shrink, earned.statistic, int(result.metrics["epochs"]), seconds))
    return 0


def _say(line: msgspec.Struct) -> None:
    sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
