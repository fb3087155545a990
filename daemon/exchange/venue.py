"""What the endpoints share: the market, the book, the desk, the books and the clock."""

import itertools

from daemon.exchange import errors
from daemon.exchange.books import Books
from daemon.exchange.clock import Clock
from daemon.exchange.config import SimConfig
from daemon.exchange.desk import Desk
from daemon.exchange.errors import ApiError
from daemon.exchange.ladder import Ladder, Rung
from daemon.exchange.market import Market
from daemon.exchange.text import fixed

__all__ = ["Venue"]


class Venue:
    """The exchange without its network.

    Attributes
    ----------
    offset_ms
        Error of the time that the exchange tells and signs by; the market itself keeps to the clock.
    """

    def __init__(self, config: SimConfig, clock: Clock) -> None:
        """Build the market as of the clock's time and open the account."""
        self.config = config
        self.clock = clock
        self.market = Market(config, config.start_ns or clock())
        self.ladder = Ladder(config, self.market)
        self.books = Books(config.balances)
        self.desk = Desk(config, self.market, self.ladder, self.books)
        self.offset_ms = 0
        self._generated = itertools.count(1)

    def now_ms(self) -> int:
        """Return the exchange's time, ms UTC."""
        return self.clock() // 1_000_000 + self.offset_ms

    def symbol(self, params: dict[str, str]) -> int:
        """Return the index of the symbol that a request names.

        Raises
        ------
        ApiError
            -1102 without a symbol, -1100 with a malformed one, -1121 with an unknown one.
        """
        name = params.get("symbol", "")
        if not name:
            raise errors.missing("symbol")
        if not name.isascii() or not name.isalnum() or name != name.upper():
            raise errors.illegal("symbol", "^[A-Z0-9-_.]{1,20}$")
        index = self.market.index.get(name)
        if index is None:
            raise ApiError(*errors.BAD_SYMBOL)
        return index

    def client_id(self) -> str:
        """Return a fresh id for orders and cancels that came without one."""
        return f"sim{next(self._generated):019d}"

    def book(self, index: int, depth: int) -> tuple[list[list[str]], list[list[str]]]:
        """Return (bids, asks) as Binance writes them, best first."""
        spec = self.desk.specs[index]

        def written(rungs: list[Rung]) -> list[list[str]]:
            return [[fixed(price, spec.price_decimals), fixed(qty, spec.qty_decimals)] for price, qty in rungs]

        return (
            written(self.ladder.side(index, asks=False, depth=depth)),
            written(self.ladder.side(index, asks=True, depth=depth)),
        )
