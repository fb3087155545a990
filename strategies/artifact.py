"""A trained model on disk, and the reading side of the registry that keeps them (writing: `strategies.training.registry`).

An artifact is a folder of two files, ``model.safetensors`` and ``manifest.json``; nothing in it is ever executed. It is
taken whole or refused with one line: a model that does not fit the daemon's features, bars or horizon must not trade.
The registry is ``<state_dir>/models/``: a folder per model, and the file ``current`` that holds the id of the one in use.
"""

from hashlib import sha256
from importlib import import_module
from pathlib import Path
from re import fullmatch
from typing import TYPE_CHECKING, Final, Self, cast

import msgspec
import numpy as np
from numpy import float32
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from strategies.features import FEATURES, SCALER
from strategies.skill import Earned

if TYPE_CHECKING:
    from strategies.forecaster import Forecaster

__all__ = ["Artifact", "BadArtifact", "Golden", "Hyper", "Manifest", "NoModel"]
__all__ += ["current", "list_models", "load_artifact", "load_forecaster", "resolve"]

FORMAT: Final = 1
WEIGHTS: Final = "model.safetensors"
MANIFEST: Final = "manifest.json"
POINTER: Final = "current"
_ID: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_WEIGHTS_BYTES_MAX: Final = 256 * 2**20
_MANIFEST_BYTES_MAX: Final = 2**20
DETAIL_CHARS_MAX: Final = 500
"""Longest complaint: what a foreign file holds may be repeated in it."""

BUILT_IN: Final = {
    "lstm": "strategies.lstm:LstmForecaster",
    "ewma": "strategies.baselines:Ewma",
    "zero": "strategies.baselines:Zero",
}


class BadArtifact(ValueError):
    """A model that cannot be used; one line says which file, what is wrong and what to do."""


class NoModel(BadArtifact):
    """There is no model yet: train one."""


