"""The flight recorder beside the running engine: what it is told at the start, and when its next segment begins."""

import gc

import msgspec
import structlog

from daemon.core.engine import Engine
from daemon.core.run import Runner
from daemon.core.snapshot import Picture, freeze
from daemon.core.snapshot_values import SnapshotError
from daemon.domain.orders import OrderState
from daemon.edge import crash
from daemon.outlets.journal import Journal
from daemon.service.wiring import worker_config
from daemon.settings import Settings, config_hash, redacted

log = structlog.get_logger("ballast")

TRIES_MAX = 1_200
"""Snapshots that failed in a row before a person is told, a minute: work in pieces ends within a second."""


def journal_of(settings: Settings, engine: Engine, *, start_ns: int, version: str) -> Journal:
    """Return the recorder of a run that begins now; its header says all that a replay must know."""
    return Journal(
        settings.mode_path / "journal",
        settings.journal.max_bytes,
        start_ns=start_ns,
        code_version=version,
        config_hash=config_hash(settings),
        config_json=_json(redacted(settings)),
        engine_json=_json(engine.config),
        worker_json=_json(worker_config(settings)),
        segment_bytes=settings.journal.segment_bytes,
        boundary=crash.point,
    )


class Recording:
    """Copies the engine's state for the next segment when the open one is full; told of every turn of the clock."""

    def __init__(self, journal: Journal, runner: Runner) -> None:
        """Begin with the first segment, which needs no state: the engine knows nothing yet."""
        self._journal = journal
        self._runner = runner
        self._failed = 0
        self._told = ""

    async def flush(self) -> None:
        """Write what was recorded; returns when it is written."""
        await self._journal.flush()
        why = self._journal.snapshot_failure
        if why != self._told:
            self._told = why
            if why:
                log.error("snapshot failed", error=why, hint="the segment can be replayed with those before it only")

    def look(self) -> None:
        """Begin the next segment when it is time: called between two events, as often as one likes."""
        journal, runner = self._journal, self._runner
        if not journal.due or not (journal.pressing or quiet(runner.engine)):
            return
        try:
            picture = picture_of(runner.engine)
        except SnapshotError as error:
            self._failed += 1
            if self._failed == TRIES_MAX:
                log.error(
                    "no snapshot", error=str(error), hint="later segments can be replayed with those before them only"
                )
        else:
            self._failed = 0
            journal.cut(picture, runner.effects, runner.digest)

    def beat(self) -> None:
        """Note what the engine has produced so far."""
        self._journal.add_effects_hash(self._runner.effects, self._runner.digest)

    def close(self) -> None:
        """Write the rest and close."""
        self.beat()
        self._journal.close()


def picture_of(engine: Engine) -> Picture:
    """Freeze the engine's state without the garbage collector, which would double the time: nothing of it is garbage."""
    collects = gc.isenabled()
    gc.disable()
    try:
        return freeze(engine)
    finally:
        if collects:
            gc.enable()


def quiet(engine: Engine) -> bool:
    """Return whether nothing is under way that a few milliseconds would delay: no decision, no order leaving."""
    if engine.decisions.asked is not None or engine.decisions.working:
        return False
    return all(order.state is not OrderState.SENDING for order in engine.state.blotter.live.values())


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
