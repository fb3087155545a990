import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.domain.events import Flow, Link
from daemon.domain.orders import Fill, OrderState, OrderUpdate
from daemon.edge.userstream import Sinks, UserNews, UserStream, decode, subscription
from tests.edge.venue_kit import CLOCK, KEY, S_NS, SECRET, Rig, rig, until

D = Decimal
SYMBOLS = {"BTCUSDT": "BTC/USDT"}
REPORT = {
    "e": "executionReport", "E": 1499405658658, "s": "BTCUSDT", "c": "mine", "S": "BUY", "o": "LIMIT", "f": "IOC",
    "q": "1.00000000", "p": "0.10264410", "P": "0.0", "F": "0.0", "g": -1, "C": "", "x": "TRADE", "X": "PARTIALLY_FILLED",
    "r": "NONE", "i": 4293153, "l": "0.25000000", "z": "0.50000000", "L": "0.10264410", "n": "0.00025", "N": "BNB",
    "T": 1499405658657, "t": 77, "I": 3, "w": True, "m": True, "M": False, "O": 1, "Z": "0.05", "Y": "0.02", "Q": "0",
}  # fmt: skip


def frame(event: dict[str, object]) -> str:
    """Return an event as the websocket API pushes it."""
    return json.dumps({"subscriptionId": 0, "event": event})


def read(event: dict[str, object]) -> UserNews:
    """Decode an event."""
    return decode(frame(event), symbols=SYMBOLS, recv_ns=5)


def test_execution_gives_fill_and_state() -> None:
    """Amounts are exact, the third asset pays, times are ns."""
    news = read(REPORT)

    assert news.update is not None
    assert (news.update.state, news.update.filled, news.update.venue_id) == (OrderState.ACKED, D("0.5"), "4293153")
    assert news.fill is not None
    assert (news.fill.qty, news.fill.price, news.fill.trade_id) == (D("0.25"), D("0.10264410"), "77")
    assert (news.fill.fee, news.fill.fee_asset, news.fill.maker) == (D("0.00025"), "BNB", True)
    assert news.fill.ts_event_ns == 1499405658657 * 1_000_000


def test_p13_a_price_range_that_ends_an_order_is_a_normal_end_with_its_reason() -> None:
    """P13: the venue's price range ends an order at the moment of trading; the reason is in a field of its own."""
    why = "EXECUTION_RULE_PRICE_RANGE_EXCEEDED"
    news = read({**REPORT, "x": "EXPIRED", "X": "EXPIRED", "t": -1, "eR": why})
    filled = read({**REPORT, "X": "FILLED", "eR": why})

    assert news.update is not None
    assert (news.update.state, news.update.code, news.update.filled) == (OrderState.EXPIRED, why, D("0.5"))
    assert filled.update is not None
    assert filled.update.code == ""


def test_cancel_carries_the_orders_id_in_capital_c() -> None:
    """In a cancel `c` is the cancel's id."""
    news = read({**REPORT, "x": "CANCELED", "X": "CANCELED", "c": "web_9", "C": "mine", "t": -1, "N": None})

    assert news.update is not None
    assert (news.update.client_id, news.update.state) == ("mine", OrderState.CANCELED)
    assert news.fill is None


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("NEW", "acked"),
        ("FILLED", "filled"),
        ("EXPIRED", "expired"),
        ("EXPIRED_IN_MATCH", "expired"),
        ("REJECTED", "rejected"),
        ("PENDING_CANCEL", "acked"),
    ],
)
def test_every_status_has_our_word(status: str, state: str) -> None:
    """The venue's states map to ours."""
    news = read({**REPORT, "x": status, "X": status, "t": -1, "r": "SOME_REASON"})

    assert news.update is not None
    assert news.update.state.value == state
    assert news.update.code == ("SOME_REASON" if state in {"expired", "rejected"} else "")


def test_balances_and_deposits() -> None:
    """Account positions and balance updates are passed on."""
    held = {"e": "outboundAccountPosition", "E": 1, "u": 1, "B": [{"a": "USDT", "f": "1.5", "l": "0.5"}]}
    change = {"e": "balanceUpdate", "E": 1, "a": "BTC", "d": "-0.1", "T": 1}

    assert read(held).balances[0].free == D("1.5")
    assert read(change).deposit == ("BTC", D("-0.1"))
    assert read({"e": "eventStreamTerminated"}).over
    assert read({"e": "somethingNew"}) == UserNews()
    assert decode('{"id":"1","status":200,"result":{}}', symbols=SYMBOLS, recv_ns=0) == UserNews()
    assert read({**REPORT, "s": "OTHER"}) == UserNews()


