import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.domain.orders import OrderState
from daemon.edge.outcomes import DEFINITE, Act, Reply, error_code, judge_order, redact, retry_after_s

ID = "b" + "a" * 25
FULL = {"orderId": 7, "status": "FILLED", "executedQty": "0.50000000", "clientOrderId": ID}


def refusal(code: int, msg: str, status: int = 400) -> Reply:
    """Return an error answer in Binance's form."""
    return Reply(status=status, body=json.dumps({"code": code, "msg": msg}))


# One row per row of FAULTS 1.1: name, reply, state, act.
TABLE: list[tuple[str, Reply, OrderState, Act]] = [
    ("no reply until timeout, slow drip", Reply(), OrderState.UNKNOWN, Act.QUERY),
    ("reset after accept, refused, DNS", Reply(), OrderState.UNKNOWN, Act.QUERY),
    ("body cut after headers", Reply(), OrderState.UNKNOWN, Act.QUERY),
    ("200 empty", Reply(200, ""), OrderState.UNKNOWN, Act.QUERY),
    ("200 broken JSON", Reply(200, '{"orderId": 7, "sta'), OrderState.UNKNOWN, Act.QUERY),
    ("200 HTML", Reply(200, "<html>"), OrderState.UNKNOWN, Act.QUERY),
    ("200 []", Reply(200, "[]"), OrderState.UNKNOWN, Act.QUERY),
    ("200 {}", Reply(200, "{}"), OrderState.UNKNOWN, Act.QUERY),
    ("200 null", Reply(200, "null"), OrderState.UNKNOWN, Act.QUERY),
    ("200 about another order", Reply(200, json.dumps({**FULL, "clientOrderId": "x"})), OrderState.UNKNOWN, Act.QUERY),
    ("200 unknown status", Reply(200, json.dumps({**FULL, "status": "ODD"})), OrderState.UNKNOWN, Act.QUERY),
    ("200 absurd quantity", Reply(200, json.dumps({**FULL, "executedQty": "NaN"})), OrderState.UNKNOWN, Act.QUERY),
    ("500", refusal(-1000, "internal", 500), OrderState.UNKNOWN, Act.QUERY),
    ("502 html", Reply(502, "<html>bad gateway"), OrderState.UNKNOWN, Act.QUERY),
    ("403 WAF html", Reply(403, "<html>forbidden"), OrderState.UNKNOWN, Act.QUERY),
    ("-1007 in a 504", refusal(-1007, "Timeout waiting for response", 504), OrderState.UNKNOWN, Act.QUERY),
    ("-1006", refusal(-1006, "unexpected response"), OrderState.UNKNOWN, Act.QUERY),
    ("-1000", refusal(-1000, "unknown error"), OrderState.UNKNOWN, Act.QUERY),
    ("-1001", refusal(-1001, "internal error"), OrderState.UNKNOWN, Act.QUERY),
    ("-1008 in a 503", refusal(-1008, "overloaded", 503), OrderState.UNKNOWN, Act.QUERY),
    ("-1008 in a 400", refusal(-1008, "overloaded"), OrderState.UNKNOWN, Act.QUERY),
    ("unknown code", refusal(-9999, "new"), OrderState.UNKNOWN, Act.QUERY),
    ("409 cancelReplace", refusal(-2021, "partial", 409), OrderState.UNKNOWN, Act.QUERY),
    ("400 without a body", Reply(400, ""), OrderState.UNKNOWN, Act.QUERY),
    ("-1021", refusal(-1021, "Timestamp for this request is outside"), OrderState.DENIED, Act.RESYNC),
    ("429", Reply(429, "{}", {"Retry-After": "7"}), OrderState.DENIED, Act.BACK_OFF),
    ("418", Reply(418, "{}", {"retry-after": "120"}), OrderState.DENIED, Act.BACK_OFF),
    ("-1015", refusal(-1015, "Too many new orders"), OrderState.DENIED, Act.BACK_OFF),
    ("-1003 in a 400", refusal(-1003, "Too much request weight"), OrderState.DENIED, Act.BACK_OFF),
    ("-2010 funds", refusal(-2010, "Account has insufficient balance for requested action."), OrderState.REJECTED, Act.NONE),
    ("-2010 closed", refusal(-2010, "Market is closed."), OrderState.REJECTED, Act.NONE),
    ("-1013 LOT_SIZE", refusal(-1013, "Filter failure: LOT_SIZE"), OrderState.REJECTED, Act.RELOAD),
    ("-1013 NOTIONAL", refusal(-1013, "Filter failure: NOTIONAL"), OrderState.REJECTED, Act.RELOAD),
    ("-1013 MAX_NUM_ORDERS", refusal(-1013, "Filter failure: MAX_NUM_ORDERS"), OrderState.REJECTED, Act.RELOAD),
    ("-2010 duplicate", refusal(-2010, "Duplicate order sent."), OrderState.UNKNOWN, Act.QUERY),
    ("-2015", refusal(-2015, "Invalid API-key, IP, or permissions for action.", 401), OrderState.REJECTED, Act.STOP),
    ("-1022", refusal(-1022, "Signature for this request is not valid."), OrderState.REJECTED, Act.STOP),
    ("200 FILLED", Reply(200, json.dumps(FULL)), OrderState.FILLED, Act.NONE),
    ("200 NEW", Reply(200, json.dumps({**FULL, "status": "NEW", "executedQty": "0"})), OrderState.ACKED, Act.NONE),
    ("200 part", Reply(200, json.dumps({**FULL, "status": "PARTIALLY_FILLED"})), OrderState.ACKED, Act.NONE),
    ("200 EXPIRED", Reply(200, json.dumps({**FULL, "status": "EXPIRED"})), OrderState.EXPIRED, Act.NONE),
    ("200 STP", Reply(200, json.dumps({**FULL, "status": "EXPIRED_IN_MATCH"})), OrderState.EXPIRED, Act.NONE),
    ("200 REJECTED", Reply(200, json.dumps({**FULL, "status": "REJECTED"})), OrderState.REJECTED, Act.NONE),
]  # fmt: skip


