"""What every test may ask for: the recorded data, and one way to run property tests."""

import asyncio
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.edge.postgres import postgres, postgres_database
from tests.places import memory_folder

__all__ = ["postgres", "postgres_database"]

REPO = Path(__file__).resolve().parent.parent

# No deadline: the machines that run this are shared. In CI the examples are derived from the test itself, so a red
# build is red again at home; locally every run looks elsewhere.
settings.register_profile("local", deadline=None, max_examples=100)
settings.register_profile(
    "ci", deadline=None, max_examples=100, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ci" if os.environ.get("CI") else "local")


TEMPROOT = "PYTEST_DEBUG_TEMPROOT"
"""pytest's own variable: the folder in which it makes the folders of tests."""


def pytest_configure(config: pytest.Config) -> None:
    """Make the folders of tests in memory: what they write outlives a SIGKILL there too, and a sync costs nothing."""
    folder = memory_folder()
    if folder is not None and config.option.basetemp is None:
        os.environ.setdefault(TEMPROOT, folder)


def pytest_collection_finish() -> None:
    """Say that the main thread has no loop; else pytest-asyncio asks Python 3.11 for one, which is made and leaked."""
    asyncio.set_event_loop(None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of recorded frames (`ws/`) and candles (`binance/`): beside the repository, or by BALLAST_SHARED."""
    named = os.environ.get("BALLAST_SHARED")
    folder = Path(named) if named else REPO.parent / "shared"
    data = folder if (folder / "binance").is_dir() else folder / "data"
    if not (data / "binance").is_dir():
        pytest.skip(f"no recorded data at {data}: put it there or name its folder in BALLAST_SHARED")
    return data


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> frozenset[str]:
    """The names of all files in the wheel that is built from this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("ballast-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return frozenset(archive.namelist())
