"""The account's own stream over the websocket API: executions, order states and balances as they happen.

The stream has no memory: after every (re)subscription ``catch_up`` closes by REST, beside the reading, what was missed.
"""

import asyncio
import hashlib
import hmac
import logging
import random
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import msgspec
import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI, WebSocketException

from daemon.domain.errors import LinkDown
from daemon.domain.events import Link
from daemon.domain.orders import TERMINAL, Balance, Fill, OrderState, OrderUpdate, Side
from daemon.domain.ports import Emit
from daemon.edge import crash
from daemon.edge.binance_account import Millis, Number
from daemon.edge.clock import Clock
from daemon.edge.feed import Backoff
from daemon.edge.lane import Quota
from daemon.edge.outcomes import BROKEN, STATES, Reply, is_sound, redact, told
from daemon.edge.turns import Turns

PATH: Final = "/ws-api/v3"
NS_PER_MS: Final = 1_000_000
OPEN_S: Final = 10.0
ANSWER_S: Final = 10.0
PING_S: Final = 10.0
"""We ping this often and give the answer as long: a half-open connection is noticed within 15 s (F12)."""
PONG_S: Final = 5.0
FRAME_BYTES_MAX: Final = 1 << 20
FRAMES_MAX: Final = 1_024
"""Frames kept while the loop is busy; then TCP holds the venue back. None is dropped."""
LIFE_S: Final = 23.5 * 3_600
"""The venue ends connections after 24 h; we renew before."""
RECV_WINDOW_MS: Final = 5_000
ZERO: Final = Decimal(0)


class _Report(msgspec.Struct):
    """``executionReport``; field names as in the venue's documents, renamed to words."""

    symbol: str = msgspec.field(name="s")
    client: str = msgspec.field(name="c")
    original: str = msgspec.field(name="C")
    side: str = msgspec.field(name="S")
    kind: str = msgspec.field(name="x")
    status: str = msgspec.field(name="X")
    reason: str = msgspec.field(name="r")
    order_id: Number = msgspec.field(name="i")
    last_qty: Decimal = msgspec.field(name="l")
    filled: Decimal = msgspec.field(name="z")
    last_price: Decimal = msgspec.field(name="L")
    fee: Decimal = msgspec.field(name="n")
    fee_asset: str | None = msgspec.field(name="N")
    time_ms: Millis = msgspec.field(name="T")
    trade_id: Number = msgspec.field(name="t")
    maker: bool = msgspec.field(name="m")
    expiry: str = msgspec.field(name="eR", default="")

    @property
    def client_id(self) -> str:
        """Return the order's own id: in a cancel ``c`` is the cancel's and ``C`` the order's."""
        return self.original or self.client


class _Held(msgspec.Struct):
    asset: str = msgspec.field(name="a")
    free: Decimal = msgspec.field(name="f")
    locked: Decimal = msgspec.field(name="l")


class _Position(msgspec.Struct):
    balances: list[_Held] = msgspec.field(name="B")


class _Change(msgspec.Struct):
    asset: str = msgspec.field(name="a")
    amount: Decimal = msgspec.field(name="d")


class _Kind(msgspec.Struct):
    kind: str = msgspec.field(name="e", default="")


class _Pause(msgspec.Struct, rename="camel"):
    server_time: int = 0
    retry_after: int = 0


class _Failure(msgspec.Struct):
    code: int = 0
    msg: str = ""
    data: _Pause = msgspec.field(default_factory=_Pause)


class _Frame(msgspec.Struct):
    """A pushed event, or the answer to a request."""

    event: msgspec.Raw = msgspec.Raw()
    id: str | int | None = None
    status: int = 0
    error: _Failure | None = None


class UserNews(msgspec.Struct, frozen=True):
    """What one frame says; empty when it says nothing about orders or balances."""

    update: OrderUpdate | None = None
    fill: Fill | None = None
    balances: tuple[Balance, ...] = ()
    deposit: tuple[str, Decimal] | None = None
    over: bool = False
    broken: str = ""


_FRAME: Final = msgspec.json.Decoder(_Frame)
_KIND: Final = msgspec.json.Decoder(_Kind)
_REPORT: Final = msgspec.json.Decoder(_Report)
_POSITION: Final = msgspec.json.Decoder(_Position)
_CHANGE: Final = msgspec.json.Decoder(_Change)


def decode(frame: bytes | str, *, symbols: Mapping[str, str], recv_ns: int) -> UserNews:
    """Decode one pushed frame; anything at all gives an answer, never an exception.

    Parameters
    ----------
    symbols
        Our name of each of the venue's symbols; orders in others are not ours.
    recv_ns
        When the frame arrived, ns UTC.
    """
    try:
        if not (event := _FRAME.decode(frame).event):
            return UserNews()
        match _KIND.decode(event).kind:
            case "executionReport":
                return _report(_REPORT.decode(event), symbols, recv_ns)
            case "outboundAccountPosition":
                return _position(_POSITION.decode(event))
            case "balanceUpdate":
                return _change(_CHANGE.decode(event))
            case "eventStreamTerminated" | "serverShutdown":
                return UserNews(over=True)
            case _:
                return UserNews()
    except BROKEN as error:
        return UserNews(broken=f"{type(error).__name__}: {str(error)[:120]}")


