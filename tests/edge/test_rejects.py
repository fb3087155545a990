"""FAULTS 1.1 and 1.2 on Kraken, Coinbase, Bybit and OKX: real ccxt raises what it likes, the reply is judged."""

import json
from typing import Any

import ccxt.async_support as ccxt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.domain.events import Event, Fault
from daemon.domain.orders import OrderState
from daemon.edge.clock import Clock
from daemon.edge.keywatch import KeyWatch
from daemon.edge.lane import Lane, Quota
from daemon.edge.outcomes import DEFINITE, NOT_PLACED, Act, Outcome, Reply
from daemon.edge.reject_tables import BYBIT, COINBASE, KRAKEN, OKX, Table
from daemon.edge.rejects import VENUES, judge, refuses_key
from tests.edge.foreign_kit import CLIENT_ID, SECRET, Loopback, exchange_at, limit_buy, loopback
from tests.edge.foreign_kit import VENUES as TESTED

REJECTED, DENIED, UNKNOWN, ACKED = OrderState.REJECTED, OrderState.DENIED, OrderState.UNKNOWN, OrderState.ACKED


def kraken(*errors: str, **result: Any) -> dict[str, Any]:
    """Return Kraken's answer."""
    return {"error": list(errors), **({"result": result} if result else {})}


def coinbase(reason: str, preview: str = "", message: str = "", new: str = "") -> dict[str, Any]:
    """Return Coinbase's refusal of an order: HTTP 200 with success false."""
    return {
        "success": False,
        "failure_reason": "UNKNOWN_FAILURE_REASON",
        "order_id": "",
        "error_response": {
            "error": reason,
            "message": message,
            "error_details": "",
            "preview_failure_reason": preview,
            "new_order_failure_reason": new,
        },
        "order_configuration": {"limit_limit_gtc": {"base_size": "0.5", "limit_price": "100"}},
    }


def taken(client_id: str) -> dict[str, Any]:
    """Return Coinbase's word for an order that it took."""
    return {"success": True, "success_response": {"order_id": "o-1", "client_order_id": client_id}}


def bybit(code: int, text: str = "", **result: str) -> dict[str, Any]:
    """Return Bybit's answer."""
    return {"retCode": code, "retMsg": text, "result": result, "retExtInfo": {}, "time": 1672211918471}


def okx(code: str, text: str = "", order: str = "", client_id: str = "") -> dict[str, Any]:
    """Return OKX' answer about one order of a batch."""
    row = {"clOrdId": client_id, "ordId": order, "sCode": code, "sMsg": text, "tag": ""}
    return {"code": "0" if code == "0" else "1", "data": [row], "msg": "" if code == "0" else "All operations failed"}


def top(code: str, text: str = "") -> dict[str, Any]:
    """Return OKX' refusal of a whole request."""
    return {"code": code, "data": [], "msg": text}


