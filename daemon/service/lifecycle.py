"""The daemon from start to stop: recovery first, trading after it, everything stopped in numbered stages."""

import asyncio
import signal
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import msgspec
import structlog

from daemon.core.engine import Engine
from daemon.core.run import Runner
from daemon.domain.errors import Fatal
from daemon.domain.events import Action, Command, Effect, Event, Fault, Link, Listed, Restored, Timer
from daemon.domain.market import Malformed
from daemon.domain.ports import Venue
from daemon.edge.clock import Clock
from daemon.edge.feed import Conflator, Feed
from daemon.edge.latch import KillLatch
from daemon.edge.ledger import SqlLedger
from daemon.edge.market import MarketData
from daemon.edge.rest import Rest
from daemon.edge.supervisor import Eternal, Supervisor
from daemon.edge.worker import Worker
from daemon.outlets import logs
from daemon.outlets.api import Api
from daemon.outlets.metrics import Metrics, MetricsListener, Snapshot
from daemon.service import venues
from daemon.service.desk import Desk, Facts
from daemon.service.dispatch import Dispatcher
from daemon.service.heap import Heap
from daemon.service.killwatch import KillWatch
from daemon.service.recording import Recording, journal_of, quiet
from daemon.service.stages import Stage, stop_in
from daemon.service.standby import Standby
from daemon.service.steady import SteadyClock, not_ahead
from daemon.service.training import Trainer, model_rows
from daemon.service.upkeep import Upkeep, rules_of, until
from daemon.service.wiring import account_of, engine_config, leaving_in, ledger_config, tokens_of, worker_config
from daemon.settings import Settings, read_keys
from daemon.wire.binance import BinanceWire
from daemon.wire.binance_streams import streams_of

log = structlog.get_logger("ballast")

TIMER_S = 0.05
FLUSH_TIMERS = 20
AWAY_S = 10.0
"""A loop that was away for longer than this compares with the venue at once (F45)."""
DRAIN_S = 3.0
EARLY_MAX = 100
"""Commands kept while the exchange is still waited for."""
STREAM_URL = "wss://stream.binance.com:9443"


