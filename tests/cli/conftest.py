"""A place to run commands in: an empty folder, no variables of ours, logging put back."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemon.cli.main import run
from daemon.outlets import logs

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def clean_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty working folder and environment."""
    import os

    for name in [name for name in os.environ if name.startswith("BALLAST_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    level = root.level
    yield
    if logs._handler is not None:
        root.removeHandler(logs._handler)
        logs._handler = None
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture
def ballast(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command in this process; return exit code, stdout and stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
