"""Small grammars of the configuration: durations, bars, capital, listeners, URLs, exchange ids."""

import importlib.util
import ipaddress
import re
from decimal import Decimal, InvalidOperation
from functools import cache
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import unquote, urlsplit

import msgspec
from pydantic import AfterValidator, BeforeValidator

NS_PER_S = 1_000_000_000

BAR_NS = {
    "1s": 1,
    "5s": 5,
    "15s": 15,
    "30s": 30,
    "1m": 60,
    "3m": 180,
    "5m": 300,
    "15m": 900,
    "30m": 1800,
    "1h": 3600,
    "4h": 14_400,
    "1d": 86_400,
}
"""Bar name → length in seconds (``bar_ns`` gives nanoseconds)."""

_UNIT_NS = {
    "ms": 1_000_000,
    "s": NS_PER_S,
    "m": 60 * NS_PER_S,
    "h": 3600 * NS_PER_S,
    "d": 86_400 * NS_PER_S,
    "w": 604_800 * NS_PER_S,
}
_DURATION = re.compile(r"(\d+)(ms|s|m|h|d|w)")
_PASSWORD = re.compile(r"(://[^/\s:@]*:)[^\s\"]*@")
_PASSWORD_IN = re.compile(r"://[^/\s:@]*:([^\s\"]*)@")
_PASSWORD_AS = re.compile(r"[?&](?:ssl)?password=([^&\s]*)")
_LOOPBACK_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost"})
DURATION_NS_MAX = 3650 * 86_400 * NS_PER_S


def bar_ns(bar: str) -> int:
    """Return the length of a bar in nanoseconds.

    Raises
    ------
    ValueError
        If the name is not one of ``BAR_NS``.
    """
    seconds = BAR_NS.get(bar)
    if seconds is None:
        raise ValueError(f"must be one of {' '.join(BAR_NS)}")
    return seconds * NS_PER_S


def duration_ns(text: str) -> int:
    """Return a duration like ``90s``, ``24h`` or ``1h30m`` in nanoseconds; "" is 0.

    Raises
    ------
    ValueError
        If the text is not a sequence of whole numbers with units ms, s, m, h, d or w, or exceeds ten years.
    """
    total, end = 0, 0
    for match in _DURATION.finditer(text):
        if match.start() != end:
            break
        total += int(match[1]) * _UNIT_NS[match[2]]
        end = match.end()
    if end != len(text):
        raise ValueError('must be a duration such as "90s", "30m", "24h" or "7d"')
    if total > DURATION_NS_MAX:
        raise ValueError("must be at most ten years")
    return total


def parse_capital(text: str) -> tuple[Decimal | None, float | None]:
    """Return (amount of quote currency, share of the account); both None for "all".

    Raises
    ------
    ValueError
        If the text is none of "all", a positive amount, or a share above 0 and up to 100 %.
    """
    if text == "all":
        return None, None
    share = text.endswith("%")
    try:
        number = Decimal(text.removesuffix("%").strip())
    except InvalidOperation:
        number = Decimal(0)
    if not number.is_finite() or number <= 0 or (share and number > 100):
        raise ValueError('must be "all", an amount of quote currency such as "25000", or a share such as "50%"')
    return (None, float(number) / 100) if share else (number, None)


