"""Market data by REST: trading rules, candles, missing trades, the venue's clock. Through ccxt, every answer checked."""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from daemon.core.candles import contiguous, merged
from daemon.domain.errors import ConfigError, Transient
from daemon.domain.events import Candle, Candles, Confirmed, History, Listed, Repair
from daemon.domain.market import Bar, BarFlag, Instrument, Malformed, RejectReason, Tick
from daemon.edge.clock import Clock
from daemon.edge.lane import Quota
from daemon.edge.rest import OnRequest, Rest, keep_markets, make_exchange
from daemon.wire import binance_rest as wire
from daemon.wire.binance import AHEAD_NS_MAX
from daemon.wire.binance_streams import IdSpace

__all__ = ["MarketData", "make_exchange"]

PAGES_MAX = 30
"""Pages of 1,000 trades fetched to complete one bar or repair one gap; more is not worth its request weight."""
LAG_ATTEMPTS = 4
LAG_WAIT_S = 0.25
"""REST lags behind the stream by moments: how often, and how long apart, the newest rows are asked for again."""
CONCURRENT_MAX = 4
"""Requests of history in flight at once; ccxt's limiter spaces them below the venue's weight."""
CLOCK_SAMPLES = 5

NS_PER_MS = 1_000_000
Rows = NDArray[np.float64]
Progress = Callable[[int, int], None]
"""Told (pages done, pages in all)."""
T = TypeVar("T")


