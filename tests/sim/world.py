"""One simulated world: an exchange that goes on for ever, and a daemon that lives, dies and lives again."""

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Callable
from contextvars import copy_context
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from daemon.core.engine import Engine
from daemon.domain.errors import BallastError
from daemon.domain.events import Action, Effect
from daemon.exchange.config import ApiKey, SimConfig
from daemon.exchange.server import SimulatedExchange
from daemon.service.lifecycle import Service
from daemon.settings import load_settings
from tests.sim.disk import SimDisk
from tests.sim.loop import NS, SIDE, START_NS, SimClock, SimLoop
from tests.sim.net import Network
from tests.sim.stage import Chance

SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT")
RESTLESS = "tests.sim.strategy:Restless"
EWMA = "strategies.forecast_optimise:ForecastOptimise"
RESTART_S = 1.0
"""How long after its death the daemon starts again, at least."""
DEATH_ROUNDS = 200

ENCODE = msgspec.msgpack.Encoder(decimal_format="string").encode


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What one seed decides besides its faults."""

    bar: str
    strategy: str
    order: str
    touch: float
    cash: Decimal
    trades_per_s: float


def plan_of(rng: random.Random) -> Plan:
    """Draw the plan of a world."""
    return Plan(
        bar=rng.choice(("5s", "5s", "1s")),
        strategy=rng.choice((RESTLESS, RESTLESS, EWMA)),
        order=rng.choice(("ioc", "limit")),
        touch=rng.choice((500.0, 3_000.0, 20_000.0)),
        cash=Decimal(rng.choice((10_000, 100_000))),
        trades_per_s=rng.choice((0.5, 1.0, 2.0)),
    )


def write_settings(folder: Path, plan: Plan, *, port: int, seed: int) -> Path:
    """Write the daemon's configuration; its key is this world's alone."""
    (folder / "key").write_text(f"sim-{seed}")
    (folder / "secret").write_text("sim-secret")
    for name in ("key", "secret"):
        (folder / name).chmod(0o600)
    names = ", ".join(f'"{symbol}"' for symbol in SYMBOLS)
    file = folder / "ballast.toml"
    file.write_text(
        f"""
