"""The watchdog's own way to the venue: signed requests over the standard library's HTTP, nothing shared with the daemon.

Weight matters here, not comfort: no ccxt, no event loop, a few megabytes. Only what Binance and its likes answer under
``/api/v3`` is spoken: the time, open orders, cancel.
"""

import hashlib
import hmac
import http.client
import json
import ssl
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlencode, urlsplit

import msgspec

from daemon.edge.bans import Bans
from daemon.edge.clock import Clock
from daemon.edge.latch import KillLatch

TIMEOUT_S: Final = 2.0
"""How long a connect or an answer may take; every request here may be repeated."""
RECV_WINDOW_MS: Final = 5_000
CANCELS_AT_ONCE: Final = 10
BODY_BYTES_MAX: Final = 16 << 20
BUSY_S: Final = 5.0
"""Pause after "too many requests" without Retry-After."""
DIGITS_MAX: Final = 18
GONE: Final = -2011
CLOCK_WRONG: Final = -1021


class Setup(msgspec.Struct, frozen=True):
    """What the watchdog is told once.

    ``base_url`` ends in ``/api/v3``, ``state_dir`` holds the latch, ``bans`` are the files of the pauses asked for.
    """

    base_url: str
    key: str
    secret: str
    prefix: str
    state_dir: str
    log_level: str = "info"
    bans: tuple[str, ...] = ()


class Answer(NamedTuple):
    """HTTP status (0: none), body, and how long the venue wants quiet, seconds."""

    status: int
    body: bytes
    wait_s: float
    problem: str


class Open(msgspec.Struct, frozen=True):
    """An open order as the venue lists it."""

    symbol: str
    order_id: int = msgspec.field(name="orderId")
    client_id: str = msgspec.field(name="clientOrderId")


class Listing(NamedTuple):
    """Our open orders; what went wrong, "" when nothing did; how long to wait before asking again, seconds."""

    orders: tuple[Open, ...]
    problem: str
    wait_s: float


class Round(NamedTuple):
    """One listing and what was cancelled of it. ``left`` is -1 when the venue did not say what is open."""

    cancelled: int
    left: int
    problem: str
    wait_s: float


