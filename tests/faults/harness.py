"""The harness of the fault matrix: rows by number, the world each one runs in, and the oracle that judges it afterwards.

A row is a function that injects one fault of FAULTS section 4 into the running daemon and asserts what the catalogue expects::

    @row("F2", "accepted, reply lost", expect="found by client id, ACKED, exactly one order")
    def f2(trial: Trial) -> None:
        daemon = trial.trading()                              # exchange and daemon, live mode, orders flow
        fault = trial.arm("POST /api/v3/order", "hang_after", times=2)
        fault.wait(2)                                         # a fault that never fires fails the row
        trial.heal()                                          # from here on recovery is timed
        trial.recovered()                                     # ACTIVE, nothing unresolved, every fill booked
        assert …                                              # what this row expects besides

After the row the harness kills trading by the switch, waits for the end of every order, stops the daemon and compares
ledger and exchange to the last digit (`Oracle`). What is counted for the table:

* times fired: from the exchange's own counters, from lines of a patched daemon (`Trial.patch`), or told by `Trial.fire`;
* states hit: the state of each order at the moment a request about it was spoilt; where the fault touches no order's
  request, the states that orders were in while it was in force;
* duplicates: client ids sent or placed more than once (I1); orphans: orders of ours that the ledger does not know (I9);
* seconds to recover: from `heal` to `recovered`.
"""

import contextlib
import importlib
import importlib.util
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final, Self

from daemon.core.planner import client_prefix
from tests.e2e.kit import (
    SECRET,
    Daemon,
    Exchange,
    Tree,
    http,
    ledger_balances,
    ledger_fills,
    rows,
    true_balances,
    true_fills,
    until,
)

STRONG: Final = (
    "--planted-r2",
    0.45,
    "--planted-horizon-bars",
    5,
    "--planted-persistence",
    0.9,
    "--volatility-bar",
    0.0015,
)
"""A market in which orders flow."""
NUMBERS: Final = tuple(f"F{number}" for number in range(1, 73))
MODULES: Final = ("network", "market", "orders", "host", "disk", "guard")
LATER_MAX: Final = range(59, 67)
"""Rows that may wait for a later issue."""
HEAL_S: Final = 60.0
"""I9, I16: so long after the fault is gone everything agrees and trading goes on."""
UNCERTAIN: Final = frozenset({"planned", "sending", "unknown", "resolving"})
NOT_PLACED: Final = frozenset({"denied", "never_placed", "rejected"})
TERMINAL: Final = frozenset({"filled", "canceled", "expired"}) | NOT_PLACED
FINAL: Final = {"FILLED": "filled", "CANCELED": "canceled", "EXPIRED": "expired", "EXPIRED_IN_MATCH": "expired"}
FIRED: Final = "fault fired: "
"""How a patched daemon tells of itself, on standard error (`tests.faults.launch.fired`)."""


# ---------------------------------------------------------------------------------------------- rows


@dataclass(frozen=True)
class Row:
    """One row, or one part of it: F16 has two directions, "F16" and "F16b"."""

    name: str
    number: str
    title: str
    expect: str
    run: Callable[["Trial"], None] | None
    quick: bool = False
    later: str = ""


@dataclass
class Finding:
    """What came of a row."""

    name: str
    title: str
    ok: bool = False
    fired: int = 0
    states: list[str] = field(default_factory=list)
    duplicates: int = 0
    orphans: int = 0
    recover_s: float | None = None
    orders: int = 0
    detail: str = ""
    later: str = ""
    trace: str = ""
    wall_s: float = 0.0

    def tree(self) -> Tree:
        """Return it for JSON."""
        return asdict(self)


ROWS: Final[dict[str, Row]] = {}


def row(
    number: str, title: str, *, expect: str, part: str = "", quick: bool = False
) -> Callable[[Callable[["Trial"], None]], Callable[["Trial"], None]]:
    """Register a row of the catalogue; ``part`` ("b", "c") for a second function of one number, ``quick`` for `make test`."""

    def register(run: Callable[["Trial"], None]) -> Callable[["Trial"], None]:
        _add(Row(number + part, number, title, expect, run, quick=quick))
        return run

    return register


def later(number: str, title: str, *, expect: str, issue: str) -> None:
    """Register a row that a later issue brings: allowed for F59–F66 only."""
    assert int(number[1:]) in LATER_MAX, f"{number} must be injected now"
    _add(Row(number, number, title, expect, None, later=issue))