# venue, what it says, HTTP status, state, what follows, what ccxt raises ("" when it returns an order)
ROWS: list[tuple[str, object, int, OrderState, Act, str]] = [
    ("kraken", kraken("EOrder:Insufficient funds"), 200, REJECTED, Act.NONE, "InsufficientFunds"),
    ("kraken", kraken("EOrder:Order minimum not met"), 200, REJECTED, Act.RELOAD, "InvalidOrder"),
    ("kraken", kraken("EOrder:Cost minimum not met"), 200, REJECTED, Act.RELOAD, "ExchangeError"),
    ("kraken", kraken("EOrder:Tick size check failed"), 200, REJECTED, Act.RELOAD, "ExchangeError"),
    ("kraken", kraken("EOrder:Invalid price:Invalid price argument"), 200, REJECTED, Act.RELOAD, "InvalidOrder"),
    ("kraken", kraken("EGeneral:Invalid arguments:volume"), 200, REJECTED, Act.NONE, "InvalidOrder"),
    ("kraken", kraken("EService:Market in cancel_only mode"), 200, REJECTED, Act.NONE, "OnMaintenance"),
    ("kraken", kraken("EAPI:Invalid key"), 200, REJECTED, Act.STOP, "AuthenticationError"),
    ("kraken", kraken("EGeneral:Permission denied"), 200, REJECTED, Act.STOP, "PermissionDenied"),
    ("kraken", kraken("EAPI:Invalid nonce"), 200, DENIED, Act.RESYNC, "InvalidNonce"),
    ("kraken", kraken("EOrder:Rate limit exceeded"), 200, DENIED, Act.BACK_OFF, "DDoSProtection"),
    ("kraken", kraken("EGeneral:Temporary lockout"), 200, DENIED, Act.BACK_OFF, "DDoSProtection"),
    ("kraken", kraken("EService:Throttled:1788406480"), 200, DENIED, Act.BACK_OFF, "ExchangeError"),
    ("kraken", kraken("EService:Unavailable"), 200, UNKNOWN, Act.QUERY, "ExchangeNotAvailable"),
    ("kraken", kraken("EService:Busy"), 200, UNKNOWN, Act.QUERY, "ExchangeNotAvailable"),
    ("kraken", kraken("EService:Deadline elapsed"), 200, UNKNOWN, Act.QUERY, "ExchangeError"),
    ("kraken", kraken("EGeneral:Internal error"), 200, UNKNOWN, Act.QUERY, "ExchangeNotAvailable"),
    ("kraken", kraken("EGeneral:Internal error:17"), 200, UNKNOWN, Act.QUERY, "ExchangeError"),
    ("kraken", kraken("EGeneral:Invalid arguments:cl_ord_id"), 200, UNKNOWN, Act.QUERY, "ExchangeError"),
    ("kraken", kraken("EOrder:Duplicate client order id"), 200, UNKNOWN, Act.QUERY, "ExchangeError"),
    ("kraken", kraken("EOrder:Insufficient funds", "EService:Busy"), 200, UNKNOWN, Act.QUERY, "InsufficientFunds"),
    ("kraken", kraken("EOrder:Brand new"), 200, UNKNOWN, Act.QUERY, "ExchangeError"),
    ("kraken", kraken(txid=["OEKVV2-IH52O-TPL6GZ"], descr={}), 200, ACKED, Act.NONE, ""),
    ("kraken", kraken("WGeneral:Danger", txid=["OEKVV2-IH52O-TPL6GZ"]), 200, ACKED, Act.NONE, "ExchangeError"),
    ("kraken", kraken("EOrder:Insufficient funds", txid=["O1"]), 200, UNKNOWN, Act.QUERY, "InsufficientFunds"),
    ("coinbase", coinbase("INSUFFICIENT_FUND", "PREVIEW_INSUFFICIENT_FUND"), 200, REJECTED, Act.NONE, "InsufficientFunds"),
    ("coinbase", coinbase("", "", "", "INSUFFICIENT_FUND"), 200, REJECTED, Act.NONE, "ExchangeError"),
    ("coinbase", coinbase("UNKNOWN_FAILURE_REASON", "PREVIEW_INVALID_SIDE"), 200, REJECTED, Act.NONE, "ExchangeError"),
    ("coinbase", coinbase("INVALID_PRICE_PRECISION"), 200, REJECTED, Act.RELOAD, "ExchangeError"),
    ("coinbase", coinbase("", "PREVIEW_INVALID_BASE_SIZE_TOO_SMALL"), 200, REJECTED, Act.RELOAD, "ExchangeError"),
    ("coinbase", {"error": "INVALID_ARGUMENT", "message": "bad"}, 400, REJECTED, Act.NONE, "BadRequest"),
    ("coinbase", {"error": "PERMISSION_DENIED", "message": "x"}, 403, REJECTED, Act.STOP, "PermissionDenied"),
    ("coinbase", "Unauthorized\n", 401, REJECTED, Act.STOP, "AuthenticationError"),
    ("coinbase", {"errors": [{"id": "rate_limit_exceeded", "message": "slow"}]}, 429, DENIED, Act.BACK_OFF, "RateLimitExceeded"),
    ("coinbase", "slow down", 429, DENIED, Act.BACK_OFF, "RateLimitExceeded"),
    ("coinbase", coinbase("UNKNOWN_FAILURE_REASON"), 200, UNKNOWN, Act.QUERY, "ExchangeError"),
    ("coinbase", coinbase("COMMANDER_REJECTED_NEW_ORDER"), 200, UNKNOWN, Act.QUERY, "ExchangeError"),
    ("coinbase", {"error": "internal_server_error"}, 400, UNKNOWN, Act.QUERY, "ExchangeError"),
    ("coinbase", coinbase("INVALID_REQUEST", "", "duplicate client_order_id"), 200, UNKNOWN, Act.QUERY, "ExchangeError"),
    ("coinbase", taken(CLIENT_ID), 200, ACKED, Act.NONE, ""),
    ("coinbase", taken("other"), 200, UNKNOWN, Act.QUERY, ""),
    ("bybit", bybit(170131, "Insufficient balance."), 200, REJECTED, Act.NONE, "InsufficientFunds"),
    ("bybit", bybit(170140, "Order value exceeded lower limit."), 200, REJECTED, Act.RELOAD, "InvalidOrder"),
    ("bybit", bybit(10001, "params error"), 200, REJECTED, Act.NONE, "BadRequest"),
    ("bybit", bybit(10003, "API key is invalid."), 200, REJECTED, Act.STOP, "AuthenticationError"),
    ("bybit", bybit(10010, "Unmatched IP"), 401, REJECTED, Act.STOP, "PermissionDenied"),
    ("bybit", bybit(10002, "invalid request, please check your server timestamp"), 200, DENIED, Act.RESYNC, "InvalidNonce"),
    ("bybit", bybit(10006, "Too many visits!"), 200, DENIED, Act.BACK_OFF, "RateLimitExceeded"),
    ("bybit", bybit(10018, "Exceeded the IP Rate Limit."), 200, DENIED, Act.BACK_OFF, "RateLimitExceeded"),
    ("bybit", bybit(170141, "Duplicate clientOrderId."), 200, UNKNOWN, Act.QUERY, "InvalidOrder"),
    ("bybit", bybit(10001, "OrderLinkedID is duplicate"), 200, UNKNOWN, Act.QUERY, "BadRequest"),
    ("bybit", bybit(10014, "invalid duplicate request"), 200, UNKNOWN, Act.QUERY, "BadRequest"),
    ("bybit", bybit(10016, "Server error."), 200, UNKNOWN, Act.QUERY, "ExchangeError"),
    ("bybit", bybit(170007, "Timeout waiting for response from backend server."), 200, UNKNOWN, Act.QUERY, "RequestTimeout"),
    ("bybit", bybit(170146, "Order creation timeout."), 200, UNKNOWN, Act.QUERY, "InvalidOrder"),
    ("bybit", bybit(170035, "Submitted to the system for processing!"), 200, UNKNOWN, Act.QUERY, "BadRequest"),
    ("bybit", bybit(170139, "Order has been filled."), 200, UNKNOWN, Act.QUERY, "InvalidOrder"),
    ("bybit", bybit(999999, "new"), 200, UNKNOWN, Act.QUERY, "ExchangeError"),
    ("bybit", "<html>access too frequent</html>", 403, UNKNOWN, Act.QUERY, "RateLimitExceeded"),
    ("bybit", bybit(0, "OK", orderId="15", orderLinkId=CLIENT_ID), 200, ACKED, Act.NONE, ""),
    ("bybit", bybit(0, "OK", orderId="15", orderLinkId="other"), 200, UNKNOWN, Act.QUERY, ""),
    ("okx", okx("51008", "Order failed. Insufficient USDT balance."), 200, REJECTED, Act.NONE, "InsufficientFunds"),
    ("okx", okx("51119", "Order placement failed due to insufficient balance."), 200, REJECTED, Act.NONE, "InsufficientFunds"),
    ("okx", okx("51121", "Order quantity must be a multiple of the lot size."), 200, REJECTED, Act.RELOAD, "InvalidOrder"),
    ("okx", okx("51020", "Below the minimum"), 200, REJECTED, Act.RELOAD, "InvalidOrder"),
    ("okx", top("50113", "Invalid Sign"), 401, REJECTED, Act.STOP, "AuthenticationError"),
    ("okx", top("50110", "Your IP 1.2.3.4 is not included"), 401, REJECTED, Act.STOP, "PermissionDenied"),
    ("okx", top("50102", "Timestamp request expired"), 401, DENIED, Act.RESYNC, "InvalidNonce"),
    ("okx", top("50011", "Too Many Requests"), 429, DENIED, Act.BACK_OFF, "RateLimitExceeded"),
    ("okx", okx("51016", "Duplicated client order ID"), 200, UNKNOWN, Act.QUERY, "InvalidOrder"),
    ("okx", okx("51000", "Parameter clOrdId error: repeated"), 200, UNKNOWN, Act.QUERY, "BadRequest"),
    ("okx", top("50004", "Endpoint request timeout"), 200, UNKNOWN, Act.QUERY, "RequestTimeout"),
    ("okx", top("50001", "Service temporarily unavailable"), 503, UNKNOWN, Act.QUERY, "OnMaintenance"),
    ("okx", top("50026", "System error. Try again later"), 200, UNKNOWN, Act.QUERY, "ExchangeNotAvailable"),
    ("okx", okx("51149", "Order timed out."), 200, UNKNOWN, Act.QUERY, "ExchangeError"),
    ("okx", top("1", "Operation failed."), 200, UNKNOWN, Act.QUERY, "ExchangeError"),
    ("okx", okx("0", "", "312269865356374016", CLIENT_ID), 200, ACKED, Act.NONE, ""),
    ("okx", okx("0", "", "312269865356374016", "other"), 200, UNKNOWN, Act.QUERY, ""),
]  # fmt: skip

