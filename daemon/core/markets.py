"""All symbols' market data: stitching, gaps, bars and the barrier. Called by the engine, tick by tick and by the timer."""

from collections import Counter

from daemon.core.columns import Columns
from daemon.core.config import EngineConfig
from daemon.core.continuity import Continuity, Irregular, near
from daemon.core.market import Market, Phase
from daemon.domain.events import (
    Alert,
    Backfill,
    BarClosed,
    Candle,
    Confirmed,
    ConfirmQuiet,
    Effect,
    FetchBar,
    FetchTrades,
    History,
    Link,
    Repair,
    Timer,
)
from daemon.domain.market import NS_PER_S, Bar, BarFlag, Book, Closed, Malformed, RejectReason, Tick

NONE: tuple[Effect, ...] = ()
GAPPED, LIVE = BarFlag.GAPPED, Phase.LIVE
STUCK_WAIT_NS = 2 * NS_PER_S
"""How long, at most, a decision waits beyond the grace for a symbol whose bar does not come."""
QUIET_AGES = 5
"""A symbol silent for this many ``max_age`` is confirmed by REST even between bars."""
TRADELESS_AGES = 10
"""The same for one whose book moves but that has not traded: its trades alone may have been lost."""
SPREAD_MAX = 0.5
"""A book whose sides are further apart than this part of its mid says nothing about the price."""
BACKLOG_NS = 250_000_000
"""Trades that came no longer ago than this, and late, are a backlog that is still being read (F22)."""
MEND_BARS_MAX = 50
"""Most closed bars of one symbol that are fetched anew after one repair; a longer hole is stitched from candles anyway."""


