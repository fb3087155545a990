"""The daemon from start to stop: recovery first, trading after it, everything stopped in numbered stages."""

import asyncio
import signal
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import msgspec
import structlog

from daemon.core.engine import Engine
from daemon.core.run import Runner
from daemon.domain.errors import BallastError, Transient
from daemon.domain.events import Action, Command, Effect, Event, Fault, Killed, Link, Listed, Timer
from daemon.domain.market import NS_PER_S, Malformed
from daemon.domain.ports import Venue
from daemon.edge.clock import Clock
from daemon.edge.feed import Conflator, Feed
from daemon.edge.latch import KillLatch
from daemon.edge.ledger import SqlLedger
from daemon.edge.market import MarketData
from daemon.edge.rest import Rest
from daemon.edge.supervisor import Supervisor
from daemon.edge.worker import Worker
from daemon.outlets.api import Api
from daemon.outlets.journal import Journal
from daemon.outlets.listener import make_tokens
from daemon.outlets.metrics import Metrics, MetricsListener, Snapshot
from daemon.service.desk import Desk, Facts
from daemon.service.dispatch import Dispatcher
from daemon.service.training import Trainer, model_rows
from daemon.service.venues import Surroundings, VenueParts, check_key, exchange_of, live_venue, paper_venue
from daemon.service.wiring import account_of, engine_config, ledger_config, worker_config
from daemon.settings import Settings, config_hash, read_keys, redacted
from daemon.wire.binance import BinanceWire
from daemon.wire.binance_streams import streams_of

log = structlog.get_logger("ballast")

TIMER_S = 0.05
FLUSH_TIMERS = 20
RECONCILE_S = 30.0
CLOCK_S = 60.0
RETRY_S = 2.0
DAY_NS = 86_400 * NS_PER_S
HOUR_NS = 3_600 * NS_PER_S
DAILY_BARS = 365
HOURLY_BARS = 15
DRAIN_S = 3.0
STREAM_URL = "wss://stream.binance.com:9443"


