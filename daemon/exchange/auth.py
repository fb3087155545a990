"""Signed requests: HMAC-SHA256 over the raw text as sent, timestamps and receive windows."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Final

from daemon.exchange import errors
from daemon.exchange.config import ApiKey, SimConfig
from daemon.exchange.errors import ApiError

__all__ = ["check_key", "check_signature", "check_time", "sign", "unsigned"]

_SIGNATURE: Final = re.compile(r"(^|&)signature=[^&]*")
_RECV_WINDOW_MS: Final = 5_000
_RECV_WINDOW_MAX_MS: Final = 60_000
_LEAD_MS: Final = 1_000
_MICROSECONDS: Final = 10**15  # a timestamp this large is in microseconds


def sign(secret: str, payload: str) -> str:
    """Return the hex HMAC-SHA256 of a payload."""
    return hmac.new(secret.encode(), payload.encode(), hashlib.sha256).hexdigest()


def unsigned(raw: str) -> str:
    """Return a raw query or body without its signature parameter."""
    return _SIGNATURE.sub("", raw, count=1).removeprefix("&")


def check_key(config: SimConfig, key: str | None) -> ApiKey:
    """Find the key pair of an X-MBX-APIKEY header.

    Raises
    ------
    ApiError
        -2014 without a key, -2015 with an unknown one.
    """
    if not key:
        raise ApiError(*errors.BAD_KEY_FORMAT, status=401)
    for known in config.keys:
        if hmac.compare_digest(known.key.encode(), key.encode()):
            return known
    raise ApiError(*errors.REJECTED_KEY, status=401)


def check_signature(secret: str, payload: str, signature: str | None) -> None:
    """Compare a signature (any case) with that of the payload.

    Raises
    ------
    ApiError
        -1102 when it is missing, -1022 when it is wrong.
    """
    if not signature:
        raise errors.missing("signature")
    if not hmac.compare_digest(sign(secret, payload).encode(), signature.lower().encode()):
        raise ApiError(*errors.BAD_SIGNATURE)


def check_time(params: Mapping[str, str], now_ms: int) -> None:
    """Accept a timestamp at most 1 s ahead and at most recvWindow old.

    Raises
    ------
    ApiError
        -1102, -1100, -1131 or -1021.
    """
    text = params.get("timestamp")
    if not text:
        raise errors.missing("timestamp")
    if not text.isascii() or not text.isdigit():
        raise errors.illegal("timestamp", "^[0-9]{1,20}$")
    window_text = params.get("recvWindow", str(_RECV_WINDOW_MS))
    try:
        window_ms = float(window_text)
    except ValueError:
        raise errors.illegal("recvWindow") from None
    if not 0 < window_ms <= _RECV_WINDOW_MAX_MS:
        raise ApiError(*errors.BAD_RECV_WINDOW)
    sent_ms = int(text)
    if sent_ms >= _MICROSECONDS:
        sent_ms //= 1000
    if sent_ms >= now_ms + _LEAD_MS:
        raise ApiError(*errors.TOO_EARLY)
    if now_ms - sent_ms > window_ms:
        raise ApiError(*errors.TOO_LATE)