class Markets:
    """Drives every ``Market`` and the columns they close."""

    def __init__(self, config: EngineConfig, markets: dict[str, Market]) -> None:
        """Start without data."""
        self._config = config
        self._markets = markets
        self.columns = Columns(config.universe, config.backfill_bars, config.bar_ns)
        self.rejected: Counter[str] = Counter()
        self.gaps: Counter[str] = Counter()
        self.repairs: Counter[str] = Counter()
        self.up_ns = 0
        self.synced = False
        self.newest: Tick | None = None
        self.believed = 0.0
        """Price of the newest tick, 0.0 when that tick was refused, seen before or not yet believed: stops are judged by it."""

    # ------------------------------------------------------------------ live data

    def tick(self, tick: Tick) -> tuple[Effect, ...]:
        """Take one live trade: the hot path."""
        market = self._markets[tick.symbol]
        market.frame_ns = tick.ts_recv_ns
        market.ticks += 1
        self.newest = tick
        outcome = market.continuity.accept(tick)
        if outcome is not None:
            self.believed = _believe(market, tick, outcome)
            return self._irregular(market, outcome, tick.ts_recv_ns)
        self.believed = market.last = tick.price
        market.last_ns = tick.ts_recv_ns
        closed = market.builder.on_tick(tick)
        if closed:
            return tuple(self._closed(market, closed, tick.ts_recv_ns))
        return NONE

    def book(self, book: Book) -> None:
        """Take the newest best bid and ask; a crossed or absurd book is counted and not kept."""
        market = self._markets[book.symbol]
        market.frame_ns = book.ts_recv_ns
        market.book = None
        mid = (book.bid + book.ask) / 2.0
        if book.bid >= book.ask:
            self.rejected[RejectReason.CROSSED_BOOK] += 1
        elif not near(mid, market.last) or book.ask - book.bid > SPREAD_MAX * mid:
            self.rejected[RejectReason.PRICE_SPIKE] += 1
        else:
            market.book = book

    def malformed(self, event: Malformed) -> None:
        """Count what the decoder refused."""
        self.rejected[event.reason] += 1

    def _irregular(self, market: Market, outcome: Irregular, now_ns: int, *, fetch: bool = True) -> tuple[Effect, ...]:
        for bad in outcome.rejected:
            self.rejected[bad.reason] += 1
        effects: list[Effect] = []
        if outcome.lost is not None:
            market.builder.mark_gapped()
            market.frozen = True
            first, last = outcome.lost
            effects.append(Alert("trades_lost", f"ids {first}…{last} never came", market.symbol, now_ns))
        too_late: dict[int, None] = {}
        for place, tick in enumerate(outcome.ready):
            market.last = tick.price
            market.last_ns = tick.ts_recv_ns  # what was held back is no fresher for having waited
            repaired = place < outcome.repaired
            apply = market.builder.on_repaired if repaired else market.builder.on_tick
            late = market.builder.late
            closed = apply(tick)
            if repaired and market.builder.late > late:
                too_late[tick.ts_event_ns - tick.ts_event_ns % self._config.bar_ns] = None
            if closed:
                effects.extend(self._closed(market, closed, now_ns))
        effects.extend(self._mend(market, list(too_late)))
        if outcome.fetch is not None and fetch:
            effects.extend(self._gap(market, *outcome.fetch, now_ns))
        return tuple(effects)

    def _mend(self, market: Market, opens: list[int]) -> list[Effect]:
        """Ask for the venue's own candles of bars that closed without trades which a repair brought too late.

        Those behind them too: a bar without trades carries on the close before it.
        """
        if not opens:
            return []
        market.frozen = True
        bar_ns = self._config.bar_ns
        newest_ns = market.bar.close_ns if market.bar is not None else 0
        every = range(min(opens), max(newest_ns, max(opens) + bar_ns), bar_ns)
        return [FetchBar(market.symbol, open_ns, open_ns + bar_ns) for open_ns in every[-MEND_BARS_MAX:]]

    def _gap(self, market: Market, first: int, last: int, now_ns: int) -> tuple[Effect, ...]:
        self.gaps[market.symbol] += 1
        if last - first + 1 > self._config.repair_trades_max:
            return self._resync(market, now_ns)
        market.gap_ns = market.gap_ns or now_ns
        return (FetchTrades(market.symbol, first, last),)

    def _resync(self, market: Market, now_ns: int) -> tuple[Effect, ...]:
        """Stitch a symbol anew from candles: too much is missing for ids."""
        market.phase = Phase.SYNCING
        market.gap_ns = 0
        market.asked_ns = now_ns
        market.continuity = Continuity(market.symbol)
        return (Backfill(market.symbol, self._config.backfill_bars, -1, -1),)

    def _closed(self, market: Market, bars: tuple[Bar, ...], now_ns: int) -> list[Effect]:
        effects: list[Effect] = []
        for bar in bars:
            market.bar = bar
            market.frozen = bar.flag is BarFlag.GAPPED
            self._put(bar)
            effects.append(BarClosed(bar))
            if bar.flag is BarFlag.GAPPED:
                effects.append(FetchBar(bar.symbol, bar.open_ns, bar.close_ns))
        return effects

    def _put(self, bar: Bar) -> None:
        """Add a bar to its column; what only waits to be sold has none."""
        if bar.symbol in self.columns.index:
            self.columns.put(bar)

    # ------------------------------------------------------------------ bars without trades

    def moved(self, bar: Bar, price: float, ts_ns: int) -> None:
        """Take a price from within a bar, or its close, from a source that has no trades."""
        market = self._markets[bar.symbol]
        self.believed = market.last = price
        market.frame_ns = market.last_ns = ts_ns

    def closed(self, event: Closed) -> None:
        """Take closed bars; a symbol without one had no trade, says the source."""
        ts_ns = event.ts_ns
        markets, columns = self._markets, self.columns
        for bar in event.bars:
            symbol = bar.symbol
            market = markets[symbol]
            market.bar = bar
            market.frozen = bar.flag is GAPPED
            market.last = bar.close
            market.frame_ns = market.last_ns = ts_ns
            market.builder.start(bar.close_ns, last_price=bar.close, partial=False)
            if symbol in columns.index:
                columns.put(bar)
        if len(event.bars) < len(self._markets):
            for market in self._markets.values():
                market.confirmed_ns = ts_ns

    # ------------------------------------------------------------------ answers

    def history(self, event: History) -> tuple[Effect, ...]:
        """Take a symbol's history and stitch the ticks held meanwhile to it."""
        market = self._markets[event.symbol]
        market.phase = Phase.LIVE
        market.gap_ns = 0
        market.frozen = event.partial
        last = 0.0
        for bar in event.bars:
            last = bar.close
            market.bar = bar
            self._put(bar)
        end_ns = event.bars[-1].close_ns if event.bars else 0
        market.builder.start(end_ns, last_price=last, partial=event.partial)
        if last > 0.0:
            market.last = last
            market.last_ns = event.ts_ns
        market.confirmed_ns = event.ts_ns
        first_id = event.ticks[0].id if event.ticks else event.next_id
        effects = list(self._irregular(market, market.continuity.start(first_id, last), event.ts_ns, fetch=False))
        if event.ticks:
            effects.extend(self._irregular(market, market.continuity.repaired(event.ticks), event.ts_ns))
        gap = market.continuity.gap
        if gap is not None:
            effects.extend(self._gap(market, *gap, event.ts_ns))
        self.synced = all(one.phase is Phase.LIVE for one in self._markets.values())
        return tuple(effects)

    def repair(self, event: Repair) -> tuple[Effect, ...]:
        """Take REST's answer to a gap; what is still missing is asked for again until the time for it is over."""
        market = self._markets[event.symbol]
        if market.phase is not Phase.LIVE:
            return NONE
        effects: list[Effect] = []
        if event.ok:
            self.repairs[event.symbol] += 1
            effects.extend(self._irregular(market, market.continuity.repaired(event.ticks), event.ts_ns))
        gap = market.continuity.gap
        if gap is None:
            market.gap_ns = 0
            market.confirmed_ns = event.ts_ns if event.ok else market.confirmed_ns
        elif event.ts_ns - market.gap_ns < self._config.repair_timeout_ns:
            effects.append(FetchTrades(market.symbol, *gap))
        else:
            effects.extend(self._give_up(market, event.ts_ns))
        return tuple(effects)

    def _give_up(self, market: Market, now_ns: int) -> tuple[Effect, ...]:
        market.gap_ns = 0
        effects = self._irregular(market, market.continuity.give_up(), now_ns)
        if market.continuity.gap is not None:
            market.gap_ns = now_ns
        return effects

    def candle(self, event: Candle) -> None:
        """Take the venue's own candle for a bar we could not build."""
        if event.bar is None:
            return
        market = self._markets[event.symbol]
        self._put(event.bar)
        if market.bar is not None and market.bar.close_ns == event.bar.close_ns:
            market.bar = event.bar
            market.frozen = market.builder.gapped

    def confirmed(self, event: Confirmed) -> tuple[Effect, ...]:
        """Take REST's word on a silent symbol: nothing missed, or a gap nobody had noticed."""
        market = self._markets[event.symbol]
        self.believed = 0.0
        if not event.ok:
            return NONE
        if event.price > 0.0 and near(event.price, market.last):
            self.believed = market.last = event.price
            market.price_ns = event.ts_ns
        if market.phase is not Phase.LIVE:
            return NONE
        outcome = market.continuity.confirm(event.last_id)
        if outcome is None:
            if market.continuity.gap is None:
                market.confirmed_ns = event.ts_ns
            return NONE
        return self._irregular(market, outcome, event.ts_ns)

    # ------------------------------------------------------------------ links and time

    def link(self, event: Link) -> tuple[Effect, ...]:
        """Note that the stream came up or went down; after a gap in the stream silence is checked by REST."""
        self.up_ns = event.ts_ns if event.up else 0
        if event.up:
            return self.doubt(event.ts_ns)
        for market in self._markets.values():
            market.book = None  # nobody keeps it current now
        return NONE

    def doubt(self, now_ns: int) -> tuple[Effect, ...]:
        """Believe no silence from before now: the stream, or we ourselves, were away; REST is asked what was missed."""
        if not self.up_ns:
            return NONE
        self.up_ns = now_ns
        return tuple(ConfirmQuiet(market.symbol) for market in self._markets.values() if market.phase is Phase.LIVE)

    def timer(self, event: Timer) -> tuple[Effect, ...]:
        """Ask for what is due: history, candles by time, confirmation of silence, the end of a vain repair."""
        if not self.up_ns:
            return NONE
        effects: list[Effect] = []
        config = self._config
        behind = self._behind(event)
        recent_ns, due_ns = event.ts_ns - QUIET_AGES * config.max_age_ns, event.exchange_ns - config.grace_ns
        for market in self._markets.values():
            book = market.book
            if book is not None and market.last_ns - book.ts_recv_ns > config.max_age_ns:
                market.book = None  # each trade moves the touch: one that stood still through many is not the market's
            if market.phase is LIVE:
                if market.gap_ns:
                    if event.ts_ns - market.gap_ns > 2 * config.repair_timeout_ns:
                        effects.extend(self._give_up(market, event.ts_ns))
                elif market.builder.close_ns > due_ns and market.frame_ns >= recent_ns and market.last_ns >= recent_ns:
                    continue  # neither due nor quiet, by trade and by frame
                elif some := self._pass_time(market, event, behind=behind):
                    effects.extend(some)
            elif market.phase is Phase.DOWN:
                if market.instrument is None and market.symbol in config.leaving:
                    continue  # the exchange has it no more: there is nothing to ask for
                if event.ts_ns - self.up_ns >= config.sync_delay_ns:
                    market.phase = Phase.SYNCING
                    market.asked_ns = event.ts_ns
                    effects.append(Backfill(market.symbol, config.backfill_bars, -1, -1))
        return tuple(effects) if effects else NONE

    def _behind(self, event: Timer) -> bool:
        """Say whether trades are being read that waited longer than the grace: what belongs before them may still come.

        After the loop was busy, time must not close bars whose trades lie in the socket.
        """
        newest = self.newest
        if newest is None or event.ts_ns - newest.ts_recv_ns > BACKLOG_NS:
            return False
        offset_ns = event.exchange_ns - event.ts_ns
        return newest.ts_recv_ns + offset_ns - newest.ts_event_ns > self._config.grace_ns

    def _pass_time(self, market: Market, event: Timer, *, behind: bool) -> list[Effect]:
        """Close by time what a live, current symbol did not close by trades; ask REST about a silent one.

        Since the stream came (back) up, a trade in order or REST's word must have proved that none was missed.
        """
        config, now_ns, confirmed_ns = self._config, event.ts_ns, market.confirmed_ns
        age_ns = now_ns - max(confirmed_ns, market.frame_ns)
        proven_ns = max(confirmed_ns, market.last_ns)
        due = market.builder.due(event.exchange_ns, config.grace_ns)
        effects: list[Effect] = []
        if due and behind:
            return effects
        if due and age_ns <= config.max_age_ns and proven_ns >= self.up_ns:
            closed = market.builder.on_time(event.exchange_ns, config.grace_ns)
            effects = self._closed(market, closed, now_ns)
            due = False
        quiet = age_ns > QUIET_AGES * config.max_age_ns
        quiet = quiet or now_ns - proven_ns > TRADELESS_AGES * config.max_age_ns
        if (due or quiet) and now_ns - market.confirm_ns >= config.max_age_ns:
            market.confirm_ns = now_ns
            effects.append(ConfirmQuiet(market.symbol))
        return effects

    def passed_ns(self, exchange_ns: int) -> int:
        """Return the close time up to which columns are complete without what has not come by now."""
        if not self.synced:
            return 0
        if not exchange_ns:
            return 0
        return exchange_ns - self._config.grace_ns - min(self._config.bar_ns // 2, STUCK_WAIT_NS)


def _believe(market: Market, tick: Tick, outcome: Irregular) -> float:
    """Return the price a tick that was not simply the next one proves, 0.0 when none: behind a gap a price is one still."""
    if outcome.ready:
        return outcome.ready[-1].price
    if outcome.rejected or market.continuity.suspecting or market.last <= 0.0:
        return 0.0
    return tick.price if near(tick.price, market.last) else 0.0
