"""Exchanges and daemons, shared where a test leaves them as it found them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.kit import Daemon, Exchange

STRONG = ("--planted-r2", 0.45, "--planted-horizon-bars", 5, "--planted-persistence", 0.9, "--volatility-bar", 0.0015)
"""A market in which a forecast is worth its costs."""

PATIENT: dict[str, Any] = {"feed": {"grace_ms": 500}}
"""The longest grace one-second bars allow: on a crowded machine trades come late, and then a bar may lack them."""

MakeExchange = Callable[..., Exchange]
MakeDaemon = Callable[..., Daemon]


@pytest.fixture
def make_exchange() -> Iterator[MakeExchange]:
    """Start exchanges that end with the test."""
    with ExitStack() as stack:
        yield lambda *options, **sizes: stack.enter_context(Exchange(*options, **sizes))


@pytest.fixture
def exchange(make_exchange: MakeExchange) -> Exchange:
    """A market with a strong planted component."""
    return make_exchange(*STRONG)


@pytest.fixture
def make_daemon(tmp_path: Path) -> Iterator[MakeDaemon]:
    """Configure daemons that end with the test; ``start()`` is the caller's."""
    with ExitStack() as stack:

        def make(exchange: Exchange, name: str = "one", /, **changes: Any) -> Daemon:
            made = Daemon(exchange, tmp_path / name, **changes)
            stack.callback(made.close)
            return made

        yield make
