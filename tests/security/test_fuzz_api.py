"""F67: the API under random requests: every answer is a success or the caller's fault, and only tokens command."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from daemon.domain.events import Action
from daemon.outlets.api import LATCH_FILE, make_app
from daemon.outlets.listener import BODY_BYTES_MAX, App, Guard, Tokens
from tests.outlets.test_api import Shown, running

TOKENS = {scope: scope[0] * 40 for scope in ("read", "control", "kill")}
KNOWN = (
    "/", "/healthz", "/readyz", "/api/docs", "/api/openapi.json", "/metrics",
    *(f"/api/v1/{name}" for name in (
        "status", "positions", "orders", "fills", "decisions", "decisions/x", "equity", "risk", "config", "bars/BTC-USDT",
        "forecasts", "models", "stream", "pause", "resume", "reduce-only", "flatten", "kill", "reload",
    )),
)  # fmt: skip
METHODS = st.sampled_from(
    ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "BREW", "get", "é")
)
TAILS = st.sampled_from(
    ("", "/", "//", "/../kill", "%2f", "%00", "%ff", "/%F0%9F%92%A9", "/" + "a" * 5_000, ";x", "/٣")
) | st.text(max_size=12)
QUERIES = st.sampled_from(
    (b"", b"limit=0", b"limit=1", b"limit=-1", b"limit=%C2%B2", b"limit=" + b"9" * 5_000, b"limit=&limit=2", b"\xff=%")
)
HOSTS = st.sampled_from(
    (b"127.0.0.1:1", b"localhost", b"[::1]:80", b"127.0.0.1:99999", b"evil.example", b"", b"[", b"\xff", b"127.0.0.1:x")
)
AUTHS = st.sampled_from(
    (
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer \xff\xfe",
        b"Basic eDp5",
        *(f"Bearer {one}".encode() for one in TOKENS.values()),
    )
)
LENGTHS = st.sampled_from((None, b"0", b"10", b"-1", b"\xb2", b"9" * 5_000, b"65537", b"1e3", b""))
EXTRA = st.lists(st.tuples(st.binary(min_size=1, max_size=10), st.binary(max_size=30)), max_size=2).map(tuple)
BODIES = st.sampled_from((b"", b"{}", b"[" * 3_000, b"\xff\xfe", b"x" * (BODY_BYTES_MAX + 1))) | st.binary(max_size=60)


class Site:
    """The guarded application, called as uvicorn calls it."""

    def __init__(self, folder: Path) -> None:
        self.commands: list[Action] = []
        self.latch = folder / LATCH_FILE
        app = make_app(Shown(), self._submit, latch=self.latch)
        self._guard = Guard(cast("App", app), Tokens(TOKENS, read_configured=False), loopback=True)

    def _submit(self, action: Action, _source: str) -> str:
        self.commands.append(action)
        return "id"

    async def ask(
        self, method: str, path: str, *, query: bytes, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> int:
        """Return the status; an exception that leaves the application is a failure of the test."""
        raw = path.encode("utf-8", "surrogatepass")
        scope: dict[str, Any] = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": unquote(path), "raw_path": raw, "query_string": query, "root_path": "", "headers": headers,
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 1),
        }  # fmt: skip
        halves = [body[: len(body) // 2], body[len(body) // 2 :]]
        status: list[int] = []

        async def receive() -> dict[str, Any]:
            part = halves.pop(0) if halves else b""
            return {"type": "http.request", "body": part, "more_body": bool(halves)}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                status.append(int(message["status"]))

        await self._guard(scope, receive, send)
        return status[0]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """One application for all requests."""
    return Site(tmp_path_factory.mktemp("api"))


@pytest.fixture(scope="module")
def call() -> Iterator[Callable[[Any], int]]:
    """Run a request on one loop."""
    with asyncio.Runner() as runner:
        yield runner.run
    asyncio.set_event_loop(None)


class Request(NamedTuple):
    """One request, part by part."""

    method: str = "GET"
    path: str = "/api/v1/status"
    tail: str = ""
    query: bytes = b""
    host: bytes = b"127.0.0.1:1"
    auth: bytes = b""
    length: bytes | None = None
    extra: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return them as they arrive."""
        length = [(b"content-length", self.length)] if self.length is not None else []
        return [(b"host", self.host), (b"authorization", self.auth), *self.extra, *length]


REQUESTS = st.builds(
    Request, METHODS, st.sampled_from(KNOWN), TAILS, QUERIES, HOSTS, AUTHS, LENGTHS, EXTRA, BODIES
)  # fmt: skip


@given(REQUESTS)
@example(Request("POST", "/api/v1/pause", length=b"\xb2"))
@example(Request(tail="/", host=b"127.0.0.1:99999"))
@example(Request(tail="/", query=b"\xff"))
@settings(max_examples=1_000)
def test_any_request_is_answered(site: Site, call: Callable[[Any], int], one: Request) -> None:
    """2xx, 3xx or 4xx; a command is taken only with its own scope's token, a large body never."""
    before = len(site.commands)
    status = call(site.ask(one.method, one.path + one.tail, query=one.query, headers=one.headers, body=one.body))

    assert 200 <= status < 500, status
    if one.host == b"evil.example":
        assert status == 421
    if len(site.commands) > before:
        kill = site.commands[-1] is Action.KILL
        assert one.auth == f"Bearer {TOKENS['kill' if kill else 'control']}".encode()
        assert one.method == "POST"
        assert status == 202
        assert len(one.body) <= BODY_BYTES_MAX


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00\xff\xfe\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /api/v1/status HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: \xb2\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"POST /api/v1/kill HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /\xf0\x9f\x92\xa9 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: y\r\n" * 5_000 + b"\r\n",
    ],
)
async def test_bytes_that_are_no_request(raw: bytes, tmp_path: Path) -> None:
    """Through the real server: refused, cut or borne, never an error of ours; the next request is served."""
    async with running(tmp_path) as (client, daemon):
        answer = await asyncio.to_thread(exchange, int(client.base_url.port or 0), raw)
        served = (await client.get("/healthz")).status_code

    assert not answer or answer.split(b" ", 2)[1][:1] in {b"2", b"4"}, answer[:100]
    assert served == 200
    assert daemon.commands == []


def exchange(port: int, raw: bytes) -> bytes:
    """Send bytes and read until the peer has said something or closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        try:
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(4_096)
        except (ConnectionError, TimeoutError):
            return b""
