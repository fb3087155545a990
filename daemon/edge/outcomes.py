"""What an answer of the venue says about an order: pure, by table (FAULTS 1.1).

Only a definite code of the venue proves that an order does not exist. Whatever else happens between the first byte of
a POST and a well-formed answer (timeouts, resets, cut or empty bodies, 5xx, unknown codes) leaves its fate unknown.
ccxt's exception classes are no evidence: it raises the same one for a refused connection and for a reset after the
order was accepted, and none at all for an empty 200. So the reply itself is judged: status, headers, body.
"""

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Final

import msgspec

from daemon.domain.orders import OrderState
from risk.money import is_amount

ZERO: Final = Decimal(0)


class Act(StrEnum):
    """What has to follow besides the order's new state."""

    NONE = "none"
    QUERY = "query"  # the fate is unknown, or the venue hints at an earlier copy
    BACK_OFF = "back_off"  # no request before retry_after_s
    RESYNC = "resync"  # measure the venue's clock again
    STOP = "stop"  # the key was refused: a person must look
    RELOAD = "reload"  # the venue's trading rules have changed


class Reply(msgspec.Struct):
    """The HTTP answer to one request as it came; ``status`` 0 means that no complete answer arrived."""

    status: int = 0
    body: str = ""
    headers: Mapping[str, str] = msgspec.field(default_factory=dict[str, str])


class Outcome(msgspec.Struct, frozen=True):
    """Verdict on one order request. ``detail`` is one line and free of secrets; ``retry_after_s`` 0 where none was named."""

    state: OrderState
    code: str
    detail: str
    act: Act = Act.NONE
    retry_after_s: float = 0.0
    venue_id: str = ""
    filled: Decimal = ZERO


class _Error(msgspec.Struct):
    code: int
    msg: str = ""


class _Order(msgspec.Struct, rename="camel"):
    order_id: int | str
    status: str
    executed_qty: Decimal = ZERO
    client_order_id: str = ""


DEFINITE: Final[Mapping[int, Act]] = {
    # the request never reached the matching engine: malformed, or broken rules
    -1013: Act.RELOAD,  # filter failure, market closed
    -1014: Act.NONE,  # unsupported order combination
    -1020: Act.NONE,  # unsupported operation
    -1100: Act.NONE,
    -1101: Act.NONE,
    -1102: Act.NONE,
    -1103: Act.NONE,
    -1104: Act.NONE,
    -1105: Act.NONE,
    -1106: Act.NONE,
    -1108: Act.NONE,
    -1111: Act.RELOAD,  # precision
    -1114: Act.NONE,
    -1115: Act.NONE,
    -1116: Act.NONE,
    -1117: Act.NONE,
    -1118: Act.NONE,
    -1119: Act.NONE,
    -1120: Act.NONE,
    -1121: Act.RELOAD,  # symbol
    -1128: Act.NONE,
    -1130: Act.NONE,
    -1131: Act.NONE,  # recvWindow above 60000
    -1134: Act.NONE,
    -1135: Act.NONE,
    -1145: Act.NONE,
    -1151: Act.NONE,
    -2010: Act.NONE,  # rejected by the matching engine: balance, closed, would match
    # the key: nothing was placed, and nothing will be until a person looks
    -1002: Act.STOP,
    -1022: Act.STOP,
    -2008: Act.STOP,
    -2014: Act.STOP,
    -2015: Act.STOP,
}
"""Binance's codes that prove the order does not exist, with what must follow."""

NOT_PLACED: Final[Mapping[int, Act]] = {-1003: Act.BACK_OFF, -1015: Act.BACK_OFF, -1021: Act.RESYNC}
"""Codes of requests that the venue turned away before looking at the order: not sent, as far as it is concerned."""

STATES: Final[Mapping[str, OrderState]] = {
    "NEW": OrderState.ACKED,
    "PENDING_NEW": OrderState.ACKED,
    "PARTIALLY_FILLED": OrderState.ACKED,
    "PENDING_CANCEL": OrderState.ACKED,
    "FILLED": OrderState.FILLED,
    "CANCELED": OrderState.CANCELED,
    "EXPIRED": OrderState.EXPIRED,
    "EXPIRED_IN_MATCH": OrderState.EXPIRED,
    "REJECTED": OrderState.REJECTED,
}
"""The venue's words for our states."""

BACK_OFF_S: Final = 10.0
"""Pause after a 429 that names none."""
BROKEN: Final = (msgspec.DecodeError, UnicodeError, RecursionError)
"""What msgspec raises on text that is not what it should be; an abyss of brackets included."""
PAUSE_S_MAX: Final = 7 * 86_400.0
"""No pause is longer: Binance's longest ban is three days."""
DECIMALS_MAX: Final = 40
"""Longest fraction that is believed; the ledger keeps every digit."""
DIGITS_MAX: Final = 18
"""Longest number that is read from a header."""
BAN_S: Final = 120.0
"""Pause after a 418 that names none: the shortest ban Binance gives."""

