"""Where orders go: ccxt on a real exchange in live mode, the matching model on live market data in paper mode."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import structlog

from daemon.core.planner import client_prefix
from daemon.domain.errors import Unsafe
from daemon.domain.events import Event, Link, Listed, Restored, Timer, WorkerUp
from daemon.domain.market import NS_PER_MS, Book, Malformed, RejectReason, Tick
from daemon.domain.orders import Approved
from daemon.domain.ports import Emit, Venue
from daemon.edge.bans import Bans, ban_files
from daemon.edge.clock import Clock
from daemon.edge.deadman import DeadMan, has_switch
from daemon.edge.lane import Lane, Quota
from daemon.edge.latch import KillLatch
from daemon.edge.ledger import SqlLedger
from daemon.edge.market import MarketData
from daemon.edge.orders import LiveConfig, LiveVenue
from daemon.edge.outsiders import External
from daemon.edge.ownership import Ownership
from daemon.edge.paper import PaperConfig, PaperVenue
from daemon.edge.rest import Rest, make_exchange
from daemon.edge.turns import Turns
from daemon.edge.userstream import Sinks, UserStream
from daemon.edge.watchdog import Watchdog
from daemon.edge.watchdog_venue import Setup
from daemon.settings import ExchangeKeys, Settings
from daemon.wire.binance_rest import server_time_ns
from risk.money import exact

WS_API_URL = "wss://ws-api.binance.com:443"
PATIENCE_S = 60.0
"""How long a command waits for the end of a pause that the venue asked for; the daemon waits for ever."""

Eternal = Callable[[], Awaitable[None]]


class VenueParts(NamedTuple):
    """A venue and what lives beside it.

    ``tasks`` are eternal tasks by name; ``on_tick`` and ``observe`` see the market the venue lives on (paper), the latter
    also the time and the latch (the watchdog, live); ``begin`` is awaited once the engine has been restored; ``external``
    returns the open orders on the account that are not ours; at ``turns`` the answers wait while orders leave.
    """

    venue: Venue
    tasks: dict[str, Eternal]
    begin: Callable[[Restored], Awaitable[None]]
    on_tick: Callable[[Tick], None] | None = None
    observe: Callable[[Event], None] | None = None
    external: Callable[[], list[External]] = list
    turns: Turns | None = None


class Surroundings(NamedTuple):
    """What every venue is built among."""

    settings: Settings
    emit: Emit
    clock: Clock
    latch: KillLatch
    ledger: SqlLedger
    market: MarketData
    listed: Listed
    sent: Callable[[str, int], None]
    watched: tuple[str, ...]
    """The universe and what has left it and is held: its balances are compared, also where the exchange lists it no more."""


def exchange_of(settings: Settings, keys: ExchangeKeys | None = None) -> Any:
    """Return a ccxt exchange as configured, signed when keys are given."""
    exchange = settings.exchange
    return make_exchange(
        exchange.id,
        rest_url=exchange.rest_url,
        ws_url=exchange.ws_url,
        ws_api_url=exchange.ws_api_url,
        sandbox=exchange.sandbox,
        api_key=keys.key.get_secret_value() if keys is not None else "",
        api_secret=keys.secret.get_secret_value() if keys is not None else "",
    )


def bans_of(settings: Settings, clock: Clock) -> Bans:
    """Return the pauses the venue has asked for, whichever process of ours it told."""
    exchange = settings.exchange
    venue = f"{exchange.id}-sandbox" if exchange.sandbox else exchange.id
    files = ban_files(settings.state_path.resolve(), venue, exchange.rest_url)
    return Bans(files, clock, tell=structlog.get_logger("ballast").warning)


def patient(settings: Settings, clock: Clock) -> Quota:
    """Return the patience of the daemon: it waits for as long as the venue says."""
    return Quota(clock, bans_of(settings, clock))


def hasty(settings: Settings, clock: Clock) -> Quota:
    """Return the patience of a command that somebody waits for: a minute."""
    return Quota(clock, bans_of(settings, clock), patience_s=PATIENCE_S)


async def check_key(settings: Settings, keys: ExchangeKeys, clock: Clock, *, quota: Quota | None = None) -> None:
    """Ask the venue what the key may do; without a ``quota`` of the caller's in no more than a minute of waiting.

    Raises
    ------
    Unsafe
        It may withdraw, or may not trade spot.
    ConfigError
        The venue refuses it.
    Transient
        The venue did not answer.
    """
    exchange = exchange_of(settings, keys)
    try:
        rest = Rest(exchange, clock, quota=quota or hasty(settings, clock))
        # Signed by the venue's clock: one of ours that is ahead would be refused for ever (-1021, F47).
        server_ns = await rest.ask("publicGetTime", {}, server_time_ns)
        exchange.options["timeDifference"] = exchange.milliseconds() - server_ns // NS_PER_MS
        may = await rest.ask("sapiGetAccountApiRestrictions", {}, _restrictions)
    finally:
        await exchange.close()
    if may.get("enableWithdrawals") is not False:
        raise Unsafe("exchange.api_key: this key may withdraw; make one that may trade spot and nothing else")
    if may.get("enableSpotAndMarginTrading") is False:
        raise Unsafe("exchange.api_key: this key may not trade spot; allow spot trading for it")


def _restrictions(answer: object) -> dict[str, Any] | Malformed:
    if isinstance(answer, dict) and isinstance(answer.get("enableWithdrawals"), bool):
        return answer
    return Malformed(RejectReason.BROKEN_JSON, "apiRestrictions says nothing about withdrawals", "", 0)


def watched(settings: Settings, keys: ExchangeKeys) -> Setup:
    """Return what a watchdog needs to cancel this instance's orders by itself."""
    return Setup(
        base_url=str(exchange_of(settings).urls["api"]["private"]),
        key=keys.key.get_secret_value(),
        secret=keys.secret.get_secret_value(),
        prefix=client_prefix(settings.instance),
        state_dir=str(settings.state_path.resolve()),
        log_level=settings.log.level,
        bans=bans_of(settings, Clock()).names,
    )


