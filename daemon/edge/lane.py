"""A lane to the venue: one ccxt exchange with its own session, which keeps every reply and guards every departure.

ccxt signs after its rate limiter's queue, maps answers to exceptions that prove nothing, and keeps the last reply per
instance, where concurrent requests overwrite each other. So a lane takes each request's own reply from ccxt's hook,
and asks the guard of an order at the last moment: connected, signed, queued, and nothing else may run before the first byte.
"""

import asyncio
import functools
import logging
import math
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final

import aiohttp
import certifi
import msgspec
from aiohttp.client_proto import ResponseHandler

from daemon.domain.errors import VenueBusy
from daemon.edge import crash
from daemon.edge.bans import Bans
from daemon.edge.budget import Budget
from daemon.edge.clock import Clock
from daemon.edge.outcomes import BACK_OFF_S, BAN_S, HIDDEN, Reply, redact, retry_after_s, whole
from daemon.edge.turns import Turns

CONNECTIONS_MAX: Final = 100
"""Connections of one lane; an order beyond them waits, and its age is checked when it gets one."""
IDLE_S: Final = 55.0
"""How long an unused connection is kept; below the idle limit of the venue's load balancers."""

BACKING_OFF: Final = "backing_off"
"""Why a request did not leave: the venue wants quiet."""

OnRequest = Callable[[str, str, int], None]
"""Told (endpoint, outcome, request weight used in this minute) after every request; both words from small sets."""

Guard = Callable[[], str]
"""Returns why a request must not leave, "" when it may."""

BOUNDARIES: Final = frozenset({"order.place", "order.cancel"})
"""Requests that change what the venue holds: crash points lie around them."""


class Answer(msgspec.Struct, frozen=True):
    """What became of one request. ``left`` is false when it is certain that no byte of it was sent; ``error`` is redacted."""

    reply: Reply
    left: bool
    refused: str
    error: str


class NotSentError(Exception):
    """The guard stopped a request before its first byte."""


BUSY: Final = frozenset({418, 429})
"""HTTP statuses by which a venue says that it wants quiet."""


class _Call:
    """One request on its way."""

    __slots__ = ("boundary", "guard", "left", "over", "reply", "turns")

    def __init__(self, endpoint: str, guard: Guard | None, turns: Turns | None) -> None:
        self.boundary = endpoint if endpoint in BOUNDARIES else ""
        self.guard = guard
        self.left = False
        self.over = False
        self.reply = Reply()
        self.turns = turns


_CALL: ContextVar[_Call | None] = ContextVar("ballast_call", default=None)


class _GuardedRequest(aiohttp.ClientRequest):
    """Asks the request's guard immediately before its first byte is written.

    A request with a body is written by a task of its own, which may have to wait for the loop: so the question is asked
    there, and nothing is awaited between the answer and the byte.
    """

    async def send(self, conn: Any) -> aiohttp.ClientResponse:
        if self.body:
            return await super().send(conn)
        reason = _stopped()
        if reason:
            conn.release()
            raise NotSentError(reason)
        response = await super().send(conn)
        _written()
        return response

    async def write_bytes(self, writer: Any, conn: Any, content_length: int | None = None) -> None:
        reason = _stopped() if self.body else ""
        if reason:
            conn.protocol.set_exception(NotSentError(reason))  # whoever waits for the answer gets this instead
            return
        await super().write_bytes(writer, conn, content_length)
        _written()


def _stopped() -> str:
    """Return why the request under way must not leave; "" when it does, now."""
    call = _CALL.get()
    if call is None:
        return ""
    if call.over:
        return "given up"
    reason = call.guard() if call.guard is not None else ""
    if not reason:
        call.left = True
        if call.boundary:
            crash.point(f"{call.boundary}.before")
    return reason


def _written() -> None:
    """Pass a crash point once the last byte of a request is with the kernel; used by tests that kill there only."""
    call = _CALL.get()
    if call is not None and call.boundary:
        crash.point(f"{call.boundary}.sent")


class _PatientResponse(aiohttp.ClientResponse):
    """Lets the answer to an order wait until the orders behind it have left."""

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        await super().start(connection)
        call = _CALL.get()
        if call is not None and call.turns is not None:
            await call.turns.turn()
        return self


