"""A small client of the running daemon's HTTP API."""

import json
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.domain.errors import Fatal, Unreachable, Unsafe

if TYPE_CHECKING:
    from daemon.settings import Settings

TIMEOUT_S = 5.0
ANSWER_BYTES_MAX = 50_000_000


def call(settings: "Settings", path: str, *, scope: str = "read", post: dict[str, Any] | None = None) -> Any:
    """Return the daemon's JSON answer to ``GET /api/v1/<path>``, or to a POST when ``post`` is given.

    Raises
    ------
    Unreachable
        No daemon answers at ``api.listen``.
    Unsafe
        The token was refused.
    Fatal
        The daemon answered with an error.
    """
    base = address(settings)
    headers = {"Accept": "application/json"}
    token = _token(settings, scope)
    if token:
        headers["Authorization"] = f"Bearer {token}"
    body = None
    if post is not None:
        headers["Content-Type"] = "application/json"
        body = json.dumps(post).encode()
    request = urllib.request.Request(f"{base}/api/v1/{path}", body, headers)  # noqa: S310 (base is http by construction)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy must never see the token
    try:
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            return json.loads(answer.read(ANSWER_BYTES_MAX))
    except urllib.error.HTTPError as error:
        with error:
            detail = _detail(error.read(4096))
        if error.code in {401, 403}:
            raise Unsafe(f"the daemon at {base} refused the {scope} token: {detail}") from None
        raise Fatal(f"the daemon at {base} answered {error.code} to {path}: {detail}") from None
    except (urllib.error.URLError, TimeoutError, ConnectionError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise Unreachable(
            f"no daemon answers at {base} ({reason}); start it with `ballast run`, or check api.listen and state_dir"
        ) from None


def address(settings: "Settings") -> str:
    """Return the API's base address: ``api.listen``, or what the daemon wrote down when the port was 0."""
    from daemon.settings_values import split_listen

    host, port = split_listen(settings.api.listen)
    if port == 0:
        try:
            text = (settings.state_path / "api.address").read_text().strip()
        except OSError:
            raise Unreachable(
                f"no daemon runs with state_dir = {settings.state_dir} (no api.address there); start it with `ballast run`"
            ) from None
        host, port = split_listen(text)
    if host in {"0.0.0.0", "::"}:
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if _is_ipv6(host) else f"http://{host}:{port}"


def _is_ipv6(host: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, host)
    except OSError:
        return False
    return True


def _token(settings: "Settings", scope: str) -> str:
    """Return the scope's token from its configured file or the one the daemon wrote; "" when it cannot be read."""
    configured = {
        "read": settings.api.token_file,
        "control": settings.api.control_token_file,
        "kill": settings.api.kill_token_file,
    }[scope]
    try:
        return Path(configured or settings.state_path / f"api.{scope}.token").read_text().strip()
    except OSError:
        return ""


def _detail(body: bytes) -> str:
    try:
        document = json.loads(body)
    except ValueError:
        return body.decode(errors="replace")[:200]
    return str(document.get("detail", document))[:500] if isinstance(document, dict) else str(document)[:500]
