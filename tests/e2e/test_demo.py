"""The demonstration as a user runs it."""

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

from tests.e2e.kit import REPO, bare

SECONDS = 20


def test_demo_reconciles_and_reports(tmp_path: Path) -> None:
    """Exit 0 or 3, one JSON document with the contract's keys on stdout, ledger and exchange equal either way."""
    done = subprocess.run(
        [sys.executable, "-m", "daemon", "demo", "--seconds", str(SECONDS), "--seed", "1", "--json"],
        cwd=REPO, env=bare() | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip

    assert done.returncode in {0, 3}, done.stderr
    document = json.loads(done.stdout)
    assert set(document) >= {"ok", "orders", "fills", "unresolved", "breaks"}
    assert document["breaks"] == []
    assert document["unresolved"] == 0
    assert document["orders"] > 0
    assert document["fills"] > 0
    assert document["ok"] is (done.returncode == 0)
    assert document["reconnects"] >= 1
    assert "trading-ready" in done.stderr
    assert "reconciled to the last unit" in done.stderr
    assert "Traceback" not in done.stderr
    rows = [line.split() for line in done.stderr.splitlines() if " ledger " in line and " exchange " in line]
    money = [row for row in rows if row[1] == "ledger" and row[-1] == "equal"]
    assert money
    assert all(Decimal(row[2]) == Decimal(row[4]) for row in money)
    assert list(tmp_path.glob("ballast-*")) == []  # it cleans up behind itself
