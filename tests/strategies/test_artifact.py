"""Artifacts and the registry: whole, fitting and ours, or refused with one line."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save

from strategies.artifact import (
    MANIFEST,
    POINTER,
    WEIGHTS,
    Artifact,
    BadArtifact,
    Manifest,
    NoModel,
    current,
    list_models,
    load_artifact,
    load_forecaster,
    resolve,
)
from strategies.training.registry import promote, publish, save_artifact
from tests.strategies.forecast_kit import BAR_NS, saved, untrained


def altered(folder: Path, change: Callable[[dict[str, object]], object]) -> Path:
    """Rewrite a manifest as someone else would."""
    content: dict[str, object] = msgspec.json.decode((folder / MANIFEST).read_bytes())
    change(content)
    (folder / MANIFEST).write_bytes(msgspec.json.encode(content))
    return folder


def test_round_trip(tmp_path: Path) -> None:
    """What was saved is read: every weight, every field; two files, no pickle."""
    net, manifest = untrained()
    save_artifact(tmp_path / "m", net, manifest)
    artifact = Artifact.load(tmp_path / "m")

    assert artifact.id == "m"
    assert artifact.manifest == manifest
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [MANIFEST, WEIGHTS]
    for name, tensor in net.state_dict().items():
        assert np.array_equal(artifact.weights[name], tensor.numpy())
    load_artifact(tmp_path / "m", lookback=60, horizon_bars=8, bar_ns=BAR_NS)
    with pytest.raises(FileExistsError):
        save_artifact(tmp_path / "m", net, manifest)


def test_missing(tmp_path: Path) -> None:
    """No folder is "no model yet"; a folder without one of its files is a bad one."""
    with pytest.raises(NoModel, match="train one with `ballast train`"):
        load_artifact(tmp_path / "nothing")
    for name in (MANIFEST, WEIGHTS):
        folder = saved(tmp_path / name)
        (folder / name).unlink()
        with pytest.raises(BadArtifact, match=rf"{name}: cannot be read \(No such file or directory\)"):
            load_artifact(folder)


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS])
def test_any_truncation_is_refused(tmp_path: Path, name: str) -> None:
    """Every prefix of either file is refused, whatever the crash left."""
    folder = saved(tmp_path / "m")
    whole = (folder / name).read_bytes()

    for size in {0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 2}:
        (folder / name).write_bytes(whole[:size])
        with pytest.raises(BadArtifact, match=name):
            load_artifact(folder)
    (folder / name).write_bytes(whole)
    load_artifact(folder)


def test_altered_weights_are_refused(tmp_path: Path) -> None:
    """One flipped bit changes the hash; a file with a fitting hash that is no safetensors file is refused as well."""
    folder = saved(tmp_path / "m")
    blob = bytearray((folder / WEIGHTS).read_bytes())
    blob[-5] ^= 1
    (folder / WEIGHTS).write_bytes(blob)
    with pytest.raises(BadArtifact, match=r"sha256 is .* the manifest says .* train again or promote another"):
        load_artifact(folder)

    for blob in (bytearray(b"\x80\x04pickled"), bytearray(save({"x": np.array([np.nan], np.float32)}))):
        (folder / WEIGHTS).write_bytes(blob)
        altered(folder, lambda m, blob=blob: m.update(weights_sha256=sha256(blob).hexdigest()))  # type: ignore[misc]
        with pytest.raises(BadArtifact, match=r"not a safetensors file|finite float32"):
            load_artifact(folder)
    blob = bytearray(save({"x": np.zeros(3)}))
    (folder / WEIGHTS).write_bytes(blob)
    altered(folder, lambda m: m.update(weights_sha256=sha256(blob).hexdigest()))
    with pytest.raises(BadArtifact, match="is float64"):
        load_artifact(folder)


def test_foreign_manifests_are_refused(tmp_path: Path) -> None:
    """Unknown keys, missing keys, wrong types, another format, other features or another order of them."""
    cases: list[tuple[Callable[[dict[str, object]], object], str]] = [
        (lambda m: m.update(extra=1), "not a manifest of this version"),
        (lambda m: m.pop("skill"), "not a manifest of this version"),
        (lambda m: m.update(lookback="60"), "not a manifest of this version"),
        (lambda m: m.update(format=2), "format 2, this version reads 1"),
        (lambda m: m.update(features=m["features"][::-1]), "features are log_volume, close_return"),  # type: ignore[index]
        (lambda m: m.update(scaler="z-score"), "features were scaled by 'z-score'"),
        (lambda m: m.update(features=["open_return"]), "this version makes open_return, high_return"),
    ]
    for i, (change, reason) in enumerate(cases):
        folder = altered(saved(tmp_path / str(i)), change)
        with pytest.raises(BadArtifact, match=reason):
            load_artifact(folder)


def test_oversized_files_are_not_read(tmp_path: Path) -> None:
    """A manifest of more than a mebibyte is not one."""
    folder = saved(tmp_path / "m")
    with (folder / MANIFEST).open("ab") as file:
        file.write(b" " * 2**20)

    with pytest.raises(BadArtifact, match="larger than 1048576 bytes"):
        load_artifact(folder)


def test_another_question_is_refused(tmp_path: Path) -> None:
    """A model for other bars, another horizon or lookback does not answer ours."""
    models = tmp_path / "models"
    publish(models, *untrained())
    folder = resolve(models)

    with pytest.raises(BadArtifact, match="trained for horizon_bars = 8, configured is 24"):
        load_artifact(folder, horizon_bars=24)
    with pytest.raises(BadArtifact, match="trained for lookback = 60, configured is 30"):
        load_forecaster("lstm", models, 8, lookback=30)
    with pytest.raises(BadArtifact, match=f"trained for bar_ns = {BAR_NS}, configured is 5"):
        load_forecaster("lstm", models, 8, bar_ns=5)
    assert load_forecaster("lstm", models, 8, bar_ns=BAR_NS).horizon_bars == 8
    assert resolve(folder) == folder


def test_registry(tmp_path: Path) -> None:
    """Publishing makes a model current; an older one can be promoted again; ids sort by age."""
    models = tmp_path / "state" / "models"
    assert current(models) is None
    assert list_models(models) == ()
    with pytest.raises(NoModel):
        resolve(models)
    first = publish(models, *untrained(1))
    second = publish(models, *untrained(2))

    assert list_models(models) == (first, second)
    assert current(models) == models / second
    promote(models, first)
    assert current(models) == models / first
    assert publish(models, *untrained(2)) == second  # the same model again is no new one
    assert current(models) == models / second
    assert sorted(p.name for p in models.iterdir()) == sorted([POINTER, first, second])
    for name in ("../escape", "", ".draft-x", "a/b"):
        with pytest.raises(BadArtifact, match="not a model id"):
            promote(models, name)
    with pytest.raises(NoModel):
        promote(models, "unknown")
    assert current(models) == models / second


def test_a_damaged_pointer_is_refused(tmp_path: Path) -> None:
    """Any prefix of the pointer, a path or garbage is refused, never followed."""
    models = tmp_path / "models"
    name = publish(models, *untrained())

    for content in [*(name[:i].encode() for i in range(len(name))), b"../../etc", b"\xff\x00", b"a\nb"]:
        (models / POINTER).write_bytes(content)
        with pytest.raises(BadArtifact, match="current: names"):
            current(models)
    (models / POINTER).write_bytes(name.encode())
    assert current(models) == models / name


def test_a_writer_that_died_leaves_nothing(tmp_path: Path) -> None:
    """A half-written draft is not listed, not current, and removed by the next publication."""
    models = tmp_path / "models"
    first = publish(models, *untrained(1))
    draft = models / ".draft-dead"
    draft.mkdir()
    (draft / WEIGHTS).write_bytes(b"half")

    assert list_models(models) == (first,)
    second = publish(models, *untrained(2))
    assert not draft.exists()
    assert list_models(models) == (first, second)


def test_a_model_that_cannot_be_read_back_is_not_published(tmp_path: Path) -> None:
    """The writer reads what it wrote before it appears; the current model stays."""
    models = tmp_path / "models"
    first = publish(models, *untrained(1))
    net, manifest = untrained(2)
    wrong: Manifest = msgspec.structs.replace(manifest, weights_sha256="f" * 64)

    with pytest.raises(BadArtifact, match="sha256"):
        publish(models, net, wrong)
    assert list_models(models) == (first,)
    assert current(models) == models / first
