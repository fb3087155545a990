"""Seeded faults: which, when, how long; each counted with the states of the orders it hit (FAULTS section 4)."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from decimal import Decimal
from typing import Any, Final

from daemon.domain.events import Action as Command
from daemon.exchange.errors import ApiError
from daemon.exchange.faults import Action, FaultRule
from daemon.exchange.rest_account import ticket_of
from tests.sim.disk import spoil
from tests.sim.invariants import Checks
from tests.sim.loop import NS
from tests.sim.world import SYMBOLS, World

ORDER: Final = "POST /api/v3/order"
CANCEL: Final = "DELETE /api/v3/order"
QUERY: Final = "GET /api/v3/order"
UNCERTAIN: Final = ((-1007, 504), (-1006, 400), (-1000, 400), (-1001, 400), (-1008, 503))
GAPS_S: Final = (2.5, 7.0, 15.0)
"""Mean times between two faults, one per seed."""

Work = Coroutine[Any, Any, None] | None
Fault = Callable[["Chaos", random.Random], Work]


class Chaos:
    """Lets faults happen to one world until it is told to heal it."""

    def __init__(self, world: World, checks: Checks, *, only: tuple[str, ...] = ()) -> None:
        self.world, self.checks = world, checks
        self.rng = world.chance.of("chaos")
        self.fired: Counter[str] = Counter()
        self.hit: Counter[tuple[str, str]] = Counter()
        """(fault, order state) pairs that met."""
        self._names: dict[int, str] = {}
        self._kept: list[FaultRule] = []  # their identity names their fault
        self._lasting: set[asyncio.Task[None]] = set()
        self.gap_s = self.rng.choice(GAPS_S)
        self._choices = [one for one in FAULTS if not only or one[0] in only]
        faults: Any = world.exchange.faults
        self._pick = faults.pick
        faults.pick = self._picked

    # ------------------------------------------------------------------ counting

    def count(self, name: str) -> None:
        """Note that a fault fired, and at which orders."""
        self.fired[name] += 1
        self.world.note("fault", name)
        life = self.world.life
        states = (
            {order.state.value for order in life.engine.state.blotter.live.values()} if life is not None else {"dead"}
        )
        for state in sorted(states or {"none"}):
            self.hit[name, state] += 1

    def _picked(self, subject: str, detail: str | bytes = "") -> FaultRule | None:
        rule: FaultRule | None = self._pick(subject, detail)
        if rule is not None:
            self.count(self._names.get(id(rule), "F?"))
        return rule

    # ------------------------------------------------------------------ running

    async def run(self, seconds: float) -> None:
        """Let faults happen for so long, then heal everything."""
        end = self.world.loop.now_ns + round(seconds * NS)
        weights = [weight for _, weight, _ in self._choices]
        while True:
            wait_s = self.rng.expovariate(1 / self.gap_s)
            left_s = (end - self.world.loop.now_ns) / NS
            await asyncio.sleep(min(wait_s, max(left_s, 0.0)))
            if wait_s >= left_s:
                break
            name, _, fault = self.rng.choices(self._choices, weights)[0]
            self.world.note("chaos", name)
            work = fault(self, self.rng)
            if work is not None:
                task = asyncio.get_running_loop().create_task(work)
                self._lasting.add(task)
                task.add_done_callback(self._lasting.discard)
        await self.heal()

    async def heal(self) -> None:
        """Lift every fault; a dead daemon is alive again after this."""
        for task in tuple(self._lasting):
            task.cancel()
        world = self.world
        world.exchange.faults.clear()
        weather = world.network.weather
        weather.base_s, weather.jitter_s, weather.refusing = 0.002, 0.006, False
        weather.swallowing.clear()
        for pipe in world.network.pipes.values():
            pipe.frozen_until_ns = 0
        world.disk.slow_s, world.disk.late, world.disk.crash = 0.0, False, None
        world.clock.offset_ns = 0
        world.exchange.venue.offset_ms = 0
        desk = world.exchange.venue.desk
        desk.status[:] = ["TRADING"] * len(desk.status)
        desk.fee_asset, desk.fee_rate = None, world.exchange.config.fee_rate
        for order in [one for one in world.exchange.books.orders if one.external and one.is_open]:
            desk.expire(order)
        if world.life is not None:
            spoil(world.life.service.ledger, "")
        else:
            world.begin()
        world.note("healed")

    # ------------------------------------------------------------------ tools of the faults

    def rule(self, name: str, match: str, action: Action, **more: Any) -> None:
        """Script a fault of the exchange; it counts when it fires."""
        rule = FaultRule(match=match, action=action, seed=self.rng.randrange(10**9), **more)
        self._names[id(rule)] = name
        self._kept.append(rule)
        self.world.exchange.faults.add(rule)

    def clear_rules(self) -> None:
        """Lift the scripted faults."""
        self.world.exchange.faults.clear()


# ---------------------------------------------------------------------------------------------- faults of the exchange


def _order(name: str, action: Action, **fixed: Any) -> Fault:
    """Return a fault of one to three order requests."""

    def fault(chaos: Chaos, rng: random.Random) -> Work:
        more = dict(fixed)
        if action in {Action.LATE, Action.DELAY_AFTER, Action.DELAY}:
            more["seconds"] = rng.uniform(0.2, 9.0)
        chaos.rule(name, ORDER, action, times=rng.randint(1, 3), **more)
        return None

    return fault


def _spoiled(chaos: Chaos, rng: random.Random) -> Work:
    action = rng.choice((Action.EMPTY, Action.HTML, Action.BROKEN, Action.REPLACE))
    text = rng.choice(("{}", "[]", '{"orderId":null}', "null")) if action is Action.REPLACE else ""
    chaos.rule(
        "F5", rng.choice((ORDER, ORDER, QUERY, CANCEL, "GET /api/v3/*")), action, times=rng.randint(1, 3), text=text
    )
    return None


def _uncertain(chaos: Chaos, rng: random.Random) -> Work:
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


def _definite(chaos: Chaos, rng: random.Random) -> Work:
    code, msg = rng.choice(
        ((-2010, "Account has insufficient balance for requested action."), (-2010, "Market is closed."),
         (-1013, "Filter failure: LOT_SIZE"), (-1021, "Timestamp for this request is outside of the recvWindow."))
    )  # fmt: skip
    chaos.rule("1.1 definite code", ORDER, Action.ERROR, code=code, msg=msg, status=400, times=1)
    return None


async def _outage(chaos: Chaos, rng: random.Random) -> None:
    """Errors of the whole interface for a while (F8, F10)."""
    status = rng.choice((500, 502, 503, 403))
    action = Action.HTML if status in {403, 502} else Action.ERROR
    name = "F10" if status == 403 else "F8"
    chaos.rule(name, "* /api/*", action, status=status, code=-1000, times=0, handle=False)
    await asyncio.sleep(rng.uniform(1, 40))
    chaos.clear_rules()


def _busy(chaos: Chaos, rng: random.Random) -> Work:
    status = rng.choice((429, 429, 418))
    match = rng.choice((ORDER, QUERY, "GET /api/v3/account", "GET /api/v3/*", CANCEL))
    wait = rng.randint(1, 20)
    chaos.rule(
        "F9", match, Action.ERROR, status=status, code=-1003, headers={"Retry-After": str(wait)}, times=1, handle=False
    )
    return None


def _hidden(chaos: Chaos, rng: random.Random) -> Work:
    chaos.rule("F33", QUERY, Action.ERROR, code=-2013, msg="Order does not exist.", status=400, times=rng.randint(1, 8))
    return None


def _omitted(chaos: Chaos, rng: random.Random) -> Work:
    path = rng.choice(("openOrders", "allOrders", "myTrades"))
    chaos.rule("F34", f"GET /api/v3/{path}", Action.OMIT, share=rng.choice((0.3, 1.0)), times=rng.randint(1, 3))
    return None


def _cancel(chaos: Chaos, rng: random.Random) -> Work:
    if rng.random() < 0.5:
        chaos.rule(
            "F36", CANCEL, Action.ERROR, code=-2011, msg="Unknown order sent.", status=400, times=rng.randint(1, 3)
        )
    else:
        action = rng.choice((Action.HANG_AFTER, Action.CUT_AFTER, Action.DROP, Action.EMPTY))
        chaos.rule("F36", CANCEL, action, times=rng.randint(1, 3))
    return None


def _frames(name: str, match: str, actions: tuple[Action, ...], **fixed: Any) -> Fault:
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


def _poison(chaos: Chaos, rng: random.Random) -> Work:
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


def _garbage(chaos: Chaos, rng: random.Random) -> Work:
    frame = rng.choice((b"", b"{", b"\xff\xfe", b"[" * 500, b'{"stream":"x","data":{}}', b'{"e":"serverShutdown"}'))
    kind = rng.choice(("market", "user"))
    if chaos.world.exchange.push(kind, frame):
        chaos.count("F28")
    return None


# ---------------------------------------------------------------------------------------------- faults of the network


async def _slow(chaos: Chaos, rng: random.Random) -> None:
    weather = chaos.world.network.weather
    weather.base_s, weather.jitter_s = rng.uniform(0.05, 1.0), rng.uniform(0.0, 2.0)
    chaos.count("F17")
    await asyncio.sleep(rng.uniform(3, 30))
    weather.base_s, weather.jitter_s = 0.002, 0.006


async def _refuse(chaos: Chaos, rng: random.Random) -> None:
    chaos.world.network.weather.refusing = True
    chaos.world.network.cut("http")
    chaos.count("F11")
    await asyncio.sleep(rng.uniform(0.5, 20))
    chaos.world.network.weather.refusing = False


async def _partition(chaos: Chaos, rng: random.Random) -> None:
    kinds = rng.choice((("http",), ("ws",), ("user",), ("ws", "user"), ("http", "ws", "user")))
    swallowing = chaos.world.network.weather.swallowing
    swallowing.update(kinds)
    chaos.count("F16")
    await asyncio.sleep(rng.uniform(1, 40))
    swallowing.difference_update(kinds)


def _cut(chaos: Chaos, rng: random.Random) -> Work:
    kind = rng.choice(("ws", "user", "http", ""))
    if chaos.world.network.cut(kind):
        chaos.count("F3 reset" if kind == "http" else "F13")
    return None


def _freeze(chaos: Chaos, rng: random.Random) -> Work:
    kind = rng.choice(("ws", "user", "http"))
    if chaos.world.network.freeze(kind, rng.uniform(1, 40)):
        chaos.count("F12")
    return None


def _redial(chaos: Chaos, rng: random.Random) -> Work:
    chaos.rule("F14", "connect *", Action.ERROR, status=rng.choice((429, 503)), times=rng.randint(1, 4))
    chaos.world.network.cut(rng.choice(("ws", "user")))
    return None


# ---------------------------------------------------------------------------------------------- faults of machine and market


def _kill9(chaos: Chaos, rng: random.Random) -> Work:
    """Kill at once, or in the middle of the ledger's next work."""
    if rng.random() < 0.5:
        chaos.count("F43")
        return chaos.world.restart(rng.choice((0.05, 1.0, 10.0)))

    def crash() -> None:
        chaos.count("F43 in a write")
        asyncio.get_running_loop().create_task(chaos.world.restart(1.0), context=chaos.world.own)

    chaos.world.disk.crash = crash
    return None