NAMES = [f"{row[0]} {json.dumps(row[1])[:70]}" for row in ROWS]


async def ask(venue: str, server: Loopback, *, timeout_ms: int = 10_000) -> tuple[Outcome, str]:
    """Send one order through ccxt's class of the venue; return the verdict and the name of what ccxt raised."""
    exchange = exchange_at(venue, server.url, timeout_ms=timeout_ms)
    lane = Lane(exchange, quota=Quota(Clock()), secrets=(SECRET,))
    lane.open()
    try:
        answer = await lane.call("order.place", lambda: limit_buy(exchange))
    finally:
        await lane.close()
    return judge(venue, answer.reply, client_id=CLIENT_ID), answer.error.partition(":")[0]


@pytest.mark.parametrize(("venue", "body", "status", "state", "act", "raised"), ROWS, ids=NAMES)
async def test_what_the_venue_says_through_its_own_ccxt_class(
    venue: str, body: object, status: int, state: OrderState, act: Act, raised: str
) -> None:
    """FAULTS 1.1: the reply decides; the class that ccxt makes of it is on record beside it."""
    async with loopback() as server:
        server.says(body, status)
        outcome, error = await ask(venue, server)

    assert (outcome.state, outcome.act, error) == (state, act, raised)
    assert any(CLIENT_ID in sent for _, sent in server.asked)  # FAULTS 1.2: the id goes out under the venue's name


