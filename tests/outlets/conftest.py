"""Keep pytest-asyncio from making an event loop that nobody closes."""

import asyncio


def pytest_collection_finish() -> None:
    """Say that the main thread has no loop; else pytest-asyncio asks Python 3.11 for one, which is made and leaked."""
    asyncio.set_event_loop(None)
