"""What `ballast check --online` says about the ledger's server."""

from pathlib import Path

import pytest

from daemon.service.place import ledger_place, ledger_problems
from daemon.settings import Settings, load_settings
from tests.edge.postgres import GUARDED, PASSWORD, Server


def settings_for(folder: Path, **ledger: str) -> Settings:
    """Return a paper configuration with this ledger."""
    env = {f"BALLAST_LEDGER__{key.upper()}": value for key, value in ledger.items()}
    return load_settings([], {"BALLAST_STATE_DIR": str(folder), **env})


def test_the_default_is_a_file_and_no_problem(tmp_path: Path) -> None:
    """One folder per mode; nothing is made by asking."""
    settings = settings_for(tmp_path / "var")

    assert ledger_place(settings).path == tmp_path / "var" / "paper" / "ballast.db"
    assert ledger_problems(settings) == []
    assert not (tmp_path / "var").exists()


def test_a_server_that_is_ready_is_no_problem(tmp_path: Path, postgres: Server, postgres_database: str) -> None:
    """And it is left as it is: the schema is made by a start."""
    assert ledger_problems(settings_for(tmp_path, url=postgres.url(postgres_database))) == []
    assert postgres.do("SELECT 1 FROM pg_namespace WHERE nspname LIKE 'ballast%'", postgres_database) == []


@pytest.mark.parametrize(
    ("password", "said"),
    [(f"wrong{PASSWORD}", "password authentication failed"), (PASSWORD, "GRANT CREATE ON DATABASE")],
)
def test_what_would_stop_a_start_is_one_line(
    tmp_path: Path, postgres: Server, postgres_database: str, password: str, said: str
) -> None:
    """A wrong password, a role without rights; I18: never the password itself."""
    secret = tmp_path / "secret"
    secret.write_text(password)
    url = postgres.url(postgres_database, role=GUARDED)
    (line,) = ledger_problems(settings_for(tmp_path, url=url, password_file=str(secret)))

    assert said in line
    assert len(line.splitlines()) == 1
    assert PASSWORD not in line


def test_nobody_there_is_one_line(tmp_path: Path) -> None:
    """A port where nobody listens."""
    (line,) = ledger_problems(settings_for(tmp_path, url="postgresql://u@127.0.0.1:9/d"))

    assert "check ledger.url" in line
    assert len(line.splitlines()) == 1