@pytest.mark.parametrize(
    "field", [{"z": "NaN"}, {"l": "-1"}, {"X": "ODD"}, {"S": "HOLD"}, {"i": "x"}, {"q": 1, "z": None}]
)
def test_absurd_reports_are_broken_not_booked(field: dict[str, object]) -> None:
    """What is no amount is counted, never booked."""
    news = read({**REPORT, **field})

    assert news.broken
    assert news.update is None


documents = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
)


@given(st.binary() | documents.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_give_an_answer(raw: bytes) -> None:
    """The decoder never raises (property)."""
    news = decode(raw, symbols=SYMBOLS, recv_ns=0)

    assert news.fill is None
    assert news.update is None


def test_deep_nesting_is_refused() -> None:
    """A JSON bomb is a broken frame."""
    bomb = '{"event":' + "[" * 100_000 + "]" * 100_000 + "}"

    assert decode(bomb, symbols=SYMBOLS, recv_ns=0).broken


def test_subscription_is_signed_over_sorted_parameters() -> None:
    """The signature of Binance's own documents' form; the secret does not appear."""
    request = json.loads(subscription("key", "secret", now_ms=1_600_000_000_000, number=3))

    assert request["method"] == "userDataStream.subscribe.signature"
    assert set(request["params"]) == {"apiKey", "recvWindow", "timestamp", "signature"}
    assert len(request["params"]["signature"]) == 64
    assert "secret" not in json.dumps(request)


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Rig]:
    """A venue with its user stream up."""
    async with rig(tmp_path, stream=True) as one:
        await until(lambda: one.links() == [True])
        yield one


async def test_lost_answer_comes_by_the_stream(live: Rig) -> None:
    """The answer to the order is lost, the stream tells; a query afterwards changes nothing."""
    live.fault("POST /api/v3/order", "hang_after")
    intent = live.intent()
    await live.submit(intent)
    await live.venue.resolve(intent.client_id, intent.symbol, intent.ts_ns)

    assert live.states(intent.client_id) == ["acked", "filled"]
    assert live.fills(intent.client_id) == intent.qty


async def test_answer_and_stream_book_once(live: Rig) -> None:
    """F30, F31: both sides tell the same: each execution once, states never backwards."""
    intents = [live.intent() for _ in range(5)]
    for intent in intents:
        live.fault("user executionReport", "duplicate", times=0)
        await live.submit(intent)
    await until(lambda: live.sim.users.frames > 10)
    await live.venue.reconcile()

    for intent in intents:
        assert live.fills(intent.client_id) == intent.qty
        assert live.states(intent.client_id)[-1] == "filled"
    assert len(live.of(Fill)) == len({(fill.symbol, fill.trade_id) for fill in live.of(Fill)})
    assert live.verdict().ok


async def test_resting_order_reports_by_stream(live: Rig) -> None:
    """Cancelled from outside: the stream tells at once (F39)."""
    intent = live.resting()
    await live.submit(intent)
    await until(lambda: live.states(intent.client_id) == ["acked"])
    live.sim._control._cancel({"symbol": "BTCUSDT", "clientOrderId": intent.client_id}, {})
    await until(lambda: live.states(intent.client_id) == ["acked", "canceled"])


async def test_gap_is_closed_by_rest(live: Rig) -> None:
    """The stream is cut, an order fills meanwhile, the stream returns: nothing is missing (F32)."""
    intent = live.resting()
    await live.submit(intent)
    live.fault("connect /ws-api*", "error", times=1)
    live.sim.disconnect("user", 0)
    await until(lambda: live.links() == [True, False])
    live.sim._control._expire({"symbol": "BTCUSDT", "clientOrderId": intent.client_id}, {})
    await until(lambda: live.links() == [True, False, True], 20)
    await until(lambda: live.states(intent.client_id) == ["acked", "expired"])

    await until(lambda: live.venue._stream_whole(0))


async def test_lost_frame_of_an_execution_is_completed(live: Rig) -> None:
    """A partial execution's frame is lost: the later state shows it and the trade is fetched (F32)."""
    live.fault("POST /api/v3/order", "hang_after")
    live.fault("user executionReport", "skip", contains='"x":"TRADE"', times=1)
    intent = live.intent(notional=100)
    await live.submit(intent)
    await live.venue.resolve(intent.client_id, intent.symbol, intent.ts_ns)
    await until(lambda: live.fills(intent.client_id) == intent.qty)
    order = live.venue.tracker.find(intent.client_id)

    assert order is not None
    assert order.settled