def _add(one: Row) -> None:
    assert one.number in NUMBERS, one.number
    assert one.name not in ROWS, f"{one.name} is registered twice"
    ROWS[one.name] = one


def load() -> dict[str, Row]:
    """Import every module of rows that is there; return the rows in the catalogue's order."""
    for name in MODULES:
        if importlib.util.find_spec(f"tests.faults.{name}") is not None:
            importlib.import_module(f"tests.faults.{name}")
    return {name: ROWS[name] for name in sorted(ROWS, key=lambda one: (int(ROWS[one].number[1:]), one))}


def missing() -> list[str]:
    """Return the numbers of the catalogue without a row."""
    there = {one.number for one in load().values()}
    return [number for number in NUMBERS if number not in there]


# ---------------------------------------------------------------------------------------------- the world of a row


class Armed:
    """A fault of the simulated exchange in force."""

    def __init__(self, trial: "Trial", number: int, what: str) -> None:
        self.number = number
        self.what = what
        self.seen = 0
        self._trial = trial

    @property
    def fired(self) -> int:
        """How often it fired; remembered when the rule is lifted."""
        if self.number in self._trial.in_force:
            self.seen = max(self.seen, self._trial.exchange.fired(self.number))
        return self.seen

    def wait(self, count: int = 1, timeout_s: float = 40.0) -> Self:
        """Wait until it fired so often."""
        why = self._trial.tail
        until(lambda: self.fired >= count, timeout_s=timeout_s, what=f"{count} × {self.what}", why=why)
        return self

    def lift(self) -> None:
        """Lift this one alone."""
        _ = self.fired
        self._trial.in_force.pop(self.number, None)
        self._trial.exchange.ask(f"/sim/faults?id={self.number}", method="DELETE")


class Planted:
    """A patch in the daemon's process; tells of itself through its standard error."""

    def __init__(self, trial: "Trial", name: str) -> None:
        self.name = name
        self._trial = trial

    @property
    def fired(self) -> int:
        """How many of its lines there are, over all starts."""
        words = FIRED + self.name
        return sum(line == words for text in self._trial.logs() for line in text.splitlines())

    def wait(self, count: int = 1, timeout_s: float = 40.0) -> Self:
        """Wait until it fired so often."""
        until(lambda: self.fired >= count, timeout_s=timeout_s, what=f"{count} × {self.name}", why=self._trial.tail)
        return self


