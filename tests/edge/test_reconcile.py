from decimal import Decimal
from pathlib import Path

import pytest

from daemon.domain.errors import ConfigError, Transient
from daemon.domain.events import Flow, Reconciled
from daemon.domain.orders import Fill, OrderUpdate
from daemon.edge.ledger_read import LedgerReader
from daemon.edge.ownership import Ownership, differences, opening_flows, own_share
from daemon.edge.tracker import UNRESOLVED
from daemon.exchange.config import SimConfig
from daemon.exchange.server import SimulatedExchange
from tests.edge.venue_kit import Rig, rig, until

D = Decimal
ORDER = "POST /api/v3/order"


def truth(live: Rig) -> dict[str, Decimal]:
    """Return the exchange's own balances."""
    return {
        asset: held.free + held.locked for asset, held in live.sim.books.balances.items() if held.free + held.locked
    }


@pytest.mark.parametrize(
    ("capital", "share"),
    [("all", "1000"), ("250", "250"), ("5000", "1000"), ("50%", "500"), ("0", "0"), ("12.5%", "125")],
)
def test_capital_is_all_an_amount_or_a_share(capital: str, share: str) -> None:
    """[portfolio] capital in its three forms."""
    assert own_share(capital, D(1000)) == D(share)


@pytest.mark.parametrize("capital", ["", "half", "-1", "101%", "NaN", "1e999999999%", "%"])
def test_nonsense_capital_is_refused(capital: str) -> None:
    """Anything else is a configuration error that names the key."""
    with pytest.raises(ConfigError, match=r"portfolio\.capital"):
        own_share(capital, D(1000))


def test_opening_balances_say_whose_they_are() -> None:
    """Quote up to capital is ours, the rest external; assets of the universe become ours only when adopted."""
    balances = {"USDT": D(1000), "BTC": D(2), "DOGE": D(5), "ETH": D(0)}
    plain = opening_flows(balances, Ownership(quote="USDT", bases=("BTC",), capital="400"), ts_ns=1)
    adopted = opening_flows(balances, Ownership(quote="USDT", bases=("BTC",), adopt="universe"), ts_ns=1)

    assert [(flow.asset, flow.amount, flow.ours) for flow in plain] == [
        ("BTC", D(2), False), ("DOGE", D(5), False), ("USDT", D(600), False), ("USDT", D(400), True),
    ]  # fmt: skip
    assert [(flow.asset, flow.ours) for flow in adopted] == [("BTC", True), ("DOGE", False), ("USDT", True)]


def test_differences_are_exact() -> None:
    """The last digit counts; trailing zeros do not."""
    assert differences({"A": D("1.10")}, {"A": D("1.1")}) == ()
    assert differences({"A": D(1)}, {"A": D("1.00000001"), "B": D(2)}) == (
        ("A", D(1), D("1.00000001")),
        ("B", D(0), D(2)),
    )


async def test_first_start_opens_the_books_and_agrees(tmp_path: Path) -> None:
    """Opening balances become flows once; ledger and exchange agree before and after trading."""
    async with rig(tmp_path) as live:
        await live.venue.reconcile()
        first = live.verdict()
        for _ in range(3):
            await live.submit(live.intent())
        await live.venue.reconcile()
        books = await live.ledger.books()

        assert first.ok
        assert [(flow.asset, flow.amount) for flow in live.of(Flow)] == [("USDT", D(100_000))]
        assert live.verdict().ok
        assert books.total == truth(live)


async def test_trades_before_the_first_reconciliation_are_no_opening_balance(tmp_path: Path) -> None:
    """Executions that are in the ledger already are taken out of what was there at the start."""
    async with rig(tmp_path) as live:
        await live.submit(live.intent())
        await live.venue.reconcile()

        assert live.verdict().ok
        assert [(flow.asset, flow.amount) for flow in live.of(Flow)] == [("USDT", D(100_000))]


async def test_external_money_stays_external(tmp_path: Path) -> None:
    """With a capital of 1000 the rest of the account is not ours, and everything still adds up."""
    async with rig(tmp_path, ownership={"capital": "1000"}) as live:
        await live.venue.reconcile()
        books = await live.ledger.books()

        assert books.cash == D(1000)
        assert books.total == {"USDT": D(100_000)}


async def test_what_nobody_explains_is_a_break_at_first(tmp_path: Path) -> None:
    """What nothing of ours explains is shown to the last digit (F38); one comparison corrects nothing (F34)."""
    async with rig(tmp_path) as live:
        await live.venue.reconcile()
        live.sim.users.deposit("USDT", D("12.5"))
        await live.venue.reconcile()
        verdict = live.verdict()

        assert not verdict.ok
        assert verdict.breaks == (("USDT", D(100_000), D("100012.5")),)


