"""The invariants of FAULTS section 5, judged by the exchange's own books and by what was seen on the wire.

`Checks` watches every order, request, effect and chunk of bytes as it passes, and keeps what it finds; `final` compares
everything once the world has healed. Nothing here asks the daemon what it believes where the exchange or the wire knows.
"""

import contextlib
import re
import sqlite3
from collections import Counter, defaultdict
from decimal import Decimal
from typing import Any, Final

from daemon.core.planner import client_prefix
from daemon.domain.events import Booked, Effect, Recorded, StateChanged, Submit, TradingState
from daemon.domain.market import NS_PER_S
from daemon.domain.orders import TERMINAL, Fill, Intent, OrderState, Side
from daemon.exchange.desk import Report
from tests.sim.loop import NS
from tests.sim.net import Pipe
from tests.sim.world import SYMBOLS, Life, World

ZERO: Final = Decimal(0)
MAX_WEIGHT: Final = Decimal("0.34")
DRIFT: Final = Decimal("1.03")
"""I4's allowance: prices move between the plan and a late arrival at the exchange."""
MAX_AGE_NS: Final = 3 * NS_PER_S
EXIT_AGE_NS: Final = 10 * NS_PER_S
TTL_NS: Final = 2 * NS_PER_S
SLACK_NS: Final = 300_000_000
KILL_GRACE_NS: Final = 10_000_000
CANCEL_NS: Final = 5 * NS_PER_S
FOUND_MAX: Final = 40
DISPROVABLE: Final = frozenset({OrderState.NEVER_PLACED, OrderState.DENIED, OrderState.REJECTED})
READ_NS: Final = 1_000_000
"""An answer that has arrived is not yet read: what leaves in the same instant was under way before anybody knew."""
BUSY: Final = re.compile(rb"^HTTP/1\.1 (429|418) .*?\r\nRetry-After: (\d+)\r\n", re.DOTALL | re.IGNORECASE)
ASKED: Final = re.compile(rb"^GET /api/v3/aggTrades\?\S*?symbol=([A-Z0-9]+)")
REQUEST: Final = re.compile(rb"^(GET|POST|DELETE) (/(?:api|sapi)/\S*?)[ ?]")


