"""ccxt as it is, made to point where we want, and asked so that only checked answers come back."""

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import ccxt.async_support as ccxt

from daemon.domain.errors import BallastError, ConfigError, Transient, Unreachable, VenueBusy
from daemon.domain.market import Malformed
from daemon.edge.budget import share_of
from daemon.edge.clock import Clock
from daemon.edge.lane import Lane, NotSentError, Quota
from daemon.edge.outcomes import redact, whole

TIMEOUT_MS = 10_000
"""How long one request may take."""
ATTEMPTS_MAX = 5
RETRY_BASE_S = 0.25
RETRY_CAP_S = 8.0
BUSY_DEFAULT_S = 5.0
"""Pause after "too many requests" without Retry-After."""
BUSY_MAX_S = 300.0

KEY_REMEDY = (
    "check that key and secret belong together and to this exchange (or its sandbox), that the key has not expired, "
    "and that this machine's address is on its list"
)
"""What to do about a key that the venue refuses, whatever its reason."""

T = TypeVar("T")
OnRequest = Callable[[str, str, int], None]
"""Told (endpoint, outcome, request weight used in this minute, -1 unknown) after every request."""


def make_exchange(
    exchange_id: str,
    *,
    rest_url: str = "",
    ws_url: str = "",
    ws_api_url: str = "",
    sandbox: bool = False,
    api_key: str = "",
    api_secret: str = "",
    limited: bool = True,
) -> Any:
    """Return a ccxt exchange for spot, pointed at the given base addresses (binance only). Raises ConfigError.

    Without ``rest_url`` the exchange's own addresses are used; ``sandbox`` chooses its test network. ``limited`` keeps ccxt's
    rate limiter on.
    """
    if exchange_id not in ccxt.exchanges:
        raise ConfigError(
            f"exchange.id: {exchange_id!r} is not known to ccxt {ccxt.__version__}; see ccxt.exchanges for the list"
        )
    options: dict[str, Any] = {"defaultType": "spot", "fetchMarkets": {"types": ["spot"]}, "fetchMargins": False}
    settings: dict[str, Any] = {"enableRateLimit": limited, "timeout": TIMEOUT_MS, "options": options}
    if api_key:
        settings |= {"apiKey": api_key, "secret": api_secret}
    if rest_url:
        if not exchange_id.startswith("binance"):
            raise ConfigError(f"exchange.rest_url: only binance can be pointed elsewhere, not {exchange_id!r}")
        if sandbox:
            raise ConfigError(
                "exchange.sandbox: cannot be combined with exchange.rest_url; the sandbox has addresses of its own"
            )
        settings["urls"] = {"api": _addresses(rest_url, ws_url or rest_url.replace("http", "ws", 1), ws_api_url)}
    exchange = getattr(ccxt, exchange_id)(settings)
    # What was answered last is kept by default: 10 MB after an exchangeInfo.
    exchange.enableLastJsonResponse = False
    exchange.enableLastHttpResponse = False
    if sandbox:
        exchange.set_sandbox_mode(True)
    elif rest_url and urlsplit(rest_url).hostname != "api.binance.com":
        # ccxt chooses the spot table of error classes by the real host's name only.
        exchange.exceptions["exact"].update(exchange.exceptions.get("spot", {}).get("exact", {}))
    return exchange


def _addresses(rest_url: str, ws_url: str, ws_api_url: str) -> dict[str, Any]:
    """Return Binance's address table under other bases."""
    rest, stream = rest_url.rstrip("/"), ws_url.rstrip("/")
    api = (ws_api_url or ws_url).rstrip("/")
    return {
        "public": f"{rest}/api/v3",
        "private": f"{rest}/api/v3",
        "v1": f"{rest}/api/v1",
        "sapi": f"{rest}/sapi/v1",
        "sapiV2": f"{rest}/sapi/v2",
        "sapiV3": f"{rest}/sapi/v3",
        "sapiV4": f"{rest}/sapi/v4",
        "fapiPublic": f"{rest}/fapi/v1",
        "dapiPublic": f"{rest}/dapi/v1",
        # ccxt.pro tells spot from futures by "/stream" in the address.
        "ws": {"spot": f"{stream}/stream/ws", "margin": f"{stream}/stream/ws", "ws-api": {"spot": f"{api}/ws-api/v3"}},
    }