@pytest.mark.parametrize(("name", "reply", "state", "act"), TABLE, ids=[row[0] for row in TABLE])
def test_every_row_of_the_table(name: str, reply: Reply, state: OrderState, act: Act) -> None:
    """FAULTS 1.1, row by row."""
    outcome = judge_order(reply, client_id=ID, error=TimeoutError())

    assert (outcome.state, outcome.act) == (state, act)


def test_accepted_order_carries_id_and_quantity() -> None:
    """What the venue states is passed on exactly."""
    outcome = judge_order(Reply(200, json.dumps(FULL)), client_id=ID)

    assert (outcome.venue_id, outcome.filled, outcome.code) == ("7", Decimal("0.50000000"), "")


def test_retry_after_is_obeyed_as_stated() -> None:
    """The header counts in any spelling; nonsense and absence fall back."""
    assert judge_order(Reply(429, "", {"Retry-After": "7"}), client_id=ID).retry_after_s == 7.0
    assert judge_order(Reply(418, ""), client_id=ID).retry_after_s == 120.0
    assert retry_after_s({"RETRY-AFTER": "soon"}, default=3.0) == 3.0
    assert retry_after_s({"Retry-After": "0"}, default=3.0) == 1.0


@given(st.integers(0, 599), st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_only_a_definite_code_rejects(status: int, body: str) -> None:
    """Whatever arrives: a verdict, and never REJECTED without a code of the list (property)."""
    reply = Reply(status, body)
    outcome = judge_order(reply, client_id=ID)

    if outcome.state is OrderState.REJECTED:
        assert error_code(reply) in DEFINITE
    if outcome.state in {OrderState.ACKED, OrderState.FILLED}:
        assert status == 200


@given(st.integers(-10_000, 10_000), st.sampled_from([400, 401, 500, 503, 504, 403]))
def test_server_errors_never_prove_anything(code: int, status: int) -> None:
    """A 5xx leaves the fate unknown whatever code it names."""
    outcome = judge_order(refusal(code, "", status), client_id=ID)

    assert outcome.state is OrderState.UNKNOWN or status < 500


def test_no_secret_in_details() -> None:
    """Signed addresses and keys never reach a log (F70)."""
    line = (
        "binance GET http://h/api/v3/order?symbol=A&timestamp=1&signature=deadbeef {'X-MBX-APIKEY': 'KEY123'} apiKey=K9"
    )
    clean = redact(line, "MARKER")

    assert "deadbeef" not in clean
    assert "KEY123" not in clean
    assert "K9" not in clean
    assert "MARKER" not in redact("x MARKER y", "MARKER")
    assert "symbol=A" in clean
