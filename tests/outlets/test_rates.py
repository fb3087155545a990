"""How often a client may ask: the buckets, by hand and by property."""

from hypothesis import given
from hypothesis import strategies as st

from daemon.outlets.rates import CLIENTS_MAX, RATES, Rate, Rates

SLOW = {"read": Rate(2.0, 3), "kill": Rate(1.0, 1)}


def test_a_burst_then_the_rate() -> None:
    """Three at once, then two a second; the wait named is enough."""
    rates = Rates(SLOW)

    assert [rates.wait_s("a", "read", 10.0) for _ in range(4)] == [0, 0, 0, 1]
    assert rates.wait_s("a", "read", 10.5) == 0
    assert rates.wait_s("a", "read", 10.5) == 1
    assert rates.wait_s("a", "read", 11.5) == 0


def test_clients_and_kinds_do_not_share() -> None:
    """F67: whoever floods floods only himself, and reading too much does not stop a kill."""
    rates = Rates(SLOW)
    flooded = [rates.wait_s("a", "read", 0.0) for _ in range(50)]

    assert flooded[-1] > 0
    assert rates.wait_s("b", "read", 0.0) == 0
    assert rates.wait_s("a", "kill", 0.0) == 0


def test_memory_is_bounded() -> None:
    """A flood from many addresses forgets the oldest, not the process."""
    rates = Rates(SLOW)
    for number in range(3 * CLIENTS_MAX):
        rates.wait_s(f"client {number}", "read", 0.0)

    assert len(rates) == CLIENTS_MAX


@given(steps=st.lists(st.floats(0.0, 2.0), min_size=1, max_size=200), kind=st.sampled_from(sorted(RATES)))
def test_never_more_than_burst_and_rate(steps: list[float], kind: str) -> None:
    """In any time T at most burst + rate * T pass, and the wait that is named is enough."""
    rates, now_s, passed = Rates(), 0.0, 0
    for step_s in steps:
        now_s += step_s
        wait_s = rates.wait_s("a", kind, now_s)
        passed += not wait_s
        if wait_s:
            now_s += wait_s
            assert rates.wait_s("a", kind, now_s) == 0
            passed += 1

    assert passed <= RATES[kind].burst + RATES[kind].per_s * now_s + 1e-6


def test_a_clock_that_stands_or_goes_back_gives_nothing() -> None:
    """Time that does not pass refills nothing."""
    rates = Rates(SLOW)
    for _ in range(3):
        rates.wait_s("a", "read", 10.0)

    assert rates.wait_s("a", "read", 9.0) > 0
