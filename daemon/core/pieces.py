"""Long work in pieces: between two of them the loop turns and trades are heard."""

from collections.abc import Generator
from typing import TypeVar

from daemon.domain.events import Effect

T = TypeVar("T")
Work = Generator[tuple[Effect, ...], None, None]
"""Work that yields what each of its pieces asks for."""

PIECE = 25
"""Symbols or orders worked on between two trades, some 0.4 ms; a universe not larger than this is one piece."""


def finish(work: Generator[None, None, T]) -> T:
    """Do all (remaining) pieces at once and return what comes of them."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result


def quietly(work: Generator[None, None, T]) -> Generator[tuple[Effect, ...], None, T]:
    """Do pieces that ask for nothing yet."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result
        yield ()