mode = "live"
live_confirm = "main"
universe = [{names}]
bar = "{plan.bar}"
strategy = "{plan.strategy}"
state_dir = "{folder / "var"}"
[exchange]
rest_url = "http://127.0.0.1:{port}"
ws_url = "ws://127.0.0.1:{port}"
api_key_file = "{folder / "key"}"
api_secret_file = "{folder / "secret"}"
[feed]
backfill_bars = 120
grace_ms = 300
[forecast]
model = "ewma"
shrink = "none"
horizon_bars = 5
[optimizer]
fully_invested = true
cost_bps = 0.0
turnover_max_day = 1000.0
[execution]
order = "{plan.order}"
[risk]
max_weight = 0.34
max_order_notional = 0.05
cvar_limit = 1.0
stop_loss = 0.05
trailing_stop = 0.09
stop_cooldown = "1m"
max_daily_loss = 0.5
max_drawdown = 0.6
[ui]
listen = ""
"""
    )
    return file


class Life:
    """One life of the daemon, from its start to its death."""

    def __init__(self, number: int, service: Service) -> None:
        self.number = number
        self.side = f"daemon {number}"
        self.service = service
        self.started: asyncio.Task[None] | None = None

    @property
    def engine(self) -> Engine:
        """Return its engine."""
        return self.service.engine

    @property
    def venue(self) -> Any:
        """Return where its orders go, None before it got that far."""
        return self.service.venue


class World:
    """Everything one simulation consists of.

    Attributes
    ----------
    exchange, network, disk, clock
        The surroundings.
    life
        The present life of the daemon, None while it is dead.
    births
        Called with each life before it starts; checks and traces attach themselves there.
    """

    def __init__(self, loop: SimLoop, clock: SimClock, chance: Chance, *, folder: Path, seed: int) -> None:
        self.loop, self.clock, self.chance, self.folder, self.seed = loop, clock, chance, folder, seed
        self.plan = plan_of(chance.of("plan"))
        self.network = loop.network = Network(loop, chance.of("network"))
        self.disk = loop.disk = SimDisk(loop, chance.of("disk"))
        self.exchange = SimulatedExchange(
            SimConfig(
                seed=seed,
                symbols=len(SYMBOLS),
                bar_s=int(self.plan.bar[:-1]),
                history_bars=240,
                trades_per_s=self.plan.trades_per_s,
                touch_notional=self.plan.touch,
                book_levels=6,
                volatility_bar=0.002,
                start_ns=START_NS,
                keys=(ApiKey(key=f"sim-{seed}", secret="sim-secret"),),
                balances=(("USDT", self.plan.cash),),
            ),
            clock.true_ns,
        )
        self.lives = 0
        self.life: Life | None = None
        self.births: list[Callable[[Life], None]] = []
        self.counts: Counter[str] = Counter()
        self.troubles: list[str] = []
        """What must never happen in the daemon, as the loop and the supervisor report it."""
        self._trace = hashlib.sha256()
        self.settings_file = Path()
        self.own = copy_context()
        """The world's context: what is started in it does not die with the daemon."""

    # ------------------------------------------------------------------ the trace

    def note(self, *what: Any) -> None:
        """Add something that happened to the event log whose hash names this run."""
        self._trace.update(ENCODE((self.loop.now_ns, *what)))

    @property
    def digest(self) -> str:
        """Return the hash of the event log so far."""
        return self._trace.hexdigest()

    # ------------------------------------------------------------------ life and death

    async def open(self) -> None:
        """Start the exchange."""
        port = await self.exchange.start(18_080)
        self.settings_file = write_settings(self.folder, self.plan, port=port, seed=self.seed)

    def begin(self) -> Life:
        """Start the daemon: another life on the same ledger."""
        assert self.life is None
        self.lives += 1
        settings = load_settings([self.settings_file], env={})
        token = SIDE.set(f"daemon {self.lives}")
        try:
            life = Life(self.lives, Service(settings))
            life.service.watch_also(self._see)
            for attach in self.births:
                attach(life)
            life.started = self.loop.create_task(life.service.start(), name=f"start {self.lives}")
        finally:
            SIDE.reset(token)
        life.started.add_done_callback(lambda task: self._started(life, task))
        self.life = life
        self.note("begin", self.lives)
        return life

    def _started(self, life: Life, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            return
        error = task.exception()
        self.note("exit", type(error).__name__)
        if isinstance(error, BallastError):
            self.counts[f"exit {type(error).__name__}"] += 1
        else:
            self.troubles.append(f"start {life.number} ended with {error!r}")
        if self.life is life:
            self.loop.call_soon(self.loop.create_task, self.restart(5.0))

    def _see(self, effect: Effect) -> None:
        self.note(type(effect).__name__, effect)

    async def kill(self) -> None:
        """End the daemon as SIGKILL does: nothing it still wanted to do is done."""
        life, self.life = self.life, None
        if life is None:
            return
        self.note("kill", life.number)
        self.network.bury(life.side)
        life.service.ledger._store.close()  # the kernel closes files and lets go of locks
        self.loop.bury(life.side)
        for _ in range(DEATH_ROUNDS):
            if not self.loop.bury(life.side):
                return
            await asyncio.sleep(0)
        names = sorted(task.get_name() for task in self.loop.bury(life.side))
        self.troubles.append(f"tasks outlive a kill: {names}")

    async def restart(self, after_s: float = RESTART_S) -> None:
        """Kill the daemon if it lives, and start it again after a while."""
        await self.kill()
        await asyncio.sleep(after_s)
        if self.life is None:
            self.begin()

    def command(self, action: Action) -> None:
        """Give an operator's command, in the daemon's own context."""
        if self.life is not None and self.life.started is not None and self.life.started.done():
            token = SIDE.set(self.life.side)
            try:
                self.life.service.command(action, "sim")
            finally:
                SIDE.reset(token)

    # ------------------------------------------------------------------ the end

    async def close(self) -> None:
        """End everything."""
        await self.kill()
        await self.exchange.stop()
        for _ in range(DEATH_ROUNDS):
            others = [
                task for tasks in self.loop.owned.values() for task in tasks if task is not asyncio.current_task()
            ]
            if not others:
                break
            for task in others:
                task.cancel()
            await asyncio.sleep(0)

    def trouble(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Take what nobody else caught."""
        error = context.get("exception")
        self.troubles.append(
            f"{context.get('message')}: {error!r} {context.get('task') or context.get('handle') or ''}"[:400]
        )

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        await asyncio.sleep(seconds)

    def passed_s(self) -> float:
        """Return virtual seconds since the start."""
        return self.loop.now_ns / NS
