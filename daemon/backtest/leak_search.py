"""The experiments of `ballast leak`: each changes what a strategy must not know, and compares its answers."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from daemon.backtest.leak_ask import Answer, Asker, Life, Question
from daemon.backtest.leak_child import Told
from daemon.backtest.leak_find import (
    END,
    ENGINE,
    FILES,
    FUTURE,
    MODEL,
    ORDER,
    PAST,
    REPEAT,
    Finding,
    Needed,
    Report,
    Trace,
    difference,
    near,
    same,
)
from daemon.backtest.leak_record import Recorder
from daemon.backtest.leak_trace import halve, trace
from daemon.backtest.leak_world import BEGUN, ENDED, KINDS, WORDS, World, last_close_ns
from daemon.backtest.session import DAILY_BARS, DAY_NS
from daemon.domain.market import NS_PER_S
from daemon.domain.signal import NoDecision

SHOWN: Final = 3
"""Decisions that are traced to the bar and shown, of one experiment."""
REPEATS: Final = 16
"""Decisions that are asked again, of all sampled."""
BEGINS: Final = 12
"""Decisions for which the folder's beginning is left out."""
PROBES: Final = 6
"""Decisions for which the shortest history is looked for."""
KINDS_EACH: Final = 2
"""Ways in which the future of one decision is changed; they take turns."""
CLOCK_NS: Final = (101 * 86_400 + 7 * 3_600 + 1_234) * NS_PER_S
"""How wrong the clock is for a decision that is asked again."""
NAMED: Final = 5
Progress = Callable[[str, int, int], None]