class Hyper(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What defines the network and its training. ``dropout`` is a probability, ``batch`` counts windows."""

    hidden: int = 128
    hidden_top: int = 64
    dropout: float = 0.1
    batch: int = 32
    learning_rate: float = 4e-3
    weight_decay: float = 1e-2
    epochs_max: int = 12
    patience: int = 8
    return_weight: float = 0.1
    position_gain: float = 2.0
    cost_bps: float = 10.0


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Answers to a small input drawn from ``seed``, in standardised units: the self-test of a loaded model."""

    seed: int
    mean: tuple[float, ...]
    scale: tuple[float, ...]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything about a model but its weights. Times are ns UTC of bar closes, ``created_ns`` of the machine.

    The model saw bars of ``symbols`` from ``train_start_ns`` to ``train_end_ns``; ``data_end_ns`` is the close of the
    newest bar it was judged on, from which its age counts. ``data_sha256`` is the hash of all of them.
    """

    kind: str
    weights_sha256: str
    features: tuple[str, ...]
    scaler: str
    lookback: int
    horizon_bars: int
    bar_ns: int
    symbols: tuple[str, ...]
    train_start_ns: int
    train_end_ns: int
    data_end_ns: int
    data_sha256: str
    seed: int
    created_ns: int
    hyper: Hyper
    metrics: dict[str, float]
    skill: Earned
    golden: Golden
    format: int = FORMAT


class Artifact(msgspec.Struct, frozen=True):
    """A model that was read and checked: weights by name, float32."""

    id: str
    manifest: Manifest
    weights: dict[str, NDArray[float32]]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read and check a folder; see `load_artifact`."""
        return cast("Self", load_artifact(folder))


def load_artifact(
    folder: Path, *, lookback: int | None = None, horizon_bars: int | None = None, bar_ns: int | None = None
) -> Artifact:
    """Read a model and refuse it unless it is whole and fits.

    Parameters
    ----------
    folder
        The artifact's folder.
    lookback, horizon_bars, bar_ns
        What the daemon is configured for; None accepts any.

    Raises
    ------
    NoModel
        When the folder does not exist.
    BadArtifact
        On a missing, truncated, altered or foreign file, other features or another order of them, another lookback,
        horizon or bar length, weights that are not finite float32.
    """
    if not folder.is_dir():
        raise NoModel(f"no model in {folder}; train one with `ballast train`")
    manifest = _read_manifest(folder / MANIFEST)
    _require_fit(folder, manifest, {"lookback": lookback, "horizon_bars": horizon_bars, "bar_ns": bar_ns})
    blob = _read(folder / WEIGHTS, _WEIGHTS_BYTES_MAX)
    digest = sha256(blob).hexdigest()
    if digest != manifest.weights_sha256:
        raise _bad(folder / WEIGHTS, f"sha256 is {digest[:12]}…, the manifest says {manifest.weights_sha256[:12]}…")
    try:
        weights = load_tensors(blob)
    except (SafetensorError, KeyError, ValueError) as error:
        raise _bad(folder / WEIGHTS, f"not a safetensors file ({error})") from None
    for name, tensor in weights.items():
        if tensor.dtype != np.float32 or not np.isfinite(tensor).all():
            raise _bad(folder / WEIGHTS, f"tensor {name} must be finite float32, is {tensor.dtype}")
    return Artifact(id=folder.name, manifest=manifest, weights=weights)


def current(models_dir: Path) -> Path | None:
    """Return the folder of the model in use, None when none was published.

    Raises
    ------
    BadArtifact
        When the pointer file is not an id or names a folder that does not exist.
    """
    pointer = models_dir / POINTER
    if not pointer.exists():
        return None
    name = _read(pointer, 1024).decode("utf-8", errors="replace").strip()
    if not fullmatch(_ID, name) or not (models_dir / name).is_dir():
        raise BadArtifact(f"{pointer}: names {name[:40]!r}, which is no model here; train or promote one")
    return models_dir / name


def list_models(models_dir: Path) -> tuple[str, ...]:
    """Return the ids of all complete models, oldest name first."""
    if not models_dir.is_dir():
        return ()
    return tuple(sorted(p.name for p in models_dir.iterdir() if fullmatch(_ID, p.name) and (p / MANIFEST).is_file()))


def resolve(model_dir: Path | None) -> Path:
    """Return the artifact folder for a folder that is one, or for a registry whose current model is meant.

    Raises
    ------
    NoModel
        When there is neither.
    """
    if model_dir is not None and (model_dir / MANIFEST).is_file():
        return model_dir
    folder = current(model_dir) if model_dir is not None else None
    if folder is None:
        raise NoModel(f"no model in {model_dir or 'no folder'}; train one with `ballast train`")
    return folder


def load_forecaster(
    spec: str, model_dir: Path | None, horizon: int, *, lookback: int = 60, bar_ns: int | None = None
) -> "Forecaster":
    """Make the forecaster that the configuration names; torch is imported only here and only for ``lstm``.

    Parameters
    ----------
    spec
        "lstm", "ewma", "zero" or "package.module:Class" of a class with `Forecaster.load`.
    model_dir
        An artifact folder, or the registry ``<state_dir>/models``; None for baselines.
    horizon, lookback, bar_ns
        Bars ahead, bars read, length of a bar in ns (None: not checked); a model trained for others is refused.

    Raises
    ------
    BadArtifact
        When the model cannot be used (`NoModel`: there is none).
    ValueError
        When ``spec`` names nothing usable.
    """
    module, _, name = BUILT_IN.get(spec, spec).partition(":")
    if not name:
        raise ValueError(f"forecast.model = {spec!r} is unknown; use {', '.join(BUILT_IN)} or package.module:Class")
    try:
        factory = cast("type[Forecaster]", getattr(import_module(module), name))
    except (ImportError, AttributeError) as error:
        raise ValueError(f"forecast.model = {spec!r} cannot be imported ({error})") from error
    if not hasattr(factory, "load"):
        raise ValueError(f"forecast.model = {spec!r} has no classmethod load(model_dir, *, horizon_bars, lookback)")
    if spec == "lstm":
        model_dir = resolve(model_dir)
        _require_fit(model_dir, _read_manifest(model_dir / MANIFEST), {"bar_ns": bar_ns})
    return factory.load(model_dir, horizon_bars=horizon, lookback=lookback)


def _bad(path: Path, what: str) -> BadArtifact:
    return BadArtifact(f"{path}: {what[:DETAIL_CHARS_MAX]}; train again or promote another model")


def _read(path: Path, bytes_max: int) -> bytes:
    """Read a whole file of bounded size."""
    try:
        with path.open("rb") as file:
            blob = file.read(bytes_max + 1)
    except OSError as error:
        raise _bad(path, f"cannot be read ({error.strerror})") from None
    if len(blob) > bytes_max:
        raise _bad(path, f"larger than {bytes_max} bytes")
    return blob


def _read_manifest(path: Path) -> Manifest:
    try:
        manifest = msgspec.json.decode(_read(path, _MANIFEST_BYTES_MAX), type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _bad(path, f"not a manifest of this version ({error})") from None
    if manifest.format != FORMAT:
        raise _bad(path, f"format {manifest.format}, this version reads {FORMAT}")
    return manifest


def _require_fit(folder: Path, manifest: Manifest, wanted: dict[str, int | None]) -> None:
    """Refuse a model made for other inputs or another question."""
    if manifest.features != FEATURES:
        raise _bad(folder, f"features are {', '.join(manifest.features)}; this version makes {', '.join(FEATURES)}")
    if manifest.scaler != SCALER:
        raise _bad(folder, f"features were scaled by {manifest.scaler!r}; this version scales by {SCALER!r}")
    have = {"lookback": manifest.lookback, "horizon_bars": manifest.horizon_bars, "bar_ns": manifest.bar_ns}
    for key, value in wanted.items():
        if value is not None and have[key] != value:
            raise _bad(folder, f"trained for {key} = {have[key]}, configured is {value}")