async def test_terminated_stream_subscribes_again(live: Rig) -> None:
    """The venue ends the subscription: a new one follows."""
    live.sim.users.terminate()
    await until(lambda: live.links() == [True, False, True], 20)


@pytest.mark.parametrize("where", ["fill", "catch_up"])
async def test_f53_a_stream_that_ends_by_a_fault_of_ours_is_down(tmp_path: Path, where: str) -> None:
    """Whatever ends it, nobody believes that it is up; a cancellation, as at a stop, tells nothing."""
    told: list[str] = []

    def broken(_fill: object) -> None:
        raise RuntimeError("a fault of ours")

    async def broken_catch_up() -> None:
        raise RuntimeError("a fault of ours")

    async def nothing_missed() -> None:
        return None

    async with rig(tmp_path) as one:

        def stream(**changes: Any) -> asyncio.Task[None]:
            sinks = Sinks(
                update=one.venue.on_update,
                fill=one.venue.on_fill,
                gap=lambda: told.append("gap"),
                catch_up=nothing_missed,
            )
            url = f"ws://127.0.0.1:{one.sim.port}"
            made = UserStream(
                url,
                keys=(KEY, SECRET),
                sinks=replace(sinks, **changes),
                emit=one.take,
                clock=CLOCK,
                symbols={rule.venue_id: rule.symbol for rule in one.instruments.values()},
            )
            return asyncio.create_task(made.run())

        failing = stream(**{where: broken if where == "fill" else broken_catch_up})
        await until(lambda: one.links()[:1] == [True])
        if where == "fill":
            await one.submit(one.intent())
        await until(failing.done)

        assert isinstance(failing.exception(), ExceptionGroup)
        assert one.links() == [True, False]
        assert told == ["gap"]
        assert one.of(Link)[-1].detail == "RuntimeError: a fault of ours"

        stopped = stream()
        await until(lambda: one.links() == [True, False, True])
        stopped.cancel()
        await until(stopped.done)

        assert stopped.cancelled()
        assert one.links() == [True, False, True]


async def test_i11_a_subscription_turned_away_waits_as_told(live: Rig) -> None:
    """F9: the websocket API counts against the same limits: its ban holds every lane, and no one dials before its end."""
    said = {"code": -1003, "msg": "banned", "data": {"serverTime": 1_000_000, "retryAfter": 1_001_900}}
    text = json.dumps({"id": "2", "status": 418, "error": said, "rateLimits": []})
    live.fault("wsapi userDataStream.subscribe.signature", "replace", text=text, times=1)
    live.sim.users.terminate()
    await until(lambda: live.venue.quota.wait_s > 1.5, 20)
    banned_ns = CLOCK.mono_ns()
    await until(lambda: live.links() == [True, False, True], 20)

    assert CLOCK.mono_ns() - banned_ns > 1.4 * S_NS


async def test_broken_frames_do_not_end_the_stream(live: Rig) -> None:
    """A cut frame is counted, the order is completed by its answer, the stream lives on (F28)."""
    live.fault("user executionReport", "corrupt", times=2)
    intent = live.intent()
    await live.submit(intent)
    assert live.stream is not None
    await until(lambda: live.stream is not None and live.stream.broken == 2)

    assert live.states(intent.client_id)[-1] == "filled"
    assert live.links() == [True]


async def test_order_news_keeps_its_source(live: Rig) -> None:
    """Each piece of news says where it came from."""
    intent = live.resting()
    await live.submit(intent)
    updates: list[OrderUpdate] = live.of(OrderUpdate)

    assert {news.source for news in updates} <= {"send", "stream"}


async def test_deposits_are_flows_not_breaks(live: Rig) -> None:
    """What the venue says came or went is booked: ours where all quote is ours, external otherwise (F38)."""
    await live.venue.reconcile()
    live.sim.users.deposit("USDT", D("12.5"))
    live.sim.users.deposit("BTC", D("0.1"))
    live.sim.users.deposit("USDT", D("-2.5"))
    await until(lambda: len(live.of(Flow)) == 4)
    await live.venue.reconcile()

    assert [(flow.asset, flow.amount, flow.ours) for flow in live.of(Flow)][1:] == [
        ("USDT", D("12.5"), True), ("BTC", D("0.1"), False), ("USDT", D("-2.5"), True),
    ]  # fmt: skip
    assert live.verdict().ok
