import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientRequest, TCPConnector

from daemon.domain.errors import Transient
from daemon.domain.events import Denied
from daemon.domain.orders import Approved, Fill, OrderState, OrderUpdate, Side
from daemon.edge.venue_calls import VenueCalls
from daemon.exchange.config import Limits, SimConfig
from tests.edge.venue_kit import CLOCK, S_NS, Rig, rig, until

ORDER = "POST /api/v3/order"
MOMENTS = ("connecting", "connected", *(["written next"] if sys.version_info < (3, 12) else []))
"""The last ones before an order's first byte; since Python 3.12 aiohttp writes within `send`, and the third is none."""


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Rig]:
    """A venue without user stream: everything comes from answers and queries."""
    async with rig(tmp_path) as one:
        yield one


async def test_order_fills_and_its_executions_come_with_the_answer(live: Rig) -> None:
    """One POST, executions first, then FILLED; the ledger equals the exchange."""
    intent = live.intent()
    await live.submit(intent)

    assert live.states(intent.client_id) == ["filled"]
    assert live.fills(intent.client_id) == intent.qty
    assert isinstance(live.events[0], Fill)
    (order,) = live.orders_of(intent.client_id)
    assert order.filled == intent.qty
    assert live.requests("POST", "/api/v3/order") == 1
    fill = live.of(Fill)[0]
    assert fill.fee_asset == "BTC"
    assert fill.fee > 0


async def test_exact_amounts_reach_the_wire(live: Rig) -> None:
    """Quantity and price are sent digit by digit, as limit, with our id and time in force."""
    intent = live.resting(qty=Decimal("0.00200"))
    await live.submit(intent)
    seen = next(seen for seen in live.sim.requests if seen.method == "POST")
    (order,) = live.orders_of(intent.client_id)

    assert (order.qty, order.price, order.tif, order.type) == (intent.qty, intent.limit, "GTC", "LIMIT")
    assert live.states(intent.client_id) == ["acked"]
    assert seen.status == 200


async def test_killed_before_the_first_byte(live: Rig) -> None:
    """With the latch set nothing is sent; lifting it lets orders through again (I7)."""
    live.latch.set("test")
    await live.submit(live.intent())

    assert live.denied() == ["killed"]
    assert live.requests("POST", "/api/v3/order") == 0
    live.latch.lift()
    await live.submit(live.intent())
    assert live.requests("POST", "/api/v3/order") == 1


async def test_f26_what_is_asked_about_a_symbol_outside_the_universe_is_answered(live: Rig) -> None:
    """Orders of earlier sessions may be in symbols that ccxt was not told of: they are found and cancelled all the same."""
    bought, resting = live.intent("ETH/USDT"), live.resting("ETH/USDT")
    await live.submit(bought)
    await live.submit(resting)
    send, cancel, read = live.venue.calls.lanes
    for lane in (send, cancel, read):
        lane.exchange.set_markets([lane.exchange.markets["BTC/USDT"]])
    universe = {"BTC/USDT": live.instruments["BTC/USDT"]}
    calls = VenueCalls(send=send, cancel=cancel, read=read, instruments=universe)

    shown = await calls.query(bought.client_id, "ETH/USDT")
    assert shown is not None
    trades = await calls.trades_of(str(shown.order_id), "ETH/USDT")
    assert sum(trade.qty for trade in trades) == bought.qty
    assert [one.client_id for one in await calls.open_orders("ETH/USDT")] == [resting.client_id]
    every = await calls.orders_since("ETH/USDT", 0)
    assert [one.client_id for one in every] == [bought.client_id, resting.client_id]
    assert (await calls.cancel(resting.client_id, "ETHUSDT")).reply.status == 200
    assert await calls.open_orders() == []


