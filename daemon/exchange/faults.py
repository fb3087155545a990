"""Scripted faults, per request and per frame, and the count of how often each one fired.

A rule names its target by a glob over a subject:

* requests: ``"POST /api/v3/order"``, ``"GET /api/v3/*"``;
* frames of market streams: ``"frame btcusdt@trade"``, ``"frame *@kline_1s"``;
* user data frames: ``"user executionReport"``; replies of the websocket API: ``"wsapi order.place"``;
* new websocket connections: ``"connect /ws*"``.

``contains`` further asks for a text in the raw parameters or in the frame.

How the rows of the fault catalogue are made (``/sim/...`` is the control interface, `daemon.exchange.control`):

* F1 drop; F2 hang_after; F3 cut_after; F4 truncate; F5 empty, html, broken, replace; F6 slow; F7 late on the order POST;
* F8 error 5xx; F9 error 429/418 with Retry-After, or small `Limits`; F10 html with status 403;
* F12 freeze; F13 close, ``/sim/push`` a serverShutdown event, ``session_seconds``; F14 error on ``connect *``;
* F16 cut on ``* /api/*`` or on ``connect *`` with ``/sim/disconnect``; F17 delay with a probability;
* F19 skip; F20 duplicate; F21 reorder; F22 hold; F23 stall; F24 and F25 set or replace; F27 set of ``T``, ``/sim/clock``;
* F26 ``/sim/status``, ``/sim/rules``; F28 ``/sim/push``; F29 a small ``touch_notional`` and ``book_levels``;
* F30 delay_after on the POST, reorder on ``user *``; F31 duplicate and F32 skip on ``user executionReport``;
* F33 error -2013 on the order GET; F34 omit; F36 error -2011 on the DELETE; F38 ``/sim/place``, ``/sim/deposit``;
* F39 ``/sim/cancel``, ``/sim/expire``; F40 ``/sim/fee``; F42 ``/sim/crash``; F68 error -2015 with status 401.
"""

import enum
import random
from fnmatch import fnmatchcase
from typing import Final

import msgspec

__all__ = ["Action", "FaultBook", "FaultRule"]


class Action(enum.StrEnum):
    """What a rule does. The first group is for requests and connections, the second for frames."""

    DROP = "drop"  # never answer, never handle
    DELAY = "delay"  # wait, then handle (frames: everything after waits too)
    DELAY_AFTER = "delay_after"  # handle at once, answer late: events overtake the reply
    CUT = "cut"  # abort the connection before handling
    CUT_AFTER = "cut_after"  # handle, then abort: the reply is lost after the accept
    HANG_AFTER = "hang_after"  # handle, then never answer
    LATE = "late"  # never answer, but handle after a while
    TRUNCATE = "truncate"  # promise more body than is sent
    SLOW = "slow"  # drip the body
    EMPTY = "empty"  # 200 without body
    HTML = "html"  # 200 (or status) with a page
    BROKEN = "broken"  # 200 with half the JSON
    REPLACE = "replace"  # 200 (or status) with `text` as body
    ERROR = "error"  # status, code and msg
    OMIT = "omit"  # leave items out of a list answer

    SKIP = "skip"  # lose the frame
    DUPLICATE = "duplicate"
    REORDER = "reorder"  # send the frame after its successor
    CORRUPT = "corrupt"  # half the frame
    SET = "set"  # replace the value of `field` by `text` (JSON)
    STALL = "stall"  # the client hears nothing for `seconds`; pings are answered
    HOLD = "hold"  # frames are kept for `seconds`, then come at once
    FREEZE = "freeze"  # as a dead peer for `seconds`: no frames, no pongs, nothing read
    CLOSE = "close"  # close frame with `status` as its code


_BOTH: Final = frozenset({Action.DROP, Action.DELAY, Action.CUT, Action.REPLACE})
_FRAME_ACTIONS: Final = _BOTH | {
    Action.SKIP,
    Action.DUPLICATE,
    Action.REORDER,
    Action.CORRUPT,
    Action.SET,
    Action.STALL,
    Action.HOLD,
    Action.FREEZE,
    Action.CLOSE,
}


class FaultRule(msgspec.Struct, frozen=True, kw_only=True):
    """One scripted fault.

    Attributes
    ----------
    match, contains
        Glob over the subject, and a text that the raw parameters or the frame must contain.
    action
        What happens.
    times, after
        How often it may fire (0: without end), after how many matches it starts.
    probability, seed
        Chance per match, from its own seeded generator.
    seconds
        Length of delays, stalls, holds and freezes; of the drip per kilobyte.
    status, code, msg, headers
        The answer of ``error``; status also of ``html`` and ``replace``, and the close code of ``close``.
    handle
        Whether the request takes effect before ``error``, ``empty``, ``html``, ``broken`` or ``replace`` answer.
    field, text
        Dotted path and JSON of ``set``; body of ``replace`` and ``html``.
    share
        Share of items that ``omit`` leaves out.
    """

    match: str
    action: Action
    contains: str = ""
    times: int = 1
    after: int = 0
    probability: float = 1.0
    seed: int = 0
    seconds: float = 0.0
    status: int = 0
    code: int = -1000
    msg: str = "An unknown error occurred while processing the request."
    headers: dict[str, str] = {}
    handle: bool | None = None
    field: str = ""
    text: str = ""
    share: float = 1.0


class _Active:
    """A rule with its counters."""

    def __init__(self, rule: FaultRule) -> None:
        self.rule = rule
        self.matched = 0
        self.fired = 0
        self.random = random.Random(rule.seed)


class FaultBook:
    """The rules in force."""

    def __init__(self) -> None:
        """Start without rules."""
        self._rules: dict[int, _Active] = {}
        self._next = 1

    def __bool__(self) -> bool:
        """Return whether any rule is in force."""
        return bool(self._rules)

    def add(self, rule: FaultRule) -> int:
        """Put a rule in force and return its number.

        Raises
        ------
        ValueError
            When the action does not exist for what the rule matches.
        """
        frames = rule.match.startswith(("frame", "user", "wsapi", "pushed"))
        if frames and rule.action not in _FRAME_ACTIONS:
            raise ValueError(f"action {rule.action} is for requests, {rule.match!r} names frames")
        if not frames and not rule.match.startswith("*") and rule.action in _FRAME_ACTIONS - _BOTH:
            raise ValueError(f"action {rule.action} is for frames, {rule.match!r} names requests")
        number = self._next
        self._next += 1
        self._rules[number] = _Active(rule)
        return number

    def remove(self, number: int) -> None:
        """Lift one rule; unknown numbers are ignored."""
        self._rules.pop(number, None)

    def clear(self) -> None:
        """Lift all rules."""
        self._rules.clear()

    def fired(self, number: int) -> int:
        """Return how often a rule fired; 0 for an unknown number."""
        active = self._rules.get(number)
        return active.fired if active else 0

    def counts(self) -> dict[int, int]:
        """Return how often each rule in force fired."""
        return {number: active.fired for number, active in self._rules.items()}

    def pick(self, subject: str, detail: str | bytes = "") -> FaultRule | None:
        """Return the first rule that fires for a subject and count it."""
        for active in self._rules.values():
            rule = active.rule
            if (rule.times and active.fired >= rule.times) or not fnmatchcase(subject, rule.match):
                continue
            if rule.contains:
                text = detail if isinstance(detail, str) else detail.decode(errors="replace")
                if rule.contains not in text:
                    continue
            active.matched += 1
            if active.matched <= rule.after:
                continue
            if rule.probability < 1 and active.random.random() >= rule.probability:
                continue
            active.fired += 1
            return rule
        return None