def _position(position: _Position) -> UserNews:
    held = position.balances
    if not all(is_sound(one.free) and is_sound(one.locked) for one in held):
        return UserNews(broken="an amount in an outboundAccountPosition is none")
    return UserNews(balances=tuple(Balance(asset=one.asset, free=one.free, locked=one.locked) for one in held))


def _change(change: _Change) -> UserNews:
    if not is_sound(change.amount.copy_abs()):
        return UserNews(broken="the amount in a balanceUpdate is none")
    return UserNews(deposit=(change.asset, change.amount))


def _report(report: _Report, symbols: Mapping[str, str], recv_ns: int) -> UserNews:
    if (symbol := symbols.get(report.symbol)) is None:
        return UserNews()
    amounts = (report.last_qty, report.filled, report.last_price, report.fee)
    if not all(map(is_sound, amounts)) or report.side not in {"BUY", "SELL"}:
        return UserNews(broken="an amount or side in an executionReport is none")
    if (state := STATES.get(report.status)) is None:
        return UserNews(broken=f"order status {report.status[:40]!r}")
    update = OrderUpdate(
        client_id=report.client_id,
        symbol=symbol,
        state=state,
        venue_id=str(report.order_id),
        filled=report.filled,
        code=told(report.reason, report.expiry) if state in TERMINAL - {OrderState.FILLED} else "",
        source="stream",
        ts_ns=recv_ns,
    )
    if report.kind != "TRADE" or report.trade_id < 0:
        return UserNews(update=update)
    fill = Fill(
        symbol=symbol,
        trade_id=str(report.trade_id),
        client_id=report.client_id,
        venue_id=str(report.order_id),
        side=Side.BUY if report.side == "BUY" else Side.SELL,
        qty=report.last_qty,
        price=report.last_price,
        fee=report.fee,
        fee_asset=report.fee_asset or symbol.partition("/")[2],
        maker=report.maker,
        ts_event_ns=report.time_ms * NS_PER_MS,
        source="stream",
    )
    return UserNews(update=update, fill=fill)