@pytest.mark.parametrize("moment", MOMENTS)
async def test_f57_i7_a_kill_stops_the_byte_however_near_it_is(
    live: Rig, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The latch is set while the order's connection is being made, or when only its write is left: nothing leaves."""
    create, connect, send = TCPConnector._create_connection, TCPConnector.connect, ClientRequest.send

    async def creating(*arguments: Any, **options: Any) -> Any:
        live.latch.set("test")
        return await create(*arguments, **options)

    async def connecting(*arguments: Any, **options: Any) -> Any:
        connection = await connect(*arguments, **options)
        live.latch.set("test")
        return connection

    async def sending(*arguments: Any) -> Any:
        response = await send(*arguments)  # the headers are made; on this Python the body's task has not begun
        live.latch.set("test")
        return response

    hooks = {
        "connecting": (TCPConnector, "_create_connection", creating),
        "connected": (TCPConnector, "connect", connecting),
        "written next": (ClientRequest, "send", sending),
    }
    monkeypatch.setattr(*hooks[moment])
    intent = live.intent()
    await live.submit(intent)

    assert live.latch.is_set()
    assert live.denied() == ["killed"]
    assert live.requests("POST", "/api/v3/order") == 0
    monkeypatch.undo()
    live.latch.lift()
    await live.submit(live.intent())
    assert live.requests("POST", "/api/v3/order") == 1


async def test_too_old_at_the_socket(live: Rig) -> None:
    """An intent whose time has passed is denied, however it came to be late (P16)."""
    await live.submit(live.intent(expires_ns=CLOCK.now_ns() - 1))

    assert live.denied() == ["too_old"]
    assert live.requests("POST", "/api/v3/order") == 0


async def test_age_is_judged_when_a_connection_is_in_hand(tmp_path: Path) -> None:
    """An order that waits in ccxt's rate limiter until it is too old never leaves."""
    async with rig(tmp_path, limited=True) as live:
        exchange = live.venue.calls.send_lane.exchange
        exchange.throttler.config.update(algorithm="leakyBucket", refillRate=1 / 1_000, tokens=0)
        expires_ns = CLOCK.now_ns() + S_NS // 2
        await asyncio.gather(*(live.submit(live.intent(expires_ns=expires_ns)) for _ in range(6)))
        sent = live.requests("POST", "/api/v3/order")

        assert 0 < sent < 6
        assert live.denied() == ["too_old"] * (6 - sent)


async def test_f44_a_stop_says_of_every_order_that_has_not_left_that_it_never_will(tmp_path: Path) -> None:
    """Orders in ccxt's queue when the daemon stops: denied before the ledger closes, and none leaves afterwards."""
    async with rig(tmp_path, limited=True) as live:
        exchange = live.venue.calls.send_lane.exchange
        exchange.throttler.config.update(algorithm="leakyBucket", refillRate=1 / 1_000, tokens=0)
        intents = [live.intent(expires_ns=CLOCK.now_ns() + 60 * S_NS) for _ in range(4)]
        sends = [asyncio.ensure_future(live.submit(intent)) for intent in intents]
        await until(lambda: live.requests("POST", "/api/v3/order") == 1 and len(live.venue.tracker.live) == 3)
        await live.venue.close()
        denied = {event.client_ids[0]: event.detail for event in live.of(Denied)}
        await asyncio.gather(*sends)
        sent = {order.client_id for order in live.sim.books.orders}

        assert len(sent) == 1
        assert denied == {one.client_id: "not_sent: the daemon stops" for one in intents if one.client_id not in sent}
        assert len(live.of(Denied)) == 3
        assert live.requests("POST", "/api/v3/order") == 1


async def test_venue_that_cannot_be_reached_got_nothing(live: Rig) -> None:
    """No connection, no byte: DENIED, not unknown."""
    exchange = live.venue.calls.send_lane.exchange
    exchange.urls["api"]["private"] = "http://127.0.0.1:9/api/v3"
    intent = live.intent()
    await live.submit(intent)

    assert live.denied()[0].startswith("not_sent")
    assert live.states(intent.client_id) == []


@pytest.mark.parametrize(
    ("action", "more"),
    [
        ("hang_after", {}),
        ("cut_after", {}),
        ("truncate", {}),
        ("empty", {}),
        ("html", {}),
        ("broken", {}),
        ("replace", {"text": "[]"}),
        ("replace", {"text": "{}"}),
        ("slow", {"seconds": 2.0}),
        ("error", {"status": 500, "code": -1000, "handle": True}),
        ("error", {"status": 504, "code": -1007, "handle": True}),
        ("error", {"status": 503, "code": -1008, "handle": True}),
        ("error", {"status": 400, "code": -1006, "handle": True}),
        ("html", {"status": 403, "handle": True}),
        ("html", {"status": 502, "handle": True}),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_lost_answer_is_found_again(
    live: Rig, monkeypatch: pytest.MonkeyPatch, action: str, more: dict[str, object]
) -> None:
    """F2-F6: the exchange has the order, the answer is spoiled: UNKNOWN, queried, booked, exactly one order."""
    monkeypatch.setattr("daemon.edge.lane.BACK_OFF_S", 0.3)  # a firewall's page (403) wants quiet first (F10)
    live.fault(ORDER, action, **more)
    intent = live.intent()
    await live.submit(intent)
    assert live.states(intent.client_id) == ["unknown"]
    await asyncio.wait_for(live.venue.resolve(intent.client_id, intent.symbol, intent.ts_ns), 10)

    assert live.states(intent.client_id) == ["unknown", "resolving", "filled"]
    assert live.fills(intent.client_id) == intent.qty
    assert len(live.orders_of(intent.client_id)) == 1
    assert live.requests("POST", "/api/v3/order") == 1


@pytest.mark.parametrize("action", ["cut", "drop"])
async def test_lost_request_is_proven_absent(live: Rig, action: str) -> None:
    """F1: never placed takes the evidence of time and of every list, and the order is not sent again."""
    live.venue._stream_since_ns = 1
    await live.venue.reconcile()
    live.fault(ORDER, action)
    intent = live.intent()
    await live.submit(intent)
    started = CLOCK.mono_ns()
    await asyncio.wait_for(live.venue.resolve(intent.client_id, intent.symbol, intent.ts_ns), 20)

    assert CLOCK.mono_ns() - started >= 0.8 * S_NS
    assert live.states(intent.client_id) == ["unknown", "resolving", "never_placed"]
    assert live.orders_of(intent.client_id) == []
    assert live.requests("POST", "/api/v3/order") == 1
    assert live.requests("GET", "/api/v3/order") >= 3


async def test_without_whole_stream_nothing_is_proven(live: Rig) -> None:
    """While the user stream is down an order stays unresolved however long it is not found."""
    await live.venue.reconcile()
    live.fault(ORDER, "cut")
    intent = live.intent()
    await live.submit(intent)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(live.venue.resolve(intent.client_id, intent.symbol, intent.ts_ns), 2.5)

    assert live.states(intent.client_id) == ["unknown", "resolving"]


async def test_late_execution_is_booked(live: Rig) -> None:
    """F7: the order executes after the timeout: found, booked, one order."""
    live.venue._stream_since_ns = 1
    await live.venue.reconcile()
    live.fault(ORDER, "late", seconds=0.9)
    intent = live.intent()
    await live.submit(intent)
    await asyncio.wait_for(live.venue.resolve(intent.client_id, intent.symbol, intent.ts_ns), 20)

    assert live.states(intent.client_id)[-1] == "filled"
    assert live.fills(intent.client_id) == intent.qty
    assert len(live.orders_of(intent.client_id)) == 1


async def test_query_lag_is_not_absence(live: Rig) -> None:
    """F33: "no such order" for a while, though it exists: stays unresolved, then found."""
    live.venue._stream_since_ns = 1
    live.fault(ORDER, "cut_after")
    live.fault("GET /api/v3/order", "error", code=-2013, msg="Order does not exist.", times=4)
    intent = live.intent()
    await live.submit(intent)
    await asyncio.wait_for(live.venue.resolve(intent.client_id, intent.symbol, intent.ts_ns), 20)

    assert live.states(intent.client_id) == ["unknown", "resolving", "filled"]


@pytest.mark.parametrize("sign", ["acknowledged", "executed"])
async def test_i8_an_order_that_makes_itself_heard_during_the_last_look_was_placed(
    live: Rig, monkeypatch: pytest.MonkeyPatch, sign: str
) -> None:
    """The stream tells of it while balances are still compared: the search concludes nothing any more."""
    live.venue._stream_since_ns = 1
    live.fault(ORDER, "cut")
    intent = live.intent()
    heard: OrderUpdate | Fill = OrderUpdate(
        client_id=intent.client_id, symbol=intent.symbol, state=OrderState.ACKED, venue_id="77", filled=Decimal(0),
        code="", source="stream", ts_ns=1,
    )  # fmt: skip
    if sign == "executed":
        heard = Fill(
            symbol=intent.symbol, trade_id="5", client_id=intent.client_id, venue_id="77", side=intent.side,
            qty=intent.qty / 2, price=intent.limit, fee=Decimal(0), fee_asset="BTC", maker=True, ts_event_ns=1, source="stream",
        )  # fmt: skip

    async def explained(_symbol: str) -> bool:
        if isinstance(heard, Fill):
            live.venue.on_fill(heard)
        else:
            live.venue.on_update(heard)
        return True

    monkeypatch.setattr(live.venue.evidence, "_explained", explained)
    await live.submit(intent)
    with suppress(TimeoutError):
        await asyncio.wait_for(live.venue.resolve(intent.client_id, intent.symbol, intent.ts_ns), 4)

    assert "never_placed" not in live.states(intent.client_id)
    assert heard in live.events


@pytest.mark.parametrize(
    ("code", "msg", "state"),
    [
        (-2010, "Account has insufficient balance for requested action.", "rejected"),
        (-1013, "Filter failure: LOT_SIZE", "rejected"),
        (-1013, "Filter failure: NOTIONAL", "rejected"),
        (-2010, "Duplicate order sent.", "unknown"),
        (-2015, "Invalid API-key, IP, or permissions for action.", "rejected"),
        (-1021, "Timestamp for this request is outside of the recvWindow.", "denied"),
        (-1015, "Too many new orders.", "denied"),
        (-1000, "An unknown error occurred.", "unknown"),
    ],
)
async def test_codes_through_real_ccxt(live: Rig, code: int, msg: str, state: str) -> None:
    """What ccxt makes of the code does not matter; the body decides."""
    live.fault(ORDER, "error", code=code, msg=msg)
    intent = live.intent()
    await live.submit(intent)
    (news,) = live.of(OrderUpdate)

    assert (news.state.value, news.code) == (state, str(code))
    assert live.requests("POST", "/api/v3/order") == 1


async def test_retry_after_is_obeyed_by_everything(live: Rig) -> None:
    """F9, I11: during the pause no request of any lane leaves, afterwards all work again."""
    live.fault(ORDER, "error", status=429, code=-1003, headers={"Retry-After": "1"})
    await live.submit(live.intent())
    before = len(live.sim.requests)
    at = CLOCK.mono_ns()
    await live.submit(live.intent())
    assert live.denied() == ["backing_off"]
    assert len(live.sim.requests) == before
    await live.venue.calls.open_orders()

    assert CLOCK.mono_ns() - at >= 0.9 * S_NS
    intent = live.intent()
    await live.submit(intent)
    assert live.states(intent.client_id) == ["filled"]


async def test_wrong_clock_is_measured_again(live: Rig) -> None:
    """-1021: not placed; the clock is resynchronised and the next order goes through."""
    for lane in (live.venue.calls.send_lane, live.venue.calls.read_lane):
        lane.exchange.options["timeDifference"] = 60_000
    first, second = live.intent(), live.intent()
    await live.submit(first)
    await live.submit(second)

    assert live.states(first.client_id) == ["denied"]
    assert live.states(second.client_id) == ["filled"]


async def test_duplicate_client_id_is_queried_and_adopted(live: Rig) -> None:
    """F35: the venue says duplicate: the copy under our id is ours."""
    intent = live.resting()
    live.fault(ORDER, "cut_after")
    await live.submit(intent)
    await live.venue.send(Approved(intent=intent, ts_ns=intent.ts_ns))
    await asyncio.wait_for(live.venue.resolve(intent.client_id, intent.symbol, intent.ts_ns), 10)

    assert live.states(intent.client_id)[-1] == "acked"
    assert len(live.orders_of(intent.client_id)) == 1


async def test_cancel_reports_what_the_venue_shows(live: Rig) -> None:
    """A resting order is cancelled, once; a second cancel is answered -2011 and queried, not guessed (F36)."""
    intent = live.resting()
    await live.submit(intent)
    await live.venue.cancel(intent.client_id, intent.symbol)
    await live.venue.cancel(intent.client_id, intent.symbol)

    assert live.states(intent.client_id) == ["acked", "canceled"]
    assert live.requests("GET", "/api/v3/order") == 1


async def test_unknown_order_at_cancel_that_has_filled(live: Rig) -> None:
    """-2011 because it has just filled: the fill is found and booked."""
    intent = live.intent()
    live.fault(ORDER, "cut_after")
    await live.submit(intent)
    await live.venue.cancel(intent.client_id, intent.symbol)

    assert live.states(intent.client_id) == ["unknown", "filled"]
    assert live.fills(intent.client_id) == intent.qty


async def test_cancel_all_leaves_strangers_alone(live: Rig) -> None:
    """Ours go, an external order stays; failures are repeated until the venue shows none (F36)."""
    intents = [live.resting(symbol) for symbol in list(live.instruments)[:3] for _ in range(4)]
    for intent in intents:
        await live.submit(intent)
    stranger = live.resting()
    ticket = {
        "symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC",
        "quantity": str(stranger.qty), "price": str(stranger.limit), "newClientOrderId": "web_1",
    }  # fmt: skip
    live.sim._control._place(ticket, {})
    live.fault("DELETE /api/v3/order", "error", status=503, code=-1008, times=5)
    live.fault("DELETE /api/v3/order", "cut", times=2, after=5)
    left = await live.venue.cancel_all()

    assert left == 0
    assert {states[-1] for states in (live.states(intent.client_id) for intent in intents)} == {"canceled"}
    assert [order.client_id for order in live.sim.venue.desk.open_orders(None)] == ["web_1"]


async def test_cancel_all_does_not_wait_for_orders_in_the_queue(live: Rig) -> None:
    """Fifty resting orders and a long send queue: all gone within 5 s (A1)."""
    for _ in range(50):
        await live.submit(live.resting(notional=20))
    before = CLOCK.mono_ns()
    live.latch.set("test")
    assert await live.venue.cancel_all() == 0

    assert CLOCK.mono_ns() - before < 5 * S_NS


async def test_missing_executions_are_completed(live: Rig) -> None:
    """An answer without `fills`: the executions are fetched by order id and booked once."""
    probe = live.resting()
    await live.submit(probe)
    (shown,) = live.orders_of(probe.client_id)
    intent = live.intent()
    body = {
        "symbol": "BTCUSDT", "orderId": shown.order_id + 1, "clientOrderId": intent.client_id, "transactTime": 1,
        "executedQty": str(intent.qty), "origQty": str(intent.qty), "status": "FILLED", "side": "BUY",
    }  # fmt: skip
    live.fault(ORDER, "replace", text=json.dumps(body), handle=True)
    await live.submit(intent)
    await until(lambda: live.fills(intent.client_id) == intent.qty)

    assert live.states(intent.client_id) == ["filled"]


async def test_no_secret_in_events_or_logs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """F70: spoiled answers, refused connections and debug logs leave neither signature nor key anywhere."""
    logging.getLogger("websockets").setLevel(logging.DEBUG)
    caplog.set_level(logging.DEBUG)
    try:
        async with rig(tmp_path, stream=True) as live:
            for action in ("cut_after", "html", "truncate"):
                live.fault(ORDER, action)
                await live.submit(live.intent())
            live.fault("GET /api/v3/openOrders", "html", status=500)
            with pytest.raises(Transient):
                await live.venue.reconcile()
            live.venue.calls.send_lane.exchange.urls["api"]["private"] = "http://127.0.0.1:9/api/v3"
            await live.submit(live.intent())
            await until(lambda: live.links() == [True])
            everything = repr(live.events)
    finally:
        logging.getLogger("websockets").setLevel(logging.NOTSET)
    printed = capsys.readouterr()
    everything += caplog.text + printed.out + printed.err

    assert "not_sent" in everything
    assert "signature=" not in everything.replace("signature=[redacted]", "")
    assert "sim-secret" not in everything
    assert "sim-key" not in everything


async def test_every_request_is_counted(tmp_path: Path) -> None:
    """Metrics hear of each request: endpoint, outcome, weight used."""
    seen: list[tuple[str, str, int]] = []
    async with rig(tmp_path, on_request=lambda *one: seen.append(one)) as live:
        await live.submit(live.intent())
        live.fault(ORDER, "cut")
        await live.submit(live.intent())
        live.latch.set("test")
        await live.submit(live.intent())
        await live.venue.calls.open_orders()

    assert [one[:2] for one in seen] == [
        ("time", "ok"), ("order.place", "ok"), ("order.place", "no_answer"), ("order.place", "not_sent"),
        ("openOrders", "ok"),
    ]  # fmt: skip
    assert seen[-1][2] > 0


async def test_sell_pays_its_fee_in_quote(live: Rig) -> None:
    """Buy, then sell what is left after the fee in base."""
    bought = live.intent()
    await live.submit(bought)
    fee = sum((fill.fee for fill in live.of(Fill)), Decimal(0))
    step = live.instruments["BTC/USDT"].step
    sold = live.intent(side=Side.SELL, qty=((bought.qty - fee) // step) * step)
    await live.submit(sold)

    assert live.states(sold.client_id) == ["filled"]
    assert live.of(Fill)[-1].fee_asset == "USDT"


async def test_order_limit_of_the_venue(tmp_path: Path) -> None:
    """-1015 from a real counter: denied, and the pause is kept."""
    config = SimConfig(history_bars=120, symbols=3, limits=Limits(orders_per_10s=3))
    async with rig(tmp_path, config=config) as live:
        for _ in range(5):
            await live.submit(live.resting())

        assert live.requests("POST", "/api/v3/order") == 4
        assert live.denied() == ["backing_off"]
