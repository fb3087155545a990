"""P7: the throttle on repeated executions."""

import random

from hypothesis import given
from hypothesis import strategies as st

from daemon.domain.market import NS_PER_S
from daemon.domain.orders import Side
from risk.repeats import REPEATS, WINDOW_NS, Repeats

BUY, SELL = Side.BUY, Side.SELL
news = st.lists(st.tuples(st.sampled_from(list(Side)), st.integers(min_value=1, max_value=60)), min_size=1, max_size=40)


def trips(most: int, executions: list[tuple[Side, int]]) -> bool:
    """Feed executions at whole minutes; say whether any tripped."""
    repeats = Repeats(most)
    tripped = [repeats.executed("A/B", side, minute * 60 * NS_PER_S) for side, minute in executions]
    return True in tripped


def test_p7_the_twentieth_in_five_minutes_trips() -> None:
    """Nineteen are allowed, the twentieth on the same side disables; another symbol's do not count."""
    repeats = Repeats(REPEATS)
    step = WINDOW_NS // REPEATS

    assert not any(repeats.executed("A/B", BUY, number * step) for number in range(1, REPEATS))
    assert not repeats.executed("C/B", BUY, REPEATS * step - 1)
    assert repeats.executed("A/B", BUY, REPEATS * step)


def test_p7_slower_ones_never_trip() -> None:
    """Twenty in a window that is a nanosecond too long are no repetition."""
    repeats = Repeats(REPEATS)
    step = -(-WINDOW_NS // (REPEATS - 1))

    assert not any(repeats.executed("A/B", SELL, number * step) for number in range(1, 10 * REPEATS))


def test_p7_an_opposite_execution_starts_anew() -> None:
    """Nineteen buys, a sell, nineteen buys: nothing repeats itself."""
    repeats = Repeats(REPEATS)
    sides = [BUY] * (REPEATS - 1) + [SELL] + [BUY] * (REPEATS - 1)

    assert not any(repeats.executed("A/B", side, number) for number, side in enumerate(sides, 1))
    assert repeats.executed("A/B", BUY, len(sides) + 1)


def test_p7_late_news_counts_at_its_own_time() -> None:
    """A sell that becomes known late, but happened last, is an opposite; one that happened first is none."""
    late_last = Repeats(3)
    late_last.executed("A/B", BUY, 1)
    late_last.executed("A/B", SELL, 5)

    assert not any(late_last.executed("A/B", BUY, ts) for ts in (2, 3, 4))

    late_first = Repeats(3)
    late_first.executed("A/B", BUY, 2)
    late_first.executed("A/B", BUY, 3)
    late_first.executed("A/B", SELL, 1)

    assert late_first.executed("A/B", BUY, 4)


def test_p7_zero_is_off() -> None:
    """A limit of 0 counts nothing and keeps nothing."""
    repeats = Repeats(0)

    assert not any(repeats.executed("A/B", BUY, number) for number in range(1, 100))
    assert repeats.snapshot().buys == {}


def test_p7_memory_survives_and_is_cleared_by_a_person() -> None:
    """What was counted before a restart counts after it; clearing begins anew."""
    before = Repeats(3)
    before.executed("A/B", BUY, 1)
    before.executed("A/B", BUY, 2)
    after = Repeats(3)
    after.restore(before.snapshot())

    assert after.snapshot() == before.snapshot()
    assert after.executed("A/B", BUY, 3)

    after.clear()

    assert not after.executed("A/B", BUY, 4)


@given(news, st.integers(min_value=1, max_value=6))
def test_p7_trips_exactly_when_some_window_holds_too_many(executions: list[tuple[Side, int]], most: int) -> None:
    """Told in order, the throttle agrees with the definition, counted by brute force."""
    told = sorted(executions, key=lambda one: one[1])
    by_rule = False
    for index, (side, minute) in enumerate(told):
        so_far = told[: index + 1]
        opposite = max((at for other, at in so_far if other is not side), default=0)
        inside = [at for one, at in so_far if one is side and at > max(minute - 5, opposite)]
        by_rule |= len(inside) >= most

    assert trips(most, told) == by_rule


@given(news, st.integers(min_value=1, max_value=6), st.integers(min_value=0, max_value=99))
def test_p7_memory_is_bounded(executions: list[tuple[Side, int]], most: int, seed: int) -> None:
    """Whatever comes in whatever order, no more times are kept than can count."""
    told = list(executions)
    random.Random(seed).shuffle(told)
    repeats = Repeats(most)
    for side, minute in told:
        repeats.executed("A/B", side, minute * 60 * NS_PER_S)
    kept = repeats.snapshot()

    assert all(len(times) <= most for times in (*kept.buys.values(), *kept.sells.values()))
    assert all(list(times) == sorted(times) for times in (*kept.buys.values(), *kept.sells.values()))