async def _spoilt(chaos: Chaos, rng: random.Random) -> None:
    life = chaos.world.life
    if life is None or not spoil(life.service.ledger, rng.choice(("full", "readonly"))):
        return
    chaos.count("F48")
    await asyncio.sleep(rng.uniform(0.5, 20))
    if chaos.world.life is life:
        spoil(life.service.ledger, "")


async def _slow_disk(chaos: Chaos, rng: random.Random) -> None:
    disk = chaos.world.disk
    disk.slow_s, disk.late = rng.choice((0.1, 0.5, 5.0)), rng.random() < 0.5
    chaos.count("F49")
    await asyncio.sleep(rng.uniform(0.5, 15))
    disk.slow_s, disk.late = 0.0, False


async def _wall(chaos: Chaos, rng: random.Random) -> None:
    """Set our clock wrong, or the venue's (F47, F27)."""
    step_s = rng.choice((-2.0, -0.7, 0.7, 2.0, 30.0, -30.0, 3_600.0))
    chaos.count("F47")
    if rng.random() < 0.5:
        chaos.world.clock.offset_ns += round(step_s * NS)
        await asyncio.sleep(rng.uniform(1, 60))
        chaos.world.clock.offset_ns = 0
    else:
        chaos.world.exchange.venue.offset_ms = round(max(-2.0, min(2.0, step_s)) * 1000)
        await asyncio.sleep(rng.uniform(1, 60))
        chaos.world.exchange.venue.offset_ms = 0


