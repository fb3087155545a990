"""I18, F70: marker secrets planted in a live run full of faults and crashes reach no sink of the real process."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import zstandard

from tests.e2e.conftest import STRONG
from tests.e2e.kit import PAGES, REPO, SECRET, Daemon, Exchange, bare, http, until

SIGNED = re.compile(rb"signature[\"'\\]*\s*[=:]\s*[\"'\\]*[0-9a-fA-F]{32}")
"""A signature in clear: whoever has it may repeat the request for as long as its window is open."""
BLOCK = b"BLK1"
ERRORS = (
    "/nothing",
    "/api/v1/decisions/nothing",
    "/api/v1/bars/NO-SUCH",
    "/api/v1/orders?limit=no",
    "/api/openapi.json",
    "/api/docs",
)
BOMB = """
import asyncio, os, sys, threading
from daemon.edge.orders import LiveVenue

FLAG, KEYS = sys.argv.pop(1), [open(name).read().strip() for name in sys.argv.pop(1).split(",")]
TEXT = "GET https://x/api/v3/account?timestamp=1&signature=" + "ab" * 32 + " with " + " and ".join(KEYS)
reconcile = LiveVenue.reconcile


def burst():
    raise ValueError(TEXT)


class Grave:
    def __del__(self):
        burst()


async def failing(self):
    if not os.path.exists(FLAG):
        return await reconcile(self)
    thread = threading.Thread(target=burst)
    thread.start()
    thread.join()
    asyncio.get_running_loop().call_soon(burst)
    Grave()
    burst()


LiveVenue.reconcile = failing
from daemon.__main__ import main
main()
"""
"""The daemon itself, with one part that can be made to raise what ccxt raises: in a task, a thread, a callback, a finaliser."""


@dataclass
class Run:
    """What a run left behind."""

    daemon: Daemon
    markers: dict[str, bytes]
    answers: dict[str, bytes] = field(default_factory=dict)
    command_lines: dict[str, bytes] = field(default_factory=dict)
    fired: dict[str, int] = field(default_factory=dict)


def plant(exchange: Exchange, key: str) -> dict[str, int]:
    """Script the faults: cut, late, empty, broken and telling answers; some repeat what was sent."""
    echo = json.dumps({"code": -1000, "msg": f"bad request: X-MBX-APIKEY {key} with {SECRET}"})
    page = f"<html>{key} {SECRET} apiKey={key}&signature={'cd' * 32}</html>"
    rules: tuple[tuple[str, str, dict[str, object]], ...] = (
        ("POST /api/v3/order", "error", {"status": 503, "times": 2}),
        ("POST /api/v3/order", "cut_after", {"after": 1}),
        ("POST /api/v3/order", "broken", {"after": 1, "handle": True}),
        ("POST /api/v3/order", "replace", {"after": 1, "status": 400, "text": echo, "times": 2}),
        ("POST /api/v3/order", "html", {"after": 1, "status": 403, "text": page}),
        ("POST /api/v3/order", "drop", {"after": 1}),
        ("GET /api/v3/order", "replace", {"status": 401, "text": echo}),
        ("GET /api/v3/order", "truncate", {"after": 1}),
        ("GET /api/v3/myTrades", "replace", {"status": 500, "text": echo, "times": 2}),
        ("GET /api/v3/account", "replace", {"status": 401, "text": echo, "times": 2}),
        ("GET /api/v3/account", "html", {"status": 502, "text": page}),
        ("GET /api/v3/klines", "html", {"status": 200, "text": page, "times": 2}),
        ("GET /api/v3/time", "error", {"status": 500}),
        ("GET /sapi/v1/account/apiRestrictions", "html", {"status": 503, "text": page, "times": 2}),
        ("user executionReport", "corrupt", {"times": 3}),
        ("frame *@aggTrade", "corrupt", {"times": 3}),
    )  # fmt: skip
    return {
        f"{match} {action} {n}": exchange.fault(match, action, **rule) for n, (match, action, rule) in enumerate(rules)
    }


def started(daemon: Daemon, folder: Path) -> Path:
    """Start the daemon with the bomb inside, its keys in files; return the fuse."""
    files = [folder / "key", folder / "secret"]
    for file, value in zip(files, (daemon.exchange.key, SECRET), strict=True):
        file.write_text(value + "\n")
        file.chmod(0o400)
    fuse, script = folder / "fuse", folder / "bomb.py"
    script.write_text(BOMB)
    daemon.env = bare() | {
        "PYTHONPATH": str(REPO),
        "BALLAST_EXCHANGE__API_KEY_FILE": str(files[0]),
        "BALLAST_EXCHANGE__API_SECRET_FILE": str(files[1]),
    }
    daemon.starts += 1
    with daemon.log_file.open("wb") as log:
        daemon.process = subprocess.Popen(
            [sys.executable, str(script), str(fuse), ",".join(map(str, files)), "run", "-c", str(daemon.config)],
            cwd=REPO, env=daemon.env, stdout=log, stderr=log,
        )  # fmt: skip
    return fuse


def family(root: int) -> Iterator[tuple[int, bytes]]:
    """Return id and command line of a process and its children."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(stat[1]), []).append(int(entry.name))
    waiting = [root]
    while waiting:
        number = waiting.pop()
        waiting += parents.get(number, [])
        try:
            yield number, Path(f"/proc/{number}/cmdline").read_bytes()
        except OSError:
            continue


