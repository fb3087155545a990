"""The backtest of a recorded period: the session of ``ballast backtest``, on the recorded bars, beside the recorded run.

Two of them. The *anchored* one is put on the recorded ground before every decision (holdings, memory, books), so that what it
decides and sends can be compared one by one and only executions differ; what it gets for its orders is the backtest's
affair. The *free* one starts from the recorded holdings once and goes its own way: what a user would have been shown.
"""

from pathlib import Path

import msgspec
import numpy as np

from daemon.backtest.history import FIELDS, Panel, make_panel
from daemon.backtest.parity_read import Asked, Stretch
from daemon.backtest.parity_twin import MODE, Twin
from daemon.backtest.record import Served, Worker
from daemon.backtest.session import Session
from daemon.backtest.venue import VenueConfig
from daemon.core.config import EngineConfig
from daemon.domain.errors import ConfigError
from daemon.domain.events import Decide, Decided, Seed
from daemon.domain.signal import NoDecision, NoReason
from daemon.edge.worker_child import InlineWorker
from daemon.edge.worker_wire import Ready, WorkerConfig


class Answers:
    """The recorded answers, for a run whose model is not there any more."""

    def __init__(self, asked: list[Asked], model: str, trained_ns: int) -> None:
        self.ready: Served = Ready(model, trained_ns, "recorded answers")
        self._answers = {one.decide.close_ns: one.answer for one in asked if one.answer is not None}

    def seed(self, seed: Seed) -> None:
        """Need no bars."""

    def decide(self, decide: Decide) -> Decided:
        """Return what was answered about this close."""
        answer = self._answers.get(decide.close_ns)
        if answer is None:
            nothing = NoDecision(NoReason.NOT_READY, "nothing was answered in the recorded run")
            return Decided(decide.seq, nothing, 0, 0, 0, decide.ts_ns)
        return msgspec.structs.replace(answer, seq=decide.seq, ts_ns=decide.ts_ns)


class Hiring:
    """Makes workers that serve the models of the recorded run, found by name in the registry.

    ``problem`` says why recorded answers had to take their place, "" while none had.
    """

    def __init__(self, config: WorkerConfig, registry: Path, *, any_model: bool) -> None:
        self.problem = ""
        self._config = config
        self._registry = registry
        self._any = any_model

    def hire(self, model: str, trained_ns: int, asked: list[Asked]) -> Worker:
        """Return a worker that serves a model, or the recorded answers where it cannot be had.

        Raises
        ------
        ConfigError
            The strategy of a given configuration cannot be set up.
        """
        name = model.partition(":")[2]  # as in `ballast replay`: "lstm:<id>", baselines have no id
        setup = msgspec.structs.replace(self._config.setup, models_dir=str(self._registry / name) if name else "")
        try:
            worker = InlineWorker(msgspec.structs.replace(self._config, setup=setup))
        except ValueError as error:
            if self._any:
                raise ConfigError(str(error)) from None
            self.problem = self.problem or str(error)
            return Answers(asked, model, trained_ns)
        if worker.ready.model != model and not self._any:
            why = worker.ready.detail or f'"{worker.ready.model}" is served instead'
            self.problem = self.problem or f'model "{model}": {why}'
            return Answers(asked, model, trained_ns)
        return worker


class Shift:
    """The worker of a session: whoever serves the model that the recorded run was served by then."""

    def __init__(self, stretch: Stretch, hiring: Hiring) -> None:
        self._stretch = stretch
        self._hiring = hiring
        self._model = ""
        self._worker = self._for(stretch.asked[0].decide.close_ns)

    def _for(self, close_ns: int) -> Worker:
        ups = [up for column, up in self._stretch.models if column < close_ns]
        self._model, trained_ns = (ups[-1].model, ups[-1].model_trained_ns) if ups else ("", 0)
        return self._hiring.hire(self._model, trained_ns, self._stretch.asked)

    def retrain(self, close_ns: int) -> Served | None:
        """Change the model when the recorded run did."""
        ups = [up for column, up in self._stretch.models if column < close_ns]
        if not ups or ups[-1].model == self._model:
            return None
        self._worker = self._for(close_ns)
        return self._worker.ready

    @property
    def ready(self) -> Served:
        """Return the model that is served."""
        return self._worker.ready

    def seed(self, seed: Seed) -> None:
        """Replace the buffers."""
        self._worker.seed(seed)

    def decide(self, decide: Decide) -> Decided:
        """Answer a question."""
        return self._worker.decide(decide)


# ---------------------------------------------------------------------------------------------- runs


def panel_of(stretch: Stretch) -> tuple[Panel, int]:
    """Return the recorded bars up to the end of the comparison, and the place of the first one that was decided on."""
    bar_ns, symbols = stretch.config.bar_ns, stretch.config.universe
    last = stretch.end.close_ns if stretch.end is not None else stretch.asked[-1].decide.close_ns
    closes = sorted(close for close in stretch.columns if close <= last)
    first = closes[0]
    values = np.full(((last - first) // bar_ns + 1, len(symbols), FIELDS), np.nan)
    for close in closes:
        values[(close - first) // bar_ns] = stretch.columns[close]
    open_ns = first - bar_ns + bar_ns * np.arange(len(values), dtype=np.int64)
    panel = make_panel(symbols, bar_ns, open_ns, values)
    return panel, panel.place(stretch.asked[0].decide.close_ns - bar_ns)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a twin is run with."""

    config: EngineConfig
    venue: VenueConfig
    rearm_ns: int
    hiring: Hiring


def run_twin(stretch: Stretch, panel: Panel, first: int, *, plan: Plan, anchored: bool) -> Twin:
    """Run the backtest's session over the recorded bars; return its engine with what it told.

    Raises
    ------
    ConfigError
        The run held something that is not in its universe any more.
    """
    universe = set(stretch.config.universe)
    odd = sorted({symbol for one in stretch.asked for symbol in one.moment.positions} - universe)
    if odd:
        raise ConfigError(f"{odd[0]} was held and is not in the universe: a backtest has no bars of it to compare with")
    config = msgspec.structs.replace(plan.config, mode=MODE, lag_max_ns=0, leaving=())
    shift = Shift(stretch, plan.hiring)
    session = Session(
        config,
        shift,
        panel,
        first=first,
        instruments=stretch.instruments,
        venue=plan.venue,
        cash=stretch.asked[0].moment.cash,
        rearm_ns=plan.rearm_ns,
        retrain=shift.retrain,
    )
    twin = Twin(config, stretch, panel, half_spread=plan.venue.costs.half_spread, anchored=anchored)
    twin.session = session
    session.engine = twin
    session.run()
    if stretch.end is not None:
        twin.told.held[len(stretch.asked) - 1] = twin.holdings()
    return twin