def is_loopback(host: str) -> bool:
    """Return whether the host names this machine only."""
    name = host.strip("[]").lower()
    if name in _LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def split_listen(text: str) -> tuple[str, int]:
    """Return (host, port) of ``host:port``; port 0 lets the system choose.

    Raises
    ------
    ValueError
        If host or port is missing or the port is out of range.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError('must be "host:port" such as "127.0.0.1:8080", port 0 to 65535')
    return host.strip("[]"), int(port)


def check_url(text: str, *, plain: str, secure: str) -> str:
    """Return the URL without a trailing slash once it is safe: TLS, or plain to this machine.

    Raises
    ------
    ValueError
        If the scheme is another one, the host is missing, it carries credentials, or it is plain and not loopback.
    """
    if not text:
        return text
    parts = urlsplit(text)
    if parts.scheme not in {plain, secure}:
        raise ValueError(f"must begin with {secure}:// (or {plain}:// for this machine)")
    if not parts.hostname:
        raise ValueError("names no host")
    if parts.username or parts.password:
        raise ValueError("must not carry a user or password; keys come from the environment or *_file keys")
    if parts.query or parts.fragment:
        raise ValueError("must be a base address without query or fragment")
    if parts.scheme == plain and not is_loopback(parts.hostname):
        raise ValueError(f"plain {plain}:// is allowed to this machine only; use {secure}://")
    return text.rstrip("/")


def hide_password(text: str) -> str:
    """Return the text with the password of every URL in it replaced by ``**********``."""
    return _PASSWORD_AS.sub(_starred, _PASSWORD.sub(r"\1**********@", text))


def _starred(found: re.Match[str]) -> str:
    return f"{found.group().partition('=')[0]}=**********"


def url_password(text: str) -> str:
    """Return the password that a URL carries, in its authority or as a parameter, "" when it has none."""
    found = _PASSWORD_IN.search(text) or _PASSWORD_AS.search(text)
    return unquote(found.group(1)) if found else ""


@cache
def exchange_ids() -> frozenset[str]:
    """Return ccxt's exchange ids from the file names of the installed package, without importing it (0.6 s)."""
    spec = importlib.util.find_spec("ccxt")
    if spec is None or not spec.submodule_search_locations:  # pragma: no cover - ccxt is a pinned dependency
        return frozenset()
    folder = Path(spec.submodule_search_locations[0]) / "async_support"
    return frozenset(file.stem for file in folder.glob("*.py") if not file.stem.startswith("_"))


WANTED: Final = {
    "missing": "is missing",
    "string_type": 'must be text in quotes, such as key = "value"',
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number without quotes",
    "bool_type": "must be true or false",
    "tuple_type": 'must be a list such as ["BTC/USDT", "ETH/USDT"]',
    "dict_type": "must be a table",
    "model_type": "must be a table such as [risk]",
    "model_attributes_type": "must be a table such as [risk]",
    "finite_number": "must be a finite number",
}
BOUNDS: Final = {
    "greater_than": ("gt", "must be more than {}"),
    "greater_than_equal": ("ge", "must be at least {}"),
    "less_than": ("lt", "must be less than {}"),
    "less_than_equal": ("le", "must be at most {}"),
    "too_short": ("min_length", "needs at least {} entry"),
    "too_long": ("max_length", "may have at most {} entries"),
    "string_too_short": ("min_length", "needs at least {} character"),
}


def _duration(value: object) -> object:
    if isinstance(value, str):
        duration_ns(value)
    return value


def _some_duration(value: object) -> object:
    if value == "":
        raise ValueError('must be a duration such as "24h"')
    return _duration(value)


def _listen(value: object) -> object:
    if isinstance(value, str):
        split_listen(value)
    return value


def _listen_or_off(value: object) -> object:
    return value if value == "" else _listen(value)


def _http(value: object) -> object:
    return check_url(value, plain="http", secure="https") if isinstance(value, str) else value


def _ws(value: object) -> object:
    return check_url(value, plain="ws", secure="wss") if isinstance(value, str) else value


def as_tuple(value: object) -> object:
    """Return a list of the file, and lists in it, as tuples; anything else as it is."""
    return tuple(as_tuple(one) for one in value) if isinstance(value, list) else value


def _sendable(value: dict[str, object]) -> dict[str, object]:
    try:
        msgspec.msgpack.encode(value)  # as the worker gets them
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"cannot be passed to the strategy ({error})") from None
    return value


Duration = Annotated[str, BeforeValidator(_some_duration)]
DurationOrNever = Annotated[str, BeforeValidator(_duration)]
Listen = Annotated[str, BeforeValidator(_listen)]
ListenOrOff = Annotated[str, BeforeValidator(_listen_or_off)]
HttpUrl = Annotated[str, BeforeValidator(_http)]
WsUrl = Annotated[str, BeforeValidator(_ws)]
Params = Annotated[dict[str, object], AfterValidator(_sendable)]
