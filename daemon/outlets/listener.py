"""One small HTTP listener inside the daemon's loop: binding, tokens, and the guard in front of every application.

The guard is plain ASGI: host check (a web page must not reach a loopback service by DNS rebinding), bearer tokens by
scope compared in constant time, a rate for each client (F67), and a bound on the request's body.
"""

import asyncio
import contextlib
import hmac
import json
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Generator, Mapping, MutableMapping
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import uvicorn

from daemon.domain.errors import ConfigError
from daemon.outlets import logs
from daemon.outlets.rates import Rates
from daemon.settings_values import is_loopback, split_listen

BODY_BYTES_MAX: Final = 64 * 1024
DIGITS_MAX: Final = 18
"""Longest number that is read from a header."""
CONNECTIONS_MAX: Final = 100
STOP_TIMEOUT_S: Final = 2
TOKEN_CHARS_MIN: Final = 32
SCOPES: Final = ("read", "control", "kill")
OPEN_PATHS: Final = frozenset({"/healthz", "/readyz"})

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Tokens:
    """The bearer token of each scope, and whether reads on loopback need theirs.

    A control token may also read; a kill token may kill and nothing else.
    """

    def __init__(self, tokens: Mapping[str, str], *, read_configured: bool) -> None:
        self._tokens = {scope: tokens[scope].encode() for scope in SCOPES}
        self.read_configured = read_configured
        logs.register_secrets(tokens.values())

    def allows(self, scope: str, token: str) -> bool:
        """Return whether the token opens the scope; takes the same time whatever the token."""
        given = token.encode(errors="replace")
        wanted = ("read", "control") if scope == "read" else (scope,)
        return sum(hmac.compare_digest(given, self._tokens[name]) for name in wanted) > 0

    def owner(self, token: str) -> str:
        """Return the scope whose token this is, "" for none; takes the same time whatever the token."""
        given = token.encode(errors="replace")
        return "".join(name for name, value in self._tokens.items() if hmac.compare_digest(given, value))


def make_tokens(state_path: Path, files: Mapping[str, str], *, keep: bool = True) -> Tokens:
    """Return the tokens from their configured files, or fresh random ones written to ``<state_dir>/api.<scope>.token``.

    Without ``keep`` random ones are written nowhere: the files are another daemon's.

    Raises
    ------
    ConfigError
        If a configured file cannot be read or holds fewer than 32 characters, or the state folder is not writable.
    """
    from daemon.settings import read_secret_file  # noqa: PLC0415 (keeps pydantic out of the metrics' import)

    tokens: dict[str, str] = {}
    for scope in SCOPES:
        if files.get(scope):
            key = "api.token_file" if scope == "read" else f"api.{scope}_token_file"
            tokens[scope] = read_secret_file(key, files[scope]).get_secret_value()
            if len(tokens[scope]) < TOKEN_CHARS_MIN:
                raise ConfigError(
                    f'{key} = "{files[scope]}": token shorter than {TOKEN_CHARS_MIN} characters; '
                    "make one with `openssl rand -hex 32`"
                )
        else:
            tokens[scope] = secrets.token_urlsafe(32)
            if keep:
                write_private(state_path / f"api.{scope}.token", tokens[scope])
    if len(set(tokens.values())) < len(SCOPES):
        raise ConfigError("api: the read, control and kill tokens must differ; give each scope a file of its own")
    return Tokens(tokens, read_configured=bool(files.get("read")))


def write_private(path: Path, text: str) -> None:
    """Write a small file that only its owner may read (mode 0600), replacing it whole.

    Raises
    ------
    ConfigError
        If the folder is not writable.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text + "\n")
        draft.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); make state_dir writable") from None


def needed_scope(method: str, path: str) -> str:
    """Return the scope that a request needs."""
    if method in {"GET", "HEAD"}:
        return "read"
    return "kill" if path.rstrip("/").endswith("/kill") else "control"


class _Refusal(NamedTuple):
    """Why a request is not let through; ``retry_s`` > 0 says when it may come again."""

    status: int
    detail: str
    retry_s: int = 0


class Guard:
    """Lets a request through to the application, or answers it.

    ``open_reads``: reads need no token (loopback and none configured). ``loopback``: only this machine's own names are
    accepted as Host. ``rates`` bounds how often a client may ask: 429 with Retry-After beyond it.
    """

    def __init__(self, app: App, tokens: Tokens, *, loopback: bool, rates: Rates | None = None) -> None:
        self._app = app
        self._tokens = tokens
        self._loopback = loopback
        self._open_reads = loopback and not tokens.read_configured
        self._rates = rates if rates is not None else Rates()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Judge one ASGI connection."""
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        client = str(scope["client"][0]) if scope.get("client") else ""
        refusal = self._refusal(scope["method"], scope["path"], headers, client)
        if refusal is None and not scope["query_string"].isascii():
            refusal = _Refusal(400, "the query is not ASCII; percent-encode it")
        if refusal is not None:
            await _answer(send, refusal)
            return
        body = await _read_body(receive)
        if body is None:
            await _answer(send, _Refusal(413, f"body larger than {BODY_BYTES_MAX} bytes"))
            return
        await self._app(scope, _replay(body, receive), send)

    def _refusal(self, method: str, path: str, headers: Mapping[str, str], client: str) -> _Refusal | None:
        if self._loopback and not is_loopback(_host_of(headers.get("host", ""))):
            return _Refusal(421, "unknown Host; call this service by a name of this machine such as 127.0.0.1")
        scope = needed_scope(method, path)
        kind, _, token = headers.get("authorization", "").partition(" ")
        token = token.strip() if kind.lower() == "bearer" else ""
        owner = self._tokens.owner(token)
        refusal = None if self._is_open(scope, path) else self._stranger(scope, token, owner)
        # Whoever shows a token is counted apart: a flood without one keeps no operator on the same machine out.
        kind = "stranger" if refusal is not None else scope
        wait_s = self._rates.wait_s(f"{client} {owner}", kind, asyncio.get_running_loop().time())
        if wait_s:
            return _Refusal(429, f"too many requests; try again in {wait_s} s", wait_s)
        return refusal or _too_long(headers)

    def _is_open(self, scope: str, path: str) -> bool:
        return path in OPEN_PATHS or (scope == "read" and self._open_reads)

    def _stranger(self, scope: str, token: str, owner: str) -> _Refusal | None:
        """Return why a client may not do what it asks for, None when its token opens the scope."""
        if self._tokens.allows(scope, token):
            return None
        if owner:
            return _Refusal(403, f"this token does not open the scope {scope}")
        return _Refusal(401, f"a bearer token of scope {scope} is needed")