class Service:
    """One running instance: holds the parts, starts and stops them. Trading starts HALTED and waits for recovery."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None) -> None:
        """Build what needs no I/O."""
        self.settings = settings
        self.clock = clock or Clock()
        self.keys = read_keys(settings) if settings.mode == "live" else None
        self.version = version("ballast")
        account = account_of(self.keys)
        self.engine = Engine(engine_config(settings, account))
        self.latch = KillLatch(settings.state_path)
        self.supervisor = Supervisor(self.clock, self._fault)
        self.ledger = SqlLedger(ledger_config(settings, account, self.version), clock=self.clock)
        self.worker = Worker(self.emit, self.clock, worker_config(settings))
        self.metrics = Metrics(settings.universe, version=self.version, mode=settings.mode)
        self.conflator = Conflator()
        self.loop_lag_s = 0.0
        self.ready_ns = 0
        self.offset_ns = 0
        self._stop = asyncio.Event()
        self._stopping = False
        self._killed = False
        self.fatal: BaseException | None = None
        self._parts: VenueParts | None = None
        self._closers: list[Callable[[], Any]] = []
        self._watchers: list[Callable[[Effect], None]] = []

    # ------------------------------------------------------------------ events

    def emit(self, event: Event) -> None:
        """Hand an event to the engine."""
        self.runner.emit(event)

    def command(self, action: Action, source: str) -> str:
        """Enqueue an operator's command and return its id; a kill latches before anything else."""
        now_ns = self.clock.now_ns()
        if action is Action.KILL:
            self.latch.set(f"{source} at {now_ns}")
        name = f"{source}-{now_ns}"
        self.emit(Command(name, action, source, now_ns))
        return name

    def _fault(self, task: str, detail: str) -> None:
        self.emit(Fault(task, detail, self.clock.now_ns()))

    def _observe(self, event: Event) -> None:
        if not isinstance(event, Malformed):  # counted by the engine, together with what it refuses itself
            self.metrics.observe_event(event)
        if self._parts is not None and self._parts.observe is not None:
            self._parts.observe(event)

    def _watch(self, effect: Effect) -> None:
        self.metrics.observe_effect(effect)
        self.desk.watch(effect)
        for watch in self._watchers:
            watch(effect)

    # ------------------------------------------------------------------ start

    async def start(self) -> None:
        """Take locks and ports, recover, reconcile, then let data in. Raises Fatal for what no retry can cure."""
        settings = self.settings
        restored = await self.ledger.open()  # locks first: a second instance must not touch the first one's files
        self._closers.append(self.ledger.close)
        self._make_outlets()
        exchange = exchange_of(settings)
        self._closers.append(exchange.close)
        self.market = MarketData(
            Rest(exchange, self.clock, on_request=self._on_request), self.clock, bar_ns=settings.bar_ns
        )
        self._serve()
        listed = await self._until(lambda: self.market.instruments(settings.universe), "trading rules")
        self.offset_ns = await self._until(self.market.clock_offset, "the venue's clock")
        if self.keys is not None:
            keys = self.keys
            await self._until(lambda: check_key(settings, keys, self.clock), "what the key may do")
        self._make_runner(listed)
        around = Surroundings(
            settings, self.emit, self.clock, self.latch, self.ledger, self.market, listed, self.metrics.order_sent
        )
        parts = paper_venue(around) if self.keys is None else live_venue(around, self.keys, exchange)
        self._parts = parts
        self.runner.plug(
            dispatch=Dispatcher(
                ledger=self.ledger,
                venue=parts.venue,
                market=self.market,
                worker=self.worker,
                supervisor=self.supervisor,
                emit=self.emit,
                clock=self.clock,
                watch=self._watch,
                stopping=lambda: self._stopping,
            ),
            on_tick=parts.on_tick,
        )
        self.emit(restored)
        self.emit(listed)
        self._tick_clock()
        self._check_latch()
        await self._until(lambda: parts.begin(restored), "the account")
        self._start_tasks(listed, parts)

    def _make_runner(self, listed: Listed) -> None:
        """Build decoder, journal and runner: from here on events are taken and recorded."""
        settings = self.settings
        self.wire = BinanceWire(listed.instruments, held=self.conflator.held)
        self.journal = Journal(
            settings.mode_path / "journal",
            settings.journal.max_bytes,
            start_ns=self.clock.now_ns(),
            code_version=self.version,
            config_hash=config_hash(settings),
            config_json=_json(redacted(settings)),
            engine_json=_json(self.engine.config),
            worker_json=_json(worker_config(settings)),
        )
        self.runner = Runner(self.engine, decode=self.wire.decode, recorder=self.journal, observe=self._observe)
        self._closers.append(self._close_journal)

    def _start_tasks(self, listed: Listed, parts: VenueParts) -> None:
        settings = self.settings
        base = settings.exchange.ws_url.rstrip("/") or STREAM_URL
        self.feed = Feed(
            f"{base}/stream", streams_of(listed.instruments), self.runner.on_frame, self._on_link, clock=self.clock
        )
        self.trainer = Trainer(settings, self.market, self.clock, on_model=self.worker.reload_model)
        trading = {"timer": self._timers, "feed": self.feed.run, "worker": self.worker.run, **parts.tasks}
        for name, run in (*trading.items(), ("reconcile", self._reconciling)):
            self.supervisor.trading(name, run)
        for name, run in (
            ("clock", self._watch_clock),
            ("candles", self._other_candles),
            ("training", self.trainer.run),
        ):
            self.supervisor.outlet(name, run)

    def _make_outlets(self) -> None:
        settings = self.settings
        self.desk = Desk(
            settings,
            self.engine,
            Facts(
                version=self.version,
                now_ns=self.clock.now_ns,
                loop_lag_s=lambda: self.loop_lag_s,
                ledger_writable=lambda: self.ledger.writable,
                failed=self.supervisor.failed,
                depths=self._depths,
                journal_bytes=lambda: self.journal.bytes_written,
                models=lambda: model_rows(settings.state_path / "models"),
            ),
        )
        self.metrics.set_gauges(self._snapshot)
        tokens = make_tokens(
            settings.state_path,
            {
                "read": settings.api.token_file,
                "control": settings.api.control_token_file,
                "kill": settings.api.kill_token_file,
            },
        )
        self.api = Api(settings.api.listen, self.desk, self.command, tokens=tokens, state_path=settings.state_path)
        self.scrape = MetricsListener(settings.metrics.listen, self.metrics, tokens=tokens)
        self.api.bind()
        self.scrape.bind()

    def _snapshot(self) -> Snapshot:
        """Bring the counters that the engine keeps itself up to date, then return the gauges: called at every scrape."""
        for symbol, market in self.engine.state.markets.items():
            self.metrics.ticks[symbol] = market.ticks
        for reason, count in self.engine.markets.rejected.items():
            self.metrics.rejected[(reason,)] = count
        return self.desk.snapshot()

    def _serve(self) -> None:
        self.supervisor.outlet("api", self.api.serve)
        self.supervisor.outlet("metrics", self.scrape.serve)

    async def _until(self, ask: Callable[[], Any], what: str) -> Any:
        """Ask again and again until the venue answers: an unreachable exchange is waited for, in HALTED."""
        while True:
            try:
                return await ask()
            except Transient as error:
                log.warning("waiting for the exchange", wanted=what, error=str(error))
                await asyncio.sleep(RETRY_S)

    # ------------------------------------------------------------------ eternal tasks

    async def _timers(self) -> None:
        """Every 50 ms: time for the engine, newest books, kill latch; every second: the journal. Measures the loop's lag."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        count = 0
        while True:
            due = max(due + TIMER_S, loop.time())
            await asyncio.sleep(max(0.0, due - loop.time()))
            self.loop_lag_s = max(0.0, loop.time() - due)
            self.metrics.loop_lag.observe(self.loop_lag_s)
            self._check_latch()
            for book in self.conflator.flush(self.wire):
                self.emit(book)
            now_ns = self._tick_clock()
            count += 1
            if count % FLUSH_TIMERS == 0:
                self.journal.add_effects_hash(self.runner.effects, self.runner.digest)
                self.supervisor.job("journal", self.journal.flush())
                self._note_ready(now_ns)

    def _tick_clock(self) -> int:
        """Tell the engine the time; the decoder learns the venue's clock at the same moment, so that a replay can too."""
        now_ns = self.clock.now_ns()
        self.wire.offset_ns = self.offset_ns
        self.emit(Timer(now_ns, now_ns + self.offset_ns))
        return now_ns

    def _check_latch(self) -> None:
        on = self.latch.is_set()
        if on != self._killed:
            self._killed = on
            self.emit(Killed(on, self.latch.detail() or "kill latch", self.clock.now_ns()))

    def _note_ready(self, now_ns: int) -> None:
        if not self.ready_ns and not self.desk.not_ready():
            self.ready_ns = now_ns
            log.info("ready", instance=self.settings.instance, mode=self.settings.mode, api=self.api.address)

    async def _reconciling(self) -> None:
        """Reconcile at start and then continuously."""
        if self._parts is None:
            return
        while True:
            try:
                await self._parts.venue.reconcile()
            except Transient as error:
                log.warning("reconcile", error=str(error))
                await asyncio.sleep(RETRY_S)
                continue
            await asyncio.sleep(RECONCILE_S if self.engine.state.reconciled_ns else RETRY_S)

    async def _watch_clock(self) -> None:
        while True:
            await asyncio.sleep(CLOCK_S)
            self.offset_ns = await self.market.clock_offset()

    async def _other_candles(self) -> None:
        """Daily candles for CVaR once a day; hourly ones for the volatility stop while it is on."""
        while True:
            for symbol in self.settings.universe:
                self.emit(await self._until(partial(self.market.candles, symbol, DAY_NS, DAILY_BARS), "daily candles"))
                if self.settings.risk.volatility_stop:
                    hourly = partial(self.market.candles, symbol, HOUR_NS, HOURLY_BARS)
                    self.emit(await self._until(hourly, "hourly candles"))
            await asyncio.sleep((HOUR_NS if self.settings.risk.volatility_stop else DAY_NS) / NS_PER_S)

    # ------------------------------------------------------------------ callbacks

    def _on_link(self, up: bool, detail: str) -> None:
        log.info("market stream", up=up, detail=detail)
        self.emit(Link("market", up, detail, self.clock.now_ns()))

    def _on_request(self, endpoint: str, outcome: str, weight: int) -> None:
        self.metrics.request(endpoint, outcome)

    def _depths(self) -> dict[str, int]:
        return {
            "events": self.runner.depth,
            "ledger": self.ledger.backlog,
            "journal": self.journal.pending,
            "jobs": self.supervisor.jobs,
        }

    # ------------------------------------------------------------------ run and stop

    def request_stop(self) -> None:
        """Ask for an orderly stop."""
        self._stop.set()

    @property
    def stop_requested(self) -> bool:
        """Return whether a stop was asked for."""
        return self._stop.is_set()

    @property
    def venue(self) -> Venue | None:
        """Return where orders go, None before the start got that far."""
        return self._parts.venue if self._parts is not None else None

    def watch_also(self, watch: Callable[[Effect], None]) -> None:
        """Show every effect to one more observer."""
        self._watchers.append(watch)

    def kill(self) -> None:
        """Latch a kill at once (SIGUSR1)."""
        self.command(Action.KILL, "signal")

    def trap_signals(self) -> None:
        """SIGTERM and SIGINT stop, SIGUSR1 kills."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.request_stop)
        loop.add_signal_handler(signal.SIGINT, self.request_stop)
        loop.add_signal_handler(signal.SIGUSR1, self.kill)

    async def wait(self) -> None:
        """Wait until a stop is asked for."""
        await self._stop.wait()

    async def stop(self) -> None:
        """Stop in stages: no new orders, let what was sent be answered, close the venue, write everything down."""
        self._stopping = True
        stages: list[tuple[str, Callable[[], Any], float]] = [
            ("drain", self._drain, DRAIN_S + 1),
            ("venue", self._close_venue, 3.0),
            ("tasks", self.supervisor.stop, 4.0),
        ]
        for name, stage, timeout_s in stages:
            await self._stage(name, stage, timeout_s)
        for close in reversed(self._closers):
            await self._stage(getattr(close, "__qualname__", "close"), close, 5.0)

    async def _stage(self, name: str, stage: Callable[[], Any], timeout_s: float) -> None:
        started = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(timeout_s):
                result = stage()
                if asyncio.iscoroutine(result) or isinstance(result, asyncio.Future):
                    await result
        except TimeoutError:
            log.error("stop stage is late", stage=name, timeout_s=timeout_s)
        except (BallastError, OSError) as error:
            log.error("stop stage failed", stage=name, error=str(error))
        log.debug("stopped", stage=name, seconds=round(asyncio.get_running_loop().time() - started, 3))

    async def _drain(self) -> None:
        await self.supervisor.settle(DRAIN_S)

    async def _close_venue(self) -> None:
        if self._parts is not None:
            await self._parts.venue.close()

    def _close_journal(self) -> None:
        self.journal.add_effects_hash(self.runner.effects, self.runner.digest)
        self.journal.close()


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
