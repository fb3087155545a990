"""What tests of the edge share."""

import asyncio
import inspect
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_implicit_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """Close the loop that the looptime plugin makes by asking for one in synchronous tests; nobody else would."""
    yield
    if inspect.iscoroutinefunction(request.function):
        return
    try:
        loop = asyncio.get_event_loop_policy().get_event_loop()
    except RuntimeError:
        return
    if not loop.is_running():
        loop.close()
        asyncio.set_event_loop(None)