class Trial:
    """The world of one row: a folder, an exchange and a daemon in processes of their own, faults, clocks and counters.

    Parameters
    ----------
    folder
        Empty; removed by the caller.
    mutants
        Patches ("module:function") for every daemon of this trial: planted faults of ours that the row must notice.
    """

    def __init__(self, folder: Path, *, mutants: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.armed: list[Armed | Planted] = []
        self.in_force: dict[int, Armed] = {}
        self.unproven = 0
        """Orders that may still be uncertain at the end: their absence takes 75 s to prove."""
        self.traces = False
        """Whether a traceback in the log is expected."""
        self.strangers: set[str] = set()
        """Client ids with our prefix that the row itself placed behind the daemon's back."""
        self.gentle = False
        """End by `pause` instead of the kill switch; for rows in which nothing rests."""
        self.finished = False
        self.recover_s: float | None = None
        self._mutants = mutants
        self._patches: list[str] = []
        self._exchange: Exchange | None = None
        self._daemons: list[Daemon] = []
        self._told = 0
        self._window: list[int] = []  # ns: first and last moment in which a fault was in force
        self._hit: set[str] = set()
        self._healed: float | None = None
        self._true_at_heal: Tree = {}

    # ------------------------------------------------------------------ parts

    @property
    def exchange(self) -> Exchange:
        """The simulated exchange."""
        assert self._exchange is not None, "the row has not opened an exchange"
        return self._exchange

    @property
    def daemon(self) -> Daemon:
        """The first daemon: the one that the oracle compares."""
        assert self._daemons, "the row has not made a daemon"
        return self._daemons[0]

    @property
    def has_world(self) -> bool:
        """Say whether there is something to compare."""
        return self._exchange is not None and bool(self._daemons) and self.daemon.ledger.exists()

    def open(self, *options: object, symbols: int = 8, history_bars: int = 400) -> Exchange:
        """Start the exchange; ``options`` are command-line options of ``daemon.exchange``, added to a lively market's."""
        assert self._exchange is None, "there is one exchange in a trial"
        self._exchange = Exchange(*STRONG, *options, symbols=symbols, history_bars=history_bars)
        return self._exchange

    def make(self, name: str = "one", /, *, base: str = "", **changes: Any) -> Daemon:
        """Configure a daemon: ewma, one-second bars, eight symbols, orders in every bar. Not started."""
        changes["feed"] = {"backfill_bars": 60} | changes.get("feed", {})
        one = Daemon(self.exchange, self.folder / name, base=base, **changes)
        one.env["FAULT_FLAG"] = str(one.flag)
        patches = [*self._mutants, *self._patches]
        if patches:
            one.program = ("-m", "tests.faults.launch", ",".join(patches))
        self._daemons.append(one)
        return one

    def patch(self, target: str) -> Planted:
        """Plant a patch ("module:function") in the daemons made from now on; its name is the function's."""
        self._patches.append(target)
        planted = Planted(self, target.rpartition(":")[2])
        self.armed.append(planted)
        return planted

    def trading(self, *options: object, base: str = "", **changes: Any) -> Daemon:
        """Open the exchange (unless it is), start a daemon and wait until its first orders have arrived."""
        if self._exchange is None:
            self.open(*options)
        one = self.make(base=base, **changes).start()
        self.ready()
        self.orders(2)
        return one

    def ready(self, timeout_s: float = 60.0) -> None:
        """Wait until the daemon trades; one that halts for a fault of its own will not."""

        def trades() -> bool:
            process = self.daemon.process
            assert process is None or process.poll() is None, f"it ended by itself: {self.tail()}"
            assert "fault" not in self.status()["causes"], f"a fault halts it at its start: {self.tail()}"
            return self.daemon.readiness()[0] == 200

        until(trades, timeout_s=timeout_s, what="ready", why=lambda: f"{self.daemon.readiness()} {self.tail()}")

    def orders(self, count: int, *, since_ns: int = 0, timeout_s: float = 40.0) -> list[Tree]:
        """Wait until so many order requests have arrived; return them."""
        return until(
            lambda: sent if len(sent := self.exchange.orders_sent(since_ns)) >= count else [],
            timeout_s=timeout_s, what=f"{count} orders", why=self.tail,
        )  # fmt: skip

    # ------------------------------------------------------------------ faults

    def arm(self, match: str, action: str, **rule: Any) -> Armed:
        """Put a fault of the exchange in force (`daemon.exchange.faults`); it must fire before the row ends."""
        self._healed = None
        self._mark()
        number = self.exchange.fault(match, action, **rule)
        one = Armed(self, number, f"{action} {match}")
        self.armed.append(one)
        self.in_force[number] = one
        return one

    @contextlib.contextmanager
    def burning(self, processes: int) -> Generator[None]:
        """Keep the machine busy with so many processes that do nothing else."""
        command = [sys.executable, "-c", "while True: pass"]
        some = [subprocess.Popen(command) for _ in range(processes)]
        try:
            yield
        finally:
            for one in some:
                one.kill()
                one.wait()

    def fire(self, count: int = 1) -> None:
        """Tell that a fault happened that neither the exchange nor a patch counts: a signal, a full disk, a command."""
        self._healed = None
        self._told += count
        self._mark()

    def heal(self) -> None:
        """Lift every fault; recovery is timed from here."""
        for one in self.in_force.values():
            _ = one.fired
        self.in_force.clear()
        if self._exchange is not None:
            self._exchange.heal()
            self._mark()
            self._true_at_heal = self._exchange.truth()
        self._healed = time.monotonic()

    def recovered(self, *, state: str = "active", causes: Iterable[str] = (), timeout_s: float = HEAL_S) -> float:
        """Wait until the daemon is well again and return the seconds since `heal`.

        Parameters
        ----------
        state, causes
            The trading state expected, and causes it must name; ACTIVE also asks for /readyz. Nothing may be unresolved
            (beyond `unproven`), and every execution that the exchange knew at `heal` must be booked.
        """
        if self._healed is None:
            self.heal()
        assert self._healed is not None
        wanted = set(self.our_fills(self._true_at_heal))

        def well() -> bool:
            shown = self.status()
            if shown.get("state") != state or not set(causes) <= set(shown.get("causes", ())):
                return False
            if state == "active" and self.daemon.readiness()[0] != 200:
                return False
            return int(shown["unresolved"]) <= self.unproven and wanted <= set(ledger_fills(self.daemon.ledger))

        until(well, timeout_s=timeout_s, what=f"{state} again", why=lambda: f"{self.status()} {self.tail()}")
        self.recover_s = time.monotonic() - self._healed
        return self.recover_s

    # ------------------------------------------------------------------ what is seen

    @property
    def fired(self) -> int:
        """How often faults happened, all together."""
        return self._told + sum(one.fired for one in self.armed)

    def status(self) -> Tree:
        """Return what the daemon says of itself, or nothing while it does not answer."""
        try:
            return dict(self.daemon.api("status"))
        except (OSError, ValueError, HTTPException):
            return {"state": "", "causes": ["no answer"]}

    def wait_state(self, state: str, *causes: str, timeout_s: float = 30.0) -> None:
        """Wait for a trading state and causes."""
        until(
            lambda: (now := self.status())["state"] == state and set(causes) <= set(now["causes"]),
            timeout_s=timeout_s, what=f"{state} because of {causes}", why=lambda: f"{self.status()} {self.tail()}",
        )  # fmt: skip

    def command(self, action: str, **arguments: Any) -> Tree:
        """Send an operator's command through the API."""
        token = (self.daemon.state_dir / ("api.kill.token" if action == "kill" else "api.control.token")).read_text()
        url = f"http://{self.daemon.address}/api/v1/{action}"
        status, body = http(url, post=arguments, method="POST", token=token.strip())
        assert status in {200, 202}, (action, status, body)
        return dict(json.loads(body))

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples with these labels; 0 without any."""
        total = 0.0
        for line in self.daemon.metrics().splitlines():
            found = re.match(r"ballast_([a-z_]+)(\{[^}]*\})? (\S+)", line)
            if found is None or found[1] != name:
                continue
            if all(f'{label}="{value}"' in (found[2] or "") for label, value in labels.items()):
                total += float(found[3])
        return total

    def states(self) -> dict[str, str]:
        """Return every client id in the ledger with its state."""
        ledger = self.daemon.ledger
        if not ledger.exists() or not rows(ledger, "select name from sqlite_master where name = 'intents'"):
            return {}
        return dict(rows(ledger, "select client_id, state from intents"))

    def caught(self, since_ns: int = 0) -> list[str]:
        """Return the client ids of order requests that met a fault, in order of arrival."""
        return [one["client_id"] for one in self.exchange.orders_sent(since_ns) if one["fault"]]

    def open_orders(self) -> list[Tree]:
        """Return our orders that the exchange holds open."""
        ours = [one for one in self.exchange.truth()["orders"] if one["client_id"].startswith(self.prefix)]
        return [one for one in ours if one["status"] not in FINAL and one["client_id"] not in self.strangers]

    def our_fills(self, truth: Tree) -> list[Any]:
        """Return the exchange's executions of our orders."""
        return [one for one in true_fills(truth) if one[2].startswith(self.prefix)]

    @property
    def prefix(self) -> str:
        """What our client ids begin with."""
        return client_prefix("main")

    def logs(self) -> list[str]:
        """Return the logs of every start of every daemon."""
        return [path.read_text(errors="replace") for path in sorted(self.folder.rglob("run*.log"))]

    def tail(self) -> str:
        """Return the newest lines of the first daemon's log that are worth reading."""
        if not self._daemons or not self.daemon.starts:
            return ""
        lines = [one for one in self.daemon.log() if one.get("level") != "info" or one.get("event") == "trading_state"]
        keep = [{k: v for k, v in one.items() if k not in {"timestamp", "logger", "level"}} for one in lines[-6:]]
        return " | ".join(str(one)[:300] for one in keep)

    def _mark(self) -> None:
        if self._exchange is not None:
            self._window.append(self._exchange.now_ns())

    # ------------------------------------------------------------------ the end

    def states_hit(self) -> list[str]:
        """Return the order states that the faults met (see the module)."""
        if not self.has_world or not self._window:
            return []
        history = self.history()
        spoilt = [one for one in self.exchange.requests() if one["fault"] and one["client_id"] in history]
        if spoilt:
            return sorted({_state_at(history[one["client_id"]], int(one["ns"])) for one in spoilt})
        first, last = min(self._window), max(self._window)
        return sorted(
            {
                state
                for steps in history.values()
                for (begin, state), (end, _) in zip(steps, [*steps[1:], (2**63, "")], strict=True)
                if begin <= last and end >= first and not (state in TERMINAL and begin < first)
            }
        )

    def history(self) -> dict[str, list[tuple[int, str]]]:
        """Return the states of each order in the ledger with the time (ns) each began, oldest first."""
        ledger = self.daemon.ledger
        steps: dict[str, list[tuple[int, str]]] = {
            name: [(0, "sending")] for (name,) in rows(ledger, "select client_id from intents")
        }
        for name, begin in rows(ledger, "select client_id, approved_ns from intents"):
            steps[name] = [(int(begin), "sending")]
        for name, state, begin in rows(ledger, "select client_id, state, ts_ns from order_events order by id"):
            if name in steps:
                steps[name].append((int(begin), str(state)))
        return steps

    def finish(self) -> None:
        """End trading by the switch, wait for the end of every order, stop, and compare everything."""
        self.finished = True
        if self._exchange is not None and self.in_force:
            self.heal()
        if not self.has_world:
            return
        process = self.daemon.process
        if process is not None:
            process.send_signal(signal.SIGUSR1)
            until(
                self._quiet, timeout_s=30, what="the end of every order", why=lambda: f"{self.status()} {self.tail()}"
            )
            code, _ = self.daemon.stop()
            assert code == 0, f"exit code {code}: {self.tail()}"
        Oracle(self).judge()

    def _quiet(self) -> bool:
        if "acked" in self.states().values() or not (self.gentle or self.status()["state"] == "halted"):
            return False
        return not self.open_orders()

    def close(self) -> None:
        """End every process."""
        for one in self._daemons:
            process, one.process = one.process, None
            if process is not None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
                try:
                    process.wait(15)
                except Exception:  # noqa: BLE001 (it hangs: the row has failed already)
                    process.kill()
                    process.wait()
        if self._exchange is not None:
            exchange, self._exchange = self._exchange, None
            with contextlib.suppress(AssertionError):
                exchange.close()


def _state_at(steps: list[tuple[int, str]], ns: int) -> str:
    """Return the state at a time; before the first step an order is being sent."""
    found = steps[0][1]
    for begin, state in steps:
        if begin <= ns:
            found = state
    return found


# ---------------------------------------------------------------------------------------------- the oracle


class Oracle:
    """Compares what the ledger says with what the exchange's own books and its log of requests say."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self.truth = trial.exchange.truth()
        self.ours = [
            one
            for one in self.truth["orders"]
            if one["client_id"].startswith(trial.prefix) and one["client_id"] not in trial.strangers
        ]
        self.known = trial.states()

    def duplicates(self) -> int:
        """Return how many client ids were sent or placed more than once (I1)."""
        sent = Counter(one["client_id"] for one in self._trial.exchange.orders_sent())
        placed = Counter(one["client_id"] for one in self.ours)
        return sum(1 for name in sent | placed if max(sent[name], placed[name]) > 1)

    def orphans(self) -> int:
        """Return how many orders of ours at the exchange the ledger does not know (I2, I9)."""
        return len({one["client_id"] for one in self.ours} - set(self.known))

    def judge(self) -> None:
        """I1, I2, I3, I5, I8, I9, I17, I18: raises AssertionError with what differs."""
        trial, ledger = self._trial, self._trial.daemon.ledger
        assert self.duplicates() == 0, f"I1: {self.duplicates()} orders sent or placed twice"
        assert self.orphans() == 0, f"I9: {self.orphans()} orders that the ledger does not know"
        assert self.truth["conserved"] is True, "the exchange's own books are wrong"
        mine, theirs = ledger_fills(ledger), trial.our_fills(self.truth)
        assert mine == theirs, f"I9: fills only in the ledger {_less(mine, theirs)}, only there {_less(theirs, mine)}"
        held, true = ledger_balances(ledger), true_balances(self.truth)
        assert held == true, f"I3: {sorted(set(held.items()) ^ set(true.items()))}"
        booked = {name: Decimal(filled) for name, filled in rows(ledger, "select client_id, filled from intents")}
        for one in self.ours:
            name, state = one["client_id"], self.known[one["client_id"]]
            wanted = FINAL.get(one["status"], "acked")
            assert state == wanted, f"I8, I9: {name} is {one['status']} at the exchange and {state} in the ledger"
            assert booked[name] == Decimal(one["filled"]) <= Decimal(one["qty"]), f"I5: {name} filled {booked[name]}"
        self._durable()
        there = {one["client_id"] for one in self.ours}
        rest = [state for name, state in self.known.items() if name not in there and state not in NOT_PLACED]
        assert len(rest) <= trial.unproven, f"I9: {len(rest)} orders of unknown fate: {Counter(rest)}"
        self._sinks()

    def _durable(self) -> None:
        approved = dict(rows(self._trial.daemon.ledger, "select client_id, approved_ns from intents"))
        for one in self._trial.exchange.orders_sent():
            name = one["client_id"]
            assert name in approved, f"I2: {name} was sent and lies in no ledger"

    def _sinks(self) -> None:
        trial = self._trial
        key = trial.exchange.key.encode()
        for path in [one for one in trial.folder.rglob("*") if one.is_file()]:
            content = path.read_bytes()
            assert not {one for one in (SECRET.encode(), key) if one in content}, f"I18: a secret lies in {path.name}"
        if not trial.traces:
            for text in trial.logs():
                for words in ("Traceback", "was never retrieved", "was never awaited"):
                    assert words not in text, f"I17: {words!r} in the log: {text[text.index(words) :][:600]}"


def differences(trial: Trial) -> str:
    """Return what ledger and exchange disagree on at the end of a row that failed; the newest orders may just be moving."""
    try:
        if trial.has_world:
            Oracle(trial).judge()
    except AssertionError as error:
        return f"; at the end: {str(error)[:300]}"
    except Exception:  # noqa: BLE001 (the row is red anyway)
        return "; at the end: nothing could be compared"
    return ""


def _less(some: list[Any], others: list[Any]) -> list[Any]:
    left = list(some)
    for one in others:
        if one in left:
            left.remove(one)
    return left[:3]


# ---------------------------------------------------------------------------------------------- running


def perform(one: Row, *, mutants: tuple[str, ...] = (), keep: bool = False) -> Finding:
    """Run one row in a folder of its own; never raises for what the row finds."""
    finding = Finding(one.name, one.title, later=one.later)
    if one.run is None:
        finding.ok = True
        return finding
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix=f"ballast-{one.name}-"))
    trial = Trial(folder, mutants=mutants)
    try:
        one.run(trial)
        if not trial.finished:
            trial.finish()
        finding.ok = True
    except Exception as error:  # noqa: BLE001 (whatever it is: this row is red, the others follow)
        finding.detail = "".join(traceback.format_exception_only(error)).strip()[:1500]
        finding.trace = traceback.format_exc()[-3000:]
        finding.detail += differences(trial)
    idle: list[str] = []
    with contextlib.suppress(Exception):  # what can still be counted of a row that failed
        idle = [one.what if isinstance(one, Armed) else one.name for one in trial.armed if not one.fired]
        finding.fired = trial.fired
        finding.recover_s = None if trial.recover_s is None else round(trial.recover_s, 2)
        finding.states = trial.states_hit()
    with contextlib.suppress(Exception):
        if trial.has_world:
            oracle = Oracle(trial)
            finding.duplicates, finding.orphans = oracle.duplicates(), oracle.orphans()
            finding.orders = len(oracle.ours)
            if finding.duplicates and "I1: " not in finding.detail:
                finding.detail = f"I1: {finding.duplicates} orders sent or placed twice; {finding.detail}"
    trial.close()
    if finding.ok and (not finding.fired or idle):
        finding.ok, finding.detail = False, f"not injected: {idle or 'no fault fired'}"
    finding.wall_s = round(time.monotonic() - began, 1)
    if keep and not finding.ok:
        finding.detail += f" [kept: {folder}]"
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return finding


def campaign(
    some: Iterable[Row],
    *,
    at_once: int = 2,
    mutants: tuple[str, ...] = (),
    keep: bool = False,
    tell: Callable[[Finding], None] = lambda _: None,
) -> list[Finding]:
    """Run rows, so many at once; return what came of them in the order given."""
    waiting = list(some)
    order = {one.name: place for place, one in enumerate(waiting)}
    found: list[Finding] = []
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if not waiting:
                    return
                one = waiting.pop(0)
            finding = perform(one, mutants=mutants, keep=keep)
            with lock:
                found.append(finding)
                tell(finding)

    threads = [threading.Thread(target=work) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(found, key=lambda one: order[one.name])
