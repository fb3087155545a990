"""Faults that the exchange scripts by itself: requests, answers and frames."""

import asyncio
import random
from typing import Any, Final

from daemon.exchange.faults import Action
from tests.sim.chaos import Chaos, Fault, Work

ORDER: Final = "POST /api/v3/order"
CANCEL: Final = "DELETE /api/v3/order"
QUERY: Final = "GET /api/v3/order"
UNCERTAIN: Final = ((-1007, 504), (-1006, 400), (-1000, 400), (-1001, 400), (-1008, 503))


def order_fault(name: str, action: Action, **fixed: Any) -> Fault:
    """Return a fault of one to three order requests."""

    def fault(chaos: Chaos, rng: random.Random) -> Work:
        more = dict(fixed)
        if action in {Action.LATE, Action.DELAY_AFTER, Action.DELAY}:
            more["seconds"] = rng.uniform(0.2, 9.0)
        chaos.rule(name, ORDER, action, times=rng.randint(1, 3), **more)
        return None

    return fault


def spoiled(chaos: Chaos, rng: random.Random) -> Work:
    action = rng.choice((Action.EMPTY, Action.HTML, Action.BROKEN, Action.REPLACE))
    text = rng.choice(("{}", "[]", '{"orderId":null}', "null")) if action is Action.REPLACE else ""
    chaos.rule(
        "F5", rng.choice((ORDER, ORDER, QUERY, CANCEL, "GET /api/v3/*")), action, times=rng.randint(1, 3), text=text
    )
    return None


def uncertain(chaos: Chaos, rng: random.Random) -> Work:
    code, status = rng.choice(UNCERTAIN)
    chaos.rule(
        "1.1 uncertain code",
        ORDER,
        Action.ERROR,
        code=code,
        status=status,
        handle=rng.random() < 0.5,
        times=rng.randint(1, 3),
    )
    return None


def definite(chaos: Chaos, rng: random.Random) -> Work:
    code, msg = rng.choice(
        ((-2010, "Account has insufficient balance for requested action."), (-2010, "Market is closed."),
         (-1013, "Filter failure: LOT_SIZE"), (-1021, "Timestamp for this request is outside of the recvWindow."))
    )  # fmt: skip
    chaos.rule("1.1 definite code", ORDER, Action.ERROR, code=code, msg=msg, status=400, times=1)
    return None


async def outage(chaos: Chaos, rng: random.Random) -> None:
    """Errors of the whole interface for a while (F8, F10)."""
    status = rng.choice((500, 502, 503, 403))
    action = Action.HTML if status in {403, 502} else Action.ERROR
    name = "F10" if status == 403 else "F8"
    chaos.rule(name, "* /api/*", action, status=status, code=-1000, times=0, handle=False)
    await asyncio.sleep(rng.uniform(1, 40))
    chaos.clear_rules()


def busy(chaos: Chaos, rng: random.Random) -> Work:
    status = rng.choice((429, 429, 418))
    match = rng.choice((ORDER, QUERY, "GET /api/v3/account", "GET /api/v3/*", CANCEL))
    wait = rng.randint(1, 20)
    chaos.rule(
        "F9", match, Action.ERROR, status=status, code=-1003, headers={"Retry-After": str(wait)}, times=1, handle=False
    )
    return None


def hidden(chaos: Chaos, rng: random.Random) -> Work:
    chaos.rule("F33", QUERY, Action.ERROR, code=-2013, msg="Order does not exist.", status=400, times=rng.randint(1, 8))
    return None


def omitted(chaos: Chaos, rng: random.Random) -> Work:
    path = rng.choice(("openOrders", "allOrders", "myTrades"))
    chaos.rule("F34", f"GET /api/v3/{path}", Action.OMIT, share=rng.choice((0.3, 1.0)), times=rng.randint(1, 3))
    return None


def cancel_fault(chaos: Chaos, rng: random.Random) -> Work:
    if rng.random() < 0.5:
        chaos.rule(
            "F36", CANCEL, Action.ERROR, code=-2011, msg="Unknown order sent.", status=400, times=rng.randint(1, 3)
        )
    else:
        action = rng.choice((Action.HANG_AFTER, Action.CUT_AFTER, Action.DROP, Action.EMPTY))
        chaos.rule("F36", CANCEL, action, times=rng.randint(1, 3))
    return None


def frame_fault(name: str, match: str, actions: tuple[Action, ...], **fixed: Any) -> Fault:
    """Return a fault of some frames."""

    def fault(chaos: Chaos, rng: random.Random) -> Work:
        action = rng.choice(actions)
        more = dict(fixed)
        if action in {Action.STALL, Action.HOLD, Action.FREEZE, Action.DELAY}:
            more["seconds"] = rng.uniform(0.5, 20.0)
        if action is Action.CLOSE:
            more["status"] = rng.choice((1000, 1001, 1008, 1011))
        chaos.rule(name, match, action, times=more.pop("times", None) or rng.randint(1, 5), **more)
        return None

    return fault


def poison(chaos: Chaos, rng: random.Random) -> Work:
    field, text = rng.choice((("p", '"0"'), ("p", '"-1"'), ("p", '"NaN"'), ("p", '"1e300"'), ("p", "null"), ("q", '"0"'),
                              ("T", "0"), ("T", "99999999999999999"), ("a", "-5")))  # fmt: skip
    chaos.rule(
        "F27" if field == "T" else "F24",
        "frame *@aggTrade",
        Action.SET,
        field=field,
        text=text,
        times=rng.randint(1, 4),
    )
    return None


def garbage(chaos: Chaos, rng: random.Random) -> Work:
    frame = rng.choice((b"", b"{", b"\xff\xfe", b"[" * 500, b'{"stream":"x","data":{}}', b'{"e":"serverShutdown"}'))
    kind = rng.choice(("market", "user"))
    if chaos.world.exchange.push(kind, frame):
        chaos.count("F28")
    return None