def live_venue(around: Surroundings, keys: ExchangeKeys, markets_of: Any) -> VenueParts:
    """Return the venue on a real exchange, and the account's own stream beside it."""
    settings = around.settings
    secret = (keys.key.get_secret_value(), keys.secret.get_secret_value())
    bans = bans_of(settings, around.clock)
    venue = LiveVenue(
        lambda: exchange_of(settings, keys),
        emit=around.emit,
        clock=around.clock,
        latch=around.latch,
        ledger=around.ledger,
        instruments={one.symbol: one for one in around.listed.instruments},
        config=LiveConfig(
            prefix=client_prefix(settings.instance),
            ownership=Ownership(
                quote=settings.quote,
                bases=tuple(symbol.partition("/")[0] for symbol in around.watched),
                capital=settings.portfolio.capital,
                adopt=settings.portfolio.adopt,
            ),
            secrets=secret,
            on_request=around.market.on_request,
            bans=bans,
        ),
    )
    venue.on_sent = around.sent
    around.market.share(venue.quota)
    stream = UserStream(
        settings.exchange.ws_api_base or WS_API_URL,
        keys=secret,
        sinks=Sinks(
            update=venue.on_update,
            fill=venue.on_fill,
            gap=venue.on_gap,
            catch_up=venue.catch_up,
            deposit=venue.on_deposit,
        ),
        emit=around.emit,
        clock=around.clock,
        symbols={one.venue_id: one.symbol for one in around.listed.instruments},
        offset_ns=lambda: around.market.offset_ns or 0,
        turns=venue.turns,
        quota=venue.quota,
    )

    async def begin(restored: Restored) -> None:
        await venue.start(restored, markets_of)

    watchdog = Watchdog(watched(settings, keys))
    tasks: dict[str, Eternal] = {"orders": venue.run, "user stream": stream.run, "watchdog": watchdog.run}
    if has_switch(markets_of):
        tasks["dead man"] = dead_man(around, keys, markets_of, venue).run
    return VenueParts(
        venue,
        tasks,
        begin,
        observe=stamping(around.ledger, watchdog.observe),
        external=lambda: venue.reconciler.outsiders.orders,
        turns=venue.turns,
    )


def stamping(ledger: SqlLedger, observe: Callable[[Event], None]) -> Callable[[Event], None]:
    """Return an observer that also tells the ledger which model serves: every order's row names it (T6)."""

    def both(event: Event) -> None:
        if isinstance(event, WorkerUp):
            ledger.set_model(event.model)
        observe(event)

    return both


def dead_man(around: Surroundings, keys: ExchangeKeys, markets_of: Any, venue: LiveVenue) -> DeadMan:
    """Return what keeps the venue's own dead-man switch wound up (A3), on a session of its own."""
    secrets = (keys.key.get_secret_value(), keys.secret.get_secret_value())
    exchange = exchange_of(around.settings, keys)
    exchange.set_markets_from_exchange(markets_of)
    return DeadMan(
        Lane(exchange, quota=venue.quota, secrets=secrets, on_request=around.market.on_request),
        emit=around.emit,
        clock=around.clock,
        others=lambda: len(venue.reconciler.outsiders.orders),
        leave_armed=around.latch.is_set,
    )


class TimedPaper(PaperVenue):
    """The paper venue, telling when an order is handed to it."""

    on_sent: Callable[[str, int], None]

    async def send(self, approved: Approved) -> None:
        """Put an order on its way."""
        self.on_sent(approved.intent.client_id, self._clock.now_ns())
        await super().send(approved)


def paper_venue(around: Surroundings) -> VenueParts:
    """Return the matching model on live market data: same port, same events, no signed request."""
    settings = around.settings
    venue = TimedPaper(
        emit=around.emit,
        clock=around.clock,
        latch=around.latch,
        ledger=around.ledger,
        instruments={one.symbol: one for one in around.listed.instruments},
        config=PaperConfig(
            quote=settings.quote,
            cash=exact(settings.paper.cash),
            fee_bps=exact(settings.paper.fee_bps),
            latency_ms=settings.paper.latency_ms,
        ),
    )

    venue.on_sent = around.sent

    async def begin(restored: Restored) -> None:
        venue.restore(restored)
        around.emit(Link("user", up=True, detail="paper", ts_ns=around.clock.now_ns()))

    def observe(event: Event) -> None:
        match event:
            case Book():
                venue.on_book(event)
            case Timer():
                venue.on_timer(event.ts_ns)
            case Listed():
                venue.set_instruments(event.instruments)
            case _:
                pass

    return VenueParts(venue, {}, begin, on_tick=venue.on_tick, observe=stamping(around.ledger, observe))