class Door:
    """Lists and cancels this instance's orders; each thread keeps a connection of its own. Raises nothing.

    Parameters
    ----------
    setup
        Address, keys, prefix of our client ids.
    latch
        Asked immediately before every cancel: without it nothing is cancelled.
    clock
        Ours.
    """

    def __init__(self, setup: Setup, latch: KillLatch, clock: Clock) -> None:
        self._setup, self._latch, self._clock = setup, latch, clock
        address = urlsplit(setup.base_url)
        self._host, self._port, self._path = address.hostname or "", address.port, address.path.rstrip("/")
        self._tls: ssl.SSLContext | None = None
        if address.scheme == "https":
            import certifi  # noqa: PLC0415 - plain HTTP on loopback needs none

            self._tls = ssl.create_default_context(cafile=certifi.where())
        self._bans = Bans(tuple(Path(name) for name in setup.bans), clock)
        self._local = threading.local()
        self._connections: set[http.client.HTTPConnection] = set()
        self.offset_ms = 0
        self.pool = ThreadPoolExecutor(CANCELS_AT_ONCE, thread_name_prefix="cancel")

    # ------------------------------------------------------------------ what is done

    def sync_clock(self) -> str:
        """Measure the venue's clock, which also keeps the connection warm; return what went wrong."""
        before_ns = self._clock.now_ns()
        answer = self._ask("GET", "time", {}, signed=False)
        if answer.status != 200:
            return answer.problem or f"HTTP {answer.status}"
        try:
            theirs_ms = int(json.loads(answer.body)["serverTime"])
        except (ValueError, KeyError, TypeError):
            return "broken answer"
        self.offset_ms = theirs_ms - (before_ns + self._clock.now_ns()) // 2_000_000
        return ""

    def list_open(self) -> Listing:
        """Return our open orders."""
        answer = self._ask("GET", "openOrders", {})
        if answer.status != 200:
            return Listing((), self._judge(answer), answer.wait_s)
        try:
            shown = msgspec.json.decode(answer.body, type=list[Open])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return Listing((), "broken answer", 0.0)
        return Listing(tuple(one for one in shown if one.client_id.startswith(self._setup.prefix)), "", 0.0)

    def cancel_round(self, listing: Listing | None = None) -> Round:
        """List what is open and cancel it, ten at a time; a fresh ``listing`` saves the question."""
        if listing is None or listing.problem:
            listing = self.list_open()
        if listing.problem:
            return Round(0, -1, listing.problem, listing.wait_s)
        answers = list(self.pool.map(self._cancel, listing.orders))
        problems = sorted({answer.problem for answer in answers if answer.problem})
        return Round(
            cancelled=sum(answer.status == 200 for answer in answers),
            left=len(listing.orders),
            problem=problems[0] if problems else "",
            wait_s=max((answer.wait_s for answer in answers), default=0.0),
        )

    def _cancel(self, order: Open) -> Answer:
        if not self._latch.is_set():
            return Answer(0, b"", 0.0, "the latch was lifted")
        answer = self._ask(
            "DELETE",
            "order",
            {"symbol": order.symbol, "orderId": str(order.order_id), "origClientOrderId": order.client_id},
        )
        problem = "" if answer.status == 200 or code_of(answer.body) == GONE else self._judge(answer)
        return answer._replace(problem=problem)

    def _judge(self, answer: Answer) -> str:
        """Return in a few words why an answer is none; a clock that the venue refuses is measured anew."""
        if answer.problem:
            return answer.problem
        code = code_of(answer.body)
        if code == CLOCK_WRONG:
            self.sync_clock()
        return f"HTTP {answer.status}" + (f" code {code}" if code else "")

    def close(self) -> None:
        """Let go of threads and connections; requests under way end by their timeout."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        while self._connections:
            self._connections.pop().close()

    # ------------------------------------------------------------------ HTTP

    def _ask(self, method: str, path: str, params: Mapping[str, str], *, signed: bool = True) -> Answer:
        """Make one request; a connection that had gone stale is replaced once."""
        quiet_s = self._bans.left_s()
        if quiet_s:
            return Answer(0, b"", quiet_s, "the venue wants quiet")
        reused = getattr(self._local, "connection", None) is not None
        answer = self._once(method, path, params, signed=signed)
        if not answer.status and reused:
            answer = self._once(method, path, params, signed=signed)
        return answer

    def _once(self, method: str, path: str, params: Mapping[str, str], *, signed: bool) -> Answer:
        query = urlencode(params)
        headers = {"Connection": "keep-alive"}
        if signed:
            query = self._signed(params)
            headers["X-MBX-APIKEY"] = self._setup.key
        try:
            connection = self._connection()
            connection.request(method, f"{self._path}/{path}?{query}".rstrip("?"), headers=headers)
            response = connection.getresponse()
            body = response.read(BODY_BYTES_MAX)
            if not response.isclosed() or response.will_close:
                self._drop()
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._drop()
            return Answer(0, b"", 0.0, type(error).__name__)  # its text may hold the signed address
        wait_s = 0.0
        if response.status in {418, 429}:
            text = response.headers.get("Retry-After", "")
            wait_s = float(text) if text.isascii() and text.isdigit() and len(text) <= DIGITS_MAX else BUSY_S
            self._bans.note(wait_s)
        return Answer(response.status, body, wait_s, "")

    def _signed(self, params: Mapping[str, str]) -> str:
        timestamp = self._clock.now_ns() // 1_000_000 + self.offset_ms
        query = urlencode({**params, "recvWindow": RECV_WINDOW_MS, "timestamp": timestamp})
        signature = hmac.new(self._setup.secret.encode(), query.encode(), hashlib.sha256).hexdigest()
        return f"{query}&signature={signature}"

    def _connection(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            if self._tls is not None:
                connection = http.client.HTTPSConnection(self._host, self._port, timeout=TIMEOUT_S, context=self._tls)
            else:
                connection = http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)
            self._local.connection = connection
            self._connections.add(connection)
        return connection

    def _drop(self) -> None:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        self._local.connection = None
        if connection is not None:
            self._connections.discard(connection)
            connection.close()


def code_of(body: bytes) -> int:
    """Return the venue's error code in a body, 0 when there is none."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return 0
    code = said.get("code") if isinstance(said, dict) else None
    return code if isinstance(code, int) else 0