class _Listener(ResponseHandler):
    """Hears that the venue wants quiet as soon as an answer's head is read (F9).

    Whoever asked may have given up by then: after a pause of the loop its timeout and the answer come together (F52), and of an
    answer that breaks off nobody is told.
    """

    def __init__(self, quota: "Quota", loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._quota = quota

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Take the head of an answer, with the stream of its body."""
        head = data[0]
        if head.code in BUSY:
            self._quota.hear(head.code, head.headers)
        super().feed_data(data, size)


class _Connector(aiohttp.TCPConnector):
    """Makes connections that listen.

    aiohttp has no public way to name their protocol; should its own be renamed, only whole answers are obeyed, and a test
    notices.
    """

    def __init__(self, quota: "Quota", **options: Any) -> None:
        super().__init__(**options)
        listening: Any = functools.partial(_Listener, quota, asyncio.get_running_loop())
        self._factory = listening


@functools.cache
def tls_context() -> ssl.SSLContext:
    """Return the one context of all lanes; making one takes 50 ms."""
    return ssl.create_default_context(cafile=certifi.where())


class Quota:
    """The venue's patience, shared by all lanes: no request leaves before a ban or Retry-After has passed.

    With ``bans`` a pause outlives the process, and one that another process was told of holds here too. Who has not more
    than ``patience_s`` (a command that somebody waits for) is told at once.
    """

    def __init__(self, clock: Clock, bans: Bans | None = None, *, patience_s: float = math.inf) -> None:
        self._clock = clock
        self._bans = bans
        self._patience_s = patience_s
        self._until_ns = 0
        self.budget = Budget(clock)
        self.refusals = 0

    @property
    def weight_used(self) -> int:
        """Return the request weight used in the minute that runs."""
        return self.budget.used

    @property
    def wait_s(self) -> float:
        """Return how many seconds are left of the pause the venue asked for."""
        own_s = max(self._until_ns - self._clock.mono_ns(), 0) / 1e9
        return own_s if self._bans is None else max(own_s, self._bans.left_s())

    def see(self, reply: Reply) -> None:
        """Read an answer's status and headers."""
        for name, value in reply.headers.items():
            if name.lower() == "x-mbx-used-weight-1m" and (used := whole(value)) >= 0:
                self.budget.see(used)
        if reply.status in BUSY:
            self.refusals += 1
            self.hear(reply.status, reply.headers)
        elif firewalled(reply):
            self.pause(retry_after_s(reply.headers, default=BACK_OFF_S))

    def hear(self, status: int, headers: Mapping[str, str]) -> None:
        """Take a venue's word that it wants quiet: 418 or 429, for as long as it says."""
        self.pause(retry_after_s(headers, default=BAN_S if status == 418 else BACK_OFF_S))

    def pause(self, seconds: float) -> None:
        """Let nothing leave for so long; a longer pause in force stays."""
        self._until_ns = max(self._until_ns, self._clock.mono_ns() + int(seconds * 1e9))
        if self._bans is not None:
            self._bans.note(seconds)

    async def wait(self) -> None:
        """Wait until requests may leave again. Raises VenueBusy when that takes longer than our patience."""
        while (left := self.wait_s) > 0:
            if left > self._patience_s:
                said = "the exchange has told us to send nothing"
                raise VenueBusy(f"{said} for another {math.ceil(left)} s", retry_after_s=left)
            await asyncio.sleep(left)


class Lane:
    """One ccxt exchange of its own.

    Parameters
    ----------
    exchange
        A ccxt async exchange that nobody else uses.
    quota
        Shared by the lanes of one account.
    secrets
        Texts that must not appear in any error: key and secret.
    on_request
        Told about every request, for metrics.
    """

    def __init__(
        self, exchange: Any, *, quota: Quota, secrets: tuple[str, ...] = (), on_request: OnRequest | None = None
    ) -> None:
        self.exchange = exchange
        self.quota = quota
        self._secrets = secrets
        self._on_request = on_request
        self.turns: Turns | None = None
        """Where answers to orders wait for their turn; None: they do not."""
        exchange.logger.setLevel(logging.INFO)  # its debug lines print the API key
        exchange.on_rest_response = self._on_response
        exchange.verbose = False
        # ccxt repeats failed POSTs when asked to: never for orders.
        exchange.options["maxRetriesOnFailure"] = 0
        exchange.options["warnOnFetchOpenOrdersWithoutSymbol"] = False
        exchange.options["fetchOpenOrders"] = {
            **exchange.options.get("fetchOpenOrders", {}),
            "warnWithoutSymbol": False,
        }

    def open(self) -> None:
        """Make the session; to be called inside the running loop."""
        if self.exchange.session is None:
            context = tls_context()
            connector = _Connector(
                self.quota, ssl=context, limit=CONNECTIONS_MAX, keepalive_timeout=IDLE_S, family=socket.AF_UNSPEC
            )
            self.exchange.ssl_context = context
            self.exchange.tcp_connector = connector
            self.exchange.session = aiohttp.ClientSession(
                connector=connector, request_class=_GuardedRequest, response_class=_PatientResponse
            )
            self.exchange.open()

    async def call(
        self, endpoint: str, request: Callable[[], Awaitable[object]], *, guard: Guard | None = None
    ) -> Answer:
        """Make one request and return what arrived; raises nothing but cancellation."""
        call = _Call(endpoint, guard, self.turns if endpoint == "order.place" else None)
        token = _CALL.set(call)
        error = ""
        refused = ""
        try:
            await request()
        except NotSentError as stopped:
            refused = str(stopped)
        except Exception as failure:  # noqa: BLE001 (ccxt raises bare ones too; the reply decides, not the class)
            error = redact(f"{type(failure).__name__}: {failure}".splitlines()[0][:300], *self._secrets)
        finally:
            call.over = True  # what was not written by now never will be
            _CALL.reset(token)
        if call.boundary and call.left:
            crash.point(f"{call.boundary}.answered")
        self.quota.see(call.reply)
        if self._on_request is not None:
            self._on_request(endpoint, outcome_of(call.reply, refused), self.quota.weight_used)
        return Answer(reply=call.reply, left=call.left, refused=refused, error=error)

    async def ask(self, endpoint: str, request: Callable[[], Awaitable[object]]) -> Answer:
        """Make one request that may wait: for the end of a ban, and again when one began while it stood in ccxt's queue.

        Raises VenueBusy when the ban is longer than the quota's patience.
        """
        while True:
            await self.quota.wait()
            answer = await self.call(endpoint, request, guard=self._quiet)
            if answer.refused != BACKING_OFF:
                return answer

    def _quiet(self) -> str:
        return BACKING_OFF if self.quota.wait_s > 0 else ""

    async def close(self) -> None:
        """Close the session."""
        session, self.exchange.session = self.exchange.session, None
        self.exchange.tcp_connector = None
        self.exchange.closed_by_user = True
        if session is not None:
            await session.close()

    def _on_response(
        self,
        code: int,
        _reason: str,
        _url: str,
        _method: str,
        headers: Mapping[str, str],
        body: str,
        _request_headers: object,
        _request_body: object,
    ) -> str:
        for secret in self._secrets:  # an answer that repeats what we sent must not travel on: errors quote from it
            if secret and secret in body:
                body = body.replace(secret, HIDDEN)
        call = _CALL.get()
        if call is not None:
            call.reply = Reply(status=code, body=body, headers=dict(headers))
        return body.strip()


def firewalled(reply: Reply) -> bool:
    """Say whether a page of a web firewall came instead of the venue's own answer (F10): it wants quiet, as 429 does."""
    return reply.status == 403 and not reply.body.lstrip().startswith("{")


def outcome_of(reply: Reply, refused: str) -> str:
    """Return one word for what became of a request: ok, refused, busy, error, no_answer or not_sent."""
    if refused:
        return "not_sent"
    if reply.status in BUSY:
        return "busy"
    if reply.status >= 500 or not reply.status:
        return "error" if reply.status else "no_answer"
    return "ok" if reply.status < 400 else "refused"
