"""The garbage collector runs when it is quiet, and never walks what lives as long as the daemon."""

import gc
from collections.abc import Iterator

import pytest

from daemon.domain.events import StateChanged, TradingState
from daemon.service import heap as module
from daemon.service.heap import Heap
from tests.service.test_pacing import Rig


@pytest.fixture
def heap() -> Iterator[Heap]:
    """A heap that gives everything back at the end."""
    one = Heap()
    yield one
    one.release()
    assert gc.isenabled()


class Ring:
    """Garbage that only the collector finds."""

    alive = 0

    def __init__(self) -> None:
        Ring.alive += 1
        self.me = self

    def __del__(self) -> None:
        Ring.alive -= 1


def test_before_trading_python_decides(heap: Heap) -> None:
    """Start-up is no time for our own ideas."""
    heap.tidy(quiet=True)
    assert gc.isenabled()


def test_it_collects_in_quiet_moments_only(heap: Heap) -> None:
    """Garbage stays while a decision is under way, and goes in the next quiet moment."""
    heap.settle()
    before = Ring.alive
    for _ in range(1_000):
        Ring()
    heap.tidy(quiet=False)
    assert not gc.isenabled()
    assert Ring.alive == before + 1_000

    heap.tidy(quiet=True)
    assert Ring.alive == before


def test_too_much_garbage_is_not_waited_with(heap: Heap, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that never has a quiet moment does not grow without end."""
    monkeypatch.setattr(module, "YOUNG_MAX", 500)
    heap.settle()
    before = Ring.alive
    for _ in range(1_000):
        Ring()
    heap.tidy(quiet=False)

    assert Ring.alive == before


def test_old_garbage_goes_too(heap: Heap, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has survived young collections is found by the full one."""
    monkeypatch.setattr(module, "FULL_EVERY", 3)
    heap.settle()
    before = Ring.alive
    ring = Ring()
    gc.collect(1)
    gc.collect(1)
    assert Ring.alive == before + 1
    del ring
    for _ in range(3):
        heap.tidy(quiet=True)

    assert Ring.alive == before


async def test_what_lives_for_ever_is_frozen_when_trading_begins(heap: Heap) -> None:
    """The collector never walks ccxt's tables in the middle of trading."""
    rig = Rig(heap)
    rig.dispatch(StateChanged(TradingState.REDUCING, (), 1))
    before = gc.get_freeze_count()
    alive: list[list[int]] = [[number] for number in range(2_000)]
    rig.dispatch(StateChanged(TradingState.ACTIVE, (), 2))

    assert gc.get_freeze_count() > before + len(alive)