def ask_everything(run: Run) -> None:
    """Read every page, provoke every error, call the commands that talk to the exchange."""
    daemon, base = run.daemon, f"http://{run.daemon.address}"
    for path in (*(f"/api/v1/{one}" for one in PAGES), "/healthz", "/readyz", *ERRORS):
        run.answers[path] = http(base + path)[1]
    newest = daemon.decisions()[0]["decision"]
    run.answers["decision"] = http(f"{base}/api/v1/decisions/{newest}")[1]
    for name, token in (("wrong", "wrong" * 9), ("key", daemon.exchange.key)):
        run.answers[f"{name} token"] = http(f"{base}/api/v1/pause", post={}, token=token)[1]
    run.answers["large"] = http(f"{base}/api/v1/kill", post={"x": "y" * 70_000})[1]
    run.answers["metrics"] = daemon.metrics().encode()


def commands(run: Run) -> None:
    """One-shot commands while the venue answers badly: what they print goes to terminals and cron mails."""
    exchange = run.daemon.exchange
    text = json.dumps({"code": -2015, "msg": f"Invalid API-key {exchange.key}, IP, or permissions for action"})
    exchange.fault("GET /sapi/*", "replace", status=401, text=text, times=0)
    for words in (
        ("check", "--online"),
        ("reconcile", "--json"),
        ("config",),
        ("explain", "--json"),
        ("orders", "--json"),
    ):
        done = run.daemon.cli(*words)
        run.answers[" ".join(words)] = (done.stdout + done.stderr).encode()
    exchange.heal()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Start into faults, trade through faults, have the key refused, break inside, stop."""
    folder = tmp_path_factory.mktemp("secrets")
    with Exchange(*STRONG) as exchange:
        assert SECRET.startswith("MARKER")
        planted = plant(exchange, exchange.key)
        daemon = Daemon(exchange, folder / "one", log={"level": "debug"})
        made = Run(daemon, {"key": exchange.key.encode(), "secret": SECRET.encode()})
        try:
            fuse = started(daemon, folder)
            daemon.wait_ready(90)
            made.command_lines = {
                str(number): line for number, line in family(daemon.process.pid if daemon.process else 0)
            }
            until(lambda: len(exchange.orders_sent()) >= 14, timeout_s=60, what="orders", why=daemon.tail)
            exchange.steer("disconnect", kind="user")
            for scope in ("read", "control", "kill"):
                made.markers[f"{scope} token"] = (daemon.state_dir / f"api.{scope}.token").read_bytes().strip()
            ask_everything(made)
            made.fired = {name: exchange.fired(rule) for name, rule in planted.items()}
            exchange.heal()
            commands(made)
            refused = json.dumps(
                {"code": -2015, "msg": f"Invalid API-key {exchange.key}, IP, or permissions for action."}
            )
            exchange.fault("POST /api/v3/order", "replace", status=401, text=refused, times=0)
            until(lambda: "halted" in daemon.readiness()[1], timeout_s=30, what="the key's refusal", why=daemon.tail)
            made.answers["alerts"] = json.dumps(daemon.api("status")).encode()
            fuse.touch()
            until(
                lambda: any(one["code"] == "fault" for one in daemon.api("status")["alerts"]),
                timeout_s=60, what="the broken part's end", why=daemon.tail,
            )  # fmt: skip
            ask_everything(made)
            made.answers["alerts"] += json.dumps(daemon.api("status")).encode()
            daemon.stop(signal.SIGTERM)
            yield made
        finally:
            daemon.close()


def hits(content: bytes, markers: dict[str, bytes]) -> list[str]:
    """Return which secrets a sink holds, with what stands around them."""
    found = [f"{name}: {context(content, marker)!r}" for name, marker in markers.items() if marker in content]
    match = SIGNED.search(content)
    return found + ([f"signature: {match[0]!r}"] if match else [])


def context(content: bytes, marker: bytes) -> bytes:
    """Return the secret's surroundings."""
    at = content.index(marker)
    return content[max(0, at - 150) : at + 150]


