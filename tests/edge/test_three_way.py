"""Three-way truth on the real venue parts: user stream, REST and ledger agree, whatever others do on the account."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon.core.books import Books
from daemon.domain.errors import Transient
from daemon.domain.events import Fault, Flow
from daemon.domain.orders import Fill, OrderState
from daemon.edge.binance_account import VenueTrade
from daemon.edge.outcomes import Reply
from daemon.edge.outsiders import legs
from daemon.edge.ownership import guesses, shares
from daemon.edge.transfers import matching, read_deposits, read_withdrawals
from daemon.exchange.config import SimConfig
from daemon.exchange.server import SimulatedExchange
from tests.edge.venue_kit import Rig, price_of, rig, until

D = Decimal
CONFIG = SimConfig(history_bars=120, symbols=3)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses; the rules stay."""
    monkeypatch.setattr("daemon.edge.outsiders.SHIELD_NS", 200_000_000)
    monkeypatch.setattr("daemon.edge.outsiders.HISTORY_NS", 0)
    monkeypatch.setattr("daemon.edge.reconcile.FOLLOW_S", 0.25)
    monkeypatch.setattr("daemon.edge.reconcile.BETWEEN_S", 0.05)


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Rig]:
    """Start a venue that has compared once, without a user stream."""
    async with rig(tmp_path, config=CONFIG) as one:
        await one.venue.reconcile()
        yield one


def truth(live: Rig) -> dict[str, Decimal]:
    """Return the exchange's own balances."""
    return {
        asset: held.free + held.locked for asset, held in live.sim.books.balances.items() if held.free + held.locked
    }


