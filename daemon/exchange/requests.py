"""A request as it arrived, the record of all of them, and the answer before faults."""

from collections import deque
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web

from daemon.exchange import auth, errors
from daemon.exchange.errors import ApiError
from daemon.exchange.limits import RateLimiter, weight_of
from daemon.exchange.rest_account import ACCOUNT_ROUTES, Caller
from daemon.exchange.rest_market import MARKET_ROUTES
from daemon.exchange.venue import Venue

__all__ = ["Answer", "Dispatcher", "Incoming", "Seen", "read_request"]


class Incoming(msgspec.Struct, frozen=True):
    """A request with its raw query and body, as the signature covers them."""

    method: str
    path: str
    query: str
    body: str
    key: str | None

    @property
    def params(self) -> dict[str, str]:
        """Parameters of body and query; the query wins."""
        both = parse_qsl(self.body, keep_blank_values=True) + parse_qsl(self.query, keep_blank_values=True)
        return dict(both)


class Seen(msgspec.Struct):
    """One line of the requests log. ``ns`` is the arrival in the exchange's time, status 0 while unanswered."""

    ns: int
    method: str
    path: str
    symbol: str
    client_id: str
    status: int = 0
    fault: str = ""


class Answer(msgspec.Struct):
    """Status, body and headers of a reply."""

    status: int
    body: bytes
    headers: dict[str, str]


async def read_request(request: web.Request) -> Incoming:
    """Read a request without normalising anything."""
    path, _, query = request.raw_path.partition("?")
    body = (await request.read()).decode(errors="replace") if request.can_read_body else ""
    return Incoming(request.method, path, query, body, request.headers.get("X-MBX-APIKEY"))


def error_answer(error: ApiError, headers: dict[str, str]) -> Answer:
    """Write a refusal as Binance does."""
    body = msgspec.json.encode({"code": error.code, "msg": error.text})
    return Answer(error.status, body, headers | error.headers)


class Dispatcher:
    """Limits, keys, signatures and routes of the REST interface."""

    def __init__(self, venue: Venue, limiter: RateLimiter, kept: int) -> None:
        """Answer for a venue; the log keeps the newest ``kept`` requests."""
        self._venue = venue
        self.limiter = limiter
        self.log: deque[Seen] = deque(maxlen=kept)

    def record(self, incoming: Incoming) -> Seen:
        """Note an arrival."""
        params = incoming.params
        seen = Seen(
            self._venue.clock(),
            incoming.method,
            incoming.path,
            params.get("symbol", ""),
            params.get("newClientOrderId") or params.get("origClientOrderId") or "",
        )
        self.log.append(seen)
        return seen

    def answer(self, incoming: Incoming, *, admitted: bool = False) -> Answer:
        """Handle a request completely; one admitted earlier is not held to its timestamp again."""
        is_order = incoming.path == "/api/v3/order"
        try:
            params = incoming.params
            self.limiter.spend(weight_of(incoming.method, incoming.path, params), self._venue.now_ms())
            result = self._route(incoming, params, admitted)
        except ApiError as error:
            if is_order and incoming.method == "POST" and error.status == 400:
                self.limiter.weight += 1  # failed orders weigh one
            return error_answer(error, self.limiter.headers(orders=is_order))
        return Answer(200, msgspec.json.encode(result), self.limiter.headers(orders=is_order))

    def _route(self, incoming: Incoming, params: dict[str, str], admitted: bool) -> object:
        target = (incoming.method, incoming.path)
        public = MARKET_ROUTES.get(target)
        if public is not None:
            return public(self._venue, params)
        private = ACCOUNT_ROUTES.get(target)
        if private is None:
            if incoming.path.startswith("/api/v3/userDataStream"):  # listenKeys were retired on 2026-02-20
                raise ApiError(-1000, "This endpoint has been retired; use userDataStream.subscribe.", status=410)
            known = {path for _, path in (*MARKET_ROUTES, *ACCOUNT_ROUTES)}
            if incoming.path in known:
                raise ApiError(-1020, "This operation is not supported.", status=405)
            raise ApiError(-1000, f"Path {incoming.path} does not exist on the simulated exchange.", status=404)
        caller = self._authorise(incoming, params, admitted)
        if target == ("POST", "/api/v3/order"):
            self.limiter.count_order(self._venue.now_ms())
        return private(self._venue, params, caller)

    def _authorise(self, incoming: Incoming, params: dict[str, str], admitted: bool) -> Caller:
        """Check key, time and signature.

        Raises
        ------
        ApiError
            With Binance's code.
        """
        pair = auth.check_key(self._venue.config, incoming.key)
        if not params.get("timestamp"):
            raise errors.missing("timestamp")
        payload = auth.unsigned(incoming.query) + auth.unsigned(incoming.body)
        auth.check_signature(pair.secret, payload, params.get("signature"))
        if self._venue.config.check_time and not admitted:
            auth.check_time(params, self._venue.now_ms())
        return Caller(pair)
