"""P6: no window ever holds more orders than allowed."""

from hypothesis import given
from hypothesis import strategies as st

from daemon.domain.market import NS_PER_S
from risk.throttle import MINUTE_NS, TEN_SECONDS_NS, Throttle


@given(
    st.lists(st.integers(min_value=0, max_value=30 * NS_PER_S), max_size=80),
    st.integers(min_value=1, max_value=12),
    st.integers(min_value=1, max_value=6),
)
def test_p6_i11_no_window_exceeds_its_budget(gaps: list[int], per_minute: int, per_10s: int) -> None:
    """Whatever the times of asking, any minute and any ten seconds stay within budget."""
    throttle = Throttle(per_minute, per_10s)
    now, sent = 0, list[int]()
    for gap in gaps:
        now += gap
        while throttle.free(now):
            throttle.take(now)
            sent.append(now)

    for length, budget in ((MINUTE_NS, per_minute), (TEN_SECONDS_NS, per_10s)):
        assert all(sum(1 for t in sent if start <= t < start + length) <= budget for start in sent)


def test_p6_windows_are_a_minute_and_ten_seconds_long() -> None:
    """An order leaves its window when exactly that much time has passed."""
    throttle = Throttle(2, 1)
    throttle.take(0)

    assert throttle.free(10 * NS_PER_S - 1) == 0
    assert throttle.free(10 * NS_PER_S) == 1
    throttle.take(10 * NS_PER_S)
    assert throttle.free(60 * NS_PER_S - 1) == 0
    assert throttle.free(60 * NS_PER_S) == 1


def test_p6_restored_memory_goes_on_counting() -> None:
    """A restart does not open a second budget."""
    first, second = Throttle(3, 3), Throttle(3, 3)
    for _ in range(3):
        first.take(1)
    second.restore(first.state())

    assert second.free(2) == 0
    assert second.free(MINUTE_NS + 2) == 3


def test_p6_forced_orders_count_and_time_may_run_backwards() -> None:
    """Exits are counted though never stopped; a clock stepping back frees nothing."""
    throttle = Throttle(2, 2)
    for now in (100, 50, 40):
        throttle.take(now)

    assert throttle.state() == (100, 100)
    assert throttle.free(60) == 0
