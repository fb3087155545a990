"""Request weights, order counts and bans, with the headers that report them."""

from typing import Final

from daemon.exchange.config import Limits
from daemon.exchange.errors import ApiError

__all__ = ["RateLimiter", "weight_of"]

_MINUTE_MS: Final = 60_000
_TEN_SECONDS_MS: Final = 10_000
_DAY_MS: Final = 86_400_000
_FIVE_MINUTES_MS: Final = 300_000

_WEIGHTS: Final = {
    "exchangeInfo": 20,
    "account": 20,
    "myTrades": 20,
    "allOrders": 20,
    "klines": 2,
    "trades": 25,
    "historicalTrades": 25,
    "aggTrades": 4,
}


def weight_of(method: str, path: str, params: dict[str, str]) -> int:
    """Return the weight of a request; placing and cancelling an order weighs nothing unless it fails."""
    name = path.rsplit("/", 1)[-1]
    one_symbol = "symbol" in params
    if name == "order":
        return 4 if method == "GET" else 0
    if name == "openOrders":
        return (6 if one_symbol else 80) if method == "GET" else 1
    if name == "myTrades" and "orderId" in params:
        return 5
    if name == "depth":
        limit = params.get("limit", "100")
        depth = int(limit) if limit.isdigit() else 100
        return 5 if depth <= 100 else 25 if depth <= 500 else 50 if depth <= 1000 else 250
    if name in {"price", "bookTicker"}:
        return 2 if one_symbol else 4
    if name == "24hr":
        return 2 if one_symbol else 80
    return _WEIGHTS.get(name, 1)


class RateLimiter:
    """Counts the weight of one address and the orders of the account, in windows that start on the clock's multiples."""

    def __init__(self, limits: Limits) -> None:
        """Start with empty windows."""
        self._limits = limits
        self._minute = self._span = self._day = self._five = -1
        self.weight = 0
        self.orders_10s = 0
        self.orders_day = 0
        self.raw_5m = 0
        self._refused = 0
        self._banned_until_ms = 0

    def _roll(self, now_ms: int) -> None:
        if now_ms // _MINUTE_MS != self._minute:
            self._minute, self.weight, self._refused = now_ms // _MINUTE_MS, 0, 0
        if now_ms // _TEN_SECONDS_MS != self._span:
            self._span, self.orders_10s = now_ms // _TEN_SECONDS_MS, 0
        if now_ms // _DAY_MS != self._day:
            self._day, self.orders_day = now_ms // _DAY_MS, 0
        if now_ms // _FIVE_MINUTES_MS != self._five:
            self._five, self.raw_5m = now_ms // _FIVE_MINUTES_MS, 0

    def spend(self, weight: int, now_ms: int) -> None:
        """Count a request.

        Raises
        ------
        ApiError
            -1003 with HTTP 429 and Retry-After when the weight is used up, with 418 when the client goes on.
        """
        self._roll(now_ms)
        if now_ms < self._banned_until_ms:
            wait = max(1, -(-(self._banned_until_ms - now_ms) // 1000))
            raise self._banned(wait)
        self.weight += weight
        self.raw_5m += 1
        if self.weight <= self._limits.weight_per_minute and self.raw_5m <= self._limits.raw_per_5m:
            return
        self._refused += 1
        if self._refused > self._limits.bans_after:
            self._banned_until_ms = now_ms + self._limits.ban_seconds * 1000
            raise self._banned(self._limits.ban_seconds)
        wait = max(1, -(-(_MINUTE_MS - now_ms % _MINUTE_MS) // 1000))
        text = (
            f"Too much request weight used; current limit is {self._limits.weight_per_minute} request weight per "
            "1 MINUTE. Please use WebSocket Streams for live updates to avoid polling the API."
        )
        raise ApiError(-1003, text, status=429, headers={"Retry-After": str(wait)})

    def _banned(self, wait_s: int) -> ApiError:
        text = (
            f"Way too much request weight used; IP banned until {self._banned_until_ms}. "
            "Please use WebSocket Streams for live updates to avoid bans."
        )
        return ApiError(-1003, text, status=418, headers={"Retry-After": str(wait_s)})

    def count_order(self, now_ms: int) -> None:
        """Count a new order.

        Raises
        ------
        ApiError
            -1015 with HTTP 429 when there were too many.
        """
        self._roll(now_ms)
        for used, limit, window, wait in (
            (self.orders_10s, self._limits.orders_per_10s, "10 SECOND", _TEN_SECONDS_MS - now_ms % _TEN_SECONDS_MS),
            (self.orders_day, self._limits.orders_per_day, "1 DAY", _DAY_MS - now_ms % _DAY_MS),
        ):
            if used >= limit:
                text = f"Too many new orders; current limit is {limit} orders per {window}."
                headers = {"Retry-After": str(max(1, -(-wait // 1000)))}
                raise ApiError(-1015, text, status=429, headers=headers)
        self.orders_10s += 1
        self.orders_day += 1

    def headers(self, *, orders: bool) -> dict[str, str]:
        """Return the headers that tell a client what it has used."""
        out = {"X-MBX-USED-WEIGHT": str(self.weight), "X-MBX-USED-WEIGHT-1M": str(self.weight)}
        if orders:
            out["X-MBX-ORDER-COUNT-10S"] = str(self.orders_10s)
            out["X-MBX-ORDER-COUNT-1D"] = str(self.orders_day)
        return out
