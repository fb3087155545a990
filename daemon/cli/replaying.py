"""``ballast replay``: the journal's own configuration, the daemon's own engine and worker."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from daemon.backtest.replay import Decisions, WorkerFactory, replay
from daemon.domain.errors import ConfigError
from daemon.outlets.journal import Header

if TYPE_CHECKING:
    from daemon.edge.worker_child import InlineWorker


def replay_journal(journal: Path, decisions: Decisions, from_segment: str = "") -> dict[str, Any]:
    """Return the replay's result as JSON values with a ``summary`` line and one ``lines`` entry per segment.

    Raises
    ------
    ConfigError
        If the journal cannot be replayed: no journal, without a segment that can be opened, or made by other code.
    """
    try:
        result = replay(journal, decisions=decisions, worker_factory=_workers_of(journal), from_segment=from_segment)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from None
    lines = [one.summary for one in result.segments]
    return {**msgspec.to_builtins(result), "summary": result.summary, "lines": lines}


def _workers_of(journal: Path) -> WorkerFactory:
    """Return a maker of workers that serve a named model from the registry of the journal's state folder."""
    folder = journal if journal.is_dir() else journal.parent
    registry = folder.resolve().parents[1] / "models"  # <state_dir>/<mode>/journal, <state_dir>/models

    def make(header: Header, model: str) -> "InlineWorker":
        from daemon.edge.worker_child import InlineWorker
        from daemon.edge.worker_wire import WorkerConfig

        config = msgspec.json.decode(header.worker_json, type=WorkerConfig)
        name = model.partition(":")[2]  # "lstm:<id>"; baselines have no id, "" is a session that had no model yet
        setup = msgspec.structs.replace(config.setup, models_dir=str(registry / name) if name else "")
        worker = InlineWorker(msgspec.structs.replace(config, setup=setup))
        if worker.ready.model != model:
            raise ValueError(worker.ready.detail or f'"{worker.ready.model}" is served instead')
        return worker

    return make