def blocks(segment: bytes) -> Iterator[bytes]:
    """Unpack a journal segment by its format alone."""
    at = segment.find(BLOCK)
    while 0 <= at < len(segment) - 16:
        length = int.from_bytes(segment[at + 4 : at + 8], "little")
        yield zstandard.ZstdDecompressor().decompress(segment[at + 16 : at + 16 + length])
        at += 16 + length


def test_the_faults_happened(run: Run) -> None:
    """A run in which nothing went wrong proves nothing."""
    silent = [name for name, count in run.fired.items() if not count]
    assert len(silent) <= 2, silent  # a query or a trade list may not have been needed
    log = run.daemon.log_file.read_bytes()
    assert log.count(b"ValueError") >= 4, "task, thread, callback and finaliser"


def test_logs_hold_no_secret(run: Run) -> None:
    """Everything on stdout and stderr at level debug, tracebacks of every kind included."""
    log = run.daemon.log_file.read_bytes()

    assert hits(log, run.markers) == []
    assert b'"level": "debug"' in log or b'"level":"debug"' in log


def test_files_hold_no_secret(run: Run) -> None:
    """Ledger, latch, state and journal; the token files alone hold their tokens, readable by their owner only."""
    seen = 0
    for path in sorted(one for one in run.daemon.folder.rglob("*") if one.is_file()):
        content = path.read_bytes()
        if re.fullmatch(r"api\.(read|control|kill)\.token", path.name):
            assert path.stat().st_mode & 0o777 == 0o600
            continue
        assert hits(content, run.markers) == [], path
        if path.suffix == ".journal":
            for number, block in enumerate(blocks(content)):
                assert hits(block, run.markers) == [], (path, number)
                seen += 1
    assert seen > 5, "the journal was unpacked"
    assert (run.daemon.ledger).exists()


def test_answers_hold_no_secret(run: Run) -> None:
    """Every page, every error, the metrics, and what one-shot commands print."""
    for name, content in run.answers.items():
        assert hits(content, run.markers) == [], name
    assert len(run.answers) > 25


def test_command_lines_hold_no_secret(run: Run) -> None:
    """Anybody on the machine may list processes."""
    assert len(run.command_lines) >= 2, "daemon and worker"
    for name, content in run.command_lines.items():
        assert hits(content, run.markers) == [], name
