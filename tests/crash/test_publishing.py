"""F43 for the model registry: whatever moment the writer dies, there is a whole model in use, the old or the new one."""

import json
import signal
import subprocess
import sys
from pathlib import Path

from strategies.artifact import POINTER, current, list_models, load_artifact
from strategies.training.registry import publish
from tests.e2e.kit import REPO, bare
from tests.strategies.forecast_kit import untrained

POINTS = ["model.before", "model.written", "model.after", "pointer.before", "pointer.written", "pointer.after"]


def test_f43_a_writer_killed_anywhere_leaves_a_whole_model_in_use(tmp_path: Path) -> None:
    """Every point until the publication completes; the next writer clears what the dead one left."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash.publishing", str(tmp_path)],
        cwd=REPO, env=bare() | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=200, check=True,
    )  # fmt: skip
    children = [json.loads(line) for line in done.stdout.splitlines()]
    points = [line.partition(": ")[2] for line in done.stderr.splitlines() if line.startswith("crash point ")]

    assert points == POINTS
    assert [child["code"] for child in children] == [-signal.SIGKILL] * len(POINTS) + [0]
    for point, child in zip([*points, "pointer.after"], children, strict=True):
        models = Path(child["folder"])
        used = current(models)
        assert used is not None
        assert load_artifact(used).id == used.name  # weights, manifest and golden answers agree
        assert (used.name == child["old"]) == (point != "pointer.after"), point

        new = publish(models, *untrained(2))

        assert current(models) == models / new
        assert set(list_models(models)) == {child["old"], new}
        assert sorted(path.name for path in models.iterdir()) == sorted([POINTER, *list_models(models)])
