"""A pure forecaster is asked for many closes at once, and its answers are served when the run comes to them.

Nothing is believed: an answer is served only when the bars that the strategy hands over are, bit for bit, those it was
computed from; else the forecaster is asked then and there. So the future has no way in: other bars to come make other
answers to other questions. And since a `Batched` forecaster says of a window what it says of it alone, a run is the same
to the last bit with and without this.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from daemon.backtest.history import Panel
from daemon.backtest.record import Served, Worker
from daemon.domain.events import Decide, Decided, Seed
from daemon.edge.worker_child import InlineWorker
from strategies.forecaster import AsksForecaster, Batched, Forecaster, RawForecast
from strategies.skill import Earned
from strategies.usable import bars_needed, sound_assets

AHEAD_CLOSES: Final = 256
"""Closes asked for at once at most, the one that is due included."""
USELESS_MAX: Final = 3
"""Batches in a row of which not one answer could be served; then each close is asked for by itself."""
NEVER_NS: Final = 2**63
Floats = NDArray[np.float64]


class _Answer(NamedTuple):
    """What was said (n_assets,) of a window (n_assets, lookback + 1, 5)."""

    window: Floats
    raw: RawForecast


class Coming:
    """The closes of a run that are decided on, and the bars up to each, holes filled as the engine fills them.

    ``every`` counts bars between two decisions; ``until_ns`` returns the close from which another model may serve.
    """

    def __init__(self, panel: Panel, *, every: int, until_ns: Callable[[], int] = lambda: NEVER_NS) -> None:
        self._panel = panel
        self._bars = _filled(panel.values)
        self._step_ns = panel.bar_ns * every
        self._until_ns = until_ns
        self.place = -1

    def come_to(self, close_ns: int) -> None:
        """Note which close is decided on now."""
        self.place = self._panel.place(close_ns) - 1

    def closes(self) -> list[int]:
        """Return the places of the close that is due and of those behind it, as far as this model serves."""
        ends = self._panel.open_ns[self.place :] + self._panel.bar_ns
        turns = ends // self._step_ns
        due = np.flatnonzero(np.diff(turns, prepend=turns[0] - 1) != 0)[:AHEAD_CLOSES]
        return [self.place + int(at) for at in due if at == 0 or int(ends[at]) < self._until_ns()]

    def window(self, place: int, n: int) -> Floats:
        """Return the ``n`` bars up to and with a place, fewer where there are fewer; (n_assets, n, 5), a view."""
        return self._bars[:, max(0, place + 1 - n) : place + 1]


class Ahead:
    """A forecaster that has answered before it is asked. Speaks for ``inner``, whose `Batched` side it uses."""

    def __init__(self, inner: Forecaster, batched: Batched, coming: Coming) -> None:
        self._inner = inner
        self._batched = batched
        self._coming = coming
        self._answers: dict[int, _Answer] = {}
        self._useless = 0
        self.served = 0

    @property
    def name(self) -> str:
        """Return the model's name."""
        return self._inner.name

    @property
    def lookback(self) -> int:
        """Return how many bars the model reads."""
        return self._inner.lookback

    @property
    def horizon_bars(self) -> int:
        """Return over how many bars the forecast return runs."""
        return self._inner.horizon_bars

    @property
    def earned(self) -> Earned | None:
        """Return the skill measured out of sample."""
        return self._inner.earned

    @property
    def trained_until_ns(self) -> int | None:
        """Return the close of the newest bar the model has seen."""
        return self._inner.trained_until_ns

    @classmethod
    def load(cls, model_dir: Path | None, *, horizon_bars: int, lookback: int) -> Self:
        """Refuse: it is made around a forecaster that was loaded."""
        raise ValueError("forecasts ahead of time are made in a backtest, around another forecaster")

    def predict(self, bars: Floats) -> RawForecast:
        """Return what was computed for exactly these bars, else ask for them; bars as `Forecaster.predict` takes them."""
        place = self._coming.place
        if place >= 0 and place not in self._answers and self._useless < USELESS_MAX:
            self._useless += 1
            self._answers = self._ask()
        answer = self._answers.pop(place, None)
        if answer is None or not np.array_equal(answer.window, bars[:, -(self.lookback + 1) :]):
            return self._inner.predict(bars)
        self._useless = 0
        self.served += 1
        return answer.raw

    def _ask(self) -> dict[int, _Answer]:
        """Return answers by place for the close that is due and those to come."""
        coming, judged, read = self._coming, bars_needed(self._inner), self.lookback + 1
        windows: dict[int, Floats] = {}
        for place in coming.closes():
            whole = coming.window(place, judged)
            sound = sound_assets(whole)
            if whole.shape[1] == judged and bool(sound.any()):
                windows[place] = whole[:, -read:] if bool(sound.all()) else whole[sound, -read:]
        if not windows:
            return {}
        try:
            said = self._batched.predict_many(list(windows.values()))
        except ValueError:  # one window that the model refuses: each is asked for, and refused, by itself
            return {}
        return {place: _Answer(window, raw) for (place, window), raw in zip(windows.items(), said, strict=True)}


class AheadWorker:
    """An inline worker whose strategy gets its forecasts ahead of time."""

    def __init__(self, worker: InlineWorker, coming: Coming) -> None:
        self._worker = worker
        self._coming = coming

    @property
    def ready(self) -> Served:
        """Return the model that is served."""
        return self._worker.ready

    def seed(self, seed: Seed) -> None:
        """Replace the buffers."""
        self._worker.seed(seed)

    def decide(self, decide: Decide) -> Decided:
        """Answer a question about the close that the run has come to."""
        self._coming.come_to(decide.close_ns)
        return self._worker.decide(decide)


def ahead(worker: InlineWorker, coming: Callable[[], Coming]) -> Worker:
    """Return a worker that asks ahead, ``worker`` itself where its strategy or its forecaster does not take part.

    A model that is loaded later starts without anything: what another one said is gone with it.
    """
    strategy = worker.strategy
    if not isinstance(strategy, AsksForecaster):
        return worker
    closes = coming()
    strategy.forecast_through(lambda one: Ahead(one, one, closes) if isinstance(one, Batched) else one)
    return AheadWorker(worker, closes)


def _filled(values: Floats) -> Floats:
    """Return bars (n_assets, n_bars, 5) of values (n_bars, n_assets, 5): a hole carries the close before it, without volume."""
    bars = np.ascontiguousarray(values.transpose(1, 0, 2))
    holes = np.isnan(bars[:, :, 3])
    if bool(holes.any()):
        source = np.maximum.accumulate(np.where(holes, 0, np.arange(bars.shape[1])), axis=1)
        carried = np.take_along_axis(bars[:, :, 3], source, axis=1)
        bars[holes, :4] = carried[holes, None]
        bars[holes, 4] = np.where(np.isnan(carried[holes]), np.nan, 0.0)
    bars.flags.writeable = False
    return bars
