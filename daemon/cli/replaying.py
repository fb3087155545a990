"""``ballast replay``: the journal's own configuration, the daemon's own engine and worker."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from daemon.backtest.replay import Decisions, replay
from daemon.domain.errors import ConfigError
from daemon.outlets.journal import Header

if TYPE_CHECKING:
    from daemon.edge.worker_child import InlineWorker


def _worker(header: Header) -> "InlineWorker":
    from daemon.edge.worker_child import InlineWorker
    from daemon.edge.worker_wire import WorkerConfig

    return InlineWorker(msgspec.json.decode(header.worker_json, type=WorkerConfig))


def replay_journal(journal: Path, decisions: Decisions) -> dict[str, Any]:
    """Return the replay's result as JSON values with a ``summary`` line.

    Raises
    ------
    ConfigError
        If the journal cannot be replayed: damaged, without its start, or made by other code.
    """
    try:
        result = replay(journal, decisions=decisions, worker_factory=_worker)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from None
    return {**msgspec.to_builtins(result), "summary": result.summary}