class Search:
    """The experiments, one after the other; each adds what it finds.

    Parameters
    ----------
    asker
        Makes the worlds.
    recorder
        Has the sampled questions, with the answers given in sequence.
    progress
        Hears what is being done, how much of it is, and how much there is.
    pairs
        Of the files that get another future.
    """

    def __init__(self, asker: Asker, recorder: Recorder, progress: Progress, pairs: tuple[str, ...]) -> None:
        self._asker = asker
        self._decisions = len(recorder.turns)
        self._samples = recorder.samples
        self._progress = progress
        self._pairs = pairs
        self._findings: list[Finding] = []
        self._notes: list[str] = []
        self._answers: list[Answer] = []

    def report(self, told: Told, trained_ns: int, *, rerun: Callable[[], Finding | None]) -> Report:
        """Do everything; ``rerun`` compares a whole backtest with another future, when answers are repeated at all."""
        asker = self._asker
        self._model(trained_ns)
        self._files(told)
        self._answers = self._each("alone", [(Life(), one.question) for one in self._samples])
        needed = None
        if self._repeat():
            state = self._order()
            self._future()
            whole = rerun()
            if whole is not None and (whole.experiment == ENGINE or not self._findings):
                self._findings.append(whole)
            if told.opened or not told.watched:
                self._past()
            if state:
                self._notes.append("the shortest history is not known: decisions depend on those before them")
            else:
                needed = self._needed()
        else:
            self._notes.append("nothing else could be compared: the same question has more than one answer")
        self._refusals()
        if "python" in asker.shown:
            self._notes.append(
                "this system allows no mounts: files read by other means than Python's open() or pyarrow "
                "were the same in every world"
            )
        return Report(
            findings=tuple(sorted(self._findings, key=lambda one: not one.leak)),
            notes=tuple(self._notes),
            samples=len(self._samples),
            decisions=self._decisions,
            needed=needed,
            shown=min(asker.shown, default=""),
        )

    def _each(self, what: str, lives: Sequence[tuple[Life, Question]]) -> list[Answer]:
        """Return the answers of fresh processes, one question each."""
        count = 0

        def done() -> None:
            nonlocal count
            count += 1
            self._progress(what, count, len(lives))

        def work(item: tuple[Life, Question]) -> Answer:
            return self._asker.ask(item[0], item[1])[0]

        return self._asker.each(work, lives, done)

    # ------------------------------------------------------------------ what needs no other world

    def _model(self, trained_ns: int) -> None:
        """Find a model that has seen bars after a decision."""
        early = [one.question for one in self._samples if one.question.close_ns < trained_ns]
        if early:
            at = early[0].close_ns
            message = (
                f"the model that is served has seen bars up to {moment(trained_ns)}, after the decision of {moment(at)}: "
                "train on what was known then (`ballast leak --train`, and `ballast backtest` as it is)"
            )
            self._add(MODEL, message, close_ns=at, count=len(early))

    def _files(self, told: Told) -> None:
        """Find what is read and cannot be varied."""
        varied = {one for one in told.opened if one in self._asker.ground.names}
        if varied:
            self._notes.append(f"the strategy reads candles by itself: {_some(sorted(varied))}")
        fixed = [*told.elsewhere, *(one for one in told.opened if one not in varied)]
        if fixed:
            message = (
                f"reads what no other world can vary: {_some(fixed)}; make it from the candles when the strategy is "
                "imported, name its folder with --also if it holds candles, or be sure that each row knows only its past"
            )
            self._add(FILES, message, leak=False, count=len(fixed), of=len(fixed))

    def _refusals(self) -> None:
        refused = [one for one in self._answers if isinstance(one, NoDecision)]
        if refused:
            self._notes.append(
                f"{len(refused)} of {len(self._answers)} sampled decisions were none ({refused[0].reason}: "
                f"{refused[0].detail}): they say little"
            )

    # ------------------------------------------------------------------ the same again, and in another order

    def _repeat(self) -> bool:
        """Ask again with other random numbers, another clock and other hashes; return whether the rest can be compared."""
        chosen = _spread(range(len(self._samples)), REPEATS)
        strange = Life(seed=1, clock_ns=CLOCK_NS, hash_seed=1)
        answers = self._each("repeat", [(strange, self._samples[at].question) for at in chosen])
        differing = [
            (at, other) for at, other in zip(chosen, answers, strict=True) if not same(self._answers[at], other)
        ]
        if not differing:
            return True
        at, other = differing[0]
        cause, stable = self._cause(at)
        question = self._samples[at].question
        parts = difference(self._answers[at], other)
        message = (
            f"the same question at {moment(question.close_ns)} has another answer when asked again, {cause}: {parts}"
        )
        self._add(
            REPEAT,
            message,
            close_ns=question.close_ns,
            difference=difference(self._answers[at], other),
            count=len(differing),
            of=len(chosen),
        )
        return stable

    def _cause(self, at: int) -> tuple[str, bool]:
        """Return why a decision is not repeated, and whether it is repeated when nothing but the world changes."""
        question, answer = self._samples[at].question, self._answers[at]

        def again(life: Life) -> bool:
            return not same(answer, self._asker.ask(life, question)[0])

        if again(Life()):
            return "by chance: random numbers that nobody seeded, or the clock", False
        if again(Life(seed=1)):
            return (
                "by chance: it draws from the global random generator, whose state depends on what was drawn before",
                True,
            )
        if again(Life(clock_ns=CLOCK_NS)):
            return "with another time on the clock: it reads the clock instead of view.ts_ns", False
        if again(Life(hash_seed=1)):
            return "in another process: it depends on the order of a set, or on hash()", True
        return "by chance: it is rarely the same", False

    def _order(self) -> bool:
        """Compare answers given in sequence with those of a fresh strategy; return whether it keeps state."""
        differing = [
            (sample, alone)
            for sample, alone in zip(self._samples, self._answers, strict=True)
            if not near(sample.answer, alone)
        ]
        if differing:
            sample, alone = differing[0]
            at = sample.question.close_ns
            message = (
                f"state is kept between decisions: asked first in a fresh process at {moment(at)}, "
                f"{difference(sample.answer, alone)}; a restart of the worker changes decisions"
            )
            self._add(
                ORDER,
                message,
                leak=False,
                close_ns=at,
                difference=difference(sample.answer, alone),
                count=len(differing),
            )
        return bool(differing)

    # ------------------------------------------------------------------ other futures, other pasts

    def _future(self) -> None:
        """Change the future of every sampled decision, and leave it out."""
        tasks: list[tuple[int, World]] = []
        for at, sample in enumerate(self._samples):
            close_ns = sample.question.close_ns
            kinds = [KINDS[(at + turn) % len(KINDS)] for turn in range(KINDS_EACH)]
            tasks.extend((at, World(kind=kind, cut_ns=close_ns, seed=at)) for kind in (*kinds, ENDED))
        answers = self._each("future", [(Life(world=world), self._samples[at].question) for at, world in tasks])
        hits: dict[bool, dict[int, tuple[World, Answer]]] = {False: {}, True: {}}
        for (at, world), other in zip(tasks, answers, strict=True):
            if not same(self._answers[at], other):
                hits[world.kind == ENDED].setdefault(at, (world, other))
        experiment = FUTURE if hits[False] else END
        found = hits[False] or hits[True]
        chosen = _spread(list(found), SHOWN)
        for at, traced in zip(chosen, self._traces([(at, found[at][0]) for at in chosen]), strict=True):
            world, other = found[at]
            close_ns = self._samples[at].question.close_ns
            parts = difference(self._answers[at], other)
            self._add(
                experiment,
                f"the decision of {moment(close_ns)} depends on what comes after it: with {WORDS[world.kind]}, "
                f"{parts}{_where(traced)}",
                close_ns=close_ns,
                kind=world.kind,
                difference=parts,
                count=len(found),
                trace=traced,
            )

    def _traces(self, found: list[tuple[int, World]]) -> list[Trace | None]:
        """Find the bars each of these hangs on, one after the other."""
        ground = self._asker.ground
        traces: list[Trace | None] = []
        last_ns = max((last_close_ns(Path(one), ground.names) for one in ground.folders), default=0) if found else 0
        for done, (at, world) in enumerate(found):
            self._progress("trace", done, len(found))
            question, answer = self._samples[at].question, self._answers[at]
            traces.append(trace(self._asker, question, answer, world=world, last_ns=last_ns, pairs=self._pairs))
        return traces

    def _past(self) -> None:
        """Leave out what is older than the history the daemon keeps: a live run would not have it."""
        config = self._asker.ground.config
        chosen = _spread(range(len(self._samples)), BEGINS)
        lives: list[tuple[Life, Question]] = []
        for at in chosen:
            question = self._samples[at].question
            kept_ns = max(config.buffer_bars * question.decide.bar_ns, (DAILY_BARS + 1) * DAY_NS)
            lives.append((Life(world=World(kind=BEGUN, cut_ns=question.close_ns - kept_ns)), question))
        answers = self._each("past", lives)
        differing = [(at, one) for at, one in zip(chosen, answers, strict=True) if not near(self._answers[at], one)]
        if differing:
            at, other = differing[0]
            close_ns = self._samples[at].question.close_ns
            message = (
                f"the decision of {moment(close_ns)} depends on where its data begin: with {WORDS[BEGUN]}, "
                f"{difference(self._answers[at], other)}; the daemon keeps {config.buffer_bars} bars"
            )
            self._add(
                PAST,
                message,
                leak=False,
                close_ns=close_ns,
                kind=BEGUN,
                difference=difference(self._answers[at], other),
                count=len(differing),
                of=len(chosen),
            )

    def _needed(self) -> Needed:
        """Find the shortest history from which on decisions are what they are."""
        kept = self._asker.ground.config.buffer_bars
        decided = [at for at, one in enumerate(self._answers) if not isinstance(one, NoDecision)]
        probes = _spread(decided, PROBES)
        bars = 1
        with self._asker.talk(Life()) as talk:

            def holds(at: int, count: int) -> bool:
                return near(self._answers[at], talk.ask(self._samples[at].question, count))

            for done, at in enumerate([*probes, *(one for one in decided if one not in probes)]):
                most = self._samples[at].question.length(kept)
                if bars < most and not holds(at, bars):
                    bars = halve(partial(holds, at), bars, most)
                self._progress("history", done + 1, len(decided))
        return Needed(bars, kept)

    def _add(self, experiment: str, message: str, **more: Any) -> None:
        """Add a finding, by default a leak seen in one of all samples."""
        more = {"leak": True, "of": len(self._samples), **more}
        self._findings.append(Finding(experiment=experiment, message=message, **more))