def _too_long(headers: Mapping[str, str]) -> _Refusal | None:
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        return _Refusal(400, "Content-Length is no number")
    if len(length) > DIGITS_MAX or int(length) > BODY_BYTES_MAX:
        return _Refusal(413, f"body larger than {BODY_BYTES_MAX} bytes")
    return None


def _host_of(header: str) -> str:
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.rpartition(":")[0] if ":" in header else header


async def _read_body(receive: Receive) -> bytes | None:
    """Return the whole body, None once it exceeds the bound."""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return body
        body += cast("bytes", message.get("body", b""))
        if len(body) > BODY_BYTES_MAX:
            return None
        if not message.get("more_body", False):
            return body


def _replay(body: bytes, receive: Receive) -> Receive:
    pending = [body]

    async def again() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return again


async def _answer(send: Send, refusal: _Refusal) -> None:
    headers = [(b"content-type", b"application/json")]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if refusal.retry_s:
        headers.append((b"retry-after", str(refusal.retry_s).encode()))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": refusal.detail}).encode()})


class _Uvicorn(uvicorn.Server):
    """A server that leaves the process's signals alone: the daemon stops in its own order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Capture nothing."""
        yield


class Listener:
    """Serves one ASGI application at ``host:port`` in the running loop.

    Parameters
    ----------
    key
        The configuration key, for error messages (``api.listen``).
    listen
        ``host:port``; port 0 lets the system choose.
    app
        The application.
    """

    def __init__(self, key: str, listen: str, app: App) -> None:
        self._key = key
        self._listen = listen
        self._app = app
        self._socket: socket.socket | None = None
        self._server: _Uvicorn | None = None
        self.host, self.port = split_listen(listen)

    @property
    def address(self) -> str:
        """Return ``host:port`` as bound."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def bind(self) -> None:
        """Take the port now, so that a start fails early and clearly; does nothing when it is already taken by us.

        Raises
        ------
        ConfigError
            If the port is in use or the address is not this machine's.
        """
        if self._socket is not None:
            return
        bound: socket.socket | None = None
        try:
            family, kind, proto, _, where = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
            bound = socket.socket(family, kind, proto)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(where)
            bound.listen(CONNECTIONS_MAX)
        except OSError as error:
            if bound is not None:
                bound.close()
            raise ConfigError(
                f'{self._key} = "{self._listen}": cannot listen there ({error.strerror or error}); '
                "choose another port, or stop what uses it"
            ) from None
        self._socket = bound
        self.port = int(bound.getsockname()[1])

    async def serve(self) -> None:
        """Serve until cancelled or `stop`; binds first when `bind` was not called."""
        self.bind()
        bound = self._socket
        if bound is None:  # pragma: no cover - bind either sets it or raises
            return
        config = uvicorn.Config(
            self._app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,  # a client must not choose the address it is counted under
            date_header=False,
            limit_concurrency=CONNECTIONS_MAX,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=STOP_TIMEOUT_S,
        )
        self._server = server = _Uvicorn(config)
        try:
            await server.serve(sockets=[bound])
        except asyncio.CancelledError:
            server.should_exit = True
            if server.started:
                await server.shutdown(sockets=[bound])
            raise
        finally:
            self._server = None
            self._socket = None
            bound.close()

    def stop(self) -> None:
        """Ask `serve` to end in order."""
        if self._server is not None:
            self._server.should_exit = True

    def close(self) -> None:
        """Release the port when `serve` never ran."""
        if self._server is None and self._socket is not None:
            self._socket.close()
            self._socket = None