class Checks:
    """Watches one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.found: list[str] = []
        self.prefix = client_prefix("main")
        self.placed: Counter[str] = Counter()
        self.submitted: dict[str, tuple[Intent, int]] = {}
        self.ended: dict[str, OrderState] = {}
        self.booked: defaultdict[str, Decimal] = defaultdict(lambda: ZERO)
        self.fills: set[tuple[str, str]] = set()
        self.heard_ns: dict[str, int] = {}
        self.confirmed_ns: dict[str, int] = {}
        """When REST's word on a symbol's newest trades arrived, by symbol."""
        self._answered_ns: dict[str, int] = {}
        self._asking: dict[int, tuple[str, int]] = {}
        self.quiet_from_ns = self.quiet_until_ns = 0
        self.killed_ns: int | None = None
        self.halted_ns: int | None = None
        self.epochs: list[int] = []
        self.sends = 0
        self.sloppy_limits = False
        """Whether money came or went from outside, so that shares of equity are not comparable."""
        self._known: set[str] = set()
        self._reader: sqlite3.Connection | None = None
        world.births.append(self._attach)
        world.exchange.venue.desk.reports.append(self._on_report)
        world.network.readers.append(self._on_arrival)
        world.network.writers.append(self._on_departure)
        dispatcher: Any = world.exchange._dispatcher
        self._record = dispatcher.record
        dispatcher.record = self._on_request

    def fail(self, invariant: str, detail: str) -> None:
        """Keep a violation."""
        if len(self.found) < FOUND_MAX:
            self.found.append(f"{invariant} at {self.world.passed_s():.3f} s: {detail}")

    # ------------------------------------------------------------------ the daemon's own words

    def _attach(self, life: Life) -> None:
        self.close()
        self.halted_ns = self.world.loop.now_ns
        self._recall()
        life.service.watch_also(self._on_effect)
        metrics: Any = life.service.metrics
        told = metrics.order_sent

        def sent(client_id: str, ts_ns: int) -> None:
            told(client_id, ts_ns)
            self._on_send(life, client_id)

        metrics.order_sent = sent

    def _recall(self) -> None:
        """Start from what is durable, as the new life does: what the last one had not written never happened."""
        self.fills.clear()
        self.booked.clear()
        self.ended.clear()
        if not (self.world.folder / "var" / "live" / "ballast.db").exists():
            return
        with contextlib.closing(self._open()) as ledger:
            tables = {name for (name,) in ledger.execute("select name from sqlite_master where type = 'table'")}
            if not {"fills", "intents"} <= tables:
                return
            for symbol, trade, client_id, qty in ledger.execute("select symbol, trade_id, client_id, qty from fills"):
                self.fills.add((symbol, trade))
                self.booked[client_id] += Decimal(qty)
            for client_id, state, stated in ledger.execute("select client_id, state, filled from intents"):
                # Short of executions, an order is looked up again, whatever its end was: its exposure counts meanwhile.
                if OrderState(state) in TERMINAL and self.booked[client_id] >= Decimal(stated or 0):
                    self.ended[client_id] = OrderState(state)

    def _on_effect(self, effect: Effect) -> None:
        now = self.world.loop.now_ns
        match effect:
            case Submit():
                for one in effect.approved:
                    if one.intent.client_id in self.submitted:
                        self.fail("I1", f"intent {one.intent.client_id} was submitted twice")
                    self.submitted[one.intent.client_id] = (one.intent, now)
            case StateChanged():
                self.halted_ns = now if effect.state is TradingState.HALTED else None
            case Recorded(update=update):
                if update.state in {OrderState.REJECTED, OrderState.NEVER_PLACED} and self.placed[update.client_id]:
                    self.fail("I8", f"{update.client_id} is called {update.state} and the exchange has it")
                before = self.ended.get(update.client_id)
                if update.state in TERMINAL:
                    self.ended[update.client_id] = update.state
                elif before is not None and before not in DISPROVABLE:
                    self.fail("I8", f"order {update.client_id} went from {before} to {update.state}")
            case Booked(fill=Fill() as fill):
                self._on_fill(fill)
            case _:
                pass

    def _on_fill(self, fill: Fill) -> None:
        key = (fill.symbol, fill.trade_id)
        if key in self.fills:
            self.fail("I3", f"trade {key} was booked twice")
        self.fills.add(key)
        self.booked[fill.client_id] += fill.qty
        intent = self.submitted.get(fill.client_id)
        if intent is not None and self.booked[fill.client_id] > intent[0].qty:
            self.fail("I5", f"{self.booked[fill.client_id]} filled of {intent[0].qty} in {fill.client_id}")

    def _on_send(self, life: Life, client_id: str) -> None:
        """Judge an order whose first byte is about to leave."""
        self.sends += 1
        now = self.world.loop.now_ns
        intent, since = self.submitted.get(client_id, (None, 0))
        if intent is None:
            self.fail("I2", f"{client_id} leaves without a Submit")
            return
        if now - since > TTL_NS + SLACK_NS:
            self.fail("I6", f"{client_id} leaves {(now - since) / NS:.2f} s after it was approved")
        heard = max(self.heard_ns.get(intent.symbol, -(10**18)), self.confirmed_ns.get(intent.symbol, -(10**18)))
        limit = (EXIT_AGE_NS if intent.exit else MAX_AGE_NS) + SLACK_NS
        if now - heard > limit + (now - since):
            self.fail(
                "I6", f"{client_id} ({intent.side} {intent.symbol}) leaves on data {(now - heard) / NS:.1f} s old"
            )
        if self.halted_ns is not None and now - self.halted_ns > TTL_NS:
            self.fail("I12", f"{client_id} leaves {(now - self.halted_ns) / NS:.2f} s after HALTED")
        if self.killed_ns is not None and now - self.killed_ns > KILL_GRACE_NS:
            self.fail("I7", f"{client_id} leaves {(now - self.killed_ns) / NS:.3f} s after the kill")
        state = life.engine.state
        if state.trading is TradingState.REDUCING and intent.side is Side.BUY and now - since < 1_000_000:
            self.fail("I12", f"{client_id} buys in REDUCING {state.causes.names}")

    # ------------------------------------------------------------------ the wire

    def _on_arrival(self, pipe: Pipe, data: bytes, now: int) -> None:
        if pipe.side == "world":
            return
        if pipe.kind == "ws":
            for symbol in SYMBOLS:
                if symbol.replace("/", "").encode() in data:
                    self.heard_ns[symbol] = now
            return
        symbol, asked_ns = self._asking.pop(id(pipe), ("", 0))
        if symbol and data.startswith(b"HTTP/1.1 200") and self._answered_ns.get(symbol, -1) >= asked_ns:
            self.confirmed_ns.update({known: now for known in SYMBOLS if known.replace("/", "") == symbol})
        busy = BUSY.match(data)
        if busy is not None:
            if now >= self.quiet_until_ns:
                self.quiet_from_ns = now + READ_NS
            self.quiet_until_ns = max(self.quiet_until_ns, now + int(busy[2]) * NS)

    def _on_departure(self, pipe: Pipe, data: bytes, now: int) -> None:
        request = REQUEST.match(data)
        if pipe.side == "world" or request is None:
            return
        asked = ASKED.match(data)
        if asked is not None:
            self._asking[id(pipe)] = (asked[1].decode(), now)
        if self.quiet_from_ns <= now < self.quiet_until_ns - 1_000_000:
            left_s = (self.quiet_until_ns - now) / NS
            self.fail("I11", f"{request[1].decode()} {request[2].decode()} leaves {left_s:.1f} s inside a Retry-After")

    # ------------------------------------------------------------------ the exchange's own books

    def _on_request(self, incoming: Any) -> Any:
        seen = self._record(incoming)
        now = self.world.loop.now_ns
        self.world.note("request", seen.method, seen.path, seen.client_id)
        if seen.method == "POST" and seen.path == "/api/v3/order" and seen.client_id not in self._known:
            self._known.add(seen.client_id)
            if not self._durable(seen.client_id):
                self.fail("I2", f"{seen.client_id} reached the exchange and is not in the ledger")
        if seen.path == "/api/v3/aggTrades":
            self._answered_ns[seen.symbol] = now
        return seen

    def _durable(self, client_id: str) -> bool:
        if self._reader is None:
            self._reader = self._open()
        return self._reader.execute("select 1 from intents where client_id = ?", (client_id,)).fetchone() is not None

    def _open(self) -> sqlite3.Connection:
        file = self.world.folder / "var" / "live" / "ballast.db"
        return sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=5.0)

    def _on_report(self, report: Report) -> None:
        order = report.order
        self.world.note("report", report.kind, order.client_id, order.status, str(order.filled))
        if order.external or report.kind != "NEW":
            return
        self.placed[order.client_id] += 1
        if self.placed[order.client_id] > 1:
            self.fail("I1", f"{order.client_id} is {self.placed[order.client_id]} orders at the exchange")
        if order.side == "BUY" and not self.sloppy_limits:
            self._exposure(order)

    def _exposure(self, order: Any) -> None:
        """I4: what this asset would weigh if every open buy of ours filled and no sell did."""
        books, venue = self.world.exchange.books, self.world.exchange.venue
        spec = venue.desk.specs[order.index]
        worst = held = ZERO
        for asset, balance in books.balances.items():
            amount = balance.free + balance.locked
            place = venue.market.index.get(asset + "USDT")
            last = venue.market.last[place] if place is not None else None
            price = last.price * venue.desk.specs[place].tick if place is not None and last is not None else Decimal(1)
            held += amount * price
            if asset == spec.base:
                worst = amount * price
        waiting = sum(
            (
                one.left * one.price
                for one in books.orders
                if one.is_open and not one.external and one.side == "BUY" and one.index == order.index
            ),
            ZERO,
        )
        if worst + waiting > MAX_WEIGHT * held * DRIFT:
            share = float((worst + waiting) / held)
            self.fail("I4", f"{order.client_id}: {spec.base} may come to {share:.3f} of the account")

    # ------------------------------------------------------------------ at the end

    def close(self) -> None:
        """Let go of the ledger."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def truth(self) -> dict[str, Decimal]:
        """Return what the exchange's books hold."""
        held = {asset: one.free + one.locked for asset, one in self.world.exchange.books.balances.items()}
        return {asset: amount for asset, amount in held.items() if amount}

    def ledger(self) -> dict[str, Decimal]:
        """Add up the ledger's rows: flows, fills and fees."""
        total: defaultdict[str, Decimal] = defaultdict(lambda: ZERO)
        with contextlib.closing(self._open()) as ledger:
            for asset, amount in ledger.execute("select asset, amount from flows"):
                total[asset] += Decimal(amount)
            rows = ledger.execute("select symbol, side, qty, price, fee, fee_asset from fills").fetchall()
        for symbol, side, qty, price, fee, fee_asset in rows:
            base, quote = symbol.split("/")
            sign = 1 if side == "buy" else -1
            total[base] += sign * Decimal(qty)
            total[quote] -= sign * Decimal(qty) * Decimal(price)
            total[fee_asset] -= Decimal(fee)
        return {asset: amount for asset, amount in total.items() if amount}

    def final(self) -> None:
        """Compare ledger and exchange: assets, orders, executions (I3, I9), and what was left behind (I15, I17)."""
        self.close()
        books = self.world.exchange.books
        if not books.conserved():
            self.fail("I3", "the exchange's own books are wrong")
        ours, theirs = self.ledger(), self.truth()
        for asset in sorted({*ours, *theirs}):
            if ours.get(asset, ZERO) != theirs.get(asset, ZERO):
                self.fail("I3", f"{asset}: ledger {ours.get(asset, ZERO)}, exchange {theirs.get(asset, ZERO)}")
        with contextlib.closing(self._open()) as ledger:
            intents = dict(ledger.execute("select client_id, state from intents").fetchall())
            booked = {(s, t) for s, t in ledger.execute("select symbol, trade_id from fills")}
        orders = {order.client_id: order for order in books.orders if not order.external}
        traded = {(f.base + "/" + f.quote, str(f.trade_id)) for f in books.fills if f.client_id in orders}
        for client_id in sorted(orders.keys() - intents.keys()):
            self.fail("I9", f"orphan: {client_id} is at the exchange and not in the ledger")
        for client_id, order in sorted(orders.items()):
            state = intents.get(client_id, "")
            if state in {"never_placed", "denied", "rejected"}:
                self.fail("I8", f"{client_id} is {order.status} at the exchange and {state} in the ledger")
            if order.is_open:
                self.fail("I9", f"{client_id} is still {order.status} at the exchange, {state} in the ledger")
        for client_id, state in sorted(intents.items()):
            if OrderState(state) not in TERMINAL:
                self.fail("I9", f"{client_id} is still {state} in the ledger")
        for key in sorted(traded ^ booked):
            self.fail("I9", f"execution {key} is {'only at the exchange' if key in traded else 'only in the ledger'}")
        for trouble in self.world.troubles:
            self.fail("I17", trouble)