_ERROR: Final = msgspec.json.Decoder(_Error)
_ORDER: Final = msgspec.json.Decoder(_Order)


def judge_order(reply: Reply, *, client_id: str, error: BaseException | None = None) -> Outcome:
    """Judge the answer to an order request.

    Parameters
    ----------
    reply
        What arrived.
    client_id
        The id the order was sent under; an answer about another order proves nothing.
    error
        What ccxt raised, for the detail only.
    """
    if reply.status == 0:
        return unknown("no_reply", type(error).__name__ if error else "no answer")
    if reply.status in {418, 429}:
        return _turned_away(reply)
    if 400 <= reply.status < 500 and reply.status not in {403, 408, 409}:
        return _refused(reply)
    if reply.status != 200:
        return unknown(f"http_{reply.status}", first_line(reply.body))
    return _accepted(reply, client_id)


def _accepted(reply: Reply, client_id: str) -> Outcome:
    try:
        order = _ORDER.decode(reply.body)
    except BROKEN as broken:
        return unknown("broken_reply", first_line(str(broken)))
    if order.client_order_id and order.client_order_id != client_id:
        return unknown("other_order", f"the answer is about {redact(order.client_order_id)[:40]}")
    state = STATES.get(order.status)
    if state is None or not is_sound(order.executed_qty) or len(str(order.order_id)) > DIGITS_MAX:
        return unknown("unknown_status", f"status {order.status[:40]!r}")
    return Outcome(state=state, code="", detail=order.status, venue_id=str(order.order_id), filled=order.executed_qty)


def _refused(reply: Reply) -> Outcome:
    try:
        answer = _ERROR.decode(reply.body)
    except BROKEN:
        return unknown(f"http_{reply.status}", first_line(reply.body))
    code, detail = str(answer.code), first_line(answer.msg)
    if answer.code in NOT_PLACED:
        act = NOT_PLACED[answer.code]
        pause = retry_after_s(reply.headers, default=BACK_OFF_S) if act is Act.BACK_OFF else 0.0
        return Outcome(OrderState.DENIED, code, detail, act, pause)
    if answer.code == -2010 and "duplicate" in answer.msg.lower():
        # An earlier copy is open under this id: it is ours, and the query will tell.
        return Outcome(OrderState.UNKNOWN, code, detail, Act.QUERY)
    if answer.code in DEFINITE:
        return Outcome(OrderState.REJECTED, code, detail, DEFINITE[answer.code])
    return Outcome(OrderState.UNKNOWN, code, detail, Act.QUERY)


def _turned_away(reply: Reply) -> Outcome:
    default = BAN_S if reply.status == 418 else BACK_OFF_S
    pause = retry_after_s(reply.headers, default=default)
    return Outcome(OrderState.DENIED, f"http_{reply.status}", first_line(reply.body), Act.BACK_OFF, pause)


def unknown(code: str, detail: str) -> Outcome:
    """Return the verdict on an answer that proves nothing: the order is looked for, never sent again."""
    return Outcome(OrderState.UNKNOWN, code, detail, Act.QUERY)


def error_code(reply: Reply) -> int:
    """Return the venue's error code of an answer, 0 where it has none."""
    try:
        return _ERROR.decode(reply.body).code
    except BROKEN:
        return 0


def is_sound(amount: Decimal) -> bool:
    """Say whether an amount can be reckoned with and written down: finite, >= 0, of human size and length."""
    return is_amount(amount) and abs(int(amount.as_tuple().exponent)) <= DECIMALS_MAX


def retry_after_s(headers: Mapping[str, str], *, default: float) -> float:
    """Return the seconds the venue asked us to wait, 1 to ``PAUSE_S_MAX``; ``default`` where it named none."""
    for name, value in headers.items():
        if name.lower() == "retry-after":
            try:
                seconds = float(value)
            except ValueError:
                return default
            return min(max(seconds, 1.0), PAUSE_S_MAX) if math.isfinite(seconds) else default
    return default


def told(*words: str) -> str:
    """Return the first of a venue's words that says something, "" when none does."""
    return next((word for word in words if word not in {"", "NONE"}), "")


def whole(text: str) -> int:
    """Return the number that a header states, -1 where it is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= DIGITS_MAX else -1


HIDDEN: Final = "[redacted]"
_SECRETS: Final = re.compile(
    r"(?i)((?:signature|apikey|api_key|x-mbx-apikey|secret|listenkey)[\"']?\s*[=:]\s*[\"']?)[^\s&\"',}]+"
)


def redact(text: str, *secrets: str) -> str:
    """Return text without signatures and keys: ccxt's messages contain whole signed addresses."""
    text = _SECRETS.sub(r"\1[redacted]", text)
    for secret in secrets:
        if secret:
            text = text.replace(secret, HIDDEN)
    return text


def first_line(text: str) -> str:
    """Return the first line of what a venue says, short and free of secrets."""
    lines = text.strip().splitlines()
    return redact(lines[0][:160]) if lines else ""
