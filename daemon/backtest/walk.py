"""Walk-forward: models are trained during the run as the daemon would do it, on nothing but bars that had closed by then.

The daemon's training ends after so many seconds; here it ends after its epochs, so that the same history gives the same
model. What is trained is stamped with the simulated time and lies in a registry of the run's own.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from daemon.backtest.history import Panel
from daemon.backtest.record import Served
from daemon.domain.errors import ConfigError
from daemon.settings import Settings

UNBOUNDED_S: Final = 1e12
"""Wall seconds that never end a training."""
RETRY_BARS: Final = 24
"""Bars after which a training that had too little history is tried again."""
Say = Callable[[str], None]


class Reloads(Protocol):
    """The worker as it is told of a new model."""

    def reload(self) -> Served:
        """Serve the model that is current now and return it."""
        ...


class WalkForward:
    """Trains at the start and then every ``every_ns``; called by the session at each close.

    Parameters
    ----------
    settings
        ``[forecast]``: lookback, horizon, ``train_bars``.
    panel
        All history; only what had closed is read.
    models
        Folder of the registry.
    worker
        Told of each new model.
    every_ns
        Time between two trainings, 0: only the first.
    say
        Hears one line per training.
    """

    def __init__(
        self, settings: Settings, panel: Panel, *, models: Path, worker: Reloads, every_ns: int, say: Say
    ) -> None:
        self._settings = settings
        self._panel = panel
        self._models = models
        self._worker = worker
        self._every_ns = every_ns
        self._say = say
        self._due_ns = 0
        self.trained: list[int] = []
        self.failed: list[str] = []

    @property
    def due_ns(self) -> int:
        """Return the close from which another model may serve, 2**63 when none will."""
        return self._due_ns

    def __call__(self, close_ns: int) -> Served | None:
        """Return the model that is served from now on when one was trained."""
        if close_ns < self._due_ns:
            return None
        from strategies.training.history import BadHistory  # noqa: PLC0415 - torch is loaded by runs that train

        try:
            self._train(close_ns)
        except BadHistory as error:
            self.failed.append(str(error))
            self._due_ns = close_ns + RETRY_BARS * self._panel.bar_ns
            return None
        self.trained.append(close_ns)
        self._due_ns = close_ns + self._every_ns if self._every_ns else 2**63
        return self._worker.reload()

    def _train(self, close_ns: int) -> None:
        from strategies.training.history import BadHistory, History  # noqa: PLC0415
        from strategies.training.registry import make_manifest, publish  # noqa: PLC0415
        from strategies.training.train import TrainSpec, train  # noqa: PLC0415

        forecast, panel = self._settings.forecast, self._panel
        end = panel.place(close_ns)
        begin = max(0, end - forecast.train_bars)
        if end - begin < 2:
            raise BadHistory("no bar has closed yet")
        symbols, bars = known_bars(panel, begin, end)
        first = end - bars.shape[1]
        history = History(symbols=symbols, close_ns=panel.open_ns[first:end] + panel.bar_ns, bars=bars)
        spec = TrainSpec(lookback=forecast.lookback, horizon_bars=forecast.horizon_bars, seconds_max=UNBOUNDED_S)
        result = train(history, spec)
        try:
            name = publish(self._models, result.net, make_manifest(result, history, spec, created_ns=close_ns))
        except OSError as error:
            raise ConfigError(f"{self._models}: the model cannot be saved: {error.strerror or error}") from error
        self._say(f"trained {name} on {bars.shape[1]} bars of {len(symbols)} pairs, skill {result.earned.pooled:.4f}")


def known_bars(panel: Panel, begin: int, end: int) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the symbols that have bars, and (n_assets, n_bars, 5) of them on the times that all have, holes filled.

    The window opens when the last of these symbols has its first bar; a symbol that would cost more than half of the window
    is left out. A hole carries the close before it, without volume, as the daemon builds it. Raises BadHistory.
    """
    from strategies.training.history import BadHistory  # noqa: PLC0415

    values = panel.values[begin:end]
    there = ~np.isnan(values[:, :, 3])
    begins = np.where(there.any(axis=0), there.argmax(axis=0), len(values))
    kept = np.flatnonzero(begins <= min(len(values) // 2, int(begins.min()) + len(values) // 2))
    if not len(kept) or not len(values):
        raise BadHistory("no pair has enough history")
    start = int(begins[kept].max())
    part = values[start:, kept].copy()
    for at in range(1, len(part)):
        hole = np.isnan(part[at, :, 3])
        if hole.any():
            part[at, hole, :4] = part[at - 1, hole, 3, None]
            part[at, hole, 4] = 0.0
    return tuple(panel.symbols[int(one)] for one in kept), np.ascontiguousarray(part.transpose(1, 0, 2))
