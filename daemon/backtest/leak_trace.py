"""From a decision that depends on its future to the bars it depends on."""

from collections.abc import Callable
from typing import Final

import msgspec

from daemon.backtest.leak_ask import Answer, Asker, Life, Question
from daemon.backtest.leak_find import Trace, same
from daemon.backtest.leak_world import ENDED, FIELDS, World

PAIRS_MAX: Final = 64
"""Pairs that are tried one by one."""


def trace(
    asker: Asker, question: Question, answer: Answer, *, world: World, last_ns: int, pairs: tuple[str, ...]
) -> Trace | None:
    """Return the bars whose change changes a decision, found by halving; None when the finding does not repeat.

    Parameters
    ----------
    asker
        Makes the worlds.
    question, answer
        The decision, and what it is in the world as it is.
    world
        In which it was different.
    last_ns
        The newest close of the data folder.
    pairs
        Of the files that were changed.
    """
    close_ns, bar_ns = question.close_ns, question.decide.bar_ns
    reach = max(1, -(-(last_ns - close_ns) // bar_ns))

    def differs(**changes: object) -> bool:
        other = msgspec.structs.replace(world, **changes)
        return not same(answer, asker.ask(Life(world=other), question)[0])

    def at(bars: int) -> int:
        return close_ns + bars * bar_ns

    if not differs():
        return None
    if world.kind == ENDED:
        last = halve(lambda bars: not differs(cut_ns=at(bars)), 0, reach)
        return Trace(last, last, at(last), at(last))
    first = halve(lambda bars: differs(until_ns=at(bars)), 0, reach)
    last = 1 + reach - halve(lambda bars: differs(from_ns=at(reach - bars)), 0, reach)
    single = {"from_ns": at(first - 1), "until_ns": at(first)}
    alone: list[str] = []
    fields: list[str] = []
    if differs(**single):
        alone = [pair for pair in pairs[:PAIRS_MAX] if differs(**single, pairs=(pair,))]
        some = tuple(alone) if alone else ()
        fields = [field for field in FIELDS if differs(**single, pairs=some, fields=(field,))]
    return Trace(first, last, at(first), at(last), tuple(alone), tuple(fields))


def halve(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Return the first number in (low, high] from which on ``holds`` is true, if it is of a kind that stays true.

    ``holds(low)`` is taken to be false and ``holds(high)`` to be true without asking.
    """
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high