def _blocked(chaos: Chaos, rng: random.Random) -> Work:
    """Let time pass without anybody doing anything: the loop blocked, or the machine asleep (F45, F52)."""
    chaos.count("F52")
    chaos.world.loop.clockwork.now_ns += round(rng.choice((0.5, 3.0, 30.0)) * NS)
    return None


def _worker(chaos: Chaos, rng: random.Random) -> Work:
    life = chaos.world.life
    if life is not None:
        worker: Any = life.service.worker
        worker.fail()
        chaos.count("worker dies")
    return None


async def _halted(chaos: Chaos, rng: random.Random) -> None:
    desk = chaos.world.exchange.venue.desk
    index = rng.randrange(len(SYMBOLS))
    desk.status[index] = rng.choice(("HALT", "BREAK"))
    chaos.count("F26")
    await asyncio.sleep(rng.uniform(2, 30))
    desk.status[index] = "TRADING"


def _ended(chaos: Chaos, rng: random.Random) -> Work:
    """Let the exchange cancel or expire an order of ours (F39)."""
    venue = chaos.world.exchange.venue
    orders = [one for one in venue.books.orders if one.is_open and not one.external]
    if orders:
        order = rng.choice(orders)
        if rng.random() < 0.5:
            venue.desk.expire(order)
        else:
            venue.desk.cancel(order.index, order.order_id, None, cancel_id=venue.client_id())
        chaos.count("F39")
    return None


