"""The market streams: who listens to what, and each frame encoded once."""

from typing import Any, Final

import msgspec

from daemon.exchange import bars
from daemon.exchange.clients import Connection
from daemon.exchange.config import INTERVALS
from daemon.exchange.market import Trade
from daemon.exchange.text import fixed
from daemon.exchange.venue import Venue

__all__ = ["Hub", "Listener", "valid_stream"]

_DEPTH_MS: Final = 100
_KLINE_MS: Final = 1_000
_PARTIAL: Final = {"depth5": 5, "depth10": 10, "depth20": 20}
_encode = msgspec.json.Encoder().encode


class Listener:
    """A client of the market streams and what it asked for."""

    def __init__(self, connection: Connection, *, combined: bool) -> None:
        """Wrap events as {"stream", "data"} when combined."""
        self.connection = connection
        self.combined = combined
        self.streams: dict[str, None] = {}


def valid_stream(venue: Venue, name: str) -> bool:
    """Say whether a stream name is one that this exchange publishes."""
    symbol, _, kind = name.partition("@")
    if symbol.upper() not in venue.market.index or symbol != symbol.lower():
        return False
    head, _, speed = kind.partition("@")
    if head.startswith("kline_"):
        return head[6:] in INTERVALS and not speed
    if head == "depth" or head in _PARTIAL:
        return speed in {"", "100ms"}
    return head in {"trade", "aggTrade", "bookTicker"} and not speed


class _LiveBar:
    """The running candle of one symbol and interval."""

    def __init__(self, row: list[int], first_id: int, last_id: int) -> None:
        self.row = row
        self.first_id, self.last_id = first_id, last_id
        self.dirty = True

    def add(self, trade: Trade) -> None:
        row = self.row
        if row[bars.COUNT] == 0:
            row[bars.OPEN] = row[bars.HIGH] = row[bars.LOW] = trade.price
            self.first_id = trade.id
        row[bars.HIGH] = max(row[bars.HIGH], trade.price)
        row[bars.LOW] = min(row[bars.LOW], trade.price)
        row[bars.CLOSE] = trade.price
        row[bars.VOLUME] += trade.qty
        row[bars.QUOTE] += trade.qty * trade.price
        row[bars.COUNT] += 1
        if not trade.sold:
            row[bars.TAKER] += trade.qty
            row[bars.TAKER_QUOTE] += trade.qty * trade.price
        self.last_id = trade.id
        self.dirty = True