class Service:
    """One running instance: holds the parts, starts and stops them. Trading starts HALTED and waits for recovery."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None) -> None:
        """Build what needs no I/O."""
        self.settings = settings
        self.clock = clock or SteadyClock()
        self.keys = read_keys(settings) if settings.mode == "live" else None
        self.version = version("ballast")
        account = account_of(self.keys)
        self.engine = Engine(engine_config(settings, account))
        self.latch = KillLatch(settings.state_path)
        self.kills = KillWatch(self.latch, self.emit, self.clock)
        self.supervisor = Supervisor(self.clock, self._fault)
        self.ledger = SqlLedger(ledger_config(settings, account, self.version), clock=self.clock)
        self.worker = Worker(self.emit, self.clock, worker_config(settings))
        self.metrics = Metrics(settings.universe, version=self.version, mode=settings.mode)
        self.conflator = Conflator()
        self.heap = Heap()
        self.loop_lag_s = 0.0
        self.ready_ns = 0
        self.offset_ns = 0
        self._stop = asyncio.Event()
        self._stopping = False
        self._taking = False
        self._early: list[Event] = []
        self._trading: dict[str, Eternal] = {}
        self.upkeep: Upkeep | None = None
        self.fatal: BaseException | None = None
        self._parts: venues.VenueParts | None = None
        self._closers: list[Callable[[], Any]] = [self.heap.release]
        self._watchers: list[Callable[[Effect], None]] = []

    # ------------------------------------------------------------------ events

    def emit(self, event: Event) -> None:
        """Hand an event to the engine; before it takes any, a few are kept for it."""
        if self._taking:
            self.runner.emit(event)
        elif len(self._early) < EARLY_MAX:
            self._early.append(event)

    def command(self, action: Action, source: str) -> str:
        """Enqueue an operator's command and return its id; a kill latches before anything else."""
        now_ns = self.clock.now_ns()
        if action is Action.KILL:
            self.kills.set(f"{source} at {now_ns}")
        if action is Action.RESUME:
            self._revive()
        name = f"{source}-{now_ns}"
        self.emit(Command(name, action, source, now_ns))
        return name

    def _revive(self) -> None:
        """Start the trading tasks again that had failed for good: whoever resumes wants them."""
        for name in self.supervisor.failed():
            if name in self._trading:
                log.warning("task started again", task=name)
                self.supervisor.trading(name, self._trading[name])

    def _fault(self, task: str, detail: str) -> None:
        self.emit(Fault(task, logs.clean(detail), self.clock.now_ns()))  # an exception's text may hold what ccxt signed

    def _observe(self, event: Event) -> None:
        if not isinstance(event, Malformed):  # counted by the engine, together with what it refuses itself
            try:
                self.metrics.observe_event(event)
            except Exception:  # whoever only watches can never reach trading
                log.exception("watching failed", event_kind=type(event).__name__)
        if self._parts is not None and self._parts.observe is not None:
            self._parts.observe(event)

    def _watch(self, effect: Effect) -> None:
        self.metrics.observe_effect(effect)
        self.desk.watch(effect)
        if self.upkeep is not None:
            self.upkeep.watch(effect)
        for watch in self._watchers:
            watch(effect)

    # ------------------------------------------------------------------ start

    async def start(self) -> None:
        """Take locks and ports, recover, reconcile, then let data in. Raises Fatal for what no retry can cure."""
        settings = self.settings
        # Locks first: a second instance must not touch the first one's files.
        standby = Standby(settings, self.ledger, command=self.command, metrics=self.metrics, supervisor=self.supervisor)
        restored = await standby.open(self._lost)
        self._closers.append(self.ledger.close)
        self._hold_on(restored)
        self._make_outlets()
        exchange = venues.exchange_of(settings)
        self._closers.append(exchange.close)
        quota = venues.patient(settings, self.clock)
        rest = Rest(exchange, self.clock, on_request=self._on_request, quota=quota)
        self.market = MarketData(rest, self.clock, bar_ns=settings.bar_ns)
        self._serve()
        listed = await rules_of(self.market, self.engine.config)
        offset_ns = await until(self.market.clock_offset, "the venue's clock")
        self.offset_ns = self.clock.begin(offset_ns) if isinstance(self.clock, SteadyClock) else offset_ns
        self.market.offset_ns = self.offset_ns
        if self.keys is not None:
            keys = self.keys
            await until(lambda: venues.check_key(settings, keys, self.clock, quota=quota), "what the key may do")
        self._make_runner(listed)
        sent, config = self.metrics.order_sent, self.engine.config
        around = venues.Surroundings(
            settings, self.emit, self.clock, self.latch, self.ledger, self.market, listed, sent, config.watched
        )
        parts = venues.paper_venue(around) if self.keys is None else venues.live_venue(around, self.keys, exchange)
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
                turns=parts.turns,
                heap=self.heap,
            ),
            on_tick=parts.on_tick,
        )
        self._taking = True
        for event in (restored, listed, *self._early):
            self.emit(not_ahead(event, self.clock.now_ns()))
        self._tick_clock()
        self.kills.check()
        await until(lambda: parts.begin(restored), "the account")
        self._start_tasks(listed, parts)

    def _hold_on(self, restored: Restored) -> None:
        """Watch what has left the universe while it is held (to be valued, guarded, sold: close-only) or has an open order."""
        leaving = leaving_in(restored, self.settings.universe)
        if leaving:
            log.warning("close-only", symbols=leaving)
            self.engine = Engine(msgspec.structs.replace(self.engine.config, leaving=leaving))

    def _make_runner(self, listed: Listed) -> None:
        """Build decoder, journal and runner: from here on events are taken and recorded."""
        settings = self.settings
        self.wire = BinanceWire(listed.instruments, held=self.conflator.held)
        self.journal = journal_of(settings, self.engine, start_ns=self.clock.now_ns(), version=self.version)
        self.runner = Runner(self.engine, decode=self.wire.decode, recorder=self.journal, observe=self._observe)
        self.recording = Recording(self.journal, self.runner)
        self._closers.append(self.recording.close)

    def _start_tasks(self, listed: Listed, parts: venues.VenueParts) -> None:
        settings = self.settings
        base = settings.exchange.ws_url.rstrip("/") or STREAM_URL
        self.feed = Feed(
            f"{base}/stream", streams_of(listed.instruments), self.runner.on_frame, self._on_link, clock=self.clock
        )
        self.trainer = Trainer(settings, self.market, self.clock, worker=self.worker)
        self.upkeep = upkeep = Upkeep(
            universe=tuple(one.symbol for one in listed.instruments),
            hourly=bool(settings.risk.volatility_stop),
            market=self.market,
            venue=parts.venue,
            emit=self.emit,
            clock=self.clock,
            on_offset=self._on_offset,
        )
        self._trading = {"timer": self._timers, "feed": self.feed.run, "worker": self.worker.run, **parts.tasks}
        self._trading["reconcile"] = upkeep.reconcile
        for name, run in self._trading.items():
            self.supervisor.trading(name, run)
        for name, run in (
            ("clock", upkeep.follow_clock),
            ("rules", upkeep.follow_rules),
            ("candles", upkeep.candles),
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
                journal_bytes=lambda: self.journal.bytes_written if self._taking else 0,
                models=lambda: model_rows(settings.state_path / "models"),
                external=lambda: self._parts.external() if self._parts is not None else [],
            ),
        )
        self.metrics.set_gauges(self._snapshot)
        tokens = tokens_of(settings)
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
        weight = self.market.weight_share if self._taking else None
        return msgspec.structs.replace(self.desk.snapshot(), weight_used=weight)

    def _serve(self) -> None:
        self.supervisor.outlet("api", self.api.serve)
        self.supervisor.outlet("metrics", self.scrape.serve)

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
            if self.loop_lag_s > AWAY_S and self.upkeep is not None:
                self.upkeep.hurry()
            self.kills.check()
            if self.wire.announced():
                self.feed.renew()
            for book in self.conflator.flush(self.wire):
                self.emit(book)
            now_ns = self._tick_clock()
            count += 1
            self.recording.look()
            if count % FLUSH_TIMERS == 0:
                self.recording.beat()
                self.supervisor.job("journal", self.recording.flush())
                self.heap.tidy(quiet=quiet(self.engine))
                self._note_ready(now_ns)
                if self.upkeep is not None:
                    self.upkeep.look(writable=self.ledger.writable)

    def _tick_clock(self) -> int:
        """Tell the engine the time; the decoder learns the venue's clock at the same moment, so that a replay can too."""
        now_ns = self.clock.now_ns()
        self.wire.offset_ns = self.offset_ns
        self.emit(Timer(now_ns, now_ns + self.offset_ns))
        return now_ns

    def _note_ready(self, now_ns: int) -> None:
        if not self.ready_ns and not self.desk.not_ready():
            self.ready_ns = now_ns
            log.info("ready", instance=self.settings.instance, mode=self.settings.mode, api=self.api.address)

    # ------------------------------------------------------------------ callbacks

    def _on_link(self, up: bool, detail: str) -> None:
        log.info("market stream", up=up, detail=detail)
        self.emit(Link("market", up, detail, self.clock.now_ns()))

    def _on_request(self, endpoint: str, outcome: str, weight: int) -> None:
        self.metrics.request(endpoint, outcome)
        if self.upkeep is not None:
            self.upkeep.asked(outcome)

    def _on_offset(self, offset_ns: int) -> None:
        error_ns = self.market.offset_error_ns
        self.offset_ns = self.clock.follow(offset_ns, error_ns) if isinstance(self.clock, SteadyClock) else offset_ns
        self.market.offset_ns = self.offset_ns

    def _depths(self) -> dict[str, int]:
        if not self._taking:
            return {}
        return {
            "events": self.runner.depth,
            "ledger": self.ledger.backlog,
            "journal": self.journal.pending,
            "jobs": self.supervisor.jobs,
        }

    # ------------------------------------------------------------------ run and stop

    def _lost(self, error: Fatal) -> None:
        """End: the ledger is another instance's now, so nothing may be sent any more."""
        self.fatal = error
        self._stopping = True
        self.request_stop()

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
        closing = [Stage(getattr(close, "__qualname__", "close"), close, 5.0) for close in reversed(self._closers)]
        await stop_in(
            (
                Stage("drain", self._drain, DRAIN_S + 1),
                Stage("venue", self._close_venue, 3.0),
                Stage("tasks", self.supervisor.stop, 4.0),
                *closing,
            )
        )

    async def _drain(self) -> None:
        await self.supervisor.settle(DRAIN_S)

    async def _close_venue(self) -> None:
        if self._parts is not None:
            await self._parts.venue.close()
