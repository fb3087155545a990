"""What follows from news of orders: recorded, resolved, booked once, strays cancelled."""

from decimal import Decimal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.core.plans import client_prefix
from daemon.domain.events import Alert, Booked, Cancel, Denied, Effect, Reconciled, Recorded, Restored, Submit
from daemon.domain.orders import Approved, Fill, OrderRecord, OrderState, OrderUpdate, Side
from tests.core.driver import START_NS, SYMBOLS, Driver, all_of, only

BTC = SYMBOLS[0]
OURS = client_prefix("test") + "x" * 21


def execution(client_id: str, *, trade: str = "77", side: Side = Side.BUY, qty: str = "0.01") -> Fill:
    """Return an execution at 40,000 with its fee in base."""
    return Fill(
        symbol=BTC,
        trade_id=trade,
        client_id=client_id,
        venue_id="9",
        side=side,
        qty=Decimal(qty),
        price=Decimal(40_000),
        fee=Decimal("0.00001"),
        fee_asset="BTC",
        maker=False,
        ts_event_ns=START_NS,
        source="query",
    )


def word(client_id: str, state: OrderState) -> OrderUpdate:
    """Return news of an order."""
    return OrderUpdate(client_id, BTC, state, "9", Decimal(0), "", "query", START_NS)


def sent(driver: Driver) -> Approved:
    """Return an order on its way."""
    return only(driver.decide(BTC=0.1), Submit).approved[0]


def test_a_late_fill_of_an_order_this_session_does_not_know_is_booked_once() -> None:
    """F7 across a restart: the order had ended by our books; what executed is ours all the same."""
    driver = Driver().start()
    before = driver.engine.state.account.cash

    effects = driver.send(execution(OURS))
    again = driver.send(execution(OURS))

    assert only(effects, Booked).fill == execution(OURS)
    assert again == ()
    assert driver.engine.state.account.cash == before - 400
    assert driver.engine.state.account.position(BTC) == Decimal("0.00999")
    assert driver.engine.state.stops.level(BTC) > 0


def test_a_stranger_s_fill_is_not_ours() -> None:
    """T3: a manual trade is no execution of ours."""
    driver = Driver().start()

    assert driver.send(execution("manual-1")) == ()
    assert driver.send(word("manual-1", OrderState.ACKED)) == ()


def test_an_order_found_alive_that_had_ended_by_our_books_is_cancelled() -> None:
    """An order nobody plans with any more must not stay in the book: cancelled, recorded, told."""
    driver = Driver().start()
    effects = driver.send(word(OURS, OrderState.ACKED))

    assert only(effects, Cancel).client_id == OURS
    assert only(effects, Recorded).update.state is OrderState.ACKED
    assert only(effects, Alert).code == "stray_order"
    assert driver.send(word(OURS, OrderState.CANCELED)) == (Recorded(word(OURS, OrderState.CANCELED)),)


def test_the_state_an_execution_proves_is_recorded() -> None:
    """A fill that comes first is evidence: the ledger must not go on holding the order for never placed."""
    driver = Driver().start()
    order = sent(driver)
    client_id = order.intent.client_id
    driver.send(word(client_id, OrderState.UNKNOWN), word(client_id, OrderState.NEVER_PLACED))

    effects = driver.send(execution(client_id))

    told = only(effects, Recorded).update
    assert (told.state, told.filled, told.venue_id) == (OrderState.ACKED, Decimal("0.01"), "9")


def test_a_second_execution_changes_no_state_and_records_none() -> None:
    """One record per state."""
    driver = Driver().start()
    order = sent(driver)
    driver.send(execution(order.intent.client_id))

    assert not all_of(driver.send(execution(order.intent.client_id, trade="78")), Recorded)


def test_denied_names_only_what_it_knows() -> None:
    """An id that is not ours is passed over; a denial told twice is recorded once."""
    driver = Driver().start()
    ids = (sent(driver).intent.client_id, "unknown")

    assert len(all_of(driver.send(Denied(ids, "late", driver.now_ns)), Recorded)) == 1
    assert not all_of(driver.send(Denied(ids, "late", driver.now_ns)), Recorded)


