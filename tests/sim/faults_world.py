"""Faults of everything else: network, disk, clocks, process, market, and other people."""

import asyncio
import contextlib
import random
from decimal import Decimal
from typing import Any

from daemon.domain.events import Action as Command
from daemon.exchange.errors import ApiError
from daemon.exchange.faults import Action
from daemon.exchange.rest_account import ticket_of
from tests.sim.chaos import Chaos, Work
from tests.sim.disk import spoil
from tests.sim.loop import NS
from tests.sim.world import SYMBOLS


async def slow(chaos: Chaos, rng: random.Random) -> None:
    weather = chaos.world.network.weather
    weather.base_s, weather.jitter_s = rng.uniform(0.05, 1.0), rng.uniform(0.0, 2.0)
    chaos.count("F17")
    await asyncio.sleep(rng.uniform(3, 30))
    weather.base_s, weather.jitter_s = 0.002, 0.006


async def refuse(chaos: Chaos, rng: random.Random) -> None:
    chaos.world.network.weather.refusing = True
    chaos.world.network.cut("http")
    chaos.count("F11")
    await asyncio.sleep(rng.uniform(0.5, 20))
    chaos.world.network.weather.refusing = False


async def partition(chaos: Chaos, rng: random.Random) -> None:
    kinds = rng.choice((("http",), ("ws",), ("user",), ("ws", "user"), ("http", "ws", "user")))
    swallowing = chaos.world.network.weather.swallowing
    swallowing.update(kinds)
    chaos.count("F16")
    await asyncio.sleep(rng.uniform(1, 40))
    swallowing.difference_update(kinds)


def cut(chaos: Chaos, rng: random.Random) -> Work:
    kind = rng.choice(("ws", "user", "http", ""))
    if chaos.world.network.cut(kind):
        chaos.count("F3 reset" if kind == "http" else "F13")
    return None


def freeze(chaos: Chaos, rng: random.Random) -> Work:
    kind = rng.choice(("ws", "user", "http"))
    if chaos.world.network.freeze(kind, rng.uniform(1, 40)):
        chaos.count("F12")
    return None


def redial(chaos: Chaos, rng: random.Random) -> Work:
    chaos.rule("F14", "connect *", Action.ERROR, status=rng.choice((429, 503)), times=rng.randint(1, 4))
    chaos.world.network.cut(rng.choice(("ws", "user")))
    return None


def kill9(chaos: Chaos, rng: random.Random) -> Work:
    """Kill at once, or in the middle of the ledger's next work."""
    if rng.random() < 0.5:
        chaos.count("F43")
        return chaos.world.restart(rng.choice((0.05, 1.0, 10.0)))

    def crash() -> None:
        chaos.count("F43 in a write")
        asyncio.get_running_loop().create_task(chaos.world.restart(1.0), context=chaos.world.own)

    chaos.world.disk.crash = crash
    return None


async def spoilt(chaos: Chaos, rng: random.Random) -> None:
    life = chaos.world.life
    if life is None or not spoil(life.service.ledger, rng.choice(("full", "readonly"))):
        return
    chaos.count("F48")
    await asyncio.sleep(rng.uniform(0.5, 20))
    if chaos.world.life is life:
        spoil(life.service.ledger, "")


async def slow_disk(chaos: Chaos, rng: random.Random) -> None:
    disk = chaos.world.disk
    disk.slow_s, disk.late = rng.choice((0.1, 0.5, 5.0)), rng.random() < 0.5
    chaos.count("F49")
    await asyncio.sleep(rng.uniform(0.5, 15))
    disk.slow_s, disk.late = 0.0, False


async def wall(chaos: Chaos, rng: random.Random) -> None:
    """Set our clock wrong, or the venue's (F47, F27); never both at once: then nobody could know the time."""
    if chaos.world.clock.offset_ns or chaos.world.exchange.venue.offset_ms:
        return
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


def blocked(chaos: Chaos, rng: random.Random) -> Work:
    """Let time pass without anybody doing anything: the loop blocked, or the machine asleep (F45, F52)."""
    chaos.count("F52")
    chaos.world.loop.clockwork.now_ns += round(rng.choice((0.5, 3.0, 30.0)) * NS)
    return None


def worker_dies(chaos: Chaos, rng: random.Random) -> Work:
    life = chaos.world.life
    if life is not None:
        worker: Any = life.service.worker
        worker.fail()
        chaos.count("worker dies")
    return None


async def halted(chaos: Chaos, rng: random.Random) -> None:
    desk = chaos.world.exchange.venue.desk
    index = rng.randrange(len(SYMBOLS))
    desk.status[index] = rng.choice(("HALT", "BREAK"))
    chaos.count("F26")
    await asyncio.sleep(rng.uniform(2, 30))
    desk.status[index] = "TRADING"


def ended(chaos: Chaos, rng: random.Random) -> Work:
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


async def fees(chaos: Chaos, rng: random.Random) -> None:
    desk = chaos.world.exchange.venue.desk
    desk.fee_rate = Decimal(rng.choice(("0", "0.00075", "0.001")))
    chaos.count("F40")
    await asyncio.sleep(rng.uniform(5, 60))
    desk.fee_rate = chaos.world.exchange.config.fee_rate


def crash(chaos: Chaos, rng: random.Random) -> Work:
    chaos.world.exchange.market.crash(rng.randrange(len(SYMBOLS)), rng.choice((0.93, 0.97, 1.04)))
    chaos.count("F42")
    return None


def stranger(chaos: Chaos, rng: random.Random) -> Work:
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


def by_hand(chaos: Chaos, rng: random.Random) -> Work:
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


async def kill_switch(chaos: Chaos, rng: random.Random) -> None:
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