async def _fees(chaos: Chaos, rng: random.Random) -> None:
    desk = chaos.world.exchange.venue.desk
    desk.fee_rate = Decimal(rng.choice(("0", "0.00075", "0.001")))
    chaos.count("F40")
    await asyncio.sleep(rng.uniform(5, 60))
    desk.fee_rate = chaos.world.exchange.config.fee_rate


def _crash(chaos: Chaos, rng: random.Random) -> Work:
    chaos.world.exchange.market.crash(rng.randrange(len(SYMBOLS)), rng.choice((0.93, 0.97, 1.04)))
    chaos.count("F42")
    return None


def _stranger(chaos: Chaos, rng: random.Random) -> Work:
    """Let somebody else rest an order on the account, far from the market (F38)."""
    venue = chaos.world.exchange.venue
    index = rng.randrange(len(SYMBOLS))
    spec, last = venue.desk.specs[index], venue.market.last[index]
    if last is None:
        return None
    price = (Decimal(last.price) * spec.tick * Decimal("0.8")).quantize(spec.tick)
    qty = (Decimal(50) / price).quantize(spec.lot)
    params = {
        "symbol": spec.name,
        "side": "BUY",
        "type": "LIMIT",
        "timeInForce": "GTC",
        "price": str(price),
        "quantity": str(qty),
    }
    if venue.books.balance("USDT").free > 2 * price * qty:
        with contextlib.suppress(ApiError):
            venue.desk.place(ticket_of(venue, params), external=True)
            chaos.count("F38")
    return None