async def test_change_of_a_foreign_asset_is_a_flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An asset outside quote and universe may change without stopping us."""
    monkeypatch.setattr("daemon.edge.outsiders.SHIELD_NS", 0)
    async with rig(tmp_path) as live:
        await live.venue.reconcile()
        live.sim.users.deposit("SHIB", D(1_000_000))
        await live.venue.reconcile()
        await live.venue.reconcile()

        assert live.verdict().ok
        assert [(flow.asset, flow.ours) for flow in live.of(Flow)][1:] == [("SHIB", False)]


async def test_external_order_is_counted_and_kept(tmp_path: Path) -> None:
    """An order by hand is external; one with our prefix that we do not know is a second writer."""
    async with rig(tmp_path) as live:
        await live.venue.reconcile()
        order = live.resting()
        ticket = {
            "symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC",
            "quantity": str(order.qty), "price": str(order.limit), "newClientOrderId": "web_1",
        }  # fmt: skip
        live.sim._control._place(ticket, {})
        await live.venue.reconcile()
        by_hand = live.verdict()
        live.sim._control._place({**ticket, "newClientOrderId": order.client_id}, {})
        await live.venue.reconcile()

        assert (by_hand.ok, by_hand.external_orders) == (True, 1)
        assert not live.verdict().ok
        assert len(live.sim.venue.desk.open_orders(None)) == 2


async def test_incomplete_list_closes_nothing(tmp_path: Path) -> None:
    """F34: an open order is missing from the list: it is queried, not cancelled, not forgotten."""
    async with rig(tmp_path) as live:
        await live.venue.reconcile()
        intent = live.resting()
        await live.submit(intent)
        live.fault("GET /api/v3/openOrders", "omit", times=0)
        await live.venue.reconcile()

        assert live.states(intent.client_id) == ["acked"]
        assert live.verdict().ok
        assert live.orders_of(intent.client_id)[0].is_open


async def test_broken_balances_are_no_balances(tmp_path: Path) -> None:
    """A 200 without a body reads like zero equity in ccxt; here it is no answer at all."""
    async with rig(tmp_path) as live:
        await live.venue.reconcile()
        for action in ("empty", "html", "broken"):
            live.fault("GET /api/v3/account", action)
            with pytest.raises(Transient, match="account"):
                await live.venue.reconcile()
        await live.venue.reconcile()

        assert live.verdict().ok


async def test_nothing_compared_is_not_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the ledger cannot be written there is no verdict at all."""
    monkeypatch.setattr("daemon.edge.reconcile.FLUSH_S", 0.05)
    monkeypatch.setattr("daemon.edge.reconcile.BETWEEN_S", 0.01)
    async with rig(tmp_path) as live:
        await live.venue.reconcile()
        verdicts = len(live.of(Reconciled))
        connection = live.ledger._store._connection
        assert connection is not None

        def only_read(on: int) -> None:
            connection.exec_driver_sql(f"PRAGMA query_only={on}")
            connection.commit()

        await live.ledger._run(lambda: only_read(1))
        live.take(Flow(asset="X", amount=D(1), ours=False, detail="", ts_ns=1))
        with pytest.raises(Transient, match="hold still"):
            await live.venue.reconcile()
        assert len(live.of(Reconciled)) == verdicts
        await live.venue.cancel_all()
        await live.ledger._run(lambda: only_read(0))
        assert await live.ledger.flush(5)


async def test_drifted_clock_is_measured_again(tmp_path: Path) -> None:
    """Signed reads are refused (-1021): no verdict, the clock is measured, the next attempt works."""
    async with rig(tmp_path) as live:
        live.venue.calls.read_lane.exchange.options["timeDifference"] = 60_000
        with pytest.raises(Transient):
            await live.venue.reconcile()
        await live.venue.reconcile()

        assert live.verdict().ok


async def test_lost_fill_without_stream_is_found(tmp_path: Path) -> None:
    """A resting order fills while nobody listens: reconciliation books it, then compares."""
    async with rig(tmp_path) as live:
        await live.venue.reconcile()
        intent = live.resting()
        await live.submit(intent)
        live.sim._control._crash({"symbol": "BTCUSDT", "pct": 6}, {})
        await until(lambda: not live.orders_of(intent.client_id)[0].is_open)
        await live.venue.reconcile()

        assert live.fills(intent.client_id) == intent.qty
        assert live.states(intent.client_id)[-1] == "filled"
        assert live.verdict().ok


