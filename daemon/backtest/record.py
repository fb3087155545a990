"""What a session needs of a worker, and what it leaves behind."""

from collections import Counter
from decimal import Decimal
from typing import Protocol

import msgspec

from daemon.domain.events import Alert, Decide, Decided, Seed, Step


class Served(Protocol):
    """What a worker says of the model it serves."""

    @property
    def model(self) -> str:
        """Return its name, "" without one."""
        ...

    @property
    def trained_ns(self) -> int:
        """Return the close of the newest bar it has seen, 0 when it does not age."""
        ...


class Worker(Protocol):
    """Stages 4 to 6 as an inline call: ``daemon.edge.worker_child.InlineWorker`` is one."""

    @property
    def ready(self) -> Served:
        """Return the model that is served."""
        ...

    def seed(self, seed: Seed) -> None:
        """Replace the buffers."""
        ...

    def decide(self, decide: Decide) -> Decided:
        """Answer a question."""
        ...


class Record(msgspec.Struct):
    """What a run leaves behind. ``equity``… have a row per bar from the opening on; ``weights`` one per decision."""

    times_ns: list[int] = []
    equity: list[Decimal] = []
    cash: list[Decimal] = []
    steps: list[Step] = []
    weights: list[tuple[int, tuple[float, ...]]] = []
    """(index into ``steps``, weights after its orders traded)."""
    alerts: list[Alert] = []
    alert_counts: Counter[str] = msgspec.field(default_factory=Counter[str])
    orders: int = 0
    refused: int = 0
    halts: int = 0
    outages: int = 0
