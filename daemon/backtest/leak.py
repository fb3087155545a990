"""Look for look-ahead: ask a strategy the same questions in worlds that differ in what it must not know.

A view holds nothing but the past, so a leak comes from elsewhere: files, tables made at import, models, memory, clock,
chance. Every question is one that the engine asked in a backtest, with the weights it held then; only the world around
the strategy changes, and each world is a fresh process.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from daemon.backtest.data.files import files_in
from daemon.backtest.history import Panel
from daemon.backtest.leak_ask import Asker, Ground, Life
from daemon.backtest.leak_child import Told
from daemon.backtest.leak_find import ENGINE, FUTURE, Finding, Report
from daemon.backtest.leak_record import Recorder, Turn, record, sampled
from daemon.backtest.leak_search import Progress, Search, moment
from daemon.backtest.leak_world import MIRRORED, World, perturbed
from daemon.backtest.rules import infer_rules
from daemon.backtest.run import worker_config
from daemon.backtest.session import DAY_NS
from daemon.domain.errors import ConfigError
from daemon.domain.signal import NoDecision, NoReason
from daemon.settings import Settings

SEQUEL_NS: Final = 2 * DAY_NS
"""Of a changed future the engine is shown so much: the candle of the day it begins in, and the one after."""


UNREAD_MAX: Final = 8
"""Files of the pairs traded that get another future though the strategy was not seen to read them."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked at: ``samples`` decisions (0: all), drawn with ``seed``; ``folders`` hold candles a strategy could read.

    ``models`` is the registry that is served (None: the daemon's), ``seconds`` how long a start or an answer may take.
    """

    folders: tuple[Path, ...]
    samples: int = 50
    seed: int = 0
    jobs: int = 2
    models: Path | None = None
    seconds: float = 60.0
    mount: bool = True


def find_leaks(
    settings: Settings,
    panel: Panel,
    *,
    first: int,
    plan: Plan,
    progress: Progress = lambda _what, _done, _all: None,
) -> Report:
    """Run a backtest, ask its sampled questions again in other worlds, and report every difference.

    Parameters
    ----------
    settings, panel, first
        As a backtest takes them.
    plan
        What is looked at.
    progress
        Hears what is being done, how much of it is, and how much there is.

    Raises
    ------
    ConfigError
        The strategy cannot be set up, dies, or decides nothing; no file holds prices.
    """
    folders = tuple(str(one.resolve()) for one in plan.folders)
    ground = Ground(
        config=worker_config(settings, plan.models), folders=folders, seconds=plan.seconds, mount=plan.mount
    )
    with Asker(ground, jobs=plan.jobs) as asker:
        wanted = sampled(panel, first, plan.samples, plan.seed) if plan.samples else ()
        rules = infer_rules(panel, settings.quote)

        def backtest(panel: Panel, life: Life, what: str) -> tuple[Recorder, Told, int]:
            with asker.talk(life) as talk:
                heard = partial(progress, what)
                recorder = record(
                    settings, panel, first=first, talk=talk, wanted_ns=wanted, instruments=rules, progress=heard
                )
                return recorder, talk.told(), talk.up.trained_ns

        recorder, told, trained_ns = backtest(panel, Life(), "backtest")
        _check_decides(recorder, settings)
        names, pairs = _candles(plan.folders, settings, told)
        asker.ground = msgspec.structs.replace(ground, names=names)
        asker.modules = told.modules

        def rerun() -> Finding | None:
            cut_ns = recorder.turns[len(recorder.turns) // 2].close_ns
            world = World(kind=MIRRORED, cut_ns=cut_ns, seed=plan.seed)
            other, _, _ = backtest(other_panel(panel, world), Life(world=world), "backtest again")
            return compared(recorder.turns, other.turns, cut_ns)

        return Search(asker, recorder, progress, pairs).report(told, trained_ns, rerun=rerun)


def other_panel(panel: Panel, world: World) -> Panel:
    """Return the bars with another future, which ends after two days of it: what the engine itself could look into."""
    closes = panel.open_ns + panel.bar_ns
    last = int(np.searchsorted(closes, world.cut_ns + SEQUEL_NS, side="right")) + 1
    values = panel.values[:last].copy()
    random = np.random.default_rng(world.seed)
    for at in range(values.shape[1]):
        values[:, at] = perturbed(values[:, at], closes[:last] > world.cut_ns, world.kind, random)
    return panel._replace(open_ns=panel.open_ns[:last], values=values)


def compared(one: Sequence[Turn], other: Sequence[Turn], cut_ns: int) -> Finding | None:
    """Return where two runs part before a moment, None when every question and answer up to it is the same."""
    known = [turn for turn in one if turn.close_ns <= cut_ns]
    for first, second in zip(known, [turn for turn in other if turn.close_ns <= cut_ns], strict=False):
        if first == second:
            continue
        at, of = moment(first.close_ns), moment(cut_ns)
        if first.asked != second.asked:
            message = f"what the engine asks at {at} depends on bars that close after {of}: a fault of Ballast, please report it"
            return Finding(experiment=ENGINE, leak=True, message=message, close_ns=first.close_ns, of=len(known))
        message = f"the decision of {at} depends on bars that close after {of}; more --samples may say on which"
        return Finding(experiment=FUTURE, leak=True, message=message, close_ns=first.close_ns, of=len(known))
    return None


def _check_decides(recorder: Recorder, settings: Settings) -> None:
    """Raise ConfigError when there is nothing to compare."""
    if not recorder.samples:
        raise ConfigError("the engine asked for no decision in that time: `ballast backtest` says why")
    refused = [one.answer for one in recorder.samples if isinstance(one.answer, NoDecision)]
    if len(refused) == len(recorder.samples):
        remedy = "`ballast backtest` must decide first"
        if refused[0].reason is NoReason.NO_MODEL:
            remedy = "--train trains a model first"
        raise ConfigError(
            f"strategy = {settings.strategy!r} decided nothing, so nothing can be compared "
            f"({refused[0].reason}: {refused[0].detail}); {remedy}"
        )


def _candles(folders: Sequence[Path], settings: Settings, told: Told) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return names and pairs of the files that get another future: what was opened, and some of the bars traded on.

    Where opening cannot be watched, every candle file.
    """
    known = [one for folder in folders for one in files_in(folder)]
    chosen = [one for one in known if one.path.name in told.opened or not told.watched]
    traded = [one for one in known if one.pair in settings.universe and one.timeframe == settings.bar]
    chosen.extend(one for one in traded[:UNREAD_MAX] if one not in chosen)
    return tuple(dict.fromkeys(one.path.name for one in chosen)), tuple(dict.fromkeys(one.pair for one in chosen))