@pytest.mark.parametrize("venue", TESTED)
@pytest.mark.parametrize("fault", ["hang", "reset", "cut", "drip"])
async def test_a_broken_answer_leaves_the_fate_unknown(venue: str, fault: str) -> None:
    """F2, F3, F4, F6: accepted or not, nobody knows; ccxt raises this or that, or nothing."""
    async with loopback() as server:
        server.breaks(fault, kraken("EOrder:Insufficient funds"))
        outcome, error = await ask(venue, server, timeout_ms=200)

    assert (outcome.state, outcome.act, outcome.code) == (UNKNOWN, Act.QUERY, "no_reply")
    assert error in {"RequestTimeout", "ExchangeNotAvailable", "ExchangeError"}


@pytest.mark.parametrize("venue", TESTED)
@pytest.mark.parametrize("body", ["", "[]", "{}", "null", '{"error": [', "<html>ok</html>", '"OK"'])
@pytest.mark.parametrize("status", [200, 403, 500, 502, 520])
async def test_a_body_that_is_none_proves_nothing(venue: str, body: str, status: int) -> None:
    """F5, F8, F10: an empty or broken 200 (ccxt: an order without id, or a bare exception), 5xx and a firewall's page."""
    async with loopback() as server:
        server.says(body, status)
        outcome, _ = await ask(venue, server)

    assert (outcome.state, outcome.act) == (UNKNOWN, Act.QUERY)


