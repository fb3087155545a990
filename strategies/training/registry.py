"""The writing side of the model registry: whole or not at all, whatever moment the machine dies."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from re import fullmatch
from shutil import rmtree
from typing import Final

import msgspec
from safetensors.torch import save

from strategies.artifact import MANIFEST, POINTER, WEIGHTS, BadArtifact, Golden, Manifest, load_artifact
from strategies.features import FEATURES, SCALER
from strategies.lstm import LstmNet, golden_input, predict_windows
from strategies.training.history import History
from strategies.training.train import TrainResult, TrainSpec

__all__ = ["make_manifest", "promote", "publish", "save_artifact"]

_GOLDEN_SEED: Final = 20_260_101
_DRAFT: Final = ".draft-"

Boundary = Callable[[str], None]
"""Told the name of each step of a write, for tests that end the process there."""


def _nobody(name: str) -> None:
    """Tell nobody."""


def make_manifest(result: TrainResult, history: History, spec: TrainSpec, *, created_ns: int) -> Manifest:
    """Describe a training result; ``created_ns`` is the machine's time, ns UTC."""
    mean, scale = predict_windows(result.net, golden_input(_GOLDEN_SEED, spec.lookback))
    first, end = result.split.train
    return Manifest(
        kind="lstm",
        weights_sha256=sha256(_weights(result.net)).hexdigest(),
        features=FEATURES,
        scaler=SCALER,
        lookback=spec.lookback,
        horizon_bars=spec.horizon_bars,
        bar_ns=history.bar_ns,
        symbols=history.symbols,
        train_start_ns=int(history.close_ns[first - spec.lookback]),
        train_end_ns=int(history.close_ns[end - 1 + spec.horizon_bars]),
        data_end_ns=int(history.close_ns[-1]),
        data_sha256=history.digest(),
        seed=spec.seed,
        created_ns=created_ns,
        hyper=spec.hyper,
        metrics=result.metrics,
        skill=result.earned,
        golden=Golden(seed=_GOLDEN_SEED, mean=tuple(mean.tolist()), scale=tuple(scale.tolist())),
    )


def save_artifact(folder: Path, net: LstmNet, manifest: Manifest) -> None:
    """Write weights and manifest into a new folder, each synced to disk.

    Raises
    ------
    FileExistsError
        When the folder exists: artifacts are immutable.
    """
    folder.mkdir(parents=True)
    _write(folder / WEIGHTS, _weights(net))
    _write(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=1))
    _sync_folder(folder)


def publish(models_dir: Path, net: LstmNet, manifest: Manifest, *, boundary: Boundary = _nobody) -> str:
    """Save a model under a new id, read it back, make it the current one and return the id.

    Ids are ``<UTC time of creation>-<first 8 digits of the weights' sha256>``, so they sort by age. The folder appears
    by rename when it is complete; drafts of a writer that died are removed by the next one.
    """
    models_dir.mkdir(parents=True, exist_ok=True)
    stamp = datetime.fromtimestamp(manifest.created_ns // 1_000_000_000, tz=UTC).strftime("%Y%m%dT%H%M%S")
    name = f"{stamp}-{manifest.weights_sha256[:8]}"
    for draft in models_dir.glob(f"{_DRAFT}*"):
        rmtree(draft, ignore_errors=True)
    if not (models_dir / name).is_dir():
        draft = models_dir / f"{_DRAFT}{name}"
        boundary("model.before")
        save_artifact(draft, net, manifest)
        boundary("model.written")
        load_artifact(draft)
        draft.rename(models_dir / name)
        _sync_folder(models_dir)
        boundary("model.after")
    promote(models_dir, name, boundary=boundary)
    return name


def promote(models_dir: Path, name: str, *, boundary: Boundary = _nobody) -> None:
    """Make a model of the registry the current one, atomically and durably; a rollback is a promotion of an older one.

    Raises
    ------
    BadArtifact
        When there is no such model, or it cannot be read.
    """
    if not fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise BadArtifact(f"{name[:40]!r} is not a model id; see `ballast models list`")
    load_artifact(models_dir / name)
    draft = models_dir / f"{_DRAFT}{POINTER}"
    boundary("pointer.before")
    _write(draft, name.encode())
    boundary("pointer.written")
    draft.replace(models_dir / POINTER)
    _sync_folder(models_dir)
    boundary("pointer.after")


def _weights(net: LstmNet) -> bytes:
    return save({name: tensor.contiguous() for name, tensor in net.state_dict().items()})


def _write(path: Path, blob: bytes) -> None:
    with path.open("wb") as file:
        file.write(blob)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make renames and new names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
