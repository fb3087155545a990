"""What a test does that needs a real service which is not installed."""

import os
from typing import NoReturn

import pytest


def absent(remedy: str) -> NoReturn:
    """Skip with the command that installs it; fail where ``CI`` is set, since ``.ci/run`` has installed everything."""
    if os.environ.get("CI"):
        pytest.fail(remedy)
    pytest.skip(remedy)
