"""One simulation from its seed: chaos, healing, quiet, judgement."""

import asyncio
import gc
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from daemon.domain.events import Action, TradingState
from tests.sim.chaos import Chaos
from tests.sim.faults import FAULTS
from tests.sim.invariants import Checks
from tests.sim.loop import NS, SimClock, SimLoop, StuckError
from tests.sim.stage import Chance, Scribe, staged
from tests.sim.world import Plan, World

RESUMED_S = 60.0
"""I16: so long after the last fault normal trading has resumed."""
PROVEN_S = 100.0
"""And so long after it the fate of every order is known: NEVER_PLACED takes 75 s."""
QUIET_POLLS = 20
"""Half seconds for which trading may be on its way back at the end of that minute."""
CANCELLED_S = 5.0
QUIET_S = 40.0
BUGS = frozenset({"task failed", "job failed", "ledger.row_refused", "reconcile.second_writer"})


class Outcome(msgspec.Struct, kw_only=True):
    """What one seed came to."""

    seed: int
    minutes: float
    plan: Plan
    digest: str
    found: list[str]
    fired: dict[str, int]
    hit: dict[str, int]
    orders: int
    fills: int
    lives: int
    notes: dict[str, int]
    cpu_s: float
    virtual_s: float

    @property
    def again(self) -> str:
        """Return the line that reproduces it."""
        return f".venv/bin/python -m tests.sim --seed {self.seed} --minutes {self.minutes:g}"


def memory_folder() -> str | None:
    """Return a folder in memory where the system has one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def simulate(
    seed: int, minutes: float, *, faults: bool = True, only: tuple[str, ...] = (), log: bool = False
) -> Outcome:
    """Run one world; the same arguments give the same event log."""
    began = time.process_time()
    loop = SimLoop()
    clock, chance = SimClock(loop), Chance(seed)
    with tempfile.TemporaryDirectory(dir=memory_folder(), prefix="ballast-sim-") as name:
        folder = Path(name)
        with staged(loop, clock, chance, folder) as scribe:
            asyncio.set_event_loop(loop)
            try:
                outcome = _simulate(
                    World(loop, clock, chance, folder=folder, seed=seed), scribe, minutes, (faults, only)
                )
            finally:
                gc.enable()  # a killed daemon gives nothing back
                gc.collect()  # here, where finalisers still know that nothing is left to close
                asyncio.set_event_loop(None)
                loop.close()
        if log:
            for at, level, line in scribe.lines:
                print(f"{at / NS:10.3f} {level:8} {line.pop('event', '')} {line}")
    outcome.cpu_s = time.process_time() - began
    return outcome


def _simulate(world: World, scribe: Scribe, minutes: float, chaos_of: tuple[bool, tuple[str, ...]]) -> Outcome:
    checks = Checks(world)
    chaos = Chaos(world, checks, [one for one in FAULTS if not chaos_of[1] or one[0] in chaos_of[1]])
    loop = world.loop
    loop.set_exception_handler(world.trouble)
    try:
        loop.run_until_complete(_run(world, checks, chaos if chaos_of[0] else None, minutes))
    except StuckError as error:
        checks.fail("I16", str(error))
    except Exception as error:  # noqa: BLE001 - a fault of the simulation is a result too: it must not end the night
        checks.fail("simulation", f"{type(error).__name__}: {error}")
    finally:
        checks.close()
    for at, _, line in scribe.lines:
        if line.get("event") in BUGS:
            checks.fail("I17", f"{at / NS:.3f} s: {line}"[:500])
    books = world.exchange.books
    return Outcome(
        seed=world.seed,
        minutes=minutes,
        plan=world.plan,
        digest=world.digest,
        found=checks.found,
        fired=dict(chaos.fired),
        hit={f"{fault} × {state}": count for (fault, state), count in sorted(chaos.hit.items())},
        orders=len([order for order in books.orders if not order.external]),
        fills=len(books.fills),
        lives=world.lives,
        notes=dict(world.counts + Counter(f"log {line['event']}" for _, _, line in scribe.lines)),
        cpu_s=0.0,
        virtual_s=world.passed_s(),
    )


async def _run(world: World, checks: Checks, chaos: Chaos | None, minutes: float) -> None:
    await world.open()
    world.begin()
    try:
        if chaos is None:
            await world.sleep(60 * minutes)
        else:
            await chaos.run(60 * minutes)
        await _heal(world, checks)
        await _settle(world, checks)
    finally:
        await world.close()
    checks.final()


async def _heal(world: World, checks: Checks) -> None:
    """Wait until trading must have resumed, lift what only a person lifts, wait until every fate is known."""
    checks.killed_ns = None
    (world.folder / "var" / "KILL").unlink(missing_ok=True)
    await world.sleep(RESUMED_S)
    engine = _engine(world)
    if engine is None:
        checks.fail("I16", "no daemon is running a minute after the last fault")
        return
    for cause in engine.state.causes.latched():
        world.counts[f"latched {cause}"] += 1
    if engine.state.causes.latched() or engine.state.paused:
        world.command(Action.RESUME)
        await world.sleep(2.0)
    for _ in range(QUIET_POLLS):  # at any one moment a thin market may just have been silent for three seconds
        if engine.state.trading is TradingState.ACTIVE:
            break
        await world.sleep(0.5)
    else:
        checks.fail("I16", f"{engine.state.trading} {engine.state.causes.names} a minute after the last fault")
    await world.sleep(PROVEN_S - RESUMED_S)
    engine = _engine(world)
    last = engine.decisions.last if engine is not None else None
    if engine is None or last is None:
        checks.fail("I16", "no decision since the last fault")
    elif engine.state.now_ns - last.close_ns > 40 * NS:
        checks.fail(
            "I16", f"the last decision is {(engine.state.now_ns - last.close_ns) / NS:.0f} s old: {last.outcome}"
        )
    if engine is not None:
        waiting = [o for o in engine.state.blotter.live.values() if o.state in {"sending", "unknown", "resolving"}]
        old = [o for o in waiting if engine.state.now_ns - o.intent.ts_ns > 20 * NS]
        for order in old:
            checks.fail("I16", f"{order.intent.client_id} is {order.state} {PROVEN_S:.0f} s after the last fault")


async def _settle(world: World, checks: Checks) -> None:
    """Kill by the switch: every order must end; then let ledger and exchange agree."""
    checks.killed_ns = world.loop.now_ns
    world.command(Action.KILL)
    await world.sleep(CANCELLED_S)
    for order in world.exchange.books.orders:
        if order.is_open and not order.external:
            checks.fail("I7", f"{order.client_id} is still {order.status} {CANCELLED_S:.0f} s after the kill")
    await world.sleep(QUIET_S)
    engine = _engine(world)
    if engine is not None and (not engine.state.reconciled_ns or engine.state.breaks):
        checks.fail("I9", f"reconciliation does not agree: {engine.state.breaks} breaks")
    sent = checks.sends
    await world.sleep(1.0)
    if checks.sends != sent:
        checks.fail("I7", "orders leave although killed")


def _engine(world: World) -> Any:
    return world.life.engine if world.life is not None else None
