"""The real daemon process and the simulated exchange process, driven from outside: commands, HTTP, signals, files."""

import contextlib
import json
import os
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Self, TypeVar

import psycopg

REPO = Path(__file__).resolve().parents[2]
SECRET = "MARKERsecretMARKER"
SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT", "XRP/USDT", "ADA/USDT", "DOGE/USDT", "LTC/USDT", "LINK/USDT")
PAGES = (
    "status",
    "positions",
    "orders",
    "fills",
    "decisions",
    "equity",
    "risk",
    "config",
    "bars/BTC-USDT",
    "forecasts",
    "models",
)
"""What the API shows, below ``/api/v1/``."""
READY_S = 60.0
STOP_S = 10.0
BARS = 60
TOO_MANY = 429
PATIENCE = 25
"""How often an answer 429 is waited out, 0.2 s each."""
NS = 1_000_000_000
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))

T = TypeVar("T")
Tree = dict[str, Any]
Ledger = Path | str
"""A SQLite file, or the URI of a database with the ledger's schema in its search path."""


def until(ask: Callable[[], T], *, timeout_s: float = 20.0, what: str = "", why: Callable[[], object] = str) -> T:
    """Ask again and again until the answer is true; ``why`` tells the failure what it looked like at the end."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = ask()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what or ask}; {why()}"
        time.sleep(0.03)


def http(url: str, *, post: Tree | None = None, method: str | None = None, token: str = "") -> tuple[int, bytes]:
    """Return status and body of one request; an error status is an answer too."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    body = json.dumps(post).encode() if post is not None else None
    request = urllib.request.Request(url, body, headers, method=method)
    try:
        with OPENER.open(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def toml(tree: Mapping[str, Any]) -> str:
    """Write a configuration of plain values and one level of tables."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in tree.items() if not isinstance(value, dict)]
    for name, table in tree.items():
        if isinstance(table, dict):
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def merged(base: Tree, changes: Mapping[str, Any]) -> Tree:
    """Return a configuration with some keys replaced."""
    out = {key: dict(value) if isinstance(value, dict) else value for key, value in base.items()}
    for key, value in changes.items():
        if isinstance(value, dict):
            out[key] = {**out.get(key, {}), **value}
        else:
            out[key] = value
    return out


class Exchange:
    """A simulated exchange in a process of its own, with an account and a key of its own."""

    def __init__(self, *options: object, symbols: int = len(SYMBOLS), history_bars: int = 1500) -> None:
        """Start it and read where it listens."""
        self.key = f"key{secrets.token_hex(8)}"
        common = ["--port", 0, "--symbols", symbols, "--history-bars", history_bars, "--key", self.key]
        command = [*common, "--secret", SECRET, *options]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "daemon.exchange", *map(str, command)], stdout=subprocess.PIPE, cwd=REPO, env=bare()
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the simulated exchange did not start: {command}"
        self.base = f"127.0.0.1:{json.loads(line)['port']}"

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        assert self.process.stdout is not None
        self.process.stdout.close()
        assert self.process.wait(10) == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def ask(self, path: str, *, post: Tree | None = None, method: str | None = None) -> Any:
        """Return the JSON answer; anything but 200 is an error of the test."""
        status, body = http(f"http://{self.base}{path}", post=post, method=method)
        assert status == 200, (path, status, body[:300])
        return json.loads(body)

    def steer(self, what: str, **body: Any) -> Any:
        """Use the control interface."""
        return self.ask(f"/sim/{what}", post=body)

    def fault(self, match: str, action: str, **rule: Any) -> int:
        """Script one fault; return its number."""
        return int(self.steer("faults", match=match, action=action, **rule)["id"])

    def fired(self, rule: int) -> int:
        """Return how often a fault happened."""
        return int(self.ask("/sim/faults")["fired"].get(str(rule), 0))

    def heal(self) -> None:
        """Lift every fault."""
        self.ask("/sim/faults", method="DELETE")

    def truth(self) -> Tree:
        """Return orders, fills and balances as they really are."""
        return dict(self.ask("/sim/truth"))

    def now_ns(self) -> int:
        """Return the exchange's time."""
        return int(self.ask("/sim/stats")["now_ns"])

    def requests(self, path: str = "", since_ns: int = 0) -> list[Tree]:
        """Return the requests that arrived."""
        return list(self.ask(f"/sim/requests?path={path}&since_ns={since_ns}"))

    def orders_sent(self, since_ns: int = 0) -> list[Tree]:
        """Return the order requests that arrived."""
        return [one for one in self.requests("/api/v3/order", since_ns) if one["method"] == "POST"]


def bare() -> dict[str, str]:
    """Return this environment without our own variables and without proxies."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("BALLAST_") and not name.lower().endswith("_proxy")
    }


def configuration(state_dir: Path, base: str, metrics: int, changes: Mapping[str, Any]) -> Tree:
    """Return a live configuration that trades every second without a trained model."""
    tree: Tree = {
        "mode": "live",
        "live_confirm": "main",
        "universe": list(SYMBOLS),
        "bar": "1s",
        "state_dir": str(state_dir),
        "exchange": {"rest_url": f"http://{base}", "ws_url": f"ws://{base}"},
        "feed": {"backfill_bars": 200, "grace_ms": 300},
        "forecast": {"model": "ewma", "shrink": "none", "horizon_bars": 5},
        "optimizer": {"fully_invested": True, "cost_bps": 0.0, "turnover_max_day": 1000.0},
        "risk": {
            "max_order_notional": 0.01,
            "max_repeats": 0,  # one order in every bar, bar after bar, is what these tests want
            "cvar_limit": 1.0,
            "max_daily_loss": 0.5,
            "max_drawdown": 0.5,
        },
        "api": {"listen": "127.0.0.1:0"},
        "metrics": {"listen": f"127.0.0.1:{metrics}"},
        "ui": {"listen": ""},
        "log": {"format": "json", "level": "info"},
    }
    return merged(tree, changes)


class Daemon:
    """One configuration and state folder; the process may be started again and again."""

    def __init__(self, exchange: Exchange, folder: Path, /, *, base: str = "", **changes: Any) -> None:
        """Write the configuration; nothing starts yet. ``base`` is another way to the exchange."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.exchange = folder, exchange
        self.state_dir = folder / "var"
        self._scrape = free_port()
        self.tree = configuration(self.state_dir, base or exchange.base, self._scrape, changes)
        self.mode = str(self.tree["mode"])
        self.config = folder / "ballast.toml"
        self.config.write_text(toml(self.tree))
        self.env = bare() | {"BALLAST_EXCHANGE__API_KEY": exchange.key, "BALLAST_EXCHANGE__API_SECRET": SECRET}
        self.process: subprocess.Popen[bytes] | None = None
        self.program: tuple[str, ...] = ("-m", "daemon")
        """What the interpreter runs; the fault matrix starts a daemon with planted faults (`tests.faults.launch`)."""
        self.starts = 0
        self.where = ""  # the API's address when it is not written down
        self.prefix: tuple[str, ...] = ()  # what starts the interpreter, if not we

    # ------------------------------------------------------------------ the process

    def start(self) -> Self:
        """Start the process; its log goes to a file per start."""
        assert self.process is None
        self.starts += 1
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [*self.prefix, sys.executable, *self.program, "run", "-c", str(self.config)],
                cwd=REPO, env=self.env, stdout=log, stderr=log,
            )  # fmt: skip
        return self

    @property
    def flag(self) -> Path:
        """The file that switches planted faults on while it exists (`tests.faults.planted`)."""
        return self.folder / "flag"

    @property
    def log_file(self) -> Path:
        """Where this start logs to."""
        return self.folder / f"run{self.starts}.log"

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """Send a signal and wait; return exit code and seconds."""
        process, self.process = self.process, None
        assert process is not None
        began = time.monotonic()
        process.send_signal(number)
        try:
            code = process.wait(STOP_S + 10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        return code, time.monotonic() - began

    def kill9(self) -> None:
        """End it as a crash would."""
        assert self.stop(signal.SIGKILL)[0] == -signal.SIGKILL

    def close(self) -> None:
        """End it if it still runs."""
        if self.process is not None:
            self.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def cli(self, *arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a one-shot command with this configuration."""
        return subprocess.run(
            [sys.executable, "-m", "daemon", *arguments, "-c", str(self.config)],
            cwd=REPO, env=self.env, capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip

    def cli_plain(self, *arguments: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a command that takes no configuration."""
        return subprocess.run(
            [sys.executable, "-m", "daemon", *arguments],
            cwd=REPO, env=bare(), capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip

    def tell(self, *arguments: str) -> Tree:
        """Run a one-shot command that must succeed; return its JSON document."""
        done = self.cli(*arguments, "--json")
        assert done.returncode == 0, (arguments, done.returncode, done.stdout, done.stderr)
        return dict(json.loads(done.stdout))

    # ------------------------------------------------------------------ what it shows

    def log(self) -> list[Tree]:
        """Return the log of this start so far, one event each; a plain line becomes {"line": …}."""
        out = []
        for line in self.log_file.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                out.append(json.loads(line))
                continue
            out.append({"line": line})
        return out

    def events(self, name: str) -> list[Tree]:
        """Return the log's events of one name."""
        return [one for one in self.log() if one.get("event") == name]

    def tail(self) -> str:
        """Return the end of the log, for a failure's message."""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-12:])

    @property
    def address(self) -> str:
        """The API's address."""
        return self.where or (self.state_dir / "api.address").read_text().strip()

    def get(self, path: str) -> tuple[int, Tree]:
        """Return status and JSON of a GET, asked as the command line does: with the read token, and counted under it.

        A test polls faster than the API lets one client: it waits as it is told to, a few times.
        """
        token = self.state_dir / "api.read.token"
        key = token.read_text().strip() if token.is_file() else ""
        status, body = http(f"http://{self.address}{path}", token=key)
        for _ in range(PATIENCE):
            if status != TOO_MANY:
                break
            time.sleep(0.2)
            status, body = http(f"http://{self.address}{path}", token=key)
        return status, dict(json.loads(body))

    def api(self, path: str) -> Any:
        """Return the JSON of a read that must succeed."""
        status, answer = self.get(f"/api/v1/{path}")
        assert status == 200, (path, status, answer)
        return answer

    def readiness(self) -> tuple[int, list[str]]:
        """Return the status of /readyz and the codes of its reasons; 0 while nobody listens."""
        try:
            status, answer = self.get("/readyz")
        except (OSError, ValueError):
            return 0, []
        return status, [str(one["code"]) for one in answer.get("reasons", ())]  # 429: asked too often

    def wait_ready(self, timeout_s: float = READY_S) -> Self:
        """Wait until it trades."""

        def ready() -> bool:
            assert self.process is None or self.process.poll() is None, f"it ended by itself: {self.tail()}"
            return self.readiness()[0] == 200

        until(ready, timeout_s=timeout_s, what="ready", why=lambda: f"{self.readiness()}\n{self.tail()}")
        return self

    def metrics(self) -> str:
        """Return the scrape."""
        status, body = http(f"http://127.0.0.1:{self._scrape}/metrics")
        assert status == 200
        return body.decode()

    def decisions(self) -> list[Tree]:
        """Return the decisions, newest first."""
        return list(self.api("decisions?limit=1000")["decisions"])

    def wait_decisions(self, count: int, timeout_s: float = 60.0) -> list[Tree]:
        """Wait for a number of decisions of this start."""
        return until(
            lambda: made if len(made := self.decisions()) >= count else [],
            timeout_s=timeout_s, what=f"{count} decisions", why=self.tail,
        )  # fmt: skip

    def settle(self) -> None:
        """Make no more decisions, and wait until no order is open."""
        self.tell("pause")
        until(
            lambda: not [one for one in self.api("orders")["orders"] if one["state"] in OPEN] and not self.exits(),
            what="every order's end",
            why=self.tail,
        )

    def exits(self) -> Tree:
        """Return the exits under way."""
        return dict(self.api("risk")["exits"])

    def wait_bars(self, count: int) -> None:
        """Wait until so many more bars have closed."""
        close_ns = int(self.api("status")["last_bar_close_ns"]) + count * NS
        until(
            lambda: self.api("status")["last_bar_close_ns"] >= close_ns,
            timeout_s=count + 30, what="bars", why=self.tail,
        )  # fmt: skip

    def wrong_bars(self, symbol: str) -> list[Tree]:
        """Return the bars of the last minute that are not exactly the exchange's own candles; all must be there."""
        mine = {int(row["close_ns"]): row for row in self.api(f"bars/{symbol}?limit={BARS}")["bars"]}
        end_ms = max(mine) // 10**6
        theirs = self.exchange.ask(
            f"/api/v3/klines?symbol={symbol.replace('/', '')}&interval=1s&limit={BARS}"
            f"&startTime={end_ms - BARS * 1000}&endTime={end_ms - 1}"
        )
        assert len(mine) == len(theirs) == BARS, (symbol, len(mine), len(theirs))
        wrong = []
        for row in theirs:
            ours = mine[(int(row[6]) + 1) * 10**6]
            names = ("open", "high", "low", "close", "volume")
            if [ours[name] for name in names] != [float(one) for one in row[1:6]]:
                wrong.append({**ours, "candle": row})
        return wrong

    @property
    def ledger(self) -> Path:
        """The ledger's file."""
        return self.state_dir / self.mode / "ballast.db"

    @property
    def books(self) -> Ledger:
        """The ledger wherever it lies."""
        url = self.tree.get("ledger", {}).get("url", "")
        return f"{url}?options=-csearch_path%3Dballast_{self.mode}" if url else self.ledger


OPEN = {"planned", "sending", "acked", "unknown", "resolving"}


# ---------------------------------------------------------------------------------------------- ledger and truth


def rows(ledger: Ledger, query: str) -> list[tuple[Any, ...]]:
    """Read the ledger with SQL of our own, so that the daemon's reader is not believed."""
    if isinstance(ledger, str):
        with psycopg.connect(ledger, connect_timeout=5) as server:
            return server.execute(query.encode()).fetchall()
    with contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


def meta(ledger: Ledger, key: str) -> str:
    """Return one fact about the ledger."""
    return str(rows(ledger, f"select value from meta where key = '{key}'")[0][0])


def ledger_balances(ledger: Ledger) -> dict[str, Decimal]:
    """Add up flows, fills and fees of the ledger: what each asset should be."""
    total: dict[str, Decimal] = {}

    def add(asset: str, amount: Decimal) -> None:
        total[asset] = total.get(asset, Decimal(0)) + amount

    for asset, amount in rows(ledger, "select asset, amount from flows"):
        add(asset, Decimal(amount))
    for symbol, side, qty, price, fee, fee_asset in rows(
        ledger, "select symbol, side, qty, price, fee, fee_asset from fills"
    ):
        base, quote = symbol.split("/")
        sign = 1 if side == "buy" else -1
        add(base, sign * Decimal(qty))
        add(quote, -sign * Decimal(qty) * Decimal(price))
        add(fee_asset, -Decimal(fee))
    return {asset: amount for asset, amount in total.items() if amount}


def true_balances(truth: Tree) -> dict[str, Decimal]:
    """Return free + locked of every asset on the exchange."""
    held = {asset: Decimal(row["free"]) + Decimal(row["locked"]) for asset, row in truth["balances"].items()}
    return {asset: amount for asset, amount in held.items() if amount}


def ledger_fills(ledger: Ledger) -> list[tuple[str, str, str, str, Decimal, Decimal, Decimal, str]]:
    """Return every execution in the ledger, sorted."""
    query = "select symbol, trade_id, client_id, side, qty, price, fee, fee_asset from fills"
    return sorted(
        (symbol.replace("/", ""), number, client_id, side, Decimal(qty), Decimal(price), Decimal(fee), asset)
        for symbol, number, client_id, side, qty, price, fee, asset in rows(ledger, query)
    )


def true_fills(truth: Tree) -> list[tuple[str, str, str, str, Decimal, Decimal, Decimal, str]]:
    """Return every execution on the exchange, sorted."""
    return sorted(
        (
            one["symbol"], str(one["trade_id"]), one["client_id"], one["side"].lower(), Decimal(one["qty"]),
            Decimal(one["price"]), Decimal(one["commission"]), one["commission_asset"],
        )
        for one in truth["fills"]
    )  # fmt: skip


def assert_same(ledger: Ledger, truth: Tree) -> None:
    """I1, I3, I9: the ledger is what the exchange has, order by order, fill by fill, asset by asset, to the last digit."""
    assert truth["conserved"] is True
    assert ledger_fills(ledger) == true_fills(truth)
    assert ledger_balances(ledger) == true_balances(truth)
    placed = [order["client_id"] for order in truth["orders"]]
    assert len(placed) == len(set(placed)), "an order was placed twice"
    known = dict(rows(ledger, "select client_id, state from intents"))
    assert set(placed) <= set(known), "an order without an intent"
    never = {name for name, state in known.items() if state in {"denied", "never_placed", "rejected"}}
    assert set(known) - never == set(placed)


def only_line(text: str) -> str:
    """Return the one line for people; more or none is a failure. JSON lines are the log."""
    lines = [line for line in text.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, text
    assert lines[0].startswith("ballast: "), text
    return lines[0]


def names(requests: Iterable[Tree]) -> set[str]:
    """Return the endpoints that were asked."""
    return {f"{one['method']} {one['path']}" for one in requests}


@contextlib.contextmanager
def suffering(case: str, daemon: Daemon) -> Iterator[None]:
    """Let the daemon's loop ("loop blocked") or its ledger ("ledger locked") stand still meanwhile; other cases: nothing."""
    assert daemon.process is not None
    if case == "loop blocked":
        os.kill(daemon.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(daemon.process.pid, signal.SIGCONT)
    elif case == "ledger locked":
        with contextlib.closing(sqlite3.connect(daemon.ledger, isolation_level=None)) as connection:
            connection.execute("begin immediate")
            yield
            connection.execute("rollback")
    else:
        yield