async def test_restart_after_lost_answers(tmp_path: Path) -> None:
    """The process dies with orders unknown, resting and filled; the next one finds all of them (F43 in small)."""
    sim = SimulatedExchange(SimConfig(history_bars=120, symbols=3))
    await sim.start()
    try:
        async with rig(tmp_path, sim=sim) as one:
            await one.venue.reconcile()
            await one.submit(one.intent())
            resting = one.resting()
            await one.submit(resting)
            one.fault(ORDER, "cut_after")
            unknown = one.intent()
            await one.submit(unknown)
            one.fault(ORDER, "cut")
            absent = one.intent()
            await one.submit(absent)
        async with rig(tmp_path, sim=sim, stream=True) as two:
            await until(lambda: two.links() == [True])
            states = {record.intent.client_id: record.state.value for record in two.restored.orders}
            assert states == {resting.client_id: "acked", unknown.client_id: "unknown", absent.client_id: "unknown"}
            await two.venue.reconcile()
            assert two.verdict().ok
            assert two.fills(unknown.client_id) == unknown.qty
            assert two.states(unknown.client_id)[-1] == "filled"
            await until(lambda: two.states(absent.client_id)[-1:] == ["never_placed"], 20)
            await two.venue.reconcile()
            books = await two.ledger.books()

            assert books.total == truth(two)
            assert len(two.orders_of(unknown.client_id)) == 1
            assert two.orders_of(resting.client_id)[0].is_open
        with LedgerReader(two.ledger.config.path) as reader:
            assert [record.intent.client_id for record in reader.open_orders()] == [resting.client_id]
    finally:
        await sim.stop()


async def test_f26_a_market_that_is_gone_holds_up_no_comparison(tmp_path: Path) -> None:
    """Traded once, with an order whose answer was lost: it is asked about in vain, the others are compared all the same."""
    sim = SimulatedExchange(SimConfig(history_bars=120, symbols=3))
    await sim.start()
    try:
        async with rig(tmp_path, sim=sim) as one:
            await one.venue.reconcile()
            await one.submit(one.intent("ETH/USDT"))
            one.fault(ORDER, "cut_after")
            lost = one.intent()
            await one.submit(lost)
            one.fault(ORDER, "cut")
            vain = one.intent("ETH/USDT")
            await one.submit(vain)
        async with rig(tmp_path, sim=sim) as two:
            for path in ("order", "myTrades", "allOrders", "openOrders"):
                two.fault(f"GET /api/v3/{path}", "error", contains="ETHUSDT", status=400, code=-1121, times=0)
            await two.venue.catch_up()
            await two.venue.reconcile()

            assert two.verdict().ok
            assert two.states(lost.client_id)[-1] == "filled"
            assert set(two.states(vain.client_id)) <= {"resolving"}
            open_still = two.venue.tracker.find(vain.client_id)
            assert open_still is not None
            assert open_still.state in UNRESOLVED
    finally:
        await sim.stop()


async def test_restart_books_nothing_twice(tmp_path: Path) -> None:
    """Trades that the ledger has are not passed on again by the next session."""
    sim = SimulatedExchange(SimConfig(history_bars=120, symbols=3))
    await sim.start()
    try:
        async with rig(tmp_path, sim=sim) as one:
            await one.venue.reconcile()
            for _ in range(4):
                await one.submit(one.intent())
            booked = len(one.of(Fill))
        async with rig(tmp_path, sim=sim) as two:
            await two.venue.reconcile()

            assert booked >= 4
            assert two.of(Fill) == []
            assert two.of(OrderUpdate) == []
            assert two.verdict().ok
            assert len(two.restored.fill_keys) == booked
    finally:
        await sim.stop()


async def test_trade_reported_nowhere_else_is_found(tmp_path: Path) -> None:
    """An order thought never placed executes later: its trade leads back to it (late evidence, F7)."""
    async with rig(tmp_path, timeout_ms=300) as live:
        await live.venue.reconcile()
        live.venue._stream_since_ns = 1
        await live.submit(live.intent())
        live.fault(ORDER, "late", seconds=2.6)
        intent = live.intent()
        await live.submit(intent)
        await live.venue.resolve(intent.client_id, intent.symbol, intent.ts_ns)
        assert live.states(intent.client_id)[-1] == "never_placed"
        await until(lambda: live.orders_of(intent.client_id), 10)
        await live.venue.reconcile()

        assert live.fills(intent.client_id) == intent.qty
        assert live.states(intent.client_id)[-1] == "filled"
        assert live.verdict().ok
