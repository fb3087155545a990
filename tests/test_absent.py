"""Tests of services that are not installed: skipped at a developer's, never where ``.ci/run`` installs them."""

from pathlib import Path

import pytest

from tests.absent import absent
from tests.backtest.report import browser
from tests.edge import postgres

PREPARES = Path(__file__).parents[1] / ".ci" / "run"


def test_a_service_that_is_missing_fails_under_ci_and_is_skipped_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason names what to install in both."""
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match="get it"):
        absent("get it")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="get it"):
        absent("get it")


@pytest.mark.parametrize("remedy", [browser.REMEDY, postgres.REMEDY])
def test_what_a_test_asks_for_is_what_ci_installs(remedy: str) -> None:
    """Every Debian package of the remedy is in the script that prepares a bare machine."""
    packages = [word for word in remedy.partition("apt-get install ")[2].split() if not word.startswith("-")]
    script = PREPARES.read_text()

    assert packages
    assert [name for name in packages if name not in script] == []