def test_an_order_of_ours_that_is_in_no_ledger_halts() -> None:
    """DESIGN: an unknown order with our prefix means a second writer; it stays HALTED until a person resumes."""
    driver = Driver().start()
    driver.send(Reconciled(ok=False, balances=(), breaks=(), external_orders=0, ts_ns=driver.now_ns))
    driver.send(Reconciled(ok=True, balances=(), breaks=(), external_orders=0, ts_ns=driver.now_ns))

    assert driver.engine.state.causes.names == ("second_writer",)
    assert driver.engine.state.trading == "halted"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_fills_conserve_every_asset_and_book_at_most_once_in_any_order(data: st.DataObject) -> None:
    """I3 and F31: any permutation with repetitions books each execution once; cash and base follow to the last digit."""
    driver = Driver().start()
    order = sent(driver)
    count = data.draw(st.integers(1, 5))
    fills = [
        msgspec.structs.replace(
            execution(order.intent.client_id, trade=str(number), qty=data.draw(st.sampled_from(["0.001", "0.002"]))),
            price=data.draw(st.decimals("1", "50000", places=2)),
            fee=data.draw(st.decimals("0", "0.00001", places=8)),
            fee_asset=data.draw(st.sampled_from(["BTC", "USDT", "BNB"])),
        )
        for number in range(count)
    ]
    told = [*fills, *data.draw(st.lists(st.sampled_from(fills), max_size=4))]
    effects: tuple[Effect, ...] = ()
    for fill in data.draw(st.permutations(told)):
        effects += driver.send(fill)

    account = driver.engine.state.account
    spent = sum((one.qty * one.price for one in fills), Decimal(0))
    fees = {asset: sum((f.fee for f in fills if f.fee_asset == asset), Decimal(0)) for asset in ("BTC", "USDT", "BNB")}
    assert len(all_of(effects, Booked)) == count
    assert account.cash == 100_000 - spent - fees["USDT"]
    assert account.position(BTC) == sum((one.qty for one in fills), Decimal(0)) - fees["BTC"]
    assert account.other.get("BNB", Decimal(0)) == -fees["BNB"]


@settings(max_examples=60, deadline=None)
@given(st.permutations(["sending", "unknown", "acked", "fill", "expired", "never_placed"]))
def test_however_the_story_is_told_no_money_is_freed_or_lost(story: list[str]) -> None:
    """F30: acknowledgement, verdicts, the execution and the end in any order leave the same books and no reservation."""
    driver = Driver().start()
    order = sent(driver)
    client_id = order.intent.client_id
    for step in story:
        if step == "fill":
            driver.send(execution(client_id))
        elif step == "expired":
            driver.send(msgspec.structs.replace(word(client_id, OrderState.EXPIRED), filled=Decimal("0.01")))
        else:
            driver.send(word(client_id, OrderState(step)))

    state = driver.engine.state
    assert state.account.position(BTC) == Decimal("0.00999")
    assert not state.blotter.live
    assert state.blotter.reserved(Side.BUY) == {}


@pytest.mark.parametrize("state", [OrderState.SENDING, OrderState.UNKNOWN, OrderState.RESOLVING])
def test_a_restored_order_books_only_what_was_not_booked(state: OrderState) -> None:
    """F31 and F43: the ledger's executions come again by REST after a restart; only the new one counts."""
    driver = Driver().start()
    order = sent(driver)
    record = OrderRecord(order.intent, state, "9", Decimal("0.01"), START_NS)
    again = Driver()
    again.send(
        Restored(
            2,
            Decimal(1000),
            ((BTC, Decimal("0.00999")),),
            ((BTC, 40_000.0),),
            (record,),
            "",
            START_NS,
            ((BTC, "77"),),
        )
    )
    again.send(execution(order.intent.client_id), execution(order.intent.client_id, trade="78"))

    working = again.engine.state.blotter.find(order.intent.client_id)
    assert working is not None
    assert working.booked == Decimal("0.02")
    assert again.engine.state.account.position(BTC) == Decimal("0.01998")
