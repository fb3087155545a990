"""The flight recorder of a real daemon, live: segments that open with the state, a kill, a bound, a replay of what is left."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import STRONG
from tests.e2e.kit import SYMBOLS, Daemon, Exchange, until

SMALL: dict[str, Any] = {
    "universe": list(SYMBOLS[:4]),
    "journal": {"max_bytes": 300_000, "segment_bytes": 40_000},
    "feed": {"backfill_bars": 70, "grace_ms": 500},
}


@dataclass
class Recorded:
    """Two runs of one daemon: the first was killed after its beginning had been removed, the second ended in order."""

    daemon: Daemon
    first: Path
    second: Path
    seen: dict[str, Any] = field(default_factory=dict)


def numbers(folder: Path) -> dict[str, list[int]]:
    """The numbers of the segments that are there, by run."""
    found: dict[str, list[int]] = {}
    for path in sorted(folder.glob("*.journal")):
        run, _, number = path.stem.partition("-")
        found.setdefault(run, []).append(int(number))
    return found


def newest(folder: Path) -> list[int]:
    """The numbers of the newest run's segments."""
    return max(numbers(folder).items())[1]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    """Run until the first segments are gone, SIGKILL, start again, run until there are several segments again, stop."""
    with Exchange(*STRONG, "--trades-per-s", 40, symbols=4) as exchange:
        daemon = Daemon(exchange, tmp_path_factory.mktemp("recorder"), **SMALL)
        folder = daemon.state_dir / "live" / "journal"
        try:
            daemon.start().wait_ready()
            until(lambda: newest(folder)[0] > 0, timeout_s=120, what="a removed segment", why=daemon.tail)
            daemon.kill9()
            kept = Recorded(daemon, daemon.folder / "first", daemon.folder / "second")
            shutil.copytree(folder, kept.first)
            daemon.start().wait_ready()
            until(lambda: newest(folder)[-1] >= 3, timeout_s=120, what="segments", why=daemon.tail)
            kept.seen["bytes"] = sum(path.stat().st_size for path in folder.iterdir())
            assert daemon.stop()[0] == 0
            shutil.copytree(folder, kept.second)
            kept.seen["sent"] = len(exchange.orders_sent())
            yield kept
        finally:
            daemon.close()


def replayed(recorded: Recorded, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and document of one replay."""
    done = recorded.daemon.cli_plain("replay", *arguments, "--json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("decisions", ["recorded", "recomputed"])
def test_i10_a_killed_run_replays_from_what_is_left_of_it(recorded: Recorded, decisions: str) -> None:
    """I10: without its beginning and with a torn end, every kept segment gives the same effects again."""
    (run,) = numbers(recorded.first).values()
    code, result = replayed(recorded, str(recorded.first), "--decisions", decisions)

    assert run[0] > 0
    assert len(run) >= 3
    assert (code, result["ok"], result["difference"]) == (0, True, "")
    assert [one["number"] for one in result["segments"]] == run
    assert sum(one["verdict"] == "equal" for one in result["segments"]) >= 2
    assert result["decided"] >= 3
    assert result["checked"] >= 5
    assert result["frames"] > 100


@pytest.mark.parametrize("decisions", ["recorded", "recomputed"])
def test_i10_the_run_after_it_replays_from_any_segment(recorded: Recorded, decisions: str) -> None:
    """I10: the newest run of a folder, whole and from its last segment on; a file's name finds an older run."""
    folder = recorded.second
    last = max(folder.glob("*.journal"))
    for part in recorded.first.glob("*.journal"):
        if not (folder / part.name).exists():
            shutil.copy(part, folder)
    older = sorted(recorded.first.glob("*.journal"))[-2]
    for arguments in ((), ("--from-segment", last.name), ("--from-segment", older.name)):
        code, result = replayed(recorded, str(folder), "--decisions", decisions, *arguments)
        assert (code, result["ok"]) == (0, True), (arguments, result)
        assert not arguments or result["segments"][0]["name"] == arguments[1]
    assert recorded.seen["sent"] > 5


def test_the_bound_holds(recorded: Recorded) -> None:
    """All segments of all runs together stay below ``journal.max_bytes``."""
    assert recorded.seen["bytes"] <= SMALL["journal"]["max_bytes"]
    assert recorded.daemon.events("no snapshot") == []
    assert recorded.daemon.events("snapshot failed") == []


def test_a_tampered_journal_exits_3(recorded: Recorded, tmp_path: Path) -> None:
    """One byte changed in the middle: one line with segment and offset, the segments after it are replayed, exit 3."""
    folder = tmp_path / "journal"
    shutil.copytree(recorded.first, folder)
    parts = sorted(folder.glob("*.journal"))
    equal = [one for one in replayed(recorded, str(folder))[1]["segments"] if one["verdict"] == "equal"]
    spoilt = next(part for part in parts if part.name == equal[0]["name"])
    data = bytearray(spoilt.read_bytes())
    data[len(data) // 2] ^= 1
    spoilt.write_bytes(bytes(data))
    done = recorded.daemon.cli_plain("replay", str(folder))
    lines = done.stdout.splitlines()

    assert done.returncode == 3
    assert len(lines) == len(parts) + 1
    assert [line for line in lines if line.startswith(f"{spoilt.name}: damaged: damaged at byte ")]
    assert any(line.startswith(f"{equal[1]['name']}: equal: ") for line in lines)
    assert lines[-1].startswith("replay (recorded) differs after ")
    assert spoilt.name in lines[-1]


def test_a_journal_without_any_state_is_refused(recorded: Recorded, tmp_path: Path) -> None:
    """A segment cut off within its state, alone: 78 and one line that says so."""
    folder = tmp_path / "journal"
    folder.mkdir()
    part = sorted(recorded.first.glob("*.journal"))[1]
    data = part.read_bytes()
    (folder / part.name).write_bytes(data[: data.index(b"BLK1", 100) + 30])
    done = recorded.daemon.cli_plain("replay", str(folder))

    assert done.returncode == 78
    assert "nothing here can be replayed" in done.stderr
    assert len(done.stderr.splitlines()) == 1
