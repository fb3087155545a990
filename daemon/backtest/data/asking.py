"""Questions to an exchange that may wait: bounded retries, ccxt's rate limits, and the pauses that the exchange asks for.

A pause counts by address. So one that the daemon, or another command, was told of holds here too, and the other way round.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import ccxt.async_support as ccxt
import msgspec

from daemon.domain.errors import ConfigError, Unreachable, VenueBusy
from daemon.edge.budget import DATA_SHARE
from daemon.edge.clock import Clock
from daemon.edge.lane import Lane, Quota
from daemon.wire.binance_rest import weight_per_minute

ATTEMPTS_MAX: Final = 6
RETRY_S: Final = 0.5
RETRY_S_MAX: Final = 60.0
BROKEN: Final = (TypeError, ValueError, KeyError, IndexError, AttributeError)
"""What parsing an answer raises that is not what it should be; ccxt hands broken bodies through."""
PATIENCE_S: Final = 60.0
"""The longest pause that is waited for; what the exchange asks beyond it ends the command, which can be run again later."""

T = TypeVar("T")


class Asker:
    """Asks one ccxt exchange.

    Parameters
    ----------
    exchange
        Any of ccxt's async exchanges.
    quota
        The patience it shares with the daemon; one of its own without.
    """

    def __init__(self, exchange: Any, quota: Quota | None = None) -> None:
        self.exchange = exchange
        self._lane = Lane(exchange, quota=quota or Quota(Clock(), patience_s=PATIENCE_S))
        self._known = False
        self._loaded = bool(exchange.markets)

    async def ask(self, what: str, pair: str, request: Callable[[], Awaitable[T]]) -> T:
        """Return an answer about a pair; ``what`` is asked for is named in errors.

        Raises
        ------
        ConfigError
            The exchange has no such pair, or nothing of the kind.
        Unreachable
            It does not answer, after bounded retries, or wants quiet for longer than we wait.
        """
        name = str(self.exchange.id)
        await self._learn_limit(pair)
        wait_s = RETRY_S
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                await self._load()
                return await self._once(request)
            except VenueBusy as busy:
                raise Unreachable(f"{name}: no {what} of {pair}: {busy}; run it again then, it goes on") from None
            except ccxt.BadSymbol as error:
                raise ConfigError(f"{pair}: {name} has no such pair ({first_line(error)})") from None
            except (ccxt.NotSupported, ccxt.ArgumentsRequired) as error:
                raise ConfigError(f"{name} has no {what} by time: {first_line(error)}") from None
            except (ccxt.BaseError, *BROKEN) as error:
                if attempt == ATTEMPTS_MAX or not _passes(error):
                    raise Unreachable(f"{name}: no {what} of {pair}: {first_line(error)}") from None
                await asyncio.sleep(min(wait_s * random.uniform(0.5, 1.5), RETRY_S_MAX))
                wait_s = min(2 * wait_s, RETRY_S_MAX)
        raise Unreachable(f"{name}: no {what} of {pair}")

    async def _once(self, request: Callable[[], Awaitable[T]]) -> T:
        """Make one request when the exchange does not want quiet; raise what ccxt raises."""
        outcome: list[T | Exception] = []

        async def keep() -> object:
            try:
                outcome.append(await request())
            except Exception as error:
                outcome.append(error)
                raise
            return None

        await self._lane.quota.budget.wait(DATA_SHARE)
        reply = (await self._lane.ask("history", keep)).reply
        answer = outcome[-1]  # asked again where a ban began while it stood in ccxt's queue
        if isinstance(answer, Exception):
            raise answer
        if reply.status:
            _whole(reply.body)
        return answer

    async def _load(self) -> None:
        """Read the exchange's markets once; ccxt takes half an answer for an exchange without any. Raises what ccxt raises."""
        if self._loaded:
            return

        async def load() -> None:
            await self.exchange.load_markets(True)
            if not self.exchange.markets:
                raise ValueError("an answer without markets")

        await self._once(load)
        self._loaded = True

    async def _learn_limit(self, pair: str) -> None:
        """Read once how much weight a minute allows: history stops at 60 % of it, the rest is the daemon's."""
        if self._known or not str(self.exchange.id).startswith("binance"):
            return
        self._known = True
        with contextlib.suppress(
            ccxt.BaseError, VenueBusy, *BROKEN
        ):  # it is courtesy; the request itself tells what is wrong
            symbol = pair.replace("/", "")
            answer = await self._once(lambda: self.exchange.publicGetExchangeInfo({"symbol": symbol}))
            self._lane.quota.budget.limit = weight_per_minute(answer)


def _whole(body: str) -> None:
    """Raise ValueError for a body that is no JSON: ccxt takes an empty one, or a page, for "no rows", a hole nobody would see."""
    try:
        msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise ValueError(f"an answer that is no JSON ({error}): {body.strip()[:60]!r}") from None


def _passes(error: Exception) -> bool:
    """Say whether a repetition may cure it: the network, the venue's own troubles, an answer that came torn or is none.

    ccxt calls a torn answer plainly ``ExchangeError``; what the venue refuses for a reason has a class of its own.
    """
    return isinstance(error, (ccxt.OperationFailed, ccxt.BadResponse, *BROKEN)) or type(error) is ccxt.ExchangeError


def first_line(error: BaseException) -> str:
    """Return the beginning of what an error says."""
    return str(error).partition("\n")[0][:160]
