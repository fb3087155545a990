"""Models for the daemon: fetch history, train in a separate process at low priority, serve what it published."""

import asyncio
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import structlog

from daemon.domain.errors import BallastError, Transient
from daemon.edge.clock import Clock
from daemon.edge.market import MarketData, Rows
from daemon.settings import Settings
from strategies.artifact import BadArtifact, current, list_models, load_artifact

log = structlog.get_logger("ballast")

TRAINABLE = frozenset({"lstm"})
REFERENCE = "strategies.forecast_optimise:ForecastOptimise"
"""It serves a model, so its training need not wait until its worker has said so."""
RETRY_S = 30.0
WATCH_S = 60.0
POLL_S = 0.1
MARGIN_S = 120.0
"""How much longer than ``train_seconds_max`` the whole process may take (imports, reading, the last epoch)."""

Say = Callable[[str], None]


class TrainingFailed(BallastError):
    """Training ended without a model; one line says why."""


class Serves(Protocol):
    """What the trainer asks of the worker."""

    @property
    def learns(self) -> bool | None:
        """Whether the strategy serves a trained model; None while that is not known."""
        ...

    def reload_model(self) -> None:
        """Serve the model that is current now."""
        ...


class Trainer:
    """Trains when there is no usable model, and again every ``retrain_every``; the daemon does not trade on none."""

    def __init__(self, settings: Settings, market: MarketData, clock: Clock, *, worker: Serves) -> None:
        """Keep what training needs; ``worker`` is told of each new model, and says whether its strategy serves any."""
        self._settings = settings
        self._market = market
        self._clock = clock
        self._worker = worker
        self.models = settings.state_path / "models"

    async def run(self) -> None:
        """Keep a fresh model there, for ever."""
        if self._settings.forecast.model not in TRAINABLE:
            await asyncio.Event().wait()
        while True:
            learns = self._worker.learns  # None while the worker is being started
            unknown = learns is None and self._settings.strategy != REFERENCE
            if (
                not unknown and learns is not False and await asyncio.to_thread(self.due)
            ):  # reads and hashes a whole model
                try:
                    await train(self._settings, self._market, say=lambda line: log.info("training", step=line))
                    self._worker.reload_model()
                except (TrainingFailed, Transient) as error:
                    log.error("training failed", error=str(error), again_in_s=RETRY_S)
                    await asyncio.sleep(RETRY_S)
                    continue
            await asyncio.sleep(POLL_S if unknown else WATCH_S)

    def due(self) -> bool:
        """Return whether there is no usable model, or it is older than ``retrain_every``."""
        try:
            folder = current(self.models)
            if folder is None:
                return True
            manifest = load_artifact(folder).manifest
        except BadArtifact as error:
            log.error("model refused", error=str(error))
            return True
        every_ns = self._settings.forecast.retrain_every_ns
        return bool(every_ns) and self._clock.now_ns() - manifest.created_ns > every_ns


async def train(settings: Settings, market: MarketData, *, say: Say) -> str:
    """Fetch history, train in a process of its own and publish; return the new model's id.

    Raises
    ------
    TrainingFailed
        Too little history, or the process ended badly.
    Transient
        The venue did not give the history.
    """
    forecast = settings.forecast
    say(f"fetching {forecast.train_bars} bars of {len(settings.universe)} pairs")
    rows = await market.train_history(
        settings.universe, forecast.train_bars, lambda done, all_: say(f"history of {done} of {all_} pairs")
    )
    with tempfile.TemporaryDirectory(prefix="ballast-train-") as folder:
        file = Path(folder) / "history.npz"
        await asyncio.to_thread(write_history, file, rows)
        spec = {
            "lookback": forecast.lookback,
            "horizon_bars": forecast.horizon_bars,
            "seconds_max": float(forecast.train_seconds_max),
        }
        return await _child(settings.state_path / "models", file, spec, say)


async def _child(models: Path, file: Path, spec: dict[str, Any], say: Say) -> str:
    arguments = ["-m", "strategies.training", "--data", str(file), "--out", str(models)]
    arguments += ["--spec", msgspec.json.encode(spec).decode()]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(spec["seconds_max"] + MARGIN_S):
            name, errors = await asyncio.gather(_follow(process, say), _read_all(process))
            await process.wait()
    except TimeoutError:
        raise TrainingFailed(f"training took longer than {spec['seconds_max'] + MARGIN_S:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode or not name:
        last = errors.decode(errors="replace").strip().splitlines()[-1:] or ["no word from it"]
        raise TrainingFailed(f"training ended with code {process.returncode}: {last[0]}")
    return name


async def _follow(process: asyncio.subprocess.Process, say: Say) -> str:
    """Report progress lines; return the id of the published model, "" when none was."""
    name = ""
    while process.stdout is not None and (line := await process.stdout.readline()):
        try:
            word = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError:
            continue
        name = str(word.get("model") or word.get("id") or name)
        if "epoch" in word:
            say(f"epoch {word['epoch']} of {word['epochs']}: skill {word['skill']:.3f}, {word['seconds']:.0f} s")
    return name


async def _read_all(process: asyncio.subprocess.Process) -> bytes:
    return await process.stderr.read(1 << 20) if process.stderr is not None else b""


def write_history(path: Path, rows: dict[str, Rows]) -> None:
    """Write the history that training reads: bars of all pairs on the times that all of them have.

    Raises
    ------
    TrainingFailed
        A pair has no history at all.
    """
    empty = [symbol for symbol, table in rows.items() if not len(table)]
    if empty:
        raise TrainingFailed(f"no history for {', '.join(empty)}")
    first = max(table[0, 0] for table in rows.values())
    last = min(table[-1, 0] for table in rows.values())
    tables = [table[(table[:, 0] >= first) & (table[:, 0] <= last)] for table in rows.values()]
    if not tables or any(len(table) != len(tables[0]) for table in tables):
        raise TrainingFailed("the pairs' histories do not share one time grid")
    with path.open("wb") as file:
        np.savez(
            file,
            symbols=np.array(list(rows)),
            close_ns=tables[0][:, 0].astype(np.int64),
            bars=np.stack([table[:, 1:] for table in tables]),
        )


def model_rows(models: Path) -> list[dict[str, Any]]:
    """Return what the API says about the registered models."""
    try:
        in_use = current(models)
    except BadArtifact:
        in_use = None
    return [{"id": name, "in_use": in_use is not None and in_use.name == name} for name in list_models(models)]
