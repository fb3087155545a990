"""Look for look-ahead: ask a strategy the same questions in worlds that differ in what it must not know.

A view holds nothing but the past, so a leak comes from elsewhere: files, tables made at import, models, memory, clock,
chance. Every question is one that the engine asked in a backtest, with the weights it held then; only the world around
the strategy changes, and each world is a fresh process.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec

from daemon.backtest.data.files import CandleFile, files_in
from daemon.backtest.history import Panel
from daemon.backtest.leak_ask import Asker, Ground, Life
from daemon.backtest.leak_child import Told
from daemon.backtest.leak_find import Report
from daemon.backtest.leak_record import Recorder, record, sampled
from daemon.backtest.leak_search import Progress, Search
from daemon.backtest.run import worker_config
from daemon.domain.errors import ConfigError
from daemon.domain.signal import NoDecision
from daemon.settings import Settings


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
        with asker.talk(Life()) as talk:
            recorder = record(
                settings, panel, first=first, talk=talk, wanted_ns=wanted, progress=partial(progress, "backtest")
            )
            told = talk.told()
            trained_ns = talk.up.trained_ns
        _check_decides(recorder, settings)
        names, pairs = _candles(plan.folders, settings, told)
        asker.ground = msgspec.structs.replace(ground, names=names)
        asker.modules = told.modules
        return Search(asker, recorder, progress, pairs).report(told, trained_ns)


def _check_decides(recorder: Recorder, settings: Settings) -> None:
    """Raise ConfigError when there is nothing to compare."""
    if not recorder.samples:
        raise ConfigError("the engine asked for no decision in that time: `ballast backtest` says why")
    refused = [one.answer for one in recorder.samples if isinstance(one.answer, NoDecision)]
    if len(refused) == len(recorder.samples):
        raise ConfigError(
            f"strategy = {settings.strategy!r} decided nothing, so nothing can be compared "
            f"({refused[0].reason}: {refused[0].detail}); `ballast backtest` must decide first"
        )


def _candles(folders: Sequence[Path], settings: Settings, told: Told) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return names and pairs of the files that get another future: what was opened, and the bars that are traded on.

    Where opening cannot be watched, every candle file.
    """
    known = [one for folder in folders for one in files_in(folder)]

    def chosen_file(one: CandleFile) -> bool:
        traded = one.pair in settings.universe and one.timeframe == settings.bar
        return traded or one.path.name in told.opened or not told.watched

    chosen = [one for one in known if chosen_file(one)]
    return tuple(dict.fromkeys(one.path.name for one in chosen)), tuple(dict.fromkeys(one.pair for one in chosen))
