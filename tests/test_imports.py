"""What importing costs: the socket process stays light, the help text stays fast."""

import json
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "cvxpy", "pandas", "scipy", "sklearn")
HELP = """
import sys
from daemon.__main__ import main
sys.argv = ["ballast", "--help"]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
"""


def _imported_after(program: str, *names: str) -> list[str]:
    """Those of `names` that a fresh interpreter has loaded once it ran `program`."""
    report = f"import json, sys; print('\\n' + json.dumps([n for n in {names!r} if n in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\n{report}"],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded: list[str] = json.loads(done.stdout.splitlines()[-1])
    return loaded


def test_the_probe_sees_imports() -> None:
    """A check that cannot fail proves nothing: the probe reports what was imported, and only that."""
    assert _imported_after("import json.tool", "json.tool", "cvxpy") == ["json.tool"]


def test_the_socket_process_imports_nothing_heavy() -> None:
    """`daemon.app`, with all it pulls in, leaves the learning and solving libraries to the worker."""
    assert _imported_after("import daemon.app", *HEAVY) == []


def test_what_a_file_needs_not_is_not_loaded() -> None:
    """A ledger on SQLite whose schema is in order costs neither the server's driver nor the migrations' library."""
    assert _imported_after("import daemon.app", "psycopg", "alembic") == []


def test_help_imports_nothing_heavy() -> None:
    """`ballast --help` runs without the exchange library, the models and the solvers."""
    assert _imported_after(HELP, *HEAVY, "ccxt", "aiohttp", "sqlalchemy", "fastapi") == []