def _by_hand(chaos: Chaos, rng: random.Random) -> Work:
    """Let somebody else trade, deposit or withdraw on the account (F38); shares of equity mean nothing after that."""
    venue = chaos.world.exchange.venue
    life = chaos.world.life
    if life is None or not life.engine.state.reconciled_ns:
        return None  # what is there at a first start is the opening balance
    index = rng.randrange(len(SYMBOLS))
    spec, last = venue.desk.specs[index], venue.market.last[index]
    chaos.checks.sloppy_limits = True
    if last is None or rng.random() < 0.5:
        free = venue.books.balance("USDT").free
        amount = Decimal(rng.choice((100, 1_000, -50)))
        if free > 500:
            chaos.world.exchange.users.deposit("USDT", amount)
            chaos.count("F38 deposit")
        return None
    qty = (Decimal(60) / (last.price * spec.tick)).quantize(spec.lot)
    side = "SELL" if venue.books.balance(spec.base).free > qty and rng.random() < 0.5 else "BUY"
    if side == "SELL" or venue.books.balance("USDT").free > 200:
        params = {"symbol": spec.name, "side": side, "type": "MARKET", "quantity": str(qty)}
        with contextlib.suppress(ApiError):  # the symbol is halted just now
            venue.desk.place(ticket_of(venue, params), external=True)
            chaos.count("F38 trade")
    return None


async def _kill_switch(chaos: Chaos, rng: random.Random) -> None:
    """Kill, wait, lift the latch and resume (A1, I7)."""
    world = chaos.world
    life = world.life
    if life is None or life.started is None or not life.started.done():
        return
    chaos.count("A1 kill")
    chaos.checks.killed_ns = world.loop.now_ns
    world.command(Command.KILL)
    await asyncio.sleep(rng.uniform(1, 15))
    (world.folder / "var" / "KILL").unlink(missing_ok=True)
    chaos.checks.killed_ns = None
    await asyncio.sleep(0.2)
    world.command(Command.RESUME)


FAULTS: Final[tuple[tuple[str, float, Fault], ...]] = (
    ("F1", 2, _order("F1", Action.DROP)),
    ("F2", 2, _order("F2", Action.HANG_AFTER)),
    ("F3", 2, _order("F3", Action.CUT_AFTER)),
    ("F3b", 1, _order("F3 before", Action.CUT)),
    ("F4", 2, _order("F4", Action.TRUNCATE)),
    ("F5", 2, _spoiled),
    ("F6", 1, _order("F6", Action.SLOW, seconds=30.0)),
    ("F7", 2, _order("F7", Action.LATE)),
    ("F8", 2, _outage),
    ("F9", 2, _busy),
    ("F11", 1, _refuse),
    ("F12", 2, _freeze),
    ("F13", 2, _cut),
    ("F13c", 1, _frames("F13", "frame *", (Action.CLOSE,), times=1)),
    ("F14", 1, _redial),
    ("F16", 2, _partition),
    ("F17", 1, _slow),
    ("F19", 1, _frames("F19", "frame *@aggTrade", (Action.SKIP,))),
    ("F20", 1, _frames("F20", "frame *@aggTrade", (Action.DUPLICATE,))),
    ("F21", 1, _frames("F21", "frame *@aggTrade", (Action.REORDER,))),
    ("F22", 1, _frames("F22", "frame *", (Action.HOLD, Action.DELAY), times=1)),
    ("F23", 1, _frames("F23", "frame *", (Action.STALL, Action.FREEZE), times=1)),
    ("F24", 1, _poison),
    ("F26", 1, _halted),
    ("F28", 1, _garbage),
    ("F30", 2, _order("F30", Action.DELAY_AFTER)),
    ("F30u", 1, _frames("F30", "user *", (Action.REORDER,))),
    ("F31", 1, _frames("F31", "user executionReport", (Action.DUPLICATE,))),
    ("F32", 2, _frames("F32", "user executionReport", (Action.SKIP,))),
    ("F12u", 1, _frames("F12", "user *", (Action.STALL, Action.FREEZE, Action.HOLD, Action.CORRUPT), times=1)),
    ("F33", 2, _hidden),
    ("F34", 1, _omitted),
    ("F36", 1, _cancel),
    ("F38", 1, _stranger),
    ("F38h", 0.7, _by_hand),
    ("F39", 1, _ended),
    ("F40", 1, _fees),
    ("F42", 1, _crash),
    ("F43", 2, _kill9),
    ("F47", 1, _wall),
    ("F48", 1, _spoilt),
    ("F49", 1, _slow_disk),
    ("F52", 1, _blocked),
    ("worker", 0.5, _worker),
    ("codes", 2, _uncertain),
    ("refusals", 1, _definite),
    ("kill", 0.7, _kill_switch),
)