class MarketData:
    """Binance's market data for one universe.

    Parameters
    ----------
    rest
        Where to ask.
    clock
        Ours.
    bar_ns
        Length of a bar, ns.
    space
        The id space the feed subscribed to; every trade fetched here is in it.

    Attributes
    ----------
    offset_ns
        Venue clock minus ours, ns, as measured last; None before the first measurement.
    """

    def __init__(self, rest: Rest, clock: Clock, *, bar_ns: int, space: IdSpace = IdSpace.AGG_TRADE) -> None:
        if not str(rest.exchange.id).startswith("binance"):
            raise ConfigError(f"exchange.id: {rest.exchange.id!r} has no market data decoder yet; binance has")
        self.offset_ns: int | None = None
        self.offset_error_ns = 0  # at most so far off was the last measurement: half of its round trip
        self._rest = rest
        self._clock = clock
        self._bar_ns = bar_ns
        self._space = space
        self._gate = asyncio.Semaphore(CONCURRENT_MAX)
        self._ids: dict[str, str] = {}
        self._known: dict[str, tuple[Instrument, object]] = {}
        self._gone: set[str] = set()

    @property
    def on_request(self) -> OnRequest | None:
        """Who is told about every request: those of orders and account are told to the same."""
        return self._rest.on_request

    def share(self, quota: Quota) -> None:
        """Obey the pauses that others were asked for, and let them obey ours."""
        self._rest.share(quota)

    @property
    def weight_share(self) -> float | None:
        """Return the share of the venue's request weight in use, None while its limit is not known."""
        return self._rest.quota.budget.share

    @property
    def quiet_s(self) -> float:
        """Return for how long the venue wants quiet, seconds: until then every request waits."""
        return self._rest.quiet_s

    # ------------------------------------------------------------------ rules and clock

    async def instruments(self, universe: Sequence[str], *, leaving: Collection[str] = ()) -> Listed:
        """Return the trading rules of the universe and give ccxt these markets alone.

        Of ``leaving``, which are part of it, those that the exchange does not have (any more) are left out.

        A symbol that was there before and is listed no more, or whose rules have become nonsense, keeps those it had and is
        not traded (F26): the others must go on.

        Raises ConfigError for a symbol the exchange does not have, Transient when it does not answer.
        """
        wanted = {symbol.replace("/", ""): symbol for symbol in universe}
        limit = 0

        def parse(answer: object) -> list[object] | Malformed:
            nonlocal limit
            limit = wire.orders_per_10s(answer)
            self._rest.quota.budget.limit = wire.weight_per_minute(answer)
            return _entries(wanted)(answer)

        async def ask(names: Sequence[str]) -> list[object]:
            text = "[" + ",".join(f'"{name}"' for name in names) + "]"
            return await self._rest.ask("publicGetExchangeInfo", {"symbols": text}, parse)

        gone = [name for name, symbol in wanted.items() if symbol in self._gone]
        try:
            there = [name for name in wanted if name not in gone]
            entries = await ask(there) if there else []
        except ConfigError:
            # One unknown name spoils the whole answer: only the full list can say which.
            entries = await self._rest.ask("publicGetExchangeInfo", {}, parse)
        for name in gone:  # by itself, from then on
            with contextlib.suppress(ConfigError):
                entries += await ask([name])
        found: dict[str, tuple[Instrument, object]] = {}
        for entry in entries:
            one = wire.instrument(entry)
            if isinstance(one, Instrument):
                found[one.symbol] = (one, entry)
            elif (symbol := wanted.get(one.symbol, one.symbol)) not in self._known and symbol not in leaving:
                raise ConfigError(f"universe: {symbol} cannot be traded here: {one.detail}")
        universe = [symbol for symbol in universe if symbol in {*found, *self._known} or symbol not in leaving]
        missing = [symbol for symbol in universe if symbol not in found]
        self._gone = {symbol for symbol in missing if symbol in self._known}
        if unknown := [symbol for symbol in missing if symbol not in self._known]:
            raise ConfigError(
                f"universe: {', '.join(unknown)} not listed at {self._rest.exchange.id}; remove or correct"
            )
        for symbol in missing:
            rules, entry = self._known[symbol]
            found[symbol] = (msgspec.structs.replace(rules, trading=False), entry)
        self._known |= found
        keep_markets(self._rest.exchange, [entry for _, entry in found.values()])
        self._ids = {one.symbol: one.venue_id for one, _ in found.values()}
        return Listed(tuple(found[symbol][0] for symbol in universe), self._clock.now_ns(), limit)

    async def clock_offset(self) -> int:
        """Measure and return the venue's clock minus ours, ns: the sample with the shortest round trip counts."""
        best_ns, offset_ns = 0, 0
        for _ in range(CLOCK_SAMPLES):
            before = self._clock.mono_ns()
            server_ns = await self._rest.ask("publicGetTime", {}, wire.server_time_ns)
            trip_ns = self._clock.mono_ns() - before
            if not best_ns or trip_ns < best_ns:
                # The stamp is cut to whole milliseconds: half of one is its mean error.
                best_ns = trip_ns
                offset_ns = server_ns + NS_PER_MS // 2 + trip_ns // 2 - self._clock.now_ns()
        self.offset_ns, self.offset_error_ns = offset_ns, best_ns // 2
        return offset_ns

    async def _venue_now_ns(self) -> int:
        """Return the venue's time, ns."""
        offset_ns = self.offset_ns if self.offset_ns is not None else await self.clock_offset()
        return self._clock.now_ns() + offset_ns

    # ------------------------------------------------------------------ history stitched to the stream

    async def history(self, symbol: str, *, bars: int, first_id: int = -1, first_ts_ns: int = -1) -> History:
        """Return ``bars`` closed candles up to the open bar, and the trades that complete it up to the live stream.

        ``first_id`` and ``first_ts_ns`` are those of the first live trade; -1: none came yet, continue after REST's newest.
        """
        now_ns = await self._venue_now_ns()
        open_ns = (first_ts_ns if first_id >= 0 else now_ns) // self._bar_ns * self._bar_ns
        ticks, next_id, partial = await self._open_trades(symbol, open_ns, first_id)
        closed = await self._closed(symbol, self._bar_ns, start_ns=open_ns - bars * self._bar_ns, end_ns=open_ns)
        return History(symbol, closed, ticks, next_id, partial, self._clock.now_ns())

    async def _open_trades(self, symbol: str, open_ns: int, first_id: int) -> tuple[tuple[Tick, ...], int, bool]:
        """Return the trades since ``open_ns`` before id ``first_id``, the id that follows, and whether some are missing."""
        if first_id >= 0:
            end = first_id - 1
            newest: tuple[Tick, ...] = ()
        else:
            newest = await self._trades_page(symbol, None, wire.ROWS_MAX)
            if not newest:
                return (), -1, False
            end = newest[-1].id
        pages = [newest] if newest else []
        for _ in range(PAGES_MAX):
            first = pages[-1][0] if pages else None
            if first is not None and (first.ts_event_ns < open_ns or first.id == 0):
                break
            last = first.id - 1 if first is not None else end
            if last < 0:
                break
            page = await self._span(symbol, max(0, last - wire.ROWS_MAX + 1), last, older_may_end=True)
            if not page:
                return (), end + 1, True
            pages.append(page)
        else:
            return (), end + 1, True
        ticks = tuple(tick for page in reversed(pages) for tick in page if tick.ts_event_ns >= open_ns)
        return ticks, end + 1, False

    async def trades(self, symbol: str, from_id: int, to_id: int) -> Repair:
        """Return the trades ``from_id`` … ``to_id`` inclusive, all or none of them."""
        count = to_id - from_id + 1
        if count > PAGES_MAX * wire.ROWS_MAX:
            return self._failed(symbol, from_id, to_id, f"{count} trades are more than {PAGES_MAX} pages")
        ticks: list[Tick] = []
        try:
            for start in range(from_id, to_id + 1, wire.ROWS_MAX):
                page = await self._span(symbol, start, min(start + wire.ROWS_MAX - 1, to_id))
                if not page:
                    return self._failed(symbol, from_id, to_id, f"REST does not have ids from {start}")
                ticks.extend(page)
        except Transient as error:
            return self._failed(symbol, from_id, to_id, str(error))
        return Repair(symbol, from_id, to_id, tuple(ticks), ok=True, detail="", ts_ns=self._clock.now_ns())

    def _failed(self, symbol: str, from_id: int, to_id: int, detail: str) -> Repair:
        """Return a repair that brings nothing."""
        return Repair(symbol, from_id, to_id, (), ok=False, detail=detail, ts_ns=self._clock.now_ns())

    async def _span(self, symbol: str, first: int, last: int, *, older_may_end: bool = False) -> tuple[Tick, ...]:
        """Return the trades ``first`` … ``last`` (one page), waiting out REST's lag; () when it does not have them all.

        With ``older_may_end`` a page may begin later than ``first``: the market is not older.
        """
        for attempt in range(LAG_ATTEMPTS):
            if attempt:
                await asyncio.sleep(LAG_WAIT_S * attempt)
            page = await self._trades_page(symbol, first, last - first + 1)
            page = tuple(tick for tick in page if tick.id <= last)
            if page and page[-1].id == last and (page[0].id == first or older_may_end):
                return page
        return ()

    async def _trades_page(self, symbol: str, from_id: int | None, limit: int) -> tuple[Tick, ...]:
        """Return one page of trades, from an id on or the newest; contiguous in ids."""
        params: dict[str, Any] = {"symbol": self._venue_id(symbol), "limit": limit}
        if from_id is not None:
            params["fromId"] = from_id
        recv_ns = self._clock.now_ns()
        latest_ns = recv_ns + (self.offset_ns or 0) + AHEAD_NS_MAX
        if self._space is IdSpace.AGG_TRADE:
            return await self._rest.ask(
                "publicGetAggTrades",
                params,
                lambda rows: wire.agg_trades(rows, symbol=symbol, recv_ns=recv_ns, latest_ns=latest_ns),
            )
        endpoint = "publicGetTrades" if from_id is None else "publicGetHistoricalTrades"
        return await self._rest.ask(
            endpoint, params, lambda rows: wire.trades(rows, symbol=symbol, recv_ns=recv_ns, latest_ns=latest_ns)
        )

    async def confirm(self, symbol: str) -> Confirmed:
        """Ask for the newest trade, so that silence proves real or not."""
        try:
            page = await self._trades_page(symbol, None, 1)
        except Transient:
            page = ()
        now_ns = self._clock.now_ns()
        if not page:
            return Confirmed(symbol, -1, 0.0, ok=False, ts_ns=now_ns)
        return Confirmed(symbol, page[-1].id, page[-1].price, ok=True, ts_ns=now_ns)

    # ------------------------------------------------------------------ candles

    async def candle(self, symbol: str, open_ns: int, close_ns: int) -> Candle:
        """Return the venue's own candle of one closed bar, None in it when it is not to be had."""
        length = close_ns - open_ns
        finer = wire.finest_divisor(length)
        bar: Bar | None = None
        try:
            for attempt in range(LAG_ATTEMPTS):
                if attempt:
                    await asyncio.sleep(LAG_WAIT_S * attempt)
                if await self._venue_now_ns() < close_ns:
                    continue  # not closed by the venue's own clock
                found = await self._candles(symbol, finer, open_ns, close_ns)
                whole = len(found) == length // finer
                if whole or (found and attempt == LAG_ATTEMPTS - 1):
                    bar = _as_repaired(merged(contiguous(found, close_ns), length), open_ns)
                    break
        except Transient:
            bar = None
        return Candle(symbol, open_ns, bar, self._clock.now_ns())

    async def candles(self, symbol: str, interval_ns: int, count: int) -> Candles:
        """Return the last ``count`` closed candles of any interval the venue has or can be merged from, oldest first."""
        end_ns = await self._venue_now_ns() // interval_ns * interval_ns
        bars = await self._closed(symbol, interval_ns, start_ns=end_ns - count * interval_ns, end_ns=end_ns)
        return Candles(symbol, interval_ns, bars, self._clock.now_ns())

    async def train_history(
        self, symbols: Sequence[str], bars: int, progress: Progress | None = None
    ) -> dict[str, Rows]:
        """Return per symbol the last ``bars`` closed bars as a float64 array (n, 6): close_ns, o, h, l, c, volume.

        Oldest first and contiguous; a symbol listed later has fewer rows. ``progress`` is told symbols done and in all.
        """
        done = 0
        end_ns = await self._venue_now_ns() // self._bar_ns * self._bar_ns

        async def one(symbol: str) -> Rows:
            nonlocal done
            closed = await self._closed(symbol, self._bar_ns, start_ns=end_ns - bars * self._bar_ns, end_ns=end_ns)
            done += 1
            if progress is not None:
                progress(done, len(symbols))
            return rows_of(closed)

        return dict(zip(symbols, await _all([one(symbol) for symbol in symbols]), strict=True))

    async def _closed(self, symbol: str, length: int, *, start_ns: int, end_ns: int) -> tuple[Bar, ...]:
        """Return contiguous bars of ``length`` from the first one listed after ``start_ns`` to exactly ``end_ns``.

        The newest candle may lag: it is asked for again before its absence is believed to be an outage.
        """
        finer = wire.finest_divisor(length)
        found = await self._candles(symbol, finer, start_ns, end_ns)
        for attempt in range(1, LAG_ATTEMPTS):
            if found and found[-1].close_ns == end_ns:
                break
            await asyncio.sleep(LAG_WAIT_S * attempt)
            newest = await self._candles(symbol, finer, max(start_ns, end_ns - wire.ROWS_MAX * finer), end_ns)
            kept = [bar for bar in found if not newest or bar.close_ns <= newest[0].open_ns]
            found = (*kept, *newest)
        whole = contiguous(found, end_ns)
        return whole if finer == length else merged(whole, length)

    async def _candles(self, symbol: str, interval_ns: int, start_ns: int, end_ns: int) -> tuple[Bar, ...]:
        """Return the venue's candles in [start, end), page by page, some pages at a time."""
        step = wire.ROWS_MAX * interval_ns
        starts = range(max(start_ns, 0), end_ns, step)
        pages = await _all([self._candle_page(symbol, interval_ns, at, min(at + step, end_ns)) for at in starts])
        return tuple(bar for page in pages for bar in page)

    async def _candle_page(self, symbol: str, interval_ns: int, start_ns: int, end_ns: int) -> tuple[Bar, ...]:
        """Return one page of candles that lie wholly in [start, end)."""
        params = {
            "symbol": self._venue_id(symbol),
            "interval": wire.INTERVALS[interval_ns],
            "startTime": start_ns // NS_PER_MS,
            "endTime": end_ns // NS_PER_MS - 1,
            "limit": wire.ROWS_MAX,
        }
        async with self._gate:
            page = await self._rest.ask(
                "publicGetKlines",
                params,
                lambda rows: wire.klines(rows, symbol=symbol, interval_ns=interval_ns),
            )
        return tuple(bar for bar in page if bar.open_ns >= start_ns and bar.close_ns <= end_ns)

    def _venue_id(self, symbol: str) -> str:
        """Return the venue's own name of a symbol."""
        return self._ids.get(symbol) or symbol.replace("/", "")