def _turned_away(answer: _Frame) -> Reply:
    """Return a refusal over the stream as the answer to a request would say it."""
    failure = answer.error or _Failure()
    wait_s = -((failure.data.server_time - failure.data.retry_after) // 1_000)  # whole seconds, rounded up
    headers = {"Retry-After": str(wait_s)} if failure.data.retry_after else {}
    return Reply(status=answer.status, body=f'{{"code":{failure.code}}}', headers=headers)


def subscription(api_key: str, api_secret: str, *, now_ms: int, number: int) -> str:
    """Return the signed request for the account's events (HMAC-SHA256 over the parameters in the order of names)."""
    params: dict[str, str | int] = {"apiKey": api_key, "recvWindow": RECV_WINDOW_MS, "timestamp": now_ms}
    payload = "&".join(f"{name}={params[name]}" for name in sorted(params))
    params["signature"] = hmac.new(api_secret.encode(), payload.encode(), hashlib.sha256).hexdigest()
    request = {"id": str(number), "method": "userDataStream.subscribe.signature", "params": params}
    return msgspec.json.encode(request).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sinks:
    """Where the stream's news goes.

    ``fill`` and ``update`` get executions and orders' news, execution first; ``gap`` is called when the stream is lost;
    ``catch_up`` closes by REST what was missed and runs beside the reading after every subscription. ``balances`` and
    ``deposit`` get balances and what came or went without a trade (asset, signed amount).
    """

    update: Callable[[OrderUpdate], None]
    fill: Callable[[Fill], None]
    gap: Callable[[], None]
    catch_up: Callable[[], Coroutine[object, object, None]]
    balances: Callable[[tuple[Balance, ...]], None] = lambda _balances: None
    deposit: Callable[[str, Decimal], None] = lambda _asset, _amount: None


class UserStream:
    """Reads the account's stream for ever.

    Parameters
    ----------
    base_url
        Base of the websocket API, for example ``wss://ws-api.binance.com:443`` or ``ws://127.0.0.1:18080``.
    keys
        API key and secret.
    sinks
        Where news goes.
    emit
        Gets ``Link`` events of the feed "user".
    symbols
        Our name of each of the venue's symbols.
    offset_ns
        Returns the venue's clock minus ours, ns.
    turns
        Where each frame waits for its turn.
    quota
        The venue's patience: connections count too.
    """

    def __init__(  # noqa: PLR0913 - one argument per port
        self,
        base_url: str,
        *,
        keys: tuple[str, str],
        sinks: Sinks,
        emit: Emit,
        clock: Clock,
        symbols: Mapping[str, str],
        offset_ns: Callable[[], int] = lambda: 0,
        turns: Turns | None = None,
        quota: Quota | None = None,
    ) -> None:
        self._quota = quota or Quota(clock)
        self._turns = turns or Turns()
        self._url = base_url.rstrip("/") + PATH
        self._api_key, self._api_secret = keys
        self._sinks = sinks
        self._emit = emit
        self._clock = clock
        self._symbols = symbols
        self._offset_ns = offset_ns
        self._ending = ""
        self._number = 0
        self.broken = 0
        """Frames that could not be read; each is followed by a catch-up at the next reconciliation."""
        self._log = structlog.get_logger("ballast")
        self._quiet = logging.getLogger("ballast.userstream.frames")
        self._quiet.setLevel(logging.INFO)  # websockets' debug lines print frames: the first holds key and signature

    async def run(self) -> None:
        """Connect, subscribe, read; dial again when it ends. Returns only by cancellation."""
        backoff = Backoff(random.Random())
        while True:
            await self._quota.wait()
            started = self._clock.mono_ns()
            backoff.dialled(started / 1e9)
            up, detail = False, ""
            try:
                async with connect(
                    self._url,
                    open_timeout=OPEN_S,
                    ping_interval=PING_S,
                    ping_timeout=PONG_S,
                    close_timeout=1,
                    max_size=FRAME_BYTES_MAX,
                    max_queue=FRAMES_MAX,
                    compression=None,
                    logger=self._quiet,
                ) as socket:
                    await self._subscribe(socket)
                    up = True
                    self._emit(Link(feed="user", up=True, detail="subscribed", ts_ns=self._clock.now_ns()))
                    await self._serve(socket)
                    detail = self._ending
            except (OSError, TimeoutError, LinkDown, WebSocketException, InvalidHandshake, InvalidURI) as error:
                if isinstance(error, InvalidStatus):
                    self._quota.see(Reply(error.response.status_code, headers=dict(error.response.headers.raw_items())))
                detail = self._clean(f"{type(error).__name__}: {error}")
            except Exception as error:  # no fault of the network: whoever runs us counts it and begins again
                cause = getattr(error, "exceptions", [error])[0]
                detail = self._clean(f"{type(cause).__name__}: {cause}")
                raise
            finally:
                if up and detail:  # without one we were cancelled: the daemon stops
                    self._sinks.gap()
                    self._emit(Link(feed="user", up=False, detail=detail, ts_ns=self._clock.now_ns()))
            now = self._clock.mono_ns()
            backoff.lived((now - started) / 1e9 if up else 0.0)
            delay = backoff.delay_s(now / 1e9)
            self._log.warning("userstream.down", detail=detail, retry_s=round(delay, 2))
            await asyncio.sleep(delay)

    async def _subscribe(self, socket: ClientConnection) -> None:
        self._number += 1
        now_ms = (self._clock.now_ns() + self._offset_ns()) // NS_PER_MS
        await socket.send(subscription(self._api_key, self._api_secret, now_ms=now_ms, number=self._number))
        async with asyncio.timeout(ANSWER_S):
            while True:
                try:
                    answer = _FRAME.decode(await socket.recv())
                except BROKEN as error:
                    raise LinkDown(f"user stream: broken answer to the subscription: {str(error)[:100]}") from error
                if answer.id is None or str(answer.id) != str(self._number):
                    continue
                if answer.status == 200:
                    return
                self._quota.see(_turned_away(answer))
                why = f"{answer.error.code} {answer.error.msg}" if answer.error else f"status {answer.status}"
                raise LinkDown(f"user stream: subscription refused: {self._clean(why)}")

    def _clean(self, text: str) -> str:
        """Return the first line of a text that may repeat what we sent, without keys, bounded."""
        return redact(text.partition("\n")[0], self._api_key, self._api_secret)[:200]

    async def _serve(self, socket: ClientConnection) -> None:
        """Read and catch up side by side until the stream ends or its life is over."""

        async def read() -> None:
            self._ending = "ended by the venue"
            try:
                async with asyncio.timeout(LIFE_S):
                    async for frame in socket:
                        await self._turns.turn()
                        if self._take(frame):
                            break
            except TimeoutError:
                self._ending = "renewed"
            except (OSError, WebSocketException) as error:
                self._ending = self._clean(f"{type(error).__name__}: {error}")
            catching.cancel()

        async with asyncio.TaskGroup() as group:
            catching = group.create_task(self._sinks.catch_up(), name="user stream catch-up")
            group.create_task(read(), name="user stream reader")

    def _take(self, frame: bytes | str) -> bool:
        """Pass on what a frame says; true when the stream is over."""
        news = decode(frame, symbols=self._symbols, recv_ns=self._clock.now_ns())
        if news.broken:
            self.broken += 1
            self._log.error("userstream.broken_frame", detail=news.broken)
        if news.fill is not None or news.update is not None:
            crash.point("userstream.read")
        if news.fill is not None:
            self._sinks.fill(news.fill)
        if news.update is not None:
            self._sinks.update(news.update)
        if news.balances:
            self._sinks.balances(news.balances)
        if news.deposit is not None:
            self._sinks.deposit(*news.deposit)
        return news.over
