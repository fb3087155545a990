"""F43: the daemon killed at a persistence or send boundary loses nothing, sends nothing twice and finds everything."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from tests.crash.kit import RECOVER_S, STRONG, furnish, trial
from tests.e2e.kit import Exchange

SAMPLE = (2, 13, 21, 34, 55, 89)
"""Spread over start, opening balances, first orders, their answers, later ones; `make crash` takes every point."""
AT_ONCE = 2


def test_f43_a_kill_at_a_boundary_doubles_and_loses_nothing(tmp_path: Path) -> None:
    """F43, I1, I2, I3, I9: a sample of the points; `make crash` runs them all."""
    with ExitStack() as stack:
        exchanges = [furnish(stack.enter_context(Exchange(*STRONG))) for _ in range(AT_ONCE)]

        def some(lane: int) -> Iterator[tuple[str, int, int, float]]:
            for number in SAMPLE[lane::AT_ONCE]:
                done = trial(exchanges[lane], tmp_path / str(number), number)
                yield done.point, done.duplicates, done.orphans, done.recover_s

        with ThreadPoolExecutor(AT_ONCE) as pool:
            results = [row for lane in pool.map(lambda lane: list(some(lane)), range(AT_ONCE)) for row in lane]

    assert all(point for point, *_ in results), results
    assert [(twice, lost) for _, twice, lost, _ in results] == [(0, 0)] * len(SAMPLE)
    assert max(seconds for *_, seconds in results) < RECOVER_S, results  # `make crash` judges the bar of 10 s
