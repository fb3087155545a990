"""Models of a study: trained walk-forward in every window, and each only once, though many trials ask for the same one.

A model depends on the candles, on three keys of ``[forecast]`` and on the close after which it was trained; risk and optimiser
do not matter to it. So what one trial has trained lies on a shelf for the others: a folder that may be missing, shared or
wiped at any time, since training again gives the same model.
"""

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Generator
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from daemon.backtest.history import Panel
from daemon.backtest.walk import WalkForward
from daemon.settings import Settings
from strategies.artifact import current, load_artifact

RUN_PREFIX: Final = ".run-"
DRAFT_PREFIX: Final = ".draft-"


class FromShelf(WalkForward):
    """Walk-forward training that looks on a shelf first; "" is no shelf."""

    def __init__(self, settings: Settings, panel: Panel, *, shelf: str, models: Path, **rest: Any) -> None:
        super().__init__(settings, panel, models=models, **rest)
        self._registry = models
        forecast = settings.forecast
        key = f"{panel.digest} {forecast.lookback} {forecast.horizon_bars} {forecast.train_bars}"
        self._shelf = Path(shelf) / hashlib.sha256(key.encode()).hexdigest()[:16] if shelf else None

    def _train(self, close_ns: int) -> None:
        from strategies.training.registry import promote  # noqa: PLC0415 - torch is loaded by runs that train

        if self._shelf is None:
            super()._train(close_ns)
            return
        place = self._shelf / str(close_ns)
        with contextlib.suppress(OSError, ValueError):  # not there, or not whole: trained anew
            (kept,) = place.iterdir()
            load_artifact(kept)
            shutil.copytree(kept, self._registry / kept.name, dirs_exist_ok=True)
            promote(self._registry, kept.name)
            return
        super()._train(close_ns)
        made = current(self._registry)
        if made is not None:
            with contextlib.suppress(OSError):  # a shelf that is full or not ours to write costs time, no result
                _keep(made, place)


@contextlib.contextmanager
def registry(shelf: str) -> Generator[Path]:
    """Give a folder for the models of one run; it is gone afterwards, or with the study when the run is killed."""
    where: Path | None = Path(shelf) if shelf else None
    if where is not None:
        try:
            where.mkdir(parents=True, exist_ok=True)
        except OSError:  # another machine's path
            where = None
    with tempfile.TemporaryDirectory(prefix=RUN_PREFIX, dir=where) as folder:
        yield Path(folder)


def sweep(shelf: str) -> None:
    """Remove what runs that were killed have left on the shelf; no run may be under way."""
    for left in [*Path(shelf).glob(f"{RUN_PREFIX}*"), *Path(shelf).glob(f"*/{DRAFT_PREFIX}*")]:
        shutil.rmtree(left, ignore_errors=True)


def one_thread() -> None:
    """Load torch and keep it on one thread before anything is trained: the same model on any number of cores."""
    import_module("torch")  # only what is loaded can be bound
    from daemon.edge.worker_child import bound_threads  # noqa: PLC0415

    bound_threads(0)


def _keep(made: Path, place: Path) -> None:
    """Put a copy onto the shelf, whole or not at all; whoever was first stays."""
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=DRAFT_PREFIX, dir=place.parent))
    try:
        shutil.copytree(made, draft / made.name)
        draft.rename(place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