class Hub:
    """Turns trades and time into frames for the listeners of each stream."""

    def __init__(self, venue: Venue) -> None:
        """Follow the venue's trades."""
        self._venue = venue
        self._streams: dict[str, set[Listener]] = {}
        self._bars: dict[int, dict[str, _LiveBar]] = {}
        self._agg: dict[int, tuple[int, int]] = {}  # symbol -> (first trade id, lots so far) of the open aggregate
        self._books: dict[int, tuple[int, dict[str, str], dict[str, str]]] = {}
        self._names = [spec.name.lower() for spec in venue.desk.specs]
        self._kline_at = self._depth_at = 0
        self.frames = 0
        venue.market.listeners.append(self._on_trade)

    # ------------------------------------------------------------------ subscriptions

    def subscribe(self, listener: Listener, name: str) -> None:
        """Add a stream to a listener; unknown names are kept but never send anything, as Binance does."""
        listener.streams[name] = None
        self._streams.setdefault(name, set()).add(listener)
        if not valid_stream(self._venue, name):
            return
        symbol, _, kind = name.partition("@")
        index = self._venue.market.index[symbol.upper()]
        if kind.startswith("kline_") and kind[6:] not in self._bars.setdefault(index, {}):
            self._bars[index][kind[6:]] = self._bar(index, kind[6:])
        if kind in {"depth", "depth@100ms"} and index not in self._books:
            self._books[index] = self._snapshot(index)

    def unsubscribe(self, listener: Listener, name: str) -> None:
        """Take a stream from a listener."""
        listener.streams.pop(name, None)
        group = self._streams.get(name)
        if group is None:
            return
        group.discard(listener)
        if group:
            return
        del self._streams[name]
        symbol, _, kind = name.partition("@")
        index = self._venue.market.index.get(symbol.upper(), -1)
        if kind.startswith("kline_"):
            self._bars.get(index, {}).pop(kind[6:], None)
        elif kind in {"depth", "depth@100ms"} and not self._streams.keys() & {
            f"{symbol}@depth",
            f"{symbol}@depth@100ms",
        }:
            self._books.pop(index, None)

    def leave(self, listener: Listener) -> None:
        """Forget a listener."""
        for name in list(listener.streams):
            self.unsubscribe(listener, name)

    def _send(self, name: str, event: dict[str, Any]) -> None:
        group = self._streams.get(name)
        if not group:
            return
        raw = _encode(event)
        wrapped = b'{"stream":"' + name.encode() + b'","data":' + raw + b"}"
        subject = "frame " + name
        for listener in tuple(group):
            listener.connection.push(wrapped if listener.combined else raw, subject)
            self.frames += 1

    # ------------------------------------------------------------------ trades

    def _on_trade(self, trade: Trade) -> None:
        if not self._streams:
            return
        symbol = self._names[trade.symbol]
        spec = self._venue.desk.specs[trade.symbol]
        now = max(trade.time_ms, self._venue.now_ms())
        p, q = spec.price_decimals, spec.qty_decimals
        if symbol + "@trade" in self._streams:
            event = {
                "e": "trade", "E": now, "s": spec.name, "t": trade.id, "p": fixed(trade.price, p),
                "q": fixed(trade.qty, q), "T": trade.time_ms, "m": trade.sold, "M": True,
            }  # fmt: skip
            self._send(symbol + "@trade", event)
        first, lots = self._agg.get(trade.symbol, (trade.id, 0))
        if trade.closes_agg:
            self._agg.pop(trade.symbol, None)
            if symbol + "@aggTrade" in self._streams:
                event = {
                    "e": "aggTrade", "E": now, "s": spec.name, "a": trade.agg_id, "p": fixed(trade.price, p),
                    "q": fixed(lots + trade.qty, q), "f": first, "l": trade.id, "T": trade.time_ms,
                    "m": trade.sold, "M": True,
                }  # fmt: skip
                self._send(symbol + "@aggTrade", event)
            if symbol + "@bookTicker" in self._streams:
                event = {
                    "u": self._venue.ladder.update_id(trade.symbol), "s": spec.name, "b": fixed(trade.bid, p),
                    "B": fixed(trade.bid_qty, q), "a": fixed(trade.ask, p), "A": fixed(trade.ask_qty, q),
                }  # fmt: skip
                self._send(symbol + "@bookTicker", event)
        else:
            self._agg[trade.symbol] = (first, lots + trade.qty)
        for interval, bar in self._bars.get(trade.symbol, {}).items():
            self._roll(trade.symbol, interval, bar, trade.time_ms)
            bar.add(trade)

    # ------------------------------------------------------------------ candles

    def _bar(self, index: int, interval: str) -> _LiveBar:
        """Start from what the market has published in the running period."""
        market = self._venue.market
        row = [int(value) for value in market.klines(index, interval, 1)[-1]]
        last = market.last[index]
        last_id = last.id if last else -1
        # Ids count trades, so the first one follows from the count; coarse history before the axis has no ids.
        first_id = max(last_id - row[bars.COUNT] + 1, 0) if row[bars.COUNT] else -1
        return _LiveBar(row, first_id, last_id if row[bars.COUNT] else -1)

    def _roll(self, index: int, interval: str, bar: _LiveBar, time_ms: int) -> None:
        """Close the candle, and empty ones after it, as time passes their ends."""
        end = bars.next_open(bar.row[bars.TIME], interval)
        while time_ms >= end:
            self._send_bar(index, interval, bar, closed=True)
            close = bar.row[bars.CLOSE]
            bar.row[:] = [end, close, close, close, close, 0, 0, 0, 0, 0]
            bar.first_id = bar.last_id = -1
            bar.dirty = False
            end = bars.next_open(end, interval)

    def _send_bar(self, index: int, interval: str, bar: _LiveBar, *, closed: bool) -> None:
        spec, row = self._venue.desk.specs[index], bar.row
        p, q = spec.price_decimals, spec.qty_decimals
        event = {
            "e": "kline",
            "E": self._venue.now_ms(),
            "s": spec.name,
            "k": {
                "t": row[bars.TIME], "T": bars.next_open(row[bars.TIME], interval) - 1, "s": spec.name, "i": interval,
                "f": bar.first_id, "L": bar.last_id, "o": fixed(row[bars.OPEN], p), "c": fixed(row[bars.CLOSE], p),
                "h": fixed(row[bars.HIGH], p), "l": fixed(row[bars.LOW], p), "v": fixed(row[bars.VOLUME], q),
                "n": row[bars.COUNT], "x": closed, "q": fixed(row[bars.QUOTE], p + q),
                "V": fixed(row[bars.TAKER], q), "Q": fixed(row[bars.TAKER_QUOTE], p + q), "B": "0",
            },
        }  # fmt: skip
        bar.dirty = False
        self._send(f"{self._names[index]}@kline_{interval}", event)

    # ------------------------------------------------------------------ time

    def on_time(self, now_ms: int) -> None:
        """Send what time alone causes: candles each second and at their ends, books each 100 ms."""
        if not self._streams:
            return
        due = now_ms - self._kline_at >= _KLINE_MS
        if due:
            self._kline_at = now_ms
        for index, running in self._bars.items():
            for interval, bar in running.items():
                self._roll(index, interval, bar, now_ms)
                if due and bar.dirty:
                    self._send_bar(index, interval, bar, closed=False)
        if now_ms - self._depth_at >= _DEPTH_MS:
            self._depth_at = now_ms
            for name in [name for name in self._streams if "@depth" in name]:
                self._send_depth(name, now_ms)

    def _snapshot(self, index: int) -> tuple[int, dict[str, str], dict[str, str]]:
        # The whole book, so that whoever applies differences to a snapshot never keeps a level that is gone.
        bids, asks = self._venue.book(index, self._venue.ladder.depth_max)
        return self._venue.ladder.update_id(index), {b[0]: b[1] for b in bids}, {a[0]: a[1] for a in asks}

    def _send_depth(self, name: str, now_ms: int) -> None:
        symbol, _, kind = name.partition("@")
        index = self._venue.market.index.get(symbol.upper())
        if index is None:
            return
        partial = _PARTIAL.get(kind.partition("@")[0])
        if partial is not None:
            bids, asks = self._venue.book(index, partial)
            self._send(name, {"lastUpdateId": self._venue.ladder.update_id(index), "bids": bids, "asks": asks})
            return
        old, old_bids, old_asks = self._books[index]
        new, bids_now, asks_now = self._snapshot(index)
        if new == old:
            return
        self._books[index] = (new, bids_now, asks_now)
        event = {
            "e": "depthUpdate",
            "E": now_ms,
            "s": self._venue.desk.specs[index].name,
            "U": old + 1,
            "u": new,
            "b": _difference(old_bids, bids_now),
            "a": _difference(old_asks, asks_now),
        }
        for each in (f"{symbol}@depth", f"{symbol}@depth@100ms"):
            self._send(each, event)


def _difference(old: dict[str, str], new: dict[str, str]) -> list[list[str]]:
    gone = [[price, "0.00000000"] for price in old if price not in new]
    return gone + [[price, qty] for price, qty in new.items() if old.get(price) != qty]