def _as_repaired(bars: Sequence[Bar], open_ns: int) -> Bar | None:
    """Return the bar that opens at ``open_ns``, flagged as taken from the venue."""
    found = [bar for bar in bars if bar.open_ns == open_ns]
    return msgspec.structs.replace(found[0], flag=BarFlag.REPAIRED) if found else None


def rows_of(bars: Sequence[Bar]) -> Rows:
    """Return bars as a float64 array (n, 6): close_ns, open, high, low, close, volume."""
    return np.array(
        [(bar.close_ns, bar.open, bar.high, bar.low, bar.close, bar.volume) for bar in bars], dtype=np.float64
    ).reshape(-1, 6)


def _entries(wanted: dict[str, str]) -> Callable[[object], list[object] | Malformed]:
    """Return a parser of exchangeInfo that keeps the entries of the wanted venue ids."""

    def parse(answer: object) -> list[object] | Malformed:
        symbols = answer.get("symbols") if isinstance(answer, dict) else None
        if not isinstance(symbols, list):
            return Malformed(RejectReason.BROKEN_JSON, "exchangeInfo without symbols", "", 0)
        return [entry for entry in symbols if isinstance(entry, dict) and entry.get("symbol") in wanted]

    return parse


async def _all(jobs: Sequence[Any]) -> list[Any]:
    """Await all jobs at once; the first failure cancels the rest and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(job) for job in jobs]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]