def moment(time_ns: int) -> str:
    """Return a time (ns UTC) as a person reads it, to the minute, or to the second where that matters."""
    when = datetime.fromtimestamp(time_ns // NS_PER_S, UTC)
    return when.strftime("%Y-%m-%d %H:%M:%SZ" if when.second else "%Y-%m-%d %H:%MZ")


def _where(traced: Trace | None) -> str:
    """Return which bars matter, as the end of a sentence."""
    if traced is None:
        return ""
    last = f"{moment(traced.last_ns)} ({_bars(traced.last_bars)} later)"
    if traced.first_bars != traced.last_bars:
        span = (
            f"; bars from the one that closes at {moment(traced.first_ns)} ({_bars(traced.first_bars)} later) to {last}"
        )
        return f"{span} matter"
    cells = " or ".join(traced.fields) or "bar"
    whose = f" of {_some(traced.pairs)}" if traced.pairs else ""
    return f"; it hangs on the {cells}{whose} of the bar that closes at {last}"


def _bars(count: int) -> str:
    return "1 bar" if count == 1 else f"{count} bars"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _spread(items: Sequence[int], count: int) -> list[int]:
    """Return at most ``count`` of these, evenly spread, the first among them."""
    step = max(1.0, len(items) / count)
    return [items[int(at * step)] for at in range(min(count, len(items)))]