@pytest.mark.parametrize("venue", TESTED)
async def test_nobody_listens(venue: str) -> None:
    """F1: a refused connection is UNKNOWN too: ccxt gives it the class of a reset."""
    async with loopback() as server:
        pass
    outcome, error = await ask(venue, server)

    assert (outcome.state, error) == (UNKNOWN, "ExchangeNotAvailable")


async def test_the_pause_is_the_venues_own_word() -> None:
    """F9: Retry-After is obeyed where it comes, a lock-out's own length where it does not."""
    async with loopback() as server:
        server.says(top("50011"), 429, Retry_After="7")
        named, _ = await ask("okx", server)
        server.says(kraken("EGeneral:Temporary lockout"))
        locked, _ = await ask("kraken", server)

    assert (named.retry_after_s, locked.retry_after_s) == (7.0, 900.0)


REFUSED_KEYS = [
    ("kraken", Reply(200, json.dumps(kraken("EAPI:Invalid key"))), "EAPI:Invalid key"),
    ("kraken", Reply(200, json.dumps(kraken("EAccount:Invalid permissions:restricted"))), "EAccount:Invalid permissions"),
    ("coinbase", Reply(401, "Unauthorized\n"), "http_401"),
    ("coinbase", Reply(403, json.dumps({"error": "PERMISSION_DENIED"})), "PERMISSION_DENIED"),
    ("bybit", Reply(200, json.dumps(bybit(33004, "Your api key has expired."))), "33004"),
    ("okx", Reply(401, json.dumps(top("50111", "Invalid OK-ACCESS-KEY"))), "50111"),
    ("binance", Reply(401, json.dumps({"code": -2015, "msg": "Invalid API-key, IP, or permissions."})), "-2015"),
]  # fmt: skip


@pytest.mark.parametrize(("venue", "reply", "code"), REFUSED_KEYS, ids=[f"{row[0]} {row[2]}" for row in REFUSED_KEYS])
def test_f68_a_refused_key_is_known_in_every_venues_words(venue: str, reply: Reply, code: str) -> None:
    """F68: the second refusal within a minute halts, whatever was asked and whoever refused; the line names the code."""
    faults: list[Event] = []
    watch = KeyWatch(Clock(), faults.append, venue=venue)
    watch.see(reply)
    assert faults == []
    watch.see(reply)

    assert [one.task for one in faults if isinstance(one, Fault)] == ["key"]
    assert f"({code})" in str(faults[0])


@pytest.mark.parametrize("venue", [*TESTED, "binance", "gate"])
@pytest.mark.parametrize(
    "reply",
    [
        Reply(0),
        Reply(500, "<html>"),
        Reply(403, "<html>access denied"),
        Reply(429, "{}"),
        Reply(200, "{}"),
        Reply(200, json.dumps(kraken("EOrder:Insufficient funds"))),
        Reply(200, json.dumps(bybit(170131))),
        Reply(200, json.dumps(okx("51008"))),
        Reply(200, json.dumps(coinbase("INSUFFICIENT_FUND"))),
        Reply(503, json.dumps(top("50111"))),
    ],
    ids=str,
)
def test_f68_nothing_else_is_a_refused_key(venue: str, reply: Reply) -> None:
    """A firewall's page, a lack of funds or an outage halts nothing by this road."""
    assert refuses_key(venue, reply) == ""


def test_a_venue_without_a_table_proves_nothing() -> None:
    """The table is chosen by exchange id: elsewhere even a clear refusal leaves the order to be looked for."""
    reply = Reply(400, json.dumps({"code": -2010, "msg": "Account has insufficient balance"}))

    assert judge("binance", reply, client_id=CLIENT_ID).state is REJECTED
    assert judge("gate", reply, client_id=CLIENT_ID).code == "no_table"
    assert judge("gate", reply, client_id=CLIENT_ID).state is UNKNOWN
    assert judge("gate", Reply(200, "{}"), client_id=CLIENT_ID).state is UNKNOWN


# ---------------------------------------------------------------- the tables themselves

