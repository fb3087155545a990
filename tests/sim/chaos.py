"""Seeded faults: which, when, how long; each counted with the states of the orders it hit (FAULTS section 4)."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from daemon.exchange.faults import Action, FaultRule
from tests.sim.disk import spoil
from tests.sim.invariants import Checks
from tests.sim.loop import NS
from tests.sim.world import World

GAPS_S: Final = (2.5, 7.0, 15.0)
"""Mean times between two faults, one per seed."""

Work = Coroutine[Any, Any, None] | None
Fault = Callable[["Chaos", random.Random], Work]
Choice = tuple[str, float, Fault]
"""Name, weight, what happens."""


class Chaos:
    """Lets faults happen to one world until it is told to heal it."""

    def __init__(self, world: World, checks: Checks, faults: Sequence[Choice]) -> None:
        self.world, self.checks = world, checks
        self.rng = world.chance.of("chaos")
        self.fired: Counter[str] = Counter()
        self.hit: Counter[tuple[str, str]] = Counter()
        """(fault, order state) pairs that met."""
        self._names: dict[int, str] = {}
        self._kept: list[FaultRule] = []  # their identity names their fault
        self._lasting: set[asyncio.Task[None]] = set()
        self.gap_s = self.rng.choice(GAPS_S)
        self._choices = tuple(faults)
        book: Any = world.exchange.faults
        self._pick = book.pick
        book.pick = self._picked

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
