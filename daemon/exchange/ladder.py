"""The visible book around the tape: the touch of the last trade, with a deterministic ladder behind it."""

from decimal import Decimal
from typing import Final

from daemon.exchange.config import SimConfig
from daemon.exchange.market import Market, Trade

__all__ = ["Ladder", "Rung"]

Rung = tuple[int, int]
"""(price in ticks, quantity in lots)."""

_HASH: Final = 2_654_435_761  # Knuth's multiplicative hash
_GROWTH: Final = 0.35


class Ladder:
    """Bids and asks of every symbol; what clients take stays missing until the next trade moves the book."""

    def __init__(self, config: SimConfig, market: Market) -> None:
        """Follow the market's trades."""
        self._market = market
        self.depth_max = config.book_levels
        self._taken: list[dict[tuple[bool, int], int]] = [{} for _ in market.specs]
        self._touched = [0] * len(market.specs)
        self._base = [
            max(1, round(config.touch_notional * 1.5 / spec.price * 10**spec.qty_decimals)) for spec in market.specs
        ]
        self._gap = [
            max(1, round(config.spread_bps * 0.7e-4 * spec.price * 10**spec.price_decimals)) for spec in market.specs
        ]
        market.listeners.append(self._on_trade)

    def _on_trade(self, trade: Trade) -> None:
        if self._taken[trade.symbol]:
            self._taken[trade.symbol].clear()
            self._touched[trade.symbol] += 1

    def update_id(self, symbol: int) -> int:
        """Return a number that grows whenever the symbol's book may have changed."""
        last = self._market.last[symbol]
        return (last.id if last else 0) + self._touched[symbol]

    def take(self, symbol: int, *, asks: bool, price: int, qty: int) -> None:
        """Remove quantity (lots) that a client took at a price (ticks)."""
        taken = self._taken[symbol]
        taken[asks, price] = taken.get((asks, price), 0) + qty
        self._touched[symbol] += 1

    def side(self, symbol: int, *, asks: bool, depth: int) -> list[Rung]:
        """Return up to depth levels, best first, all with quantity."""
        last = self._market.last[symbol]
        if last is None:
            return []
        taken = self._taken[symbol]
        depth = min(depth, self.depth_max)
        sign = 1 if asks else -1
        touch, shown = (last.ask, last.ask_qty) if asks else (last.bid, last.bid_qty)
        out: list[Rung] = []
        left = shown - taken.get((asks, touch), 0)
        if left > 0:
            out.append((touch, left))
        gap, base = self._gap[symbol], self._base[symbol]
        price = ((touch + sign) // gap + (1 if asks else 0)) * gap
        for step in range(depth + len(taken)):
            if len(out) >= depth or price <= 0:
                break
            noise = 0.5 + ((price * _HASH) & 0xFFFF) / 0x10000
            left = int(base * (1 + _GROWTH * step) * noise) + 1 - taken.get((asks, price), 0)
            if left > 0 and price != touch:
                out.append((price, left))
            price += sign * gap
        return out

    def levels(self, symbol: int, *, asks: bool, depth: int = 50) -> list[tuple[Decimal, Decimal]]:
        """Return levels as (price, quantity) Decimals, for `daemon.matching`."""
        spec = self._market.specs[symbol]
        tick, lot = spec.tick, spec.lot
        return [(price * tick, qty * lot) for price, qty in self.side(symbol, asks=asks, depth=depth)]