UNSURE = (
    ccxt.RequestTimeout,
    ccxt.ExchangeNotAvailable,
    ccxt.OperationFailed,
    ccxt.OrderNotFound,
    ccxt.DuplicateOrderId,
    ccxt.CancelPending,
)
"""Classes of ccxt that never go with a definite answer, their own children that do aside."""
SURE = (ccxt.RateLimitExceeded, ccxt.DDoSProtection, ccxt.InvalidNonce, ccxt.OnMaintenance)
EXTRA = {
    "kraken": frozenset(KRAKEN.definite) | frozenset(KRAKEN.not_placed),  # from the venue's list, see the rows above
    "coinbase": frozenset(COINBASE.definite) | frozenset(COINBASE.not_placed),
    "bybit": frozenset[str](),
    "okx": frozenset[str](),
}


@pytest.mark.parametrize("venue", TESTED)
def test_no_definite_code_is_one_that_ccxt_doubts(venue: str) -> None:
    """A code that ccxt maps to a timeout, an outage or an order that exists is no proof, whatever its name."""
    table = VENUES[venue][0]
    known = getattr(ccxt, venue)().exceptions["exact"]
    doubted = {
        code
        for code in (*table.definite, *table.not_placed)
        if code in known and issubclass(known[code], UNSURE) and not issubclass(known[code], SURE)
    }
    unheard = {code for code in (*table.definite, *table.not_placed) if code not in known} - EXTRA[venue]

    assert (doubted, unheard) == (set[str](), set[str]())


def test_no_definite_code_of_binance_is_one_that_ccxt_doubts() -> None:
    """The same for Binance, whose table lies beside its reader; each code is one that ccxt has heard of."""
    exceptions = ccxt.binance().exceptions
    known = {**exceptions["exact"], **exceptions["spot"]["exact"]}
    codes = {str(code) for code in (*DEFINITE, *NOT_PLACED)}

    assert {
        code for code in codes & known.keys() if issubclass(known[code], UNSURE) and not issubclass(known[code], SURE)
    } == set()
    assert codes - known.keys() <= {"-1105", "-1118", "-1119"}  # of the venue's own list


@pytest.mark.parametrize("table", [KRAKEN, COINBASE, BYBIT, OKX])
def test_a_code_means_one_thing(table: Table) -> None:
    """No code is definite and something else; turned-away requests ask for a pause or a better clock."""
    assert not table.definite.keys() & table.not_placed.keys()
    assert not table.duplicates & (table.definite.keys() | table.not_placed.keys())
    assert set(table.not_placed.values()) <= {Act.BACK_OFF, Act.RESYNC}
    assert set(table.definite.values()) <= {Act.NONE, Act.RELOAD, Act.STOP}
    assert not set(DEFINITE) & set(NOT_PLACED)


@given(
    venue=st.sampled_from([*TESTED, "binance", "gate"]),
    status=st.sampled_from([0, 200, 201, 400, 401, 403, 404, 409, 418, 429, 500, 503, 520]),
    body=st.one_of(st.text(), st.binary().map(lambda raw: raw.decode("utf-8", "replace")), st.just("[" * 100_000)),
)
def test_any_bytes_are_judged_and_prove_no_order(venue: str, status: int, body: str) -> None:
    """Any answer gives a verdict, and noise is never taken for an order."""
    outcome = judge(venue, Reply(status, body), client_id=CLIENT_ID)

    assert outcome.state in {UNKNOWN, DENIED, REJECTED}
    assert outcome.state is UNKNOWN or status in {401, 418, 429}


@given(venue=st.sampled_from(TESTED), code=st.text(max_size=40), status=st.sampled_from([200, 400, 429]))
def test_only_listed_codes_refuse(venue: str, code: str, status: int) -> None:
    """A code that is in no table leaves the order to be looked for, in the venue's own form of an error."""
    table = VENUES[venue][0]
    listed = table.definite.keys() | table.not_placed.keys()
    said: object = {"kraken": kraken(code), "coinbase": coinbase(code), "okx": okx(code)}.get(venue, bybit(77))
    outcome = judge(venue, Reply(status, json.dumps(said)), client_id=CLIENT_ID)

    assert outcome.state is UNKNOWN or code.strip() in listed or code.strip().rpartition(":")[0] in listed
