"""What a durable intent costs on the order path: from the engine's wish until the order may leave.

The ledger is opened as the daemon opens it, on a file of the same file system as two floors measured in turn with it: a
plain append of one page with fsync, and SQLite alone (one row, WAL, synchronous=FULL, in this thread). What the ledger
costs beyond the second is ours: the hop to its thread and back, building the rows, SQLAlchemy. All are measured in turn,
so that a busy machine is busy for all.
"""

import argparse
import asyncio
import json
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Any

from daemon.domain.events import Submit
from daemon.domain.orders import Approved, Cause, Intent, Side, Tif
from daemon.edge.clock import Clock
from daemon.edge.ledger import LedgerConfig, SqlLedger
from daemon.edge.ledger_store import Ticket

ROUNDS = 400
SIZES = {1: 1, 10: 5, 100: 20}
"""Orders of a decision, and in which of how many rounds one of that size is made."""
WARM = 20
PAGE = b"\0" * 4_096
GOAL_MS = 1.0
RECORD = json.dumps({"forecast": [0.001] * 100, "weights": [0.01] * 100, "note": "x" * 2_000})
"""About what a decision's record holds."""


def submit(number: int, size: int) -> Submit:
    """Return a decision with so many orders."""
    now = time.time_ns()
    approved = tuple(
        Approved(
            Intent(
                client_id=f"bbench{number:08d}{leg:04d}",
                decision=f"bench-{number}",
                leg=leg,
                symbol="BTC/USDT",
                side=Side.BUY,
                qty=Decimal("0.01234"),
                limit=Decimal("65432.10"),
                tif=Tif.IOC,
                cause=Cause.REBALANCE,
                exit=False,
                reference=Decimal("65400.00"),
                ts_ns=now,
                expires_ns=now + 2_000_000_000,
            ),
            now,
        )
        for leg in range(size)
    )
    return Submit(f"bench-{number}", approved, (), RECORD)


class Floors:
    """The two floors, in a folder: a page with fsync, a row with SQLite."""

    def __init__(self, folder: Path) -> None:
        self._fd = os.open(folder / "page", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._sqlite = sqlite3.connect(folder / "floor.db", isolation_level=None)
        self._sqlite.execute("pragma journal_mode=wal")
        self._sqlite.execute("pragma synchronous=full")
        self._sqlite.execute("create table floor (id integer primary key, record text)")

    def page(self) -> None:
        """Append a page and sync it."""
        os.write(self._fd, PAGE)
        os.fsync(self._fd)

    def row(self) -> None:
        """Insert a row and commit it."""
        self._sqlite.execute("begin immediate")
        self._sqlite.execute("insert into floor (record) values (?)", (RECORD,))
        self._sqlite.execute("commit")

    def close(self) -> None:
        """Close both."""
        self._sqlite.close()
        os.close(self._fd)


async def _measure(folder: Path, rounds: int) -> dict[str, list[float]]:
    ledger = SqlLedger(
        LedgerConfig(folder=folder, instance="bench", mode="paper", venue="binance", quote="USDT", lock_folder=folder),
        clock=Clock(),
    )
    await ledger.open()
    floors = Floors(folder)
    store = ledger._store
    loop = asyncio.get_running_loop()
    took: dict[str, list[float]] = {}

    def note(name: str, begun: float, number: int) -> None:
        if number >= WARM:
            took.setdefault(name, []).append((time.perf_counter() - begun) * 1e3)

    made = 0
    try:
        for number in range(rounds + WARM):
            for name, floor in (("page + fsync", floors.page), ("SQLite alone", floors.row)):
                begun = time.perf_counter()
                floor()
                note(name, begun, number)
            begun = time.perf_counter()
            await loop.run_in_executor(ledger._thread, int)
            note("thread and back", begun, number)
            for size, every in SIZES.items():
                if number % every:
                    continue
                made += 1
                wish = submit(made, size)
                begun = time.perf_counter()
                if not await ledger.commit(wish):
                    raise RuntimeError("the ledger could not commit in time; the machine is too busy to measure")
                note(f"intents {size}", begun, number)
            made += 1
            wish = submit(made, 1)
            begun = time.perf_counter()
            await loop.run_in_executor(ledger._thread, store.commit, wish, Ticket())
            note("in its thread 1", begun, number)
    finally:
        floors.close()
        await ledger.close()
    return took


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    """Measure; ms."""
    place = Path(".bench")  # the repository's disk: a folder for temporary files may be memory
    place.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place) as folder:
        took = asyncio.run(_measure(Path(folder).absolute(), rounds))
    found: dict[str, Any] = {
        name: {"p50_ms": median(one), "p99_ms": sorted(one)[int(len(one) * 0.99)], "n": len(one)}
        for name, one in took.items()
    }
    found["load"] = os.getloadavg()[0]
    found["goal_ms"] = GOAL_MS
    return found


def report(found: dict[str, Any]) -> None:
    """Print the table."""
    print(f"{'':>18} {'n':>5} {'p50 ms':>8} {'p99 ms':>8}")
    for name in sorted(name for name in found if isinstance(found[name], dict)):
        one = found[name]
        print(f"{name:>18} {one['n']:>5} {one['p50_ms']:>8.2f} {one['p99_ms']:>8.2f}")
    print(f"goal: one durable intent <= {found['goal_ms']:g} ms p50; load average {found['load']:.1f}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    report(run(parser.parse_args(argv).rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