def by_hand(live: Rig, *, side: str = "BUY", qty: str = "0.01", rest: bool = False, name: str = "web_1") -> Any:
    """Let a person place an order beside us."""
    price = D(repr(price_of(live.sim, "BTC/USDT")))
    factor = D("0.95") if rest else D("1.01") if side == "BUY" else D("0.99")
    limit = (price * factor // live.instruments["BTC/USDT"].tick) * live.instruments["BTC/USDT"].tick
    ticket = {"symbol": "BTCUSDT", "side": side, "type": "LIMIT", "quantity": qty, "price": str(limit)}
    return live.sim._control._place({**ticket, "timeInForce": "GTC", "newClientOrderId": name}, {})


def no_history(live: Rig) -> None:
    """Let the venue have no history of transfers."""
    live.fault("GET /sapi/v1/capital/*", "error", status=404, times=0)


def flows(live: Rig) -> list[Flow]:
    """Return the flows after the opening balances."""
    return [flow for flow in live.of(Flow) if flow.detail != "opening balance"]


async def agreed(live: Rig) -> Books:
    """Wait until the ledger equals the account by what runs by itself; return its books."""
    books = await live.ledger.books()
    async with asyncio.timeout(10):
        while books.total != truth(live):
            await asyncio.sleep(0.05)
            await live.ledger.flush(5)
            books = await live.ledger.books()
    return books


# ---------------------------------------------------------------- whose it is


@pytest.mark.parametrize(
    ("amount", "total", "own", "all_ours", "parts"),
    [
        ("5", "10", "4", False, [("5", False)]),
        ("-5", "10", "4", False, [("-5", False)]),
        ("-8", "10", "4", False, [("-6", False), ("-2", True)]),
        ("-4", "4", "4", False, [("-4", True)]),
        ("-4", "3", "4", False, [("-4", True)]),
        ("5", "10", "10", True, [("5", True)]),
        ("-5", "10", "10", True, [("-5", True)]),
    ],
)
def test_what_changes_comes_out_of_what_is_external_first(
    amount: str, total: str, own: str, all_ours: bool, parts: list[tuple[str, bool]]
) -> None:
    """Whose money it is: what comes is external, what goes is external as far as that reaches."""
    found = shares(D(amount), total=D(total), own=D(own), all_ours=all_ours)

    assert found == tuple((D(part), ours) for part, ours in parts)


def test_a_strangers_trade_has_legs_that_add_up() -> None:
    """Both assets and the fee, exactly; each leg under a detail of its own, so that it is booked once."""
    trade = VenueTrade("BTCUSDT", 7, 9, D("100.5"), D("0.03"), D("0.002"), "BNB", 1, is_buyer=False, is_maker=True)
    found = legs("BTC/USDT", trade)

    assert [(asset, amount) for asset, amount, _ in found] == [
        ("BTC", D("-0.03")), ("USDT", D("3.015")), ("BNB", D("-0.002")),
    ]  # fmt: skip
    assert len({detail for _, _, detail in found}) == 3


# ---------------------------------------------------------------- trades by hand


async def test_a_trade_by_hand_becomes_flows_of_both_assets(live: Rig) -> None:
    """F38: what a person buys is external and what it cost is a flow; no break is left, nothing is ours that was not."""
    by_hand(live)
    await live.venue.reconcile()
    await live.venue.reconcile()
    books = await live.ledger.books()

    assert live.verdict().ok
    assert books.total == truth(live)
    assert {(flow.asset, flow.ours) for flow in flows(live)} == {("BTC", False), ("USDT", True)}
    assert all(flow.detail.startswith("external trade BTC/USDT") for flow in flows(live))
    assert books.positions == {}


async def test_a_sale_by_hand_of_what_is_ours_is_ours(live: Rig) -> None:
    """A person sells more than the external part: the rest is a flow of ours, and the position follows the account."""
    await live.submit(live.intent(notional=1_000))
    await live.venue.reconcile()
    held = (await live.ledger.books()).positions["BTC/USDT"]
    live.sim.users.deposit("BTC", D("0.001"))
    await agreed_by_comparing(live)
    by_hand(live, side="SELL", qty="0.005")
    await live.venue.reconcile()
    await live.venue.reconcile()
    books = await live.ledger.books()

    assert live.verdict().ok
    assert books.total == truth(live)
    assert books.positions["BTC/USDT"] == held - D("0.004")


async def agreed_by_comparing(live: Rig) -> None:
    """Compare until the last comparison agrees."""
    async with asyncio.timeout(10):
        while not live.verdict().ok or (await live.ledger.books()).total != truth(live):
            await asyncio.sleep(0.1)
            await live.venue.reconcile()


async def test_capital_protects_what_is_not_ours(tmp_path: Path) -> None:
    """With a capital of 1000 a purchase by hand is paid from the external quote; ours stays to the last digit."""
    async with rig(tmp_path, config=CONFIG, ownership={"capital": "1000"}) as live:
        await live.venue.reconcile()
        by_hand(live)
        await live.venue.reconcile()
        await live.venue.reconcile()
        books = await live.ledger.books()

        assert live.verdict().ok
        assert books.cash == D(1000)
        assert all(not flow.ours for flow in flows(live))


async def test_fees_in_a_third_asset_conserve_every_asset(live: Rig) -> None:
    """F40: ours and a person's trades pay fees in BNB; every asset agrees to the last digit."""
    live.sim.users.deposit("BNB", D(1))
    live.sim._control._fee({"asset": "BNB", "price": "600", "rate": "0.00075"}, {})
    await live.submit(live.intent())
    by_hand(live)
    await agreed_by_comparing(live)

    assert live.verdict().ok
    assert any(flow.asset == "BNB" and flow.detail.endswith(", fee") for flow in flows(live))


async def test_a_trade_by_hand_is_noticed_by_the_stream(tmp_path: Path) -> None:
    """The user stream tells of an order we do not know: the comparison comes soon, by itself."""
    async with rig(tmp_path, config=CONFIG, stream=True) as live:
        await until(lambda: live.links() == [True])
        await live.venue.reconcile()
        by_hand(live)
        books = await agreed(live)

        assert books.positions == {}
        assert len(flows(live)) >= 2


async def test_f38_a_trade_by_hand_between_two_assets_is_named(live: Rig) -> None:
    """ETH for BTC: both assets differ, the market between them is searched; the way round that does not exist only once."""
    no_history(live)
    live.sim.users.deposit("BTC", D(1))
    await agreed_by_comparing(live)
    done = len(flows(live))
    seen_ms = live.sim.clock() // 1_000_000 + 60_000
    trade = {
        "symbol": "ETHBTC", "id": 31, "orderId": 77, "price": "0.05", "qty": "2", "commission": "0.002",
        "commissionAsset": "ETH", "time": seen_ms, "isBuyer": True, "isMaker": False,
    }  # fmt: skip
    order = {
        "symbol": "ETHBTC", "orderId": 77, "clientOrderId": "web_8", "status": "FILLED", "side": "BUY",
        "origQty": "2", "executedQty": "2",
    }  # fmt: skip
    for match, text in (("GET /api/v3/myTrades", [trade]), ("GET /api/v3/order", order)):
        body = msgspec.json.encode(text).decode()
        live.fault(match, "replace", contains="ETHBTC", text=body, status=200, times=0)
    live.sim.users.deposit("ETH", D("1.998"))
    live.sim.users.deposit("BTC", D("-0.1"))
    await agreed_by_comparing(live)
    named = {flow.detail.partition(":")[0]: flow.amount for flow in flows(live)[done:]}
    backwards = [seen for seen in live.sim.requests if seen.symbol in {"BTCETH", "USDTBTC", "USDTETH"}]

    assert named == {
        "external trade ETH/BTC 31": D(2),
        "external trade ETH/BTC 31, quote": D("-0.1"),
        "external trade ETH/BTC 31, fee": D("-0.002"),
    }
    assert sorted(seen.symbol for seen in backwards) == ["BTCETH", "USDTBTC", "USDTETH"]


def test_guesses_begin_with_the_quote_and_are_few() -> None:
    """Every pair both ways round, but never more than a weight of 240 unless more assets differ against the quote."""
    assert guesses(["BTC", "USDT", "ETH"], "USDT") == (
        "BTC/USDT", "ETH/USDT", "USDT/BTC", "USDT/ETH", "BTC/ETH", "ETH/BTC",
    )  # fmt: skip
    assert len(guesses([f"A{number}" for number in range(5)], "USDT")) == 12
    assert guesses([f"A{number:02}" for number in range(20)], "USDT") == tuple(f"A{n:02}/USDT" for n in range(20))


async def test_the_same_trade_is_never_booked_twice(tmp_path: Path) -> None:
    """A restart finds the trade by hand again in the account's history: its flows are there already."""
    sim = SimulatedExchange(CONFIG)
    await sim.start()
    try:
        async with rig(tmp_path, sim=sim) as one:
            await one.venue.reconcile()
            await one.submit(one.intent())
            by_hand(one)
            await one.venue.reconcile()
            await one.venue.reconcile()
            assert one.verdict().ok
        async with rig(tmp_path, sim=sim) as two:
            await two.venue.reconcile()
            await two.venue.catch_up()

            assert two.verdict().ok
            assert two.of(Flow) == []
            assert (await two.ledger.books()).total == truth(two)
    finally:
        await sim.stop()


async def test_a_trade_that_the_venue_does_not_name_yet_is_nobodys(live: Rig) -> None:
    """F33: the order query answers "no such order" for a while: nothing is booked as a stranger's on that."""
    live.fault("GET /api/v3/order", "error", code=-2013, status=400, times=0)
    by_hand(live)
    await live.venue.reconcile()
    assert flows(live) == []
    assert not live.verdict().ok

    live.sim.faults.clear()
    await live.venue.reconcile()
    assert live.verdict().ok
    assert all(flow.detail.startswith("external trade") for flow in flows(live))


# ---------------------------------------------------------------- orders by hand


async def test_external_orders_are_shown_and_left_alone(live: Rig) -> None:
    """T3: an order by hand is listed with what it is; one list without it does not make it go (F34)."""
    by_hand(live, rest=True)
    await live.venue.reconcile()
    (shown,) = live.venue.reconciler.outsiders.orders
    assert (shown.client_id, shown.symbol, shown.side, shown.qty, shown.state, shown.external) == (
        "web_1", "BTC/USDT", "buy", D("0.01"), OrderState.ACKED, True,
    )  # fmt: skip
    assert (live.verdict().ok, live.verdict().external_orders) == (True, 1)

    live.fault("GET /api/v3/openOrders", "omit", times=1)
    await live.venue.reconcile()
    assert live.verdict().external_orders == 1
    await live.venue.cancel_all()
    assert len(live.sim.venue.desk.open_orders(None)) == 1

    live.sim._control._cancel({"symbol": "BTCUSDT", "clientOrderId": "web_1"}, {})
    for _ in range(2):
        await live.venue.reconcile()
    assert live.venue.reconciler.outsiders.orders == []


# ---------------------------------------------------------------- what nobody explains


async def test_a_deposit_without_news_is_explained_by_two_agreeing_comparisons(live: Rig) -> None:
    """F38: the stream was down; a break first, then a flow and agreement, without anybody's help."""
    no_history(live)
    live.sim.users.deposit("USDT", D("12.5"))
    live.sim.users.deposit("ETH", D(2))
    await live.venue.reconcile()
    assert {asset for asset, _, _ in live.verdict().breaks} == {"USDT", "ETH"}
    await agreed(live)
    await until(lambda: live.verdict().ok)

    assert sorted((flow.asset, flow.amount, flow.ours, flow.detail) for flow in flows(live)) == [
        ("ETH", D(2), False, "unexplained change"), ("USDT", D("12.5"), True, "unexplained change"),
    ]  # fmt: skip


async def test_a_deposit_and_a_withdrawal_are_explained_by_the_venues_history(live: Rig) -> None:
    """F38: what the stream did not tell is named by the history, once; the other change of the account stays nobody's."""
    live.sim.users.deposit("USDT", D(20))
    await agreed_by_comparing(live)
    live.sim.users.deposit("ETH", D(3))
    live.sim.users.deposit("USDT", D("-7.5"))
    await agreed_by_comparing(live)
    details = [(flow.asset, flow.amount, flow.detail.split()[0]) for flow in flows(live)]

    assert details[0] == ("USDT", D(20), "deposit")
    assert sorted(details[1:]) == [("ETH", D(3), "deposit"), ("USDT", D("-7.5"), "withdrawal")]
    assert len({flow.detail for flow in flows(live)}) == 3


def test_history_counts_what_arrived_and_what_left() -> None:
    """Pending deposits and failed withdrawals changed nothing; a fee may or may not be in the amount."""
    came = '[{"id":"1","coin":"A","amount":"2","status":1},{"id":"2","coin":"A","amount":"3","status":0}]'
    went = (
        '[{"id":"3","coin":"A","amount":"4","transactionFee":"0.5","status":6},'
        '{"id":"4","coin":"A","amount":"9","transactionFee":"0","status":5}]'
    )
    arrived = read_deposits(Reply(status=200, body=came))
    left = read_withdrawals(Reply(status=200, body=went))

    assert [one.detail for one in (*arrived, *left)] == ["deposit 1", "withdrawal 3"]
    assert matching(left, D("-4.5")) == [(D("-4.5"), "withdrawal 3")]
    assert matching(left, D(-4)) == [(D(-4), "withdrawal 3")]
    assert matching([*arrived, *left], D("-2.5")) == [(D(2), "deposit 1"), (D("-4.5"), "withdrawal 3")]
    assert matching(left, D(-9)) == []
    for reply in (Reply(), Reply(status=404), Reply(status=200, body="{")):
        with pytest.raises(Transient, match="transfers"):
            read_deposits(reply)


async def test_one_incomplete_answer_corrects_nothing(live: Rig) -> None:
    """F34: an account without one of its assets, for one whole comparison: a break, no flow; the next one agrees."""
    live.sim.users.deposit("SHIB", D(5))
    await live.submit(live.intent())
    await agreed_by_comparing(live)
    before = len(flows(live))
    rest = [
        {"asset": asset, "free": str(total), "locked": "0"} for asset, total in truth(live).items() if asset != "SHIB"
    ]
    text = msgspec.json.encode({"balances": rest}).decode()
    number = live.fault("GET /api/v3/account", "replace", status=200, text=text, times=2)
    await live.venue.reconcile()
    assert live.sim.faults.fired(number) == 2
    await agreed_by_comparing(live)

    assert len(flows(live)) == before
    assert live.verdict().ok


async def test_nothing_is_corrected_while_orders_move(live: Rig) -> None:
    """The recent-activity shield: between two agreeing comparisons an order of ours moved, so they prove nothing."""
    no_history(live)
    live.sim.users.deposit("ETH", D(2))
    for _ in range(4):
        await asyncio.sleep(0.1)
        await live.submit(live.intent())
        await live.venue.reconcile()

    assert flows(live) == []
    assert [asset for asset, _, _ in live.verdict().breaks] == ["ETH"]
    await agreed(live)


async def test_an_unresolved_order_holds_back_its_assets(tmp_path: Path) -> None:
    """What an order of unknown fate may have done is never called unexplained; a deposit beside it is."""
    async with rig(tmp_path, config=CONFIG) as live:
        await live.venue.reconcile()
        live.fault("* /api/v3/order", "cut_after", times=0)  # accepted; answer and queries are lost
        await live.submit(live.intent())
        outsiders = live.venue.reconciler.outsiders
        (btc, usdt) = ("BTC", D(0), D("0.1")), ("USDT", D(10), D(5))
        for pause in (0.0, 0.3):
            await asyncio.sleep(pause)
            assert not await outsiders.explain((btc, usdt))
        assert await outsiders.explain((usdt,))  # the base agrees: the order has not executed

        assert [flow.asset for flow in flows(live)] == ["USDT"]


# ---------------------------------------------------------------- news that got lost


async def test_f32_a_lost_report_is_found_by_rest(tmp_path: Path) -> None:
    """F32: every executionReport is lost; the fill and the end of a resting order arrive within 10 s."""
    async with rig(tmp_path, config=CONFIG, stream=True) as live:
        await until(lambda: live.links() == [True])
        await live.venue.reconcile()
        live.fault("user executionReport", "skip", times=0)
        intent = live.resting()
        await live.submit(intent)
        live.sim._control._crash({"symbol": "BTCUSDT", "pct": 6}, {})
        await until(lambda: not live.orders_of(intent.client_id)[0].is_open)
        await until(lambda: live.states(intent.client_id)[-1:] == ["filled"], 10.0)

        assert live.fills(intent.client_id) == intent.qty


async def test_an_order_whose_answer_is_slow_is_found_while_it_is_being_sent(tmp_path: Path) -> None:
    """A4: SENDING without news is looked up; the answer that comes later changes nothing and doubles nothing."""
    async with rig(tmp_path, config=CONFIG, timeout_ms=9_000) as live:
        await live.venue.reconcile()
        live.fault("POST /api/v3/order", "delay_after", seconds=6.0)
        intent = live.intent()
        sending = asyncio.ensure_future(live.submit(intent))
        await until(lambda: live.states(intent.client_id)[-1:] == ["filled"], 5.5)
        assert not sending.done()
        await sending

        assert live.fills(intent.client_id) == intent.qty
        assert len(live.orders_of(intent.client_id)) == 1
        assert live.states(intent.client_id).count("filled") == 1


async def test_many_silent_orders_cost_one_list(live: Rig) -> None:
    """Bounded: a dozen resting orders without news are confirmed by one list of open orders."""
    intents = [live.resting() for _ in range(12)]
    for intent in intents:
        await live.submit(intent)
    for order in live.venue.tracker.live:
        order.sent_ns = 0
    queries = live.requests("GET", "/api/v3/order")
    await live.venue.in_flight.look()

    assert live.requests("GET", "/api/v3/order") - queries == 0
    assert all(order.checked_ns for order in live.venue.tracker.live)


# ---------------------------------------------------------------- across sessions


async def test_a_late_fill_of_an_order_proven_absent_in_an_earlier_session_books(tmp_path: Path) -> None:
    """F7 across a restart: NEVER_PLACED yesterday, executed today: the stream's fill leads back to the ledger's intent."""
    sim = SimulatedExchange(CONFIG)
    await sim.start()
    try:
        async with rig(tmp_path, sim=sim, timeout_ms=300, stream=True) as one:
            await until(lambda: one.links() == [True])
            await one.venue.reconcile()
            one.fault("POST /api/v3/order", "late", seconds=6.0)
            intent = one.intent()
            await one.submit(intent)
            await one.venue.resolve(intent.client_id, intent.symbol, intent.ts_ns)
            assert one.states(intent.client_id)[-1] == "never_placed"
        async with rig(tmp_path, sim=sim, stream=True) as two:
            assert two.restored.orders == ()
            await until(lambda: two.links() == [True])
            await two.venue.reconcile()
            assert two.of(Fill) == []
            await until(lambda: two.fills(intent.client_id) == intent.qty, 15.0)
            books = await agreed(two)

            assert flows(two) == []
            assert books.positions["BTC/USDT"] > 0
            assert two.states(intent.client_id)[-1] == "filled"
    finally:
        await sim.stop()


# ---------------------------------------------------------------- the key


async def test_f68_reads_that_find_the_key_refused_halt(live: Rig) -> None:
    """F68: -2015 on reads: a fault of the key at the second refusal, told once, and no storm of requests."""
    live.fault("GET /api/v3/*", "error", code=-2015, status=401, times=0)
    began = len(live.sim.requests)
    for _ in range(3):
        with pytest.raises(Exception, match="2015"):
            await live.venue.reconcile()
    refused = [event for event in live.of(Fault) if event.task == "key"]

    assert len(refused) == 1
    assert "-2015" in refused[0].detail
    assert len(live.sim.requests) - began < 20


async def test_one_refusal_is_not_the_key(live: Rig) -> None:
    """A single -2015 passes; the next comparison is clean."""
    live.fault("GET /api/v3/openOrders", "error", code=-2015, status=401)
    with pytest.raises(Exception, match="2015"):
        await live.venue.reconcile()
    await live.venue.reconcile()

    assert live.of(Fault) == []
    assert live.verdict().ok