class Rest:
    """Asks a ccxt exchange's raw endpoints: checked answers, bounded jittered retries, Retry-After obeyed by all.

    Parameters
    ----------
    exchange
        A ccxt async exchange; shared with others, its rate limiter too.
    clock
        Ours.
    rng
        Source of jitter.
    on_request
        Told about every request, for metrics.
    retry_base_s
        Mean delay before the first retry, seconds; it doubles with each.
    quota
        Its patience; one of its own without.
    """

    def __init__(
        self,
        exchange: Any,
        clock: Clock,
        *,
        rng: random.Random | None = None,
        on_request: OnRequest | None = None,
        retry_base_s: float = RETRY_BASE_S,
        quota: Quota | None = None,
    ) -> None:
        self.exchange = exchange
        self.clock = clock
        self._rng = rng or random.Random()
        self.on_request = on_request
        self._lane = Lane(exchange, quota=quota or Quota(clock))
        self._headers: Mapping[str, str] = {}
        self._retry_base_s = retry_base_s

    def share(self, quota: Quota) -> None:
        """Be patient together with others: the venue counts requests by address, not by who makes them."""
        quota.pause(self._lane.quota.wait_s)
        quota.budget.limit = quota.budget.limit or self.quota.budget.limit
        self._lane.quota = quota

    @property
    def quota(self) -> Quota:
        """Return the patience that these requests obey."""
        return self._lane.quota

    @property
    def quiet_s(self) -> float:
        """Return for how long the venue wants quiet, seconds."""
        return self._lane.quota.wait_s

    async def ask(
        self,
        endpoint: str,
        params: dict[str, Any],
        parse: Callable[[object], T | Malformed],
        *,
        attempts: int = ATTEMPTS_MAX,
    ) -> T:
        """Call ``endpoint`` (a ccxt implicit method) and return the parsed answer.

        Raises Transient when the venue did not give a usable answer in time, VenueBusy when it asked us to wait, ConfigError
        when it knows the symbol, key or permission to be wrong.
        """
        failure: BallastError = Transient(f"{endpoint}: not asked")
        for attempt in range(attempts):
            if attempt:
                await asyncio.sleep(self._rng.uniform(0.0, min(RETRY_CAP_S, self._retry_base_s * 2.0**attempt)))
            try:
                answer = parse(await self._request(endpoint, params))
            except ccxt.BaseError as error:
                failure = self._judge(endpoint, error)
                continue
            if not isinstance(answer, Malformed):
                self._report(endpoint, "ok")
                return answer
            failure = Transient(f"{endpoint}: broken answer: {answer.detail}")
            self._report(endpoint, "broken")
        raise failure

    async def _request(self, endpoint: str, params: dict[str, Any]) -> object:
        """Make one request when the venue does not want quiet; raise what ccxt raises."""
        outcome: list[object] = []

        async def request() -> object:
            try:
                outcome.append(await getattr(self.exchange, endpoint)(params))
            except NotSentError:
                raise
            except Exception as error:
                outcome.append(error)
                raise
            return outcome

        self._lane.open()
        await self.quota.budget.wait(share_of(endpoint, params))
        answer = await self._lane.ask(endpoint, request)
        self._headers = answer.reply.headers
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]

    def _judge(self, endpoint: str, error: Exception) -> BallastError:
        """Return what an exception of ccxt means; raise ConfigError for what no retry can cure."""
        said = redact(str(error), *self._secrets())[:200]
        text = f"{endpoint}: {type(error).__name__}: {said}"
        if isinstance(error, ccxt.BadSymbol):
            self._report(endpoint, "refused")
            raise ConfigError(f"universe: the exchange does not know a symbol: {text}") from error
        if isinstance(error, ccxt.DDoSProtection | ccxt.RateLimitExceeded):
            wait_s = self._retry_after_s()
            self._lane.quota.pause(wait_s)
            self._report(endpoint, "busy")
            return VenueBusy(text, retry_after_s=wait_s)
        if isinstance(error, ccxt.AuthenticationError):
            self._report(endpoint, "refused")
            raise ConfigError(f"exchange.api_key: refused: {text}; {KEY_REMEDY}") from error
        self._report(endpoint, "error")
        return Transient(text)

    def _secrets(self) -> tuple[str, str]:
        """Return what no error may quote, "" where there is none."""
        return self.exchange.apiKey or "", self.exchange.secret or ""

    def _retry_after_s(self) -> float:
        """Return how long the answer just seen asked us to wait, seconds (ccxt hides it from the exception)."""
        seconds = whole(_header(self._headers, "retry-after"))
        return min(float(seconds), BUSY_MAX_S) if seconds >= 0 else BUSY_DEFAULT_S

    def _report(self, endpoint: str, outcome: str) -> None:
        """Tell whoever counts."""
        if self.on_request is not None:
            used = whole(_header(self._headers, "x-mbx-used-weight-1m"))
            self.on_request(endpoint, outcome, used)


def _header(headers: Any, name: str) -> str:
    """Return a header whatever its case, "" when absent."""
    return next((str(value) for key, value in (headers or {}).items() if key.lower() == name), "")


async def reach(rest: Rest, endpoint: str, params: dict[str, Any], parse: Callable[[object], T | Malformed]) -> T:
    """Ask for a one-shot command: what passes when retried for ever is Unreachable (69) here."""
    try:
        return await rest.ask(endpoint, params, parse)
    except Transient as error:
        raise Unreachable(f"exchange unreachable after {ATTEMPTS_MAX} attempts: {error}") from error


def keep_markets(exchange: Any, entries: Iterable[object]) -> None:
    """Give ccxt the markets of these exchangeInfo entries only, so that load_markets has nothing left to fetch."""
    exchange.options.setdefault("crossMarginPairsData", [])  # fetch_markets would have set both
    exchange.options.setdefault("isolatedMarginPairsData", [])
    exchange.set_markets([exchange.parse_market(entry) for entry in entries])
